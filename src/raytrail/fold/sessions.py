"""The states of many sessions at once: each entity's key, and what is beside it, with the session's name."""

from __future__ import annotations

import re
from functools import cache

import msgspec

from raytrail.entities import Column, Entity

SESSION = Column("_session", "text", "_session", "key", "Which session it is of, where many are worked on at once.")
"""The column that tells the states of many sessions apart. It is in no file: a file is of one session."""


@cache
def of_many(entity: Entity) -> Entity:
    """Return an entity as it is where states of many sessions are worked on at once: none meets another session's."""
    beside = tuple(
        msgspec.structs.replace(
            beside,
            on=f"{beside.alias}.{SESSION.name} = s.{SESSION.name} AND {beside.on}",
            names=(SESSION.name, *beside.names),
            sql=of_session(beside.sql, many=True),
        )
        for beside in entity.beside
    )
    columns = (SESSION, *entity.columns)
    view = of_session(entity.view, many=True)
    return msgspec.structs.replace(entity, key=(SESSION.name, *entity.key), columns=columns, beside=beside, view=view)


def of_session(select: str, *, many: bool) -> str:
    """Return a SELECT of an entity (`Beside.sql`, `Entity.view`) for the states of one session, or of many."""

    def name(match: re.Match[str]) -> str:
        return f"{match[1] + '.' if match[1] else ''}{SESSION.name}, " if many else ""

    return re.sub(r"\{session(?::(\w+))?\}", name, select)
