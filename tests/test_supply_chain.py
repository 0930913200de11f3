"""What is installed: every file of every package is the one that was locked."""

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
OURS = "raytrail"
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: f"{package['name']}-{package.get('version', '')}")
def test_every_file_of_a_package_is_locked_by_its_hash(package):
    if package["name"] == OURS:
        assert package["source"] == {"editable": "."}
        return
    # not a branch, not a directory, not an address of somebody's
    assert package["source"].keys() == {"registry"}
    files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
    assert files
    for file in files:
        assert SHA256.fullmatch(file["hash"]), file
        assert file["url"].startswith("https://"), file


def test_all_come_from_one_registry():
    assert len({package["source"]["registry"] for package in PACKAGES if package["name"] != OURS}) == 1


def test_what_the_project_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    groups += project["dependency-groups"].values()
    names = {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for group in groups for requirement in group}
    assert names <= {package["name"] for package in PACKAGES}


def test_a_way_of_installing_that_is_named_is_one_that_there_is():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    named = {
        extra
        for path in [*(ROOT / "src").rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for extras_of in re.findall(r"(?:raytrail|\.)\[([\w,]+)\]'", path.read_text())
        for extra in extras_of.split(",")
    }
    assert named
    assert named <= extras


def test_targets_of_their_own_install_nothing_for_the_tests():
    makefile = (ROOT / "Makefile").read_text()
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].keys()
    left_out = set(re.findall(r"--no-group (\w+)", makefile))
    assert left_out == groups - {"dev", "ray"}
    assert all("$(NO_GROUPS)" in line for line in makefile.splitlines() if "--all-groups" in line)
