"""The entities of this installation, found by their names and by the events that tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import cast

from raytrail.entities.declaration import Entity
from raytrail.entities.posted import PostedEvent
from raytrail.errors import NotFoundError


@cache
def installed() -> Mapping[str, Entity]:
    """Return every entity of this installation, by its name."""
    points = entry_points(group="raytrail.entities")
    entities = (cast("Entity", point.load()) for point in points)
    return {entity.name: entity for entity in sorted(entities, key=lambda entity: entity.name)}


def entity(noun: str) -> Entity:
    """
    Return the entity of that name, singular or plural.

    Raises:
        NotFoundError: None is installed under it.
    """
    for declared in installed().values():
        if noun in (declared.name, declared.plural):
            return declared
    raise NotFoundError(f"no entity {noun!r}; there are {', '.join(sorted(e.plural for e in installed().values()))}")


@cache
def of_file_type(file_type: str) -> tuple[Entity, ...]:
    """Return the entities that read chunks of this event type; none where it is not known."""
    return tuple(
        declared
        for declared in installed().values()
        if file_type in declared.file_types or any(event.event_type == file_type for event in declared.posted)
    )


@cache
def posted_event(file_type: str) -> tuple[Entity, PostedEvent] | None:
    """Return what is told by chunks of this type, if they hold events of Ray's HTTP export, and who is told of."""
    for declared in of_file_type(file_type):
        for event in declared.posted:
            if event.event_type == file_type:
                return declared, event
    return None
