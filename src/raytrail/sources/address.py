"""The addresses of a receiver of Ray's HTTP export. It listens on one, and Ray posts to the other."""

from __future__ import annotations

import re

from raytrail.errors import ConfigError

PATH = "/v1/events"
"""As KubeRay's collector has it."""

_LISTEN = re.compile(r"(\[[^]]+\]|[^:]*):([0-9]+)")


def where(listen: str) -> tuple[str, int]:
    """
    Return the host and port of ``host:port``. Without a host it is this machine alone.

    Raises:
        ConfigError: It is not that.
    """
    match = _LISTEN.fullmatch(listen)
    if match is None:
        shown = re.sub(".*@", "***@", listen)  # a user, with a password
        raise ConfigError(f"receiver's address {shown!r} is not host:port; write e.g. 127.0.0.1:8367")
    return match[1].strip("[]") or "127.0.0.1", int(match[2])


def url(listen: str) -> str:
    """
    Return the URL that Ray posts to, for a receiver that listens there. A URL is taken as it is.

    Raises:
        ConfigError: It is no ``host:port``.
    """
    if "://" in listen:
        return listen
    host, port = where(listen)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
