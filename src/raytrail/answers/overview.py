"""A cluster at a glance: what there is of it, in which states, and how complete its history is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from raytrail.answers.run import Run, run_of
from raytrail.answers.scope import COUNTED, Scope
from raytrail.entities import entity
from raytrail.store import Cluster, LedgerRow

NOUNS = ("tasks", "actors", "jobs", "nodes")
"""What is counted by state."""


class StateCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows are in a state."""

    state: str
    """Ray's name of the state. Empty where no event told it."""
    count: int


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of an entity there are, and in which states."""

    noun: str
    """The entity's plural, as `raytrail list` takes it."""
    column: str
    """The column that has the state."""
    total: int
    states: tuple[StateCount, ...]
    """The most frequent first."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster at one moment."""

    cluster: Cluster
    """Its times and numbers, at last."""
    at_ms: int | None
    """The moment that is shown, in milliseconds since 1970. Null at last, or now."""
    counts: tuple[Counts, ...]
    """Tasks, actors, jobs and nodes by state, as Ray's own lists count them."""
    run: Run
    """The whole session as a run: how it ended and why, how it went on, and what failed in it."""
    ledger: tuple[LedgerRow, ...]
    """How complete its history is, by event type."""


def overview(scope: Scope) -> Overview:
    """Return a cluster at a glance."""
    return Overview(
        cluster=scope.cluster,
        at_ms=scope.snapshot.at_ms,
        counts=tuple(_count(scope, noun) for noun in NOUNS),
        run=run_of(scope),
        ledger=tuple(scope.store.ledger(scope.cluster.session)),
    )


def _count(scope: Scope, noun: str) -> Counts:
    of = entity(noun)
    groups: list[Mapping[str, Any]] = [*scope.snapshot.group(of.name, [of.life.state], COUNTED.get(of.name, ()))]
    states = sorted(((group["count"], group[of.life.state] or "") for group in groups), reverse=True)
    return Counts(
        noun=noun,
        column=of.life.state,
        total=sum(count for count, _ in states),
        states=tuple(StateCount(state=state, count=count) for count, state in states),
    )
