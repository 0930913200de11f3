"""Foreign records to chunks, in the shapes that Vector, Fluent Bit and rsyslog give by default."""

import json
import logging
import re
import tracemalloc
from typing import Any

import pytest
from tests.sources import posted

from raytrail.config import StoreConfig
from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, EventError
from raytrail.pubsub.collector import Collector, Sender, from_message
from raytrail.redact import Redactor
from raytrail.store import Store

SESSION = "session_2026-11-23_07-40-30_867494_13129"
EVENTS = f"/tmp/ray/{SESSION}/logs/export_events"
PATH = f"{EVENTS}/event_EXPORT_TASK_123.log"
BEGAN = 1795419640


def line(number, kind="EXPORT_TASK", **data):
    """A line as Ray's C++ writes it."""
    event: dict[str, Any] = {
        "event_data": {"task_id": "A" * 32, "attempt_number": number, "job_id": "AQAAAA==", **data}
    }
    event |= {"event_id": f"{number:036x}", "source_type": kind, "timestamp": BEGAN + number}
    return json.dumps(event, separators=(",", ":"))


THREE = [line(n) for n in range(3)]
WHOLE = "".join(text + "\n" for text in THREE).encode()


def vector(text, path=PATH):
    return {"file": path, "host": "h", "message": text, "source_type": "file", "timestamp": "2026-11-23T07:40:40.1Z"}


def fluent_bit(text, path=PATH):
    return {"date": 1795419640.123, "path": path, "log": text}


def parsed(text, path=PATH):
    return {**json.loads(text), "date": 1795419640.123, "filename": path, "host": "h", "message": text}


def ndjson(records):
    return "\n".join(map(json.dumps, records)).encode()


def array(records):
    return json.dumps(list(records)).encode()


@pytest.mark.parametrize("form", [ndjson, array])
@pytest.mark.parametrize("shape", [vector, fluent_bit])
def test_lines_come_out_as_ray_wrote_them(shape, form):
    [chunk] = from_message(form(map(shape, THREE)), Sender(cluster="c", node_id="n"))
    assert (chunk.cluster, chunk.session, chunk.node_id, chunk.event_type) == ("c", SESSION, "n", "TASK")
    assert chunk.data == WHOLE
    [segment] = chunk.segments
    assert re.fullmatch(rf"{BEGAN}-collector-[0-9a-f]{{32}}", segment.file)
    assert segment[1:] == (0, 0, len(WHOLE))


@pytest.mark.parametrize("form", [ndjson, array])
def test_an_event_that_the_collector_parsed_loses_what_was_added(form):
    [chunk] = from_message(form(map(parsed, THREE)))
    assert (chunk.session, chunk.event_type) == (SESSION, "TASK")
    assert [json.loads(text) for text in chunk.data.splitlines()] == [json.loads(text) for text in THREE]


def test_an_array_that_is_printed_over_many_lines_is_one_line_an_event():
    [chunk] = from_message(json.dumps([json.loads(text) for text in THREE], indent=2).encode())
    assert [json.loads(text) for text in chunk.data.splitlines()] == [json.loads(text) for text in THREE]


@pytest.mark.parametrize("value", [WHOLE, WHOLE[:-1], WHOLE.replace(b"\n", b"\r\n\r\n")])
def test_bare_lines_say_their_type_and_their_sender_the_session(value):
    [chunk] = from_message(value, Sender(session="mine"))
    assert (chunk.session, chunk.event_type, chunk.data) == ("mine", "TASK", WHOLE)
    [chunk] = from_message(value)
    assert (chunk.session, chunk.node_id) == ("session_unknown", "")
    [chunk] = from_message(value, Sender(session="mine", path=PATH))
    assert chunk.session == SESSION


@pytest.mark.parametrize(
    ("path", "session", "event_type"),
    [
        (f"{EVENTS}/event_EXPORT_DRIVER_JOB.log", SESSION, "DRIVER_JOB"),
        (f"{EVENTS}/event_EXPORT_TASK_1.log.2", SESSION, "TASK"),
        (f"{EVENTS}/event_EXPORT_TASK_1.2.log", SESSION, "TASK"),
        ("/tmp/ray/session_latest/logs/export_events/event_EXPORT_ACTOR.log", "session_unknown", "ACTOR"),
        ("event_EXPORT_NODE.log", "session_unknown", "NODE"),
        (f"{EVENTS}/copy-of-it", SESSION, "TASK"),
    ],
)
def test_the_path_says_session_and_type(path, session, event_type):
    [chunk] = from_message(ndjson([vector(THREE[0], path)]))
    assert (chunk.session, chunk.event_type) == (session, event_type)


