"""The completeness ledger: of each event type, what was written, published, stored, missing, rejected and inferred."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import msgspec

from raytrail.entities import Entity, of_file_type
from raytrail.event import COLLECTED, LOG
from raytrail.store.catalogue import AT_ONCE, Catalogue
from raytrail.store.engine import Engine, Run
from raytrail.store.file_ends import FileEnds, lines_of_ranges, table_of_few, table_of_many
from raytrail.store.ranges import NOTHING, Extent, FileKey, Ranges
from raytrail.store.read import Snapshot

_KNOWN = 64
"""The number of sessions whose ledgers are in memory."""
SHOWN = 100
"""How many missing ranges, rejected lines and unread ends a row names. The counts are of all."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """
    Bytes that are not stored though an agent published them, or, of a sealed session, saw them: ``[start, end)``.

    Bytes that it saw of a living session may be on their way.
    """

    file: str
    name: str
    generation: int
    start: int
    end: int


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A line that arrived and cannot be read."""

    file: str
    generation: int
    offset: int
    length: int
    reason: str


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """
    Bytes that nobody can read, since the writer of their file is gone.

    They are half a line at its end, or all of it, as ``[start, end)``.
    """

    file: str
    name: str
    generation: int
    start: int
    end: int
    reason: str


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event type of a session. Bytes are those of the files that Ray wrote."""

    event_type: str
    files: int
    written_bytes: int
    """The bytes that the agents saw on their disks. Without an agent, they are the stored bytes."""
    published_bytes: int
    published_events: int
    stored_bytes: int
    stored_events: int
    missing_bytes: int
    missing: tuple[Missing, ...]
    """The first hundred ranges."""
    rejected_events: int
    rejected: tuple[Rejected, ...]
    """The first hundred lines."""
    unknown_events: int
    """Lines of event types that this version does not know. They are kept until a version does."""
    skipped_bytes: int
    """Lines that were too long to ship."""
    lost_bytes: int
    """Gone from the disk before the agent could read them."""
    unread_bytes: int
    """Bytes at which reading ended for good: half a line whose writer is gone, or a file that cannot be read."""
    unread: tuple[Unread, ...]
    """The first hundred of those files."""
    inferred: int
    """States that no event ended. We closed them."""


class LedgerSource(NamedTuple):
    """The part of a session's ledger that its states give."""

    reported: Mapping[str, Reported]
    """The facts about the reported files of each event type."""
    inferred: Callable[[str], int]
    """Gives how many states of an entity we closed."""


def ledger_source(catalogue: Catalogue, snapshot: Snapshot, ends: FileEnds) -> LedgerSource:
    """Return what a session's states say for its ledger."""
    session = snapshot.session
    sealed = bool(catalogue.query("SELECT 1 FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL", session))
    if sealed:
        ends.forget([session])

    def inferred(name: str) -> int:
        groups = snapshot.group(name, ["inferred"])
        return sum(group["count"] for group in groups if group["inferred"] is not None)

    with snapshot.steps() as run:
        relation, params = snapshot.relation("file", REPORTED)
        run(f"CREATE TEMP TABLE reports AS SELECT ? AS session, * FROM {relation} WHERE {REPORTS}", [session, *params])
        return LedgerSource(
            read_reports(catalogue, run, [session], sealed=sealed, ends=None if sealed else ends)[session], inferred
        )


def ledger(catalogue: Catalogue, session: str, source: LedgerSource) -> list[LedgerRow]:
    """Return the ledger of a session, by event type."""
    reported = source.reported
    extents = catalogue.extents(session)
    counts = {
        event_type: rest
        for event_type, *rest in catalogue.query(
            "SELECT event_type, events, bytes, rejected, unknown FROM counts "
            "WHERE session = ? AND event_type != 'FILE'",
            session,
        )
    }
    event_types = sorted(counts.keys() | extents.keys() | reported.keys())
    inferred: dict[str, int] = {}
    for entity in {entity for event_type in event_types for entity in of_file_type(event_type)}:
        inferred_by = _tells_end(entity, event_types)
        inferred[inferred_by] = inferred.get(inferred_by, 0) + source.inferred(entity.name)
    return [
        _row(catalogue, session, source, event_type, extents.get(event_type, NOTHING), counts, inferred)
        for event_type in event_types
    ]


