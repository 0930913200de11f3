"""What is different between two runs: which functions took longer, what fails now, and what they ran on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from raytrail.answers.failures import FailureGroup, failures_of
from raytrail.answers.functions import FunctionRow, Functions, functions
from raytrail.answers.runs import Run, find_run, jobs_of, run_before
from raytrail.answers.scope import Scope, object_or_none
from raytrail.answers.why import Job
from raytrail.errors import ConfigError
from raytrail.store import Filter, Store

MOST_CHANGES = 500
"""Most functions of a comparison, and most failures."""
_EVERY = 1_000_000


class RunSide(msgspec.Struct, frozen=True, kw_only=True):
    """One of two runs."""

    run: str
    """Its name: ``<session>`` or ``<session>/<job>``."""
    session: str
    cluster: str
    """The cluster's name. It may be empty."""
    job: str
    """The submission's id, or the driver job's. Empty for a whole session."""
    name: str
    """What it runs: its user's name of it, or its command. Empty for a whole session."""
    status: str
    """The job's status. Of a whole session ``alive`` or ``ended``."""
    start_ms: int | None
    """When it began."""
    end_ms: int | None
    """When it ended. Null while it runs, or where no event says."""
    wall_ms: int | None
    """From the one to the other, or to what was heard last."""
    tasks: int
    """Attempts of tasks."""
    failed: int
    """Those that failed."""
    running_total_ms: float
    """The running time of all functions."""


class FunctionChange(msgspec.Struct, frozen=True, kw_only=True):
    """One function in both runs. What is null was not known, and a function that was not called has no attempts."""

    function: str
    change_ms: float
    """How much more running time it took in b, all its attempts together."""
    change_share: float | None
    """Its part of the change of all running time. Null where that did not change."""
    a_tasks: int
    b_tasks: int
    a_failed: int
    b_failed: int
    a_retried: int
    b_retried: int
    a_running_p50_ms: float | None
    b_running_p50_ms: float | None
    a_running_p95_ms: float | None
    b_running_p95_ms: float | None
    a_waiting_mean_ms: float | None
    """The mean time from submission to start."""
    b_waiting_mean_ms: float | None
    a_running_total_ms: float
    b_running_total_ms: float


class FailureChange(msgspec.Struct, frozen=True, kw_only=True):
    """Failures of one signature in both runs, with those that follow from them."""

    what: Literal["new", "gone", "more", "fewer", "same"]
    """What became of it from a to b."""
    hash: str
    """The name of the signature, the same in all clusters."""
    kind: str
    """What failed: ``task``, ``actor``, ``job`` or ``node``."""
    error: str
    """The type of the exception, else Ray's type of the error."""
    text: str
    """What it said: one line, masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback. Empty where there is none."""
    functions: tuple[str, ...]
    """The functions and classes that failed most often so, in b if it was there."""
    a_count: int
    """How many failures there were of it, and because of it, in a."""
    b_count: int


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the runs were given, or ran on."""

    name: str
    """Such as ``CPU``, ``nodes`` or ``runtime_env.pip``."""
    a: str | None
    """Its value in a. Null where it had none."""
    b: str | None
    differs: bool


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs side by side."""

    a: RunSide
    """The run that is compared with."""
    b: RunSide
    """The run that is asked about."""
    functions: tuple[FunctionChange, ...]
    """Those first whose running time changed most."""
    all_functions: int
    """How many functions there are in both, those among them that are not shown."""
    failures: tuple[FailureChange, ...]
    """
    New ones first, then those that are gone, then those whose number changed.

    What was only open at the end of a run did not fail.
    """
    settings: tuple[Setting, ...]
    """Those first that differ."""
    sql: str
    """The functions of b in SQL."""
    a_sql: str
    """The functions of a in SQL."""


class _Side(NamedTuple):
    run: Run
    functions: Functions
    failures: Mapping[str, FailureGroup]
    settings: Mapping[str, str]


