"""Help, errors and exit codes."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest

import raytrail.cli
from raytrail.cli import COMMANDS, clusters, main
from raytrail.config import settings
from raytrail.errors import StoreLocked
from raytrail.exit_codes import BROKEN, BUG, DIFFERENT, USAGE

NAMES = [name for section in COMMANDS.values() for name in section]


def test_every_file_is_a_command_and_every_command_a_file():
    files = {p.stem.rstrip("_") for p in Path(raytrail.cli.__file__).parent.glob("*.py") if p.name[0] != "_"}
    assert files == set(NAMES)


def command_of(name):
    command = main.get_command(click.Context(main), name)
    assert command
    return command


@pytest.mark.parametrize("name", NAMES)
def test_the_short_help_in_the_list_is_the_first_sentence_of_the_commands_own(name):
    command = command_of(name)
    sentence = next(text for section in COMMANDS.values() for key, text in section.items() if key == name)
    assert command.name == name
    assert inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ") == sentence


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_is_for(name):
    command = command_of(name)
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


@pytest.mark.parametrize(("begun", "meant"), [("ta", {"tasks"}), ("driver-j", {"driver_jobs"}), ("xyz", set())])
def test_the_shell_completes_nouns(begun, meant):
    for name in ("list", "get", "summary"):
        command = command_of(name)
        [noun] = [parameter for parameter in command.params if parameter.name == "noun"]
        completed = {item.value for item in noun.shell_complete(click.Context(command), begun)}
        assert completed == (meant & {"tasks", "actors", "objects"} if name == "summary" else meant)


def test_subscribing_loads_no_engine():
    code = "import sys, raytrail.cli.subscribe; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_imports_no_command_and_no_engine():
    code = (
        "import sys\n"
        "from raytrail.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "dear = ('duckdb', 'rich', 'msgspec', 'uvicorn', 'logging')\n"
        "found = [m for m in sys.modules if m.split('.')[0] in dear or m.startswith('raytrail.cli.')]\n"
        "print(found, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stderr) == []
    assert "Exit codes:" in done.stdout


def test_an_unknown_command_is_a_usage_error(run):
    assert "no command 'lst'; did you mean list?" in run("lst", code=USAGE).stderr


def test_an_absent_store_is_said_in_one_line_without_a_traceback(run, tmp_path):
    done = run("clusters", "--store", tmp_path / "none", code=DIFFERENT)
    assert done.stderr == (
        f"raytrail: error: {tmp_path}/none: no store there; fill one with `raytrail import` or `raytrail history`\n"
    )
    assert done.stdout == ""


def test_a_wrong_setting_stops_the_start(run, tmp_path):
    done = run("clusters", "--threads", "0", code=USAGE)
    assert done.stderr == "raytrail: error: --threads='0': Expected `int` >= 1\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (StoreLocked("the store is\nlocked"), BROKEN, "raytrail: error: the store is locked\n"),
        (
            OSError(28, "No space left on device"),
            BROKEN,
            "raytrail: error: [Errno 28] No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError("0/0"), BUG, None),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(run, monkeypatch, error, code, says):
    def fail(**_):
        raise error

    monkeypatch.setattr(clusters.clusters, "callback", fail)
    done = run("clusters", code=code)
    if says is None:
        assert "Traceback" in done.stderr
        assert "this is a bug in Raytrail" in done.stderr
    else:
        assert done.stderr == says


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(history):
    program = "from raytrail.cli import main; main()"
    query = "SELECT range FROM range(300000)"
    with subprocess.Popen(
        [sys.executable, "-c", program, "sql", query, "--format", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "range\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


def test_help_shows_the_common_settings_and_help_all_every_one(run):
    short, whole = (run("agent", flag).stdout for flag in ("--help", "--help-all"))
    assert "--to TEXT" in short
    assert "--sweep-seconds" not in short
    assert "--help-all shows" in short
    of_the_agent = [setting for setting in settings() if setting.table in ("tail", "sources", "agent")]
    assert all(setting.flag in whole for setting in of_the_agent)
    assert "Settings in [tail]" in whole
    assert "[default: 512 KiB]" in whole
