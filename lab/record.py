"""A live cluster's own answers, taken over HTTP from its dashboard, to compare ours with once it is gone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from lab.questions import paths
from raytrail.errors import RaytrailError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RESOURCES = ("tasks", "actors", "nodes", "jobs", "workers", "placement_groups")
"""The resources that Ray's State API lists and we record."""

LOGS_OF_EACH = 20
"""The number of tasks and actors whose logs are recorded."""

ROW_LIMIT = 10_000
"""The most rows Ray gives of one resource (`RAY_MAX_LIMIT_FROM_API_SERVER`)."""


def record(address: str, out: Path, *, timeout_seconds: float = 30.0) -> dict[str, Any]:
    """
    Ask a live dashboard for all it has, write that to `out` as JSON and return it.

    The answers' keys: the names in `RESOURCES` (rows of the State API, with details and drivers),
    ``tasks_summary``, ``actors_summary``, ``submissions`` (``/api/jobs/``), ``version``, and the wall clock
    around these, ``began_ms`` and ``ended_ms``. Compare with our answers as of ``ended_ms``, and only of a
    cluster that does nothing meanwhile. Last comes ``asked``: what was answered to each path of
    `lab.questions`, with its ``status``, ``body``, and ``at_ms``, when it was asked.

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
    jobs = [job["job_id"] for job in answers["jobs"] if job["job_id"]]
    nodes, actors = ([row[name] for row in answers[f"{name[:-3]}s"]] for name in ("node_id", "actor_id"))
    answers["asked"] = ask_each(base, paths(jobs, nodes, actors), timeout_seconds=timeout_seconds)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(answers))
    return answers


def ask_each(base: str, asked: Iterable[str], *, timeout_seconds: float = 30.0) -> dict[str, dict[str, Any]]:
    """
    Ask a live dashboard, or a history that answers in its place, for each of some paths.

    Args:
        base: The URL that paths are added to.
        asked: The paths, as of `lab.questions`.
        timeout_seconds: For each of the requests.

    Returns:
        By path: its ``status``, its ``body`` (decoded where the status is 200), and ``at_ms``, when it was asked.

    Raises:
        OSError: Nobody answers.
    """
    return {path: _asked(base + path, timeout_seconds) for path in asked}


def record_logs(address: str, answers: dict[str, Any], *, timeout_seconds: float = 30.0) -> dict[str, str]:
    """
    Ask a live dashboard's log API for the output of some tasks and actors, and of its submission jobs.

    Args:
        address: As in `record`.
        answers: The result of `record`.
        timeout_seconds: For each of the requests.

    Returns:
        The texts that it answered, those of errors too, by path.

    Raises:
        OSError: The dashboard does not answer.
    """
    base = (address if "://" in address else f"http://{address}").rstrip("/")
    return {path: _text(base + path, timeout_seconds) for path in _logs(answers)}


def _logs(answers: dict[str, Any]) -> list[str]:
    # some of each type, in whichever order Ray lists them
    tasks = sorted(answers["tasks"], key=lambda task: str(task["type"]))
    of_tasks = [
        f"/api/v0/logs/file?task_id={task['task_id']}&attempt_number={task['attempt_number']}&suffix={suffix}"
        for task in tasks[:: max(1, len(tasks) // LOGS_OF_EACH)]
        for suffix in ("out", "err")
    ]
    of_actors = [
        f"/api/v0/logs/file?actor_id={actor['actor_id']}&suffix={suffix}&lines=-1"
        for actor in answers["actors"][:LOGS_OF_EACH]
        for suffix in ("out", "err")
    ]
    of_jobs = [f"/api/jobs/{job['submission_id'] or job['job_id']}/logs" for job in answers["submissions"]]
    return [*of_tasks, *of_actors, *of_jobs]


def _text(url: str, timeout_seconds: float) -> str:
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:
            return str(reply.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")


def _asked(url: str, timeout_seconds: float) -> dict[str, Any]:
    at_ms = time.time_ns() // 1_000_000
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:
            return {"status": reply.status, "at_ms": at_ms, "body": json.load(reply)}
    except urllib.error.HTTPError as error:
        # some that Ray does not serve everywhere, and some at which it fails
        return {"status": error.code, "at_ms": at_ms, "body": error.read().decode(errors="replace")}
