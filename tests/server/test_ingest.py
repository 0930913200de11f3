"""POST /ingest on a real uvicorn: what it takes, what it refuses, and that a 2xx is a promise."""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
import zstandard
from tests.serving import served

from raytrail.config import ServerConfig, StoreConfig
from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError
from raytrail.event import Chunk, Segment
from raytrail.pubsub import connect
from raytrail.pubsub.collector import Collector, to_http
from raytrail.server import app, serve
from raytrail.server import ingest as module
from raytrail.server.ingest import Bounds, ingest
from raytrail.store import Store
from raytrail.tokens import Tries

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SESSION = "session_2026-11-23_07-40-30_867494_13129"
PATH = f"/tmp/ray/{SESSION}/logs/export_events/event_EXPORT_TASK_1.log"
LIMIT = 1000_000


def line(number):
    key = {"task_id": base64.b64encode(number.to_bytes(24, "big")).decode(), "attempt_number": 0, "job_id": "AQAAAA=="}
    event = {"event_data": key, "event_id": f"{number:036x}", "source_type": "EXPORT_TASK", "timestamp": 1795419640}
    return json.dumps(event)


def batch(numbers):
    """What Vector's http sink sends of its file source."""
    return json.dumps(
        [{"file": PATH, "host": "h", "message": line(n), "source_type": "file"} for n in numbers]
    ).encode()


class Broker:
    def __init__(self):
        self.published, self.error, self.go, self.waiting = [], None, asyncio.Event(), 0
        self.go.set()

    async def publish(self, chunk):
        self.waiting += 1
        await self.go.wait()
        self.waiting -= 1
        if self.error:
            raise self.error
        self.published.append(chunk)


@pytest.fixture
async def broker():
    return Broker()


def serving(take, *, token="", **bounds):
    """The port of a server that takes bodies."""
    within = Bounds(**{"body_bytes": LIMIT, "memory_bytes": 8 * LIMIT, **bounds})
    return served(ingest(take, Tries(), token=token, bounds=within))


@pytest.fixture
async def post(broker, request):
    async with (
        serving(Collector(broker).take, token=getattr(request, "param", "")) as port,
        httpx.AsyncClient(timeout=10) as client,
    ):

        async def post(content, headers=None):
            answer = await client.post(f"http://127.0.0.1:{port}/ingest", content=content, headers=headers)
            return answer.status_code, answer.text, answer.headers

        yield post


LINES = f"{line(1)}\n{line(2)}\n".encode()
CHUNK = Chunk(
    cluster="ü", session=SESSION, node_id="n", event_type="TASK", segments=(Segment("a", 0, 5, len(LINES)),), data=LINES
)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("identity", bytes), ("gzip", gzip.compress), ("zstd", zstandard.compress)],
)
async def test_what_an_agent_sends_is_published_as_it_was(post, broker, encoding, encode):
    status, *_ = await post(encode(LINES), to_http(CHUNK) | {"content-encoding": encoding})
    assert (status, broker.published) == (204, [CHUNK])


async def test_what_a_collector_sends_is_published(post, broker):
    answers = [await post(body) for body in (batch([1, 2]), b"[]", b"")]
    answers.append(await post(gzip.compress(batch([3])), {"content-encoding": "GZIP"}))
    assert [status for status, *_ in answers] == [204] * 4
    assert [chunk.data for chunk in broker.published] == [LINES, f"{line(3)}\n".encode()]


async def test_it_answers_only_once_the_broker_has_stored(post, broker):
    broker.go.clear()
    waiting = asyncio.create_task(post(LINES))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    broker.go.set()
    assert (await waiting)[0] == 204


@pytest.mark.parametrize(
    "error", [BrokerUnavailable("away"), ConfigError("wrong password")], ids=["away", "to be mended"]
)
async def test_a_broker_that_does_not_store_is_503_and_its_words_stay_here(post, broker, error, caplog):
    broker.error = error
    status, text, headers = await post(LINES)
    assert (status, text, headers["retry-after"]) == (503, "not stored; come back\n", "5")
    assert f"/ingest: {error}" in caplog.messages
    broker.error = None
    assert (await post(LINES))[0] == 204


async def test_a_chunk_that_the_broker_refuses_is_413(post, broker):
    broker.error = ChunkRefused("a chunk of 5 bytes is too long")
    assert (await post(LINES))[:2] == (413, "a chunk of 5 bytes is too long\n")


