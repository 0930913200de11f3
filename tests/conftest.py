"""What every test may use."""

import logging
import os
import signal
import subprocess
from itertools import accumulate
from pathlib import Path

import pytest
from tests.brokers.s3 import S3, started
from tests.rights import lacking

WAITING = {
    **{"test_survival": 220, "pubsub/test_kafka": 155, "ray/test_live": 130, "pubsub/test_ray": 95},
    **{"ray/test_head_restart": 85, "sources/test_live": 80, "sources/test_hooked_ray": 80, "pubsub/test_redis": 75},
    **{"pubsub/test_objects": 70, "test_docs": 60, "cli/test_agent": 60, "cli/test_ray_run": 55, "test_killed": 45},
    **{
        "tail/test_tailer_machine": 45,
        "collectors/test_rsyslog": 45,
        "kuberay/test_follow": 25,
        "pubsub/test_nats": 20,
    },
    **{"cli/test_stop": 17, "lab/test_ray_cluster": 15},
}
"""
The files that mostly wait for somebody else's process, with their seconds on a quiet machine, longest first. Each is as
a whole on one of pytest's processes.
"""
COMPUTING = {
    **{"cli/test_ask": 45, "entities/test_contract": 45, "store/test_many": 25, "server/ray/test_ray_clients": 25},
    **{"store/test_fold": 25, "server/ray/test_state": 20, "server/ray/test_logs": 20, "server/ray/test_dashboard": 20},
    **{"store/test_border": 15, "store/test_conclude": 12, "server/ray/test_status": 12, "store/test_older_store": 12},
    **{"store/test_owners": 12, "redact/test_corpus": 10, "test_history": 10, "store/test_ask": 10},
}
"""The files that mostly compute, likewise. Those that are in neither take some seconds, and compute."""
OTHER_SECONDS = 1.5
FOLDING = ("store", "server")
"""
The rooms in which a test with a directory of its own makes a store in it. The engine takes half a second to plan what
that needs, and there are hundreds of such tests. They are marked as slow.
"""


def pytest_configure():
    """Heed SIGINT in what tests start: a shell that runs them in the background ignores it, and hands that on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    waiting, computing = ({here / f"{name}.py": of[name] for name in of} for of in (WAITING, COMPUTING))
    others = {item.path: OTHER_SECONDS for item in items if item.path not in waiting | computing}
    turn = turns(waiting) | turns(computing | others)
    items.sort(key=lambda item: turn[item.path])
    for item in items:
        if item.path.relative_to(here).parts[0] in FOLDING and "tmp_path" in item.fixturenames:
            item.add_marker("slow")


def turns(seconds):
    """Return the share of all these files' time that is over when each begins. By it all kinds run side by side."""
    begins = accumulate(seconds.values(), initial=0)
    return {path: begin / sum(seconds.values()) for path, begin in zip(seconds, begins, strict=False)}


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
