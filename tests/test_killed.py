"""SIGKILL, at any moment, of every process of the line, while the files grow and rotate: nothing is lost or doubled."""

import json
import random
import time

import pytest
from tests.line import SEED, Line, LogWriter, wait_for

KILLS = 12


@pytest.fixture
def killable(tmp_path):
    line = Line(tmp_path, f"file://{tmp_path}/events")
    yield line
    line.end()


@pytest.mark.slow
def test_nothing_is_lost_stored_twice_or_torn_whoever_is_killed(killable):
    chosen = random.Random(SEED)
    log_writer = LogWriter(killable.temp_dir, seconds=25)
    log_writer.start()
    with killable.writer(seconds=30) as writer:
        for name in ("agent", "history"):
            killable.start(name)
        wait_for((killable.store / "catalogue.sqlite").exists, 60, "a store")
        killable.start("serve")
        for turn in range(KILLS):
            # anywhere: while it starts, reads, publishes, appends or folds
            time.sleep(chosen.uniform(0.3, 2.5))
            name = ("agent", "history", "serve")[turn % 3]
            killable.kill(name)
            killable.start(name)
        output, _ = writer.communicate(timeout=120)
    log_writer.join()
    written = json.loads(output)
    assert written["rotations"] >= 4
    assert written["half_lines"] > 0
    assert written["deleted_bytes"] == 0

    wait_for(lambda: killable.ask("/api/clusters"), 60, "an answer of the server")
    killable.stop("agent")
    wait_for(lambda: killable.arrived(written), 90, f"{sum(written['events'].values())} events in the store")
    wait_for(lambda: killable.log_bytes() >= sum(map(len, log_writer.files)), 60, "the logs in the store")
    killable.stop("history")
    killable.stop("serve")
    killable.check(written)
    assert len(log_writer.files) >= 3
    killable.check_logs(log_writer.files)
