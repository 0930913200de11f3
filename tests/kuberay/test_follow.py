"""A collection of KubeRay that grows while it is followed: all of it, once, whatever happens to the reader."""

import asyncio
import errno
import gzip
import io
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import aclosing, closing
from itertools import count

import pytest
from tests.line import SEED, catches, wait_for
from tests.sources import collected
from tests.sources.posted import SESSION

from raytrail import disk
from raytrail.config import StoreConfig
from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import COLLECTED
from raytrail.kuberay import layout
from raytrail.kuberay.files import File, Unread
from raytrail.kuberay.follow import KubeRay
from raytrail.kuberay.reading import read
from raytrail.pubsub import connect
from raytrail.redact import default
from raytrail.store import Store

FOLDER = "log/cluster-history/rayjob/team-a/nightly/prod-x7k2p"
ENTITIES = ("task", "actor", "node", "driver_job", "worker", "job", "placement_group")


class Followed:
    """A reader of a directory, and what it takes into a store."""

    def __init__(self, root, places=None, **options):
        self.root = root
        self.options = {"places": places, **options}
        self.url = f"kuberay+{root.as_uri()}?poll_seconds=0.05"

    async def take(self, until, *, ack=lambda _: True):
        """Return the chunks up to where `until` says so of them."""
        return await asyncio.wait_for(self._take(until, ack), 300)

    async def _take(self, until, ack):
        chunks = []
        async with aclosing(KubeRay(self.url, **self.options).subscribe("g")) as deliveries:
            async for delivery in deliveries:
                chunks.append(delivery.chunk)
                if ack(delivery.chunk):
                    await delivery.ack()
                if until(chunks):
                    return chunks


def lines(chunks, event_type=None):
    return [
        json.loads(line)
        for chunk in chunks
        if event_type in (None, chunk.event_type)
        for line in chunk.data.splitlines()
    ]


def ids(chunks):
    return {event["eventId"] for event in lines(chunks) if "eventId" in event}


@pytest.fixture(scope="module")
def defined(captured):
    return [event for batch in captured for event in batch if event["eventType"] == "TASK_DEFINITION_EVENT"]


@pytest.fixture
def put(tmp_path):
    """Put a file of a session there, as an upload does: all of it at once."""

    def put(name, events, session=SESSION, folder=FOLDER):
        file = tmp_path / "bucket" / folder / session / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = events if isinstance(events, bytes) else b"".join(json.dumps(event).encode() + b"\n" for event in events)
        coming = file.with_name(".coming")
        coming.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        coming.replace(file)

    (tmp_path / "bucket").mkdir()
    return put


@pytest.fixture
def root(tmp_path):
    return tmp_path / "bucket"


async def test_files_are_read_as_they_come_and_each_once(root, put, defined, tmp_path):
    follow = Followed(root, tmp_path / "places")
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:2])
    chunks = await follow.take(lambda chunks: len(ids(chunks)) == 2)
    assert {(chunk.cluster, chunk.session) for chunk in chunks} == {("team-a_prod-x7k2p", SESSION)}
    put("bb/job_events/01000000/bb-2026-11-23-08-2.jsonl.gz", defined[2:5])
    again = await follow.take(lambda chunks: len(ids(chunks)) >= 3)
    assert ids(again) == {event["eventId"] for event in defined[2:5]}, "what was read before a restart came again"


async def test_what_was_not_acknowledged_comes_again_with_its_file(root, put, defined, tmp_path):
    follow = Followed(root, tmp_path / "places")
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:2])
    put("aa/node_events/aa-2026-11-23-08-2.jsonl", defined[2:4])
    lost = defined[2]["eventId"]
    await follow.take(lambda chunks: len(ids(chunks)) == 4, ack=lambda chunk: lost not in ids([chunk]))
    again = await follow.take(lambda chunks: lost in ids(chunks))
    assert ids(again) <= {event["eventId"] for event in defined[2:4]} | {event["eventId"] for event in defined[:2]}
    assert lost in ids(again)


async def test_without_a_place_to_remember_all_comes_again_under_the_same_ranges(root, put, defined):
    follow = Followed(root)
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:3])
    first = await follow.take(lambda chunks: len(ids(chunks)) == 3)
    assert await follow.take(lambda chunks: len(ids(chunks)) == 3) == first


async def test_an_ack_that_comes_after_the_end_is_lost(root, put, defined, tmp_path):
    follow = Followed(root, tmp_path / "places")
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:2])
    async with aclosing(KubeRay(follow.url, **follow.options).subscribe("g")) as deliveries:
        delivery = await anext(deliveries)
    await delivery.ack()
    assert await follow.take(lambda chunks: len(ids(chunks)) == 2) == [delivery.chunk]


