"""The time zone of whoever serves, as Ray's dashboard names it (ray/dashboard/timezone_utils.py, Ray 2.60)."""

from __future__ import annotations

from datetime import datetime

ZONES = {
    "-12:00": "Etc/+12",
    "-11:00": "Pacific/Pago_Pago",
    "-10:00": "Pacific/Honolulu",
    "-09:00": "America/Anchorage",
    "-08:00": "America/Los_Angeles",
    "-07:00": "America/Phoenix",
    "-06:00": "America/Guatemala",
    "-05:00": "America/Bogota",
    "-04:00": "America/Halifax",
    "-03:30": "America/St_Johns",
    "-03:00": "America/Sao_Paulo",
    "-02:00": "America/Godthab",
    "-01:00": "Atlantic/Azores",
    "+00:00": "Europe/London",
    "+01:00": "Europe/Amsterdam",
    "+02:00": "Asia/Amman",
    "+03:00": "Asia/Baghdad",
    "+03:30": "Asia/Tehran",
    "+04:00": "Asia/Dubai",
    "+04:30": "Asia/Kabul",
    "+05:00": "Asia/Karachi",
    "+05:30": "Asia/Kolkata",
    "+05:45": "Asia/Kathmandu",
    "+06:00": "Asia/Almaty",
    "+06:30": "Asia/Yangon",
    "+07:00": "Asia/Bangkok",
    "+08:00": "Asia/Shanghai",
    "+09:00": "Asia/Irkutsk",
    "+09:30": "Australia/Adelaide",
    "+10:00": "Australia/Brisbane",
    "+11:00": "Asia/Magadan",
    "+12:00": "Pacific/Auckland",
    "+13:00": "Pacific/Tongatapu",
}
"""The zone that Ray takes for each offset, summer or winter."""


def local_zone(now: datetime) -> dict[str, str | None]:
    """Return the zone of a moment that knows its own, with Ray's own arithmetic; null where Ray has none for it."""
    offset = now.utcoffset()
    hours, rest = divmod(offset.total_seconds() if offset else 0.0, 3600)
    name = f"{'+' if hours >= 0 else '-'}{abs(int(hours)):02d}:{int(rest // 60):02d}"
    return {"offset": name if name in ZONES else None, "value": ZONES.get(name)}
