"""Answers that will never be others, kept for who asks next."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from starlette.responses import Response

KEPT = frozenset({"content-length", "content-type", "content-security-policy", "referrer-policy"})
"""The headers of an answer that may be kept."""


class Answered(NamedTuple):
    """What was answered with 200."""

    body: bytes
    headers: dict[str, str]


class AnswerCache:
    """Answers by their ETag, up to so many bytes; those that were asked for longest ago go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, Answered] = OrderedDict()

    def get(self, etag: str) -> Answered | None:
        """Return what was answered under an ETag; None where it is not kept."""
        answer = self._answers.get(etag)
        if answer is not None:
            self._answers.move_to_end(etag)
        return answer

    def put(self, etag: str, response: Response) -> None:
        """Keep an answer, unless it is streamed, says more than its body, or would push out most of the others."""
        # streamed answers have no body here
        body = getattr(response, "body", None)
        plain = set(response.headers) <= KEPT
        if etag in self._answers or not isinstance(body, bytes) or response.status_code != 200 or not plain:
            return
        if len(body) > self._most_bytes // 8:
            return
        self._answers[etag] = Answered(body, dict(response.headers))
        self._bytes += len(body)
        while self._bytes > self._most_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= len(oldest.body)
