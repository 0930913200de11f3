"""A bucket and a path in it, as a URL names them: how it is opened and read, and its client's errors as ours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import obstore
from obstore import exceptions
from obstore.store import from_url

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.pubsub.url import parse, shown

_ACCESS = re.compile(r"\w*(Access|Signature|Token|Credential|User|Auth)\w*: ")
"""Codes of S3 that mean that we are not let in; some servers answer 404 with them."""
_PROPERTIES = ("aws_", "google_", "azure_")
_ENDPOINTS = {"s3": "aws_endpoint", "gs": "google_base_url", "az": "azure_endpoint"}
_READ_BYTES = 4 << 20  # is in memory of each object that is open
_LISTED_AT_ONCE = 1000  # which is what a bucket answers with


class BucketSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every bucket's URL may say in its query, besides obstore's settings."""

    timeout_seconds: Annotated[float, msgspec.Meta(ge=1)] = 30
    endpoint: str = ""


Settings = TypeVar("Settings", bound=BucketSettings)


class Stored(NamedTuple):
    """An object."""

    path: str
    """In the bucket."""
    size_bytes: int
    version: str
    """Another one whenever its content may be another."""


class Bucket:
    """
    A bucket that is open, which it is without having been asked anything.

    Args:
        url: Where it is, without the query and the path.
        path: In the bucket, without slashes around it; empty for all of it.
        client: What obstore asks.
    """

    def __init__(self, url: str, path: str, client: Any) -> None:
        self.url, self.path, self.client = url, path, client
        self.shown = f"{url}/{path}" if path else url

    def find(self) -> Iterator[Stored]:
        """
        Yield the objects below the path, in which ``*`` stands for anything but a slash.

        Raises:
            ConfigError: There is no such bucket, or we may not list it.
            BrokerUnavailable: The bucket is away.
        """
        folder = self.path.partition("*")[0].rpartition("/")[0] if "*" in self.path else self.path
        below = re.compile("[^/]*".join(map(re.escape, self.path.split("*"))) + "/" if self.path else "")
        with self.ours():
            for some in obstore.list(self.client, folder or None, chunk_size=_LISTED_AT_ONCE):
                yield from (_stored(meta) for meta in some if below.match(meta["path"]))

    def open(self, stored: Stored) -> io.BufferedReader:
        """
        Return an object that `find` has found, to be read from its beginning; its first part has been fetched.

        Raises:
            ConfigError: It was deleted since, or we may not read it; so do the reader's methods.
            BrokerUnavailable: The bucket is away; so do the reader's methods.
        """
        reader: io.BufferedReader = io.BufferedReader(
            _Reading(self, stored), max(min(stored.size_bytes, _READ_BYTES), 1)
        )
        reader.peek(1)
        return reader

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Make the client's errors ours."""
        try:
            yield
        except (exceptions.BaseError, OSError) as error:
            words = _words(error)
            denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
            if denied or _ACCESS.match(words):
                raise ConfigError(f"{self.shown} does not let us in: {words}; mend its credentials") from error
            if isinstance(error, exceptions.NotFoundError | FileNotFoundError) or words.startswith("NoSuchBucket"):
                raise ConfigError(f"{self.shown}: {words}; make the bucket, or mend the URL") from error
            raise BrokerUnavailable(
                f"{self.shown} does not answer: {words}; look after it, or the way to it"
            ) from error


def _stored(meta: Mapping[str, Any]) -> Stored:
    return Stored(meta["path"], meta["size"], f"{meta['size']}-{meta.get('e_tag') or meta['last_modified']}")


class _Reading(io.RawIOBase):
    """
    An object, read in ranges.

    Each is a request of its own, which is tried again alone and has the time for itself that a request may take.
    """

    def __init__(self, bucket: Bucket, stored: Stored) -> None:
        self._bucket, self._stored, self._at = bucket, stored, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        length = min(len(buffer), self._stored.size_bytes - self._at)
        if length == 0:
            return 0
        try:
            with self._bucket.ours():
                body = obstore.get_range(self._bucket.client, self._stored.path, start=self._at, length=length)
        except ConfigError as error:
            if not isinstance(error.__cause__, exceptions.NotFoundError | FileNotFoundError):
                raise
            what = f"{self._bucket.url}/{self._stored.path}"
            raise ConfigError(f"{what} was deleted while the bucket was read; begin again") from error
        buffer[: len(body)] = memoryview(body)
        self._at += len(body)
        return len(body)


def open_bucket(url: str, settings: type[Settings]) -> tuple[Bucket, Settings]:
    """
    Open the bucket that a URL names: ``s3://bucket/path?endpoint=...``, ``gs://bucket/path``, ``az://container/path``.

    Args:
        url: The URL.
        settings: A struct of what the query may say besides obstore's settings.

    Raises:
        ConfigError: The URL names no bucket, or a setting is wrong.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    ours = urlencode([pair for pair in pairs if not pair[0].startswith(_PROPERTIES)])
    address, parsed = parse(parts._replace(query=ours).geturl(), settings)
    if len(address.hosts) != 1 or address.user:
        raise ConfigError(f"{shown(url)!r} names no bucket; write {address.scheme}://bucket/folder")
    properties = {name: value for name, value in pairs if name.startswith(_PROPERTIES)}
    if parsed.endpoint:
        properties[_ENDPOINTS[address.scheme]] = parsed.endpoint
    timeout = timedelta(seconds=parsed.timeout_seconds)
    pauses = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2}
    options: Any = {  # which the client has a type for by cloud
        "config": properties or None,
        "client_options": {
            "timeout": timeout,
            "connect_timeout": min(timeout, timedelta(seconds=5)),
            "allow_http": parsed.endpoint.startswith("http://"),
            "user_agent": "raytrail",
        },
        "retry_config": {"max_retries": 10, "retry_timeout": timeout, "backoff": pauses},
    }
    bucket = f"{address.scheme}://{address.hosts[0]}"
    try:
        return Bucket(bucket, address.path.strip("/"), from_url(bucket, **options)), parsed
    except BaseException as error:
        # at some names, as azure_allow_http, the client panics, in an exception that is no `Exception`
        panics = type(error).__name__ == "PanicException"
        if not panics and not isinstance(error, (exceptions.BaseError, ValueError, TypeError)):
            raise
        raise ConfigError(f"{shown(url)!r}: {_words(error)}; mend the URL") from error


def _words(error: BaseException) -> str:
    """Return what a client's error says, on one line and without its debug output; what S3 says, if it is that."""
    text = " ".join(str(error).partition("Debug source")[0].split())
    match = re.search(r"<Code>(.*?)</Code>(?:<Message>(.*?)</Message>)?", text)
    return f"{match[1]}: {match[2]}" if match else text[:300] or type(error).__name__
