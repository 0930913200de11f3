"""``raytrail failures``: what failed, and why, grouped by signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from raytrail import times
from raytrail.answers import Scope
from raytrail.answers.failures import (
    MOST_SHOWN,
    SHOWN,
    AllFailures,
    FailureGroup,
    Failures,
    SeenGroup,
    all_failures,
    failures_of,
)
from raytrail.config import Config
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field

FIELDS = (
    Field("failures", right=True),
    Field("recovered", rank=5, right=True),
    Field("error"),
    Field("said"),
    Field("frame", rank=2),
    Field("failed", rank=1),
    Field("nodes", rank=6, right=True),
    Field("first", rank=4),
    Field("seen", rank=3),
)

FIELDS_OF_ALL = (
    Field("failures", right=True),
    Field("error"),
    Field("said"),
    Field("frame", rank=2),
    Field("sessions", right=True),
    Field("jobs", rank=5, right=True),
    Field("first", rank=4),
    Field("last", rank=3),
    Field("cluster", rank=1),
)


@click.command(cls=options.Command)
@options.cluster
@click.option("--job", default="", metavar="ID", help="Only of this job, by its id or that of its submission.")
@click.option("--every-cluster", "every", is_flag=True, help="Of all clusters, not of one.")
@click.option("--name", default="", metavar="NAME", help="Of all sessions of the clusters of this name.")
@click.option("--traceback", "traced", is_flag=True, help="Print one traceback of each group, too.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_SHOWN),
    default=SHOWN,
    show_default=True,
    metavar="NUMBER",
    help="Most groups to show.",
)
@options.at
@options.output_format("table", "json", "csv")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def failures(
    cluster_id: str,
    job: str,
    every: bool,
    name: str,
    traced: bool,
    limit: int,
    at: str | None,
    form: str,
    config: Config,
) -> None:
    """
    Group what failed by what it has in common.

    A group is a type of error, what it said, and the function of your own code that raised it. Numbers, ids, paths and
    the like do not count. What only failed since something else did is counted with that: tasks of a node or actor that
    died, and tasks whose argument could not be computed.
    """
    if (every or name) and (job or at or traced):
        raise click.UsageError("--job, --at and --traceback are of one cluster; leave out --every-cluster and --name")
    with stores.reading(config) as store:
        if every or name:
            seen = all_failures(store, name=name, limit=limit)
            _write(form, seen, seen.groups, SeenGroup)
            if form == "table":
                _show_all(seen)
        else:
            cluster = stores.chosen(store, cluster_id)
            scope = Scope(store, cluster, stores.snapshot(store, cluster, at))
            answer = failures_of(scope, job=job, limit=limit)
            _write(form, answer, answer.groups, FailureGroup)
            if form == "table":
                _show(answer, traced=traced)


def _write(form: str, answer: Failures | AllFailures, groups: Sequence[Any], kind: type[msgspec.Struct]) -> None:
    """Write it for programs, where that is asked for."""
    if form == "json":
        printing.write_object(answer)
    elif form == "csv":
        printing.write_csv(kind.__struct_fields__, [msgspec.to_builtins(group) for group in groups])


def _show(answer: Failures, *, traced: bool) -> None:
    if not answer.count:
        note("nothing failed")
        return
    rows = [_row(group, answer.runs) for group in answer.groups]
    fields = [
        field
        for field in FIELDS
        if (field.name != "recovered" or answer.recovered) and (field.name != "seen" or answer.runs)
    ]
    printing.leave_note(printing.table(fields, rows, wrap="said"))
    _note_more(answer.groups_count, len(answer.groups))
    if answer.ended:
        note(f"{answer.ended:,} of {answer.count:,} were only open when their job or the session ended")
    if traced:
        for group in answer.groups:
            click.echo(f"\n{click.style(printing.plain(_title(group)), bold=True)}\n{printing.plain(group.traceback)}")


def _title(group: FailureGroup) -> str:
    attempt = "" if group.example_attempt is None else f", attempt {group.example_attempt}"
    return f"{group.count:,} times {group.error}, first {group.kind} {group.example_id}{attempt}"


def _row(group: FailureGroup, runs: int) -> dict[str, Any]:
    others = group.functions_count - 1
    return {
        "failures": f"{group.count:,}",
        "recovered": f"{group.recovered:,}" if group.recovered else "-",
        "error": group.error,
        "said": group.text,
        "frame": group.frame,
        "failed": (group.functions[0].name if group.functions else group.kind) + (f" +{others}" if others > 0 else ""),
        "nodes": f"{group.nodes_count:,}",
        "first": "" if group.first_ms is None else times.show(group.first_ms, digits=0),
        "seen": "new" if group.new else f"{group.runs_seen} of {runs}",
    }


def _show_all(answer: AllFailures) -> None:
    if not answer.count:
        note(f"nothing failed in {answer.sessions_count:,} sessions")
    else:
        printing.leave_note(printing.table(FIELDS_OF_ALL, [_row_of_all(group) for group in answer.groups], wrap="said"))
    _note_more(answer.groups_count, len(answer.groups))
    if answer.sessions_left:
        note(f"{answer.sessions_left:,} older sessions are not looked at; `raytrail rebuild` makes them quick to ask")


def _row_of_all(group: SeenGroup) -> dict[str, Any]:
    return {
        "failures": f"{group.count:,}",
        "error": group.error,
        "said": group.text,
        "frame": group.frame,
        "sessions": f"{group.sessions_count:,}",
        "jobs": f"{group.jobs_count:,}",
        "first": "" if group.first_ms is None else times.show(group.first_ms, digits=0),
        "last": "" if group.last_ms is None else times.show(group.last_ms, digits=0),
        "cluster": group.last_cluster or group.last_session,
    }


def _note_more(every: int, shown: int) -> None:
    if every > shown:
        note(f"{every - shown:,} more groups; --limit shows more")
