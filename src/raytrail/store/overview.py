"""What a list of clusters shows of a session, and the texts that it is found by: worked out of its last states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from raytrail.entities import installed
from raytrail.event import UNDECODABLE
from raytrail.fold import show
from raytrail.fold.layout import find
from raytrail.fold.literals import literal, quote
from raytrail.fold.sessions import SESSION
from raytrail.store.engine import Engine
from raytrail.store.figures import Cluster
from raytrail.store.last_states import StateSource, has, view_of

MOST_RUNS = 100
"""How many of a session's jobs are listed, the newest of them."""
MOST_NAMES = 50
"""How many functions, and how many classes, of a session it is found by: those that were called most."""
MOST_ERRORS = 20
"""How many different errors of tasks, and of actors, of a session it is found by: those that were met most."""
TEXT_CHARACTERS = 200
"""The beginning of a text that a session is found by."""
MESSAGE_CHARACTERS = 2_000
"""The end of an error's text in which its last line is looked for."""

WANTED_DEATHS = ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")
"""Reasons for which nodes die that were told to."""
WANTED_ENDS = ("RAY_KILL", "REF_DELETED", "OUT_OF_SCOPE", "OWNER_DIED")
"""Reasons for which actors die that did not fail."""
USERS = ("user", "username", "user_name", "owner", "submitter", "submitted_by", "who")
"""The keys of a job's metadata under which people write who they are."""

State: TypeAlias = Literal["running", "failed", "ended"]
TextKind: TypeAlias = Literal["job", "id", "function", "class", "error", "metadata"]


class SessionJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a session, which is one run of what has its name."""

    id: str
    """The submission, or the driver's job that nobody submitted."""
    name: str
    """The name that its user gave it, else the command that was run."""
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    began_ms: int | None
    ended_ms: int | None
    user: str
    """Who ran it, where its metadata say so."""


class Text(NamedTuple):
    """A text that a session is found by."""

    kind: TextKind
    text: str


class Details(NamedTuple):
    """What a session's states say beside its figures."""

    failed_tasks: int
    failed_jobs: int
    lost_nodes: int
    runs: tuple[SessionJob, ...]
    texts: tuple[Text, ...]


class SessionOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One session, as a list of clusters shows it."""

    figures: Cluster
    failed_tasks: int | None
    """Task attempts that failed. None where an older version sealed it, and no newer one has written since."""
    failed_jobs: int | None
    lost_nodes: int | None
    """Nodes that died without being told to, before the shutdown of all began."""
    runs: tuple[SessionJob, ...]
    """Its newest jobs, the newest first."""

    @property
    def state(self) -> State:
        """Whether it runs, or had a job that failed, or just ended."""
        return "running" if self.figures.alive else "failed" if self.failed_jobs else "ended"

    @property
    def seen_ms(self) -> int:
        """When it began, else when it was heard of last. 0 where neither is known."""
        return self.figures.began_ms or self.figures.last_event_ms or 0

    @property
    def lasted_ms(self) -> int | None:
        """How long it lived, or has lived so far."""
        until = self.figures.ended_ms or self.figures.last_event_ms
        return None if self.figures.began_ms is None or until is None else max(0, until - self.figures.began_ms)

    @property
    def incomplete(self) -> bool:
        """Whether something that was written is not here, or cannot be read."""
        return bool(self.figures.missing_bytes or self.figures.rejected or self.figures.damaged)


def work_out(engine: Engine, source: StateSource, before_shutdown_ms: Mapping[str, int | None]) -> dict[str, Details]:
    """
    Return what sessions' states say beside their figures.

    Args:
        engine: Reads the states.
        source: The states.
        before_shutdown_ms: The last moment before the shutdown, by session. Nodes that died later are not lost.
    """
    states = _States(engine, source)
    runs, failed_jobs, texts = _read_jobs(states)
    failed_tasks = defaultdict[str, int](int)
    for session, kind, text, met in (*_read_tasks(states), *_read_actors(states)):
        if kind == "failed":
            failed_tasks[session] = met
        else:
            texts[session][Text(kind, text[:TEXT_CHARACTERS])] = None
    lost = _count_lost(states, before_shutdown_ms)
    return {
        session: Details(
            failed_tasks[session],
            failed_jobs[session],
            lost[session],
            tuple(runs[session]),
            tuple(text for text in texts[session] if text.text),
        )
        for session in before_shutdown_ms
    }


_BY = SESSION.name
_IS_COUNTED = "type IS NOT NULL AND type != 'DRIVER_TASK'"


class _States:
    """The states of sessions, as statements ask for them."""

    def __init__(self, engine: Engine, source: StateSource) -> None:
        self._engine = engine
        self._source = source

    def ask(self, name: str, columns: Sequence[str], statement: str) -> list[tuple[Any, ...]]:
        """Return the answer about ``rows``, which are an entity's states that Ray counts, with these columns."""
        entity = installed()[name]
        if not has(entity, self._source.entities):
            return []
        wanted = [find(entity, column) for column in columns]
        items = ", ".join(f"{show.public(column)} AS {quote(column.name)}" for column in wanted)
        relation = (
            f"({view_of(entity, self._source)})"
            if entity.view
            else self._source(entity, show.read_from(entity, wanted))
        )
        counted = f" WHERE {_IS_COUNTED}" if name == "task" else ""
        return self._engine.run(f"WITH rows AS (SELECT {_BY}, {items} FROM {relation} s{counted}) {statement}")


