"""The agent between real files and a broker that comes and goes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from raytrail import agent
from raytrail.config import AgentConfig, TailConfig
from raytrail.errors import BrokerUnavailable, PublishError
from raytrail.event import Chunk
from raytrail.tail import Checkpoint, Tailer

SESSION = "session_2026-11-23_07-40-30_867494_13129"
TAIL = TailConfig(poll_seconds=0.001, sweep_seconds=0.01, chunk_bytes=1024)
AGENT = AgentConfig(retry_seconds=0.01, in_flight_bytes=4096)


class Broker:
    """Keeps what is published; away, slow or refusing as told."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.here = asyncio.Event()
        self.here.set()
        self.error: PublishError | None = None
        self.refused = 0
        self.refuses: Callable[[Chunk], bool] = lambda chunk: True
        self.under_way = self.most_under_way = 0

    async def publish(self, chunk: Chunk) -> None:
        self.under_way += len(chunk.data)
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await self.here.wait()
            await asyncio.sleep(0)
            if self.error and self.refuses(chunk):
                self.refused += 1
                raise self.error
            self.chunks.append(chunk)
        finally:
            self.under_way -= len(chunk.data)

    @property
    def lines(self) -> list[bytes]:
        return [line for chunk in self.chunks if chunk.segments for line in chunk.data.splitlines(keepends=True)]

    @property
    def reports(self) -> list[dict[str, int]]:
        lines = [line for chunk in self.chunks if not chunk.segments for line in chunk.data.splitlines()]
        return [msgspec.json.decode(line)["event_data"] for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    events = tmp_path / "ray" / SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    return events / "event_EXPORT_TASK_1.log"


@pytest.fixture
def tailed(tmp_path: Path, path: Path) -> Iterator[tuple[Tailer, Checkpoint]]:
    checkpoint = Checkpoint(tmp_path / "state" / "checkpoint.sqlite")
    tailer = Tailer(msgspec.structs.replace(TAIL, temp_dir=str(tmp_path / "ray"), sessions="all"), checkpoint)
    yield tailer, checkpoint
    tailer.close()
    checkpoint.close()


def lines(first: int, last: int, size: int = 0) -> list[bytes]:
    return [b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * size) for number in range(first, last)]


def append(path: Path, new: list[bytes]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(new))


@asynccontextmanager
async def running(
    tailed: tuple[Tailer, Checkpoint], broker: Broker, *, drain_seconds: float = 5, config: AgentConfig = AGENT
) -> AsyncIterator[asyncio.Task[int]]:
    stop = asyncio.Event()
    config = msgspec.structs.replace(config, drain_seconds=drain_seconds)
    task = asyncio.create_task(agent.run(*tailed, broker, lambda: config, stop))
    yield task
    stop.set()
    await asyncio.wait({task}, timeout=10)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_what_is_written_is_published_and_checkpointed(tailed, path, tmp_path):
    broker = Broker()
    append(path, lines(0, 3))
    async with running(tailed, broker) as task:
        await until(lambda: len(broker.lines) == 3)
        append(path, lines(3, 5))
        await until(lambda: len(broker.lines) == 5)
        await until(lambda: not tailed[1].due and tailed[0].unread_bytes() == 0)
    assert broker.lines == lines(0, 5)
    assert task.result() == 0
    (mark,) = tailed[1].marks()
    assert (mark.acknowledged, mark.events) == (path.stat().st_size, 5)


async def test_a_broker_that_goes_away_and_comes_back_gets_everything_once(tailed, path, caplog):
    broker = Broker()
    broker.error = BrokerUnavailable("broker 'x' is away")
    append(path, lines(0, 50, 300))
    async with running(tailed, broker) as task:
        await until(lambda: broker.refused > 10)
        assert broker.lines == []
        broker.error = None
        await until(lambda: len(broker.lines) == 50)
    assert sorted(broker.lines) == sorted(lines(0, 50, 300))
    assert task.result() == 0
    assert caplog.messages == ["broker 'x' is away; trying again every 0.01 seconds"]


async def test_while_the_broker_is_away_nothing_more_is_read(tailed, path):
    broker = Broker()
    broker.here.clear()
    append(path, lines(0, 100, 300))
    async with running(tailed, broker):
        await until(lambda: broker.under_way > 3000)
        await asyncio.sleep(0.2)  # time enough to read on, for one that would
        assert tailed[0].behind
        broker.here.set()
        await until(lambda: len(broker.lines) == 100)
    assert broker.most_under_way <= 4096


