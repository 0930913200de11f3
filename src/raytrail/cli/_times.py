"""Moments on the command line: the one parser of TIME, and how times are printed."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from raytrail.errors import ConfigError

HELP = (
    "epoch seconds or milliseconds, ISO 8601 with a zone (2026-11-23T07:40:30Z), "
    "-5m (before the cluster's end, or now while it lives), or +5m (after its beginning)"
)

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse(text: str, began_ms: int | None, end_ms: int | None) -> int:
    """
    Return the moment that `text` names, in milliseconds since the epoch.

    Args:
        text: TIME, see `HELP`.
        began_ms: What ``+5m`` counts from.
        end_ms: What ``-5m`` counts back from.

    Raises:
        ConfigError: It is none of these forms.
    """
    if text[:1] in ("-", "+") and _SPAN.sub("", text[1:]) == "" and len(text) > 1:
        span_ms = sum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(text))
        base_ms = end_ms if text[0] == "-" else began_ms
        if base_ms is None:
            raise ConfigError(f"time {text!r}: no event says when this cluster began or ended; give a date")
        return round(base_ms - span_ms if text[0] == "-" else base_ms + span_ms)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        # seconds reach 10^11 in the year 5138; milliseconds passed it in 1973
        return round(float(text) * (1_000 if float(text) < 1e11 else 1))
    try:
        moment = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text))
    except ValueError as error:
        raise ConfigError(f"time {text!r} is not a time; give {HELP}") from error
    if moment.tzinfo is None:
        raise ConfigError(f"time {text!r} has no zone; write {text}Z for UTC, or {text}+02:00")
    return round(moment.timestamp() * 1_000)


def show(ms: int, *, digits: int = 3) -> str:
    """
    Return a time as text, in UTC: ``2026-11-23 07:40:30.867Z``.

    Args:
        ms: Milliseconds since the epoch.
        digits: Of the second's fraction: 0 or 3.
    """
    moment = datetime.fromtimestamp(ms // 1_000, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S") + (f".{ms % 1_000:03d}" if digits else "") + "Z"


def show_span(ms: int) -> str:
    """Return a duration as text, in its two largest units: ``3h 12m``."""
    if ms < 60_000:
        return f"{ms / 1_000:.1f}s"
    minutes, seconds = divmod(ms // 1_000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])
