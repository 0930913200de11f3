"""What the disk is asked for at once."""

import os
import re
from pathlib import Path

import pytest

from raytrail import disk


def test_a_whole_file_system_is_synced_where_one_call_promises_that(tmp_path):
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    # of those on the same place, the last one is on top
    under = [(len(place), n, kind) for n, (_, place, kind, *_) in enumerate(mounts) if tmp_path.is_relative_to(place)]
    [kernel] = [tuple(map(int, numbers)) for numbers in re.findall(r"^(\d+)\.(\d+)", os.uname().release)]
    assert disk.sync_file_system(tmp_path) == (max(under)[2] in ("ext4", "xfs") and kernel >= (5, 8))


def test_nothing_is_promised_of_what_lies_on_no_disk():
    assert not disk.sync_file_system(Path("/proc"))


def test_an_older_kernel_is_not_trusted_to_tell_of_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_file_system", lambda directory: "ext4")
    monkeypatch.setattr(disk, "_kernel", lambda: (5, 7))
    assert not disk.sync_file_system(tmp_path)
    monkeypatch.setattr(disk, "_kernel", lambda: (5, 8))
    assert disk.sync_file_system(tmp_path)


def test_a_directory_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        disk.sync_file_system(tmp_path / "gone")
