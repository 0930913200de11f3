"""Servers for the time of a test: a store's, in a thread of its own, and any routes, in the test's loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from raytrail.config import ServerConfig
from raytrail.server import serve


@contextmanager
def listening(store, config=ServerConfig(port=0), take=None):  # noqa: B008 (it cannot be changed)
    """Serve a store on a port for as long as this lasts; yields the URL."""
    urls, ready = [], threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def announce(url):
        urls.append(url)
        ready.set()

    serving = serve(store, config, ready=announce, stop=stop, take=take)
    thread = threading.Thread(target=loop.run_until_complete, args=[serving])
    thread.start()
    try:
        assert ready.wait(30)
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive()
        loop.close()


@asynccontextmanager
async def served(*routes, port=0, **settings):
    """Serve `routes` on a port, with more settings of uvicorn; yields its number."""
    listener = socket.create_server(("127.0.0.1", port))
    settings = {"lifespan": "off", "ws": "none", "log_config": None, "access_log": False} | settings
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), **settings))
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving
        listener.close()
