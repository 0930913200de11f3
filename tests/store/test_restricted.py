"""A history as somebody sees it who may read some clusters only."""

import base64
import gc
import sqlite3

import msgspec
import pytest

from raytrail.answers.landing import landing
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import ConfigError, NotFoundError
from raytrail.store import Limits, RestrictedStore, Store
from raytrail.store.restricted import SHARED
from raytrail.testing.entities import chunk, line

OURS, THEIRS = "session_2026-11-23_00-00-00_000000_1", "session_2026-11-24_00-00-00_000000_2"
OUR_LIVING, THEIR_LIVING = "session_2026-11-25_00-00-00_000000_3", "session_2026-11-26_00-00-00_000000_4"
BEGAN_S = 1_795_419_630
LIMITS = Limits(100, 30)


def task(number, function):
    ran = {"5": str(10**9 * BEGAN_S), "11": str(10**9 * (BEGAN_S + 1))}
    return {
        "task_id": base64.b64encode(bytes([number]) * 24).decode(),
        "attempt_number": 0,
        "job_id": base64.b64encode(b"\x01\0\0\0").decode(),
        "task_info": {"type": "NORMAL_TASK", "func_or_class_name": function},
        "state_updates": {"state_ts_ns": ran},
    }


def add(store, session, cluster, function):
    job = {"submission_job_id": f"job-{function}", "status": "RUNNING", "entrypoint": f"python {function}.py"}
    for name, events in (
        ("task", [task(number, function) for number in (1, 2)]),
        ("submission_job", [{**job, "start_time": str(1000 * BEGAN_S)}]),
    ):
        entity = installed()[name]
        lines = [line(entity, BEGAN_S, event) for event in events]
        made = chunk(entity, lines, file=f"0000000001-{name}")
        store.append([msgspec.structs.replace(made, session=session, cluster=cluster)])
    store.fold()


def filled(root):
    """A store of two teams, each with a sealed session and a living one."""
    store = Store.open(root, StoreConfig(threads=1), write=True)
    add(store, OURS, "team-a-train", "ours")
    add(store, THEIRS, "team-b-train", "theirs")
    store.seal_all([OURS, THEIRS])
    add(store, OUR_LIVING, "team-a-serve", "ours")
    add(store, THEIR_LIVING, "team-b-serve", "theirs")
    return store


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    with filled(tmp_path_factory.mktemp("both")) as store:
        yield store


@pytest.fixture(scope="module")
def ours(both):
    with RestrictedStore(both, ["team-a-*"]) as store:
        yield store


def test_only_clusters_of_the_patterns_are_there(ours, both):
    assert {cluster.session for cluster in ours.clusters()} == {OURS, OUR_LIVING}
    assert len(both.clusters()) == 4
    assert ours.find("latest").session == OUR_LIVING
    assert ours.find(OURS) == both.find(OURS)
    assert ours.ledger(OURS) == both.ledger(OURS)
    assert ours.snapshot(OURS).count("task") == 2


@pytest.mark.parametrize("id", [THEIRS, THEIR_LIVING, "team-b-train", "11-24"])
def test_what_may_not_be_read_is_not_told_from_what_is_not_there(ours, id):
    with pytest.raises(NotFoundError) as refused:
        ours.find(id)
    with pytest.raises(NotFoundError) as unknown:
        ours.find("none")
    assert str(refused.value).replace(repr(id), "") == str(unknown.value).replace("'none'", "")


def test_a_whole_name_does_not_help(ours):
    with pytest.raises(NotFoundError):
        ours.snapshot(THEIRS)
    with pytest.raises(NotFoundError):
        ours.logs(THEIRS)


def test_lists_searches_and_counts_know_of_no_others(ours, both):
    listed = landing(ours, fold=True)
    assert b"team-b" not in msgspec.json.encode(listed)
    assert b"theirs" not in msgspec.json.encode(listed)
    assert (listed.sessions, len(landing(both).rows)) == (2, 4)
    assert landing(ours, search="theirs").sessions == 0
    assert landing(ours, search="ours").sessions == 2


