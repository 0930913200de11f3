"""What a driver asks of its Ray, and prints for the test that started it."""

import json
import os
import time
import urllib.request

DEADLINE_SECONDS = 90


def ask(path):
    """Return the dashboard's answer."""
    with urllib.request.urlopen(os.environ["RAY_API_SERVER_ADDRESS"] + path, timeout=30) as answer:
        return json.load(answer)


def post(path, body, method="POST"):
    """Ask the dashboard to do something."""
    url, headers = os.environ["RAY_API_SERVER_ADDRESS"] + path, {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def say(step, **what):
    """Print what the test is to know of a step."""
    print(json.dumps({"step": step, **what}), flush=True)  # noqa: T201 (the report)


def tell(step, path, field, wanted):
    """
    Print what the dashboard answers once it is as wanted, and has been the same for a while.

    Args:
        step: What has been done.
        path: What to ask.
        field: Of the answer, which `wanted` is asked about. How the controller itself is, never the same, is left out.
        wanted: Says whether it is as wanted.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    before = None
    while time.monotonic() < deadline:
        at_ms = time.time_ns() // 1_000_000
        answer = ask(path)
        answer.pop("controller_health_metrics", None)
        if wanted(answer[field]) and answer == before:
            # of this moment this is true: it was the answer before, and after
            say(step, at_ms=at_ms, path=path, answer=answer[field], whole=answer)
            return
        before = answer
        time.sleep(0.5)
    raise AssertionError(f"{step}: still {before}")
