"""
The border: what of all that arrives goes into the log, and what is set aside, kept for a person to read.

A name, a range or a message that cannot be is found before anything is written. If appending itself fails though the
disk is well, a chunk has met a fault of ours. The batch is halved until that chunk is known. It is set aside, and all
others are stored. A disk that is full or fails concerns every chunk, and none is set aside for it.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence

import msgspec

from raytrail.errors import EventError, NotFoundError
from raytrail.event import SET_ASIDE, Chunk, Unreadable, encoded
from raytrail.store.catalogue import Catalogue
from raytrail.store.faults import Faults, is_of_content

KEPT_BYTES = 1024 * 1024
"""How much is kept of the bytes of what is set aside."""

KEPT_HEADER_CHARACTERS = 4096
"""How much is kept of each of its headers, of as many headers as may be, and of the reason."""

KEPT_HEADERS = 32

log = logging.getLogger(__name__)


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that arrived and was not stored, as it is kept."""

    id: str
    """32 hex digits, which follow from what it is."""
    came_ms: int
    session: str
    """The session whose ledger counts it."""
    place: str
    reason: str
    headers: dict[str, str]
    length: int
    """How many bytes came, of which the first megabyte is kept."""


class Border:
    """
    Takes what arrives.

    Args:
        catalogue: Keeps what is set aside.
        append: Stores chunks.
        pass_over: Returns what is not of a deleted session.
        most_bytes: How much is kept in all of the chunks that were set aside. The oldest goes first.
        faults: Takes what is our fault.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        append: Callable[[Sequence[Chunk]], None],
        pass_over: Callable[[Sequence[Chunk | Unreadable]], list[Chunk | Unreadable]],
        most_bytes: int,
        faults: Faults,
    ) -> None:
        self._catalogue = catalogue
        self._append = append
        self._pass_over = pass_over
        self._most_bytes = most_bytes
        self._faults = faults

    def take(self, arrived: Sequence[Chunk | Unreadable]) -> None:
        """
        Store all chunks that can be stored, and set aside the others. Both are durable when this returns.

        Raises:
            StoreError: The disk is full, or fails, or the store cannot be used. Take all of it again.
        """
        chunks: list[Chunk] = []
        unreadable: list[Unreadable] = []
        for arrival in arrived:
            if isinstance(arrival, Unreadable):
                unreadable.append(arrival)
                continue
            try:
                arrival.check()
            except EventError as error:
                unreadable.append(_set_aside(arrival, str(error)))
            else:
                chunks.append(arrival)
        present = self._pass_over([*chunks, *unreadable])
        unreadable = [arrival for arrival in present if isinstance(arrival, Unreadable)]
        if chunks := [arrival for arrival in present if isinstance(arrival, Chunk)]:
            unreadable += self._store(chunks)
        if unreadable:
            self._keep(unreadable)

    def _store(self, chunks: Sequence[Chunk]) -> list[Unreadable]:
        """Append chunks, and return those that make it fail."""
        try:
            self._append(chunks)
            return []
        except Exception as error:
            if not is_of_content(error):
                raise
            fault = error
        if len(chunks) == 1:
            return [self._blame(chunks[0], fault)]
        half = len(chunks) // 2
        return self._store(chunks[:half]) + self._store(chunks[half:])

    def _blame(self, chunk: Chunk, fault: Exception) -> Unreadable:
        self._faults.tell("a chunk cannot be stored and is set aside,", chunk.session, fault)
        return _set_aside(chunk, f"{type(fault).__name__}: {fault}")

    def _keep(self, unreadable: Sequence[Unreadable]) -> None:
        now_ms = time.time_ns() // 1_000_000
        new = 0
        with self._catalogue.transaction() as db:
            for rejected in unreadable:
                new += self._keep_one(db, rejected, now_ms)
            if new:
                self._forget_oldest(db)
        if new:
            log.warning(
                "set aside what cannot be stored: %d chunks, the last one of %s: %s; see `raytrail rejected`",
                new,
                _text(unreadable[-1].place, 200) or unreadable[-1].session,
                _text(unreadable[-1].reason, 500),
            )

    def _keep_one(self, db: sqlite3.Connection, rejected: Unreadable, now_ms: int) -> bool:
        """Keep what is set aside, and count it in its session's ledger, once. Return whether it is new."""
        headers = {
            _text(name): _text(value) for name, value in list(rejected.headers.items())[:KEPT_HEADERS]
        }  # other headers are not of a chunk of ours
        id = _id(rejected)
        place, reason = _text(rejected.place), _text(rejected.reason)
        known = db.execute(
            "INSERT OR IGNORE INTO rejected VALUES(?, ?, ?, 0, 0, ?, ?, x'')",
            (rejected.session, SET_ASIDE, id, len(rejected.data), f"{place}: {reason}" if place else reason),
        )
        if not known.rowcount:
            return False
        db.execute(
            "INSERT INTO sessions(session, first_heard_ms, last_heard_ms, last_grew_ms) VALUES(?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (rejected.session, now_ms, now_ms, now_ms),
        )
        db.execute(
            "INSERT INTO counts(session, event_type, rejected) VALUES(?, ?, 1) "
            "ON CONFLICT DO UPDATE SET rejected = rejected + 1",
            (rejected.session, SET_ASIDE),
        )
        db.execute(
            "INSERT INTO set_aside(id, came_ms, session, place, reason, headers, length, data) "
            "VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id,
                now_ms,
                rejected.session,
                place,
                reason,
                msgspec.json.encode(headers).decode(),
                len(rejected.data),
                rejected.data[:KEPT_BYTES],
            ),
        )
        return True

    def _forget_oldest(self, db: sqlite3.Connection) -> None:
        [(size,)] = db.execute(f"SELECT coalesce(sum({_SIZE}), 0) FROM set_aside")
        for number, length in db.execute(f"SELECT number, {_SIZE} FROM set_aside ORDER BY number").fetchall():
            if size <= self._most_bytes:
                return
            db.execute("DELETE FROM set_aside WHERE number = ?", (number,))
            size -= length


