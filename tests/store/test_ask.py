"""Questions in SQL: what is answered, and that nothing else is done."""

import base64
import contextlib
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import ConfigError, StoreError
from raytrail.store import Store, engine
from raytrail.testing.entities import SESSION, chunk, line


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("asked")


@pytest.fixture(scope="module")
def asked(root):
    """A store with three tasks, sealed."""
    key = {"attempt_number": 0, "job_id": "AQAAAA=="}
    tasks = [{"task_id": base64.b64encode(bytes([number]) * 24).decode(), **key} for number in (1, 2, 3)]
    with Store.open(root, StoreConfig(threads=1), write=True) as store:
        store.append([chunk(installed()["task"], [line(installed()["task"], 1795419640, task) for task in tasks])])
        store.seal(SESSION)
        yield store


def files(root):
    """Every file of a store, with a hash of what it holds."""
    return {
        path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("catalogue")
    }


QUESTIONS = """\
SELECT count(*) FROM task
FROM task SELECT task_id ORDER BY ALL LIMIT 2;
TABLE task
WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t
WITH task AS (SELECT 1 AS mine) SELECT mine FROM task
SELECT * FROM (VALUES (1, 2)) v(a, b), range(3) r(i), generate_series(1, 2)
SELECT t.name, a.state FROM TASK t LEFT JOIN "actor" a USING (session, actor_id)
SELECT task_id, row_number() OVER (PARTITION BY state ORDER BY name) FROM task QUALIFY true
SELECT * EXCLUDE (cluster) REPLACE (upper(name) AS name) FROM task
SELECT [x * 2 FOR x IN [1, 2] IF x > 1], list_transform([1], lambda x: x + 1), MAP {'b': 2}, 'c' COLLATE NOCASE
SELECT count(*) FILTER (state = 'FAILED'), quantile_cont(attempt_number, 0.5) FROM task GROUP BY ROLLUP (name, state)
SELECT EXISTS (FROM actor), state IN (SELECT state FROM node) FROM task UNION SELECT true, true EXCEPT SELECT 1, 2
SELECT DISTINCT ON (name) name FROM task ORDER BY name DESC NULLS FIRST LIMIT 50% OFFSET 0
SELECT * FROM task, LATERAL (SELECT task.attempt_number + 1), json_each('{"a": 1}')
PIVOT task ON state IN ('FAILED') USING count(*) GROUP BY name
UNPIVOT (SELECT attempt_number, worker_pid FROM task) ON attempt_number, worker_pid INTO NAME n VALUE v
SELECT name FROM task USING SAMPLE 10
SUMMARIZE task
DESCRIBE task
SHOW TABLES
SELECT 1 -- a comment; another
SELECT 'COPY; DROP', $$;$$ /* ; */
(SELECT 1)
VALUES (1)"""


@pytest.mark.parametrize("question", QUESTIONS.splitlines())
def test_one_select_is_answered_in_all_that_the_engine_knows(asked, question):
    assert asked.sql(question).columns


