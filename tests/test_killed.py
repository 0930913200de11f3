"""SIGKILL, at any moment, of every process of the line, while the files grow and rotate: nothing is lost or doubled."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from raytrail.config import StoreConfig
from raytrail.store import Store

KILLS = 12
SEED = int(os.environ.get("RAYTRAIL_TEST_SEED", "0")) or random.SystemRandom().randrange(2**32)


class Line:
    """The three processes of the line, each a real one, started anew after each kill."""

    def __init__(self, root: Path, temp_dir: Path):
        self.root, self.temp_dir = root, temp_dir
        self.url = f"file://{root}/events"
        self.store = root / "store"
        self.processes = {}

    def start(self, name):
        flags = {
            "agent": ["--to", self.url, "--temp-dir", self.temp_dir, "--sessions", "all", "--report-seconds", "0.5",
                      "--chunk-bytes", "20000", "--state-dir", self.root / "state"],
            "history": ["--from", self.url, "--store", self.store, "--batch-seconds", "0.1", "--fold-seconds", "0.5",
                        "--seal-after-end-seconds", "3600"],
            "serve": ["--store", self.store, "--port", "0"],
        }[name]  # fmt: skip
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "raytrail", name, *map(str, flags)], stdout=log, stderr=log
            )

    def kill(self, name):
        process = self.processes.pop(name)
        assert process.poll() is None, (self.root / f"{name}.log").read_text()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name, seconds=60):
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(seconds) == 0, (self.root / f"{name}.log").read_text()[-2000:]

    def ask(self, path):
        """Ask the server that was started last; None where it is not up."""
        said = [line for line in (self.root / "serve.log").read_text().splitlines() if "http://" in line]
        if not said:
            return None
        url = next(word for word in said[-1].split() if word.startswith("http://")).rstrip("/.")
        try:
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None


@pytest.fixture
def killable(tmp_path):
    line = Line(tmp_path, tmp_path / "ray")
    line.temp_dir.mkdir()
    yield line
    for process in line.processes.values():
        process.kill()
        process.wait()


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.mark.slow
def test_nothing_is_lost_stored_twice_or_torn_whoever_is_killed(killable):
    chosen = random.Random(SEED)
    print(f"RAYTRAIL_TEST_SEED={SEED}")  # noqa: T201 (shown where it fails)
    with subprocess.Popen(
        [sys.executable, "-m", "raytrail.testing.generate", killable.temp_dir, "--live", "--seconds", "30",
         "--rate", "1500", "--rotate-bytes", "1000000", "--seed", str(SEED)],
        stdout=subprocess.PIPE,
    ) as writer:  # fmt: skip
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
    written = json.loads(output)
    assert written["rotations"] >= 4
    assert written["half_lines"] > 0
    assert written["deleted_bytes"] == 0

    expected = sum(written["events"].values())
    wait_for(lambda: killable.ask("/api/clusters"), 60, "an answer of the server")
    killable.stop("agent")

    def arrived():
        with Store.open(killable.store, StoreConfig(threads=1)) as reader:
            return [cluster.events for cluster in reader.clusters()] == [expected]

    wait_for(arrived, 90, f"{expected} events in the store")
    killable.stop("history")
    killable.stop("serve")

    with Store.open(killable.store, StoreConfig(threads=1), write=True) as store:
        [cluster] = store.clusters()
        ledger = store.ledger(cluster.session)
        assert {row.event_type: row.stored_events for row in ledger} == {
            k: v for k, v in written["events"].items() if v
        }
        assert {row.event_type: row.stored_bytes for row in ledger} == {k: v for k, v in written["bytes"].items() if v}
        for row in ledger:
            assert (row.missing_bytes, row.rejected_events, row.lost_bytes) == (0, 0, 0), row
            assert row.written_bytes == row.published_bytes == row.stored_bytes, row
        logged = store._catalogue.query("SELECT sum(events) FROM log WHERE entity != 'file'")
        assert logged == [(expected,)]
        store.rebuild(cluster.session)
        states = {group["state"]: group["count"] for group in store.snapshot(cluster.session).group("task", ["state"])}
        assert sum(states.values()) == written["attempts"] + written["orphans"]
        for path in Path(killable.store).rglob("*.parquet"):
            assert path.read_bytes()[-4:] == b"PAR1", f"torn: {path}"
