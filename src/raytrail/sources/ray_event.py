"""
Events of Ray's HTTP export (`RayEvent`, events_base_event.proto) as lines of event files, in the words of Ray's own.

Ray says one thing in two ways: as rows in ``export_events/``, and, once its ``enable_ray_event`` is on, as definitions
and lifecycles that its aggregator agent posts. Here the second becomes the first, so that all that comes after, from
the agent to the pages, knows one form. Facts that a file could never tell have fields of their own, e.g. call sites,
times in nanoseconds, ports, reasons of restarts. Whatever else an event says is kept under Ray's name for it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from raytrail.errors import EventError
from raytrail.event import UNDECODABLE

_TASK_STATES = (
    # rpc.TaskStatus (common.proto, Ray 2.60), by its number, which is what the files have
    *("NIL", "PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "PENDING_OBJ_STORE_MEM_AVAIL", "PENDING_ARGS_FETCH"),
    *("SUBMITTED_TO_WORKER", "PENDING_ACTOR_TASK_ARGS_FETCH", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "RUNNING"),
    *("RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT", "FINISHED", "FAILED", "GETTING_AND_PINNING_ARGS"),
)
_TASK_STATE_NUMBERS = {name: str(number) for number, name in enumerate(_TASK_STATES)}

_HEAD = "node:__internal_head__"
"""The resource that only the head node has."""
_EMPTY: tuple[Any, ...] = ("", 0, "0", None, {}, [], "UNSPECIFIED")
_SESSION = re.compile(r"session_[A-Za-z0-9_.-]{1,200}")
_TYPE = re.compile(r"[A-Z][A-Z0-9_]{0,100}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_UPPER = re.compile("([A-Z])")
_NIL = re.compile("/*(w==|8=)?")
"""Base64 of bytes that are all ones, which is an id of nothing."""

_LONGEST_KEPT = 200
"""The longest name or address that is kept in memory. A node's id has 56 letters, and no field's name is as long."""
_MOST_ADDRESSES = 10_000


class Received(NamedTuple):
    """One event, ready for its file."""

    id: str
    """Ray's, as it wrote it."""
    session: str
    """Ray's session, which is its directory's name."""
    event_type: str
    """As in file names, e.g. ``TASK``."""
    lines: bytes
    """One or several, each ending in a newline. The last alone has the event's own id."""
    time_ns: int
    """When it was made."""
    address_of: str = ""
    """The node, in base64, whose address is in its lines if it was known. Empty where no address belongs there."""


class Line(NamedTuple):
    """The content of one line."""

    time_ns: int
    data: dict[str, Any]


class Converter:
    """
    Turns events into lines.

    An event names nodes by their id where the files have an address, so that the addresses of nodes are kept as they
    come by.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        """Addresses of nodes, by their id in base64."""
        self._asked_for = ""

    def convert(self, event: Any) -> Received:
        """
        Return the lines of an event.

        Raises:
            EventError: It cannot be read, or lacks what every event has.
        """
        head = _Message(event, "$")
        id, session, event_type = head.text("event_id"), head.text("session_name"), head.text("event_type")
        time_ns = head.time("timestamp")
        if not id or len(id) > 1000:
            raise EventError("missing or empty - at $.eventId")
        if not _SESSION.fullmatch(session):
            raise EventError(f"expected a session's name, got {session!r:.80} - at $.sessionName")
        if not _TYPE.fullmatch(event_type):
            raise EventError(f"expected an event type's name, got {event_type!r:.80} - at $.eventType")
        of_type = _KINDS.get(event_type)
        if of_type is None:
            # kept as it came: a later version may know it
            return Received(
                id, session, event_type, _encoded(id, event_type, [Line(time_ns, event)], timed=False), time_ns
            )
        kind, field, lines_of = of_type
        body = head.message(field)
        if body is None:
            raise EventError(f"missing or empty - at $.{field}")
        self._asked_for = ""
        lines = list(lines_of(self, body, time_ns))
        if not lines:
            raise EventError(f"nothing has changed - at {body.at}")
        return Received(
            id, session, kind, _encoded(id, kind, lines, timed=kind in ("ACTOR", "WORKER")), time_ns, self._asked_for
        )

    def address(self, node_id: str) -> str:
        """Return a node's address, or an empty string."""
        self._asked_for = node_id
        return self.addresses.get(node_id, "")

    def keep_address(self, node_id: str, address: str) -> None:
        """Keep a node's address, unless it can be none, and forget the oldest where there are too many."""
        if max(len(node_id), len(address)) > _LONGEST_KEPT:
            return
        self.addresses[node_id] = address
        while len(self.addresses) > _MOST_ADDRESSES:
            del self.addresses[next(iter(self.addresses))]


