"""Moments: the one parser of TIME, for commands and addresses, and how times are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import NamedTuple

from raytrail.errors import ConfigError

HELP = (
    "2026-11-28 03:12 or 2026-11-28T03:12:05.250 (UTC, unless a zone follows: Z, +02:00, Europe/Berlin), "
    "03:12 (the last one in the cluster's life), yesterday or yesterday 03:12 (the day before its end), "
    "-10m or '10 minutes before end' (before its end, or before now while it lives), +5m (after its start), "
    "start, end, now, or epoch seconds or milliseconds"
)
"""The forms of TIME, for help and for errors."""

END, NOW = "end", "now"
"""The TIMEs that are a cluster's very end, after all that was concluded there (now, while it lives), and now."""

_UNITS = {
    "ms": 1,
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1_000),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60_000),
    **dict.fromkeys(("h", "hour", "hours"), 3_600_000),
    **dict.fromkeys(("d", "day", "days"), 86_400_000),
}
_PART = rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s*({'|'.join(sorted(_UNITS, key=len, reverse=True))})(?![a-z])"
_SPAN = re.compile(_PART)
_SIGNED = re.compile(rf"(?P<sign>[-+])(?P<span>(?:{_PART}\s*)+)")
_IN_WORDS = re.compile(rf"(?P<span>(?:{_PART}\s*)+)(?P<words>ago|(?:before|after)\s+(?:the\s+)?(?:start|end))")
_NUMBER = re.compile(r"\d{1,19}(?:\.\d{1,9})?")
_SWAPPED = re.compile(r"(\S+)\s+(yesterday|today)", re.IGNORECASE)
_CALENDAR = re.compile(
    r"(?:(?P<day>yesterday|today|\d{4}-\d{2}-\d{2})(?:(?:T|\s+)(?=\S)|$))?"
    r"(?:(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?|[A-Z]+(?:/[A-Z0-9_+-]+)+)?",
    re.IGNORECASE,
)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LATEST_MS = 253_402_300_800_000
"""The year 10000, which no calendar here knows."""
_MAGNITUDES = ((11, Decimal(1_000)), (14, Decimal(1)), (17, Decimal("0.001")), (20, Decimal("0.000001")))
"""How many digits an epoch time has at most that counts in seconds, ms, us and ns, and what it is multiplied by."""


class Life(NamedTuple):
    """When a cluster was there: what relative times are counted from."""

    began_ms: int | None
    """When its first node joined, or None where no event says."""
    ended_ms: int | None
    """When its last node died, or None while it lives, or where no event says."""
    until_ms: int | None
    """Its end, or now while it lives, or None where no event says."""
    now_ms: int


def parse(text: str, life: Life) -> int:
    """
    Return the moment that `text` names, in milliseconds since the epoch.

    Args:
        text: TIME, see `HELP`.
        life: The cluster's.

    Raises:
        ConfigError: It is none of these forms, or what it is counted from is not known.
    """
    stripped = text.strip()
    for form in (_word, _span, _number, _calendar):
        moment_ms = form(stripped, life)
        if moment_ms is not None:
            break
    else:
        raise ConfigError(f"time {text!r} is not a time; give {HELP}")
    if not 0 <= moment_ms < _LATEST_MS:
        raise ConfigError(f"time {text!r} is not between the years 1970 and 9999; give {HELP}")
    return moment_ms


def remark(text: str, moment_ms: int, life: Life) -> str:
    """Return what is to be said of a moment: where it lies outside the cluster's life, or which one a TIME means."""
    shown = show(moment_ms)
    if life.began_ms is not None and moment_ms < life.began_ms:
        return f"{shown} is before this cluster's start: {_describe(life)}"
    if life.ended_ms is not None and moment_ms > life.ended_ms:
        return f"{shown} is after this cluster's end, and it is shown as it was at last: {_describe(life)}"
    if moment_ms > life.now_ms:
        return f"{shown} is in the future, and the cluster is shown as it is now: {_describe(life)}"
    whole = _CALENDAR.fullmatch(text.strip())
    says_itself = whole and whole["day"] and whole["day"][0].isdigit()
    return "" if says_itself else f"at {shown}"


def _describe(life: Life) -> str:
    began = "it began at a time that no event says" if life.began_ms is None else f"it began {show(life.began_ms)}"
    return began + (" and lives" if life.ended_ms is None else f" and ended {show(life.ended_ms)}")


def _word(text: str, life: Life) -> int | None:
    words = {NOW: life.now_ms, END: life.until_ms, "start": life.began_ms}
    word = text.lower()
    return _known(text, words[word]) if word in words else None


