"""
Run the three units under a systemd of their own, on a machine as they find it: `make systemd` runs it.

The machine is a small Debian that systemd-nspawn boots, with no network but its own loopback. It has Redis as the
broker, and lives in memory: nothing is left of it. The commands are those of docs/how-to/run-as-a-service.md.

    installed   each command of the page, as root; all three are then active, and start with the machine
    confined    systemd's own score, and what none of them may write to
    kills       a session of some ten thousand events; the history is killed with SIGKILL while it appends
    silent      each of them is stopped as if it hung: the watchdog has it start again
    broker      Redis is away for a while: nobody ends, and what is written meanwhile arrives
    reload      `systemctl reload` of the agent
    stops       each ends in the time that its unit gives it
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.systemd.machine import Machine, booted
from deploy.waiting import waited
from lab.generate import SESSION, Generated, generate

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "run-as-a-service.md"
UNITS = ("raytrail-agent", "raytrail-history", "raytrail-server")
SCORE = 2.5
"""The most that `systemd-analyze security` may say, of 10."""
STOP_SECONDS = {"raytrail-agent": 45, "raytrail-history": 120, "raytrail-server": 30}
"""TimeoutStopSec of each. A unit that ends by force has failed."""
WATCHDOG_SECONDS = 10
KILLS = 3
TASKS = 40_000
OWNER = "train"
"""Whoever runs Ray on this machine."""
LATER = "session_2026-11-24_07-40-30_867494_13129"
"""The session that is written while the broker is away."""
_COMMANDS = re.compile(r"^<!-- not run: needs root and systemd -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BROKER = "redis://127.0.0.1:6379/0"
_REDIS = "'appendonly yes' 'appendfsync always' 'maxmemory 1gb'"
_EDITOR = "/usr/local/bin/editor"
_EDIT = f"""#!/bin/sh
for file; do
    case $file in *.conf*) printf '[Service]\\nUser={OWNER}\\n' > "$file"; exit ;; esac
done
"""
_FILES = {
    _EDITOR: _EDIT,
    "/etc/raytrail/raytrail.toml": '[agent]\nlisten = "127.0.0.1:8366"\n',
    "/etc/raytrail/agent.env": f"RAYTRAIL_AGENT_TO={_BROKER}\n",
    # small batches, so that there are many moments to be killed in
    "/etc/raytrail/history.env": f"RAYTRAIL_FROM={_BROKER}\nRAYTRAIL_STORE_BATCH_BYTES=256KiB\n",
    "/etc/raytrail/server.env": "RAYTRAIL_SERVER_TOKEN=of-this-machine-alone\n",
}
"""What the page expects to be there."""
_ASK = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8365" + sys.argv[1])
request.add_header("Authorization", "Bearer of-this-machine-alone")
print(urllib.request.urlopen(request).read().decode())
"""


def main() -> int:
    """Print what is wrong. Return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=Path, help="the Debian's file system")
    parser.add_argument("--dist", required=True, type=Path, help="directory of raytrail's wheel")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raytrail-systemd-") as name:
        ray = Path(name, "ray")
        ray.mkdir()
        binds = {ray: "/tmp/ray", given.dist: "/mnt/dist", ROOT / "deploy": "/mnt/checkout/deploy"}  # noqa: S108 (in the machine)
        with booted(given.base, binds) as machine:
            print(f"booted in {time.monotonic() - began:.0f} s", flush=True)
            faults = list(checked(machine, ray))
            if faults:
                faults.append(machine.run("journalctl", "--no-pager", "--lines=60")[1])
    print("\n".join(faults) or f"the units work under systemd; {time.monotonic() - began:.0f} s")
    return bool(faults)


def checked(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield what is wrong, up to the first step that fails."""
    for step in (installed, confined, kills, silent, broker, reload, stops):
        began = time.monotonic()
        faults = [f"{step.__name__}: {fault}" for fault in step(machine, ray)]
        yield from faults
        if faults:
            return
        print(f"{step.__name__}: {time.monotonic() - began:.0f} s", flush=True)


