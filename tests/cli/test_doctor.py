"""`raytrail doctor`, on made-up processes and session directories that look as a real Ray 2.60's do."""

import base64
import json
import os

import pytest

from raytrail import export
from raytrail.cli.doctor import check, read
from raytrail.config import TailConfig
from raytrail.tail import Checkpoint, Tailer

SESSION = "session_2026-11-23_22-09-09_285637_29896"
ON, _ = export.in_environment(export.settings(), {})
SWITCH, BATCH = "RAY_enable_export_api_write", "RAY_export_task_events_write_batch_size"
HEAD, RAYLET, DRIVER, WORKER = 100, 200, 300, 400


def without(*names):
    return {name: value for name, value in ON.items() if name not in names}


class Machine:
    """A machine with one Ray on it."""

    def __init__(self, root):
        self.temp_dir, self.proc = root / "ray", root / "proc"
        self.session = self.temp_dir / SESSION
        self.export = self.session / "logs" / "export_events"
        self.checkpoint = root / "checkpoint.sqlite"
        self.export.mkdir(parents=True)
        self.proc.mkdir()
        (self.proc / "version").write_text("Linux")
        (self.temp_dir / "session_latest").symlink_to(self.session)

    def process(self, pid, argv, environ):
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cmdline").write_bytes(b"\0".join(map(str.encode, argv)) + b"\0")
        if environ is not None:
            text = "".join(f"{name}={value}\0" for name, value in environ.items())
            (self.proc / str(pid) / "environ").write_text(text)

    def ray(self, environ=ON, system_config=None, temp_dir=None):
        config = base64.b64encode(json.dumps(system_config or {}).encode()).decode()
        session = f"--session-dir={self.session}"
        self.process(HEAD, ["/x/gcs/gcs_server", f"--config_list={config}", session], environ)
        flags = [f"--session_dir={self.session}", f"--temp_dir={temp_dir or self.temp_dir}", "--head"]
        self.process(RAYLET, ["/x/raylet/raylet", *flags], environ)

    def driver(self, environ=ON, size=10, age=60.0):
        if environ is not None:
            self.process(DRIVER, ["python", "job.py"], environ)
        (self.session / "logs" / f"python-core-driver-01000000ffff_{DRIVER}.log").touch()
        self.file(f"event_EXPORT_TASK_{DRIVER}.log", size, age)

    def file(self, name, size=10, age=60.0):
        (self.export / name).write_bytes(b"x" * size)
        changed = (self.export / name).stat().st_mtime - age
        os.utime(self.export / name, (changed, changed))

    def good(self):
        for name in ("ACTOR", "NODE", "DRIVER_JOB", f"TASK_{WORKER}"):
            self.file(f"event_EXPORT_{name}.log")

    def findings(self):
        return check(read(self.temp_dir, self.proc, self.checkpoint))

    def wrong(self):
        return [(f.verdict, f.check, f.found) for f in self.findings() if f.verdict != "ok"]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_all_is_well(machine):
    machine.ray()
    machine.driver()
    machine.good()
    findings = machine.findings()
    assert {finding.verdict for finding in findings} == {"ok"}
    assert next(finding.found for finding in findings if finding.check == "files").endswith(
        "ago: ACTOR 1 (10 B), DRIVER_JOB 1 (10 B), NODE 1 (10 B), TASK 2 (20 B)"
    )


def test_no_temp_dir_is_bad(machine, tmp_path):
    machine.temp_dir = tmp_path / "none"
    assert machine.wrong() == [
        ("bad", "temp dir", f"{tmp_path}/none: No such file or directory"),
        ("bad", "session", f"no session in {tmp_path}/none"),
    ]


def test_no_session_is_bad(machine, tmp_path):
    machine.temp_dir = tmp_path / "empty"
    machine.temp_dir.mkdir()
    assert machine.wrong() == [("bad", "session", f"no session in {tmp_path}/empty")]


def test_a_ray_that_works_in_another_directory_is_bad_and_still_examined(machine, tmp_path):
    machine.ray(environ={})
    real, machine.temp_dir = machine.temp_dir, tmp_path / "other"
    machine.temp_dir.mkdir()
    wrong = machine.wrong()
    assert wrong[0] == ("bad", "temp dir", f"Ray runs in {real}, and not in {tmp_path}/other")
    assert ("bad", "export", "off: no event was written") in wrong


