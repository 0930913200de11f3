"""The application on a socket: where it listens, with which bounds, and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server.application import app, is_set_within
from raytrail.server.auth import check
from raytrail.server.connection import connections
from raytrail.server.ingest import Take
from raytrail.server.users import warn_if_short
from raytrail.store import Store

GRACE_SECONDS = 5
"""How long a stopping server lets running answers finish."""
LET_GO_SECONDS = 15
"""How often the files of deleted sessions are let go of, as they take room while they are open."""
HEARD_BYTES = 4096
"""Most bytes of what somebody who follows a log says, none of which is listened to."""

log = logging.getLogger(__name__)


async def serve(
    store: Store,
    config: ServerConfig,
    *,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    take: Take | None = None,
    mask: Callable[[str], str] = str,
) -> None:
    """
    Serve until `stop` is set; running answers may then finish.

    Args:
        store: What is served; it is only read.
        config: Where to listen.
        ready: Called with the URL once requests are answered.
        stop: Ends the server.
        take: Stores what is posted to ``/ingest``; None: nothing is taken.
        mask: Masks the secrets of an address, for the access log.

    Raises:
        ConfigError: The address cannot be listened on, or must not be without a token; TLS cannot be had; or
            the users file cannot be read.
    """
    check(config)
    application = app(store, config, take, check_host=not config.open, stop=stop, mask=mask)
    listener = _listen(config)
    host, port = listener.getsockname()[:2]
    scheme = "https" if config.tls_certificate else "http"
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    if (
        take
        and not (config.ingest_token or config.token or config.users_file)
        and not ipaddress.ip_address(host).is_loopback
    ):
        log.warning("whoever reaches %s may post events to /ingest; set server.ingest_token", url)
    for name, token in (("token", config.token), ("ingest_token", config.ingest_token)):
        warn_if_short(f"server.{name}", token)
    server = _Uvicorn(
        uvicorn.Config(
            application,
            lifespan="off",
            ssl_certfile=config.tls_certificate or None,
            ssl_keyfile=config.tls_key or None,
            http=connections(config),  # type: ignore[arg-type]
            h11_max_incomplete_event_size=config.header_bytes,
            ws="websockets-sansio",
            ws_max_size=HEARD_BYTES,
            access_log=False,
            proxy_headers=False,  # ours look at the connection's own address first (`raytrail.server.proxies`)
            log_config=None,
            log_level="error",  # it warns of every request that is none, of which anybody may send many
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        lambda: ready(url),
    )

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    async def let_go() -> None:
        while not await is_set_within(stop, LET_GO_SECONDS):
            await asyncio.to_thread(store.let_go)

    beside = [asyncio.create_task(end()), asyncio.create_task(let_go())]
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in beside:
            task.cancel()
        listener.close()
        application.state.closing.close()


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio sends at once on sockets that say they are TCP's alone. On others the body of an answer waits 40 ms, until
    # the client has acknowledged the headers
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # a server that has just stopped does not block its port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "choose another host or port, or 0 for a free port"
        ) from error
    return listener


class _Uvicorn(uvicorn.Server):
    """Says when it is ready, and leaves signals to the caller."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
