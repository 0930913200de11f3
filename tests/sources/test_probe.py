"""The process that polls: when it asks again, when it ends, and that it is alone. With a real Ray: tests/ray."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.core.generated import gcs_pb2

from raytrail.config import SourcesConfig
from raytrail.errors import SourceTaken, SourceUnavailable
from raytrail.sources import probe
from raytrail.sources.event_file import EventFiles
from raytrail.sources.probe import End, Pace, Probe, patience
from raytrail.sources.serve_poll import ServePoll

times = st.floats(0, 1000)


@given(times, times, st.floats(0.1, 10), st.floats(10, 100))
def test_a_poll_takes_a_hundredth_of_a_core_at_most(cpu, answer, least, most):
    wait = patience(cpu, answer, least, most)
    assert wait >= least
    assert cpu <= wait / 100 * 1.0001
    assert answer <= wait / 100 * 1.0001 or wait >= most, "a slow answer makes the next one wait, up to a limit"
    assert wait <= max(least, 100 * cpu, most)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when it is told to: wall and CPU time, by name."""
    now = {"monotonic": 100.0, "process_time": 1.0}
    for name in now:
        monkeypatch.setattr(f"raytrail.sources.probe.time.{name}", lambda name=name: now[name])
    return now


def test_the_time_that_a_poll_took_decides_when_the_next_one_is(clock):
    def ask():
        clock["monotonic"] += 0.05
        clock["process_time"] += 0.07

    pace = Pace("objects", ask, 1.0, 60.0)
    assert pace.due_at == 100.0
    pace.ask()
    assert pace.due_at == pytest.approx(100.05 + 7.0)


def test_what_does_not_answer_is_asked_less_and_less_often_and_said_once(clock, caplog):
    answers = iter([False, False, False, True, False])

    def ask():
        if not next(answers):
            raise SourceUnavailable("the GCS at h:1 does not answer (UNAVAILABLE: gone)")

    pace = Pace("objects", ask, 1.0, 6.0)
    waits = []
    for _ in range(5):
        pace.ask()
        waits.append(pace.due_at - clock["monotonic"])
    assert waits == [2.0, 4.0, 6.0, 1.0, 2.0]
    assert [record.getMessage() for record in caplog.records] == [
        "the GCS at h:1 does not answer (UNAVAILABLE: gone); asking it again until it does"
    ] * 2


def test_what_this_rays_answers_do_not_have_is_said_once_and_the_others_are_asked_on(
    tmp_path, pipe, monkeypatch, caplog
):
    node = _Node(3, pipe[1])
    monkeypatch.setattr(node, "workers", lambda: [gcs_pb2.PlacementGroupTableData()], raising=False)
    monkeypatch.setattr(probe, "RayNode", lambda *_: node)
    sources = SourcesConfig(placement_group_seconds=0.01, worker_seconds=0.01)
    probe.run(Probe(str(tmp_path), "h:1", "aa", 0, ("PLACEMENT_GROUP", "WORKER"), sources), pipe[0])
    assert node.answers_left == 0
    assert [record.getMessage() for record in caplog.records] == [
        "workers are not asked for: this version of Ray has no worker_address"
    ]


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test did


@pytest.fixture
def raylet():
    program = "import time; print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program, "--node_id=abc"], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.communicate()


def test_it_ends_when_its_raylet_does(pipe, raylet):
    end = End(pipe[0], raylet.pid, "abc")
    assert end.certain
    assert not end.wait(0)
    raylet.kill()
    assert end.wait(60)


def test_it_ends_when_its_parent_does(pipe, raylet):
    end = End(pipe[0], raylet.pid, "abc")
    os.close(pipe[1])
    assert end.wait(60)


@pytest.mark.parametrize("gone", [True, False])
def test_a_raylet_that_had_ended_is_no_other_process_of_its_number(pipe, raylet, gone):
    if gone:
        raylet.kill()
        raylet.wait()
    end = End(pipe[0], raylet.pid, "another")
    assert end.wait(0)


def test_without_a_process_to_see_the_end_is_not_certain(pipe):
    end = End(pipe[0], 0, "abc")
    assert not end.certain
    assert not end.wait(0)


def test_two_do_not_ask_the_same_node(tmp_path, pipe):
    def probing(node_id):
        return Probe(str(tmp_path), "127.0.0.1:1", node_id, 0, ("OBJECT",), SourcesConfig())

    with probe._alone(probing("aa")):
        with pytest.raises(SourceTaken, match="node aa is asked by another agent on this machine"):
            probe.run(probing("aa"), pipe[0])
        with probe._alone(probing("bb")):  # two nodes of a cluster, on one machine
            pass
    with probe._alone(probing("aa")):
        pass


def test_the_lock_dies_with_the_process_that_held_it(tmp_path):
    probing = Probe(str(tmp_path), "127.0.0.1:1", "aa", 0, ("OBJECT",), SourcesConfig())
    program = (
        "import sys, time; from raytrail.config import SourcesConfig; from raytrail.sources import probe\n"
        f"with probe._alone(probe.Probe({str(tmp_path)!r}, '', 'aa', 0, (), SourcesConfig())):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(SourceTaken), probe._alone(probing):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with probe._alone(probing):
        pass


def test_serve_is_left_to_its_hooks_even_where_they_begin_while_it_answers(tmp_path):
    answer = {"applications": {}, "controller_info": {"actor_id": "01"}}
    hooks, asked = EventFiles(tmp_path), []

    class Node:
        def serve_runs(self):
            return True

        def serve(self):
            asked.append(answer)
            hooks.append("SERVE_INSTANCE", {"actor_id": "01", "state": "RUNNING"})
            return answer

    poll = ServePoll(EventFiles(tmp_path), tmp_path, ("SERVE_INSTANCE",))
    for _ in range(2):
        probe._ask_serve(Node(), poll)  # type: ignore[arg-type]  # all of a RayNode that is asked
    [path] = tmp_path.iterdir()
    assert len(path.read_text().splitlines()) == len(asked) == 1


def test_a_directory_that_cannot_be_written_is_an_error_of_its_own(tmp_path, pipe):
    probing = Probe(str(tmp_path / "absent"), "127.0.0.1:1", "aa", 0, ("OBJECT",), SourcesConfig())
    with pytest.raises(FileNotFoundError):
        probe.run(probing, pipe[0])


class _Node:
    """A node that always has something new to say, and whose raylet ends after so many answers."""

    def __init__(self, answers, end):
        self.answers_left, self._end = answers, end

    def placement_groups(self):
        self.answers_left -= 1
        if not self.answers_left:
            os.close(self._end)
        return [gcs_pb2.PlacementGroupTableData(placement_group_id=bytes([self.answers_left + 1]) * 18)]

    def close(self):
        pass


def test_events_that_cannot_be_written_are_counted_and_nothing_else_happens(tmp_path, pipe, monkeypatch, caplog):
    node = _Node(3, pipe[1])
    monkeypatch.setattr(probe, "RayNode", lambda *_: node)
    (tmp_path / "logs").write_text("not a directory")
    probing = Probe(str(tmp_path), "h:1", "aa", 0, ("PLACEMENT_GROUP",), SourcesConfig(placement_group_seconds=0.01))
    probe.run(probing, pipe[0])
    assert node.answers_left == 0
    logged = [record.getMessage() for record in caplog.records]
    assert logged[0] == f"1 events could not be written into {tmp_path}/logs/export_events, and are lost"