def _tells_end(entity: Entity, event_types: Collection[str]) -> str:
    """Return the one of these event types whose row says how many states of an entity no event ended."""
    posted = reversed([event.event_type for event in entity.posted])
    return next(event_type for event_type in (*posted, *entity.file_types) if event_type in event_types)


class Ledgers:
    """
    The ledgers of a store's sessions, each kept as long as nothing changes that it is worked out of.

    Args:
        catalogue: Keeps those of sealed sessions, for whoever opens the store later.
        engine: Adds up what is known of files.
    """

    def __init__(self, catalogue: Catalogue, engine: Engine) -> None:
        self._catalogue = catalogue
        self._ends = FileEnds(catalogue, engine)
        self._known: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, snapshot: Snapshot) -> list[LedgerRow]:
        """Return the ledger of a snapshot's session, by event type."""
        session = snapshot.session
        mark = self._make_mark(session)
        known = self._known.get(session) or self._read_kept(session)
        if known is None or known.mark != mark:
            known = _Kept(
                mark=mark, rows=ledger(self._catalogue, session, ledger_source(self._catalogue, snapshot, self._ends))
            )
        with self._lock:
            self._known[session] = known
            self._known.move_to_end(session)
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return known.rows

    def keep(self, ledgers: Mapping[str, list[LedgerRow]]) -> None:
        """Keep the ledgers of sealed sessions beside them."""
        kept = {session: _Kept(rows=rows, mark=self._make_mark(session)) for session, rows in ledgers.items()}
        texts = [(f"ledger {session}", msgspec.json.encode(known).decode()) for session, known in kept.items()]
        with self._catalogue.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", texts)
        self._ends.forget(ledgers)

    def _read_kept(self, session: str) -> _Kept | None:
        for (text,) in self._catalogue.query("SELECT value FROM meta WHERE key = ?", f"ledger {session}"):
            with suppress(msgspec.DecodeError):  # another version's
                return msgspec.json.decode(text, type=_Kept)
        return None

    def _make_mark(self, session: str) -> str:
        """Return what changes whenever a session's ledger may."""
        query = self._catalogue.query
        named = msgspec.json.encode(
            (
                [kind.__struct_fields__ for kind in (LedgerRow, Missing, Rejected, Unread)],
                query("SELECT sealed_ms FROM sessions WHERE session = ?", session),
                query("SELECT path FROM state WHERE session = ? AND kind != 'cache' ORDER BY path", session),
                query("SELECT * FROM counts WHERE session = ? ORDER BY event_type", session),
                sorted(self._catalogue.extents(session).items()),
            )
        )
        return hashlib.blake2b(named, digest_size=16).hexdigest()


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    mark: str
    rows: list[LedgerRow]


class _Sums(NamedTuple):
    """The sums over the files of an event type that an agent has reported."""

    files: int = 0
    stored_files: int = 0
    last: int = 0
    stored: int = 0
    written: int = 0
    published: int = 0
    published_events: int = 0
    skipped: int = 0
    lost: int = 0
    missing: int = 0
    unread: int = 0

    @property
    def extent(self) -> Extent:
        return Extent(self.stored_files, self.last, self.stored)


class Reported:
    """The facts about the files of an event type that an agent has reported."""

    def __init__(self, sums: _Sums = _Sums()) -> None:  # noqa: B008 (it cannot be changed)
        self.sums = sums
        self.missing: list[Missing] = []
        """The missing ranges of the first files that miss any."""
        self.unread: list[Unread] = []
        """The unread ends of the first files that have any."""
        self.with_holes: set[tuple[str, int]] = set()
        """Files, and generations, that bytes are missing of before what is stored last."""


