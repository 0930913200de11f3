"""Each alert fires once a part is really broken, by what real processes then answer: `make alerts` runs this."""

import asyncio
import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing, suppress

import httpx
import pytest
from tests.alerts.minutes import minutes_in, scrape, value, wait_for
from tests.brokers.redis import Server, needed
from tests.histories import publish

from raytrail.entities import installed
from raytrail.store import Store
from raytrail.testing.entities import chunk, line

pytestmark = pytest.mark.slow
TASK = installed()["task"]


@pytest.fixture
def minutes(tmp_path):
    if not shutil.which("promtool"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no promtool: run `make alerts` as root")
    with minutes_in(tmp_path) as minutes:
        yield minutes


@pytest.fixture
def redis(tmp_path):
    needed()
    (tmp_path / "redis").mkdir()
    server = Server(tmp_path / "redis", "--proto-max-bulk-len", "1mb")
    server.start()
    yield server
    server.kill()


def tasks(count, at_s, file="1795419640-1", start=0):
    """A chunk of tasks that were submitted at that time."""
    lines = [line(TASK, int(at_s), {"task_id": "AQ==", "attempt_number": start + n}) for n in range(count)]
    return chunk(TASK, lines, file=f"{file}-{start}")


def send(url, *chunks):
    asyncio.run(publish(url, chunks))


def history(minutes, url, store, *more):
    flags = ("--store", store, "--metrics", "127.0.0.1:0", "--batch-seconds", "0.05", "--fold-seconds", "0.1")
    return minutes.start("raytrail-history", "history", "--from", url, *flags, *more)


def appended(minutes, events):
    """Let minutes pass until a history has so many events."""
    total = "raytrail_history_appended_events_total"
    minutes.pass_until(lambda scrape: (value(scrape, total) or 0) >= events)


@pytest.mark.parametrize("small_disk", [4], indirect=True)
def test_an_agent_whose_destinations_are_full_or_refuse(minutes, redis, small_disk, tmp_path):
    logs = tmp_path / "ray" / "session_2026-11-23_07-40-30_867494_13129" / "logs" / "export_events"
    logs.mkdir(parents=True)
    few = line(TASK, 1795419640, {"task_id": "AQ==", "attempt_number": 1}) + b"\n"
    (logs / "event_EXPORT_TASK_1.log").write_bytes(few)
    (logs / "event_EXPORT_ACTOR_1.log").write_bytes(few)
    settings = tmp_path / "raytrail.toml"
    settings.write_text(
        f"""
        [tail]
        max_line_bytes = 3_000_000
        rotation_bytes = 10_000_000  # so Ray keeps 210 MB of a writer
        [agent]
        retry_seconds = 0.1
        [destinations.full]
        to = "file://{small_disk}/events"
        event_types = ["TASK"]
        [destinations.refuses]
        to = "{redis.url("events")}"
        event_types = ["ACTOR"]
        """
    )
    flags = ("--temp-dir", tmp_path / "ray", "--state-dir", tmp_path / "state", "--listen", "127.0.0.1:0")
    minutes.start("raytrail-agent", "agent", "--config", settings, "--sessions", "all", *flags)
    published, refused = "raytrail_agent_published_events_total", "raytrail_agent_refused_events_total"
    skipped, until_deleted = "raytrail_tail_skipped_bytes", "raytrail_tail_bytes_until_deleted"
    # with so small files, whatever is not acknowledged is near its end
    minutes.pass_until(lambda scrape: value(scrape, published) == 2 and value(scrape, until_deleted) is None)
    minutes.check_firing()

    with (logs / "event_EXPORT_ACTOR_1.log").open("ab") as file:
        file.write(b'{"a":"%b"}\n' % (b"x" * 2_000_000))  # longer than Redis takes
        file.write(b'{"a":"%b"}\n' % (b"x" * 4_000_000))  # longer than the agent does
    minutes.pass_until(
        lambda scrape: value(scrape, refused) and value(scrape, skipped) and value(scrape, until_deleted) is None
    )
    minutes.check_firing("RaytrailAgentDeadLetters", "RaytrailAgentSkipsLines")

    with (logs / "event_EXPORT_TASK_1.log").open("ab") as file:
        file.write(few * (80_000_000 // len(few)))
    minutes.pass_until(lambda scrape: value(scrape, "raytrail_agent_broker_up", destination="full") == 0)
    minutes.pass_minutes(17)
    minutes.check_firing("RaytrailAgentBehind", "RaytrailAgentCannotSend", "RaytrailAgentNearsLoss")


@pytest.mark.parametrize("small_disk", [16], indirect=True)
def test_a_history_whose_disk_is_full(minutes, small_disk, tmp_path):
    url = f"file://{tmp_path}/events"
    send(url, tasks(100, minutes.now))
    history(minutes, url, small_disk / "store")
    appended(minutes, 100)
    minutes.check_firing()

    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    send(url, tasks(20_000, minutes.now, start=100))
    failed = "raytrail_history_failed_steps_total"

    def fail():
        before = value(minutes.scraped[-1], failed) or 0
        [process] = minutes.processes
        wait_for(lambda: process.log.read_text().count("nothing is lost") > before, "one more failure")

    minutes.pass_until(lambda scrape: value(scrape, failed) and value(scrape, "raytrail_history_behind_bytes"), fail)
    minutes.pass_minutes(14, fail)
    minutes.check_firing(
        "RaytrailHistoryBehind",
        "RaytrailHistoryCannotStore",
        "RaytrailHistoryFoldBehind",
        "RaytrailStoreDiskNearlyFull",
    )


def test_a_history_that_gets_what_is_no_chunk_whose_broker_goes_away_and_that_is_killed(minutes, redis, tmp_path):
    url = redis.url("events")
    send(url, tasks(10, minutes.now))
    process = history(minutes, url, tmp_path / "store")
    appended(minutes, 10)
    minutes.check_firing()

    with redis.client() as client:
        client.xadd("events", {"no": "chunk"})
    rejected = "raytrail_store_rejected_total"
    minutes.pass_until(lambda scrape: value(scrape, rejected) == 1)
    minutes.check_firing("RaytrailHistorySetsAside")

    minutes.pass_minutes(15)
    minutes.check_firing()
    redis.kill()
    failures = "raytrail_history_broker_failures_total"

    def fail():
        before = value(minutes.scraped[-1], failures)
        wait_for(lambda: value(dict(scrape(process)), failures) > before, "one more failure")

    minutes.pass_minutes(8, fail)
    minutes.check_firing("RaytrailHistoryBrokerAway")

    process.kill()
    minutes.pass_minutes(6)
    minutes.check_firing("RaytrailDown")
    redis.start()


def test_a_session_whose_file_is_damaged(minutes, tmp_path):
    url, store = f"file://{tmp_path}/events", tmp_path / "store"
    send(url, tasks(10, minutes.now))
    history(minutes, url, store, "--fold-seconds", "3600")  # once at the start, and not again
    appended(minutes, 10)
    minutes.pass_until(lambda scrape: value(scrape, "raytrail_history_step_seconds_count", step="fold") == 1)
    send(url, tasks(10, minutes.now, start=10))
    appended(minutes, 20)
    minutes.check_firing()
    minutes.processes[0].kill()

    with closing(sqlite3.connect(f"file:{store}/catalogue.sqlite?mode=ro", uri=True)) as db:
        [(path,)] = db.execute("SELECT path FROM log WHERE folded = 0").fetchall()
    (store / path).write_bytes((store / path).read_bytes()[:-100])
    history(minutes, url, store)
    minutes.pass_until(lambda scrape: value(scrape, "raytrail_history_failing_clusters", step="fold") == 1)
    minutes.pass_minutes(11)
    minutes.check_firing("RaytrailHistoryClustersFail")


def test_a_server_whose_store_is_taken_away(minutes, tmp_path):
    store = tmp_path / "store"
    with Store.open(store, write=True) as written:
        written.append([tasks(10, minutes.now)])
        written.fold()
        [cluster] = written.clusters()
    process = minutes.start("raytrail-server", "serve", "--store", store, "--port", "0")

    def ask():
        for _ in range(5):
            httpx.get(f"{process.url}/clusters/{cluster.session}/api/v0/tasks", timeout=60)

    minutes.pass_minutes(7, ask)
    minutes.check_firing()
    store.rename(tmp_path / "elsewhere")
    minutes.pass_minutes(8, ask)
    minutes.check_firing("RaytrailServerErrors", "RaytrailStoreUnreadable")


def test_a_server_that_gets_no_time_while_many_ask_it(minutes, tmp_path):
    store = tmp_path / "store"
    with Store.open(store, write=True) as written:
        written.append([tasks(20_000, minutes.now)])
        written.fold()
        [cluster] = written.clusters()
    process = minutes.start("raytrail-server", "serve", "--store", store, "--port", "0")
    minutes.pass_minutes(3)
    minutes.check_firing()
    url, done = process.url, threading.Event()

    def ask_all_the_time():
        with httpx.Client(timeout=600) as client, suppress(httpx.TransportError):  # it is killed in the end
            while not done.is_set():
                client.get(f"{url}/clusters/{cluster.session}/api/v0/tasks?limit=10000&detail=1")

    def hang():
        os.kill(process.running.pid, signal.SIGSTOP)
        time.sleep(5.5)
        os.kill(process.running.pid, signal.SIGCONT)

    asking = [threading.Thread(target=ask_all_the_time) for _ in range(32)]
    for thread in asking:
        thread.start()
    try:
        minutes.pass_until(lambda scrape: value(scrape, "raytrail_server_waiting_questions"), hang)
        minutes.pass_minutes(12, hang)
        minutes.check_firing("RaytrailServerBusy", "RaytrailServerSlow")
    finally:
        done.set()
        process.kill()
        for thread in asking:
            thread.join()
