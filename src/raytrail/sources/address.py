"""The addresses that an agent listens on. Ray's HTTP export posts to one, and metrics are read from another."""

from __future__ import annotations

import re

from raytrail.errors import ConfigError

PATH = "/v1/events"
"""As KubeRay's collector has it."""
EXAMPLE = "127.0.0.1:8367"
"""What a receiver may listen on."""

_LISTEN = re.compile(r"(\[[^]]+\]|[^:]*):([0-9]+)")


def where(listen: str, setting: str = "receiver's address ", example: str = EXAMPLE) -> tuple[str, int]:
    """
    Return the host and port of ``host:port``. Without a host it is this machine alone.

    Args:
        listen: The address.
        setting: What an error calls it.
        example: An address that an error names.

    Raises:
        ConfigError: It is not that.
    """
    match = _LISTEN.fullmatch(listen)
    if match is None:
        shown = re.sub(".*@", "***@", listen)  # a user, with a password
        raise ConfigError(f"{setting}{shown!r} is not host:port; write e.g. {example}")
    return match[1].strip("[]") or "127.0.0.1", int(match[2])


def url(listen: str) -> str:
    """
    Return the URL that Ray posts to, for a receiver that listens there. A URL is taken as it is.

    Raises:
        ConfigError: It is no ``host:port``.
    """
    if "://" in listen:
        return listen
    return f"{base(*where(listen))}{PATH}"


def base(host: str, port: int) -> str:
    """Return the URL of what listens there."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
