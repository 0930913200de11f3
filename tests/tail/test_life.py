"""Which raylets of a session run, and what an agent says when one has gone."""

import json
import os
from pathlib import Path

import pytest

from raytrail.tail import directory, discovery, halves, last_lines, listing, reports, tailer
from raytrail.tail.discovery import Raylet, Running
from raytrail.tail.life import STILL_SECONDS

SESSION = "session_2026-11-23_07-40-30_867494_13129"
BEGAN_S = 1_795_000_000
OLD, NEW = "bb" * 28, "aa" * 28


class World:
    """A clock, the raylets that are seen, and a session's directory with port files and event files."""

    def __init__(self, session: Path) -> None:
        self.session = session
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.seen: Running | None = Running((), {}, Path("/nowhere"))

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return int((BEGAN_S + self.now_s) * 1e9)

    def time(self) -> float:
        return BEGAN_S + self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    @property
    def now_ms(self) -> int:
        return self.time_ns() // 1_000_000

    def run(self, *ids: str) -> None:
        """Have the raylets of these nodes run, and be seen."""
        self.seen = Running(tuple(Raylet(7, SESSION, id, "") for id in ids), {}, Path("/nowhere"))

    def listen(self, count: int = 1) -> None:
        """Have so many raylets listen, whose processes are not seen."""
        self.seen = Running((), {SESSION: count} if count else {}, Path("/nowhere"))

    def write(self, name: str, text: str = "") -> None:
        """Append to a file of the session, now."""
        path = self.session / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
        for place in (path, path.parent, self.session, self.session / "logs"):
            os.utime(place, (self.time(), self.time()))

    def node(self, id: str, *, head: bool = False) -> None:
        """Have a node begin."""
        for what in ("gcs_server", "metrics_agent") if head else ("metrics_agent",):
            self.write(f"{what}_port_{id}", "1")

    def event(self) -> None:
        self.write("logs/export_events/event_EXPORT_NODE.log", '{"event_data":{},"timestamp":1795419639}\n')


@pytest.fixture
def world(temp_dir, monkeypatch):
    world = World(temp_dir / SESSION)
    for path in (world.session, *world.session.rglob("*")):
        os.utime(path, (world.time(), world.time()))
    for module in (directory, halves, last_lines, listing, reports, tailer):
        monkeypatch.setattr(module, "time", world)
    monkeypatch.setattr(discovery, "running", lambda: world.seen)
    return world


def reported(it):
    """What the agent says of raylets now, by their nodes, each as when it was seen and when it went."""
    spans = {}
    for chunk in it.tailer.reports():
        assert (chunk.event_type, chunk.segments, chunk.session) == ("FILE", (), SESSION)
        for line in map(json.loads, chunk.data.splitlines()):
            if line["source_type"] == "RAYTRAIL_RAYLET":
                data = line["event_data"]
                assert line["timestamp"] == data["reported_ms"] // 1000
                spans[data["node_id"]] = (data["seen_ms"], data["gone_ms"])
    return spans


def look(it):
    """Read what there is, then say what is to be said."""
    it.ship()
    return reported(it)


def test_a_raylet_that_runs_gives_a_sign_of_life_each_minute_though_nothing_is_written(world, tail):
    world.node(NEW, head=True)
    world.run(NEW)
    it = tail()
    assert look(it) == {NEW: (world.now_ms, None)}
    world.now_s += 59
    assert look(it) == {}
    world.now_s += 2
    assert look(it) == {NEW: (world.now_ms, None)}
    world.now_s += 3600
    assert look(it) == {NEW: (world.now_ms, None)}, "whatever was written last, and whenever"


def test_also_after_its_last_file_is_deleted(world, tail):
    world.node(NEW)
    world.event()
    world.run(NEW)
    it = tail()
    look(it)
    (world.session / "logs" / "export_events" / "event_EXPORT_NODE.log").unlink()
    for _ in range(3):
        world.now_s += 61
        assert look(it) == {NEW: (world.now_ms, None)}