REFUSED = """\
INSERT INTO task SELECT 1
UPDATE task SET name = 'x'
DELETE FROM task
CREATE TABLE x AS SELECT 1
DROP VIEW task
COPY (SELECT 1) TO '{root}/catalogue.sqlite'
SELECT 1); COPY (SELECT 1) TO '{root}/catalogue.sqlite'; SELECT * FROM (SELECT 1
WITH x AS (COPY (SELECT 1) TO '{root}/catalogue.sqlite') SELECT 1
WITH x AS (COPY (SELECT 1) TO '{root}/state/new.parquet') SELECT * FROM x
WITH x AS (INSERT INTO task VALUES (1) RETURNING *) SELECT * FROM x
SELECT (WITH x AS (COPY (SELECT 1) TO '{root}/log/x.csv') SELECT 1)
SELECT 1; SELECT 2
SELECT 1; DROP VIEW task
ATTACH '{root}/catalogue.sqlite' AS x
ATTACH ':memory:' AS x
DETACH memory
INSTALL httpfs
LOAD httpfs
PRAGMA database_list
PRAGMA enable_profiling
SET threads = 1
SET lock_configuration = false
RESET ALL
CALL pragma_version()
CALL enable_logging(storage='file', storage_path='{root}/state/')
SELECT * FROM enable_logging(storage='file', storage_path='{root}/state/')
EXPLAIN SELECT 1
EXPLAIN ANALYZE SELECT 1
PREPARE x AS SELECT 1
EXECUTE x
EXPORT DATABASE '{root}/state/x'
IMPORT DATABASE '{root}/state/x'
CHECKPOINT
BEGIN
VACUUM
USE memory
SELECT * FROM read_text('/etc/hostname')
SELECT * FROM read_text('{root}/catalogue.sqlite')
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM main.read_csv('/etc/passwd')
SELECT * FROM system.main.range(1)
SELECT (SELECT content FROM read_blob('{root}/lock'))
SELECT * FROM read_parquet('{root}/state/*/*.parquet')
SELECT * FROM glob('/**')
SELECT * FROM parquet_metadata('{root}/state/*/*.parquet')
FROM '/etc/passwd'
FROM '{root}/state/x.parquet'
FROM "/etc/hostname.csv"
FROM 'https://127.0.0.1/x.parquet'
SELECT * FROM query('SELECT 1')
SELECT * FROM query_table('task')
SELECT * FROM json_execute_serialized_sql('x')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_secrets()
SELECT * FROM information_schema.tables
SELECT * FROM memory.main.task
SELECT * FROM nothing
SELECT * FROM known
SELECT nothing FROM task
SELECT nothing(1)
SELECT ?
SELECT $1
SELEC 1

;
SELECT 1 \0); DROP VIEW task
SELECT '
SELECT 1 /*
SELECT \ud800"""


@pytest.mark.parametrize("question", REFUSED.split("\n"))
def test_all_else_is_refused_and_changes_nothing(asked, root, question):
    before, catalogue = files(root), (root / "catalogue.sqlite").read_bytes()[:16]
    with pytest.raises(ConfigError, match=r"^SQL: ."):
        asked.sql(question.format(root=root))
    assert (files(root), (root / "catalogue.sqlite").read_bytes()[:16]) == (before, catalogue)
    assert asked.sql("SELECT count(*) FROM task").rows == [(3,)]


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("SELECT * FROM tsak", "SQL: no table 'tsak'; did you mean task?"),
        ("COPY (SELECT 1) TO 'x'", "SQL: COPY is not taken; ask one SELECT, which only reads"),
        ("WITH x AS (COPY (SELECT 1) TO 'x') FROM x", "SQL: COPY is not taken; ask one SELECT, which only reads"),
        ("SELECT 1; SELECT 2", "SQL: 2 statements; ask one SELECT"),
        (
            "FROM read_text('x')",
            "SQL: the function read_text cannot stand for a table; ask the views, or generate_series, json_each, "
            "json_tree, range, repeat, repeat_row, unnest",
        ),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_ask(asked, question, says):
    with pytest.raises(ConfigError) as refused:
        asked.sql(question)
    assert str(refused.value) == says


@pytest.mark.slow
@pytest.mark.parametrize("deep", [100, 3_000, 300_000])
@pytest.mark.parametrize(
    "make", [lambda n: "SELECT " + "(" * n + "1" + ")" * n, lambda n: "SELECT 1" + " + 1" * n, lambda n: "-" * n]
)
def test_a_question_that_is_nested_deep_ends_nothing(asked, make, deep):
    with contextlib.suppress(ConfigError, StoreError):
        asked.sql(make(deep))
    assert asked.sql("SELECT count(*) FROM task").rows == [(3,)]


def test_each_question_sees_its_own_views_only(asked):
    assert sorted(name for (name,) in asked.sql("SHOW TABLES").rows) == sorted(
        entity.name for entity in installed().values()
    )
    with pytest.raises(ConfigError, match="no table 'duckdb_tables'"):
        asked.sql("FROM duckdb_tables")


def test_moments_with_a_time_zone_are_text_in_utc(asked):
    answer = asked.sql(
        "SELECT to_timestamp(1) AS t, [to_timestamp(2)] AS l, {'a': to_timestamp(3)} AS s, "
        "'infinity'::TIMESTAMPTZ AS e, NULL::TIMESTAMPTZ AS n, to_timestamp(1)::TIMESTAMP AS plain, 1 AS t"
    )
    assert answer.columns == ("t", "l", "s", "e", "n", "plain", "t")
    assert answer.types[:2] == ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE[]")
    assert answer.rows == [
        (
            "1970-01-01 00:00:01+00",
            ["1970-01-01 00:00:02+00"],
            {"a": "1970-01-01 00:00:03+00"},
            "infinity",
            None,
            datetime(1970, 1, 1, 0, 0, 1),
            1,
        )
    ]
    ordered = asked.sql("SELECT to_timestamp(range) FROM range(100000) ORDER BY range DESC").rows
    assert [moment for (moment,) in ordered[:2]] == ["1970-01-02 03:46:39+00", "1970-01-02 03:46:38+00"]
    assert ordered == sorted(ordered, reverse=True)


