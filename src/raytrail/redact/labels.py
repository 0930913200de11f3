"""Texts in base64, as Ray's HTTP export has what libraries say of a task or an actor: masked by what they say."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from itertools import zip_longest

import msgspec

from raytrail.event import UNDECODABLE
from raytrail.redact.lines import Patch
from raytrail.redact.quoted import json_value


def patches(text: bytes, redact: Callable[[bytes], bytes]) -> list[Patch]:
    """
    Return what is to stand in an object of such texts, by their names: each as long as it was.

    Args:
        text: The object, as JSON.
        redact: Masks a line.
    """
    value = json_value(text, 0, 0)
    keys = value.keys if len(value.keys) == len(value.strings) else []
    replacements: list[Patch] = []
    for (start, end), key in zip_longest(value.strings, keys, fillvalue=(0, 0)):
        written = text[start:end]
        try:
            plain = b64decode(written.replace(b"\\/", b"/"), validate=True).decode()
        except ValueError:
            continue  # it is none, and nobody reads it
        line = b'{"labels":{"%b":%b}}' % (text[slice(*key)], msgspec.json.encode(plain))
        masked = redact(line)
        if masked != line:
            hidden = b64encode(_hidden(masked, len(plain.encode())))
            # one that is spelt with escapes is longer: it is no base64 any more, and nobody reads it
            replacements.append((start, hidden if len(hidden) == len(written) else b"*" * len(written)))
    return replacements


def _hidden(line: bytes, length: int) -> bytes:
    """Return what a masked line says, if that is as long as it was, and else asterisks."""
    try:
        [label] = msgspec.json.decode(line, type=dict[str, dict[str, str]])["labels"].values()
    except (*UNDECODABLE, ValueError):
        return b"*" * length
    return label.encode() if len(label.encode()) == length else b"*" * length
