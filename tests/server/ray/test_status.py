"""What `ray status` says: as a live Ray 2.60 said it of the same nodes, actors, tasks and placement groups."""

import pytest
from tests.server.conftest import b64

from raytrail.server.ray.status import INLINED_BYTES

pytestmark = pytest.mark.anyio

NODE, OTHER = "01" * 28, "02" * 28
GiB = 2**30


def node(number=1, **resources):
    return "EXPORT_NODE", {
        "node_id": b64(f"{number:02d}" * 28),
        "node_manager_address": f"127.0.0.{number}",
        "state": "ALIVE",
        # as files tell them: whole numbers without a point
        "resources_total": {"memory": 4 * GiB, "object_store_memory": GiB, "node:127.0.0.1": 1, **resources},
    }


def actor(number, state="ALIVE", *, on=NODE, **resources):
    return "EXPORT_ACTOR", {
        "actor_id": b64(f"{number:024x}01000000"),
        "state": state,
        "node_id": b64(on) if state == "ALIVE" else "",
        "required_resources": resources,
    }


def group(number, state, *bundles, strategy="PACK", **stats):
    return "EXPORT_PLACEMENT_GROUP", {
        "placement_group_id": b64(group_id(number)),
        "state": state,
        "strategy": strategy,
        "bundles": [{"unit_resources": resources, "node_id": where} for resources, where in bundles],
        **({"stats": stats} if stats else {}),
    }


def group_id(number):
    return f"{number:02d}" * 18


@pytest.fixture
def attempt(task):
    """Make a task in a state."""

    def attempt(number, state, *, on=NODE, kind="NORMAL_TASK", **resources):
        name, data = task(number, type=kind, required_resources=resources)
        states = {"2": "1000000000"} | ({} if state == 2 else {"5": "1100000000", str(state): "1200000000"})
        data["state_updates"] = {"state_ts_ns": states, **({} if state == 2 else {"node_id": b64(on)})}
        return name, data

    return attempt


@pytest.fixture
def status(add, made_client):
    async def status(*events):
        add(*events)
        text = (await made_client.get("/clusters/latest/api/cluster_status?format=1")).json()["data"]["clusterStatus"]
        lines = text.splitlines()
        usage = lines[lines.index("Total Usage:") + 1 : lines.index("From request_resources:") - 1]
        return [line.strip() for line in usage], [line[1:] for line in lines[lines.index("Pending Demands:") + 1 :]]

    return status


@pytest.fixture
def report(made_client):
    async def report(path="api/cluster_status"):
        return (await made_client.get(f"/clusters/latest/{path}")).json()["data"]

    return report


async def test_what_is_reserved_is_used_only_as_far_as_something_runs_in_it(status, attempt):
    inside = {f"CPU_group_{group_id(1)}": 0.3, f"bundle_group_{group_id(1)}": 0.001}
    second = {
        f"CPU_group_{group_id(2)}": 0.25,
        f"CPU_group_1_{group_id(2)}": 0.25,
        f"bundle_group_{group_id(2)}": 0.001,
    }
    anywhere = {f"CPU_group_{group_id(2)}": 0.1, f"bundle_group_{group_id(2)}": 0.001}
    usage, demands = await status(
        node(CPU=4),
        group(1, "CREATED", ({"CPU": 0.5}, NODE)),
        group(2, "CREATED", ({"CPU": 0.5}, NODE), ({"CPU": 0.5}, NODE), strategy="SPREAD"),
        group(3, "CREATED", ({"CPU": 0.1, "memory": 50 * 2**20}, NODE)),
        group(4, "REMOVED", ({"CPU": 3}, NODE)),
        attempt(1, 8, **inside),
        attempt(2, 2, **inside),
        attempt(3, 8, CPU=0.2),
        actor(1, **second),
        actor(2, **anywhere),
        *(actor(3 + number, CPU=0.1) for number in range(4)),
    )
    # 2.2 are taken of the node, 1.6 of them for the groups, of which 0.65 are used
    assert usage[0] == "1.25/4.0 CPU (0.6499999999999999 used of 1.6 reserved in placement groups)"
    assert usage[1] == "0B/4.00GiB memory (0B used of 50.00MiB reserved in placement groups)"
    assert demands == ["{'CPU': 0.3}: 1+ pending tasks/actors (1+ using placement groups)"]