def session_name(raw: bytes | msgspec.Raw) -> str:
    """Return the session of an event that may be none, or nothing where it names none that a session can have."""
    try:
        event = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(event.get("sessionName") or event.get("session_name") or b'""', type=str)
    except UNDECODABLE:
        return ""
    return name if _SESSION.fullmatch(name) else ""


class _Message:
    """A message of an event: its fields by Ray's names, whether it wrote them in camel case or not."""

    def __init__(self, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            raise EventError(f"expected an object, got {type(value).__name__} - at {at}")
        self.at = at
        self._untaken = {_snake(name): inner for name, inner in value.items()}

    def text(self, name: str) -> str:
        """Take a string, an id or the name of an enumeration's value."""
        value = self._untaken.pop(name, "")
        if not isinstance(value, str):
            raise EventError(f"expected a string, got {type(value).__name__} - at {self.at}.{name}")
        return value

    def key(self, name: str) -> str:
        """Take the id of what the message is about."""
        value = self.text(name)
        if not value:
            raise EventError(f"missing or empty - at {self.at}.{name}")
        return value

    def id(self, name: str) -> str:
        """Take an id in base64. The id that Ray writes for none is empty."""
        value = self.text(name)
        return "" if _NIL.fullmatch(value) else value

    def whole(self, name: str) -> int:
        """Take a number. 64 bits are written as a string."""
        value = self._untaken.pop(name, 0)
        try:
            return int(value)
        except (TypeError, ValueError):
            raise EventError(f"expected an integer, got {value!r:.80} - at {self.at}.{name}") from None

    def time(self, name: str) -> int:
        """Take a time, in nanoseconds since the epoch."""
        return _time_ns(self.text(name), f"{self.at}.{name}")

    def any(self, name: str) -> Any:
        """Take whatever it is."""
        return self._untaken.pop(name, None)

    def message(self, name: str) -> _Message | None:
        """Take a message, or None where it is unset."""
        value = self._untaken.pop(name, None)
        return None if value is None else _Message(value, f"{self.at}.{name}")

    def messages(self, name: str) -> list[_Message]:
        """Take a list of messages."""
        value = self._untaken.pop(name, None) or []
        if not isinstance(value, list):
            raise EventError(f"expected a list, got {type(value).__name__} - at {self.at}.{name}")
        return [_Message(inner, f"{self.at}.{name}[{index}]") for index, inner in enumerate(value)]

    def amounts(self, name: str) -> dict[str, Any]:
        """Take amounts by resource, as the files have them: sorted, and whole where they are."""
        value = self._untaken.pop(name, None) or {}
        if not isinstance(value, dict):
            raise EventError(f"expected an object, got {type(value).__name__} - at {self.at}.{name}")
        return {key: _short(value[key]) for key in sorted(value)}

    def labels(self) -> dict[str, str]:
        """Take what libraries said of it, which an event has as bytes under another name than the files."""
        value = self._untaken.pop("ref_ids", None) or {}
        try:
            return {name: base64.b64decode(value[name], validate=True).decode() for name in sorted(value)}
        except (AttributeError, TypeError, ValueError) as error:
            raise EventError(f"expected texts in base64: {error} - at {self.at}.ref_ids") from None

    def rest(self) -> dict[str, Any]:
        """Return what says something and was not taken."""
        return {name: value for name, value in self._untaken.items() if value not in _EMPTY and value is not False}


def _snake(name: str) -> str:
    # of names that anybody may have made, no long one is kept
    return _snake_of_short(name) if len(name) <= _LONGEST_KEPT else _as_snake(name)


def _as_snake(name: str) -> str:
    return _UPPER.sub(lambda match: f"_{match[1].lower()}", name)


_snake_of_short = lru_cache(maxsize=10_000)(_as_snake)


def _nested(value: Any) -> Any:
    """Return a message with the names that the files have, at any depth. Not for maps: their keys are the user's."""
    if isinstance(value, dict):
        return dict(sorted((_snake(key), _nested(inner)) for key, inner in value.items()))
    return [_nested(item) for item in value] if isinstance(value, list) else value


def _short(number: Any) -> Any:
    """Return a number as C++ prints it: 1, and not 1.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


@lru_cache(maxsize=1000)
def _seconds(text: str) -> int:
    return int(datetime.strptime(f"{text}+0000", "%Y-%m-%dT%H:%M:%S%z").timestamp())


def _time_ns(text: str, at: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise EventError(f"expected a time as 2026-01-31T12:00:00.123456789Z, got {text!r:.80} - at {at}")
    try:
        return _seconds(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    except (ValueError, OverflowError):
        raise EventError(f"there is no such time as {text} - at {at}") from None


def _encoded(id: str, event_type: str, lines: list[Line], *, timed: bool) -> bytes:
    pieces = []
    for index, line in enumerate(lines, 1):
        event: dict[str, Any] = {
            # a reader that looks for the event finds it once all of its lines are there
            "event_id": id if index == len(lines) else f"{id}.{index}",
            "source_type": f"EXPORT_{event_type}",
            "timestamp": line.time_ns // 1_000_000_000,
        }
        if timed:
            event["time_ns"] = line.time_ns
        event["event_data"] = line.data
        pieces.append(msgspec.json.encode(event) + b"\n")
    return b"".join(pieces)


def _drop_unknown(**fields: Any) -> dict[str, Any]:
    """Return the fields that say something: a file's line leaves out what is not known, and so must not erase it."""
    return {name: value for name, value in fields.items() if value not in ("", None, {}, [])}


def _called(message: _Message, name: str) -> str:
    """
    Return what is called, of a function's descriptor.

    As Ray's own `_call_string` (ray/dashboard/modules/task_events/ray_event_converter.py, Ray 2.60).
    """
    descriptor = message.message(name)
    if descriptor is None:
        return ""
    if (python := descriptor.message("python_function_descriptor")) is not None:
        parts = (python.text("class_name"), python.text("function_name"))
        return ".".join(part.rpartition(".")[2] for part in parts if part)
    if (java := descriptor.message("java_function_descriptor")) is not None:
        return ".".join(filter(None, (java.text("class_name"), java.text("function_name"))))
    if (cpp := descriptor.message("cpp_function_descriptor")) is not None:
        return cpp.text("function_name")
    return ""


def _task(body: _Message, attempt: str = "task_attempt") -> dict[str, Any]:
    return {
        "task_id": body.key("task_id"),
        "attempt_number": body.whole(attempt),
        **_drop_unknown(job_id=body.text("job_id")),
    }


def _definition(body: _Message, task: Mapping[str, Any], *, kind: str, called: str, name: str, actor: str) -> Any:
    body.any("is_detached_actor")  # the actor's own events say so
    info = {
        "type": kind,
        "func_or_class_name": called,
        **_drop_unknown(
            name=name,
            language=body.text("language"),
            parent_task_id=body.text("parent_task_id"),
            actor_id=actor,
            placement_group_id=body.id("placement_group_id"),
            call_site=body.text("call_site"),
            # left out where it has no options. A driver has none at all
            fallback_strategy=_nested(body.any("fallback_strategy"))
            or ({} if kind == "DRIVER_TASK" else {"options": []}),
        ),
        "required_resources": body.amounts("required_resources"),
        "labels": body.labels(),
        "label_selector": body.any("label_selector") or {},
        "runtime_env_info": {"serialized_runtime_env": body.text("serialized_runtime_env")},
    }
    return {**task, "task_info": {**info, **body.rest()}}


def _task_definition(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    task, kind = _task(body), body.text("task_type")
    actor = _actor_of(task["task_id"]) if kind == "ACTOR_CREATION_TASK" else ""
    called, name = _called(body, "task_func"), body.text("task_name")
    yield Line(time_ns, _definition(body, task, kind=kind, called=called, name=name, actor=actor))


def _actor_task_definition(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    task, actor = _task(body), body.text("actor_id")
    called, name = _called(body, "actor_func"), body.text("actor_task_name")
    yield Line(time_ns, _definition(body, task, kind="ACTOR_TASK", called=called, name=name, actor=actor))


def _actor_of(task_id: str) -> str:
    """Return the actor that a task creates: a task's id is 8 bytes of its own, then the actor's (TaskID, id.h)."""
    try:
        return base64.b64encode(base64.b64decode(task_id, validate=True)[8:]).decode()
    except binascii.Error:
        raise EventError(f"expected base64, got {task_id!r:.80} - at $.task_definition_event.task_id") from None


def _task_lifecycle(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    task = _task(body)
    times = {}
    for moved in body.messages("state_transitions"):
        state = moved.text("state")
        if state not in _TASK_STATE_NUMBERS:
            raise EventError(f"{state!r:.80} is no state of a task - at {moved.at}.state")
        times[_TASK_STATE_NUMBERS[state]] = str(moved.time("timestamp"))
    updates = _drop_unknown(
        node_id=body.id("node_id"),
        worker_id=body.id("worker_id"),
        worker_pid=body.whole("worker_pid") or None,
        is_debugger_paused=body.any("is_debugger_paused"),
        actor_repr_name=body.text("actor_repr_name"),
        state_ts_ns=times,
    )
    if (error := body.message("ray_error_info")) is not None:
        # the actor's own events tell the rest about its death
        kind, message = error.text("error_type"), error.text("error_message")
        updates["error_info"] = _drop_unknown(error_type=kind, error_message=message)
    if (log := body.message("task_log_info")) is not None:
        files = {name: log.text(name) for name in ("stdout_file", "stderr_file")}
        places = {name: log.any(name) for name in ("stdout_start", "stdout_end", "stderr_start", "stderr_end")}
        updates["task_log_info"] = {**_drop_unknown(**files, **places), **log.rest()}
    yield Line(time_ns, {**task, "state_updates": {**updates, **body.rest()}})


def _task_profile(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    task = _task(body, "attempt_number")
    profile = body.message("profile_events")
    if profile is None:
        raise EventError(f"missing or empty - at {body.at}.profile_events")
    events = profile.any("events") or []
    if not isinstance(events, list):
        raise EventError(f"expected a list, got {type(events).__name__} - at {profile.at}.events")
    fields = _drop_unknown(
        component_type=profile.text("component_type"),
        component_id=profile.text("component_id"),
        node_ip_address=profile.text("node_ip_address"),
        events=_nested(events),
    )
    yield Line(time_ns, {**task, "profile_events": {**fields, **profile.rest()}, **body.rest()})


def _actor_definition(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    fields = _drop_unknown(
        actor_id=body.key("actor_id"),
        job_id=body.text("job_id"),
        class_name=body.text("class_name"),
        name=body.text("name"),
        ray_namespace=body.text("ray_namespace"),
        serialized_runtime_env=body.text("serialized_runtime_env"),
        placement_group_id=body.id("placement_group_id"),
        call_site=body.text("call_site"),
        parent_id=body.id("parent_id"),
        is_detached=body.any("is_detached"),
    )
    fields |= {
        "required_resources": body.amounts("required_resources"),
        "labels": body.labels(),
        "label_selector": body.any("label_selector") or {},
    }
    yield Line(time_ns, {**fields, **body.rest()})


def _actor_lifecycle(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    actor_id = body.key("actor_id")
    for moved in body.messages("state_transitions"):
        fields = _drop_unknown(
            actor_id=actor_id,
            state=moved.text("state"),
            node_id=moved.id("node_id"),
            worker_id=moved.id("worker_id"),
            repr_name=moved.text("repr_name"),
            pid=moved.whole("pid") or None,
            port=moved.whole("port") or None,
            restart_reason=moved.text("restart_reason"),
            death_cause=_nested(moved.any("death_cause")),
        )
        at_ns = moved.time("timestamp")
        yield Line(at_ns, {**fields, **moved.rest()})


def _node_definition(converter: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    node_id, address = body.key("node_id"), body.text("node_ip_address")
    converter.keep_address(node_id, address)
    began_ns = body.time("start_timestamp")
    fields = _drop_unknown(
        node_id=node_id,
        node_manager_address=address,
        node_name=body.text("node_name"),
        start_time_ms=str(began_ns // 1_000_000),
        hostname=body.text("hostname"),
        instance_id=body.text("instance_id"),
        instance_type_name=body.text("instance_type_name"),
    )
    yield Line(time_ns, {**fields, "labels": body.any("labels") or {}, **body.rest()})


def _node_lifecycle(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    node_id = body.key("node_id")
    for moved in body.messages("state_transitions"):
        state, at_ns, resources = moved.text("state"), moved.time("timestamp"), moved.amounts("resources")
        fields = _drop_unknown(
            node_id=node_id,
            state=state,
            resources_total=resources,
            is_head_node=_HEAD in resources if resources else None,
            end_time_ms=str(at_ns // 1_000_000) if state == "DEAD" else "",
            death_info=_nested(moved.any("death_info")),
        )
        yield Line(at_ns, {**fields, **moved.rest()})


def _job_definition(converter: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    node_id, config = body.id("driver_node_id"), body.message("config")
    fields = _drop_unknown(
        job_id=body.key("job_id"),
        driver_pid=str(body.whole("driver_pid") or ""),
        driver_node_id=node_id,
        driver_ip_address=converter.address(node_id),
        entrypoint=body.text("entrypoint"),
    )
    if config is not None:
        runtime_env = {"serialized_runtime_env": config.text("serialized_runtime_env")}
        metadata = config.any("metadata") or {}
        fields["config"] = {"metadata": metadata, "runtime_env_info": runtime_env, **config.rest()}
    yield Line(time_ns, {**fields, **body.rest()})


def _job_lifecycle(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    job_id = body.key("job_id")
    for moved in body.messages("state_transitions"):
        state, at_ns = moved.text("state"), moved.time("timestamp")
        times = {"CREATED": "start_time", "FINISHED": "end_time"}
        if state not in times:
            raise EventError(f"{state!r:.80} is no state of a driver's job - at {moved.at}.state")
        fields = {"job_id": job_id, "is_dead": state == "FINISHED", times[state]: str(at_ns // 1_000_000)}
        yield Line(at_ns, {**fields, **moved.rest()})


def _worker_definition(converter: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    node_id = body.id("node_id")
    fields = _drop_unknown(
        worker_id=body.key("worker_id"),
        node_id=node_id,
        ip=converter.address(node_id),
        worker_type=body.text("worker_type"),
        pid=body.whole("pid") or None,
    )
    yield Line(time_ns, {**fields, **body.rest()})


def _worker_lifecycle(_: Converter, body: _Message, time_ns: int) -> Iterator[Line]:
    worker_id, job_id = body.key("worker_id"), body.id("job_id")
    for moved in body.messages("state_transitions"):
        times = ("worker_launch_time_ms", "worker_launched_time_ms", "start_time_ms", "end_time_ms")
        state, at_ns = moved.text("state"), moved.time("timestamp")
        known = {name: str(moved.whole(name) or "") for name in times}
        ended = moved.message("death_info")
        fields = _drop_unknown(
            worker_id=worker_id,
            job_id=job_id,
            is_alive=state == "ALIVE",
            **known,
            **({} if ended is None else {name: ended.text(name) for name in ("exit_type", "exit_detail")}),
            since_ns=str(at_ns),
        )
        yield Line(at_ns, {**fields, **({} if ended is None else ended.rest()), **moved.rest()})


_KINDS: Mapping[str, tuple[str, str, Callable[[Converter, _Message, int], Iterator[Line]]]] = {
    "TASK_DEFINITION_EVENT": ("TASK", "task_definition_event", _task_definition),
    "ACTOR_TASK_DEFINITION_EVENT": ("TASK", "actor_task_definition_event", _actor_task_definition),
    "TASK_LIFECYCLE_EVENT": ("TASK", "task_lifecycle_event", _task_lifecycle),
    "TASK_PROFILE_EVENT": ("TASK", "task_profile_events", _task_profile),
    "ACTOR_DEFINITION_EVENT": ("ACTOR", "actor_definition_event", _actor_definition),
    "ACTOR_LIFECYCLE_EVENT": ("ACTOR", "actor_lifecycle_event", _actor_lifecycle),
    "NODE_DEFINITION_EVENT": ("NODE", "node_definition_event", _node_definition),
    "NODE_LIFECYCLE_EVENT": ("NODE", "node_lifecycle_event", _node_lifecycle),
    "DRIVER_JOB_DEFINITION_EVENT": ("DRIVER_JOB", "driver_job_definition_event", _job_definition),
    "DRIVER_JOB_LIFECYCLE_EVENT": ("DRIVER_JOB", "driver_job_lifecycle_event", _job_lifecycle),
    "WORKER_DEFINITION_EVENT": ("WORKER", "worker_definition_event", _worker_definition),
    "WORKER_LIFECYCLE_EVENT": ("WORKER", "worker_lifecycle_event", _worker_lifecycle),
}
"""Each of Ray's event types that the files can say: the type of its lines, the field that holds it, and how it is read.

Ray 2.60 defines events of placement groups and submission jobs, too, and sends none.
"""
