"""The same is masked on each way in: files of Ray's and ours, its HTTP export, KubeRay's bucket, `/ingest`."""

import asyncio
import json
from base64 import b64decode, b64encode

import pytest
from click.testing import CliRunner
from tests.sources.collected import lay
from tests.sources.posted import SESSION, event

from raytrail.cli import main
from raytrail.config import TailConfig
from raytrail.pubsub.collector import Collector
from raytrail.redact import Redactor
from raytrail.sources.event_file import EventFiles
from raytrail.sources.receiver import Intake
from raytrail.sources.set_aside import SetAside
from raytrail.store import Store
from raytrail.tail import Checkpoint, Tailer

SECRET = "hunter2Xy9"
NODE = "Tg=="


@pytest.fixture
def events(tmp_path):
    """Where a session's event files are."""
    events = tmp_path / "ray" / SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    return events


@pytest.fixture
def shipped(events, tmp_path):
    """Return all that an agent ships of the session."""

    def shipped():
        config = TailConfig(temp_dir=str(tmp_path / "ray"), sessions="all", inotify=False)
        tailer = Tailer(config, Checkpoint(tmp_path / "checkpoint.sqlite"))
        data = b"".join(chunk.data for chunk in tailer.poll())
        tailer.close()
        return data

    return shipped


def posted():
    """What Ray's HTTP export posts, with secrets in what a user gives."""
    environment = json.dumps({"env_vars": {"A": SECRET}, "pip": [f"git+https://{SECRET}@github.com/o/r"]})
    job = {
        "jobId": "AQ==",
        "driverNodeId": NODE,
        "entrypoint": f"K={SECRET} python x.py",
        "config": {"metadata": {"api_key": SECRET}, "serializedRuntimeEnv": environment},
    }
    task = {
        "taskId": b64encode(b"t" * 24).decode(),
        "jobId": "AQ==",
        "taskType": "NORMAL_TASK",
        "serializedRuntimeEnv": environment,
        "taskName": f"train(token='{SECRET}')",
        "refIds": {"operator": b64encode(f"Read postgres://me:{SECRET}@db/x".encode()).decode()},
    }
    return [
        event("DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", job, eventId="e1", nodeId=NODE),
        event("TASK_DEFINITION_EVENT", "taskDefinitionEvent", task, eventId="e2", nodeId=NODE),
        # one that cannot be read
        event(
            "TASK_DEFINITION_EVENT", "taskDefinitionEvent", {"taskId": f"password={SECRET}"}, eventId="e3", nodeId=NODE
        ),
    ]


def test_what_our_own_sources_write(events, shipped):
    files = EventFiles(events)
    files.append("SERVE_DEPLOYMENT", {"name": "x", "user_config": {"db_password": SECRET, "n": 1}})
    files.append("DATASET_PROGRESS", {"name": f"ReadSQL(url='postgres://me:{SECRET}@db/x')"})
    files.append("PLACEMENT_GROUP", {"name": f"bundle --token {SECRET}"})
    files.append("WORKER", {"exit_detail": f"failed with env_vars={{'A': '{SECRET}'}}"})
    files.close()
    data = shipped()
    assert data.count(b"\n") == 4
    assert SECRET.encode() not in data
    assert data.count(b"*" * len(SECRET)) == 4


def test_what_rays_http_export_posts(events, shipped, tmp_path):
    intake = Intake([tmp_path / "ray"], SetAside(tmp_path / "set-aside.ndjson"))
    assert intake.take(json.dumps(posted()).encode())
    intake.close()
    assert any(SECRET.encode() in path.read_bytes() for path in events.iterdir())
    data = shipped()
    events = sorted((json.loads(line) for line in data.splitlines()), key=lambda posted_event: posted_event["eventId"])
    assert [posted_event["eventType"] for posted_event in events] == [
        posted_event["eventType"] for posted_event in posted()
    ]
    assert SECRET.encode() not in data
    [label] = events[1]["taskDefinitionEvent"]["refIds"].values()
    assert b64decode(label).decode() == f"Read postgres://me:{'*' * len(SECRET)}@db/x"


def test_a_name_of_ones_own_is_masked_as_ray_posts_it_too():
    line = json.dumps(posted()[1]).encode() + b"\n"
    masked = Redactor(("serialized_runtime_env",))(line, "TASK_DEFINITION_EVENT")
    assert set(json.loads(masked)["taskDefinitionEvent"]["serializedRuntimeEnv"]) == {"*"}


