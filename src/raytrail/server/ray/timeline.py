"""
Timelines for chrome://tracing and Perfetto: what each process did, as Ray's dashboard and ``ray timeline`` tell it.

The engine writes the events, a task's at a time, so that a timeline of any length is sent while it is read; Ray's
dashboard stops after 10 000 tasks. They are those of `chrome_tracing_dump` (ray/_private/profiling.py, Ray 2.60), and
with ``style=legacy`` those of `GlobalState.chrome_tracing_dump` (ray/_private/state.py), which has no word of tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from raytrail.entities.task_sql import PROCESS as PROCESS_SQL
from raytrail.errors import ConfigError
from raytrail.fold.literals import literal
from raytrail.server.context import View, refusing_with
from raytrail.server.ray.resources import TASKS
from raytrail.server.ray.state import read_query
from raytrail.store import Filter, Snapshot

SORTED_TASKS = 10_000
"""Up to so many attempts come in Ray's order; of more, which Ray does not show, as they are found."""
PIECE_TASKS = 1_000
"""Attempts whose events are sent at once."""

COLOURS = {
    # _default_color_mapping
    "worker_idle": "cq_build_abandoned",
    "task": "rail_response",
    "task:deserialize_arguments": "rail_load",
    "task:execute": "rail_animation",
    "task:store_outputs": "rail_idle",
    "wait_for_function": "detailed_memory_dump",
    "ray.get": "good",
    "ray.put": "terrible",
    "ray.wait": "vsync_highlight_color",
    "submit_task": "background_memory_dump",
    "fetch_and_run_function": "detailed_memory_dump",
    "register_remote_function": "detailed_memory_dump",
}
_OTHER_COLOUR = "generic_work"

NO_IDS: Mapping[str, str] = {}
MOMENT_DIGITS = 15
"""Most digits of a time in milliseconds: enough for some 30 000 years."""

_COLUMNS = (
    "task_id", "attempt_number", "job_id", "func_or_class_name", "actor_id", "_profile_component_id",
    "_creator", "_profile_component_type", "_profile_node_ip_address", "_profile_events",
)  # fmt: skip
_SPANS = (
    # in the order that Ray has them; what was said besides may be no object at all
    "list_transform(list_sort(list_transform(_profile_events, lambda s: {'stop': s.end_time, 'start': s.start_time, "
    "'name': s.event_name, 'more': s.extra_data})), lambda s: {'stop': s.stop, 'start': s.start, 'name': s.name, "
    "'more': CASE WHEN json_valid(s.more) AND json_type(s.more) = 'OBJECT' THEN s.more::JSON ELSE '{}'::JSON END})"
)
_NAME = "coalesce(s.more -> '$.name', to_json(s.name))"
_TASK = (
    "to_json({'task_id': lower(hex(task_id)), 'job_id': lower(hex(job_id)), 'attempt_number': attempt_number, "
    "'func_or_class_name': coalesce(func_or_class_name, ''), 'actor_id': lower(hex(actor_id))})"
)
_TASKS_OWN = json.dumps(
    dict.fromkeys(("task_id", "job_id", "attempt_number", "func_or_class_name", "actor_id")), separators=(",", ":")
)


def _colour(name: str) -> str:
    known = " ".join(f"WHEN {literal(event)} THEN {literal(colour)}" for event, colour in COLOURS.items())
    return f"CASE {name} {known} ELSE {literal(_OTHER_COLOUR)} END"


def timeline(view: View) -> Response:
    """What each process did, for chrome://tracing."""
    job = view.param("job_id")
    with refusing_with(500):
        pieces = draw(
            view.snapshot,
            job,
            view.param("style", "dashboard"),
            only={f"{name}_id": view.param(name) for name in ("node", "actor", "worker")},
            from_ms=_time(view, "from"),
            to_ms=_time(view, "to"),
        )
    headers = {}
    if view.param("download") == "1":
        now = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
        headers["Content-Disposition"] = f'attachment; filename="timeline-{job or None}-{now}.json"'
    return StreamingResponse(view.stream(pieces), headers=headers, media_type="application/json")


def _time(view: View, name: str) -> int | None:
    """Return a time in a query, in milliseconds."""
    text = view.param(name)
    if text and not (text.isascii() and text.isdigit() and len(text) <= MOMENT_DIGITS):
        raise ConfigError(f"{name} {text!r}: it is a time in milliseconds since 1970")
    return int(text) if text else None


