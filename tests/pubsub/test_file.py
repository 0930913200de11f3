import asyncio
import errno
import fcntl
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from tests.brokers.promises import connected

from raytrail import event
from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import UNKNOWN_SESSION, Chunk, Segment, Unreadable
from raytrail.pubsub import file
from raytrail.pubsub.file import FilePubSub, frames, layout, retention, writer
from raytrail.pubsub.file import place as places

pytestmark = pytest.mark.anyio

connect = partial(connected, FilePubSub)
SECONDS = 10  # a deadline, not a wait


FIELDS = {"cluster": "c", "session": "session_1", "node_id": "0b", "event_type": "TASK"}


def chunk(number, lines=1):
    number += 1000  # so that all are of one length
    data = b'{"number":%d}\n' % number * lines
    segments = (Segment("1795420800-f", 0, number * len(data), len(data)),)
    return Chunk(**FIELDS, segments=segments, data=data)


async def publish(url, *chunks):
    async with aclosing(connect(url)) as pubsub:
        for sent_chunk in chunks:
            await pubsub.publish(sent_chunk)


async def take(url, count, group="g", *, ack=True, from_start=False):
    """Read `count` chunks as a member of `group`."""
    async with aclosing(connect(url).subscribe(group, from_start=from_start)) as deliveries:
        return await take_from(deliveries, count, ack=ack)


async def take_from(deliveries, count, *, ack=True):
    taken: list[Chunk | Unreadable] = []
    while len(taken) < count:
        delivery = await asyncio.wait_for(anext(deliveries), SECONDS)
        taken.append(delivery.chunk)
        if ack:
            await delivery.ack()
    return taken


async def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def chunk_files(directory):
    return sorted(Path(directory).glob("*.chunks"))


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}"


# -- what is on disk


async def test_a_frame_is_laid_out_as_the_module_draws_it(url, tmp_path):
    await publish(url, chunk(7))
    (path,) = chunk_files(tmp_path)
    assert path.name.startswith("00000000000000000001-")
    assert path.read_bytes() == (
        b"#raytrail 00000145 000000000016 64585c59 8c0a3910\n"
        b'#{"raytrail-version": "1", "cluster": "c", "session": "session_1", "node_id": "0b", '
        b'"event_type": "TASK", "segments": "1795420800-f:0:16112:16"}\n'
        b'{"number":1007}\n'
    )


async def test_grep_prints_plain_ndjson(url, tmp_path):
    await publish(url, chunk(1, lines=2), chunk(2))
    printed = await asyncio.to_thread(subprocess.check_output, ["grep", "-hv", "^#", *chunk_files(tmp_path)])
    assert printed == chunk(1, lines=2).data + chunk(2).data


async def test_a_name_that_is_not_utf_8_survives(url):
    odd = Chunk(cluster="a\udcff", session="", node_id="", event_type="", segments=(), data=b"")
    await publish(url, odd)
    assert await take(url, 1) == [odd]


async def test_a_full_file_is_followed_by_another(tmp_path):
    url = f"file://{tmp_path}?file_bytes=1000"
    sent = [chunk(number) for number in range(30)]
    await publish(url, *sent)
    assert [path.name[:20] for path in chunk_files(tmp_path)] == [f"{n:020}" for n in range(1, 7)]
    assert all(1000 <= path.stat().st_size < 1300 for path in chunk_files(tmp_path)[:-1])
    assert await take(url, 30) == sent


async def test_a_successor_is_read_after_the_one_it_followed(url):
    for number in range(12):
        await publish(url, chunk(number))
    assert await take(url, 12) == [chunk(number) for number in range(12)]


async def test_what_is_published_while_sizes_are_taken_keeps_its_order(url, tmp_path, monkeypatch):
    old, new = connect(url), connect(url)
    await old.publish(chunk(0))
    await new.publish(chunk(1))
    await take(url, 2)
    place, look = places.Place(tmp_path, "g", from_start=False), frames.Source.look
    late = [(old, chunk(2)), (new, chunk(3))]

    def look_and_publish(source):
        look(source)
        while late:
            publisher, late_chunk = late.pop(0)
            publisher._writer.append([late_chunk])

    monkeypatch.setattr(frames.Source, "look", look_and_publish)
    order: list[Chunk | Unreadable] = []
    while len(order) < 2:
        for source in place.look():
            order += [Chunk.from_wire(frame.headers or {}, frame.data) for frame in source.read()]
    assert order == [chunk(2), chunk(3)]
    place.leave()
    await old.aclose()
    await new.aclose()


# -- torn and damaged


async def test_no_cut_of_a_dead_publishers_file_gives_a_torn_frame(url, tmp_path):
    sent = [chunk(number) for number in range(3)]
    await publish(url, *sent)
    (path,) = chunk_files(tmp_path)
    whole = path.read_bytes()
    ends = [whole.index(sent_chunk.data) + len(sent_chunk.data) for sent_chunk in sent]
    await publish(url, chunk(99))
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        survive = [sent_chunk for sent_chunk, end in zip(sent, ends, strict=True) if end <= cut]
        source = frames.Source(path, 0)
        source.look()
        read_frames = [frame for some in iter(source.read, []) for frame in some]
        assert [Chunk.from_wire(f.headers, f.data) for f in read_frames if f.headers] == survive
        assert all(frame.torn for frame in read_frames if not frame.headers), cut
        assert source.position == cut
    assert await take(url, 3) == [*sent[:2], chunk(99)]