def diff(store: Store, a: str = "", b: str = "latest", *, limit: int = MOST_CHANGES) -> Diff:
    """
    Return what is different between two runs.

    Args:
        store: The history.
        a: The run to compare with: ``<session>`` or ``<session>/<job>``. Empty means the run before `b` of the same
            name: of a job with the same name or command, or of a session, on a cluster of the same name.
        b: The run that is asked about.
        limit: The most functions.

    Raises:
        ConfigError: One is a job, the other a whole session.
        NotFoundError: There is no such run.
    """
    of_b = find_run(store, b)
    of_a = find_run(store, a) if a else run_before(of_b)
    if (of_a.job is None) != (of_b.job is None):
        raise ConfigError(f"runs {of_a.id!r} and {of_b.id!r}: one is a job, the other a session; name two of a kind")
    first, second = _side(of_a), _side(of_b)
    changes = _function_changes(first.functions, second.functions)
    return Diff(
        a=_describe(first),
        b=_describe(second),
        functions=tuple(changes[:limit]),
        all_functions=len(changes),
        failures=tuple(_failure_changes(first.failures, second.failures)[:MOST_CHANGES]),
        settings=tuple(_settings(first.settings, second.settings)),
        sql=second.functions.sql,
        a_sql=first.functions.sql,
    )


def _side(run: Run) -> _Side:
    job = run.job.id if run.job else ""
    groups = failures_of(run.scope, job=job, limit=MOST_CHANGES).groups
    failures = {group.hash: group for group in groups if not group.ended}
    return _Side(run, functions(run.scope, job=job, limit=_EVERY), failures, _read_settings(run))


def _describe(side: _Side) -> RunSide:
    run, cluster = side.run, side.run.scope.cluster
    start_ms, end_ms = (run.job.start_time_ms, run.job.end_time_ms) if run.job else (cluster.began_ms, cluster.ended_ms)
    until_ms = end_ms or cluster.last_event_ms
    return RunSide(
        run=run.id,
        session=cluster.session,
        cluster=cluster.cluster,
        job=run.job.id if run.job else "",
        name=run.job.name if run.job else "",
        status=(run.job.status or "") if run.job else ("alive" if cluster.alive else "ended"),
        start_ms=start_ms,
        end_ms=end_ms,
        wall_ms=None if start_ms is None or until_ms is None else max(0, until_ms - start_ms),
        tasks=side.functions.tasks,
        failed=side.functions.failed,
        running_total_ms=side.functions.running_total_ms,
    )


# -- functions

_FIGURES = ("tasks", "failed", "retried", "running_p50_ms", "running_p95_ms", "waiting_mean_ms", "running_total_ms")
_NEVER = {"tasks": 0, "failed": 0, "retried": 0, "running_total_ms": 0.0}
"""The figures of a function that was not called."""


def _function_changes(a: Functions, b: Functions) -> list[FunctionChange]:
    """Return all functions of both, those first that changed most."""
    in_a, in_b = ({row.function: row for row in side.functions} for side in (a, b))
    total_ms = b.running_total_ms - a.running_total_ms
    changes = [_function_change(name, in_a.get(name), in_b.get(name), total_ms) for name in {**in_b, **in_a}]
    return sorted(changes, key=lambda change: (-abs(change.change_ms), change.function))


def _function_change(name: str, a: FunctionRow | None, b: FunctionRow | None, total_ms: float) -> FunctionChange:
    figures: dict[str, Any] = {
        f"{side}_{figure}": _NEVER.get(figure) if row is None else getattr(row, figure)
        for side, row in (("a", a), ("b", b))
        for figure in _FIGURES
    }
    change_ms = figures["b_running_total_ms"] - figures["a_running_total_ms"]
    return FunctionChange(
        function=name, change_ms=change_ms, change_share=change_ms / total_ms if total_ms else None, **figures
    )


# -- failures


