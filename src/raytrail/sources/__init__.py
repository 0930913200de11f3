"""
Event files that Ray does not write itself: before the line, in Ray's processes and beside them.

What is here only appends to a file on its own node. It never raises into Ray, and never waits for anybody.
"""
