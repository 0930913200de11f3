"""`raytrail rejected`: chunks that could not be stored, for a person to look at."""

import json

import msgspec
import pytest

from raytrail.exit_codes import OK
from raytrail.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(tmp_path / "store"))
    with Store.open(tmp_path / "store", write=True) as store:
        yield store


def test_what_was_set_aside_is_listed_with_its_reason_and_its_bytes_are_printed(run, store, make):
    odd = msgspec.structs.replace(make.chunk("TASK", make.task(1)), session="session 1")
    store.append([odd, make.chunk("TASK", make.task(2))])
    [kept] = store.set_aside()
    listed = run("rejected")
    assert kept.id[:12] in listed.stdout
    assert "session_unknown" in listed.stdout
    assert f"{len(odd.data):,}" in listed.stdout
    [entry] = json.loads(run("rejected", "--format", "json").stdout)
    assert (entry["id"], entry["headers"], entry["reason"]) == (kept.id, odd.headers(), kept.reason)
    assert run("rejected", kept.id[:12]).stdout.encode() == odd.data
    assert run("rejected", "0" * 32, code=1).stderr == (
        f"raytrail: error: nothing that was set aside has the id {'0' * 32!r} for itself; "
        "`raytrail rejected` lists what is kept\n"
    )
    [row] = json.loads(run("ledger", "--cluster", "session_unknown", "--format", "json", code=OK).stdout)
    assert (row["event_type"], row["rejected_events"]) == ("SET_ASIDE", 1)
    run("ledger", "--cluster", "session_unknown", "--check", code=1)


def test_nothing_is_said_to_be_nothing(run, store):
    assert run("rejected").stderr == "nothing was set aside\n"
