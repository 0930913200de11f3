"""
The signatures of failures, session by session, kept when one is sealed.

What failed in all clusters is then answered from the catalogue, without a look at any session's states.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from raytrail.entities import installed
from raytrail.errors import StoreDamaged
from raytrail.fold import failures
from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Engine, UnreadableError
from raytrail.store.last_states import has, over_views
from raytrail.store.read import Snapshot
from raytrail.store.states import TablesLost

MOST_SIGNATURES = 500
"""How many signatures of a job are kept, the most frequent ones."""

AT_ONCE = 500
"""Of how many sessions the catalogue is asked at once."""

log = logging.getLogger(__name__)


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of failure in one job of a session."""

    session: str
    """The session."""
    job_id: str
    """The driver job. Empty for what belongs to none, such as a node."""
    hash: str
    """The name of the signature, the same in all sessions."""
    error: str
    """The type of the exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    frame: str
    """The file and function of the user's own code that were deepest in its traceback."""
    count: int
    """How many failures there were of it, and because of it."""
    first_ms: int | None
    """When the first of them was."""
    last_ms: int | None
    """When the last one was."""


_COLUMNS = Signature.__struct_fields__


class _Known(NamedTuple):
    """What was worked out of a session."""

    mark: str
    """What its states were then."""
    signatures: list[Signature]


class Signatures:
    """
    The signatures of a store's sessions.

    Args:
        catalogue: Keeps those of sealed sessions.
        engine: Works them out.
        snapshot: Returns a session as it was at last.
        mark: Returns what is another text once something of a session was folded.
        known: What others of the same store have worked out.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: Engine,
        snapshot: Callable[[str], Snapshot],
        mark: Callable[[str], str],
        known: dict[str, _Known] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._snapshot = snapshot
        self._mark = mark
        self.known: dict[str, _Known] = {} if known is None else known
        """Those of sessions of which none are kept."""

    def keep(self, sessions: Collection[str], files: Mapping[str, Sequence[Path]]) -> None:
        """
        Keep those of sessions that were just sealed.

        Args:
            sessions: Their names.
            files: The files of the states of these sessions, and of others that were sealed with them, by entity.
        """
        rows: list[tuple[Any, ...]] = []
        begun = [name for name, paths in files.items() if paths]
        read = [name for name in failures.READ if has(installed()[name], begun)]
        # mostly nothing failed. To ask that first takes a third of the time that it takes to plan the rest
        if sessions and read and self._engine.run(self._over_views(files, failures.some(read))) == [(True,)]:
            rows = self._engine.run(_summed(f"({self._over_views(files, failures.failures())})"))
        self._note(sessions, [row for row in rows if row[0] in sessions])

    def _over_views(self, files: Mapping[str, Sequence[Path]], statement: str) -> str:
        return over_views(statement, failures.READ, files, self._catalogue, self._engine)

    def keep_one(self, session: str) -> None:
        """Keep those of a sealed session that has a table of what failed. Reading that is quick."""
        snapshot = self._snapshot(session)
        self._note([session], snapshot.run(_summed(snapshot.failures())))

    def _note(self, sessions: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
        with self._catalogue.transaction() as db:
            for session in sessions:
                db.execute("DELETE FROM signatures WHERE session = ?", (session,))
                db.execute(
                    "INSERT OR REPLACE INTO signed SELECT session, sealed_ms FROM sessions WHERE session = ?",
                    (session,),
                )
            db.executemany(f"INSERT INTO signatures VALUES({', '.join('?' * len(_COLUMNS))})", rows)

    def of_all(self, sessions: Sequence[str], most: int) -> tuple[dict[str, list[Signature]], int]:
        """
        Return those of sessions, and of how many sessions they are left out.

        Args:
            sessions: Their names, those first that matter most.
            most: Of how many they may be worked out, as none are kept. Those after them are left out, and so are
                those whose states are damaged.
        """
        kept = self._read(sessions)
        results: dict[str, list[Signature]] = {}
        unread = 0
        for session in sessions:
            if session in kept:
                results[session] = kept[session]
                continue
            mark = self._mark(session)
            known = self.known.get(session)
            if known and known.mark == mark:
                results[session] = known.signatures
            elif most:
                most -= 1
                try:
                    results[session] = self._work_out(session, mark)
                except (StoreDamaged, UnreadableError) as fault:
                    # the others are told all the same
                    log.warning("failures of session %s are left out: %s", session, fault)
                    unread += 1
            else:
                unread += 1
        return results, unread

    def _read(self, sessions: Sequence[str]) -> dict[str, list[Signature]]:
        """Return those that are kept, of the sessions that have any or are known to have none."""
        if not self._catalogue.keeps_signatures:
            return {}
        kept: dict[str, list[Signature]] = {}
        for first in range(0, len(sessions), AT_ONCE):
            names = tuple(sessions[first : first + AT_ONCE])
            condition = f"session IN ({', '.join('?' * len(names))})"
            signed = self._catalogue.query(
                f"SELECT session FROM signed JOIN sessions USING (session, sealed_ms) WHERE {condition}", *names
            )
            kept |= {session: [] for (session,) in signed}
            rows = self._catalogue.query(
                f"SELECT {', '.join(_COLUMNS)} FROM signatures WHERE {condition} ORDER BY count DESC, hash", *names
            )
            for signature in map(_signature, rows):
                if signature.session in kept:
                    kept[signature.session].append(signature)
        return kept

    def _work_out(self, session: str, mark: str) -> list[Signature]:
        def read() -> list[Signature]:
            snapshot = self._snapshot(session)
            return [*map(_signature, snapshot.run(f"{_summed(snapshot.failures())} ORDER BY count DESC, hash"))]

        try:
            signatures = read()
        except TablesLost:  # its files answer
            signatures = read()
        self.known[session] = _Known(mark, signatures)
        return signatures


def _signature(row: Sequence[Any]) -> Signature:
    return Signature(**dict(zip(_COLUMNS, row, strict=True)))


def _summed(relation: str) -> str:
    """Return the SELECT of `Signature`s of what failed. What was only open at the end is left out."""
    return (
        f"WITH f AS MATERIALIZED (FROM {relation}), named AS (SELECT session, hash, any_value(error) AS error, "
        "any_value(text) AS text, any_value(frame) AS frame FROM f GROUP BY ALL) "
        "SELECT session, coalesce(job_id, '') AS job_id, root AS hash, any_value(n.error) AS error, "
        "any_value(n.text) AS text, any_value(n.frame) AS frame, count(*) AS count, min(at_ms) AS first_ms, "
        "max(at_ms) AS last_ms FROM f JOIN named n USING (session) WHERE f.root = n.hash AND counted AND NOT ended "
        "GROUP BY session, coalesce(job_id, ''), root "
        f"QUALIFY row_number() OVER (PARTITION BY session, coalesce(job_id, '') ORDER BY count(*) DESC, root) "
        f"<= {MOST_SIGNATURES}"
    )
