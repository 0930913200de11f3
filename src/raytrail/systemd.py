"""
How a process stands, as systemd wants to hear it: sd_notify(3).

Seven lines, in place of a dependency on systemd's own library.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

_NOTIFY_SECONDS = 1.0  # how long a systemd that does not listen may hold us up


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
