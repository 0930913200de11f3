"""The history that a command asks, and the cluster in it that is meant."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from raytrail import times
from raytrail.config import Config, store_dir
from raytrail.entities import Entity
from raytrail.store import Cluster, Filter, Snapshot, Store
from raytrail.terminal import note, nouns
from raytrail.terminal.nouns import Asked
from raytrail.times import Life


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
    Open the history, to change it. An empty one is made where there is none.

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
        note(f"cluster {cluster.session}" + (f" ({cluster.cluster})" if cluster.cluster else ""))
    return cluster


def snapshot(store: Store, cluster: Cluster, at: str | None) -> Snapshot:
    """
    Return the cluster as it was at a TIME, or as it is or ended. Say where that lies, unless TIME does.

    Raises:
        ConfigError: It is not a TIME.
    """
    return store.snapshot(cluster.session, None if at is None else moment(cluster, at))


def moment(cluster: Cluster, text: str) -> int | None:
    """
    Return the moment that ``--at`` names, in milliseconds since the epoch, and say where it lies, unless TIME does.

    None is the very end. While it lives it is now, whatever the clocks of its nodes say.

    Raises:
        ConfigError: It is not a TIME.
    """
    word = text.strip().lower()
    if word == times.END or (word == times.NOW and cluster.alive):
        return None
    life = _life(cluster)
    moment_ms = times.parse(text, life)
    if words := times.remark(text, moment_ms, life):
        note(words)
    return moment_ms


def where(store: Store, cluster: Cluster, view: Snapshot, entity: Entity, filters: Sequence[str]) -> list[Filter]:
    """
    Return what ``--filter`` says of a cluster's rows.

    Raises:
        ConfigError: One cannot be meant.
    """
    life = _life(cluster)

    def is_there(condition: Filter) -> bool:
        # an earlier state may be gone at last, and a later one not be there yet
        return any(seen.count(entity.name, [condition]) for seen in (view, store.snapshot(cluster.session)))

    return nouns.where(entity, filters, Asked(lambda text: times.parse(text, life), is_there))


def _life(cluster: Cluster) -> Life:
    now_ms = time.time_ns() // 1_000_000
    last_ms = now_ms if cluster.alive else cluster.last_event_ms
    return Life(cluster.began_ms, cluster.ended_ms, cluster.ended_ms or last_ms, now_ms)
