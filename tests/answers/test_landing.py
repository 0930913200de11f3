"""The clusters of a history, and what they are found by."""

import base64
import itertools
import shutil
import sqlite3
from contextlib import closing

import msgspec
import pytest

from raytrail.answers.landing import landing
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import ConfigError
from raytrail.store import Store
from raytrail.store.overviews import FORM
from raytrail.testing.entities import chunk, line

BEGAN_S = 1_795_419_630
DAY_S = 86_400
FILES = itertools.count()
CONFIG = StoreConfig(threads=1)
MONDAY, TUESDAY, ADHOC, LIVING = (f"session_2026-11-{day}_00-00-00_000000_1" for day in (23, 24, 25, 26))
FRAMES = 'Traceback (most recent call last):\n  File "/app/train.py", line 8, in step\n'


def b64(hexadecimal):
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def node(number, began_s, ended_s=None, reason="EXPECTED_TERMINATION"):
    data = {"node_id": b64(f"{number:056x}"), "state": "ALIVE", "is_head_node": number == 1}
    data["start_time_ms"] = str(1000 * began_s)
    if ended_s:
        data |= {"state": "DEAD", "end_time_ms": str(1000 * ended_s), "death_info": {"reason": reason}}
    return "node", ended_s or began_s, data


def task(number, function, began_s, error=""):
    times = {"5": str(10**9 * began_s), "12" if error else "11": str(10**9 * (began_s + 1))}
    updates = {"state_ts_ns": times}
    if error:
        updates["error_info"] = {"error_type": "TASK_EXECUTION_EXCEPTION", "error_message": f"{FRAMES}{error}"}
    data = {"task_id": b64(f"{number:040x}01000000"), "attempt_number": 0, "job_id": b64("01000000")}
    info = {"type": "NORMAL_TASK", "func_or_class_name": function}
    return "task", began_s, {**data, "task_info": info, "state_updates": updates}


def job(name, status, began_s, entrypoint="python train.py", **metadata):
    data = {"submission_job_id": name, "status": status, "entrypoint": entrypoint, "start_time": str(1000 * began_s)}
    if status != "RUNNING":
        data["end_time"] = str(1000 * (began_s + 10))
    return "submission_job", began_s, {**data, "metadata": metadata}


def add(store, session, cluster, events, seal=True):
    for name in dict.fromkeys(entity for entity, _, _ in events):
        entity = installed()[name]
        lines = [line(entity, at, data) for of, at, data in events if of == name]
        made = msgspec.structs.replace(chunk(entity, lines), session=session, cluster=cluster)
        segments = [segment._replace(file=f"{segment.file}-{next(FILES)}") for segment in made.segments]
        store.append([msgspec.structs.replace(made, segments=tuple(segments))])
    store.fold()
    if seal:
        store.seal(session)


