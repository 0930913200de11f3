"""What a history says of its own limits."""

import re

import pytest
from tests.server.ray.test_logs import log_chunks

from raytrail.server.ray.fidelity import CANNOT, INFERRED, WITHOUT_LOGS
from raytrail.server.ray.resources import RESOURCES

pytestmark = pytest.mark.anyio


@pytest.fixture
def covered():
    """Ask a client for the coverage: columns by resource and name."""

    async def covered(client, at=""):
        answer = await client.get(f"/clusters/latest{at}/coverage")
        assert answer.status_code == 200, answer.text
        resources = {resource["resource"]: resource for resource in answer.json()["resources"]}
        columns = {
            (noun, column["column"]): column for noun, resource in resources.items() for column in resource["columns"]
        }
        return resources, columns

    return covered


@pytest.mark.slow
async def test_every_column_says_how_it_comes_to_be_known(client, covered):
    resources, columns = await covered(client)
    for noun, resource in RESOURCES.items():
        assert [column["column"] for column in resources[noun]["columns"]] == [field.name for field in resource.fields]
    assert {column["how"] for column in columns.values()} == {"exact", "derived", "inferred", "not exported"}
    for where, column in columns.items():
        if column["how"] in ("exact", "derived") and where[0] != "cluster_events":
            assert column["source"], where
        if column["how"] != "exact":
            assert column["reason"], where


async def test_a_column_names_the_place_in_rays_events(client, covered):
    _, columns = await covered(client)
    assert columns["tasks", "type"] == {
        "column": "type",
        "how": "exact",
        "source": ["EXPORT_TASK event_data.task_info.type"],
    }
    assert columns["tasks", "start_time_ms"]["source"] == ["EXPORT_TASK event_data.state_updates.state_ts_ns.8"]
    assert columns["jobs", "status"]["source"] == ["EXPORT_DRIVER_JOB", "EXPORT_SUBMISSION_JOB"]
    assert columns["tasks", "call_site"]["how"] == "not exported"
    assert columns["tasks", "call_site"]["reason"] == CANNOT["tasks"]["call_site"]
    assert [exception["part"] for exception in columns["tasks", "name"]["exceptions"]] == ["name"]
    exceptions = {
        exception["part"]: exception["reason"] for exception in columns["tasks", "task_log_info"]["exceptions"]
    }
    assert exceptions.keys() == {
        f"task_log_info.std{name}" for name in ("out_start", "err_start", "out_file", "err_file")
    }
    assert exceptions["task_log_info.stdout_file"] == WITHOUT_LOGS["tasks"]["task_log_info.stdout_file"]


async def test_what_was_never_asked_for_is_not_exported(client, covered):
    resources, columns = await covered(client)
    for noun in ("workers", "runtime_envs"):
        assert {column["how"] for column in resources[noun]["columns"]} == {"not exported"}
    assert columns["workers", "pid"]["reason"].endswith("agents ask Ray for them with --types WORKER")
    assert resources["dashboard nodes"]["columns"][0]["how"] == "not exported"


async def test_what_was_closed_without_an_event_is_inferred(add, task, made, made_client, covered):
    add(task(1))
    resources, columns = await covered(made_client)
    assert resources["tasks"]["inferred_rows"] == 0
    assert (columns["tasks", "state"]["how"], columns["tasks", "error_type"]["how"]) == ("derived", "derived")
    [cluster] = made.clusters()
    made.seal(cluster.session)
    resources, columns = await covered(made_client, "/final")
    assert (resources["tasks"]["rows"], resources["tasks"]["inferred_rows"]) == (1, 1)
    inferred = {name for (noun, name), column in columns.items() if noun == "tasks" and column["how"] == "inferred"}
    assert {"state", "end_time_ms", "error_type", "error_message", "events", "fallback_strategy"} == inferred


async def test_what_no_event_tells_is_inferred_until_one_does(add, task, made_client, covered):
    add(task(1))
    _, columns = await covered(made_client)
    column = columns["tasks", "fallback_strategy"]
    assert (column["how"], column["source"], column["reason"]) == (
        "inferred",
        [],
        INFERRED["tasks"]["fallback_strategy"],
    )
    assert [exception["part"] for exception in column["exceptions"]] == ["fallback_strategy"], (
        "but for those with a label_selector"
    )
    add(task(2, fallback_strategy={"options": [1]}))
    _, columns = await covered(made_client)
    assert (columns["tasks", "fallback_strategy"]["how"], columns["tasks", "fallback_strategy"]["source"]) == (
        "exact",
        ["EXPORT_TASK event_data.task_info.fallback_strategy"],
    )


async def test_the_files_of_output_are_known_once_a_session_with_its_logs_is_sealed(
    add, task, made, made_client, covered
):
    async def parts(at=""):
        _, columns = await covered(made_client, at)
        return {exception["part"] for exception in columns["tasks", "task_log_info"]["exceptions"]}

    add(task(1))
    made.append(log_chunks("raylet.out", b"x\n"))
    made.fold()
    assert "task_log_info.stdout_file" in await parts()
    [cluster] = made.clusters()
    made.seal(cluster.session)
    assert await parts("/final") == {"task_log_info.stdout_start", "task_log_info.stderr_start"}


async def test_a_reason_is_words_for_people(client, covered):
    _, columns = await covered(client)
    for column in columns.values():
        assert not re.search(r"None|lambda|<", column.get("reason", ""))


async def test_the_parts_of_a_column_that_some_rows_lack_are_named(made_client, add, covered):
    add(("EXPORT_PLACEMENT_GROUP", {"placement_group_id": "AQ==", "state": "PENDING", "stats": {}}))
    _, columns = await covered(made_client)
    parts = [exception["part"] for exception in columns["placement_groups", "stats"]["exceptions"]]
    assert "stats.scheduling_attempt" in parts
    assert [exception["part"] for exception in columns["placement_groups", "state"]["exceptions"]] == ["state"]
