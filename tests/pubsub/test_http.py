"""POST of chunks: against an endpoint that answers as told, and through our own server's /ingest."""

import asyncio
import gzip
import json
import re
import socket
import time
from contextlib import aclosing
from email.utils import formatdate
from urllib.parse import unquote

import pytest
import zstandard
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.serving import served

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError
from raytrail.event import Chunk, Segment
from raytrail.pubsub import Guarantee, connect
from raytrail.pubsub.collector import Collector
from raytrail.server.ingest import ingest
from raytrail.testing import check_pubsub
from raytrail.tokens import Tries

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
LINES = b'{"event_id": "1"}\n{"event_id": "2"}\n'


class Endpoint:
    """Answers with what it was told, else 200; remembers what came."""

    port: int
    url: str

    def __init__(self):
        self.requests = []
        self.answers = []
        self.at_once = self.most_at_once = 0
        self.seconds = 0

    async def answer(self, request):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        body = await request.body()
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        self.requests.append((request, body))
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        return PlainTextResponse("such are\nthe words", status, headers)


@pytest.fixture
async def endpoint():
    endpoint = Endpoint()
    async with served(Route("/in", endpoint.answer, methods=["POST"])) as port:
        endpoint.port, endpoint.url = port, f"http://127.0.0.1:{port}/in"
        yield endpoint


def chunk(data=LINES, *, file="a", start=0, **fields):
    head = {"cluster": "ü ,:", "session": "s", "node_id": "", "event_type": "TASK"} | fields
    return Chunk(segments=(Segment(file, 0, start, len(data)),), data=data, **head)


class Through:
    """Publishes by HTTP to a server of ours, and reads what that writes to."""

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url, behind):
        self._http, self._behind = connect(url), connect(behind)
        self.publish, self.subscribe = self._http.publish, self._behind.subscribe

    async def aclose(self):
        await self._http.aclose()
        await self._behind.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["", "&raytrail.compression=gzip", "&raytrail.compression=zstd"])
async def test_through_our_own_server_it_keeps_its_promises(settings, tmp_path):
    behind = f"file://{tmp_path}/events"
    async with aclosing(connect(behind)) as broker, served(ingest(Collector(broker).take, Tries())) as port:
        url = f"http://127.0.0.1:{port}/ingest?raytrail.connections=1{settings}"  # over more, there is no order
        await check_pubsub(lambda: Through(url, behind))


async def test_our_own_server_takes_an_array_for_the_same_chunk(tmp_path):
    behind = f"file://{tmp_path}/events"
    async with (
        aclosing(connect(behind)) as broker,
        served(ingest(Collector(broker).take, Tries())) as port,
        aclosing(connect(f"http://127.0.0.1:{port}/ingest?raytrail.format=array")) as http,
    ):
        await http.publish(chunk())
        async with aclosing(broker.subscribe("g")) as deliveries:
            assert (await anext(deliveries)).chunk == chunk()


async def test_a_chunk_is_posted_as_ray_wrote_it(endpoint):
    async with aclosing(connect(f"{endpoint.url}?tenant=7&sig=a%2Fb+c&raytrail.timeout_seconds=5&x")) as http:
        await http.publish(chunk())
    [(request, body)] = endpoint.requests
    assert body == LINES
    assert request.url.query == "tenant=7&sig=a%2Fb+c&x"
    assert request.headers["content-type"] == "application/x-ndjson"
    assert "content-encoding" not in request.headers
    headers = {name: unquote(value) for name, value in request.headers.items() if name.startswith("raytrail-")}
    assert headers == {
        "raytrail-version": "1",
        "raytrail-cluster": "ü ,:",
        "raytrail-session": "s",
        "raytrail-node-id": "",
        "raytrail-event-type": "TASK",
        "raytrail-segments": "a:0:0:36",
    }


@pytest.mark.parametrize(
    ("compression", "decompress"),
    [("gzip", gzip.decompress), ("zstd", lambda body: zstandard.ZstdDecompressor().decompress(body))],
)
@pytest.mark.parametrize("data", [LINES, LINES * 5000], ids=["small", "large"])
async def test_a_body_is_compressed_as_told(endpoint, compression, decompress, data):
    url = f"{endpoint.url}?raytrail.compression={compression}&raytrail.format=array"
    async with aclosing(connect(url)) as http:
        await http.publish(chunk(data))
    [(request, body)] = endpoint.requests
    assert request.headers["content-encoding"] == compression
    assert request.headers["content-type"] == "application/json"
    assert json.loads(decompress(body)) == [json.loads(line) for line in data.splitlines()]


