"""Zstandard: Python's own since 3.14, and the package of that name before."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError, compress, decompress

    def decompress_at_most(data: bytes, most_bytes: int) -> bytes:
        """Decompress a whole frame of somebody else's, which may not hold more than that."""
        decompressor = ZstdDecompressor()
        found = decompressor.decompress(data, max_length=most_bytes + 1)
        if len(found) > most_bytes:
            raise ZstdError(f"it holds more than {most_bytes} bytes")
        if not decompressor.eof:
            raise ZstdError("it is cut off")
        return found

else:
    from zstandard import ZstdDecompressor, ZstdError, compress

    _PIECE_BYTES = 256

    def decompress(data: bytes) -> bytes:
        """Decompress a whole frame, whether it says how long it is or not."""
        decompressor = ZstdDecompressor().decompressobj()
        lines = decompressor.decompress(data)
        if not decompressor.eof:  # which it says nothing of itself
            raise ZstdError("it is cut off")
        return lines

    def decompress_at_most(data: bytes, most_bytes: int) -> bytes:
        """Decompress a whole frame of somebody else's, which may not hold more than that."""
        decompressor, found = ZstdDecompressor().decompressobj(), bytearray()
        # it cannot be told how much to return, but a few bytes hold a few megabytes at most
        for start in range(0, len(data), _PIECE_BYTES):
            found += decompressor.decompress(data[start : start + _PIECE_BYTES])
            if len(found) > most_bytes:
                raise ZstdError(f"it holds more than {most_bytes} bytes")
            if decompressor.eof:
                return bytes(found)
        raise ZstdError("it is cut off")


__all__ = ["ZstdError", "compress", "decompress", "decompress_at_most"]
