"""A small store with all that a store can hold, and copies of it in which a bit of a file has turned."""

import base64
import json
import os
import shutil
from unittest import mock

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.testing.entities import line

CONFIG = StoreConfig(threads=1)
SEALED = "session_2026-11-23_07-00-00_000000_1"
LIVE = "session_2026-11-23_08-00-00_000000_2"
T0 = 1795419640


def id_of(number, length):
    return base64.b64encode(bytes([number % 251 + 1]) * length).decode()


def tasks(numbers, state):
    for number in numbers:
        data = {"task_id": id_of(number, 24), "attempt_number": 0, "job_id": id_of(0, 4)}
        info = {"type": "NORMAL_TASK", "func_or_class_name": f"work_{number % 7}", "required_resources": {"CPU": 1.0}}
        times = {"1": str(T0 * 10**9 + number), state: str((T0 + number) * 10**9)}
        yield T0 + number, {**data, "task_info": info, "state_updates": {"state_ts_ns": times, "node_id": id_of(1, 28)}}


def groups(state):
    for number in range(10):
        yield T0 + 50, {"placement_group_id": id_of(number, 18), "state": state, "name": f"group {number}"}


def nodes(state):
    yield T0, {"node_id": id_of(1, 28), "state": state, "node_name": "head", "start_time_ms": T0 * 1000}


def chunk(session, name, events, *, start=0):
    entity = installed()[name]
    data = b"".join(line(entity, at, fields) + b"\n" for at, fields in events)
    segment = Segment(f"{T0}-{name}", 0, start, len(data))
    return Chunk(
        cluster="prod",
        session=session,
        node_id="",
        event_type=entity.file_types[0],
        segments=(segment,),
        data=data,
    )


def logged(session):
    """Return chunks of a log, and of what its agent reports of it."""
    data = b"".join(b"line %d of a log, %d\n" % (number, number * number) for number in range(2000))
    segment = Segment(f"{T0}-log", 0, 0, len(data))
    yield Chunk(cluster="prod", session=session, node_id="", event_type="LOG", segments=(segment,), data=data)
    report = {"file": f"{T0}-log", "generation": 0, "name": "raylet.out", "event_type": "LOG", "node_id": "aa"}
    text = json.dumps({"event_data": report, "source_type": "RAYTRAIL_FILE", "timestamp": T0}).encode() + b"\n"
    yield Chunk(cluster="prod", session=session, node_id="", event_type="FILE", segments=(), data=text)


def fill(root):
    """Make a store of a sealed session, with its cache, and of a living one of which some is folded."""
    # stragglers of what has ended are not waited for, so that all that can be closed is
    with mock.patch("raytrail.store.live.SETTLE_SECONDS", -1), Store.open(root, CONFIG, write=True) as store:
        for session in (SEALED, LIVE):
            store.append([*logged(session), chunk(session, "node", nodes("ALIVE"))])
            store.append(
                [chunk(session, "task", tasks(range(200), "8")), chunk(session, "placement_group", groups("CREATED"))]
            )
            store.fold()
            store.append([chunk(session, "task", tasks(range(150), "11"), start=100_000)])
            store.fold()
        store.append([chunk(SEALED, "node", nodes("DEAD"), start=1000)])
        store.seal(SEALED)
        store.cache(SEALED)
        store.append([chunk(LIVE, "placement_group", groups("REMOVED"), start=10_000)])


def copied(root, to, path):
    """Copy a store, one of its files and the catalogue in truth, the others as links; return where that file is."""
    for source in root.rglob("*"):
        target = to / source.relative_to(root)
        if source.is_dir():
            target.mkdir(parents=True)
        elif source == path or source.parent == root:
            shutil.copy(source, target)
        else:
            os.link(source, target)
    return to / path.relative_to(root)


def flip(path, bit):
    """Turn one bit of a file, and return it."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return path


def damage(root, to, pattern):
    """Copy a store, and turn a bit in the middle of the largest of the files that a pattern names; return that file."""
    path = max(root.glob(pattern), key=lambda path: path.stat().st_size)
    return flip(copied(root, to, path), path.stat().st_size * 4)
