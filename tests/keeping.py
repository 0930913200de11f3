"""A store of several sealed sessions and a living one, for what deletes, holds, backs up and restores them."""

import shutil

import pytest
from tests.damage import CONFIG, chunk, groups, logged, nodes, tasks

from raytrail.store import Store, retention

OLD, MIDDLE, NEW, LIVING = (f"session_2026-11-2{number}_07-00-00_000000_1" for number in (1, 2, 3, 4))
SEALED = (OLD, MIDDLE, NEW)
DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def in_one_round(monkeypatch):
    """Have one round do all that is due, however slow the disk is: a history would go on in its next one."""
    for bound in ("MARK_SECONDS", "WORK_SECONDS"):
        monkeypatch.setattr(retention, bound, 600.0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The store, which a module makes once."""
    root = tmp_path_factory.mktemp("filled") / "store"
    fill(root)
    return root


@pytest.fixture
def root(filled, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(filled, tmp_path / "store")


def fill(root, *, sealed=SEALED, config=CONFIG):
    """Make the store. What grew last came now; the sealed ones grew 30, 20 and 10 days before `NOW_MS`."""
    with Store.open(root, config, write=True) as store:
        for session in (*sealed, LIVING):
            store.append(
                [
                    chunk(session, "task", tasks(range(50), "11" if session in sealed else "8")),
                    chunk(session, "placement_group", groups("REMOVED")),
                    chunk(session, "node", nodes("DEAD" if session in sealed else "ALIVE")),
                    *logged(session),
                ]
            )
        store.fold()
        for number, session in enumerate(sealed):
            store.seal(session)
            store.cache(session)
            set_grown(store, session, NOW_MS - (30 - 10 * number) * DAY_MS)


def set_grown(store, session, at_ms):
    """Have a session's last event have come, and the last sign of life, at a time."""
    with store._catalogue.transaction() as db:
        db.execute("UPDATE sessions SET last_grew_ms = ?, last_heard_ms = ? WHERE session = ?", (at_ms, at_ms, session))


def sessions(store):
    return {cluster.session for cluster in store.clusters()}


def files_of(root, session):
    return sorted(path for kind in ("log", "logs", "state") for path in (root / kind / session).rglob("*"))


def rows_of(store, session):
    """Return how many rows of a session each table of the catalogue has, but for the mark of its deletion."""
    tables = [
        table
        for (table,) in store._catalogue.query("SELECT name FROM sqlite_master WHERE type = 'table'")
        if table not in ("deleted", "holds")
        and any(row[1] == "session" for row in store._catalogue.query(f"PRAGMA table_info({table})"))
    ]
    counts = {
        table: store._catalogue.query(f"SELECT count(*) FROM {table} WHERE session = ?", session)[0][0]
        for table in tables
    }
    return {table: count for table, count in counts.items() if count}
