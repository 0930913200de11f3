"""What the engine reads by column out of events that Ray posts is what it read out of the lines once made of them."""

import json
from typing import Any

import duckdb
import pytest
from tests.sources import posted
from tests.sources.posted import declared_event

from raytrail.fold.decode import beyond_limits, decode, line_type
from raytrail.fold.lines import Checked, check, sort_out
from raytrail.fold.posted import decode_posted, posted_type
from raytrail.store.engine import lines

ODD = posted.odd()


@pytest.fixture(scope="module")
def captured():
    return [event for batch in posted.captured() for event in batch]


@pytest.fixture
def read(tmp_path):
    """Read the rows of the log as the engine does, of lines that each have a place of their own."""
    with duckdb.connect(config={"threads": 1}) as engine:

        def read(select, columns, placed):
            spool = tmp_path / "spool"
            spool.write_bytes(
                b"".join(b'{"_file":"f","_offset":%d,' % place + line[1:] + b"\n" for place, line in placed)
            )
            result = engine.execute(select(lines(spool, columns, 1 << 20)))
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

        yield read


def rows_of_posted(read, event_type, events):
    """The rows of events, and those that cannot be read by column."""
    entity, event = declared_event(event_type)
    placed: list[tuple[int, bytes]] = []
    odd: list[tuple[int, bytes]] = []
    for place, posted_event in enumerate(events):
        line = encode(posted_event)
        (placed if check(event_type, line) else odd).append((place * 1000, line))
    return read(lambda source: decode_posted(entity, event, source), posted_type(entity, event), placed), odd


def rows_of_lines(read, event_type, events):
    """The rows of the lines that were once made of events."""
    [entity, _] = declared_event(event_type)
    good = [
        (place * 1000 + number, sort_out(entity.file_types[0], encode(line)).lines[0])
        for place, lines in enumerate(events)
        for number, line in enumerate(lines)
    ]
    return read(lambda source: decode(entity, source), line_type(entity), good)


def encode(event):
    return json.dumps(event, separators=(",", ":")).encode()


def test_every_captured_event_gives_the_rows_of_the_lines_that_were_once_made_of_it(captured, read):
    before = posted.captured_lines()
    for event_type in sorted({event["eventType"] for event in captured}):
        events = [event for event in captured if event["eventType"] == event_type]
        rows, odd = rows_of_posted(read, event_type, events)
        places = {place // 1000 for place, _ in odd}
        lines = [before[event["eventId"]] if place not in places else [] for place, event in enumerate(events)]
        assert rows == rows_of_lines(read, event_type, lines)
        # of all that a real Ray posts, only the causes of death are messages that files have under other names
        assert not odd or event_type == "ACTOR_LIFECYCLE_EVENT"
        assert all(b'"deathCause"' in line for _, line in odd)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd["case"])
def test_an_odd_event_gives_the_rows_of_the_lines_that_were_once_made_of_it_or_is_noticed(odd, read):
    event_type = odd["event"].get("eventType") or odd["event"]["event_type"]
    [entity, _] = declared_event(event_type)
    expected = check(event_type, encode(odd["event"]))
    if expected is None:
        return  # noticed by the check
    try:
        rows, _ = rows_of_posted(read, event_type, [odd["event"]])
    except duckdb.Error:
        return  # noticed by the engine
    if len(rows) != expected.rows:
        return  # noticed by who counts
    extremes: dict[str, dict[str, Any]] = {
        f'"{name}"': {"min": value, "max": value} for name, value in rows[0].items() if isinstance(value, int)
    }
    if beyond_limits(entity, extremes):
        return
    assert odd["lines"] is not None
    assert rows == rows_of_lines(read, event_type, [odd["lines"]])


def test_most_odd_events_are_read_by_column_or_noticed_before_they_are():
    taken = [
        odd["case"]
        for odd in ODD
        if check(odd["event"].get("eventType", "TASK_DEFINITION_EVENT"), encode(odd["event"]))
    ]
    assert len(ODD) * 0.4 < len(taken) < len(ODD) * 0.8


@pytest.mark.parametrize(
    ("event_type", "field", "usual", "odd"),
    [
        ("TASK_DEFINITION_EVENT", '"taskAttempt":%s', "1", "1.5"),
        ("TASK_DEFINITION_EVENT", '"taskAttempt":%s', '"1"', '"0x10"'),
        ("TASK_DEFINITION_EVENT", '"requiredResources":{"CPU":%s}', "1", '"1"'),
        ("TASK_DEFINITION_EVENT", '"requiredResources":{"CPU":%s}', "0.5", "true"),
        ("TASK_DEFINITION_EVENT", '"refIds":{"a":%s}', '"AQ=="', "null"),
        ("TASK_DEFINITION_EVENT", '"taskFunc":{"javaFunctionDescriptor":{"className":%s}}', '"1"', "1"),
        ("TASK_LIFECYCLE_EVENT", '"isDebuggerPaused":%s', "true", "1"),
        ("TASK_LIFECYCLE_EVENT", '"isDebuggerPaused":%s', "false", '"true"'),
        ("TASK_PROFILE_EVENT", '"profileEvents":{"events":[{"startTime":%s}]}', '"1"', "1.5"),
        ("TASK_PROFILE_EVENT", '"profileEvents":{"events":[{"startTime":%s}]}', "1", "null"),
        ("TASK_PROFILE_EVENT", '"profileEvents":{"events":[{"eventName":%s}]}', '"5"', "5"),
    ],
)
def test_a_value_that_the_engine_would_make_another_of_is_noticed_by_the_check(event_type, field, usual, odd):
    [_, event] = declared_event(event_type)
    line = encode(posted.event(event_type, event.body, {"taskId": "AQ=="}))

    def checked(value):
        return check(event_type, line.replace(b'"AQ=="', b'"AQ==",' + (field % value).encode()))

    assert (checked(usual), checked(odd)) == (Checked(lines=1, rows=1), None)


@pytest.mark.parametrize(
    ("event_type", "fields"),
    [
        ("TASK_DEFINITION_EVENT", {"taskName": None, "callSite": None, "jobId": None, "serializedRuntimeEnv": None}),
        ("TASK_DEFINITION_EVENT", {"taskType": "ACTOR_CREATION_TASK"}),
        ("TASK_LIFECYCLE_EVENT", {"nodeId": None, "actorReprName": None, "workerPid": None}),
    ],
    ids=["definition with null", "an id too short to have an actor in it", "lifecycle with null"],
)
def test_what_is_null_or_too_short_is_the_same_in_both_ways(event_type, fields, read):
    [entity, event] = declared_event(event_type)
    posted_event = posted.event(event_type, event.body, {"taskId": "AQ==", **fields})
    rows, odd = rows_of_posted(read, event_type, [posted_event])
    assert not odd
    [line] = sort_out(event_type, encode(posted_event)).lines
    assert rows == read(lambda source: decode(entity, source), line_type(entity), [(0, line)])


@pytest.mark.parametrize("time", ["2026-02-30T08:10:10Z", "2026-11-23T08:60:10Z"])
def test_a_time_that_is_none_is_noticed_though_no_row_has_it(time, read):
    event_type = "DRIVER_JOB_LIFECYCLE_EVENT"
    [_, event] = declared_event(event_type)
    moved = {"state": "CREATED", "timestamp": "2026-11-23T08:10:10Z"}
    body = {"jobId": "AQAAAA==", event.each: [moved]}
    assert len(rows_of_posted(read, event_type, [posted.event(event_type, event.body, body)])[0]) == 1
    assert rows_of_posted(read, event_type, [posted.event(event_type, event.body, body, timestamp=time)]) == ([], [])
