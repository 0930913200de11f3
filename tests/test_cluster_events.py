"""Ray's own event framework's files, beside those of its export: from the file to a row."""

import json

from click.testing import CliRunner

from raytrail.cli import main
from raytrail.config import StoreConfig
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


def test_they_ride_the_same_line_in_both_forms_of_their_time(tmp_path):
    logs = tmp_path / SESSION / "logs"
    for name in ("export_events", "events"):
        (logs / name).mkdir(parents=True)
    (logs / "events" / "event_RAYLET.log").write_text(f"{RAYLET}\n")
    (logs / "events" / "event_JOBS.log").write_text(f"{JOBS}\n")
    (logs / "events" / "event_CORE_WORKER_7.log").touch()
    done = CliRunner().invoke(main, ["import", str(tmp_path / SESSION), "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    with Store.open(tmp_path / "store", StoreConfig(threads=1)) as store:
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
