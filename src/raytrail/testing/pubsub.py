"""
Check on a real pub/sub backend what every one must do.

>>> async def test_keeps_its_promises(url):
...     await check_pubsub(lambda: connect(url))
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from uuid import uuid4

import msgspec

from raytrail.event import Chunk, Segment
from raytrail.pubsub import Delivery, PubSub
from raytrail.pubsub.backlog import Measurable

_DEADLINE_SECONDS = 60.0  # joining a group takes some brokers half a minute
_CALL_SECONDS = 0.2


async def check_pubsub(make: Callable[[], PubSub]) -> None:
    """
    Check what `raytrail.pubsub.PubSub` promises.

    A repeated chunk breaks no promise, unless it and all before it were acked and their reader then left in
    good order. A backend that is at-most-once is only asked for what it can keep: that whoever is listening
    hears everything, whole and in order.

    Args:
        make: Makes a connection to one broker, which holds nothing yet. Called many times.

    Raises:
        AssertionError: A promise is broken. The text says which.
    """
    guarantee = make().guarantee
    assert guarantee in ("at-least-once", "at-most-once"), f"guarantee is {guarantee!r}, which promises nothing"
    if guarantee == "at-most-once":
        await _check_listening(make)
    else:
        await _check_waiting(make)
        await _check_whole_and_in_order(make)
        await _check_published_at_once(make)
        await _check_groups(make)
        await _check_acks(make)
        await _check_leaving(make)
        await _check_backlog(make)
    await _check_closing_twice(make)


async def _check_waiting(make: Callable[[], PubSub]) -> None:
    session = _session()
    first, second = _numbered(session, 2)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        for chunk, promise in (
            (first, "a reader that came before the first chunk did not get it"),
            (second, "a reader that waited did not get what was published later"),
        ):
            waiting = asyncio.ensure_future(_take(deliveries, [chunk], promise))
            await asyncio.wait([waiting], timeout=_CALL_SECONDS)  # most likely it does wait by then
            await _publish(make, [chunk])
            await waiting


async def _check_whole_and_in_order(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = _samples(session)
    await _publish(make, sent)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        _compare(await _take(deliveries, sent, "not all that was published arrived"), sent)


async def _check_published_at_once(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = [_chunk(session, number, file=f"file{number % 7}") for number in range(200)]
    async with aclosing(make()) as first, aclosing(make()) as other:
        publishers = (first, other)
        await asyncio.gather(*(publishers[number % 7 % 2].publish(chunk) for number, chunk in enumerate(sent)))
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        _compare(await _take(deliveries, sent, "not all that was published at once arrived"), sent)


async def _check_groups(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = _numbered(session, 3)
    await _publish(make, sent)
    for group in (f"{session}-a", f"{session}-b"):
        async with aclosing(make()) as reader, aclosing(reader.subscribe(group)) as deliveries:
            taken = await _take(deliveries, sent, "each group reads everything, but one did not")
            _compare(taken, sent)
            await _ack(taken)
    async with (
        aclosing(make()) as reader,
        aclosing(reader.subscribe(f"{session}-a", from_start=True)) as deliveries,
    ):
        _compare(await _take(deliveries, sent, "from_start did not read again what was acked"), sent)


async def _check_acks(make: Callable[[], PubSub]) -> None:
    session = _session()
    *sent, mark, last = _numbered(session, 6)
    await _publish(make, sent)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = await _take(deliveries, sent, "not all that was published arrived")
        await _ack(delivery for delivery in reversed(taken) if delivery.chunk in (sent[0], sent[2]))

    await _publish(make, [mark])
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = await _take(deliveries, [sent[1], sent[3], mark], "what was not acked did not come again")
        arrived = {delivery.chunk for delivery in taken}
        assert sent[0] not in arrived, (
            "the first chunk came again, though it was acked and its reader left in good order"
        )
        await _ack(reversed(taken))

    await _publish(make, [last])
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = await _take(deliveries, [last], "after acks in reverse order, what is new did not arrive")
        arrived = {delivery.chunk for delivery in taken}
        assert arrived == {last}, f"{len(arrived) - 1} chunks came again, though all were acked, the last one first"
        await _ack(taken)
        await _ack(taken)  # harmless


async def _check_backlog(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = _numbered(session, 3)
    await _publish(make, sent)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        if not isinstance(reader, Measurable):
            return
        taken = await _take(deliveries, sent, "not all that was published arrived")
        backlog = await reader.backlog(session)
        if backlog is None:
            return  # it cannot say
        assert not backlog.is_empty, "nothing was acked, and the backlog is empty"
        await _ack(taken)
        # with what other checks have published; and some write acks down while they are read
        reading = asyncio.ensure_future(_ack_all(deliveries))
        deadline = time.monotonic() + _DEADLINE_SECONDS
        try:
            while not ((backlog := await reader.backlog(session)) and backlog.is_empty):
                assert time.monotonic() < deadline, f"all was acked, and the backlog stays {backlog}"
                await asyncio.sleep(_CALL_SECONDS)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _check_leaving(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = _numbered(session, 2)
    await _publish(make, sent)
    async with aclosing(make()) as reader:
        for times in ("first", "second", "third"):
            async with aclosing(reader.subscribe(session)) as deliveries:
                promise = f"joined for the {times} time, with nothing acked, a group did not read everything"
                await _take(deliveries, sent, promise)
        deliveries = reader.subscribe(session)
        await _take(deliveries, sent, "joined again, a group did not read everything")
        waiting = asyncio.ensure_future(_next(deliveries))
        await asyncio.wait([waiting], timeout=_CALL_SECONDS)
        waiting.cancel()  # as a process does that is told to stop
        with suppress(asyncio.CancelledError):
            await waiting
        await deliveries.aclose()
        async with aclosing(reader.subscribe(session)) as deliveries:
            await _take(deliveries, sent, "joined again after a reader was cancelled, a group did not read everything")


async def _check_closing_twice(make: Callable[[], PubSub]) -> None:
    unused, used = make(), make()
    await used.publish(_chunk(_session(), 0))
    for pubsub in (unused, used):
        await pubsub.aclose()
        await pubsub.aclose()


async def _check_listening(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = _samples(session)
    call = _chunk(session, 0, file="call")
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        promise = "whoever listens hears what is published, but nothing was heard"
        listening = asyncio.ensure_future(_take(deliveries, [call], promise))
        while not listening.done():  # nobody says when it has begun to listen
            await _publish(make, [call])
            await asyncio.wait([listening], timeout=_CALL_SECONDS)
        await listening
        listening = asyncio.ensure_future(_take(deliveries, sent, "whoever listens did not hear everything"))
        await _publish(make, sent)
        _compare([delivery for delivery in await listening if delivery.chunk != call], sent)


def _session() -> str:
    return f"session_{uuid4().hex}"


def _chunk(session: str, number: int, *, file: str = "file0", data: bytes = b"") -> Chunk:
    data = data or b'{"event_data":{"number":%06d}}\n' % number
    return Chunk(
        cluster="contract",
        session=session,
        node_id="0b" * 28,
        event_type="TASK",
        segments=(Segment(f"1795420800-{file}", 0, number * len(data), len(data)),),
        data=data,
    )


def _log(session: str, number: int, data: bytes) -> Chunk:
    return msgspec.structs.replace(_chunk(session, number, file="log", data=data), event_type="LOG")


def _numbered(session: str, count: int) -> list[Chunk]:
    return [_chunk(session, number) for number in range(count)]


def _samples(session: str) -> list[Chunk]:
    lines = b'{"a":"%b"}\n' % ("ü\U0001f40d" * 100).encode()
    report = b'{"event_data":{"file":"x"},"source_type":"RAYTRAIL_FILE"}\n'
    rest = {"session": session, "node_id": "0b" * 28}
    return [
        *_numbered(session, 3),
        _chunk(session, 0, file="five-megabytes", data=b"x" * (5 * 1024 * 1024 - 1) + b"\n"),
        _chunk(session, 0, file="garbage", data=bytes(range(256)) + b"\n#raytrail \r\n\n"),
        *(_chunk(session, number, file="other") for number in range(3)),
        # bytes of a log end anywhere
        *(_log(session, number, b"no line\x00\xff, and no end of one") for number in range(2)),
        Chunk(
            cluster="Zürich 東京 \U0001f40d, a:b=c\t\\\"'%",
            event_type="DRIVER_JOB",
            segments=(Segment("1795420800-a", 0, 0, 10), Segment("0000000000-b", 3, 7, len(lines) - 10)),
            data=lines,
            **rest,
        ),
        Chunk(cluster="", event_type="FILE", segments=(), data=report, **rest),
        *(_chunk(session, number) for number in range(3, 6)),
    ]


async def _publish(make: Callable[[], PubSub], chunks: Iterable[Chunk]) -> None:
    async with aclosing(make()) as publisher:
        for chunk in chunks:
            await publisher.publish(chunk)


async def _take(deliveries: AsyncGenerator[Delivery, None], wanted: Sequence[Chunk], promise: str) -> list[Delivery]:
    """Take deliveries until all `wanted` have come. Chunks that other checks have published are passed over."""
    missing, taken = Counter(wanted), list[Delivery]()
    sessions = {chunk.session for chunk in wanted}
    while +missing:
        try:
            delivery = await asyncio.wait_for(_next(deliveries), _DEADLINE_SECONDS)
        except asyncio.TimeoutError:
            raise AssertionError(
                f"{promise}: {missing.total()} of {len(wanted)} had not come after "
                f"{_DEADLINE_SECONDS} seconds; {[_brief(chunk) for chunk in +missing][:5]}"
            ) from None
        except StopAsyncIteration:
            raise AssertionError(f"{promise}: the subscription ended by itself") from None
        chunk = delivery.chunk
        if chunk.session not in sessions:
            await delivery.ack()
            continue
        assert isinstance(chunk, Chunk), f"a chunk came as one that cannot be read: {chunk.reason}"
        missing[chunk] = 0
        taken.append(delivery)
    return taken


async def _next(deliveries: AsyncGenerator[Delivery, None]) -> Delivery:
    return await deliveries.__anext__()


async def _ack(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        await delivery.ack()


async def _ack_all(deliveries: AsyncGenerator[Delivery, None]) -> None:
    async for delivery in deliveries:
        await delivery.ack()


def _compare(taken: Sequence[Delivery], sent: Sequence[Chunk]) -> None:
    arrived = list(dict.fromkeys(delivery.chunk for delivery in taken if isinstance(delivery.chunk, Chunk)))
    altered = [chunk for chunk in arrived if chunk not in sent]
    assert not altered, f"a chunk came that nobody had published, so one was altered: {_brief(altered[0])}"
    for file in {_file(chunk): None for chunk in sent}:
        expected = [_brief(chunk) for chunk in sent if _file(chunk) == file]
        order = [_brief(chunk) for chunk in arrived if _file(chunk) == file]
        assert order == expected, f"chunks of one file changed order: {order} is not {expected}"


def _file(chunk: Chunk) -> str:
    return chunk.segments[0].file if chunk.segments else ""


def _brief(chunk: Chunk) -> str:
    return f"{chunk.event_type} {chunk.headers()['segments'] or 'without segments'} ({len(chunk.data)} bytes)"
