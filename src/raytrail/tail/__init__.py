"""
Files to chunks. A file is its own buffer: when the broker is away, we just stop reading.

    discovery   which sessions and files there are, and whose
    watch       what the kernel says has grown
    file        one event file, as it is read
    tailer      whole new lines of all files, as chunks
    checkpoint  what of it has been acknowledged
"""

from raytrail.tail.checkpoint import Checkpoint
from raytrail.tail.discovery import Nodes, Session, alive, latest, locate, nodes, running, sessions
from raytrail.tail.tailer import Tailer

__all__ = ["Checkpoint", "Nodes", "Session", "Tailer", "alive", "latest", "locate", "nodes", "running", "sessions"]
