"""What every test may use."""

import logging

import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A command sets up the whole process's logging; the next test's begins anew."""
    before = [(log, log.level, log.handlers[:]) for log in (logging.getLogger(), logging.getLogger("raytrail"))]
    yield
    for log, level, handlers in before:
        log.setLevel(level)
        log.handlers[:] = handlers
