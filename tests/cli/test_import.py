"""`raytrail import`, on the capture of a real session and on what goes wrong."""

import json
import tarfile
from pathlib import Path

import pytest

from raytrail.cli import USAGE
from raytrail.store import Store

CAPTURE = Path(__file__).parents[1] / "captures" / "ray-2.60.tar.xz"


@pytest.fixture
def session_dir(tmp_path, make):
    """A session directory as Ray leaves it."""

    def lay(*chunks, session=make.SESSION):
        events = tmp_path / "ray" / session / "logs" / "export_events"
        events.mkdir(parents=True)
        for number, chunk in enumerate(chunks):
            pid = f"_{number}" if chunk.event_type == "TASK" else ""
            (events / f"event_EXPORT_{chunk.event_type}{pid}.log").write_bytes(chunk.data)
        return events.parents[1]

    return lay


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="session")
def capture(tmp_path_factory):
    with tarfile.open(CAPTURE) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(tmp_path_factory.mktemp("capture"))
    return next(tmp_path_factory.getbasetemp().glob("capture*/**/varied"))


def test_a_real_session_comes_in_whole_and_once(run, store, capture):
    first = run("import", capture)
    assert "7,530 new events, 7,530 in all\n" in first.stdout
    [totals] = [line.split() for line in first.stdout.splitlines() if line.startswith("all ")]
    assert totals[1] == "85"
    assert "0 new events, 7,530 in all\n" in run("import", capture).stdout
    truth = json.loads((capture / "ground_truth.json").read_text())
    tasks = json.loads(run("list", "tasks", "--format", "json").stdout)
    assert {(t["task_id"], t["attempt_number"]) for t in truth["tasks"]} <= {
        (t["task_id"], t["attempt_number"]) for t in tasks
    }


@pytest.mark.parametrize("part", ["", "logs", "logs/export_events", ".."])
def test_a_session_is_found_by_its_directory_or_a_part_of_it_or_the_temp_dir(run, store, make, session_dir, part):
    directory = session_dir(make.chunk("NODE", make.node("ALIVE"), make.node()), make.chunk("TASK", make.task(1)))
    [result] = json.loads(run("import", directory / part, "--format", "json").stdout)
    assert (result["session"], result["new_events"], result["sealed"]) == (make.SESSION, 3, True)
    assert [row["event_type"] for row in result["ledger"]] == ["NODE", "TASK"]


def test_what_arrived_since_the_last_import_is_added(run, store, make, session_dir):
    directory = session_dir(make.chunk("TASK", make.task(1)))
    run("import", directory)
    with (directory / "logs/export_events/event_EXPORT_TASK_0.log").open("ab") as file:
        file.write(make.task(2))
    assert f"{make.SESSION}: 1 new events, 2 in all\n" in run("import", directory).stdout


def test_a_session_that_is_alive_here_is_not_sealed(run, store, make, session_dir, monkeypatch):
    monkeypatch.setattr("raytrail.cli.import_.alive", lambda session: session == make.SESSION)
    done = run("import", session_dir(make.chunk("NODE", make.node("ALIVE"))), "--cluster", "lab")
    assert f"{make.SESSION} is alive on this machine: not sealed; import it again when it has ended\n" in done.stderr
    with Store.open(store) as opened:
        [cluster] = opened.clusters()
    assert (cluster.alive, cluster.sealed, cluster.cluster) == (True, False, "lab")


def test_rejected_lines_are_shown_with_file_and_offset(run, store, make, session_dir):
    directory = session_dir(make.chunk("TASK", make.task(1), b"{garbage\n", make.task(2)))
    done = run("import", directory)
    assert f"{make.SESSION}: 2 new events, 2 in all\n" in done.stdout
    offset = f"{len(make.task(1)):,}"
    assert [line.split()[1] for line in done.stdout.partition("\nrejected\n")[2].splitlines()] == [
        "offset",
        offset,
    ]


def test_a_line_that_was_never_finished_is_seen_as_written_and_not_stored(run, store, make, session_dir):
    directory = session_dir(make.chunk("TASK", make.task(1), make.task(2)[:100]))
    [result] = json.loads(run("import", directory, "--format", "json").stdout)
    [row] = result["ledger"]
    assert (row["written_bytes"] - row["stored_bytes"], row["rejected_events"], row["missing_bytes"]) == (100, 0, 0)


def test_a_directory_without_events_is_refused_with_what_to_give(run, store, tmp_path):
    done = run("import", tmp_path, code=USAGE)
    assert done.stderr.startswith(f"raytrail: error: no Ray session in {tmp_path}: it is neither")
    assert not store.exists()


def test_a_session_whose_export_was_off_is_said_to_be_empty(run, store, make, session_dir):
    done = run("import", session_dir(make.chunk("TASK")))
    assert f"{make.SESSION}: no events; its files are empty, since Ray's export was off\n" in done.stderr
    assert done.stdout == ""


def test_a_path_that_is_not_there_is_a_usage_error(run, store, tmp_path):
    assert "does not exist" in run("import", tmp_path / "nowhere", code=USAGE).stderr
