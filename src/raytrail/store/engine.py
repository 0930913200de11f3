"""DuckDB, as the store uses it: the only file that meets its client."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import duckdb
import msgspec

from raytrail.config import StoreConfig
from raytrail.errors import ConfigError, StoreError, StoreUnavailable
from raytrail.fold.literals import literal, quote
from raytrail.fold.sessions import SESSION

T = TypeVar("T")

GROUP_ROWS = 122_880
"""The engine's own size of a row group."""

LEAST_GROUPS = 8
"""In how many row groups the rows of a file lie at least, unless these would be too small."""

LEAST_GROUP_ROWS = 8192
"""Smaller groups compress worse, and are not faster."""

_SPENT = (duckdb.InterruptException, duckdb.OutOfMemoryException)

_AGAIN_SECONDS = 0.1

SMALL_ROWS = 1000
"""So few rows do not get smaller by a slow compression, which takes a third of the time in which they are written."""

_ZONED = "TIMESTAMP WITH TIME ZONE"


class Rows(NamedTuple):
    """The result of a query."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    """The engine's names of the columns' types."""
    rows: list[tuple[Any, ...]]


class Copied(NamedTuple):
    """The engine's account of a file that it has written."""

    path: str
    rows: int
    file_bytes: int
    footer_bytes: int
    statistics: dict[str, dict[str, str]]
    """By column, among others its ``min`` and ``max``."""


class Limits(NamedTuple):
    """How much of an answer to a question of somebody's is given."""

    rows: int
    """The most rows. Others are left out without a word."""
    seconds: float
    """How long it may take, if the settings do not say less."""


