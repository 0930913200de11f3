"""
The SQL that follows from entities' declarations, in DuckDB's dialect, and their events outside of the engine.

    line --decode--> row of the log --merge--> state as told --conclude--> state --show--> what is shown

Nothing here runs a statement: `raytrail.store` does.
"""