def test_one_that_has_gone_is_reported_once_it_was_missed_twice_and_then_no_more(world, tail):
    world.node(NEW)
    world.run(NEW)
    it = tail()
    look(it)
    world.now_s += 5
    world.event()
    last_ms = world.now_ms
    world.now_s += 5
    world.run()
    assert look(it) == {}, "a look may miss one"
    world.now_s += 10
    assert look(it) == {NEW: (last_ms, last_ms)}, "what it wrote last is the better end"
    for _ in range(5):
        world.now_s += 61
        assert look(it) == {}, "a dead session is not kept alive"


def test_its_end_is_never_after_it_was_first_missed(world, tail):
    world.node(NEW)
    world.run(NEW)
    it = tail()
    look(it)
    world.now_s += 10
    world.run()
    missed_ms = world.now_ms
    look(it)
    world.now_s += 10
    world.event()  # by what has outlived it
    assert look(it) == {NEW: (missed_ms, missed_ms)}


def test_one_that_was_missed_once_runs(world, tail):
    world.node(NEW)
    it = tail()
    for _ in range(4):
        world.run(NEW)
        look(it)
        world.now_s += 10
        world.run()
        assert look(it) == {}
        world.now_s += 10


def test_one_that_is_seen_again_after_all_is_alive(world, tail):
    world.node(NEW)
    world.run(NEW)
    it = tail()
    look(it)
    world.run()
    look(it)
    assert look(it) == {NEW: (world.now_ms, world.now_ms)}
    world.now_s += 10
    world.run(NEW)
    world.event()
    assert look(it) == {NEW: (world.now_ms, None)}


def test_an_agent_that_ends_with_ray_says_so_in_its_last_report(world, tail):
    world.node(NEW)
    world.run(NEW)
    it = tail()
    look(it)
    seen_ms = world.now_ms
    world.now_s += 3
    world.run()
    it.tailer.look(last=True)
    assert look(it) == {NEW: (seen_ms, seen_ms)}
    assert len(world.slept) == 1


def test_an_agent_that_ends_before_ray_says_that_ray_lives(world, tail):
    world.node(NEW)
    world.run(NEW)
    it = tail()
    it.tailer.look(last=True)
    assert look(it) == {NEW: (world.now_ms, None)}
    assert world.slept == []


def test_a_sidecar_sees_sockets_alone(world, tail):
    world.node(OLD, head=True)
    world.now_s += 100
    world.node(NEW, head=True)
    world.listen(1)
    it = tail()
    assert look(it) == {NEW: (world.now_ms, None)}
    world.now_s += 400
    seen_ms = world.now_ms
    assert look(it) == {NEW: (world.now_ms, None)}
    world.listen(0)
    world.now_s += 10
    look(it)
    gone = look(it)
    assert gone[NEW] == (seen_ms, seen_ms)


def test_a_head_that_restarted_is_followed_and_the_one_before_it_has_gone(world, tail):
    world.node(OLD, head=True)
    world.run(OLD)
    world.event()
    it = tail()
    assert [chunk.node_id for chunk in it.read()] == [OLD]
    reported(it)
    world.now_s += 10
    world.run()
    world.node(NEW, head=True)  # its GCS begins seconds before its raylet
    began_ms = world.now_ms
    world.write("logs/export_events/event_EXPORT_TASK_8.log", '{"event_data":{},"timestamp":1795419640}\n')
    assert [chunk.node_id for chunk in it.read()] == [NEW]
    assert reported(it) == {}
    world.now_s += 5
    gone = reported(it)
    assert gone == {OLD: (began_ms, began_ms)}, "a head has ended when the next one begins"
    world.run(NEW)
    world.now_s += 5
    assert reported(it) == {NEW: (world.now_ms, None)}


def test_one_that_takes_minutes_to_begin_has_not_gone(world, tail):
    world.node(OLD, head=True)
    world.run(OLD)
    it = tail()
    look(it)
    world.node(NEW, head=True)
    for _ in range(10):
        world.now_s += 20
        assert NEW not in look(it)


def test_raylets_of_others_are_none_of_ours(world, tail):
    world.node(NEW)
    world.run(OLD, NEW)  # of the same session, in another pod whose processes are seen
    it = tail()
    assert look(it) == {NEW: (world.now_ms, None)}
    assert it.tailer.ray_runs()
    world.run(OLD)
    assert not it.tailer.ray_runs()


def test_ray_runs_too_where_nothing_tells_its_nodes_id(world, tail):
    world.event()
    it = tail()
    assert not it.tailer.ray_runs()
    world.listen()
    assert it.tailer.ray_runs()
    world.run("")  # by the command line of an old Ray
    assert it.tailer.ray_runs()


