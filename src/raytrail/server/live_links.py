"""
Where Ray's own dashboard of a living cluster is.

The server never asks there. It makes a link for the reader's browser, which sends what the reader has for Ray. An
address is the operator's, or a private one: whoever may post events names the head node.
"""

from __future__ import annotations

import ipaddress
import re
import time
from string import Formatter
from urllib.parse import quote, urlsplit

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError, StoreError
from raytrail.store import Filter, Store

PORT = 8265
"""Ray's default of ``--dashboard-port``. No event tells another one."""
REMEMBERED_SECONDS = 30.0
"""How long the head's address of a session is not looked up again."""
MOST = 1_000
"""Of how many sessions it is remembered."""
_NAMES = {"name", "session"}
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
"""The last part of a host's name that browsers take for a part of an address."""
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class LiveLinks:
    """
    Makes the links.

    Args:
        config: The server's settings.

    Raises:
        ConfigError: `live_url` is no URL, or has a name in braces that is not known.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._template = config.live_url
        self._by_address = config.live_links and not config.live_url
        # a server that only this machine reaches is read on this machine
        self._loopback = config.host in ("localhost", "127.0.0.1", "::1")
        self._known: dict[str, tuple[float, str]] = {}
        if self._template:
            _check(self._template)

    def of(self, store: Store, session: str, name: str) -> str:
        """
        Return where the dashboard of a living session is, or nothing where that is not known.

        Args:
            store: The store that has it.
            session: The session.
            name: Its cluster's name.
        """
        if self._template:
            return self._fill(session, name)
        return self._at_head(store, session) if self._by_address else ""

    def _fill(self, session: str, name: str) -> str:
        values = {"name": name, "session": session}
        used = _fields(self._template)
        in_host = _fields(urlsplit(self._template).netloc)
        # a name that is empty, or leads elsewhere, is none that a proxy knows
        if any(values[field].strip(".") == "" for field in used):
            return ""
        if not all(_LABEL.fullmatch(values[field]) for field in in_host):
            return ""
        url = self._template.format(**{field: quote(value, safe="") for field, value in values.items()})
        last = (urlsplit(url).hostname or "").rstrip(".").rpartition(".")[2]
        return "" if in_host and _NUMBER.fullmatch(last) else url

    def _at_head(self, store: Store, session: str) -> str:
        until, url = self._known.get(session, (0.0, ""))
        if time.monotonic() >= until:
            url = _url(_head_address(store, session), loopback=self._loopback)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[session] = (time.monotonic() + REMEMBERED_SECONDS, url)
        return url


def _head_address(store: Store, session: str) -> str:
    try:
        heads = store.snapshot(session).rows(
            "node",
            columns=["node_ip"],
            where=[Filter("is_head_node", "=", True), Filter("state", "=", "ALIVE")],
            order=["-start_time_ms"],
            limit=1,
        )
    except StoreError:  # its pages say so
        return ""
    return (heads[0]["node_ip"] or "") if heads else ""


def _url(address: str, *, loopback: bool) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    # after a percent sign, an address may hold any text, also what ends a host's name
    if "%" in address or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved:
        return ""
    if parsed.is_loopback and not loopback:
        return ""
    host = f"[{parsed}]" if parsed.version == 6 else str(parsed)
    return f"http://{host}:{PORT}/" if parsed.is_private else ""


def _check(template: str) -> None:
    try:
        unknown = _fields(template) - _NAMES
        parts = urlsplit(template)
        ok = not unknown and parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    except ValueError:
        ok = False
    if not ok:
        raise ConfigError(
            f"server.live_url {template!r}: not a URL; write http[s]://host/path, in which {{name}} stands for the "
            "cluster's name and {session} for its session's"
        )


def _fields(template: str) -> set[str]:
    """Return the names in braces."""
    return {field for _, field, _, _ in Formatter().parse(template) if field is not None}