_ORDER = ("new", "gone", "more", "fewer", "same")


def _failure_changes(a: Mapping[str, FailureGroup], b: Mapping[str, FailureGroup]) -> list[FailureChange]:
    changes = [_failure_change(a.get(hash), b.get(hash)) for hash in {**b, **a}]
    return sorted(changes, key=lambda of: (_ORDER.index(of.what), -abs(of.b_count - of.a_count), of.error, of.hash))


def _failure_change(a: FailureGroup | None, b: FailureGroup | None) -> FailureChange:
    group = b or a
    assert group is not None, "one of them has it"
    a_count, b_count = (of.count if of else 0 for of in (a, b))
    return FailureChange(
        what=_what(a_count, b_count),
        hash=group.hash,
        kind=group.kind,
        error=group.error,
        text=group.text,
        frame=group.frame,
        functions=tuple(part.name for part in group.functions),
        a_count=a_count,
        b_count=b_count,
    )


def _what(a: int, b: int) -> Literal["new", "gone", "more", "fewer", "same"]:
    if not a:
        return "new"
    if not b:
        return "gone"
    return "same" if a == b else "more" if b > a else "fewer"


# -- settings


def _read_settings(run: Run) -> Mapping[str, str]:
    """Return what a run was given, and what it ran on."""
    scope = run.scope
    nodes = scope.snapshot.rows("node", columns=["instance_type", "resources_total"])
    settings = {"nodes": f"{len(nodes):,}", **_resources(nodes)}
    types = Counter(node["instance_type"] for node in nodes if node["instance_type"])
    settings |= {f"nodes of type {kind}": f"{count:,}" for kind, count in sorted(types.items())}
    # of a session with one job, that is what it runs
    jobs = [run.job] if run.job else jobs_of(scope)
    if len(jobs) == 1:
        [job] = jobs
        settings["entrypoint"] = job.entrypoint or ""
        settings |= _flat("metadata", job.metadata or {}, besides=("job_submission_id", "job_name"))
        settings |= _flat("runtime_env", _runtime_env(scope, job))
    for row in scope.snapshot.rows("train_run", columns=["framework_versions"], order=["start_time_ns"], limit=1):
        settings |= _flat("version", object_or_none(row["framework_versions"]) or {})
    return settings


def _runtime_env(scope: Scope, job: Job) -> dict[str, Any]:
    column, id = ("submission_id", job.submission_id) if job.submission_id else ("job_id", job.job_id)
    where = [Filter(column, "=", id)]
    for row in scope.snapshot.rows("job", columns=["runtime_env"], where=where):
        value = row["runtime_env"]
        return object_or_none(value) or {}
    return {}


def _resources(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the resources of all nodes together."""
    totals = defaultdict[str, float](float)
    for node in nodes:
        for name, amount in (object_or_none(node["resources_total"]) or {}).items():
            if not name.startswith("node:") and isinstance(amount, int | float):
                totals[name] += amount
    return {
        f"{name} of all nodes": f"{amount:g}" if amount < 1e6 else f"{amount:,.0f}" for name, amount in totals.items()
    }


def _flat(name: str, value: Mapping[str, Any], besides: Iterable[str] = ()) -> dict[str, str]:
    """Return an object's members by their path, as text, to the second level."""
    members: dict[str, str] = {}
    for key, member in value.items():
        if key in besides:
            continue
        if isinstance(member, dict) and member:
            members |= {f"{name}.{key}.{inner}": _text(of) for inner, of in member.items()}
        elif member not in (None, "", [], {}):
            members[f"{name}.{key}"] = _text(member)
    return members


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _settings(a: Mapping[str, str], b: Mapping[str, str]) -> list[Setting]:
    rows = [Setting(name=name, a=a.get(name), b=b.get(name), differs=a.get(name) != b.get(name)) for name in {**b, **a}]
    return sorted(rows, key=lambda row: (not row.differs, row.name))
