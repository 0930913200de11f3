"""How far a history is behind its broker, as its metrics tell it."""

import asyncio
import time
from contextlib import aclosing, suppress

import pytest
from tests.histories import CONFIG, publish, tasks, until
from tests.metrics.scraped import figures

from raytrail import history
from raytrail.errors import BrokerUnavailable, StoreUnavailable
from raytrail.metrics import lag
from raytrail.metrics.history import Watch, answering
from raytrail.metrics.lag import Lag
from raytrail.pubsub import connect
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.groups import OwnGroup
from raytrail.store import Store

BEHIND = "raytrail_history_behind_"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        yield store


def values(lag):
    return {metric.name.removeprefix(BEHIND): metric.samples[0].value for metric in lag.collect() if metric.samples}


async def test_what_waits_at_the_broker_is_told_until_it_is_stored(store, tmp_path, monkeypatch):
    monkeypatch.setattr(lag, "_MEASURE_SECONDS", 0.05)
    url = f"file://{tmp_path}/events"
    watch, stop = Watch(store), asyncio.Event()
    append = store.append

    def full(chunks):
        raise StoreUnavailable("disk: full; make room")

    async with aclosing(connect(url)) as broker:
        with answering("127.0.0.1:0", watch, store) as at:
            running = asyncio.create_task(history.run(broker, store, CONFIG, stop, group="history", watch=watch))
            await publish(url, tasks(range(3)))
            await until(lambda: store.events())
            monkeypatch.setattr(store, "append", full)
            await publish(url, tasks(range(3, 10)))
            size = sum(path.stat().st_size for path in (tmp_path / "events").glob("*.chunks"))

            async def until_told(condition):
                while True:
                    scraped = await figures(at)
                    if condition(scraped):
                        return scraped
                    await asyncio.sleep(0.05)

            behind = await asyncio.wait_for(until_told(lambda metrics: metrics.get((f"{BEHIND}bytes",))), 60)
            assert size / 2 < behind[f"{BEHIND}bytes",] < size
            assert behind[f"{BEHIND}events",] > 0
            assert (f"{BEHIND}chunks",) not in behind  # a directory counts no chunks
            await asyncio.wait_for(until_told(lambda metrics: metrics[f"{BEHIND}seconds",] > 0), 60)
            monkeypatch.setattr(store, "append", append)
            done = await asyncio.wait_for(until_told(lambda metrics: not metrics[f"{BEHIND}bytes",]), 60)
            assert done[f"{BEHIND}seconds",] == done[f"{BEHIND}events",] == 0
            assert done["raytrail_history_newest_event_timestamp_seconds",] == 1795419640
            stop.set()
            await running


class Broker:
    """A broker that says what one tells it to say."""

    def __init__(self):
        self.answer: Backlog | Exception | None = None

    def subscribe(self, group, *, from_start=False):
        raise NotImplementedError

    async def backlog(self, group):
        assert group == "history-0123456789abcdef"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def measured(figures, answer, monkeypatch):
    """Measure a broker of that answer once."""
    monkeypatch.setattr(lag, "_MEASURE_SECONDS", 60)
    broker = Broker()
    broker.answer = answer
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(figures.measure(OwnGroup(broker, "0123456789abcdef", None), "history"), 0.1)


async def test_the_seconds_are_the_age_of_the_newest_event_but_not_of_a_pause(monkeypatch):
    figures, now = Lag(), time.time()
    line = b'{"event_id":"1","timestamp":%d}\n'
    list(figures.collect())  # somebody reads them
    figures.note_stored(line % (now - 7200), 1)
    await measured(figures, Backlog(chunks=0), monkeypatch)
    assert values(figures)["seconds"] == 0
    await measured(figures, Backlog(chunks=5), monkeypatch)
    # the newest event is old, but just now nothing waited
    assert 0 <= values(figures)["seconds"] < 60
    figures._idle_at = now - 3600
    assert 3600 <= values(figures)["seconds"] < 3700
    figures.note_stored(line % (now - 600), 1)
    assert 600 <= values(figures)["seconds"] < 700
    figures.note_stored(line % (now + 99999), 1)  # a clock that is ahead
    assert 0 <= values(figures)["seconds"] < 60


async def test_chunks_are_told_in_events_by_how_many_those_before_had(monkeypatch):
    figures = Lag()
    list(figures.collect())
    for _ in range(4):
        figures.note_stored(b"{}\n" * 30, 30)
    figures.note_stored(b"a line of a log\n", 0)
    await measured(figures, Backlog(chunks=100), monkeypatch)
    assert values(figures)["chunks"] == 100
    assert values(figures)["events"] == 100 * 120 / 5


@pytest.mark.parametrize("answer", [None, BrokerUnavailable("away; start it")])
async def test_what_the_broker_does_not_tell_is_left_out(monkeypatch, answer):
    figures = Lag()
    list(figures.collect())
    await measured(figures, Backlog(chunks=5), monkeypatch)
    await measured(figures, answer, monkeypatch)
    assert set(values(figures)) == {"seconds", "raytrail_history_newest_event_timestamp_seconds"}
    # what waits here is known all the same
    figures._idle_at -= 100
    figures.follow_queue(lambda: 1)
    assert values(figures)["seconds"] >= 100


async def test_nobody_is_asked_where_nobody_reads(monkeypatch):
    figures = Lag()
    await measured(figures, Backlog(chunks=5), monkeypatch)
    assert "chunks" not in values(figures)


@pytest.mark.parametrize(
    ("lines", "time_s"),
    [
        (b'{"a":"\\"timestamp\\":1"}\n', 0),
        (b'{"timestamp":1795419640}\n{"event_data":{},"timestamp":1795419700}\n', 1795419700),
        (b'{"timestamp":"2026-11-23T22:40:41.936644468Z","x":{}}\n', 1795473641),
        (b'{"timestamp":"2026-02-30T22:40:41Z"}\n', 0),
        (b'{"timestamp":"yesterday"}\n', 0),
        (b'{"timestamp":1795419640}\n' + b"x" * 5000, 0),
        (b"", 0),
    ],
)
def test_the_time_of_a_chunks_last_event_is_found_at_its_end(lines, time_s):
    assert lag._last_time(lines) == time_s
