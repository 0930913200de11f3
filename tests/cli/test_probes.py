"""Which raylets are asked, by which processes, and what becomes of those; with a real Ray: tests/sources."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from raytrail.agent.probes import Raylet, raylets, wanted
from raytrail.config import SourcesConfig
from raytrail.sources.serve_poll import EVENT_TYPES

NODE, OTHER = "aa" * 28, "bb" * 28
SESSION = "session_2026-11-23_07-40-30_867494_13129"  # as of `ray_dir`


@pytest.fixture
def proc(tmp_path):
    """The kernel's view of processes that there are not."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "net").mkdir()
    return proc


def process(proc, pid, *arguments):
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(argument.encode() for argument in arguments) + b"\0")


def flags(session_dir, node_id):
    return (f"--session_dir={session_dir}", f"--node_id={node_id}", "--gcs-address=10.0.0.1:6379")


@pytest.mark.parametrize(
    ("types", "polled"),
    [
        ((), ()),
        (("ALL",), ("PLACEMENT_GROUP", "WORKER", *EVENT_TYPES, "OBJECT")),
        (("OBJECT", "SERVE_REPLICA"), ("SERVE_REPLICA", "OBJECT")),
        (("DATASET_PROGRESS",), ()),
    ],
)
def test_what_is_polled_for(types, polled):
    assert wanted(SourcesConfig(types=types)) == polled


def test_raylets_are_found_by_their_command_lines(proc, ray_dir, make, tmp_path):
    process(proc, 7, "/opt/ray/raylet", *flags(f"/elsewhere/{make.SESSION}", NODE), "--head")
    process(proc, 8, "/opt/ray/raylet", *flags(ray_dir / make.SESSION, OTHER))
    process(proc, 9, "/opt/ray/raylet", *flags(tmp_path / "session_of_another_directory", NODE))
    process(proc, 10, "/opt/ray/gcs_server", *flags(ray_dir / make.SESSION, NODE))
    directory = ray_dir / make.SESSION
    assert set(raylets([ray_dir], proc)) == {
        Raylet(directory, "10.0.0.1:6379", NODE, 7, True),
        Raylet(directory, "10.0.0.1:6379", OTHER, 8, False),
    }
    assert list(raylets([tmp_path / "other"], proc)) == []


def test_raylets_of_another_pod_with_the_same_session_and_path_are_left_to_its_agent(proc, ray_dir, make):
    directory = ray_dir / make.SESSION
    process(proc, 7, "/opt/ray/raylet", *flags(directory, NODE), "--head")
    process(proc, 8, "/opt/ray/raylet", *flags(directory, OTHER))
    (directory / f"metrics_agent_port_{OTHER}").touch()
    assert list(raylets([ray_dir], proc)) == [Raylet(directory, "10.0.0.1:6379", OTHER, 8, False)]


def port_file(directory, node_id, second, text="6379"):
    path = directory / f"gcs_server_port_{node_id}"
    path.write_text(text)
    os.utime(path, (second, second))


def listen(proc, session, *names):
    (proc / "net" / "unix").write_text(
        "".join(f"0: 0 0 0 1 01 1 /tmp/ray/{session}/sockets/{name}\n" for name in names)
    )


@pytest.mark.parametrize("ids", [(NODE, OTHER), (OTHER, NODE)])
def test_the_head_is_the_one_that_came_last_where_its_command_line_does_not_say(proc, ray_dir, make, ids):
    directory = ray_dir / make.SESSION
    for pid, id in enumerate(ids, start=7):
        port_file(directory, id, pid)
        process(proc, pid, "/opt/ray/raylet", *flags(directory, id))
    assert {node.node_id: node.is_head for node in raylets([ray_dir], proc)} == {ids[0]: False, ids[1]: True}