async def endless():
    for _ in range(2 * LIMIT // 10_000):
        yield b" " * 10_000


@pytest.mark.parametrize(
    ("make_body", "encoding", "text"),  # made when it is needed: it takes a second
    [
        (lambda: b" " * (LIMIT + 1), "identity", "the body is longer than 1000000 bytes; send less at once\n"),
        (
            lambda: gzip.compress(bytes(200 * LIMIT)),
            "gzip",
            "the body is longer than 1000000 bytes when decompressed; send less at once\n",
        ),
        (
            lambda: zstandard.compress(bytes(500 * LIMIT), 1),
            "zstd",
            "the body is longer than 1000000 bytes when decompressed; send less at once\n",
        ),
    ],
    ids=["long", "gzip bomb", "zstd bomb"],
)
async def test_a_body_that_is_too_long_is_413(post, broker, make_body, encoding, text):
    assert (await post(make_body(), {"content-encoding": encoding}))[:2] == (413, text)
    assert (await post(LINES))[0] == 204
    assert len(broker.published) == 1


async def test_a_body_without_a_length_is_bounded_while_it_comes(post, broker):
    with contextlib.suppress(httpx.TransportError):  # it may be told off while it still sends
        assert (await post(endless()))[0] == 413
    assert broker.published == []
    assert (await post(b" " * LIMIT))[0] == 204


@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ({"content-encoding": "snappy"}, LINES, 415, "encodings taken: gzip, zstd, identity\n"),
        (
            {"content-type": "application/msgpack"},
            b"\x92",
            415,
            "msgpack is not taken; send NDJSON or a JSON array (Fluent Bit: format json)\n",
        ),
        ({"content-encoding": "gzip"}, LINES, 400, "the body is not gzip: Not a gzipped file (b'{\"')\n"),
        (
            {"content-encoding": "gzip"},
            gzip.compress(LINES)[:-9],
            400,
            "the body is not gzip: Compressed file ended before the end-of-stream marker was reached\n",
        ),
        (
            {"content-encoding": "gzip"},
            gzip.compress(b"") * 1001,
            400,
            "the body is not gzip: it has more than 1000 members\n",
        ),
        (
            {"content-encoding": "gzip"},
            gzip.compress(LINES) + LINES,
            400,
            "the body is not gzip: Not a gzipped file (b'{\"')\n",
        ),
        (
            {"content-encoding": "zstd"},
            zstandard.compress(LINES) * 2,
            400,
            "the body is not zstd: it is cut off, or has more than one frame\n",
        ),
        (
            {"content-encoding": "zstd"},
            zstandard.compress(LINES)[:-9],
            400,
            "the body is not zstd: it is cut off, or has more than one frame\n",
        ),
        (
            {"content-encoding": "zstd"},
            LINES,
            400,
            "the body is not zstd: zstd decompressor error: Unknown frame descriptor\n",
        ),
        (
            to_http(CHUNK) | {"raytrail-version": "2"},
            LINES,
            400,
            "chunk format '2' is not '1'; a newer agent wrote it: upgrade the reader\n",
        ),
        (
            to_http(CHUNK),
            LINES[:-1],
            400,
            f"chunk of {len(LINES) - 1} bytes with segments 'a:0:5:{len(LINES)}': lengths differ\n",
        ),
        (
            {"raytrail-session": "..%2F..%2Fetc"},
            LINES,
            400,
            "session '../../etc' cannot name a directory; send Ray's own name for it\n",
        ),
        (
            {},
            b"[{",
            400,
            "JSON array of 2 bytes: Input data was truncated; send one that is whole, or NDJSON\n",
        ),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_reason(post, broker, headers, body, status, text):
    assert (await post(body, headers))[:2] == (status, text)
    assert broker.published == []


@pytest.mark.parametrize("post", ["secret"], indirect=True)
async def test_a_token_is_asked_for(post):
    for authorization in ("", "Bearer wrong", "Basic !", "Basic " + base64.b64encode(b"me:wrong").decode()):
        status, text, headers = await post(LINES, {"authorization": authorization})
        assert (status, text) == (401, "send the token of this server\n")
        assert "Bearer" in headers["www-authenticate"]
    for authorization in ("Bearer secret", "Basic " + base64.b64encode(b"me:secret").decode()):
        assert (await post(LINES, {"authorization": authorization}))[0] == 204


@contextlib.asynccontextmanager
async def slow_body(port, length, begun):
    """A connection on which a body has begun, and does not go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /ingest HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode() + begun)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(broker):
    async with serving(Collector(broker).take, seconds=0.2) as port, slow_body(port, 5, b"12") as reader:
        assert await asyncio.wait_for(reader.readline(), 30) == b"HTTP/1.1 408 Request Timeout\r\n"


async def test_bodies_that_do_not_come_hold_up_nobody(broker):
    async with (
        serving(Collector(broker).take) as port,
        httpx.AsyncClient(timeout=30) as client,
        contextlib.AsyncExitStack() as slow,
    ):
        for _ in range(100):
            await slow.enter_async_context(slow_body(port, LIMIT, b"1" * 10))
        answer = await client.post(f"http://127.0.0.1:{port}/ingest", content=LINES)
    assert answer.status_code == 204


async def test_bodies_that_hardly_come_make_room_for_others(broker, monkeypatch):
    monkeypatch.setattr(module, "SLOW_SECONDS", 0)
    async with (
        serving(Collector(broker).take, memory_bytes=LIMIT) as port,
        httpx.AsyncClient(timeout=30) as client,
        contextlib.AsyncExitStack() as slow,
    ):
        readers = [
            await slow.enter_async_context(slow_body(port, LIMIT, b"1" * (LIMIT // 2 - 1000))) for _ in range(10)
        ]
        # there is room for two; which of them these are is chance, as they come side by side
        lines = [asyncio.create_task(reader.readline()) for reader in readers]
        coming = set(lines)
        while len(coming) > 2:
            done, coming = await asyncio.wait(coming, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert {line.result() for line in done} == {b"HTTP/1.1 503 Service Unavailable\r\n"}
        answer = await client.post(f"http://127.0.0.1:{port}/ingest", content=b"x" * 400 + b"\n")
        assert answer.status_code == 204
        for line in coming:
            line.cancel()


async def test_where_there_is_no_room_one_is_told_to_come_back_and_there_is_some_later(broker):
    async with serving(Collector(broker).take, memory_bytes=LIMIT) as port, httpx.AsyncClient(timeout=30) as client:
        url = f"http://127.0.0.1:{port}/ingest"
        broker.go.clear()
        held = b"y" * 999 + b"\n"
        first = asyncio.create_task(client.post(url, content=held * 900))
        while not broker.waiting:  # noqa: ASYNC110 (the broker has no event for it)
            await asyncio.sleep(0.005)
        refused = await client.post(url, content=held * 200)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.text == "too much is sent at once; come back\n"
        broker.go.set()
        assert (await first).status_code == 204
        assert (await client.post(url, content=held * 900)).status_code == 204


async def test_what_is_packed_too_well_is_refused_before_it_is_unpacked(broker):
    taken = []

    async def take(_, body):
        taken.append(len(body))

    async with (
        serving(take, body_bytes=64 * LIMIT, memory_bytes=64 * LIMIT) as port,
        httpx.AsyncClient(timeout=30) as client,
    ):
        url = f"http://127.0.0.1:{port}/ingest"
        for encoding, pack in (("gzip", gzip.compress), ("zstd", zstandard.compress)):
            for body in (b"0," * 16_000_000, bytes(32 * LIMIT)):
                answer = await client.post(url, content=pack(body), headers={"content-encoding": encoding})
                assert (answer.status_code, answer.text) == (
                    413,
                    "the body unpacks to more than 200 times what was sent; send it uncompressed\n",
                )
            # a line that says the same a million times is no attack
            answer = await client.post(url, content=pack(b"x" * 8 * LIMIT), headers={"content-encoding": encoding})
            assert answer.status_code == 204
    assert taken == [8 * LIMIT] * 2


@pytest.mark.parametrize("piece", [1, 7, 100_000])
async def test_a_compressed_body_is_the_same_in_whatever_pieces_it_comes(broker, piece):
    taken = []

    async def take(_, body):
        taken.append(bytes(body))

    lines = os.urandom(40_000).hex().encode()
    packed = {
        "gzip": gzip.compress(lines[:100]) + b"\0" * 5 + gzip.compress(lines[100:]) + b"\0",
        "zstd": zstandard.compress(lines),
    }

    async def pieces(body):
        for start in range(0, min(len(body), 3000), piece):
            yield body[start : min(start + piece, 3000)]
        yield body[3000:]

    async with serving(take) as port, httpx.AsyncClient(timeout=30) as client:
        for encoding, body in packed.items():
            answer = await client.post(
                f"http://127.0.0.1:{port}/ingest", content=pieces(body), headers={"content-encoding": encoding}
            )
            assert answer.status_code == 204
    assert taken == [lines] * 2


@pytest.mark.parametrize("length", [LIMIT + 1, 10**15])
async def test_a_body_that_says_that_it_is_too_long_is_not_waited_for(broker, length):
    async with serving(Collector(broker).take) as port, slow_body(port, length, b"") as reader:
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 413 ")


async def test_a_server_that_was_not_told_to_takes_nothing(made):
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app(made, ServerConfig())), base_url="http://history"
    ) as client:
        answer = await client.post("/ingest", content=LINES)
    assert (answer.status_code, answer.text) == (501, "nothing is taken here; start the server with --ingest URL\n")


async def test_the_server_asks_for_the_token_of_its_settings(made, broker):
    served = app(made, ServerConfig(ingest_token="secret"), Collector(broker).take)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://history") as client:
        assert (await client.post("/ingest", content=LINES)).status_code == 401
        answer = await client.post("/ingest", content=LINES, headers={"authorization": "Bearer secret"})
    assert (answer.status_code, len(broker.published)) == (204, 1)


@pytest.mark.parametrize(
    ("host", "token", "warned"), [("127.0.0.1", "", False), ("0.0.0.0", "secret", False), ("0.0.0.0", "", True)]
)
async def test_a_server_that_lets_everybody_in_says_so(made, broker, host, token, warned, caplog):
    ready: asyncio.Future[str] = asyncio.Future()
    stop = asyncio.Event()
    config = ServerConfig(host=host, port=0, ingest_token=token, open=True)
    serving = asyncio.create_task(serve(made, config, ready=ready.set_result, stop=stop, take=Collector(broker).take))
    url = await asyncio.wait_for(ready, 10)
    stop.set()
    await serving
    warning = f"whoever reaches {url} may post events to /ingest; set server.ingest_token"
    assert (warning in caplog.messages) is warned


SERVES = """
import sys, uvicorn
from starlette.applications import Starlette
from raytrail.pubsub import connect
from raytrail.pubsub.collector import Collector
from raytrail.server.ingest import Bounds, ingest
from raytrail.tokens import Tries
route = ingest(Collector(connect(sys.argv[1])).take, Tries())
uvicorn.run(Starlette(routes=[route]), port=int(sys.argv[2]), lifespan="off", log_level="error")
"""
BATCHES, EVENTS = 150, 40


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_when_the_server_is_killed_and_everything_unanswered_sent_again(tmp_path):
    behind = f"file://{tmp_path}/events"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/ingest"

    def start():
        return subprocess.Popen([sys.executable, "-c", SERVES, behind, str(port)])

    process, kills, resent = start(), 0, 0
    todo = list(range(BATCHES))
    try:
        async with httpx.AsyncClient(timeout=10) as collector, contextlib.aclosing(connect(url)) as agent:
            deadline = time.monotonic() + 90

            async def send(number):
                """Until it is answered, a collector's batch or an agent's chunk by turns."""
                nonlocal resent
                numbers = range(number * EVENTS, (number + 1) * EVENTS)
                while time.monotonic() < deadline:
                    try:
                        if number % 2:
                            answer = await collector.post(url, content=batch(numbers))
                            assert answer.status_code == 204
                        else:
                            data = "".join(line(n) + "\n" for n in numbers).encode()
                            own = Segment(f"0000000000-{number}", 0, 0, len(data))
                            await agent.publish(
                                Chunk(
                                    cluster="",
                                    session=SESSION,
                                    node_id="",
                                    event_type="TASK",
                                    segments=(own,),
                                    data=data,
                                )
                            )
                        return
                    except (httpx.TransportError, BrokerUnavailable):
                        resent += 1
                        await asyncio.sleep(0.1)
                raise AssertionError(f"batch {number} was not taken")

            while todo:
                now, todo = todo[:30], todo[30:]
                sending = [asyncio.create_task(send(number)) for number in now]
                await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)  # some answered, some under way
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                process = start()
                await asyncio.gather(*sending)
    finally:
        process.kill()
        process.wait()

    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
        async with contextlib.aclosing(connect(behind)) as broker, contextlib.aclosing(broker.subscribe("g")) as all_:
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    delivery = await asyncio.wait_for(anext(all_), 1)
                    store.append([delivery.chunk])
        [row] = store.ledger(SESSION)
    assert kills >= 5
    assert resent > 0
    assert (row.stored_events, row.missing_bytes, row.rejected_events) == (BATCHES * EVENTS, 0, 0)