@pytest.mark.parametrize(
    ("others", "line"),
    [
        # Ray subtracts what is free, in binary fractions, and shows the rest that this leaves
        ((actor(1, "DEAD"),), "8.326672684688674e-17/4.0 CPU (0.0 used of 0.1 reserved in placement groups)"),
        ((actor(1, CPU=0.1),), "0.10000000000000017/4.0 CPU (0.0 used of 0.1 reserved in placement groups)"),
        # no event tells of tasks or actors, not even of a driver: what is reserved is taken, and no more is known
        ((), "0.1/4.0 CPU (0.0 used of 0.1 reserved in placement groups)"),
    ],
)
async def test_a_group_in_which_nothing_runs(others, line, status):
    usage, demands = await status(
        node(CPU=4), group(1, "CREATED", ({"CPU": 0.1}, NODE)), group(2, "PENDING", ({"GPU": 1.0}, "")), *others
    )
    assert usage[0] == line
    assert demands == ["{'GPU': 1.0} * 1 (PACK): 1+ pending placement groups"]


async def test_groups_that_wait_are_demands_alike_ones_together(status):
    two = {"CPU": 1}
    usage, demands = await status(
        node(CPU=4),
        group(1, "PENDING", ({"GPU": 1}, ""), scheduling_state="INFEASIBLE", scheduling_started_time_ns="1"),
        group(2, "PENDING", ({"GPU": 1}, ""), scheduling_state="INFEASIBLE", scheduling_started_time_ns="3"),
        group(3, "PENDING", (two, ""), (two, ""), ({"CPU": 2, "unob": 1}, ""), strategy="STRICT_SPREAD",
              scheduling_state="INFEASIBLE", scheduling_started_time_ns="2"),
        group(4, "PENDING", ({"CPU": 3}, ""), scheduling_state="NO_RESOURCES", scheduling_started_time_ns="9"),
    )  # fmt: skip
    assert usage[0] == "0.0/4.0 CPU"
    assert demands == [
        "{'CPU': 3.0} * 1 (PACK): 1+ pending placement groups",
        "{'GPU': 1.0} * 1 (PACK): 2+ pending placement groups",
        "{'CPU': 1.0} * 2, {'CPU': 2.0, 'unob': 1.0} * 1 (STRICT_SPREAD): 1+ pending placement groups",
    ]


async def test_a_group_that_lost_a_node_holds_what_is_left_and_waits_for_all(status):
    bundle = {"CPU": 0.4}
    usage, demands = await status(
        node(CPU=4), group(1, "RESCHEDULING", (bundle, NODE), (bundle, ""), strategy="STRICT_SPREAD")
    )
    assert usage[0].endswith("/4.0 CPU (0.0 used of 0.4 reserved in placement groups)")
    assert demands == ["{'CPU': 0.4} * 2 (STRICT_SPREAD): 1+ pending placement groups"]


async def test_what_is_prepared_is_taken_but_nobodys_yet(status):
    usage, _ = await status(node(CPU=4), group(1, "PREPARED", ({"CPU": 1}, NODE)))
    assert usage[0] == "1.0/4.0 CPU"


async def test_groups_on_gpus_and_on_several_nodes(status, report):
    usage, _ = await status(
        node(1, CPU=4),
        node(2, CPU=2, GPU=2, my_thing=3),
        group(1, "CREATED", ({"GPU": 1}, OTHER), ({"GPU": 1, "CPU": 0.4}, OTHER)),
        actor(1, on=OTHER, CPU=0.5, my_thing=1),
    )
    assert usage == [
        "0.5000000000000003/6.0 CPU (0.0 used of 0.4 reserved in placement groups)",
        "0.0/2.0 GPU (0.0 used of 2.0 reserved in placement groups)",
        "0B/8.00GiB memory",
        "1.0/3.0 my_thing",
        "?/2.00GiB object_store_memory",
    ]
    summary = await report("nodes?view=summary")
    assert summary["nodeLogicalResources"] == {
        NODE: "0.0/4.0 CPU\n0B/4.00GiB memory\n?/1.00GiB object_store_memory",
        OTHER: "0.4999999999999999/2.0 CPU (0.0 used of 0.4 reserved in placement groups)\n"
        "0.0/2.0 GPU (0.0 used of 2.0 reserved in placement groups)\n"
        "0B/4.00GiB memory\n1.0/3.0 my_thing\n?/1.00GiB object_store_memory",
    }


async def test_a_task_that_waits_for_another_gives_its_cpu_back_and_nothing_else(status, attempt):
    usage, _ = await status(
        node(CPU=4, GPU=2), attempt(1, 9, CPU=1, GPU=1), attempt(2, 10, CPU=2), attempt(3, 8, CPU=1)
    )
    assert usage[:2] == ["1.0/4.0 CPU", "1.0/2.0 GPU"]