def test_an_event_without_a_path_goes_where_its_file_would():
    chunks = from_message("\n".join([line(0, "EXPORT_TRAIN_RUN"), line(1, "EXPORT_NODE"), "no", "{}"]).encode())
    assert [chunk.event_type for chunk in chunks] == ["TRAIN_STATE", "NODE", "UNKNOWN"]
    assert chunks[2].data == b"no\n{}\n"


def test_lines_of_other_files_are_left_out_with_a_warning(caplog):
    caplog.set_level(logging.WARNING)
    other = "/tmp/ray/session_latest/logs/raylet.out"
    chunks = from_message(ndjson([vector("[INFO] hello", other), vector(THREE[0]), vector("bye", other)]))
    assert [chunk.data for chunk in chunks] == [f"{THREE[0]}\n".encode()]
    assert caplog.messages == [
        f"2 lines of {other!r} are left out, as they are no events; collect event_EXPORT_*.log* only"
    ]


def test_a_line_that_cannot_be_read_is_passed_on():
    cut = THREE[0][:40]
    [chunk] = from_message(ndjson([vector(THREE[0]), vector(cut), vector(f"{THREE[1]}\n\n{THREE[2]}\n")]))
    assert chunk.data == "".join(f"{text}\n" for text in (THREE[0], cut, THREE[1], THREE[2])).encode()
    [chunk] = from_message(b'{"message": "\\ud800", "x": 1}\n\xff\xfe')
    assert (chunk.event_type, chunk.data) == ("UNKNOWN", b'{"message": "\\ud800", "x": 1}\n\xff\xfe\n')


def test_nothing_gives_nothing_and_half_an_array_is_refused():
    assert from_message(b"") == from_message(b" \n") == from_message(b"[]") == []
    with pytest.raises(EventError) as caught:
        from_message(b'[{"a": 1}, {"b"')
    assert str(caught.value) == "JSON array of 15 bytes: Input data was truncated; send one that is whole, or NDJSON"


def test_secrets_are_masked_as_an_agent_would_have_and_the_chunk_is_the_same():
    event = {"event_data": {"metadata": {"api_key": "hunter2"}}, "source_type": "EXPORT_SUBMISSION_JOB"}
    sent = ndjson([vector(json.dumps(event))])
    [chunk] = from_message(sent)
    assert b'"api_key": "*******"' in chunk.data
    [bare] = from_message(sent, redact=Redactor(()))
    assert b"hunter2" in bare.data
    assert bare.segments == chunk.segments


def test_a_large_message_gives_chunks_of_bounded_size():
    lines = [line(n, note="x" * 1000) for n in range(1000)] + [line(1000, note="y" * 300_000), line(1001)]
    chunks = from_message(ndjson(map(vector, lines)))
    assert b"".join(chunk.data for chunk in chunks) == "".join(f"{text}\n" for text in lines).encode()
    sizes = [len(chunk.data) for chunk in chunks]
    assert sorted(sizes)[-2] <= 256 * 1024 < max(sizes)
    assert len({chunk.segments[0].file for chunk in chunks}) == len(chunks)


def test_a_batch_that_comes_again_is_stored_once_and_a_rotated_path_is_no_repetition(tmp_path):
    first, rotated = [line(n) for n in range(50)], [line(n) for n in range(50, 100)]
    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
        for batch in (first, first, rotated, first, rotated):
            store.append(from_message(array(map(vector, batch))))
        [row] = store.ledger(SESSION)
    assert (row.stored_events, row.missing_bytes, row.rejected_events, row.files) == (100, 0, 0, 2)
    assert row.written_bytes == row.stored_bytes == sum(len(text) + 1 for text in first + rotated)


