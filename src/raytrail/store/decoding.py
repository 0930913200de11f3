"""Values as the engine gives them, in their usual form: JSON decoded, with the ids in it as hex text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec

from raytrail.entities import Column, Derived
from raytrail.event import UNDECODABLE


def decoder_of(column: Column | Derived) -> Callable[[Any], Any] | None:
    """Return what makes a column's values of what the engine gives, or None where they are the same."""
    if column.type != "json":
        return None
    inside = frozenset(column.ids_inside)

    def decode(text: str) -> Any:
        try:
            value = msgspec.json.decode(text)
            return _hex_inside(value, inside) if inside else value
        except UNDECODABLE:  # deeper than can be read here, though it could be where it came in
            return text

    return decode


def _hex_inside(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_hex_inside(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _hex(item) if key in names and isinstance(item, str) else _hex_inside(item, names)
        for key, item in value.items()
    }


def _hex(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        return text
