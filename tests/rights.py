"""What only some users may do."""

import os

import pytest


def lacking(what):
    """Skip a test that needs the right to do something; fail it in CI, which has it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"may not {what} here; try as root")
