"""``raytrail diff``: two runs side by side."""

from __future__ import annotations

import click
import msgspec

from raytrail.answers.diff import Diff, FunctionChange
from raytrail.answers.diff import diff as answer
from raytrail.config import Config
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field
from raytrail.times import show, show_duration, show_span

MOST_SETTINGS = 40
"""Most settings that are shown to people, those first that differ."""

SIDES = (
    Field(""),
    Field("run", whole=True),
    Field("name", rank=2),
    Field("status"),
    Field("began", rank=1),
    Field("lasted", right=True),
    Field("tasks", right=True),
    Field("failed", right=True),
    Field("ran", right=True),
)
FUNCTIONS = (
    Field("function"),
    Field("change", right=True),
    Field("tasks", right=True),
    Field("failed", right=True),
    Field("retried", rank=3, right=True),
    Field("p50", rank=1, right=True),
    Field("p95", rank=2, right=True),
    Field("waited", rank=4, right=True),
)
FAILURES = (
    Field("what"),
    Field("failures", right=True),
    Field("error"),
    Field("text"),
    Field("where", rank=1),
    Field("functions", rank=2),
)
SETTINGS = (Field("setting"), Field("a"), Field("b"))


@click.command(cls=options.Command)
@click.argument("runs", nargs=-1, metavar="[A] [B]")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="The most functions, and failures, to show.",
)
@options.output_format("table", "json", "csv")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def diff(runs: tuple[str, ...], limit: int, form: str, config: Config) -> None:
    """
    Show what is different between two runs.

    A and B are SESSION, or SESSION/JOB with a submission's or a driver's id. A session is named as --cluster of other
    commands takes it. With one of them, it is B, and A is the run before it of the same name: of a job with the same
    name or command, or of a whole session, on a cluster of the same name. Without any, B is the latest session.
    Functions come first whose running time changed most. CSV has these.

    \b
    raytrail diff latest/nightly-train
    raytrail diff session_2026-11-28 session_2026-11-29 --format json
    """
    if len(runs) > 2:
        raise click.UsageError(f"{len(runs)} runs are too many; give A and B")
    a, b = runs if len(runs) == 2 else ("", *runs) if runs else ("", "latest")
    with stores.reading(config) as store:
        answered = answer(store, a, b, limit=limit)
    if form == "json":
        printing.write_object(answered)
    elif form == "csv":
        printing.write_csv(FunctionChange.__struct_fields__, map(msgspec.structs.asdict, answered.functions))
    else:
        _show(answered, limit)


def _show(answered: Diff, limit: int) -> None:
    rows = [
        {
            "": name,
            "run": side.run,
            "name": side.name,
            "status": side.status,
            "began": "" if side.start_ms is None else show(side.start_ms, digits=0),
            "lasted": "" if side.wall_ms is None else show_span(side.wall_ms),
            "tasks": f"{side.tasks:,}",
            "failed": f"{side.failed:,}",
            "ran": show_duration(side.running_total_ms),
        }
        for name, side in (("a", answered.a), ("b", answered.b))
    ]
    printing.leave_note(printing.table(SIDES, rows))
    click.echo()
    printing.leave_note(printing.table(FUNCTIONS, [_function(row) for row in answered.functions]))
    note(f"{len(answered.functions):,} of {answered.all_functions:,} functions")
    if changed := [row for row in answered.failures if row.what != "same"]:
        click.echo()
        shown = [
            {
                "what": row.what,
                "failures": _pair(f"{row.a_count:,}", f"{row.b_count:,}"),
                "error": row.error,
                "text": row.text,
                "where": row.frame,
                "functions": ", ".join(row.functions),
            }
            for row in changed[:limit]
        ]
        printing.leave_note(printing.table(FAILURES, shown))
        note(f"{len(shown):,} of {len(changed):,} failures that changed")
    if differing := [row for row in answered.settings if row.differs]:
        click.echo()
        printing.table(SETTINGS, [{"setting": row.name, "a": row.a, "b": row.b} for row in differing[:MOST_SETTINGS]])


def _function(row: FunctionChange) -> dict[str, str]:
    sign = "+" if row.change_ms > 0 else "-" if row.change_ms < 0 else ""
    return {
        "function": row.function,
        "change": sign + show_duration(abs(row.change_ms)),
        "tasks": _pair(f"{row.a_tasks:,}", f"{row.b_tasks:,}"),
        "failed": _pair(f"{row.a_failed:,}", f"{row.b_failed:,}"),
        "retried": _pair(f"{row.a_retried:,}", f"{row.b_retried:,}"),
        "p50": _pair(_duration(row.a_running_p50_ms), _duration(row.b_running_p50_ms)),
        "p95": _pair(_duration(row.a_running_p95_ms), _duration(row.b_running_p95_ms)),
        "waited": _pair(_duration(row.a_waiting_mean_ms), _duration(row.b_waiting_mean_ms)),
    }


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a} -> {b}"


def _duration(ms: float | None) -> str:
    return "-" if ms is None else show_duration(ms)
