"""What Ray's dashboard asks beside the State and Jobs APIs."""

import base64
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from tests.server.conftest import MADE, b64

from raytrail.server.ray import dashboard
from raytrail.server.ray.timezones import local_zone

pytestmark = pytest.mark.anyio

NODE, OTHER = "01" * 28, "02" * 28
RESOURCES = {"CPU": 4.0, "memory": 2.0 * 1024**3, "object_store_memory": 1024.0**3, "node:127.0.0.1": 1.0}


def node(number=1, state="ALIVE", *, began_ms=1_000, ended_ms=0, **fields):
    return "EXPORT_NODE", {
        "node_id": b64(f"{number:02d}" * 28),
        "node_manager_address": f"127.0.0.{number}",
        "node_name": f"host-{number}",
        "is_head_node": number == 1,
        "state": state,
        "resources_total": RESOURCES,
        "labels": {"zone": "a"},
        "start_time_ms": str(began_ms),
        "end_time_ms": str(ended_ms),
        **fields,
    }


def actor(number=1, state="ALIVE", **fields):
    return "EXPORT_ACTOR", {
        "actor_id": b64(f"{number:024x}01000000"),
        "job_id": b64("01000000"),
        "class_name": "Counter",
        "state": state,
        "node_id": b64(NODE),
        "pid": 100 + number,
        **fields,
    }


