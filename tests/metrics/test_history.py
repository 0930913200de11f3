"""What a history answers over HTTP: its figures for Prometheus, and whether it is well."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from contextlib import aclosing

import httpx
import msgspec
import pytest
from tests.histories import CONFIG, publish, stored, tasks, until
from tests.metrics.scraped import ask, figures

from raytrail import history
from raytrail.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from raytrail.event import Unreadable
from raytrail.metrics.history import Watch, answering
from raytrail.pubsub import connect
from raytrail.store import Store
from raytrail.testing.entities import SESSION


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        yield store


async def test_the_figures_are_those_of_what_was_kept(store, tmp_path):
    watch, stop = Watch(store), asyncio.Event()
    url = f"file://{tmp_path}/events"
    chunks = tasks(range(7))
    await publish(url, chunks)
    with answering("127.0.0.1:0", watch, store) as at:
        assert (await figures(at))["raytrail_history_last_chunk_timestamp_seconds",] == 0
        async with aclosing(connect(url)) as broker:
            running = asyncio.create_task(history.run(broker, store, CONFIG, stop, group="history", watch=watch))
            await until(lambda: stored(store) == 7)
            stop.set()
            await running
        metrics = await figures(at)
        assert metrics["raytrail_history_appended_chunks_total", "TASK"] == 7
        assert metrics["raytrail_history_appended_events_total", "TASK"] == 7
        assert metrics["raytrail_history_appended_bytes_total", "TASK"] == sum(len(chunk.data) for chunk in chunks)
        for step in ("append", "fold", "seal"):
            assert metrics["raytrail_history_step_seconds_count", step] >= 1
        assert time.time() - metrics["raytrail_history_last_chunk_timestamp_seconds",] < 60
        assert time.time() - metrics["raytrail_history_last_fold_timestamp_seconds",] < 60
        assert metrics["raytrail_history_failing_clusters", "fold"] == 0
        assert metrics["raytrail_store_open_tables",] == 0
        assert (metrics["raytrail_store_clusters", "living"], metrics["raytrail_store_clusters", "sealed"]) == (1, 0)
        assert metrics["raytrail_store_readable",] == 1
        assert metrics["raytrail_store_bytes",] >= store.stored_bytes() > 0
        assert 0 < metrics["raytrail_store_disk_free_bytes",] < metrics["raytrail_store_disk_bytes",]
        assert metrics["raytrail_history_waiting_chunks",] == metrics["raytrail_history_seal_queue_clusters",] == 0
        assert metrics["process_resident_memory_bytes",] > 1e6
        store.seal(SESSION)
        metrics = await figures(at)
        assert (metrics["raytrail_store_clusters", "living"], metrics["raytrail_store_clusters", "sealed"]) == (0, 1)


async def test_what_was_set_aside_is_counted(store):
    watch = Watch(store)
    reasons = ["no chunk", *(f"no header {name!r}, of {length}; mend it" for name, length in (("a", 1), ("b", 22)))]
    watch.append([Unreadable(place="topic", reason=reason, headers={}, data=reason.encode()) for reason in reasons])
    with answering("127.0.0.1:0", watch, store) as at:
        metrics = await figures(at)
    assert metrics["raytrail_store_rejected_total", "chunk"] == 3
    assert metrics["raytrail_store_set_aside_chunks", "no chunk"] == 1
    assert metrics["raytrail_store_set_aside_chunks", "no header ..., of ..."] == 2
    assert metrics["raytrail_store_rejected_total", "line"] == 0
    assert metrics["raytrail_history_appended_chunks_total", "unreadable"] == 3


async def test_reasons_without_number_share_one_figure(store):
    watch = Watch(store)
    words = [f"{chr(97 + number // 5)}{chr(97 + number % 5)}" for number in range(25)]
    watch.append([Unreadable(place="", reason=word, headers={}, data=word.encode()) for word in [*words, *words[:20]]])
    with answering("127.0.0.1:0", watch, store) as at:
        metrics = await figures(at)
    aside = {key[1]: count for key, count in metrics.items() if key[0] == "raytrail_store_set_aside_chunks"}
    assert len(aside) == 21
    assert (sum(aside.values()), aside["other"]) == (25, 5)


async def test_types_that_publishers_make_up_share_one_figure(store):
    watch = Watch(store)
    [chunk] = tasks([1])
    for name in ("\udcff", "T" * 101):  # Prometheus' text has no such bytes, and memory is not for names
        watch._count(msgspec.structs.replace(chunk, event_type=name))
    for number in range(110):
        watch._count(msgspec.structs.replace(chunk, event_type=f"T{number}"))
    with answering("127.0.0.1:0", watch, store) as at:
        metrics = await figures(at)
    assert metrics["raytrail_history_appended_chunks_total", "T99"] == 1
    assert metrics["raytrail_history_appended_chunks_total", "other"] == 12


async def test_a_store_that_cannot_be_written_to_is_not_ready_until_it_can(store, monkeypatch):
    watch = Watch(store)
    with answering("127.0.0.1:0", watch, store) as at:
        assert (await ask(f"{at}/readyz")).json() == {
            "status": "ok",
            "store": {"failures": {}},
            "broker": {"failure": ""},
        }
        append = store.append

        def full(chunks):
            raise StoreUnavailable("disk: full; make room")

        monkeypatch.setattr(store, "append", full)
        with pytest.raises(StoreUnavailable):
            watch.append(tasks([1]))
        answer = await ask(f"{at}/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "disk: full; make room")
        # a restart would make no room
        assert (await ask(f"{at}/healthz")).status_code == 200
        assert (await figures(at))["raytrail_history_failed_steps_total", "append"] == 1
        monkeypatch.setattr(store, "append", append)
        watch.append(tasks([1]))
        assert (await ask(f"{at}/readyz")).status_code == 200


async def test_a_broker_that_is_away_is_waited_for_and_told(store):
    class Away:
        async def subscribe(self, group, *, from_start=False):
            raise BrokerUnavailable("broker: away; it is waited for")
            yield  # type: ignore[unreachable]  # makes it a generator

    watch, stop = Watch(store), asyncio.Event()
    with answering("127.0.0.1:0", watch, store) as at:
        running = asyncio.create_task(history.run(Away(), store, CONFIG, stop, group="history", watch=watch))
        await until(lambda: watch._broker_failure is not None)
        answer = await ask(f"{at}/readyz")
        stop.set()
        await running
        assert answer.status_code == 200
        assert answer.json()["broker"]["failure"] == "broker: away; it is waited for"
        assert (await figures(at))["raytrail_history_broker_failures_total",] >= 1


async def test_a_session_that_cannot_be_folded_is_counted(store, monkeypatch):
    watch = Watch(store)
    watch.append(tasks([1]))

    def broken(*_, **__):
        raise ValueError("broken")

    monkeypatch.setattr(store._writer._live, "fold", broken)
    watch.fold()
    with answering("127.0.0.1:0", watch, store) as at:
        assert (await figures(at))["raytrail_history_failing_clusters", "fold"] == 1


def test_a_session_that_is_due_and_cannot_be_sealed_waits_in_the_queue(store, monkeypatch):
    store.append(tasks([1]))
    store.fold()

    def broken(*_, **__):
        raise ValueError("broken")

    monkeypatch.setattr(store._writer, "seal", broken)
    for _ in range(2):  # the second time it is let be for a while
        assert store.seal_due(2**42) == []
        assert store.seal_queue == 1


def test_up_answers_for_its_history_and_for_its_agent(tmp_path):
    flags = ["--store", tmp_path / "store", "--metrics", "127.0.0.1:0", "--listen", "127.0.0.1:0"]
    flags += ["--temp-dir", tmp_path, "--state-dir", tmp_path / "state", "--port", "0"]
    command = [sys.executable, "-m", "raytrail", "up", *map(str, flags)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            urls: dict[str, str] = {}
            assert process.stderr
            while set(urls) != {"history", "agent"}:
                line = process.stderr.readline()
                assert line, process.wait()
                if match := re.search(r"metrics (?:of the (history) )?on (http\S+)", line):
                    urls[match[1] or "agent"] = match[2]
            for whose, url in urls.items():
                assert f"raytrail_{whose}_" in httpx.get(url, timeout=60).text
                assert httpx.get(url.replace("metrics", "healthz"), timeout=60).json()["status"] == "ok"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


async def test_an_address_that_is_none_is_named(store):
    with pytest.raises(ConfigError) as caught, answering("8368", Watch(store), store):
        pass
    assert str(caught.value) == "metrics='8368' is not host:port; write e.g. 127.0.0.1:8368"