async def test_an_ack_that_cannot_be_written_down_is_warned_of_and_stops_nothing(root, put, defined, tmp_path, caplog):
    follow = Followed(root, tmp_path / "places")
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:2])
    put("aa/node_events/aa-2026-11-23-08-2.jsonl", defined[2:4])
    async with aclosing(KubeRay(follow.url, **follow.options).subscribe("g")) as deliveries:
        await (await anext(deliveries)).ack()
        [path] = (tmp_path / "places").glob("*.sqlite")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DROP TABLE files")
        await (await anext(deliveries)).ack()
    assert caplog.messages == [
        f"{path}: no such table: files; files whose place was not written are read again after a restart"
    ]


async def test_a_reader_that_is_cancelled_while_it_reads_ends_as_such(root, put, defined):
    reading, go_on = threading.Event(), threading.Event()

    def wants(_):
        reading.set()
        return go_on.wait(300)

    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:2])
    deliveries = KubeRay(Followed(root).url, wants=wants).subscribe("g")
    waiting = asyncio.create_task(anext(deliveries))
    await asyncio.to_thread(reading.wait, 300)
    waiting.cancel()
    asyncio.get_running_loop().call_later(0.2, go_on.set)  # the thread cannot be cancelled: it ends by itself
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await deliveries.aclose()


async def test_a_collection_is_listed_no_further_once_its_reader_is_cancelled(tmp_path, monkeypatch):
    listing, ended = threading.Event(), threading.Event()

    def endless(directory):
        listing.set()
        try:
            yield from (File(f"{directory}/{number}", 0, io.BytesIO) for number in count())
        finally:
            ended.set()

    monkeypatch.setattr(layout, "below", endless)  # a disk that is too slow to be waited for
    deliveries = KubeRay(Followed(tmp_path).url).subscribe("g")
    waiting = asyncio.create_task(anext(deliveries))
    await asyncio.to_thread(listing.wait, 300)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(ended.wait, 300)


async def test_a_file_that_grows_says_its_beginning_again_under_the_same_ranges(root, put, defined, tmp_path):
    follow = Followed(root, tmp_path / "places")
    name = "aa/node_events/aa-2026-11-23-08-1.jsonl"
    put(name, defined[:2])
    [first] = await follow.take(lambda chunks: len(ids(chunks)) == 2)
    put(name, defined[:6])
    [second] = await follow.take(lambda chunks: len(ids(chunks)) == 6)
    assert second.segments[0].file == first.segments[0].file
    assert second.data.startswith(first.data)


async def test_a_torn_file_is_named_and_then_no_more(root, put, defined, tmp_path):
    follow = Followed(root, tmp_path / "places")
    name = "aa/node_events/aa-2026-11-23-08-1.jsonl"
    whole = b"".join(json.dumps(event).encode() + b"\n" for event in defined[:3])
    put(name, whole[:-30])

    def reported(chunks):
        return [report["event_data"] for report in lines(chunks, "FILE")]

    torn = await follow.take(reported)
    [report] = reported(torn)
    assert (report["event_type"], report["name"]) == (COLLECTED, f"{SESSION}/{name}")
    assert report["unread"].endswith("torn: its end is missing")
    put(name, whole)
    mended = await follow.take(reported)
    assert len(ids(mended)) == 3
    assert len(reported(mended)[0]["unread"].split()) == 1


async def test_a_file_that_cannot_be_read_is_tried_again_and_named_once(root, put, defined, tmp_path, monkeypatch):
    follow = Followed(root, tmp_path / "places")
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:1])
    put("bb/node_events/bb-2026-11-23-08-1.jsonl", defined[1:3])
    opening, tries = disk.open_file, []

    def open_file(path, *rest):  # a disk that fails, or a right that is missing
        if path.name.startswith("bb"):
            tries.append(path)
            raise PermissionError(errno.EACCES, "Permission denied")
        return opening(path, *rest)

    def unread(chunks):
        return [report["event_data"]["unread"].partition(" ")[2] for report in lines(chunks, "FILE")]

    monkeypatch.setattr(disk, "open_file", open_file)

    def ack(chunk):
        if chunk.event_type == "FILE":
            put("aa/node_events/zz-2026-11-23-08-2.jsonl", defined[3:4])  # which is read after the other
        return True

    first = await follow.take(lambda chunks: defined[3]["eventId"] in ids(chunks), ack=ack)
    assert [text[42:] for text in unread(first)] == ["cannot be read: Permission denied"]
    assert len(tries) == 2, "it may have been deleted since it was listed, and is then left alone for a while"
    put("aa/node_events/zz-2026-11-23-08-3.jsonl", defined[4:5])
    assert unread(await follow.take(ids)) == []
    assert len(tries) == 3
    monkeypatch.setattr(disk, "open_file", opening)
    mended = await follow.take(unread)
    assert (ids(mended), unread(mended)) == ({event["eventId"] for event in defined[1:3]}, [""])


