"""Ray's own event framework's files, beside those of its export: from the file to a row."""

import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from ray.dashboard.modules.event.event_head import _list_cluster_events_impl
from ray.dashboard.modules.event.event_utils import parse_event_strings
from ray.util.state.common import ListApiOptions

from raytrail.cli import main
from raytrail.config import ServerConfig, StoreConfig
from raytrail.server.application import app as app_of
from raytrail.store import Store

SESSION = "session_2026-11-23_07-40-30_867494_13129"

# as Ray 2.60 wrote them, C++ and Python
RAYLET = (
    '{"custom_fields":{"job_id":"01000000","node_id":"c82f","worker_id":"ddde"},"event_id":"6367","host_name":"vm",'
    '"label":"RAY_WORKER_FAILURE","message":"A worker died.\\\\nSee its log.","pid":"13488","severity":"ERROR",'
    '"source_type":"RAYLET","timestamp":1795419656}'
)
JOBS = (
    '{"event_id": "Bc65", "source_type": "JOBS", "source_hostname": "vm", "source_pid": 13514, '
    '"message": "Started a ray job s1.", "timestamp": "1795419804", "custom_fields": {"submission_id": "s1"}, '
    '"severity": "INFO", "label": ""}'
)


def imported(tmp_path):
    logs = tmp_path / SESSION / "logs"
    for name in ("export_events", "events"):
        (logs / name).mkdir(parents=True)
    (logs / "events" / "event_RAYLET.log").write_text(f"{RAYLET}\n")
    (logs / "events" / "event_JOBS.log").write_text(f"{JOBS}\n")
    (logs / "events" / "event_CORE_WORKER_7.log").touch()
    done = CliRunner().invoke(main, ["import", str(tmp_path / SESSION), "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    return tmp_path / "store"


def test_they_ride_the_same_line_in_both_forms_of_their_time(tmp_path):
    with Store.open(imported(tmp_path), StoreConfig(threads=1)) as store:
        raylet, jobs = store.snapshot(SESSION).rows("cluster_event")
    given = {"source_type", "severity", "message", "host_name", "pid", "job_id", "node_id", "time_ms", "label"}
    assert {name: raylet[name] for name in given} == {
        "source_type": "RAYLET",
        "severity": "ERROR",
        "label": "RAY_WORKER_FAILURE",
        "message": "A worker died.\nSee its log.",
        "host_name": "vm",
        "pid": 13488,
        "job_id": "01000000",
        "node_id": "c82f",
        "time_ms": 1795419656000,
    }
    assert {name: jobs[name] for name in given} == {
        "source_type": "JOBS",
        "severity": "INFO",
        "label": None,
        "message": "Started a ray job s1.",
        "host_name": "vm",
        "pid": 13514,
        "job_id": None,
        "node_id": None,
        "time_ms": 1795419804000,
    }
    custom = jobs["custom_fields"]
    assert (json.loads(custom) if isinstance(custom, str) else custom) == {"submission_id": "s1"}
    assert (raylet["extra"], jobs["extra"]) == (None, None)


@pytest.mark.parametrize("filters", [[], [("severity", "=", "error")], [("source_type", "!=", "RAYLET")]])
@pytest.mark.parametrize("detail", [False, True])
async def test_they_are_listed_as_rays_own_code_lists_them(tmp_path, monkeypatch, filters, detail):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    events = parse_event_strings([RAYLET, JOBS])
    for event in events:  # Ray sorts numbers and strings together, and fails
        event["timestamp"] = int(event["timestamp"])
    of_ray: dict[str, Any] = defaultdict(dict, {"global": {event["event_id"]: event for event in events}})
    option = ListApiOptions(limit=10, detail=detail, filters=filters)
    with ThreadPoolExecutor(1) as executor:
        theirs = await _list_cluster_events_impl(all_events=of_ray, executor=executor, option=option)
    params: dict[str, Any] = {"limit": 10, "detail": int(detail)}
    for part, values in zip(("keys", "predicates", "values"), zip(*filters, strict=True), strict=False):
        params[f"filter_{part}"] = list(values)
    with Store.open(imported(tmp_path), StoreConfig(threads=1)) as store:
        app = httpx.ASGITransport(app_of(store, ServerConfig()))
        async with httpx.AsyncClient(transport=app, base_url="http://raytrail") as client:
            ours = (await client.get(f"/clusters/{SESSION}/api/v0/cluster_events", params=params)).json()
    assert ours["data"]["result"]["result"] == theirs.result
    assert (ours["data"]["result"]["total"], ours["data"]["result"]["num_filtered"]) == (
        theirs.total,
        theirs.num_filtered,
    )
