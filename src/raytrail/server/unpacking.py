"""Bodies that were compressed, decompressed piece by piece, never further than is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from raytrail.zstd import Frame, ZstdError

ENCODINGS = ("gzip", "zstd", "identity")
_GZIP = 31
"""What zlib calls a window of 32 KB in gzip's wrapping."""
_MEMBERS = 1000
"""Most members of a gzip body: each costs as much as a page of text, and may be empty."""


class UnpackError(ValueError):
    """The bytes are not what the encoding says."""


class Unpacker(Protocol):
    """Unpacks a body that comes in pieces."""

    def feed(self, piece: bytes, most: int) -> bytes:
        """
        Return what the next piece unpacks to.

        Args:
            piece: As it was sent.
            most: How many bytes are wanted; whoever gets as many, or more, is to ask no further.

        Raises:
            UnpackError: It cannot be read.
        """

    def end(self) -> None:
        """
        Say that there is no more.

        Raises:
            UnpackError: Something is missing.
        """


def unpacker(encoding: str) -> Unpacker:
    """Return what unpacks a body of one of `ENCODINGS`."""
    kinds: dict[str, Callable[[], Unpacker]] = {"gzip": _Gzip, "zstd": _Zstd, "identity": _Identity}
    return kinds[encoding]()


class _Identity:
    def feed(self, piece: bytes, most: int) -> bytes:
        return piece

    def end(self) -> None:
        pass


class _Gzip:
    """Members one after the other, as gzip's format has them, with zeros between and after them."""

    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, piece: bytes, most: int) -> bytes:
        unpacked = bytearray()
        while piece and len(unpacked) < most:
            if self._member is None and (piece := piece.lstrip(b"\0") if self._members else piece):
                self._begin(piece)
            if self._member is None:
                break
            try:
                unpacked += self._member.decompress(piece, most - len(unpacked))
            except zlib.error as error:
                raise UnpackError(str(error)) from error
            piece = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if self._member.eof:
                self._member = None
        return bytes(unpacked)

    def _begin(self, piece: bytes) -> None:
        if not b"\x1f\x8b".startswith(piece[:2]):
            raise UnpackError(f"Not a gzipped file ({piece[:2]!r})")
        self._members += 1
        if self._members > _MEMBERS:
            raise UnpackError(f"it has more than {_MEMBERS} members")
        self._member = zlib.decompressobj(_GZIP)

    def end(self) -> None:
        if self._member is not None or not self._members:
            raise UnpackError("Compressed file ended before the end-of-stream marker was reached")


class _Zstd:
    """One frame."""

    def __init__(self) -> None:
        self._frame = Frame()

    def feed(self, piece: bytes, most: int) -> bytes:
        try:
            return self._frame.feed(piece, most)
        except ZstdError as error:
            raise UnpackError(str(error)) from error

    def end(self) -> None:
        try:
            self._frame.end()
        except ZstdError as error:
            raise UnpackError(str(error)) from error
