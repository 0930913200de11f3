"""What an agent publishes through: no line stops it, and no chunk is lost between two brokers."""

import asyncio
import logging
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrail.agent.outlet import Outlet
from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, PublishError
from raytrail.event import Chunk, Segment
from raytrail.pubsub import Guarantee


class Broker:
    """Keeps what it is sent, but refuses chunks with certain lines, and is away or slow as told."""

    guarantee: Guarantee = "at-least-once"

    def __init__(self, refuses=()):
        self.chunks = []
        self.refuses = set(refuses)
        self.here = asyncio.Event()
        self.here.set()
        self.error = None
        self.asked = self.closed = 0

    async def publish(self, chunk):
        self.asked += 1
        await self.here.wait()
        assert not self.closed, "published to a broker that was closed"
        if self.error:
            raise self.error
        if self.refuses & set(chunk.data.splitlines(keepends=True)):
            raise ChunkRefused(f"a chunk of {len(chunk.data)} bytes is refused")
        self.chunks.append(chunk)

    def subscribe(self, group, *, from_start=False):
        raise AssertionError("an agent reads from a broker")

    async def aclose(self):
        self.closed += 1


def never():
    raise AssertionError("nothing was refused")


def chunk_of(*files, event_type="TASK"):
    """Make a chunk of the given lines of each file; their segments begin anywhere."""
    segments, start = [], 0
    for number, lines in enumerate(files):
        start += 1000
        segments.append(Segment(f"1795420800-{number}", number % 2, start, sum(map(len, lines))))
    return Chunk(
        cluster="lab",
        session="session_1",
        node_id="aa" * 28,
        event_type=event_type,
        segments=tuple(segments),
        data=b"".join(line for lines in files for line in lines),
    )


def lines_of(chunk):
    return chunk.data.splitlines(keepends=True)


def places_of(chunk):
    """Return each line of a chunk with the place in a file that its segments say it has."""
    places = []
    for segment, data in chunk.parts():
        at = segment.start
        for line in bytes(data).splitlines(keepends=True):
            places.append((segment.file, segment.generation, at, line))
            at += len(line)
        assert at == segment.end, "a segment is not cut at a line's end"
    return places


LINES = st.lists(
    st.binary(max_size=6).map(lambda text: text.replace(b"\n", b"").replace(b"\r", b"") + b"\n"), min_size=1
)


@given(files=st.lists(LINES, min_size=1, max_size=5), data=st.data())
@settings(deadline=None)
def test_of_any_chunk_exactly_the_refused_lines_become_dead_letters_and_every_line_keeps_its_place(files, data):
    chunk = chunk_of(*files)
    refused = data.draw(st.sets(st.sampled_from(sorted(set(lines_of(chunk))))))

    async def publish():
        broker, dead = Broker(refused), Broker()
        outlet = Outlet(broker, lambda: dead)
        await outlet.publish(chunk)
        return outlet, broker, dead

    outlet, broker, dead = asyncio.run(publish())
    for part in broker.chunks + dead.chunks:
        assert sum(segment.length for segment in part.segments) == len(part.data)
        assert all(segment.length for segment in part.segments)
        assert msgspec.structs.replace(chunk, segments=part.segments, data=part.data) == part
    assert [len(lines_of(part)) for part in dead.chunks] == [1] * len(dead.chunks)
    buried = [place for part in dead.chunks for place in places_of(part)]
    kept = [place for part in broker.chunks for place in places_of(part)]
    assert buried == [place for place in places_of(chunk) if place[-1] in refused]
    assert kept == [place for place in places_of(chunk) if place[-1] not in refused]
    assert (outlet.refused_events, outlet.refused_bytes) == (len(buried), sum(len(place[-1]) for place in buried))
    assert (outlet.in_flight_bytes, outlet.failures, outlet.failure) == (0, 0, "")


async def test_one_refused_line_among_many_costs_few_attempts():
    lines = [b"%04d\n" % number for number in range(1024)]
    broker = Broker([lines[700]])
    await Outlet(broker, Broker).publish(chunk_of(lines))
    assert len(broker.chunks) == 10
    assert broker.asked == 21


async def test_a_refused_line_is_said_with_its_place(caplog):
    broker = Broker([b"bad\n"])
    await Outlet(broker, Broker).publish(chunk_of([b"good\n", b"bad\n"], event_type="ACTOR"))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.ERROR,
            "a chunk of 4 bytes is refused; a line of 4 bytes (ACTOR) at offset 1005 of 1795420800-0 is kept "
            "with the dead letters, and shows as missing in the ledger",
        )
    ]


async def test_a_report_that_is_refused_is_a_dead_letter_too():
    report = msgspec.structs.replace(chunk_of([b"x\n"]), segments=(), data=b"one\nbad\n")
    broker, dead = Broker([b"bad\n"]), Broker()
    await Outlet(broker, lambda: dead).publish(report)
    assert ([part.data for part in broker.chunks], [part.data for part in dead.chunks]) == ([b"one\n"], [b"bad\n"])


async def test_dead_letters_are_made_at_the_first_one_and_closed_with_the_broker():
    made = []

    def make():
        made.append(Broker())
        return made[-1]

    broker = Broker([b"bad\n"])
    outlet = Outlet(broker, make)
    await outlet.publish(chunk_of([b"good\n"]))
    assert made == []
    await outlet.publish(chunk_of([b"bad\n"]))
    await outlet.publish(chunk_of([b"bad\n"]))
    assert len(made) == 1
    await outlet.aclose()
    await outlet.aclose()
    assert broker.closed
    assert made[0].closed


