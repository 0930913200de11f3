"""Ray Data's datasets over HTTP, on events made by hand; tests/sources/test_hooked_ray.py has Ray's own answers."""

import pytest

from raytrail.server.ray.data import METRICS

pytestmark = pytest.mark.anyio

PATH = "/clusters/latest/api/data/datasets/01000000"


def progress(id, start_time, **fields):
    operator = {"operator_id": "Input_0", "name": "Input", "state": "RUNNING", "progress": 1, "total": 2}
    known = {"dataset_id": id, "job_id": "01000000", "state": "RUNNING", "start_time": start_time}
    return "EXPORT_DATASET_PROGRESS", {**known, "operators": [operator], **fields}


def metadata(id, start_time, **fields):
    operators = [{"name": "Input", "id": "Input_0", "state": "RUNNING"}]
    known = {"dataset_id": id, "job_id": "01000000", "state": "RUNNING", "start_time": start_time}
    return "EXPORT_DATASET_METADATA", {**known, "topology": {"operators": operators}, **fields}


async def asked(client):
    answer = await client.get(PATH)
    assert answer.status_code == 200, answer.text
    return answer.json()["datasets"]


async def test_datasets_are_those_of_the_job_the_newest_first(made_client, add):
    add(progress("old", 1.5), progress("new", 2.5), progress("other", 3.5, job_id="02000000"))
    assert [
        (dataset["dataset"], dataset["start_time"], dataset["end_time"]) for dataset in await asked(made_client)
    ] == [
        ("new", 2.5, None),
        ("old", 1.5, None),
    ]


async def test_a_job_without_datasets_has_none(made_client, add):
    add(progress("other", 3.5, job_id="02000000"))
    assert await asked(made_client) == []


async def test_what_prometheus_would_say_is_0_for_each_dataset_and_operator(made_client, add):
    add(progress("one", 1.5))
    [dataset] = await asked(made_client)
    for shown in (dataset, *dataset["operators"]):
        assert {name: shown[name] for name in METRICS} == {name: dict.fromkeys(of, 0) for name, of in METRICS.items()}
    assert {"operator", "name", "state", "progress", "total"} < dataset["operators"][0].keys()


async def test_a_dataset_that_no_hook_told_of_is_known_from_rays_own_events(made_client, add):
    add(metadata("told", 1.5), progress("told", 1.5, progress=7), metadata("untold", 2.5))
    untold, reported = await asked(made_client)
    assert (untold["dataset"], untold["state"], untold["progress"], untold["total"]) == ("untold", "RUNNING", 0, 0)
    [operator] = untold["operators"]
    assert (operator["operator"], operator["name"], operator["state"]) == ("Input_0", "Input", "RUNNING")
    assert (reported["dataset"], reported["progress"]) == ("told", 7)


async def test_a_dataset_that_was_not_there_yet_within_the_second_is_not_shown(made_client, add):
    add(metadata("early", 1.2), metadata("late", 1.8))
    answer = await made_client.get("/clusters/latest/at/1500/api/data/datasets/01000000")
    assert [dataset["dataset"] for dataset in answer.json()["datasets"]] == ["early"]


async def test_what_was_open_when_the_session_ended_has_failed_and_its_operators_with_it(made_client, made, add):
    add(progress("one", 1.5))
    [cluster] = made.clusters()
    made.seal(cluster.session)
    answer = await made_client.get(f"/clusters/latest/final{PATH.removeprefix('/clusters/latest')}")
    [dataset] = answer.json()["datasets"]
    assert (dataset["state"], dataset["operators"][0]["state"]) == ("FAILED", "FAILED")
