"""``raytrail why``: the sentence on a terminal, as JSON and as Markdown."""

import json
from importlib import import_module

import pytest

from raytrail.exit_codes import DIFFERENT

pytestmark = pytest.mark.slow

why = import_module("raytrail.cli.why")


def test_a_cluster_is_told_in_one_sentence_with_what_says_so(run, make, history):
    lines = run("why").stdout.splitlines()
    assert lines[0].startswith("lab: ")
    assert lines[1].endswith(".")
    answer = json.loads(run("why", "--format", "json").stdout)
    assert (answer["session"], answer["why"]["sentence"]) == (make.SESSION, lines[1])
    assert [f"  {item['kind']}: {item['text']}" for item in answer["why"]["evidence"]] == [
        line.rpartition(" (")[0] for line in lines[3:] if line.startswith("  ")
    ]


def test_markdown_is_a_message_whose_text_is_only_text(run, make, history):
    text = run("why", "--format", "markdown", "--url", "https://history.example/").stdout
    lines = text.splitlines()
    assert lines[0].startswith("**lab: ")
    assert lines[1].startswith("> ")
    assert lines[-1] == f"[Open it](https://history.example/clusters/{make.SESSION}/about)"


def test_names_are_code_in_markdown_and_the_rest_is_only_text():
    assert why._plain("`train_step` failed with *this* [x](y)") == "`train_step` failed with \\*this\\* \\[x\\](y)"
    assert why._plain("one ` alone_here") == "one \\` alone\\_here"


def test_a_job_that_is_not_there_exits_with_1(run, history):
    assert "has no such job" in run("why", "nightly", code=DIFFERENT).stderr
