"""
Routes that read an address as Ray's own server does: an encoded slash is part of a name, and separates nothing.

A submission may be called ``team/job-1``. Its address is ``/api/jobs/team%2Fjob-1``. ASGI's ``path`` has it decoded,
which splits the name in two; ``raw_path`` has it as it was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from starlette.routing import Match, Route, WebSocketRoute
from starlette.types import Scope

Matched = tuple[Match, Scope]


class NamedRoute(Route):
    """A route whose names may hold encoded slashes."""

    def matches(self, scope: Scope) -> Matched:
        """Return how well the request fits, and what it names."""
        return _matches(super().matches, scope)


class NamedWebSocketRoute(WebSocketRoute):
    """The same of a WebSocket."""

    def matches(self, scope: Scope) -> Matched:
        """Return how well the request fits, and what it names."""
        return _matches(super().matches, scope)


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