async def test_an_answer_takes_the_place_of_the_one_before_also_in_an_idle_cluster(root, put, defined, tmp_path):
    follow = Followed(root, tmp_path / "places")
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:1])
    name = "fetched_endpoints/restful__api__v0__placement_groups"

    def answer(state):
        group = {"placement_group_id": "ab" * 18, "creator_job_id": "01000000", "state": state, "name": "g"}
        return json.dumps({"data": {"result": {"result": [group]}}}).encode()

    seen = []
    for state in ("PENDING", "CREATED", "REMOVED"):
        put(name, answer(state))
        chunks = await follow.take(lambda chunks: lines(chunks, "PLACEMENT_GROUP"))
        last = lines(chunks, "PLACEMENT_GROUP")[-1]
        seen.append((last["timestamp"], last["event_data"]["state"]))
    assert [state for _, state in sorted(seen)] == ["PENDING", "CREATED", "REMOVED"]
    assert len({when for when, _ in seen}) == 3


async def test_clusters_of_several_owners_and_namespaces_are_told_apart(root, put, defined):
    other = "session_2026-11-24_00-00-00_000000_1"
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:1])
    mine = {**defined[1], "sessionName": other}
    put("aa/node_events/a.jsonl", [mine], other, "log/cluster-history/raycluster/team-b/prod")
    chunks = await Followed(root).take(lambda chunks: len(ids(chunks)) == 2)
    assert {(chunk.cluster, chunk.session) for chunk in chunks} == {
        ("team-a_prod-x7k2p", SESSION),
        ("team-b_prod", other),
    }


async def test_logs_are_followed_and_each_is_read_once(root, put, defined, tmp_path):
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:1])
    put("aa/logs/raylet.out", b"one\n")
    follow = Followed(root, tmp_path / "places", wants_log=lambda name: name != "left.out")
    first = await follow.take(lambda chunks: len(chunks) == 3)
    assert [chunk.data for chunk in first if chunk.event_type == "LOG"] == [b"one\n"]
    put("aa/logs/left.out", b"not asked for\n")
    put("aa/logs/worker.out.chunks/00000000000000000000", b"two\n")
    second = await follow.take(lambda chunks: len(chunks) == 2)
    assert [(chunk.event_type, chunk.node_id) for chunk in second] == [("LOG", "aa"), ("FILE", "aa")]


async def test_secrets_are_masked_and_types_left_out_as_the_settings_say(root, put, defined):
    secret = {**defined[0], "taskDefinitionEvent": {"taskId": "AQ==", "taskName": "f(token='hunter2Xy9')"}}
    node = {**defined[1], "eventType": "NODE_DEFINITION_EVENT"}
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", [secret, node])
    follow = Followed(root, wants=lambda event_type: event_type != "NODE_DEFINITION_EVENT", cluster="mine")
    [chunk] = await follow.take(lambda chunks: len(chunks) == 1)
    assert (chunk.cluster, chunk.event_type) == ("mine", "TASK_DEFINITION_EVENT")
    assert b"hunter2Xy9" not in chunk.data


async def test_one_that_is_not_there_and_one_that_is_misspelt_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no directory; give a copy of what KubeRay's collector stored"):
        await Followed(tmp_path / "none").take(lambda _: True)
    for url in ("kuberay+file://host/x", "kuberay+file:///x?poll_seconds=often", "kuberay+s3://b/x?pol_seconds=1"):
        with pytest.raises(ConfigError):
            connect(url)


async def test_a_group_whose_file_cannot_be_used_is_not_being_read(root, put, defined, tmp_path):
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:1])
    (tmp_path / "places").write_text("no directory")
    pubsub = KubeRay(Followed(root).url, places=tmp_path / "places")
    with pytest.raises(ConfigError, match="remove it: all files are read again"):
        await anext(pubsub.subscribe("g"))
    (tmp_path / "places").unlink()
    async with aclosing(pubsub.subscribe("g")) as deliveries:
        assert ids([(await anext(deliveries)).chunk]) == {defined[0]["eventId"]}


async def test_it_is_read_only(root, put, defined):
    put("aa/node_events/aa-2026-11-23-08-1.jsonl", defined[:1])
    follow = Followed(root)
    [chunk] = await follow.take(lambda chunks: len(chunks) == 1)
    with pytest.raises(ConfigError, match="is read only"):
        await connect(follow.url).publish(chunk)


