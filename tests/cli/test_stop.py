"""Commands that run until they are told to stop end, whatever hangs."""

import fcntl
import os
import signal
import threading
import time
from contextlib import suppress

import httpx
import pytest

from raytrail.exit_codes import BROKEN
from raytrail.store import Store

pytestmark = pytest.mark.slow

SHIPPED = "what was published since the last commit of the checkpoint is published again"
COMES = "what was not acknowledged comes again"


def waits_for_lock(pid):
    """Whether a process waits for a lock: who waits is listed with an arrow (proc_locks(5))."""
    with open("/proc/locks") as locks:
        return any(" -> " in line and f" {pid} " in line for line in locks)


@pytest.fixture
def hanging(tmp_path):
    """The URL of a broker that answers nobody: whoever publishes or reads there waits for its lock."""
    (tmp_path / "events" / "groups").mkdir(parents=True)
    lock = os.open(tmp_path / "events" / "groups" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield f"file://{tmp_path}/events"
    os.close(lock)


def post(running):
    """Post what a server is to publish, and do not wait for its answer."""
    running.wait_for(lambda: "serving on " in running.printed["err"])
    url = running.printed["err"].split("serving on ")[1].split()[0]

    def send():
        with suppress(httpx.HTTPError):
            httpx.post(f"{url}/ingest", content=b'{"event_data": {}, "source_type": "EXPORT_NODE"}\n', timeout=120)

    threading.Thread(target=send, daemon=True).start()


def test_all_end_in_bounded_time_though_a_thread_of_them_waits_for_ever(start, ray_dir, hanging, tmp_path):
    Store.open(tmp_path / "served", write=True).close()
    ship = ("--temp-dir", ray_dir, "--drain-seconds", "0.2")

    def begin(*command):
        # the state directory of each is its own
        return start(*command, RAYTRAIL_TAIL_STATE_DIR=str(tmp_path / str(len(running))))

    # by command: what runs, how it is told to stop, after how long it is ended by force, and what becomes of the rest
    running = {}
    running["agent"] = begin("agent", "--to", hanging, *ship), signal.SIGTERM, 10.2, SHIPPED
    running["agent, by Ctrl-C"] = begin("agent", "--to", hanging, *ship), signal.SIGINT, 10.2, SHIPPED
    keep = ("--store", tmp_path / "kept", "--stop-seconds", "2")
    running["history"] = begin("history", "--from", hanging, *keep), signal.SIGTERM, 2, COMES
    up = ("up", "--to", hanging, *ship, "--stop-seconds", "2", "--port", "0")
    running["up"] = begin(*up), signal.SIGTERM, 12.2, f"{SHIPPED}, and {COMES}"
    serve = ("serve", "--ingest", hanging, "--store", tmp_path / "served", "--port", "0")
    running["serve"] = begin(*serve), signal.SIGTERM, 10, "answers were cut off"
    running["subscribe"] = begin("subscribe", hanging, "--follow"), signal.SIGTERM, 10, COMES
    post(running["serve"][0])
    for service, *_ in running.values():
        service.wait_for(lambda service=service: waits_for_lock(service.process.pid), seconds=60)
    began = time.monotonic()
    for service, number, *_ in running.values():
        service.process.send_signal(number)
    for name, (service, _, seconds, rest) in sorted(running.items(), key=lambda item: item[1][2]):
        assert service.wait(120) == BROKEN, name
        assert time.monotonic() - began > seconds - 0.1, name
        assert service.messages("ERROR")[-1] == (
            f"not ended {seconds:g} seconds after it was told to: a disk, a broker or a statement does not answer; "
            f"ended by force; {rest}"
        ), name
