"""
Build a release of the commit that is checked out, twice, and write down what it was built of.

    dist/raytrail-<version>-py3-none-any.whl, raytrail-<version>.tar.gz
    dist/raytrail-<version>.cdx.json           what it needs with all its extras, as locked (CycloneDX)
    dist/raytrail-<version>.provenance.json    what was built of what, and how (in-toto statement, SLSA provenance)
    dist/SHA256SUMS                            of all of these

The same commit gives the same bytes, with the versions of Python and of the tools that the provenance names. Nothing
is signed: that is up to whoever uploads it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUILD_TYPE = "urn:raytrail:make-release:1"
"""The kind of the build. Its number is raised when the fields of the provenance change their meaning."""
TOOLS = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
"""The packages that take part in the build."""


def main() -> int:
    """Build it. Return 1 if two builds differ, or the checkout is not what was committed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", required=True, help="the program")
    parser.add_argument("--out", default=ROOT / "dist", type=Path, help="directory, which is made anew")
    parser.add_argument("--dirty", action="store_true", help="leave out what is not committed, and do not refuse it")
    given = parser.parse_args()
    if (changed := git("status", "--porcelain", "--untracked-files=no")) and not given.dirty:
        print(f"not built: what is checked out is not what was committed; commit it, or give --dirty:\n{changed}")
        return 1
    epoch = int(git("log", "-1", "--format=%ct"))
    first, second = (build(given.uv, epoch) for _ in range(2))
    if first != second:
        differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        print(f"not built: two builds of one commit differ in {', '.join(differing)}")
        return 1
    files = dict(first)
    stem = min(files, key=len).removesuffix(".tar.gz")
    files[f"{stem}.cdx.json"] = as_json(sbom(given.uv, epoch, sorted(first)))
    files[f"{stem}.provenance.json"] = as_json(provenance(given.uv, files, epoch))
    files["SHA256SUMS"] = "".join(f"{sha256(files[name])}  {name}\n" for name in sorted(files)).encode()
    given.out.mkdir(parents=True, exist_ok=True)
    for old in given.out.iterdir():
        old.unlink()
    for name, content in files.items():
        (given.out / name).write_bytes(content)
        print(f"{sha256(content)}  {given.out / name}")
    return 0


def git(*words: str) -> str:
    """Return what git prints."""
    return printed_by("git", *words)


def printed_by(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build(uv: str, epoch: int) -> dict[str, bytes]:
    """Return the wheel and the sdist of the commit, by their names, built in a directory that no build had before."""
    with tempfile.TemporaryDirectory(prefix="raytrail-release-") as name:
        source, out = Path(name, "source"), Path(name, "out")
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        Path(name, "source.tar").write_bytes(archive)
        with tarfile.open(Path(name, "source.tar")) as tar:
            tar.extractall(source, filter="data")
        subprocess.run(
            [uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, source],
            check=True,
            # another mask gives files other rights
            umask=0o022,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "VIRTUAL_ENV": sys.prefix},
        )
        return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".gitignore"}


def sbom(uv: str, epoch: int, built: list[str], *extras: str) -> Any:
    """Return what it needs with all extras, or some, in the versions that are locked. It has no chance in it."""
    wanted = [word for extra in extras for word in ("--extra", extra)] or ["--all-extras"]
    locked = ["export", "--quiet", "--frozen", "--no-default-groups", *wanted]
    bom = json.loads(printed_by(uv, *locked, "--format", "cyclonedx1.5"))
    bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, f"{git('rev-parse', 'HEAD')} {' '.join(built)}").urn
    bom["metadata"]["timestamp"] = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return bom


def provenance(uv: str, files: dict[str, bytes], epoch: int) -> Any:
    """Return what was built of what (https://slsa.dev/spec/v1.1/provenance), as an in-toto statement."""
    commit = git("rev-parse", "HEAD")
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": sha256(files[name])}} for name in sorted(files)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"commit": commit, "command": "make release"},
                "internalParameters": {"SOURCE_DATE_EPOCH": epoch},
                "resolvedDependencies": [
                    {"name": "raytrail", "digest": {"gitCommit": commit}},
                    *({"name": name, "uri": f"pkg:pypi/{name}@{version(name)}"} for name in TOOLS),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:raytrail:release/build.py",
                    "version": {"python": sys.version.split()[0], "uv": printed_by(uv, "--version").split()[1]},
                }
            },
        },
    }


def sha256(content: bytes) -> str:
    """Return a digest, as hex."""
    return hashlib.sha256(content).hexdigest()


def as_json(value: Any) -> bytes:
    """Return a value as JSON that people can read."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
