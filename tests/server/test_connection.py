"""Connections that ask for nothing, say it slowly, or read nothing: each ends, and others are answered meanwhile."""

import asyncio
import contextlib
import socket

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from tests.serving import served
from uvicorn.server import ServerState
from websockets.asyncio.client import connect

from raytrail.config import ServerConfig
from raytrail.server.connection import connections

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SOON = 0.3
"""Seconds that a bound is set to where it is to be met."""
PATIENCE = 60
LARGE_PIECES = 2_000


async def fine(request):
    return PlainTextResponse("fine")


@pytest.fixture
def read():
    """What was read of the large answer, in pieces; the last is None when it has ended."""
    return []


@pytest.fixture
def sinking():
    """The pieces of bodies that have come."""
    return []


@pytest.fixture
def serving(read, sinking):
    async def sink(request):
        size = 0
        with contextlib.suppress(ClientDisconnect):
            async for piece in request.stream():
                sinking.append(len(piece))
                size += len(piece)
        return PlainTextResponse(str(size))

    async def large(request):
        async def pieces():
            try:
                for number in range(LARGE_PIECES):
                    read.append(number)
                    await asyncio.sleep(0)  # as real ones do, which are worked out on a thread
                    yield bytes(65536)
            finally:
                read.append(None)

        return StreamingResponse(pieces())

    async def echo(socket):
        await socket.accept()
        await socket.send_text(await socket.receive_text())

    def serving(**bounds):
        config = ServerConfig(**bounds)
        routes = [
            Route("/", fine),
            Route("/sink", sink, methods=["POST"]),
            Route("/large", large),
            WebSocketRoute("/echo", echo),
        ]
        bounded = {"http": connections(config), "h11_max_incomplete_event_size": config.header_bytes}
        return served(*routes, ws="websockets-sansio", **bounded)

    return serving