def _read_jobs(
    states: _States,
) -> tuple[dict[str, list[SessionJob]], dict[str, int], dict[str, dict[Text, None]]]:
    """Return by session its newest jobs, how many of all failed, and the texts that all these are found by."""
    runs, failed = defaultdict[str, list[SessionJob]](list), defaultdict[str, int](int)
    texts = defaultdict[str, dict[Text, None]](dict)
    columns = [*_JOB, "start_time_ms", "end_time_ms", "metadata"]
    newest = f"row_number() OVER (PARTITION BY {_BY} ORDER BY start_time_ms DESC NULLS LAST, job_id DESC)"
    rows = states.ask(
        "job",
        columns,
        f"SELECT {_BY}, count(*) FILTER (status = 'FAILED') OVER (PARTITION BY {_BY}), {', '.join(columns)} FROM rows "
        f"QUALIFY {newest} <= {MOST_RUNS} ORDER BY {newest}",
    )
    for session, failures, *row in rows:
        failed[session] = failures
        run, own = _as_run(dict(zip(columns, row, strict=True)))
        runs[session].append(run)
        texts[session].update(dict.fromkeys(own))
    return runs, failed, texts


_JOB = ("job_id", "submission_id", "status", "entrypoint", "message", "error_type")


def _as_run(job: Mapping[str, Any]) -> tuple[SessionJob, list[Text]]:
    metadata = _texts_of(job["metadata"])
    name = metadata.get("job_name", "")
    # Ray names a job after its submission where nobody did
    name = job["entrypoint"] or "" if name in ("", job["submission_id"]) else name
    run = SessionJob(
        id=job["submission_id"] or job["job_id"] or "",
        name=name[:TEXT_CHARACTERS],
        status=job["status"] or "",
        began_ms=job["start_time_ms"],
        ended_ms=job["end_time_ms"],
        user=next((metadata[key] for key in USERS if metadata.get(key)), ""),
    )
    texts = [
        Text("job", name),
        Text("job", job["entrypoint"] or ""),
        Text("id", job["submission_id"] or ""),
        Text("id", job["job_id"] or ""),
        *(Text("metadata", f"{key}={value}") for key, value in metadata.items() if key not in _OF_RAY),
    ]
    if job["status"] == "FAILED":
        texts += [Text("error", job["error_type"] or ""), Text("error", (job["message"] or "").partition("\n")[0])]
    return run, [Text(text.kind, text.text[:TEXT_CHARACTERS]) for text in texts]


_OF_RAY = ("job_name", "job_submission_id")
"""What Ray adds to a job's metadata, which it is found by already."""


def _texts_of(metadata: str | None) -> dict[str, str]:
    """Return what a job's metadata say, as far as they are texts: they are anybody's."""
    try:
        known = msgspec.json.decode(metadata or "{}")
    except UNDECODABLE:
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}