@pytest.mark.parametrize(
    "entrypoint",
    [f"K={SECRET} python x.py", f"cd x && K={SECRET} python x.py", f"cd x >y 2>&1; python x.py --token {SECRET}"],
)
@pytest.mark.parametrize("escape", [False, True])
def test_an_entrypoint_is_masked_as_ray_posts_it_and_as_a_collector_in_go_writes_it(entrypoint, escape):
    job = {"jobId": "AQ==", "entrypoint": entrypoint}
    text = json.dumps(event("DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", job), sort_keys=True)
    for character in "<>&" if escape else "":
        text = text.replace(character, f"\\u{ord(character):04x}")
    masked = Redactor()(text.encode() + b"\n", "DRIVER_JOB_DEFINITION_EVENT")
    assert SECRET.encode() not in masked
    assert len(masked) == len(text) + 1
    json.loads(masked)


@pytest.mark.parametrize(
    "labels",
    [
        {"hf_token": SECRET},
        {"a": "x", "url": f"https://me:{SECRET}@host/é\n"},
        {"a": f'{{"password": "{SECRET}\\n"}}'},
        {"a": "b", "c": f"export TOKEN={SECRET}"},
        {"a }": "b", "c{": f"export TOKEN={SECRET}"},  # a brace in a name ends nothing
        {"a": f"TOKEN={SECRET}", "b": f"TOKEN={SECRET} and more"},  # one text begins as the other does
    ],
)
@pytest.mark.parametrize("name", ["refIds", "ref_ids"])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_labels_in_base64_are_masked_as_labels_of_event_files_are(labels, name, separators):
    """A masked label is as long as it was, and says what it says in a line of a file, where that is as long."""
    posted = {name: {key: b64encode(value.encode()).decode() for key, value in labels.items()}, "callSite": "x"}
    text = json.dumps({"actorDefinitionEvent": posted}, separators=separators).encode() + b"\n"
    masked = Redactor()(text, "ACTOR_DEFINITION_EVENT")
    assert len(masked) == len(text)
    shown = json.loads(masked)["actorDefinitionEvent"][name]
    file_line = json.dumps({"labels": labels}, ensure_ascii=False).encode() + b"\n"
    in_file = json.loads(Redactor()(file_line, "ACTOR"))["labels"]
    for key, value in labels.items():
        plain = b64decode(shown[key])
        assert SECRET.encode() not in plain
        assert len(plain) == len(value.encode())
        assert plain.decode() == in_file[key] or set(plain) == set(b"*")


def test_what_kuberay_has_collected(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_TAIL_STATE_DIR", str(tmp_path / "state"))
    lay(tmp_path / "bucket", [posted()[:2]])
    store = tmp_path / "store"
    done = CliRunner().invoke(main, ["import", str(tmp_path / "bucket" / "log"), "--store", str(store)])
    assert done.exit_code == 0, done.output
    with Store.open(store) as opened:
        assert opened.clusters()
    kept = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert kept
    assert SECRET.encode() not in kept
    for table in ("task", "driver_job"):
        rows = CliRunner().invoke(main, ["sql", f"SELECT * FROM {table}", "--store", str(store), "--format", "json"])
        assert "*" * len(SECRET) in rows.output, rows.output
        assert SECRET not in rows.output


def test_what_foreign_collectors_post():
    class Published(list):
        async def publish(self, chunk):
            self.append(chunk)

    published = Published()
    line = json.dumps({"source_type": "EXPORT_ACTOR", "event_data": {"labels": {"hf_token": SECRET}}})
    record = json.dumps({"message": line, "file": f"/tmp/ray/{SESSION}/logs/export_events/event_EXPORT_ACTOR.log"})
    asyncio.run(Collector(published).take({}, record.encode()))
    [chunk] = published
    assert chunk.event_type == "ACTOR"
    assert SECRET.encode() not in chunk.data
    assert chunk.segments[0].length == len(line) + 1 == len(chunk.data)


def test_a_label_whose_base64_is_spelt_with_escapes_is_masked_too():
    encoded = b64encode(f"?TOKEN={SECRET}???".encode()).decode()
    assert "/" in encoded
    text = b'{"refIds":{"a":"%b"}}\n' % encoded.replace("/", "\\/").encode()
    masked = Redactor()(text, "TASK_DEFINITION_EVENT")
    assert len(masked) == len(text)
    assert set(json.loads(masked)["refIds"]["a"]) == {"*"}
