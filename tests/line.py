"""The line as real processes, started anew after each kill, and what must be in the store in the end."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from raytrail.config import StoreConfig
from raytrail.store import Store

SEED = int(os.environ.get("RAYTRAIL_TEST_SEED", "0")) or random.SystemRandom().randrange(2**32)


class Line:
    """
    An agent, a history and a server.

    Args:
        root: Where they keep what they have.
        to: Where the agent publishes.
        history_from: Where the history subscribes, if that is another URL.
    """

    def __init__(self, root, to, history_from=""):
        self.root, self.to, self.history_from = root, to, history_from or to
        self.temp_dir, self.store = root / "ray", root / "store"
        self.temp_dir.mkdir(parents=True)
        self.processes = {}

    def start(self, name, *more, command="", clock=""):
        """
        Start one of them.

        Args:
            name: What it goes by here.
            more: Flags that win over those of all.
            command: What it is: ``agent``, ``history`` or ``serve``; the name says it, else.
            clock: A directory of a ``sitecustomize`` that sets its clock.
        """
        flags = {
            "agent": ["--to", self.to, "--temp-dir", self.temp_dir, "--sessions", "all", "--report-seconds", "0.5",
                      "--chunk-bytes", "20000", "--drain-seconds", "300", "--state-dir", self.root / "state"],
            "history": ["--from", self.history_from, "--store", self.store, "--batch-seconds", "0.1",
                        "--fold-seconds", "0.5", "--seal-after-end-seconds", "3600"],
            "serve": ["--store", self.store, "--port", "0"],
        }[command or name]  # fmt: skip
        environ = os.environ | ({"PYTHONPATH": str(clock)} if clock else {})
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "raytrail", command or name, *map(str, [*flags, *more])],
                stdout=log,
                stderr=log,
                env=environ,
            )

    def kill(self, name):
        process = self.processes.pop(name)
        assert process.poll() is None, (self.root / f"{name}.log").read_text()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name, seconds=360):
        process = self.processes.pop(name)
        # one that was started just now may not have got so far as to listen to it, and would end as any program does
        wait_for(lambda: process.poll() is not None or catches(process.pid, signal.SIGTERM), seconds, f"{name} is up")
        process.terminate()
        assert process.wait(seconds) == 0, (self.root / f"{name}.log").read_text()[-2000:]

    def end(self):
        """Kill what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def ask(self, path):
        """Ask the server that was started last; None where it is not up."""
        announced = [line for line in (self.root / "serve.log").read_text().splitlines() if "http://" in line]
        if not announced:
            return None
        url = next(word for word in announced[-1].split() if word.startswith("http://")).rstrip("/.")
        try:
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def writer(self, seconds, rotate_bytes=1_000_000, rate=1500):
        """Start what writes event files, with rotation and half lines, and says at its end what it wrote."""
        print(f"RAYTRAIL_TEST_SEED={SEED}")  # noqa: T201 (shown where a test fails)
        return subprocess.Popen(
            [sys.executable, "-m", "lab.generate", self.temp_dir, "--live", "--seconds", str(seconds),
             "--rate", str(rate), "--rotate-bytes", str(rotate_bytes), "--seed", str(SEED)],
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def arrived(self, written):
        """Say whether as many events as were written are in the store."""
        if not (self.store / "catalogue.sqlite").exists():
            return False
        with Store.open(self.store, StoreConfig(threads=1)) as store:
            return [*store.events().values()] == [sum(written["events"].values())]

    def log_bytes(self):
        """Return how many bytes of logs are in the store."""
        with Store.open(self.store, StoreConfig(threads=1)) as store:
            return sum(cluster.log_bytes for cluster in store.clusters())

    def check_logs(self, files):
        """Check that the store holds these logs, byte for byte, and nothing twice."""
        with Store.open(self.store, StoreConfig(threads=1)) as store:
            [cluster] = store.clusters()
            logs = store.logs(cluster.session, every=True)
            stored = sorted(b"".join(store.read_log(cluster.session, log)) for log in logs)
            assert stored == sorted(map(bytes, files))
            [row] = [row for row in store.ledger(cluster.session) if row.event_type == "LOG"]
            assert row.written_bytes == row.published_bytes == row.stored_bytes == sum(map(len, files))
            assert store._catalogue.query("SELECT sum(end - start) FROM frames") == [(row.stored_bytes,)]

    def check(self, written, refused=None):
        """
        Check that all that was written is in the store, once, and no file of it torn.

        Args:
            written: What `lab.generate` said.
            refused: The ranges that are missing, by event type: lines beyond those.
        """
        with Store.open(self.store, StoreConfig(threads=1), write=True) as store:
            [cluster] = store.clusters()
            ledger = [row for row in store.ledger(cluster.session) if row.event_type != "LOG"]
            for what in ("events", "bytes"):
                stored = {row.event_type: getattr(row, f"stored_{what}") for row in ledger}
                assert stored == {event_type: count for event_type, count in written[what].items() if count}
            for row in ledger:
                missing = [(gap.start, gap.end) for gap in row.missing]
                assert missing == (refused or {}).get(row.event_type, []), row
                assert (row.rejected_events, row.lost_bytes) == (0, 0), row
                assert row.written_bytes == row.published_bytes == row.stored_bytes + row.missing_bytes, row
            logged = store._catalogue.query("SELECT sum(events) FROM log WHERE entity NOT IN ('file', 'raylet')")
            assert logged == [(sum(written["events"].values()),)]
            store.rebuild(cluster.session)
            snapshot = store.snapshot(cluster.session)
            tasks = snapshot.rows("task", columns=["state", "type"])
            assert len(tasks) == written["attempts"] + written["orphans"]
            assert Counter(row["state"] for row in tasks if row["type"]) == written["task_final_states"]
            for noun, states in (("actor", "actor_final"), ("node", "node"), ("dataset", "dataset")):
                counted = Counter(row["state"] for row in snapshot.rows(noun, columns=["state"]))
                assert counted == written[f"{states}_states"]
            named = store._catalogue.query("SELECT path FROM log UNION SELECT path FROM state ORDER BY path")
        # what a kill has torn is named by nobody, and deleted once it is old enough
        for path in (Path(self.store) / name for (name,) in named if name.endswith(".parquet")):
            assert path.read_bytes()[-4:] == b"PAR1", f"torn: {path}"


class LogWriter(threading.Thread):
    """Writes a worker's log in a session: lines all alike at first, halves of them, rotation, a move to ``old/``."""

    def __init__(self, temp_dir, seconds):
        super().__init__()
        self.temp_dir, self.seconds = temp_dir, seconds
        self.files = []
        """What each file held, oldest first."""

    def run(self):
        chosen, ends = random.Random(SEED), time.monotonic() + self.seconds
        wait_for(lambda: list(self.temp_dir.glob("session_2*/logs")), 60, "a session")
        [logs] = self.temp_dir.glob("session_2*/logs")
        (logs / "old").mkdir()
        number, path = 0, logs / "worker-aa-01000000-7.out"
        while time.monotonic() < ends:
            self.files.append(bytearray())
            with path.open("wb", buffering=0) as file:
                while len(self.files[-1]) < 500_000 and time.monotonic() < ends:
                    number += 1
                    text = b":job_id:01000000\n" if not self.files[-1] else b"line %d \xff" % number * 40
                    text += b"" if chosen.random() < 0.2 else b"\n"
                    file.write(text)
                    self.files[-1] += text
                    time.sleep(chosen.expovariate(500))
                if len(self.files) % 2:
                    path = path.rename(logs / "old" / f"worker-{len(self.files)}.out")
                    file.write(b"the last words")
                    self.files[-1] += b"the last words"
            if path.parent == logs:
                path.rename(f"{path}.{len(self.files)}")
            path = logs / "worker-aa-01000000-7.out"


def catches(pid, number):
    """Whether a process has a handler for a signal (proc_pid_status(5))."""
    [caught] = [
        line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    ]
    return bool(int(caught, 16) >> (number - 1) & 1)


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")
