"""The agent under control: several destinations, settings that change while it runs, speed, and the ways it ends."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import pytest

from raytrail.event import Chunk
from raytrail.exit_codes import USAGE
from raytrail.store import Store
from raytrail.words import size

pytestmark = pytest.mark.slow


@pytest.fixture
def agent(start, ray_dir, tmp_path):
    """Start an agent by a settings file, in which ``{here}`` is the test's directory."""
    file = tmp_path / "raytrail.toml"

    def settings(text):
        new = file.with_suffix(".new")
        new.write_text(text.replace("{here}", str(tmp_path)))
        new.rename(file)

    def agent(text, *arguments):
        settings(text)
        running = start("agent", "--config", file, "--temp-dir", ray_dir, "--poll-seconds", "0.02", *arguments)

        def reload(text):
            settings(text)
            before = answers(running)
            running.process.send_signal(signal.SIGHUP)
            running.wait_for(lambda: answers(running) > before)

        running.reload = reload
        return running

    return agent


def answers(running):
    return len(re.findall(r"settings were read again|settings are not taken", running.printed["err"]))


@pytest.fixture
def arrived(tmp_path, shipped):
    """How many events of each type a destination has, by the directory's name; reports are left out."""

    def arrived(name):
        return Counter(
            {
                event_type: count
                for event_type in sorted({chunk.event_type for chunk in shipped(tmp_path / name)} - {"FILE"})
                for count in [sum(c.data.count(b"\n") for c in shipped(tmp_path / name) if c.event_type == event_type)]
            }
        )

    return arrived


@pytest.fixture
def kept(tmp_path, shipped, make):
    """Keep what some destinations hold in one store; says the ledger by type, and how many tasks there are."""

    def kept(*names):
        with Store.open(tmp_path / "kept", write=True) as store:
            for name in names:
                store.append(shipped(tmp_path / name))
            store.fold()
            ledger = {row.event_type: row for row in store.ledger(make.SESSION)}
            return ledger, len(store.snapshot(make.SESSION).rows("task"))

    return kept


def whole(ledger, **events):
    """Whether the ledger has exactly these events by type, none lost and none doubled."""
    assert {kind: row.stored_events for kind, row in ledger.items()} == events
    wrong = [row for row in ledger.values() if row.missing_bytes or row.lost_bytes or row.rejected_events]
    assert wrong == []
    return all(row.stored_bytes == row.written_bytes for row in ledger.values())


# -- several destinations


SIDE_BY_SIDE = """
[destinations.all]
to = "file://{here}/all"

[destinations.few]
to = "file://{here}/few"
without_event_types = ["TASK"]
"""


def test_each_destination_has_types_and_a_checkpoint_of_its_own(agent, arrived, kept, write, make, tmp_path):
    first = agent(SIDE_BY_SIDE)
    first.wait_for(lambda: arrived("all") == {"TASK": 2, "NODE": 1} and arrived("few") == {"NODE": 1})
    assert first.stop() == 0
    assert {path.name for path in (tmp_path / "state").glob("*.sqlite")} == {"all.sqlite", "few.sqlite"}
    write("TASK", make.task(3))
    write("NODE", make.node("DEAD"))
    second = agent(SIDE_BY_SIDE)
    second.wait_for(lambda: arrived("all") == {"TASK": 3, "NODE": 2} and arrived("few") == {"NODE": 2})
    assert second.stop() == 0
    assert (arrived("all"), arrived("few")) == ({"TASK": 3, "NODE": 2}, {"NODE": 2})  # nothing a second time
    ledger, tasks = kept("all", "few")
    assert whole(ledger, TASK=3, NODE=2)
    assert tasks == 3


def test_the_flag_and_the_tables_name_destinations_together(agent, arrived, tmp_path):
    both = agent(SIDE_BY_SIDE, "--to", f"file://{tmp_path}/flag")
    both.wait_for(lambda: arrived("all") == arrived("flag") == {"TASK": 2, "NODE": 1})
    assert both.stop() == 0
    assert (tmp_path / "state" / "checkpoint.sqlite").exists()