async def test_actors_wait_until_their_constructors_run(status, attempt):
    creation, data = attempt(1, 8, kind="ACTOR_CREATION_TASK", CPU=2)
    data["task_info"]["actor_id"] = b64(f"{2:024x}01000000")
    usage, demands = await status(
        node(CPU=4),
        actor(1, "PENDING_CREATION", CPU=0.1, unobtainium=2),
        actor(2, "PENDING_CREATION", CPU=2),
        actor(3, "RESTARTING", CPU=0.5, my_thing=1),
        actor(4, "PENDING_CREATION"),
        actor(5, "DEPENDENCIES_UNREADY", CPU=1),
        (creation, data),
    )
    assert usage[0] == "2.0/4.0 CPU"
    assert sorted(demands) == [
        "{'CPU': 0.1, 'unobtainium': 2.0}: 1+ pending tasks/actors",
        "{'CPU': 0.5, 'my_thing': 1.0}: 1+ pending tasks/actors",
        "{'CPU': 1.0}: 1+ pending tasks/actors",
    ]


@pytest.mark.parametrize("state", ["DEAD", "ALIVE"])
async def test_a_constructor_that_seems_to_run_holds_nothing_once_its_actor_is_there_or_gone(status, attempt, state):
    """One whose node died with it stays open, and no event may have told which node it was."""
    creation, data = attempt(1, 8, on="", kind="ACTOR_CREATION_TASK", CPU=2)
    data["task_info"]["actor_id"] = b64(f"{2:024x}01000000")
    usage, _ = await status(node(CPU=4), actor(2, state, CPU=1), (creation, data))
    assert usage[0] == {"DEAD": "0.0/4.0 CPU", "ALIVE": "1.0/4.0 CPU"}[state]


async def test_what_only_waits_for_a_group_to_be_ready_is_no_demand(status, attempt):
    _, demands = await status(node(CPU=4), attempt(1, 2, **{f"bundle_group_{group_id(1)}": 0.001}))
    assert demands == ["(no resource demands)"]


async def test_a_node_that_died_is_gone_and_no_failure_of_a_launch(add, report):
    died = {"state": "DEAD", "death_info": {"reason": "UNEXPECTED_TERMINATION"}, "end_time_ms": "9000"}
    add(node(1, CPU=4), (node(2, CPU=2)[0], node(2, CPU=2)[1] | died), group(1, "CREATED", ({"CPU": 1}, OTHER)))
    text = (await report("api/cluster_status?format=1"))["clusterStatus"]
    assert f"Active:\n 1 node_{NODE}\nPending:\n (no pending nodes)\nRecent failures:\n (no failures)\n" in text
    assert " 0.0/4.0 CPU\n" in text


async def test_what_ran_on_a_node_that_died_holds_nothing_though_it_is_open(add, attempt, report):
    _, died = node(2, CPU=4)
    died |= {"state": "DEAD", "end_time_ms": "5000", "death_info": {"reason": "UNEXPECTED_TERMINATION"}}
    add(node(1, CPU=4), ("EXPORT_NODE", died), attempt(1, 8, on=OTHER, CPU=1), attempt(2, 8, on=NODE, CPU=1))
    text = (await report("at/6000/api/cluster_status?format=1"))["clusterStatus"]
    assert "\n 1.0/4.0 CPU\n" in text


async def test_what_goes_on_after_its_jobs_end_holds_what_it_held_while_its_worker_lives(add, attempt, report):
    """A task of a detached actor: Ray calls it FAILED since the job ended."""
    ended = {"job_id": b64("01000000"), "is_dead": True, "start_time": "1000", "end_time": "2000"}
    goes_on, gone = attempt(1, 8, CPU=1), attempt(2, 8, CPU=2)
    for (_, task), worker in ((goes_on, "0a" * 28), (gone, "0b" * 28)):
        task["state_updates"]["worker_id"] = b64(worker)
    lives = {"worker_id": b64("0a" * 28), "node_id": b64(NODE), "is_alive": True, "pid": 7}
    died = {"worker_id": b64("0b" * 28), "node_id": b64(NODE), "is_alive": False, "end_time_ms": "2100"}
    add(node(1, CPU=4), ("EXPORT_DRIVER_JOB", ended), goes_on, gone, ("EXPORT_WORKER", lives), ("EXPORT_WORKER", died))
    assert "\n 1.0/4.0 CPU\n" in (await report("api/cluster_status?format=1"))["clusterStatus"]