async def test_an_absent_broker_is_left_alone_for_a_while(tailed, path):
    broker = Broker()
    broker.error = BrokerUnavailable("away")
    append(path, lines(0, 50, 300))
    config = msgspec.structs.replace(AGENT, retry_seconds=60)
    async with running(tailed, broker, config=config, drain_seconds=0.01):
        await until(lambda: broker.refused)
        await asyncio.sleep(0.2)  # time enough to try again, for one that would
        assert broker.refused <= 4


async def test_a_chunk_larger_than_all_that_may_be_under_way_goes_alone(tailed, path):
    broker = Broker()
    append(path, lines(0, 10, 900))
    tailer, checkpoint = tailed
    tailer.configure(msgspec.structs.replace(tailer.config, chunk_bytes=8192))
    async with running((tailer, checkpoint), broker, config=msgspec.structs.replace(AGENT, in_flight_bytes=1024)):
        await until(lambda: len(broker.lines) == 10)


async def test_a_line_longer_than_all_that_may_be_under_way_goes_alone(tailed, path):
    broker = Broker()
    append(path, lines(0, 1, 10_000) + lines(1, 2))
    async with running(tailed, broker):
        await until(lambda: len(broker.lines) == 2)


async def test_chunks_are_published_at_the_same_time(tailed, path):
    broker = Broker()
    broker.here.clear()
    append(path, lines(0, 2, 900))
    async with running(tailed, broker):
        await until(lambda: broker.under_way > 1800)  # both of one look at the file
        append(path, lines(2, 4, 900))
        await until(lambda: broker.under_way > 3600)  # and two that were read while these were on their way
        broker.here.set()


async def test_a_chunk_that_is_refused_for_good_ends_the_agent(tailed, path):
    broker = Broker()
    broker.error = PublishError("chunk of 3 MB: over the broker's 1 MB; raise message.max.bytes")
    append(path, lines(0, 3))
    async with running(tailed, broker) as task:
        await until(task.done)
    with pytest.raises(PublishError, match="over the broker's 1 MB"):
        task.result()
    assert tailed[1].marks()[0].acknowledged == 0


async def test_told_to_stop_it_publishes_what_is_left(tailed, path):
    broker = Broker()
    broker.here.clear()
    append(path, lines(0, 50, 300))
    async with running(tailed, broker) as task:
        await until(lambda: broker.under_way > 0)
        append(path, lines(50, 60))
        asyncio.get_running_loop().call_later(0.05, broker.here.set)
    assert sorted(broker.lines) == sorted(lines(0, 50, 300) + lines(50, 60))
    assert task.result() == 0


async def test_what_cannot_be_published_in_time_is_the_next_agents(tailed, path):
    broker = Broker()
    append(path, lines(0, 3))
    async with running(tailed, broker, drain_seconds=0.1) as task:
        await until(lambda: len(broker.lines) == 3)
        broker.here.clear()
        append(path, lines(3, 5))
        await until(lambda: broker.under_way > 0)
    assert task.result() == len(b"".join(lines(3, 5)))
    assert broker.under_way == 0
    assert tailed[1].marks()[0].acknowledged == len(b"".join(lines(0, 3)))


async def test_its_last_report_says_that_all_is_published(tailed, path):
    broker = Broker()
    append(path, lines(0, 3))
    async with running(tailed, broker):
        await until(lambda: len(broker.lines) == 3)
    report = broker.reports[-1]
    assert report["written_bytes"] == report["published_bytes"] == path.stat().st_size
    assert report["published_events"] == 3


async def test_its_last_report_is_not_an_earlier_one(tailed, path):
    broker = Broker()
    append(path, lines(0, 3))
    async with running(tailed, broker, config=msgspec.structs.replace(AGENT, report_seconds=0.2)):
        await until(lambda: broker.reports)
        append(path, lines(3, 4))
    assert broker.reports[-1]["published_events"] == 4


async def test_its_last_report_is_not_an_earlier_one_where_it_is_told_to_stop_while_it_reads(
    tailed: tuple[Tailer, Checkpoint], path, monkeypatch
):
    """It has looked at all there is and found nothing; a line is written, and then it is told to stop."""
    broker, stop, take = Broker(), asyncio.Event(), tailed[0].take
    loop = asyncio.get_running_loop()

    def take_and_stop(room, wait):
        taken = take(room, wait)
        if broker.reports and not taken and not stop.is_set():
            append(path, lines(3, 4))
            loop.call_soon_threadsafe(stop.set)
        return taken

    monkeypatch.setattr(tailed[0], "take", take_and_stop)
    append(path, lines(0, 3))
    config = msgspec.structs.replace(AGENT, report_seconds=0.05, drain_seconds=5)
    await agent.run(*tailed, broker, lambda: config, stop)
    assert broker.reports[-1]["published_events"] == 4


