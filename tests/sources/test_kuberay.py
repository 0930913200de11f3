"""What KubeRay's history server has collected becomes the event files that a receiver would have written."""

import gzip
import io
import json
import threading
from collections import Counter
from pathlib import Path

import pytest
from tests.sources import collected
from tests.sources.posted import SESSION

from raytrail.sources import kuberay
from raytrail.sources.receiver import Intake
from raytrail.sources.set_aside import SetAside


@pytest.fixture(scope="module")
def bucket(tmp_path_factory, captured):
    """A copy of a bucket."""
    return collected.lay(tmp_path_factory.mktemp("bucket"), captured)


def find(path):
    return kuberay.find(kuberay.below(path))


def lines(directory):
    return Counter(line for path in directory.iterdir() for line in path.read_bytes().splitlines())


def test_a_copy_of_a_bucket_says_what_a_receiver_would_have_written(bucket, captured, tmp_path):
    [session] = find(bucket)
    assert (session.session, session.cluster) == (SESSION, "team-a_nightly-x7k2p")
    (tmp_path / "out").mkdir()
    read = sum(kuberay.convert(session, tmp_path / "out", SetAside(tmp_path / "aside")))
    assert read == session.read_bytes

    intake = Intake([tmp_path], SetAside(tmp_path / "aside"))
    for batch in captured:
        assert intake.take(json.dumps(batch).encode())
    assert lines(tmp_path / "out") == lines(tmp_path / SESSION / "logs" / "export_events")
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize(
    ("part", "cluster"),
    [
        ("log/cluster-history", "team-a_nightly-x7k2p"),
        ("log/cluster-history/rayjob/team-a/nightly/nightly-x7k2p", "team-a_nightly-x7k2p"),
        (f"log/cluster-history/rayjob/team-a/nightly/nightly-x7k2p/{SESSION}", "team-a_nightly-x7k2p"),
    ],
)
def test_a_part_of_a_bucket_will_do(bucket, part, cluster):
    assert [(one.session, one.cluster) for one in find(bucket / part)] == [(SESSION, cluster)]


def test_a_directory_without_its_layout_goes_by_what_is_above_the_session(tmp_path):
    file = tmp_path / "prod" / SESSION / "aa" / "node_events" / "x.jsonl"
    file.parent.mkdir(parents=True)
    file.touch()
    for path in (tmp_path, file.parent.parent):
        [session] = find(path)
        assert (session.session, session.cluster, [one.name for one in session.files]) == (SESSION, "prod", [str(file)])


def test_nothing_is_found_where_nothing_was_collected(tmp_path):
    (tmp_path / SESSION / "aa" / "logs").mkdir(parents=True)
    (tmp_path / SESSION / "aa" / "logs" / "x.jsonl").touch()
    assert find(tmp_path) == []


def test_files_are_found_by_their_names_alone_wherever_they_are_kept():
    path = f"cluster-history/raycluster/team-a/prod/{SESSION}/aa"
    names = [f"s3://b/{path}/{name}" for name in ("job_events/AQ==/1.jsonl", "node_events/2.jsonl.gz", "logs/x.jsonl")]
    [session] = kuberay.find(kuberay.File(name, 7, Path) for name in names)
    assert (session.session, session.cluster) == (SESSION, "team-a_prod")
    assert [file.name for file in session.files] == [names[1], names[0]]
    assert session.read_bytes == 3 * 7


def test_the_next_files_are_opened_while_one_is_read_and_none_stays_open(tmp_path):
    opened, all_opened = [], threading.Barrier(8)

    def open_():
        all_opened.wait(30)  # one that is opened alone breaks it
        opened.append(io.BytesIO(b"{}\n"))
        return opened[-1]

    files = tuple(kuberay.File(f"x/job_events/{number}.jsonl", 3, open_) for number in range(16))
    converting = kuberay.convert(kuberay.Collected(SESSION, "", files), tmp_path, SetAside(tmp_path / "aside"))
    assert next(converting) == 3
    converting.close()
    assert len(opened) == 8
    assert all(file.closed for file in opened)


def test_what_cannot_be_read_is_set_aside_and_the_rest_goes_on(tmp_path, captured):
    good, other = captured[0][0], {**captured[0][0], "sessionName": "session_other"}
    file = tmp_path / "prod" / SESSION / "aa" / "node_events" / "x.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(f"{json.dumps(good)}\nno json\n\n{json.dumps(other)}\n{json.dumps(good)}\n" + json.dumps(good)[:-9])
    (tmp_path / "out").mkdir()
    aside = SetAside(tmp_path / "aside")
    list(kuberay.convert(*find(tmp_path), tmp_path / "out", aside))
    assert sum(lines(tmp_path / "out").values()) == 1
    assert aside.events == 3
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "aside").read_text().splitlines()]
    assert reasons[1] == f"{file}: it is of session_other, and not of {SESSION}"


@pytest.mark.parametrize("content", [gzip.compress(b"x" * 1000)[:-20], b"{}\n"], ids=["cut off", "no gzip"])
def test_a_file_that_is_cut_off_or_no_gzip_is_said(tmp_path, content):
    file = tmp_path / "prod" / SESSION / "aa" / "node_events" / "x.jsonl.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"x\.jsonl\.gz is cut off, or no gzip"):
        list(kuberay.convert(*find(tmp_path), Path(tmp_path), SetAside(tmp_path / "aside")))