@contextlib.asynccontextmanager
async def open_to(port, sent=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ended(reader):
    """What is said until the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(65536), PATIENCE):
            received += piece
    return received


async def until(there):
    async def looked():
        while not there():  # noqa: ASYNC110 (it is a list)
            await asyncio.sleep(0.005)

    await asyncio.wait_for(looked(), PATIENCE)


async def is_fine(port):
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        return (await client.get(f"http://127.0.0.1:{port}/")).text == "fine"


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: h\r\n"])
async def test_who_asks_for_nothing_is_not_waited_for(serving, sent):
    async with serving(header_seconds=SOON) as port, open_to(port, sent) as (reader, _):
        assert await ended(reader) == b""


async def test_who_asks_a_letter_at_a_time_is_not_waited_for(serving):
    async with serving(header_seconds=SOON) as port, open_to(port) as (reader, writer):

        async def say():
            with contextlib.suppress(ConnectionError):
                for letter in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000:
                    writer.write(bytes([letter]))
                    await writer.drain()
                    await asyncio.sleep(SOON / 10)

        saying = asyncio.create_task(say())
        assert await ended(reader) == b""
        saying.cancel()


async def test_who_asks_again_is_not_waited_for_either(serving):
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    async with serving(header_seconds=SOON) as port, open_to(port, request * 2 + request[:-2]) as (reader, _):
        assert (await ended(reader)).count(b"fine") == 2


async def test_headers_are_bounded(serving):
    async with serving(header_bytes=4096) as port:
        async with open_to(port, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 5000) as (reader, _):
            assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")
        async with open_to(port, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 3000 + b"\r\n\r\n") as (reader, _):
            assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/", "/sink"])
async def test_a_body_that_does_not_come_ends_the_connection(serving, path, monkeypatch):
    monkeypatch.setattr("raytrail.server.connection._SETTLE_SECONDS", 0)
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345".encode()
    async with serving(body_seconds=SOON) as port, open_to(port, head) as (reader, _):
        # also where the answer was said already, without the body
        assert (b"405 Method Not Allowed" in await ended(reader)) is (path == "/")


async def test_who_reads_nothing_is_not_waited_for(serving, read):
    async with serving(answer_seconds=SOON) as port, open_to(port, b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"):
        await until(lambda: None in read)
    assert len(read) < LARGE_PIECES


async def test_who_reads_slowly_is(serving, read):
    request = b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    async with serving(answer_seconds=5) as port, open_to(port, request) as (reader, _):
        size = 0
        while piece := await asyncio.wait_for(reader.read(1 << 20), PATIENCE):
            size += len(piece)
            await asyncio.sleep(0.001)
    assert size > LARGE_PIECES * 65536


async def test_those_who_ask_for_nothing_make_room_for_who_does(serving):
    async with serving(connections=5) as port, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(open_to(port)) for _ in range(50)]
        assert await is_fine(port)
        # the oldest were closed
        assert [await ended(reader) for reader, _ in idle[:40]] == [b""] * 40


async def test_where_all_ask_for_something_others_are_told_to_come_back(serving, sinking):
    head = b"POST /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12"
    async with serving(connections=3) as port, contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(open_to(port, head)) for _ in range(3)]
        await until(lambda: len(sinking) == 3)
        async with open_to(port, b"") as (reader, _):
            received = await ended(reader)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5\r\n" in received
        for reader, writer in busy:
            writer.write(b"345")
            assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"HTTP/1.1 200 ")
            writer.close()
        for reader, _ in busy:
            await ended(reader)
        assert await is_fine(port)


async def test_a_websocket_has_as_long_as_it_likes(serving):
    async with (
        serving(header_seconds=SOON, body_seconds=SOON, answer_seconds=SOON) as port,
        connect(f"ws://127.0.0.1:{port}/echo") as websocket,
    ):
        await asyncio.sleep(3 * SOON)
        await websocket.send("hello")
        assert await asyncio.wait_for(websocket.recv(), PATIENCE) == "hello"


async def test_who_stays_asks_on(serving):
    async with serving(header_seconds=1, body_seconds=1) as port, httpx.AsyncClient(timeout=PATIENCE) as client:
        for _ in range(5):
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "fine"
            answer = await client.post(f"http://127.0.0.1:{port}/sink", content=bytes(300_000))
            assert answer.text == "300000"
            await asyncio.sleep(0.5)


async def test_a_short_answer_that_nobody_reads_is_given_up_when_the_connection_is_to_end():
    async def short(request):
        return PlainTextResponse("x" * 30_000)  # so little pauses no writing

    config = uvicorn.Config(Starlette(routes=[Route("/", short)]), log_config=None)
    config.load()
    state = ServerState()
    make = connections(ServerConfig(answer_seconds=SOON))
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with theirs:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: make(config=config, server_state=state, app_state={}), ours
        )
        theirs.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await until(transport.is_closing)
        assert transport.get_write_buffer_size() > 0
        await until(lambda: not state.connections)


CHUNKED = b"POST %s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("path", [b"/", b"/sink", b"/none"])
@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhelloXX\r\n"])
async def test_a_body_that_turns_out_to_be_none_is_refused_and_nothing_else_is_said(serving, caplog, path, body):
    async with serving() as port:
        async with open_to(port, CHUNKED % path + body) as (reader, _):
            assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")
        assert await is_fine(port)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_turns_out_to_be_none_ends_an_answer_that_was_begun(serving, caplog, read):
    async with serving() as port:
        async with open_to(port, CHUNKED.replace(b"POST", b"GET") % b"/large") as (reader, writer):
            assert (await asyncio.wait_for(reader.read(12), PATIENCE)) == b"HTTP/1.1 200"
            writer.write(b"zz\r\n")
            await ended(reader)
        await until(lambda: read[-1] is None)
        assert await is_fine(port)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_turns_out_to_be_none_after_its_answer_ends_the_connection(serving, caplog):
    async with serving() as port:
        async with open_to(port, CHUNKED % b"/") as (reader, writer):
            assert (await asyncio.wait_for(reader.read(12), PATIENCE)) == b"HTTP/1.1 405"
            writer.write(b"zz\r\n")
            await ended(reader)
        assert await is_fine(port)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
