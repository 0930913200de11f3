"""What commands change of sessions: themselves, or through the history that writes to the store meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from raytrail.config import Config
from raytrail.errors import ConfigError, NotFoundError, StoreError, StoreLocked
from raytrail.store import Cluster, Request, Store
from raytrail.terminal import note, stores

WAIT_SECONDS = 60.0
"""How long the history may take to do what it was asked for. It may be sealing a large session."""

_LOOK_SECONDS = 0.1


def chosen(store: Store, cluster_ids: Sequence[str], name: str | None) -> list[Cluster]:
    """
    Return the sessions that a command names, each once.

    Args:
        store: The history.
        cluster_ids: Sessions, as ``--cluster`` takes them.
        name: A cluster's name, which stands for all of its sessions.

    Raises:
        ConfigError: The name is empty, as a variable of a shell may be. All clusters without a name would be meant.
        NotFoundError: There is none of that name, or one is not there.
    """
    if name == "":
        raise ConfigError("--name is empty; give a cluster's name, and sessions of clusters without one each by theirs")
    clusters = [stores.chosen(store, id) for id in cluster_ids]
    if name is not None:
        named = [cluster for cluster in store.clusters() if cluster.cluster == name]
        if not named:
            raise NotFoundError(f"no cluster of the name {name!r}; see `raytrail clusters`")
        clusters += named
    return list({cluster.session: cluster for cluster in clusters}.values())


def change(config: Config, requests: Sequence[Request]) -> None:
    """
    Have something done to sessions. If another process writes to the store, it is asked to do it, and waited for.

    Raises:
        ConfigError: It is refused.
        NotFoundError: A session is not there any more.
        StoreError: The store cannot be used, or the other process does not do it.
    """
    try:
        with stores.writing(config) as store:
            for request in requests:
                store.retention.do(request, time.time_ns() // 1_000_000)
            if any(request.verb == "delete" for request in requests):
                _finish(store)
    except StoreLocked:
        with stores.reading(config) as store:
            for request in requests:
                if request.verb == "forget":  # the history only logs why it refuses
                    store.deletions.check_forgettable(request.session)
            _wait([store.requests.leave(request) for request in requests])
            for request in requests:
                _check_done(store, request)


def _check_done(store: Store, request: Request) -> None:
    """
    Check that the other process did what it was asked for. A deletion's outcome is shown by whoever asked for it.

    Raises:
        StoreError: It refused.
    """
    held = store.marks.hold_of(request.session) is not None
    is_done = {
        "hold": held,
        "release": not held,
        "forget": store.marks.find(request.session) is None,
        "delete": True,
    }
    if not is_done[request.verb]:
        raise StoreError(
            f"{request.session}: the history was asked to {request.verb} it, and did not; its log says why"
        )


def _finish(store: Store) -> None:
    """Delete what is marked. Readers may finish what they are at."""
    noted = False
    while not store.retention.finish(unread=store.is_unread()):
        if not noted:
            note(
                f"others read this history: the files go when they end, or in {store.deletions.grace_seconds:g} "
                "seconds; Ctrl-C leaves that to the next history"
            )
        noted = True
        time.sleep(_LOOK_SECONDS)


def _wait(asked: Sequence[Path]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while any(path.exists() for path in asked):
        if time.monotonic() > until:
            raise StoreError(
                f"the process that writes to this history was asked, and did not do it within {WAIT_SECONDS:g} "
                "seconds; a history does it once it is through with what it is at, and `raytrail clusters` shows it"
            )
        time.sleep(_LOOK_SECONDS)
