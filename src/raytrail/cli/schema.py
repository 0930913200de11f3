"""``raytrail schema``: what an event in its public form may hold."""

from __future__ import annotations

import click
import msgspec

from raytrail.entities import of_file_type
from raytrail.errors import NotFoundError
from raytrail.fold.public import json_schema
from raytrail.fold.public import schema as whole_schema
from raytrail.terminal import nouns, options


@click.command(cls=options.Command)
@click.argument("event_type", metavar="[TYPE]", required=False)
def schema(event_type: str | None) -> None:
    """
    Print the JSON Schema of events.

    TYPE is an event type (TASK, ACTOR, ...) or a noun (task, tasks, ...). Without it, the schema is that of every type.
    It describes what `raytrail subscribe` prints.
    """
    if event_type is None:
        document = whole_schema()
    else:
        read_by = of_file_type(event_type.upper())
        entity = read_by[0] if read_by else nouns.named(event_type)
        if not entity.event_types:
            raise NotFoundError(f"{entity.plural} have no events of their own; see `raytrail list {entity.plural}`")
        document = json_schema(entity)
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
