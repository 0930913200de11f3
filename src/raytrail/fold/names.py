"""
Which columns an SQL text of a declaration reads.

The texts say it themselves. A list beside each would say it a second time, and a name that it lacks would be an error
only in the statement that asks for few columns. A name too many costs nothing but that a column is read.
"""

from __future__ import annotations

import re
from functools import cache

from raytrail.entities import Entity
from raytrail.fold.layout import stored

_NAME = re.compile(r"""'(?:[^']|'')*'|(?:(\w+)\.)?(?:(\w+)|"([^"]+)")""")
"""A text in quotes, in which nothing is a name; or a name, with that of its relation where it has one."""
_OWN = ("", "s")
"""What a state's own columns are qualified with: nothing, or what it is called beside others."""


@cache
def _names(text: str) -> tuple[tuple[str, str], ...]:
    """Return the names in an SQL text, each after that of its relation, which may be empty."""
    return tuple((relation, plain or quoted) for relation, plain, quoted in _NAME.findall(text) if plain or quoted)


@cache
def reads(entity: Entity, text: str) -> tuple[str, ...]:
    """Return an entity's stored columns that an SQL text over its states reads, in their order in the text."""
    # what stands before a dot may be a column, too: one with a member, or with a function called on it
    names = (name if relation in _OWN else relation for relation, name in _names(text))
    return tuple(name for name in names if name in stored(entity))


def aliases(text: str) -> frozenset[str]:
    """Return the relations that an SQL text names columns of."""
    return frozenset(relation for relation, _ in _names(text))