def test_another_ray_is_mentioned_and_not_examined(machine, tmp_path):
    machine.ray()
    machine.good()
    other = tmp_path / "other" / "session_2026-11-23_23-00-00_000000_1"
    other.mkdir(parents=True)
    machine.process(RAYLET + 1, ["/x/raylet/raylet", f"--session_dir={other}"], {})
    assert machine.wrong() == [("warn", "temp dir", f"another Ray runs in {tmp_path}/other")]


def test_export_that_is_off_is_bad(machine):
    machine.ray(environ=without(SWITCH))
    machine.driver(environ=without(SWITCH), size=0)
    for name in ("ACTOR", "NODE", f"TASK_{WORKER}"):  # Ray 2.60 makes the files all the same
        machine.file(f"event_EXPORT_{name}.log", 0)
    assert machine.wrong() == [("bad", "export", "off: no event was written")]
    [cure] = [f.cure for f in machine.findings() if f.check == "export"]
    assert "`raytrail run -- ray start --head`" in cure
    assert "`raytrail env`" in cure


@pytest.mark.parametrize("config_list", ["é", "!", "bm8=", "/w==", base64.b64encode(b'{"a":' * 10_000).decode()])
def test_a_process_that_calls_itself_the_gcs_and_says_what_cannot_be_stops_nobody(machine, config_list):
    machine.ray(ON)
    machine.good()
    argv = ["gcs_server", f"--config_list={config_list}", f"--session-dir={machine.session}"]
    machine.process(HEAD + 1, argv, ON)
    assert machine.wrong() == []


def test_export_by_system_config_alone_leaves_python_silent(machine):
    machine.ray(environ=without(SWITCH), system_config=export.settings().system_config)
    machine.driver(environ=without(SWITCH))
    machine.good()
    [(verdict, name, text)] = machine.wrong()
    assert (verdict, name) == ("warn", "export")
    assert text.endswith("which Python does not see: submission jobs, Data and Train are silent")


def test_export_of_some_types_is_a_warning_that_names_them(machine):
    environ = {
        **ON,
        "RAY_enable_export_api_write": "0",
        "RAY_enable_export_api_write_config": "EXPORT_TASK,EXPORT_NODE",
    }
    machine.ray(environ=environ)
    machine.good()
    assert machine.wrong() == [("warn", "export", "on for EXPORT_TASK,EXPORT_NODE only")]


@pytest.mark.parametrize("running", [True, False])
def test_a_driver_without_the_variable_is_bad_while_it_runs_and_after(machine, running):
    machine.ray()
    machine.driver(environ=without(SWITCH) if running else None, size=0)
    machine.good()
    assert machine.wrong() == [
        (
            "bad",
            "drivers",
            f"1 driver without the variable ({DRIVER}): names, arguments and ends of their tasks are missing",
        )
    ]


def test_a_driver_that_has_only_just_begun_is_not_blamed(machine):
    machine.ray()
    machine.driver(environ=None, size=0, age=0.0)
    machine.good()
    assert machine.wrong() == []


def test_a_driver_that_exports_and_has_had_nothing_to_say_is_not_blamed(machine):
    machine.ray()
    machine.driver(size=0)
    machine.good()
    assert machine.wrong() == []


@pytest.mark.parametrize(
    ("switch", "types"),
    [
        ("enable_ray_event", "ACTOR, NODE and DRIVER_JOB"),
        ("enable_core_worker_ray_event_to_aggregator", "TASK"),
        ("enable_ray_task_event_recorder", "TASK"),
    ],
)
@pytest.mark.parametrize("where", ["environment", "system config"])
def test_each_switch_that_silences_files_is_bad(machine, switch, types, where):
    if where == "environment":
        machine.ray(environ={**ON, f"RAY_{switch}": "true"})
        whose = f"gcs_server {HEAD}, raylet {RAYLET}"
    else:
        machine.ray(system_config={switch: True})
        whose = "system config"
    machine.good()
    assert machine.wrong() == [("bad", "ray events", f"{switch} is on ({whose}): the files of {types} stay empty")]


def test_switches_that_have_events_posted_to_a_receiver_silence_nothing(machine):
    posted = {"RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR": "http://127.0.0.1:8367/v1/events"}
    machine.ray(environ={**ON, **posted, "RAY_enable_ray_event": "1"})
    machine.good()
    assert machine.wrong() == []


