"""The statistics of what ran in a window of a timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from raytrail.answers.timeline.relations import NS
from raytrail.answers.timeline.structs import FunctionSpan
from raytrail.fold.rollup import duration_of


def add_up(function: str, groups: Sequence[tuple[Any, ...]], capacity_ns: int) -> FunctionSpan:
    """Return what groups of attempts add up to, each of a bucket of durations."""
    attempts = sum(group[2] for group in groups)
    buckets = Counter[int]()
    for group in groups:
        if group[1] is not None:
            buckets[group[1]] += group[2]
    running_ns = sum(int(group[4]) for group in groups)
    waited_ms = [sum(int(group[5 + place] or 0) for group in groups) / 1000 / max(attempts, 1) for place in range(4)]
    p50_ms, p95_ms, p99_ms = (_percentile_ms(buckets, share) for share in (50, 95, 99))
    return FunctionSpan(
        function=function,
        attempts=attempts,
        failed=sum(group[3] for group in groups),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        running_ms=round(running_ns / NS, 3),
        busy_share=round(running_ns / capacity_ns, 4),
        arguments_ms=round(waited_ms[0], 3),
        node_ms=round(waited_ms[1], 3),
        object_store_ms=round(waited_ms[2], 3),
        worker_ms=round(waited_ms[3], 3),
    )


def _percentile_ms(buckets: Counter[int], percent: int) -> float | None:
    """Return the duration that so many of them do not exceed, in milliseconds."""
    rank, up_to = -(-percent * buckets.total() // 100), 0
    for bucket in sorted(buckets):
        up_to += buckets[bucket]
        if up_to >= rank:
            return round(duration_of(bucket) / NS, 3)
    return None
