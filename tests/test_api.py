"""A history and a stream from Python, as a notebook uses them."""

import asyncio
import contextlib
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow
import pytest
from click.testing import CliRunner

import raytrail
from raytrail.agent import drain
from raytrail.cli import main
from raytrail.config import AgentConfig, TailConfig
from raytrail.errors import ConfigError, NotFoundError
from raytrail.pubsub import connect
from raytrail.store import Snapshot, Store
from raytrail.table import Table
from raytrail.tail import Checkpoint, Tailer

EXAMPLE = Path(__file__).parents[1] / "docs" / "example"
SESSION = "session_2026-11-23_22-40-17_502592_7999"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "store"
    done = CliRunner().invoke(main, ["import", str(EXAMPLE), "--store", str(path), "--format", "json"])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def history(path):
    with raytrail.open(path) as history:
        yield history


@pytest.fixture
def cluster(history):
    return history.cluster()


def test_rows_are_those_that_the_command_lists(cluster, path):
    listed = CliRunner().invoke(main, ["list", "tasks", "--store", str(path), "--format", "json"])
    with Store.open(path) as store:
        assert list(cluster.tasks(every=True)) == store.snapshot(SESSION).rows("task")
    rows = sorted(json.loads(listed.stdout), key=lambda row: (row["task_id"], row["attempt_number"]))
    assert list(cluster.tasks(order=["task_id", "attempt_number"])) == rows
    assert len(cluster.tasks()) == cluster.count("tasks")
    assert cluster.count("tasks", every=True) > cluster.count("tasks")


def test_rows_are_chosen_by_values_and_conditions(cluster):
    failed = cluster.tasks(state="failed", columns=["name", "STATE"], order=["-end_time_ms"])
    assert failed.columns == ("name", "state")
    assert {row["state"] for row in failed} == {"FAILED"}
    first = min(row["start_time_ms"] for row in cluster.tasks() if row["start_time_ms"])
    later = cluster.tasks(where=[("start_time_ms", ">", first)], limit=2)
    assert len(later) == 2
    assert all(row["start_time_ms"] > first for row in later)
    assert cluster.count("tasks", where=[("state", "!=", "FAILED")]) == cluster.count("tasks") - len(failed)


def test_a_moment_is_milliseconds_or_a_time_with_its_zone(cluster):
    began_ms = cluster.figures.began_ms
    assert cluster.count("nodes", state="ALIVE") == 0
    moment = datetime.fromtimestamp((began_ms + 2_000) / 1000, timezone.utc)
    before = cluster.at(moment)
    assert before.at_ms == began_ms + 2_000
    assert before.count("nodes", state="ALIVE") == cluster.at(began_ms + 2_000).count("nodes", state="ALIVE") > 0
    assert before.at(None).count("nodes", state="ALIVE") == 0
    with pytest.raises(ConfigError, match="time zone"):
        cluster.at(datetime(2026, 11, 23))


def test_other_libraries_read_a_table_as_columns(cluster):
    tasks = cluster.tasks(order=["task_id"])
    arrow = tasks.arrow()
    assert arrow.column("task_id").to_pylist() == [row["task_id"] for row in tasks]
    assert arrow.schema.field("start_time_ms").type == pyarrow.int64()
    assert polars.DataFrame(tasks)["name"].to_list() == [row["name"] for row in tasks]
    assert tasks.polars().shape == tasks.pandas().shape == (len(tasks), len(tasks.columns))
    assert duckdb.execute("SELECT count(*) FROM arrow").fetchall() == [(len(tasks),)]


def test_a_stream_of_columns_needs_no_other_library(path):
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"import raytrail\nprint(raytrail.open({str(path)!r}).cluster().tasks().__arrow_c_stream__())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "arrow_array_stream" in done.stdout


@pytest.mark.parametrize("how", ["arrow", "polars", "pandas"])
def test_a_library_that_is_not_there_is_named(cluster, monkeypatch, how):
    monkeypatch.setitem(sys.modules, {"arrow": "pyarrow"}.get(how, how), None)
    with pytest.raises(ConfigError, match="pip install"):
        getattr(cluster.nodes(), how)()


