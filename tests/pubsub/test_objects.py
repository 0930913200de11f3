"""Chunks through a real S3 server, which keeps its objects in files; and through Azurite."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from contextlib import aclosing
from functools import partial
from urllib.parse import urlencode

import pytest

pytest.importorskip("obstore")

import duckdb
import obstore
from azure.storage.blob import BlobServiceClient
from lab.ports import free_port
from tests.brokers.freeze import freeze
from tests.brokers.promises import check_away_at_first, check_killed, chunk, connected, read
from tests.brokers.s3 import BROKERS, DEADLINE_SECONDS, S3, SECRET, needed, started
from tests.histories import check_a_copy_is_refused, check_an_old_store_goes_on, check_each_gets_all

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk, Unreadable
from raytrail.pubsub.objects import ObjectsPubSub
from raytrail.pubsub.objects.reader import Following
from raytrail.pubsub.objects.wire import decode, encode
from raytrail.testing import check_pubsub

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

connect = partial(connected, ObjectsPubSub)
AZURITE = BROKERS / "azurite" / "node_modules" / ".bin" / "azurite-blob"


@pytest.fixture
def server(s3):
    return s3


@pytest.fixture
def mortal(tmp_path):
    """A server of one's own, to be killed and started again."""
    server = started(S3(tmp_path))
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
async def test_keeps_its_promises(server, compression):
    url = server.url(compression=compression)
    await check_pubsub(lambda: connect(url))


@pytest.mark.slow
async def test_nothing_is_lost_when_the_server_is_killed_while_it_is_written_to_and_read(mortal):
    url = mortal.url(timeout_seconds=1, batch_bytes=2000)
    await check_killed(mortal, url, under_way_seconds=0.03, away_seconds=2, says="does not answer")


class Forgetful:
    """A way to the server on which the answers to some puts are lost after they were stored."""

    def __init__(self, port, lost):
        self.port, self.lost = port, lost

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_):
        self.server.close()

    async def _serve(self, reader, writer):
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self.port)
        put = asyncio.Event()

        async def there():
            while data := await reader.read(65536):
                if data.startswith(b"PUT ") and b"/log/" in data.partition(b"\n")[0]:
                    put.set()
                their_writer.write(data)
            their_writer.close()

        async def back():
            while data := await their_reader.read(65536):
                if put.is_set() and self.lost:
                    self.lost.pop()
                    break
                put.clear()
                writer.write(data)
            writer.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(there(), back())
        for stream in (writer, their_writer):
            stream.close()


async def test_a_put_whose_answer_was_lost_is_stored_once(server):
    lost = [1, 2, 3]
    async with Forgetful(server.port, lost) as port:
        url = server.url(port=port)
        async with aclosing(connect(url)) as pubsub:
            for number in range(6):
                await pubsub.publish(chunk(number))
    assert lost == []
    assert [path.name for path in server.objects(url)] == [f"{number:010d}.ndjson.zst" for number in range(6)]
    url = server.url(url.partition("?")[0].rpartition("/")[2])
    assert await read(url, map(chunk, range(6))) == [chunk(number) for number in range(6)]


async def test_a_writer_that_does_not_know_what_became_of_its_last_put_begins_another_folder(mortal):
    url = mortal.url(timeout_seconds=1)
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        freeze(mortal.process)
        results = await asyncio.gather(*(pubsub.publish(chunk(n)) for n in (1, 2)), return_exceptions=True)
        assert [type(result) for result in results] == [BrokerUnavailable] * 2
        mortal.process.send_signal(signal.SIGCONT)  # what it had in its hands is stored now
        await asyncio.gather(*(pubsub.publish(chunk(n)) for n in (3, 1, 2)))
    assert len({path.parent for path in mortal.objects(url)}) == 2
    assert set(await read(url, map(chunk, range(4)))) == {chunk(n) for n in range(4)}


async def test_an_object_is_lines_for_whoever_reads_them(server):
    url = server.url(linger_seconds=0.3)
    odd = Chunk(cluster="a\udc80 b", session="s", node_id="", event_type="FILE", segments=(), data=b'{"a":1}\n')
    async with aclosing(connect(url)) as pubsub:
        sent = [chunk(n, data=b'{"number":%d}\n' % (n + 1000)) for n in range(50)]
        await asyncio.gather(*map(pubsub.publish, sent), pubsub.publish(odd))
    (path,) = server.objects(url)  # gathered
    rows = duckdb.execute(
        f"SELECT number FROM read_json('{path}', format='nd', compression='zstd', columns={{number: 'INT'}}) "
        f"WHERE number IS NOT NULL ORDER BY number"
    ).fetchall()
    assert [number for (number,) in rows] == list(range(1000, 1050))
    assert await read(url, [odd, sent[-1]], "Zürich / *") == [*sent, odd]


