"""What a broker's URL says: where it is, and its settings in the query."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from raytrail.errors import ConfigError
from raytrail.redact.names import is_secret

Settings = TypeVar("Settings", bound=msgspec.Struct)

_BUCKETS = ("s3", "gs", "az")
"""Schemes whose URLs have no user, and in whose paths an @ is nothing special."""


class Address(NamedTuple):
    """The parts of a URL before its query, decoded."""

    scheme: str
    user: str
    password: str
    hosts: tuple[str, ...]
    """``host`` or ``host:port``, several separated by commas; IPv6 in brackets."""
    path: str
    """Without the slash that begins it."""


def parse(url: str, settings: type[Settings]) -> tuple[Address, Settings]:
    """
    Take a broker's URL apart: ``scheme://[user:password@]host[:port][,...]/path?setting=value&...``.

    Args:
        url: The URL.
        settings: A struct of what the query may say; forbid unknown fields in it.

    Raises:
        ConfigError: A setting is unknown, out of range or given twice, or the URL has a fragment.
    """
    parts = urlsplit(url)
    if parts.fragment:
        raise ConfigError(f"{shown(url)!r} has a '#'; write %23 for one in a name")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    try:
        if len(dict(pairs)) < len(pairs):
            raise msgspec.ValidationError("a setting is given twice")
        parsed = msgspec.convert(dict(pairs), settings, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(settings))
        raise ConfigError(f"{shown(url)!r}: {error}; the settings are {known}") from error
    who, _, where = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    hosts = tuple(host for host in where.split(",") if host)
    return Address(parts.scheme, unquote(user), unquote(password), hosts, unquote(parts.path).removeprefix("/")), parsed


def shown(url: str) -> str:
    """
    Return the URL without its password, a user that has none, its query and its fragment, for messages and logs.

    What is misread for want of percent-encoding is left out as well: up to its last @.
    """
    scheme, user, where = _split(url)
    return f"{scheme}://{user}{re.split('[?#]', where, maxsplit=1)[0]}"


def shown_whole(url: str) -> str:
    """Return the URL as `shown` does, but with its query, of which only what is called a secret is left out."""
    scheme, user, where = _split(url)
    path, mark, query = where.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    hidden = "&".join(f"{name}=***" if is_secret(name) else f"{name}{equals}{value}" for name, equals, value in pairs)
    return f"{scheme}:{'//' if url.startswith('//', len(scheme) + 1) else ''}{user}{path}{mark}{hidden}"


def is_misread(url: str) -> bool:
    """Say whether a raw mark ended the user or the password, so that the rest passes for a path or a query."""
    parts = urlsplit(url)
    hidden = "@" not in parts.netloc and _split(url)[1] != ""
    return hidden and (not _are_hosts(parts.netloc) or "@" not in parts.path)


def _split(url: str) -> tuple[str, str, str]:
    """Return a URL's scheme, its user with asterisks for what is secret and an @, if there is one, and what follows."""
    scheme, colon, rest = url.partition(":")
    if not colon or not re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme):
        scheme, rest = "", url
    authority = re.match("//([^/?#]*)", rest)
    where = rest[2:] if authority else rest
    if not authority or not authority[1]:
        return scheme, "", where
    at = max(where.rfind("@", 0, len(authority[1])), _misread(scheme, where, authority[1]))
    if at < 0:
        return scheme, "", where
    user, colon, _ = where[:at].partition(":")
    return scheme, f"{user}:***@" if colon else "***@", where[at + 1 :]


def _misread(scheme: str, where: str, authority: str) -> int:
    """Return where the @ after a user stands that a raw ``/``, ``?`` or ``#`` cut off; -1 where none did."""
    path = re.split("[?#]", where, maxsplit=1)[0]
    at = where.rfind("@")
    if at < len(authority) or not _are_hosts(authority.rpartition("@")[2]):
        return at
    in_query = at > len(path) and where[len(path)] == "?" and "=" in where[len(path) : at]
    in_path = at < len(path) and scheme in _BUCKETS
    return -1 if in_query or in_path else at


def _are_hosts(authority: str) -> bool:
    return all(re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host) for host in authority.split(","))
