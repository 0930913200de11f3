"""What every test may use."""

import logging
import os
import subprocess

import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A command sets up the whole process's logging; the next test's begins anew."""
    logging.getLogger("raytrail").setLevel(logging.NOTSET)  # a fixture of several tests may have run one
    before = [(log, log.level, log.handlers[:]) for log in (logging.getLogger(), logging.getLogger("raytrail"))]
    yield
    for log, level, handlers in before:
        log.setLevel(level)
        log.handlers[:] = handlers


@pytest.fixture
def small_disk(tmp_path, request):
    """A file system of its own, of as many megabytes as its parameter says, 8 by default."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', 8)}m", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("may not mount a small disk here; try as root")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)
