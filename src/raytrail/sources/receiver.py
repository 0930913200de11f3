"""
``POST /v1/events``: what Ray's aggregator agent posts, appended to event files before it is answered.

An answer of 204 says that every event in the request is in a file, or set aside, or was there before. An event that is
set aside is a line of its session, too, so that its ledger says so. Ray sends a batch again until it is told so, and
nothing else before: what it sends twice is known by the event's id, from the files themselves where this process is a
new one. Like Ray's own, a line is handed to the operating system and not forced onto the disk: it survives the end of
every process, not of the machine. Else the answer says what to do:

    400  the body is no JSON array        411  the body's length is not said    429  others are being taken; come back
    401  no token, or another one         413  it is longer than is taken       503  the disk takes nothing; come back
    403  it is posted by a page           408  the body came too slowly
    404  another path                                                           429  many wrong tokens; come back

There is one sender, on the same machine, one request at a time. The server runs in threads of its own: a disk that is
slow holds nobody else up. Connections are few, and whoever has said the least for the longest makes room for the next.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from raytrail import disk, ray_event, records
from raytrail.errors import EventError
from raytrail.event import SET_ASIDE
from raytrail.posts import Refused, check_length, check_token, come_back, too_slow
from raytrail.sources.address import EXAMPLE, PATH, url, where
from raytrail.sources.event_file import EventFiles, session_root, written_files
from raytrail.sources.http_server import Handler, Server
from raytrail.sources.set_aside import SetAside
from raytrail.tokens import Guard, Tries

PREFIX = "0"
"""The numbers in the names of its files begin with this."""

_BODIES_AT_ONCE = 2
_BODY_SECONDS = 30.0
_LINGER_SECONDS = 5.0
_PIECE_BYTES = 1 << 16
_IDS = 200_000  # Ray's aggregator holds 100,000 events at most, and sends no other batch before one is taken
_RECALLED_BYTES = 64 << 20
_SESSIONS = 8

log = logging.getLogger(__name__)


class Intake:
    """
    Appends batches of events to the event files of their sessions.

    Args:
        temp_dirs: Ray's temporary directories. A session that is in none of them is begun in the first.
        set_aside: Takes events that cannot be read: sent again, they would be no better.
    """

    def __init__(self, temp_dirs: Sequence[Path], set_aside: SetAside) -> None:
        self._temp_dirs, self._set_aside = tuple(temp_dirs), set_aside
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._lock = threading.Lock()
        self._told_at = -60.0

    def take(self, body: bytes) -> bool:
        """
        Append what is new in a batch, and say whether all of it is on the disk.

        Raises:
            EventError: It is no JSON array.
        """
        try:
            batch = records.array(body)
        except EventError as error:
            raise EventError(f"expected a JSON array of Ray's events: {error}") from error
        heads = ray_event.of_array(body)
        refused: dict[int, str] = {}
        groups = ray_event.by_type(heads, batch, refused.__setitem__)
        are_lines = b"\n" not in body  # as Ray's client writes it: no event has to be looked through for them
        with self._lock:
            asides = [self._put_aside(batch[number], reason) for number, reason in refused.items()]
            taken = [self._append(*group, batch, numbers, are_lines=are_lines) for group, numbers in groups.items()]
            return all(asides) and all(taken)

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            for session in self._sessions.values():
                session.files.close()
            self._sessions.clear()

    def _append(
        self,
        session_name: str,
        event_type: str,
        batch: Sequence[msgspec.Raw],
        numbers: Mapping[str, int],
        *,
        are_lines: bool,
    ) -> bool:
        """Append events of a type, which are given by their ids and their numbers in the batch, if they are new."""
        session = self._open_session(session_name)
        ids = [id for id in numbers if id not in session.ids]
        lines = ray_event.as_lines([batch[numbers[id]] for id in ids], are_lines=are_lines)
        written = session.files.append_lines(event_type, lines, len(ids)) if ids else 0
        for id in numbers.keys() - ids if len(ids) < len(numbers) else ():
            session.ids.move_to_end(id)
        session.remember(ids[:written])
        return written == len(ids)

    def _open_session(self, name: str) -> _Session:
        session = self._sessions.get(name)
        if session is None:
            there = (temp_dir for temp_dir in self._temp_dirs if (temp_dir / name).is_dir())
            directory = next(there, self._temp_dirs[0]) / name / "logs" / "export_events"
            session = self._sessions[name] = _Session(directory)
            if len(self._sessions) > _SESSIONS:
                _, oldest = self._sessions.popitem(last=False)
                oldest.files.close()
        self._sessions.move_to_end(name)
        return session

    def _put_aside(self, raw: msgspec.Raw, reason: str) -> bool:
        session, id = self._choose_session(raw), ray_event.digest(raw)
        if session is not None and id in session.ids:
            return True
        if time.monotonic() - self._told_at > 60:
            self._told_at = time.monotonic()
            log.warning("an event that Ray posted cannot be read: %s; it is kept in %s", reason, self._set_aside.path)
        # first: once its line is written, it is taken for one that is safe
        try:
            self._set_aside.put(raw, reason)
        except OSError as error:
            log.error("%s: %s; make room, or mend it: Ray sends the batch again", self._set_aside.path, error)
            return False
        if session is not None:
            if not session.files.append_lines(SET_ASIDE, ray_event.set_aside_line(raw, reason), 1):
                return False
            session.remember([id])
        return True

    def _choose_session(self, raw: msgspec.Raw) -> _Session | None:
        """Return the session whose ledger names what cannot be read: the one it says, else the newest there is."""
        name = (
            ray_event.session_name(raw) or next(reversed(self._sessions), "") or next(map(_latest, self._temp_dirs), "")
        )
        return self._open_session(name) if name else None


def _latest(temp_dir: Path) -> str:
    """Return the name of the session that Ray began last, or nothing where there is none."""
    try:
        return Path(os.readlink(temp_dir / "session_latest")).name
    except OSError:
        return ""


class _Session:
    """A session's files, and what this process and those before it have written there of late."""

    def __init__(self, directory: Path) -> None:
        self.files = EventFiles(directory, prefix=PREFIX)
        self.ids: OrderedDict[str, None] = OrderedDict()
        for path, start in _newest(directory):
            try:
                with open(disk.open_file(path, session_root(directory)), "rb") as file:
                    file.seek(start)
                    data = file.read()
            except OSError:  # rotated away just now, or no file any more
                continue
            self.remember(head.id for head in ray_event.of_whole_lines(data) if head.id)

    def remember(self, ids: Iterable[str]) -> None:
        """Remember events as written, and forget the oldest where there are too many."""
        for id in ids:
            self.ids[id] = None
        while len(self.ids) > _IDS:
            self.ids.popitem(last=False)