def draw(
    snapshot: Snapshot,
    job: str,
    style: str,
    *,
    only: Mapping[str, str] = NO_IDS,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> Iterator[bytes]:
    """
    Return a timeline as JSON, in pieces.

    Args:
        snapshot: The cluster at a moment.
        job: A driver job's id; empty draws all.
        style: ``dashboard`` or ``legacy``.
        only: Ids by their column, such as ``node_id``, which alone are drawn. Empty ones are not asked for.
        from_ms: Only attempts that ended at this time or later, in milliseconds since 1970. None draws all.
        to_ms: Only attempts that began before this time.

    Raises:
        ConfigError: There is no such style, or the job is no id.
    """
    if style not in ("dashboard", "legacy"):
        raise ConfigError(f"style {style!r}: it is dashboard or legacy")
    params: dict[str, list[str]] = {"exclude_driver": ["false" if style == "legacy" else "true"]}
    if job:
        params |= {"filter_keys": ["job_id"], "filter_predicates": ["="], "filter_values": [job]}
    where = [*read_query(TASKS, params).where]
    where += [Filter(column, "=", id) for column, id in only.items() if id]
    where += [Filter("end_time_ms", ">=", from_ms)] if from_ms is not None else []
    where += [Filter("start_time_ms", "<", to_ms)] if to_ms is not None else []
    pieces = _legacy(snapshot, where) if style == "legacy" else _dashboard(snapshot, where)
    # what fails before anything is sent is told as it should be
    return chain([next(pieces)], pieces)


def _dashboard(snapshot: Snapshot, where: Sequence[Filter]) -> Iterator[bytes]:
    """Yield what the dashboard answers: numbers for nodes and processes, then their names."""
    profiled, params = _profiled(snapshot, where)
    # numbered as Ray meets them; viewers take no names for numbers
    processes = snapshot.run(
        "SELECT ip, kind, process, count(*) FROM "
        f"{profiled} GROUP BY ALL ORDER BY min({{'task': task_id, 'attempt': -attempt_number}})",
        params,
    )
    nodes = {ip: number for number, ip in enumerate(dict.fromkeys(ip for ip, *_ in processes))}
    given, usual = _colour("s.more ->> '$.cname'"), _colour("s.name")
    colour = f"CASE WHEN json_exists(s.more, '$.cname') THEN {given} ELSE {usual} END"
    # what is said of the task takes the place of what the span says under the same name
    args = (
        f"CASE json_merge_patch(s.more, '{_TASKS_OWN}') WHEN '{{}}' THEN {_TASK} "
        f"ELSE ((json_merge_patch(s.more, '{_TASKS_OWN}')::VARCHAR)[:-2] || ',' || ({_TASK}::VARCHAR)[2:])::JSON END"
    )
    event = (
        f"{{'cat': s.name, 'name': {_NAME}, 'pid': pid, 'tid': tid, 'ts': s.start / 1e6 * 1e3, "
        f"'dur': s.stop / 1e6 * 1e3 - s.start / 1e6 * 1e3, 'cname': {colour}, 'args': {args}, 'ph': 'X'}}"
    )
    numbered = "(SELECT unnest(?::VARCHAR[]) AS ip, unnest(?::VARCHAR[]) AS kind, unnest(?::BLOB[]) AS process, "
    numbered += "unnest(?::BIGINT[]) AS pid, unnest(?::BIGINT[]) AS tid)"
    columns = [
        *([process[place] for process in processes] for place in range(3)),
        [nodes[ip] for ip, *_ in processes],
        list(range(len(processes))),
    ]
    comma = b"["
    for texts in _texts(snapshot, event, f"{profiled} JOIN {numbered} USING (ip, kind, process)", [*params, *columns],
                        in_order=sum(process[3] for process in processes) <= SORTED_TASKS):  # fmt: skip
        yield comma + texts
        comma = b","
    names = [
        *({"name": "process_name", "args": {"name": f"Node {ip}"}, "pid": number, "tid": None, "ph": "M"}
          for ip, number in nodes.items()),
        *({"name": "thread_name", "args": {"name": f"{kind}:{process.hex()}"}, "pid": nodes[ip], "tid": number,
           "ph": "M"} for number, (ip, kind, process, _) in enumerate(processes)),
    ]  # fmt: skip
    yield (comma + msgspec.json.encode(names)[1:] if names else comma + b"]")


def _legacy(snapshot: Snapshot, where: Sequence[Filter]) -> Iterator[bytes]:
    """Yield what the command writes: nodes and processes by name, drivers' own tasks too, nothing of the tasks."""
    profiled, params = _profiled(snapshot, where)
    usual = _colour("s.name")
    event = (
        f"{{'cat': s.name, 'name': {_NAME}, 'pid': ip, 'tid': kind || ':' || lower(hex(process)), "
        f"'ts': s.start / 1e3, 'dur': (s.stop - s.start) / 1e3, 'ph': 'X', "
        f"'cname': coalesce(s.more -> '$.cname', to_json({usual})), 'args': s.more}}"
    )
    comma = b"["
    for texts in _texts(snapshot, event, profiled, params, in_order=False):
        yield comma + texts
        comma = b","
    yield b"]" if comma == b"," else b"[]"


def _profiled(snapshot: Snapshot, where: Sequence[Filter]) -> tuple[str, list[Any]]:
    """Return the relation, with its parameters, of the attempts that have spans."""
    relation, params = snapshot.relation("task", _COLUMNS, where)
    return (
        "(SELECT task_id, attempt_number, job_id, func_or_class_name, actor_id, _profile_events, "
        "coalesce(_profile_node_ip_address, '') AS ip, _profile_component_type AS kind, "
        f"coalesce({PROCESS_SQL}, ''::BLOB) AS process FROM {relation} "
        "WHERE _profile_component_type IN ('worker', 'driver') AND len(_profile_events) > 0)"
    ), params


def _texts(snapshot: Snapshot, event: str, profiled: str, params: Sequence[Any], *, in_order: bool) -> Iterator[bytes]:
    """Yield the events as JSON, commas between them, those of many attempts at once."""
    statement = (
        f"SELECT array_to_string(list_transform({_SPANS}, lambda s: to_json({event})::VARCHAR), ',') FROM {profiled}"
    )
    if in_order:
        statement += " ORDER BY task_id, attempt_number DESC"
    for rows in snapshot.stream(statement, params, PIECE_TASKS):
        yield ",".join(text for (text,) in rows).encode()
