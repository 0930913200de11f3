"""
Chunks over the wire.

A backend is one file or folder, here or in your own package, with one class that fits `PubSub`, named under its URL's
scheme in the entry-point group ``raytrail.pubsub``. `raytrail.testing.check_pubsub` is its contract.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from raytrail.errors import ConfigError
from raytrail.event import Chunk, Unreadable
from raytrail.pubsub.url import is_misread, shown

if TYPE_CHECKING:
    from raytrail.pubsub.bucket import Bucket

_BUCKETS = ("az", "gs", "s3")
Guarantee = Literal["at-least-once", "at-most-once"]


class Delivery(NamedTuple):
    """A chunk as it arrives, and the way to say that it is safe with us."""

    chunk: Chunk | Unreadable
    """Or what came in place of one: whoever keeps it for a person to read acknowledges it, and goes on."""
    ack: Callable[[], Awaitable[None]]
    """Call once the chunk is durable. One that is not acked comes again, where the guarantee is
    at-least-once. Acks may come in any order; they may be called in batches."""


class Publisher(Protocol):
    """The agent's end."""

    async def publish(self, chunk: Chunk) -> None:
        """
        Send one chunk, returning once the broker has stored it. May be called concurrently.

        Raises:
            PublishError: It was not stored, or nobody knows; send it again where `retryable`.
        """
        ...


class Subscriber(Protocol):
    """The history's end."""

    def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks from where `group` left off, a file's in the order published, but for what comes again.

        Close the generator (`contextlib.aclosing`) to leave the group.

        Args:
            group: Who reads together; each group reads everything.
            from_start: Forget where the group left off, and read all that the broker still holds.

        Raises:
            ConfigError: The broker takes no such group, or no second reader of it.
            BrokerUnavailable: It cannot be reached; subscribe again.
        """
        ...


class PubSub(Publisher, Subscriber, Protocol):
    """A broker, made from its URL. Nothing is opened before first use."""

    guarantee: Guarantee

    def __init__(self, url: str) -> None: ...

    async def aclose(self) -> None:
        """Drop the connection. Safe to call twice."""
        ...


def connect(url: str) -> PubSub:
    """
    Make the backend that the URL's scheme names, e.g. ``file:///var/lib/raytrail/events``.

    Raises:
        ConfigError: No installed backend has that scheme, or it cannot use this URL.
    """
    scheme = _scheme(url)
    installed = _installed()
    if scheme not in installed:
        raise ConfigError(
            f"no pub/sub backend for {shown(url)!r}: scheme {scheme!r} is not among {sorted(installed)}; "
            f"install a package that brings it, or mend the URL"
        )
    try:
        backend = cast("type[PubSub]", installed[scheme].load())
    except ModuleNotFoundError as error:
        raise _not_installed(scheme, error) from error
    return backend(url)


def open_bucket(url: str) -> Bucket:
    """
    Open a bucket, to read what others left below a path of it, e.g. ``s3://bucket/path``; nothing is asked yet.

    Raises:
        ConfigError: The URL is no bucket's, a setting in it is wrong, or what reads buckets is not installed.
    """
    scheme = _scheme(url)
    if scheme not in _BUCKETS:
        raise ConfigError(f"no bucket at {shown(url)!r}: its scheme is not among {sorted(_BUCKETS)}; mend the URL")
    try:
        bucket = import_module("raytrail.pubsub.bucket")
    except ModuleNotFoundError as error:
        raise _not_installed(scheme, error) from error
    return cast("Bucket", bucket.open_bucket(url, bucket.BucketSettings)[0])


@cache
def _installed() -> dict[str, EntryPoint]:
    """Return the backends by scheme: to look for them reads the metadata of all that is installed."""
    return {point.name: point for point in entry_points(group="raytrail.pubsub")}


def _scheme(url: str) -> str:
    try:
        scheme, misread = urlsplit(url).scheme, is_misread(url)
    except ValueError as error:
        why = re.sub("netloc '.*' ", "its host ", str(error))  # which may be the password
        raise ConfigError(f"URL {shown(url)!r}: {why}; mend it") from None
    if misread:
        raise ConfigError(
            f"URL {shown(url)!r}: a mark ends its user or password; write %2F for '/', %3F for '?', %23 for '#' there"
        )
    return scheme


def _not_installed(scheme: str, error: ModuleNotFoundError) -> ConfigError:
    extra = "objects" if scheme in _BUCKETS else "http" if scheme == "https" else scheme
    return ConfigError(
        f"{scheme}:// needs {error.name!r}, which is not installed; run `pip install 'raytrail[{extra}]'`"
    )
