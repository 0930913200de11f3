"""
Run the images that deploy/image/build.py has built, as Kubernetes would: `make image` ends with it.

Each runs in a mount namespace, from its own file system, which is mounted read-only. Nobody but user 1000 runs, without
a way to more rights. /tmp is a tmpfs, and /var/lib/raytrail a directory of this machine, as a volume.

    raytrail --version
    import, serve       the session of docs/example, asked for over HTTP; Ray's dashboard, where the image has it
    agent, history      a session of some hundred thousand events; the history is killed with SIGKILL while it appends,
                        and started again; then nothing is missing, by `raytrail ledger --check`
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.image.storage import OUT, STORAGE
from lab.generate import generate

from raytrail.config import StoreConfig
from raytrail.store import Store

ROOT = Path(__file__).parents[2]
SESSION = "session_2026-11-23_22-40-17_502592_7999"
"""That of docs/example."""
TASKS = 60_000
KILLS = 5
USER = 1000
WAIT_SECONDS = 300
_SERVING = re.compile(r"serving on (http://\S+)")
_MOUNTS = """
set -e
root=$1 data=$2 ray=$3; shift 3
mount --bind "$root" "$root"
mount --bind "$data" "$root/var/lib/raytrail"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/tmp/ray"
mount --bind "$ray" "$root/tmp/ray"
mount -o remount,bind,ro "$root/tmp/ray"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec=1000:1000 --groups= "$root" "$@"
"""


class Image:
    """An image's file system, and what it says of itself."""

    def __init__(self, name: str, root: Path, config: dict[str, Any], data: Path, ray: Path) -> None:
        self.has_dashboard = name.endswith("-dashboard")
        self._root, self._data, self._ray = root, data, ray
        self._variables: list[str] = config["Env"]
        if config["User"] != f"{USER}:{USER}":
            raise SystemExit(f"{name}: it runs as {config['User']!r}")

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command. The process is the command itself, and a signal to it is one to the command."""
        own = [*self._variables, *(f"{name}={value}" for name, value in variables.items())]
        mounted = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNTS, "sh"]
        where = map(str, (self._root, self._data, self._ray))
        return subprocess.Popen(
            [*mounted, *where, "/usr/bin/env", "-i", *own, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command to its end. Return its exit code and what it prints."""
        process = self.start(*command)
        printed, _ = process.communicate(timeout=WAIT_SECONDS)
        return process.returncode, printed


def main() -> int:
    """Print what is wrong. Return 1 if anything is."""
    archives = sorted(OUT.glob("*.oci.tar"))
    faults = [fault for archive in archives for fault in checked(archive.name.removesuffix(".oci.tar"))]
    print(
        "\n".join(faults) or f"{len(archives)} images work as user {USER}, with nothing but their volumes to write to"
    )
    return bool(faults) or not archives


def checked(name: str) -> Iterator[str]:
    """Yield what is wrong with an image."""
    began = time.monotonic()
    with mounted(f"localhost/raytrail:{name.removeprefix('raytrail-')}") as (root, config):
        size = int(printed_by("du", "-s", "--block-size=1", str(root)).split()[0])
        steps = (writes_nothing, version, serves, survives)
        for step in steps:
            with tempfile.TemporaryDirectory(prefix="raytrail-image-") as directory:
                data, ray = Path(directory, "data"), Path(directory, "ray")
                data.mkdir()
                ray.mkdir()
                shutil.chown(data, USER, USER)
                yield from (f"{name}: {fault}" for fault in step(Image(name, root, config, data, ray), data, ray))
    print(f"{name}: {size / 1e6:.0f} MB unpacked, tried in {time.monotonic() - began:.0f} s", flush=True)


