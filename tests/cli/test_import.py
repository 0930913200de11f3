"""`raytrail import`, on the capture of a real session and on what goes wrong."""

import json
import os
import re
import sqlite3
import tarfile
from base64 import b64decode, b64encode
from pathlib import Path
from uuid import uuid4

import pytest
from tests.sources import collected, posted
from tests.sources.test_serve_poll import ANSWER

from raytrail.exit_codes import BROKEN, USAGE
from raytrail.store import Store
from raytrail.tail.discovery import Running

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
        file.write_text("".join(json.dumps(event) + "\n" for event in batch))
    (node / "node_events" / "aa-2026-11-23-09-0.jsonl").write_text("{}\n")
    first = run("import", tmp_path, code=1)
    [events] = re.findall(rf"^{posted.SESSION}: ([\d,]+) new events, \1 in all$", first.stdout, re.MULTILINE)
    assert first.stderr == ""
    assert f"{posted.SESSION}/aa/node_events/aa-2026-11-23-09-0.jsonl at 0: missing, empty or longer" in first.stdout
    assert f"0 new events, {events} in all\n" in run("import", tmp_path, code=1).stdout
    [cluster] = json.loads(run("clusters", "--format", "json").stdout)
    assert (cluster["cluster"], cluster["session"]) == ("team-a_prod", posted.SESSION)
    submitted = {
        b64decode(event["taskDefinitionEvent"]["taskId"]).hex()
        for batch in batches[:40]
        for event in batch
        if event["eventType"] == "TASK_DEFINITION_EVENT"
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
    assert [(summary["session"], summary["cluster"], summary["sealed"]) for summary in out_of_bucket] == [
        (session, "team-a_nightly-x7k2p", True) for session in (posted.SESSION, OTHER)
    ]
    assert all(summary["new_events"] == summary["events"] > 0 for summary in out_of_bucket)
    copy = (s3.files / "bucket" / bucket).as_uri()
    out_of_copy = json.loads(run("import", copy, "--format", "json").stdout)
    assert [(summary["new_events"], summary["ledger"]) for summary in out_of_copy] == [
        (0, summary["ledger"]) for summary in out_of_bucket
    ]


def test_only_the_sessions_that_are_asked_for_are_read_out_of_a_bucket_and_once(run, store, s3, bucket):
    before = len(s3.requests())
    url = s3.place(f"{bucket}/log/cluster-history/*/team-a/*/*/{OTHER[:-3]}*")
    for new in (True, False):
        [result] = json.loads(run("import", url, "--format", "json").stdout)
        assert (result["session"], result["new_events"] > 0) == (OTHER, new)
    read = [path for _, path in s3.requests()[before:] if "/session_" in path]
    assert read
    assert all(f"/{OTHER}/" in path for path in read)


def test_what_cannot_be_read_of_a_bucket_is_named_by_the_ledger_and_by_the_exit_code(run, store, s3):
    name = f"{uuid4().hex}/{OTHER}/aa/node_events/x.jsonl"
    file = s3.files / "bucket" / name
    file.parent.mkdir(parents=True)
    file.write_text("no json\n")
    [result] = json.loads(run("import", s3.place(name.partition("/")[0]), "--format", "json", code=1).stdout)
    [row] = result["ledger"]
    [line] = row["rejected"]
    assert (row["event_type"], row["rejected_events"], line["offset"]) == ("SET_ASIDE", 1, 0)
    assert line["reason"].startswith(f"{OTHER}/aa/node_events/x.jsonl at 0: JSON is malformed")
    run("ledger", "--check", code=1)


def rows(run, noun, *more):
    return json.loads(run("list", noun, "--format", "json", *more).stdout)


def test_a_broken_file_of_a_bucket_is_set_aside_alone_until_it_is_whole(run, store, tmp_path):
    batches = posted.captured()[:4]
    bucket = collected.lay(tmp_path / "bucket", batches)
    other = collected.lay(tmp_path / "bucket", batches[:2], session=OTHER)
    whole = {path: path.read_bytes() for path in bucket.rglob("*.jsonl.gz")}
    broken = next(path for path in whole if posted.SESSION in path.parts)
    broken.write_bytes(whole[broken][:-30])
    first = json.loads(run("import", other, "--format", "json", code=1).stdout)
    assert [summary["session"] for summary in first] == [posted.SESSION, OTHER]
    assert all(summary["events"] for summary in first)
    [unread] = [end for summary in first for row in summary["ledger"] for end in row["unread"]]
    assert unread["name"] == broken.relative_to(broken.parents[3]).as_posix()
    assert unread["reason"] == "cut off: its gzip has no end"
    assert "cut off: its gzip has no end" in run("ledger", "--cluster", posted.SESSION, "--check", code=1).stdout
    run("ledger", "--cluster", OTHER, "--check")
    broken.write_bytes(whole[broken])
    second = json.loads(run("import", bucket, "--format", "json").stdout)
    assert [summary["new_events"] > 0 for summary in second] == [True, False]
    run("ledger", "--cluster", posted.SESSION, "--check")
    intact = collected.lay(tmp_path / "intact", batches)
    run("import", intact, "--store", tmp_path / "at-once")
    of = ("--cluster", posted.SESSION)
    assert rows(run, "tasks", *of) == rows(run, "tasks", *of, "--store", tmp_path / "at-once")


def test_an_address_that_is_known_only_later_changes_nothing_that_is_stored(run, store, tmp_path):
    """The file that tells a node's address was cut off, or came later than those that refer to it."""

    def node(number):
        body = {"nodeId": id_of(number), "nodeIpAddress": f"192.0.2.{number}", "startTimestamp": "2026-11-23T08:00:00Z"}
        return posted.event("NODE_DEFINITION_EVENT", "nodeDefinitionEvent", body, eventId=f"node{number}")

    def worker(number, of):
        body = {"workerId": id_of(10 + number), "nodeId": id_of(of), "workerType": "WORKER", "pid": number}
        return posted.event("WORKER_DEFINITION_EVENT", "workerDefinitionEvent", body, eventId=f"worker{number}")

    def id_of(number):
        return b64encode(bytes([number]) * 28).decode()

    folder = tmp_path / "prod" / posted.SESSION
    files = {
        "aa/node_events/aa-2026-11-23-08-1.jsonl": [node(1)],
        "bb/node_events/bb-2026-11-23-08-2.jsonl": [node(2)],
        "aa/job_events/01000000/aa-2026-11-23-08-3.jsonl": [worker(1, 1), worker(2, 2), worker(3, 1), worker(4, 2)],
    }
    for number, (name, events) in enumerate(files.items()):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("" if number == 1 else "".join(json.dumps(event) + "\n" for event in events))
    run("import", tmp_path / "prod")
    assert {row["pid"]: row["ip"] for row in rows(run, "workers")} == {1: "192.0.2.1", 2: None, 3: "192.0.2.1", 4: None}
    name, events = list(files.items())[1]
    (folder / name).write_text("".join(json.dumps(event) + "\n" for event in events))
    run("import", tmp_path / "prod")
    run("ledger", "--check")
    assert {row["pid"]: row["ip"] for row in rows(run, "workers")} == {
        number: f"192.0.2.{2 - number % 2}" for number in (1, 2, 3, 4)
    }


def test_a_bucket_of_which_nothing_can_be_read_is_there_all_the_same(run, store, tmp_path):
    file = tmp_path / "prod" / OTHER / "aa" / "node_events" / "aa-2026-11-23-08-1.jsonl.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"rubbish")
    assert "no gzip, though its name says so" in run("import", tmp_path, code=1).stdout
    [cluster] = json.loads(run("clusters", "--format", "json").stdout)
    assert (cluster["session"], cluster["cluster"], cluster["events"]) == (OTHER, "prod", 0)


def test_events_of_a_pod_that_was_restarted_are_of_the_session_that_they_name(run, store, tmp_path):
    batch = posted.captured()[0]
    file = tmp_path / "prod" / posted.SESSION / "aa" / "node_events" / "aa-2026-11-23-08-1.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(
        "".join(json.dumps(event | {"sessionName": name}) + "\n" for name in (posted.SESSION, OTHER) for event in batch)
    )
    results = json.loads(run("import", tmp_path, "--format", "json").stdout)
    assert {summary["session"]: summary["events"] for summary in results} == {posted.SESSION: 2, OTHER: 2}
    assert {summary["cluster"] for summary in results} == {"prod"}
    assert "0 new events, 2 in all" in run("import", tmp_path).stdout


