"""A live cluster's own answers, taken over HTTP from its dashboard, to compare ours with once it is gone."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from raytrail.errors import RaytrailError

if TYPE_CHECKING:
    from pathlib import Path

RESOURCES = ("tasks", "actors", "nodes", "jobs", "workers", "placement_groups")
"""What Ray's State API lists and we record."""

ROW_LIMIT = 10_000
"""The most rows Ray gives of one resource (`RAY_MAX_LIMIT_FROM_API_SERVER`)."""


def record(address: str, out: Path, *, timeout_seconds: float = 30.0) -> dict[str, Any]:
    """
    Ask a live dashboard for all it has, write that to `out` as JSON and return it.

    The answers' keys: the names in `RESOURCES` (rows of the State API, with details and drivers),
    ``tasks_summary``, ``actors_summary``, ``submissions`` (``/api/jobs/``), ``version``, and the wall clock
    around it all, ``began_ms`` and ``ended_ms``. Compare with our answers as of ``ended_ms``, and only of a
    cluster that does nothing meanwhile.

    Args:
        address: The dashboard, ``http://host:port`` or ``host:port``.
        out: The file to write.
        timeout_seconds: For each of the requests.

    Raises:
        OSError: The dashboard does not answer, or not with 200.
        RaytrailError: It answers with an error, or with a part of its rows only.

    """
    base = (address if "://" in address else f"http://{address}").rstrip("/")

    def ask(path: str) -> Any:
        with urllib.request.urlopen(base + path, timeout=timeout_seconds) as reply:
            return json.load(reply)

    def ask_state(path: str) -> dict[str, Any]:
        reply = ask(path)
        if not reply["result"]:
            raise RaytrailError(f"no answer to {base}{path}: {reply['msg']}; is the cluster well?")
        answer: dict[str, Any] = reply["data"]["result"]
        return answer

    answers: dict[str, Any] = {"began_ms": time.time_ns() // 1_000_000}
    for resource in RESOURCES:
        answer = ask_state(f"/api/v0/{resource}?detail=1&limit={ROW_LIMIT}&exclude_driver=False")
        rows = answer["result"]
        if len(rows) < answer["total"]:
            raise RaytrailError(
                f"{resource} cut short: {len(rows)} of {answer['total']} rows; record a smaller workload"
            )
        answers[resource] = rows
    for resource in ("tasks", "actors"):
        answers[f"{resource}_summary"] = ask_state(f"/api/v0/{resource}/summarize")
    answers["submissions"] = ask("/api/jobs/")
    answers["version"] = ask("/api/version")
    answers["ended_ms"] = time.time_ns() // 1_000_000
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(answers))
    return answers
