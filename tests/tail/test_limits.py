"""Speed limits delay, and drop nothing."""

from typing import Any

import pytest

from raytrail.config import TailConfig
from raytrail.tail import limits, turns
from raytrail.tail.limits import Limits
from raytrail.tail.selection import wants_type


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def test_without_limits_nothing_waits(clock):
    free = Limits({}, {})
    free.spend("TASK", 10**9, 10**12)
    assert free.wait_seconds("TASK") == 0


def test_one_second_may_be_spent_at_once_and_what_is_overdrawn_is_waited_for(clock):
    bound = Limits({"TASK": 100}, {})
    bound.spend("TASK", 99, 1)
    assert bound.wait_seconds("TASK") == 0
    bound.spend("TASK", 51, 1)
    assert bound.wait_seconds("TASK") == pytest.approx(0.5, abs=1e-3)
    clock.now += 0.51
    assert bound.wait_seconds("TASK") == 0


def test_what_is_not_spent_is_not_saved_up(clock):
    bound = Limits({"TASK": 100}, {})
    clock.now += 3600
    bound.wait_seconds("TASK")
    bound.spend("TASK", 200, 1)
    assert bound.wait_seconds("TASK") == pytest.approx(1, abs=1e-3)


def test_types_do_not_hold_each_other_up_but_all_together_do(clock):
    bound = Limits({"TASK": 100, "ALL": 1000}, {"ACTOR": 1000})
    bound.spend("TASK", 200, 1)
    assert bound.wait_seconds("ACTOR") == 0
    bound.spend("ACTOR", 1, 3000)
    assert bound.wait_seconds("ACTOR") == pytest.approx(2, abs=1e-3)
    assert bound.wait_seconds("NODE") == 0
    bound.spend("NODE", 1000, 1)
    assert bound.wait_seconds("NODE") == pytest.approx(0.2, abs=0.01)


def test_over_any_time_the_rate_is_kept(clock):
    bound, read, began = Limits({"TASK": 50}, {}), 0, clock.now
    while clock.now < began + 100:
        if bound.wait_seconds("TASK") == 0:
            bound.spend("TASK", 7, 1)
            read += 7
        clock.now += 0.01
    assert 50 * 100 <= read <= 50 * 101 + 7


def test_what_ray_posts_shares_the_limits_the_rank_and_the_selection_of_what_its_files_tell(clock):
    bound = Limits({"TASK": 100}, {})
    bound.spend("TASK_LIFECYCLE_EVENT", 300, 0)
    assert bound.wait_seconds("TASK") == bound.wait_seconds("ACTOR_TASK_DEFINITION_EVENT") > 0
    assert bound.wait_seconds("ACTOR_LIFECYCLE_EVENT") == 0
    whose: Any = "any directory"
    names = ("TASK", "TASK_PROFILE_EVENT", "NODE_DEFINITION_EVENT")
    ranks = {name: turns._priority((whose, name)) for name in names}
    assert ranks == {"TASK": 1, "TASK_PROFILE_EVENT": 1, "NODE_DEFINITION_EVENT": 0}
    some = TailConfig(event_types=("TASK",), without_event_types=("NODE",))
    assert wants_type(some, "TASK_DEFINITION_EVENT")
    assert not wants_type(some, "ACTOR_DEFINITION_EVENT")
    assert not wants_type(TailConfig(without_event_types=("NODE",)), "NODE_LIFECYCLE_EVENT")
    assert wants_type(TailConfig(event_types=("TASK_DEFINITION_EVENT",)), "TASK_DEFINITION_EVENT")
    assert not wants_type(TailConfig(event_types=("TASK_DEFINITION_EVENT",)), "TASK")