def _span(text: str, life: Life) -> int | None:
    """Read a time that is counted from the start, the end or now."""
    signed, in_words = _SIGNED.fullmatch(text), _IN_WORDS.fullmatch(text.lower())
    match = signed or in_words
    if match is None:
        return None
    parts = [(Decimal(number), _UNITS[unit]) for number, unit in _SPAN.findall(match["span"])]
    span_ms = int(sum(number * unit for number, unit in parts))
    if signed:
        return _known(text, life.until_ms) - span_ms if signed["sign"] == "-" else _known(text, life.began_ms) + span_ms
    first, *_, last = match["words"].split() * 2
    base_ms = {"ago": life.now_ms, "start": life.began_ms, "end": life.until_ms}[last]
    return _known(text, base_ms) + (span_ms if first == "after" else -span_ms)


def _known(text: str, base_ms: int | None) -> int:
    if base_ms is None:
        raise ConfigError(f"time {text!r}: no event says when this cluster began or ended; give a date")
    return base_ms


def _number(text: str, _: Life) -> int | None:
    """Read an epoch time, whose unit its size tells: seconds reach 12 digits in the year 5138."""
    if not _NUMBER.fullmatch(text):
        return None
    digits = len(text.partition(".")[0].lstrip("0"))
    return int(Decimal(text) * next(per_ms for most, per_ms in _MAGNITUDES if digits <= most))


def _calendar(text: str, life: Life) -> int | None:
    """Read a date, a time of day, or both."""
    match = _CALENDAR.fullmatch(_SWAPPED.sub(r"\2 \1", text))
    if match is None or not (match["day"] or match["hour"]):
        return None
    day = (match["day"] or "").lower()
    try:
        zone, clock = _zone(match["zone"] or "Z"), _clock(match)
        if day[:1].isdigit():
            return _ms(date.fromisoformat(day), clock or time(), zone)
    except ValueError as error:
        raise ConfigError(f"time {text!r}: {error}; give {HELP}") from error
    last = _EPOCH + timedelta(milliseconds=_known(text, life.until_ms))
    back = _DAY if day == "yesterday" else timedelta()
    if clock is None:
        return (last - back - _EPOCH) // timedelta(milliseconds=1)
    today = last.astimezone(zone).date()
    return _ms(today - back, clock, zone) if day else _in_life(today, lambda on: _ms(on, clock, zone), life)


def _in_life(last_day: date, at: Callable[[date], int], life: Life) -> int:
    """Return the last moment of a time of day that is in the cluster's life, or the nearest to it where none is."""
    until_ms = life.until_ms or 0
    before_ms = at(last_day) if at(last_day) <= until_ms else at(last_day - _DAY)
    if life.began_ms is None or life.ended_ms is None or before_ms >= life.began_ms:
        return before_ms
    after_ms = at(last_day) if at(last_day) > until_ms else at(last_day + _DAY)
    return min(before_ms, after_ms, key=lambda ms: max(life.began_ms or 0, ms) - min(until_ms, ms))


def _clock(match: re.Match[str]) -> time | None:
    if match["hour"] is None:
        return None
    milliseconds = int(f"{match['fraction'] or ''}000"[:3])
    return time(int(match["hour"]), int(match["minute"]), int(match["second"] or 0), milliseconds * 1_000)


def _zone(text: str) -> tzinfo:
    """
    Return the time zone of that name or offset.

    Raises:
        ValueError: There is none.
    """
    if text.upper() in ("Z", "UTC", "GMT"):
        return timezone.utc
    if text[0] in "+-":
        hours, minutes = int(text[1:3]), int(text[3:].removeprefix(":") or 0)
        offset = timedelta(hours=hours, minutes=minutes)
        return timezone(-offset if text[0] == "-" else offset)
    from zoneinfo import ZoneInfo  # few name a zone, and it costs as much to import as the rest of this

    try:
        return ZoneInfo(text)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"this machine knows no time zone {text!r}") from error


def _ms(day: date, clock: time, zone: tzinfo) -> int:
    try:
        return (datetime.combine(day, clock, zone) - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def show(ms: int, *, digits: int = 3) -> str:
    """
    Return a time as text, in UTC: ``2026-11-23 07:40:30.867Z``.

    Args:
        ms: Milliseconds since the epoch.
        digits: The digits of the second's fraction, 0 or 3.
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


def show_duration(ms: float) -> str:
    """Return a duration as text, to three digits below a minute: ``0.12 ms``, ``38.7 ms``, ``1.24 s``, ``3h 12m``."""
    if ms >= 60_000:
        return show_span(round(ms))
    value, unit = (ms, "ms") if ms < 999.5 else (ms / 1_000, "s")
    return f"{value:.{0 if value >= 99.95 or not value else 1 if value >= 9.995 else 2}f} {unit}"
