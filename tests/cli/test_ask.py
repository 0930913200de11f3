"""Questions to a history: each noun, at any time, in every format."""

import csv
import io
import json

import pytest

from raytrail.cli import DIFFERENT, USAGE
from raytrail.store import Store

pytestmark = pytest.mark.slow


def test_clusters_are_listed_with_how_complete_they_are(run, make, history):
    lines = run("clusters").stdout.splitlines()
    figures = "nodes jobs actors tasks events stored"
    assert lines[0].split() == f"cluster session state began lasted {figures} ledger".split()
    assert lines[1].split()[:4] == ["lab", make.SESSION, "sealed", "2026-11-23"]
    assert lines[1].rstrip().endswith("complete")
    [row] = json.loads(run("clusters", "--format", "json").stdout)
    assert (row["session"], row["tasks"], row["actors"], row["sealed"]) == (make.SESSION, 5, 2, True)
    [row] = csv.DictReader(io.StringIO(run("clusters", "--format", "csv").stdout))
    assert (row["session"], row["tasks"], row["sealed"]) == (make.SESSION, "5", "true")


def test_an_empty_history_says_how_to_fill_it(run, tmp_path):
    Store.open(tmp_path / "empty", write=True).close()
    done = run("clusters", "--store", tmp_path / "empty")
    assert done.stdout == ""
    assert "no clusters yet; bring one in with `raytrail import`" in done.stderr


def test_the_cluster_that_answers_is_named_unless_it_was_asked_for_by_its_full_name(run, make, history):
    assert f"cluster {make.SESSION} (lab)\n" in run("list", "nodes").stderr
    assert f"cluster {make.SESSION} (lab)\n" in run("list", "nodes", "--cluster", "lab").stderr
    assert make.SESSION not in run("list", "nodes", "--cluster", make.SESSION).stderr


def test_an_unknown_cluster_exits_with_1_and_names_those_there_are(run, make, history):
    done = run("list", "tasks", "--cluster", "prod", code=DIFFERENT)
    assert done.stderr == f"raytrail: error: cluster 'prod': not in the store; there are {make.SESSION}\n"


def test_rows_are_listed_as_a_table_with_whole_ids_and_readable_times(run, make, history):
    done = run("list", "tasks")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["task_id", "attempt_number", "name", "state", "start_time_ms"]
    assert lines[1].split()[:6] == [make.task_id(1), "0", "f", "FINISHED", "2026-11-23", "07:40:31.100Z"]
    assert "5 of 5 tasks\n" in done.stderr


def test_a_limit_says_how_many_there_are(run, history):
    done = run("list", "tasks", "--limit", 2)
    assert len(done.stdout.splitlines()) == 3
    assert "2 of 5 tasks; --limit shows more\n" in done.stderr


def test_json_is_one_array_with_a_row_a_line(run, make, history):
    text = run("list", "tasks", "--format", "json").stdout
    rows = json.loads(text)
    assert [row["task_id"] for row in rows] == [make.task_id(n) for n in range(1, 6)]
    assert rows[0]["required_resources"] == {"CPU": 1}
    assert rows[0]["start_time_ms"] == make.BEGAN_S * 1000 + 1_100
    assert len(text.splitlines()) == 7
    assert run("list", "tasks", "--filter", "name=none", "--format", "json").stdout == "[]\n"


def test_pages_join_without_gap_or_repetition(run, make, history, monkeypatch):
    monkeypatch.setattr("raytrail.cli.list_.PAGE_ROWS", 2)
    rows = json.loads(run("list", "tasks", "--format", "json", "--order", "name").stdout)
    assert [row["task_id"] for row in rows] == [make.task_id(n) for n in (5, 1, 2, 3, 4)]
    assert len(json.loads(run("list", "tasks", "--format", "json", "--limit", 3).stdout)) == 3


def test_csv_holds_the_columns_asked_for_and_objects_as_json(run, history):
    done = run("list", "tasks", "--format", "csv", "--columns", "name,required_resources,error_type", "--limit", 1)
    assert done.stdout == 'name,required_resources,error_type\nf,"{""CPU"":1}",\n'


def test_parquet_holds_typed_columns_and_replaces_its_file_at_once(run, make, history, tmp_path):
    target = tmp_path / "tasks.parquet"
    target.write_text("old")
    run("list", "tasks", "--format", "parquet", "--output", target)
    query = f"SELECT task_id, worker_pid + 1, start_time_ms, required_resources FROM '{target}' ORDER BY 1"
    import duckdb

    [first, *rest] = duckdb.sql(query).fetchall()
    assert first == (make.task_id(1), 4712, make.BEGAN_S * 1000 + 1_100, '{"CPU":1}')
    assert len(rest) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("command", [("list", "tasks"), ("sql", "SELECT 1")])
