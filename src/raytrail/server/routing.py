"""
What a route is: a path, who answers it, and its documentation, declared once. The server and the docs are made of it.

A route reads an address as Ray's own server does: an encoded slash is part of a name, and separates nothing. A
submission may be called ``team/job-1``. Its address is ``/api/jobs/team%2Fjob-1``. ASGI's ``path`` has it decoded,
which splits the name in two. ``raw_path`` has it as it was sent.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import unquote

import msgspec
from starlette import routing
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope
from starlette.websockets import WebSocket

Matched = tuple[Match, Scope]
Endpoint = Callable[[Request], Awaitable[Response]]
ROUTE = "raytrail.route"
"""The key under which a request's scope has the path of the route that it fits, as it is declared."""
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Route(msgspec.Struct, Generic[Handler], frozen=True):
    """One declaration, of which the server makes its routing and ``docs/generate.py`` a line of the page on HTTP."""

    path: str
    """Below the server, or below each cluster and each of its moments. Names are in braces."""
    handler: Handler
    """Answers. Its docstring is the documentation."""
    api: Literal["Ray's", "ours"] = "Ray's"
    """Whose clients ask for it."""
    method: Literal["GET", "POST", "WebSocket"] = "GET"
    parameters: Mapping[str, str] = {}
    """What each name in the query means."""
    for_browsers: bool = False
    """Whether only a browser that goes there is answered, as Ray's own API has the same path for its clients."""

    @property
    def doc(self) -> str:
        """What it answers."""
        return " ".join((inspect.getdoc(self.handler) or "").split())


class NamedRoute(routing.Route):
    """A declared route, whose names may hold encoded slashes."""

    def __init__(self, declared: Route[Any], endpoint: Endpoint | None = None, *, below: str = "") -> None:
        """
        Make it of its declaration.

        Args:
            declared: The declaration.
            endpoint: Answers in place of its handler, which it calls.
            below: What its path is below.
        """
        super().__init__(f"{below}{declared.path}", endpoint or declared.handler, methods=[declared.method])
        self.path_regex = _whole(self.path_regex)
        self.declared = declared

    def matches(self, scope: Scope) -> Matched:
        """Return how well the request fits, and what it names."""
        if self.declared.for_browsers and not wants_html(scope):
            return Match.NONE, {}
        match, child = _matches(super().matches, scope)
        if match is not Match.NONE:
            child[ROUTE] = self.path
        return match, child


class NamedWebSocketRoute(routing.WebSocketRoute):
    """The same of a WebSocket."""

    def __init__(self, declared: Route[Any], endpoint: Callable[[WebSocket], Awaitable[None]], *, below: str) -> None:
        """
        Make it of its declaration.

        Args:
            declared: The declaration.
            endpoint: Speaks with who asks; it calls the handler.
            below: What its path is below.
        """
        super().__init__(f"{below}{declared.path}", endpoint)
        self.path_regex = _whole(self.path_regex)
        self.declared = declared

    def matches(self, scope: Scope) -> Matched:
        """Return how well the request fits, and what it names."""
        return _matches(super().matches, scope)


def wants_html(scope: Scope) -> bool:
    """Return whether a request comes from a browser that goes to a page."""
    return "text/html" in Headers(scope=scope).get("accept", "")


def _whole(path: re.Pattern[str]) -> re.Pattern[str]:
    """Return what fits a whole path. Starlette's ends with ``$``, which fits before a line feed at the end, too."""
    return re.compile(path.pattern.removesuffix("$") + r"\Z")


def _matches(matches: Callable[[Scope], Matched], scope: Scope) -> Matched:
    sent = (scope.get("raw_path") or b"").decode("ascii", "replace").partition("?")[0]
    if "%2f" not in sent.lower():
        return matches(scope)
    # decoded but for what would be taken for a separator, and for what says that something is encoded
    parts = (unquote(part).replace("%", "%25").replace("/", "%2F") for part in sent.split("/"))
    match, child = matches({**scope, "path": "/".join(parts)})
    if match is not Match.NONE:
        child["path_params"] = {name: unquote(value) for name, value in child["path_params"].items()}
    return match, child
