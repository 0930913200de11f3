"""TIME on the command line."""

import pytest

from raytrail.cli._times import parse, show, show_span
from raytrail.errors import ConfigError

BEGAN, ENDED = 1_795_419_630_000, 1_795_420_014_592


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1795419718", 1_795_419_718_000),
        ("1795419718.5", 1_795_419_718_500),
        ("1795419718123", 1_795_419_718_123),
        ("2026-11-23T07:41:58Z", 1_795_419_718_000),
        ("2026-11-23 07:41:58z", 1_795_419_718_000),
        ("2026-11-23T09:41:58.123+02:00", 1_795_419_718_123),
        ("-5m", ENDED - 300_000),
        ("-1h30m", ENDED - 5_400_000),
        ("-250ms", ENDED - 250),
        ("-1.5s", ENDED - 1_500),
        ("+2m", BEGAN + 120_000),
    ],
)
def test_every_documented_form_of_a_time_is_understood(text, ms):
    assert parse(text, BEGAN, ENDED) == ms


@pytest.mark.parametrize("text", ["yesterday", "", "-", "+", "-5", "-5x", "5m", "-5m junk", "2026-13-01T00:00:00Z"])
def test_anything_else_is_refused_with_the_forms_there_are(text):
    with pytest.raises(ConfigError, match="is not a time; give epoch seconds or milliseconds, ISO 8601 with a zone"):
        parse(text, BEGAN, ENDED)


def test_a_time_without_a_zone_is_refused_since_machines_differ():
    with pytest.raises(ConfigError) as caught:
        parse("2026-11-23T07:41:58", BEGAN, ENDED)
    assert str(caught.value) == (
        "time '2026-11-23T07:41:58' has no zone; write 2026-11-23T07:41:58Z for UTC, or 2026-11-23T07:41:58+02:00"
    )


def test_a_span_needs_a_cluster_whose_end_is_known():
    with pytest.raises(ConfigError, match="no event says when this cluster began or ended; give a date"):
        parse("-5m", None, None)


def test_what_is_shown_can_be_given_back():
    assert show(1_795_419_718_123) == "2026-11-23 07:41:58.123Z"
    assert show(1_795_419_718_123, digits=0) == "2026-11-23 07:41:58Z"
    assert parse(show(1_795_419_718_123), None, None) == 1_795_419_718_123


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