def test_a_silenced_session_is_known_by_its_files_after_its_end(machine):
    machine.good()
    machine.file("event_EXPORT_NODE.log", 0)
    assert [(verdict, name) for verdict, name, _ in machine.wrong()] == [
        ("warn", "processes"),
        ("bad", "ray events"),
    ]


@pytest.mark.parametrize("size", [None, "500"])
def test_a_small_write_batch_is_a_warning_with_the_rate_that_it_bears(machine, size):
    machine.ray(environ={**ON, BATCH: size} if size else without(BATCH))
    machine.good()
    [(verdict, name, text)] = machine.wrong()
    assert (verdict, name) == ("warn", "write batch")
    assert f"is {size or 10000} (raylet {RAYLET}): a driver above {'125' if size else '2,500'} tasks/s" in text


def test_a_write_batch_in_the_system_config_reaches_all(machine):
    machine.ray(environ=without(BATCH), system_config={"export_task_events_write_batch_size": 1_000_000})
    machine.driver(environ=without(BATCH))
    machine.good()
    assert machine.wrong() == []


@pytest.mark.parametrize("name", ["RAY_EXPORT_EVENT_MAX_FILE_SIZE_BYTES", "RAY_EXPORT_EVENT_MAX_BACKUP_COUNT"])
def test_the_rotation_settings_that_ray_misreads_are_bad(machine, name):
    machine.ray()
    machine.driver(environ={**ON, name: "5"})
    machine.good()
    [(verdict, check_name, text)] = machine.wrong()
    assert (verdict, check_name) == ("bad", "rotation")
    assert text.startswith(f"{name} is set (driver {DRIVER}); Ray reads it as yes or no")


@pytest.mark.parametrize(("backup", "verdict"), [(16, None), (17, "warn"), (20, "bad")])
def test_files_that_rotation_is_about_to_delete_are_pointed_out(machine, backup, verdict):
    machine.ray()
    machine.good()
    machine.file(f"event_EXPORT_TASK_{WORKER}.log.{backup}")
    machine.file(f"event_EXPORT_TASK_{WORKER}.log.1")
    wrong = machine.wrong()
    assert [(v, name) for v, name, _ in wrong] == ([(verdict, "rotation")] if verdict else [])
    if verdict:
        assert wrong[0][2].startswith(
            f"event_EXPORT_TASK_{WORKER}.log.{backup} was not shipped, and is backup {backup}"
        )


def test_backups_that_the_agent_has_shipped_may_go(machine):
    machine.ray()
    machine.good()
    oldest = machine.export / f"event_EXPORT_TASK_{WORKER}.log.20"
    oldest.write_bytes(b'{"timestamp": 1}\n')
    assert [(verdict, name) for verdict, name, _ in machine.wrong()] == [("bad", "rotation")]
    checkpoint = Checkpoint(machine.checkpoint)
    tailer = Tailer(TailConfig(inotify=False), checkpoint, session_dirs=[machine.session])
    for chunk in tailer.poll():
        checkpoint.acknowledge(chunk.segments)
    checkpoint.commit()
    assert machine.wrong() == []  # while the agent goes on running
    tailer.close()
    checkpoint.close()


def test_a_checkpoint_that_cannot_be_read_counts_as_none(machine):
    machine.ray()
    machine.good()
    machine.checkpoint.write_text("not a database, and long enough to be taken for one" * 10)
    assert machine.wrong() == []


def test_a_directory_that_cannot_be_read_is_bad(machine):
    machine.ray()
    machine.export.rmdir()
    machine.export.write_text("")  # root reads what it may not, so a file stands in its place
    assert machine.wrong() == [("bad", "reading", f"{machine.export}: Not a directory")]


def test_a_file_that_cannot_be_read_is_bad(machine):
    machine.ray()
    machine.good()
    (machine.export / "event_EXPORT_TASK_9.log").mkdir()
    os.mkfifo(machine.export / "event_EXPORT_TASK_8.log")
    assert machine.wrong() == [
        ("bad", "reading", f"{machine.export}/event_EXPORT_TASK_8.log: it is a FIFO, and no file"),
        ("bad", "reading", f"{machine.export}/event_EXPORT_TASK_9.log: it is a directory, and no file"),
    ]


def test_processes_of_somebody_else_are_said_to_be_unchecked(machine):
    machine.ray(environ=None)
    machine.good()
    [(verdict, name, text)] = machine.wrong()
    assert (verdict, name) == ("warn", "processes")
    assert text.startswith(f"the environment of gcs_server {HEAD}, raylet {RAYLET} cannot be read")


