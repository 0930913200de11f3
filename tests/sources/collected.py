"""What KubeRay's collectors leave in a bucket, of events that a real Ray posted."""

import gzip
import json
from base64 import b64decode
from pathlib import PurePosixPath

from tests.sources.posted import SESSION

CLUSTER = PurePosixPath("log/cluster-history/rayjob/team-a/nightly/nightly-x7k2p")


def lay(root, batches, session=SESSION):
    """Lay batches out below a directory as they do: a directory a node, events of jobs apart, some compressed."""
    for number, batch in enumerate(batches):
        for event in batch:
            body = next(value for name, value in event.items() if name.endswith(("Event", "Events")))
            node = b64decode(event["nodeId"]).hex()
            job = body.get("jobId")
            kind = f"job_events/{job.replace('/', '_')}" if job and "NODE" not in event["eventType"] else "node_events"
            directory = root / CLUSTER / session / node / kind
            directory.mkdir(parents=True, exist_ok=True)
            suffix = ".jsonl.gz" if number % 2 else ".jsonl"
            opened = gzip.open if number % 2 else open
            with opened(directory / f"{node}-2026-11-23-08-{number // 100:019}{suffix}", "ab") as file:
                file.write(json.dumps(event | {"sessionName": session}).encode() + b"\n")
    return root
