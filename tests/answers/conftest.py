"""Sessions made by hand, for questions whose answers are known."""

import pytest
from tests.server.conftest import MADE, add, b64, capture, chunk, made, store, task

from raytrail.answers import Scope

__all__ = ["add", "capture", "chunk", "made", "store", "task"]

BEGAN_S = 1_795_419_630
JOB = "01000000"


@pytest.fixture
def scope(made):
    """Return what a question is about: the session that was made, at a moment or at last."""

    def scope(at_ms=None, session=MADE):
        return Scope(made, made.find(session), made.snapshot(session, at_ms))

    return scope


@pytest.fixture
def attempt():
    """
    Make the event of an attempt that ended.

    Times are in milliseconds since the beginning: the states that were entered, by their numbers.
    """

    def attempt(number, function="f", *, retry=0, node=None, job=JOB, error=None, actor=None, **at_ms):
        data = {"task_id": b64(f"{number:040x}{job}"), "attempt_number": retry, "job_id": b64(job)}
        data["task_info"] = {"type": "ACTOR_TASK" if actor else "NORMAL_TASK", "func_or_class_name": function}
        if actor:
            data["task_info"]["actor_id"] = b64(actor)
        times = {name.removeprefix("s"): str(BEGAN_S * 10**9 + ms * 10**6) for name, ms in at_ms.items()}
        data["state_updates"] = {"state_ts_ns": times}
        if node:
            data["state_updates"]["node_id"] = b64(node)
        if error:
            data["state_updates"]["error_info"] = {"error_type": error, "error_message": f"{error} said no"}
        return "EXPORT_TASK", data

    return attempt


@pytest.fixture
def node():
    """Make the event of a node. It is dead if a reason is given."""

    def node(node_id, *, reason=None, ended_s=60, head=False, resources=None):
        data = {
            "node_id": b64(node_id),
            "node_manager_address": "192.0.2.2",
            "node_name": f"node-{node_id[:2]}",
            "state": "DEAD" if reason else "ALIVE",
            "start_time_ms": str(BEGAN_S * 1000),
            "end_time_ms": str((BEGAN_S + ended_s) * 1000) if reason else "0",
            "is_head_node": head,
            "resources_total": resources or {"CPU": 4.0, "node:192.0.2.2": 1.0},
        }
        if reason:
            data["death_info"] = {"reason": reason, "reason_message": "it said nothing"}
        return "EXPORT_NODE", data

    return node
