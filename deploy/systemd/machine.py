"""A machine with a systemd as its first process, for checks of units: systemd-nspawn boots it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BOOT_SECONDS = 120
_OWN_CGROUP = """
# where this machine has a systemd, that one makes the control group
if [ -d /run/systemd/system ]; then exec "$@"; fi
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir "$hierarchy/$0"
    echo $$ > "$hierarchy/$0/cgroup.procs"
done
exec "$@" --keep-unit
"""
_LEADER = re.compile(rb"^X_NSPAWN_LEADER_PID=(\d+)$", re.MULTILINE)


class Machine:
    """One that runs."""

    def __init__(self, leader: str) -> None:
        self._enter = ("nsenter", "--target", leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command as the machine's root. Return its exit code and what it prints."""
        environment = (
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            *("LANG=C.UTF-8", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/mnt/wheels /mnt/dist", "HOME=/root"),
        )
        done = subprocess.run(
            [*self._enter, "env", "-i", *environment, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.strip()

    def must(self, *command: str) -> str:
        """Run a command that cannot fail, and return what it prints."""
        code, printed = self.run(*command)
        if code:
            raise SystemExit(f"{' '.join(command)}: {printed}")
        return printed

    def show(self, unit: str, what: str) -> str:
        """Return a property of a unit."""
        return self.must("systemctl", "show", "--property", what, "--value", unit)

    def runs(self, unit: str) -> bool:
        """Return whether a unit has said that it is ready."""
        return (self.show(unit, "ActiveState"), self.show(unit, "SubState")) == ("active", "running")

    def pid(self, unit: str) -> str:
        """Return the process of a unit, as the machine counts them."""
        return self.show(unit, "MainPID")

    def restarts(self, unit: str) -> int:
        """Return how often systemd has started a unit again."""
        return int(self.show(unit, "NRestarts"))


@contextmanager
def booted(base: Path, binds: Mapping[Path, str]) -> Iterator[Machine]:
    """
    Boot a machine, and end it.

    Args:
        base: Its file system, which stays as it is: what is written lies in memory.
        binds: Directories of this machine, each with where it is in the other one.
    """
    name = f"raytrail-{os.getpid()}"
    with (
        tempfile.TemporaryDirectory(prefix="raytrail-machine-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        Path(directory, "console").open("wb") as console,
    ):
        notified.bind(f"{directory}/notify")
        notified.settimeout(BOOT_SECONDS)
        nspawn = subprocess.Popen(
            [
                *("sh", "-ec", _OWN_CGROUP, name),
                *("systemd-nspawn", "--quiet", f"--machine={name}", f"--directory={base}", "--volatile=overlay"),
                *("--boot", "--notify-ready=yes", "--console=pipe", "--private-network"),
                "--register=no",
                *(f"--bind={ours}:{theirs}" for ours, theirs in binds.items()),
            ],
            env={**os.environ, "NOTIFY_SOCKET": f"{directory}/notify"},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            machine = Machine(_leader(notified, nspawn, Path(console.name)))
            notified.settimeout(None)
            threading.Thread(target=_drain, args=(notified,), daemon=True).start()
            yield machine
        finally:
            nspawn.terminate()
            nspawn.wait(BOOT_SECONDS)
            _remove_cgroup(name)


def _drain(notified: socket.socket) -> None:
    """Take what the machine's systemd says later: it stands still where nobody does."""
    with contextlib.suppress(OSError):
        while notified.recv(4096):
            pass


def _leader(notified: socket.socket, nspawn: subprocess.Popen[bytes], console: Path) -> str:
    """Wait until it has booted. Return its first process."""
    leader = ""
    while True:
        try:
            message = notified.recv(4096)
        except TimeoutError:
            nspawn.kill()
            raise SystemExit(f"it does not boot: {console.read_text(errors='replace')[-3000:]}") from None
        pid = _LEADER.search(message)
        leader = pid[1].decode() if pid else leader
        if b"READY=1" in message.splitlines() and leader:
            return leader


def _remove_cgroup(name: str) -> None:
    """Remove what a machine leaves of its control groups, which the kernel lets go of a moment later."""
    deadline = time.monotonic() + BOOT_SECONDS
    for top in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for group in (*sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True), top):
            while time.monotonic() < deadline:
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)