def test_a_raylet_of_another_container_is_found_by_its_socket_and_rays_files(proc, ray_dir, make):
    directory = ray_dir / make.SESSION
    assert list(raylets([ray_dir], proc)) == []
    (directory / f"gcs_server_port_{NODE}").touch()
    listen(proc, make.SESSION, "raylet")
    assert list(raylets([ray_dir], proc)) == []  # it has only begun
    (ray_dir / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert list(raylets([ray_dir], proc)) == [Raylet(directory, "10.0.0.1:6379", NODE, 0, True)]


@pytest.mark.parametrize("name", ["ray_current_cluster", f"{SESSION}/gcs_server_port_{NODE}"])
@pytest.mark.parametrize("kind", ["FIFO", "link"])
def test_what_is_no_file_of_rays_is_not_waited_for_nor_followed(proc, ray_dir, name, kind):
    (ray_dir / SESSION / f"gcs_server_port_{NODE}").write_text("6379")
    (ray_dir / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    listen(proc, SESSION, "raylet")
    assert list(raylets([ray_dir], proc))
    content = (ray_dir / name).read_bytes()
    (ray_dir / name).unlink()
    if kind == "FIFO":
        os.mkfifo(ray_dir / name)
    else:
        (ray_dir / "other").write_bytes(content)
        (ray_dir / name).symlink_to(ray_dir / "other")
    looked = []
    looking = threading.Thread(target=lambda: looked.append(list(raylets([ray_dir], proc))), daemon=True)
    looking.start()
    looking.join(30)
    assert looked == [[]]


@pytest.mark.parametrize("ids", [(NODE, OTHER), (OTHER, NODE)])
def test_behind_a_socket_a_head_that_restarted_is_asked_and_the_one_before_it_no_more(proc, ray_dir, make, ids):
    directory, (old, new) = ray_dir / make.SESSION, ids
    port_file(directory, old, 1, "6379")
    (ray_dir / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    listen(proc, make.SESSION, "raylet", "raylet", "plasma_store")
    assert list(raylets([ray_dir], proc)) == [Raylet(directory, "10.0.0.1:6379", old, 0, True)]
    port_file(directory, new, 2, "6380")
    listen(proc, make.SESSION, "raylet.1", "raylet.1")
    assert list(raylets([ray_dir], proc)) == [], "the address is still that of the head before it"
    (ray_dir / "ray_current_cluster").write_text("10.0.0.2:6380\n")
    assert list(raylets([ray_dir], proc)) == [Raylet(directory, "10.0.0.2:6380", new, 0, True)]
    listen(proc, make.SESSION)
    assert list(raylets([ray_dir], proc)) == []


def test_behind_a_socket_a_worker_is_asked_whatever_head_there_was_on_its_disk(proc, ray_dir, make):
    directory = ray_dir / make.SESSION
    port_file(directory, NODE, 1, "6379")
    worker = directory / f"metrics_agent_port_{OTHER}"
    worker.touch()
    (ray_dir / "ray_current_cluster").write_text("10.0.0.2:6380\n")
    listen(proc, make.SESSION, "raylet.1")
    assert list(raylets([ray_dir], proc)) == [Raylet(directory, "10.0.0.2:6380", OTHER, 0, False)]


@pytest.fixture
def raylet(ray_dir, make):
    """A process that looks like the raylet of the session, whose GCS does not answer."""
    # a name of its own: who looks whether the session of the other tests is alive would find this one
    session = (ray_dir / make.SESSION).rename(ray_dir / "session_2026-11-23_07-40-30_867494_1")
    latest = ray_dir / "session_latest"
    latest.unlink()
    latest.symlink_to(session.name)
    arguments = ["raylet", "-c", "import time; time.sleep(600)", f"--session_dir={session}"]
    arguments += [f"--node_id={NODE}", "--gcs-address=127.0.0.1:1", "--head"]
    raylet = subprocess.Popen(arguments, executable=sys.executable)
    yield raylet
    raylet.kill()
    raylet.wait()


def agent(start, ray_dir, tmp_path, *more, **environ):
    to = f"file://{tmp_path}/events"
    return start("agent", "--to", to, "--temp-dir", ray_dir, "--poll-seconds", "0.02", *more, **environ)


def started(running):
    return [message for message in running.messages("INFO") if "are asked for by process" in message]


@pytest.mark.slow
def test_without_ray_it_is_said_once_and_all_else_is_shipped(start, ray_dir, tmp_path, raylet, shipped):
    (tmp_path / "path" / "ray").mkdir(parents=True)
    (tmp_path / "path" / "ray" / "__init__.py").write_text("raise ImportError('there is no Ray here')\n")
    path = os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])
    running = agent(start, ray_dir, tmp_path, "--types", "PLACEMENT_GROUP", PYTHONPATH=path)
    running.wait_for(lambda: len(started(running)) > 2)
    running.wait_for(lambda: {chunk.event_type for chunk in shipped(tmp_path / "events")} >= {"TASK", "NODE"})
    assert running.stop() == 0
    assert running.messages("WARNING") == [
        f"placement groups of node {NODE}: placement groups, workers, objects and Serve need Ray: there is no Ray "
        "here; run the agent in Ray's environment, with ray[default]; tried again now and then"
    ]
    assert "Traceback" not in running.printed["err"]


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_tried_again(start, ray_dir, tmp_path, raylet):
    running = agent(start, ray_dir, tmp_path, "--types", "OBJECT")
    running.wait_for(lambda: len(started(running)) > 2, seconds=90)
    [warning] = running.messages("WARNING")
    assert warning.startswith(f"objects of node {NODE}: the GCS at 127.0.0.1:1 does not answer (UNAVAILABLE: ")
    assert running.stop() == 0


@pytest.mark.slow
def test_types_are_switched_on_while_it_runs_and_not_where_export_is_off(start, ray_dir, tmp_path, raylet, shipped):
    file = tmp_path / "raytrail.toml"
    file.write_text("")
    running = agent(start, ray_dir, tmp_path, "--config", file)
    running.wait_for(lambda: shipped(tmp_path / "events"))

    def reload(text):
        file.write_text(text)
        before = running.printed["err"].count("settings were read again")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for(lambda: running.printed["err"].count("settings were read again") > before)

    reload('[sources]\ntypes = ["OBJECT"]\n[tail]\nexport = false\n')
    assert started(running) == []
    reload('[sources]\ntypes = ["OBJECT"]\n')
    running.wait_for(lambda: started(running))
    assert running.stop() == 0
