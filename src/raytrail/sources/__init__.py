"""
Event files that Ray does not write itself: before the line, in Ray's processes and beside them.

These modules only append to a file on their own node. They never raise into Ray, and never wait for anybody.
"""
