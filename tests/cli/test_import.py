"""`raytrail import`, on the capture of a real session and on what goes wrong."""

import json
import re
import tarfile
from base64 import b64decode
from pathlib import Path
from uuid import uuid4

import pytest
from tests.sources import collected, posted

from raytrail.cli import BROKEN, USAGE
from raytrail.store import Store

pytestmark = pytest.mark.slow

CAPTURE = Path(__file__).parents[1] / "captures" / "ray-2.60.tar.xz"
OTHER = "session_2026-11-24_10-00-00_000001_100"


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
    # the rows that Ray's own list and summary count, no more and no fewer
    assert {(t["task_id"], t["attempt_number"]) for t in truth["tasks"]} == {
        (t["task_id"], t["attempt_number"]) for t in tasks
    }
    groups = json.loads(run("summary", "tasks", "--format", "json").stdout)
    assert sum(group["total"] for group in groups) == len(truth["tasks"]) == 2_398


def test_what_kuberay_collected_comes_in_whole_and_once_under_its_clusters_name(run, store, tmp_path):
    node = tmp_path / "cluster-history/raycluster/team-a/prod" / posted.SESSION / "aa"
    batches = posted.captured()
    for number, batch in enumerate(batches[:40]):
        file = node / ("job_events/AQAAAA==" if number % 2 else "node_events") / f"aa-2026-11-23-08-{number:019}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(one) + "\n" for one in batch))
    (node / "node_events" / "aa-2026-11-23-09-0.jsonl").write_text("{}\n")
    first = run("import", tmp_path)
    [events] = re.findall(rf"^{posted.SESSION}: ([\d,]+) new events, \1 in all$", first.stdout, re.MULTILINE)
    assert first.stderr.splitlines() == [
        f"1 events cannot be read: see {store}/set-aside.ndjson, where each has its reason"
    ]
    assert f"0 new events, {events} in all\n" in run("import", tmp_path).stdout
    [cluster] = json.loads(run("clusters", "--format", "json").stdout)
    assert (cluster["cluster"], cluster["session"]) == ("team-a_prod", posted.SESSION)
    submitted = {
        b64decode(one["taskDefinitionEvent"]["taskId"]).hex()
        for batch in batches[:40]
        for one in batch
        if one["eventType"] == "TASK_DEFINITION_EVENT"
    }
    tasks = json.loads(run("list", "tasks", "--all", "--format", "json").stdout)
    assert submitted <= {task["task_id"] for task in tasks}
    assert {task["name"] for task in tasks} > {"f", "boom"}


@pytest.fixture(scope="module")
def bucket(s3):
    """A folder of a real S3 with what KubeRay collected of two sessions of a cluster."""
    folder = uuid4().hex
    batches = posted.captured()[:4]
    collected.lay(s3.files / "bucket" / folder, batches)
    collected.lay(s3.files / "bucket" / folder, batches[:2], session=OTHER)
    return folder


def test_what_kuberay_collected_is_read_out_of_its_bucket_as_out_of_a_copy(run, store, s3, bucket):
    out_of_bucket = json.loads(run("import", s3.place(bucket), "--format", "json").stdout)
    assert [(one["session"], one["cluster"], one["sealed"]) for one in out_of_bucket] == [
        (session, "team-a_nightly-x7k2p", True) for session in (posted.SESSION, OTHER)
    ]
    assert all(one["new_events"] == one["events"] > 0 for one in out_of_bucket)
    copy = (s3.files / "bucket" / bucket).as_uri()
    out_of_copy = json.loads(run("import", copy, "--format", "json").stdout)
    assert [(one["new_events"], one["ledger"]) for one in out_of_copy] == [(0, one["ledger"]) for one in out_of_bucket]


def test_only_the_sessions_that_are_asked_for_are_read_out_of_a_bucket_and_once(run, store, s3, bucket):
    before = len(s3.requests())
    url = s3.place(f"{bucket}/log/cluster-history/*/team-a/*/*/{OTHER[:-3]}*")
    for new in (True, False):
        [result] = json.loads(run("import", url, "--format", "json").stdout)
        assert (result["session"], result["new_events"] > 0) == (OTHER, new)
    read = [path for _, path in s3.requests()[before:] if "/session_" in path]
    assert read
    assert all(f"/{OTHER}/" in path for path in read)


def test_what_cannot_be_read_of_a_bucket_is_set_aside_with_its_url(run, store, s3):
    name = f"{uuid4().hex}/{OTHER}/aa/node_events/x.jsonl"
    file = s3.files / "bucket" / name
    file.parent.mkdir(parents=True)
    file.write_text("no json\n")
    done = run("import", s3.place(name.partition("/")[0]))
    assert done.stderr.splitlines() == [
        f"1 events cannot be read: see {store}/set-aside.ndjson, where each has its reason"
    ]
    reason = json.loads((store / "set-aside.ndjson").read_text())["reason"]
    assert reason.startswith(f"s3://bucket/{name}: ")


def test_a_bucket_without_anything_of_kuberays_is_refused(run, store, s3):
    done = run("import", s3.place("nothing"), code=USAGE)
    assert done.stderr == (
        "raytrail: error: nothing that KubeRay collected in s3://bucket/nothing: it has no "
        "session_*/<node>/node_events/*.jsonl; give a path that these are below\n"
    )
    assert not store.exists()


def test_a_bucket_that_is_away_is_an_error(run, store, s3):
    done = run("import", s3.place("x", port=1, timeout_seconds=1), code=BROKEN)
    assert done.stderr.startswith("raytrail: error: s3://bucket/x does not answer: ")


def test_a_file_url_that_is_no_path_is_a_usage_error(run):
    done = run("import", "file://elsewhere/tmp", code=USAGE)
    assert "'file://elsewhere/tmp' is no path of this machine; write file:///path" in done.stderr


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
