"""Where the stored ranges of files end, as the engine reads it. For a living session's many files it is kept."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.errors import StoreUnavailable
from raytrail.fold.literals import literal, quote
from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Engine, Run
from raytrail.store.engine import lines as read_lines
from raytrail.store.ranges import FileKey

MOST_KEPT = 4
"""The tables of so many sessions are kept."""

MOST_GROWN = 10_000
"""So many files that grew are looked up one by one. If more did, all of the session is read."""

_ENDS = """
SELECT session, file, generation, max("end") AS last, sum("end" - start)::BIGINT AS bytes
FROM (SELECT session, unnest(file) AS file, unnest(generation) AS generation, unnest(start) AS start,
             unnest("end") AS "end" FROM {lines})
GROUP BY ALL
"""
RANGE_COLUMNS = {"file": "VARCHAR", "generation": "BIGINT", "start": "BIGINT", "end": "BIGINT"}
"""What a range is told by, each with its type."""
_PIECE = 50_000
"""How many ranges are given as one line: of any number, SQLite would refuse the text."""
_LINE = {"session": "VARCHAR", **{name: f"{kind}[]" for name, kind in RANGE_COLUMNS.items()}}
_COLUMNS = "{" + ", ".join(f"{quote(name)}: {literal(kind)}" for name, kind in _LINE.items()) + "}"
_TYPE = "STRUCT(" + ", ".join(f"{quote(name)} {kind}" for name, kind in _LINE.items()) + ")"
_TEXT = f"""
(SELECT unnest(line::JSON::{_TYPE}) FROM (SELECT unnest(string_split(?, chr(10))) AS line) WHERE line != '')
"""


def lines_of_ranges(
    catalogue: Catalogue, session: str, files: Collection[tuple[str, int]] | None = None
) -> Iterator[str]:
    """
    Yield the stored ranges of these files and generations, or of all of a session, as text.

    There may be a million, for each of which a row of Python's would take longer than all that is done with it.

    Args:
        catalogue: The catalogue of the store.
        session: Its whole name.
        files: The files. None is all.

    Yields:
        A line of JSON at a time, without its newline: an object with the ``session``, and with an array for each of
        `RANGE_COLUMNS`.
    """
    if files is not None:
        for key in files:
            rows = [(*key, start, end) for start, end in catalogue.ranges(FileKey(session, *key))]
            arrays = {name: [row[place] for row in rows] for place, name in enumerate(RANGE_COLUMNS)}
            yield msgspec.json.encode({"session": session, **arrays}).decode()
        return
    columns = ", ".join(f"'{name}', json_group_array(\"{name}\")" for name in RANGE_COLUMNS)
    first: str | None = ""
    while first is not None:
        # where the next piece begins is looked up first, as a LIMIT takes longer than to read the rows
        after = catalogue.query(
            "SELECT file FROM ranges WHERE session = ? AND file >= ? ORDER BY file LIMIT 1 OFFSET ?",
            *(session, first, _PIECE),
        )
        if after == [(first,)]:  # a file of very many ranges, which stay together
            after = catalogue.query("SELECT min(file) FROM ranges WHERE session = ? AND file > ?", session, first)
        until: str | None = after[0][0] if after else None
        bounds = [first] if until is None else [first, until]
        [(line,)] = catalogue.query(
            f"SELECT json_object('session', ?, {columns}) FROM ranges "
            f"WHERE session = ? AND file >= ?{'' if until is None else ' AND file < ?'}",
            *(session, session, *bounds),
        )
        yield line
        first = until


def table_of_few(run: Run, name: str, lines: Iterable[str]) -> None:
    """
    Make a temporary table of where the ranges of files end, with session, file, generation, last and bytes.

    Args:
        run: Runs statements.
        name: What the table is to be called.
        lines: The ranges, as `lines_of_ranges` yields them.
    """
    run(f"CREATE TEMP TABLE {name} AS {_ENDS.format(lines=_TEXT)}", ["\n".join(lines)])


def table_of_many(run: Run, name: str, lines: Iterable[str], *, temporary: bool = True) -> None:
    """
    Make the same of any number. The engine reads text from a file five times as fast as from a parameter.

    Args:
        run: Runs statements.
        name: What the table is to be called.
        lines: The ranges.
        temporary: Whether it ends with what runs the statements.

    Raises:
        StoreUnavailable: The disk is full, or fails.
    """
    with _written(run, lines) as (path, longest):
        source = read_lines(path, _COLUMNS, longest)
        run(f"CREATE {'TEMP ' if temporary else ''}TABLE {name} AS {_ENDS.format(lines=source)}")


@contextmanager
def _written(run: Run, lines: Iterable[str]) -> Iterator[tuple[Path, int]]:
    """Write lines to a file where the engine may spill, give the longest's bytes, too, and remove it at the end."""
    [(directory,)] = run("SELECT current_setting('temp_directory')")
    path = Path(directory, f"ranges-{uuid.uuid4().hex}.ndjson")
    try:
        disk.create_private(path)
        longest = 0
        with path.open("wb") as file:
            for line in lines:
                longest = max(longest, file.write(line.encode() + b"\n"))
        yield path, longest
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}; make room on the disk or mend it, and ask again") from error
    finally:
        path.unlink(missing_ok=True)


