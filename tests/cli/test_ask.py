"""Questions to a history: each noun, at any time, in every format."""

import base64
import csv
import io
import json
import signal
import time
from pathlib import Path

import duckdb
import pytest

from raytrail.exit_codes import BROKEN, DIFFERENT, INTERRUPTED, USAGE
from raytrail.store import Store

pytestmark = pytest.mark.slow


def test_clusters_are_listed_with_how_complete_they_are(run, make, history):
    lines = run("clusters").stdout.splitlines()
    figures = "nodes jobs actors tasks failed tasks events stored"
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
    assert lines[0].split()[:5] == ["state", "name", "lasted", "start_time_ms", "func_or_class_name"]
    assert lines[0].split()[-2:] == ["task_id", "attempt_number"]
    assert lines[1].split()[:5] == ["FINISHED", "f", "0.9s", "2026-11-23", "07:40:31.100Z"]
    assert lines[1].split()[-2:] == [make.task_id(1), "0"]
    assert lines == [line.rstrip() for line in lines]
    assert "5 of 5 tasks\n" in done.stderr


def test_how_long_it_took_can_be_asked_for_in_a_table(run, history):
    lines = run("list", "tasks", "--columns", "lasted,name").stdout.splitlines()
    assert [line.split() for line in lines[:2]] == [["lasted", "name"], ["0.9s", "f"]]
    assert "no column 'lasted'" in run("list", "tasks", "--columns", "lasted", "--format", "csv", code=USAGE).stderr


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
    [first, *rest] = duckdb.execute(query).fetchall()
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list", "tusks"), "no entity 'tusks'; did you mean tasks?"),
        (("list", "Taskz"), "no entity 'Taskz'; did you mean tasks?"),
        (("get", "actr", "ab"), "no entity 'actr'; did you mean actors?"),
        (("summary", "tsks"), "no entity 'tsks'; did you mean tasks?"),
        (("schema", "TSK"), "no entity 'TSK'; did you mean tasks?"),
        (("list", "tasks", "--filter", "stat=x"), "task has no column 'stat'; did you mean state?"),
        (("list", "tasks", "--columns", "name,stat"), "task has no column 'stat'; did you mean state?"),
        (("list", "tasks", "--order", "-strat_time_ms"), "task has no column 'strat_time_ms'; did you mean start_time"),
        (("summary", "tasks", "--filter", "tpye=x"), "task has no column 'tpye'; did you mean type"),
        (("subscribe", "memory://x", "--types", "ACTOR,TAKS"), "no event type 'TAKS'; did you mean TASK"),
    ],
)  # fmt: skip
def test_a_misspelt_noun_or_column_gets_those_that_may_be_meant_and_is_a_usage_error(run, history, arguments, says):
    assert f"raytrail: error: {says}" in run(*arguments, code=USAGE).stderr


def test_what_is_like_nothing_gets_all_there_are(run, history):
    assert "no entity 'qqq'; there are actors, cluster_events, " in run("list", "qqq", code=USAGE).stderr
    done = run("list", "tasks", "--filter", "qqq=1", code=USAGE)
    assert "task has no column 'qqq'; it has actor_id, " in done.stderr
    done = run("summary", "nodes", code=USAGE)
    assert "nodes are not summed up, only tasks, actors and objects; see `raytrail list nodes`\n" in done.stderr


def test_a_misspelt_command_gets_those_that_may_be_meant(run):
    assert "no command 'lsit'; did you mean list?\n" in run("lsit", code=USAGE).stderr


def test_nouns_and_columns_may_be_written_as_rays_own_commands_have_them(run, history):
    assert run("list", "Placement-Groups").stderr.endswith("no placement_groups\n")
    assert len(json.loads(run("list", "tasks", "--filter", "STATE=FAILED", "--format", "json").stdout)) == 1


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("state=failed", [5]),
        ("state=Finished", [1, 2, 3, 4]),
        ("state!=failed", [1, 2, 3, 4]),
        ("type=normal_task", [1, 2, 3, 4, 5]),
        ("state=running", []),
        ("name=BOOM", [5]),
        ("name!=BOOM", [1, 2, 3, 4]),
    ],
)
def test_texts_are_the_same_in_any_case_as_in_rays_own_filters(run, make, history, text, numbers):
    rows = json.loads(run("list", "tasks", "--format", "json", "--filter", text).stdout)
    assert [row["task_id"] for row in rows] == [make.task_id(n) for n in numbers]