async def test_a_line_that_cannot_be_buried_is_not_done_with():
    dead = Broker()
    dead.error = BrokerUnavailable("no room on that disk")
    outlet = Outlet(Broker([b"bad\n"]), lambda: dead)
    with pytest.raises(BrokerUnavailable, match="no room on that disk"):
        await outlet.publish(chunk_of([b"good\n", b"bad\n"]))
    assert (outlet.refused_events, outlet.failures, outlet.failure) == (0, 1, "no room on that disk")


async def test_a_failure_is_told_until_something_is_stored_again():
    broker = Broker()
    outlet = Outlet(broker, never)
    began = outlet.stored_at
    broker.error = BrokerUnavailable("away")
    for _ in range(2):
        with pytest.raises(PublishError):
            await outlet.publish(chunk_of([b"x\n"]))
    assert (outlet.failure, outlet.failures, outlet.stored_at, outlet.in_flight_bytes) == ("away", 2, began, 0)
    broker.error = None
    await outlet.publish(chunk_of([b"x\n"]))
    assert (outlet.failure, outlet.failures) == ("", 2)
    assert outlet.stored_at > began


@pytest.mark.parametrize("error", [ConfigError("401"), PublishError("no such topic")])
async def test_what_never_worked_rises_and_what_did_or_has_company_is_waited_for(error):
    broker = Broker()
    outlet, patient = Outlet(broker, never), Outlet(broker, never, patient=True)
    broker.error = error
    with pytest.raises(type(error), match=str(error)) as caught:
        await outlet.publish(chunk_of([b"x\n"]))
    assert caught.value is error
    assert (outlet.failure, outlet.failures) == (str(error), 1)
    with pytest.raises(BrokerUnavailable, match=str(error)):
        await patient.publish(chunk_of([b"x\n"]))
    broker.error = None
    await outlet.publish(chunk_of([b"x\n"]))
    broker.error = error
    with pytest.raises(BrokerUnavailable, match=str(error)):
        await outlet.publish(chunk_of([b"x\n"]))


async def under_way(broker, count):
    for _ in range(100):
        if broker.asked == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{broker.asked} are under way, not {count}")


async def test_what_is_under_way_when_the_broker_is_changed_ends_at_the_old_one_which_is_then_closed():
    old, new = Broker(), Broker()
    old.here.clear()
    outlet = Outlet(old, never)
    first = [asyncio.ensure_future(outlet.publish(chunk_of([b"%d\n" % number]))) for number in range(3)]
    await under_way(old, 3)
    assert outlet.in_flight_bytes == 6
    await outlet.change(new)
    await outlet.publish(chunk_of([b"later\n"]))
    assert not old.closed
    old.here.set()
    await asyncio.gather(*first)
    assert [part.data for part in old.chunks] == [b"0\n", b"1\n", b"2\n"]
    assert [part.data for part in new.chunks] == [b"later\n"]
    assert (old.closed, new.closed, outlet.in_flight_bytes) == (1, 0, 0)


async def test_a_broker_with_nothing_under_way_is_closed_at_the_change():
    old, new = Broker(), Broker()
    outlet = Outlet(old, never)
    await outlet.publish(chunk_of([b"x\n"]))
    await outlet.change(new)
    assert (old.closed, new.closed) == (1, 0)
    await outlet.aclose()
    assert (old.closed, new.closed) == (1, 1)


async def test_what_fails_at_the_old_broker_is_the_agents_to_send_again_and_goes_to_the_new_one():
    old, new = Broker(), Broker()
    old.here.clear()
    outlet = Outlet(old, never)
    chunk = chunk_of([b"x\n"])
    sending = asyncio.ensure_future(outlet.publish(chunk))
    await under_way(old, 1)
    await outlet.change(new)
    old.error = BrokerUnavailable("gone for good")
    old.here.set()
    with pytest.raises(BrokerUnavailable):
        await sending
    await outlet.publish(chunk)
    assert new.chunks == [chunk]
    assert old.closed == 1


async def test_a_chunk_is_halved_at_one_broker_though_it_is_changed_meanwhile():
    old, new = Broker([b"bad\n"]), Broker()
    old.here.clear()
    dead = Broker()
    outlet = Outlet(old, lambda: dead)
    chunk = chunk_of([b"a\n", b"bad\n", b"c\n"])
    sending = asyncio.ensure_future(outlet.publish(chunk))
    await under_way(old, 1)
    await outlet.change(new)
    old.here.set()
    await sending
    assert Counter(line for part in old.chunks + dead.chunks for line in lines_of(part)) == Counter(lines_of(chunk))
    assert new.chunks == []


@pytest.mark.parametrize("changed", [False, True])
async def test_brokers_that_still_have_something_under_way_are_closed_at_the_end(changed):
    old, new = Broker(), Broker()
    old.here.clear()
    outlet = Outlet(old, never)
    sending = asyncio.ensure_future(outlet.publish(chunk_of([b"x\n"])))
    await under_way(old, 1)
    if changed:
        await outlet.change(new)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await outlet.aclose()
    assert (bool(old.closed), bool(new.closed), outlet.in_flight_bytes) == (True, changed, 0)
