"""Commands that run until they are told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from raytrail import systemd
from raytrail.errors import ConfigError
from raytrail.exit_codes import BROKEN

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>


STOP_SECONDS = 10.0
"""How long what was told to stop may take, where no setting says it."""

COMES_AGAIN = "what was not acknowledged comes again"
SHIPPED_AGAIN = "what was published since the last commit of the checkpoint is published again"


def run(
    body: Callable[[asyncio.Event], Awaitable[Any]],
    *,
    unfinished: str,
    ends_within: Callable[[], float] = lambda: STOP_SECONDS,
) -> None:
    """
    Run `body` until it ends. SIGTERM and SIGINT set the event that it is given, so that it ends well.

    systemd is told that the loop turns, and that the process stops. When it is ready, `body` has to say.

    A second signal ends the process at once: what was acknowledged is safe, the rest comes again.

    Args:
        body: The work to run.
        unfinished: The fate of unfinished work, for the message when the process is ended by force.
        ends_within: Says in how many seconds it ends once it is told to, or ends by itself. One that does not, since a
            disk, a broker or a statement never answers a thread of it, is ended by force.
    """
    stopping = _Stopping(ends_within, unfinished)
    before = {number: signal.signal(number, stopping.hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(stopping.until(body))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stopping.close()


@contextmanager
def ended_after(seconds: float, why: str) -> Iterator[None]:
    """End the process by force, and say why, where what follows does not end by itself in time."""
    force = _force(seconds, why)
    try:
        yield
    finally:
        force.cancel()


class _Stopping:
    """The course of a process that is told to stop."""

    def __init__(self, ends_within: Callable[[], float], unfinished: str) -> None:
        self._ends_within = ends_within
        self._unfinished = unfinished
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked = False
        self._force: threading.Timer | None = None

    async def until(self, body: Callable[[asyncio.Event], Awaitable[Any]]) -> None:
        """Run `body`, which may be told to stop from here on, and may tell itself."""
        self._loop = asyncio.get_running_loop()
        if self._stop_asked:
            self._stop.set()
        limiting = asyncio.ensure_future(self._limit_once_told())
        try:
            await systemd.alive(body(self._stop))
        finally:
            limiting.cancel()
            self._limit()  # a thread may be left that does not end

    def hear(self, number: int, _: object) -> None:
        """
        Take a signal.

        It is a handler of Python's and not of the loop's, which is never called while the loop waits for a disk.
        """
        if self._stop_asked:
            os._exit(128 + number)
        self._stop_asked = True
        self._limit()
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended just now
                self._loop.call_soon_threadsafe(self._stop.set)

    def close(self) -> None:
        """Let the process live on: it has ended in time."""
        if self._force is not None:
            self._force.cancel()

    async def _limit_once_told(self) -> None:
        await self._stop.wait()
        systemd.notify("STOPPING=1")
        self._limit()

    def _limit(self) -> None:
        if self._force is None:
            seconds = self._ends_within()
            self._force = _force(
                seconds,
                f"not ended {seconds:g} seconds after it was told to: a disk, a broker or a statement does not answer; "
                f"ended by force; {self._unfinished}",
            )


def _force(seconds: float, why: str) -> threading.Timer:
    force = threading.Timer(seconds, _end_by_force, [why])
    force.daemon = True
    force.start()
    return force


def _end_by_force(why: str) -> None:
    # whoever does not answer may have been asked to write to the log, too
    saying = threading.Thread(target=log.error, args=(why,), daemon=True)
    saying.start()
    saying.join(1.0)
    os._exit(BROKEN)


def keep_memory() -> None:
    """
    Have the C library keep memory that is freed, up to 64 MB, in one place for all threads.

    Chunks are larger than what it keeps by default: each would be taken from the kernel and given back, at a page
    fault every 4 kB, a sixth of all that an agent does. By default threads keep memory apart from each other. One reads
    a chunk and another lets it go, so twice as much was kept.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024**2)
        mallopt(_M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """
    Have the C library give memory that is freed back to the kernel, before something else needs as much of it.

    Without this, sealing a large import has 100 MB more at its peak, of lines that were appended long ago.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def collect_seldom() -> None:
    """
    Have Python look for garbage in cycles once 200,000 objects came to be, not 700.

    A long list is as many rows, in no cycle, and each look at them stops all threads: of the dashboard's requests, a
    twentieth waited a third of a second and more for the lists of others, where they take some milliseconds.
    """
    gc.set_threshold(200_000, 20, 100)


async def all_of(*parts: tuple[Coroutine[Any, Any, Any], asyncio.Event], stop: asyncio.Event) -> None:
    """
    Run the parts of one process side by side, and stop them one after the other, in their order.

    The agent has then published its last before the history stops reading. When one ends by itself or fails, the others
    are stopped too, and its error rises.

    Args:
        parts: Each with the event that tells it to stop.
        stop: Tells all of them to.
    """
    tasks = [asyncio.ensure_future(part) for part, _ in parts]
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
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