def fill(store):
    for number, (session, status) in enumerate({MONDAY: "SUCCEEDED", TUESDAY: "FAILED"}.items()):
        began_s = BEGAN_S + DAY_S * number
        failed = [task(n, "load_shard", began_s + n, f"ValueError: shard {n} is 0x7f00deadbeef") for n in range(9)]
        lost = [node(2, began_s, began_s + 30, "UNEXPECTED_TERMINATION")] * (status == "FAILED")
        run = job(f"raysubmit_{number}", status, began_s + 5, user="ada", job_name="train")
        events = [node(1, began_s, began_s + 100), *lost, run, task(20, "fit", began_s)]
        add(store, session, "nightly", events + failed * (status == "FAILED"))
    began_s = BEGAN_S + 2 * DAY_S
    add(
        store,
        ADHOC,
        "adhoc",
        [node(1, began_s, began_s + 5000), job("raysubmit_x", "SUCCEEDED", began_s, "python 100%.py")],
    )
    began_s = BEGAN_S + 3 * DAY_S
    add(store, LIVING, "", [node(1, began_s), task(1, "serve_one", began_s, "OSError: gone")], seal=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("landing") / "store"
    with Store.open(root, CONFIG, write=True) as store:
        fill(store)
    return root


@pytest.fixture(scope="module")
def store(root):
    with Store.open(root, CONFIG) as store:
        yield store


def sessions(answer):
    return [row.session for row in answer.rows]


def test_the_newest_come_first_with_what_became_of_them(store):
    living, adhoc, tuesday, monday = landing(store).rows
    assert [row.session for row in (living, adhoc, tuesday, monday)] == [LIVING, ADHOC, TUESDAY, MONDAY]
    assert [row.state for row in (living, adhoc, tuesday, monday)] == ["running", "ended", "failed", "ended"]
    assert (tuesday.tasks, tuesday.failed_tasks, tuesday.nodes, tuesday.lost_nodes) == (10, 9, 2, 1)
    assert (tuesday.jobs, tuesday.failed_jobs, tuesday.users) == (1, 1, ("ada",))
    assert [(run.id, run.name, run.status) for run in tuesday.runs] == [("raysubmit_1", "train", "FAILED")]
    assert (living.failed_tasks, living.failed_jobs, living.lasted_ms is not None) == (1, 0, True)
    assert tuesday.lasted_ms == 100_000


@pytest.mark.parametrize(
    ("search", "expected", "text"),
    [
        ("night", [TUESDAY, MONDAY], None),
        (MONDAY[:20], [MONDAY], None),
        ("LOAD_shard", [TUESDAY], ("function", "load_shard")),
        ("raysubmit_1", [TUESDAY], ("id", "raysubmit_1")),
        ("train.py", [TUESDAY, MONDAY], ("job", "python train.py")),
        ("user=ada", [TUESDAY, MONDAY], ("metadata", "user=ada")),
        ("valueerror", [TUESDAY], ("error", "ValueError: shard 0 is #")),
        ('"shard 0"', [TUESDAY], ("error", "ValueError: shard 0 is #")),
        ("100%", [ADHOC], ("job", "python 100%.py")),
        ("serve_one", [LIVING], ("function", "serve_one")),
        ("oserror gone", [LIVING], ("error", "OSError: gone")),
        ("night serve_one", [], None),
        ("load%shard", [], None),
    ],
)
def test_a_cluster_is_found_by_all_words_of_a_search(store, search, expected, text):
    answer = landing(store, search=search)
    assert sessions(answer) == expected
    assert [(match.kind, match.text) for row in answer.rows[:1] for match in row.matched] == ([text] if text else [])


def test_errors_that_differ_by_numbers_are_one_text(root):
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as db:
        texts = [text for (text,) in db.execute("SELECT text FROM texts WHERE kind = 'error' AND text LIKE 'Val%'")]
    assert texts == ["ValueError: shard 0 is #"]


def test_facets_count_what_the_others_leave(store):
    every = {facet.name: {value.value: value.count for value in facet.values} for facet in landing(store).facets}
    assert every == {
        "state": {"ended": 2, "running": 1, "failed": 1},
        "incomplete": {"no": 4},
        "name": {"nightly": 2, "adhoc": 1, "": 1},
        "day": {"2026-11-26": 1, "2026-11-25": 1, "2026-11-24": 1, "2026-11-23": 1},
    }
    answer = landing(store, name="nightly", state="failed")
    counts = {facet.name: {value.value: value.count for value in facet.values} for facet in answer.facets}
    assert counts["state"] == {"failed": 1, "ended": 1}
    assert counts["name"] == {"nightly": 1}
    assert sessions(answer) == [TUESDAY]


def test_sessions_of_one_name_are_one_row_where_they_are_folded(store):
    answer = landing(store, fold=True)
    assert [(row.session, row.others) for row in answer.rows] == [(LIVING, 0), (ADHOC, 0), (TUESDAY, 1)]
    assert (answer.total, answer.sessions) == (3, 4)
    assert sessions(landing(store, fold=True, name="nightly")) == [TUESDAY, MONDAY]
    assert sessions(landing(store, name="")) == [LIVING]


def test_rows_are_sorted_by_a_figure_and_come_in_pages(store):
    assert sessions(landing(store, sort="-failed_tasks")) == [TUESDAY, LIVING, ADHOC, MONDAY]
    assert sessions(landing(store, sort="began")) == [MONDAY, TUESDAY, ADHOC, LIVING]
    assert sessions(landing(store, sort="name"))[:3] == [ADHOC, TUESDAY, MONDAY]
    second = landing(store, sort="-lasted", rows=3, page=2)
    assert (second.page, second.pages, second.total, len(second.rows)) == (2, 2, 4, 1)
    assert not landing(store, page=7).rows


def test_the_runs_of_a_job_stand_together_whichever_cluster_ran_it(store):
    jobs = {
        job.name: [(run.session, run.status) for run in job.runs] for job in landing(store, search="load_shard").jobs
    }
    assert jobs == {"train": [(TUESDAY, "FAILED"), (MONDAY, "SUCCEEDED")]}
    assert [job.name for job in landing(store).jobs] == ["python 100%.py", "train"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sort": "taks"}, "sort by 'taks'; did you mean tasks"),
        ({"state": "x"}, "state 'x'; it is one of running, failed, ended"),
        ({"day": "yesterday"}, "day 'yesterday': there is none; write it as 2026-11-29"),
        ({"page": 0}, "page 0: the first is 1"),
        ({"search": "a b c d e f g h i j k"}, "search for 11 words"),
    ],
)
def test_what_there_is_not_is_refused(store, asked, message):
    with pytest.raises(ConfigError, match=message):
        landing(store, **asked)


def test_an_address_says_all_that_was_asked_for(store):
    asked = landing(store, search="a b", name="", fold=True, page=3).asked
    assert asked.query() == "?q=a%20b&name="
    assert asked.query(page=4, state="failed") == "?q=a%20b&state=failed&name=&page=4"
    assert landing(store, fold=True).asked.query() == ""


def test_a_store_of_an_older_version_is_listed_and_searched_by_name_until_it_is_written_to(root, tmp_path):
    older = tmp_path / "older"
    older.mkdir()
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as db:
        db.execute("VACUUM INTO ?", (str(older / "catalogue.sqlite"),))
    for name in ("log", "state"):
        shutil.copytree(root / name, older / name)
    with closing(sqlite3.connect(older / "catalogue.sqlite")) as db, db:
        db.execute("UPDATE overview SET form = ?", (FORM - 1,))
    with Store.open(older, CONFIG) as store:
        answer = landing(store, search="nightly")
        assert sessions(answer) == [TUESDAY, MONDAY]
        assert [(row.tasks, row.failed_tasks, row.failed_jobs) for row in answer.rows] == [
            (10, None, None),
            (1, None, None),
        ]
        assert not landing(store, search="load_shard").rows
    with Store.open(older, CONFIG, write=True) as store:
        store.complete_overviews()
        assert sessions(landing(store, search="load_shard")) == [TUESDAY]


def test_a_session_that_grows_after_it_was_sealed_is_found_by_what_is_new(tmp_path):
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        add(store, ADHOC, "", [task(1, "before", BEGAN_S)])
        add(store, ADHOC, "named", [task(2, "after", BEGAN_S, "KeyError: 'late'")], seal=False)
        assert [row.failed_tasks for row in landing(store, search="after named").rows] == [1]
        store.seal(ADHOC)
        assert [row.failed_tasks for row in landing(store, search="late before").rows] == [1]
        store.rebuild(ADHOC)
        assert len(landing(store, search="late").rows) == 1
