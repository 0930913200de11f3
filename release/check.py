"""
Check a release as those who install it would, in environments that have nothing else.

    its metadata            `twine check --strict`
    its contents            the wheel holds the package and nothing more; the sdist what was committed
    its sums                SHA256SUMS and the provenance name the files that are there
    each Python, each extra installed in an empty environment, where what the extra is for can be imported
    hints                   the `pip install` that an error names is run, and the error is gone
    README                  its first two commands, in a directory that holds no more than the session they name
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EXTRAS = {
    "": ("raytrail.cli.agent", "raytrail.cli.history", "raytrail.api", "raytrail.pubsub.file"),
    "server": ("raytrail.server",),
    "http": ("raytrail.pubsub.http",),
    "kafka": ("raytrail.pubsub.kafka",),
    "nats": ("raytrail.pubsub.nats",),
    "objects": ("raytrail.pubsub.objects",),
    "ray": ("raytrail.pubsub.ray",),
    "redis": ("raytrail.pubsub.redis",),
}
"""Each extra with the modules that need it. None: what all have."""
HINTS = {
    "serve --store store": "server",
    "subscribe http://127.0.0.1:9/x": "http",
    "subscribe kafka://127.0.0.1:9/x": "kafka",
    "subscribe nats://127.0.0.1:9/x": "nats",
    "subscribe s3://bucket/x": "objects",
    "subscribe redis://127.0.0.1:9/x": "redis",
}
"""Commands that end with a hint, each with the extra that it names."""
_HINT = re.compile(r"pip install '(raytrail\[(\w+)\])'")
_SERVING = re.compile(r"serving on (http://\S+)")


def main() -> int:
    """Print what is wrong. Return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--uv", required=True, help="the program")
    parser.add_argument("--python", action="append", default=[], help="a Python to install it for; may be repeated")
    parser.add_argument("--twine", required=True, help="the program")
    given = parser.parse_args()
    dist = given.dist.absolute()
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    faults = [
        *twine(given.twine, wheel, sdist),
        *contents(wheel, sdist),
        *sums(dist),
        *(fault for python in given.python or [sys.executable] for fault in installed(given.uv, python, wheel)),
        *hints(given.uv, sys.executable, wheel),
        *readme(given.uv, sys.executable, wheel),
    ]
    print("\n".join(faults) or f"{wheel.name} and {sdist.name} can be released")
    return bool(faults)


def twine(program: str, *files: Path) -> Iterator[str]:
    """Yield what is wrong with the metadata."""
    done = run(program, "check", "--strict", *map(str, files))
    if done.returncode:
        yield f"twine: {done.stdout}"


def contents(wheel: Path, sdist: Path) -> Iterator[str]:
    """Yield what the wheel and the sdist hold too much, or lack."""
    committed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    files = set(committed.stdout.splitlines())
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    yield from differing(wheel.name, names, {name.removeprefix("src/") for name in files if name.startswith("src/")})
    with tarfile.open(sdist) as tar:
        names = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile() or member.issym()}
    yield from differing(sdist.name, names - {"PKG-INFO"}, files)


def differing(name: str, names: set[str], wanted: set[str]) -> Iterator[str]:
    """Yield what there is too much, or too little."""
    if names != wanted:
        yield f"{name}: it should not hold {sorted(names - wanted)}, and lacks {sorted(wanted - names)}"


def sums(dist: Path) -> Iterator[str]:
    """Yield the files that are not what SHA256SUMS and the provenance say."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(dist.iterdir())}
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split() for line in lines)}
    if listed != {name: digest for name, digest in digests.items() if name != "SHA256SUMS"}:
        yield "SHA256SUMS does not name the files that are there"
    [statement] = dist.glob("*.provenance.json")
    for subject in json.loads(statement.read_text())["subject"]:
        if digests.get(subject["name"]) != subject["digest"]["sha256"]:
            yield f"{statement.name}: {subject['name']} is another one"


def installed(uv: str, python: str, wheel: Path) -> Iterator[str]:
    """Yield what cannot be installed or imported, of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if set(EXTRAS) - {""} != set(project["optional-dependencies"]):
        yield f"release/check.py knows the extras {sorted(EXTRAS)} only"
    for extra, modules in EXTRAS.items():
        with tempfile.TemporaryDirectory(prefix="raytrail-release-") as name:
            bin = environment(uv, python, wheel, Path(name), extra)
            if isinstance(bin, str):
                yield bin
                continue
            done = run(bin / "python", "-c", "import sys; " + "; ".join(f"import {module}" for module in modules))
            printed = run(bin / "raytrail", "--version")
            if done.returncode or printed.returncode:
                yield f"{python} raytrail[{extra}]: {(done.stderr or printed.stderr)[-1000:]}"
            else:
                print(f"{printed.stdout.strip()} with [{extra}] on {version(bin)}", flush=True)


