"""``raytrail functions``: which functions took the time."""

from __future__ import annotations

import click
import msgspec

from raytrail.answers import Scope
from raytrail.answers.functions import FunctionRow, Functions
from raytrail.answers.functions import functions as answer
from raytrail.config import Config
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field
from raytrail.times import show_duration

FIELDS = (
    Field("function"),
    Field("tasks"),
    Field("failed"),
    Field("retried", rank=3),
    Field("share", right=True),
    Field("ran", rank=2, right=True),
    Field("p50", right=True),
    Field("p95", right=True),
    Field("p99", rank=5, right=True),
    Field("waited", rank=1, right=True),
    Field("for arguments", rank=7, right=True),
    Field("for a node", rank=6, right=True),
    Field("otherwise", rank=8, right=True),
)
"""The columns for people. ``p50`` to ``p99`` are of running times, what follows are means of waiting."""


@click.command(cls=options.Command)
@options.cluster
@options.job
@options.at
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most functions to show.")
@click.option(
    "--order",
    metavar="COLUMN",
    default="-running_total_ms",
    show_default=True,
    help="Column of --format json to sort by. -COLUMN sorts the largest first.",
)
@options.output_format("table", "json", "csv")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def functions(cluster_id: str, job: str, at: str | None, limit: int, order: str, form: str, config: Config) -> None:
    """
    Show which functions took the time.

    For each function, and each method of an actor, it says how often it was called, failed and was tried again, and
    which share of all running time it took. p50, p95 and p99 are percentiles of how long an attempt ran. `waited` is
    the mean time from its submission to its start, which is made up of the time for its arguments, for a node (or its
    actor), and the rest.

    \b
    raytrail functions --job 02000000
    raytrail functions --order -waiting_p95_ms --format csv
    """
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        scope = Scope(store, cluster, stores.snapshot(store, cluster, at))
        answered = answer(scope, job=job, order=order, limit=limit)
    if form == "json":
        printing.write_object(answered)
    elif form == "csv":
        printing.write_csv(FunctionRow.__struct_fields__, map(msgspec.structs.asdict, answered.functions))
    else:
        _table(answered)


def _table(answered: Functions) -> None:
    left_out = printing.table(FIELDS, [_shown(row) for row in answered.functions])
    shown = len(answered.functions)
    note(
        f"{shown:,} of {answered.all_functions:,} functions"
        + ("" if shown == answered.all_functions else "; --limit shows more")
    )
    printing.leave_note(left_out)


def _shown(row: FunctionRow) -> dict[str, object]:
    return {
        "function": row.function,
        "tasks": row.tasks,
        "failed": row.failed,
        "retried": row.retried,
        "share": f"{row.running_share:.1%}",
        "ran": show_duration(row.running_total_ms),
        "p50": _duration(row.running_p50_ms),
        "p95": _duration(row.running_p95_ms),
        "p99": _duration(row.running_p99_ms),
        "waited": _duration(row.waiting_mean_ms),
        "for arguments": _duration(row.waiting_arguments_ms),
        "for a node": _duration(row.waiting_assignment_ms),
        "otherwise": _duration(row.waiting_other_ms),
    }


def _duration(ms: float | None) -> str:
    return "" if ms is None else show_duration(ms)
