"""What KubeRay's history server has collected becomes chunks, as of the event files of a receiver."""

import gzip
import io
import json
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.sources import collected
from tests.sources.posted import SESSION

from raytrail.config import StoreConfig
from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk
from raytrail.kuberay import files as kuberay_files
from raytrail.kuberay import layout as kuberay
from raytrail.kuberay import reading
from raytrail.kuberay.files import Unread
from raytrail.redact import Redactor
from raytrail.sources.receiver import Intake
from raytrail.sources.set_aside import SetAside
from raytrail.store import Store


@pytest.fixture(scope="module")
def bucket(tmp_path_factory, captured):
    """A copy of a bucket."""
    return collected.lay(tmp_path_factory.mktemp("bucket"), captured)


def find(path):
    return kuberay.find(kuberay.below(path))


def lines(directory):
    return Counter(line for path in directory.iterdir() for line in path.read_bytes().splitlines())


def pieces(collected, unread):
    return reading.read(collected, cluster="prod", redact=lambda data, _: data, wants=lambda _: True, unread=unread)


class Read:
    """What was read: the bytes, the chunks, and where reading ended early (place, offset, length, reason)."""

    def __init__(self, collected):
        unread: list[Unread] = []
        read = list(pieces(collected, unread.append))
        self.bytes = sum(piece.read_bytes for piece in read)
        self.chunks = [chunk for piece in read for chunk in piece.chunks]
        self.unread = [(fault.file.place, fault.offset, fault.length, fault.reason) for fault in unread]

    def lines(self, session=SESSION, event_type=None):
        return Counter(
            line
            for chunk in self.chunks
            if chunk.session == session and event_type in (None, chunk.event_type)
            for line in chunk.data.splitlines()
        )


@pytest.mark.slow
def test_a_copy_of_a_bucket_says_what_a_receiver_would_have_written(bucket, captured, tmp_path):
    [session] = find(bucket)
    assert (session.session, session.cluster) == (SESSION, "team-a_nightly-x7k2p")
    read = Read(session)
    assert (read.bytes, read.unread) == (session.size_bytes, [])
    for chunk in read.chunks:
        chunk.check()

    intake = Intake([tmp_path], SetAside(tmp_path / "aside"))
    for batch in captured:
        assert intake.take(json.dumps(batch).encode())
    assert read.lines() == lines(tmp_path / SESSION / "logs" / "export_events")
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize(
    ("part", "cluster"),
    [
        ("log/cluster-history", "team-a_nightly-x7k2p"),
        ("log/cluster-history/rayjob/team-a/nightly/nightly-x7k2p", "team-a_nightly-x7k2p"),
        (f"log/cluster-history/rayjob/team-a/nightly/nightly-x7k2p/{SESSION}", "team-a_nightly-x7k2p"),
    ],
)
def test_a_part_of_a_bucket_will_do(bucket, part, cluster):
    assert [(session.session, session.cluster) for session in find(bucket / part)] == [(SESSION, cluster)]


def test_a_directory_without_its_layout_goes_by_what_is_above_the_session(tmp_path):
    file = tmp_path / "prod" / SESSION / "aa" / "node_events" / "x.jsonl"
    file.parent.mkdir(parents=True)
    file.touch()
    for path in (tmp_path, file.parent.parent):
        [session] = find(path)
        assert (session.session, session.cluster, [session_file.name for session_file in session.files]) == (
            SESSION,
            "prod",
            [str(file)],
        )


def test_nothing_is_found_where_nothing_was_collected(tmp_path):
    (tmp_path / SESSION / "aa" / "logs").mkdir(parents=True)
    (tmp_path / SESSION / "aa" / "logs" / "x.jsonl").touch()
    assert find(tmp_path) == []


def test_an_array_of_many_events_takes_time_by_its_length():
    # were the rest copied at each of them, this would copy a terabyte
    text = b"[" + b",\n".join([b'{"a": "%s"}' % (b"x" * 20)] * 200_000) + b" ]"
    elements, torn = kuberay_files._elements(text)
    assert (len(elements), elements[1], torn) == (200_000, (32, b'{"a": "%s"}' % (b"x" * 20)), b"")


