"""A session directory as Ray lays it out, and a tailer that waits for nothing."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from raytrail.config import TailConfig
from raytrail.event import Chunk
from raytrail.tail import Checkpoint, Tailer

SESSION = "session_2026-11-23_07-40-30_867494_13129"


@pytest.fixture
def temp_dir(tmp_path: Path) -> Path:
    """Ray's temp_dir, with one session in it."""
    (tmp_path / "ray" / SESSION / "logs" / "export_events").mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to(tmp_path / "ray" / SESSION)
    return tmp_path / "ray"


@pytest.fixture
def events(temp_dir: Path) -> Path:
    """Where that session's event files are."""
    return temp_dir / SESSION / "logs" / "export_events"


class Tail:
    """A tailer with its checkpoint, and short words for what tests do with them."""

    def __init__(self, tmp_path: Path, session_dirs: list[Path] | None = None, **settings: object) -> None:
        default = TailConfig(
            cluster="c1", temp_dir=str(tmp_path / "ray"), poll_seconds=1e-9, sweep_seconds=1e-9, inotify=False
        )
        self.config = msgspec.structs.replace(default, **settings)
        self.checkpoint = Checkpoint(tmp_path / "state" / "checkpoint.sqlite")
        self.tailer = Tailer(self.config, self.checkpoint, session_dirs=session_dirs)

    def read(self) -> list[Chunk]:
        """Read all there is."""
        chunks: list[Chunk] = []
        while new := list(self.tailer.poll()):
            chunks += new
        return chunks

    def ship(self) -> bytes:
        """Read all there is, acknowledge it, and return the lines."""
        chunks = self.read()
        for chunk in chunks:
            self.checkpoint.acknowledge(chunk.segments)
        return b"".join(chunk.data for chunk in chunks)

    def reports(self) -> dict[str, dict[str, object]]:
        """Return the files' reports by name."""
        lines = [json.loads(line) for chunk in self.tailer.reports() for line in chunk.data.splitlines()]
        files = [line["event_data"] for line in lines if line["source_type"] == "RAYTRAIL_FILE"]
        return {file["name"]: file for file in files}

    def close(self) -> None:
        self.tailer.close()
        self.checkpoint.close()


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    """Make a tailer on the test's temp_dir; a second one takes over where the first left off."""
    made: list[Tail] = []

    def make(session_dirs: list[Path] | None = None, **settings: object) -> Tail:
        if made:
            made[-1].close()
        made.append(Tail(tmp_path, session_dirs, **settings))
        return made[-1]

    yield make
    for opened in made:
        opened.close()