def test_train_runs_that_export_nothing_are_a_warning(machine):
    machine.ray()
    machine.good()
    (machine.session / "logs" / "train").mkdir()
    assert [(verdict, name) for verdict, name, _ in machine.wrong()] == [("warn", "train")]
    machine.file("event_EXPORT_TRAIN_STATE.log")
    assert machine.wrong() == []


def test_a_train_that_would_be_silent_is_a_warning(machine):
    machine.ray()
    machine.driver(environ=without("RAY_TRAIN_ENABLE_STATE_TRACKING"))
    machine.good()
    text = f"RAY_TRAIN_ENABLE_STATE_TRACKING is off (driver {DRIVER}): Train runs would export no state"
    assert machine.wrong() == [("warn", "train", text)]


@pytest.mark.parametrize(
    ("name", "value", "check_name", "loss"),
    [
        ("task_events_report_interval_ms", 5000, "report interval", "loses what it did in up to 5 s"),
        ("task_events_report_interval_ms", 0, "report interval", "no task event is recorded"),
        (export.EXPORT_BUFFER, 500, "export buffer", "of more than 500 task events between two flushes"),
        ("enable_timeline", False, "profile events", "no timeline, and no names that options(name=) gave"),
        ("task_events_max_num_profile_events_per_task", 0, "profile events", "no timeline, and no names"),
        ("task_events_max_num_profile_events_buffer_on_worker", 0, "profile events", "no timeline, and no names"),
    ],
)
@pytest.mark.parametrize("where", ["environment", "system config"])
def test_a_setting_that_loses_events_is_a_warning_that_says_which(machine, name, value, check_name, loss, where):
    if where == "environment":
        machine.ray(environ={**ON, f"RAY_{name}": export.as_text(value)})
    else:
        machine.ray(system_config={name: value})
    machine.good()
    [(verdict, shown_check, text)] = machine.wrong()
    assert (verdict, shown_check) == ("warn", check_name)
    assert text.startswith(f"{name} is {export.as_text(value)} (raylet {RAYLET}): ")
    assert loss in text


def test_hooks_that_are_wanted_and_not_preloaded_are_a_warning(machine):
    machine.ray(environ={**without("RAY_preload_python_modules"), "RAYTRAIL_SOURCES_TYPES": "SERVE_REPLICA,OBJECT"})
    machine.good()
    text = f"raylet {RAYLET} does not preload raytrail.sources.preload: no hook writes SERVE_REPLICA"
    assert machine.wrong() == [("warn", "preload", text)]


@pytest.mark.parametrize(
    ("types", "system_config"),
    [("OBJECT", {}), ("", {}), ("SERVE_REPLICA", {"preload_python_modules": ["theirs", "raytrail.sources.preload"]})],
)
def test_hooks_that_are_not_wanted_or_are_preloaded_by_the_head_are_no_matter(machine, types, system_config):
    environ = {**without("RAY_preload_python_modules"), "RAYTRAIL_SOURCES_TYPES": types}
    machine.ray(environ=environ, system_config=system_config)
    machine.good()
    assert machine.wrong() == []


def test_a_publisher_buffer_without_a_bound_is_a_warning(machine):
    machine.ray(environ=without("RAY_publisher_entity_buffer_max_bytes"))
    machine.good()
    text = f"gcs_server {HEAD} keeps up to 1.1 GB in memory for a slow subscriber of ray://"
    assert machine.wrong() == [("warn", "publisher buffer", text)]


def test_the_command_prints_verdict_and_cure_and_exits_with_1_when_something_is_bad(run, tmp_path, monkeypatch):
    monkeypatch.setattr("raytrail.tail.processes.PROC", tmp_path)
    done = run("doctor", "--temp-dir", tmp_path / "none", code=1)
    assert [line.split(None, 2)[:2] for line in done.stdout.splitlines()] == [
        ["bad", "temp"],
        ["cure", "name"],
        ["bad", "session"],
        ["cure", "start"],
    ]
    assert done.stderr == "0 ok, 0 warn, 2 bad\n"
    findings = json.loads(run("doctor", "--temp-dir", tmp_path / "none", "--format", "json", code=1).stdout)
    assert [sorted(finding) for finding in findings] == [["check", "cure", "found", "verdict"]] * 2
