"""``raytrail snapshot``: what a living Ray that exports nothing says, into the history."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click

from raytrail.cli.ledger import details, show
from raytrail.config import Config
from raytrail.entities import entity
from raytrail.errors import ConfigError, NotFoundError, SourceError, StoreLocked, StoreUnavailable
from raytrail.redact import Redactor
from raytrail.snapshot import taking
from raytrail.snapshot.dashboard import Dashboard
from raytrail.snapshot.rows import Row
from raytrail.snapshot.taking import Repeated, Taken
from raytrail.store import Filter, Store
from raytrail.terminal import options, service, stores

log = logging.getLogger(__name__)


@click.command(cls=options.Command)
@click.argument("url", metavar="URL")
@click.option(
    "--every",
    "every_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=1),
    help="Take one again and again, this long after the last one, until SIGTERM or Ctrl-C. All go into one session.",
)
@click.option(
    "--token-file",
    envvar="RAY_AUTH_TOKEN_PATH",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with the token of a Ray that asks for one. RAY_AUTH_TOKEN may hold the token itself.",
)
@click.option(
    "--timeout", "timeout_seconds", metavar="SECONDS", type=click.FloatRange(min=1), default=60.0, show_default=True,
    help="How long to wait for each answer.",
)  # fmt: skip
@options.logged
@options.settings("tail.cluster", "tail.redact", "store")
def snapshot(
    url: str, every_seconds: float | None, token_file: Path | None, timeout_seconds: float, config: Config
) -> None:
    """
    Keep what a running Ray says, where it exports nothing.

    URL is its dashboard, e.g. http://127.0.0.1:8265. Ray's State API is asked for nodes, jobs, workers, actors, tasks,
    placement groups, objects and Serve, and the answers are kept as a session, which then answers as any other. What
    was before the snapshot is known as far as the answers tell times. Ray lists 10,000 rows of a kind at most. A list
    that was cut is named in the ledger, and the snapshot then exits with 1.

    Another snapshot of the same cluster updates its session. It is not sealed, since the cluster is alive: `raytrail
    seal` closes it once the cluster is gone.
    """
    dashboard = Dashboard(url, _token(token_file), timeout_seconds=timeout_seconds)
    repeated = Repeated()
    if every_seconds is None:
        complete = _keep(taking.take(dashboard), repeated, config, say=True)
        if not complete:
            click.get_current_context().exit(1)
        return
    service.run(
        lambda stop: _again(dashboard, repeated, config, every_seconds, stop),
        unfinished="the snapshot that was under way is not kept",
        ends_within=lambda: timeout_seconds + config.store.stop_seconds,
    )


def _token(path: Path | None) -> str:
    """Return the token to send, which is no argument: those of any process can be read by all users."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(token, "RAY_AUTH_TOKEN")
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no token can be read from it ({error}); give the file that holds it") from error
    return _checked(text, str(path))


def _checked(token: str, place: str) -> str:
    """Return a token that a header can hold. The error of another one would show it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{place} holds no token; give what holds it")
    return token


async def _again(
    dashboard: Dashboard, repeated: Repeated, config: Config, every_seconds: float, stop: asyncio.Event
) -> None:
    first = True
    while not stop.is_set():
        try:
            taken = await asyncio.to_thread(taking.take, dashboard)
            await asyncio.to_thread(_keep, taken, repeated, config, say=first)
            first = False
        except (SourceError, StoreLocked, StoreUnavailable) as error:  # a proxy answers while its dashboard is away
            if first:
                raise
            log.warning("%s; the next snapshot is tried in %g s", error, every_seconds)
        with suppress(TimeoutError, asyncio.TimeoutError):  # one name of it since Python 3.11
            await asyncio.wait_for(stop.wait(), every_seconds)


def _keep(taken: Taken, repeated: Repeated, config: Config, *, say: bool) -> bool:
    """Store a snapshot, and return whether it is all that Ray had."""
    with stores.writing(config) as store:
        _refuse_exported(store, taken.session)
        events = [*repeated.new(taken), *taking.gone(taken, _open_states(store, taken.session))]
        redact = Redactor(config.tail.redact)
        store.append(list(taking.chunks(taken, events, cluster=config.tail.cluster, redact=redact)))
        repeated.keep(taken)
        store.fold()
        ledger = store.ledger(taken.session)
    lacking = {resource: answer.lacking for resource, answer in taken.answers.items() if answer.lacking}
    if say:
        click.echo(f"{taken.session}: snapshot with {len(events):,} new events")
        show(ledger)
        details(ledger)
    for resource, why in lacking.items():
        log.warning("%s of %s are not all here: %s", resource, taken.session, why)
    return not lacking


def _refuse_exported(store: Store, session: str) -> None:
    """
    Refuse a session of which the history has the events themselves: these say more, and restarts would count twice.

    Raises:
        ConfigError: It has.
    """
    if session in store.events() and not store.snapshot(session).count("snapshot"):
        raise ConfigError(
            f"{session} is in this history already, from its own events, which say more than a snapshot; nothing is to "
            "be done, or give the snapshot a --store of its own"
        )


def _open_states(store: Store, session: str) -> Callable[[str], Iterable[Row]]:
    """Return what gives the states of an entity that are open, by their keys."""

    def known(name: str) -> Iterable[Row]:
        of = entity(name)
        where = [Filter(of.life.state, "!=", end) for end in of.life.terminal]
        try:
            return store.snapshot(session).rows(name, columns=of.key, where=where)
        except NotFoundError:
            return ()

    return known
