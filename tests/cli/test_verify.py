"""`raytrail verify`: all files of the history, and the one that is not what was written."""

import json

import pytest
from tests.damage import SEALED, damage, fill
from tests.histories import forget_sums


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify") / "store"
    fill(root)
    return root


@pytest.fixture
def damaged(root, tmp_path, monkeypatch):
    """Turn a bit of a file of a copy of the store, which the commands then ask."""

    def turn(pattern):
        monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(tmp_path / "store"))
        return damage(root, tmp_path / "store", pattern)

    return turn


def test_files_that_are_what_was_written_are_counted(run, root, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(root))
    files = [path for kind in ("log", "logs", "state") for path in root.glob(f"{kind}/*/*")]
    done = run("verify")
    assert done.stdout == ""
    assert done.stderr.startswith(f"{len(files) + 1} files, ")
    assert done.stderr.endswith(": none is damaged\n")
    assert run("verify", "--cluster", "07-00-00").stderr.startswith(f"cluster {SEALED} (prod)\n")
    checks = json.loads(run("verify", "--format", "json").stdout)
    assert {check["path"] for check in checks} == {"catalogue.sqlite", *(str(path.relative_to(root)) for path in files)}
    assert {(check["verdict"], check["reason"]) for check in checks} == {("ok", "")}


def test_a_damaged_state_is_named_with_the_command_that_mends_it(run, damaged):
    path = damaged("state/*/task-sealed-*")
    reason = (
        f"{path}: its bytes are not those that were written; fold it anew from the log: "
        f"raytrail rebuild --cluster {SEALED}"
    )
    done = run("verify", code=1)
    assert done.stdout == f"{reason}\n"
    assert done.stderr.endswith(": 1 damaged\n")
    checks = json.loads(run("verify", "--format", "json", code=1).stdout)
    assert [(check["path"], check["reason"]) for check in checks if check["verdict"] == "damaged"] == [
        (f"state/{SEALED}/{path.name}", reason)
    ]
    assert run("sql", "SELECT count(*) FROM task", code=3).stderr == f"raytrail: error: {reason}\n"
    run("rebuild", "--cluster", SEALED)
    assert run("verify").stderr.endswith(": none is damaged\n")


def test_a_damaged_catalogue_is_said_to_be_without_which_nothing_is_known_of_the_rest(run, damaged):
    path = damaged("catalogue.sqlite")
    done = run("verify", code=1)
    assert done.stdout.startswith(f"{path}: page ")
    assert done.stderr == "1 file, 0 B: 1 damaged\n"
    assert run("clusters", code=3).stderr.startswith(f"raytrail: error: {path}: page ")


def test_what_an_older_version_wrote_is_counted(run, damaged):
    path = damaged("state/*/*.duckdb")
    forget_sums(path.parents[2])
    done = run("verify")
    assert ": none is damaged; " in done.stderr
    assert done.stderr.endswith(" of an older version have no checksum\n")