@contextmanager
def mounted(name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give an image's file system and configuration meanwhile."""
    container = buildah("from", "--pull-never", name)
    try:
        config = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
        yield Path(buildah("mount", container)), config
    finally:
        buildah("rm", container)


def writes_nothing(image: Image, data: Path, ray: Path) -> Iterator[str]:
    """Yield what is not as a container's would be: then all else says nothing."""
    _, printed = image.run(
        "sh", "-c", "id -u; id -G; touch /opt/raytrail/x; touch /etc/x; touch /var/lib/raytrail/x && echo kept"
    )
    lines = printed.splitlines()
    if lines[:2] != ["1000", "1000"] or printed.count("Read-only file system") != 2 or lines[-1] != "kept":
        yield f"not run as user {USER} with a read-only root: {printed}"


def version(image: Image, data: Path, ray: Path) -> Iterator[str]:
    """Yield what is wrong with the first command."""
    code, printed = image.run("raytrail", "--version")
    if code or not printed.startswith("raytrail"):
        yield f"raytrail --version: {printed}"


def serves(image: Image, data: Path, ray: Path) -> Iterator[str]:
    """Yield what is wrong with a session that is imported and served."""
    shutil.copytree(ROOT / "docs" / "example", ray, dirs_exist_ok=True)
    code, printed = image.run("raytrail", "import", "/tmp/ray")  # noqa: S108 (of the image)
    if code or "51 new events" not in printed:
        yield f"raytrail import: {printed}"
        return
    server = image.start("raytrail", "serve", "--port", "0")
    try:
        assert server.stdout is not None
        serving = next(filter(None, map(_SERVING.search, server.stdout)), None)
        if serving is None:
            yield "raytrail serve: it ends"
            return
        url = f"{serving[1].rstrip('/')}/clusters/{SESSION}/"
        if b'"result":true' not in asked(f"{url}api/v0/tasks"):
            yield f"{url}api/v0/tasks: {asked(f'{url}api/v0/tasks')!r}"
        has_dashboard = b"raytrail-bar.js" in asked(url)
        if has_dashboard != image.has_dashboard:
            yield f"{url}: Ray's dashboard is {'there' if has_dashboard else 'not there'}"
    finally:
        server.terminate()
        server.communicate(timeout=WAIT_SECONDS)


def survives(image: Image, data: Path, ray: Path) -> Iterator[str]:
    """Yield what is lost by a history that is killed while it appends."""
    written = generate(ray, tasks=TASKS)
    printed_by("chown", "--recursive", f"{USER}:{USER}", str(ray))
    broker, store = "file:///var/lib/raytrail/events", data / "store"
    keep = ("raytrail", "history", "--from", broker)
    # small ones, so that there are many moments to be killed in
    batches = {"RAYTRAIL_STORE_BATCH_BYTES": "1 MiB"}
    agent = image.start("raytrail", "agent", "--to", broker, RAYTRAIL_TAIL_STATE_DIR="/var/lib/raytrail/agent")
    history = image.start(*keep, **batches)
    wanted = sum(written.events.values())
    killed_at = []
    try:
        for _ in range(KILLS):
            before = stored(store)
            wait_for(lambda: stored(store) > before or before == wanted, history)  # noqa: B023 (it is called here)
            history.send_signal(signal.SIGKILL)
            history.communicate(timeout=WAIT_SECONDS)
            killed_at.append(stored(store))
            history = image.start(*keep, **batches)
        wait_for(lambda: stored(store) >= wanted, history)
    finally:
        for process in (agent, history):
            process.terminate()
            process.communicate(timeout=WAIT_SECONDS)
    print(f"killed with {killed_at} of {wanted} events stored", flush=True)
    if killed_at[-1] >= wanted:
        yield "the history was done before it was killed"
    if stored(store) != wanted:
        yield f"{stored(store)} events are stored, and {wanted} were written"
    code, printed = image.run("raytrail", "ledger", "--check")
    if code:
        yield f"raytrail ledger --check: {printed}"


def stored(store: Path) -> int:
    """Return how many events are stored."""
    if not (store / "catalogue.sqlite").exists():
        return 0
    with Store.open(store, StoreConfig(threads=1)) as opened:
        return sum(opened.events().values())


def asked(url: str) -> bytes:
    """Return what a server answers."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (http, as the server says)
        return bytes(answer.read())


def wait_for(condition: Callable[[], bool], history: subprocess.Popen[str]) -> None:
    """Wait until something holds of what a history stores."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if history.poll() is not None or time.monotonic() > deadline:
            history.kill()
            raise SystemExit(f"the history stores too little in {WAIT_SECONDS} s: {history.communicate()[0][-2000:]}")
        time.sleep(0.05)


def buildah(*words: str) -> str:
    """Run buildah with the storage that the images are in."""
    return printed_by("buildah", *STORAGE, *words)


def printed_by(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
