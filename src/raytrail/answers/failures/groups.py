"""The groups of a session's failures, each with its parts, its consequences and an example."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from raytrail.answers.failures.structs import BINS, Consequence, Part
from raytrail.store import Run

MOST_NAMES = 5
"""How many functions and nodes of a group are named."""

MOST_CONSEQUENCES = 10
"""How many kinds of consequences of a group are named."""

TRACEBACK_CHARACTERS = 6_000
"""How much of a traceback is given: a third from its beginning, the rest from its end."""


def largest_groups(
    run: Run, limit: int, began_ms: int | None, ended_ms: int | None, total: int
) -> list[dict[str, Any]]:
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
