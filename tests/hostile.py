"""What somebody may send who means harm, or whose program is broken, by a source of chance: so it can come again."""

import base64
import json

import msgspec

from raytrail.entities import installed
from raytrail.event import Chunk, Segment
from raytrail.testing.entities import SESSION

WHOLE = (0, 1, -1, 127, 2**31 - 1, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30, 1795419640)
TEXTS = (
    *("", "a", "ALIVE", "DEAD", "FINISHED", "FAILED", "0", "-1", "9" * 40, "1e400", "nan", "\0", "\ud800", "'", '"'),
    *("\\", "💥", "a" * 3000, "{", "%s", "../..", "2026-01-01T00:00:00Z", "true", "\n", "\x7f", "AQ==", "===="),
)
NAMES = ("", " ", "session 1", "-x", "é", "x" * 300, "a\n", "..", "../x", "a/b", "\0", "\udcff", "a,b", "a:b", '"')
TYPES = ("TASK", "ACTOR", "NODE", "DRIVER_JOB", "FILE", "LOG", "SET_ASIDE", "COLLECTED", "NEW_TYPE")


def value(chance, depth=0):
    """Any value of JSON."""
    kind = chance.randrange(10 if depth < 4 else 6)
    if kind == 0:
        return chance.choice(WHOLE)
    if kind == 1:
        return str(chance.choice(WHOLE))
    if kind == 2:
        return chance.choice([1.5, -0.0, 1e308, 5e-324, True, False, None])
    if kind < 5:
        return chance.choice(TEXTS)
    if kind == 5:
        return base64.b64encode(chance.randbytes(chance.choice((0, 1, 4, 24, 28)))).decode()
    if kind < 8:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(TEXTS): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def fitting(chance, column):
    """A value as a column has it, at its limits."""
    if chance.random() < 0.1:
        return value(chance)
    return FITTING.get(column.type, lambda chance: chance.choice(TEXTS))(chance)


def whole(chance):
    number = chance.choice(WHOLE)
    return str(number) if chance.random() < 0.3 else number


def span(chance):
    return {"event_name": chance.choice(TEXTS), "start_time": chance.choice(WHOLE), "end_time": str(7)}


FITTING = {
    "int": whole,
    "float": lambda chance: chance.choice([0, 1.5, -1e308, 1e308, "1", "nan"]),
    "bool": lambda chance: chance.random() < 0.5,
    "id": lambda chance: base64.b64encode(bytes([chance.randrange(3)]) * chance.choice((4, 24, 28))).decode(),
    "texts": lambda chance: [chance.choice(TEXTS) for _ in range(chance.randrange(3))],
    "spans": lambda chance: [span(chance) for _ in range(chance.randrange(3))],
    "json": value,
}
"""What a column of each type may hold."""


def event(chance, entity):
    """A line of an entity: what it asks for is there, and as odd as the columns' types allow."""
    line = {
        "event_id": chance.choice(TEXTS),
        "source_type": chance.choice(entity.event_types),
        "timestamp": chance.choice([1795419640, 1795419640 + chance.randrange(10**6), chance.choice(WHOLE)]),
    }
    for column in entity.columns:
        if column.computed:
            continue
        if column.merge != "key" and chance.random() < 0.4:
            continue
        node, (*parents, leaf) = line, column.origin.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        else:
            node[leaf] = fitting(chance, column)
    return json.dumps(line, ensure_ascii=chance.random() < 0.8).encode("utf-8", "surrogatepass")


def line(chance, entity):
    """A line that may be any."""
    kind = chance.randrange(12)
    if kind == 0:
        return chance.randbytes(chance.randrange(40)).replace(b"\n", b"")
    if kind == 1:
        return json.dumps(value(chance)).encode()
    whole = event(chance, entity)
    if kind == 2:
        return whole[: chance.randrange(len(whole))]
    if kind == 3:
        at = chance.randrange(len(whole))
        return whole[:at] + chance.randbytes(1).replace(b"\n", b"?") + whole[at + 1 :]
    if kind == 4:
        depth = chance.choice((50, 500, 900, 3000))
        return whole[:-1] + b',"deep":' + b'{"a":[' * depth + b"]}" * depth + b"}"
    return whole


def chunk(chance, session=SESSION):
    """A chunk of ours with lines that may be any."""
    entity = chance.choice([candidate for candidate in installed().values() if candidate.file_types])
    data = b"".join(line(chance, entity) + b"\n" for _ in range(chance.randrange(1, 6)))
    if chance.random() < 0.1:
        data = data[:-1]
    if not data:
        data = b"\n"
    cut = chance.randrange(len(data))
    file = f"1795419640-{chance.randrange(50)}"
    start = chance.choice((0, 0, chance.randrange(1000), 2**40))
    parts = [(start, cut), (start + cut, len(data) - cut)] if chance.random() < 0.3 else [(start, len(data))]
    return Chunk(
        cluster=chance.choice(("", "prod", "caf\udce9")),
        session=session,
        node_id="",
        event_type=chance.choice([entity.file_types[0]] * 5 + list(TYPES)),
        segments=tuple(Segment(file, chance.randrange(2), *part) for part in parts if part[1]),
        data=data,
    )


def odd_chunk(chance, session=SESSION):
    """A chunk of which something cannot be."""
    intact = chunk(chance, session)
    what = chance.randrange(5)
    if what == 0:
        return msgspec.structs.replace(intact, session=chance.choice(NAMES))
    if what == 1:
        return msgspec.structs.replace(intact, event_type=chance.choice(NAMES))
    numbers = (*WHOLE, len(intact.data))
    segments = [
        Segment(chance.choice((*NAMES, "f")), *(chance.choice(numbers) for _ in range(3)))
        for _ in range(chance.randrange(1, 4))
    ]
    if what == 2:  # as long in all as what came
        segments.append(Segment("f", 0, 0, len(intact.data) - sum(segment.length for segment in segments)))
    return msgspec.structs.replace(intact, segments=tuple(segments))


def headers(chance):
    """Headers of a chunk, some of which are altered."""
    altered = dict(chunk(chance).headers())
    for name in chance.sample(sorted(altered), chance.randrange(len(altered))):
        kind = chance.randrange(4)
        if kind == 0:
            del altered[name]
        else:
            altered[name] = (chance.choice(NAMES), chance.choice(TEXTS), chance.randbytes(8))[kind - 1]
    return altered
