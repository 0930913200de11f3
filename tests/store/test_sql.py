"""SQL over many sessions: each is what it is by itself, and a thousand are planned as one is."""

import tarfile

import msgspec
import pytest
from tests.store.fixtures import make_store
from tests.store.test_many import CONFIG, SHAPES, chunks, name, write_sessions

from raytrail.entities import installed
from raytrail.event import Segment
from raytrail.fold.layout import shown
from raytrail.store import Filter, Store
from raytrail.store.closed import SUPERSEDED
from raytrail.store.engine import Limits
from raytrail.testing.entities import chunk, line

PROGRESS = installed()["dataset_progress"]
LIMITS = Limits(rows=10, seconds=60)


@pytest.fixture(scope="module")
def arrived(tmp_path_factory):
    """The chunks of sessions that share ids."""
    directory = tmp_path_factory.mktemp("ray")
    write_sessions(directory)
    return chunks(directory, directory)


def progress(session):
    """Return a chunk that says how far the operators of a dataset are."""
    operators = [{"operator_id": "Input0", "state": "FINISHED"}, {"operator_id": "Map1", "state": "RUNNING"}]
    event = {"dataset_id": "dataset_1", "state": "RUNNING", "operators": operators}
    return msgspec.structs.replace(chunk(PROGRESS, [line(PROGRESS, 1795419640, event)]), session=session)


def answers(store):
    """Return what SQL says of each entity."""
    return {noun: sorted(store.sql(f"SELECT * FROM {noun}").rows, key=repr) for noun in installed()}


def by_itself(store):
    """Return the same, each session asked alone."""
    clusters = {cluster.session: cluster.cluster for cluster in store.clusters()}
    return {
        noun: sorted(
            (
                (cluster, session, *row)
                for session, cluster in clusters.items()
                for row in store._engine.run(*store.snapshot(session).select(entity, shown(entity)))
            ),
            key=repr,
        )
        for noun, entity in installed().items()
    }


def test_sessions_that_are_asked_at_once_say_what_each_does_by_itself(arrived, tmp_path, monkeypatch):
    monkeypatch.setattr("raytrail.store.live.SETTLE_SECONDS", -1)
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        named = [msgspec.structs.replace(c, cluster=f"of {c.session[-3:]}'s") for c in arrived]
        # the first lives, and has closed states that returned. The second lives, and is not folded yet
        first = [c for c in named if c.session == name(0)]
        store.append(first)
        store.fold()
        [tasks, *_] = [c for c in first if c.event_type == "TASK"]
        other_file = Segment("0000000001-again", 0, 0, len(tasks.data))
        store.append([msgspec.structs.replace(tasks, segments=(other_file,))])
        store.fold()
        store.append([*named, *(progress(name(number)) for number in range(len(SHAPES)))])
        store.seal_all(map(name, range(2, len(SHAPES))))
        kinds = {kind for (kind,) in store._catalogue.query("SELECT kind FROM state WHERE session = ?", name(0))}
        assert kinds == {"open", "closed", SUPERSEDED}
        expected = by_itself(store)
        assert answers(store) == expected
        assert {noun for noun, rows in expected.items() if rows} > {"task", "actor", "node", "job"}
        for view in ("job", "operator_progress"):
            assert {row[1] for row in expected[view]} == set(map(name, range(len(SHAPES)))), view
        for condition in (f"session = '{name(2)}'", "cluster = 'of 102''s'"):
            [(count,)] = store.sql(f"SELECT count(*) FROM task WHERE {condition}").rows
            assert count == sum(row[1] == name(2) for row in expected["task"]) > 0


@pytest.mark.parametrize("version", sorted(path.stem.split("-", 1)[1] for path in make_store.HERE.glob("store-*.json")))
def test_sessions_that_older_versions_sealed_are_asked_with_others(arrived, version, tmp_path):
    with tarfile.open(make_store.HERE / f"store-{version}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        store.append([c for c in arrived if c.session == name(3)])
        store.seal(name(3))
        expected = by_itself(store)
        assert answers(store) == expected
        assert {row[1] for row in expected["task"]} == {make_store.LIVE, make_store.SEALED, name(3)}


@pytest.mark.parametrize("noun", ["task", "job"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_question_over_many_sessions_is_planned_as_one_over_a_few(arrived, noun, sealed, tmp_path):
    def explained(times):
        with Store.open(tmp_path / str(times), CONFIG, write=True) as store:
            several = [msgspec.structs.replace(c, session=f"{c.session}{n}") for n in range(times) for c in arrived]
            store.append(several)
            if sealed:
                store.seal_all({copy.session for copy in several})
            store.fold()
            plan = store.explain(f"SELECT count(*) FROM {noun}", LIMITS)
            return plan.count("READ_PARQUET")

    assert explained(1) == explained(3) > 0


@pytest.mark.parametrize("sealed", [True, False])
def test_ids_are_found_in_files_by_every_engine(arrived, sealed, tmp_path):
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        store.append([c for c in arrived if c.session == name(3)])
        store.fold()
        if sealed:
            store.seal(name(3))
        snapshot = store.snapshot(name(3))
        jobs = {row["job_id"] for row in snapshot.rows("task", columns=["job_id"])}
        counted = {job: snapshot.count("task", [Filter("job_id", "=", job)]) for job in jobs}
        assert sum(counted.values()) == snapshot.count("task")
        assert 0 not in counted.values()
        # Bloom filters, by which DuckDB 1.5 finds no id
        for path in (tmp_path / "store").glob("*/*/*.parquet"):
            written = f"SELECT count(bloom_filter_offset) FROM parquet_metadata('{path}')"
            assert store._engine.run(written) == [(0,)], path
