"""What a file's first line says about it."""

import hashlib
from pathlib import Path

import pytest

from raytrail.tail.discovery import parse
from raytrail.tail.file import Changed, EventFile

NAME = "event_EXPORT_TASK_1.log"


def opened(path: Path, data: bytes) -> EventFile:
    path.write_bytes(data)
    name = parse(NAME)
    assert name is not None
    file = EventFile(path, name, (path.stat().st_dev, path.stat().st_ino))
    file.open()
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


@pytest.mark.parametrize(
    ("first", "began"),
    [
        (b'{"event_data":{"timestamp":1},"event_id":"a","source_type":"E","timestamp":1795419639}\n', "1795419639"),
        (b'{"event_id": "a", "timestamp": 1795419639, "source_type": "E", "event_data": {"x": 1}}\n', "1795419639"),
        (b'{"event_data":{"timestamp":1}}\n', "0000000000"),
        (b'{"event_data":{"x":"\\"timestamp\\":1}"}}\n', "0000000000"),
        (b'{"event_id": "\\"timestamp\\": 5,", "event_data": {}}\n', "0000000000"),
        (b'{"timestamp":1795419639000}\n', "0000000000"),
        (b'{"timestamp":1795419639.5}\n', "0000000000"),
        (b'{"timestamp":17}\n', "0000000017"),
        (b'{"eventId":"a","timestamp":"2026-11-23T08:10:10.057820789Z","nodeId":"x"}\n', "1795421410"),
        (b'{"eventId": "a", "eventType": "E", "timestamp": "2026-11-23T08:10:10Z"}\n', "1795421410"),
        (b'{"eventId":"a","timestamp":"2026-02-30T08:10:10Z"}\n', "0000000000"),
        (b'{"eventId":"a","timestamp":"0001-01-01T00:00:00Z"}\n', "0000000000"),
        (b"\xff\x00garbage\n", "0000000000"),
        (b"\n", "0000000000"),
        (b'{"event_data":"' + b"x" * 20_000_000 + b'","timestamp":1795419639}\n', "1795419639"),
    ],
)  # fmt: skip
def test_a_file_is_known_by_its_session_and_its_first_line(path, first, began):
    file = opened(path, first + b'{"timestamp":5}\n')
    digest = hashlib.blake2b(b"s1\n" + first, digest_size=16).hexdigest()
    assert file.identify("s1") == f"{began}-{digest}"
    assert file.identify("s2") != f"{began}-{digest}"
    file.close()


def test_a_file_is_not_known_before_its_first_line_is_complete(path):
    file = opened(path, b"")
    assert file.identify("s1") is None
    for part in (b"{", b"x" * 300_000, b"}"):
        with path.open("ab") as grows:
            grows.write(part)
        assert file.identify("s1") is None
        assert file.tried
    with path.open("ab") as grows:
        grows.write(b"\nnext")
    digest = hashlib.blake2b(b"s1\n{" + b"x" * 300_000 + b"}\n", digest_size=16).hexdigest()
    assert file.identify("s1") == f"0000000000-{digest}"
    file.close()


def test_a_file_that_shrinks_before_its_first_line_is_complete_is_searched_anew(path):
    file = opened(path, b"x" * 300_000)
    assert file.identify("s1") is None
    path.write_bytes(b"a\nb")
    assert file.identify("s1") is not None
    file.close()


def test_a_name_that_another_file_has_by_now_is_not_opened(path, tmp_path):
    file = opened(path, b"a\n")
    (tmp_path / "aside").touch()
    file.inode = (0, 0)
    file.close()
    with pytest.raises(FileNotFoundError):
        file.open()


def test_a_file_that_begins_otherwise_is_not_read(path):
    file = opened(path, b"aaa\nbbb\n")
    file.identify("s1")
    file.read(4, long=False, max_line_bytes=100)
    path.write_bytes(b"ccc\nddd\neee\n")
    with pytest.raises(Changed):
        file.read(4, long=False, max_line_bytes=100)
    file.close()