def test_placement_groups_and_serve_that_its_collector_polled_are_listed_as_ray_did(run, store, tmp_path, capture):
    polled = json.loads((capture / "ground_truth.json").read_text())["placement_groups"]
    bucket = collected.lay(tmp_path, posted.captured()[:2])
    folder = bucket / collected.CLUSTER / posted.SESSION / "fetched_endpoints"
    folder.mkdir()
    answer = {"result": True, "msg": "", "data": {"result": {"total": len(polled), "result": polled}}}
    (folder / "restful__api__v0__placement_groups?detail=1&limit=10000").write_text(json.dumps(answer))
    (folder / "restful__api__serve__applications").write_text(json.dumps(ANSWER))
    [cluster] = json.loads(run("import", bucket, "--format", "json").stdout)
    asked_ms = cluster["ended_ms"] - 1
    then = ("--at", str(asked_ms))
    groups = {row["placement_group_id"]: row for row in rows(run, "placement_groups", *then)}
    assert groups.keys() == {group["placement_group_id"] for group in polled}
    for group in polled:
        unnamed = {**group, "name": group["name"] or None}
        assert {name: groups[group["placement_group_id"]][name] for name in group} == unnamed
    [app] = rows(run, "serve_applications", *then)
    assert (app["name"], app["status"], app["route_prefix"]) == ("shop", "RUNNING", "/shop")
    assert len(rows(run, "serve_replicas", *then)) == 1
    (folder / "restful__api__serve__applications").write_text(json.dumps(ANSWER)[:-9])
    assert "restful__api__serve__applications" in run("import", bucket, code=1).stdout
    run("ledger", "--check", code=1)