async def test_a_password_goes_before_the_token_of_the_environment(endpoint, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_HTTP_TOKEN", "secret")
    for url in (endpoint.url, endpoint.url.replace("//", "//me:a%40b@")):
        async with aclosing(connect(url)) as http:
            await http.publish(chunk())
    assert [request.headers["authorization"] for request, _ in endpoint.requests] == ["Bearer secret", "Basic bWU6YUBi"]


async def test_as_many_chunks_are_posted_at_once_as_there_are_connections_though_of_one_file(endpoint):
    endpoint.seconds = 0.02
    sent = [chunk(start=number * 36) for number in range(40)]
    async with aclosing(connect(f"{endpoint.url}?raytrail.connections=3")) as http:
        await asyncio.gather(*map(http.publish, sent))
    segments = [unquote(request.headers["raytrail-segments"]) for request, _ in endpoint.requests]
    assert sorted(segments) == sorted(sent_chunk.headers()["segments"] for sent_chunk in sent)
    assert endpoint.most_at_once == 3


async def test_over_one_connection_chunks_arrive_in_the_order_published(endpoint):
    endpoint.answers = [(200, {}), (503, {"retry-after": "0"})]
    longest = LINES * 200_000  # which takes a while to compress
    sent = [chunk(longest), chunk(file="b"), chunk(start=len(longest)), chunk(file="c")]
    async with aclosing(connect(f"{endpoint.url}?raytrail.connections=1&raytrail.compression=gzip")) as http:
        await asyncio.gather(*map(http.publish, sent))
    segments = [unquote(request.headers["raytrail-segments"]) for request, _ in endpoint.requests]
    assert list(dict.fromkeys(segments)) == [sent_chunk.headers()["segments"] for sent_chunk in sent]


async def test_over_one_connection_no_chunk_comes_between_the_parts_of_another(endpoint):
    segments = tuple(Segment(f"1795420800-{number:032x}", 0, number, 18) for number in range(150))
    whole = Chunk(cluster="", session="s", node_id="", event_type="TASK", segments=segments, data=LINES * 75)
    async with aclosing(connect(f"{endpoint.url}?raytrail.connections=1")) as http:
        await asyncio.gather(http.publish(whole), http.publish(chunk(file="later")))
    assert [len(body) for _, body in endpoint.requests] == [64 * 18, 64 * 18, 22 * 18, len(LINES)]


async def test_a_chunk_of_many_files_is_posted_in_parts(endpoint):
    segments = tuple(Segment(f"1795420800-{number:032x}", 0, number, 18) for number in range(150))
    whole = Chunk(cluster="", session="s", node_id="", event_type="TASK", segments=segments, data=LINES * 75)
    async with aclosing(connect(endpoint.url)) as http:
        await http.publish(whole)
    assert b"".join(body for _, body in endpoint.requests) == whole.data
    assert [len(body) for _, body in endpoint.requests] == [64 * 18, 64 * 18, 22 * 18]
    assert max(len(request.headers["raytrail-segments"]) for request, _ in endpoint.requests) < 6000


async def test_a_chunk_that_is_not_stored_holds_up_no_other_one_of_its_file(endpoint):
    endpoint.answers = [(500, {})]
    async with aclosing(connect(f"{endpoint.url}?raytrail.connections=1")) as http:
        results = await asyncio.gather(*(http.publish(chunk(start=n)) for n in (0, 36)), return_exceptions=True)
    assert [type(result) for result in results] == [BrokerUnavailable, type(None)]
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (400, ChunkRefused, "refuses a chunk of 36 bytes: 400 such are the words; look at what it expects"),
        (422, ChunkRefused, "refuses a chunk of 36 bytes: 422 such are the words; look at what it expects"),
        (
            413,
            ChunkRefused,
            "refuses a chunk of 36 bytes: 413 such are the words; raise its limit, or lower chunk_bytes",
        ),
        (401, ConfigError, "answers 401 such are the words; mend the URL, its password or RAYTRAIL_HTTP_TOKEN"),
        (404, ConfigError, "answers 404 such are the words; mend the URL, its password or RAYTRAIL_HTTP_TOKEN"),
        (302, ConfigError, "answers 302 such are the words; mend the URL, its password or RAYTRAIL_HTTP_TOKEN"),
        (
            415,
            ConfigError,
            "answers 415 such are the words; choose another raytrail.compression or raytrail.format",
        ),
        (408, BrokerUnavailable, "answers 408 such are the words; look at its server"),
        (429, BrokerUnavailable, "answers 429 such are the words; look at its server"),
        (500, BrokerUnavailable, "answers 500 such are the words; look at its server"),
        (503, BrokerUnavailable, "answers 503 such are the words; look at its server"),
    ],
)
async def test_an_answer_that_is_no_2xx_says_what_to_do_and_the_next_chunk_goes_on(endpoint, status, kind, text):
    endpoint.answers = [(status, {}), (204, {})]
    async with aclosing(connect(f"{endpoint.url}?key=secret")) as http:
        with pytest.raises(kind) as caught:
            await http.publish(chunk())
        assert str(caught.value) == f"{endpoint.url} {text}"
        await http.publish(chunk())


