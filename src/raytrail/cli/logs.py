"""``raytrail logs``: what Ray and its workers wrote into their log files."""

from __future__ import annotations

import sys

import click
import msgspec

from raytrail import words
from raytrail.config import Config
from raytrail.errors import NotFoundError
from raytrail.store import Log, LogFinder, LogPart, Snapshot
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field


@click.command(cls=options.Command)
@click.argument("name", required=False)
@options.cluster
@options.at
@click.option(
    "--node", metavar="ID", help="List the logs of this node only. A part of its id that no other has will do."
)
@click.option("--task", metavar="ID", help="Print what a task printed. ID:1 is its second attempt.")
@click.option("--actor", metavar="ID", help="Print what an actor's process printed.")
@click.option("--job", metavar="ID", help="Print what a submission job's entrypoint printed.")
@click.option("--err", is_flag=True, help="Print what a task or an actor wrote to stderr, in place of stdout.")
@click.option(
    "--lines",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Print only so many of the last lines.  [default: all]",
)
@options.output_format("table", "json")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def logs(
    name: str | None,
    cluster_id: str,
    at: str | None,
    node: str | None,
    task: str | None,
    actor: str | None,
    job: str | None,
    err: bool,
    lines: int | None,
    form: str,
    config: Config,
) -> None:
    """
    List a cluster's logs, or print one.

    NAME is a log's name in Ray's logs/, or a glob. A log is printed, and a glob lists the logs that it matches. In a
    glob, * stays within a directory, and ** is any directory. Bytes are printed as Ray wrote them. A line says so where
    some are missing.

    With --at, nodes, tasks, actors and jobs are found as they were then, e.g. an actor's process before it restarted. A
    log is printed whole all the same, since no event tells when its lines were written.

    \b
    raytrail logs
    raytrail logs 'serve/*'
    raytrail logs raylet.out --lines 100
    raytrail logs --job raysubmit_RX7tp7Z8xUu6fXTf
    """
    asked = [option for option in (name, task, actor, job) if option]
    if len(asked) > 1:
        raise click.UsageError("give NAME, --task, --actor or --job, and only one of them")
    with stores.reading(config) as store:
        snapshot = stores.snapshot(store, stores.chosen(store, cluster_id), at)
        node_id = _node(snapshot, node) if node else None
        finder = store.log_finder(snapshot)
        listed = finder.listed(node_id, name or "**")
        if not (task or actor or job) and (not name or any(letter in name for letter in "*?[") or len(listed) > 1):
            _list(listed, form, name)
            return
        part = _part(finder, listed, name, task, actor, job, "err" if err else "out")
        end = part.log.size if part.end is None else min(part.end, part.log.size)
        start = min(part.start, end)
        if lines is not None:
            start = max(start, finder.last_lines(part.log, end, lines))
        for piece in store.read_log(snapshot.session, part.log, start, end):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _node(snapshot: Snapshot, text: str) -> str:
    ids = [row["node_id"] for row in snapshot.rows("node", columns=["node_id"]) if row["node_id"].startswith(text)]
    if len(ids) != 1:
        raise NotFoundError(
            f"node {text!r}: {'several have it' if ids else 'there is none'}; see `raytrail list nodes`"
        )
    return str(ids[0])


def _part(
    finder: LogFinder,
    listed: list[Log],
    name: str | None,
    task: str | None,
    actor: str | None,
    job: str | None,
    suffix: str,
) -> LogPart:
    if task:
        task_id, _, attempt = task.partition(":")
        return finder.of_task(task_id, int(attempt) if attempt.isdigit() else 0, suffix)
    if actor or job:
        _, part = finder.of_actor(actor, suffix) if actor else finder.of_job(job or "")
        if part is None:
            raise NotFoundError(
                f"no log of {f'actor {actor}' if actor else f'job {job}'} has come; see `raytrail logs`"
            )
        return part
    if not listed:
        raise NotFoundError(f"no log {name!r}; see `raytrail logs`")
    return LogPart(listed[0])


def _list(listed: list[Log], form: str, name: str | None) -> None:
    if form == "json":
        printing.write_json(msgspec.structs.asdict(log) for log in listed)
        return
    if not listed:
        note(f"no logs match {name!r}" if name else "no logs; agents ship them unless told not to (tail.logs)")
        return
    several = len({log.node_id for log in listed}) > 1
    fields = [Field("name", whole=True), Field("size", right=True), Field("note")]
    if several:
        fields.insert(0, Field("node"))
    rows = [
        {"node": log.node_id[:8], "name": log.name, "size": words.size(log.size), "note": _describe_gap(log)}
        for log in listed
    ]
    printing.table(fields, rows)
    note(f"{len(listed):,} logs, {words.size(sum(log.size for log in listed))}")


def _describe_gap(log: Log) -> str:
    if log.skipped_bytes:
        return f"{words.size(log.skipped_bytes)} more were over the agent's limit"
    if log.stored_bytes < log.size:
        return f"{words.size(log.size - log.stored_bytes)} missing"
    return ""