async def ask(client, path):
    answer = await client.get(f"/clusters/latest/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.mark.slow
async def test_actors_are_those_of_the_state_api(client, ground_truth):
    actors = (await client.get("/clusters/varied/logical/actors")).json()["data"]["actors"]
    assert set(actors) == {row["actor_id"] for row in ground_truth["actors"]}
    for row in ground_truth["actors"]:
        shown = actors[row["actor_id"]]
        assert (shown["state"], shown["actorClass"], shown["pid"]) == (row["state"], row["class_name"], row["pid"])
        assert (shown["address"]["nodeId"], shown["numRestarts"]) == (row["node_id"] or "", str(row["num_restarts"]))
        detail = (await client.get(f"/clusters/varied/logical/actors/{row['actor_id']}")).json()["data"]["detail"]
        # of one alone Ray writes the names of resources in its dashboard's way, too
        assert detail == {**shown, "requiredResources": detail["requiredResources"]}
        assert list(detail["requiredResources"].values()) == list(shown["requiredResources"].values())


async def test_some_actors_are_asked_for_by_their_ids(made_client, add):
    add(node(), actor(1), actor(2))
    known, unknown = f"{1:024x}01000000", f"{9:024x}01000000"
    actors = (await ask(made_client, f"logical/actors?ids={known},{unknown}"))["actors"]
    others = ",".join(f"{number:032x}" for number in range(dashboard.ASKED_ALONE))
    many = (await ask(made_client, f"logical/actors?ids={known},{known},{others}"))["actors"]
    assert (many[known], len(many)) == (actors[known], 1 + dashboard.ASKED_ALONE)
    assert actors[known]["className"] == "Counter"
    assert actors[unknown] is None
    assert (await ask(made_client, f"logical/actors/{unknown}"))["detail"] is None


async def test_many_actors_are_found_by_their_ids_where_the_cluster_has_more_than_are_read_at_once(
    made_client, add, monkeypatch
):
    for module in ("actors", "dashboard"):
        monkeypatch.setattr(f"raytrail.server.ray.{module}.ACTORS_SHOWN", 2)
    add(node(), *(actor(number) for number in range(1, 6)))
    known = [f"{number:024x}01000000" for number in range(1, 6)]
    others = [f"{number:032x}" for number in range(dashboard.ASKED_ALONE)]
    actors = (await ask(made_client, f"logical/actors?ids={','.join([*known, *others])}"))["actors"]
    assert [id for id, shown in actors.items() if shown] == known


@pytest.mark.parametrize(
    ("cause", "detail"),
    [
        (None, "-"),
        ({"actor_died_error_context": {"error_message": "killed"}}, "killed"),
        ({"creation_task_failure_context": {"formatted_exception_string": "Traceback"}}, "Traceback"),
    ],
)
async def test_why_an_actor_died_is_said_as_ray_says_it(cause, detail, made_client, add):
    add(node(), actor(1, "DEAD", **({"death_cause": cause} if cause else {})))
    [shown] = (await ask(made_client, "logical/actors"))["actors"].values()
    assert shown["exitDetail"] == detail


async def test_where_an_actor_is_follows_from_its_constructor_until_its_events_say_so(made_client, add):
    """As Ray's dashboard has it, which hears of a lease only once the actor lives, or has died."""
    worker = "ab" * 28
    creation = {
        "task_id": b64("ff" * 8 + f"{1:024x}01000000"),
        "attempt_number": 0,
        "job_id": b64("01000000"),
        "state_updates": {"worker_pid": 77, "state_ts_ns": {"8": "1000000000"}},
        "profile_events": {"component_id": b64(worker), "component_type": "worker", "events": []},
    }
    seen = {"worker_id": b64(worker), "node_id": b64(OTHER), "ip": "127.0.0.2", "is_alive": True, "pid": 77}
    nowhere = {"node_id": "", "pid": 0}
    add(node(1), node(2), actor(1, "PENDING_CREATION", **nowhere), ("EXPORT_TASK", creation), ("EXPORT_WORKER", seen))
    [shown] = (await ask(made_client, "logical/actors"))["actors"].values()
    assert shown["address"] == {"nodeId": "ff" * 28, "ipAddress": "", "port": 0, "workerId": "ff" * 28}
    assert shown["pid"] == 0
    [listed] = (await ask(made_client, "api/v0/actors?detail=1"))["result"]["result"]
    assert (listed["pid"], listed["node_id"]) == (77, None)
    add(actor(1, "DEAD", **{**nowhere, "pid": 77}))
    [shown] = (await ask(made_client, "logical/actors"))["actors"].values()
    assert shown["address"] == {"nodeId": OTHER, "ipAddress": "127.0.0.2", "port": 0, "workerId": worker}
    assert shown["pid"] == 77


async def test_where_an_actor_was_that_was_killed_before_its_constructor_was_reported(made_client, add):
    """Ray tells its process alone, and the address of its node in the cause: the worker with both is shown."""
    pid = {NODE: 77, OTHER: 77, "03" * 28: 78}
    worker = {id: f"{number:02x}" * 28 for number, id in enumerate(pid, 7)}
    add(
        *(node(number) for number in (1, 2)),
        *(
            ("EXPORT_WORKER", {"worker_id": b64(worker[id]), "node_id": b64(id), "pid": pid[id], "is_alive": True})
            for id in pid
        ),
        actor(1, "DEAD", node_id=None, pid=77, death_cause=killed("127.0.0.2")),
        actor(2, "DEAD", node_id=None, pid=77, death_cause=killed("")),
        actor(3, "DEAD", node_id=None, pid=79, death_cause=killed("127.0.0.2")),
    )
    shown = (await ask(made_client, "logical/actors"))["actors"]
    unknown = {"nodeId": "", "ipAddress": "", "port": 0, "workerId": ""}
    assert [shown[f"{number:024x}01000000"]["address"] for number in (1, 2, 3)] == [
        {"nodeId": OTHER, "ipAddress": "127.0.0.2", "port": 0, "workerId": worker[OTHER]},
        unknown,  # two fit
        unknown,
    ]


def killed(ip):
    return {"actor_died_error_context": {"error_message": "killed", "node_ip_address": ip}}


async def test_what_a_placement_group_adds_to_resources_is_not_shown(made_client, add):
    group = "ab" * 18
    resources = {f"CPU_group_0_{group}": 0.5, f"CPU_group_{group}": 0.5, f"bundle_group_0_{group}": 0.001, "GPU": 1.0}
    add(node(), actor(1, required_resources=resources))
    [shown] = (await ask(made_client, "logical/actors"))["actors"].values()
    assert shown["requiredResources"] == {"CPU": 0.5, "GPU": 1.0}


async def test_nodes_have_all_without_which_the_pages_break(made_client, add):
    add(node(1), node(2, "DEAD", ended_ms=9_000, death_info={"reason": "UNEXPECTED_TERMINATION"}))
    summary = (await ask(made_client, "final/nodes?view=summary"))["summary"]
    assert [(node_summary["hostname"], node_summary["raylet"]["state"]) for node_summary in summary] == [
        ("host-1", "ALIVE"),
        ("host-2", "DEAD"),
    ]
    assert summary[1]["raylet"]["stateMessage"] == "Unexpected termination"
    for id in (NODE, OTHER, "03" * 28):
        detail = (await ask(made_client, f"nodes/{id}"))["detail"]
        assert {"raylet", "workers", "actors"} <= detail.keys()
        assert id == "03" * 28 or {"loadAvg", "networkSpeed", "cmdline"} <= detail.keys()
    assert (await ask(made_client, "nodes?view=hostnamelist"))["hostNameList"] == ["host-1"]
    assert (await made_client.get("/clusters/latest/nodes?view=other")).status_code == 500


async def test_of_a_node_that_died_a_living_cluster_shows_what_rays_dashboard_has_left(made_client, add, made):
    add(node(1), node(2, "DEAD", ended_ms=9_000))
    blank = {"nodeManagerAddress": "", "nodeName": "", "startTimeMs": "0", "resourcesTotal": {}, "labels": {}}
    [_, died] = (await ask(made_client, "nodes?view=summary"))["summary"]
    assert {name: died["raylet"][name] for name in blank} == blank
    assert (died["ip"], died["hostname"], died["raylet"]["endTimeMs"]) == ("127.0.0.2", "host-2", "9000")
    # at last all are dead, and what is known of them is shown
    made.seal(made.clusters()[0].session)
    [_, died] = (await ask(made_client, "final/nodes?view=summary"))["summary"]
    assert died["raylet"]["nodeName"] == "host-2"
    assert died["raylet"]["resourcesTotal"]["CPU"] == 4.0


async def test_a_nodes_page_lists_actors_that_have_moved_as_rays_does(made_client, add):
    moved = actor(1, "ALIVE", node_id=b64(OTHER))
    add(node(1), node(2), actor(1, "ALIVE", node_id=b64(NODE)), actor(2, node_id=b64(OTHER)))
    add(moved)
    for id, numbers in ((NODE, [1]), (OTHER, [1, 2])):
        listed = (await ask(made_client, f"nodes/{id}"))["detail"]["actors"]
        assert sorted(listed) == [f"{number:024x}01000000" for number in numbers]


async def test_a_nodes_page_lists_its_actors(made_client, add):
    add(node(1), node(2), actor(1), actor(2, node_id=b64(OTHER)))
    assert list((await ask(made_client, f"nodes/{NODE}"))["detail"]["actors"]) == [f"{1:024x}01000000"]


async def test_the_status_counts_what_runs_and_what_waits(made_client, add, task):
    kind, waiting = task(1, required_resources={"CPU": 8.0})
    waiting["state_updates"] = {"state_ts_ns": {"2": "1500000000"}}
    add(node(), actor(1, required_resources={"CPU": 1.5}), (kind, waiting))
    status = (await ask(made_client, "api/cluster_status?format=1"))["clusterStatus"]
    assert f" 1 node_{NODE}" in status
    assert " 1.5/4.0 CPU\n 0B/2.00GiB memory\n ?/1.00GiB object_store_memory\n" in status
    assert " {'CPU': 8.0}: 1+ pending tasks/actors" in status
    assert status.index("Node status") < status.index("Resources")


@pytest.mark.parametrize("by", ["a driver", "a task"])
async def test_a_nodes_page_lists_actors_that_it_was_asked_for_when_they_started_again(made_client, add, by):
    """As Ray asks the node of their owner first."""
    parent = "ff" * 20 + "01000000" if by == "a driver" else "0a" * 20 + "01000000"
    creation = {
        "task_id": b64("ff" * 8 + f"{1:024x}01000000"),
        "attempt_number": 0,
        "job_id": b64("01000000"),
        "task_info": {
            "type": "ACTOR_CREATION_TASK",
            "actor_id": b64(f"{1:024x}01000000"),
            "parent_task_id": b64(parent),
        },
    }
    task = {
        "task_id": b64(parent),
        "attempt_number": 0,
        "job_id": b64("01000000"),
        "state_updates": {"node_id": b64(NODE), "worker_id": b64("0b" * 28), "state_ts_ns": {"8": "1000000000"}},
    }
    worker = {"worker_id": b64("01000000" + "ff" * 24), "node_id": b64(NODE), "is_alive": True, "pid": 9}
    owner = ("EXPORT_WORKER", worker) if by == "a driver" else ("EXPORT_TASK", task)
    add(node(1), node(2), node(3), ("EXPORT_TASK", creation), owner)
    for state in ("ALIVE", "RESTARTING", "ALIVE"):
        add(actor(1, state, node_id=b64(OTHER), required_resources={"CPU": 1}))
    for id, shown in ((NODE, True), (OTHER, True), ("03" * 28, False)):
        assert bool((await ask(made_client, f"nodes/{id}"))["detail"]["actors"]) == shown


async def test_the_worker_of_an_actor_that_died_with_its_node_is_shown_until_the_dashboard_forgets_it(made_client, add):
    """Ray's dashboard does so every ten minutes, from its own start on."""
    worker = {"worker_id": b64("0b" * 28), "node_id": b64(OTHER), "is_alive": True, "pid": 101}
    add(node(1), node(2, "DEAD", ended_ms=5_000), ("EXPORT_WORKER", worker))
    add(actor(1, "DEAD", node_id=b64(OTHER)))
    for at_ms, shown in ((6_000, "0b" * 28), (602_000, None)):
        [shown_actor] = (await ask(made_client, f"at/{at_ms}/logical/actors"))["actors"].values()
        assert (shown_actor["address"]["workerId"], shown_actor.get("workerId")) == ("0b" * 28, shown)


async def test_events_are_given_by_job(made_client, add, chunk, made):
    add(node())
    line = (
        b'{"event_id":"e1","source_type":"RAYLET","severity":"ERROR","label":"RAY_WORKER_FAILURE","message":"died",'
        b'"timestamp":7,"host_name":"vm","pid":12,"custom_fields":{"job_id":"02000000","worker_id":"ab"}}\n'
        b'{"event_id":"e2","source_type":"JOBS","severity":"INFO","label":"","message":"Started","timestamp":"8",'
        b'"source_hostname":"vm","source_pid":13,"custom_fields":{"submission_id":"raysubmit_1"}}\n'
    )
    made.append([chunk("CLUSTER_EVENT", line)])
    made.fold()
    events = (await ask(made_client, "events"))["events"]
    assert events["02000000"][0]["customFields"] == {"jobId": "02000000", "workerId": "ab"}
    assert events["02000000"][0]["time"] == "1970-01-01 00:00:07"
    assert (events["02000000"][0]["timestamp"], events["02000000"][0]["hostName"]) == (7, "vm")
    assert (events["global"][0]["timestamp"], events["global"][0]["sourcePid"]) == ("8", 13)
    assert (await ask(made_client, "events?job_id=02000000"))["events"] == events["02000000"]
    assert (await ask(made_client, "events?job_id=03000000"))["events"] == []


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ("api/grafana_health", {"grafanaHost": "DISABLED"}),
        ("api/profiling_enabled", {"profilingEnabled": False}),
        ("api/v0/runtime_env_redaction", {"redactionEnabled": True}),
        ("usage_stats_enabled", {"usageStatsEnabled": False}),
        ("api/cluster_status", {"autoscalingError": None}),
        ("api/v0/cluster_metadata", {"sessionId": "session_2026-11-23_07-40-30_867494_13129"}),
    ],
)
async def test_what_every_page_asks_is_answered(path, has, client):
    data = (await client.get(f"/clusters/varied/{path}")).json()["data"]
    assert has.items() <= data.items()


