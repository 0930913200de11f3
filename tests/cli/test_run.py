"""Commands that run until they are stopped, as processes of their own."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest

from raytrail import systemd
from raytrail.config import AgentConfig
from raytrail.exit_codes import USAGE
from raytrail.store import Store
from raytrail.systemd import alive, notify
from raytrail.terminal.service import all_of

pytestmark = pytest.mark.slow

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = ["raytrail-agent.service", "raytrail-history.service", "raytrail-server.service"]


def url_of(running):
    return running.wait_for(lambda: re.search(r"serving on (http://\S+)", running.printed["err"]))[1]


def clusters_of(url):
    return httpx.get(f"{url}/api/clusters").json()["clusters"]


def rows_of(store, noun="task"):
    try:
        with Store.open(store) as opened:
            return opened.snapshot(opened.find("latest").session).rows(noun)
    except Exception:  # noqa: BLE001 (not made yet)
        return []


@pytest.mark.slow
def test_up_ships_keeps_and_serves_what_ray_writes_and_stops_when_told(start, run, tmp_path, make, ray_dir):
    state = tmp_path / "state"
    up = start("up", "--temp-dir", ray_dir, "--port", "0", "--fold-seconds", "0.2", "--batch-seconds", "0.1")
    url = url_of(up)
    up.wait_for(lambda: [c["tasks"] for c in clusters_of(url)] == [2])
    with (ray_dir / make.SESSION / "logs/export_events/event_EXPORT_TASK_7.log").open("ab") as file:
        file.write(make.task(3))
    up.wait_for(lambda: clusters_of(url)[0]["tasks"] == 3)
    assert up.stop() == 0
    assert len(json.loads(run("list", "tasks", "--store", state / "store", "--format", "json").stdout)) == 3
    done = run("subscribe", f"file://{state}/events", "--types", "task", "--from-start", "--no-follow")
    assert [json.loads(line)["task"]["task_id"] for line in done.stdout.splitlines()] == [
        make.task_id(number) for number in (1, 2, 3)
    ]


@pytest.mark.slow
def test_up_reads_its_settings_again_too(start, tmp_path, make, ray_dir, write):
    file = tmp_path / "raytrail.toml"
    file.write_text("[tail]\nexport = false\n")
    up = start("up", "--config", file, "--temp-dir", ray_dir, "--port", "0", "--fold-seconds", "0.2")
    url = url_of(up)
    assert clusters_of(url) == []
    file.write_text("")
    up.process.send_signal(signal.SIGHUP)
    up.wait_for(lambda: [cluster["tasks"] for cluster in clusters_of(url)] == [2])
    assert "settings were read again" in up.messages("INFO")
    assert up.stop() == 0


@pytest.mark.slow
def test_agent_history_and_server_do_the_same_as_processes_of_their_own(start, tmp_path, ray_dir):
    events, store = f"file://{tmp_path}/events", tmp_path / "store"
    agent = start("agent", "--to", events, "--temp-dir", ray_dir)
    history = start("history", "--from", events, "--store", store, "--fold-seconds", "0.2")
    history.wait_for(lambda: len(rows_of(store)) == 2)
    with Store.open(store) as opened:
        group = f"history-{opened.id}"
    assert history.printed["err"].startswith(f"reading {events} as group '{group}', keeping {store}\n")
    assert (tmp_path / "events" / "groups" / f"{group}.json").exists()
    server = start("serve", "--store", store, "--port", "0")
    assert clusters_of(url_of(server))[0]["tasks"] == 2
    assert [process.stop() for process in (agent, history, server)] == [0, 0, 0]


@pytest.mark.slow
def test_an_agent_that_is_told_to_stop_ships_what_is_left_first(start, run, tmp_path, make, ray_dir):
    with (ray_dir / make.SESSION / "logs/export_events/event_EXPORT_TASK_7.log").open("ab") as file:
        for number in range(3, 3000):
            file.write(make.task(number))
    url = f"file://{tmp_path}/events"
    agent = start("agent", "--to", url, "--temp-dir", ray_dir, "--chunk-bytes", "2048")
    agent.wait_for(lambda: list((tmp_path / "events").glob("*.chunks")))
    assert agent.stop() == 0
    done = run("subscribe", url, "--types", "TASK", "--no-follow")
    assert len(done.stdout.splitlines()) == 2999


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_subscriber_prints_what_comes_until_it_is_stopped(start, tmp_path, make, ray_dir, write, number):
    write("ACTOR", make.actor(1))  # which is not asked for
    url = f"file://{tmp_path}/events"
    subscriber = start("subscribe", url, "--types", "TASK,NODE")
    agent = start("agent", "--to", url, "--temp-dir", ray_dir)
    subscriber.wait_for(lambda: subscriber.printed["out"].count("\n") == 3)
    assert subscriber.stop(number) == 0
    assert agent.stop() == 0
    events = [json.loads(line) for line in subscriber.printed["out"].splitlines()]
    assert sorted(event["event_type"] for event in events) == ["NODE", "TASK", "TASK"]
    assert subscriber.printed["err"] == ""


def test_a_named_group_goes_on_where_it_left_off(run, tmp_path, make, publish):
    url = publish(make.chunk("TASK", make.task(1)))
    again = ("subscribe", url, "--no-follow", "--group", "audit", "--idle-seconds", "0.3")
    assert len(run(*again).stdout.splitlines()) == 1
    publish(make.chunk("TASK", make.task(2), file="second"))
    assert [json.loads(text)["task"]["task_id"] for text in run(*again).stdout.splitlines()] == [make.task_id(2)]
    assert len(run(*again, "--from-start").stdout.splitlines()) == 2


@pytest.fixture
def publish(tmp_path):
    from raytrail.pubsub import connect

    url = f"file://{tmp_path}/events"

    async def send(chunk):
        pubsub = connect(url)
        await pubsub.publish(chunk)
        await pubsub.aclose()

    def publish(chunk):
        asyncio.run(send(chunk))
        return url

    return publish


def test_a_url_that_no_backend_knows_is_refused(run):
    assert "no pub/sub backend for 'kafkaa://x'" in run("subscribe", "kafkaa://x", code=USAGE).stderr


def test_a_server_without_its_extra_says_what_to_install(run, history, monkeypatch):
    monkeypatch.setitem(sys.modules, "raytrail.server", None)
    done = run("serve", code=USAGE)
    assert done.stderr == (
        "raytrail: error: the server needs 'raytrail.server', which is not installed; "
        "run `pip install 'raytrail[server]'`\n"
    )


async def test_the_parts_of_a_process_are_stopped_in_their_order():
    ended = []

    async def part(name, stop):
        await stop.wait()
        await asyncio.sleep(0)
        ended.append(name)

    stops = [asyncio.Event() for _ in range(3)]
    stop = asyncio.Event()
    running = asyncio.ensure_future(all_of(*((part(i, event), event) for i, event in enumerate(stops)), stop=stop))
    stop.set()
    await running
    assert ended == [0, 1, 2]


async def test_a_part_that_fails_stops_the_others_and_its_error_rises():
    ended = []

    async def good(stop):
        await stop.wait()
        ended.append("good")

    async def bad():
        raise OSError("disk")

    stop = asyncio.Event()
    with pytest.raises(OSError, match="disk"):
        await all_of((good(stop), stop), (bad(), asyncio.Event()), stop=asyncio.Event())
    assert ended == ["good"]


@pytest.mark.slow
def test_an_agent_tells_systemd_when_it_is_ready_that_it_is_well_and_when_it_stops(start, tmp_path, ray_dir, notified):
    agent = start("agent", "--to", f"file://{tmp_path}/events", "--temp-dir", ray_dir, WATCHDOG_USEC="150000")
    agent.wait_for(lambda: notified().count("WATCHDOG=1") > 3)
    assert agent.stop() == 0
    states = notified()
    assert set(states) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}
    assert (states.count("READY=1"), states.count("STOPPING=1")) == (1, 1)
    assert states.index("READY=1") < states.index("STOPPING=1")


@pytest.mark.slow
def test_a_history_and_a_server_tell_systemd_when_they_are_ready_that_they_are_well_and_when_they_stop(
    start, tmp_path, notified
):
    store = ("--store", tmp_path / "store")
    for arguments in (("history", "--from", f"file://{tmp_path}/events"), ("serve", "--port", "0")):
        before = len(notified())
        service = start(*arguments, *store, WATCHDOG_USEC="150000")
        service.wait_for(lambda: "READY=1" in notified()[before:])  # noqa: B023 (it is waited for here)
        service.wait_for(lambda: notified()[before:].count("WATCHDOG=1") > 3)  # noqa: B023 (it is waited for here)
        assert service.stop() == 0
        states = [state for state in notified()[before:] if state != "WATCHDOG=1"]
        assert states == ["READY=1", "STOPPING=1"]


@pytest.mark.slow
def test_an_agent_that_cannot_start_was_never_ready(start, ray_dir, notified):
    agent = start("agent", "--to", "kafkaa://host/topic", "--temp-dir", ray_dir)
    assert agent.wait() == USAGE
    assert notified() == []


@pytest.mark.slow
def test_an_agent_that_stops_tells_the_watchdog_that_it_is_well_as_long_as_it_takes(
    start, tmp_path, ray_dir, notified, make, write
):
    write("TASK", *map(make.task, range(3, 100)))
    arguments = ("--chunk-bytes", "1024", "--events-per-second", "TASK=1", "--drain-seconds", "1")
    url = f"file://{tmp_path}/events"
    agent = start("agent", "--to", url, "--temp-dir", ray_dir, *arguments, WATCHDOG_USEC="150000")
    agent.wait_for(lambda: "READY=1" in notified())
    assert agent.stop() == 0
    states = notified()
    assert states[states.index("STOPPING=1") :].count("WATCHDOG=1") > 5


async def test_a_loop_that_does_not_turn_tells_the_watchdog_nothing(notified, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "60000")

    async def stuck():
        deadline = time.monotonic() + 60
        while len(notified()) <= 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        time.sleep(0.2)  # noqa: ASYNC251 (that is what is tested)
        before = len(notified())
        time.sleep(0.2)  # noqa: ASYNC251 (that is what is tested)
        assert len(notified()) == before

    await alive(stuck())
    before = len(notified())
    await asyncio.sleep(0.1)
    assert len(notified()) == before  # nor does one that has ended


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "60000", "WATCHDOG_PID": "1"}])
async def test_who_has_no_watchdog_tells_it_nothing(notified, monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    await alive(asyncio.sleep(0.1))
    assert notified() == []


async def test_the_watchdogs_own_process_tells_it(notified, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    await alive(asyncio.sleep(0.1))
    assert set(notified()) == {"WATCHDOG=1"}


def test_systemd_may_listen_in_the_abstract_namespace_or_not_at_all(monkeypatch):
    name = f"raytrail-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("READY=1")  # nobody is there any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_a_systemd_that_does_not_listen_holds_nobody_up(monkeypatch, tmp_path):
    monkeypatch.setattr(systemd, "_NOTIFY_SECONDS", 0.05)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        began = time.monotonic()
        for _ in range(queue + 5):
            notify("WATCHDOG=1")
        assert time.monotonic() - began < 5


def unit(name):
    """Return a unit's settings, each as the list of its values."""
    text = (UNITS / name).read_text()
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def test_the_agents_unit_reloads_by_sighup_and_gives_it_time_to_ship_what_is_left():
    agent_unit = unit("raytrail-agent.service")
    assert agent_unit["Type"] == ["notify"]
    assert agent_unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert agent_unit["Restart"] == ["always"]
    assert float(agent_unit["TimeoutStopSec"][0]) > AgentConfig().drain_seconds + 10
    assert float(agent_unit["WatchdogSec"][0]) >= 30
    assert agent_unit["Environment"] == [f"RAYTRAIL_TAIL_STATE_DIR=%S/{agent_unit['StateDirectory'][0]}"]
    assert agent_unit["PrivateTmp"] == ["no"]  # Ray's files are in /tmp
    assert agent_unit["User"] == ["ray"]