def read_reports(
    catalogue: Catalogue, run: Run, sessions: Sequence[str], *, sealed: bool, ends: FileEnds | None = None
) -> dict[str, defaultdict[str, Reported]]:
    """
    Return what is known of the reported files of sessions, by event type.

    The engine adds them up, of which there may be a million. One by one come only those that are named.

    Args:
        catalogue: The catalogue of the store.
        run: Runs statements, with a table ``reports`` of the columns `REPORTED` and of the ``session``.
        sessions: Their names.
        sealed: Whether they are sealed. If so, all that was seen should be stored.
        ends: Keeps where the ranges of one session end, for the next time.
    """
    by_type = {session: defaultdict[str, Reported](Reported) for session in sessions}
    few = _few(run, sessions)
    if ends is not None and few[sessions[0]] is None:
        with ends.table_of(sessions[0]) as table:
            run(_FILES.format(stored=table), [COLLECTED, sealed, LOG])
    else:
        lines = chain.from_iterable(lines_of_ranges(catalogue, *item) for item in few.items())
        # a full disk keeps nobody from looking why it is
        (table_of_many if None in few.values() else table_of_few)(run, "stored", lines)
        run(_FILES.format(stored="stored"), [COLLECTED, sealed, LOG])
    for session, event_type, *sums in run(_ADD_UP):
        by_type[session][event_type] = Reported(_Sums(*map(int, sums)))
    for session, event_type, file, generation in run(_WITH_HOLES):
        by_type[session][event_type].with_holes.add((file, generation))
    for session, event_type, file, generation, name, due, *_ in run(_first("due > stored"), [SHOWN]):
        ranges = catalogue.ranges(FileKey(session, file, generation))
        by_type[session][event_type].missing += _missing((file, generation), name, ranges, due)
    unread = run(_first("reason IS NOT NULL"), [SHOWN])
    for session, event_type, file, generation, name, _, start, end, reason in unread:
        unread_end = Unread(file=file, name=name, generation=generation, start=start, end=end, reason=reason)
        by_type[session][event_type].unread.append(unread_end)
    return by_type


def _few(run: Run, sessions: Sequence[str]) -> dict[str, list[tuple[str, int]] | None]:
    """Return the reported files of each session, where they are few enough to be looked up one by one, else None."""
    most = AT_ONCE * len(sessions)
    files = run("SELECT session, file, generation FROM reports LIMIT ?", [most + 1])
    few: dict[str, list[tuple[str, int]]] = {session: [] for session in sessions}
    for session, *file in files:
        few[session].append((file[0], file[1]))
    return {session: own if len(files) <= most and len(own) <= AT_ONCE else None for session, own in few.items()}


REPORTED = (
    *("file", "generation", "name", "event_type", "written_bytes", "published_bytes", "published_events"),
    *("skipped_bytes", "lost_bytes", "unread_offset", "unread_bytes", "unread_reason"),
)
"""The columns of a file's report."""
REPORTS = "coalesce(written_bytes, 0) != 0 OR coalesce(published_bytes, 0) != 0 OR unread_reason IS NOT NULL"
"""Whether a file's last report says anything. A file that once could not be read may be read now."""

_FILES = """
CREATE TEMP TABLE files AS
SELECT
  session, event_type, file, generation, name, is_stored, last, stored, published_events, skipped, lost, published,
  greatest(written, last, CASE WHEN reason IS NOT NULL THEN unread_end END) AS written,
  unread_start, unread_end, reason,
  -- up to where all of a file is to be stored: what was published; at a session's end all that was seen
  CASE WHEN to_the_end THEN greatest(published, least(seen, unread_offset)) ELSE published END AS due
FROM (
  SELECT
    session, coalesce(event_type, '') AS event_type, file, generation, coalesce(name, '') AS name,
    s.file IS NOT NULL AS is_stored, coalesce(last, 0) AS last, coalesce(bytes, 0) AS stored,
    coalesce(written_bytes, 0) AS written, greatest(coalesce(published_bytes, 0), coalesce(last, 0)) AS published,
    coalesce(published_events, 0) AS published_events, coalesce(skipped_bytes, 0) AS skipped,
    coalesce(lost_bytes, 0) AS lost, unread_offset, unread_reason AS reason,
    -- as anybody may have written them
    coalesce(unread_offset, 0)::HUGEINT AS unread_start, unread_start + coalesce(unread_bytes, 0) AS unread_end,
    event_type IS DISTINCT FROM ? AND ? AND coalesce(lost_bytes, 0) = 0 AS to_the_end,
    -- without what is over a log's limit
    written_bytes - CASE WHEN event_type = ? THEN skipped ELSE 0 END AS seen
  FROM reports LEFT JOIN {stored} s USING (session, file, generation))
"""
_ADD_UP = """
SELECT
  session, event_type, count(*), count(*) FILTER (is_stored), sum(last), sum(stored), sum(written), sum(published),
  sum(published_events), sum(skipped), sum(lost), sum(due - stored),
  coalesce(sum(unread_end - unread_start) FILTER (reason IS NOT NULL), 0)
FROM files GROUP BY session, event_type
"""
_WITH_HOLES = "SELECT session, event_type, file, generation FROM files WHERE stored < last"