@pytest.mark.slow
@pytest.mark.parametrize("after", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_waited_for_by_all_chunks(endpoint, status, after):
    endpoint.answers = [(status, {"Retry-After": after()})]
    began = time.monotonic()
    async with aclosing(connect(endpoint.url)) as http:
        await http.publish(chunk())
        assert 0.9 < time.monotonic() - began < 3
        assert len(endpoint.requests) == 2


async def test_a_retry_after_that_is_too_long_is_waited_for_in_bounds(endpoint):
    endpoint.answers = [(503, {"Retry-After": "100"})]
    async with aclosing(connect(f"{endpoint.url}?raytrail.timeout_seconds=0.3")) as http:
        for _ in range(2):
            with pytest.raises(BrokerUnavailable) as caught:
                await http.publish(chunk())
            # 100, but for what was waited already
            message = re.sub("in (100|99) seconds", "in N seconds", str(caught.value))
            assert message == f"{endpoint.url} asks us to come back in N seconds; it is too busy"
        assert len(endpoint.requests) == 1


async def test_an_endpoint_that_does_not_answer_is_not_waited_for_for_ever(endpoint):
    endpoint.seconds = 1
    async with aclosing(connect(f"{endpoint.url}?raytrail.timeout_seconds=0.2")) as http:
        with pytest.raises(BrokerUnavailable) as caught:
            await http.publish(chunk())
        assert str(caught.value) == (
            f"{endpoint.url} did not answer within 0.2 seconds; look at its server, or raise raytrail.timeout_seconds"
        )
        endpoint.seconds = 0
        await http.publish(chunk())


async def test_an_endpoint_that_was_away_is_found_again():
    endpoint = Endpoint()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with aclosing(connect(f"http://127.0.0.1:{port}/in")) as http:
        for _ in range(2):
            with pytest.raises(BrokerUnavailable) as caught:
                await http.publish(chunk())
            assert str(caught.value) == (
                f"http://127.0.0.1:{port}/in does not answer: All connection attempts failed; "
                "start its server, or mend the URL"
            )
            async with served(Route("/in", endpoint.answer, methods=["POST"]), port=port):
                await http.publish(chunk())
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "http://u:p@h/in?raytrail.compression=lz4",
            "'http://u:***@h/in': Invalid enum value 'lz4' - at `$.raytrail.compression`; the settings are "
            "raytrail.compression, raytrail.format, raytrail.timeout_seconds, raytrail.connections, raytrail.ca_file",
        ),
        (
            "http://h/in?raytrail.x=1&x=1",
            "'http://h/in': Object contains unknown field `raytrail.x`; the settings are "
            "raytrail.compression, raytrail.format, raytrail.timeout_seconds, raytrail.connections, raytrail.ca_file",
        ),
        ("http:///in", "'http:///in': it names no host, or several; write http[s]://host[:port]/path"),
        ("http://a,b/in", "'http://a,b/in': it names no host, or several; write http[s]://host[:port]/path"),
        ("http://h:x/in", "'http://h:x/in': Invalid port: 'x'; write http[s]://host[:port]/path"),
    ],
)
def test_a_wrong_url_is_refused(url, text):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == text


async def test_a_missing_ca_file_is_named():
    async with aclosing(connect("https://127.0.0.1:1/in?raytrail.ca_file=/nowhere.pem")) as http:
        with pytest.raises(ConfigError) as caught:
            await http.publish(chunk())
        assert str(caught.value) == (
            "raytrail.ca_file '/nowhere.pem': [Errno 2] No such file or directory; name a PEM file"
        )


def test_it_is_not_read_from():
    with pytest.raises(ConfigError) as caught:
        connect("http://h/in").subscribe("g")
    assert str(caught.value) == (
        "http://h/in is only written to; read what its server writes to: `raytrail history --from` the URL that "
        "`raytrail serve --ingest` was given"
    )
