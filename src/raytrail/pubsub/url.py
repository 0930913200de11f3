"""What a broker's URL says: where it is, and its settings in the query."""

from __future__ import annotations

from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from raytrail.errors import ConfigError

Settings = TypeVar("Settings", bound=msgspec.Struct)


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
        said = msgspec.convert(dict(pairs), settings, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(settings))
        raise ConfigError(f"{shown(url)!r}: {error}; the settings are {known}") from error
    who, _, where = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    hosts = tuple(host for host in where.split(",") if host)
    return Address(parts.scheme, unquote(user), unquote(password), hosts, unquote(parts.path).removeprefix("/")), said


def shown(url: str) -> str:
    """Return the URL without its password and query, for messages and logs."""
    parts = urlsplit(url)
    user, at, where = parts.netloc.rpartition("@")
    hidden = f"{user.partition(':')[0]}:***" if ":" in user else user
    return f"{parts.scheme}://{hidden}{at}{where}{parts.path}"