@pytest.mark.parametrize("apart", [True, False])
def test_sql_asks_no_others(ours, both, apart):
    def ask(store, statement):
        return (store.sql_apart if apart else store.sql)(statement, LIMITS).rows

    statement = "SELECT cluster, session, count(*) FROM task GROUP BY ALL ORDER BY ALL"
    assert [tuple(row) for row in ask(ours, statement)] == [
        ("team-a-serve", OUR_LIVING, 2),
        ("team-a-train", OURS, 2),
    ]
    assert len(ask(both, statement)) == 4  # and the same process answers both
    with RestrictedStore(both, []) as nothing:
        assert [*ask(nothing, statement)] == []
        with pytest.raises(ConfigError):
            ask(nothing, "SELECT * FROM read_parquet('/**')")


@pytest.mark.parametrize(
    "statement",
    [
        'SELECT p.* FROM (WITH "{file}" AS (SELECT 1) SELECT 1) t, "{file}" p',
        'WITH a AS (SELECT * FROM "{file}"), "{file}" AS (SELECT 1) SELECT * FROM a',
        'WITH "{file}" AS (SELECT * FROM "{file}") SELECT * FROM "{file}"',
    ],
)
@pytest.mark.parametrize("directory", ["log", "state"])
def test_sql_reads_no_file_that_a_name_of_its_own_hides(ours, both, directory, statement):
    """The engine may read the files of all sessions. It takes a name that it does not know for one of these."""
    file = f"{both.root}/{directory}/{THEIRS}/task-*.parquet"
    with pytest.raises(ConfigError, match="WITH names"):
        ours.sql_apart(statement.format(file=file), LIMITS)


def test_no_table_of_the_catalogue_has_a_row_of_others(ours, both):
    with both._catalogue.reading() as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    written = {table for table in tables if both._catalogue.query(f"SELECT 1 FROM {table} LIMIT 1")}
    assert {"sessions", "log", "state", "overview", "runs", "mentions", "counts"} <= written
    for table in tables - SHARED - {"sqlite_sequence"}:
        rows = str(ours._catalogue.query(f"SELECT * FROM {table}"))
        assert THEIRS not in rows, table
        assert THEIR_LIVING not in rows, table
    with RestrictedStore(both, []) as nothing:
        shown = {table for table in tables - SHARED if nothing._catalogue.query(f"SELECT 1 FROM {table} LIMIT 1")}
        assert shown <= {"sqlite_sequence"}


@pytest.mark.parametrize(
    ("pattern", "sessions"),
    [("*", 4), ("team-?-train", 2), ("team-a-train", 1), ("team-[ab]-train", 0), ("TEAM-*", 0), ("' OR 1", 0)],
)
def test_patterns_are_texts_with_two_wildcards(both, pattern, sessions):
    with RestrictedStore(both, [pattern]) as store:
        assert len(store.clusters()) == sessions


def test_one_that_is_forgotten_is_closed_at_once_but_not_while_it_answers(both):
    gc.disable()  # a server looks for garbage seldom
    try:
        store = RestrictedStore(both, ["team-a-*"])
        catalogue, connection = store._catalogue, store._catalogue._db
        del store
        assert catalogue.query("SELECT count(*) FROM sessions") == [(2,)]
        del catalogue
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    finally:
        gc.enable()


def test_a_reader_of_a_store_restricts_it_too(both):
    with Store.open(both.root) as reader, RestrictedStore(reader, ["team-b-*"]) as theirs:
        assert {cluster.cluster for cluster in theirs.clusters()} == {"team-b-train", "team-b-serve"}


def test_what_comes_later_is_seen_and_the_writer_goes_on(tmp_path):
    with filled(tmp_path / "store") as both, RestrictedStore(both, ["team-a-*"]) as ours:
        add(both, "session_2026-11-27_00-00-00_000000_5", "team-a-late", "late")
        assert ours.find("latest").cluster == "team-a-late"
        both.seal(OUR_LIVING)
        assert ours.find(OUR_LIVING).sealed
        assert landing(ours, search="late").sessions == 1
        with both._catalogue.transaction() as db:
            db.execute("CREATE TABLE later(name TEXT)")
            db.execute("INSERT INTO later VALUES('team-b-train')")
        with RestrictedStore(both, ["*"]) as every:
            # a table that does not say whose its rows are is seen by nobody
            assert every._catalogue.query("SELECT * FROM later") == []