class TestTheMomentWithoutOneInThePath:
    async def states(self, client, at=""):
        answer = await client.get(f"/clusters/latest/{at}api/v0/nodes")
        return [row["state"] for row in answer.json()["data"]["result"]["result"]]

    async def test_is_now_while_a_node_is_alive(self, made_client, add):
        add(node(1), node(2, "DEAD", ended_ms=9_000))
        assert await self.states(made_client) == ["ALIVE", "DEAD"]

    async def test_is_just_before_the_nodes_went_that_went_together(self, made_client, add):
        ends = {3: 30_000, 2: 70_300, 1: 70_900}
        add(*(node(n) for n in ends), *(node(n, "DEAD", ended_ms=ms) for n, ms in ends.items()))
        assert await self.states(made_client) == ["ALIVE", "ALIVE", "DEAD"]
        assert await self.states(made_client, "at/69999/") == ["ALIVE", "ALIVE", "DEAD"]
        assert await self.states(made_client, "final/") == ["DEAD", "DEAD", "DEAD"]

    async def test_is_before_the_end_that_was_concluded_where_no_event_says_it(self, made, made_client, add):
        add(node(1), actor(1))
        made.seal("session_2026-01-01_00-00-00_000000_1")
        assert await self.states(made_client) == ["ALIVE"]
        assert await self.states(made_client, "final/") == ["DEAD"]


