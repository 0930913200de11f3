"""What an answer is made of: one cluster at one moment, the request's words, and how a reply is encoded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from raytrail.answers import snapshots
from raytrail.errors import ConfigError
from raytrail.server.ray.state import Params
from raytrail.store import Cluster, Snapshot, Store

LiveLink = Callable[[Store, str, str], str]
"""
Returns where Ray's dashboard of a living session is, of the store, the session and its cluster's name. Empty where that
is not known.
"""


class View(NamedTuple):
    """What a request under ``/clusters/<id>`` looks at."""

    store: Store
    cluster: Cluster
    snapshot: Snapshot
    params: Params
    path: Mapping[str, Any]
    url: str
    """Where the view begins, with a slash at its end."""
    home: str
    """The same without the moment, if there is one: the cluster's own page."""
    root: str
    """Where all begins."""
    base: str
    """The path of that, with a slash at its end."""
    moment: str
    """The part of the address that says which moment is shown, with a slash at its end; nothing without one."""
    dashboard: bool
    """Whether Ray's dashboard is served at `url`."""
    user: str
    """The name of who asks. Empty where the server knows one token or none."""
    live_link: LiveLink
    """Returns where a living cluster's own dashboard is."""
    stream: Callable[[Iterator[bytes]], AsyncIterator[bytes]]
    """Takes the pieces of an answer that is too large to be made at once."""

    @property
    def here_at_last(self) -> str:
        """The path of the cluster without a moment, with a slash at its end."""
        return f"{self.base}clusters/{self.cluster.session}/"

    @property
    def here(self) -> str:
        """The path where the view begins, with a slash at its end."""
        return f"{self.here_at_last}{self.moment}"

    def param(self, name: str, default: str = "") -> str:
        """Return the first value of a parameter."""
        return first_of(self.params, name, default)

    def warnings(self) -> list[str]:
        """Return what whoever reads the answer should know of how complete it is."""
        lost, rejected = self.cluster.missing_bytes, self.cluster.rejected
        if self.cluster.snapshot_ms is not None:
            lists = snapshots.asked(self.store, self.cluster).values()
            return [f"{snapshots.remark(self.cluster)}.", *filter(None, map(snapshots.lacking, lists))]
        if not lost and not rejected:
            return []
        return [
            f"The history of this cluster is not complete: {lost:,} bytes of events are missing and {rejected:,} "
            f"lines were unreadable. {self.home} says which."
        ]


class StoreView(NamedTuple):
    """What a request looks at that is about no single cluster."""

    store: Store
    params: Params
    root: str
    """Where all begins, with a slash at its end."""
    base: str
    """The path of that."""
    user: str
    """The name of who asks. Empty where the server knows one token or none."""
    live_link: LiveLink
    """Returns where a living cluster's own dashboard is."""

    def param(self, name: str, default: str = "") -> str:
        """Return the first value of a parameter."""
        return first_of(self.params, name, default)


Answer = Callable[[View], Response]
"""Says what one route answers; called on a thread."""


def first_of(params: Mapping[str, Sequence[str]], name: str, default: str) -> str:
    """Return the first value of a parameter."""
    values = params.get(name)
    return values[0] if values else default


def encode(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


@contextmanager
def refusing_with(status: int) -> Iterator[None]:
    """Answer a wrong question with this status. Where Ray's own server does not catch its error, that is 500."""
    try:
        yield
    except ConfigError as error:
        raise HTTPException(status, str(error)) from error


def ray_answer(data: Mapping[str, Any], message: str = "", status: int = 200) -> Response:
    """Return what Ray's dashboard wraps its answers in (`rest_response`, ray/dashboard/optional_utils.py)."""
    return encode({"result": status == 200, "msg": message, "data": data}, status)
