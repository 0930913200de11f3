"""``raytrail rejected``: what arrived and could not be stored."""

from __future__ import annotations

import sys

import click

from raytrail import times
from raytrail.config import Config
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field

SHOWN_DIGITS = 12
"""The digits of an id that people see. As many as nothing else begins with will do."""


@click.command(cls=options.Command)
@click.argument("id", required=False)
@options.output_format("table", "json")
@options.settings("store.dir")
def rejected(id: str | None, form: str, config: Config) -> None:
    """
    List chunks that arrived and could not be stored, or print the bytes of one.

    A chunk is rejected for an impossible name, number or length in it, because a newer Raytrail wrote it, or because of
    a fault of Raytrail's. The newest come first, each with its place and the reason. --format json has its headers,
    too. An ID, or as much of its beginning as no other has, prints the bytes of that chunk as they came. The setting
    store.set_aside_bytes bounds how much is kept. The ledgers count all.
    """
    with stores.reading(config) as store:
        if id is not None:
            sys.stdout.buffer.write(store.set_aside_bytes(id))
            return
        kept = store.set_aside()
    if form == "json":
        printing.write_json(kept)
    elif not kept:
        note("nothing was set aside")
    else:
        printing.table(
            [
                Field("id", whole=True),
                Field("came", rank=1),
                Field("session", rank=2),
                Field("bytes", right=True),
                Field("place", rank=3),
                Field("reason"),
            ],
            [
                {
                    "id": chunk.id[:SHOWN_DIGITS],
                    "came": times.show(chunk.came_ms, digits=0),
                    "session": chunk.session,
                    "bytes": f"{chunk.length:,}",
                    "place": chunk.place,
                    "reason": chunk.reason,
                }
                for chunk in kept
            ],
        )
