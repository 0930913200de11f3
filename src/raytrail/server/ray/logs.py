"""
Ray's log API over the history: which logs there are, and what is in them.

What is asked for and how it is answered, errors too, is Ray 2.60's (ray/dashboard/modules/log/log_manager.py,
log_agent.py, state/state_head.py, job/job_head.py), with these differences: a cluster that is gone has nothing to wait
for, so a stream ends where the log does; a node's ip that no node has means the head node, since ``ray logs`` sends
that of the server it asks; names come from the history alone, and no path is ever opened for them.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from raytrail.errors import ConfigError, NotFoundError
from raytrail.server.context import Answer, View, ray_answer
from raytrail.server.ray import jobs
from raytrail.server.routing import Route
from raytrail.store import Filter, Log, LogFinder, LogPart, matches

DEFAULT_LINES = 1000
"""``DEFAULT_LOG_LIMIT`` in ray/util/state/common.py."""
NEAR_BLOCKS = 4
"""How many blocks of a log are looked at for where a task's output starts."""
_ANSI = re.compile(rb"\x1b\[[(0-9);]+m")  # ANSI_ESC_PATTERN in state_head.py, with what it lets through
_ANSI_BEGUN = re.compile(rb"\x1b(\[[(0-9);]{0,30})?\Z")


def _list_logs(view: View) -> Response:
    """Ray's log API: the logs of a node, by component."""
    glob = view.param("glob", "*")
    node_id, node_ip = view.param("node_id"), view.param("node_ip")
    if not node_id and not node_ip:
        said = "Both node id and node ip are not provided. Please provide at least one of them."
        return ray_answer({"result": None}, said, 400)
    if glob.startswith("/") or ".." in glob.split("/"):
        said = f"Invalid glob filter: {glob}. It must be a relative path and cannot contain '..'."
        return ray_answer({"result": None}, said, 400)
    finder = view.store.log_finder(view.snapshot)
    names = [log.name for log in finder.of_node(node_id or finder.node(node_ip))]
    if node_id and not names and not view.snapshot.count("node", [Filter("node_id", "=", node_id)]):
        return PlainTextResponse(f"Agent for node id: {node_id} doesn't exist.", 500)
    directories = {name[: at + 1] for name in names for at, letter in enumerate(name) if letter == "/"}
    chosen = [name for name in sorted({*names, *directories}) if matches(name.rstrip("/"), glob.rstrip("/"))]
    return ray_answer({"result": _by_component(chosen)})


def _get_log(view: View) -> Response:
    """Ray's log API: one log. `file` and `stream` are the same."""
    finder = view.store.log_finder(view.snapshot)
    try:
        if view.path["media_type"] not in ("file", "stream"):
            raise ConfigError(f"Invalid media type: {view.path['media_type']}")
        lines = _int(view, "lines", DEFAULT_LINES) or DEFAULT_LINES
        found = _find(view, finder)
    except (ConfigError, NotFoundError) as error:
        return PlainTextResponse(str(error), 500)  # as Ray, whose proxy would answer a 404 from another cluster
    end = found.log.size if found.end is None else min(found.end, found.log.size)
    start = min(found.start, end)
    if lines > 0:
        start = max(start, finder.last_lines(found.log, end, lines))
    pieces: Iterator[bytes] = view.store.read_log(view.cluster.session, found.log, start, end)
    if view.param("filter_ansi_code").lower() == "true":
        pieces = _without_ansi(pieces)
    filename = re.sub(r'[^ -~]|["\\]', "_", view.param("download_filename", "file.txt"))
    headers = {"Content-Disposition": f'attachment; filename="{filename}"', "Content-Type": "text/plain"}
    return StreamingResponse(view.stream(piece for piece in pieces if piece), headers=headers)


def begun(view: View, rows: Iterable[dict[str, Any]]) -> None:
    """
    Put into attempts of tasks where their output starts, so far as their events leave it out and their logs tell it.

    A log of which a part is missing tells nothing, and neither does one in which the end is far from the start.
    """
    for row in rows:
        known = row["task_log_info"]
        if known is None or row["type"] != "NORMAL_TASK":  # no other writes its name where its output starts
            continue
        for name in ("stdout", "stderr"):
            end = known.get(f"{name}_end")
            if known.get(f"{name}_start") != 0 or not end:
                continue
            log = view.store.log(view.cluster.session, PurePosixPath(known[f"{name}_file"]).name)
            if log is not None and end <= log.size == log.stored_bytes:
                start = view.store.output_start(view.cluster.session, log, end, NEAR_BLOCKS)
                known[f"{name}_start"] = start or 0


def _job_logs(view: View) -> Response:
    """Ray's Jobs API: what a submission job's entrypoint printed, `{"logs": "..."}`."""
    return StreamingResponse(view.stream(_as_json(_tail_job(view))), media_type="application/json")


def _tail_job(view: View) -> Iterator[str]:
    """For `ray job logs --follow`: what a submission job's entrypoint printed, as text, to its end."""
    job_log = _job_log(view)
    return _text(view.store.read_log(view.cluster.session, job_log)) if job_log else iter(())


def _job_log(view: View) -> Log | None:
    """
    Return the log of a submission job's entrypoint; None where there is none.

    Raises:
        NotFoundError: There is no such job.
        ConfigError: It is no submission job.
    """
    job = jobs.get_job(view.snapshot, view.path["job"])
    if job["type"] != "SUBMISSION":
        raise ConfigError("Can only get logs of submission type jobs")
    _, found = view.store.log_finder(view.snapshot).of_job(job["submission_id"])
    return found.log if found else None


