"""Whom the server knows: by their tokens, or by the word of a trusted proxy; and what each may do."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from starlette.types import Scope

from raytrail.config import ServerConfig
from raytrail.config.users import Secret, TokenEntry, UserEntry, digest_of, read_users
from raytrail.errors import ConfigError

SHORT_TOKEN = 16
"""Characters below which a token can be guessed by who keeps asking."""
LOOK_SECONDS = 1.0
"""How often the users file is looked at."""
READER = "raytrail.reader"
"""The key under which a request's scope has who asks."""
_ALL = "*"

log = logging.getLogger(__name__)


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what they may do."""

    name: str = ""
    """The token's or the user's name. Empty where everybody is let in."""
    clusters: tuple[str, ...] = ()
    """Patterns of the names of the clusters that they may read."""
    write: bool = False
    """Whether they may post events."""
    metrics: bool = False
    """Whether they may read the server's figures, which are of all clusters."""

    @property
    def reads_all(self) -> bool:
        """Whether they may read every cluster."""
        return _ALL in self.clusters


EVERYBODY = Reader(clusters=(_ALL,), write=True, metrics=True)
"""Who asks a server that asks nobody for anything."""


def reader_of(scope: Scope) -> Reader:
    """Return who asks. Nobody may do anything of whom this was not found out."""
    return scope.get(READER) or Reader()


class _Credential(NamedTuple):
    """What is compared with what is sent. Digests are all of one length, so that comparing tells nothing."""

    digest: str
    """That of the token."""
    cookie_digest: str
    """That of what a browser keeps."""
    cookie: str
    """What a browser keeps. Empty where that is the token itself."""
    reader: Reader


class _Known(NamedTuple):
    credentials: tuple[_Credential, ...]
    users: tuple[UserEntry, ...]
    files: tuple[Path, ...]


class Users:
    """
    Everybody that a server knows. Threads may share it.

    Args:
        config: The server's settings.
        clock: Seconds that never go back.

    Raises:
        ConfigError: The users file cannot be read, or makes no sense.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(config.users_file).expanduser() if config.users_file else None
        self._own = tuple(_own(config))
        self._clock = clock
        self._looked = clock()
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = ()
        self._error = ""
        self.readings = 0
        """How often the users file was read: what somebody may do may be something else since."""
        self._known = _Known(self._own, (), ())
        self._read()

    @property
    def are_known(self) -> bool:
        """Whether anybody is told from others. If not, everybody is let in."""
        return bool(self._own) or self._path is not None

    @property
    def have_names(self) -> bool:
        """Whether there may be several of them."""
        return self._path is not None

    @property
    def are_due(self) -> bool:
        """Whether it is time to look at the users file again."""
        return self._path is not None and self._clock() - self._looked >= LOOK_SECONDS

    def look_again(self) -> None:
        """
        Read the users file again if it is time to, and it has changed.

        What it said before holds while it cannot be read. It takes a look at the disk.
        """
        if not self.are_due or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = self._clock()
            # what is wrong may be a file that nothing read so far names
            if self._error or _stamp(self._known.files) != self._stamp:
                self._read()
                log.info("%s: read again", self._path)
                self._error = ""
        except ConfigError as error:
            if str(error) != self._error:
                log.error("%s; what was read of it before stays in force", error)
            self._error = str(error)
        finally:
            self._lock.release()

    def _read(self) -> None:
        if self._path is None:
            return
        files = self._known.files or (self._path,)
        # before what they hold: a change meanwhile is seen the next time
        stamp, read = _stamp(files), read_users(self._path)
        while read.files != files:
            files = read.files
            stamp, read = _stamp(files), read_users(self._path)
        for secret in read.secrets:
            warn_if_short(f"{self._path}: token {secret.entry.name!r}", secret.token)
        self._stamp = stamp
        self._known = _Known((*self._own, *map(_of_entry, read.secrets)), read.users, read.files)
        self.readings += 1

    def by_token(self, token: str, cookie: str = "") -> Reader | None:
        """Return whose token, or whose cookie, was sent; None where it is nobody's."""
        known = self._find(token, cookie)
        return known.reader if known else None

    def cookie_of(self, token: str) -> str:
        """Return what a browser keeps in place of a right token."""
        known = self._find(token, "")
        return (known and known.cookie) or token

    def _find(self, token: str, cookie: str) -> _Credential | None:
        sent, kept = (digest_of(text) if text else "" for text in (token, cookie))
        right = None
        # each is compared, so that the time tells nothing
        for known in self._known.credentials:
            fits = hmac.compare_digest(known.digest, sent), hmac.compare_digest(known.cookie_digest, kept)
            right = known if any(fits) else right
        return right

    def by_proxy(self, user: str, groups: Sequence[str]) -> Reader:
        """Return what a user may do whom a trusted proxy names."""
        entries = [entry for entry in self._known.users if entry.holds_for(user, groups)]
        clusters = dict.fromkeys(pattern for entry in entries for pattern in entry.read)
        return Reader(
            name=user, clusters=_ordered(clusters), metrics=_ALL in clusters or any(entry.metrics for entry in entries)
        )


def warn_if_short(name: str, token: str) -> None:
    """
    Warn of a token that can be guessed.

    Args:
        name: What stands in the log for it.
        token: The token. Empty where there is none, or only its digest is known.
    """
    if 0 < len(token) < SHORT_TOKEN:
        log.warning("%s is short enough to be guessed; give it %d random characters", name, 2 * SHORT_TOKEN)


def _own(config: ServerConfig) -> Iterable[_Credential]:
    """Yield the tokens of the settings themselves."""
    if config.token:
        reader = Reader(name="server.token", clusters=(_ALL,), write=not config.ingest_token, metrics=True)
        yield _credential(digest_of(config.token), config.token, reader)
    if config.ingest_token and config.users_file:
        reader = Reader(name="server.ingest_token", write=True)
        yield _credential(digest_of(config.ingest_token), config.ingest_token, reader)


def _of_entry(secret: Secret) -> _Credential:
    return _credential(secret.digest, secret.token, _reader(secret.entry))


def _reader(entry: TokenEntry) -> Reader:
    return Reader(
        name=entry.name,
        clusters=_ordered(entry.read),
        write=entry.write,
        metrics=entry.metrics or _ALL in entry.read,
    )


def _ordered(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return patterns so that the same are written the same."""
    return tuple(sorted({*patterns}))


def _credential(digest: str, token: str, reader: Reader) -> _Credential:
    if not token:
        # whoever reads the digest could else make the cookie of it
        return _Credential(digest, digest, "", reader)
    cookie = hmac.new(token.encode(), b"raytrail cookie", hashlib.sha256).hexdigest()
    return _Credential(digest, digest_of(cookie), cookie, reader)


def _stamp(files: Iterable[Path]) -> tuple[object, ...]:
    """Return what differs once one of the files is another one."""
    return tuple(map(_stamp_of, files))


def _stamp_of(file: Path) -> tuple[int, ...] | str:
    try:
        status = os.stat(file)
    except OSError as error:
        return str(error)
    return status.st_mtime_ns, status.st_size, status.st_ino
