"""Whatever somebody sends: what stands beside it is stored, and the history lives."""

import asyncio
import json
import random
import tracemalloc
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import fuzz_history, hostile
from tests.fuzz_history import GOOD, good
from tests.histories import until

from raytrail import history
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import EventError
from raytrail.event import UNKNOWN_SESSION, Chunk, Unreadable, header_text, received, unquoted
from raytrail.fold.lines import check, sort_out
from raytrail.fold.public import public_events
from raytrail.pubsub.collector import from_message
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk

pytestmark = pytest.mark.slow

CONFIG = StoreConfig(threads=1, batch_seconds=0.02, fold_seconds=0.1)
TASK = installed()["task"]

always = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
few, many = settings(always, max_examples=15), settings(always, max_examples=200)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
names = st.text(max_size=40) | st.sampled_from(hostile.NAMES) | st.text(alphabet="\ud800\udfff\0\n /.-a", max_size=10)
wire_headers = st.dictionaries(
    st.sampled_from(["raytrail-version", "cluster", "session", "node_id", "event_type", "segments", "x"]),
    names | st.binary(max_size=20) | st.sampled_from(["1", "f:0:0:3", "f:0:0:-3", "f:0:0:3,f:0:3:0", "f:0:1e20:3"]),
)
any_line = st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode())
seeds = st.integers(0, 2**32)


@contextmanager
def neighbours(root):
    """Give what sends things between two neighbours, which must be stored; at the end all is sealed and asked for."""
    numbers = count(1)
    with Store.open(root, CONFIG, write=True) as store:

        def check(arrived):
            store.append([good(next(numbers), GOOD), *arrived, good(next(numbers), GOOD)])
            [(events,)] = store._catalogue.query(
                "SELECT events FROM counts WHERE session = ? AND event_type = 'TASK'", GOOD
            )
            assert events == sent()
            return store.set_aside()

        def sent():
            return store._catalogue.query("SELECT count(*) FROM ranges WHERE session = ?", GOOD)[0][0]

        yield check
        store.fold()
        for session in {SESSION, GOOD, UNKNOWN_SESSION} & {cluster.session for cluster in store.clusters()}:
            store.seal(session)
            store.ledger(session)
            snapshot = store.snapshot(session)
            for name in installed():
                msgspec.json.encode(snapshot.rows(name, limit=50))
        assert store.snapshot(GOOD).count("task") == next(numbers) - 1


def test_any_headers_and_bytes(tmp_path):
    with neighbours(tmp_path) as check:

        @few
        @given(st.lists(st.tuples(wire_headers, st.binary(max_size=60)), max_size=8))
        def each(messages):
            arrived = [received(headers, data, "somewhere") for headers, data in messages]
            kept = check(arrived)
            assert len(kept) >= len({arrival for arrival in arrived if isinstance(arrival, Unreadable)})

        each()


def test_any_lines_of_any_type(tmp_path):
    files = count()
    with neighbours(tmp_path) as check:

        @few
        @given(st.lists(st.sampled_from(list(hostile.TYPES)), min_size=1, max_size=4), st.lists(any_line, max_size=6))
        def each(types, lines):
            data = b"".join(line + b"\n" for line in lines) or b"\n"
            check(
                msgspec.structs.replace(
                    chunk(TASK, [data[:-1]], file=f"0000000000-{next(files)}"), event_type=event_type
                )
                for event_type in types
            )

        each()


def test_any_names(tmp_path):
    part, data = good(0, GOOD).segments[0], good(0, GOOD).data
    with neighbours(tmp_path) as check:

        @few
        @given(st.lists(st.tuples(names, names, names, names, names), max_size=8))
        def each(called):
            check(
                Chunk(
                    cluster=cluster,
                    session=session,
                    node_id=node_id,
                    event_type=event_type,
                    segments=(part._replace(file=file),),
                    data=data,
                )
                for cluster, session, node_id, event_type, file in called
            )

        each()


@pytest.mark.parametrize("make", [hostile.chunk, hostile.odd_chunk])
def test_chunks_whose_values_lie_at_their_limits_or_beyond(tmp_path, make):
    with neighbours(tmp_path) as check:

        @few
        @given(seeds)
        def each(seed):
            chance = random.Random(seed)
            check([make(chance, SESSION) for _ in range(10)])

        each()


@many
@given(wire_headers, st.binary(max_size=60), st.text())
def test_what_is_received_is_a_chunk_or_says_why_not(headers, data, text):
    arrival = received(headers, data, "somewhere")
    if isinstance(arrival, Chunk):
        assert not arrival.segments or sum(segment.length for segment in arrival.segments) == len(data)
        assert all(segment.length > 0 and segment.start >= 0 for segment in arrival.segments)
    else:
        assert arrival.reason
        assert len(arrival.reason) < 2000
        assert hash(arrival) == hash(arrival)
    unquoted(text)
    unquoted("%ff%ed%b3%bf" + text)
    header_text(data)


