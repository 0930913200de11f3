"""What Ray's HTTP export posts: events that a real Ray 2.60 did, and made-up ones."""

import json
import lzma
import tarfile
from pathlib import Path

from raytrail.entities import Entity, PostedEvent, posted_event

_CAPTURES = Path(__file__).parents[1] / "captures"
CAPTURES = _CAPTURES / "ray-2.60.tar.xz"
SESSION = "session_2026-11-23_08-08-44_501906_11619"


def declared_event(event_type) -> tuple[Entity, PostedEvent]:
    """Return the entity that events of this type tell of, and what is declared of the type; there is one."""
    declared = posted_event(event_type)
    assert declared
    return declared


def captured():
    """Return all batches that a real Ray 2.60 posted while it worked through the varied workload, in their order."""
    with tarfile.open(CAPTURES) as archive:
        member = archive.extractfile("ray_events/all_batches.jsonl")
        assert member is not None
        return [json.loads(line)["events"] for line in member]


def captured_lines():
    """Return the lines of event files that `captured` events were converted to on their node, by the events' ids."""
    with lzma.open(_CAPTURES / "ray-2.60-lines.ndjson.xz") as file:
        return {row["id"]: row["lines"] for row in map(json.loads, file)}


def odd():
    """
    Return events that are odd in some way: what is odd, the event, and its lines, or why it had none.

    The lines are those that a receiver made of them when it still converted events on the node.
    """
    with lzma.open(_CAPTURES / "odd-ray-events.ndjson.xz") as file:
        return [json.loads(line) for line in file]


def event(kind, field, body, **fields):
    return {
        "eventId": "e1",
        "sourceType": "GCS",
        "eventType": kind,
        "timestamp": "2026-11-23T08:10:10.057820789Z",
        "sessionName": SESSION,
        field: body,
        **fields,
    }
