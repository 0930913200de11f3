"""Files that are written, rotated, cut, replaced and deleted in any order, and what the tailer makes of them."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from raytrail.config import TailConfig
from raytrail.event import Chunk
from raytrail.tail import Checkpoint, Tailer

SESSION = "session_2026-11-23_07-40-30_867494_13129"
STEMS = ("event_EXPORT_TASK_1", "event_EXPORT_TASK_2", "event_EXPORT_ACTOR")
BACKUPS = 2
CHUNK_BYTES, MAX_LINE_BYTES = 1024, 4096


def file_id(first: bytes) -> str:
    digest = hashlib.blake2b(SESSION.encode() + b"\n" + first, digest_size=16).hexdigest()
    return f"1795419639-{digest}"


@dataclass(eq=False)
class Written:
    """What the test wrote into one file: its lines, and half a line after them."""

    path: Path
    lines: list[bytes] = field(default_factory=list)
    half: bytes = b""
    rest: bytes = b""
    seen: bool = False
    """The tailer has looked since it was created."""

    @property
    def content(self) -> bytes:
        return b"".join(self.lines) + self.half


class Machine(RuleBasedStateMachine):
    """Every complete line arrives, whole, and no more often than can be helped."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="raytrail-tail-"))
        self.events = self.root / "ray" / SESSION / "logs" / "export_events"
        self.events.mkdir(parents=True)
        # SQLite syncs at each start and stop, which takes a real disk longer than all the rest
        self.states = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.written: dict[str, list[Written]] = {stem: [] for stem in STEMS}  # the live file first
        self.deleted: list[Written] = []
        self.versions: dict[str, list[bytes]] = {}  # what was ever in a file, by its id
        self.number = 0
        self.must: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.certain: set[bytes] = set()
        """Acknowledged, and not undone by a restart or a new generation."""
        self.allowed: Counter[bytes] = Counter()
        self.delivered: Counter[bytes] = Counter()
        self.waiting: list[Chunk] = []
        self.crashes = 0

    @initialize(inotify=st.booleans())
    def begin(self, inotify: bool) -> None:
        self.config = TailConfig(
            temp_dir=str(self.root / "ray"),
            sessions="all",
            poll_seconds=1e-9,
            sweep_seconds=3600 if inotify else 1e-9,
            inotify=inotify,
            chunk_bytes=CHUNK_BYTES,
            max_line_bytes=MAX_LINE_BYTES,
        )
        self.state = self.states / "0" / "checkpoint.sqlite"
        self.checkpoint = Checkpoint(self.state)
        self.tailer = Tailer(self.config, self.checkpoint)

    # -- what Ray does

    @rule(stem=st.sampled_from(STEMS), sizes=st.lists(st.sampled_from([1, 60, 300, 1500, 5000]), max_size=12))
    def write(self, stem: str, sizes: list[int]) -> None:
        self._append(stem, sizes, half=False)

    @rule(stem=st.sampled_from(STEMS), sizes=st.lists(st.sampled_from([60, 5000]), max_size=2))
    def write_half_a_line(self, stem: str, sizes: list[int]) -> None:
        self._append(stem, sizes, half=True)

    @rule(stem=st.sampled_from(STEMS))
    def rotate(self, stem: str) -> None:
        files = self.written[stem]
        if not files or not files[0].path.exists() or files[0].path.suffix != ".log" or files[0].half:
            return
        for number in range(BACKUPS, -1, -1):
            for file in [file for file in files if file.path == self._path(stem, number)]:
                if number == BACKUPS:
                    self._delete(stem, file)
                else:
                    file.path = file.path.rename(self._path(stem, number + 1))

    # -- what people do

    @rule(stem=st.sampled_from(STEMS), which=st.integers(0, BACKUPS))
    def delete(self, stem: str, which: int) -> None:
        for file in [file for file in self.written[stem] if file.path == self._path(stem, which)]:
            self._delete(stem, file)

    @rule(stem=st.sampled_from(STEMS), sizes=st.lists(st.sampled_from([60, 300]), max_size=12))
    def write_anew_in_place(self, stem: str, sizes: list[int]) -> None:
        file = self._live(stem)
        self._give_up(file)
        file.lines, file.half, file.rest = [], b"", b""
        file.path.write_bytes(b"")
        self._append(stem, sizes, half=False)
        # the clock of a file system may stand still for 4 ms, in which nothing else tells the two apart
        os.utime(file.path, ns=(self.number, self.number))

    @rule(stem=st.sampled_from(STEMS), keep=st.integers(1, 5))
    def cut(self, stem: str, keep: int) -> None:
        file = self._live(stem)
        if keep >= len(file.lines):
            return
        for chunk in self.waiting:
            self._acknowledge(chunk)
        self.waiting = []
        self._give_up(file)
        file.lines, file.half, file.rest = file.lines[:keep], b"", b""
        with file.path.open("r+b") as opened:
            opened.truncate(len(file.content))
        self.allowed.update(file.lines)  # a new generation is read from its start
        self.certain -= set(file.lines)
        self.must.update(line for line in file.lines if len(line) <= MAX_LINE_BYTES)
        self.read_all()  # unless it is seen to have shrunk, nobody can know

    @rule(stem=st.sampled_from(STEMS), sizes=st.lists(st.sampled_from([60, 300]), min_size=1, max_size=5))
    def replace(self, stem: str, sizes: list[int]) -> None:
        for file in [file for file in self.written[stem] if file.path == self._path(stem, 0)]:
            self._delete(stem, file, unlink=False)
        path = self.events / "aside"
        path.write_bytes(b"")
        file = Written(path)
        self.written[stem].insert(0, file)
        self._append(stem, sizes, half=False)
        file.path = path.replace(self._path(stem, 0))

    # -- what the agent does

    @rule(most=st.integers(1, 10))
    def read(self, most: int) -> None:
        for count, chunk in enumerate(self.tailer.poll(), 1):
            self._deliver(chunk)
            if count == most:
                break
        for file in [file for files in self.written.values() for file in files]:
            file.seen = True

    @rule()
    def read_all(self) -> None:
        while True:
            before = len(self.waiting)
            self.read(100)
            if len(self.waiting) == before:
                return

    @rule(picks=st.lists(st.integers(0, 99), min_size=1, max_size=20))
    def acknowledge(self, picks: list[int]) -> None:
        for pick in picks[: len(self.waiting)]:
            self._acknowledge(self.waiting.pop(pick % len(self.waiting)))

    @rule(pick=st.integers(0, 99))
    def fail_to_publish(self, pick: int) -> None:
        if self.waiting:
            chunk = self.waiting.pop(pick % len(self.waiting))
            self.tailer.rewind(chunk.segments)
            self.allowed.update(chunk.data.splitlines(keepends=True))

    @rule()
    def commit(self) -> None:
        assert self.checkpoint.commit()

    @rule()
    def report(self) -> None:
        self.tailer.reports()

    @rule()
    def stop_and_start(self) -> None:
        old = self.checkpoint
        self.tailer.close()
        old.close()
        self._restarted()
        prefixes: set[bytes] = set()
        for file in [file for files in self.written.values() for file in files]:
            for line in file.lines:  # the acknowledged prefix is not read again
                if line not in self.certain and len(line) <= MAX_LINE_BYTES:
                    break
                self.allowed[line] = max(1, self.delivered[line])
                prefixes.add(line)
        self.certain = prefixes
        self.checkpoint = Checkpoint(self.state)
        self.tailer = Tailer(self.config, self.checkpoint)

    @rule()
    def crash(self) -> None:
        self.crashes += 1
        crashed = self.states / str(self.crashes)
        shutil.copytree(self.state.parent, crashed)  # what a kill leaves: the files as they are now
        self.tailer.close()
        self.checkpoint.close()
        self._restarted()
        self.certain = set()
        self.state = crashed / self.state.name
        self.checkpoint = Checkpoint(self.state)
        self.tailer = Tailer(self.config, self.checkpoint)

    def teardown(self) -> None:
        if hasattr(self, "tailer"):
            try:
                self._drain()
            finally:
                self.tailer.close()
                self.checkpoint.close()
        shutil.rmtree(self.root)
        shutil.rmtree(self.states)

    def _drain(self) -> None:
        for _ in range(2):
            self.read_all()
            for chunk in self.waiting:
                self._acknowledge(chunk)
            self.waiting = []
        missing = self.must - self.acknowledged
        assert not missing, sorted(missing)[:3]
        repeated = {line: count for line, count in self.delivered.items() if count > self.allowed[line]}
        assert not repeated, list(repeated.items())[:3]
        for _ in range(3):
            self.tailer.look()  # what is deleted may keep half a line from one look to the next
        halves = sum(len(file.half) for files in self.written.values() for file in files)
        assert self.tailer.unread_bytes() == halves

    # -- the oracle

    def _path(self, stem: str, number: int) -> Path:
        return self.events / (f"{stem}.log.{number}" if number else f"{stem}.log")

    def _live(self, stem: str) -> Written:
        for file in self.written[stem]:
            if file.path in (self._path(stem, 0), self.events / "aside"):
                return file
        file = Written(self._path(stem, 0))
        file.path.write_bytes(b"")
        self.written[stem].insert(0, file)
        return file

    def _append(self, stem: str, sizes: list[int], *, half: bool) -> None:
        file = self._live(stem)
        new = [file.half + file.rest] if file.half and (sizes or half) else []
        for size in sizes:
            self.number += 1
            new.append(
                b'{"n":%d,"pad":"%s","timestamp":1795419639}\n'
                % (self.number, (b"%06d-" % self.number) * (size // 7 + 1))
            )
        with file.path.open("ab") as opened:
            opened.write(b"".join(new)[len(file.half) if new else 0 :])
            if new:
                file.half = file.rest = b""
            if half and not file.half:
                self.number += 1
                line = b'{"half":%d,"pad":"%s","timestamp":1795419639}\n' % (self.number, b"y" * 100)
                file.half, file.rest = line[:20], line[20:]
                opened.write(file.half)
        file.lines += new
        self.allowed.update(new)
        self.must.update(line for line in new if len(line) <= MAX_LINE_BYTES)
        if file.lines:
            versions = self.versions.setdefault(file_id(file.lines[0]), [])
            if versions and file.content.startswith(versions[-1]):
                versions.pop()
            versions.append(file.content)

    def _delete(self, stem: str, file: Written, *, unlink: bool = True) -> None:
        if unlink:
            file.path.unlink()
        self.written[stem].remove(file)
        self.deleted.append(file)
        if not file.seen:
            self._give_up(file)

    def _give_up(self, file: Written) -> None:
        """Nobody can be asked for what was not yet acknowledged of `file`."""
        self.must -= set(file.lines) - self.acknowledged

    def _restarted(self) -> None:
        self.waiting = []
        for file in self.deleted:
            self._give_up(file)
        self.allowed.update(set(self.delivered))

    def _deliver(self, chunk: Chunk) -> None:
        assert chunk.session == SESSION
        assert sum(segment.length for segment in chunk.segments) == len(chunk.data)
        assert len(chunk.data) <= CHUNK_BYTES or chunk.data.count(b"\n") == 1
        for segment, lines in chunk.parts():
            versions = self.versions[segment.file]
            assert any(version[segment.start : segment.end] == lines for version in versions), segment
            assert bytes(lines).endswith(b"\n")
        self.delivered.update(chunk.data.splitlines(keepends=True))
        self.waiting.append(chunk)

    def _acknowledge(self, chunk: Chunk) -> None:
        self.checkpoint.acknowledge(chunk.segments)
        self.certain.update(chunk.data.splitlines(keepends=True))
        self.acknowledged.update(chunk.data.splitlines(keepends=True))


def check(examples: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_complete_line_arrives_whatever_is_done_to_its_file():
    check(examples=20)


@pytest.mark.slow
def test_every_complete_line_arrives_whatever_is_done_to_its_file_at_length():
    check(examples=500)
