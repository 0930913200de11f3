"""
The tables of a store's catalogue, as a list of migrations.

A migration brings what the one before left to its own layout. SQLite keeps in ``user_version`` how many were made.
Stores of the first two layouts have a zero there. A migration therefore does nothing where it was made already.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from typing import NamedTuple

ID, PLAIN_GROUP, COMMITS, VERSION = "id", "plain_group", "commits", "version"
"""Keys of ``meta``."""

ADD_UP = (
    "SELECT session, event_type, count(*) AS files, sum(last) AS ends, sum(length) AS stored FROM ("
    "SELECT session, file, generation, max(end) AS last, sum(end - start) AS length FROM ranges "
    "GROUP BY session, file, generation) JOIN file_types USING (session, file) GROUP BY session, event_type"
)
"""The contents of ``extents``, from the ranges themselves."""

SUMS = (("log", "crc32"), ("state", "bytes"), ("state", "crc32"), ("frames", "crc32"))
"""The columns of files' checksums: NULL of what was written before there were any."""

_FIRST = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions(
  session TEXT PRIMARY KEY, cluster TEXT NOT NULL DEFAULT '',
  first_heard_ms INTEGER NOT NULL, last_heard_ms INTEGER NOT NULL, last_grew_ms INTEGER NOT NULL,
  sealed_ms INTEGER, summary TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log(
  id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, entity TEXT NOT NULL, path TEXT NOT NULL,
  events INTEGER NOT NULL, bytes INTEGER NOT NULL, folded INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS log_session ON log(session, entity);
CREATE INDEX IF NOT EXISTS log_unfolded ON log(session) WHERE folded = 0;
CREATE TABLE IF NOT EXISTS state(
  session TEXT NOT NULL, entity TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, rows INTEGER NOT NULL,
  PRIMARY KEY(session, entity, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ranges(
  session TEXT NOT NULL, file TEXT NOT NULL, generation INTEGER NOT NULL, start INTEGER NOT NULL,
  end INTEGER NOT NULL, PRIMARY KEY(session, file, generation, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts(
  session TEXT NOT NULL, event_type TEXT NOT NULL, events INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
  rejected INTEGER NOT NULL DEFAULT 0, unknown INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(session, event_type)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_types(
  session TEXT NOT NULL, file TEXT NOT NULL, event_type TEXT NOT NULL, PRIMARY KEY(session, file)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected(
  session TEXT NOT NULL, event_type TEXT NOT NULL, file TEXT NOT NULL, generation INTEGER NOT NULL,
  line_offset INTEGER NOT NULL, length INTEGER NOT NULL, reason TEXT NOT NULL, line BLOB NOT NULL,
  PRIMARY KEY(session, file, generation, line_offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bodies(
  id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS bodies_session ON bodies(session);
CREATE TABLE IF NOT EXISTS frames(
  session TEXT NOT NULL, file TEXT NOT NULL, generation INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
  body INTEGER NOT NULL, place INTEGER NOT NULL, length INTEGER NOT NULL,
  PRIMARY KEY(session, file, generation, start)) WITHOUT ROWID
"""

_SECOND = """
CREATE TABLE IF NOT EXISTS quiet(session TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS extents(
  session TEXT NOT NULL, event_type TEXT NOT NULL, files INTEGER NOT NULL, ends INTEGER NOT NULL,
  stored INTEGER NOT NULL, PRIMARY KEY(session, event_type)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS set_aside(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, came_ms INTEGER NOT NULL, session TEXT NOT NULL,
  place TEXT NOT NULL, reason TEXT NOT NULL, headers TEXT NOT NULL, length INTEGER NOT NULL, data BLOB NOT NULL)
"""


_SIGNATURES = """
CREATE TABLE IF NOT EXISTS signed(session TEXT PRIMARY KEY, sealed_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signatures(
  session TEXT NOT NULL, job_id TEXT NOT NULL, hash TEXT NOT NULL, error TEXT NOT NULL, text TEXT NOT NULL,
  frame TEXT NOT NULL, count INTEGER NOT NULL, first_ms INTEGER, last_ms INTEGER,
  PRIMARY KEY(session, job_id, hash)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS signatures_hash ON signatures(hash)
"""

_OVERVIEWS = """
CREATE TABLE IF NOT EXISTS overview(
  id INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE, cluster TEXT NOT NULL, sealed_ms INTEGER NOT NULL,
  form INTEGER NOT NULL, state TEXT NOT NULL, incomplete INTEGER NOT NULL, seen_ms INTEGER NOT NULL, lasted_ms INTEGER,
  nodes INTEGER NOT NULL, lost_nodes INTEGER NOT NULL, jobs INTEGER NOT NULL, failed_jobs INTEGER NOT NULL,
  actors INTEGER NOT NULL, tasks INTEGER NOT NULL, failed_tasks INTEGER NOT NULL, events INTEGER NOT NULL,
  stored_bytes INTEGER NOT NULL, missing_bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS overview_content(overview INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs(
  name TEXT NOT NULL, began_ms INTEGER, id TEXT NOT NULL, overview INTEGER NOT NULL, status TEXT NOT NULL,
  ended_ms INTEGER);
CREATE INDEX IF NOT EXISTS runs_name ON runs(name, began_ms);
CREATE INDEX IF NOT EXISTS runs_overview ON runs(overview);
CREATE TABLE IF NOT EXISTS texts(
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL, UNIQUE(text, kind));
CREATE TABLE IF NOT EXISTS mentions(
  text INTEGER NOT NULL, overview INTEGER NOT NULL, PRIMARY KEY(text, overview)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mentions_overview ON mentions(overview)
"""

_DELETIONS = """
CREATE TABLE IF NOT EXISTS holds(
  session TEXT PRIMARY KEY, since_ms INTEGER NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deleted(
  session TEXT PRIMARY KEY, deleted_ms INTEGER NOT NULL, why TEXT NOT NULL, bytes INTEGER NOT NULL, done_ms INTEGER,
  chunks_set_aside INTEGER NOT NULL, rejected_lines INTEGER NOT NULL, unknown_lines INTEGER NOT NULL,
  late_chunks INTEGER NOT NULL DEFAULT 0, late_bytes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deleted_waiting ON deleted(deleted_ms) WHERE done_ms IS NULL
"""


class Migration(NamedTuple):
    """One step from a layout to the next."""

    doc: str
    """The new tables and columns."""
    apply: Callable[[sqlite3.Connection], None]
    """Makes it, inside of a transaction."""
    reads: int
    """The oldest layout that a Raytrail must know to read what this one leaves, and to write to it."""


def missing(made: int) -> list[str]:
    """Return what is new in the layouts after one, each with its number."""
    return [f"layout {number}: {MIGRATIONS[number - 1].doc}" for number in range(made + 1, len(MIGRATIONS) + 1)]


def migrate(db: sqlite3.Connection) -> None:
    """Bring a catalogue to the newest layout. A transaction is open."""
    [(made,)] = db.execute("PRAGMA user_version").fetchall()
    for migration in MIGRATIONS[made:]:
        migration.apply(db)
    if made < len(MIGRATIONS):
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (VERSION, str(MIGRATIONS[-1].reads)))


def missing_sums(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return the columns of checksums that a catalogue has not."""
    there = {
        table: {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))} for table, _ in SUMS
    }
    return [(table, column) for table, column in SUMS if column not in there[table]]


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):  # `executescript` would commit first
        db.execute(statement)


def _first_tables(db: sqlite3.Connection) -> None:
    _run(db, _FIRST)


def _sums_and_ids(db: sqlite3.Connection) -> None:
    _run(db, _SECOND)
    for table, column in missing_sums(db):
        db.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER")
    db.execute("INSERT OR IGNORE INTO meta VALUES(?, '0')", (COMMITS,))
    # it may have read under a group's name alone
    db.execute(
        f"INSERT INTO meta SELECT '{PLAIN_GROUP}', '1' WHERE EXISTS (SELECT 1 FROM sessions) "
        f"AND NOT EXISTS (SELECT 1 FROM meta WHERE key = '{ID}')"
    )
    db.execute("INSERT OR IGNORE INTO meta VALUES(?, ?)", (ID, uuid.uuid4().hex[:16]))
    if not db.execute("SELECT 1 FROM meta WHERE key = 'extents'").fetchone():  # which a store of layout 2 has
        db.execute(f"INSERT OR REPLACE INTO extents {ADD_UP}")


def _growth(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS grown(id INTEGER PRIMARY KEY, files TEXT)")


def _signatures(db: sqlite3.Connection) -> None:
    _run(db, _SIGNATURES)


def _overviews(db: sqlite3.Connection) -> None:
    _run(db, _OVERVIEWS)


def _deletions(db: sqlite3.Connection) -> None:
    _run(db, _DELETIONS)


MIGRATIONS = (
    Migration("sessions, files of the log, states and logs, and the byte ranges that are stored", _first_tables, 1),
    Migration(
        "checksums; an id of the store; what was set aside; sums of the ranges. Files that are there already have no "
        "checksum",
        _sums_and_ids,
        2,
    ),
    Migration("which files the newest batches brought ranges of", _growth, 2),
    Migration("the signatures of the failures of sealed sessions", _signatures, 2),
    Migration("what a list of clusters shows of sealed sessions, and the texts that they are found by", _overviews, 2),
    Migration(
        "holds, and which sessions were deleted. A Raytrail must know it once one was",
        _deletions,
        2,
    ),
)
"""All that were ever made, oldest first."""

KNOWN = len(MIGRATIONS)
"""The newest layout that this Raytrail reads."""

KNOWS_DELETIONS = 6
"""The layout to know of a store of which a session was deleted. Another Raytrail would take up its late events."""


def require(db: sqlite3.Connection, layout: int) -> None:
    """Have a Raytrail that does not know a layout refuse the store from now on. A transaction is open."""
    db.execute("UPDATE meta SET value = ? WHERE key = ? AND CAST(value AS INTEGER) < ?", (str(layout), VERSION, layout))
