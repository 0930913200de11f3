"""A bucket on a real S3 server, as it is read."""

import re
import time
from uuid import uuid4

import pytest

pytest.importorskip("obstore")

from tests.brokers.s3 import SECRET

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.pubsub import open_bucket

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(s3):
    """A folder of the bucket, with objects."""
    folder = s3.files / "bucket" / uuid4().hex
    for name in ("a/1/x=", "a/2/y", "a/22/y", "ab/1/x", "b/2/y"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ["a/1/x=", "a/2/y", "a/22/y", "ab/1/x", "b/2/y"]),
        ("/a/", ["a/1/x=", "a/2/y", "a/22/y"]),
        ("/a*/1", ["a/1/x=", "ab/1/x"]),
        ("/*/2", ["a/2/y", "b/2/y"]),
        ("/a/2*/", ["a/2/y", "a/22/y"]),
        ("/a/3", []),
    ],
)
def test_what_is_below_a_path_is_found_where_a_star_is_any_name(s3, folder, path, names):
    bucket = open_bucket(s3.place(folder.name + path))
    files = list(bucket.find())
    assert sorted(file.path for file in files) == [f"{folder.name}/{name}" for name in names]
    assert [file.size_bytes for file in files] == [len(file.path) - len(folder.name) - 1 for file in files]


def test_a_whole_bucket_may_be_read(s3, folder):
    paths = [file.path for file in open_bucket(s3.place("")).find()]
    assert f"{folder.name}/ab/1/x" in paths


def test_of_an_object_that_is_large_only_a_part_is_fetched_at_a_time(s3, folder, monkeypatch):
    monkeypatch.setattr("raytrail.pubsub.bucket._READ_BYTES", 1000)
    content = b"".join(b"%d\n" % number for number in range(650))
    (folder / "large").mkdir()
    (folder / "large" / "object").write_bytes(content)
    bucket = open_bucket(s3.place(f"{folder.name}/large"))
    [stored] = bucket.find()

    def fetched():
        return s3.requests().count(("GET", f"/bucket/{folder.name}/large/object"))

    with bucket.open(stored) as file:
        assert (file.tell(), fetched()) == (0, 1)
        assert file.readline() == b"0\n"
        assert (file.tell(), fetched()) == (2, 1)
        assert b"".join(file) == content[2:]
        assert fetched() == 3
        assert file.read() == b""


def test_an_object_that_is_empty_is_not_asked_for(s3, folder):
    (folder / "a" / "2" / "y").write_bytes(b"")
    bucket = open_bucket(s3.place(f"{folder.name}/a/2"))
    [stored] = bucket.find()
    assert bucket.open(stored).read() == b""


def test_an_object_that_was_deleted_meanwhile_is_said(s3, folder):
    bucket = open_bucket(s3.place(f"{folder.name}/a/2"))
    [stored] = bucket.find()
    (folder / "a" / "2" / "y").unlink()
    with pytest.raises(ConfigError) as caught:
        bucket.open(stored)
    assert str(caught.value) == (f"s3://bucket/{folder.name}/a/2/y was deleted while the bucket was read; begin again")


def test_who_is_not_let_in_is_told(s3, folder):
    with pytest.raises(ConfigError) as caught:
        list(open_bucket(s3.place(folder.name, aws_secret_access_key="wrong")).find())
    assert re.fullmatch(rf"s3://bucket/{folder.name} does not let us in: .*; mend its credentials", str(caught.value))
    assert SECRET not in str(caught.value)


def test_a_missing_bucket_is_an_error(s3):
    with pytest.raises(ConfigError) as caught:
        list(open_bucket(s3.place("x", bucket="missing")).find())
    assert str(caught.value).endswith("; make the bucket, or mend the URL")


def test_a_bucket_that_is_away_is_said_after_its_time(s3):
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        list(open_bucket(s3.place("x", port=1, timeout_seconds=1)).find())
    assert re.fullmatch(r"s3://bucket/x does not answer: .*; look after it, or the way to it", str(caught.value))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3:///x", "'s3:///x' names no bucket; write s3://bucket/folder"),
        ("s3://[", "URL 's3://[': Invalid IPv6 URL; mend it"),
        ("ftp://h/x", "no bucket at 'ftp://h/x': its scheme is not among ['az', 'gs', 's3']; mend the URL"),
        ("s3://b/p?linger_seconds=1", "'s3://b/p': Object contains unknown field `linger_seconds`; the settings are "
                                      "timeout_seconds, endpoint"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused(url, says):
    with pytest.raises(ConfigError) as caught:
        open_bucket(url)
    assert str(caught.value) == says
