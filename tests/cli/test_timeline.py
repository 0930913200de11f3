"""What each process did, as a file."""

import base64
import json

from raytrail.exit_codes import USAGE
from raytrail.store import Store


def test_it_is_written_as_ray_writes_it(run, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "profiled"
    data = make.task_data(1) | {
        "profile_events": {
            "component_id": base64.b64encode(b"\x04" * 28).decode(),
            "component_type": "worker",
            "node_ip_address": "127.0.0.1",
            "events": [{"event_name": "task::f", "start_time": "1000000", "end_time": "3000000", "extra_data": "{}"}],
        }
    }
    with Store.open(store, write=True) as opened:
        opened.append([make.chunk("TASK", make.line("EXPORT_TASK", data))])
        opened.fold()
    printed = run("timeline", "--store", store).stderr
    written = tmp_path / f"timeline-{make.SESSION}.json"
    assert f"{written.name}: {written.stat().st_size:,} bytes" in printed
    [event] = json.loads(written.read_text())
    assert (event["name"], event["pid"], event["ts"], event["dur"]) == ("task::f", "127.0.0.1", 1000.0, 2000.0)
    assert event["tid"] == f"worker:{'04' * 28}"
    whole = json.loads(run("timeline", "--store", store, "--style", "dashboard", "--out", "-").stdout)
    assert {trace_event["ph"] for trace_event in whole} == {"X", "M"}
    assert json.loads(run("timeline", "--store", store, "--job", "02000000", "--out", "-").stdout) == []
    assert "job_id" in run("timeline", "--store", store, "--job", "2", code=USAGE).stderr
