"""`raytrail run`: what the command that it starts is told, as that command sees it; and a real Ray with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.ray_cluster import ray_cluster

from raytrail.cli.run import CANNOT_EXECUTE, NOT_FOUND
from raytrail.exit_codes import USAGE
from raytrail.export import TYPES, settings

SHOW = "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'environ': dict(os.environ)}))"
CALLS = 30_000
SELDOM = {"RAY_task_events_report_interval_ms": "10000"}
"""So that a driver ends with a backlog, however slow the machine: with Ray's own batch most of it would be lost."""


@pytest.fixture
def environ(tmp_path):
    """An environment of nothing but a PATH, whose `ray` says what it is told."""
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text(f"#!{sys.executable}\n{SHOW}\n")
    ray.chmod(0o755)
    return {"PATH": f"{ray.parent}:{os.environ['PATH']}"}


@pytest.fixture
def launch(environ):
    """Run a command; returns what it was told, and what was said on stderr."""

    def launch(*arguments, **variables):
        done = start(arguments, {**environ, **variables})
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        return shown["argv"], shown["environ"], done.stderr

    return launch


def start(arguments, environ, seconds=60):
    command = [sys.executable, "-m", "raytrail", "run", *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=seconds, check=False)


def test_a_driver_gets_the_environment_and_its_arguments_as_they_are(launch):
    argv, environ, printed = launch("--", sys.executable, "-c", SHOW, "--head", "--", "start")
    assert argv == ["--head", "--", "start"]
    wanted = {name: value for name, value in settings().environment.items() if value is not None}
    assert environ.items() >= wanted.items()
    assert printed == ""


def test_no_two_dashes_are_needed_and_the_commands_own_are_kept(launch):
    assert launch("ray", "job", "submit", "--", "python", "start", "--head")[0] == [
        *("job", "submit", "--", "python", "start", "--head"),
    ]


def test_a_head_gets_the_system_config_too(launch):
    argv, environ, printed = launch("--", "ray", "start", "--head", "--port", "6380")
    assert [argv[0], argv[1], *argv[3:]] == ["start", "--system-config", "--head", "--port", "6380"]
    assert json.loads(argv[2]) == settings().system_config
    assert environ["RAY_enable_export_api_write"] == "1"
    assert printed == ""


def test_a_node_that_joins_gets_no_system_config_which_it_would_refuse(launch):
    argv, environ, _ = launch("--", "ray", "start", "--address", "head:6379")
    assert argv == ["start", "--address", "head:6379"]
    assert environ["RAY_enable_export_api_write"] == "1"


@pytest.mark.parametrize("form", [["--system-config", '{"x": 1}'], ['--system-config={"x": 1}']])
def test_a_given_system_config_is_joined_with_ours_wherever_it_stands(launch, form):
    argv, _, _ = launch("--", "env", "ray", "start", *form, "--head")
    assert argv.count("--system-config") == 1
    assert json.loads(argv[2]) == {**settings().system_config, "x": 1}
    assert argv[3:] == ["--head"]


def test_a_given_key_wins_and_it_is_said_what_it_loses(launch):
    argv, _, printed = launch("--", "ray", "start", "--head", '--system-config={"enable_export_api_write": false}')
    assert json.loads(argv[2])["enable_export_api_write"] is False
    assert printed == (
        "raytrail: --system-config has enable_export_api_write = 0: "
        "C++ exports nothing: no tasks, actors, nodes and driver jobs\n"
    )


@pytest.mark.parametrize("text", ["]", "[1]"])
def test_a_system_config_that_is_no_object_stops_the_start(environ, text):
    done = start(["--", "ray", "start", "--head", "--system-config", text], environ)
    assert done.returncode == USAGE
    assert done.stderr.startswith(f"raytrail: error: --system-config '{text}'")


def test_what_silences_files_is_taken_away_and_that_is_said(launch):
    _, environ, printed = launch("--", "ray", "status", RAY_enable_ray_event="1")
    assert "RAY_enable_ray_event" not in environ
    assert printed == "raytrail: not passed on, as event files would stay empty or never rotate: RAY_enable_ray_event\n"


def test_events_over_http_go_where_an_agents_receiver_is(launch):
    argv, environ, printed = launch("--http-events", "127.0.0.1:8367", "--", "ray", "start", "--head")
    assert environ["RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR"] == "http://127.0.0.1:8367/v1/events"
    assert environ["RAY_enable_ray_event"] == "1"
    assert json.loads(argv[2])["enable_ray_event"] is True
    assert printed == ""


def test_a_ray_that_is_too_old_to_post_events_is_not_started(environ, tmp_path):
    known = tmp_path / "ray-2.48.0.dist-info" / "METADATA"
    known.parent.mkdir()
    known.write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.48.0\n")
    environ["PYTHONPATH"] = str(tmp_path)
    done = start(["--http-events", "127.0.0.1:8367", "--", "ray", "start", "--head"], environ)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == (
        "raytrail: error: --http-events: Ray 2.48.0 posts none; leave it out, so that all goes into files, "
        "or take Ray 2.52\n"
    )
    assert start(["--http-events", "127.0.0.1:8367", "--off", "--", "ray", "start", "--head"], environ).returncode == 0


