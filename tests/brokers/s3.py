"""A real S3 server, which keeps its objects in files."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest
from lab.ports import free_port

BROKERS = Path(os.environ.get("RAYTRAIL_BROKERS") or "~/.cache/raytrail/brokers").expanduser()
GATEWAY = BROKERS / "bin" / "versitygw"
DEADLINE_SECONDS = 60
KEY, SECRET = "raytrail", "secretsecret"


class S3:
    """An S3 with one bucket, ``bucket``."""

    def __init__(self, directory):
        self.files, self.log = directory / "files", directory / "s3.log"
        self.process: subprocess.Popen | None = None
        (self.files / "bucket").mkdir(parents=True)
        self.port = free_port()

    def place(self, path, *, bucket="bucket", port=None, **settings):
        """Return the URL of a path in a bucket, with what it takes to be let in."""
        settings = {
            "endpoint": f"http://127.0.0.1:{port or self.port}",
            "aws_access_key_id": KEY,
            "aws_secret_access_key": SECRET,
            "aws_region": "us-east-1",
        } | settings
        query = "&".join(f"{name}={value}" for name, value in settings.items())
        return f"s3://{bucket}/{path}?{query}"

    def url(self, folder=None, **settings):
        """Return the URL of a broker that is quick."""
        return self.place(folder or uuid4().hex, **{"linger_seconds": 0.02, "poll_seconds": 0.05} | settings)

    def start(self):
        environment = os.environ | {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [GATEWAY, "--port", f"127.0.0.1:{self.port}", "posix", self.files],
                stdout=log,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self):
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def objects(self, url):
        folder = self.files / "bucket" / url.partition("?")[0].rpartition("/")[2] / "log"
        return sorted(path for path in folder.rglob("*.ndjson*") if path.is_file())

    def requests(self):
        return re.findall(r"\| (GET|PUT) \| (\S+) \|", self.log.read_text())


def needed():
    """Skip the test where there is no S3; fail it in CI."""
    if not GATEWAY.exists():
        text = "no S3 server: run `make brokers` (apt-get install golang)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)


def started(server):
    needed()
    server.start()
    return server
