"""``raytrail logs``: what the files of a session's logs/ held, listed and printed."""

import json

import pytest

pytestmark = pytest.mark.slow

OUT = "worker-" + "bb" * 28 + "-01000000-7.out"


@pytest.fixture
def directory(make, tmp_path, monkeypatch):
    """A session's directory, and an empty history."""
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(tmp_path / "store"))
    events = tmp_path / make.SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    (events / "event_EXPORT_NODE.log").write_bytes(make.node("ALIVE") + make.node())
    return tmp_path / make.SESSION


@pytest.fixture
def imported(run, directory):
    """A history of a session that was imported with its logs."""
    logs = directory / "logs"
    (logs / "serve").mkdir()
    (logs / "raylet.out").write_bytes(b"one\ntwo\nhalf a line\xff")
    (logs / "serve" / "controller_1.log").write_bytes(b"up\n")
    (logs / OUT).write_bytes(b"printed\n")
    (logs / "job-driver-s1.log").write_bytes(b"submitted\n")
    run("import", directory)
    return directory


def test_they_are_imported_with_the_session_listed_and_chosen(run, imported):
    listed = run("logs").stdout
    assert [line.split()[0] for line in listed.splitlines()[-4:]] == [
        "job-driver-s1.log",
        "raylet.out",
        "serve/controller_1.log",
        OUT,
    ]
    [log] = json.loads(run("logs", "serve/*", "--format", "json").stdout)
    assert (log["name"], log["size"], log["stored_bytes"]) == ("serve/controller_1.log", 3, 3)


def test_one_is_printed_byte_for_byte_or_its_last_lines(run, imported):
    assert run("logs", "raylet.out").stdout_bytes == b"one\ntwo\nhalf a line\xff"
    assert run("logs", "raylet.out", "--lines", "2").stdout_bytes == b"two\nhalf a line\xff"
    assert run("logs", "serve/controller_1.log").stdout == "up\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.log"], "no log 'none.log'; see `raytrail logs`"),
        (["--actor", "0f" * 16], f"Actor ID {'0f' * 16} not found."),
        (["--job", "none"], "no log of job none has come; see `raytrail logs`"),
        (["--task", "0f" * 24], f"Could not find log file for task: {'0f' * 24} (attempt 0) with suffix: out"),
        (["--node", "99"], "node '99': there is none; see `raytrail list nodes`"),
    ],
)
def test_what_is_not_there_is_said(run, imported, arguments, message):
    done = run("logs", *arguments, code=1)
    assert message in done.stderr


def test_only_one_log_is_asked_for(run, imported):
    assert "only one of them" in run("logs", "raylet.out", "--job", "x", code=2).stderr


def test_an_import_may_leave_the_logs_out(run, directory):
    (directory / "logs" / "raylet.out").write_bytes(b"x\n")
    run("import", directory, "--no-logs")
    assert "no logs; agents ship them unless told not to" in run("logs").stderr
    assert run("import", directory).exit_code == 0
    assert run("logs", "raylet.out").stdout == "x\n"