def _newest(directory: Path) -> Iterable[tuple[Path, int]]:
    """Return the files of receivers, the newest last, each with where to begin so that all are not too much to read."""
    files = written_files(directory, f"event_EXPORT_*_{PREFIX}[0-9]*.log*")
    room, chosen = _RECALLED_BYTES, list[tuple[Path, int]]()
    for _, size, path in sorted(files, reverse=True):
        chosen.append((path, max(0, size - room)))
        room -= size
        if room <= 0:
            break
    return reversed(chosen)


class Receiver:
    """
    Answers from threads of its own until it is closed.

    Args:
        listen: ``host:port``. Without a host it is this machine alone, and port 0 takes a free one.
        intake: The intake of the events.
        token: The token that senders must know, as bearer token or as the password of basic authentication, which is
            what a URL can hold. Empty lets everybody in.
        most_bytes: The most bytes of a body.

    Raises:
        ConfigError: One cannot listen there.
    """

    def __init__(self, listen: str, intake: Intake, *, token: str = "", most_bytes: int = 64 << 20) -> None:
        address = where(listen)
        self._intake = intake

        room = _Room(_BODIES_AT_ONCE * most_bytes)
        slots = threading.BoundedSemaphore(_BODIES_AT_ONCE)
        settings = {"intake": intake, "guard": Guard(Tries(), token), "most_bytes": most_bytes}
        handler = type("Handler", (_Handler,), settings | {"slots": slots, "room": room})

        self._server = Server.begin(address, handler, setting=f"receiver={listen!r}", example=EXAMPLE)
        self.url = url(f"{listen.rpartition(':')[0]}:{self._server.server_address[1]}")
        """Where Ray is to post to."""

    def close(self) -> None:
        """Answer no more; what is being written is written."""
        self._server.end()
        self._intake.close()


