"""Commands that run until they are told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import ModuleType
from typing import Any

from raytrail.errors import ConfigError

_NOTIFY_SECONDS = 1.0  # how long a systemd that does not listen may hold us up

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def run(body: Callable[[asyncio.Event], Awaitable[Any]]) -> None:
    """
    Run `body` until it ends; SIGTERM and SIGINT set the event that it is given, so that it ends well.

    A second signal ends the process at once: what was acknowledged is safe, the rest comes again.
    """
    asyncio.run(_until_stopped(body))


async def _until_stopped(body: Callable[[asyncio.Event], Awaitable[Any]]) -> None:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    await body(stop)


def keep_memory() -> None:
    """
    Have the C library keep memory that is freed, up to 64 MB.

    Chunks are larger than what it keeps by default: each would be taken from the kernel and given back, at a page
    fault every 4 kB, a sixth of all that an agent does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024**2)


def collect_seldom() -> None:
    """
    Have Python look for garbage in cycles once 200,000 objects came to be, not 700.

    A long list is as many rows, in no cycle, and each look at them stops all threads: of the dashboard's requests, a
    twentieth waited a third of a second and more for the lists of others, where they take some milliseconds.
    """
    gc.set_threshold(200_000, 20, 100)


def notify(state: str) -> None:
    """Tell systemd how it stands, if it wants to know: ``READY=1``, ``WATCHDOG=1`` (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(_NOTIFY_SECONDS)
            manager.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def alive(body: Awaitable[Any]) -> None:
    """Run `body`, telling systemd's watchdog that the loop turns, if it wants to know."""
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0

    async def beat() -> None:
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(seconds / 3)

    beating = asyncio.ensure_future(beat()) if seconds else None
    try:
        await body
    finally:
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


async def all_of(*parts: tuple[Coroutine[Any, Any, Any], asyncio.Event], stop: asyncio.Event) -> None:
    """
    Run the parts of one process side by side, and stop them one after the other, in their order.

    So the agent has published its last before the history stops reading. When one ends by itself or
    fails, the others are stopped too, and its error rises.

    Args:
        parts: Each with the event that tells it to stop.
        stop: Tells all of them to.
    """
    tasks = [asyncio.ensure_future(part) for part, _ in parts]
    told = asyncio.ensure_future(stop.wait())
    await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    for task, (_, stop_part) in zip(tasks, parts, strict=True):
        stop_part.set()
        await asyncio.wait([task])
    for task in tasks:
        task.result()


def server() -> ModuleType:
    """
    Import the server, which needs an extra that no other command does.

    Raises:
        ConfigError: The extra is not installed.
    """
    try:
        import raytrail.server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the server needs {error.name!r}, which is not installed; run `pip install 'raytrail[server]'`"
        ) from error
    return raytrail.server