async def test_what_arrives_faster_than_one_object_holds_goes_into_several(server):
    url = server.url(batch_bytes=3000, linger_seconds=60)
    sent = [chunk(n, data=b"x" * 999 + b"\n") for n in range(9)]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.wait_for(asyncio.gather(*map(pubsub.publish, sent)), 30)
    assert len(server.objects(url)) == 3


async def test_writers_whose_clocks_differ_are_all_read(server, monkeypatch):
    url = server.url()
    async with aclosing(connect(url)) as early, aclosing(connect(url)) as late, aclosing(connect(url)) as reader:
        await early.publish(chunk(0))
        async with aclosing(reader.subscribe("history")) as deliveries:
            await (await anext(deliveries)).ack()
            day = 24 * 3600 * 10**9
            monkeypatch.setattr("raytrail.pubsub.objects.time.time_ns", lambda: 1795420800 * 10**9 - day)
            await late.publish(chunk(1))
            assert (await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk == chunk(1)
            await early.publish(chunk(2))
            assert (await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk == chunk(2)


async def test_several_groups_have_their_own_places_over_a_restart(server):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        for number in range(4):
            await pubsub.publish(chunk(number))
    assert await read(url, [chunk(0), chunk(1)], "a") == [chunk(0), chunk(1)]
    assert await read(url, [chunk(0)], "b") == [chunk(0)]
    assert await read(url, [chunk(3)], "a") == [chunk(2), chunk(3)]
    assert await read(url, [chunk(3)], "b") == [chunk(1), chunk(2), chunk(3)]


async def test_a_group_has_one_reader_and_another_after_it(server):
    url = server.url()
    async with aclosing(connect(url)) as first, aclosing(connect(url)) as other:
        await first.publish(chunk(0))
        async with aclosing(first.subscribe("history")) as deliveries:
            await anext(deliveries)
            waiting = asyncio.ensure_future(anext(deliveries))
            for second in (first, other):
                with pytest.raises(ConfigError) as caught:
                    await anext(second.subscribe("history"))
                assert str(caught.value) == (
                    f"group 'history' at {url.partition('?')[0]} is being read, and has one reader at a time; stop "
                    f"that one, or read as another group"
                )
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert await read(url, [chunk(0)]) == [chunk(0)]


@pytest.mark.slow
async def test_what_a_reader_that_was_killed_had_comes_to_the_next_one(server):
    url = server.url("killed")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        await pubsub.publish(chunk(1))
        deliveries = pubsub.subscribe("history")
        await (await anext(deliveries)).ack()
        await anext(deliveries)
        await asyncio.sleep(1.5)  # it is written down once a second
        place = server.files / "bucket" / "killed" / "groups" / "history.json"
        kept = place.read_bytes()
        await deliveries.aclose()
        place.write_bytes(kept)  # as if it had been killed before it could leave
    began = time.monotonic()
    assert await read(url, [chunk(1)]) == [chunk(1)]
    assert time.monotonic() - began > 5  # it may still have been there


@pytest.mark.slow
async def test_a_reader_that_was_away_for_long_does_not_write_over_its_successor(server):
    url = server.url("usurped")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        deliveries = pubsub.subscribe("history")
        await (await anext(deliveries)).ack()
        await asyncio.sleep(1.2)
        place = server.files / "bucket" / "usurped" / "groups" / "history.json"
        theirs = json.loads(place.read_bytes()) | {"reader": "another", "beat": 99}
        await obstore.put_async(pubsub._store, "usurped/groups/history.json", json.dumps(theirs).encode())
        with pytest.raises(BrokerUnavailable) as caught:
            await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
        assert str(caught.value).endswith(
            "group 'history' was not written for 10 seconds and may have another reader; subscribe again"
        )
    assert json.loads(place.read_bytes()) == theirs


async def test_what_was_deleted_before_it_was_read_is_warned_of_and_passed_over(server, caplog):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        for number in range(5):
            await pubsub.publish(chunk(number))
        for path in server.objects(url)[:3]:
            path.unlink()
        writer = server.objects(url)[0].parent.name
        assert await read(url, [chunk(4)]) == [chunk(3), chunk(4)]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{url.partition('?')[0]}: 3 objects of writer {writer} were deleted before group 'history' had read them; let "
        f"the bucket's lifecycle rule keep them longer"
    ]


@pytest.mark.slow
async def test_an_idle_reader_lists_once_a_poll_however_much_there_is(server):
    url = server.url("idle", poll_seconds=0.2, batch_bytes=1024)
    sent = [chunk(n, data=b"x" * 1020 + b"\n") for n in range(150)]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            for _ in sent:
                await (await anext(deliveries)).ack()
            waiting = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(1.5)  # its place is written down by then
            before = len(server.requests())
            await asyncio.sleep(2)
            made = server.requests()[before:]
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    lists = [path for _, path in made if path == "/bucket"]
    assert 4 <= len(lists) <= 10
    assert len(made) - len(lists) <= 12  # what comes next of the one writer, and that the reader is there


@pytest.mark.slow
async def test_a_server_that_is_away_at_first_is_waited_for(tmp_path, caplog):
    needed()
    server = S3(tmp_path)
    url = server.url(timeout_seconds=1)
    begins = f"{url.partition('?')[0]} does not answer: "
    await check_away_at_first(server, url, begins, "; look after it, or the way to it")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_who_is_not_let_in_is_told(server):
    for wrong in ({"aws_secret_access_key": "wrong"}, {"aws_access_key_id": "nobody"}):
        url = server.url(**wrong)
        async with aclosing(connect(url)) as pubsub:
            for call in (pubsub.publish(chunk(0)), anext(pubsub.subscribe("history"))):
                with pytest.raises(ConfigError) as caught:
                    await call
                assert str(caught.value).startswith(f"{url.partition('?')[0]} does not let us in: ")
                assert str(caught.value).endswith("; mend its credentials")
                assert SECRET not in str(caught.value)


async def test_a_missing_bucket_is_an_error(server):
    url = server.url(bucket="missing")
    async with aclosing(connect(url)) as pubsub:
        for call in (pubsub.publish(chunk(0)), anext(pubsub.subscribe("history"))):
            with pytest.raises(ConfigError) as caught:
                await call
            assert "make" in str(caught.value)
            assert str(caught.value).endswith("mend the URL")


async def test_what_is_none_of_ours_comes_as_what_cannot_be_read_and_stops_nobody(server):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        (path,) = server.objects(url)
        path.write_bytes(b"garbage")
        await pubsub.publish(chunk(1))
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            odd, good = [(await anext(deliveries)).chunk for _ in range(2)]
    assert good == chunk(1)
    assert odd.data == b"garbage"
    assert isinstance(odd, Unreadable)
    assert f"object {path.relative_to(server.files / 'bucket')} is none of ours: " in odd.reason


@pytest.mark.parametrize(
    "place",
    [
        b"",
        b"garbage",
        b"[]",
        b'{"next":{"w":"x"}}',
        b'{"next":{"w":-1}}',
        b'{"reader":7}',
        b'{"beat":1e999}',
        b"\xff\xfe",
    ],
)
async def test_a_place_that_is_none_is_set_aside_and_the_group_begins_anew(server, place):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        assert await read(url, [chunk(0)]) == [chunk(0)]
        path = server.files / "bucket" / pubsub._prefix / "groups" / "history.json"
        path.write_bytes(place)
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            odd, again = [await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS) for _ in range(2)]
            assert (odd.chunk.data, again.chunk) == (place, chunk(0))
            assert isinstance(odd.chunk, Unreadable)
            assert f"object {path.relative_to(server.files / 'bucket')} is no place of a group: " in odd.chunk.reason
            await odd.ack()
            await again.ack()
        await pubsub.publish(chunk(1))
        assert await read(url, [chunk(1)]) == [chunk(1)]


