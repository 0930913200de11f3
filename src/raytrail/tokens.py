"""
Who sends the right token, for the server and for the receiver of an agent.

Wrong tokens are counted by address. A few a minute are answered as wrong, the others are told to come back, and logged.
Only a wrong token is ever refused. Behind a proxy all have one address, and the right token must not be locked out by
the wrong ones of others. A token is therefore as hard to guess as it is long.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

PER_MINUTE = 10
"""Wrong tries that are answered as such, unless a setting says otherwise."""
ADDRESSES = 4096
"""The most addresses that are remembered. The one that was heard of longest ago is forgotten first."""
_MINUTE = 60.0
_NETWORK_BITS = 64
"""The least network that one user of IPv6 is given, who may take any address of it."""

log = logging.getLogger(__name__)


class Tries:
    """
    Counts wrong tries by address. Threads may share it.

    Args:
        per_minute: How many of an address are answered as wrong, at once or in a minute.
        clock: Seconds that never go back.
    """

    def __init__(self, per_minute: int = PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = _MINUTE / per_minute
        self._clock = clock
        # each wrong try of an address moves this so many seconds into the future, a minute at most
        self._used: OrderedDict[str, float] = OrderedDict()
        self._told_at = -_MINUTE
        self._lock = threading.Lock()

    def wrong(self, address: str) -> int:
        """
        Count a wrong try, and return in how many seconds to come back: 0 while there are few of them.

        Args:
            address: The address it came from. Anything that is no address counts as one, whatever it is.
        """
        network = _network(address)
        with self._lock:
            now = self._clock()
            used = max(now, self._used.pop(network, now))
            wait = used + self._seconds - now - _MINUTE
            over = wait > 0.001  # a smaller part of a sum of many is rounding
            self._used[network] = used if over else used + self._seconds
            if len(self._used) > ADDRESSES:
                self._used.popitem(last=False)
            telling = over and now - self._told_at >= _MINUTE
            self._told_at = now if telling else self._told_at
        if telling:
            log.warning("many wrong tokens come from %s; see who asks from there", network)
        return math.ceil(wait) if over else 0


class Guard:
    """
    Tells who sends a right token. Threads may share it.

    Args:
        tries: Counts the wrong ones.
        tokens: Any of these is right, each in its own place. If the first is empty, everybody is let in.
    """

    def __init__(self, tries: Tries, *tokens: str) -> None:
        self._tries = tries
        self._tokens = [token.encode() for token in tokens]

    def refuse(self, address: str, *sent: str) -> int | None:
        """
        Return None to whoever is let in, else in how many seconds to come back: 0 while few that are wrong were sent.

        Args:
            address: Where it comes from.
            sent: What stands in the place of each token; empty where there is none.
        """
        if not self._tokens[0]:
            return None
        # each is compared, so that the time tells nothing
        right = [hmac.compare_digest(text.encode(), token) for text, token in zip(sent, self._tokens, strict=False)]
        if any(right):
            return None
        # who sends none tries none
        return self._tries.wrong(address) if any(sent) else 0


def many_wrong(of: str) -> str:
    """Return what is said to those who come back too early; `of`: a server or a receiver."""
    return f"many wrong tokens came from your address, and this is one, too; send the token of this {of}"


def said_token(authorization: str) -> str:
    """Return the token of an ``Authorization`` header, which is all after its scheme, or a basic one's password."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return credentials
    try:
        return base64.b64decode(credentials).partition(b":")[2].decode()
    except ValueError:  # no base64, or no text
        return ""


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "an unknown address"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)