def environment(uv: str, python: str, wheel: Path, at: Path, extra: str = "") -> Path | str:
    """Return the directory of the programs of an environment that holds the wheel and its needs, or what failed."""
    bin = at / "environment" / "bin"
    made = run(uv, "venv", "--quiet", "--python", python, str(bin.parent))
    wanted = f"raytrail[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    done = made if made.returncode else run(uv, "pip", "install", "--quiet", "--python", str(bin / "python"), wanted)
    return bin if not done.returncode else f"{python} {wanted}: {done.stderr[-2000:]}"


def version(bin: Path) -> str:
    """Return the version of an environment's Python."""
    return run(bin / "python", "-c", "import platform; print(platform.python_version())").stdout.strip()


def hints(uv: str, python: str, wheel: Path) -> Iterator[str]:
    """Yield the hints that do not help. What an error says is run as it stands, by the environment's own pip."""
    for command, extra in HINTS.items():
        with tempfile.TemporaryDirectory(prefix="raytrail-release-") as name:
            bin = environment(uv, python, wheel, Path(name))
            assert isinstance(bin, Path), bin
            run(uv, "pip", "install", "--quiet", "--python", str(bin / "python"), "pip")
            (Path(name) / "store").mkdir()
            before = ended(bin, command, Path(name))
            hint = _HINT.search(before)
            if hint is None or hint[2] != extra:
                yield f"raytrail {command}: it does not name raytrail[{extra}]: {before}"
                continue
            done = run(bin / "python", "-m", "pip", "install", "--quiet", hint[1])
            after = ended(bin, command, Path(name))
            if done.returncode or "is not installed" in after or "Traceback" in after:
                yield f"{hint[0]} does not help: {done.stderr[-1000:]} {after}"
            else:
                print(f"{hint[0]} helps", flush=True)


def ended(bin: Path, command: str, at: Path) -> str:
    """Return what a command says on stderr in its first seconds."""
    try:
        return run(bin / "raytrail", *shlex.split(command), cwd=at, timeout=10).stderr
    except subprocess.TimeoutExpired as error:
        return (error.stderr or b"").decode()


def readme(uv: str, python: str, wheel: Path) -> Iterator[str]:
    """Yield what is wrong with the first two commands of the README."""
    [block, *_] = re.findall(r"^```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    assert [command.split()[1] for command in commands] == ["import", "serve"], commands
    with tempfile.TemporaryDirectory(prefix="raytrail-release-") as name:
        bin = environment(uv, python, wheel, Path(name), "server")
        assert isinstance(bin, Path), bin
        empty = Path(name, "empty")
        shutil.copytree(ROOT / "docs" / "example", empty / "docs" / "example")
        environ = {"PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(empty), "XDG_STATE_HOME": str(empty / "state")}
        done = run("bash", "-c", commands[0], cwd=empty, env=environ)
        if done.returncode or "51 new events" not in done.stdout:
            yield f"{commands[0]}: {done.stdout} {done.stderr}"
            return
        yield from answers(commands[1].removesuffix(" &"), empty, environ)


def answers(command: str, at: Path, environ: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with a server's command: it must answer for the session."""
    log = at / "serve.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command} --port 0"], cwd=at, env=environ, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + 60
        while (
            not (serving := _SERVING.search(log.read_text())) and server.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        if serving is None:
            yield f"{command}: {log.read_text()}"
            return
        asked = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
        path = "/clusters/session_2026-11-23_22-40-17_502592_7999/api/v0/tasks"
        done = run("python", "-c", asked, serving[1].rstrip("/") + path, cwd=at, env=environ)
        if '"result":true' not in done.stdout:
            yield f"{command}: {done.stdout} {done.stderr}"
        else:
            print("the README's first two commands work", flush=True)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def run(
    program: str | Path, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(program), *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