async def test_a_task_whose_owner_was_killed_before_it_could_tell_the_node_holds_nothing(status, attempt):
    """As Ray calls it RUNNING until its job ends, though its worker was ended with its owner."""
    kind, unplaced = attempt(1, 8, CPU=1)
    del unplaced["state_updates"]["node_id"]
    usage, _ = await status(node(CPU=4), (kind, unplaced), attempt(2, 8, CPU=2))
    assert usage[0] == "2.0/4.0 CPU"


async def test_objects_that_are_known_fill_the_object_store(add, report):
    def an_object(number, size, **fields):
        return "EXPORT_OBJECT", {
            "object_id": b64(f"{number:02d}" * 28), "worker_id": b64("03" * 28), "node_id": b64(NODE),
            "object_size": size, "task_status": "FINISHED", "change": "CREATED", **fields,
        }  # fmt: skip

    small = an_object(2, INLINED_BYTES)
    add(node(CPU=4), an_object(1, 300_003), small, an_object(3, 10**6, task_status="NIL"))
    text = (await report("api/cluster_status?format=1"))["clusterStatus"]
    assert " 292.97KiB/1.00GiB object_store_memory\n" in text
    raylet = (await report(f"nodes/{NODE}"))["detail"]["raylet"]
    assert (raylet["objectStoreUsedMemory"], raylet["objectStoreAvailableMemory"]) == (300_003, GiB - 300_003)


@pytest.mark.parametrize(("at_ms", "stored"), [(5500, (300_003, GiB - 300_003)), (601_000, (0, 0))])
async def test_what_a_dead_nodes_store_held_is_shown_until_the_dashboard_forgets_it(add, report, at_ms, stored):
    """Ray's dashboard does so every ten minutes, from its own start on."""
    _, head = node(1, CPU=4)
    head |= {"start_time_ms": "1000", "is_head_node": True}
    _, died = node(2, CPU=4)
    died |= {"state": "DEAD", "end_time_ms": "5000", "death_info": {"reason": "UNEXPECTED_TERMINATION"}}
    an_object = {
        "object_id": b64("01" * 28), "worker_id": b64("03" * 28), "node_id": b64(OTHER), "object_size": 300_003,
        "task_status": "FINISHED", "change": "CREATED",
    }  # fmt: skip
    add(("EXPORT_NODE", head), ("EXPORT_OBJECT", an_object), ("EXPORT_NODE", died))
    alone = (await report(f"at/{at_ms}/nodes/{OTHER}"))["detail"]
    every = (await report(f"at/{at_ms}/nodes?view=summary"))["summary"]
    for shown in (alone, *(row for row in every if row["raylet"]["state"] == "DEAD")):
        raylet = shown["raylet"]
        assert (raylet["objectStoreUsedMemory"], raylet["objectStoreAvailableMemory"]) == stored


async def test_the_report_is_the_autoscalers(add, report):
    add(
        node(CPU=4, my_thing=1),
        group(1, "CREATED", ({"CPU": 0.1}, NODE)),
        group(2, "PENDING", ({"GPU": 1}, "")),
        actor(1, "PENDING_CREATION", CPU=0.1, unob_tainium=2),
    )
    status = (await report())["clusterStatus"]
    metrics, autoscaler = status["loadMetricsReport"], status["autoscalerReport"]
    group_hex = group_id(1)
    assert metrics["usage"] == metrics["usageByNode"][NODE] == {
        "CPU": [0.10000000000000009, 4.0],
        "memory": [0.0, 4.0 * GiB],
        "node:127.0.0.1": [0.0, 1.0],
        "objectStoreMemory": [0.0, 1.0 * GiB],
        "myThing": [0.0, 1.0],
        f"CPUGroup{group_hex}": [0.0, 0.1],
        f"CPUGroup0{group_hex}": [0.0, 0.1],
        f"bundleGroup{group_hex}": [0.0, 1000.0],
        f"bundleGroup0{group_hex}": [0.0, 1000.0],
    }  # fmt: skip
    # what is in lists of lists keeps its names
    assert metrics["resourceDemand"] == [[{"CPU": 0.1, "unob_tainium": 2.0}, 1]]
    assert metrics["pgDemand"] == [[{"bundles": [[{"GPU": 1.0}, 1]], "strategy": "PACK"}, 1]]
    assert metrics["nodeTypes"][0][0][f"CPU_group_0_{group_hex}"] == 0.1
    assert autoscaler["activeNodes"] == {f"node{NODE}": 1}
    assert autoscaler["nodeTypeMapping"] == {NODE: f"node_{NODE}"}
    assert (autoscaler["failedNodes"], autoscaler["legacy"]) == ([], True)
