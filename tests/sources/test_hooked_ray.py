"""What the hooks wrote in a real Ray, folded by a real store, against what Ray itself said at those moments."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.server import app, serve
from raytrail.store import Filter, Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SERVE_STEPS = [
    "deployed",
    "scaled up",
    "scaled down",
    "redeployed",
    "broken",
    "deleted",
    "left",
    "upscaled",
    "downscaled",
]
SCALED_STEPS = {"scaled up", "scaled down"}
DATA_STEPS = ["under way", "finished", "failed"]
NEWER_METRICS = {"ray_data_memory_usage_bytes"}
TYPES = {"SERVE_INSTANCE", "SERVE_PROXY", "SERVE_APPLICATION", "SERVE_DEPLOYMENT", "SERVE_REPLICA", "DATASET_PROGRESS"}


@pytest.fixture(scope="module")
def store(hooked_session, tmp_path_factory):
    """A history that knows no more than the files that Ray and the hooks left on disk."""
    root = tmp_path_factory.mktemp("history")
    done = CliRunner().invoke(main, ["import", str(hooked_session[0]), "--store", str(root), "--redact", ""])
    assert done.exit_code == 0, done.output
    with Store.open(root) as store:
        yield store


@pytest.fixture(scope="module")
def session(store):
    [cluster] = store.clusters()
    assert (cluster.missing_bytes, cluster.rejected) == (0, 0)
    return cluster.session


@pytest.fixture(scope="module")
def written(hooked_session):
    """The events of each type until Ray was stopped, in the order of their files."""
    # While it stops, Serve may see a replica die, and begin another one. The last step is one of Ray Data's, seconds
    # after the last of Serve's, and the lines tell whole seconds.
    last_s = max(step["at_ms"] for step in hooked_session[1].values() if "at_ms" in step) // 1000
    events: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((hooked_session[0] / "logs" / "export_events").iterdir()):
        kind = path.name.removeprefix("event_EXPORT_").rpartition("_")[0]
        if kind in TYPES:
            lines = map(json.loads, path.read_text().splitlines())
            events.setdefault(kind, []).extend(line["event_data"] for line in lines if line["timestamp"] < last_s)
    return events


def milliseconds(seconds):
    return None if seconds is None else round(seconds * 1000)


def comparable(answer):
    """An answer with its times in milliseconds, as the history keeps them, and its replicas in an order of ours."""
    if isinstance(answer, list):
        values = [comparable(member) for member in answer]
        return sorted(values, key=lambda row: row["replica_id"]) if values and "replica_id" in values[0] else values
    if not isinstance(answer, dict):
        return answer
    times = ("last_deployed_time_s", "start_time_s", "start_time", "end_time")
    return {name: milliseconds(value) if name in times else comparable(value) for name, value in answer.items()}


@pytest.fixture
def this_ray(hooked_session):
    """What the Ray that is installed does, and not every Ray that is supported."""
    return hooked_session[1]["this Ray"]


@pytest.fixture
def recorded(step, hooked_session, this_ray):
    """What Ray said after a step."""
    if step in SCALED_STEPS and not this_ray["is_scaled_from_outside"]:
        pytest.skip("nobody scales this Ray's deployments from outside")
    return hooked_session[1][step]


def of_this_ray(ours, live):
    """Our answer without metrics that are newer than Ray 2.48, where Ray's own does not have them."""
    for dataset, live_dataset in zip(ours.get("datasets", ()), live.get("datasets", ()), strict=True):
        for own, there in zip(
            [dataset, *dataset["operators"]], [live_dataset, *live_dataset["operators"]], strict=True
        ):
            for name in NEWER_METRICS - there.keys():
                del own[name]
    return ours


