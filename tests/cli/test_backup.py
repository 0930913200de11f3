"""``raytrail backup`` and ``raytrail restore``."""

import re

from tests.damage import flip


def test_a_history_is_backed_up_and_brought_back(run, history, tmp_path):
    before = run("clusters", "--format", "json").stdout
    assert re.fullmatch(
        rf"\d+ files, [\d.]+ MB, in {tmp_path}/backup; `raytrail restore {tmp_path}/backup` brings them back\n",
        run("backup", tmp_path / "backup").output,
    )
    result = run("restore", tmp_path / "backup", "--store", tmp_path / "again")
    assert re.fullmatch(r"\d+ files, [\d.]+ MB, of .*, in .*/again: none damaged\n", result.output)
    assert run("clusters", "--format", "json", "--store", tmp_path / "again").stdout == before
    assert "it is not empty" in run("restore", tmp_path / "backup", code=3).output
    assert "no backup there" in run("restore", tmp_path / "none", code=1).output


def test_a_damaged_file_of_a_backup_is_named(run, history, tmp_path):
    run("backup", tmp_path / "backup", "--copy")
    flip(next((tmp_path / "backup/state").glob("*/task-*.parquet")), 800)
    result = run("restore", tmp_path / "backup", "--store", tmp_path / "again", code=1)
    assert "its bytes are not those that were written; fold it anew" in result.output
    assert result.output.endswith("1 damaged\n")
