"""
What people ask of a history, each question answered once.

A page, its JSON and CSV, the command and the Python API show the same struct, which one function here returns. Its
fields' docstrings are the documentation of all of them.
"""

from raytrail.answers.scope import Scope

__all__ = ["Scope"]
