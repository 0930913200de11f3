"""Stores to ask, as those of the server's tests."""

from tests.server.conftest import add, capture, chunk, made, store, task

__all__ = ["add", "capture", "chunk", "made", "store", "task"]
