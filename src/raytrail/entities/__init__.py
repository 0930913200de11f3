"""
What Ray's events are about, declared once.

An entity is one `Entity` in a file of its own, here or in your own package. The entry-point group ``raytrail.entities``
names it. Its decoding, its table, its fold, its URL, its noun on the command line, its JSON Schema and its page in the
docs all follow from its declaration. `raytrail.testing.check_entity` is its contract.

`raytrail.fold` makes the SQL of these declarations. The words that SQL uses for the folded rows are its own:

an event   a row of the log: one line of a file, in columns
a state    what all events of one key add up to: a row of the entity's table
stored     kept in a sealed session's files
``s``      the state itself, where an expression reads other states beside it
"""

from raytrail.entities.columns import (
    COMMON,
    EXTRA,
    FIRST,
    INFERRED,
    INFERRED_MS,
    LAST,
    MOST_SECONDS,
    Column,
    Derived,
    Merge,
    Type,
)
from raytrail.entities.declaration import Emitted, Entity
from raytrail.entities.life import Beside, End, Life, Moments
from raytrail.entities.posted import Posted, PostedEvent, PostedKind
from raytrail.entities.registry import entity, installed, of_file_type, posted_event
from raytrail.entities.work import Work

__all__ = [
    "COMMON",
    "EXTRA",
    "FIRST",
    "INFERRED",
    "INFERRED_MS",
    "LAST",
    "MOST_SECONDS",
    "Beside",
    "Column",
    "Derived",
    "Emitted",
    "End",
    "Entity",
    "Life",
    "Merge",
    "Moments",
    "Posted",
    "PostedEvent",
    "PostedKind",
    "Type",
    "Work",
    "entity",
    "installed",
    "of_file_type",
    "posted_event",
]