def test_what_is_torn_in_a_session_that_is_sealed_already_is_named_all_the_same(run, store, session_dir, make):
    directory = session_dir(make.chunk("TASK", make.task(1)))
    run("import", directory)
    run("ledger", "--check")
    with (directory / "logs/export_events/event_EXPORT_TASK_0.log").open("ab") as file:
        file.write(b'{"half')
    assert "torn" in run("import", directory, code=1).stdout
    run("ledger", "--check", code=1)
    with Store.open(store, write=True) as opened:
        [before] = opened.clusters()
        assert before.sealed
    sealed = sorted(path.name for path in store.glob("state/*/*-sealed-*"))
    run("import", directory, code=1)
    assert sorted(path.name for path in store.glob("state/*/*-sealed-*")) == sealed, "nothing new was said"


def test_what_its_collector_polled_is_read_out_of_its_bucket_by_whatever_name(run, store, s3, capture):
    polled = json.loads((capture / "ground_truth.json").read_text())["placement_groups"]
    name = uuid4().hex
    folder = s3.files / "bucket" / name / "cluster-history/raycluster/team-a/prod" / OTHER / "fetched_endpoints"
    folder.mkdir(parents=True)
    answer = json.dumps({"data": {"result": {"result": polled}}})
    (folder / "restful__api__v0__placement_groups?detail=1&limit=10000").write_text(answer)
    [result] = json.loads(run("import", s3.place(name), "--format", "json").stdout)
    assert (result["session"], result["cluster"]) == (OTHER, "team-a_prod")
    assert {row["placement_group_id"] for row in rows(run, "placement_groups")} == {
        group["placement_group_id"] for group in polled
    }


def test_the_last_lines_of_a_session_that_is_over_are_taken_in_or_named(run, store, session_dir, make):
    def event(number):
        return make.line("EXPORT_TASK", make.task_data(number))

    directory = session_dir(make.chunk("TASK", event(1), event(2)[:-1]), make.chunk("TASK", event(3)[:-40]))
    done = run("import", directory, code=1)
    assert "2 new events, 2 in all" in done.stdout
    assert f"event_EXPORT_TASK_1.log     0  {len(event(3)) - 40}  torn: Input data was truncated" in done.stdout
    assert [row["func_or_class_name"] for row in rows(run, "tasks")] == ["f", "f"]
    assert "torn" in run("ledger", "--check", code=1).stdout
    assert "0 new events, 2 in all" in run("import", directory, code=1).stdout
    # it grows after all
    with (directory / "logs/export_events/event_EXPORT_TASK_1.log").open("ab") as file:
        file.write(event(3)[-40:])
    with (directory / "logs/export_events/event_EXPORT_TASK_0.log").open("ab") as file:
        file.write(b"\n" + event(4))
    assert "2 new events, 4 in all" in run("import", directory).stdout
    run("ledger", "--check")


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
    here = Running((), {make.SESSION: 1}, Path("/proc"))
    monkeypatch.setattr("raytrail.cli.import_.running", lambda: here)
    done = run("import", session_dir(make.chunk("NODE", make.node("ALIVE"))), "--cluster", "lab")
    assert f"{make.SESSION} is alive on this machine: not sealed; import it again when it has ended\n" in done.stderr
    with Store.open(store) as opened:
        [cluster] = opened.clusters()
    assert (cluster.alive, cluster.sealed, cluster.cluster) == (True, False, "lab")


def test_rejected_lines_are_shown_with_file_and_offset(run, store, make, session_dir):
    directory = session_dir(make.chunk("TASK", make.task(1), b"{garbage\n", make.task(2)))
    done = run("import", directory, code=1)
    assert f"{make.SESSION}: 2 new events, 2 in all\n" in done.stdout
    offset = f"{len(make.task(1)):,}"
    assert [line.split()[1] for line in done.stdout.partition("\nrejected\n")[2].splitlines()] == [
        "offset",
        offset,
    ]


def test_a_directory_without_events_is_refused_with_what_to_give(run, store, tmp_path):
    done = run("import", tmp_path, code=USAGE)
    assert done.stderr.startswith(f"raytrail: error: no Ray session in {tmp_path}: it is neither")
    assert not store.exists()