def test_a_format_and_an_output_that_do_not_fit_are_a_usage_error(run, history, command):
    assert "--format parquet needs --output FILE" in run(*command, "--format", "parquet", code=USAGE).stderr
    assert "--output needs --format json, csv or parquet" in run(*command, "--output", "x", code=USAGE).stderr


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (["state=FAILED"], [5]),
        (["state!=FAILED", "name=f"], [1, 2, 3, 4]),
        (["start_time_ms>=2026-11-23T07:40:33Z"], [3, 4, 5]),
        (["start_time_ms<+3s"], [1, 2]),
        (["pending_args_avail_ns=1795419632"], [2]),
        (["task_id=" + "4".zfill(32) + "ffffffff01000000"], [4]),
        (["worker_pid<=4711", "attempt_number<1"], [1, 2, 3, 4, 5]),
        (["error_type=null", "name!=f"], [5]),
    ],
)
def test_filters_compare_as_the_columns_type_does(run, make, history, filters, numbers):
    flags = [part for text in filters for part in ("--filter", text)]
    rows = json.loads(run("list", "tasks", "--format", "json", *flags).stdout)
    assert [row["task_id"] for row in rows] == [make.task_id(n) for n in numbers]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "FAILED",
            "filter 'FAILED' is not COLUMN OPERATOR VALUE; write it like state=FAILED or attempt_number>0",
        ),
        ("attempt_number=first", "filter on attempt_number: 'first' is not a whole number"),
        ("task_id=xyz", "filter on task_id: 'xyz' is not an id in hex"),
        ("is_debugger_paused=maybe", "filter on is_debugger_paused: 'maybe' is not true or false"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(run, history, text, says):
    assert f"raytrail: error: {says}\n" in run("list", "tasks", "--filter", text, code=USAGE).stderr


def test_an_unknown_column_or_noun_names_those_there_are(run, history):
    assert "task has no column 'stat'; it has" in run("list", "tasks", "--filter", "stat=x", code=DIFFERENT).stderr
    assert "there are actors, " in run("list", "tusks", code=DIFFERENT).stderr


def test_the_cluster_is_shown_as_it_was(run, history):
    rows = json.loads(run("list", "tasks", "--at", "+3500ms", "--format", "json", "--order", "task_id").stdout)
    assert [row["state"] for row in rows] == ["FINISHED", "FINISHED", "RUNNING"]
    # its node died 600 s after the beginning
    [alive] = json.loads(run("list", "nodes", "--at", "-1s", "--format", "json").stdout)
    assert alive["state"] == "ALIVE"


def test_one_row_is_got_by_its_id_or_one_attempt_by_its_number(run, make, history):
    text = run("get", "task", make.task_id(5)).stdout
    assert "boom" in [line.split()[-1] for line in text.splitlines() if line.startswith("name ")]
    assert "2026-11-23 07:40:35.100Z\n" in text
    assert '{"CPU":1}' in text
    [row] = json.loads(run("get", "tasks", f"{make.task_id(5)}:0", "--format", "json").stdout)
    assert row["state"] == "FAILED"
    done = run("get", "task", f"{make.task_id(5)}:1", code=DIFFERENT)
    assert f"no task '{make.task_id(5)}:1' in {make.SESSION}; see `raytrail list tasks`\n" in done.stderr


def test_all_attempts_of_a_task_are_got_by_its_id(run, make, history):
    with Store.open(history, write=True) as store:
        store.append([make.chunk("TASK", make.task(5, attempt=1), file="x" * 43)])
        store.seal(make.SESSION)
        store.cache(make.SESSION)
    assert [
        r["attempt_number"] for r in json.loads(run("get", "task", make.task_id(5), "--format", "json").stdout)
    ] == [0, 1]


def test_a_job_is_got_by_either_of_its_ids(run, make, history):
    data = {"submission_job_id": "raysubmit_ab", "status": "SUCCEEDED", "entrypoint": "true"}
    with Store.open(history, write=True) as store:
        store.append([make.chunk("SUBMISSION_JOB", make.line("EXPORT_SUBMISSION_JOB", data))])
        store.seal(make.SESSION)
        store.cache(make.SESSION)
    [row] = json.loads(run("get", "job", "raysubmit_ab", "--format", "json").stdout)
    assert row["status"] == "SUCCEEDED"
    assert "no job 'ffff'" in run("get", "job", "ffff", code=DIFFERENT).stderr


def test_tasks_and_actors_are_counted_by_name_and_state(run, history):
    lines = [text.split() for text in run("summary", "tasks").stdout.splitlines()]
    assert lines == [
        ["func_or_class_name", "type", "total", "FAILED", "FINISHED"],
        ["f", "NORMAL_TASK", "4", "4"],
        ["boom", "NORMAL_TASK", "1", "1"],
        ["all", "5", "1", "4"],
    ]
    assert json.loads(run("summary", "actors", "--format", "json").stdout) == [
        {"class_name": "Counter", "total": 2, "DEAD": 2}
    ]
    assert run("summary", "actors", "--format", "csv").stdout == "class_name,total,DEAD\nCounter,2,2\n"


def test_drivers_and_fragments_are_not_counted_as_tasks(run, make, history):
    driver = make.line("EXPORT_TASK", {**make.task_data(8), "task_info": {"type": "DRIVER_TASK"}})
    fragment = make.line("EXPORT_TASK", {**make.task_data(9), "task_info": None})
    with Store.open(history, write=True) as store:
        store.append([make.chunk("TASK", driver, fragment, file="1795419630-more")])
        store.seal(make.SESSION)
        store.cache(make.SESSION)
    assert run("summary", "tasks").stdout.splitlines()[-1].split() == ["all", "5", "1", "4"]
    assert len(json.loads(run("list", "tasks", "--format", "json").stdout)) == 7


def test_the_ledger_adds_up_and_its_check_passes_when_nothing_is_missing(run, history):
    lines = run("ledger", "--check").stdout.splitlines()
    assert [text.split()[0] for text in lines] == ["type", "ACTOR", "NODE", "TASK", "all"]
    assert lines[-1].split()[-4] == "10"
    assert json.loads(run("ledger", "--format", "json").stdout)[2]["stored_events"] == 5


def test_the_ledger_shows_what_is_missing_and_what_was_rejected_and_its_check_fails(run, make, history):
    lines = [b"garbage\n", make.task(6)]
    report = {
        "file": "1795419630-gap", "generation": 0, "name": "event_EXPORT_TASK_7.log", "event_type": "TASK",
        "written_bytes": 9000, "published_bytes": 9000,
    }  # fmt: skip
    with Store.open(history, write=True) as store:
        gap = make.chunk("FILE", make.line("RAYTRAIL_FILE", report))
        store.append([make.chunk("TASK", *lines, file="1795419630-gap", start=100), gap])
        store.fold()
        store.seal(make.SESSION)
        store.cache(make.SESSION)
    done = run("ledger", "--check", code=DIFFERENT)
    assert "missing\n" in done.stdout
    assert ["1795419630-gap", "event_EXPORT_TASK_7.log", "0", "100"] in [t.split() for t in done.stdout.splitlines()]
    rejected = [text.split()[:2] for text in done.stdout.partition("rejected\nfile")[2].splitlines()[1:]]
    assert rejected == [["1795419630-gap", "100"]]


def test_sql_asks_all_clusters(run, make, history):
    other = make.SESSION.replace("07-40", "09-40")
    with Store.open(history, write=True) as store:
        store.append([make.chunk("ACTOR", make.actor(3), session=other)])
        store.fold()
    query = "SELECT session, count(*) AS actors FROM actor GROUP BY ALL ORDER BY ALL"
    assert run("sql", query, "--format", "csv").stdout == f"session,actors\n{make.SESSION},2\n{other},1\n"
    done = run("sql", query)
    assert done.stdout.split() == ["session", "actors", make.SESSION, "2", other, "1"]
    assert done.stderr == "2 rows\n"


def test_sql_that_is_wrong_is_said_in_one_line(run, history):
    done = run("sql", "SELEC 1", code=3)
    assert done.stderr.startswith("raytrail: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_schema_is_that_of_the_type_or_the_noun(run):
    task_schema = json.loads(run("schema", "TASK").stdout)
    assert task_schema == json.loads(run("schema", "tasks").stdout)
    assert task_schema["properties"]["event_type"] == {"const": "TASK"}
    assert len(json.loads(run("schema").stdout)["oneOf"]) > 5
    assert "jobs have no events of their own" in run("schema", "jobs", code=DIFFERENT).stderr
    assert "no entity 'x'" in run("schema", "X", code=DIFFERENT).stderr


def test_a_session_is_sealed_and_rebuilt_on_demand(run, make, history):
    with Store.open(history, write=True) as store:
        store.append([make.chunk("TASK", make.task(7), file="1795419630-late")])
    assert run("seal").stderr.endswith(f"sealed {make.SESSION}\n")
    assert len(json.loads(run("list", "tasks", "--format", "json").stdout)) == 6
    assert run("rebuild", "--cluster", make.SESSION).stderr == f"rebuilt {make.SESSION}\n"
    assert len(json.loads(run("list", "tasks", "--format", "json").stdout)) == 6


def test_who_wants_to_write_is_told_when_another_does(run, history):
    with Store.open(history, write=True):
        done = run("seal", code=3)
    assert "another process writes to this store" in done.stderr
