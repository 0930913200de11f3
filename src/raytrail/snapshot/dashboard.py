"""Ask a living Ray's dashboard over HTTP. Nothing but Python's own library is needed for that."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from raytrail.errors import ConfigError, SourceError, SourceUnavailable

MOST_BYTES = 1 << 30
"""The most bytes of an answer that are taken. 10,000 tasks have 30 MB."""
_SKEW_SECONDS = 2.0
_SHOWN = 200


class Version(NamedTuple):
    """What a dashboard says of itself."""

    session: str
    """Ray's session. Empty where this Ray does not say it."""
    ray_version: str
    ahead_ns: int
    """How far the cluster's clock is ahead of ours, in nanoseconds. Less than two seconds counts as none."""


class Refused(SourceError):
    """The dashboard answered with an error."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
        """The status of HTTP. 0: its answer was none."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: a token is for the host that it was given for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Leave the redirect as it is, which makes it an error."""


class Dashboard:
    """
    A dashboard.

    Args:
        url: ``http://host:port``, which may have a path.
        token: Ray's token, where the cluster asks for one. Else empty.
        timeout_seconds: For each answer.

    Raises:
        ConfigError: It is no such URL.
    """

    def __init__(self, url: str, token: str = "", *, timeout_seconds: float = 60.0) -> None:
        self.url = _checked(url)
        """Its URL, without a slash at its end."""
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_seconds = timeout_seconds
        self._opener = urllib.request.build_opener(_Stay)

    def version(self) -> Version:
        """
        Return what it says of itself.

        Raises:
            ConfigError: It does not let us in.
            SourceError: It is no dashboard of Ray's, or one that does not name its session.
            SourceUnavailable: It cannot be reached.
        """
        try:
            body, date = self._open("/api/version")
            answer = json.loads(body)
            session, ray = str(answer["session_name"]), plain(answer["ray_version"], _SHOWN)
        except (Refused, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = str(error) if isinstance(error, Refused) else f"/api/version names no session: {error!r}"
            raise SourceError(
                f"no dashboard of a Ray from 2.48 on at {self.url} ({reason}); give the URL that its dashboard has in "
                "a browser, e.g. http://127.0.0.1:8265"
            ) from error
        return Version(session, ray, _ahead_ns(date))

    def ask(self, path: str) -> bytes:
        """
        Return its answer to a GET.

        Raises:
            ConfigError: It does not let us in.
            Refused: It answers with an error.
            SourceUnavailable: It cannot be reached, or does not answer in time.
        """
        return self._open(path)[0]

    def _open(self, path: str) -> tuple[bytes, str]:
        request = urllib.request.Request(self.url + path, headers=self._headers)  # noqa: S310 (http or https, by `_checked`)
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as reply:
                body: bytes = reply.read(MOST_BYTES + 1)
                date = str(reply.headers.get("Date", ""))
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise SourceUnavailable(
                f"no answer from {self.url}{path} ({reason or type(error).__name__}); see that the dashboard runs and "
                "can be reached from here"
            ) from error
        if len(body) > MOST_BYTES:
            raise Refused(f"{self.url}{path} answers with more than {MOST_BYTES} bytes; it is no dashboard of Ray's")
        return body, date

    def _refused(self, path: str, error: urllib.error.HTTPError) -> ConfigError | Refused:
        text = ""
        with error, suppress(OSError, HTTPException):  # the connection may end meanwhile
            text = " ".join(error.read(_SHOWN * 4).decode(errors="replace").split())
        if error.code in (401, 403):
            return ConfigError(
                f"{self.url} does not let us in ({error.code}); give the cluster's token in RAY_AUTH_TOKEN, or its "
                "file with --token-file"
            )
        return Refused(f"{path} is answered with {error.code}: {text:.{_SHOWN}}", error.code)


def _checked(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host = parts.hostname if parts.port is None or parts.port else None
    except ValueError:  # no port
        host = None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        shown = url.rpartition("@")[2] if "@" in url else url
        raise ConfigError(
            f"{shown!r} is no URL of a dashboard; write http://host:port, e.g. http://127.0.0.1:8265, and no token"
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _ahead_ns(date: str) -> int:
    """Return how far a clock is ahead that writes its time into each answer, in whole seconds."""
    try:
        ahead = parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0
    return int(ahead * 1_000_000_000) if abs(ahead) > _SKEW_SECONDS else 0


def plain(value: Any, most: int) -> str:
    """Return the beginning of a value as text that every reader takes: JSON may hold lone surrogates."""
    return str(value)[:most].encode("utf-8", "replace").decode()


def answered(body: bytes) -> Any:
    """
    Return what an answer of the State API holds.

    Raises:
        Refused: It is none, or it says that there is none.
    """
    try:
        answer = json.loads(body)
        if not answer["result"]:
            raise Refused(f"Ray says: {plain(answer.get('msg'), _SHOWN)}")
        return answer["data"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(f"no answer of Ray's State API: {error!r:.{_SHOWN}}") from error
