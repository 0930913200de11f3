"""Which sessions, nodes and files a directory holds."""

import os
from pathlib import Path

import pytest

from raytrail.errors import ConfigError
from raytrail.tail import Nodes, discovery, latest, locate, nodes, sessions
from raytrail.tail.discovery import parse, running

SESSION = "session_2026-11-23_07-40-30_867494_13129"


def alive(session, proc=Path("/proc")):
    seen = discovery.running(proc)
    return None if seen is None else seen.alive(session)


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


@pytest.fixture
def moved(temp_dir):
    """A session that was moved to another disk, and linked back."""
    (temp_dir.parent / "disk").mkdir()
    elsewhere = (temp_dir / SESSION).rename(temp_dir.parent / "disk" / "old-ray")
    (temp_dir / SESSION).symlink_to(elsewhere)
    (temp_dir / "session_latest").unlink()
    (temp_dir / "session_latest").symlink_to(SESSION)
    return elsewhere


def test_a_session_that_was_moved_and_linked_back_goes_by_its_link(temp_dir, moved):
    assert sessions(temp_dir) == [
        (SESSION, temp_dir / SESSION / "logs" / name, temp_dir / SESSION) for name in ("export_events", "events")
    ]
    for given in (".", SESSION, "session_latest", f"{SESSION}/logs", f"{SESSION}/logs/export_events"):
        assert {session.name for session in locate(temp_dir / given)} == {SESSION}, given
    assert {session.name for session in locate(moved)} == {"old-ray"}


def test_a_session_goes_by_its_own_name_where_another_link_leads_to_it(temp_dir):
    (temp_dir / "session_alias").symlink_to(SESSION)
    assert {session.name for session in sessions(temp_dir)} == {SESSION}


def test_a_link_is_followed_once_and_to_a_directory_alone(temp_dir, moved, tmp_path):
    (temp_dir / "session_2").symlink_to(temp_dir / SESSION)  # a link to a link
    (temp_dir / "session_3").symlink_to(moved)  # which is there by another name
    (temp_dir / "session_4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    (temp_dir / "session_5").symlink_to(tmp_path / "file")
    assert {session.name for session in sessions(temp_dir)} == {SESSION}


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("link_owner", "directory_owner", "followed"), [(5, 5, True), (0, 5, True), (5, 6, False), (5, 0, False)]
)
def test_a_link_is_not_followed_to_somebody_elses_directory(temp_dir, moved, link_owner, directory_owner, followed):
    os.chown(temp_dir / SESSION, link_owner, -1, follow_symlinks=False)
    os.chown(moved, directory_owner, -1)
    assert bool(sessions(temp_dir)) is followed


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


def port_file(directory: Path, what: str, node_id: str, second: float) -> None:
    path = directory / f"{what}_port_{node_id}"
    path.touch()
    os.utime(path, (second, second))


def test_nodes_are_known_by_their_port_files_in_the_order_in_which_these_appeared(tmp_path):
    assert nodes(tmp_path) == nodes(tmp_path / "x") == Nodes((), (), {})
    assert nodes(tmp_path).main == nodes(tmp_path).head == ""
    (tmp_path / "ports.json").touch()
    port_file(tmp_path, "metrics_agent", "aa", 7)
    port_file(tmp_path, "runtime_env_agent", "bb", 5)
    port_file(tmp_path, "dashboard_agent_listen", "bb", 9)
    assert nodes(tmp_path) == Nodes(("bb", "aa"), (), {"aa": 7000, "bb": 5000})
    assert nodes(tmp_path).main == "aa", "the newest"
    port_file(tmp_path, "gcs_server", "bb", 5)
    assert nodes(tmp_path).heads == ("bb",)
    assert nodes(tmp_path).main == nodes(tmp_path).head == "bb", "the head stands for those that work beside it"