@many
@given(any_line | seeds)
def test_what_collectors_send_is_read_or_refused(sent):
    if isinstance(sent, int):
        sent = json.dumps([hostile.value(random.Random(sent)) for _ in range(3)]).encode()
    try:
        chunks = from_message(sent)
    except EventError:
        return
    for received_chunk in chunks:
        received_chunk.check_ranges()
        list(public_events(received_chunk))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_what_collectors_send_may_nest_however_deep(text):
    with suppress(EventError):
        assert b"".join(received_chunk.data for received_chunk in from_message(text)) == text + b"\n"


@many
@given(seeds)
def test_any_event_of_rays_http_export_is_read_or_refused(seed):
    chance = random.Random(seed)
    event_type = chance.choice([event.event_type for event in POSTED])
    [body_name] = [event.body for event in POSTED if event.event_type == event_type]
    event: dict[str, Any] = {
        "eventId": "AQ==",
        "sessionName": SESSION,
        "eventType": event_type,
        "timestamp": "2026-01-31T12:00:00Z",
    }
    body = hostile.value(chance)
    event[body_name] = {
        **(body if isinstance(body, dict) else {}),
        **{name: hostile.value(chance) for name in chance.sample(FIELDS, 6)},
    }
    if chance.random() < 0.3:
        event[chance.choice(list(event))] = hostile.value(chance)
    line = json.dumps(event).encode()
    check(event_type, line + b"\n")
    result = sort_out(event_type, line)
    assert (result.verdict == "good") == bool(result.lines)
    assert result.lines or result.reason


POSTED = [event for entity in installed().values() for event in entity.posted]
FIELDS = (
    *("taskId", "jobId", "nodeId", "actorId", "taskAttempt", "stateTransitions", "state_transitions", "state"),
    *("timestamp", "profileEvents", "events", "requiredResources", "refIds", "labels", "rayErrorInfo", "config"),
    *(
        "deathCause",
        "workerPid",
        "pid",
        "language",
        "isDead",
        "startTime",
        "resources",
        "events",
        "name",
        "numRestarts",
    ),
)


async def test_a_history_that_is_sent_what_means_harm_lives_and_its_memory_is_bounded(tmp_path):
    sender, stop, chance = fuzz_history.Sender(), asyncio.Event(), random.Random(7)
    with Store.open(tmp_path, CONFIG, write=True) as store:
        running = asyncio.create_task(history.run(sender, store, CONFIG, stop, group="history"))
        for number in range(150):
            sender.put(fuzz_history.anything(chance))
            sender.put(good(number, GOOD))
        await until(lambda: sender.acked == 300 or running.done(), 300)
        stop.set()
        await running
        assert {row.event_type: row.stored_events for row in store.ledger(GOOD)}["TASK"] == 150
        assert store.snapshot(GOOD).count("task") == 150
        assert store.set_aside()
        # what is sent again and again is remembered once
        again = [hostile.odd_chunk(random.Random(3)) for _ in range(50)]
        store.append(again)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(20):
                store.append(again)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 5_000_000


async def test_a_session_that_cannot_be_folded_or_sealed_holds_up_no_other_and_ends_no_history(
    tmp_path, monkeypatch, caplog
):
    config = msgspec.structs.replace(CONFIG, seal_after_quiet_seconds=0.001)
    sender, stop = fuzz_history.Sender(), asyncio.Event()
    with Store.open(tmp_path, config, write=True) as store:
        fold, seal = store._writer._live.fold, store._writer._sealer.seal

        def poisoned(call):
            def wrapped(sessions, **how):
                if sessions in (SESSION, [SESSION]):
                    raise ValueError("poison")
                return call(sessions, **how)

            return wrapped

        monkeypatch.setattr(store._writer._live, "fold", poisoned(fold))
        monkeypatch.setattr(store._writer._sealer, "seal", poisoned(seal))
        running = asyncio.create_task(history.run(sender, store, config, stop, group="history"))
        for session in (SESSION, GOOD):
            sender.put(good(1, session))
        await until(lambda: running.done() or any(cluster.sealed for cluster in store.clusters()))
        stop.set()
        await running
        assert {cluster.session: cluster.sealed for cluster in store.clusters()} == {SESSION: False, GOOD: True}
    assert caplog.text.count("ValueError: poison") == 2  # once that it cannot be folded, and once not sealed