def test_the_historys_unit_starts_again_and_keeps_its_store_where_it_may_write():
    history_unit = unit("raytrail-history.service")
    assert (history_unit["Type"], history_unit["Restart"]) == (["notify"], ["always"])
    assert float(history_unit["WatchdogSec"][0]) >= 30
    assert f"RAYTRAIL_STORE_DIR=%S/{history_unit['StateDirectory'][0]}/store" in history_unit["Environment"]


def test_the_servers_unit_reads_the_historys_store_and_writes_nowhere():
    server_unit, store = unit("raytrail-server.service"), unit("raytrail-history.service")
    [directory] = [variable for variable in store["Environment"] if variable.startswith("RAYTRAIL_STORE_DIR=")]
    assert (server_unit["Type"], server_unit["Restart"], server_unit["User"]) == (["notify"], ["always"], store["User"])
    assert server_unit["Environment"] == [directory]
    assert server_unit["ProtectSystem"] == ["strict"]
    assert not {"StateDirectory", "ReadWritePaths"} & set(server_unit)
    assert float(server_unit["WatchdogSec"][0]) >= 30


@pytest.mark.parametrize("name", SERVICES)
def test_a_units_command_is_one_of_ours(name, run):
    [command] = unit(name)["ExecStart"]
    program, verb, *options = command.split()
    assert program == "/usr/local/bin/raytrail"
    help = run(verb, "--help").stdout
    assert [option for option in options if option.startswith("--") and option not in help] == []


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_takes_a_unit_and_finds_it_safe(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "systemd-analyze is not installed (apt-get install systemd)"
        )
    program = tmp_path / "raytrail"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / name
    copy.write_text((UNITS / name).read_text().replace("/usr/local/bin/raytrail", str(program)))
    for arguments in (
        ["verify", "--man=no", "--recursive-errors=no"],
        ["security", "--offline=true", "--threshold=25"],
    ):
        done = subprocess.run(["systemd-analyze", *arguments, copy], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