def installed(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield the commands of the page that fail, and the units that do not run then."""
    machine.must("useradd", "--create-home", OWNER)
    for path, text in _FILES.items():
        machine.must("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "sh", path, text)
    machine.must("chmod", "600", *(path for path in _FILES if path.endswith(".env")))
    machine.must("chmod", "755", _EDITOR)
    # what raytrail asks of a Redis
    machine.must("sh", "-c", f'printf "%s\\n" {_REDIS} >> /etc/redis/redis.conf && systemctl restart redis-server')
    # this machine's broker is Redis
    page = PAGE.read_text(encoding="utf-8").replace("raytrail[kafka", "raytrail[redis")
    commands = [line[2:] for block in _COMMANDS.findall(page) for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) > len(UNITS), commands
    for command in commands:
        if "journalctl" in command or "reload" in command:
            continue
        # an editor is given a terminal
        typed = f"cd /mnt/checkout && SYSTEMD_EDITOR={_EDITOR} {command}"
        code, printed = machine.run("script", "--quiet", "--return", "--command", typed, "/dev/null")
        if code:
            yield f"{command}: {printed}"
    machine.must("chown", "--recursive", f"{OWNER}:", "/tmp/ray")  # noqa: S108 (in the machine)
    for unit in UNITS:
        if not waited(lambda: machine.runs(unit)):  # noqa: B023 (it is called here)
            yield f"{unit} is not running"
        _, enabled = machine.run("systemctl", "is-enabled", unit)
        if enabled != "enabled":
            yield f"{unit} does not start with the machine: {enabled}"


def confined(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield the units that may do more than they need."""
    for unit in UNITS:
        _, printed = machine.run("systemd-analyze", "security", "--no-pager", unit)
        last = printed.splitlines()[-1]
        score = re.search(r"Overall exposure level for \S+: (\S+) ", last)
        if score is None or float(score[1]) > SCORE:
            yield f"{unit}: {last}"
        for path in ("/etc/raytrail/x", "/usr/local/x", "/root/x", "/tmp/ray/x", "/var/lib/x"):  # noqa: S108 (in the machine)
            own = machine.run("nsenter", "--target", machine.pid(unit), "--mount", "touch", path)
            # units that do not read Ray's files have a /tmp of their own, without Ray
            if not own[0]:
                yield f"{unit}: it may write to {path}"
        print(f"{last.strip()}", flush=True)


def kills(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield what is lost by a history that is killed while it appends."""
    written = generate(ray, tasks=TASKS)
    machine.must("chown", "--recursive", f"{OWNER}:", "/tmp/ray")  # noqa: S108 (in the machine)
    wanted = sum(written.events.values())
    killed_at: list[int] = []
    before = 0
    while len(killed_at) < KILLS and before < wanted:
        if not waited(lambda: stored(machine) > before):  # noqa: B023 (it is called here)
            yield f"nothing is stored beyond {before} of {wanted} events"
            return
        restarts = machine.restarts("raytrail-history")
        machine.must("systemctl", "kill", "--signal=KILL", "raytrail-history")
        before = stored(machine)
        killed_at.append(before)
        if not waited(lambda: machine.restarts("raytrail-history") > restarts and machine.runs("raytrail-history")):  # noqa: B023
            yield "the history does not come back"
            return
    print(f"killed with {killed_at} of {wanted} events stored", flush=True)
    if killed_at[0] >= wanted:
        yield "the history was done before it was killed"
    yield from kept(machine, written, SESSION)


def silent(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield the units that stay, where they say nothing to the watchdog."""
    for unit in UNITS:
        path = f"/run/systemd/system/{unit}.service.d/soon.conf"
        machine.must("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "sh", path, _soon())
    machine.must("systemctl", "daemon-reload")
    machine.must("systemctl", "restart", *UNITS)
    before = {unit: machine.restarts(unit) for unit in UNITS}
    machine.must("systemctl", "kill", "--kill-who=main", "--signal=STOP", *UNITS)
    for unit in UNITS:
        if not waited(lambda: machine.restarts(unit) > before[unit] and machine.runs(unit)):  # noqa: B023
            yield f"{unit} is not started again"
        if "Watchdog timeout" not in machine.run("journalctl", "--no-pager", "--unit", unit)[1]:
            yield f"{unit}: the journal knows of no watchdog"


def _soon() -> str:
    return f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n"


def broker(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield what does not wait for a broker that is away."""
    machine.must("systemctl", "stop", "redis-server")
    written = generate(ray, tasks=TASKS // 20, session=LATER)
    machine.must("chown", "--recursive", f"{OWNER}:", "/tmp/ray")  # noqa: S108 (in the machine)
    for unit in ("raytrail-agent", "raytrail-history"):
        if not waited(lambda: "redis" in machine.run("journalctl", "--unit", unit, "--since=-20s")[1]):  # noqa: B023
            yield f"{unit} does not say that the broker is away"
    # a start waits for no broker
    machine.must("systemctl", "restart", "raytrail-agent", "raytrail-history")
    before = {unit: machine.restarts(unit) for unit in UNITS}
    machine.must("systemctl", "start", "redis-server")
    yield from kept(machine, written, LATER)
    if {unit: machine.restarts(unit) for unit in UNITS} != before:
        yield f"they have ended: {before} restarts before"


def reload(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield what is wrong with the settings that are read while the agent runs."""
    pid = machine.pid("raytrail-agent")
    machine.must("sh", "-c", 'printf "[tail]\npoll_seconds = 0.5\n" >> /etc/raytrail/raytrail.toml')
    machine.must("systemctl", "reload", "raytrail-agent")
    if not waited(
        lambda: "settings were read again" in machine.run("journalctl", "--unit", "raytrail-agent", "--lines=5")[1]
    ):
        yield f"the journal does not say so: {machine.run('journalctl', '--unit', 'raytrail-agent', '--lines=5')[1]}"
    if machine.pid("raytrail-agent") != pid:
        yield "it is another process"


def stops(machine: Machine, ray: Path) -> Iterator[str]:
    """Yield the units that do not end in good order, in their time."""
    for unit in UNITS:
        began = time.monotonic()
        machine.must("systemctl", "stop", unit)
        took = time.monotonic() - began
        result = machine.show(unit, "Result")
        print(f"{unit} stopped in {took:.1f} s", flush=True)
        if result != "success" or took > STOP_SECONDS[unit]:
            yield f"{unit}: {result} after {took:.0f} s"


def kept(machine: Machine, written: Generated, session: str) -> Iterator[str]:
    """Yield what the ledger and the server miss of a session."""
    attempts = written.attempts
    if not waited(lambda: total(machine, session) == attempts):
        yield f"the server knows {total(machine, session)} of {attempts} tasks"
    code, printed = as_raytrail(machine, "ledger", "--check", "--cluster", session)
    if code:
        yield f"raytrail ledger --check: {printed}"


def total(machine: Machine, session: str) -> int:
    """Return how many tasks the server knows of a session, 0 if none."""
    code, printed = machine.run("python3", "-c", _ASK, f"/clusters/{session}/api/v0/tasks?limit=1&exclude_driver=false")
    return int(json.loads(printed)["data"]["result"]["total"]) if not code else 0


def stored(machine: Machine) -> int:
    """Return how many events are stored."""
    code, printed = as_raytrail(machine, "clusters", "--format", "json")
    return sum(int(row["events"]) for row in json.loads(printed)) if not code else 0


def as_raytrail(machine: Machine, *words: str) -> tuple[int, str]:
    """Run one of our commands as the history's user, on its store."""
    store = "RAYTRAIL_STORE_DIR=/var/lib/raytrail-history/store"
    return machine.run(
        "setpriv", "--reuid=raytrail", "--regid=raytrail", "--clear-groups", "env", store, "raytrail", *words
    )


if __name__ == "__main__":
    if not shutil.which("systemd-nspawn"):
        sys.exit("systemd-nspawn is not installed (apt-get install systemd-container)")
    sys.exit(main())
