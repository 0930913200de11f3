"""``raytrail import``: sessions that Ray left on disk, straight into the history."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from raytrail.cli import _history, _options, _output
from raytrail.cli.ledger import details, show
from raytrail.config import Config
from raytrail.event import Chunk
from raytrail.store import Store
from raytrail.tail import Checkpoint, Tailer, alive, locate


@click.command("import", cls=_options.Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@_options.output_format("table", "json")
@_options.settings("tail.cluster", "tail.event_types", "tail.max_line_bytes", "tail.redact", "store")
def import_(paths: tuple[Path, ...], form: str, config: Config) -> None:
    """
    Read sessions that Ray left on disk into a history.

    PATH is a session directory, its logs/ or export_events/, a copy of one of these, or Ray's temp dir with
    all its sessions. No agent is needed. What is already in the history is passed over, so an import that was
    cut short is simply run again. A session is sealed at the end, unless it is still alive on this machine.
    """
    expected = list(dict.fromkeys(session.name for path in paths for session in locate(path)))
    with _history.writing(config) as store:
        before = {cluster.session: cluster.events for cluster in store.clusters()}
        sessions = _ship(paths, store, config)
        store.fold()
        for session in sessions:
            if alive(session):
                _output.note(f"{session} is alive on this machine: not sealed; import it again when it has ended")
            else:
                store.seal(session)
                store.cache(session)
        for session in expected:
            if session not in sessions:
                _output.note(f"{session}: no events; its files are empty, since Ray's export was off")
        results = [(session, store.find(session), store.ledger(session)) for session in sessions]
    if form == "json":
        _output.write_json(
            {
                **msgspec.structs.asdict(cluster),
                "new_events": cluster.events - before.get(session, 0),
                "ledger": rows,
            }
            for session, cluster, rows in results
        )
        return
    for index, (session, cluster, rows) in enumerate(results):
        new = cluster.events - before.get(session, 0)
        click.echo(("\n" if index else "") + f"{session}: {new:,} new events, {cluster.events:,} in all")
        show(rows)
        details(rows)


def _ship(paths: Sequence[Path], store: Store, config: Config) -> list[str]:
    """Append all that is found there, and return the names of the sessions that it belongs to."""
    sessions: dict[str, None] = {}
    # in memory: the store itself knows what it has
    with (
        closing(Checkpoint(None)) as checkpoint,
        closing(Tailer(msgspec.structs.replace(config.tail, inotify=False), checkpoint, session_dirs=paths)) as tailer,
    ):
        # what a session that is still alive goes on writing is for its agent, or the next import
        there = tailer.unread_bytes()
        with _progress(there) as advance:
            for batch in _batches(tailer, config.store.batch_bytes, there):
                store.append(batch)
                for chunk in batch:
                    checkpoint.acknowledge(chunk.segments)
                    sessions[chunk.session] = None
                advance(sum(len(chunk.data) for chunk in batch), tailer.unread_bytes())
        store.append(tailer.reports())
    return list(sessions)


def _batches(tailer: Tailer, batch_bytes: int, most_bytes: int) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    size, read, before = 0, 0, -1
    while before < read < most_bytes:
        before = read
        for chunk in tailer.poll():
            batch.append(chunk)
            size += len(chunk.data)
            read += len(chunk.data)
            if size >= batch_bytes:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar in bytes on stderr, if somebody is looking."""
    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total)

        def advance(read: int, left: int) -> None:
            done = progress.tasks[0].completed + read
            progress.update(task, completed=done, total=done + left)

        yield advance
