"""TIME on the command line."""

from datetime import datetime, timezone

import pytest

from raytrail.errors import ConfigError
from raytrail.times import HELP, Life, parse, remark, show, show_span

BEGAN, ENDED = 1_795_419_630_000, 1_795_420_014_592  # 2026-11-23 07:40:30 to 07:46:54.592
NOW = 1_796_000_000_000
DEAD = Life(BEGAN, ENDED, ENDED, NOW)
UNKNOWN = Life(None, None, None, NOW)


def utc(text):
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


def dead(began, ended):
    return Life(utc(began), utc(ended), utc(ended), NOW)


WEEKS = dead("2026-11-02 09:00:00", "2026-11-23 02:30:00")
NIGHT = dead("2026-11-23 02:00:00", "2026-11-23 03:00:00")
LIVING = Life(utc("2026-11-02 09:00:00"), None, utc("2026-11-29 17:00:00"), utc("2026-11-29 17:00:00"))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1795419718", 1_795_419_718_000),
        ("1795419718.5", 1_795_419_718_500),
        ("1795419718123", 1_795_419_718_123),
        ("1795419718123456", 1_795_419_718_123),
        ("1795419718123456789", 1_795_419_718_123),
        ("0", 0),
        ("2026-11-23T07:41:58Z", 1_795_419_718_000),
        ("2026-11-23 07:41:58z", 1_795_419_718_000),
        ("2026-11-23T09:41:58.123+02:00", 1_795_419_718_123),
        ("2026-11-23T07:41:58", 1_795_419_718_000),
        ("2026-11-23T07:41", utc("2026-11-23 07:41:00")),
        ("2026-11-23 07:41:58.1239", 1_795_419_718_123),
        (" 2026-11-23  07:41:58,5 UTC ", 1_795_419_718_500),
        ("2026-11-23 02:41:58 -0500", 1_795_419_718_000),
        ("2026-11-23T13:26:58+0545", 1_795_419_718_000),
        ("2026-11-23 09:41:58+02", 1_795_419_718_000),
        ("2026-11-23 08:41:58 Europe/Berlin", 1_795_419_718_000),
        ("2026-07-23 08:41:58 Europe/Berlin", utc("2026-07-23 06:41:58")),
        ("2026-11-23", utc("2026-11-23 00:00:00")),
        ("2026-11-23 +02:00", utc("2026-11-22 22:00:00")),
        ("-5m", ENDED - 300_000),
        ("-1h30m", ENDED - 5_400_000),
        ("-1h 30m", ENDED - 5_400_000),
        ("-250ms", ENDED - 250),
        ("-1.5s", ENDED - 1_500),
        ("+2m", BEGAN + 120_000),
        ("10 minutes before end", ENDED - 600_000),
        ("1h 30m before the end", ENDED - 5_400_000),
        ("90s after start", BEGAN + 90_000),
        ("2 Days Before Start", BEGAN - 172_800_000),
        ("1 day ago", NOW - 86_400_000),
        ("start", BEGAN),
        ("end", ENDED),
        ("END", ENDED),
        ("now", NOW),
    ],
)
def test_every_documented_form_of_a_time_is_understood(text, ms):
    assert parse(text, DEAD) == ms


@pytest.mark.parametrize(
    ("text", "life", "means"),
    [
        ("03:12", WEEKS, "2026-11-22 03:12:00"),
        ("02:12", WEEKS, "2026-11-23 02:12:00"),
        ("02:30", WEEKS, "2026-11-23 02:30:00"),
        ("2:12:05.250", WEEKS, "2026-11-23 02:12:05.250"),
        ("03:12+02:00", WEEKS, "2026-11-23 01:12:00"),
        ("03:12 Europe/Berlin", WEEKS, "2026-11-23 02:12:00"),
        ("yesterday", WEEKS, "2026-11-22 02:30:00"),
        ("today", WEEKS, "2026-11-23 02:30:00"),
        ("yesterday 03:12", WEEKS, "2026-11-22 03:12:00"),
        ("03:12 Yesterday", WEEKS, "2026-11-22 03:12:00"),
        ("today 03:12", WEEKS, "2026-11-23 03:12:00"),
        # no 03:12 is in its life: the nearest one to it
        ("03:12", NIGHT, "2026-11-23 03:12:00"),
        ("01:55", NIGHT, "2026-11-23 01:55:00"),
        ("02:12", NIGHT, "2026-11-23 02:12:00"),
        ("17:00", LIVING, "2026-11-29 17:00:00"),
        ("17:01", LIVING, "2026-11-28 17:01:00"),
        ("yesterday 23:59:59", LIVING, "2026-11-28 23:59:59"),
        ("-10m", LIVING, "2026-11-29 16:50:00"),
        ("end", LIVING, "2026-11-29 17:00:00"),
    ],
)
def test_a_time_of_day_or_a_day_is_one_of_the_clusters_life(text, life, means):
    assert show(parse(text, life)) == show(utc(means))