@pytest.mark.parametrize("op", ["=", "!="])
@pytest.mark.parametrize(
    ("noun", "text", "says"),
    [
        ("actors", "state{}DAED", "filter on state: no row has 'DAED'; did you mean DEAD? It is one of "
         "DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING, DEAD\n"),
        ("tasks", "error_type{}out_of_memroy", "filter on error_type: no row has 'out_of_memroy'; did you mean "
         "OUT_OF_MEMORY or OUT_OF_DISK_ERROR?\n"),
        ("nodes", "state{}gone", "filter on state: no row has 'gone'; it is one of ALIVE, DEAD\n"),
    ],
)  # fmt: skip
def test_a_value_that_is_none_of_an_enumerations_is_a_usage_error(run, history, noun, op, text, says):
    assert says in run("list", noun, "--filter", text.format(op), code=USAGE).stderr


def test_a_name_that_only_a_newer_ray_has_is_found(run, make, history):
    newer = make.actor(7, "HIBERNATING")
    with Store.open(history, write=True) as store:
        store.append([make.chunk("ACTOR", newer, file="1795419630-newer")])
        store.seal(make.SESSION)
        store.cache(make.SESSION)
    [row] = json.loads(
        run("list", "actors", "--filter", "state=Hibernating", "--at", "+60s", "--format", "json").stdout
    )
    assert row["state"] == "HIBERNATING"
    # it is closed by the session's end, and is there at an earlier moment only
    assert run("list", "actors", "--filter", "state=hibernating", "--format", "json", code=USAGE).stdout == ""


def test_the_cluster_is_shown_as_it_was(run, history):
    rows = json.loads(run("list", "tasks", "--at", "+3500ms", "--format", "json", "--order", "task_id").stdout)
    assert [row["state"] for row in rows] == ["FINISHED", "FINISHED", "RUNNING"]
    # its node died 600 s after the beginning
    [alive] = json.loads(run("list", "nodes", "--at", "-1s", "--format", "json").stdout)
    assert alive["state"] == "ALIVE"