def test_a_slow_destination_does_not_hold_up_another(agent, arrived, kept, write, make):
    write("TASK", *map(make.task, range(3, 1001)))
    both = agent("""
        [tail]
        chunk_bytes = 1024
        [destinations.fast]
        to = "file://{here}/fast"
        [destinations.slow]
        to = "file://{here}/slow"
        events_per_second = {TASK = 20}
        drain_seconds = 0.1
    """)
    both.wait_for(lambda: arrived("fast")["TASK"] == 1000)
    assert 0 < arrived("slow")["TASK"] < 500
    assert both.stop() == 0
    [warning] = both.messages("WARNING")
    assert re.fullmatch(
        r"destination slow: \d+\.\d kB were not shipped in time; the next agent begins with them", warning
    )
    ledger, tasks = kept("fast", "slow")
    assert whole(ledger, TASK=1000, NODE=1)
    assert tasks == 1000


def test_a_destination_that_is_away_does_not_hold_up_another_and_gets_everything_later(
    agent, arrived, kept, write, make, tmp_path
):
    blocked = tmp_path / "away"
    blocked.write_text("no directory")
    both = agent("""
        [agent]
        retry_seconds = 0.1
        [destinations.here]
        to = "file://{here}/here"
        [destinations.away]
        to = "file://{here}/away"
    """)
    both.wait_for(lambda: arrived("here") == {"TASK": 2, "NODE": 1})
    write("TASK", make.task(3))
    both.wait_for(lambda: arrived("here")["TASK"] == 3)
    both.wait_for(lambda: both.messages("WARNING"))
    blocked.unlink()
    both.wait_for(lambda: arrived("away") == {"TASK": 3, "NODE": 1})
    assert both.stop() == 0
    [warning] = both.messages("WARNING")
    assert warning.endswith("; trying again every 0.1 seconds")
    ledger, tasks = kept("here", "away")
    assert whole(ledger, TASK=3, NODE=1)
    assert tasks == 3


# -- SIGHUP

TO = '[agent]\nto = "file://{here}/events"\n'


