"""What trusted proxies say of who asks: their address, their scheme, and the user that they have found out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError

USER = "raytrail.user"
"""The key under which a request's scope has the user that a trusted proxy names."""
SEVERAL: Final = "several"
"""Stands there where several are named. One of them is then a client's own."""
ALWAYS_FORWARDED = "127.0.0.1"
"""Whose word is taken for a client's address where no proxy is named, but for no user."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NamedUser(NamedTuple):
    """A user whom a proxy names."""

    name: str
    groups: tuple[str, ...]


class Proxies:
    """Takes the word of trusted proxies, and nobody else's."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        """
        Stand before an application.

        Args:
            app: The application.
            config: The proxies, and the headers that they send.
        """
        trusted = list(config.trusted_proxies) or [ALWAYS_FORWARDED]
        self._forwarded: ASGIApp = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type, assignment]  # its own types of ASGI
        self._networks = networks(config.trusted_proxies)
        self._user, self._groups = config.user_header, config.groups_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] in ("http", "websocket") and scope.get("client"):
            address, port = scope["client"]
            scope["client"] = (_unmapped(address), port)
            # the connection's own address: the next one to look sees what the proxy says
            if self._user and self._trusts(scope["client"][0]):
                scope[USER] = self._named(Headers(scope=scope))
        await self._forwarded(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def _named(self, headers: Headers) -> NamedUser | Literal["several"] | None:
        users, groups = headers.getlist(self._user), headers.getlist(self._groups) if self._groups else []
        if len(users) > 1 or len(groups) > 1:
            return SEVERAL
        name = _text(users[0]) if users else ""
        if not name:
            return None
        return NamedUser(name, tuple(part.strip() for part in _text("".join(groups)).split(",") if part.strip()))


def named_user(scope: Scope) -> NamedUser | Literal["several"] | None:
    """Return the user that a trusted proxy names, if one does."""
    named: NamedUser | Literal["several"] | None = scope.get(USER)
    return named


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """
    Return addresses and networks.

    Raises:
        ConfigError: One is none, or holds everybody.
    """
    parsed: list[Network] = []
    for text in texts:
        try:
            parsed.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigError(
                f"server.trusted_proxies {text!r}: {error}; write an address or a network, such as 10.1.0.0/16"
            ) from error
        if parsed[-1].prefixlen == 0:
            raise ConfigError(f"server.trusted_proxies {text!r} is everybody; name the proxies")
    return tuple(parsed)


def _unmapped(address: str) -> str:
    """Return an address of IPv4 as such, as a socket that listens for both kinds writes it in the way of IPv6."""
    return address.removeprefix("::ffff:") if address.startswith("::ffff:") and "." in address else address


def _text(value: str) -> str:
    """Return a header as people wrote it. Starlette decodes its bytes one by one."""
    return value.encode("latin-1").decode("utf-8", "replace").strip()
