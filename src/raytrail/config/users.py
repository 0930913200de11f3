"""
The users file: who may read which clusters, and who may post events.

    [[token]]
    name = "team-a"                    # stands in the access log, and on pages
    sha256 = "2c26b46b68ffc68f..."     # or token = "...", or token_file = "/run/secrets/team-a"
    read = ["team-a-*"]

    [[token]]
    name = "agents"
    token_file = "/run/secrets/agents"
    write = true

    [[user]]                           # whom a trusted proxy names
    group = "team-a"                   # or user = "*@example.com"
    read = ["team-a-*"]
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from raytrail.config.suggestion import suggestion
from raytrail.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Filled = Annotated[str, msgspec.Meta(min_length=1)]
_Digest = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]


class Rights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody may do."""

    read: tuple[Filled, ...] = ()
    """Patterns of the names of clusters. ``*`` is any text, ``?`` one character."""
    metrics: bool = False
    """Whether to read ``/metrics``. Whoever may read ``*`` may, too."""


class TokenEntry(Rights, frozen=True, kw_only=True):
    """A token. One of `token`, `sha256` and `token_file` says which."""

    name: Filled
    """Whose it is. Several may have one name, while one takes the other's place."""
    token: str = ""
    sha256: _Digest = ""
    """The SHA-256 of the token in hex, so that the file holds no secret."""
    token_file: str = ""
    """The file that holds it, such as a mounted secret."""
    write: bool = False
    """Whether to post events to ``/ingest``."""


class UserEntry(Rights, frozen=True, kw_only=True):
    """Users whom a trusted proxy names, by their names or by a group of theirs."""

    user: str = ""
    """A pattern of their names."""
    group: str = ""
    """A pattern of a group's name."""

    def holds_for(self, user: str, groups: Iterable[str]) -> bool:
        """Return whether a user, who is in these groups, is one of them."""
        return fits(self.user, user) if self.user else any(fits(self.group, group) for group in groups)


class Secret(NamedTuple):
    """A token as the server knows it."""

    entry: TokenEntry
    digest: str
    """The SHA-256 of the token in hex."""
    token: str
    """The token itself. Empty where only its digest is known."""


class UsersFile(NamedTuple):
    """What the file says."""

    secrets: tuple[Secret, ...]
    users: tuple[UserEntry, ...]
    files: tuple[Path, ...]
    """The files that were read, the users file first."""


class _Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: tuple[TokenEntry, ...] = ()
    user: tuple[UserEntry, ...] = ()


def read_users(path: Path) -> UsersFile:
    """
    Read a users file, and the files of tokens that it names.

    Raises:
        ConfigError: One cannot be read, or makes no sense.
    """
    try:
        read = msgspec.convert(tomllib.loads(_text(path)), _Read)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"server.users_file {path}: {error}{suggestion(str(error))}") from error
    for user in read.user:
        if bool(user.user) == bool(user.group):
            raise ConfigError(f"server.users_file {path}: a [[user]] has both user and group, or none; give one")
    secrets = [_secret(path, entry) for entry in read.token]
    named: dict[str, str] = {}
    for secret in secrets:
        if (other := named.setdefault(secret.digest, secret.entry.name)) is not secret.entry.name:
            raise ConfigError(
                f"server.users_file {path}: tokens {other!r} and {secret.entry.name!r} are the same; give each its own"
            )
    files = [path, *(_beside(path, entry.token_file) for entry in read.token if entry.token_file)]
    return UsersFile(tuple(secrets), read.user, tuple(files))


def fits(pattern: str, text: str) -> bool:
    """Return whether a text fits a pattern, in which ``*`` is any text and ``?`` one character."""
    return _expression(pattern).fullmatch(text) is not None


@lru_cache(maxsize=10_000)  # each request of a proxy's user asks for those of all entries
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern), re.DOTALL)


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token in hex."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _secret(path: Path, entry: TokenEntry) -> Secret:
    where = f"server.users_file {path}: token {entry.name!r}"
    if sum(map(bool, (entry.token, entry.sha256, entry.token_file))) != 1:
        raise ConfigError(f"{where} has none or several of token, sha256 and token_file; give one")
    if not (entry.read or entry.write or entry.metrics):
        raise ConfigError(f'{where} has no rights; give read = ["..."], write = true or metrics = true')
    if entry.sha256 == digest_of(""):
        raise ConfigError(f"{where}: sha256 is that of nothing; give that of the token")
    if entry.sha256:
        return Secret(entry, entry.sha256, "")
    token = entry.token or _text(_beside(path, entry.token_file)).strip()
    if not token:
        raise ConfigError(f"{where}: token_file {entry.token_file!r} is empty; write the token to it")
    return Secret(entry, digest_of(token), token)


def _beside(path: Path, name: str) -> Path:
    return path.parent / os.path.expanduser(name)  # which leaves a home as it is that there is not


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"server.users_file: {path}: {error.strerror}; create it, or mend its path") from error
    except ValueError as error:  # no UTF-8, or no path
        raise ConfigError(f"server.users_file: {path}: {error}; write it as UTF-8, or mend its path") from error