def test_a_directory_that_cannot_be_read_is_said_and_the_rest_goes_in(run, store, session_dir, make, monkeypatch):
    directory = session_dir(make.chunk("TASK", make.task(1)))
    closed = session_dir(make.chunk("TASK", make.task(2)), session=OTHER) / "logs" / "export_events"
    scanned = os.scandir

    def refuse(path="."):  # by descriptor mostly
        if os.path.samestat(os.stat(path), os.stat(closed)):
            raise PermissionError(13, "Permission denied", str(closed))
        return scanned(path)

    monkeypatch.setattr("os.scandir", refuse)
    done = run("import", directory.parent, code=1)
    assert f"{make.SESSION}: 1 new events, 1 in all" in done.stdout
    assert done.stderr.endswith(
        f"{OTHER}: {closed} cannot be read: Permission denied; let it be read, and import the session again\n"
    )


def test_what_leads_out_of_a_session_is_not_imported_and_its_neighbours_are(run, store, session_dir, make, tmp_path):
    directory = session_dir(make.chunk("TASK", make.task(1)))
    events = directory / "logs" / "export_events"
    (tmp_path / "secret").write_bytes(make.actor(1))
    (events / "event_EXPORT_ACTOR.log").symlink_to(tmp_path / "secret")
    os.mkfifo(events / "event_EXPORT_NODE.log")
    (directory / "logs" / os.fsdecode(b"\xff.out")).write_bytes(b"one\n")
    done = run("import", directory)
    assert f"{make.SESSION}: 1 new events, 1 in all" in done.stdout
    with Store.open(store) as opened:
        assert [log.name for log in opened.logs(make.SESSION)] == ["\\xff.out"]


def test_events_behind_a_link_are_said_to_be_left_out(run, store, session_dir, make, tmp_path):
    directory = session_dir(make.chunk("TASK", make.task(1)))
    (directory / "logs" / "export_events").rename(tmp_path / "moved")
    (directory / "logs" / "export_events").symlink_to(tmp_path / "moved")
    done = run("import", directory, code=1)
    assert done.stderr.endswith(
        f"{make.SESSION}: {directory}/logs/export_events: it is a link, and no directory; nothing is read there: "
        "import what it stands for\n"
    )


def test_a_session_whose_export_was_off_is_said_to_be_empty(run, store, make, session_dir):
    done = run("import", session_dir(make.chunk("TASK")))
    why = "no events; its files are empty, since Ray's export was off; if it runs, `raytrail snapshot` asks it"
    assert f"{make.SESSION}: {why}\n" in done.stderr
    assert done.stdout == ""


def test_a_session_with_a_name_that_none_can_have_is_said_and_the_rest_goes_in(run, store, session_dir, make):
    directory = session_dir(make.chunk("TASK", make.task(1)))
    session_dir(make.chunk("TASK", make.task(2)), session="session_a b")
    (directory.parent / "session_elsewhere").symlink_to("/nowhere")
    done = run("import", directory.parent, code=1)
    assert done.stdout.count("1 in all") == 1
    assert "'session_a b': no session of Ray's has such a name; nothing is read there" in done.stderr
    assert "'session_elsewhere': it is a link, but not to a directory of the user who made it;" in done.stderr
    assert "no session can be called 'session_a b'" in run("import", directory.parent / "session_a b", code=2).stderr
    with Store.open(store) as opened:
        assert [cluster.session for cluster in opened.clusters()] == [make.SESSION]
        assert opened.set_aside() == []


def test_nothing_is_left_behind_that_nobody_names(run, store, capture):
    run("import", capture)
    with sqlite3.connect(store / "catalogue.sqlite") as db:
        named = {
            path
            for (path,) in db.execute("SELECT path FROM log UNION SELECT path FROM state UNION SELECT path FROM bodies")
        }
    there = {
        str(path.relative_to(store))
        for kind in ("log", "logs", "state", "tmp")
        for path in store.glob(f"{kind}/**/*")
        if path.is_file()
    }
    assert there == named


def test_a_path_that_is_not_there_is_a_usage_error(run, store, tmp_path):
    assert "does not exist" in run("import", tmp_path / "nowhere", code=USAGE).stderr


@pytest.mark.parametrize("given", ["", "session", "session/logs/export_events"])
def test_a_session_that_was_moved_to_another_disk_and_linked_back_comes_in_under_its_name(
    run, store, session_dir, make, tmp_path, given
):
    linked = session_dir(make.chunk("NODE", make.node("ALIVE"), make.node("DEAD")))
    moved = linked.rename(tmp_path / "on another disk")
    linked.symlink_to(moved)
    done = run("import", linked.parent / given.replace("session", linked.name))
    assert f"{make.SESSION}: 2 new events, 2 in all\n" in done.stdout
