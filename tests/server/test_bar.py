"""Our bar above Ray's dashboard, in a real browser, over a job of more tasks than the dashboard asks for."""

import pytest
from tests.browser import browser
from tests.serving import listening

from raytrail.server.ray.state import RAYS_MAX_LIMIT

from .conftest import b64

pytestmark = pytest.mark.slow

JOB = "01000000"
OVER = 50
CUT = f"{RAYS_MAX_LIMIT:,} of {RAYS_MAX_LIMIT + OVER:,} tasks shown, failed and open ones first"


@pytest.fixture
def jobs(add, task):
    """A job of more tasks than the dashboard asks for, and one of few; the first tasks of both failed or still run."""

    def attempt(number, job=JOB):
        name, data = task(number)
        data["task_id"], data["job_id"] = b64(f"{number:040x}{job}"), b64(job)
        kind = {0: "failed_early", 1: "runs_on"}.get(number, "finished")
        data["task_info"]["func_or_class_name"] = kind
        end = {0: {"12": "2"}, 1: {}}.get(number, {"11": f"{number + 3}"})
        states = {"1": f"{number + 1}", "8": f"{number + 1}", **end}
        data["state_updates"] = {"state_ts_ns": {state: f"{second}000000000" for state, second in states.items()}}
        return name, data

    add(
        ("EXPORT_NODE", {"node_id": b64("01" * 28), "state": "ALIVE", "is_head_node": True, "start_time_ms": "1"}),
        *(
            ("EXPORT_DRIVER_JOB", {"job_id": b64(job), "start_time": "1", "is_dead": False})
            for job in (JOB, "02000000")
        ),
        *(attempt(number) for number in range(RAYS_MAX_LIMIT + OVER)),
        *(attempt(number, "02000000") for number in range(3)),
    )


def test_the_bar_says_how_many_tasks_are_shown_of_how_many(jobs, made):
    with listening(made) as url, browser() as window:
        page = f"{url}/clusters/latest/#/jobs"

        def tasks_of(job, name, *expected):
            window.open(f"{page}/{job}", "Task Table")
            window.page.get_by_text("Task Table", exact=True).click()
            return window.wait(*expected, name=name, seconds=90)  # ten thousand rows are 10 MB

        shown = tasks_of(JOB, "bar-of-many-tasks", CUT, "failed_early", "runs_on", "finished")
        assert shown.index("failed_early") < shown.index("runs_on") < shown.rindex("finished")
        # within the dashboard, which loads no page anew
        window.page.get_by_role("link", name="Jobs", exact=True).first.click()
        window.page.get_by_text(CUT).wait_for(state="hidden", timeout=90_000)
        few = tasks_of("02000000", "bar-of-few-tasks", "failed_early", "runs_on")
        assert "tasks shown" not in few
        assert not window.page.get_by_text("tasks shown").first.is_visible()
        assert not window.errors
