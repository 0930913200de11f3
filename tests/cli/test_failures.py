"""``raytrail failures`` on a real session."""

import csv
import io

import msgspec
import pytest
from click.testing import CliRunner
from tests.server.conftest import SESSION, capture, store

from raytrail.answers import Scope
from raytrail.answers.failures import Failures, failures_of
from raytrail.cli import main

__all__ = ["capture", "store"]


@pytest.fixture(scope="module")
def root(store):
    return str(store._root)


def ask(root, *options):
    done = CliRunner().invoke(main, ["failures", "--store", root, *options])
    assert done.exit_code == 0, done.output
    return done


def test_json_is_the_answer_and_csv_its_groups(store, root):
    answer = failures_of(Scope(store, store.find(SESSION), store.snapshot(SESSION)))
    assert msgspec.json.decode(ask(root, "--format", "json").stdout, type=Failures) == answer
    rows = list(csv.DictReader(io.StringIO(ask(root, "--format", "csv").stdout)))
    assert [row["hash"] for row in rows] == [group.hash for group in answer.groups]


def test_the_table_says_how_many_failed_why_and_where(root):
    done = ask(root, "--limit", "2", "--traceback")
    first = next(line for line in done.stdout.splitlines() if "boom" in line)
    assert first.split() == [
        "20",
        "-",
        "ValueError",
        "boom",
        "<n>",
        "core_wl.py:boom",
        "boom",
        "1",
        *first.split()[-2:],
    ]
    assert "12 more groups; --limit shows more" in done.stderr
    assert "5 of 43 were only open when their job or the session ended" in done.stderr
    assert '  File "/srv/app/wl/core_wl.py", line 8, in boom' in done.stdout


def test_all_clusters_are_asked_together(root):
    lines = ask(root, "--name", "varied").stdout.splitlines()
    assert lines[0].split()[:3] == ["failures", "error", "said"]
    assert lines[1].split()[0] == "20"
    missing = CliRunner().invoke(main, ["failures", "--store", root, "--name", "nobody"])
    assert missing.exit_code == 1
    assert "cluster 'nobody': not in the store" in missing.stderr
