"""A session directory, as Ray lays it out."""

from pathlib import Path

import pytest

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
