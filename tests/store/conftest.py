"""A store on disk, and events to put in it."""

import base64

import pytest

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.store import Store
from raytrail.testing.entities import line

JOB = base64.b64encode(b"\x01\0\0\0").decode()


@pytest.fixture
def config():
    return StoreConfig(threads=1)


@pytest.fixture
def store(tmp_path, config):
    with Store.open(tmp_path / "store", config, write=True) as store:
        yield store


@pytest.fixture
def task():
    """Make a line of a task's attempt."""

    def make(number=1, *, at=1795419640, job=JOB, attempt=0, **event_data):
        key = {
            "task_id": base64.b64encode(bytes([number]) * 24).decode(),
            "attempt_number": attempt,
            "job_id": job,
        }
        return line(installed()["task"], at, {**key, **event_data})

    return make


@pytest.fixture
def event():
    """Make a line of any entity."""

    def make(entity, at, /, **event_data):
        return line(installed()[entity], at, event_data)

    return make
