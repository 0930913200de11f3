"""The public form of events, as whoever subscribes to them has it."""

import json

from tests.sources import posted

from raytrail.event import Chunk
from raytrail.fold.public import public_events


def test_each_of_the_changes_that_were_posted_together_has_an_id_of_its_own():
    moved = [{"state": state, "timestamp": "2026-11-23T08:10:10Z"} for state in ("PENDING_CREATION", "ALIVE")]
    event = posted.event("ACTOR_LIFECYCLE_EVENT", "actorLifecycleEvent", {"actorId": "AQ==", "stateTransitions": moved})
    chunk = Chunk(
        cluster="",
        session=posted.SESSION,
        node_id="",
        event_type=event["eventType"],
        segments=(),
        data=json.dumps(event).encode() + b"\n",
    )
    ids = {event["actor"]["state"]: event["event_id"] for event in public_events(chunk)}
    assert ids == {"PENDING_CREATION": "e1.1", "ALIVE": "e1"}