@pytest.mark.parametrize(
    ("info", "message", "death_info"),
    [
        (None, None, None),
        ({"reason": "UNEXPECTED_TERMINATION"}, "Unexpected termination", {"reasonMessage": ""}),
        (
            {"reason": "EXPECTED_TERMINATION", "reason_message": "received SIGTERM"},
            "Expected termination: received SIGTERM",
            {"reasonMessage": "received SIGTERM"},
        ),
        (
            {"reason": "AUTOSCALER_DRAIN_PREEMPTED", "reason_message": "spot"},
            "Terminated due to preemption: spot",
            {"reason": "AUTOSCALER_DRAIN_PREEMPTED"},
        ),
        (
            {"reason": "AUTOSCALER_DRAIN_IDLE", "reason_message": ""},
            "Terminated due to idle (no Ray activity)",
            {"reason": "AUTOSCALER_DRAIN_IDLE"},
        ),
        ({"reason": "UNSPECIFIED", "reason_message": "who knows"}, "who knows", {"reason": "UNSPECIFIED"}),
        ({"reason_message": "who knows"}, "who knows", {"reason": "UNSPECIFIED", "reasonMessage": "who knows"}),
    ],
    ids=str,
)
async def test_why_a_node_died_is_composed_as_ray_composes_it(info, message, death_info, made_client, add):
    add(node(1), node(2, "DEAD", ended_ms=9_000, **({"death_info": info} if info else {})))
    raylet = (await ask(made_client, f"final/nodes/{OTHER}"))["detail"]["raylet"]
    assert raylet["stateMessage"] == message
    assert ("deathInfo" in raylet) == (death_info is not None)
    assert (death_info or {}).items() <= raylet.get("deathInfo", {}).items()
    [row] = (await ask(made_client, "final/api/v0/nodes?filter_keys=state&filter_predicates=%3D&filter_values=DEAD"))[
        "result"
    ]["result"]
    assert row["state_message"] == message


