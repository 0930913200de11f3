"""What a timeline says, of single attempts and of many, of a session that lives and of one that is sealed."""

import base64
import json

import msgspec
import pytest
from lab.generate import SESSION, generate

from raytrail.answers import Scope
from raytrail.answers.timeline import CHARACTERS, LEVELS, MOST_SLICES, Chosen, selection, timeline
from raytrail.entities import installed
from raytrail.errors import ConfigError, NotFoundError
from raytrail.event import Chunk, Segment
from raytrail.fold import slices as drawn
from raytrail.store import Store

TASK = installed()["task"]
COUNTED = "type IS NOT NULL AND type != 'DRIVER_TASK'"
JOB, NODE, WORKER = "01000000", "0a" * 28, "0b" * 28
S = 10**9
BEGAN = 1_795_419_640
SMALL = "session_2026-01-01_00-00-00_000000_1"


def b64(hexadecimal):
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def attempt(number, *, states, worker=WORKER, function="f", attempt=0, error=None):
    """An event of a task, with the seconds after the beginning at which it entered states."""
    updates = {
        "node_id": b64(NODE),
        "worker_id": b64(worker),
        "worker_pid": 7,
        "state_ts_ns": {state: str(BEGAN * S + round(second * S)) for state, second in states.items()},
    }
    if error:
        updates["error_info"] = {"error_type": error, "error_message": "it failed"}
    return {
        "task_id": b64(f"{number:016x}{'ff' * 12}{JOB}"),
        "attempt_number": attempt,
        "job_id": b64(JOB),
        "task_info": {"type": "NORMAL_TASK", "func_or_class_name": function},
        "state_updates": updates,
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three attempts of a session that lives: one that finished, one that failed, and one that is open."""
    events = [
        attempt(1, states={"1": 0, "2": 0.25, "5": 1.0, "8": 1.5, "11": 3.5}),
        attempt(2, states={"1": 0, "2": 0, "5": 4.0, "8": 4.0, "12": 5.0}, error="WORKER_DIED", function="g"),
        attempt(3, states={"1": 5, "5": 6.0, "8": 6.0}, worker="0c" * 28, attempt=1),
    ]
    lines = "".join(
        json.dumps({"event_id": str(n), "timestamp": BEGAN + 9, "source_type": "EXPORT_TASK", "event_data": event})
        + "\n"
        for n, event in enumerate(events)
    ).encode()
    with Store.open(tmp_path_factory.mktemp("small"), write=True) as store:
        store.append([chunk(SMALL, "TASK", lines)])
        store.fold()
        yield store


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A generated session of some thousand tasks, sealed, with its tables."""
    made = generate(tmp_path_factory.mktemp("ray"), tasks=3000, files=4, jobs=2, nodes=3)
    with Store.open(tmp_path_factory.mktemp("large"), write=True) as store:
        for path in sorted((made.directory / "logs" / "export_events").glob("event_*.log")):
            kind = path.name.removeprefix("event_EXPORT_").removesuffix(".log")
            store.append([chunk(SESSION, "TASK" if kind.startswith("TASK_") else kind, path.read_bytes(), kind)])
        store.fold()
        store.seal(SESSION)
        yield store


def chunk(session, kind, data, file="f"):
    return Chunk(
        cluster="made",
        session=session,
        node_id="",
        event_type=kind,
        segments=(Segment(f"0000000001-{file}", 0, 0, len(data)),),
        data=data,
    )


def scope_of(store, session, at_ms=None):
    return Scope(store, store.find(session), store.snapshot(session, at_ms))


def test_few_attempts_are_shown_one_by_one(small):
    answer = timeline(scope_of(small, SMALL))
    assert (answer.from_ms, answer.first_ms) == ((BEGAN * 1000 + 1500,) * 2)
    # what is open has run until the last event
    assert answer.to_ms == answer.last_ms == (BEGAN + 9) * 1000 + 1
    assert answer.rows.label == ("worker 7", "worker 7")
    assert answer.rows.worker_id == (WORKER, "0c" * 28)
    slices = answer.slices
    assert answer.bins is None
    assert slices
    assert [answer.functions[number] for number in slices.function] == ["f", "g", "f"]
    assert (slices.row, slices.start_us) == ((0, 0, 1), (0, 2_500_000, 4_500_000))
    assert slices.run_us == (2_000_000, 1_000_000, -1)
    assert (slices.failed, slices.error, slices.attempt) == ((1,), ("WORKER_DIED",), (0, 0, 1))
    assert dict(zip(answer.waits, slices.waited_ms, strict=True)) == {
        "arguments": (250, 0, 1000),
        "node": (750, 4000, 0),
        "object store": (),
        "worker": (500, 0, 0),
    }
    ends = [slices.task_ends[number] for number in slices.task_end]
    assert [a + b for a, b in zip(slices.task, ends, strict=True)] == [f"{n:016x}{'ff' * 12}{JOB}" for n in (1, 2, 3)]
    assert (answer.attempts, answer.failed) == (3, 1)


def test_at_a_moment_nothing_later_is_there(small):
    answer = timeline(scope_of(small, SMALL, (BEGAN + 4) * 1000 + 500))
    assert answer.slices
    assert (answer.slices.run_us, answer.slices.failed) == ((2_000_000, -1), ())
    assert answer.to_ms == (BEGAN + 4) * 1000 + 501


def test_a_window_has_what_ran_in_it_and_its_statistics(small):
    from_ms, to_ms = (BEGAN + 3) * 1000, (BEGAN + 5) * 1000
    answer = timeline(scope_of(small, SMALL), from_ms=from_ms, to_ms=to_ms)
    assert answer.slices
    assert answer.slices.start_us == (-1_500_000, 1_000_000)
    summed = selection(scope_of(small, SMALL), from_ms=from_ms, to_ms=to_ms)
    assert (summed.workers, summed.total.attempts, summed.total.failed) == (1, 2, 1)
    assert (summed.total.running_ms, summed.total.busy_share) == (1500, 0.75)
    assert [(row.function, row.attempts, row.running_ms) for row in summed.functions] == [("g", 1, 1000), ("f", 1, 500)]
    assert summed.functions[1].p50_ms == pytest.approx(2000, rel=0.02)
    assert (summed.functions[0].node_ms, summed.functions[1].arguments_ms) == (4000, 250)


def test_what_is_asked_for_must_be_there(small):
    scope = scope_of(small, SMALL)
    assert timeline(scope, chosen=Chosen(worker="0c" * 28)).attempts == 1
    with pytest.raises(NotFoundError, match="no attempt of job 'ff000000' in this session"):
        timeline(scope, chosen=Chosen(job="ff000000"))
    with pytest.raises(ConfigError, match="node 'here' is no id; give it in hex"):
        timeline(scope, chosen=Chosen(node="here"))
    with pytest.raises(ConfigError, match="window from 5 to 5: it is empty"):
        timeline(scope, from_ms=5, to_ms=5)
    with pytest.raises(ConfigError, match="width 0: it is from 1 to 4000 pixels"):
        timeline(scope, width=0)


def test_many_attempts_are_steps_that_add_up_to_them(large, monkeypatch):
    without = timeline(scope_of(large, SESSION))
    # of few thousand attempts, cells would save nothing
    monkeypatch.setattr(drawn, "CELLS_SAVE", 0)
    monkeypatch.setattr(drawn, "PARTS", 10**9)
    monkeypatch.setattr(drawn, "PARTS_AT_ONCE", 500)
    large.cache(SESSION)
    scope = scope_of(large, SESSION)
    assert scope.snapshot.table(drawn.CELLS, drawn.COLUMNS[drawn.CELLS])
    answer = timeline(scope)
    for name in {*answer.__struct_fields__} - {"bins", "functions"}:
        assert getattr(answer, name) == getattr(without, name), name
    bins = answer.bins
    assert bins
    assert len(msgspec.json.encode(answer)) < 100_000
    assert {len(text) for text in (*bins.busy, *bins.function)} == {bins.count}
    [(attempts, failed, running)] = scope.snapshot.run(
        "SELECT count(*), count(failed_ns), sum(greatest(coalesce(failed_ns, finished_ns) - running_ns, 0)) "
        f"FILTER (running_ns IS NOT NULL) FROM {scope.snapshot.source(TASK)} "
        f"WHERE {COUNTED} AND coalesce(failed_ns, finished_ns) IS NOT NULL"
    )
    assert (answer.attempts, answer.failed) == (attempts, failed)
    ran_us = sum(
        (CHARACTERS.index(step) % (LEVELS + 1) / LEVELS) ** 2 * full * bins.bin_us
        for text, full in zip(bins.busy, bins.full, strict=True)
        for step in text
    )
    assert ran_us * 1000 == pytest.approx(running, rel=0.1)
    half = timeline(scope, from_ms=answer.from_ms, to_ms=answer.from_ms + 1500)
    assert half.bins
    [(attempts_of_half,)] = scope.snapshot.run(
        f"SELECT count(*) FROM {scope.snapshot.source(TASK)} WHERE {COUNTED} AND coalesce(running_ns, failed_ns, "
        f"finished_ns) < {answer.from_ms * 10**6 + int(half.bins.start_us + half.bins.bin_us * half.bins.count) * 1000}"
    )
    assert half.attempts == pytest.approx(attempts_of_half, abs=2)
    total = selection(scope).total
    assert (total.attempts, total.failed) == (attempts, failed)
    assert total.running_ms == pytest.approx(running / 1e6, rel=1e-6)


def test_zoomed_in_there_are_single_attempts(large):
    scope = scope_of(large, SESSION)
    whole = timeline(scope)
    answer = timeline(scope, from_ms=whole.from_ms + 2000, to_ms=whole.from_ms + 2050)
    assert answer.slices
    assert len(answer.slices.row) <= MOST_SLICES
    [(there,)] = scope.snapshot.run(
        f"SELECT count(*) FROM {scope.snapshot.source(TASK)} WHERE {COUNTED} "
        f"AND coalesce(running_ns, failed_ns, finished_ns) < {answer.to_ms * 10**6} "
        f"AND coalesce(failed_ns, finished_ns) >= {answer.from_ms * 10**6}"
    )
    assert answer.attempts == there > 0
    # and the query that is shown says the same
    assert len(large.sql(answer.sql).rows) == there
    summed = selection(scope, from_ms=answer.from_ms, to_ms=answer.to_ms)
    assert sum(row[1] for row in large.sql(summed.sql).rows) == summed.total.attempts == there