@pytest.mark.parametrize(
    "head", [b"[]", b"{}", b'{"raytrail":7}', b'{"raytrail":{"bytes":-1}}', b'{"raytrail":{"bytes":1e30}}', b"[" * 5000,
             b'{"raytrail":{"bytes":"2"}}', b'{"raytrail":{"session":7,"bytes":2}}'],
)  # fmt: skip
def test_the_chunks_before_a_head_that_is_none_are_read(head):
    body = encode([chunk(0)], "none")
    *chunks, odd = decode(body + head + b"\nx\n", ".ndjson", "object")
    assert chunks == [chunk(0)]
    assert isinstance(odd, Unreadable)
    assert odd.data == head + b"\nx\n"
    assert odd.place == f"object, at {len(body)}"


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_an_object_that_holds_more_than_can_be_is_not_unpacked(monkeypatch, compression):
    body = encode([chunk(0)], compression)
    suffix = {"zstd": ".ndjson.zst", "gzip": ".ndjson.gz"}[compression]
    assert decode(body, suffix, "object") == [chunk(0)]
    monkeypatch.setattr("raytrail.pubsub.objects.wire._MOST_BYTES", 20)
    [odd] = decode(body, suffix, "object")
    assert isinstance(odd, Unreadable)
    assert "it holds more than 20 bytes" in odd.reason
    assert odd.data == body


