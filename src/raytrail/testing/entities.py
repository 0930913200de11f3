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
from raytrail.fold.layout import plant
from raytrail.fold.lines import sort_out
from raytrail.store import Store

SESSION = "session_2026-01-01_00-00-00_000000_1"


def chunk(
    entity: Entity, lines: Sequence[bytes], *, file: str = "0000000000-0", start: int = 0, event_type: str = ""
) -> Chunk:
    """Make a chunk of lines that stand one after the other in a file, by default one of Ray's own."""
    data = b"".join(line + b"\n" for line in lines)
    return Chunk(
        cluster="",
        session=SESSION,
        node_id="",
        event_type=event_type or entity.file_types[0],
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


def check_entity(
    entity: Entity, events: Sequence[bytes], *, posted: Sequence[tuple[str, bytes]] = (), seed: int = 0
) -> None:
    """
    Check that events of an entity fold to the same states whatever becomes of them on the way.

    Args:
        entity: The entity.
        events: Lines as Ray writes them, in the order of their file.
        posted: Lines as Ray posts them, each with its event type, in the order of the files of these types.
        seed: Chooses how they are split, shuffled and repeated.

    Raises:
        AssertionError: Order, repetition, splitting, or what was folded before it was sealed matters. Or what was
            posted says something else in the words of Ray's files.
    """
    with (
        TemporaryDirectory() as directory,
        Store.open(Path(directory), StoreConfig(threads=1), write=True) as store,
    ):
        sessions = (f"{SESSION}{number}" for number in itertools.count())
        pieces = _pieces(entity, [*(("", event) for event in events), *posted])
        _check(entity, pieces, seed, lambda batches, **how: states(store, next(sessions), entity, batches, **how))


def _check(entity: Entity, pieces: Sequence[Chunk], seed: int, add_up: Callable[..., list[dict[str, Any]]]) -> None:
    chosen = random.Random(seed)
    # as an import does: sealed from its log alone
    whole = add_up([pieces], seal=True, fold=False)
    again = [chosen.choice(pieces) for _ in pieces]
    mixed = [*pieces, *again]
    chosen.shuffle(mixed)
    cut = chosen.randint(0, len(mixed))
    batches = [batch for batch in (mixed[:cut], mixed[cut:]) if batch]
    assert add_up(batches, seal=True) == whole, (
        "sealed states depend on order, repetition, splitting, or whether they were folded before"
    )
    as_files = [part for piece in pieces for part in _in_words_of_files(entity, piece)]
    if as_files != pieces:
        assert add_up([as_files], seal=True) == whole, "what was posted and what files say of it differ"
    # the same bytes under another file's name are other events with the same content: repetition within the fold
    copied = [
        msgspec.structs.replace(piece, segments=(segment._replace(start=segment.start + 1_000_000 * (1 + at)),))
        for at, piece in enumerate(pieces)
        for segment in piece.segments
    ]
    assert _bare(add_up([*batches, copied], seal=True)) == _bare(whole), "repeated events change the states"
    if not entity.life.closing:
        return
    live = add_up(batches, seal=False)
    ended = [row for row in whole if row["inferred"] is None]
    keys = [[row[name] for name in entity.key] for row in ended]
    assert [row for row in live if [row[n] for n in entity.key] in keys] == ended, "live and sealed states differ"


def _pieces(entity: Entity, lines: Sequence[tuple[str, bytes]]) -> list[Chunk]:
    """Return a chunk of each line. The lines of each event type lie in a file of their own."""
    pieces: list[Chunk] = []
    ends: dict[str, Segment] = {}
    for event_type, event in lines:
        before = ends.setdefault(event_type, Segment(f"0000000000-{len(ends)}", 0, 0, 0))
        piece = chunk(entity, [event], file=before.file, start=before.end, event_type=event_type)
        [ends[event_type]] = piece.segments
        pieces.append(piece)
    return pieces


def _in_words_of_files(entity: Entity, piece: Chunk) -> list[Chunk]:
    """Return an event that was posted as lines of Ray's files, in the order of its rows."""
    if piece.event_type == entity.file_types[0]:
        return [piece]
    [segment] = piece.segments
    # what a line of a file says may be longer than what was posted
    start, parts = segment.start * 100, []
    for mended in sort_out(piece.event_type, piece.data.removesuffix(b"\n")).lines:
        fields = msgspec.json.decode(mended)
        for path, value in fields.pop("_extra", {}).items():
            plant(fields, path, value)
        parts.append(chunk(entity, [msgspec.json.encode(fields)], file=segment.file, start=start))
        start += len(parts[-1].data)
    return parts


def _bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what counts events, which a repetition by another name adds to."""
    return [{name: value for name, value in row.items() if not name.startswith("num_")} for row in rows]
