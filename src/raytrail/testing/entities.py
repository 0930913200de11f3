"""The contract of an entity: its fold minds neither order nor repetition, and a null never erases."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from raytrail.config import StoreConfig
from raytrail.entities import Entity
from raytrail.event import Chunk, Segment
from raytrail.store import Store

SESSION = "session_2026-01-01_00-00-00_000000_1"


def chunk(entity: Entity, lines: Sequence[bytes], *, file: str = "0000000000-0", start: int = 0) -> Chunk:
    """Make a chunk of lines that stand one after the other in a file."""
    data = b"".join(line + b"\n" for line in lines)
    return Chunk(
        cluster="",
        session=SESSION,
        node_id="",
        event_type=entity.file_types[0],
        segments=(Segment(file, 0, start, len(data)),),
        data=data,
    )


def line(entity: Entity, timestamp_s: int, event_data: dict[str, Any], *, time_ns: int | None = None) -> bytes:
    """
    Make a line as Ray writes it, or, with a `time_ns`, as `raytrail.sources` does.

    The fields are in an object of their own, except for those of cluster events.
    """
    within = any(column.origin.startswith("event_data.") for column in entity.columns)
    event: dict[str, Any] = {
        "event_id": "0",
        "source_type": entity.event_types[0],
        "timestamp": timestamp_s,
        **({"event_data": event_data} if within else event_data),
    }
    if time_ns is not None:
        event["time_ns"] = time_ns
    return msgspec.json.encode(event)


def states(
    store: Store, session: str, entity: Entity, batches: Sequence[Sequence[Chunk]], *, seal: bool, fold: bool = True
) -> list[dict[str, Any]]:
    """Return what these batches add up to in a session of their own, folded after each or not, and sealed or not."""
    for batch in batches:
        store.append([msgspec.structs.replace(chunk, session=session) for chunk in batch])
        if fold:
            store.fold()
    if seal:
        store.seal(session)
    rows = store.snapshot(session).rows(entity.name)
    # the members of a union have no order of their own
    return sorted((_ordered(row) for row in rows), key=lambda row: [str(row[name]) for name in entity.key])


def _ordered(row: dict[str, Any]) -> dict[str, Any]:
    return {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in row.items()}


def check_entity(entity: Entity, events: Sequence[bytes], *, seed: int = 0) -> None:
    """
    Check that events of an entity fold to the same states whatever becomes of them on the way.

    Args:
        entity: The entity.
        events: Lines as Ray writes them, in the order of their file.
        seed: Chooses how they are split, shuffled and repeated.

    Raises:
        AssertionError: Order, repetition, splitting, or what was folded before it was sealed matters.
    """
    with (
        TemporaryDirectory() as directory,
        Store.open(Path(directory), StoreConfig(threads=1), write=True) as store,
    ):
        sessions = (f"{SESSION}{number}" for number in itertools.count())
        _check(entity, events, seed, lambda batches, **how: states(store, next(sessions), entity, batches, **how))


def _check(entity: Entity, events: Sequence[bytes], seed: int, add_up: Callable[..., list[dict[str, Any]]]) -> None:
    chosen = random.Random(seed)
    # as an import does: sealed from its log alone
    whole = add_up([[chunk(entity, events)]], seal=True, fold=False)
    pieces, start = [], 0
    for event in events:
        pieces.append(chunk(entity, [event], start=start))
        start += len(event) + 1
    again = [chosen.choice(pieces) for _ in pieces]
    mixed = [*pieces, *again]
    chosen.shuffle(mixed)
    cut = chosen.randint(0, len(mixed))
    batches = [batch for batch in (mixed[:cut], mixed[cut:]) if batch]
    assert add_up(batches, seal=True) == whole, (
        "sealed states depend on order, repetition, splitting, or whether they were folded before"
    )
    # the same bytes under another file's name are other events with the same content: repetition within the fold
    copied = [
        chunk(entity, [event], file="0000000000-0", start=start + at * 1_000_000) for at, event in enumerate(events)
    ]
    assert _bare(add_up([*batches, copied], seal=True)) == _bare(whole), "repeated events change the states"
    if not entity.life.closing:
        return
    live = add_up(batches, seal=False)
    ended = [row for row in whole if row["inferred"] is None]
    keys = [[row[name] for name in entity.key] for row in ended]
    assert [row for row in live if [row[n] for n in entity.key] in keys] == ended, "live and sealed states differ"


def _bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what counts events, which a repetition by another name adds to."""
    return [{name: value for name, value in row.items() if not name.startswith("num_")} for row in rows]
