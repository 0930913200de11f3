"""The history that a command asks, and the cluster in it that is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raytrail.cli import _output, _times
from raytrail.config import Config, store_dir
from raytrail.store import Cluster, Snapshot, Store


@contextmanager
def reading(config: Config) -> Iterator[Store]:
    """
    Open the history, to ask it.

    Raises:
        ConfigError: There is none.
    """
    with Store.open(store_dir(config), config.store) as store:
        yield store


@contextmanager
def writing(config: Config) -> Iterator[Store]:
    """
    Open the history, to change it; an empty one is made where there is none.

    Raises:
        StoreLocked: Another process writes to it.
    """
    with Store.open(store_dir(config), config.store, write=True) as store:
        yield store


def chosen(store: Store, cluster_id: str) -> Cluster:
    """
    Find the cluster that ``--cluster`` names, and say which one it is unless it was named in full.

    Raises:
        NotFoundError: There is no such cluster, or more than one.
    """
    cluster = store.find(cluster_id)
    if cluster.session != cluster_id:
        _output.note(f"cluster {cluster.session}" + (f" ({cluster.cluster})" if cluster.cluster else ""))
    return cluster


def snapshot(store: Store, cluster: Cluster, at: str | None) -> Snapshot:
    """
    Return the cluster as it was at a TIME, or as it is or ended.

    Raises:
        ConfigError: It is not a TIME.
    """
    return store.snapshot(cluster.session, None if at is None else moment(cluster, at))


def moment(cluster: Cluster, text: str) -> int:
    """Return a TIME of a cluster, in milliseconds since the epoch."""
    end_ms = cluster.last_event_ms if cluster.alive or cluster.ended_ms is None else cluster.ended_ms
    return _times.parse(text, cluster.began_ms, end_ms)
