"""
Files to chunks. A file is its own buffer: when the broker is away, we just stop reading.

    tailer          the loop that others see: notice what has grown, cut chunks, report
    discovery       which sessions and files there are, and whose
    session_finder  which sessions are followed
    follow          what is followed: directories and files, and how each stands
    directory       one directory that is followed
    listing         which files came, went, were renamed, or grew, by listing directories
    watch           what the kernel says has grown
    selection       which files the settings ask for
    turns           whose turn it is to be read
    limits          how fast events may leave
    file            one file, as it is read
    open_files      which files are held open
    identify        which file it is that is read for the first time, and how far it was read before
    cutting         chunks, cut from files
    halves          half lines of logs, which are waited for
    last_lines      last lines of event files whose session has ended
    checkpoint      what has been acknowledged
    life            whose raylets run, and which have gone
    rotation        how near Ray is to deleting what is not read
    reports         what is said of files and raylets
    complaints      warnings, each logged once
"""

from raytrail.tail.checkpoint import Checkpoint
from raytrail.tail.discovery import Nodes, Session, latest, locate, nodes, running, sessions
from raytrail.tail.tailer import Tailer

__all__ = ["Checkpoint", "Nodes", "Session", "Tailer", "latest", "locate", "nodes", "running", "sessions"]