@contextmanager
def living_publisher(path):
    """The lock of a publisher that is in the middle of a write."""
    with path.open("ab", buffering=0) as appended:
        fcntl.flock(appended, fcntl.LOCK_EX)
        yield appended


async def test_a_reader_waits_for_the_rest_of_a_frame_while_its_publisher_lives(url, tmp_path):
    await publish(url, chunk(1), chunk(2))
    (path,) = chunk_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(b"")
    with living_publisher(path) as appended:
        async with aclosing(connect(url).subscribe("g")) as deliveries:
            waiting = asyncio.ensure_future(take_from(deliveries, 2))
            for cut in range(0, len(whole), 40):
                appended.write(whole[cut : cut + 40])
                await asyncio.wait([waiting], timeout=0.01)
            assert await waiting == [chunk(1), chunk(2)]


async def test_a_reader_waits_for_a_file_that_was_just_born(url, tmp_path):
    await publish(url, chunk(1))
    (path,) = chunk_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(b"")
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        waiting = asyncio.ensure_future(take_from(deliveries, 1))
        assert not (await asyncio.wait([waiting], timeout=0.05))[0]
        with living_publisher(path) as appended:
            appended.write(whole)
            assert await waiting == [chunk(1)]


async def test_lines_that_look_like_a_frame_are_not_taken_for_one(url, tmp_path, caplog):
    """Neither while they are being written, nor after their publisher died, nor when they are damaged."""
    await publish(url, chunk(1))
    (inner,) = chunk_files(tmp_path)
    inner_frame = inner.read_bytes()
    inner.unlink()
    lines = b"\n" + inner_frame + chunk(2, lines=100).data
    outer = Chunk(**FIELDS, segments=(), data=lines)
    await publish(url, outer)
    (path,) = chunk_files(tmp_path)
    whole = path.read_bytes()

    path.write_bytes(b"")
    with living_publisher(path) as appended:
        appended.write(whole[:-10])
        async with aclosing(connect(url).subscribe("living")) as deliveries:
            waiting = asyncio.ensure_future(take_from(deliveries, 1))
            assert not (await asyncio.wait([waiting], timeout=0.05))[0]
            appended.write(whole[-10:])
            assert await waiting == [outer]

    path.write_bytes(whole[:-10])
    await publish(url, chunk(3))
    assert await take(url, 1, "dead") == [chunk(3)]
    assert not caplog.messages

    path.write_bytes(whole[:-3] + b"?" + whole[-2:])
    assert await take(url, 1, "damaged") == [chunk(3)]
    assert len(caplog.messages) == 1


async def test_a_reader_goes_on_once_the_publisher_died_in_a_write(url, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    await publish(url, chunk(1), chunk(2))
    (path,) = chunk_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with living_publisher(path):
        await publish(url, chunk(3))
        deliveries = connect(url).subscribe("g")
        assert await take_from(deliveries, 2) == [chunk(1), chunk(3)]
        waiting = asyncio.ensure_future(take_from(deliveries, 1))
        assert not (await asyncio.wait([waiting], timeout=0.2))[0]
        assert not caplog.messages
    await publish(url, chunk(2))
    assert await waiting == [chunk(2)]
    await deliveries.aclose()
    torn = len(path.read_bytes()) - path.read_bytes().rindex(b"#raytrail")
    assert caplog.messages == [
        f"{path}: {torn} bytes at its end are a write that never finished; they were never called stored"
    ]
    positions = json.loads((tmp_path / "groups/g.json").read_bytes())
    assert positions == {p.name: p.stat().st_size for p in chunk_files(tmp_path)}


@pytest.mark.parametrize("place", ["magic", "headers length", "data length", "checksum", "headers", "data"])
async def test_a_damaged_frame_is_set_aside_aloud_and_the_rest_is_read(place, url, tmp_path, caplog):
    await publish(url, *(chunk(number) for number in range(4)))
    await publish(url, chunk(4))
    path = chunk_files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    frame = len(content) // 4
    offset = {"magic": 3, "headers length": 11, "data length": 23, "checksum": 33, "headers": 60, "data": -5}
    content[frame * (2 if place == "data" else 1) + offset[place]] ^= 0x01
    path.write_bytes(content)
    pubsub = connect(url)
    async with aclosing(pubsub.subscribe("g")) as deliveries:
        assert await take_from(deliveries, 4) == [chunk(0), chunk(2), chunk(3), chunk(4)]
    assert pubsub.damaged_bytes == frame
    assert caplog.messages == [
        f"{path}: bytes {frame} to {2 * frame} are damaged and set aside; group 'g' goes on after them, "
        f"and its ledger shows what is missing"
    ]
    await publish(url, chunk(5))
    assert await take(url, 1) == [chunk(5)], "what was set aside counts as acknowledged"


async def test_a_damaged_last_frame_of_a_dead_publisher_is_set_aside_aloud(url, tmp_path, caplog):
    await publish(url, chunk(0), chunk(1))
    await publish(url, chunk(2))
    path = chunk_files(tmp_path)[0]
    half = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:half] + bytes(half))  # as a power cut may leave it
    pubsub = connect(url)
    async with aclosing(pubsub.subscribe("g")) as deliveries:
        assert await take_from(deliveries, 2) == [chunk(0), chunk(2)]
    assert pubsub.damaged_bytes == half
    assert len(caplog.messages) == 1


