"""What is summed up when a session is sealed: what the rows say, and the same before it is sealed."""

import math

import pytest
from lab.generate import SESSION, generate

from raytrail.entities import installed
from raytrail.event import Chunk, Segment
from raytrail.fold import slices
from raytrail.fold.rollup import GROWTH, ROLLUPS, percentiles, read_of, rollup
from raytrail.store import Store

TASK = installed()["task"]
assert TASK.work
TIMES = [column for _, column in TASK.work.states]
COUNTED = "type IS NOT NULL AND type != 'DRIVER_TASK'"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A generated session of some thousand tasks, sealed, with its tables."""
    made = generate(tmp_path_factory.mktemp("ray"), tasks=3000, files=4, jobs=2, nodes=3)
    with Store.open(tmp_path_factory.mktemp("store"), write=True) as store:
        for path in sorted((made.directory / "logs" / "export_events").glob("event_*.log")):
            data, kind = path.read_bytes(), path.name.removeprefix("event_EXPORT_").removesuffix(".log")
            store.append(
                [
                    Chunk(
                        cluster="made",
                        session=SESSION,
                        node_id="",
                        event_type="TASK" if kind.startswith("TASK_") else kind,
                        segments=(Segment(f"0000000001-{kind}", 0, 0, len(data)),),
                        data=data,
                    )
                ]
            )
        store.fold()
        yield store


@pytest.fixture(scope="module")
def untabled(store):
    """What the rollups say of a sealed session that has no tables, as one that lives has none."""
    store.seal(SESSION)
    snapshot = store.snapshot(SESSION)
    assert not any(snapshot.rollup(name) for name in ROLLUPS)
    return {name: sums(snapshot, name) for name in ROLLUPS}


@pytest.fixture(scope="module")
def sealed(store, untabled):
    store.cache(SESSION)
    return store.snapshot(SESSION)


def sums(snapshot, name):
    return sorted(map(repr, snapshot.run(f"FROM {snapshot.rolled_up(name)}")))


def test_tables_say_what_the_states_add_up_to(sealed, untabled):
    for name in ROLLUPS:
        assert sealed.rollup(name)
        assert sums(sealed, name) == untabled[name] != []


def test_sums_at_a_moment_are_those_of_the_states_then(store, sealed):
    [(early_ns,)] = sealed.run(f"SELECT quantile_disc(_latest_ns, 0.3) FROM {sealed.source(TASK)}")
    then = store.snapshot(SESSION, early_ns // 1_000_000)
    for name in ("functions", "durations"):
        ours = f"SELECT * REPLACE (attempts::BIGINT AS attempts) FROM {then.rollup(name)}"
        columns = "*" if name == "durations" else "job_id, function, node_id, attempts, failed, retried, waited, ran"
        theirs = f"({rollup(TASK, name, then.source(TASK, read_of(TASK)))})"
        assert then.run(f"SELECT {columns} FROM ({ours}) ORDER BY ALL") == then.run(
            f"SELECT {columns} FROM {theirs} ORDER BY ALL"
        )
    states = then.rollup("states")
    [(low, step, bin)] = then.run(f"SELECT low_ns, step_ns, max(bin) FROM {states} WHERE job_id IS NULL GROUP BY ALL")
    assert low + (bin + 1) * step <= (early_ns // 1_000_000 + 1) * 1_000_000


def test_functions_add_up_to_all_tasks(sealed):
    table = sealed.rollup("functions")
    assert sealed.run(
        f"SELECT sum(attempts), sum(failed), sum(retried), sum(running_ns), sum(waiting_ns), sum(ran) FROM {table}"
    ) == sealed.run(
        "SELECT count(*), count(failed_ns), count(*) FILTER (attempt_number > 0), sum(greatest(ended_ns - running_ns, "
        "0)) FILTER (running_ns IS NOT NULL), sum(greatest(running_ns - pending_args_avail_ns, 0)) "
        "FILTER (running_ns - pending_args_avail_ns IS NOT NULL), count(ended_ns - running_ns) "
        f"FROM (SELECT *, coalesce(failed_ns, finished_ns) AS ended_ns FROM {sealed.source(TASK)} WHERE {COUNTED})"
    )


@pytest.mark.parametrize("measure", ["running", "waiting"])
def test_percentiles_of_any_part_are_within_2_percent(sealed, measure):
    times = {
        "running": "coalesce(failed_ns, finished_ns) - running_ns",
        "waiting": "running_ns - pending_args_avail_ns",
    }[measure]
    shares = (0.5, 0.95, 0.99)
    summed = sealed.run(
        f"SELECT function, [p50, p95, p99] FROM ({percentiles(sealed.rollup('durations'), ('function',), shares)}) "
        f"WHERE measure = '{measure}' ORDER BY function"
    )
    exact = sealed.run(
        f"SELECT func_or_class_name, quantile_disc({times}, {list(shares)}) FROM {sealed.source(TASK)} "
        f"WHERE {COUNTED} AND {times} IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    assert [row[0] for row in summed] == [row[0] for row in exact]
    for (_, ours), (_, theirs) in zip(summed, exact, strict=True):
        for estimate, actual in zip(ours, theirs, strict=True):
            assert abs(estimate - actual) <= math.ceil(actual * (GROWTH - 1) / (GROWTH + 1))


def test_states_at_the_end_of_each_step_are_those_of_that_moment(store, sealed):
    states = sealed.rollup("states")
    [(job,)] = sealed.run(f"SELECT min(job_id) FROM {states}")
    for of, of_job in (("job_id IS NULL", "true"), ("job_id = ?", "job_id = ?")):
        params = [job] if "?" in of else []
        [(low, step)] = sealed.run(f"SELECT DISTINCT low_ns, step_ns FROM {states} WHERE {of}", params)
        for number in (0, 3, 40, 120, 199):
            until = low + (number + 1) * step
            ours = sealed.run(
                f"SELECT state, sum(entered - exited)::BIGINT AS n FROM {states} WHERE {of} AND bin <= {number} "
                "GROUP BY ALL HAVING n > 0 ORDER BY ALL",
                params,
            )
            then = ", ".join(f"CASE WHEN {time} < {until} THEN {time} END AS {time}" for time in TIMES)
            state = next(derived.sql for derived in TASK.derived if derived.name == "state")
            theirs = sealed.run(
                f"SELECT {state} AS state, count(*) FROM (SELECT {then} FROM {sealed.source(TASK)} "
                f"WHERE {COUNTED} AND _earliest_ns < {until} AND {of_job}) GROUP BY ALL ORDER BY ALL",
                params,
            )
            assert ours == theirs


def test_tables_that_cannot_be_made_are_left_out_and_the_others_are_there(store, sealed, monkeypatch, caplog):
    def cache_anew():
        store.reopen(SESSION)
        store.seal(SESSION)
        store.cache(SESSION)
        return store.snapshot(SESSION)

    # what the engine says where its memory is not enough
    monkeypatch.setattr(slices, "lanes", lambda *_: "SELECT error('Out of Memory Error: failed to allocate')")
    snapshot = cache_anew()
    assert "tables task_calls, task_lanes, task_slices, task_levels, task_cells are left out" in caplog.text
    assert snapshot.table(slices.SLICES, slices.COLUMNS[slices.SLICES]) is None
    assert all(snapshot.rollup(name) for name in ROLLUPS)
    monkeypatch.undo()
    # nothing is in the way of the next one
    assert cache_anew().table(slices.SLICES, slices.COLUMNS[slices.SLICES])
