"""Zstandard: Python's own since 3.14, and the package of that name before."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, compress, decompress
else:
    from zstandard import ZstdDecompressor, ZstdError, compress

    def decompress(data: bytes) -> bytes:
        """Decompress frames, whether they say how long they are or not."""
        return ZstdDecompressor().decompressobj().decompress(data)


__all__ = ["ZstdError", "compress", "decompress"]
