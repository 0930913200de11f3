"""Zstandard: Python's own since 3.14, and the package of that name before."""

import sys
from typing import Any

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError, compress, decompress

    def _begin() -> Any:
        return ZstdDecompressor()

    def _decompress(frame: Any, piece: bytes, most_bytes: int) -> bytes:
        return bytes(frame.decompress(piece, most_bytes))

else:
    from zstandard import ZstdDecompressor, ZstdError, compress

    def decompress(data: bytes) -> bytes:
        """Decompress a whole frame, whether it says how long it is or not."""
        decompressor = ZstdDecompressor().decompressobj()
        lines = decompressor.decompress(data)
        if not decompressor.eof:  # which it says nothing of itself
            raise ZstdError("it is cut off")
        return lines

    def _begin() -> Any:
        return ZstdDecompressor().decompressobj()

    def _decompress(frame: Any, piece: bytes, most_bytes: int) -> bytes:
        # this one cannot be told how much to return, but a few bytes hold a few megabytes at most
        return bytes(frame.decompress(piece))


_PIECE_BYTES = 256
_NOT_ONE = "it is cut off, or has more than one frame"


class Frame:
    """One frame of somebody else's, which comes in pieces and is decompressed no further than is asked for."""

    def __init__(self) -> None:
        self._frame = _begin()

    def feed(self, piece: bytes, most_bytes: int) -> bytes:
        """
        Return what the next piece holds.

        Args:
            piece: As it was sent.
            most_bytes: How many bytes are wanted. A caller that gets as many, or more, should ask no further.

        Raises:
            ZstdError: It cannot be read, or comes after the frame's end.
        """
        content = bytearray()
        for start in range(0, len(piece), _PIECE_BYTES):
            if self._frame.eof:
                raise ZstdError(_NOT_ONE)
            content += _decompress(self._frame, piece[start : start + _PIECE_BYTES], most_bytes)
            if len(content) >= most_bytes:
                break
        return bytes(content)

    def end(self) -> None:
        """
        Say that there is no more.

        Raises:
            ZstdError: The frame is not whole, or something follows it.
        """
        if not self._frame.eof or self._frame.unused_data:
            raise ZstdError(_NOT_ONE)


def decompress_at_most(data: bytes, most_bytes: int) -> bytes:
    """
    Decompress a whole frame of somebody else's, which may not hold more than that.

    Raises:
        ZstdError: It holds more, or cannot be read.
    """
    frame = Frame()
    content = frame.feed(data, most_bytes + 1)
    if len(content) > most_bytes:
        raise ZstdError(f"it holds more than {most_bytes} bytes")
    frame.end()
    return content


__all__ = ["Frame", "ZstdError", "compress", "decompress", "decompress_at_most"]
