"""
A living cluster that exports nothing, by what its dashboard answers: dashboard -> answers -> lines -> chunks.

The lines are those that Ray's own export would have written, as far as an answer tells, so that the store folds them as
any others.
"""
