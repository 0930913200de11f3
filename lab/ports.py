"""Free ports of this machine, for the servers that a test or a demo starts."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST = 20_000
"""The ports below are those of well-known servers, and of Ray's workers (10002 to 19999)."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The range that Linux gives to connections (man 7 ip)."""
_USUAL = 32_768
_given: set[int] = set()


def free_port() -> int:
    """Return a port that is free now, as `free_ports` does."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """
    Return ports that are free now. This process gets none twice, as its servers may listen only later.

    They lie below those that the system gives to connections: a server that is killed finds its port free when it comes
    back. If the system gives all ports to connections, they are some of these.
    """
    below = _below_connections()
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe, contextlib.suppress(OSError):  # somebody has it: another one
            probe.bind((HOST, random.choice(below) if below else 0))
            port = int(probe.getsockname()[1])
            if port not in _given:
                _given.add(port)
                ports.append(port)
    return ports


def _below_connections() -> range:
    try:
        lowest = int(_RANGE.read_text().split()[0])
    except OSError:
        lowest = _USUAL
    return range(_LOWEST, lowest) if lowest - _LOWEST > 1000 else range(0)