KEYWORDS = "SELECT FROM WHERE WITH AS COPY TO ATTACH INSERT INTO VALUES PIVOT UNION ALL SHOW DESCRIBE SET CALL"
SIGNS = "task actor x a 1 1.5 'x' \"y\" $$ $1 ? * ( ) [ ] { } , ; -- /* */ . :: -> \0 ü \\ ' \""
PHRASES = ["read_text('/etc/hostname')", "'/etc/passwd'", "range(3)", "COPY (SELECT 1) TO 'x'", "\n"]
WORDS = st.sampled_from([*KEYWORDS.split(), *SIGNS.split(" "), *PHRASES])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(words=st.lists(WORDS, max_size=14), text=st.text(max_size=20))
def test_no_text_does_more_than_ask(asked, root, words, text):
    before = files(root)
    for question in (" ".join(words), "SELECT " + " ".join(words), text, f"SELECT 1 {text}"):
        with contextlib.suppress(ConfigError, StoreError):
            asked.sql(question)
    assert files(root) == before


def answered(store, question):
    """Ask until there is an answer: on a busy machine a short question, too, may take longer than it may."""
    for _ in range(100):
        with contextlib.suppress(ConfigError):
            return store.sql(question).rows
    return store.sql(question).rows


@pytest.mark.parametrize(
    "question",
    [
        "SELECT count(*) FROM range(1000000000000)",
        "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT to_timestamp(max(hash(range) % 1000000000)) FROM range(1000000000000)",
    ],
)
def test_a_question_without_end_is_given_up(root, asked, question):
    with Store.open(root, StoreConfig(sql_seconds=0.3)) as store:
        with pytest.raises(ConfigError) as error:
            store.sql(question)
        assert str(error.value) == ("SQL: not answered within 0.3 seconds; ask for less, or raise store.sql_seconds")
        assert answered(store, "SELECT count(*) FROM task") == [(3,)]


@pytest.mark.parametrize(
    "question",
    [
        "SELECT max(x) FROM (SELECT row_number() OVER (ORDER BY hash(range)) x FROM range(100000000))",
        "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(1000)",
    ],
)
def test_a_question_fills_neither_memory_nor_disk(root, asked, question):
    bounds: dict[str, Any] = {"memory_bytes": 256 * 1024**2, "sql_spill_bytes": 16 * 1024**2, "threads": 2}
    with Store.open(root, StoreConfig(**bounds)) as store, pytest.raises(ConfigError) as error:
        store.sql(question)
    assert str(error.value) == (
        "SQL: it takes more than 268435456 bytes of memory and 16777216 of the disk; ask for less, or raise "
        "store.memory_bytes or store.sql_spill_bytes"
    )


def test_an_answer_has_so_many_rows_and_no_more(root, asked):
    with Store.open(root, StoreConfig(sql_rows=1000)) as store:
        assert len(store.sql("SELECT * FROM range(1000) ORDER BY 1 DESC").rows) == 1000
        with pytest.raises(ConfigError) as error:
            store.sql("SELECT * FROM range(1000000000)")
    assert str(error.value) == (
        "SQL: the answer has more than 1000 rows; count or group them, give a LIMIT, or raise store.sql_rows"
    )


def test_ctrl_c_while_the_engine_is_being_asked_gives_the_question_up(asked, monkeypatch):
    interrupted = threading.Event()

    class Pool(ThreadPoolExecutor):
        def submit(self, *given, **how):
            super().submit(*given, **how)
            assert begun.wait(60)
            raise KeyboardInterrupt

    class Cursor:
        def interrupt(self):
            interrupted.set()

    def work():
        begun.set()
        return interrupted.wait(10)

    begun = threading.Event()
    monkeypatch.setattr("raytrail.store.engine.ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        engine._within(StoreConfig(), Cursor(), work)  # type: ignore[arg-type]  # it is only asked to stop
    assert interrupted.is_set()