@pytest.mark.anyio
@pytest.mark.parametrize("step", [*SERVE_STEPS, *DATA_STEPS])
async def test_what_rays_rest_api_said_then_is_what_the_history_says_of_then(step, store, recorded):
    transport = httpx.ASGITransport(app(store, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        answer = await client.get(f"/clusters/latest/at/{recorded['at_ms']}{recorded['path']}")
    assert answer.status_code == 200, answer.text
    assert comparable(of_this_ray(answer.json(), recorded["whole"])) == comparable(recorded["whole"])


def steps(events, *, of, **which):
    """The values of a field in the events about one thing, each once in a row."""
    values = [event[of] for event in events if all(event[name] == value for name, value in which.items())]
    return [value for index, value in enumerate(values) if not index or values[index - 1] != value]


@pytest.mark.parametrize("step", SERVE_STEPS)
def test_applications_were_then_what_serve_said(step, store, session, recorded):
    rows = store.snapshot(session, recorded["at_ms"]).rows(
        "serve_application", where=[Filter("status", "!=", "DELETED")]
    )
    assert {row["name"]: (row["status"], row["message"], row["route_prefix"], row["last_deployed_time_ms"])
            for row in rows} == {
        name: (app["status"], app["message"] or None, app["route_prefix"], milliseconds(app["last_deployed_time_s"]))
        for name, app in recorded["answer"].items()
    }  # fmt: skip


@pytest.mark.parametrize("step", SERVE_STEPS)
def test_deployments_were_then_what_serve_said(step, store, session, recorded):
    fields = ("name", "status", "status_trigger", "message", "target_num_replicas")
    rows = store.snapshot(session, recorded["at_ms"]).rows(
        "serve_deployment", where=[Filter("status", "!=", "DELETED")]
    )
    assert sorted((row["app_name"], *(row[field] or None for field in fields)) for row in rows) == sorted(
        (app, *(deployment[field] or None for field in fields))
        for app, application in recorded["answer"].items()
        for deployment in application["deployments"].values()
    )


@pytest.mark.parametrize("step", SERVE_STEPS)
def test_replicas_were_then_what_serve_said(step, store, session, recorded):
    fields = ("replica_id", "state", "actor_id", "actor_name", "node_id", "node_ip", "pid", "worker_id")
    rows = store.snapshot(session, recorded["at_ms"]).rows("serve_replica", where=[Filter("state", "!=", "STOPPED")])
    ours = [
        (row["app_name"], row["deployment_name"], row["start_time_ms"], row["log_file_path"], *map(row.get, fields))
        for row in rows
    ]
    assert sorted(ours) == sorted(
        (app, name, milliseconds(replica["start_time_s"]), replica["log_file_path"], *map(replica.get, fields))
        for app, application in recorded["answer"].items()
        for name, deployment in application["deployments"].items()
        for replica in deployment["replicas"]
    )


def test_serve_status_shows_a_cluster_that_is_gone(store, hooked_session):
    urls, started = [], threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def ready(url):
        urls.append(url)
        started.set()

    serving = serve(store, ServerConfig(port=0), ready=ready, stop=stop)
    thread = threading.Thread(target=loop.run_until_complete, args=[serving])
    thread.start()
    try:
        assert started.wait(30)
        address = f"{urls[0]}/clusters/latest/at/{hooked_session[1]['broken']['at_ms']}"
        command = [str(Path(sys.executable).with_name("serve")), "status", "-a", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
    assert done.returncode == 0, done.stderr
    status = pytest.importorskip("yaml").safe_load(done.stdout)
    assert {name: app["status"] for name, app in status["applications"].items()} == {
        "shop": "RUNNING",
        "broken": "DEPLOY_FAILED",
    }
    assert status["applications"]["shop"]["deployments"]["Model"]["replica_states"] == {"RUNNING": 1}
    assert list(status["proxies"].values()) == ["HEALTHY"]


def test_no_step_of_an_application_is_left_out(written):
    events = written["SERVE_APPLICATION"]
    assert steps(events, of="status", name="shop") == ["DEPLOYING", "RUNNING"] * 2 + ["DELETING", "DELETED"]
    assert steps(events, of="status", name="broken") == ["DEPLOYING", "DEPLOY_FAILED", "DELETING", "DELETED"]
    assert steps(events, of="status", name="left") == ["DEPLOYING", "RUNNING"] * 4
    assert steps(events, of="route_prefix", name="left") == [None, "/left", None]


def test_no_step_of_a_deployment_is_left_out(written, this_ray):
    model = {"app_name": "shop", "name": "Model"}
    events = written["SERVE_DEPLOYMENT"]
    scaled = [1, 3, 1] if this_ray["is_scaled_from_outside"] else [1]
    assert steps(events, of="target_num_replicas", **model) == [*scaled, 0]
    assert steps(events, of="status", **model) == ["UPDATING", "HEALTHY"] * 2 + ["UPDATING", "DELETED"]
    resized = ["UPDATING", "HEALTHY", "UPSCALING", "HEALTHY", "DOWNSCALING", "HEALTHY"]
    rerouted = ["UPDATING", "HEALTHY"] if this_ray["tells_replicas_their_route"] else []
    assert steps(events, of="status", app_name="left", name="Model") == [*resized, *rerouted]
    assert steps(events, of="status_trigger", app_name="broken", name="Broken") == [
        "CONFIG_UPDATE_STARTED",
        "REPLICA_STARTUP_FAILED",
        "DELETING",
    ]
    assert any("broken from the start" in event["message"] for event in events)


def test_every_replica_goes_all_of_its_way(written, this_ray):
    events = written["SERVE_REPLICA"]
    lives = {
        (event["app_name"], event["deployment_name"], event["replica_id"]): tuple(
            steps(events, of="state", replica_id=event["replica_id"])
        )
        for event in events
    }
    went = {app: {life for (of, *_), life in lives.items() if of == app} for app in ("shop", "broken", "left")}
    # where replicas are told that their route is gone
    rerouted = ("UPDATING", "RUNNING") if this_ray["tells_replicas_their_route"] else ()
    assert went == {
        "shop": {("STARTING", "RUNNING", "STOPPING", "STOPPED")},
        "broken": {("STARTING", "STOPPING", "STOPPED")},
        "left": {
            ("STARTING", "RUNNING", "STOPPING", "STOPPED"),
            ("STARTING", "RUNNING", *rerouted),
        },
    }
    # one, two more, and another after the redeployment
    models = len([key for key in lives if key[:2] == ("shop", "Model")])
    assert models == (4 if this_ray["is_scaled_from_outside"] else 2)


def test_what_is_open_when_the_session_ends_is_closed_as_inferred(store, session):
    last = store.snapshot(session)
    for noun, state in (("serve_application", "status"), ("serve_deployment", "status"), ("serve_replica", "state")):
        rows = last.rows(noun)
        assert {row[state] for row in rows} == {"STOPPED" if noun == "serve_replica" else "DELETED"}
        of_left = {row["inferred"] for row in rows if "left" in (row.get("app_name"), row.get("name"))}
        # one of its two replicas was stopped when it was downscaled
        assert of_left == {"session ended", *([None] if noun == "serve_replica" else [])}
        assert {row["inferred"] for row in rows if "left" not in (row.get("app_name"), row.get("name"))} == {None}
        assert all(row["end_time_ms"] for row in rows)


@pytest.mark.parametrize("step", DATA_STEPS)
def test_datasets_were_then_where_ray_data_said(step, store, session, recorded):
    then = store.snapshot(session, recorded["at_ms"])
    rows = then.rows("dataset_progress")
    fields = ("job_id", "state", "progress", "total", "total_rows")
    assert sorted(
        (row["dataset_id"], row["start_time_ms"], row["end_time_ms"], *map(str, map(row.get, fields))) for row in rows
    ) == sorted(
        (
            dataset["dataset"],
            milliseconds(dataset["start_time"]),
            milliseconds(dataset["end_time"]),
            *(str(dataset[field] if field in ("state", "progress") else dataset[field] or None) for field in fields),
        )
        for dataset in recorded["answer"]
    )
    numbers = ("name", "state", "progress", "total", "total_rows", "queued_blocks")
    assert [
        (row["dataset_id"], row["operator_id"], *map(row.get, numbers)) for row in then.rows("operator_progress")
    ] == [
        (dataset["dataset"], operator["operator"], *map(operator.get, numbers))
        for dataset in sorted(recorded["answer"], key=lambda row: row["dataset"])
        for operator in dataset["operators"]
    ]


def test_a_dataset_was_seen_on_its_way(store, session, hooked_session):
    then = store.snapshot(session, hooked_session[1]["under way"]["at_ms"])
    [row] = then.rows("operator_progress", where=[Filter("state", "=", "RUNNING")])[-1:]
    assert row["name"] == "MapBatches(slowly)"
    assert 0 < row["progress"] < 12


def test_hooks_are_only_where_there_is_something_to_hook(hooked_session, written):
    assert written.keys() == TYPES
    logs = hooked_session[0] / "logs"
    assert len(list((logs / "export_events").glob("event_EXPORT_SERVE_*"))) == 5
    logged = [
        line for path in logs.glob("worker-*.err") for line in path.read_text().splitlines() if "raytrail" in line
    ]
    assert not logged
