"""
How far the datasets of Ray Data are, and each operator of them: hooks on the actor that drivers report it to.

The driver's executor tells ``_StatsActor`` at each change of state and every five seconds while it runs. An event is
written when something has changed, with the whole of what the actor knows of that dataset.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from raytrail.sources import hooks
from raytrail.sources.hooks import Source, need

_TYPE = "DATASET_PROGRESS"

_DATASET_FIELDS = ("job_id", "state", "progress", "total", "total_rows", "start_time", "end_time")


def lay(stats_actor: type) -> None:
    """Lay the hooks, if they are switched on, on the class as this process got it."""
    hooks.lay(_TYPE, partial(_progress, stats_actor))


def off(why: Exception) -> None:
    """Say that there will be no events, if they are switched on: the class cannot be met."""

    def fail(_: Source) -> None:
        raise why

    hooks.lay(_TYPE, fail)


def _progress(stats_actor: type, source: Source) -> None:
    need(stats_actor, "datasets", "register_dataset", "update_dataset")
    last: dict[str, dict[str, Any]] = {}
    source.after(stats_actor, "register_dataset", partial(_registered, source, last))
    source.after(stats_actor, "update_dataset", partial(_updated, source, last))


def _registered(
    source: Source, last: dict[str, Any], actor: Any, _: None, job_id: str, dataset_tag: str, *_args: Any, **_kw: Any
) -> None:
    _updated(source, last, actor, _, dataset_tag)


def _updated(
    source: Source, last: dict[str, dict[str, Any]], actor: Any, _: None, dataset_tag: str, *_args: Any, **_kw: Any
) -> None:
    for forgotten in last.keys() - actor.datasets.keys():  # we then hold no more than Ray does
        del last[forgotten]
    state = actor.datasets.get(dataset_tag)
    if state is None:
        return
    data = _data(dataset_tag, state)
    if last.get(dataset_tag) != data:
        last[dataset_tag] = data
        source.append(data)


def _data(dataset_tag: str, state: dict[str, Any]) -> dict[str, Any]:
    operators = [{"operator_id": tag, **operator} for tag, operator in state["operators"].items()]
    known = {name: state[name] for name in _DATASET_FIELDS if state.get(name) is not None}
    return {"dataset_id": dataset_tag, **known, "operators": operators}
