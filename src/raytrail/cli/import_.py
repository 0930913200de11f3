"""``raytrail import``: sessions that Ray left on disk, or KubeRay in a bucket, straight into the history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import click
import msgspec
from rich.console import Console

from raytrail import disk
from raytrail.cli.ledger import complete, details, show
from raytrail.config import Config, TailConfig
from raytrail.errors import ConfigError, NotFoundError
from raytrail.event import COLLECTED, SESSION_NAME, Chunk
from raytrail.kuberay import layout as kuberay
from raytrail.kuberay.files import File, Unread
from raytrail.kuberay.layout import Collected
from raytrail.kuberay.reading import Piece, read
from raytrail.kuberay.report import collected_id, report_collected
from raytrail.pubsub import open_bucket
from raytrail.pubsub.url import shown_whole
from raytrail.redact import Redactor
from raytrail.store import Cluster, Filter, LedgerRow, Store
from raytrail.tail import Checkpoint, Session, Tailer, locate, running
from raytrail.tail.selection import wants_log, wants_type
from raytrail.terminal import note, options, printing, service, stores
from raytrail.terminal.progress import progress

_Unread = Mapping[tuple[str, int], tuple[int, int, str]]
"""By files and their generations, the offset from which one is not read to its end, how many bytes that is, and why."""

NO_EVENTS = "no events; its files are empty, since Ray's export was off; if it runs, `raytrail snapshot` asks it"


class _Place(click.Path):
    """A path that is there, also as a file:// URL, or any other URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or the URL as it is."""
        if "://" not in str(value):
            return super().convert(value, param, ctx)
        if not value.startswith("file://"):
            return value
        host, slash, path = value.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            self.fail(f"{shown_whole(value)!r} is no path of this machine; write file:///path", param, ctx)
        return super().convert(unquote(slash + path), param, ctx)


@click.command("import", cls=options.Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=_Place(exists=True, path_type=Path))
@options.output_format("table", "json")
@options.settings(
    "tail.cluster",
    "tail.event_types",
    "tail.max_line_bytes",
    "tail.redact",
    "tail.redact_logs",
    "tail.logs",
    "tail.log_include",
    "tail.log_exclude",
    "tail.log_file_bytes",
    "store",
)
def import_(paths: tuple[str | Path, ...], form: str, config: Config) -> None:
    """
    Read sessions that Ray left on disk into a history.

    PATH is a session directory, its logs/ or export_events/, a copy of one of these, or Ray's temp dir with all its
    sessions. It may also be a collection of KubeRay's history server, which is its bucket (s3://bucket/path, gs:// or
    az://), a copy of it, or a part of either. In a bucket's path, * stands for any name. No agent is needed.

    Events that the history already has are passed over, so an import that was cut short is simply run again. A session
    is sealed at the end, unless it is still alive on this machine. Data that cannot be read is left out, and named in
    the session's ledger. The import then exits with 1, as `raytrail ledger --check` does.
    """
    there = _look(paths)
    with stores.writing(config) as store:
        before = store.events()
        sessions = _ship(there.on_disk, store, config, config.tail) if there.on_disk else []
        for collected in there.collected:
            sessions += _ship_collected(collected, store, config)
        deleted = _name_deleted(store, sessions)
        sessions = [session for session in dict.fromkeys(sessions) if session not in deleted]
        seen = running()
        living = [session for session in sessions if seen is not None and seen.alive(session)]
        for session in living:
            note(f"{session} is alive on this machine: not sealed; import it again when it has ended")
        service.give_memory_back()
        ledgers = store.seal_all(session for session in sessions if session not in living)
        store.cache_all()
        store.complete_overviews()
        store.fold()
        for session, closed in there.names.items():
            if closed or session not in [*sessions, *deleted]:
                note(f"{session}: {closed or NO_EVENTS}")
        results = [
            (session, store.find(session), ledgers.get(session) or store.ledger(session)) for session in sessions
        ]
    _print(results, before, form)
    if deleted or any(there.names.values()) or not all(complete(row) for _, _, rows in results for row in rows):
        click.get_current_context().exit(1)


def _name_deleted(store: Store, sessions: Iterable[str]) -> list[str]:
    """Return the sessions that were deleted before, of which nothing was taken, and say so of each."""
    deleted = [session for session in dict.fromkeys(sessions) if store.marks.find(session)]
    for session in deleted:
        note(
            f"{session} was deleted from this history, and nothing of it was taken; to take it again, run "
            f"`raytrail delete --forget {session}` first"
        )
    return deleted


