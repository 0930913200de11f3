"""What failed, and why: failures grouped by signature, each group under the failure that the others follow from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from raytrail.answers.jobs import driver_jobs
from raytrail.answers.scope import Scope
from raytrail.answers.steps import Mark, add_up, meanwhile
from raytrail.errors import ConfigError, NotFoundError
from raytrail.fold import failures
from raytrail.fold.literals import literal
from raytrail.store import Cluster, Run, Signature, Store

BINS = 40
"""In how many parts of the time failures are counted."""

SHOWN = 30
"""How many groups are shown, if nobody says how many."""

MOST_SHOWN = 500
"""How many are shown at most."""

MOST_NAMES = 5
"""How many functions and nodes of a group are named."""

MOST_CONSEQUENCES = 10
"""How many kinds of consequences of a group are named."""

TRACEBACK_CHARACTERS = 6_000
"""How much of a traceback is given: a third from its beginning, the rest from its end."""

RUNS = 20
"""How many earlier runs are looked at for the same signature."""

MOST_READ = 200
"""Of how many sessions that live, or that an older version sealed, failures are worked out at once."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a group's failures are of one function, or were on one node."""

    name: str
    """The function or class, or the node's id."""
    count: int
    """How many of the group's failures."""


class Consequence(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that follow from those of a group."""

    kind: str
    """What failed: ``task``, ``actor`` or ``job``."""
    via: str
    """
    Why: its ``node`` died, its ``actor`` died, an ``argument`` could not be computed, or it waited for a ``task``.
    """
    error: str
    """The type of its exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    count: int
    """How many of them."""


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failures of one signature, and those that follow from them."""

    hash: str
    """The name of the signature, the same in all clusters."""
    kind: str
    """What failed: ``task``, ``actor``, ``job`` or ``node``. ``actor`` and ``node`` also where one was ended wanted."""
    error: str
    """The type of the exception, else Ray's type of the error."""
    text: str
    """What it said: one line, with numbers, ids, addresses, paths and quoted text masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback. Empty where there is none."""
    count: int
    """How many failures there are of it, and because of it."""
    share: float
    """Their share of all failures, from 0 to 1."""
    own: int
    """How many of them failed by themselves. The others are its consequences."""
    recovered: int
    """How many of them are attempts of tasks that a later attempt brought to a good end."""
    ended: bool
    """Whether these were only open when their job or the session ended: no error of their own."""
    first_ms: int | None
    """When the first of them was, in milliseconds since the epoch."""
    last_ms: int | None
    """When the last one was."""
    bins: tuple[int, ...]
    """How many of them were in each fortieth of the time from ``began_ms`` to ``ended_ms``."""
    functions: tuple[Part, ...]
    """The functions and classes that failed most often."""
    functions_count: int
    """How many functions and classes failed."""
    nodes: tuple[Part, ...]
    """The nodes on which most of them were."""
    nodes_count: int
    """On how many nodes they were."""
    consequences: tuple[Consequence, ...]
    """What follows from these failures."""
    example_id: str
    """The id of what failed first: a task, actor, node or job."""
    example_attempt: int | None
    """Of a task, the number of its attempt."""
    example_job_id: str
    """Its driver job."""
    traceback: str
    """The text of its error. Where it is long, three dots on a line stand for its middle."""
    runs_seen: int
    """In how many of the ``runs`` sessions before this one of the cluster's name there was the same signature."""
    new: bool
    """Whether there are earlier sessions, and none of the last ones has it."""


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """What failed in a session, or in one of its jobs."""

    session: str
    """The session."""
    job: str
    """The job that is asked for. Empty means all."""
    at_ms: int | None
    """The moment that is asked for. None is the end, or now."""
    began_ms: int | None
    """The beginning of the time that is looked at."""
    ended_ms: int | None
    """Its end."""
    count: int
    """How many failures there are: attempts of tasks, actors, jobs and nodes."""
    tasks: int
    """How many of them are attempts of tasks."""
    recovered: int
    """How many of these attempts a later attempt of the same task made good."""
    ended: int
    """How many were only open when their job or the session ended."""
    consequences: int
    """How many follow from others."""
    groups_count: int
    """How many groups there are. Those with the most failures are given."""
    marks: tuple[Mark, ...]
    """When what failed, died, restarted and waited to be placed, added up by parts of the time."""
    groups: tuple[FailureGroup, ...]
    """The groups: those with the most failures first, and last what was only open at the end."""
    runs: int
    """How many earlier sessions of the cluster's name ``runs_seen`` speaks of."""
    sql: str
    """The statement that gives the failures one by one, for `raytrail sql`."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure of a group."""

    kind: str
    """What failed: ``task``, ``actor``, ``job`` or ``node``."""
    id: str
    """Its id."""
    attempt_number: int | None
    """Of a task, the attempt."""
    job_id: str | None
    """The driver job that it belongs to."""
    function: str | None
    """The function, class or entrypoint."""
    node_id: str | None
    """The node that it was on."""
    at_ms: int | None
    """When it failed, in milliseconds since the epoch."""
    via: str
    """What it follows from: ``node``, ``actor``, ``argument``, ``task``, or nothing."""
    recovered_ms: int | None
    """When a later attempt of the same task succeeded."""
    error: str
    """The type of its own exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""


class FailureRows(msgspec.Struct, frozen=True, kw_only=True):
    """The failures of one group, one by one."""

    session: str
    """The session."""
    hash: str
    """The name of the group's signature."""
    job: str
    """The job that is asked for. Empty means all."""
    error: str
    """The type of the group's exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback."""
    count: int
    """How many failures the group has."""
    failures: tuple[Failure, ...]
    """The failures, the first ones first."""


class SeenGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failures of one signature in many sessions."""

    hash: str
    """The name of the signature."""
    error: str
    """The type of the exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback."""
    count: int
    """How many failures there are of it, and because of it."""
    share: float
    """Their share of all failures, from 0 to 1."""
    sessions_count: int
    """In how many sessions."""
    jobs_count: int
    """In how many jobs."""
    first_ms: int | None
    """When the first of them was, in milliseconds since the epoch."""
    last_ms: int | None
    """When the last one was."""
    bins: tuple[int, ...]
    """How many of them were in sessions that began in each fortieth of the time from ``began_ms`` to ``ended_ms``."""
    last_session: str
    """The newest session that has it."""
    last_cluster: str
    """The name of its cluster."""
    new: bool
    """Whether there are older sessions of that cluster's name among those that are looked at, and none has it."""


class AllFailures(msgspec.Struct, frozen=True, kw_only=True):
    """What failed in all sessions, or in those of one cluster's name."""

    name: str
    """The cluster's name that is asked for. Empty means all."""
    sessions_count: int
    """How many sessions are looked at."""
    sessions_failed: int
    """How many of them have failures."""
    sessions_left: int
    """How many are not looked at, as their failures are not worked out yet, or their states are damaged."""
    began_ms: int | None
    """When the first of them began."""
    ended_ms: int | None
    """When the last of the failures was."""
    count: int
    """How many failures there are."""
    groups_count: int
    """How many groups there are. Those with the most failures are given."""
    groups: tuple[SeenGroup, ...]
    """The groups, those with the most failures first."""


class _Times(msgspec.Struct):
    began_ms: int | None
    ended_ms: int | None


def failures_of(scope: Scope, *, job: str = "", limit: int = SHOWN) -> Failures:
    """
    Return what failed in a session.

    Args:
        scope: The session.
        job: A job: its id, or that of its submission. Empty means all.
        limit: How many groups to give, from 1 to `MOST_SHOWN`.

    Raises:
        NotFoundError: There is no such job.
        ConfigError: The limit is none.
    """
    if not 1 <= limit <= MOST_SHOWN:
        raise ConfigError(f"limit {limit!r} is not from 1 to {MOST_SHOWN}; give one that is")
    ids = driver_jobs(scope, job)
    began_ms, ended_ms = _span(scope, ids)
    earlier = scope.store.sealed_before(scope.cluster, RUNS)
    signatures, _ = scope.store.signatures(earlier, RUNS)
    seen = Counter(hash for of in signatures.values() for hash in {signature.hash for signature in of})
    with scope.snapshot.steps() as run:
        asked = f"counted AND coalesce({_of_job(job, ids)}, false) AS asked"
        run(f"CREATE TEMP {_kind(scope)} every AS SELECT *, {asked} FROM {scope.snapshot.failures()}")
        run("CREATE TEMP VIEW failed AS FROM every WHERE asked")
        [totals] = run(
            "SELECT count(*), count(*) FILTER (kind = 'task'), count(recovered_ms), count(*) FILTER (ended), "
            "count(*) FILTER (via != ''), count(DISTINCT root) FROM failed"
        )
        groups = _groups(run, limit, began_ms, ended_ms, totals[0])
        marks = add_up(run, "failed WHERE", began_ms, ended_ms)
    count, tasks, recovered, ended, consequences, groups_count = totals
    return Failures(
        session=scope.cluster.session,
        job=job,
        at_ms=scope.snapshot.at_ms,
        began_ms=began_ms,
        ended_ms=ended_ms,
        count=count,
        tasks=tasks,
        recovered=recovered,
        ended=ended,
        consequences=consequences,
        groups_count=groups_count,
        marks=marks + meanwhile(scope, ids, began_ms, ended_ms),
        groups=tuple(
            FailureGroup(
                **group,
                runs_seen=seen[group["hash"]],
                new=bool(earlier) and not seen[group["hash"]] and not group["ended"],
            )
            for group in groups
        ),
        runs=len(earlier),
        sql=failures.failures(scope.of_session),
    )


def failure_rows(scope: Scope, hash: str, *, job: str = "", limit: int = MOST_SHOWN) -> FailureRows:
    """
    Return the failures of one group, one by one.

    Args:
        scope: The session.
        hash: The name of the group's signature.
        job: A job: its id, or that of its submission. Empty means all.
        limit: How many failures to give.

    Raises:
        NotFoundError: There is no such job, or nothing of it failed so.
    """
    asked = f"root = {literal(hash)} AND counted AND coalesce({_of_job(job, driver_jobs(scope, job))}, false)"
    names = ", ".join(Failure.__struct_fields__)
    with scope.snapshot.steps() as run:
        of_group = f"{asked} OR hash = {literal(hash)}"
        run(f"CREATE TEMP {_kind(scope)} failed AS FROM {scope.snapshot.failures()} WHERE {of_group}")
        [(count,)] = run(f"SELECT count(*) FROM failed WHERE {asked}")
        rows = run(f"SELECT {names} FROM failed WHERE {asked} ORDER BY at_ms, id, attempt_number LIMIT {limit}")
        named = run(f"SELECT error, text, frame FROM failed WHERE hash = {literal(hash)} LIMIT 1")
    if not named or not count:
        raise NotFoundError(f"failures {hash!r}: nothing in {scope.cluster.session} failed so; see `raytrail failures`")
    [(error, text, frame)] = named
    return FailureRows(
        session=scope.cluster.session,
        hash=hash,
        job=job,
        error=error,
        text=text,
        frame=frame,
        count=count,
        failures=tuple(Failure(**dict(zip(Failure.__struct_fields__, row, strict=True))) for row in rows),
    )


def _kind(scope: Scope) -> str:
    """Return how failures are named that several statements read: a copy would take longer than all of these."""
    return "VIEW" if scope.snapshot.failures_kept else "TABLE"


def all_failures(store: Store, *, name: str = "", limit: int = SHOWN) -> AllFailures:
    """
    Return what failed in all sessions.

    Args:
        store: The history.
        name: The name of a cluster. Empty means all.
        limit: How many groups to give, from 1 to `MOST_SHOWN`.

    Raises:
        NotFoundError: No cluster has that name.
        ConfigError: The limit is none.
    """
    if not 1 <= limit <= MOST_SHOWN:
        raise ConfigError(f"limit {limit!r} is not from 1 to {MOST_SHOWN}; give one that is")
    clusters = [cluster for cluster in store.clusters() if name in ("", cluster.cluster)]
    if name and not clusters:
        raise NotFoundError(f"cluster {name!r}: not in the store; see `raytrail clusters`")
    by_session, left = store.signatures([cluster.session for cluster in clusters], MOST_READ)
    looked_at = {cluster.session: cluster for cluster in clusters if cluster.session in by_session}
    rows = [row for session in looked_at for row in by_session[session]]
    began_ms = min((cluster.began_ms for cluster in looked_at.values() if cluster.began_ms), default=None)
    ended_ms = max((row.last_ms for row in rows if row.last_ms), default=None)
    by_hash = defaultdict[str, list[Signature]](list)
    for row in rows:
        by_hash[row.hash].append(row)
    total = sum(row.count for row in rows)
    most = sorted(by_hash.values(), key=lambda of: (-sum(row.count for row in of), of[0].hash))[:limit]
    oldest = _oldest(looked_at.values())
    return AllFailures(
        name=name,
        sessions_count=len(looked_at),
        sessions_failed=sum(bool(by_session[session]) for session in looked_at),
        sessions_left=left,
        began_ms=began_ms,
        ended_ms=ended_ms,
        count=total,
        groups_count=len(by_hash),
        groups=tuple(_seen(rows, looked_at, oldest, began_ms, ended_ms, total) for rows in most),
    )


def _of_job(job: str, ids: Sequence[str]) -> str:
    """Return the condition that a failure is of a job, or of any where none is named."""
    if not job:
        return "true"
    return f"(job_id IN ({', '.join(map(literal, ids))}) OR kind = 'job' AND id = {literal(job)})"


def _span(scope: Scope, ids: Sequence[str]) -> tuple[int | None, int | None]:
    """Return the beginning and the end of what is looked at: of jobs, or of the session."""
    began_ms, ended_ms = scope.cluster.began_ms, scope.cluster.ended_ms or scope.cluster.last_event_ms
    if ids:
        [times] = scope.ask(
            _Times,
            "SELECT min(start_time_ms) AS began_ms, "
            "CASE WHEN bool_and(end_time_ms IS NOT NULL) THEN max(end_time_ms) END AS ended_ms "
            f"FROM driver_job WHERE {scope.of_session} AND job_id IN ({', '.join(map(literal, ids))})",
        )
        began_ms, ended_ms = times.began_ms or began_ms, times.ended_ms or ended_ms
    if scope.snapshot.at_ms is not None:
        ended_ms = min(scope.snapshot.at_ms, ended_ms or scope.snapshot.at_ms)
    return began_ms, ended_ms


def _groups(run: Run, limit: int, began_ms: int | None, ended_ms: int | None, total: int) -> list[dict[str, Any]]:
    """Return the largest groups, each as the fields of a `FailureGroup` that its session tells."""
    run(
        "CREATE TEMP TABLE most AS SELECT root, count(*) AS count, count(*) FILTER (via = '') AS own, "
        "count(recovered_ms) AS recovered, bool_and(ended) AS ended, min(at_ms) AS first_ms, max(at_ms) AS last_ms, "
        "count(DISTINCT function) AS functions, count(DISTINCT node_id) AS nodes FROM failed GROUP BY root "
        f"ORDER BY ended, count DESC, first_ms, root LIMIT {limit}"
    )
    functions, nodes = _parts(run, "function"), _parts(run, "node_id")
    bins, consequences, examples = _bins(run, began_ms, ended_ms), _consequences(run), _examples(run)
    return [
        {
            "hash": root,
            "count": count,
            "share": count / total,
            "own": own,
            "recovered": recovered,
            "ended": ended,
            "first_ms": first_ms,
            "last_ms": last_ms,
            "functions_count": functions_count,
            "nodes_count": nodes_count,
            "functions": functions[root],
            "nodes": nodes[root],
            "bins": tuple(bins[root][number] for number in range(BINS)),
            "consequences": consequences[root],
            **examples[root],
        }
        for root, count, own, recovered, ended, first_ms, last_ms, functions_count, nodes_count in run(
            "FROM most ORDER BY ended, count DESC, first_ms, root"
        )
    ]


def _parts(run: Run, column: str) -> Mapping[str, tuple[Part, ...]]:
    """Return how many of each group's failures have which value of a column, the most frequent ones."""
    rows = run(
        f"SELECT root, {column}, count(*) AS n FROM failed SEMI JOIN most USING (root) WHERE {column} IS NOT NULL "
        f"GROUP BY root, {column} "
        f"QUALIFY row_number() OVER (PARTITION BY root ORDER BY n DESC, {column}) <= {MOST_NAMES} "
        f"ORDER BY n DESC, {column}"
    )
    return _by_root((root, Part(name=name, count=count)) for root, name, count in rows)


def _bins(run: Run, began_ms: int | None, ended_ms: int | None) -> Mapping[str, Counter[int]]:
    """Return how many of each group's failures were in which part of the time."""
    counts = defaultdict[str, Counter[int]](Counter)
    if began_ms is not None and ended_ms is not None:
        for root, number, count in run(
            f"SELECT root, {_bin('at_ms', began_ms, ended_ms)} AS bin, count(*) FROM failed "
            "SEMI JOIN most USING (root) WHERE at_ms IS NOT NULL GROUP BY ALL"
        ):
            counts[root][number] = count
    return counts


def _bin(ms: str, began_ms: int, ended_ms: int) -> str:
    return f"greatest(0, least({BINS - 1}, ({ms} - {began_ms}) * {BINS} // {max(1, ended_ms - began_ms + 1)}))"


def _consequences(run: Run) -> Mapping[str, tuple[Consequence, ...]]:
    rows = run(
        "SELECT root, kind, via, error, text, count(*) AS n FROM failed SEMI JOIN most USING (root) WHERE via != '' "
        "GROUP BY root, kind, via, error, text "
        "QUALIFY row_number() OVER (PARTITION BY root ORDER BY n DESC, kind, via, error, text) "
        f"<= {MOST_CONSEQUENCES} ORDER BY n DESC, kind, via, error, text"
    )
    return _by_root(
        (root, Consequence(kind=kind, via=via, error=error, text=text, count=count))
        for root, kind, via, error, text, count in rows
    )


def _examples(run: Run) -> Mapping[str, dict[str, Any]]:
    """
    Return what a group is called, and its first failure.

    That is one that follows from no other, if there is one among those that are asked for. One of another job will do:
    a node belongs to none.
    """
    rows = run(
        "SELECT hash, arg_min(struct_pack(kind, error, text, frame, id, attempt_number, job_id, message), "
        "(message IS NULL, NOT counted, via != '', NOT asked, at_ms)) FROM every "
        "WHERE hash IN (SELECT root FROM most) GROUP BY hash"
    )
    return {
        hash: {
            **{name: first[name] or "" for name in ("kind", "error", "text", "frame")},
            "example_id": first["id"],
            "example_attempt": first["attempt_number"],
            "example_job_id": first["job_id"] or "",
            "traceback": _shortened(first["message"] or ""),
        }
        for hash, first in rows
    }


def _shortened(text: str) -> str:
    if len(text) <= TRACEBACK_CHARACTERS:
        return text
    first = TRACEBACK_CHARACTERS // 3
    return f"{text[:first]}\n...\n{text[first - TRACEBACK_CHARACTERS :]}"


def _by_root(pairs: Iterable[tuple[str, Any]]) -> Mapping[str, tuple[Any, ...]]:
    by_root = defaultdict[str, tuple[Any, ...]](tuple)
    for root, value in pairs:
        by_root[root] += (value,)
    return by_root


def _oldest(clusters: Iterable[Cluster]) -> dict[str, str]:
    """Return the first session of each cluster's name."""
    began = sorted((cluster.began_ms or 0, cluster.session, cluster.cluster) for cluster in clusters)
    return {name: session for _, session, name in reversed(began)}


def _seen(
    rows: Sequence[Signature],
    clusters: Mapping[str, Cluster],
    oldest: Mapping[str, str],
    began_ms: int | None,
    ended_ms: int | None,
    total: int,
) -> SeenGroup:
    """Return the group of the rows of one signature."""
    sessions = {row.session for row in rows}
    last = max(sessions, key=lambda session: (clusters[session].began_ms or 0, session))
    name, count = clusters[last].cluster, sum(row.count for row in rows)
    bins = [0] * BINS
    for row in rows:
        if row.first_ms is not None and began_ms is not None and ended_ms is not None:
            number = (row.first_ms - began_ms) * BINS // max(1, ended_ms - began_ms + 1)
            bins[max(0, min(BINS - 1, number))] += row.count
    return SeenGroup(
        hash=rows[0].hash,
        error=rows[0].error,
        text=rows[0].text,
        frame=rows[0].frame,
        count=count,
        share=count / total,
        sessions_count=len(sessions),
        jobs_count=len({(row.session, row.job_id) for row in rows if row.job_id}),
        first_ms=min((row.first_ms for row in rows if row.first_ms is not None), default=None),
        last_ms=max((row.last_ms for row in rows if row.last_ms is not None), default=None),
        bins=tuple(bins),
        last_session=last,
        last_cluster=name,
        # sessions without a name have nothing in common
        new=bool(name)
        and oldest[name] != last
        and not any(s != last and clusters[s].cluster == name for s in sessions),
    )