def test_a_type_that_is_taken_out_and_in_again_is_shipped_from_where_it_was(agent, arrived, kept, write, make):
    running = agent(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    running.reload(TO + '[tail]\nwithout_event_types = ["TASK"]\n')
    write("TASK", make.task(3), make.task(4))
    write("NODE", make.node("DEAD"))
    running.wait_for(lambda: arrived("events")["NODE"] == 2)
    assert arrived("events")["TASK"] == 2
    running.reload(TO + '[tail]\nevent_types = ["TASK"]\n')
    write("NODE", make.node("DEAD"))
    running.wait_for(lambda: arrived("events")["TASK"] == 4)
    assert arrived("events")["NODE"] == 2
    running.reload(TO)
    running.wait_for(lambda: arrived("events")["NODE"] == 3)
    assert running.stop() == 0
    assert arrived("events") == {"TASK": 4, "NODE": 3}
    ledger, tasks = kept("events")
    assert whole(ledger, TASK=4, NODE=3)
    assert tasks == 4


def test_what_is_written_while_export_is_off_is_shipped_once_it_is_on(
    agent, arrived, kept, write, make, shipped, tmp_path
):
    running = agent(TO + "[tail]\nexport = false\n")
    running.wait_for(lambda: "following" in running.printed["err"])
    running.reload(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    running.reload(TO + "[tail]\nexport = false\n")
    write("TASK", *map(make.task, range(3, 11)))
    write("ACTOR", make.actor(1))
    time.sleep(0.5)  # many polls, for one that would read it
    assert arrived("events") == {"TASK": 2, "NODE": 1}
    running.reload(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 10, "NODE": 1, "ACTOR": 1})
    assert running.stop() == 0
    ledger, tasks = kept("events")
    assert whole(ledger, TASK=10, NODE=1, ACTOR=1)
    assert tasks == 10
    assert arrived("events") == {"TASK": 10, "NODE": 1, "ACTOR": 1}


def test_an_agent_whose_export_is_off_reads_nothing_also_at_its_end(agent, arrived):
    running = agent(TO + "[tail]\nexport = false\n")
    running.wait_for(lambda: "following" in running.printed["err"])
    assert running.stop() == 0
    assert arrived("events") == {}


def test_speed_and_chunk_size_change_while_it_runs(agent, arrived, kept, write, make, shipped, tmp_path):
    write("TASK", *map(make.task, range(3, 201)))
    slow = TO + "[tail]\nchunk_bytes = 1024\nevents_per_second = {TASK = 1}\n"
    running = agent(slow)
    running.wait_for(lambda: arrived("events")["TASK"])
    assert arrived("events")["TASK"] < 20
    running.reload(TO + "[tail]\nchunk_bytes = 4096\n")
    running.wait_for(lambda: arrived("events")["TASK"] == 200)
    sizes = [len(chunk.data) for chunk in shipped(tmp_path / "events") if chunk.event_type == "TASK"]
    assert max(sizes[:2]) <= 1024 < max(sizes[-3:]) <= 4096
    assert running.stop() == 0
    ledger, tasks = kept("events")
    assert whole(ledger, TASK=200, NODE=1)
    assert tasks == 200


def test_a_destination_can_be_added_and_another_removed_which_ships_what_is_left(agent, arrived, kept, write, make):
    # 8 events in the first second, then 4 each: there is something left when it is removed
    write("TASK", *map(make.task, range(3, 13)))
    old = '[destinations.old]\nto = "file://{here}/old"\nchunk_bytes = 1024\nevents_per_second = {TASK = 4}\n'
    new = '[destinations.new]\nto = "file://{here}/new"\n'
    running = agent(old)
    running.wait_for(lambda: arrived("old")["TASK"])
    assert arrived("old")["TASK"] < 12
    running.reload(new)
    assert "destination old: no more; shipping what is left" in running.messages("INFO")
    running.wait_for(lambda: arrived("new") == {"TASK": 12, "NODE": 1})
    running.wait_for(lambda: arrived("old") == {"TASK": 12, "NODE": 1})
    running.reload(new + old)  # waits for the old one's end, as it has the checkpoint
    write("TASK", make.task(13))
    running.wait_for(lambda: arrived("new")["TASK"] == arrived("old")["TASK"] == 13)
    running.reload(new)
    write("TASK", make.task(14))
    running.wait_for(lambda: arrived("new")["TASK"] == 14)
    assert running.stop() == 0
    ledger, tasks = kept("new", "old")
    assert whole(ledger, TASK=14, NODE=1)
    assert tasks == 14


def test_a_destination_that_is_removed_while_it_is_away_may_come_back_before_it_has_given_up(agent, arrived, tmp_path):
    (tmp_path / "away").write_text("no directory")
    stays = '[destinations.stays]\nto = "file://{here}/stays"\n'
    away = '[destinations.away]\nto = "file://{here}/away"\ndrain_seconds = 1\nretry_seconds = 0.1\n'
    running = agent(stays + away)
    running.wait_for(lambda: arrived("stays") == {"TASK": 2, "NODE": 1})
    running.reload(stays)
    running.reload(stays + away)
    assert running.messages("ERROR") == []
    (tmp_path / "away").unlink()
    running.wait_for(lambda: arrived("away") == {"TASK": 2, "NODE": 1})
    assert running.stop() == 0


def test_a_changed_url_gets_what_is_not_yet_published(agent, arrived, kept, write, make):
    running = agent(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    running.reload(TO.replace("events", "elsewhere"))
    write("TASK", make.task(3), make.task(4))
    running.wait_for(lambda: arrived("elsewhere") == {"TASK": 2})
    assert running.stop() == 0
    assert arrived("events") == {"TASK": 2, "NODE": 1}
    ledger, tasks = kept("events", "elsewhere")
    assert whole(ledger, TASK=4, NODE=1)
    assert tasks == 4


def test_a_url_that_is_mended_brings_what_could_not_be_published(agent, arrived, tmp_path):
    (tmp_path / "wrong").write_text("no directory")
    running = agent('[agent]\nretry_seconds = 0.1\nto = "file://{here}/wrong"\n')
    running.wait_for(lambda: running.messages("WARNING"))
    running.reload(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[agent\n", "{file}: Expected ']' at the end of a table declaration (at line 1, column 7)"),
        (TO + "[tail]\nchunk_bytes = 1\n", "{file}: Expected `int` >= 1024 - at `$.tail.chunk_bytes`"),
        (
            "",
            "nowhere to publish: give --to URL, e.g. file:///var/lib/raytrail/events, set RAYTRAIL_AGENT_TO, or "
            "write a [destinations.<name>] table into the settings file",
        ),
        (
            # the first is good, and yet not begun: all is taken, or nothing
            '[destinations.good]\nto = "file://{here}/good"\n[destinations.bad]\nto = "memory://a/b"\n',
            "'memory://a/b' names no log; write memory://name, without '/', '?' and '#' in the name",
        ),
        (
            TO.replace("file://{here}/events", "memory://a/b") + '[destinations.good]\nto = "file://{here}/good"\n',
            "'memory://a/b' names no log; write memory://name, without '/', '?' and '#' in the name",
        ),
    ],
)
def test_wrong_settings_are_refused_in_one_line_and_it_goes_on_by_the_old_ones(
    agent, arrived, write, make, tmp_path, text, says
):
    running = agent(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    running.reload(text)
    says = says.replace("{file}", str(tmp_path / "raytrail.toml"))
    assert running.messages("ERROR") == [f"settings are not taken: {says}; going on by the old ones"]
    write("TASK", make.task(3))
    running.wait_for(lambda: arrived("events")["TASK"] == 3)
    assert not (tmp_path / "good").exists()
    running.reload(TO + '[tail]\nwithout_event_types = ["NODE"]\n')
    write("TASK", make.task(4))
    running.wait_for(lambda: arrived("events")["TASK"] == 4)
    assert running.stop() == 0
    assert len(running.messages("ERROR")) == 1


def test_settings_that_wait_for_a_restart_are_named_and_stay(agent, arrived, write, make, tmp_path, monkeypatch):
    monkeypatch.delenv("RAYTRAIL_TAIL_STATE_DIR")
    running = agent(TO + '[tail]\nstate_dir = "{here}/state"\n')
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    running.reload(TO + 'listen = "127.0.0.1:0"\n[tail]\nstate_dir = "{here}/other"\nsessions = "all"\n')
    expected = [
        "sessions is 'new' until the agent is started anew",
        f"state_dir is '{tmp_path}/state' until the agent is started anew",
        "listen is '' until the agent is started anew",
    ]
    assert running.messages("WARNING") == expected
    running.reload(TO + 'listen = "127.0.0.1:0"\n[tail]\nstate_dir = "{here}/other"\nsessions = "all"\n')
    assert running.messages("WARNING") == expected * 2
    write("TASK", make.task(3))
    running.wait_for(lambda: arrived("events")["TASK"] == 3)
    assert running.stop() == 0
    assert not (tmp_path / "other").exists()


def test_settings_that_change_all_the_time_lose_and_double_nothing(agent, arrived, kept, write, make):
    """While tasks are written without a pause, everything that can be changed is, again and again."""
    to_one = '[destinations.one]\ndrain_seconds = 0.5\nto = "file://{here}/one"\n'
    to_two = '[destinations.two]\ndrain_seconds = 0.5\nto = "file://{here}/two"\n'
    small = "[tail]\nchunk_bytes = 1024\n"
    steps = [
        small + to_one,
        small + to_one + 'without_event_types = ["TASK"]\n' + to_two,
        small + to_two + "events_per_second = {ALL = 100}\n",
        "[tail]\nexport = false\n" + to_one + to_two,
        to_one.replace("/one", "/three") + to_two + "chunk_bytes = 2048\n",
        to_one + "bytes_per_second = {TASK = 50000}\n",
        "[tail\n",
        to_one + to_two + "export = false\n",
        small + to_two + "in_flight_bytes = 1024\n",
        to_two.replace("/two", "/one") + to_one.replace("/one", "/two"),
    ]
    running = agent(small + to_one + to_two)
    written, done = [2], threading.Event()

    def writing():
        while not done.is_set():
            first = written[0] + 1
            write("TASK", *map(make.task, range(first, first + 20)))
            written[0] += 20
            done.wait(0.01)

    writer = threading.Thread(target=writing)
    running.wait_for(lambda: arrived("one") and arrived("two"))
    writer.start()
    try:
        for text in steps * 2:
            before = written[0]
            running.reload(text)
            running.wait_for(lambda before=before: written[0] > before + 40)
    finally:
        done.set()
        writer.join()
    running.reload((to_one + to_two).replace("0.5", "30"))
    assert running.stop() == 0
    others = [message for message in running.messages("WARNING") if "were not shipped in time" not in message]
    assert others == []
    ledger, tasks = kept("one", "two", "three")
    assert whole(ledger, TASK=written[0], NODE=1)
    assert tasks == written[0]


# -- speed


def test_a_speed_limit_delays_and_drops_nothing(agent, arrived, kept, write, make):
    write("TASK", *map(make.task, range(3, 1001)))
    began = time.monotonic()
    running = agent(TO + "[tail]\nchunk_bytes = 1024\nevents_per_second = {TASK = 300}\n")
    seen = []

    def all_there():
        count = arrived("events")["TASK"]
        seen.append((count, time.monotonic() - began))
        return count == 1000

    running.wait_for(all_there)
    # a second's worth at once, then so many a second, and a chunk over
    over = [(count, seconds) for count, seconds in seen if count > 300 * (1 + seconds) + 5]
    assert over == []
    assert seen[-1][1] < 10  # 2.4 seconds, and what it takes to start
    assert running.stop() == 0
    ledger, tasks = kept("events")
    assert whole(ledger, TASK=1000, NODE=1)
    assert tasks == 1000


def test_where_all_types_share_a_limit_small_ones_come_before_tasks(agent, arrived, shipped, write, make, tmp_path):
    write("TASK", *map(make.task, range(3, 301)))
    write("ACTOR", *map(make.actor, range(1, 601)))
    # 260 actors make a chunk, which is more than a second's worth
    running = agent(TO + "drain_seconds = 0\n[tail]\nchunk_bytes = 65536\nevents_per_second = {ALL = 200}\n")
    running.wait_for(lambda: arrived("events")["ACTOR"] == 600)
    assert running.stop() == 0
    kinds = [chunk.event_type for chunk in shipped(tmp_path / "events")]
    assert "TASK" not in kinds[: len(kinds) - kinds[::-1].index("ACTOR")]


# -- the end


def test_shipping_what_is_left_is_bounded_and_says_what_remains(
    agent, arrived, shipped, write, make, tmp_path, notified
):
    write("TASK", *map(make.task, range(3, 501)))
    running = agent(TO + "drain_seconds = 1\n[tail]\nchunk_bytes = 1024\nevents_per_second = {TASK = 1}\n")
    running.wait_for(lambda: arrived("events")["TASK"])
    began = time.monotonic()
    assert running.stop() == 0
    assert 0.9 < time.monotonic() - began < 5
    written = sum(path.stat().st_size for path in (tmp_path / "ray").rglob("event_*.log"))
    there = sum(segment.length for chunk in shipped(tmp_path / "events") for segment in chunk.segments)
    assert running.messages("WARNING") == [
        f"destination default: {size(written - there)} were not shipped in time; the next agent begins with them"
    ]
    assert notified() == ["READY=1", "STOPPING=1"]


class Raylet:
    """A process that looks like a session's raylet, until it is ended."""

    def __init__(self, session):
        arguments = ["raylet", "-c", "read line", "raylet", f"--session-name={session}"]
        self.process = subprocess.Popen(arguments, executable="/bin/sh", stdin=subprocess.PIPE)

    def end(self):
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture
def raylet(make):
    raylet = Raylet(make.SESSION)
    yield raylet
    raylet.end()


def test_with_ray_it_ends_once_ray_has_and_after_shipping_what_is_left(agent, arrived, write, make, raylet, notified):
    running = agent(TO + "with_ray = true\n")
    running.wait_for(lambda: "Ray runs here; the agent ends once it has" in running.messages("INFO"))
    write("TASK", make.task(3))
    write("NODE", make.node("DEAD"))
    raylet.end()
    assert running.wait() == 0
    assert "Ray has ended; shipping what is left" in running.messages("INFO")
    assert arrived("events") == {"TASK": 3, "NODE": 2}
    assert notified() == ["READY=1", "STOPPING=1"]


def test_with_ray_it_waits_for_ray_when_both_are_told_to_stop(agent, arrived, write, make, raylet, notified):
    running = agent(TO + "with_ray = true\n")
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    running.process.send_signal(signal.SIGTERM)
    running.wait_for(lambda: "STOPPING=1" in notified())
    write("NODE", make.node("DEAD"))
    running.wait_for(lambda: arrived("events")["NODE"] == 2)
    later = time.monotonic() + 0.7
    running.wait_for(lambda: time.monotonic() > later)  # it is still there
    write("TASK", make.task(3))
    raylet.end()
    assert running.wait() == 0
    assert arrived("events") == {"TASK": 3, "NODE": 2}


def test_with_ray_it_does_not_wait_for_a_ray_that_stays(agent, arrived, raylet):
    running = agent(TO + "with_ray = true\ndrain_seconds = 1\n")
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    began = time.monotonic()
    assert running.stop() == 0
    assert 0.9 < time.monotonic() - began < 5


def test_without_being_told_it_outlives_ray(agent, arrived, write, make, raylet):
    running = agent(TO)
    running.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    raylet.end()
    time.sleep(1.5)  # longer than it takes to look
    write("TASK", make.task(3))
    running.wait_for(lambda: arrived("events")["TASK"] == 3)
    assert running.stop() == 0


# -- what is refused, and who is


GOOD = '[destinations.good]\nto = "file://{here}/good"\n'
WRONG = '[destinations.wrong]\nretry_seconds = 0.1\ndrain_seconds = 0.1\nto = "{url}/wrong"\n'
NOT_LET_IN = "{url}/wrong answers 401; mend the URL, its password or RAYTRAIL_HTTP_TOKEN"


def test_a_destination_that_does_not_let_us_in_ends_the_start_of_an_agent_with_no_other(agent, picky):
    url, _ = picky
    alone = agent(WRONG.replace("{url}", url))
    assert alone.wait() == USAGE
    assert alone.printed["err"].splitlines()[-1] == f"raytrail: error: {NOT_LET_IN.replace('{url}', url)}"


@pytest.mark.parametrize("at_first", [GOOD + WRONG, GOOD])
def test_a_destination_that_does_not_let_us_in_ends_nothing_for_others(agent, arrived, picky, write, make, at_first):
    url, _ = picky
    both = agent(at_first.replace("{url}", url))
    both.wait_for(lambda: arrived("good") == {"TASK": 2, "NODE": 1})
    both.reload((GOOD + WRONG).replace("{url}", url))
    both.wait_for(lambda: both.messages("WARNING"))
    assert both.messages("WARNING") == [f"{NOT_LET_IN.replace('{url}', url)}; trying again every 0.1 seconds"]
    write("TASK", make.task(3))
    both.wait_for(lambda: arrived("good")["TASK"] == 3)
    both.reload((GOOD + WRONG).replace("{url}/wrong", url))
    both.wait_for(lambda: sum(chunk.data.count(b"\n") for chunk in picky[1] if chunk.event_type != "FILE") == 4)
    assert both.stop() == 0


@pytest.fixture
def picky():
    """
    A real HTTP endpoint that refuses what has the word `poison` in it; its URL, and the chunks it took.

    Under ``/wrong`` it lets nobody in.
    """
    taken = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 401 if self.path.endswith("/wrong") else 422 if b"poison" in body else 204
            if status == 204:
                names = ("cluster", "session", "node_id", "event_type", "segments")
                headers = {name: unquote(self.headers[f"raytrail-{name.replace('_', '-')}"]) for name in names}
                taken.append(Chunk.from_wire({"raytrail-version": "1", **headers}, body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/ingest", taken
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_refused_line_is_a_dead_letter_that_can_be_read_and_is_missing_in_the_ledger(
    start, run, picky, ray_dir, write, make, tmp_path
):
    url, taken = picky
    poison = make.task(4, name="poison")
    write("TASK", make.task(3), poison, *map(make.task, range(5, 51)))
    agent = start("agent", "--to", url, "--temp-dir", ray_dir)
    agent.wait_for(lambda: sum(c.data.count(b"\n") for c in taken if c.event_type == "TASK") == 49)
    agent.wait_for(lambda: agent.messages("ERROR"))
    assert agent.stop() == 0
    [error] = agent.messages("ERROR")
    file = next(chunk.segments[0].file for chunk in taken if chunk.event_type == "TASK")
    offset = sum(len(make.task(number)) for number in (1, 2, 3))
    assert error == (
        f"{url} refuses a chunk of {len(poison)} bytes: 422; look at what it expects; "
        f"a line of {len(poison)} bytes (TASK) at offset {offset} of {file} is kept with the dead letters, "
        f"and shows as missing in the ledger"
    )
    done = run("subscribe", f"file://{tmp_path}/state/dead-letters/checkpoint", "--no-follow", "--idle-seconds", "0.3")
    assert [json.loads(line)["task"]["task_id"] for line in done.stdout.splitlines()] == [make.task_id(4)]
    with Store.open(tmp_path / "history", write=True) as store:
        store.append(taken)
        store.fold()
    done = run("ledger", "--check", "--store", tmp_path / "history", "--format", "json", code=1)
    [row] = [row for row in json.loads(done.stdout) if row["event_type"] == "TASK"]
    assert (row["stored_events"], row["missing_bytes"]) == (49, len(poison))
    assert [(gap["start"], gap["end"]) for gap in row["missing"]] == [(offset, offset + len(poison))]


def test_dead_letters_are_kept_until_somebody_looks(start, run, picky, ray_dir, write, make, tmp_path):
    url, _ = picky
    state = tmp_path / "state #1, 100%"
    dead = state / "dead-letters" / "checkpoint"
    for number in (3, 4):
        write("TASK", make.task(number, name="poison"))
        agent = start("agent", "--to", url, "--temp-dir", ray_dir, RAYTRAIL_TAIL_STATE_DIR=str(state))
        agent.wait_for(lambda: agent.messages("ERROR"))  # noqa: B023 (it is called before the next round)
        assert agent.stop() == 0
        for path in dead.glob("*.chunks"):
            os.utime(path, (0, time.time() - 30 * 24 * 3600))
    letters = run("subscribe", f"file://{quote(str(dead))}", "--no-follow", "--idle-seconds", "0.3").stdout
    assert [json.loads(line)["task"]["task_id"] for line in letters.splitlines()] == [make.task_id(3), make.task_id(4)]


def test_a_second_agent_on_a_node_is_refused_the_state_of_the_first(agent, arrived, start, ray_dir, tmp_path):
    first = agent(TO)
    first.wait_for(lambda: arrived("events") == {"TASK": 2, "NODE": 1})
    second = start("agent", "--to", f"file://{tmp_path}/other", "--temp-dir", ray_dir)
    assert second.wait() == USAGE
    assert second.printed["err"].splitlines()[-1] == (
        f"raytrail: error: state directory {tmp_path}/state is in use by another agent "
        f"(process {first.process.pid}); stop that one, or give this one a directory of its own with --state-dir"
    )
    assert first.stop() == 0


def test_two_agents_on_a_node_with_a_state_of_their_own_double_nothing_in_the_store(
    start, arrived, kept, ray_dir, write, make, tmp_path
):
    url = f"file://{tmp_path}/events"
    both = [
        start("agent", "--to", url, "--temp-dir", ray_dir, "--chunk-bytes", chunk_bytes, RAYTRAIL_TAIL_STATE_DIR=where)
        for where, chunk_bytes in ((f"{tmp_path}/a", "1024"), (f"{tmp_path}/b", "1500"))
    ]
    for number in range(3, 303):
        write("TASK", make.task(number))
    for running in both:
        running.wait_for(lambda: arrived("events") == {"TASK": 604, "NODE": 2})
    assert [running.stop() for running in both] == [0, 0]
    ledger, tasks = kept("events")
    assert whole(ledger, TASK=302, NODE=1)
    assert tasks == 302
