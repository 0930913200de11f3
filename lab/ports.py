"""Free ports of this machine, for the servers that a test or a demo starts."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST = 20_000
"""The ports below are those of well-known servers, and of Ray's workers (10002 to 19999)."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The range that Linux gives to connections (man 7 ip)."""
_USUAL = 32_768
_given: dict[int, socket.socket | None] = {}
"""The ports that this process was given, each with what keeps it from the others."""


def free_port() -> int:
    """Return a port that is free now, as `free_ports` does."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """
    Return ports that are free now. Nobody else who asks here gets one of them while this process lives.

    Servers may so listen only later, as some of Ray's do: if its server of clients then finds another one on its port,
    the raylet ends. The ports lie below those that the system gives to connections: a server that is killed finds its
    port free when it comes back. If the system gives all ports to connections, they are some of these.
    """
    below = _below_connections()
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe, contextlib.suppress(OSError):  # somebody has it: another one
            # at every address: where one of them is taken, a server of all of them cannot listen
            probe.bind(("", random.choice(below) if below else 0))
            port = int(probe.getsockname()[1])
            if port not in _given:
                _given[port] = _keep(port)
                ports.append(port)
    return ports


def _keep(port: int) -> socket.socket | None:
    """
    Keep a port from the other processes that ask here, until this one ends, however it does.

    Raises:
        OSError: Another one has it.
    """
    if sys.platform != "linux":
        return None
    # a name without a file (man 7 unix): it is gone with the process
    kept = socket.socket(socket.AF_UNIX)
    try:
        kept.bind(f"\0raytrail-port-{port}")
    except OSError:
        kept.close()
        raise
    return kept


def _below_connections() -> range:
    try:
        lowest = int(_RANGE.read_text().split()[0])
    except OSError:
        lowest = _USUAL
    return range(_LOWEST, lowest) if lowest - _LOWEST > 1000 else range(0)