def _first(which: str) -> str:
    """Return the SELECT of the first of these files of each event type."""
    return (
        "SELECT session, event_type, file, generation, name, due, unread_start, unread_end, reason FROM files "
        f"WHERE {which} QUALIFY row_number() OVER (PARTITION BY session, event_type ORDER BY file, generation) <= ? "
        "ORDER BY file, generation"
    )


def _missing(key: tuple[str, int], name: str, ranges: Ranges, due: int) -> Iterator[Missing]:
    """Yield what is not stored of a file's first bytes."""
    file, generation = key
    for start, end in ranges.missing(0, due):
        yield Missing(file=file, name=name, generation=generation, start=start, end=end)


def _row(
    catalogue: Catalogue,
    session: str,
    source: LedgerSource,
    event_type: str,
    extent: Extent,
    counts: Mapping[str, list[int]],
    inferred: Mapping[str, int],
) -> LedgerRow:
    reported = source.reported.get(event_type) or Reported()
    # there may be a million files that nobody has reported, so their sums have to do
    sums = reported.sums
    rest = extent.minus(sums.extent)
    events, _, rejected, unknown = counts.get(event_type, (0, 0, 0, 0))
    missing = list(reported.missing)
    if rest.ends != rest.stored:
        missing += _holes(catalogue, session, event_type, reported.with_holes)
    return LedgerRow(
        event_type=event_type,
        files=rest.files + sums.files,
        written_bytes=rest.ends + sums.written,
        published_bytes=rest.ends + sums.published,
        published_events=sums.published_events,
        stored_bytes=extent.stored,
        stored_events=events,
        missing_bytes=rest.ends - rest.stored + sums.missing,
        missing=tuple(sorted(missing, key=_place)[:SHOWN]),
        rejected_events=rejected,
        rejected=tuple(
            Rejected(file=file, generation=generation, offset=offset, length=length, reason=reason)
            for file, generation, offset, length, reason in catalogue.query(
                "SELECT file, generation, line_offset, length, reason FROM rejected "
                "WHERE session = ? AND event_type = ? ORDER BY file, line_offset LIMIT ?",
                session,
                event_type,
                SHOWN,
            )
        ),
        unknown_events=unknown,
        skipped_bytes=sums.skipped,
        lost_bytes=sums.lost,
        unread_bytes=sums.unread,
        unread=tuple(reported.unread),
        inferred=inferred.get(event_type, 0),
    )


def _holes(
    catalogue: Catalogue, session: str, event_type: str, reported: Collection[tuple[str, int]]
) -> Iterator[Missing]:
    """
    Yield what is not stored of the first files that nobody has reported, before what is stored of them.

    Args:
        catalogue: The catalogue of the store.
        session: The session.
        event_type: The event type of the files.
        reported: Those that somebody has reported and that have such holes, too.
    """
    files = catalogue.files_with_holes(session, event_type, SHOWN + len(reported))
    for key in [key for key in files if key not in reported][:SHOWN]:
        ranges = catalogue.ranges(FileKey(session, *key))
        yield from _missing(key, "", ranges, ranges.end)


def _place(missing: Missing) -> tuple[str, int, int]:
    return missing.file, missing.generation, missing.start