async def test_damage_in_a_living_publishers_file_does_not_hold_up_what_it_writes_next(url, tmp_path):
    async with aclosing(connect(url)) as publisher:
        await publisher.publish(chunk(0))
        (path,) = chunk_files(tmp_path)
        with path.open("r+b") as damaged:
            damaged.write(b"?")
        pubsub = connect(url)
        async with aclosing(pubsub.subscribe("g")) as deliveries:
            waiting = asyncio.ensure_future(take_from(deliveries, 1))
            assert not (await asyncio.wait([waiting], timeout=0.2))[0]
            await publisher.publish(chunk(1))
            assert await waiting == [chunk(1)]
        assert pubsub.damaged_bytes == path.stat().st_size // 2


async def test_a_half_written_frame_after_damage_is_waited_for(url, tmp_path):
    await publish(url, chunk(0), chunk(1))
    (path,) = chunk_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(b"")
    with living_publisher(path) as appended:
        appended.write(b"?" + whole[1:-5])
        async with aclosing(connect(url).subscribe("g")) as deliveries:
            waiting = asyncio.ensure_future(take_from(deliveries, 1))
            assert not (await asyncio.wait([waiting], timeout=0.05))[0]
            appended.write(whole[-5:])
            assert await waiting == [chunk(1)]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_frame_that_begins_at_the_border_of_two_blocks_is_found_after_damage(cut, url, tmp_path):
    await publish(url, Chunk(**FIELDS, segments=(), data=b""))
    (path,) = chunk_files(tmp_path)
    filler = bytes(frames._BLOCK_BYTES - path.stat().st_size + 1 - cut)
    path.unlink()
    await publish(url, Chunk(**FIELDS, segments=(), data=filler), chunk(1))
    (path,) = chunk_files(tmp_path)
    assert path.read_bytes().rindex(b"#raytrail ") == frames._BLOCK_BYTES + 1 - cut
    with path.open("r+b") as damaged:
        damaged.write(b"?")
    pubsub = connect(url)
    async with aclosing(pubsub.subscribe("g")) as deliveries:
        assert await take_from(deliveries, 1) == [chunk(1)]
    assert pubsub.damaged_bytes == frames._BLOCK_BYTES + 1 - cut


async def test_damage_that_holds_the_magic_is_set_aside_in_one_piece(url, tmp_path, caplog):
    await publish(url, Chunk(**FIELDS, segments=(), data=b"#raytrail \n" * 3), chunk(1))
    (path,) = chunk_files(tmp_path)
    with path.open("r+b") as damaged:
        damaged.write(b"?")
    assert await take(url, 1) == [chunk(1)]
    assert len(caplog.messages) == 1


async def test_a_frame_longer_than_a_block_is_found_after_damage(url, tmp_path):
    await publish(url, chunk(0, lines=200_000), chunk(1, lines=200_000))
    (path,) = chunk_files(tmp_path)
    with path.open("r+b") as damaged:
        damaged.seek(3_000_000)
        damaged.write(b"?")
    assert await take(url, 1) == [chunk(1, lines=200_000)]


async def test_a_chunk_of_a_newer_format_comes_as_what_cannot_be_read_and_stops_nobody(url, tmp_path, monkeypatch):
    await publish(url, chunk(0))
    monkeypatch.setattr(event, "FORMAT_VERSION", "2")
    await publish(url, chunk(1))
    monkeypatch.undo()
    await publish(url, chunk(2))
    for expected in ([chunk(0), chunk(2)], []):
        async with aclosing(connect(url).subscribe("g")) as deliveries:
            if expected:
                first, newer, last = [await anext(deliveries) for _ in range(3)]
                assert [first.chunk, last.chunk] == expected
                assert (newer.chunk.headers, newer.chunk.data) == (
                    {**chunk(1).headers(), "raytrail-version": "2"},
                    chunk(1).data,
                )
                assert isinstance(newer.chunk, Unreadable)
                assert newer.chunk.reason == ("chunk format '2' is not '1'; a newer agent wrote it: upgrade the reader")
                assert newer.chunk.place.startswith(f"{tmp_path}/")
                for delivery in (first, newer, last):
                    await delivery.ack()
            else:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(deliveries), 0.2)


@pytest.mark.parametrize("headers", [b"[]", b'"x"', b"{", b"[" * 10_000, b'{"cluster": 7}', b"\xff"])
async def test_a_frame_whose_headers_are_no_chunks_comes_as_what_cannot_be_read(url, tmp_path, headers):
    await publish(url, chunk(0))
    line = b"#" + headers + b"\n"
    lengths = b"%08d %012d" % (len(line), 2)
    prefix = b"#raytrail %b %08x %08x\n" % (lengths, zlib.crc32(line, zlib.crc32(lengths)), zlib.crc32(b"x\n"))
    (path,) = chunk_files(tmp_path)
    with path.open("ab") as file:
        file.write(prefix + line + b"x\n")
    await publish(url, chunk(1))
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        received = [(await anext(deliveries)).chunk for _ in range(3)]
    assert [received_chunk for received_chunk in received if isinstance(received_chunk, Chunk)] == [chunk(0), chunk(1)]
    [odd] = [received_chunk for received_chunk in received if isinstance(received_chunk, Unreadable)]
    assert (odd.data, odd.session) == (b"x\n", UNKNOWN_SESSION)


