"""Ray Train's runs over HTTP: those of a real session, and Ray's own models to read them."""

import json

import pytest

from raytrail.server.ray.train import NO_STATE

pytest.importorskip("ray.train")

from google.protobuf.json_format import MessageToDict
from ray.train.v2._internal.state.export import train_run_attempt_to_proto, train_run_to_proto
from ray.train.v2._internal.state.schema import TrainRun, TrainRunAttempt, TrainRunsResponse

pytestmark = pytest.mark.anyio

PATH = "/api/train/v2/runs/v1"
RUNNING = 1795419874000


async def asked(client, view="/clusters/varied/final"):
    answer = await client.get(view + PATH)
    assert answer.status_code == 200, answer.text
    read = TrainRunsResponse(**answer.json())
    assert read.model_dump(mode="json") == answer.json(), "each field that Ray's model has, and no other"
    return answer.json()["train_runs"]


async def test_runs_are_shown_with_their_attempts_the_newest_first(client):
    bad, lab = await asked(client)
    assert (bad["name"], bad["status"], lab["name"], lab["status"]) == ("bad_run", "ERRORED", "lab_run", "FINISHED")
    assert bad["start_time_ns"] > lab["start_time_ns"]
    [attempt] = lab["attempts"]
    assert (attempt["status"], [worker["world_rank"] for worker in attempt["workers"]]) == ("FINISHED", [0, 1])
    assert {worker["status"] for worker in attempt["workers"]} == {"DEAD"}
    assert lab["job_details"]["job_id"] == lab["job_id"] == "08000000"


async def test_rays_own_code_makes_the_exported_events_of_what_we_answer(client, capture):
    last = {}
    for line in (capture / "export_events" / "event_EXPORT_TRAIN_STATE.log").read_text().splitlines():
        event = json.loads(line)["event_data"]
        last[event.get("id") or event["attempt_id"]] = event
    made = {}
    for run in await asked(client):
        made[run["id"]] = train_run_to_proto(TrainRun(**run))
        made |= {
            attempt["attempt_id"]: train_run_attempt_to_proto(TrainRunAttempt(**attempt)) for attempt in run["attempts"]
        }
    assert {
        id: MessageToDict(proto, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for id, proto in made.items()
    } == last


async def test_a_run_that_runs_does_not_say_any_more_what_it_waited_for(client):
    [lab] = await asked(client, f"/clusters/varied/at/{RUNNING}")
    assert (lab["status"], lab["status_detail"], lab["end_time_ns"]) == ("RUNNING", None, None)
    assert {worker["status"] for worker in lab["attempts"][0]["workers"]} == {"ALIVE"}


async def test_a_run_whose_controller_was_killed_was_aborted(made_client, made, chunk, add):
    run = {"id": "r1", "name": "run", "job_id": "AQAAAA==", "controller_actor_id": "AQEBAQEBAQEBAQEBAQEBAQ=="}
    data = {**run, "status": "RUNNING", "start_time_ns": "5"}
    event = {"event_id": "1", "timestamp": 1, "source_type": "EXPORT_TRAIN_RUN", "event_data": data}
    made.append([chunk("TRAIN_STATE", json.dumps(event).encode() + b"\n")])
    add(("EXPORT_ACTOR", {"actor_id": "AQEBAQEBAQEBAQEBAQEBAQ==", "state": "DEAD"}))
    [run] = (await made_client.get(f"/clusters/latest{PATH}")).json()["train_runs"]
    assert (run["status"], run["status_detail"]) == (
        "ABORTED",
        "Terminated due to system errors or killed by the user.",
    )
    assert (run["job_details"], run["attempts"]) == (None, [])


@pytest.mark.parametrize("path", [PATH, "/api/train/v2/runs"])
async def test_where_no_run_was_tracked_ray_says_how_to_track_them(path, made_client, add, task):
    add(task(1))
    answer = await made_client.get(f"/clusters/latest{path}")
    assert (answer.status_code, answer.text) == (500, NO_STATE)
