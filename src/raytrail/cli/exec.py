"""``raytrail exec``: a command of Ray's, or anything that asks Ray's API, on a cluster of the history."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import click

from raytrail.cli.run import CANNOT_EXECUTE, NOT_FOUND
from raytrail.config import Config, ServerConfig
from raytrail.store import Cluster, Store
from raytrail.terminal import gcs, note, options, service, stores


@click.command("exec", cls=options.Command)
@options.at
@click.argument("cluster_id", metavar="CLUSTER")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def exec(at: str | None, cluster_id: str, command: tuple[str, ...], config: Config) -> None:
    """
    Run a command on a cluster of the history as if it were there.

    \b
        raytrail exec latest -- ray list tasks --filter state=FAILED
        raytrail exec latest -- ray logs cluster 'worker*'
        raytrail exec latest -- ray job logs raysubmit_RX7tp7Z8xUu6fXTf
        raytrail exec latest -- serve status
        raytrail exec latest --at -5m -- python ask.py

    CLUSTER is a session's name, a part of it that no other has, a cluster's name or `latest`. The history is served on
    this machine for as long as the command runs. A stand-in for the cluster's GCS, which `ray logs` asks for the
    dashboard, is there as long. Without --at, a cluster that has ended is shown as it was just before its shutdown.
    --at end shows its very end. The exit code is the command's.
    """
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        path = f"/clusters/{cluster.session}{_path(cluster, at)}"
        with _served(store) as url, gcs.standing_in(f"{url.removeprefix('http://')}{path}", path) as address:
            code = _run(command, _environment(url + path, address))
    click.get_current_context().exit(code)


def _path(cluster: Cluster, at: str | None) -> str:
    """Return the part of a URL that names a moment of a cluster."""
    if at is None:
        return ""
    moment_ms = stores.moment(cluster, at)
    return "/final" if moment_ms is None else f"/at/{moment_ms}"


def _environment(address: str, gcs: str) -> Mapping[str, str]:
    return {
        **os.environ,
        "RAY_ADDRESS": gcs,  # which wins over --address, so all that asks a GCS asks ours
        "RAY_API_SERVER_ADDRESS": address,  # which wins over RAY_ADDRESS
        "RAY_DASHBOARD_ADDRESS": address,  # the address for `serve`
    }


@contextmanager
def _served(store: Store) -> Iterator[str]:
    """Serve the history on a free port of this machine, on a thread of its own, and yield the URL."""
    server = service.server()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    urls: list[str] = []
    ready = threading.Event()

    def announce(url: str) -> None:
        urls.append(url)
        ready.set()

    # it has none of the settings of a server for others, as the command knows no token and no certificate
    settings = ServerConfig(port=0, dashboard="off")

    def serve() -> None:
        try:
            loop.run_until_complete(server.serve(store, settings, ready=announce, stop=stop))
        finally:
            ready.set()

    thread = threading.Thread(target=serve, name="server")
    thread.start()
    try:
        ready.wait()
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command to its end and return its exit code, as a shell gives it."""
    try:
        child = subprocess.Popen(command, env=environment)
    except FileNotFoundError:
        note(f"{command[0]}: there is no such command")
        return NOT_FOUND
    except OSError as error:
        note(f"{command[0]}: {error.strerror}")
        return CANNOT_EXECUTE

    def forward(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(number)

    # Ctrl-C in a terminal reaches the command by itself. The command decides whether that ends it
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
        signal.SIGHUP: signal.signal(signal.SIGHUP, forward),
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
