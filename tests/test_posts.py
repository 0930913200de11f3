"""What is posted: the server and an agent's receiver refuse it alike."""

import http.client
from urllib.parse import urlsplit

import pytest
from anyio import to_thread
from tests.serving import served

from raytrail.server.ingest import Bounds, ingest
from raytrail.sources.receiver import Intake, Receiver
from raytrail.sources.set_aside import SetAside
from raytrail.tokens import Tries

pytestmark = pytest.mark.anyio

MOST = 1000
SENT = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic !"},
    {"Authorization": "Bearer secret", "Content-Length": str(MOST + 1)},
    {"Authorization": "Bearer secret", "Content-Length": "9" * 18},
    *[{"Authorization": f"Bearer {guess}"} for guess in range(12)],
]


def answers(url):
    """What a server says to each of these, in order."""
    parts = urlsplit(url)
    for headers in SENT:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        connection.putrequest("POST", parts.path)
        for name, value in ({"Content-Length": "0"} | headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        text = answer.read().decode().replace("this receiver", "this server")
        yield answer.status, text, answer.headers["WWW-Authenticate"], answer.headers["Retry-After"] is not None
        connection.close()


async def test_the_server_and_a_receiver_refuse_alike(tmp_path):
    async def take(headers, body):
        raise AssertionError

    intake = Intake([tmp_path], SetAside(tmp_path / "set-aside.ndjson"))
    receiver = Receiver("127.0.0.1:0", intake, token="secret", most_bytes=MOST)
    try:
        by_receiver = await to_thread.run_sync(lambda: list(answers(receiver.url)))
    finally:
        receiver.close()
    async with served(ingest(take, Tries(), token="secret", bounds=Bounds(MOST))) as port:
        by_server = await to_thread.run_sync(lambda: list(answers(f"http://127.0.0.1:{port}/ingest")))
    assert by_server == by_receiver
    assert [status for status, *_ in by_server] == [401, 401, 401, 413, 413, *[401] * 9, 429, 429, 429]