def test_the_environments_own_value_is_not_overruled_by_the_system_config(launch):
    argv, environ, _ = launch("--", "ray", "start", "--head", RAY_task_events_report_interval_ms="100")
    assert environ["RAY_task_events_report_interval_ms"] == "100"
    assert "task_events_report_interval_ms" not in json.loads(argv[2])


def test_profile_and_types_choose(launch):
    argv, environ, _ = launch("--profile", "lean", "--types", "TASK,OBJECT", "--", "ray", "start", "--head")
    assert json.loads(argv[2]) == settings("lean", ["TASK", "OBJECT"]).system_config
    assert environ["RAY_enable_timeline"] == "0"
    assert environ["RAY_enable_export_api_write_config"] == "EXPORT_TASK"
    assert environ["RAYTRAIL_SOURCES_TYPES"] == "OBJECT"
    assert "RAY_preload_python_modules" not in environ


def test_a_type_that_there_is_not_stops_the_start(environ):
    done = start(["--types", "TSAK", "--", "ray", "status"], environ)
    assert done.returncode == USAGE
    assert done.stderr == f"raytrail: error: no event type 'TSAK'; name some of {', '.join(TYPES)}\n"


def test_off_switches_all_of_it_off(launch):
    inherited = {name: value for name, value in settings().environment.items() if value is not None}
    argv, environ, printed = launch("--off", "--", "ray", "start", "--head", **inherited)
    assert json.loads(argv[2])["enable_export_api_write"] is False
    assert environ["RAY_enable_export_api_write"] == environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] == "0"
    assert "RAY_preload_python_modules" not in environ
    assert printed == ""


def test_the_exit_code_is_the_commands_own(environ):
    assert start(["--", "sh", "-c", "exit 42"], environ).returncode == 42


def test_a_command_that_is_not_there_or_cannot_be_executed_is_told_as_by_a_shell(environ, tmp_path):
    done = start(["--", "no-such-command"], environ)
    assert done.returncode == NOT_FOUND
    assert done.stderr == (
        "raytrail: error: no-such-command: No such file or directory; name a command that is on PATH, or its path\n"
    )
    (tmp_path / "text").write_text("")
    assert start(["--", tmp_path / "text"], environ).returncode == CANNOT_EXECUTE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_the_command_itself(environ, number):
    command = [sys.executable, "-m", "raytrail", "run", "--", "sh", "-c", "echo $$; exec sleep 60"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(number)
        assert process.wait(10) == -number
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_command_ignores_no_signal_that_python_does(environ):
    done = start(["--", "grep", "SigIgn", "/proc/self/status"], environ)
    assert int(done.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0


DRIVER = f"""
import os, sys, ray
ray.init(log_to_driver=False, **eval(sys.argv[1]))
@ray.remote
class Counter:
    def add(self):
        pass
counter = Counter.remote()
ray.get([counter.add.remote() for _ in range({CALLS})])
"""


def finished(session_dir):
    """Return how many calls of Counter.add are FINISHED, by the files alone."""
    calls, ended = set(), set()
    for path in (session_dir / "logs" / "export_events").glob("event_EXPORT_TASK_*"):
        with path.open("rb") as file:
            for line in file:
                data = json.loads(line)["event_data"]
                if data.get("task_info", {}).get("func_or_class_name") == "Counter.add":
                    calls.add(data["task_id"])
                if "11" in data.get("state_updates", {}).get("state_ts_ns", {}):
                    ended.add(data["task_id"])
    return len(calls & ended)


@pytest.mark.ray
@pytest.mark.slow
def test_all_ends_of_a_driver_that_exits_at_once_are_in_the_files():
    by_run = [sys.executable, "-m", "raytrail", "run", "--profile", "lean", "--"]
    with ray_cluster(prefix=by_run, environment=SELDOM) as cluster:
        # it has no variable: the head's system config is what reaches it
        cluster.run([sys.executable, "-c", DRIVER, "{}"], timeout_seconds=240)
        cluster.stop()
        assert finished(cluster.session_dir) == CALLS


@pytest.mark.ray
@pytest.mark.slow
def test_all_ends_of_a_driver_that_starts_its_own_ray_are_in_the_files(short_dir):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    options = f"dict(_temp_dir='{short_dir}', include_dashboard=False, num_cpus=2, object_store_memory=200 << 20)"
    # else Ray leaves a token in the home directory, for every other Ray to ask for
    environ = {**kept, **SELDOM, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    done = start(["--", sys.executable, "-c", DRIVER, options], environ, seconds=240)
    assert done.returncode == 0, done.stderr
    session = (short_dir / "session_latest").resolve()
    until_gone(short_dir)
    assert finished(session) == CALLS


@pytest.fixture
def short_dir():
    """Short, as the paths of Ray's sockets have to stay below 107 bytes."""
    directory = Path(f"/tmp/rt{os.getpid()}")
    directory.mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def until_gone(directory, seconds=30):
    """Wait until no process of a Ray that worked there is left."""
    marker, deadline = f"{directory}/".encode(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:  # it ended just now
                continue
        if not any(marker in line for line in lines):
            return
        time.sleep(0.2)
    raise AssertionError(f"processes of {directory} are still there after {seconds} s")