@pytest.mark.parametrize(
    "text",
    [
        *("yester", "", "-", "+", "-5", "-5x", "5m", "-5m junk", "3 weeks before end", "2026-11-23T", "noon", "03:12:"),
        *("2026-11-23-05:00", "yesterday03:12", "03:12 nowhere", "9" * 20),
    ],
)
def test_anything_else_is_refused_with_the_forms_there_are(text):
    with pytest.raises(ConfigError) as caught:
        parse(text, DEAD)
    assert str(caught.value) == f"time {text!r} is not a time; give {HELP}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-13-01T00:00:00Z", "month must be in 1..12"),
        ("2026-02-30", "day is out of range for month"),
        ("25:00", "hour must be in 0..23"),
        ("03:12 Europe/Atlantis", "this machine knows no time zone 'Europe/Atlantis'"),
        ("03:12 +99:00", "offset must be a timedelta strictly between"),
    ],
)
def test_a_time_that_no_calendar_has_is_refused_with_the_reason(text, why):
    with pytest.raises(ConfigError) as caught:
        parse(text, DEAD)
    assert str(caught.value).startswith(f"time {text!r}: {why}")
    assert str(caught.value).endswith(f"; give {HELP}")


@pytest.mark.parametrize("text", ["-99999d", "1969-12-31", "+999999999d"])
def test_a_time_that_no_cluster_can_have_is_refused(text):
    with pytest.raises(ConfigError, match="is not between the years 1970 and 9999; give "):
        parse(text, DEAD)


@pytest.mark.parametrize("text", ["-5m", "+5m", "start", "end", "03:12", "yesterday", "5 minutes before end"])
def test_what_is_counted_from_a_life_needs_one_that_is_known(text):
    with pytest.raises(ConfigError, match="no event says when this cluster began or ended; give a date"):
        parse(text, UNKNOWN)


@pytest.mark.parametrize(
    ("text", "life", "words"),
    [
        (
            "2026-11-23 07:40:29.999",
            DEAD,
            "2026-11-23 07:40:29.999Z is before this cluster's start: "
            "it began 2026-11-23 07:40:30.000Z and ended 2026-11-23 07:46:54.592Z",
        ),
        (
            "now",
            DEAD,
            "2026-11-30 00:53:20.000Z is after this cluster's end, and it is shown as it was at last: "
            "it began 2026-11-23 07:40:30.000Z and ended 2026-11-23 07:46:54.592Z",
        ),
        (
            "2026-11-29 17:00:01Z",
            LIVING,
            "2026-11-29 17:00:01.000Z is in the future, and the cluster is shown as it is now: "
            "it began 2026-11-02 09:00:00.000Z and lives",
        ),
        ("12", LIVING, "1970-01-01 00:00:12.000Z is before this cluster's start: "
         "it began 2026-11-02 09:00:00.000Z and lives"),
        ("-5m", DEAD, "at 2026-11-23 07:41:54.592Z"),
        ("1795419718123", DEAD, "at 2026-11-23 07:41:58.123Z"),
        ("07:41", DEAD, "at 2026-11-23 07:41:00.000Z"),
        ("2026-11-23 07:41", DEAD, ""),
        ("2026-11-23T07:46:54.592Z", DEAD, ""),
        ("2026-11-23T07:40:30Z", DEAD, ""),
    ],
)  # fmt: skip
def test_where_a_time_lies_is_said_unless_it_says_so_itself(text, life, words):
    assert remark(text, parse(text, life), life) == words


def test_what_is_shown_can_be_given_back():
    assert show(1_795_419_718_123) == "2026-11-23 07:41:58.123Z"
    assert show(1_795_419_718_123, digits=0) == "2026-11-23 07:41:58Z"
    assert parse(show(1_795_419_718_123), UNKNOWN) == 1_795_419_718_123


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0.0s"),
        (850, "0.8s"),
        (59_940, "59.9s"),
        (60_000, "1m 0s"),
        (11_520_000, "3h 12m"),
        (90_000_000, "1d 1h"),
    ],
)
def test_a_duration_shows_its_two_largest_units(ms, text):
    assert show_span(ms) == text
