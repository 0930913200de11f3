"""
The checks of a post before its body is looked at, and the answers to a post that is refused.

The server's ``/ingest`` and an agent's receiver take bodies in their own ways, as one is asynchronous, takes compressed
bodies and is asked by many, and the other is the standard library's. They refuse them alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from raytrail.tokens import Guard, many_wrong, said_token

RETRY_SECONDS = 5
"""When to come back with what could not be taken."""


class Refused(Exception):
    """A post that is not taken, with what is answered."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def come_back(status: int, message: str) -> Refused:
    """Return the refusal of what may be sent again soon."""
    return Refused(status, f"{message}; come back", {"Retry-After": str(RETRY_SECONDS)})


def too_slow(seconds: float) -> Refused:
    """Return the refusal of a body that took longer than that."""
    return Refused(408, f"the body did not come within {seconds:g} seconds")


def too_long(most: int, of: str = "") -> Refused:
    """Return the refusal of a body of more bytes than that; `of` says more of the bytes."""
    return Refused(413, f"the body is longer than {most} bytes{of}; send less at once")


def check_token(guard: Guard, address: str, authorization: str, *, of: str) -> None:
    """
    Let in whoever sends the token, as bearer token or as the password of basic authentication.

    Args:
        guard: Knows the token.
        address: Where the post comes from.
        authorization: The header of that name.
        of: Whose token it is: a server's or a receiver's.

    Raises:
        Refused: It is not sent.
    """
    wait = guard.refuse(address, said_token(authorization))
    if wait:
        raise Refused(429, many_wrong(of), {"Retry-After": str(wait)})
    if wait is not None:
        raise Refused(401, f"send the token of this {of}", {"WWW-Authenticate": 'Bearer, Basic realm="raytrail"'})


def check_length(content_length: str, most: int) -> None:
    """
    Let in what does not say itself that it is too long, before any of it is read.

    Raises:
        Refused: It does.
    """
    # a number with more digits need not be read
    if content_length.isdecimal() and (len(content_length) > len(str(most)) or int(content_length) > most):
        raise too_long(most)
