"""Chunks on standard output: in this process, and down a real pipe."""

import asyncio
import io
import json
import os
import subprocess
import sys

import pytest

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk, Segment
from raytrail.pubsub import connect

pytestmark = pytest.mark.anyio
LINES = b'{"event_id": "1"}\nno \xff JSON\n'
CHUNK = Chunk(
    cluster="\udcff", session="s", node_id="", event_type="TASK", segments=(Segment("a", 0, 0, len(LINES)),), data=LINES
)

PUBLISHES = """
import asyncio
from raytrail.event import Chunk
from raytrail.pubsub import connect
chunk = Chunk(cluster="", session="s", node_id="", event_type="TASK", segments=(), data=b"x" * 9999 + b"\\n")
async def main():
    stdout = connect("stdout:")
    for _ in range(COUNT):
        await asyncio.gather(*(stdout.publish(chunk) for _ in range(10)))
asyncio.run(main())
"""


async def test_events_are_written_as_they_are(capsysbinary):
    stdout = connect("stdout:")
    await asyncio.gather(stdout.publish(CHUNK), stdout.publish(CHUNK))
    await stdout.aclose()
    await stdout.aclose()
    assert capsysbinary.readouterr().out == LINES * 2


async def test_a_chunk_is_its_headers_and_its_lines(capsysbinary):
    await connect("stdout:?envelope=chunk").publish(CHUNK)
    head, lines = capsysbinary.readouterr().out.split(b"\n", 1)
    assert Chunk.from_wire(json.loads(head), lines) == CHUNK


def run(count, **streams):
    script = PUBLISHES.replace("COUNT", str(count))
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, **streams)


def test_a_pipe_gets_everything():
    with run(10, stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == (b"x" * 9999 + b"\n") * 100
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_closed_pipe_ends_with_one_clear_error():
    with run(1000, stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        printed = process.stderr.read().decode().splitlines()
    assert printed[-1] == "raytrail.errors.ConfigError: stdout: nobody reads it any more; start both again"
    assert not any("Exception ignored" in line for line in printed)
    assert process.returncode == 1


@pytest.fixture
def pipe():
    """The two ends of a pipe, of which reading waits for nothing."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with open(read, "rb", buffering=0) as reader, open(write, "w", encoding="utf-8") as writer:
        yield reader, writer


async def test_what_is_published_is_with_who_reads_the_pipe(pipe, monkeypatch):
    reader, writer = pipe
    monkeypatch.setattr(sys, "stdout", writer)
    await connect("stdout:").publish(CHUNK)
    assert reader.read() == LINES


@pytest.fixture
def full():
    with open("/dev/full", "wb", buffering=0) as file, io.TextIOWrapper(file) as text:
        yield text


async def test_a_full_disk_is_waited_for(full, monkeypatch):
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(BrokerUnavailable) as caught:
        await connect("stdout:").publish(CHUNK)
    assert str(caught.value) == "stdout: No space left on device; make room, or write to another place"


async def test_what_waits_behind_a_chunk_that_failed_fails_with_it(full, monkeypatch):
    monkeypatch.setattr(sys, "stdout", full)
    stdout = connect("stdout:")
    results = [asyncio.ensure_future(stdout.publish(CHUNK)) for _ in range(2)]
    await asyncio.wait(results, timeout=60)
    assert results[0].exception() is results[1].exception() is not None


async def test_no_standard_output_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ConfigError) as caught:
        await connect("stdout:").publish(CHUNK)
    assert str(caught.value) == "stdout: this process has no standard output; give it one, or name another URL"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "stdout:?envelope=x",
            "'stdout://': Invalid enum value 'x' - at `$.envelope`; the settings are envelope",
        ),
        ("stdout:///dev/tty", "'stdout:///dev/tty' names a place; write stdout: or stdout:?envelope=chunk"),
    ],
)
def test_a_wrong_url_is_refused(url, text):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == text


def test_it_is_not_read_from():
    with pytest.raises(ConfigError) as caught:
        connect("stdout:").subscribe("g")
    assert str(caught.value) == (
        "stdout: is only written to; read the pipe that it goes to, or name a broker, as file:///dir, at both ends"
    )
