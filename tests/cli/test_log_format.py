"""Logs that programs read: one JSON object a line, whatever happens."""

import json
import re
import subprocess
import sys

import pytest

from raytrail.exit_codes import BUG, USAGE

COMMANDS = ("agent", "history", "serve", "up")


LOGS = """
import logging, sys, warnings
from raytrail.log import log_as, log_to_stderr
log_to_stderr(verbose=False)
log_as(sys.argv[1])
log = logging.getLogger("raytrail.tail")
log.warning("%s\\nof two \\udcff lines", "a message")
try:
    raise ValueError("no\\nnumber")
except ValueError:
    log.exception("it failed")
warnings.warn("old")
"""


def stderr_of(*command, code=0):
    """Run a Python to its end, and return what it said on stderr."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    return done.stderr


def test_a_line_is_one_object_whatever_it_holds():
    first, second, third = map(json.loads, stderr_of("-c", LOGS, "json").splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {"level": "WARNING", "logger": "raytrail.tail", "message": "a message\nof two \udcff lines"}
    assert (second["level"], second["message"]) == ("ERROR", "it failed")
    assert second["exception"].startswith("Traceback (most recent call last):\n")
    assert second["exception"].endswith("ValueError: no\nnumber")
    assert third["logger"] == "py.warnings"


def test_text_stays_as_it_is():
    printed = stderr_of("-c", LOGS, "text")
    assert re.match(r"[-\dT:.]+Z WARNING raytrail\.tail: a message\nof two \\udcff lines\n", printed)
    assert printed.endswith("<string>:12: UserWarning: old\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_that_ends_a_command_is_a_line_of_the_log(command, tmp_path):
    file = tmp_path / "raytrail.toml"
    file.write_text("[agent]\nnothing = 1\n")
    needed = ["--from", f"file://{tmp_path}/events"] if command == "history" else []
    arguments = [command, "--config", str(file), *needed, "--log-format", "json"]
    [line] = map(json.loads, stderr_of("-m", "raytrail", *arguments, code=USAGE).splitlines())
    assert (line["level"], line["logger"]) == ("ERROR", "raytrail")
    assert line["message"].startswith(f"{file}: ")


def test_what_a_command_says_while_it_runs_and_a_bug_are_lines_of_the_log(tmp_path):
    # a loop that fails stands for a bug of ours
    program = (
        "import sys, raytrail.history as loop; from raytrail.cli import main\n"
        "async def run(*_, **__): raise RuntimeError('broken')\n"
        "loop.run = run; main(sys.argv[1:])"
    )
    arguments = ["history", "--from", f"file://{tmp_path}/events", "--store", str(tmp_path / "store")]
    printed = stderr_of("-c", program, *arguments, "--metrics", "127.0.0.1:0", "--log-format", "json", code=BUG)
    *notes, metrics, bug = map(json.loads, printed.splitlines())
    assert notes[0]["message"].startswith(f"reading file://{tmp_path}/events as group 'history-")
    assert metrics["message"].startswith("metrics of the history on http://127.0.0.1:")
    assert (bug["level"], bug["message"]) == ("CRITICAL", "this is a bug in Raytrail; please report it with this line")
    assert bug["exception"].endswith("RuntimeError: broken")