async def test_nodes_and_their_actors_name_resources_as_the_dashboard_writes_them(made_client, add):
    total = {"CPU": 4, "node:__internal_head__": 1, "my_thing": 3, "object_store_memory": 100}
    taken = {"node:__internal_head__": 0.001, "my_thing": 1}
    add(
        node(1, resources_total=total, labels={"my_label": "x", "ray.io/node-id": "y"}),
        actor(1, required_resources=taken, label_selector={"my_label": "x"}),
    )
    [of_all] = (await ask(made_client, "nodes?view=summary"))["summary"]
    detail = (await ask(made_client, f"nodes/{NODE}"))["detail"]
    for raylet in (of_all["raylet"], detail["raylet"]):
        assert raylet["resourcesTotal"] == {"CPU": 4, "node:InternalHead": 1, "myThing": 3, "objectStoreMemory": 100}
        assert raylet["labels"] == {"myLabel": "x", "ray.io/node-id": "y"}
        assert all(type(amount) is float for amount in raylet["resourcesTotal"].values())
    [id] = detail["actors"]
    for shown in (detail["actors"][id], (await ask(made_client, f"logical/actors/{id}"))["detail"]):
        assert shown["requiredResources"] == {"node:InternalHead": 0.001, "myThing": 1}
        assert shown["labelSelector"] == {"myLabel": "x"}
    every = (await ask(made_client, "logical/actors"))["actors"][id]
    assert (every["requiredResources"], every["labelSelector"]) == (taken, {"my_label": "x"})