async def test_a_bucket_is_followed_and_one_that_is_away_is_told_from_one_that_is_wrong(s3, captured):
    folder = "followed"
    collected.lay(s3.files / "bucket" / folder, captured[:3])
    scheme, _, rest = s3.place(folder).partition("://")
    pubsub = KubeRay(f"kuberay+{scheme}://{rest}&poll_seconds=0.05")

    async def see(deliveries, events):
        seen: set[str] = set()
        while not seen >= {event["eventId"] for event in events}:
            delivery = await asyncio.wait_for(anext(deliveries), 300)
            seen |= ids([delivery.chunk])
            await delivery.ack()

    async with aclosing(pubsub.subscribe("g")) as deliveries:
        await see(deliveries, [event for batch in captured[:3] for event in batch])
        node = s3.files / "bucket" / folder / collected.CLUSTER / SESSION / "aa" / "node_events"
        node.mkdir(parents=True, exist_ok=True)
        (node / "aa-2026-11-23-09-1.jsonl").write_text("".join(json.dumps(event) + "\n" for event in captured[3]))
        await see(deliveries, captured[3])
    away = KubeRay("kuberay+s3://bucket/x?endpoint=http://127.0.0.1:9&aws_region=x&timeout_seconds=1")
    with pytest.raises(BrokerUnavailable):
        async with aclosing(away.subscribe("g")) as deliveries:
            await asyncio.wait_for(anext(deliveries), 120)


@pytest.mark.slow
def test_a_bucket_that_grows_under_a_history_that_is_killed_is_stored_once_and_answers_as_an_import(
    root, put, captured, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    print(f"RAYTRAIL_TEST_SEED={SEED}")  # noqa: T201 (shown where a test fails)
    chance = random.Random(SEED)
    files = [  # each node's files come late, and in no order of time
        (
            f"{number % 3:02x}/node_events/aa-2026-11-23-08-{number:03}.jsonl{'.gz' * (number % 2)}",
            captured[at : at + 20],
        )
        for number, at in enumerate(range(0, len(captured), 20))
    ]
    chance.shuffle(files)
    store = tmp_path / "store"

    def start():
        flags = ["--store", str(store), "--batch-seconds", "0.1", "--fold-seconds", "0.2"]
        url = f"kuberay+{root.as_uri()}?poll_seconds=0.1"
        return subprocess.Popen(
            [sys.executable, "-m", "raytrail", "history", "--from", url, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def stored():
        if not (store / "catalogue.sqlite").exists():
            return 0
        with Store.open(store, StoreConfig(threads=1)) as opened:
            return sum(cluster.events for cluster in opened.clusters())

    wanted = sum(len(batch) for _, batches in files for batch in batches)
    history = start()
    try:
        for name, batches in files:
            put(name, [event for batch in batches for event in batch])
            if chance.random() < 0.5:
                time.sleep(chance.random() * 3)
                history.send_signal(signal.SIGKILL)
                history.communicate()
                history = start()
        deadline = time.monotonic() + 300
        while stored() < wanted and time.monotonic() < deadline:
            assert history.poll() is None, history.stderr.read()
            time.sleep(0.2)
        # one that was begun when all was stored already may not be up yet
        wait_for(lambda: history.poll() is not None or catches(history.pid, signal.SIGTERM), 60, "the history is up")
        history.terminate()
        _, printed = history.communicate(timeout=120)
        assert history.returncode == 0, printed
    finally:
        history.kill()
        history.communicate()
    assert stored() == wanted
    imported = tmp_path / "imported"
    with Store.open(imported, StoreConfig(threads=1), write=True) as whole:
        [part] = layout.find(layout.below(root))
        unread: list[Unread] = []
        pieces = read(part, cluster="c", redact=default(), wants=lambda _: True, unread=unread.append)
        whole.append([chunk for piece in pieces for chunk in piece.chunks])
        assert not unread
        whole.fold()
        with Store.open(store, StoreConfig(threads=1), write=True) as followed:
            followed.fold()
            for entity in ENTITIES:
                ours, expected = (
                    sorted(opened.snapshot(SESSION).rows(entity), key=str) for opened in (followed, whole)
                )
                differing = [
                    {name: (row[name], other[name]) for name in row if row[name] != other[name]}
                    for row, other in zip(ours, expected, strict=True)
                    if row != other
                ]
                assert not differing, entity
            [ledger, of_import] = [
                [
                    (row.event_type, row.stored_events, row.stored_bytes, row.missing_bytes)
                    for row in opened.ledger(SESSION)
                ]
                for opened in (followed, whole)
            ]
            assert ledger == of_import