def _read_tasks(states: _States) -> list[tuple[Any, ...]]:
    """Return the functions that sessions called most, the errors that they met most, and how many tasks failed."""
    line, failed = _last_line("error_message"), "state = 'FAILED'"
    return states.ask(
        "task",
        ["type", "state", "func_or_class_name", "error_type", "error_message"],
        # all of a session's tasks are read once
        f", met AS MATERIALIZED (SELECT {_BY}, func_or_class_name AS function, error_type AS kind, "
        f"{failed} AS failed, CASE WHEN {failed} THEN {_without_numbers(line)} END AS signature, "
        f"min(CASE WHEN {failed} THEN {_masked(line)} END) AS line, count(*) AS rows FROM rows GROUP BY ALL) "
        + _select_most("function", "function", "function", "true", MOST_NAMES)
        + " UNION ALL "
        + _select_most("error", "kind", "kind", "failed", MOST_ERRORS)
        + " UNION ALL "
        + _select_most("error", "min(line)", "kind, signature", "failed", MOST_ERRORS)
        + f" UNION ALL SELECT {_BY}, 'failed', '', sum(rows) FROM met WHERE failed GROUP BY {_BY}",
    )


def _read_actors(states: _States) -> list[tuple[Any, ...]]:
    """Return the classes of most actors of sessions, and the errors that most of them died of."""
    message = f"left(json_extract_string(death_cause, '$.*.error_message')[1], {TEXT_CHARACTERS})"
    reason = "coalesce(json_extract_string(death_cause, '$.*.reason')[1], '')"
    wanted = ", ".join(map(literal, WANTED_ENDS))
    failed = f"(state = 'DEAD' AND {reason} NOT IN ({wanted}))"
    return states.ask(
        "actor",
        ["state", "class_name", "death_cause"],
        f", met AS MATERIALIZED (SELECT {_BY}, class_name AS class, "
        f"{failed} AS failed, CASE WHEN {failed} THEN {_without_numbers(message)} END AS signature, "
        f"min(CASE WHEN {failed} THEN {_masked(message)} END) AS line, count(*) AS rows FROM rows GROUP BY ALL) "
        + _select_most("class", "class", "class", "true", MOST_NAMES)
        + " UNION ALL "
        + _select_most("error", "min(line)", "signature", "failed", MOST_ERRORS),
    )


def _select_most(kind: TextKind, text: str, by: str, condition: str, most: int) -> str:
    """Return the SELECT of the texts that are met most in each session."""
    grouped = f"SELECT {_BY}, {text} AS text, sum(rows) AS rows FROM met WHERE {condition} GROUP BY {_BY}, {by}"
    order = f"row_number() OVER (PARTITION BY {_BY} ORDER BY rows DESC, text)"
    known = f"FROM ({grouped}) WHERE text IS NOT NULL"
    return f"(SELECT {_BY}, {literal(kind)}, text, rows {known} QUALIFY {order} <= {most})"


def _last_line(text: str) -> str:
    """Return the expression of the beginning of a text's last line, which is what names an error of Python's."""
    line = f"regexp_extract(rtrim(right({text}, {MESSAGE_CHARACTERS}), E' \\n\\r\\t'), '[^\\n]*$')"
    return f"left({line}, {TEXT_CHARACTERS})"


_DIFFERS = r"\b(0x)?[0-9a-fA-F]{8,}(-[0-9a-fA-F]{4}){0,3}(-[0-9a-fA-F]{12})?\b"


def _masked(text: str) -> str:
    """Return the expression of a text without addresses, ids and long numbers. Exit codes are looked for, and short."""
    return f"regexp_replace({text}, {literal(f'{_DIFFERS}|[0-9]{{4,}}')}, '#', 'g')"


def _without_numbers(text: str) -> str:
    return f"regexp_replace({text}, {literal(f'{_DIFFERS}|[0-9]+')}, '#', 'g')"


def _count_lost(states: _States, before_shutdown_ms: Mapping[str, int | None]) -> dict[str, int]:
    """Return how many nodes of each session died without being told to, before all of them ended."""
    lost = defaultdict[str, int](int)
    columns = ["state", "end_time_ms", "_death_reason"]
    for session, state, ended_ms, reason in states.ask(
        "node", columns, f"SELECT {_BY}, {', '.join(columns)} FROM rows"
    ):
        until_ms = before_shutdown_ms.get(session)
        in_time = until_ms is None or (ended_ms or 0) <= until_ms
        lost[session] += state == "DEAD" and reason not in WANTED_DEATHS and in_time
    return lost