@pytest.mark.parametrize(
    ("at", "notes"),
    [
        ("end", ""),
        ("07:40", "2026-11-23 07:40:00.000Z is before this cluster's start: "),
        ("07:40:33.500", "at 2026-11-23 07:40:33.500Z\n"),
        ("2026-11-23T07:40:33.500", ""),
        ("2026-11-23 07:40:33.500", ""),
        ("yesterday", "2026-11-22 07:50:30.000Z is before this cluster's start: "),
        ("now", " is after this cluster's end, and it is shown as it was at last: "),
        ("10 minutes before end", "at 2026-11-23 07:40:30.000Z\n"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("list", "tasks", "--format", "json"),
        ("list", "nodes"),
        ("summary", "tasks"),
        ("get", "node", "aa" * 28),
        ("timeline", "--out", "-"),
        ("logs",),
        ("exec", "latest", "--", "true"),
    ],
)
def test_every_command_that_takes_a_time_takes_all_forms_and_says_where_it_lies(run, history, command, at, notes):
    first, *rest = command
    before = notes.endswith("start: ") and first == "get"
    arguments = ("exec", "--at", at, *rest) if first == "exec" else (*command, "--at", at)
    stderr = run(*arguments, code=DIFFERENT if before else 0).stderr
    printed = stderr.partition("(lab)\n")[2]
    assert notes in printed
    if not notes:
        assert "at 2026" not in printed
        assert "this cluster" not in printed


def test_a_time_that_cannot_be_meant_teaches_the_forms(run, history):
    done = run("list", "tasks", "--at", "teatime", code=USAGE)
    assert "raytrail: error: time 'teatime' is not a time; give 2026-11-28 03:12 or " in done.stderr


def test_a_living_cluster_is_shown_as_it_is_now_though_a_clock_is_ahead(run, make, tmp_path):
    ahead = make.line("EXPORT_ACTOR", {"actor_id": "AQ==", "state": "ALIVE"}, int(time.time()) + 600)
    with Store.open(tmp_path / "living", write=True) as store:
        store.append([make.chunk("NODE", make.node("ALIVE")), make.chunk("ACTOR", ahead)])
        store.fold()
    how = ("list", "actors", "--format", "json", "--store", tmp_path / "living")
    for at in ("now", "end"):
        done = run(*how, "--at", at)
        assert [row["state"] for row in json.loads(done.stdout)] == ["ALIVE"]
        assert "at 2" not in done.stderr
    assert json.loads(run(*how, "--at", "-1s").stdout) == []
    assert " is in the future, and the cluster is shown as it is now: " in run(*how, "--at", "2999-01-01").stderr


def test_the_very_end_is_what_is_shown_without_a_time(run, history):
    assert run("list", "nodes", "--at", "end").stdout == run("list", "nodes").stdout
    assert run("list", "nodes", "--at", "now").stdout == run("list", "nodes").stdout


def test_one_row_is_got_by_its_id_or_one_attempt_by_its_number(run, make, history):
    text = run("get", "task", make.task_id(5)).stdout
    assert "boom" in [line.split()[-1] for line in text.splitlines() if line.startswith("name ")]
    assert "2026-11-23 07:40:35.100Z\n" in text
    assert '{"CPU":1}' in text
    [row] = json.loads(run("get", "tasks", f"{make.task_id(5)}:0", "--format", "json").stdout)
    assert row["state"] == "FAILED"
    done = run("get", "task", f"{make.task_id(5)}:1", code=DIFFERENT)
    assert f"no task '{make.task_id(5)}:1' in {make.SESSION}; see `raytrail list tasks`\n" in done.stderr


def test_a_row_is_got_by_the_first_letters_of_its_id(run, make, history):
    whole = make.task_id(5)
    for key in (whole[:32], f"{whole[:33]}:0"):
        [row] = json.loads(run("get", "task", key, "--format", "json").stdout)
        assert row["task_id"] == whole
    several = run("get", "task", whole[:16], code=USAGE)
    assert f"{whole[:16]!r} begins the ids of several tasks: {make.task_id(1)}, " in several.stderr
    assert several.stderr.endswith("; give more of it\n")
    assert f"no task {whole[:31]}9" in run("get", "task", f"{whole[:31]}9", code=DIFFERENT).stderr.replace(chr(39), "")
    for key in (whole.upper(), f"{whole[:32]}…"):
        assert json.loads(run("get", "task", key, "--format", "json").stdout) == [row]
    done = run("get", "task", "what is it", code=USAGE)
    assert "'what is it' is no id of tasks: those are hex; give one, or the beginning of one\n" in done.stderr
    done = run("get", "task", whole[:7], code=USAGE)
    assert f"{whole[:7]!r} is too short for the id of one of the tasks; give its first 8 letters\n" in done.stderr


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


@pytest.fixture
def mixed(make, history):
    """The history with a driver, a part of an attempt, a nameless actor, and two objects, one of them gone."""
    driver = make.line("EXPORT_TASK", {**make.task_data(8), "task_info": {"type": "DRIVER_TASK"}})
    fragment = make.line("EXPORT_TASK", {**make.task_data(9), "task_info": None})

    def reference(number, change):
        data = {"object_id": base64.b64encode(bytes([number]) * 28).decode(), "worker_id": "AQ==", "change": change,
                "reference_type": "LOCAL_REFERENCE", "call_site": "disabled"}  # fmt: skip
        return make.line("EXPORT_OBJECT", data, make.BEGAN_S + 5)

    with Store.open(history, write=True) as store:
        store.append(
            [
                make.chunk("TASK", driver, fragment, file="1795419630-more"),
                make.chunk("ACTOR", make.line("EXPORT_ACTOR", {"actor_id": "AQ=="}), file="1795419630-nameless"),
                make.chunk("OBJECT", reference(1, "CREATED"), reference(2, "CREATED"), reference(2, "DELETED")),
            ]
        )
        store.seal(make.SESSION)
        store.cache(make.SESSION)
    return history


@pytest.mark.parametrize("noun", ["tasks", "actors", "objects"])
@pytest.mark.parametrize("every", [(), ("--all",)])
@pytest.mark.parametrize("at", [(), ("--at", "+3500ms"), ("--at", "+5s"), ("--at", "-1s"), ("--at", "end")])
def test_list_and_summary_count_the_same_rows(run, mixed, noun, every, at):
    filters = {"tasks": "name=f", "actors": "class_name=Counter", "objects": "reference_type=local_reference"}
    for wanted in (
        (),
        ("--filter", filters[noun]),
        ("--filter", "state!=alive" if noun == "actors" else "job_id=null"),
    ):
        how = (noun, *every, *at, *wanted, "--format", "json")
        listed, groups = json.loads(run("list", *how).stdout), json.loads(run("summary", *how).stdout)
        assert sum(group["total"] for group in groups) == len(listed)
        for group in groups:
            states = {name: count for name, count in group.items() if name.isupper() or name == "null"}
            assert sum(states.values()) == group["total"]


def test_drivers_and_fragments_are_counted_as_tasks_only_if_asked_for(run, mixed):
    assert run("summary", "tasks").stdout.splitlines()[-1].split() == ["all", "5", "1", "4"]
    done = run("list", "tasks")
    assert len(done.stdout.splitlines()) == 6
    assert done.stderr.endswith("5 of 5 tasks (2 more with --all: drivers, or only in part exported)\n")
    [cluster] = json.loads(run("clusters", "--format", "json").stdout)
    assert cluster["tasks"] == 5
    assert len(json.loads(run("list", "tasks", "--all", "--format", "json").stdout)) == 7
    done = run("list", "tasks", "--filter", "type=driver_task")
    assert done.stderr.endswith("no tasks (1 more with --all: drivers, or only in part exported)\n")
    assert len(json.loads(run("get", "task", "8".zfill(32) + "ffffffff01000000", "--format", "json").stdout)) == 1


def test_states_that_no_event_said_have_a_column_too(run, mixed):
    lines = [text.split() for text in run("summary", "actors", "--at", "+5s").stdout.splitlines()]
    assert lines == [["class_name", "total", "DEAD", "null"], ["Counter", "2", "2"], ["1", "1"], ["all", "3", "2", "1"]]


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
    for query in ("SELEC 1", "SELECT 1; SELECT 2", "COPY (SELECT 1) TO 'x'", "FROM '/etc/passwd'", "FROM nothing"):
        done = run("sql", query, code=2)
        assert done.stderr.startswith("raytrail: error: SQL: ")
        assert len(done.stderr.splitlines()) == 1


def cpu_ticks(pid):
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_sql_is_given_up_after_a_time_or_by_ctrl_c(start, history, tmp_path):
    scratch = {name: tmp_path / name for name in ("late", "stuck", "interrupted")}
    for directory in scratch.values():
        directory.mkdir()
    long = "SELECT count(*) FROM range(1000000000000)"
    late = start("sql", long, "--sql-seconds", 0.5, TMPDIR=str(scratch["late"]))
    # so long for a single row that the engine never looks whether it is to give up
    stuck = "SELECT levenshtein(repeat('a', 2000000), repeat('b', 2000000))"
    stuck = start("sql", stuck, "--sql-seconds", 0.5, TMPDIR=str(scratch["stuck"]))
    interrupted = start("sql", long, TMPDIR=str(scratch["interrupted"]))
    interrupted.wait_for(
        lambda: len([*scratch["interrupted"].iterdir()]) == 2
    )  # the store's engine, and the question's
    before = cpu_ticks(interrupted.process.pid)
    interrupted.wait_for(lambda: cpu_ticks(interrupted.process.pid) > before + 50)
    assert interrupted.stop(signal.SIGINT) == INTERRUPTED
    assert interrupted.printed == {"out": "", "err": ""}
    assert late.wait() == USAGE
    assert late.printed["err"].startswith("raytrail: error: SQL: not answered within 0.5 seconds; ask for less")
    assert [*scratch["late"].iterdir(), *scratch["interrupted"].iterdir()] == []
    assert stuck.wait() == BROKEN
    assert stuck.messages("ERROR") == ["SQL: not given up within 5.5 seconds; ended by force; ask for less"]


def test_sql_hands_on_moments_with_a_time_zone_in_every_format(run, history, tmp_path):
    query = "SELECT to_timestamp(1) AS moment"
    assert run("sql", query).stdout.split("\n")[1] == "1970-01-01 00:00:01+00"
    assert json.loads(run("sql", query, "--format", "json").stdout) == [{"moment": "1970-01-01 00:00:01+00"}]
    assert run("sql", query, "--format", "csv").stdout == "moment\n1970-01-01 00:00:01+00\n"
    output = tmp_path / "moments.parquet"
    run("sql", query, "--format", "parquet", "--output", str(output))
    rows = duckdb.execute(f"SELECT epoch(moment), typeof(moment) FROM '{output}'").fetchall()
    assert rows == [(1, "TIMESTAMP WITH TIME ZONE")]


def test_the_schema_is_that_of_the_type_or_the_noun(run):
    task_schema = json.loads(run("schema", "TASK").stdout)
    assert task_schema == json.loads(run("schema", "tasks").stdout)
    assert task_schema["properties"]["event_type"] == {"const": "TASK"}
    assert len(json.loads(run("schema").stdout)["oneOf"]) > 5
    assert "jobs have no events of their own" in run("schema", "jobs", code=DIFFERENT).stderr
    state = run("schema", "ACTOR").stdout
    assert '"examples": ["DEPENDENCIES_UNREADY", ' in " ".join(state.split()).replace("[ ", "[")
    assert "enum" not in json.loads(state)["properties"]["actor"]["properties"]["state"]


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


def test_functions_are_shown_with_their_share_and_as_the_same_rows_for_programs(run, make, history):
    lines = run("functions").stdout.splitlines()
    assert lines[0].split()[:6] == ["function", "tasks", "failed", "retried", "share", "ran"]
    assert " ".join(lines[1].split()) == "f 4 0 0 80.0% 3.60 s 900 ms 900 ms 900 ms 100 ms 0 ms 0 ms 100 ms"
    answered = json.loads(run("functions", "--job", "01000000", "--order", "-failed", "--format", "json").stdout)
    assert [row["function"] for row in answered["functions"]] == ["boom", "f"]
    asked = json.loads(run("sql", answered["sql"], "--format", "json").stdout)
    assert [row["running_total_ms"] for row in asked] == [900, 3600]
    [row, _] = csv.DictReader(io.StringIO(run("functions", "--format", "csv").stdout))
    assert (row["function"], row["running_total_ms"]) == ("f", "3600.0")
    assert "has no such job" in run("functions", "--job", "09000000", code=DIFFERENT).stderr


def test_two_runs_are_shown_side_by_side(run, make, history):
    done = run("diff", make.SESSION, make.SESSION)
    a, b = done.stdout.splitlines()[1:3]
    assert (a.split()[:2], b.split()[:2]) == (["a", make.SESSION], ["b", make.SESSION])
    assert [line.split()[:3] for line in done.stdout.splitlines()[-2:]] == [["boom", "0", "ms"], ["f", "0", "ms"]]
    answered = json.loads(run("diff", make.SESSION, make.SESSION, "--format", "json").stdout)
    assert {row["what"] for row in answered["failures"]} == {"same"}
    assert answered["failures"][0]["functions"] == ["boom"]
    assert len([*csv.DictReader(io.StringIO(run("diff", make.SESSION, "latest", "--format", "csv").stdout))]) == 2
    assert "no earlier session of cluster 'lab'; name both runs" in run("diff", code=DIFFERENT).stderr