def test_files_are_found_by_their_names_alone_wherever_they_are_kept():
    path = f"cluster-history/raycluster/team-a/prod/{SESSION}/aa"
    names = [f"s3://b/{path}/{name}" for name in ("job_events/AQ==/1.jsonl", "node_events/2.jsonl.gz", "logs/x.jsonl")]
    unopened: Any = Path
    [session] = kuberay.find(kuberay_files.File(name, 7, unopened) for name in names)
    assert (session.session, session.cluster) == (SESSION, "team-a_prod")
    assert [file.name for file in session.files] == [names[1], names[0]]
    assert [log.name for log in session.logs] == ["x.jsonl"]
    assert session.size_bytes == 3 * 7


def test_the_next_files_are_opened_while_one_is_read_and_none_stays_open(tmp_path):
    opened, all_opened = [], threading.Barrier(8)

    def open_():
        all_opened.wait(30)  # one that is opened alone breaks it
        opened.append(io.BytesIO(b"{}\n"))
        return opened[-1]

    files = tuple(kuberay_files.File(f"x/job_events/{number}.jsonl", 3, open_) for number in range(16))
    read = pieces(kuberay.Collected(SESSION, "", files), pytest.fail)
    assert next(read).read_bytes == 3
    read.close()
    assert len(opened) == 8
    assert all(file.closed for file in opened)


@pytest.fixture(scope="module")
def defined(captured):
    """Events that are a line each."""
    return [event for batch in captured for event in batch if event["eventType"] == "TASK_DEFINITION_EVENT"]


@pytest.fixture
def lay(tmp_path):
    """Lay one file of a session into a bucket, and return its session's folder."""

    def lay(content, name=f"{SESSION}/aa/node_events/aa-2026-11-23-08-1.jsonl"):
        file = tmp_path / "bucket" / "cluster-history/raycluster/team-a/prod" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return next(session for session in find(tmp_path / "bucket") if session.session == SESSION)

    return lay


