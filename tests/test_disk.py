"""What the disk is asked for at once."""

from pathlib import Path

import pytest

from raytrail import disk


def test_a_whole_file_system_is_synced_where_one_call_promises_that(tmp_path):
    asked = disk.sync_file_system(tmp_path)
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    kinds = {kind for _, place, kind, *_ in mounts if tmp_path.is_relative_to(place)}
    assert asked <= bool(kinds & {"ext4", "xfs"})
    # of one that lies in memory, as of one that lies elsewhere, nothing is promised
    assert not disk.sync_file_system(Path("/proc"))


def test_a_directory_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        disk.sync_file_system(tmp_path / "gone")


def test_an_older_kernel_is_not_trusted_to_tell_of_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_kernel", lambda: (5, 4))
    assert not disk.sync_file_system(tmp_path)
