"""How far a command is that reads many bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(total: int, verb: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar in bytes on stderr, if somebody is looking."""
    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=total)

        def advance(read: int, remaining: int) -> None:
            done = bar.tasks[0].completed + read
            bar.update(task, completed=done, total=done + remaining)

        yield advance
