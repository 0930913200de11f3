"""What becomes of a broker's groups that nobody reads as."""

import pytest

from raytrail.pubsub.groups import Standing, gone_after_seconds, passing_group, standing

RETAIN_SECONDS = 3600
PASSING = "ephemeral-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("group", "present", "silent_seconds", "stands"),
    [
        ("history", True, 9999, Standing.COUNTS),
        ("history", False, 3600, Standing.COUNTS),
        ("history", False, 3601, Standing.AWAY),
        (PASSING, True, 9999, Standing.COUNTS),
        (PASSING, False, 0, Standing.GONE),
    ],
)
def test_a_group_counts_while_it_is_read_as_and_for_a_time_after(group, present, silent_seconds, stands):
    assert standing(group, present=present, silent_seconds=silent_seconds, retain_seconds=RETAIN_SECONDS) is stands


def test_a_group_that_nobody_comes_back_to_is_soon_forgotten():
    assert gone_after_seconds("history", RETAIN_SECONDS) == RETAIN_SECONDS
    assert passing_group().rpartition("-")[0] == PASSING.rpartition("-")[0]
    assert gone_after_seconds(PASSING, RETAIN_SECONDS) < RETAIN_SECONDS / 2
