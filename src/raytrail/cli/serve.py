"""``raytrail serve``: the history over HTTP."""

from __future__ import annotations

import click

from raytrail.cli import _history, _options, _output, _service
from raytrail.config import Config


@click.command(cls=_options.Command)
@_options.settings("store", "server")
def serve(config: Config) -> None:
    """
    Answer over HTTP, as the clusters would have.

    Any number of servers may read one history, also while it is written to. Point Ray's own tools at a
    cluster: ray list tasks --address http://HOST:PORT/clusters/ID
    """
    # starlette and uvicorn come with an extra, which no other command needs
    server = _service.server()
    with _history.reading(config) as store:
        _service.run(lambda stop: server.serve(store, config.server, ready=_announce, stop=stop))


def _announce(url: str) -> None:
    _output.note(f"serving on {url}")
