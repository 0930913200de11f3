"""What Ray's HTTP export posts: events that a real Ray 2.60 did, and made-up ones."""

import json
import tarfile
from pathlib import Path

CAPTURES = Path(__file__).parents[1] / "captures" / "ray-2.60.tar.xz"
SESSION = "session_2026-11-23_08-08-44_501906_11619"


def captured():
    """Return all batches that a real Ray 2.60 posted while it worked through the varied workload, in their order."""
    with tarfile.open(CAPTURES) as archive:
        member = archive.extractfile("ray_events/all_batches.jsonl")
        assert member is not None
        return [json.loads(line)["events"] for line in member]


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