def test_an_objects_place_is_that_of_its_last_ack_in_any_order():
    following = Following("w", 5)
    assert following.place == 5
    first, second = following.read(2), following.read(1)
    assert (first, second, following.place) == (5, 6, 5)
    following.ack(second)
    following.ack(first)
    assert following.place == 5
    following.ack(first)
    assert following.place == 7


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket", "'s3://bucket' names no folder of a bucket; write s3://bucket/folder, with letters, digits, "
                        "'_', '-', '.' and '=' in its name"),
        ("gs:///x", "'gs:///x' names no bucket; write gs://bucket/folder"),
        ("s3://b/p?linger=1", "'s3://b/p': Object contains unknown field `linger`; the settings are timeout_seconds, "
                              "endpoint, linger_seconds, batch_bytes, compression, poll_seconds"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused(url, says):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == says


def test_a_property_at_which_the_client_panics_is_refused(capfd):
    with pytest.raises(ConfigError) as caught:
        connect("az://container/p?azure_storage_account_name=a&azure_allow_http=true")
    assert str(caught.value) == "'az://container/p': Expected config prefix to start with azure_; mend the URL"
    capfd.readouterr()  # the client's own words


ACCOUNT = "devstoreaccount1"  # Azurite's, as its documentation gives it
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture
def azure(tmp_path):
    """The URL of a folder in a container of Microsoft's own emulator."""
    if not AZURITE.exists():
        text = "no Azurite: run `make brokers` (apt-get install npm)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    port = free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", tmp_path]
    with (tmp_path / "azurite.log").open("wb") as log:
        process = subprocess.Popen([AZURITE, *where, "--skipApiVersionCheck"], stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        with BlobServiceClient(endpoint, credential=ACCOUNT_KEY, retry_backoff_factor=0.2, retry_total=20) as client:
            client.create_container("container")
        query = {
            "azure_storage_account_name": ACCOUNT,
            "azure_storage_account_key": ACCOUNT_KEY,
            "endpoint": endpoint,
            "linger_seconds": 0.02,
            "poll_seconds": 0.05,
        }
        yield f"az://container/folder?{urlencode(query)}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
async def test_azure_keeps_its_promises(azure):
    await check_pubsub(lambda: connect(azure))


@pytest.mark.parametrize(
    "url",
    [
        "az://container/p?azure_storage_account_name=a&azure_storage_account_key=c2VjcmV0",
        "gs://bucket/a/b/c?google_skip_signature=true",
        "s3://bucket/p?aws_region=eu-central-1&aws_skip_signature=true",
    ],
)
def test_every_clouds_url_is_taken(url):
    assert connect(url).guarantee == "at-least-once"


async def test_histories_with_a_store_each_get_everything_under_one_name(server, tmp_path):
    await check_each_gets_all(server.url("each", linger_seconds=0.05, poll_seconds=0.1), tmp_path)


async def test_a_store_of_an_older_version_misses_nothing(server, tmp_path):
    url = server.url("upgraded", linger_seconds=0.05, poll_seconds=0.1)
    await check_an_old_store_goes_on(url, tmp_path, held_for=None)


async def test_a_history_of_a_copy_of_a_store_is_refused_while_one_of_the_store_reads(server, tmp_path):
    await check_a_copy_is_refused(server.url(), tmp_path)
