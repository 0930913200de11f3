"""Timelines, against what Ray's own code makes of the same tasks."""

import json
import re

import pytest
from google.protobuf.json_format import ParseDict
from ray._private.profiling import chrome_tracing_dump
from ray._private.state import GlobalState
from ray.core.generated.gcs_pb2 import TaskEvents
from tests.server.conftest import b64
from tests.server.ray.test_state import query

from raytrail.server.ray import timeline

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WORKER = "57" * 28


@pytest.fixture
def drawn():
    """Ask a client for a timeline, and let Ray's own code make it of the rows that it lists."""

    async def drawn(client, *filters):
        listed = await client.get("/clusters/latest/api/v0/tasks", params=query(*filters, detail="1", limit="10000"))
        params = [("job_id", value) for _, _, value in filters]
        answer = await client.get("/clusters/latest/api/v0/tasks/timeline", params=params)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json(), json.loads(chrome_tracing_dump(listed.json()["data"]["result"]["result"]))

    return drawn


@pytest.fixture
def run(task):
    """Make an event of an attempt with spans, each a name with what was said besides."""

    def run(number, *spans, attempt=0, worker=WORKER, kind="worker", ip="192.0.2.1"):
        name, data = task(number, attempt)
        events = [
            {
                "event_name": name,
                "start_time": str(1795419645757000000 + 1000 * number + place),
                "end_time": str(1795419645757001234 + 1000 * number + place),
                "extra_data": more,
            }
            for place, (name, more) in enumerate(spans)
        ]
        profile = {"component_type": kind, "component_id": b64(worker), "node_ip_address": ip, "events": events}
        return name, data | {"profile_events": profile}

    return run


@pytest.mark.parametrize("filters", [(), (("job_id", "=", "02000000"),)])
async def test_a_real_session_is_drawn_as_rays_dashboard_does(filters, client, drawn):
    ours, theirs = await drawn(client, *filters)
    assert len(ours) > 100
    assert ours == theirs


async def test_what_a_span_says_besides_is_kept(add, run, made_client, drawn):
    add(
        run(3, ("task:execute", '{"name":"shown","cname":"ray.get","n":null,"deep":{"er":{"x":[{}]}}}')),
        run(2, ("ray.put", '{"task_id":"other","cname":"unknown"}'), ("mine", '{"task_id":"other"}')),
        run(1, ("task", '{"say":"\\"quoted\\" \\n é"}'), worker="58" * 28, ip="192.0.2.2", kind="driver"),
        run(4, ("task", "{}"), kind="raylet"),
        run(5, worker="59" * 28),
        run(6, ("task", "{}"), attempt=1, worker="60" * 28),
        run(6, ("task", "{}"), worker="61" * 28),
    )
    ours, theirs = await drawn(made_client)
    assert ours == theirs
    assert [event["args"]["name"][:9] for event in ours if event["ph"] == "M"] == [
        "Node 192.", "Node 192.", "driver:58", "worker:57", "worker:60", "worker:61",
    ]  # fmt: skip


async def test_a_long_timeline_comes_in_pieces(client, drawn, monkeypatch):
    monkeypatch.setattr(timeline, "SORTED_TASKS", 10)
    monkeypatch.setattr(timeline, "PIECE_TASKS", 7)
    ours, theirs = await drawn(client)
    assert sorted(json.dumps(event, sort_keys=True) for event in ours) == sorted(
        json.dumps(event, sort_keys=True) for event in theirs
    )


async def test_the_command_draws_the_same(add, run, made_client):
    made = [
        run(3, ("task:execute", '{"name":"shown","cname":"mine","deep":{"er":null}}'), ("task", "{}")),
        run(2, ("ray.put", '{"task_id":"other"}'), ("mine", "not JSON")),
        run(1, ("task", "{}"), worker="58" * 28, ip="192.0.2.2", kind="driver"),
        run(4, ("task", "{}"), worker="59" * 28, kind="raylet"),
    ]
    add(*made)

    class Remembered(GlobalState):
        def _connect_and_get_accessor(self):
            return None

        def _get_all_task_events(self):
            return [ParseDict({"profile_events": data["profile_events"]}, TaskEvents()) for _, data in made]

    theirs = Remembered().chrome_tracing_dump()
    ours = (await made_client.get("/clusters/latest/api/v0/tasks/timeline?style=legacy")).json()
    assert len(theirs) == 5
    assert sorted(json.dumps(event, sort_keys=True) for event in ours) == sorted(
        json.dumps(event, sort_keys=True) for event in theirs
    )


@pytest.mark.parametrize("style", ["dashboard", "legacy"])
async def test_a_cluster_that_did_nothing_has_an_empty_timeline(style, add, task, made_client):
    add(task(1))
    answer = await made_client.get(f"/clusters/latest/api/v0/tasks/timeline?style={style}")
    assert answer.text == "[]"


async def test_a_timeline_is_downloaded_under_rays_name(client):
    answer = await client.get("/clusters/latest/api/v0/tasks/timeline?download=1&job_id=01000000")
    assert re.fullmatch(
        r'attachment; filename="timeline-01000000-\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.json"',
        answer.headers["content-disposition"],
    )


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("style=old", "style 'old': it is dashboard or legacy"),
        ("job_id=1", "filter job_id=1: the id is not 8 hex digits; copy it whole"),
    ],
)
async def test_a_timeline_of_nothing_known_is_refused(params, reason, client):
    answer = await client.get(f"/clusters/latest/api/v0/tasks/timeline?{params}")
    assert (answer.status_code, answer.json()["msg"]) == (500, reason)
