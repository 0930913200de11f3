"""
Answers of Ray's dashboard that somebody polled and kept, as events: placement groups, and Serve.

An answer tells the state of everything at the moment it was asked for. Each takes the place of the one before. An event
of it therefore has the moment that its collector can tell, and the times that the answer itself names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from raytrail.errors import EventError
from raytrail.event import UNDECODABLE
from raytrail.sources import placement_groups, serve_poll
from raytrail.sources.messages import in_base64

_Event = tuple[str, dict[str, Any]]


def events(name: str, body: bytes, at_ns: int) -> Iterator[tuple[str, bytes]]:
    """
    Yield what an answer says: event types, each with its line. Nothing of an answer that says of nothing we know.

    Args:
        name: The name it was kept under, which is ``restful__`` and the path in which ``__`` stands for each slash.
        body: The answer.
        at_ns: When all stood so, in nanoseconds since the epoch.

    Raises:
        EventError: It is no such answer.
    """
    read = _READERS.get(unquote(name).partition("?")[0])
    if read is None:
        return
    try:
        for number, (event_type, data) in enumerate(read(msgspec.json.decode(body))):
            event_id = hashlib.blake2b(b"%d %b" % (number, body), digest_size=18).hexdigest()
            yield event_type, line(event_type, data, event_id, at_ns // 1_000_000_000, {"time_ns": at_ns})
    except UNDECODABLE as error:
        raise EventError(f"expected JSON: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EventError(f"no answer of Ray's dashboard: {error!r}") from error


def line(event_type: str, data: Any, event_id: str, timestamp_s: int, times: Mapping[str, int]) -> bytes:
    """Return an event as a line, as event files have it. `times`: its time in nanoseconds, for types that tell that."""
    event = {"event_id": event_id, "source_type": f"EXPORT_{event_type}", "timestamp": timestamp_s, **times}
    return msgspec.json.encode({**event, "event_data": data}) + b"\n"


def _placement_groups(answer: Mapping[str, Any]) -> Iterator[_Event]:
    """Yield the events of ``/api/v0/placement_groups``: those up to the state of each, as its statistics tell them."""
    for group in answer["data"]["result"]["result"]:
        stats = group.get("stats") or {}
        asked_ns = int(stats.get("creation_request_received_ns") or 0)
        took_ns = int(stats.get("end_to_end_creation_latency_us") or 0) * 1000
        row = {
            **{name: value for name, value in group.items() if value is not None},
            **{name: in_base64(bytes.fromhex(group.get(name) or "")) for name in _IDS},
            "bundles": group.get("bundles") or [],
            "placement_group_creation_timestamp_ms": str(asked_ns // 1_000_000),
            "placement_group_final_bundle_placement_timestamp_ms": str(
                (asked_ns + took_ns) // 1_000_000 if asked_ns and took_ns else 0
            ),
        }
        for event in placement_groups.steps("", row):
            yield placement_groups.EVENT_TYPE, event


_IDS = ("placement_group_id", "creator_job_id")


def _serve(answer: Mapping[str, Any]) -> Iterator[_Event]:
    """Yield the events of ``/api/serve/applications/``."""
    for event_type, data in serve_poll.events_of(answer):
        yield event_type, {**data, "polled": True}


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[_Event]]] = {
    "restful__api__v0__placement_groups": _placement_groups,
    "restful__api__serve__applications": _serve,
}
