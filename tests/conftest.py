"""What every test may use."""

import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.brokers.s3 import S3, started
from tests.rights import lacking

LONGEST = (
    *("test_survival", "ray/test_live", "ray/test_head_restart", "pubsub/test_kafka", "sources/test_live"),
    "pubsub/test_ray",
    *("sources/test_hooked_ray", "entities/test_contract", "tail/test_tailer_machine", "cli/test_ray_run"),
    *("pubsub/test_objects", "test_docs", "cli/test_agent", "collectors/test_rsyslog", "store/test_fold"),
    *("server/ray/test_ray_clients", "pubsub/test_redis", "test_killed", "lab/test_ray_cluster"),
    *("cli/test_ask", "store/test_border", "cli/test_stop"),
)
"""The files that take longest, each as a whole on one of the processes: they begin first, and short ones fill in."""


def pytest_configure():
    """Heed SIGINT in what tests start: a shell that runs them in the background ignores it, and hands that on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    turn = {here / f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turn.get(item.path, len(turn)))


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
        lacking("mount a small disk")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


@pytest.fixture
def as_root():
    """Root runs this test, which nobody else could."""
    if os.geteuid():
        lacking("do what only root may")


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """An S3 for all tests, each of which takes a folder of its own."""
    pytest.importorskip("obstore")
    server = started(S3(tmp_path_factory.mktemp("s3")))
    yield server
    server.kill()