class Clock:
    """The time, ahead by some seconds."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


async def test_a_report_that_is_due_as_all_is_published_is_sent(tailed: tuple[Tailer, Checkpoint], path, monkeypatch):
    broker, stop, clock, take = Broker(), asyncio.Event(), Clock(), tailed[0].take

    def take_late(room, wait):
        taken = take(room, wait)
        if taken == [] and broker.lines:
            clock.ahead += 3600
        return taken

    monkeypatch.setattr("raytrail.agent.loop.time", clock)
    monkeypatch.setattr(tailed[0], "take", take_late)
    append(path, lines(0, 3))
    stop.set()
    config = msgspec.structs.replace(AGENT, drain_seconds=1_000_000)
    await agent.run(*tailed, broker, lambda: config, stop)
    assert [report["published_events"] for report in broker.reports] == [3]


async def test_it_reports_as_often_as_it_must_say_that_ray_lives(tailed, path, monkeypatch):
    monkeypatch.setattr("raytrail.agent.loop.HEARTBEAT_SECONDS", 0.05)
    append(path, lines(0, 3))
    broker = Broker()
    async with running(tailed, broker, config=msgspec.structs.replace(AGENT, report_seconds=3600)):
        await until(lambda: broker.reports)


async def test_a_report_that_fails_is_sent_again(tailed, path):
    broker = Broker()
    broker.error = BrokerUnavailable("away")
    broker.refuses = lambda chunk: not chunk.segments
    append(path, lines(0, 3))
    async with running(tailed, broker, config=msgspec.structs.replace(AGENT, report_seconds=0.05)):
        await until(lambda: len(broker.lines) == 3 and broker.refused > 5)
        broker.error = None
        await until(lambda: broker.reports)
    assert broker.reports[0]["published_events"] == 3


async def test_drain_publishes_what_is_there_and_returns(tailed: tuple[Tailer, Checkpoint], path):
    broker = Broker()
    append(path, [*lines(0, 100, 300), b"half"])
    done: list[int] = []
    assert await asyncio.wait_for(agent.drain(*tailed, broker, AGENT, done.append), 10) == 4
    assert broker.lines == lines(0, 100, 300)
    assert sum(done) == len(b"".join(lines(0, 100, 300)))
    assert broker.reports[-1]["published_events"] == 100


async def test_drain_looks_at_everything_whenever_the_next_look_was_due(tailed, path):
    tailer, checkpoint = tailed
    for directory in tailer._followed.directories.values():
        directory.due = tailer._sessions_due = time.monotonic() + 3600
    tailer._lister.watch.close()
    tailer._lister.watch.__init__()  # it watches nothing
    append(path, lines(0, 3))
    broker = Broker()
    await agent.drain(tailer, checkpoint, broker, AGENT, lambda _: None)
    assert broker.lines == lines(0, 3)


async def test_all_that_was_acknowledged_is_checkpointed_at_the_end(
    tailed: tuple[Tailer, Checkpoint], path, monkeypatch
):
    monkeypatch.setattr(Checkpoint, "due", False)
    append(path, lines(0, 3))
    await agent.drain(*tailed, Broker(), AGENT, lambda _: None)
    assert not tailed[1]._dirty


async def test_an_agent_that_is_cancelled_has_checkpointed_what_was_acknowledged(
    tailed: tuple[Tailer, Checkpoint], path, tmp_path
):
    broker = Broker()
    append(path, lines(0, 3))
    task = asyncio.create_task(agent.run(*tailed, broker, lambda: AGENT, asyncio.Event()))
    await until(lambda: tailed[1].marks() and tailed[1].marks()[0].acknowledged)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tailed[1]._dirty


@pytest.fixture(autouse=True)
def _warnings_only(caplog):
    caplog.set_level(logging.WARNING)


async def test_a_drain_goes_on_when_all_room_was_taken_and_is_free_again(path, tailed):
    """A small chunk is acknowledged first and leaves no room for a large one; then the large ones are, together."""
    tailer, checkpoint = tailed
    path.with_name("event_EXPORT_NODE.log").write_bytes(b"n" * 49 + b"\n")
    path.write_bytes((b"t" * 249 + b"\n") * 400)
    together = asyncio.Event()

    class Late(Broker):
        async def publish(self, chunk: Chunk) -> None:
            if chunk.event_type == "TASK":
                asyncio.get_running_loop().call_later(0.01, together.set)
                await together.wait()
                together.clear()
            await super().publish(chunk)

    broker = Late()
    assert await agent.drain(tailer, checkpoint, broker, AGENT, lambda _: None) == 0
    assert len(broker.lines) == 401