async def test_a_host_is_called_by_its_name_where_that_is_told(made_client, add):
    add(node(1, hostname="vm"), node(2))
    assert (await ask(made_client, "nodes?view=hostNameList"))["hostNameList"] == ["host-2", "vm"]
    raylet = (await ask(made_client, f"nodes/{NODE}"))["detail"]["raylet"]
    assert (raylet["nodeManagerHostname"], raylet["nodeName"]) == ("vm", "host-1")


@pytest.mark.parametrize(
    ("hours", "zone"),
    [
        (0, {"offset": "+00:00", "value": "Europe/London"}),
        (5.75, {"offset": "+05:45", "value": "Asia/Kathmandu"}),
        (-8, {"offset": "-08:00", "value": "America/Los_Angeles"}),
        (14, {"offset": None, "value": None}),
    ],
)
def test_a_time_zone_is_called_as_ray_calls_it(hours, zone):
    then = datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=hours)))
    assert local_zone(then) == zone


async def test_the_time_zone_is_that_of_whoever_serves(client):
    answer = await client.get("/clusters/varied/timezone")
    assert answer.json() == local_zone(datetime.now().astimezone())


async def test_what_rays_http_export_tells_of_an_actor_is_shown(made, made_client, chunk):
    """Its port and worker, when it changed to the millisecond, and how often it restarted and why."""
    worker = base64.b64encode(b"\x04" * 28).decode()
    at = "2026-01-01T00:00:0{}.{}789Z"
    moves: list[dict[str, Any]] = [
        {"state": "ALIVE", "timestamp": at.format(1, "123456"), "pid": 7, "port": 10002, "workerId": worker},
        {"state": "RESTARTING", "timestamp": at.format(2, "223456"), "restartReason": "NODE_PREEMPTION"},
        {"state": "ALIVE", "timestamp": at.format(3, "323456"), "pid": 8, "port": 10003, "workerId": worker},
    ]
    event = {
        "eventId": "e1",
        "sessionName": MADE,
        "eventType": "ACTOR_LIFECYCLE_EVENT",
        "timestamp": at.format(4, "000000"),
        "actorLifecycleEvent": {
            "actorId": b64(f"{1:024x}01000000"),
            "stateTransitions": [{**move, "nodeId": b64(NODE)} for move in moves],
        },
    }
    made.append([chunk("ACTOR_LIFECYCLE_EVENT", json.dumps(event).encode() + b"\n")])
    made.fold()
    [shown] = (await ask(made_client, "logical/actors"))["actors"].values()
    began = 1767225600000
    assert shown["address"] == {"nodeId": NODE, "ipAddress": "", "port": 10003, "workerId": "04" * 28}
    assert (shown["startTime"], shown["timestamp"]) == (began + 1123, began + 3323.0)
    assert (shown["pid"], shown["numRestarts"]) == (8, "1")
    [row] = made.snapshot(MADE).rows("actor")
    assert (row["num_restarts"], row["num_restarts_due_to_node_preemption"]) == (1, 1)
