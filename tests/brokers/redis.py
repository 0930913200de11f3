"""A Redis of one's own."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from uuid import uuid4

import pytest
import redis
from lab.ports import free_port
from tests.brokers.promises import DEADLINE_SECONDS

BOUNDED = ("--maxmemory", "1gb", "--maxmemory-policy", "noeviction")


class Server:
    """One redis-server with its files in a directory of its own."""

    def __init__(self, directory, *arguments):
        self.directory, self.arguments = directory, arguments
        self.process: subprocess.Popen | None = None
        self.port = free_port()

    def url(self, stream=None, *, user="", **settings):
        query = "&".join(f"{name}={value}" for name, value in {"stream": stream or uuid4().hex, **settings}.items())
        return f"redis://{user and user + '@'}127.0.0.1:{self.port}?{query}"

    def client(self, **how):
        return redis.Redis(port=self.port, **how)

    def start(self):
        command = [
            shutil.which("redis-server"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            self.directory,
        ]
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([*command, "--save", "", *BOUNDED, *self.arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            with suppress(redis.ConnectionError, redis.BusyLoadingError), self.client() as client:
                with suppress(redis.AuthenticationError):
                    client.ping()
                return
            assert self.process.poll() is None, (self.directory / "redis.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self):
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def needed():
    """Skip the test where there is no Redis; fail it in CI."""
    if not shutil.which("redis-server"):
        text = "no redis-server: run `make brokers` as root (apt-get install redis-server)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