class FileEnds:
    """The tables of living sessions, each brought on by the files that grew since it was asked for last."""

    def __init__(self, catalogue: Catalogue, engine: Engine) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._tables: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """By session: a table, and up to which batch it was brought."""
        self._numbers = count(1)
        self._lock = threading.Lock()

    @contextmanager
    def table_of(self, session: str) -> Iterator[str]:
        """Give the table of a session as it is now. Nobody else changes it meanwhile."""
        with ExitStack() as held:
            # in this order: a thread that lists the clusters has the catalogue before it asks for a table
            with self._catalogue.reading():
                held.enter_context(self._lock)
                try:
                    if not self._bring_on(session):
                        self._make(session)
                except BaseException:  # whatever it is, nobody knows what the table holds
                    self._drop(session)
                    raise
                self._tables.move_to_end(session)
                if len(self._tables) > MOST_KEPT:
                    self._drop(next(iter(self._tables)))
            yield self._tables[session][0]

    def forget(self, sessions: Iterable[str]) -> None:
        """Let go of the tables of sessions that are sealed. They are hardly asked for any more."""
        with self._lock:
            for session in sessions:
                self._drop(session)

    def _bring_on(self, session: str) -> bool:
        """Bring a table on. Return whether it is there and all that grew is known."""
        if session not in self._tables:
            return False
        table, mark = self._tables[session]
        mark, grown = self._catalogue.grown(session, mark)
        if grown is None or len(grown) > MOST_GROWN:
            return False
        extents = list(self._catalogue.extents(session).values())
        with self._engine.steps() as run:
            table_of_few(run, "grown", lines_of_ranges(self._catalogue, session, grown))
            same = f"{table}.file = grown.file AND {table}.generation = grown.generation"
            run(f"UPDATE {table} SET last = grown.last, bytes = grown.bytes FROM grown WHERE {same}")
            run(f"INSERT INTO {table} FROM grown WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {same})")
            [summed] = run(f"SELECT count(*), coalesce(sum(last), 0), coalesce(sum(bytes), 0) FROM {table}")
        self._tables[session] = table, mark
        # a writer of an older version notes no growth
        return [*map(int, summed)] == [sum(extent[place] for extent in extents) for place in range(3)]

    def _make(self, session: str) -> None:
        self._drop(session)
        mark, _ = self._catalogue.grown(session, None)
        table = f"ends_{next(self._numbers)}"
        with self._engine.steps() as run:
            table_of_many(run, table, lines_of_ranges(self._catalogue, session), temporary=False)
        self._tables[session] = table, mark

    def _drop(self, session: str) -> None:
        table, _ = self._tables.pop(session, ("", 0))
        if table:
            self._engine.run(f"DROP TABLE IF EXISTS {table}")
