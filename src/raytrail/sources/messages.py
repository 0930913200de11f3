"""Ray's protobuf messages in the words of its event files, for the sources that ask it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any


def in_base64(value: bytes) -> str:
    """Return an id as Ray's own events have it."""
    return base64.b64encode(value).decode()


def digest(message: Any) -> bytes:
    """Return what changes when a message does: small, as the tables of a long-lived cluster are not."""
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()


def enumerated(message: Any, field: str) -> str:
    """Return the name of an enumeration's value, or its number where this version of Ray has no name for it."""
    return _enumerated(message.DESCRIPTOR.fields_by_name[field], getattr(message, field))


def plain(message: Any) -> dict[str, Any]:
    """Return a protobuf message's fields, with defaults: ids as hex, enumerations by name, 64-bit integers as text."""
    values = [(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields]
    return {
        field.name: _value(field, value)
        for field, value in values
        if not hasattr(value, "DESCRIPTOR") or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (str, bool, float)):
        return value
    if isinstance(value, int):
        if field.enum_type is not None:
            return _enumerated(field, value)
        return str(value) if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) else value
    if hasattr(value, "items"):
        inner = field.message_type.fields_by_name["value"]
        return {key: _value(inner, value[key]) for key in sorted(value)}
    return plain(value) if hasattr(value, "DESCRIPTOR") else [_value(field, member) for member in value]


def _enumerated(field: Any, number: int) -> str:
    known = field.enum_type.values_by_number.get(number)
    return known.name if known else str(number)
