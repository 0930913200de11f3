"""Passwords in URLs, and the users that have none, since they are tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

_URL = re.compile(rb":(?:\\{0,7}/){2}([^\s\"'\\<>]*)")
_AUTHORITY = re.compile(rb"[^/?#]*")
_HOST = re.compile(rb"(?:[\w-]+\.[\w.-]+|localhost|\[[\da-f:.]+\]|[\w-]+:\d+)(?:\Z|[:/?#,;])", re.IGNORECASE)
_NO_SECRET_USER = {b"git", b"hg", b"svn", b"anonymous"}
_NO_SECRET_SCHEME = re.compile(rb"(?:.*\+)?(?:ssh|sftp|scp|svn|rsync)\Z|abfss?|wasbs?|az|azure|adl|hdfs", re.IGNORECASE)
_IN_SCHEMES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-+"


def passwords(data: bytes, begins: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the passwords in a line's URLs, and the users that have none, since they are tokens."""
    for url in _URL.finditer(data, begins, end):
        start, stop = url.span(1)
        scheme = _scheme(data, url.start())
        while (following := data.find(b"://", start, stop)) >= 0:  # a list of URLs, or one in another's query
            yield from _user(data, start, following, scheme)
            start, scheme = following + 3, _scheme(data, following)
        yield from _user(data, start, stop, scheme)


def _scheme(data: bytes, colon: int) -> bytes:
    head = data[max(0, colon - 16) : colon]
    return head[len(head.rstrip(_IN_SCHEMES)) :]


def _user(data: bytes, start: int, stop: int, scheme: bytes) -> Iterator[tuple[int, int]]:
    """Yield what is secret in the user of one URL, whose host begins at `start`."""
    authority = _AUTHORITY.match(data, start, stop)
    path = authority.end() if authority else stop
    at, later = data.rfind(b"@", start, path), data.rfind(b"@", path, stop)
    colon = data.find(b":", start, path if at < 0 else at)
    if at < 0:
        # a slash in a password, or an @ in a path
        port = data[colon + 1 : path]
        if later >= 0 and colon >= 0 and port and not port.isdigit() and data[start : start + 1] != b"[":
            yield colon + 1, later
    elif colon >= 0:
        yield colon + 1, later if later >= 0 and _is_in_password(data, at, later, stop) else at
    elif data[start:at].lower() not in _NO_SECRET_USER and not _NO_SECRET_SCHEME.match(scheme):
        yield start, at


def _is_in_password(data: bytes, at: int, later: int, stop: int) -> bool:
    """Say whether the first of two @, with a slash between, is in the password: a host follows the second one alone."""
    hosts = _HOST.match(data, at + 1, later), _HOST.match(data, later + 1, stop)
    return hosts[0] is None and hosts[1] is not None and b"?" not in data[at:later]