_SIZE = "length(data) + length(headers) + length(reason) + length(place)"


def set_aside(catalogue: Catalogue) -> list[SetAside]:
    """Return what is kept of what was set aside, the newest first."""
    if not catalogue.keeps_set_aside:
        return []
    rows = catalogue.query(
        "SELECT id, came_ms, session, place, reason, headers, length FROM set_aside ORDER BY number DESC"
    )
    return [
        SetAside(
            id=id,
            came_ms=came_ms,
            session=session,
            place=place,
            reason=reason,
            headers=msgspec.json.decode(headers, type=dict[str, str]),
            length=length,
        )
        for id, came_ms, session, place, reason, headers, length in rows
    ]


def set_aside_bytes(catalogue: Catalogue, id: str) -> bytes:
    """
    Return the bytes of a chunk that was set aside, as they came. A long one gives its beginning.

    Args:
        catalogue: Keeps it.
        id: Its id, or as much of the beginning as no other has.

    Raises:
        NotFoundError: Nothing, or more than one thing, is kept under it.
    """
    rows = (
        catalogue.query("SELECT data FROM set_aside WHERE substr(id, 1, ?) = ? LIMIT 2", len(id), id)
        if catalogue.keeps_set_aside
        else []
    )
    if len(rows) != 1:
        raise NotFoundError(
            f"nothing that was set aside has the id {id!r} for itself; `raytrail rejected` lists what is kept"
        )
    return bytes(rows[0][0])


def _set_aside(chunk: Chunk, reason: str) -> Unreadable:
    return Unreadable(place="", reason=reason, headers=chunk.headers(), data=chunk.data)


def _id(rejected: Unreadable) -> str:
    digest = hashlib.blake2b(rejected.data, digest_size=16)
    for name, value in sorted(rejected.headers.items()):
        digest.update(encoded(f"\n{name}={value}"))
    return digest.hexdigest()


def _text(text: str, most: int = KEPT_HEADER_CHARACTERS) -> str:
    """Return text that every reader takes: lone surrogates replaced, and not longer than that."""
    return text[:most].encode("utf-8", "replace").decode()