def test_a_notebook_shows_a_table_and_nothing_of_it_as_markup(cluster):
    page = cluster.tasks(columns=["name", "task_id"])._repr_html_()
    assert page.count("<tr>") == 1 + len(cluster.tasks())
    rows: list[dict[str, Any]] = [{"a": "<script>"}, {"a": None}, {"a": {"b": 1}}]
    table = Table("rows", ["a"], lambda most: rows[:most])
    assert "<td>&lt;script&gt;</td></tr><tr><td></td></tr><tr><td>{&quot;b&quot;:1}</td>" in table._repr_html_()
    assert repr(table) == "<3 rows: a>"


def test_to_count_rows_or_to_show_the_first_reads_no_others(cluster, monkeypatch):
    most = []
    rows = Snapshot.rows
    monkeypatch.setattr(Snapshot, "rows", lambda *asked, **how: most.append(how["limit"]) or rows(*asked, **how))
    tasks = cluster.tasks()
    assert repr(tasks).startswith(f"<{cluster.count('tasks')} tasks: task_id, ")
    assert len(cluster.tasks(limit=3)) == 3
    assert most == []
    tasks._repr_html_()
    assert cluster.tasks(limit=5)._repr_html_().count("<tr>") == 6
    assert most == [20, 5]
    assert len(tasks) == len(list(tasks)) == cluster.count("tasks")


def test_the_ledger_the_clusters_and_sql_are_tables_too(history, cluster):
    [only] = history.clusters()
    assert only["session"] == cluster.session == SESSION
    assert {row["event_type"] for row in cluster.ledger()} >= {"TASK", "NODE"}
    assert cluster.ledger().polars()["missing_bytes"].sum() == 0
    [row] = history.sql("SELECT count(*) AS n FROM task")
    assert row["n"] == cluster.count("tasks", every=True)


def test_what_is_not_there_is_named_with_what_is_near(history, cluster, tmp_path):
    with pytest.raises(AttributeError, match="did you mean tasks"):
        cluster.taks()
    with pytest.raises(ConfigError, match="did you mean FAILED"):
        cluster.tasks(state="FAILD")
    with pytest.raises(ConfigError, match="no column 'nme'"):
        cluster.tasks(columns=["nme"])
    with pytest.raises(NotFoundError):
        history.cluster("nothing")
    with pytest.raises(NotFoundError):
        raytrail.open(tmp_path / "nowhere")
    assert "tasks" in dir(cluster)
    assert "attempt" in cluster.tasks.__doc__


async def test_events_are_yielded_in_the_public_form_and_acknowledged(tmp_path):
    url = f"file://{tmp_path}/events"
    await publish(url, tmp_path)
    seen = []

    async def read(most, **asked):
        events = raytrail.subscribe(url, group="reader", **asked)
        try:
            async for event in events:
                seen.append(event)
                if len(seen) == most:
                    return
        finally:
            await events.aclose()

    await asyncio.wait_for(read(1, types=["node"]), 60)
    assert seen[0]["event_type"] == "NODE"
    assert set(seen[0]["node"]) > {"node_id", "state"}
    with pytest.raises(ConfigError, match="did you mean ACTOR"):
        await anext(raytrail.subscribe(url, types=["ACTRO"]))


async def publish(url, tmp_path):
    broker = connect(url)
    with (
        contextlib.closing(Checkpoint(tmp_path / "checkpoint.sqlite")) as checkpoint,
        contextlib.closing(Tailer(TailConfig(temp_dir=str(EXAMPLE), sessions="all"), checkpoint)) as tailer,
    ):
        await drain(tailer, checkpoint, broker, AgentConfig(), lambda _: None)
    await broker.aclose()


def test_functions_and_nodes_are_tables_of_what_they_did(cluster):
    functions = cluster.functions()
    assert sum(row["tasks"] for row in functions) == cluster.count("tasks")
    assert functions.polars()["running_share"].sum() == pytest.approx(1)
    [node] = cluster.node_report()
    assert (node["state"], node["failed"]) == ("DEAD", 3)
    assert cluster.functions(order="function")[0]["function"] == min(row["function"] for row in functions)


def test_a_run_is_compared_with_itself(history):
    answered = history.diff(SESSION, SESSION)
    assert answered.functions
    assert {row.change_ms for row in answered.functions} == {0}
    with pytest.raises(NotFoundError, match="name both runs"):
        history.diff()
