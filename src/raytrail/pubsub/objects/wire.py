"""Chunks as an object holds them: NDJSON, in which each chunk's headers are a line before its own."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Annotated

import msgspec

from raytrail.event import UNDECODABLE, Chunk, Unreadable, received, unquoted
from raytrail.zstd import ZstdError, compress, decompress_at_most

SUFFIXES = {"zstd": ".ndjson.zst", "gzip": ".ndjson.gz", "none": ".ndjson"}
_MOST_BYTES = 512 * 1024 * 1024
"""How much an object may hold when it is decompressed: many times what a writer puts into one."""


def encode(chunks: list[Chunk], compression: str) -> bytes:
    """Return the object of those chunks."""
    parts: list[bytes] = []
    for chunk in chunks:
        # quoted, as other engines would not read the lone surrogates that names may hold
        head = json.dumps({"raytrail": {**chunk.quoted_headers(), "bytes": len(chunk.data)}}, separators=(",", ":"))
        parts += head.encode(), b"\n", chunk.data
    data = b"".join(parts)
    if compression == "zstd":
        return compress(data, 1)
    return gzip.compress(data, 1, mtime=0) if compression == "gzip" else data


def decode(body: bytes, suffix: str, what: str) -> list[Chunk | Unreadable]:
    """Return the chunks of an object, and what cannot be read in place of those that follow."""
    chunks: list[Chunk | Unreadable] = []
    at = 0
    try:
        if suffix == SUFFIXES["zstd"]:
            body = decompress_at_most(body, _MOST_BYTES)
        elif suffix == SUFFIXES["gzip"]:
            body = _unzipped(body)
        while at < len(body):
            end = body.index(b"\n", at) + 1
            head = msgspec.json.decode(body[at:end], type=_Head).raytrail
            length = msgspec.convert(head.pop("bytes"), Annotated[int, msgspec.Meta(ge=0)])
            headers = {name: unquoted(msgspec.convert(value, str)) for name, value in head.items()}
            chunks.append(received(headers, body[end : end + length], f"{what}, at {at}"))
            at = end + length
    except (*UNDECODABLE, ValueError, KeyError, OSError, EOFError, zlib.error, ZstdError) as error:
        reason = f"{what} is none of ours: {error!r}; it was altered, or take another folder"
        chunks.append(Unreadable(place=f"{what}, at {at}", reason=reason, headers={}, data=body[at:]))
    return chunks


def _unzipped(body: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        unzipped = file.read(_MOST_BYTES + 1)
    if len(unzipped) > _MOST_BYTES:
        raise ValueError(f"it holds more than {_MOST_BYTES} bytes")
    return unzipped


class _Head(msgspec.Struct, frozen=True):
    """What comes before the lines of a chunk: its headers, and how many bytes its lines have."""

    raytrail: dict[str, str | int]