class _Room:
    """Bytes of bodies that are held at the same time."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """
        Hold so many bytes more, or give some back.

        Raises:
            Refused: There is no room.
        """
        with self._lock:
            if size > self._free:
                raise _busy()
            self._free -= size


def _busy() -> Refused:
    return come_back(429, "others are being taken")


class _Handler(Handler):
    intake: Intake
    guard: Guard
    most_bytes: int
    slots: threading.BoundedSemaphore
    room: _Room
    server: Server

    protocol_version = "HTTP/1.1"  # the connection stays, as Ray's client expects
    timeout = _BODY_SECONDS

    def do_POST(self) -> None:
        try:
            self._let_in()
            with self._read_body() as body:
                stored = self._take_post(body)
            if not stored:
                raise come_back(503, "not stored")
        except Refused as error:
            # what was not read of the body would be taken for the next request
            self.close_connection = True
            self.answer(error.status, f"{error}\n".encode(), headers=error.headers)
            self._let_out()
        except EventError as error:
            self.answer(400, f"{error}\n".encode())
        except ConnectionError:
            self.close_connection = True  # nobody reads it
        else:
            self.answer(204)

    def do_GET(self) -> None:
        self.answer(404, f"POST {PATH}\n".encode())

    def _take_post(self, body: bytes) -> bool:
        if not self.slots.acquire(timeout=1):
            raise _busy()
        try:
            with self.server.busy(self.connection):
                return self.intake.take(body)
        finally:
            self.slots.release()

    def _let_in(self) -> None:
        if "Origin" in self.headers or self.headers.get("Sec-Fetch-Site", "none") != "none":
            raise Refused(403, "no page in a browser may post here")
        if self.path.partition("?")[0] != PATH:
            raise Refused(404, f"POST {PATH}")
        check_token(self.guard, self.client_address[0], self.headers.get("Authorization", ""), of="receiver")

    def _let_out(self) -> None:
        """
        Let a sender whose body was not read say it all, within bounds.

        A socket that is closed with bytes unread resets the connection, and the sender may never see the answer.
        """
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            until = time.monotonic() + _LINGER_SECONDS
            while (seconds := until - time.monotonic()) > 0:
                self.connection.settimeout(seconds)
                if not self.connection.recv(1 << 16):
                    break

    @contextmanager
    def _read_body(self) -> Iterator[bytes]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise Refused(411, "say the body's length in Content-Length")
        try:
            check_length(length, self.most_bytes)
        except Refused:
            log.error(
                "%.20s bytes were posted at once, which is more than receiver_body_bytes: nothing was taken", length
            )
            raise
        pieces, held = list[bytes](), 0
        try:
            for piece in self._read_pieces(int(length)):
                self.room.take(len(piece))
                held += len(piece)
                pieces.append(piece)
            yield b"".join(pieces)
        finally:
            self.room.take(-held)

    def _read_pieces(self, length: int) -> Iterator[bytes]:
        until = time.monotonic() + _BODY_SECONDS
        while length:
            try:
                self.connection.settimeout(max(0.001, until - time.monotonic()))
                piece = self.rfile.read1(min(length, _PIECE_BYTES))
            except TimeoutError:
                raise too_slow(_BODY_SECONDS) from None
            if not piece:
                raise ConnectionAbortedError("the sender has gone")
            length -= len(piece)
            yield piece
        self.connection.settimeout(self.timeout)
