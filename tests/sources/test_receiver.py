"""What Ray's HTTP export posts: in the files before it is answered, once, and what cannot be read set aside alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest
from tests.sources.posted import SESSION, event

from raytrail.errors import ConfigError, EventError
from raytrail.event import SESSION_NAME
from raytrail.sources.address import url, where
from raytrail.sources.receiver import Intake, Receiver, _Room
from raytrail.sources.set_aside import SetAside

pytestmark = pytest.mark.slow

NODE = {"nodeId": "Tg==", "nodeIpAddress": "192.0.2.7", "startTimestamp": "2026-11-23T08:08:50.899Z"}


def node(id, **fields):
    return event("NODE_DEFINITION_EVENT", "nodeDefinitionEvent", NODE, eventId=id, **fields)


def job(id):
    return event(
        "DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", {"jobId": "AQ==", "driverNodeId": "Tg=="}, eventId=id
    )


@pytest.fixture
def temp_dir(tmp_path):
    (tmp_path / "ray" / SESSION / "logs" / "export_events").mkdir(parents=True)
    return tmp_path / "ray"


@pytest.fixture
def begin(tmp_path, temp_dir):
    """Make what a new process would."""
    made = []

    def begin():
        made.append(Intake([temp_dir], SetAside(tmp_path / "set-aside.ndjson")))
        return made[-1]

    yield begin
    for intake in made:
        intake.close()


def body(*events):
    return json.dumps(events).encode()


def written(temp_dir, session=SESSION):
    """The event ids in the files of a session, in order, without those of what was set aside."""
    paths = sorted((temp_dir / session / "logs" / "export_events").iterdir())
    paths = [path for path in paths if "SET_ASIDE" not in path.name]
    return [json.loads(line)["eventId"] for path in paths for line in path.read_bytes().splitlines()]


def set_aside(tmp_path):
    return [json.loads(line) for line in (tmp_path / "set-aside.ndjson").read_text().splitlines()]


def test_ids_of_what_cannot_be_read_are_forgotten_as_the_others_are(begin, monkeypatch):
    monkeypatch.setattr("raytrail.sources.receiver._IDS", 3)
    intake = begin()
    for number in range(10):
        assert intake.take(body({"eventId": f"id-{number}", "sessionName": SESSION}))
    [session] = intake._sessions.values()
    assert len(session.ids) == 3


def test_events_are_in_files_whose_numbers_no_process_of_rays_has(begin, temp_dir):
    assert begin().take(body(node("n1"), job("j1")))
    names = sorted(path.name for path in (temp_dir / SESSION / "logs" / "export_events").iterdir())
    kinds = ("DRIVER_JOB_DEFINITION_EVENT", "NODE_DEFINITION_EVENT")
    assert names == [f"event_EXPORT_{kind}_0{os.getpid()}.log" for kind in kinds]


def test_an_event_is_a_line_as_it_was_posted(begin, temp_dir):
    odd = node("n2") | {"nodeDefinitionEvent": NODE | {"nodeName": "a\nb", "brandNew": [1.50, {"x": "\u0026"}]}}
    assert begin().take(body(node("n1"))[:-1] + b",\n" + json.dumps(odd, indent=2).encode() + b"]")
    [path] = (temp_dir / SESSION / "logs" / "export_events").iterdir()
    first, second = path.read_bytes().splitlines()
    assert (first, json.loads(second)) == (body(node("n1"))[1:-1], odd)
    assert b"1.5," in second


def test_names_of_fields_may_be_those_of_the_protocol(begin, temp_dir):
    event = {"event_id": "n1", "event_type": "NODE_DEFINITION_EVENT", "session_name": SESSION}
    assert begin().take(body(event, node("n1"), node("n2")))
    [path] = (temp_dir / SESSION / "logs" / "export_events").iterdir()
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [event, node("n2")]


def test_an_event_of_a_type_that_nothing_here_knows_is_kept_as_it_came(begin, temp_dir):
    newer = event("PLATFORM_EVENT", "platformEvent", {"objectKind": "Pod"}, eventId="p1")
    assert begin().take(body(newer, node("n1")))
    [path] = (temp_dir / SESSION / "logs" / "export_events").glob("event_EXPORT_PLATFORM_EVENT_0*.log")
    assert json.loads(path.read_bytes()) == newer


def test_what_the_receiver_of_an_older_version_wrote_is_known(begin, temp_dir):
    before = temp_dir / SESSION / "logs" / "export_events" / "event_EXPORT_NODE_0123.log"
    before.write_text('{"event_id":"n1","source_type":"EXPORT_NODE","timestamp":1,"event_data":{"node_id":"Tg=="}}\n')
    assert begin().take(body(node("n1"), node("n2")))
    [path] = (temp_dir / SESSION / "logs" / "export_events").glob("*NODE_DEFINITION*")
    assert [json.loads(line)["eventId"] for line in path.read_bytes().splitlines()] == ["n2"]


def test_an_event_that_comes_again_is_known(begin, temp_dir):
    intake = begin()
    assert intake.take(body(node("n1")))
    assert intake.take(body(node("n1"), node("n2"), node("n2")))
    assert written(temp_dir) == ["n1", "n2"]


def test_another_process_knows_from_the_files_what_came(begin, temp_dir):
    begin().take(body(node("n1"), node('a "quoted" id')))
    intake = begin()
    assert intake.take(body(node("n1"), node('a "quoted" id'), job("j1")))
    assert Counter(written(temp_dir)) == {"n1": 1, 'a "quoted" id': 1, "j1": 1}


def test_a_line_that_a_killed_process_left_half_written_is_written_again_after_it(begin, temp_dir):
    begin().take(body(node("n1")))
    [path] = (temp_dir / SESSION / "logs" / "export_events").iterdir()
    with path.open("ab") as file:
        file.write(b'{"eventId":"n2","sourceType"')
    assert begin().take(body(node("n1"), node("n2")))
    whole = [json.loads(line)["eventId"] for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    assert whole == ["n1", "n2"]


def test_a_bad_event_is_set_aside_alone_and_the_batch_goes_on(begin, temp_dir, tmp_path):
    bad = node("n2", sessionName="../../etc")
    assert begin().take(body(node("n1"), bad, 7, node("n3")))
    assert written(temp_dir) == ["n1", "n3"]
    assert [(entry["reason"], entry["event"]) for entry in set_aside(tmp_path)] == [
        ("expected a session's name, got '../../etc' - at $.sessionName", bad),
        ("Expected `object`, got `int`", 7),
    ]
    assert not (tmp_path / "etc").exists()


def test_a_session_has_the_longest_name_that_is_read_again_or_is_set_aside(begin, temp_dir, tmp_path):
    longest = f"session_{'x' * 193}"
    assert SESSION_NAME.fullmatch(longest)
    assert not SESSION_NAME.fullmatch(f"{longest}x")
    assert begin().take(body(node("n1", sessionName=longest), node("n2", sessionName=f"{longest}x")))
    assert written(temp_dir, longest) == ["n1"]
    assert [entry["event"]["eventId"] for entry in set_aside(tmp_path)] == ["n2"]


def test_what_is_set_aside_is_a_line_of_its_session_too_once_and_without_what_it_holds(begin, temp_dir, tmp_path):
    secret = {**job("j1"), "eventType": "soon", "message": "token=hunter2"}
    other = {**secret, "sessionName": "session_2026-11-24_00-00-00_000000_1"}
    for _ in range(2):  # Ray sends again what it was not told to have been taken, whoever takes it then
        assert begin().take(body(secret, other, 7))
    for session, count in ((SESSION, 1), (other["sessionName"], 2)):
        [path] = (temp_dir / session / "logs" / "export_events").glob("event_EXPORT_SET_ASIDE_0*.log")
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert len(lines) == count
        assert "hunter2" not in path.read_text()
    assert [line["event_data"]["reason"] for line in lines] == [
        "expected an event type's name, got 'soon' - at $.eventType",
        "Expected `object`, got `int`",
    ]
    assert len(set_aside(tmp_path)) == 3


def test_what_names_no_session_is_a_line_of_the_newest_one(begin, temp_dir):
    (temp_dir / "session_latest").symlink_to(temp_dir / SESSION)
    assert begin().take(body(7))
    assert list((temp_dir / SESSION / "logs" / "export_events").glob("event_EXPORT_SET_ASIDE_0*.log"))


def test_what_could_not_be_set_aside_is_once_it_can(begin, tmp_path, temp_dir):
    bad = body({"sessionName": SESSION, "eventType": "NODE_DEFINITION_EVENT"})
    (tmp_path / "set-aside.ndjson").mkdir()
    intake = begin()
    assert not intake.take(bad)
    (tmp_path / "set-aside.ndjson").rmdir()
    assert intake.take(bad)
    assert intake.take(bad)
    assert len(set_aside(tmp_path)) == 1


def test_what_is_set_aside_has_a_limit(begin, tmp_path, monkeypatch):
    monkeypatch.setattr("raytrail.sources.set_aside.MOST_BYTES", 1000)
    intake = begin()
    for number in range(30):
        intake.take(body(number))
    assert sorted(path.name for path in tmp_path.glob("set-aside*")) == ["set-aside.ndjson", "set-aside.ndjson.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.glob("set-aside*"))


def test_a_session_that_is_not_here_is_begun(begin, temp_dir):
    other = "session_2026-11-24_00-00-00_000000_1"
    begin().take(body(node("n1", sessionName=other)))
    assert written(temp_dir, other) == ["n1"]


def test_no_more_sessions_are_held_open_than_a_few(begin, temp_dir):
    intake = begin()
    for number in range(20):
        intake.take(body(node("n1", sessionName=f"session_{number}")))
    assert len(intake._sessions) == 8
    intake.take(body(node("n1", sessionName="session_0")))
    assert written(temp_dir, "session_0") == ["n1"]


def test_what_is_no_array_is_refused(begin):
    with pytest.raises(EventError, match=r"^expected a JSON array of Ray's events: "):
        begin().take(b'{"eventId": "n1"}')


@pytest.mark.parametrize("small_disk", [1], indirect=True)
def test_a_full_disk_takes_nothing_and_all_comes_once_there_is_room(small_disk, tmp_path):
    intake = Intake([small_disk], SetAside(tmp_path / "set-aside.ndjson"))
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (900 << 10))
    many = body(*(node(f"n{number}", message="m" * 100) for number in range(2000)))
    assert not intake.take(many)
    filler.unlink()
    intake = Intake([small_disk], SetAside(tmp_path / "set-aside.ndjson"))
    assert intake.take(many)
    lines = [
        line
        for path in (small_disk / SESSION / "logs" / "export_events").iterdir()
        for line in path.read_bytes().splitlines()
    ]
    whole = [json.loads(line)["eventId"] for line in lines if line.endswith(b"}")]
    assert Counter(whole) == Counter(f"n{number}" for number in range(2000))


@contextmanager
def receiver(intake, **options):
    receiver = Receiver("127.0.0.1:0", intake, **options)
    try:
        yield receiver
    finally:
        receiver.close()


def post(url, data, **headers):
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_batch_is_answered_once_it_is_in_the_files(begin, temp_dir):
    with receiver(begin()) as taking:
        assert post(taking.url, body(node("n1"))) == (204, "")
        assert written(temp_dir) == ["n1"]


def test_its_token_is_not_guessed_without_limit(begin):
    with receiver(begin(), token="secret") as taking:
        statuses = [post(taking.url, b"[]", Authorization=f"Bearer {guess}")[0] for guess in range(30)]
        assert statuses[:10] == [401] * 10
        assert statuses.count(429) > 10
        assert post(taking.url, b"[]")[0] == 401
        assert post(taking.url, b"[]", Authorization="Bearer secret") == (204, "")


def test_each_refusal_says_what_to_do(begin, temp_dir):
    with receiver(begin(), token="secret", most_bytes=1000) as taking:
        bearer = {"Authorization": "Bearer secret"}
        basic = {"Authorization": "Basic cmF5OnNlY3JldA=="}
        assert post(taking.url, b"[]") == (401, "send the token of this receiver\n")
        assert post(taking.url, b"[]", Authorization="Bearer other")[0] == 401
        assert post(taking.url, b"[]", Authorization="Basic !")[0] == 401
        assert post(taking.url, b"[]", **bearer) == (204, "")
        assert post(taking.url, b"[]", **basic) == (204, "")
        assert post(taking.url + "x", b"[]", **bearer) == (404, "POST /v1/events\n")
        assert post(taking.url, b" " * 1001, **bearer) == (
            413,
            "the body is longer than 1000 bytes; send less at once\n",
        )
        assert post(taking.url, iter([b"[]"]), **bearer) == (411, "say the body's length in Content-Length\n")
        assert post(taking.url, b"{", **bearer)[0] == 400
    assert written(temp_dir) == []


def test_a_sender_that_says_more_than_is_read_hears_why_nothing_was_taken(begin, temp_dir):
    with receiver(begin(), most_bytes=1000) as taking:
        # more than the sockets between them hold: the sender is still sending when it is refused
        assert post(taking.url, b" " * (32 << 20))[0] == 413
    assert written(temp_dir) == []


def test_a_refused_sender_that_never_ends_is_left(begin, monkeypatch):
    monkeypatch.setattr("raytrail.sources.receiver._LINGER_SECONDS", 0.2)
    with receiver(begin(), most_bytes=1000) as taking:
        host, port = taking.url.removeprefix("http://").removesuffix("/v1/events").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as endless:
            endless.sendall(b"POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n")
            assert endless.recv(100).startswith(b"HTTP/1.1 413")
            with pytest.raises(ConnectionError):
                send(endless, b" " * (1 << 20), times=2000)


def send(connection, piece, times):
    for _ in range(times):
        connection.sendall(piece)


def test_more_at_once_than_are_taken_are_told_to_come_back(begin, monkeypatch):
    monkeypatch.setattr("raytrail.sources.receiver._BODIES_AT_ONCE", 1)
    taken, go = threading.Event(), threading.Event()

    class Slow(Intake):
        def take(self, body):
            taken.set()
            return go.wait(60) and super().take(body)

    intake = begin()
    intake.__class__ = Slow
    with receiver(intake) as taking, ThreadPoolExecutor() as threads:
        first = threads.submit(post, taking.url, b"[]")
        assert taken.wait(60)
        assert post(taking.url, b"[]") == (429, "others are being taken; come back\n")
        go.set()
        assert first.result(60)[0] == 204
        assert post(taking.url, b"[]")[0] == 204


@contextmanager
def begun(url, sent):
    """A connection on which something was said, and nothing more is."""
    host, port = url.removeprefix("http://").removesuffix("/v1/events").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(sent)
        yield connection


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST /v1", HEAD, HEAD + b"["])
def test_whoever_hardly_says_anything_holds_up_nobody(begin, sent):
    with receiver(begin()) as taking, ExitStack() as stack:
        slow = [stack.enter_context(begun(taking.url, sent)) for _ in range(100)]
        assert post(taking.url, b"[]")[0] == 204
        # the oldest had to make room
        assert [connection.recv(100) for connection in slow[:60]] == [b""] * 60


def test_bodies_that_come_take_no_more_memory_than_two_may(begin, monkeypatch):
    read = threading.Event()

    class Watched(_Room):
        def take(self, size):
            super().take(size)
            if self._free <= 2_000:
                read.set()

    monkeypatch.setattr("raytrail.sources.receiver._Room", Watched)
    with receiver(begin(), most_bytes=500_000) as taking, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(begun(taking.url, HEAD + b" " * 499_000))
        # until they are read, it could be one of them that finds no room
        assert read.wait(60)
        assert post(taking.url, b"[" + b" " * 400_000 + b"]") == (429, "others are being taken; come back\n")
        assert post(taking.url, b"[]")[0] == 204


def test_a_body_that_comes_a_byte_at_a_time_is_not_waited_for(begin, monkeypatch):
    monkeypatch.setattr("raytrail.sources.receiver._BODY_SECONDS", 0.3)
    with receiver(begin()) as taking, begun(taking.url, HEAD) as slow:
        slow.settimeout(0.02)
        reply, until = b"", time.monotonic() + 60
        while not reply and time.monotonic() < until:
            slow.sendall(b" ")
            with suppress(TimeoutError):
                reply = slow.recv(100)
    assert reply.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://127.0.0.1:8367"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-origin"}]
)
def test_no_page_in_a_browser_posts(begin, temp_dir, headers):
    with receiver(begin()) as taking:
        assert post(taking.url, body(node("n1")), **headers) == (403, "no page in a browser may post here\n")
    assert written(temp_dir) == []


@pytest.mark.parametrize("junk", [b"0,", b"[],", b"{},", b'"",'])
def test_a_batch_that_would_cost_much_more_than_it_can_be_worth_is_refused(begin, tmp_path, junk):
    with pytest.raises(EventError):
        begin().take(b"[" + junk * 2_000_000 + b"0]")
    assert not (tmp_path / "set-aside.ndjson").exists()


def test_an_address_that_is_taken_or_none_is_a_wrong_setting(begin):
    with receiver(begin()) as taking:
        listen = taking.url.removeprefix("http://").removesuffix("/v1/events")
        with pytest.raises(ConfigError, match="Address already in use; give host:port of a free port"):
            Receiver(listen, begin())
    with pytest.raises(ConfigError) as failed:
        where("8367")
    assert str(failed.value) == "receiver's address '8367' is not host:port; write e.g. 127.0.0.1:8367"
    assert where(":8367") == ("127.0.0.1", 8367)
    assert where("[::1]:1") == ("::1", 1)
    assert url("[::1]:1") == "http://[::1]:1/v1/events"
    assert url("https://ray:token@host/x") == "https://ray:token@host/x"


KILLED = """
import os, signal, sys
from pathlib import Path
from raytrail.sources.receiver import Intake, Receiver
from raytrail.sources.set_aside import SetAside

class Killed(Intake):
    def take(self, body):
        super().take(body)
        os.kill(os.getpid(), signal.SIGKILL)  # appended, and not answered

taking = Receiver("127.0.0.1:0", Killed([Path(sys.argv[1])], Path(sys.argv[1], "set-aside.ndjson")))
print(taking.url, flush=True)
signal.pause()
"""


def test_a_batch_whose_answer_a_kill_took_is_in_the_files_once(begin, temp_dir, captured):
    batch = json.dumps(captured[3]).encode()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(temp_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        with pytest.raises(OSError, match=r"."):
            post(process.stdout.readline().strip(), batch)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    with receiver(begin()) as taking:
        assert post(taking.url, batch) == (204, "")
    ids = [id for id in written(temp_dir) if "." not in id]
    assert Counter(ids) == Counter(posted_event["eventId"] for posted_event in captured[3])
