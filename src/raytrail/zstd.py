"""Zstandard: Python's own since 3.14, and the package of that name before."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, compress, decompress
else:
    from zstandard import ZstdDecompressor, ZstdError, compress

    def decompress(data: bytes) -> bytes:
        """Decompress a whole frame, whether it says how long it is or not."""
        decompressor = ZstdDecompressor().decompressobj()
        lines = decompressor.decompress(data)
        if not decompressor.eof:  # which it says nothing of itself
            raise ZstdError("it is cut off")
        return lines


__all__ = ["ZstdError", "compress", "decompress"]
