"""Which sessions, nodes and files a directory holds."""

import os
from pathlib import Path

import pytest

from raytrail.errors import ConfigError
from raytrail.tail import Nodes, alive, latest, locate, nodes, sessions
from raytrail.tail.discovery import parse

SESSION = "session_2026-11-23_07-40-30_867494_13129"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("event_EXPORT_TASK_123.log", ("event_EXPORT_TASK_123", "TASK", 0)),
        ("event_EXPORT_TASK_123.log.20", ("event_EXPORT_TASK_123", "TASK", 20)),
        ("event_EXPORT_TASK_123.4.log", ("event_EXPORT_TASK_123", "TASK", 4)),
        ("event_EXPORT_DRIVER_JOB.log.3", ("event_EXPORT_DRIVER_JOB", "DRIVER_JOB", 3)),
        ("event_EXPORT_TRAIN_STATE.log", ("event_EXPORT_TRAIN_STATE", "TRAIN_STATE", 0)),
        ("event_EXPORT_DATASET_METADATA.log", ("event_EXPORT_DATASET_METADATA", "DATASET_METADATA", 0)),
        ("event_EXPORT_TASK_123.log.gz", None),
        ("event_GCS.log", ("event_GCS", "CLUSTER_EVENT", 0)),
        ("event_CORE_WORKER_123.log.1", ("event_CORE_WORKER_123", "CLUSTER_EVENT", 1)),
        ("event.log", None),
        ("export_event_EXPORT_TASK_1.log", None),
    ],
)  # fmt: skip
def test_an_event_files_name_says_its_type_and_its_age(name, expected):
    assert parse(name) == expected


def test_sessions_are_listed_oldest_first_without_the_link_to_the_latest(temp_dir):
    later = temp_dir / "session_2026-11-24_00-00-00_000000_1"
    later.mkdir()
    (temp_dir / "session_notes.txt").touch()
    assert [session.name for session in sessions(temp_dir)] == [SESSION, SESSION, later.name, later.name]
    assert [session.events for session in sessions(temp_dir)][:2] == [
        temp_dir / SESSION / "logs" / name for name in ("export_events", "events")
    ]
    assert latest(temp_dir) == SESSION


def test_where_ray_never_ran_there_are_no_sessions(tmp_path):
    assert sessions(tmp_path / "ray") == []
    assert latest(tmp_path / "ray") is None


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (".", ["export_events", "events"]),
        ("logs", ["export_events", "events"]),
        ("logs/export_events", ["export_events"]),
        ("logs/events", ["events"]),
    ],
)
@pytest.mark.parametrize("name", [SESSION, "copy-of-a-session"])
def test_a_session_goes_by_its_directorys_name_whichever_part_is_given(tmp_path, given, parts, name):
    logs = tmp_path / name / "logs"
    for part in ("export_events", "events"):
        (logs / part).mkdir(parents=True)
    assert locate(tmp_path / name / given) == [(name, logs / part, tmp_path / name) for part in parts]


def test_the_link_to_the_latest_session_gives_the_session(temp_dir):
    assert {session.name for session in locate(temp_dir / "session_latest")} == {SESSION}


def test_a_temp_dir_gives_its_sessions_that_have_events(temp_dir):
    (temp_dir / "session_2026-11-24_00-00-00_000000_1" / "logs").mkdir(parents=True)
    other = temp_dir / "session_2026-11-25_00-00-00_000000_1"
    (other / "logs" / "export_events").mkdir(parents=True)
    assert [session.name for session in locate(temp_dir)] == [SESSION, SESSION, other.name, other.name]


def test_event_files_outside_any_session_go_by_the_directory_that_is_given(tmp_path):
    events = tmp_path / "varied" / "export_events"
    events.mkdir(parents=True)
    assert locate(events) == [("export_events", events, None)]
    varied = tmp_path / "varied"
    assert locate(varied) == [("varied", varied / part, varied) for part in ("export_events", "events")]
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "event_EXPORT_NODE.log").touch()
    assert locate(loose) == [("loose", loose, None)]


def test_event_files_moved_within_their_session_still_go_by_it(temp_dir):
    old = temp_dir / SESSION / "logs" / "old"
    old.mkdir()
    (old / "event_EXPORT_NODE.log").touch()
    assert [session.name for session in locate(old)] == [SESSION]


def test_a_session_whose_export_was_off_says_so(tmp_path):
    (tmp_path / SESSION / "logs").mkdir(parents=True)
    message = (
        "no events in {}: it has no logs/export_events; Ray's export was off: "
        "`raytrail doctor` says how to switch it on"
    )
    for given in (tmp_path, tmp_path / SESSION):
        with pytest.raises(ConfigError) as error:
            locate(given)
        assert str(error.value) == message.format(given)


def test_a_directory_that_is_none_of_these_says_what_to_give(tmp_path):
    tmp_path = tmp_path / "events"  # anybody's, outside of logs
    tmp_path.mkdir()
    with pytest.raises(ConfigError) as error:
        locate(tmp_path)
    assert str(error.value) == (
        f"no Ray session in {tmp_path}: it is neither a session's directory, nor its logs or export_events, "
        "and holds no session_* directory; give one of these"
    )


def test_a_directory_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError) as error:
        locate(tmp_path / "x")
    assert str(error.value) == (
        f"no Ray session in {tmp_path / 'x'}: No such file or directory; give a directory that can be read"
    )


def test_nodes_are_known_by_their_port_files(tmp_path):
    for name in ("metrics_agent_port_bb", "runtime_env_agent_port_aa", "dashboard_agent_listen_port_aa", "ports.json"):
        (tmp_path / name).touch()
    assert nodes(tmp_path) == Nodes(("aa", "bb"), "")
    assert nodes(tmp_path).main == "aa"
    (tmp_path / "gcs_server_port_bb").touch()
    assert nodes(tmp_path) == Nodes(("aa", "bb"), "bb")
    assert nodes(tmp_path).main == "bb"


def test_a_directory_without_port_files_has_no_node(tmp_path):
    assert nodes(tmp_path).main == nodes(tmp_path / "x").main == ""


def process(proc: Path, pid: int, *command: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(part.encode() for part in command) + b"\0")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "self").touch()
    return tmp_path / "proc"


@pytest.mark.parametrize("option", [f"--session-name={SESSION}", f"--session_dir=/tmp/ray/{SESSION}"])
def test_a_session_is_alive_while_its_raylet_runs(proc, option):
    process(proc, 1, "/usr/bin/python", "agent.py", option)
    process(proc, 2, "/x/raylet", "--session-name=session_2")
    (proc / "3").mkdir()
    assert alive(SESSION, proc) is False
    process(proc, 4, "/x/ray/core/src/ray/raylet/raylet", option)
    assert alive(SESSION, proc) is True


def test_a_session_is_alive_while_its_raylets_socket_is_there(proc):
    line = "0: 2 0 10000 1 1 5 /tmp/ray/{}/sockets/{}\n"
    (proc / "net" / "unix").write_text(line.format(SESSION, "plasma_store") + line.format("session_2", "raylet"))
    assert alive(SESSION, proc) is False
    for name in ("raylet", "raylet.1"):
        (proc / "net" / "unix").write_text(line.format(SESSION, name))
        assert alive(SESSION, proc) is True


def test_without_proc_nobody_knows_whether_a_session_is_alive(tmp_path):
    assert alive(SESSION, tmp_path) is None


def test_this_machine_can_be_asked():
    assert alive(SESSION) is (False if os.path.exists("/proc/self") else None)