@pytest.mark.parametrize("ids", [("aa", "bb", "cc"), ("cc", "bb", "aa"), ("bb", "cc", "aa")])
def test_the_head_is_the_one_whose_port_files_are_newest(tmp_path, ids):
    for number, id in enumerate(ids):
        port_file(tmp_path, "gcs_server", id, 100 * number)
        port_file(tmp_path, "metrics_agent", id, 100 * number + 5)
    assert nodes(tmp_path).heads == nodes(tmp_path).ids == ids
    assert nodes(tmp_path).main == ids[-1]


def test_heads_of_a_copy_without_its_files_times_are_in_the_order_of_their_ids(tmp_path):
    for id in ("bb", "aa"):
        port_file(tmp_path, "gcs_server", id, 1)
    assert nodes(tmp_path).heads == ("aa", "bb")


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


def test_a_raylet_is_known_by_its_socket_once_however_many_are_connected_to_it(proc):
    line = "0: 2 0 10000 1 1 5 /tmp/ray/{}/sockets/{}\n"
    table = line.format(SESSION, "raylet") * 3 + line.format(SESSION, "raylet.1") + line.format(SESSION, "plasma_store")
    (proc / "net" / "unix").write_text(table)
    runs = running(proc)
    assert runs
    assert runs.sockets == {SESSION: 2}


def raylet(proc: Path, pid: int, node_id: str, *more: str) -> None:
    process(proc, pid, "/x/raylet", f"--session-name={SESSION}", f"--node_id={node_id}", *more)


def living(directory: Path, proc: Path) -> set[str]:
    runs = running(proc)
    assert runs
    return set(discovery.living(SESSION, directory, nodes(directory), runs))


def test_the_nodes_whose_raylets_run_are_told_by_their_processes(proc, temp_dir):
    directory = temp_dir / SESSION
    for second, id in enumerate(("aa", "bb", "cc")):
        port_file(directory, "metrics_agent", id, second)
    assert living(directory, proc) == set()
    raylet(proc, 5, "bb")
    raylet(proc, 6, "dd")  # of another container, which has the same session and the same path
    (proc / "net" / "unix").write_text(f"0: 2 0 10000 1 1 5 /tmp/ray/{SESSION}/sockets/raylet\n" * 3)
    assert living(directory, proc) == {"bb"}


@pytest.mark.parametrize(
    ("sockets", "expected"), [((), set()), (("raylet.2",), {"aa"}), (("raylet", "raylet.1"), {"aa", "bb"})]
)
def test_behind_sockets_they_are_those_that_came_last(proc, temp_dir, sockets, expected):
    directory = temp_dir / SESSION
    for second, id in enumerate(("cc", "bb", "aa")):
        port_file(directory, "gcs_server", id, second)
    table = "".join(f"0: 2 0 10000 1 1 5 /tmp/ray/{SESSION}/sockets/{name}\n" for name in sockets)
    (proc / "net" / "unix").write_text(table)
    assert living(directory, proc) == expected


def test_without_port_files_it_tells_what_a_raylets_process_sees_at_its_path(proc, temp_dir, tmp_path):
    directory = temp_dir / SESSION
    raylet(proc, 5, "aa", f"--session_dir=/tmp/ray/{SESSION}")
    assert living(directory, proc) == {"aa"}, "nothing tells"
    (proc / "5" / "root" / "tmp").mkdir(parents=True)
    (proc / "5" / "root" / "tmp" / "ray").symlink_to(temp_dir)
    assert living(directory, proc) == {"aa"}
    (proc / "5" / "root" / "tmp" / "ray").unlink()
    (proc / "5" / "root" / "tmp" / "ray" / SESSION).mkdir(parents=True)
    assert living(directory, proc) == set()


def test_without_proc_nobody_knows_whether_a_session_is_alive(tmp_path):
    assert alive(SESSION, tmp_path) is None


def test_this_machine_can_be_asked():
    assert alive(SESSION) is (False if os.path.exists("/proc/self") else None)