def encoded(*events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def test_a_line_that_is_no_event_is_a_line_of_its_session_with_the_reason_and_the_rest_goes_on(tmp_path, defined, lay):
    good, late = defined[0], defined[1]
    session = lay(encoded(good) + b"no json\n\n" + encoded({**good, "eventId": ""}, good, late))
    read = Read(session)
    assert read.unread == []
    set_aside = [json.loads(line) for line in read.lines(event_type="SET_ASIDE")]
    place = f"{SESSION}/aa/node_events/aa-2026-11-23-08-1.jsonl"
    at = len(encoded(good))
    assert [refusal["event_data"]["reason"].partition(" (")[0] for refusal in set_aside] == [
        f"{place} at {at}: JSON is malformed: invalid character",
        f"{place} at {at + 9}: missing, empty or longer than 1000 characters - at $.eventId",
    ]
    assert sum(read.lines().values()) == 2 + 2
    assert Read(session).chunks == read.chunks, "the same file always says the same"


def test_a_file_that_has_grown_says_again_what_it_said_and_then_the_rest(tmp_path, defined, lay):
    before = Read(lay(encoded(*defined[:4])))
    after = Read(lay(encoded(*defined[:4], defined[1], *defined[4:9])))
    [(old, new)] = zip(_whole(before), _whole(after), strict=True)
    assert new.segments[0][:3] == old.segments[0][:3]
    assert new.data.startswith(old.data)
    assert new.data.count(b"\n") == 9


def _whole(read):
    """What was read of each virtual file, as one chunk."""
    of_file: dict[str, list[Chunk]] = {}
    for chunk in read.chunks:
        [segment] = chunk.segments
        of_file.setdefault(segment.file, []).append(chunk)
    return [
        Chunk(
            cluster="",
            session=SESSION,
            node_id="",
            event_type=chunks[0].event_type,
            segments=(chunks[0].segments[0]._replace(length=sum(len(part.data) for part in chunks)),),
            data=b"".join(part.data for part in chunks),
        )
        for chunks in of_file.values()
    ]


def test_an_event_is_of_the_session_that_it_names_whoevers_folder_it_is_in(tmp_path, defined, lay):
    """A pod that is restarted writes on into the folder of the session before."""
    other = "session_2026-11-23_09-00-00_000001_1"
    mine, later = defined[0], {**defined[1], "sessionName": other}
    session = lay(encoded(mine, later))
    read = Read(session)
    assert [(chunk.session, chunk.event_type) for chunk in read.chunks] == [
        (SESSION, "TASK_DEFINITION_EVENT"),
        (other, "TASK_DEFINITION_EVENT"),
    ]
    assert len({segment.file for chunk in read.chunks for segment in chunk.segments}) == 2


GZ = f"{SESSION}/aa/node_events/aa-2026-11-23-08-1.jsonl.gz"
PLAIN = GZ.removesuffix(".gz")


def cut(content):
    """Return a gzip of lines, cut within the third of three."""
    stored = gzip.compress(content, 0)  # not compressed: its bytes are where one sees them
    return stored[: stored.index(content) + len(content) - 20]


@pytest.mark.parametrize(
    ("name", "make", "taken", "reason"),
    [
        (GZ, cut, 2, "cut off: its gzip has no end"),
        (GZ, lambda content: gzip.compress(content)[:-4], 3, "cut off: its gzip has no end"),
        (GZ, lambda content: gzip.compress(content)[:9], 0, "cut off: its gzip has no end"),
        (GZ, lambda content: gzip.compress(content)[:-8] + b"\0" * 8, 3, "damaged: "),
        (GZ, lambda content: gzip.compress(content) + b"rubbish", 3, "what follows its gzip is none"),
        (GZ, lambda content: b"rubbish", 0, "no gzip, though its name says so"),
        (GZ, lambda content: b"", 0, "cut off: it is empty, and no gzip is"),
        (PLAIN, lambda content: content[:-20], 2, "torn: its end is missing"),
        (GZ, lambda content: content, 3, None),  # a store that decompresses what it hands out
        (PLAIN, gzip.compress, 3, None),
        (GZ, lambda content: gzip.compress(content[:100]) + gzip.compress(content[100:]), 3, None),
        (PLAIN, lambda content: content[:-1], 3, None),
        (PLAIN, lambda content: b"", 0, None),
    ],
)
def test_what_can_be_read_of_a_broken_file_is_taken_in_and_the_rest_is_said(
    tmp_path, defined, lay, name, make, taken, reason
):
    content = encoded(*defined[:3])
    session = lay(make(content), name)
    read = Read(session)
    assert read.bytes == session.size_bytes
    assert sum(read.lines().values()) == taken
    if reason is None:
        assert read.unread == []
    else:
        [(place, offset, length, why)] = read.unread
        assert (place, why.startswith(reason)) == (name, True)
        if taken == 2:
            assert (offset, length) == (
                content[:-1].rindex(b"\n") + 1,
                len(content[:-20]) - content[:-1].rindex(b"\n") - 1,
            )
        elif not taken:
            assert (offset, length) == (0, len(make(content)))


@pytest.mark.slow
def test_a_line_that_never_ends_is_not_held_in_memory(tmp_path, defined, lay):
    good = encoded(*defined[:2])
    session = lay(gzip.compress(good + bytes(200_000_000)), GZ)
    tracemalloc.start()
    try:
        read = Read(session)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 180_000_000
    assert read.bytes == session.size_bytes
    assert sum(read.lines().values()) == 2
    [(place, offset, _, reason)] = read.unread
    assert (place, offset, reason) == (GZ, len(good), "a line of more than 67108864 bytes")


def test_a_file_that_cannot_be_opened_ends_no_other(tmp_path, defined, lay):
    session = lay(encoded(defined[0]))

    def refuse():
        raise PermissionError(13, "Permission denied")

    def vanish():
        raise ConfigError("s3://b/x was deleted while the bucket was read; begin again")

    def fail():
        class Failing(io.BytesIO):
            def read(self, *_):
                raise OSError(5, "Input/output error")

        return Failing()

    folder = f"/b/{SESSION}/aa/job_events/01000000"
    broken = [kuberay_files.File(f"{folder}/{make.__name__}.jsonl", 7, make) for make in (refuse, vanish, fail)]
    session = session._replace(files=(*broken, *session.files))
    read = Read(session)
    assert read.bytes == session.size_bytes
    assert [(length, reason) for _, _, length, reason in read.unread] == [
        (7, "cannot be read: Permission denied"),
        (7, "cannot be read: s3://b/x was deleted while the bucket was read; begin again"),
        (7, "cannot be read: Input/output error"),
    ]
    assert sum(read.lines().values()) == 1


def test_a_bucket_that_is_away_ends_it(tmp_path):
    def away():
        raise BrokerUnavailable("s3://b does not answer")

    file = kuberay_files.File(f"/b/{SESSION}/aa/node_events/x.jsonl", 7, away)
    with pytest.raises(BrokerUnavailable):
        list(pieces(kuberay.Collected(SESSION, "", (file,)), pytest.fail))


def test_a_file_that_vanished_since_it_was_listed_and_a_folder_that_cannot_be_listed_are_said(
    tmp_path, defined, lay, monkeypatch
):
    lay(encoded(defined[0]))
    gone = tmp_path / "bucket" / "cluster-history/raycluster/team-a/prod" / PLAIN
    files = list(kuberay.below(tmp_path / "bucket"))
    gone.unlink()
    closed = PermissionError(13, "Permission denied", str(gone.parent))

    def walk(path, onerror):
        onerror(closed)
        return iter(())

    monkeypatch.setattr("os.walk", walk)
    [session] = kuberay.find([*files, *kuberay.below(tmp_path)])
    assert sorted(reason for *_, reason in Read(session).unread) == [
        "cannot be read: No such file or directory",
        "cannot be read: Permission denied",
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_the_folders_and_arrays_of_older_collectors_are_read(tmp_path, defined, whole):
    """KubeRay 1.6: historyserver/pkg/collector/eventserver/eventserver.go."""
    folder = tmp_path / "log" / "nightly_team-a" / SESSION
    batch = defined[:3]
    content = json.dumps(batch).encode()
    for name, data in {
        "node_events/aa-2026-11-23-08": content if whole else content[:-9],
        "job_events/01000000/aa-2026-11-23-08": b"",
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(data)
    [session] = find(tmp_path)
    assert (session.session, session.cluster, len(session.files)) == (SESSION, "nightly_team-a", 2)
    read = Read(session)
    expected = tmp_path / "expected" / SESSION / "aa" / "node_events" / "x.jsonl"
    expected.parent.mkdir(parents=True)
    expected.write_bytes(encoded(*(batch if whole else batch[:-1])))
    assert _parsed(read) == _parsed(Read(*find(tmp_path / "expected")))
    assert [reason for *_, reason in read.unread] == ([] if whole else ["torn: its end is missing"])


def test_the_layout_of_its_newest_release_is_read(tmp_path, defined, lay):
    """KubeRay 1.8: logs of a running cluster come in pieces, answers are polled, and job ids are hex or base64."""
    for number, name in enumerate(("job_events/01000000", "job_events/AQ/A=", "node_events")):
        session = lay(
            gzip.compress(encoded(defined[number])),
            f"{SESSION}/aa/{name}/aa-2026-11-23-08-175420000000000000{number}.jsonl.gz",
        )
    for other in (
        "aa/logs/events/event_GCS.log.chunks/00000000000000000000",
        "aa/logs/job-driver-x.log.chunks/00000000000000004096",
        "aa/logs/export_events/event_EXPORT_TASK_1.log",
        "fetched_endpoints/restful__timezone",
        "fetched_endpoints/restful__api__v0__cluster_metadata",
    ):
        session = lay(b"{}\n", f"{SESSION}/{other}")
    (tmp_path / "bucket/cluster-metadata/raycluster/team-a_prod").mkdir(parents=True)
    (tmp_path / "bucket/cluster-metadata/raycluster/team-a_prod" / SESSION).touch()
    assert (session.cluster, len(session.files), len(session.answers)) == ("team-a_prod", 3, 2)
    [log] = session.logs
    assert (log.node_id, log.name, log.offset) == ("aa", "job-driver-x.log", 4096)
    assert len(find(tmp_path / "bucket")) == 1
    read = Read(session)
    assert (read.bytes, read.unread) == (session.size_bytes, [])
    assert sum(read.lines(event_type="TASK_DEFINITION_EVENT").values()) == 3
    assert [chunk.segments[0][2:] for chunk in read.chunks if chunk.event_type == "LOG"] == [(4096, 3)]


def _parsed(read):
    return [json.loads(line) for line in read.lines()]


def test_logs_are_read_whole_or_in_pieces_and_an_agent_could_have_shipped_them(tmp_path, defined, lay):
    node, worker = "ab" * 28, f"worker-{'cd' * 28}-01000000-77"
    text = b"".join(b"line %d of a log\n" % number for number in range(100_000))
    lay(encoded(defined[0]))
    for name, data in {
        f"{node}/logs/{worker}.out": text,
        f"{node}/logs/old/{worker}.err": b"an error\n",
        f"{node}/logs/serve/controller_17.log.1": b"old",
        f"{node}/logs/raylet.out.chunks/00000000000000000000": text[:70_000],
        f"{node}/logs/raylet.out.chunks/00000000000000070000": text[70_000:90_000],
        f"{node}/logs/raylet.out": text[:80_000],  # again, as another release stores it
        f"{node}/logs/secret.log": b"token=hunter2Xy9z8\n",
    }.items():
        session = lay(data, f"{SESSION}/{name}")
    stored = _stored(
        session._replace(logs=[log for log in session.logs if log.name != "secret.log"]), tmp_path / "store"
    )
    assert stored == {
        (node, f"{worker}.out"): text,
        (node, f"old/{worker}.err"): b"an error\n",
        (node, "serve/controller_17.log.1"): b"old",
        (node, "raylet.out"): text[:90_000],
    }
    masked = _stored(session, tmp_path / "masked", redact_logs=Redactor())
    assert masked[node, "secret.log"] == b"token=" + b"*" * 12 + b"\n"


def test_of_a_log_no_more_is_taken_than_a_setting_lets_and_the_rest_is_said(tmp_path, defined, lay):
    lay(encoded(defined[0]))
    text = b"0123456789" * 30
    for offset in (0, 100, 200):
        session = lay(text[offset : offset + 100], f"{SESSION}/aa/logs/raylet.out.chunks/{offset:020}")
    unread: list[kuberay_files.Unread] = []
    read = reading.read(
        session, cluster="", redact=lambda data, _: data, wants=lambda _: True, unread=unread.append, log_bytes=150
    )
    pieces = list(read)
    assert sum(piece.read_bytes for piece in pieces) == session.size_bytes
    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
        store.append([chunk for piece in pieces for chunk in piece.chunks])
        store.seal(SESSION)
        [log] = store.logs(SESSION, every=True)
        assert b"".join(store.read_log(SESSION, log)).startswith(text[:150])
        [row] = [row for row in store.ledger(SESSION) if row.event_type == "LOG"]
    assert (row.written_bytes, row.stored_bytes, row.skipped_bytes, row.missing_bytes) == (300, 150, 150, 0)


def _stored(session, directory, **options):
    read = reading.read(
        session,
        cluster="",
        redact=lambda data, _: data,
        wants=lambda _: True,
        unread=lambda fault: pytest.fail(str(fault)),
        **options,
    )
    with Store.open(directory, StoreConfig(threads=1), write=True) as store:
        store.append([chunk for piece in read for chunk in piece.chunks])
        store.seal(SESSION)
        [row] = [row for row in store.ledger(SESSION) if row.event_type == "LOG"]
        assert row.missing_bytes == 0
        return {
            (log.node_id, log.name): b"".join(store.read_log(SESSION, log)) for log in store.logs(SESSION, every=True)
        }