def _print(results: Sequence[tuple[str, Cluster, Sequence[LedgerRow]]], before: Mapping[str, int], form: str) -> None:
    """Print the new events and the ledger of each session."""
    if form == "json":
        printing.write_json(
            {
                **msgspec.structs.asdict(cluster),
                "new_events": cluster.events - before.get(session, 0),
                "ledger": rows,
            }
            for session, cluster, rows in results
        )
    else:
        for index, (session, cluster, rows) in enumerate(results):
            new = cluster.events - before.get(session, 0)
            click.echo(("\n" if index else "") + f"{session}: {new:,} new events, {cluster.events:,} in all")
            show(rows)
            details(rows)


class _There(NamedTuple):
    """The sessions to import."""

    names: dict[str, str]
    """The sessions that Ray left, each with the reason why its events cannot be read. The reason is mostly empty."""
    on_disk: list[Path]
    """The directories of these."""
    collected: list[Collected]
    """The collections of KubeRay."""


def _look(paths: Sequence[str | Path]) -> _There:
    """
    Return what there is to import.

    Raises:
        ConfigError: A path is neither, or a bucket cannot be read.
        BrokerUnavailable: A bucket is away.
    """
    names, on_disk, collected = dict[str, str](), list[Path](), list[Collected]()

    def refuse(at: Path, why: str) -> None:
        names[repr(at.name)] = f"{why}; nothing is read there: rename it, or name the directory that it leads to"

    for path in paths:
        if isinstance(path, str):
            collected += _look_into_bucket(path)
            continue
        try:
            sessions = locate(path, refuse)
        except ConfigError:
            of_kuberay = kuberay.find(kuberay.below(path))
            if not of_kuberay:
                raise
            collected += of_kuberay
            continue
        for session in sessions:
            names[session.name] = names.get(session.name) or _closed(session)
        on_disk.append(path)
    odd = {part.session for part in collected if not SESSION_NAME.fullmatch(part.session)}
    for name in sorted(odd):
        names[repr(name)] = "it is no name that a session can have; rename the directory, and import it again"
    return _There(names, on_disk, [part for part in collected if part.session not in odd])


def _closed(session: Session) -> str:
    """Return why a session's events cannot be read. It is empty if they can be, or are not there."""
    try:
        with disk.listed(session.events, session.root):
            return ""
    except disk.Refused as error:
        return f"{error.filename}: it is {error.strerror}; nothing is read there: import what it stands for"
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"{session.events} cannot be read: {error.strerror}; let it be read, and import the session again"


def _look_into_bucket(url: str) -> list[Collected]:
    bucket = open_bucket(url)
    with Console(stderr=True).status(f"looking through {bucket.shown}"):
        collected = kuberay.find(
            File(f"{bucket.url}/{stored.path}", stored.size_bytes, partial(bucket.open, stored))
            for stored in bucket.find()
        )
    if not collected:
        raise ConfigError(
            f"nothing that KubeRay collected in {bucket.shown}: it has no session_*/<node>/node_events/*.jsonl; give "
            f"a path that these are below"
        )
    return collected


def _ship_collected(collected: Collected, store: Store, config: Config) -> list[str]:
    """Append what KubeRay collected of a session, and return the names of the sessions that it belongs to."""
    cluster = config.tail.cluster or collected.cluster
    collected = collected._replace(logs=tuple(log for log in collected.logs if wants_log(config.tail, log.name)))
    before, unread = _broken_before(collected.session, store), list[Unread]()
    sessions: dict[str, None] = {}
    redact = Redactor(config.tail.redact)
    pieces = read(
        collected,
        cluster=cluster,
        redact=redact,
        wants=partial(wants_type, config.tail),
        unread=unread.append,
        redact_logs=redact if config.tail.redact_logs else lambda data, _: data,
        log_bytes=config.tail.log_file_bytes,
    )
    with progress(collected.size_bytes, "importing") as advance:
        batches = _gathered(pieces, config.store.batch_bytes, collected.size_bytes, advance)
        for batch in _appended(store, batches):
            sessions |= dict.fromkeys(chunk.session for chunk in batch)
    if reports := _reports(collected, unread, before):
        report = Chunk(
            cluster=cluster,
            session=collected.session,
            node_id="",
            event_type="FILE",
            segments=(),
            data=b"".join(reports),
        )
        _say(store, [report], {collected.session: _unread(collected.session, store)})
        sessions[collected.session] = None
    return list(sessions)


def _broken_before(session: str, store: Store) -> set[str]:
    """Return the files that KubeRay collected of a session and that could not be read whole so far."""
    return {file for file, _ in _unread(session, store, Filter("event_type", "=", COLLECTED))}