_NODE = {"node_id": "whose logs", "node_ip": "the same by address. One that no node has means the head node"}
ROUTES: tuple[Route[Answer], ...] = (
    Route(
        "/api/v0/logs",
        _list_logs,
        parameters={**_NODE, "glob": "a pattern of names, in which `*` stands for any part"},
    ),
    Route(
        "/api/v0/logs/{media_type}",
        _get_log,
        parameters={
            **_NODE,
            "filename": "the log of that name",
            "actor_id": "what the actor's worker printed",
            "task_id": "what the task printed",
            "attempt_number": "of which attempt, the first unless given",
            "submission_id": "what the job's entrypoint printed",
            "pid": "what the worker of that process printed",
            "suffix": "`err` is what was printed to stderr, else to stdout",
            "lines": f"how many lines at the end, {DEFAULT_LINES} unless given; -1 is all",
            "filter_ansi_code": "`true` leaves out what colours it",
            "download_filename": "what a browser calls the file",
        },
    ),
    Route("/api/jobs/{job}/logs", _job_logs),
)
TAIL = Route("/api/jobs/{job}/logs/tail", _tail_job, method="WebSocket")
"""Its handler gives what is sent, piece by piece."""


def _find(view: View, finder: LogFinder) -> LogPart:
    """
    Resolve what is asked for to a log and a part of it.

    Raises:
        NotFoundError: There is no such log, in Ray's words.
        ConfigError: The parameters do not fit together.
    """
    node_id, node_ip, filename = (view.param(name) for name in ("node_id", "node_ip", "filename"))
    actor_id, task_id, submission_id = (view.param(name) for name in ("actor_id", "task_id", "submission_id"))
    pid, attempt, suffix = _int(view, "pid", 0), _int(view, "attempt_number", 0), view.param("suffix", "out")
    if not (node_id or node_ip or actor_id or task_id):
        raise ConfigError(
            "node_id or node_ip must be provided as constructor arguments when no actor or task_id is supplied as "
            "arguments."
        )
    if node_id and node_ip:
        raise ConfigError(
            "Both node_id and node_ip are given. Only one of them can be provided. "
            f"Given node id: {node_id}, given node ip: {node_ip}"
        )
    if not (actor_id or task_id or pid or filename or submission_id):
        raise ConfigError(
            "None of actor_id, task_id, pid, submission_id or filename is provided. At least one of them is required "
            "to fetch logs."
        )
    if suffix not in ("out", "err"):
        raise ConfigError(f"Invalid suffix: {suffix}. Must be one of 'out' or 'err'.")
    if filename.startswith("/") or ".." in filename.split("/"):
        raise ConfigError(f"filename {filename!r} is not within the logs; give one that /api/v0/logs lists")
    node_id = node_id or (finder.node(node_ip) if node_ip else "")
    if actor_id:
        node_id, found = finder.of_actor(actor_id, suffix)
    elif task_id:
        return finder.of_task(task_id, attempt, suffix)
    elif submission_id:
        node_id, found = finder.of_job(submission_id)
    elif pid:
        found = finder.of_worker(node_id, suffix, pid=pid)
    else:
        found = finder.named(node_id, filename)
        if found is None:
            raise NotFoundError(f"A file is not found at: {filename}")
    if found is None:
        raise NotFoundError(
            "Could not find a log file. Please make sure the given option exists in the cluster.\n"
            f"\tnode_id: {node_id or None}\n\tfilename: None\n\tactor_id: {actor_id or None}\n"
            f"\ttask_id: None\n\tpid: {pid or None}\n\tsuffix: {suffix}\n"
            f"\tsubmission_id: {submission_id or None}\n\tattempt_number: {attempt}\n"
        )
    return found


def _by_component(names: Iterable[str]) -> dict[str, list[str]]:
    """Sort logs by component, as `LogsManager._categorize_log_files` of Ray 2.60."""
    found = defaultdict(list)
    for name in names:
        found[_component(name)].append(name)
    return found


def _component(name: str) -> str:
    for component, part, suffix in (
        ("worker_out", "worker", ".out"),
        ("worker_err", "worker", ".err"),
        ("core_worker", "core-worker", ".log"),
        ("driver", "core-driver", ".log"),
        ("raylet", "raylet.", ""),
        ("gcs_server", "gcs_server.", ""),
        ("internal", "log_monitor", ""),
        ("autoscaler", "monitor", ""),
        ("agent", "agent.", ""),
        ("dashboard", "dashboard.", ""),
    ):
        if part in name and name.endswith(suffix):
            return component
    return "internal"


def _without_ansi(pieces: Iterable[bytes]) -> Iterator[bytes]:
    begun = b""
    for piece in pieces:
        text = begun + piece
        cut = _ANSI_BEGUN.search(text)
        begun = text[cut.start() :] if cut else b""
        yield _ANSI.sub(b"", text[: cut.start()] if cut else text)
    yield begun


def _text(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield text with its line ends as Ray reads them, and what is no UTF-8 replaced."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def _as_json(texts: Iterable[str]) -> Iterator[bytes]:
    yield b'{"logs": "'
    for text in texts:
        yield json.dumps(text)[1:-1].encode()
    yield b'"}'


def _int(view: View, name: str, default: int) -> int:
    text: Any = view.param(name)
    try:
        return int(text) if text else default
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} is not a number") from error
