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
from typing import Any, NamedTuple

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
        message = "Both node id and node ip are not provided. Please provide at least one of them."
        return ray_answer({"result": None}, message, 400)
    if glob.startswith("/") or ".." in glob.split("/"):
        message = f"Invalid glob filter: {glob}. It must be a relative path and cannot contain '..'."
        return ray_answer({"result": None}, message, 400)
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
        part = _find(_Asked.read(view), finder)
    except (ConfigError, NotFoundError) as error:
        return PlainTextResponse(str(error), 500)  # as Ray, whose proxy would answer a 404 from another cluster
    end = part.log.size if part.end is None else min(part.end, part.log.size)
    start = min(part.start, end)
    if lines > 0:
        start = max(start, finder.last_lines(part.log, end, lines))
    pieces: Iterator[bytes] = view.store.read_log(view.cluster.session, part.log, start, end)
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
    _, part = view.store.log_finder(view.snapshot).of_job(job["submission_id"])
    return part.log if part else None


_NODE = {
    "node_id": "whose logs",
    "node_ip": "the node's address, in place of `node_id`. An unknown address means the head node",
}
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


class _Asked(NamedTuple):
    """Which log a request asks for."""

    node_id: str
    node_ip: str
    filename: str
    actor_id: str
    task_id: str
    submission_id: str
    pid: int
    attempt_number: int
    suffix: str

    @classmethod
    def read(cls, view: View) -> _Asked:
        """
        Read the parameters.

        Raises:
            ConfigError: They do not fit together, in Ray's words.
        """
        asked = cls(
            node_id=view.param("node_id"),
            node_ip=view.param("node_ip"),
            filename=view.param("filename"),
            actor_id=view.param("actor_id"),
            task_id=view.param("task_id"),
            submission_id=view.param("submission_id"),
            pid=_int(view, "pid", 0),
            attempt_number=_int(view, "attempt_number", 0),
            suffix=view.param("suffix", "out"),
        )
        for wrong, message in asked._mistakes():
            if wrong:
                raise ConfigError(message)
        return asked

    def _mistakes(self) -> Iterator[tuple[object, str]]:
        """Yield what may be wrong, in Ray's order, with whether it is."""
        yield (
            not (self.node_id or self.node_ip or self.actor_id or self.task_id),
            "node_id or node_ip must be provided as constructor arguments when no actor or task_id is supplied as "
            "arguments.",
        )
        yield (
            self.node_id and self.node_ip,
            "Both node_id and node_ip are given. Only one of them can be provided. "
            f"Given node id: {self.node_id}, given node ip: {self.node_ip}",
        )
        yield (
            not (self.actor_id or self.task_id or self.pid or self.filename or self.submission_id),
            "None of actor_id, task_id, pid, submission_id or filename is provided. At least one of them is required "
            "to fetch logs.",
        )
        yield (
            self.suffix not in ("out", "err"),
            f"Invalid suffix: {self.suffix}. Must be one of 'out' or 'err'.",
        )
        yield (
            self.filename.startswith("/") or ".." in self.filename.split("/"),
            f"filename {self.filename!r} is not within the logs; give one that /api/v0/logs lists",
        )


def _find(asked: _Asked, finder: LogFinder) -> LogPart:
    """
    Resolve what is asked for to a log and a part of it.

    Raises:
        NotFoundError: There is no such log, in Ray's words.
    """
    node_id = asked.node_id or (finder.node(asked.node_ip) if asked.node_ip else "")
    if asked.actor_id:
        node_id, part = finder.of_actor(asked.actor_id, asked.suffix)
    elif asked.task_id:
        return finder.of_task(asked.task_id, asked.attempt_number, asked.suffix)
    elif asked.submission_id:
        node_id, part = finder.of_job(asked.submission_id)
    elif asked.pid:
        part = finder.of_worker(node_id, asked.suffix, pid=asked.pid)
    else:
        part = finder.named(node_id, asked.filename)
        if part is None:
            raise NotFoundError(f"A file is not found at: {asked.filename}")
    if part is None:
        raise _not_found(asked, node_id)
    return part


def _not_found(asked: _Asked, node_id: str) -> NotFoundError:
    return NotFoundError(
        "Could not find a log file. Please make sure the given option exists in the cluster.\n"
        f"\tnode_id: {node_id or None}\n\tfilename: None\n\tactor_id: {asked.actor_id or None}\n"
        f"\ttask_id: None\n\tpid: {asked.pid or None}\n\tsuffix: {asked.suffix}\n"
        f"\tsubmission_id: {asked.submission_id or None}\n\tattempt_number: {asked.attempt_number}\n"
    )


def _by_component(names: Iterable[str]) -> dict[str, list[str]]:
    """Sort logs by component, as `LogsManager._categorize_log_files` of Ray 2.60."""
    by_component = defaultdict(list)
    for name in names:
        by_component[_component(name)].append(name)
    return by_component


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