def _unread(session: str, store: Store, *where: Filter) -> _Unread:
    """Return the files of a session that were not read to their end, each with where that began, how much and why."""
    try:
        files = store.snapshot(session).rows("file", where=where)
    except NotFoundError:
        return {}
    return {
        (file["file"], file["generation"]): (file["unread_offset"], file["unread_bytes"], file["unread_reason"])
        for file in files
        if file["unread_reason"]
    }


def _say(store: Store, reports: Sequence[Chunk], known: Mapping[str, _Unread]) -> None:
    """
    Append the reports of files. A sealed session is opened again where they tell something new of unread ends.

    Args:
        store: The history.
        reports: The reports.
        known: The facts known of each session before.
    """
    store.append(reports)
    for report in reports:
        for line in report.data.splitlines():
            file = msgspec.json.decode(line, type=_Report).event_data
            if file.ends_unread != known[report.session].get((file.file, file.generation)):
                store.reopen(report.session)


class _File(msgspec.Struct, frozen=True):
    file: str
    generation: int
    unread: str

    @property
    def ends_unread(self) -> tuple[int, int, str] | None:
        """The offset from which it is not read, how many bytes that is, and why. None where all is read."""
        _, *ending = self.unread.split(" ", 3)
        return (int(ending[0]), int(ending[1]), ending[2]) if ending else None


class _Report(msgspec.Struct, frozen=True):
    event_data: _File


def _reports(collected: Collected, unread: Iterable[Unread], before: Set[str]) -> list[bytes]:
    """Return the reports of a session's files, of those that ended early and of those that no longer do."""
    broken = {ending.file: ending for ending in unread}
    files = (*collected.files, *collected.answers, *(piece.file for piece in collected.logs))
    mended = [file for file in files if file not in broken and collected_id(collected.session, file) in before]
    endings: list[Unread | File] = [*broken.values(), *mended]
    return [report_collected(collected.session, ending) for ending in endings]


def _ship(paths: Sequence[Path], store: Store, config: Config, tail: TailConfig) -> list[str]:
    """Append all that is found there, and return the names of the sessions that it belongs to."""
    sessions: dict[str, None] = {}
    # in memory: the store itself knows what it has
    with (
        closing(Checkpoint(None)) as checkpoint,
        closing(Tailer(msgspec.structs.replace(tail, inotify=False), checkpoint, session_dirs=paths)) as tailer,
    ):
        known = {session: _unread(session, store) for session in tailer.sessions}
        unread = {file for files in known.values() for file, _ in files}
        tailer.look(last=True)
        # an agent, or the next import, takes what a session that is still alive goes on writing
        there = tailer.unread_bytes()
        with progress(there, "importing") as advance:
            # two of them are in memory, the one that is read and the one that is appended
            for batch in _appended(store, _batches(tailer, config.store.batch_bytes, there)):
                for chunk in batch:
                    checkpoint.acknowledge(chunk.segments)
                    sessions[chunk.session] = None
                advance(sum(len(chunk.data) for chunk in batch), tailer.unread_bytes())
        reports = tailer.reports(unread)
        _say(store, reports, known)
    # one of which nothing can be read is said to be there, too
    return list(dict.fromkeys([*sessions, *(report.session for report in reports)]))


def _appended(store: Store, batches: Iterable[list[Chunk]]) -> Iterator[list[Chunk]]:
    """Append batches, each while the next one is read, and yield each once it is durable."""
    with ThreadPoolExecutor(1) as appender:
        waiting: list[Chunk] = []
        appending: Future[None] | None = None
        for batch in batches:
            if appending is not None:
                appending.result()
                yield waiting
            waiting, appending = batch, appender.submit(store.append, batch)
        if appending is not None:
            appending.result()
            yield waiting


def _gathered(
    pieces: Iterable[Piece], batch_bytes: int, left_bytes: int, advance: Callable[[int, int], None]
) -> Iterator[list[Chunk]]:
    """Yield the chunks of pieces in batches, and tell how far they are read."""
    batch: list[Chunk] = []
    size = 0
    for piece in pieces:
        batch += piece.chunks
        size += sum(len(chunk.data) for chunk in piece.chunks)
        left_bytes -= piece.read_bytes
        advance(piece.read_bytes, left_bytes)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _batches(tailer: Tailer, batch_bytes: int, most_bytes: int) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    size, read, before = 0, 0, -1
    while read < most_bytes and (before < read or tailer.searching):
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