# -- publishing


async def test_chunks_published_at_once_share_a_sync(url, monkeypatch):
    syncs = []
    sync = writer._sync
    monkeypatch.setattr(writer, "_sync", lambda fd: (syncs.append(fd), sync(fd)))
    sent = [chunk(number) for number in range(3000)]  # more buffers than one writev takes
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
        assert len(syncs) <= 2
        await pubsub.publish(chunk(3000))
        assert len(syncs) <= 3
    assert await take(url, 3001) == [*sent, chunk(3000)]


async def test_chunks_that_come_while_others_are_synced_are_in_the_next_write(url, monkeypatch):
    syncing, go_on, sync = threading.Event(), threading.Event(), writer._sync

    def slow(fd):
        syncing.set()
        assert go_on.wait(SECONDS)
        sync(fd)

    monkeypatch.setattr(writer, "_sync", slow)
    async with aclosing(connect(url)) as pubsub:
        first = asyncio.ensure_future(pubsub.publish(chunk(0)))
        await until(syncing.is_set)
        others = [asyncio.ensure_future(pubsub.publish(chunk(number))) for number in (1, 2)]
        await asyncio.wait(others, timeout=0.05)
        assert not any(publishing.done() for publishing in (first, *others))
        go_on.set()
        await asyncio.gather(first, *others)
    assert await take(url, 3) == [chunk(0), chunk(1), chunk(2)]


async def test_what_waits_behind_a_write_that_failed_fails_with_it_and_is_not_stored_before_it(url, monkeypatch):
    syncing, go_on = threading.Event(), threading.Event()

    def broken(fd):
        syncing.set()
        assert go_on.wait(SECONDS)
        raise OSError(errno.EIO, "Input/output error")

    async with aclosing(connect(url)) as pubsub:
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_sync", broken)
            publishing = [asyncio.ensure_future(pubsub.publish(chunk(0)))]
            await until(syncing.is_set)
            publishing += [asyncio.ensure_future(pubsub.publish(chunk(number))) for number in (1, 2)]
            await asyncio.wait(publishing, timeout=0.05)
            patch.undo()
            go_on.set()
            results = await asyncio.gather(*publishing, return_exceptions=True)
        assert [type(result) for result in results] == [BrokerUnavailable] * 3
        await asyncio.gather(*map(pubsub.publish, map(chunk, range(3))))
    assert await take(url, 3) == [chunk(0), chunk(1), chunk(2)]


async def test_closing_waits_for_what_is_being_published(url, tmp_path):
    pubsub = connect(url)
    publishing = [asyncio.ensure_future(pubsub.publish(chunk(number))) for number in range(3)]
    await asyncio.sleep(0)
    await pubsub.aclose()
    await asyncio.gather(*publishing)
    assert retention._is_unlocked(*chunk_files(tmp_path))


async def test_new_names_are_synced_before_publish_returns(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    async with aclosing(connect(f"file://{tmp_path}/a/b?file_bytes=1")) as pubsub:
        await pubsub.publish(chunk(0))
        assert synced == [f"{tmp_path}", f"{tmp_path}/a", f"{tmp_path}/a/b", f"{tmp_path}/a/b"]
        await pubsub.publish(chunk(1))
    assert synced[4:] == [f"{tmp_path}/a/b"]


async def test_publish_returns_only_after_the_sync(url, monkeypatch, tmp_path):
    synced = []
    monkeypatch.setattr(writer, "_sync", lambda fd: synced.append(os.fstat(fd).st_size))
    async with aclosing(connect(url)) as pubsub:
        for number in range(3):
            await pubsub.publish(chunk(number))
            assert synced[-1] == chunk_files(tmp_path)[0].stat().st_size
    assert len(synced) == 3


async def test_a_write_that_stops_half_way_is_continued(url, monkeypatch):
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: writev(fd, [buffers[0][:7]]))
    await publish(url, chunk(0), chunk(1))
    assert await take(url, 2) == [chunk(0), chunk(1)]


async def test_a_cancelled_publisher_does_not_cancel_the_others(url):
    async with aclosing(connect(url)) as pubsub:
        publishing = [asyncio.ensure_future(pubsub.publish(chunk(number))) for number in range(3)]
        await asyncio.sleep(0)
        publishing[0].cancel()
        await asyncio.gather(*publishing[1:])
        with pytest.raises(asyncio.CancelledError):
            await publishing[0]
    assert await take(url, 2) == [chunk(1), chunk(2)]  # nobody waits for the first any more: its agent sends it again


def test_a_connection_outlives_a_cancelled_event_loop(url):
    pubsub = connect(url)

    async def cut_short():
        for number in range(100):
            asyncio.ensure_future(pubsub.publish(chunk(number)))  # noqa: RUF006 (abandoned on purpose)
            await asyncio.sleep(0)  # some are being written by then, and others wait for their turn

    async def again():
        await pubsub.publish(chunk(100))
        await pubsub.aclose()
        async with aclosing(pubsub.subscribe("g")) as deliveries:
            while await take_from(deliveries, 1) != [chunk(100)]:
                pass

    asyncio.run(cut_short())
    asyncio.run(again())


