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
            one,
            on=f"{one.alias}.{SESSION.name} = s.{SESSION.name} AND {one.on}",
            names=(SESSION.name, *one.names),
            sql=of_session(one.sql, many=True),
        )
        for one in entity.beside
    )
    columns = (SESSION, *entity.columns)
    view = of_session(entity.view, many=True)
    return msgspec.structs.replace(entity, key=(SESSION.name, *entity.key), columns=columns, beside=beside, view=view)


def of_session(select: str, *, many: bool) -> str:
    """Return a SELECT of an entity (`Beside.sql`, `Entity.view`) for the states of one session, or of many."""

    def name(found: re.Match[str]) -> str:
        return f"{found[1] + '.' if found[1] else ''}{SESSION.name}, " if many else ""

    return re.sub(r"\{session(?::(\w+))?\}", name, select)
