"""What failed in all sessions, by what their signatures say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from raytrail.answers.failures.limit import SHOWN, check_limit
from raytrail.answers.failures.structs import BINS, AllFailures, SeenGroup
from raytrail.errors import NotFoundError
from raytrail.store import Cluster, Signature, Store

MOST_READ = 200
"""Of how many sessions that live, or that an older version sealed, failures are worked out at once."""


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
    check_limit(limit)
    clusters = [cluster for cluster in store.clusters() if name in ("", cluster.cluster)]
    if name and not clusters:
        raise NotFoundError(f"cluster {name!r}: not in the store; see `raytrail clusters`")
    by_session, sessions_left = store.signatures([cluster.session for cluster in clusters], MOST_READ)
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
        sessions_left=sessions_left,
        began_ms=began_ms,
        ended_ms=ended_ms,
        count=total,
        groups_count=len(by_hash),
        groups=tuple(_seen(rows, looked_at, oldest, began_ms, ended_ms, total) for rows in most),
    )


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