async def test_a_disk_that_cannot_sync_fails_every_publish_of_the_group(url, tmp_path, monkeypatch):
    pubsub = connect(url)
    await pubsub.publish(chunk(0))
    (first,) = chunk_files(tmp_path)
    size = first.stat().st_size

    def broken(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_sync", broken)
        outcomes = await asyncio.gather(
            *(pubsub.publish(chunk(number)) for number in range(1, 4)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 3
    assert str(outcomes[0]) == (
        f"{first}: 3 chunks could not be stored: [Errno 5] Input/output error; "
        f"make room or mend the disk, then send them again"
    )
    assert isinstance(outcomes[0], BrokerUnavailable)
    assert outcomes[0].retryable
    assert first.stat().st_size == size, "what was not stored is cut off"
    await asyncio.gather(*(pubsub.publish(chunk(number)) for number in range(1, 4)))
    await pubsub.aclose()
    assert len(chunk_files(tmp_path)) == 2, "a file whose sync failed is not written to again"
    assert await take(url, 4) == [chunk(number) for number in range(4)]


async def test_a_failed_write_leaves_no_torn_frame_even_if_it_cannot_be_cut_off(url, monkeypatch):
    pubsub = connect(url)
    await pubsub.publish(chunk(0))
    writev = os.writev

    def full(fd, buffers):
        writev(fd, [buffers[0][:20]])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with aclosing(connect(url).subscribe("g")) as deliveries:
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", full)
            patch.setattr(os, "ftruncate", refused)
            for _ in range(2):  # the second begins a new file, and fails in it
                with pytest.raises(BrokerUnavailable):
                    await pubsub.publish(chunk(1))
        await pubsub.publish(chunk(1))
        assert await take_from(deliveries, 2) == [chunk(0), chunk(1)]
    await pubsub.aclose()
    assert await take(url, 2, from_start=True) == [chunk(0), chunk(1)]


@pytest.mark.parametrize("small_disk", [1], indirect=True)
async def test_a_full_disk_loses_nothing_that_was_stored_and_takes_more_once_there_is_room(small_disk):
    url = f"file://{small_disk}"
    (small_disk / "ballast").write_bytes(bytes(500_000))
    stored, pubsub = [], connect(url)

    async def fill():
        for number in range(100):
            await pubsub.publish(chunk(number, lines=1000))
            stored.append(chunk(number, lines=1000))

    with pytest.raises(BrokerUnavailable, match=r"\[Errno 28\] No space left on device"):
        await fill()
    for _ in range(20):
        with pytest.raises(BrokerUnavailable):
            await pubsub.publish(chunk(200, lines=10_000))
    assert len(chunk_files(small_disk)) == 1, "attempts leave no rubbish behind"
    with (small_disk / "the rest").open("wb", buffering=0) as rest, suppress(OSError):
        while rest.write(bytes(4096)):
            pass
    assert await take(url, len(stored)) == stored, "reading goes on while the disk is full"
    (small_disk / "the rest").unlink()
    (small_disk / "ballast").unlink()
    await pubsub.publish(chunk(200, lines=10_000))
    await pubsub.aclose()
    assert await take(url, len(stored) + 1, from_start=True) == [*stored, chunk(200, lines=10_000)]


async def test_a_file_deleted_under_its_publisher_is_not_written_to_silently(url, tmp_path):
    pubsub = connect(url)
    await pubsub.publish(chunk(0))
    (path,) = chunk_files(tmp_path)
    path.unlink()
    with pytest.raises(BrokerUnavailable) as caught:
        await pubsub.publish(chunk(1))
    assert str(caught.value) == (
        f"{path}: 1 chunks could not be stored: [Errno 2] deleted while it was written to; "
        f"make room or mend the disk, then send them again"
    )
    await pubsub.publish(chunk(1))
    await pubsub.aclose()
    assert await take(url, 1) == [chunk(1)]


async def test_a_directory_that_cannot_be_made_is_an_absent_broker(tmp_path):
    (tmp_path / "file").write_text("")
    url = f"file://{tmp_path}/file/below"
    with pytest.raises(BrokerUnavailable) as caught:
        await publish(url, chunk(0))
    assert str(caught.value) == (
        f"{tmp_path}/file/below: 1 chunks could not be stored: [Errno 20] Not a directory: "
        f"'{tmp_path}/file/below'; make room or mend the disk, then send them again"
    )
    with pytest.raises(BrokerUnavailable) as caught:
        await take(url, 1)
    assert str(caught.value) == (
        f"{tmp_path}/file/below cannot be read: [Errno 20] Not a directory: "
        f"'{tmp_path}/file/below'; mend it, then subscribe again"
    )


# -- groups


async def test_acks_are_written_down_while_a_reader_goes_on(url, tmp_path):
    await publish(url, chunk(0), chunk(1))
    positions = tmp_path / "groups/g.json"
    (path,) = chunk_files(tmp_path)
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        await take_from(deliveries, 2)
        waiting = asyncio.ensure_future(anext(deliveries))
        await until(lambda: json.loads(positions.read_bytes()) == {path.name: path.stat().st_size})
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_acks_are_written_down_in_the_middle_of_much_to_read(url, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_COMMIT_SECONDS", 0)
    for number in range(5):
        await publish(url, chunk(number))
    first, *_ = chunk_files(tmp_path)
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        await take_from(deliveries, 3)
        assert json.loads((tmp_path / "groups/g.json").read_bytes())[first.name] == first.stat().st_size


async def test_a_commit_that_comes_after_leaving_writes_nothing(url, tmp_path):
    await publish(url, chunk(0))
    place = places.Place(tmp_path, "g", from_start=False)
    place.leave()
    await take(url, 1)
    before = (tmp_path / "groups/g.json").read_bytes()
    place.commit()
    assert (tmp_path / "groups/g.json").read_bytes() == before


async def test_joining_and_retention_do_not_disturb_each_other(url, tmp_path):
    """Retention tries a group's lock for a moment; who joins in that moment must not think it taken."""
    await publish(url, chunk(0))
    await take(url, 1, ack=False)
    settings = layout.Settings()
    with retention.undisturbed(tmp_path), (tmp_path / "groups/g.lock").open() as tried:
        fcntl.flock(tried, fcntl.LOCK_SH)
        joining = asyncio.create_task(asyncio.to_thread(asyncio.run, take(url, 1)))
        tidying = asyncio.create_task(asyncio.to_thread(retention.tidy, tmp_path, settings))
        assert not (await asyncio.wait([joining, tidying], timeout=0.2))[0]
    assert await joining == [chunk(0)]
    await tidying


async def test_a_file_that_is_deleted_while_it_is_looked_at_is_passed_over(url, tmp_path, monkeypatch):
    await publish(url, chunk(0))
    (path,) = chunk_files(tmp_path)
    ghost = path.name.replace("1-", "2-")
    place = places.Place(tmp_path, "g", from_start=False)
    monkeypatch.setattr(os, "listdir", lambda _: [path.name, ghost])
    assert [source.path for source in place.look()] == [path]
    place.leave()


async def test_a_second_reader_of_a_group_is_refused_until_the_first_leaves(url, tmp_path):
    await publish(url, chunk(0))
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        await take_from(deliveries, 1)
        with pytest.raises(ConfigError) as caught:
            await anext(connect(url).subscribe("g"))
    assert str(caught.value) == (
        f"group 'g' of {tmp_path} is being read by process {os.getpid()}, and has one reader at a time; "
        f"stop that one, or read as another group"
    )
    assert await take(url, 1, from_start=True) == [chunk(0)]


@pytest.mark.parametrize("group", ["", "a/b", "..", ".hidden", "-x", "a b", "ü", "x" * 101, "a\n"])
async def test_a_group_that_cannot_name_a_file_is_refused(url, group):
    with pytest.raises(ConfigError) as caught:
        await anext(connect(url).subscribe(group))
    assert str(caught.value) == (
        f"group {group!r} cannot name a file; use at most 100 letters, digits, '_', '-' and '.', "
        f"not beginning with '-' or '.'"
    )


async def test_groups_whose_names_look_like_files_are_separate(url):
    await publish(url, chunk(0))
    for group in ("a", "a.json", "a.lock", "a.json.new", "a.b"):
        assert await take(url, 1, group) == [chunk(0)]


async def test_unreadable_positions_bring_everything_again(url, tmp_path, caplog):
    await publish(url, chunk(0))
    await take(url, 1)
    (tmp_path / "groups/g.json").write_bytes(b"")
    assert await take(url, 1) == [chunk(0)]
    assert caplog.messages == [
        f"{tmp_path}/groups/g.json: Input data was truncated; the group reads from the start again"
    ]


@pytest.mark.parametrize("positions", [b'{"a":-1}', b'{"\xff\xfe":1}', b"[" * 100_000, b"7"])
async def test_positions_that_are_none_bring_everything_again(url, tmp_path, caplog, positions):
    await publish(url, chunk(0))
    await take(url, 1)
    name = next(tmp_path.glob("*.chunks")).name.encode()
    (tmp_path / "groups/g.json").write_bytes(positions.replace(b"a", name))
    assert await take(url, 1) == [chunk(0)]
    assert caplog.messages[0].endswith("; the group reads from the start again")


async def test_acks_that_cannot_be_written_do_not_stop_the_reader(url, tmp_path, monkeypatch, caplog):
    await publish(url, chunk(0))
    await take(url, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with aclosing(connect(url).subscribe("g")) as deliveries:
        waiting = asyncio.ensure_future(take_from(deliveries, 3))
        await until(lambda: (tmp_path / "groups/g.lock").read_text())
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            await publish(url, *(chunk(number) for number in range(1, 4)))
            assert await waiting == [chunk(number) for number in range(1, 4)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(deliveries), 0.3)
    assert caplog.messages[0] == (
        f"{tmp_path}/groups/g.json: acks could not be written: [Errno 28] No space left on device; "
        f"until they are, a crash brings chunks again"
    )


async def test_a_file_deleted_by_hand_before_it_was_read_is_not_passed_over_in_silence(url, tmp_path, caplog):
    await publish(url, chunk(0, lines=100_000), chunk(1))
    (path,) = chunk_files(tmp_path)
    rest = path.stat().st_size - path.read_bytes().rindex(b"#raytrail")
    place = places.Place(tmp_path, "g", from_start=False)
    (source,) = place.look()
    source.read()
    path.unlink()
    assert place.look() == []
    place.leave()
    assert caplog.messages == [
        f"{path} was deleted before group 'g' had read its last {rest} bytes; retention did not do that"
    ]


# -- retention


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


async def test_what_every_group_has_acknowledged_is_deleted_beyond_the_size(tmp_path):
    url = f"file://{tmp_path}?file_bytes=1&retain_bytes=700"
    await publish(url, *(chunk(number) for number in range(10)))
    assert len(chunk_files(tmp_path)) == 10, "with no group, what is young is kept"
    assert await take(url, 10, "a") == await take(url, 10, "b")
    await publish(url, chunk(10))
    # the three that fit, and the one that came after they were counted
    kept = [json.loads(path.read_bytes().split(b"\n")[2])["number"] for path in chunk_files(tmp_path)]
    assert kept == [1007, 1008, 1009, 1010]
    assert await take(url, 1, "a") == [chunk(10)]
    assert await take(url, 4, "a", from_start=True) == [chunk(7), chunk(8), chunk(9), chunk(10)]


async def test_what_a_group_has_not_acknowledged_is_kept_whatever_its_size(tmp_path, caplog):
    url = f"file://{tmp_path}?file_bytes=1&retain_bytes=700"
    await publish(url, *(chunk(number) for number in range(10)))
    await take(url, 10, "fast")
    await take(url, 8, "slow")
    await take(url, 1, "slower", ack=False)
    await publish(url, chunk(10))
    assert len(chunk_files(tmp_path)) == 11
    total = sum(path.stat().st_size for path in chunk_files(tmp_path)[:10])
    assert caplog.messages[-1] == (
        f"{tmp_path} holds {total} bytes, more than retain_bytes=700, since the groups ['slow', 'slower'] "
        f"have not acknowledged them; start their readers, or delete the files of those no longer used in "
        f"{tmp_path}/groups"
    )
    assert len(await take(url, 11, "slower")) == 11


async def test_what_is_older_than_retain_seconds_is_deleted_once_acknowledged(tmp_path):
    url = f"file://{tmp_path}?file_bytes=1&retain_seconds=100"
    await publish(url, chunk(0), chunk(1), chunk(2))
    await take(url, 2)
    for path in chunk_files(tmp_path):
        aged(path, 101)
    await publish(url, chunk(3))
    assert await take(url, 2, "new") == [chunk(2), chunk(3)]


async def test_with_no_group_only_what_is_old_is_deleted(tmp_path):
    url = f"file://{tmp_path}?file_bytes=1&retain_seconds=100&retain_bytes=0"
    await publish(url, chunk(0), chunk(1))
    aged(chunk_files(tmp_path)[0], 101)
    await publish(url, chunk(2))
    assert await take(url, 2) == [chunk(1), chunk(2)]


async def test_a_group_that_is_away_for_too_long_no_longer_holds_files_back(tmp_path, caplog):
    url = f"file://{tmp_path}?file_bytes=1&retain_seconds=100&retain_bytes=0"
    await publish(url, chunk(0), chunk(1))
    await take(url, 1, "gone")
    await take(url, 2, "here")
    aged(tmp_path / "groups/gone.json", 101)
    first, second = chunk_files(tmp_path)
    await publish(url, chunk(2))
    assert not first.exists()
    assert not second.exists()
    assert caplog.messages == [
        f"{second} is deleted unread by the groups ['gone'], which have been away longer than retain_seconds=100"
    ]


async def test_a_group_with_a_reader_is_never_away(tmp_path):
    url = f"file://{tmp_path}?file_bytes=1&retain_seconds=100&retain_bytes=0"
    await publish(url, chunk(0), chunk(1))
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        await take_from(deliveries, 1)
        aged(tmp_path / "groups/g.json", 101)
        for path in chunk_files(tmp_path):
            aged(path, 101)
        await publish(url, chunk(2))
        assert await take_from(deliveries, 2) == [chunk(1), chunk(2)]


async def test_a_file_that_is_being_written_is_never_deleted(tmp_path):
    url = f"file://{tmp_path}?retain_seconds=100&retain_bytes=0"
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        await take(url, 1)
        aged(chunk_files(tmp_path)[0], 101)
        await publish(url, chunk(1))
        await pubsub.publish(chunk(2))
    assert {c.data for c in await take(url, 2)} == {chunk(1).data, chunk(2).data}


async def test_a_file_whose_publisher_died_before_its_first_byte_goes_in_time(tmp_path):
    url = f"file://{tmp_path}?retain_bytes=0"
    await publish(url, chunk(0))
    await take(url, 1)
    (read,) = chunk_files(tmp_path)
    young, old = (read.with_name(f"{number:020}-00000000dead.chunks") for number in (2, 3))
    young.touch()
    old.touch()
    aged(old, 3601)
    await publish(url, chunk(1))
    assert young.exists()
    assert not old.exists()


async def test_a_reader_deletes_what_is_old_when_nobody_publishes_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_TIDY_SECONDS", 0)
    url = f"file://{tmp_path}?file_bytes=1&retain_seconds=100"
    await publish(url, chunk(0), chunk(1))
    await take(url, 1)
    first, second = chunk_files(tmp_path)
    aged(first, 101)
    aged(second, 101)
    assert await take(url, 1) == [chunk(1)]
    assert chunk_files(tmp_path) == [second]


# -- URLs


@pytest.mark.parametrize(
    "url",
    ["file://", "file:relative", "file://host/dir", "file:///a#b", "file:///a%00b", "file://localhost/a"],
)
def test_a_url_without_a_directory_of_this_machine_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == (
        f"{url!r} names no directory of this machine; write file:///path/to/directory, "
        f"with %23 for a '#' and %3F for a '?' in its name"
    )


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("keep=1", "Object contains unknown field `keep`"),
        ("file_bytes=", "Expected `int`, got `str` - at `$.file_bytes`"),
        ("file_bytes=64M", "Expected `int`, got `str` - at `$.file_bytes`"),
        ("file_bytes=0", "Expected `int` >= 1 - at `$.file_bytes`"),
        ("retain_bytes=-1", "Expected `int` >= 0 - at `$.retain_bytes`"),
        ("retain_seconds=0", "Expected `int` >= 1 - at `$.retain_seconds`"),
        ("file_bytes=1&file_bytes=2", "a setting is given twice"),
    ],
)
def test_a_wrong_setting_names_the_right_ones(query, problem):
    with pytest.raises(ConfigError) as caught:
        connect(f"file:///dir?{query}")
    assert str(caught.value) == (f"'file:///dir': {problem}; the settings are retain_bytes, retain_seconds, file_bytes")


def test_the_path_of_a_url_is_decoded(tmp_path):
    asyncio.run(publish(f"file://{tmp_path}/a%20%23%3F%C3%BC", chunk(0)))
    assert len(chunk_files(tmp_path / "a #?ü")) == 1


# -- killed

PUBLISHER = """
import asyncio, itertools, sys
from raytrail.event import Chunk, Segment
from raytrail.pubsub import connect

async def main(url, first):
    pubsub, numbers = connect(url), itertools.count(int(first))

    async def keep_publishing():
        for number in numbers:
            data = b'{"number":%08d}\\n' % number * (1 if number % 3 else 20_000)
            segments = (Segment("f", 0, number, len(data)),)
            await pubsub.publish(Chunk(cluster="", session="s", node_id="", event_type="TASK",
                                       segments=segments, data=data))
            print(number, flush=True)

    await asyncio.gather(*(keep_publishing() for _ in range(6)))

asyncio.run(main(*sys.argv[1:]))
"""

READER = """
import asyncio, sys
from raytrail.pubsub import connect

async def main(url):
    async for delivery in connect(url).subscribe("killed"):
        print(delivery.chunk.segments[0].start, flush=True)
        await delivery.ack()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def running(printed, script, *arguments):
    """A process that prints numbers, all of which are added up; killed at the end, at whatever it does."""
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout
        numbers = (int(line) for line in process.stdout if line.endswith(b"\n"))
        try:
            yield lambda count: printed.update(itertools.islice(numbers, count))
        finally:
            process.send_signal(signal.SIGKILL)
        printed.update(numbers)


def number_of(taken):
    """Its number, once every line of it is seen to be what was published under it."""
    number = taken.segments[0].start
    assert taken.data == b'{"number":%08d}\n' % number * (1 if number % 3 else 20_000)
    return number


async def read_all(url, group, wanted):
    """Read as `group` until all that is `wanted` has come."""
    pubsub = connect(url)
    received: list[int] = []
    async with aclosing(pubsub.subscribe(group)) as deliveries:
        while not wanted.issubset(received):
            delivery = await asyncio.wait_for(anext(deliveries), SECONDS)
            received.append(number_of(delivery.chunk))
            await delivery.ack()
    assert pubsub.damaged_bytes == 0
    return received


@pytest.mark.slow
async def test_nothing_that_was_published_is_lost_or_torn_when_publishers_are_killed(tmp_path):
    url, chance = f"file://{tmp_path}?file_bytes=4000000", random.Random(1)
    stored: set[int] = set()
    first = 0
    received = set()
    reading = asyncio.ensure_future(read_all(url, "live", set()))
    for _ in range(12):
        with (
            running(stored, PUBLISHER, url, str(first)) as take_printed,
            running(stored, PUBLISHER, url, str(first + 50_000)) as take_others_printed,
        ):
            await asyncio.to_thread(take_printed, chance.randrange(1, 40))
            await asyncio.to_thread(take_others_printed, chance.randrange(1, 40))
        received.update(await reading)
        reading = asyncio.ensure_future(read_all(url, "live", stored - received))
        first += 100_000
    assert len(stored) > 200
    await reading
    again = await read_all(url, "afterwards", stored)
    assert len(again) == len(set(again)), "nothing comes twice where nothing was sent twice"


@pytest.mark.slow
async def test_nothing_is_lost_when_readers_are_killed(tmp_path):
    url = f"file://{tmp_path}?file_bytes=1000000"
    received: set[int] = set()
    stored: set[int] = set()
    with running(stored, PUBLISHER, url, "0") as take_printed:
        for _ in range(6):
            with running(received, READER, url) as take_read:
                await asyncio.to_thread(take_printed, 40)
                await asyncio.to_thread(take_read, 25)
    await read_all(url, "killed", stored - received)


async def test_a_group_that_looked_once_does_not_hold_up_retention(tmp_path):
    url = f"file://{tmp_path}?file_bytes=4096&retain_bytes=4096"
    async with aclosing(connect(url)) as broker:
        await broker.publish(chunk(0, lines=400))
        async with aclosing(broker.subscribe("ephemeral-1")) as deliveries:
            await anext(deliveries)
        async with aclosing(broker.subscribe("history")) as deliveries:
            for number in range(1, 7):
                await (await anext(deliveries)).ack()
                await broker.publish(chunk(number, lines=400))
    assert not list((tmp_path / "groups").glob("ephemeral-*"))