MANY = 700_000


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"[" + b"0," * MANY + b"0]", "Expected `object`, got `int`"),
        (b"[" + b"{}," * MANY + b"{}]", "objects in 2100004 bytes are too short to be events"),
        (b"[" + b'"",' * MANY + b'""]', "Expected `object`, got `str`"),
        (b"[" + b"0," * 9_999 + b"0]", "10000 records in 20001 bytes are too short to be events"),
        (b"[" * MANY, "maximum recursion depth exceeded"),
        (b"[" + b"[]," * MANY + b"[]]", "Expected `object`, got `array`"),
        (b"0\n" * MANY, "700000 records at once; send 500000 at most"),
        (b"{}\n" * 200_000, "200000 records in 600000 bytes are too short to be events"),
        (json.dumps({"message": "\n" * MANY}).encode(), "700000 records at once"),
        (b'{"message": "x\\nx\\nx\\nx\\n", "y": "yyyyyyyyyyyyyyyyyyyyy"}\n' * 20_000, "are too short to be events"),
        (
            ndjson({"message": "x" * 40, "file": f"/session_{n}/event_EXPORT_A.log"} for n in range(2_000)),
            "more than 1000",
        ),
    ],
    ids=[
        "numbers",
        "objects",
        "text",
        "few",
        "deep",
        "arrays",
        "lines",
        "short lines",
        "empty lines",
        "lines in lines",
        "sessions",
    ],
)
def test_what_would_cost_much_more_than_it_can_be_worth_is_refused(value, says):
    tracemalloc.start()
    try:
        with pytest.raises(EventError) as caught:
            from_message(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert says in str(caught.value)
    assert peak < 30 * len(value) + 1_000_000


def test_what_is_nested_too_deep_is_passed_on_as_any_line_that_cannot_be_read():
    deep = b'{"message":' + b"[" * 100_000
    unknown, known = from_message(deep + b"\n" + THREE[0].encode())
    assert (unknown.event_type, unknown.data) == ("UNKNOWN", deep + b"\n")
    assert (known.event_type, known.data) == ("TASK", THREE[0].encode() + b"\n")


def test_of_very_many_files_whose_lines_are_left_out_a_few_are_named(caplog):
    caplog.set_level(logging.WARNING)
    assert from_message(ndjson({"message": "x" * 50, "file": f"/{n}" + "y" * 1000} for n in range(500))) == []
    assert len(caplog.messages) == 4
    assert max(map(len, caplog.messages)) < 500
    assert caplog.messages[3] == "so are those of 497 more files"


class Failing:
    def __init__(self, *errors):
        self.errors, self.published = list(errors), []

    async def publish(self, chunk):
        self.published.append(chunk)
        if self.errors and (error := self.errors.pop(0)):
            raise error


@pytest.mark.anyio
@pytest.mark.parametrize(
    "errors",
    [(None, BrokerUnavailable("x"), None), (ChunkRefused("y"), ConfigError("z"), BrokerUnavailable("x"))],
)
async def test_everything_is_tried_and_what_may_be_mended_is_said_first(errors):
    publisher = Failing(*errors)
    lines = [line(0), line(1, "EXPORT_NODE"), line(2, "EXPORT_ACTOR")]
    with pytest.raises(BrokerUnavailable):
        await Collector(publisher).take({}, "\n".join(lines).encode())
    assert len(publisher.published) == 3


@pytest.mark.anyio
async def test_static_headers_say_what_records_do_not():
    publisher = Failing()
    headers = {"raytrail-cluster": "my%20own", "raytrail-session": SESSION, "raytrail-node-id": "ab", "host": "h"}
    await Collector(publisher).take(headers, WHOLE)
    [chunk] = publisher.published
    assert (chunk.cluster, chunk.session, chunk.node_id) == ("my own", SESSION, "ab")


@pytest.mark.parametrize("shape", ["as Ray posts them", "parsed", "as text"])
def test_events_of_rays_http_export_say_their_type_and_session(shape):
    events = [
        posted.event("TASK_DEFINITION_EVENT", "taskDefinitionEvent", {"taskId": "AQ=="}, message="line", eventId="a"),
        posted.event("NODE_DEFINITION_EVENT", "nodeDefinitionEvent", {"nodeId": "AQ=="}, message="", eventId="b"),
    ]
    path = f"/tmp/ray/{posted.SESSION}/logs/export_events/event_EXPORT_X_0123.log"
    records = {
        "as Ray posts them": events,
        "parsed": [{**event, "file": path, "host": "h"} for event in events],
        "as text": [{"message": json.dumps(event), "host": "h"} for event in events],
    }[shape]
    chunks = from_message(json.dumps(records).encode())
    if shape == "parsed":
        assert {chunk.event_type for chunk in chunks} == {"X"}, "the file's name says the type"
    else:
        assert [chunk.event_type for chunk in chunks] == ["TASK_DEFINITION_EVENT", "NODE_DEFINITION_EVENT"]
    assert {chunk.session for chunk in chunks} == {posted.SESSION}
    assert chunks[0].segments[0].file.startswith("1795421410-collector-")
    lines = [json.loads(line) for chunk in chunks for line in chunk.data.splitlines()]
    assert [line["eventId"] for line in lines] == ["a", "b"]
    assert [line["eventType"] for line in lines] == [event["eventType"] for event in events]


def test_an_event_of_rays_http_export_may_have_the_names_of_its_protobuf():
    names = {"eventId": "event_id", "eventType": "event_type", "sessionName": "session_name"}
    event = posted.event("NODE_DEFINITION_EVENT", "node_definition_event", {"node_id": "AQ=="}, message="m")
    kept = {names.get(name, name): value for name, value in event.items()}
    [chunk] = from_message(json.dumps(kept).encode())
    assert (chunk.event_type, chunk.session) == ("NODE_DEFINITION_EVENT", posted.SESSION)
    assert json.loads(chunk.data)["node_definition_event"] == {"node_id": "AQ=="}
