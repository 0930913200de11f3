"""``raytrail delete`` and ``raytrail hold``, alone and beside a history that writes to the store."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from tests.keeping import LIVING, MIDDLE, NEW, OLD, files_of, filled, sessions

from raytrail.store import Store

__all__ = ["filled"]

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"


@pytest.fixture
def root(filled, tmp_path, monkeypatch):
    root = shutil.copytree(filled, tmp_path / "store")
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(root))
    return root


def listed(root):
    with Store.open(root) as store:
        return sessions(store)


def test_it_says_what_it_would_delete_and_deletes_nothing(run, root):
    before = files_of(root, OLD)
    [row] = json.loads(run("delete", OLD, "--dry-run", "--format", "json").stdout)
    assert (row["session"], row["events"], row["refusal"], row["outcome"]) == (OLD, 61, "", "would be deleted")
    with Store.open(root) as store:
        assert row["bytes"] == store.deletions.size(OLD)
    assert "would be deleted" in run("delete", OLD, "--dry-run").stdout
    assert files_of(root, OLD) == before
    assert listed(root) == {OLD, MIDDLE, NEW, LIVING}


def test_it_asks_and_no_is_taken_for_an_answer(run, root):
    result = run("delete", OLD, code=1)  # stdin is empty
    assert "Delete 1 session, " in result.output
    assert "for good?" in result.output
    assert OLD in listed(root)


def test_it_deletes_for_good_and_remembers_why(run, root):
    run("hold", MIDDLE, "--reason", "incident 4711")
    result = run("delete", OLD, MIDDLE, LIVING, "--yes", "--reason", "request 12", "--format", "json", code=1)
    outcomes = {row["session"]: row["outcome"] for row in json.loads(result.stdout)}
    assert outcomes == {
        OLD: "deleted",
        MIDDLE: f"it is held (incident 4711); `raytrail hold --release {MIDDLE}` lets go of it",
        LIVING: "it lives, or is not sealed yet; a history seals it once it has ended",
    }
    assert listed(root) == {MIDDLE, NEW, LIVING}
    assert files_of(root, OLD) == []
    [gone] = json.loads(run("delete", "--list", "--format", "json").stdout)
    assert (gone["session"], gone["why"], gone["done"]) == (OLD, "asked for with `raytrail delete`: request 12", True)
    assert OLD in run("delete", "--list").stdout
    assert f"session '{OLD}' was deleted at" in run("delete", OLD, "--yes", code=1).output
    assert f"session '{OLD}' was deleted at" in run("ledger", "--cluster", OLD, code=1).output


def test_all_of_a_name(run, root):
    run("delete", "--name", "prod", "--yes", code=1)
    assert listed(root) == {LIVING}
    assert "no cluster of the name 'none'" in run("delete", "--name", "none", code=1).output
    assert "nothing to delete; give a CLUSTER" in run("delete", code=2).output


def test_an_empty_name_stands_for_no_session(run, root):
    """A variable of a shell may be empty. The clusters here have no name but for one, and then there is one alone."""
    with Store.open(root, write=True) as store, store._catalogue.transaction() as db:
        db.execute("UPDATE sessions SET cluster = '' WHERE session != ?", (NEW,))
    assert "--name is empty" in run("delete", "--name", "", "--yes", code=2).output
    assert "--name is empty" in run("hold", "--name", "", code=2).output
    assert "--forget takes whole names" in run("delete", "--forget", "--name", "prod", code=2).output
    assert listed(root) == {OLD, MIDDLE, NEW, LIVING}
    with Store.open(root, write=True) as store, store._catalogue.transaction() as db:
        db.execute("DELETE FROM sessions WHERE session != ?", (OLD,))
    assert "cluster ''" in run("delete", "", "--yes", code=1).output
    assert listed(root) == {OLD}


def test_a_hold_is_listed(run, root):
    assert run("hold").output == "no session is held\n"
    assert run("hold", NEW, "--reason", "keep it").output == f"{NEW} is held\n"
    assert json.loads(run("hold", "--format", "json").stdout) == [{"session": NEW, "reason": "keep it"}]
    assert "keep it" in run("hold").stdout
    shown = json.loads(run("clusters", "--format", "json").stdout)
    assert {row["session"] for row in shown if row["held"]} == {NEW}
    assert run("clusters").stdout.count("sealed, held") == 1
    run("hold", "--release", NEW)
    assert run("hold").output == "no session is held\n"


def test_a_deleted_session_can_be_forgotten_and_imported_again(run, root):
    run("delete", OLD, "--yes")
    assert "taken again" in run("delete", "--forget", OLD).output
    assert run("delete", "--list").output == "no session was deleted\n"
    assert f"no session '{OLD}' was deleted" in run("delete", "--forget", OLD, code=1).output


def test_a_history_that_runs_does_it(run, root, tmp_path, start):
    """The command cannot write to the store meanwhile, and the server answers 404 from then on."""
    history = start(
        *("history", "--from", f"file://{tmp_path}/events", "--sql-seconds", "0.1"),
        *("--batch-seconds", "0.05", "--fold-seconds", "0.05"),
    )
    history.wait_for(lambda: "reading " in history.printed["err"])
    result = run("delete", OLD, "--yes", "--format", "json")
    [row] = json.loads(result.stdout)
    assert row["outcome"] in ("deleted", "deleted; its files go shortly")
    assert listed(root) == {MIDDLE, NEW, LIVING}
    run("hold", NEW)
    assert "it is held" in run("delete", NEW, "--yes", code=1).output
    # what the history refuses is not said to be done
    assert f"no session '{LIVING}' was deleted" in run("delete", "--forget", LIVING, code=1).output
    history.wait_for(lambda: not files_of(root, OLD))
    assert f"deleting session {OLD}" in history.printed["err"]


def test_what_a_history_refuses_is_not_said_to_be_done(run, root):
    """Its files are there as long as somebody may read them. Another process writes to the store."""
    with Store.open(root, write=True) as store:
        store.deletions.mark(OLD, "r", time.time_ns() // 10**6)
        assert f"{OLD}: it is still being deleted" in run("delete", "--forget", OLD, code=2).output

        end = threading.Event()

        def refuse():
            while not end.wait(0.05):
                store.requests.take(lambda request: store.deletions.mark(request.session, "r", 0))

        history = threading.Thread(target=refuse)
        history.start()
        try:
            assert f"{LIVING}: the history was asked to hold it" in run("hold", LIVING, code=3).output
        finally:
            end.set()
            history.join()


def test_an_import_of_a_deleted_session_takes_nothing_and_says_how(run, root, tmp_path):
    ray = shutil.copytree(EXAMPLE, tmp_path / "ray")
    [session] = [path.name for path in ray.glob("session_*")]
    run("import", ray)
    run("delete", session, "--yes")
    result = run("import", ray, code=1)
    assert f"nothing of it was taken; to take it again, run `raytrail delete --forget {session}` first" in result.output
    assert session not in listed(root)
    run("delete", "--forget", session)
    run("import", ray)
    assert session in listed(root)