def test_two_raylets_of_one_directory_end_each_in_its_time(world, tail):
    world.node(OLD)
    world.node(NEW)
    world.run(OLD, NEW)
    it = tail()
    assert look(it).keys() == {OLD, NEW}
    seen_ms = world.now_ms
    world.now_s += 10
    world.run(NEW)
    look(it)
    world.now_s += 10
    assert look(it) == {OLD: (seen_ms, seen_ms)}
    world.now_s += 61
    assert look(it) == {NEW: (world.now_ms, None)}


# -- where no raylet is ever seen


@pytest.mark.parametrize("proc", [True, False])
def test_an_agent_that_sees_files_alone_goes_by_when_they_are_written(world, tail, proc):
    world.node(NEW)
    world.event()
    if not proc:
        world.seen = None
    it = tail()
    written_ms = world.now_ms
    assert look(it) == {NEW: (written_ms, None)}
    world.now_s += 60
    world.write("logs/debug_state.txt")  # as a raylet does, though it is not shipped
    assert look(it) == {NEW: (world.now_ms, None)}
    written_ms = world.now_ms
    for _ in range(4):
        world.now_s += 61
        assert look(it) == {NEW: (written_ms, None)}, "a sign of life, and when it was"
    world.now_s += 61
    assert world.now_ms - written_ms > STILL_SECONDS * 1000
    assert look(it) == {NEW: (written_ms, written_ms)}
    for _ in range(3):
        world.now_s += 61
        assert look(it) == {}
    world.now_s += 61
    world.event()
    assert look(it) == {NEW: (world.now_ms, None)}, "it had been halted, and goes on"


def test_a_session_that_had_ended_before_the_agent_began_has_gone_once(world, tail):
    world.node(OLD, head=True)
    world.now_s += 1000
    world.node(NEW, head=True)
    began_ms = world.now_ms
    world.now_s += 1000
    world.event()
    written_ms = world.now_ms
    world.now_s += STILL_SECONDS + 1
    it = tail(sessions="all")
    assert look(it) == {OLD: (began_ms, began_ms), NEW: (written_ms, written_ms)}
    assert look(it) == {}
    it.checkpoint.commit()
    it = tail(sessions="all")
    world.now_s += 100
    assert look(it) == {}, "the next agent knows that it was said"


def test_an_agent_that_was_away_at_the_end_says_it_by_what_was_written_last(world, tail):
    world.node(NEW)
    world.event()
    world.run(NEW)
    look(tail())
    world.now_s += 50
    world.event()
    written_ms = world.now_ms
    world.run()
    world.now_s += 100
    it = tail()
    assert look(it) == {NEW: (written_ms, None)}, "it may be another agent, that sees less"
    world.now_s += STILL_SECONDS
    assert look(it) == {NEW: (written_ms, written_ms)}


def test_of_a_dead_session_of_which_nothing_is_shipped_nothing_is_said(world, tail):
    world.node(NEW)
    world.now_s += STILL_SECONDS + 1
    assert look(tail(sessions="all", event_types=("TASK",), logs=False)) == {}


def test_nothing_is_said_where_export_is_off_nor_by_an_import(world, tail):
    world.node(NEW)
    world.event()
    world.run(NEW)
    assert look(tail(export=False)) == {}
    assert look(tail([world.session])) == {}


def test_a_directory_that_is_gone_is_forgotten(world, tail, temp_dir):
    world.node(NEW)
    world.event()
    world.run(NEW)
    it = tail()
    look(it)
    world.now_s += 61
    look(it)
    [name] = it.checkpoint.notes("raylets of ")
    gone = world.session.rename(temp_dir / "gone")
    for _ in range(9):
        world.now_s += 1
        it.read()
    assert name not in it.checkpoint.notes("")
    assert it.checkpoint.commit()
    assert look(it) == {}
    gone.rename(world.session)


def test_a_raylet_without_port_files_is_known_by_its_command_line(world, tail):
    world.event()
    world.run(NEW)
    it = tail()
    assert look(it) == {NEW: (world.now_ms, None)}
    world.now_s += 61
    assert look(it) == {NEW: (world.now_ms, None)}
