"""A server that hangs: it is there, its connections stay, and it says nothing."""

import signal
import time
from pathlib import Path


def freeze(process):
    """
    Stop a process until SIGCONT, and return once each of its threads stands still.

    Where the machine is busy, those that run on another core go on for some milliseconds after the signal.
    """
    process.send_signal(signal.SIGSTOP)
    while not all(_stands_still(thread) for thread in Path(f"/proc/{process.pid}/task").iterdir()):
        time.sleep(0.001)


def _stands_still(thread):
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return True
