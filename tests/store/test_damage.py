"""Bits that turn on the disk: an error that says which file, or the answer that was always given; nothing else."""

import base64
import json
import os
import random
import shutil
from collections import Counter
from functools import partial

import msgspec
import pytest

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import StoreDamaged
from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.testing.entities import line

CONFIG = StoreConfig(threads=1)
SEALED = "session_2026-11-23_07-00-00_000000_1"
LIVE = "session_2026-11-23_08-00-00_000000_2"
T0 = 1795419640
FLIPS = 200
KINDS = {
    # what is named in the store -> which of its files
    "state": "state/*/*.parquet",
    "cache": "state/*/*.duckdb",
    "log": "log/*/*",
    "logs": "logs/*/*",
    "catalogue": "catalogue.sqlite",
}
SUMS = "catalogue.sqlite-sums"


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
    data = b"".join(line(entity, at, said) + b"\n" for at, said in events)
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
    with Store.open(root, CONFIG, write=True) as store:
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


def sql(store):
    return store.sql("SELECT session, state, count(*), max(task_id) FROM task GROUP BY ALL ORDER BY ALL").rows


def read_log(store, session):
    [log] = store.logs(session)
    return b"".join(store.read_log(session, log))


OF_ALL = {
    "clusters": lambda store: sorted((one.session, one.events, one.sealed) for one in store.clusters()),
    "sql": sql,
}
OF_ONE = {
    "tasks": lambda store, session: store.snapshot(session).rows("task", order=["task_id"]),
    "groups earlier": lambda store, session: store.snapshot(session, (T0 + 60) * 1000).rows("placement_group"),
    "log": read_log,
}
OF_SEALED = {
    "count": lambda store, session: store.snapshot(session).group("task", ["state", "func_or_class_name"]),
    "ledger": lambda store, session: store.ledger(session),
}


def questions(sessions, *, of_all):
    """Return what is asked of these sessions, and of all of them, by its name."""
    found = dict(OF_ALL) if of_all else {}
    for session in sessions:
        for name, ask in (OF_ONE | OF_SEALED if session == SEALED else OF_ONE).items():
            found[f"{name} of {session}"] = partial(ask, session=session)
    return found


def answers(root, sessions=(SEALED, LIVE), *, of_all=True, write=False):
    """Return what a store answers to each question, or the error that it answers with."""
    found, asked = {}, questions(sessions, of_all=of_all)
    try:
        with Store.open(root, CONFIG, write=write) as store:
            for name, ask in asked.items():
                try:
                    found[name] = msgspec.to_builtins(ask(store))
                except StoreDamaged as damage:
                    found[name] = damage
    except StoreDamaged as damage:
        return dict.fromkeys(asked, damage)
    return found


def damaged_files(root):
    """Return the files that are found to be damaged."""
    try:
        with Store.open(root, CONFIG) as store:
            return [one.path for one in store.verify() if one.verdict == "damaged"]
    except StoreDamaged:
        return ["catalogue.sqlite"]


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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("damage") / "store"
    fill(root)
    return root


@pytest.fixture(scope="module")
def known(root):
    return answers(root)


def test_the_store_holds_all_that_a_store_can(root, known):
    assert all(list(root.glob(pattern)) for pattern in KINDS.values())
    assert {path.name.split("-")[1] for path in root.glob("state/*/*-*.parquet")} >= {"open", "closed", "sealed"}
    assert not [name for name, answer in known.items() if isinstance(answer, StoreDamaged) or not answer]


@pytest.fixture
def damaged(root, tmp_path):
    """Return a copy of the store in which a bit of the largest of these files is turned, and that file."""

    def damage(pattern, bit=None):
        path = max(root.glob(pattern), key=lambda path: path.stat().st_size)
        copy = copied(root, tmp_path / "copy", path)
        flip(copy, copy.stat().st_size * 4 if bit is None else bit)
        return tmp_path / "copy", copy

    return damage


def wrong_outcomes(root, known, directory):
    """Turn each of 200 bits by chance, in a copy for each, and return what came of those that were not seen."""
    by_chance = random.Random(17)
    files = {kind: sorted(root.glob(pattern)) for kind, pattern in KINDS.items()}
    wrong, errors = [], Counter()
    for number in range(FLIPS):
        kind = [*KINDS][number % len(KINDS)]
        path = root / SUMS if number % 50 == 4 else by_chance.choice(files[kind])
        bit = by_chance.randrange(path.stat().st_size * 8)
        copy = directory / str(number)
        turned = flip(copied(root, copy, path), bit)
        # a file of one session says nothing of the others
        sessions = [path.parent.name] if path.parent != root else [SEALED, LIVE]
        for name, answer in answers(copy, sessions, of_all=number % 20 == 0, write=number % 10 == 1).items():
            if isinstance(answer, StoreDamaged):
                errors[kind] += 1
                answer = known[name] if f"{turned}: " in str(answer) else answer
            if answer != known[name]:
                wrong.append((str(path.relative_to(root)), bit, name, answer))
        if number % 10 != 1 and path.name != SUMS and damaged_files(copy) != [str(path.relative_to(root))]:
            wrong.append((str(path.relative_to(root)), bit, "verify", damaged_files(copy)))
        shutil.rmtree(copy)
    return wrong, errors


def test_none_of_200_turned_bits_gives_a_wrong_answer(root, known, tmp_path):
    wrong, errors = wrong_outcomes(root, known, tmp_path)
    assert wrong == []
    # the damage to a cache and to a checksum is nobody's trouble
    assert errors.keys() == {"state", "log", "logs", "catalogue"}