class Run(Protocol):
    """A connection for statements that build upon each other."""

    def __call__(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. A table that it makes is there for the statements after it."""


class UnreadableError(StoreError):
    """The engine could not read what it was given: a line, a file or a query."""


class Engine:
    """
    An in-memory database that reads and writes Parquet.

    Each call takes a cursor of its own, so that threads may share the engine.
    """

    def __init__(self, config: StoreConfig, scratch: Path | None = None, *, only: Sequence[Path] = ()) -> None:
        """
        Start the engine.

        Args:
            config: Threads and memory.
            scratch: The directory that it may spill to. None makes a directory of its own.
            only: The directories that statements may read and nothing else, for statements that are not ours.
        """
        self._cursors = threading.Lock()
        self._config = config
        self._own = Path(tempfile.mkdtemp(prefix="raytrail-")) if scratch is None else None
        self._db = duckdb.connect(
            config={
                "threads": config.threads,
                "memory_limit": f"{config.memory_bytes}B",
                "temp_directory": str(scratch or self._own),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,  # no name of a table is a variable of ours
            }
        )
        self.run("SET enable_progress_bar = false")
        if only:
            # the default is nine tenths of the disk's free space. DuckDB 2.0 forgets the setting if it is given when
            # connecting
            self.run(f"SET max_temp_directory_size = '{config.sql_spill_bytes}B'")
            self.run("SET TimeZone = 'UTC'")
            self.run(f"SET allowed_directories = [{', '.join(literal(f'{directory}/') for directory in only)}]")
            self.run("SET enable_external_access = false")
            self.run("SET lock_configuration = true")

    def run(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """
        Run one statement and return its rows.

        Raises:
            UnreadableError: The statement, or what it reads, is wrong.
            StoreUnavailable: There is no room, in memory or on the disk, or a file is gone.
        """
        return self.query(sql, params).rows

    def query(self, sql: str, params: Sequence[Any] = ()) -> Rows:
        """Run one statement as `run` does, and return the columns' names and types, too."""
        return _execute(self._open_cursor(), sql, params)

    def stream(self, sql: str, params: Sequence[Any], rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """
        Run one statement and yield its rows, so many at a time, as the engine finds them.

        Raises:
            UnreadableError: As `run`.
            StoreUnavailable: As `run`.
        """
        with closing(self._open_cursor()) as cursor, _errors():
            cursor.execute(sql, params or None)
            while batch := cursor.fetchmany(rows):
                yield batch

    def arrow_stream(self, sql: str, params: Sequence[Any]) -> object:
        """
        Run one statement and return its rows as Arrow's C stream: a PyCapsule, which other libraries read.

        Raises:
            UnreadableError: As `run`.
            StoreUnavailable: As `run`.
        """
        with _errors():
            return self._open_cursor().sql(sql, params=list(params)).__arrow_c_stream__()

    def tree(self, statement: str) -> Mapping[str, Any]:
        """
        Return how the engine reads a question: its statements, as objects and lists.

        Raises:
            ConfigError: It cannot be read, or is none that only reads.
        """
        if not _is_text(statement):
            raise ConfigError(f"SQL: {statement!r} is not text in UTF-8; mend its encoding")
        with closing(self._open_cursor()) as cursor, _question(StoreError), _errors():
            for parsed in cursor.extract_statements(statement):
                if parsed.type != duckdb.StatementType.SELECT:
                    raise ConfigError(f"SQL: {parsed.type.name} is not taken; ask one SELECT, which only reads")
            # a value that is missing from a tree has its default
            brief = "skip_null := true, skip_empty := true, skip_default := true"
            cursor.execute(f"SELECT json_serialize_sql(?::VARCHAR, {brief})", [statement])
            [(text,)] = cursor.fetchall()
        try:
            tree = msgspec.json.decode(text, type=dict[str, Any])
        except RecursionError:
            raise ConfigError("SQL: the statement is nested too deep; ask a simpler one") from None
        if tree["error"]:
            raise ConfigError(f"SQL: {tree['error_message']}; ask one SELECT")
        return tree

    def ask(self, views: Mapping[str, str], statement: str, limits: Limits | None = None) -> Rows:
        """
        Answer one SELECT of somebody's over views of ours.

        Times with a time zone are given as text, in UTC: the client has them as Python's only with a library that
        nothing else needs.

        Args:
            views: The relations of the views by name. No one else sees them.
            statement: The question, which `tree` has read.
            limits: How long it may take, and how many rows are given. None means as the settings say, where an answer
                of more rows is refused.

        Raises:
            ConfigError: It asks for a column or function that there is not, or takes more than the settings let it.
            UnreadableError: As `run`.
            StoreUnavailable: As `run`.
        """
        most = limits.rows if limits else self._config.sql_rows + 1
        with self._viewing(views) as cursor:
            with _errors():
                columns, types, rows = _within(self._config, cursor, lambda: _answer(cursor, statement, most), limits)
            if limits is None and len(rows) > self._config.sql_rows:
                raise ConfigError(
                    f"SQL: the answer has more than {self._config.sql_rows} rows; count or group them, give a LIMIT, "
                    "or raise store.sql_rows"
                )
            return Rows(columns, types, rows)

    def explain(self, views: Mapping[str, str], statement: str, limits: Limits) -> str:
        """
        Return how the engine would answer one SELECT of somebody's, as text. The arguments are those of `ask`.

        Raises:
            ConfigError: As `ask`.
            UnreadableError: As `run`.
            StoreUnavailable: As `run`.
        """
        with self._viewing(views) as cursor, _errors():
            return _within(self._config, cursor, lambda: _explain(cursor, statement), limits)

    @contextmanager
    def _viewing(self, views: Mapping[str, str]) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a cursor that has these views. No other one sees them."""
        with closing(self._open_cursor()) as cursor:
            for name, relation in views.items():
                _execute(cursor, f"CREATE TEMP VIEW {quote(name)} AS (FROM {relation})", ())
            yield cursor

    @contextmanager
    def steps(self) -> Iterator[Run]:
        """
        Give a connection for statements that build upon each other.

        The temporary tables that they make end with it.
        """
        with closing(self._open_cursor()) as cursor:
            yield lambda sql, params=(): _execute(cursor, sql, params).rows

    def each(self, work: Callable[[T], object], tasks: Iterable[T]) -> None:
        """
        Do some work for each of these, as many at a time as the engine has threads. The work may run statements.

        Raises:
            StoreError: As the first that failed did, when all have ended.
        """
        with ThreadPoolExecutor(self._config.threads) as threads:
            for done in [threads.submit(work, task) for task in tasks]:
                done.result()

    def _open_cursor(self) -> duckdb.DuckDBPyConnection:
        with self._cursors:  # DuckDB 2.0 refuses a cursor to one of two threads that ask for it at once
            return self._db.cursor()

    def close(self) -> None:
        """Stop the engine and remove what it spilled."""
        self._db.close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def _execute(cursor: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any]) -> Rows:
    with _errors():
        cursor.execute(sql, params or None)
        described = cursor.description or []
        return Rows(
            tuple(column[0] for column in described),
            tuple(str(column[1]) for column in described),
            cursor.fetchall(),
        )


def _is_text(text: str) -> bool:
    try:
        # some parsers take a zero for the end, and what is looked at must be what is run
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _as_text(number: int, kind: str) -> str:
    return f"CAST(#{number} AS {kind.replace(_ZONED, 'VARCHAR')})" if _ZONED in kind else f"#{number}"


def _answer(cursor: duckdb.DuckDBPyConnection, statement: str, most: int) -> Rows:
    with _question(), _errors(but=_SPENT):
        relation = cursor.sql(cursor.extract_statements(statement)[0])
    columns, types = tuple(relation.columns), tuple(str(kind) for kind in relation.types)
    if any(_ZONED in kind for kind in types):
        relation = relation.project(", ".join(_as_text(number, kind) for number, kind in enumerate(types, 1)))
    return Rows(columns, types, relation.limit(most).fetchall())


def _explain(cursor: duckdb.DuckDBPyConnection, statement: str) -> str:
    # of the relation that was read, and not of a text with a word before it
    with _question(), _errors(but=_SPENT):
        return str(cursor.sql(cursor.extract_statements(statement)[0]).explain())


def _within(
    config: StoreConfig, cursor: duckdb.DuckDBPyConnection, work: Callable[[], T], limits: Limits | None = None
) -> T:
    """
    Do what runs a statement of a cursor, and have the engine give it up once it takes more than it may, or on Ctrl-C.

    It runs in a thread, as the client hears of no signal meanwhile. The engine gives up between two of its steps: one
    that computes very long on a few rows ends first.

    Raises:
        ConfigError: It was given up.
    """
    seconds = min(limits.seconds, config.sql_seconds) if limits else config.sql_seconds
    answer = futures.Future[T]()
    begun, given_up = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        if given_up.is_set():
            answer.cancel()
            return
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 (whoever waits for the answer raises it)
            answer.set_exception(error)

    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(run)
            return answer.result(seconds)
        except (futures.TimeoutError, KeyboardInterrupt) as error:
            # Ctrl-C may come while the thread is being started: then it has begun, or never does
            given_up.set()
            while begun.is_set() and not answer.done():  # a statement forgets what came before it began
                cursor.interrupt()
                futures.wait([answer], _AGAIN_SECONDS)
            if isinstance(error, KeyboardInterrupt):
                raise
            cure = "raise store.sql_seconds" if seconds == config.sql_seconds else "ask it with `raytrail sql`"
            raise ConfigError(f"SQL: not answered within {seconds:g} seconds; ask for less, or {cure}") from error
        except duckdb.OutOfMemoryException as error:
            raise ConfigError(
                f"SQL: it takes more than {config.memory_bytes} bytes of memory and {config.sql_spill_bytes} of the "
                "disk; ask for less, or raise store.memory_bytes or store.sql_spill_bytes"
            ) from error


@contextmanager
def _question(kind: type[StoreError] = UnreadableError) -> Iterator[None]:
    """Say of what the engine cannot make sense of that it is the question's fault, not the store's."""
    try:
        yield
    except kind as error:
        raise ConfigError(f"SQL: {error}") from error


@contextmanager
def _errors(but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Make the client's exceptions ours, but those that somebody else does."""
    try:
        yield
    except but:
        raise
    except (duckdb.DataError, duckdb.ProgrammingError, duckdb.InternalError, duckdb.NotSupportedError,
            duckdb.IntegrityError) as error:  # fmt: skip
        raise UnreadableError(str(error).splitlines()[0]) from error
    except duckdb.Error as error:
        raise StoreUnavailable(f"{str(error).splitlines()[0]}; make room, or mend the store's disk") from error


def parquet(
    paths: Iterable[str | Path], *, by_session: bool = False, numbered: bool = False, alike: bool = False
) -> str:
    """
    Return the relation of Parquet files that have the same columns.

    Args:
        paths: The files.
        by_session: Whether the column `SESSION` gives the session of each row, which is the name of a file's directory.
        numbered: Whether ``_file`` gives the name of each row's file, and ``_row`` its number in it.
        alike: Whether each column is known to have one type in all of them. The engine then plans by the first file,
            and does not read the schemas of all.
    """
    listed = ", ".join(literal(str(path)) for path in paths)
    extra = ", filename = true" if by_session or numbered else ""
    extra += ", file_row_number = true" if numbered else ""
    # a path may hold `=`, which is not a partition
    files = f"read_parquet([{listed}], hive_partitioning = false, union_by_name = {not alike}{extra})"
    if numbered:
        place = "parse_filename(filename) AS _file, file_row_number AS _row"
        return f"(SELECT * EXCLUDE (filename, file_row_number), {place} FROM {files})"
    if not by_session:
        return files
    return f"(SELECT * EXCLUDE (filename), split_part(filename, '/', -2) AS {SESSION.name} FROM {files})"


def lines(path: Path, columns: str, max_line: int) -> str:
    """Return the relation of a spool of lines."""
    return (
        f"read_json({literal(str(path))}, format = 'newline_delimited', columns = {columns}, "
        f"maximum_object_size = {max(max_line + 1024, 16 * 1024 * 1024)})"
    )


def copy_parquet(
    select: str, path: Path, most_rows: int | None = None, *, divide_by: str = "", threads: bool = True
) -> str:
    """
    Return the statement that writes a Parquet file that every engine can read. It gives a row of `Copied`.

    Divided by a column it gives a row with the paths of all files instead: to say more of each takes as long as to
    write it.

    Args:
        select: The statement whose rows are written.
        path: The file, or a directory that is not there, which gets a file in ``<column>=<value>/`` for each value of a
            column.
        most_rows: How many rows a file can have, or None where nobody knows.
        divide_by: That column, which is in none of the files.
        threads: Whether threads are to share a file. Each reads files of its own where there are many.
    """
    # version 1: DataFusion 55 cannot skip through version 2's delta pages
    compression = "zstd" if most_rows is None or most_rows > SMALL_ROWS else "snappy"
    options = f"FORMAT parquet, COMPRESSION {compression}, PARQUET_VERSION v1"
    options += ", WRITE_BLOOM_FILTER false"  # by which DuckDB 1.5, which is Python 3.10's, finds no id that is there
    if most_rows is not None and threads:
        options += f", ROW_GROUP_SIZE {group_rows(most_rows)}"
    options += f", PARTITION_BY ({quote(divide_by)}), RETURN_FILES" if divide_by else ", RETURN_STATS"
    return f"COPY ({select}) TO {literal(str(path))} ({options})"


def group_rows(rows: int) -> int:
    """
    Return how many rows a row group should have.

    A group is what one thread writes or reads: with the engine's own size, a file of fewer rows than that is left to
    one thread, however many there are.
    """
    # in whole vectors of the engine
    return min(GROUP_ROWS, max(LEAST_GROUP_ROWS, -(-rows // LEAST_GROUPS // 2048) * 2048))
