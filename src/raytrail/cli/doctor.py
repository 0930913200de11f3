"""``raytrail doctor``: what this node would export, and what is wrong with it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

from raytrail import times, words
from raytrail.config import Config, checkpoint_files
from raytrail.export import (
    BATCH,
    DEFAULT_BATCH,
    DEFAULT_PUBLISHER_BUFFER_BYTES,
    EXPORT_BUFFER,
    HOOKED_TYPES,
    HTTP_ADDRESS,
    HTTP_SWITCHES,
    INTERVAL,
    PRELOAD,
    PRELOADED,
    PROFILE_LIMITS,
    PUBLISHER_BUFFER,
    ROTATION,
    SILENCING,
    SOME,
    SOURCES,
    SWITCH,
    TIMELINE,
    TRAIN,
    as_number,
    as_text,
    is_on,
    loss,
)
from raytrail.tail import discovery, processes
from raytrail.tail.processes import Process, Session
from raytrail.terminal import note, options, printing

BACKUPS = 20
"""Backups that Ray keeps of each file. The next rotation deletes the oldest."""
BACKUPS_TO_SPARE = 4
FLUSH_SECONDS = 5.0
"""After this long a process that exports has written something (Ray writes once a second)."""

HEAD_CURE = (
    "start the head with `raytrail run -- ray start --head`, or give it the --system-config that `raytrail env` prints"
)
ENV_CURE = "start Ray on every node with `raytrail run`, or with the environment that `raytrail env` prints"
DRIVER_CURE = "start drivers with `raytrail run -- python ...`, or with the environment that `raytrail env` prints"


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    verdict: Literal["ok", "warn", "bad"]
    found: str
    cure: str = ""


class Node(NamedTuple):
    """All that the checks look at."""

    temp_dir: Path
    sessions: tuple[Session, ...]
    """The newest of the temp dir, and those of the raylets that run here."""
    running: tuple[Process, ...]
    """The processes that work in the temp dir, or all there are where none does."""
    elsewhere: tuple[Path, ...]
    """The temp dirs of the other raylets that run here."""
    drivers: Mapping[int, Mapping[str, str]]
    """The environment of each driver that runs."""
    now_s: float
    acknowledged: Mapping[str, int]
    """How many bytes of each inode an agent has shipped."""
    error: str = ""
    """Why the temp dir cannot be read."""

    def raylets(self) -> list[Process]:
        """Return the raylets."""
        return [process for process in self.running if process.name == "raylet"]

    def system_config(self) -> Mapping[str, Any]:
        """Return the cluster's system config, as far as it is seen here: on the head."""
        return {name: value for process in self.running for name, value in process.system_config().items()}

    def environments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the environments that can be read, each with the name of its process."""
        for process in self.running:
            if process.environ is not None:
                yield f"{process.name} {process.pid}", process.environ
        for pid, environ in self.drivers.items():
            yield f"driver {pid}", environ

    def values(self, name: str) -> dict[str, Any]:
        """
        Return the value in each process that has tasks. It is None where Ray's default holds.

        The system config wins over the variable.
        """
        system = self.system_config().get(name)
        return {
            who: environ.get(f"RAY_{name}") if system is None else system
            for who, environ in self.environments()
            if not who.startswith("gcs_server")
        }

    def alive(self, session: Session) -> bool:
        """Return whether a raylet of that session runs here."""
        return any(raylet.session_dir.resolve() == session.dir.resolve() for raylet in self.raylets())


@click.command(cls=options.Command)
@options.output_format("table", "json")
@options.settings("tail.temp_dir", "tail.state_dir")
def doctor(form: str, config: Config) -> None:
    """
    Say what this node would export, and what is wrong.

    The doctor looks at Ray's processes and session directories from the outside, and changes nothing. Run it as the
    user that runs Ray, and in the same container, since the environment of Ray's processes cannot be seen from
    elsewhere. The exit code is 1 if anything is bad.
    """
    findings = check(read(Path(config.tail.temp_dir).expanduser(), processes.PROC, *checkpoint_files(config)))
    if form == "json":
        printing.write_json([finding._asdict() for finding in findings])
    else:
        _show(findings)
    if any(finding.verdict == "bad" for finding in findings):
        click.get_current_context().exit(1)


def read(temp_dir: Path, proc: Path, *checkpoints: Path) -> Node:
    """
    Look at this node.

    Args:
        temp_dir: Ray's ``--temp-dir``.
        proc: The kernel's view of the processes.
        checkpoints: The checkpoint files of this node's agent, one for each of its destinations.
    """
    every = processes.processes(proc)
    elsewhere = {p.temp_dir for p in every if p.name == "raylet"} - {temp_dir.resolve()}
    running = [process for process in every if process.temp_dir == temp_dir.resolve()] or every
    directories = {process.session_dir.resolve() for process in running if process.name == "raylet"}
    error = ""
    try:
        session_dirs = [temp_dir / session.name for session in discovery.sessions(temp_dir)]
        latest = temp_dir / "session_latest"
        if latest.exists():
            directories.add(latest.resolve())
        elif session_dirs:
            directories.add(session_dirs[-1].resolve())
        os.listdir(temp_dir)
    except OSError as failure:
        error = f"{temp_dir}: {failure.strerror}"
    sessions = tuple(processes.session(directory) for directory in sorted(directories))
    pids = {pid for session in sessions for pid in session.drivers} if running else set()
    environments = {pid: processes.environ(pid, proc) for pid in pids}
    return Node(
        temp_dir,
        sessions,
        tuple(running),
        tuple(sorted(elsewhere)),
        {pid: environ for pid, environ in environments.items() if environ is not None},
        time.time(),
        processes.acknowledged(*checkpoints),
        error,
    )


def check(node: Node) -> list[Finding]:
    """Return what every check says, in the order to mend things in."""
    checks = (
        _temp_dir,
        _session,
        _processes,
        _readable,
        _export,
        _drivers,
        _silenced,
        _batch,
        _lossy,
        _rotation_bug,
        _preload,
        _train,
        _publisher_buffer,
    )
    findings = [finding for run_check in checks for finding in run_check(node)]
    return findings + [
        finding for session in node.sessions for finding in (*_backups(node, session), *_files(node, session))
    ]


def _temp_dir(node: Node) -> Iterator[Finding]:
    if node.error and not node.elsewhere:
        yield Finding("temp dir", "bad", node.error, "name Ray's temp dir with --temp-dir, or start Ray")
        return
    also = not node.elsewhere or any(process.temp_dir == node.temp_dir.resolve() for process in node.running)
    if also:
        yield Finding("temp dir", "ok", str(node.temp_dir))
    for other in node.elsewhere:
        yield Finding(
            "temp dir",
            "warn" if also else "bad",
            f"another Ray runs in {other}" if also else f"Ray runs in {other}, and not in {node.temp_dir}",
            f"start an agent with --temp-dir {other} (or RAYTRAIL_TAIL_TEMP_DIR={other})",
        )


def _session(node: Node) -> Iterator[Finding]:
    if not node.sessions:
        yield Finding(
            "session",
            "bad",
            f"no session in {node.temp_dir}",
            "start Ray, or say with --temp-dir where it runs; the agent may start first",
        )
    for session in node.sessions:
        yield Finding(
            "session", "ok", f"{session.dir.name}, {'alive' if node.alive(session) else 'ended, or not here'}"
        )


def _processes(node: Node) -> Iterator[Finding]:
    hidden = [process for process in node.running if process.environ is None]
    if node.sessions and not node.raylets():
        yield Finding(
            "processes",
            "warn",
            "no raylet is seen, so its settings cannot be checked, only its files",
            "if Ray runs, run the doctor in its container, or share the process namespace",
        )
    elif hidden:
        yield Finding(
            "processes",
            "warn",
            f"the environment of {_names(hidden)} cannot be read, so its settings are not checked",
            "run the doctor as the user that runs Ray",
        )
    elif node.running:
        yield Finding("processes", "ok", _names(node.running))


def _readable(node: Node) -> Iterator[Finding]:
    for session in node.sessions:
        for text in session.unreadable:
            yield Finding("reading", "bad", text, "run the agent as the user that runs Ray, or give it read permission")


def _export(node: Node) -> Iterator[Finding]:
    if not node.sessions or any(session.unreadable for session in node.sessions):
        return
    system = node.system_config()
    written = [file for session in node.sessions for file in session.files if file.size]
    environments = [process.environ for process in node.running if process.environ is not None]
    by_variable = bool(environments) and all(is_on(environ.get(f"RAY_{SWITCH}")) for environ in environments)
    some = system.get(SOME) or next(
        (environ[f"RAY_{SOME}"] for environ in environments if environ.get(f"RAY_{SOME}")),
        "",
    )
    if is_on(system.get(SWITCH)) and not by_variable and environments:
        yield Finding(
            "export",
            "warn",
            "on by system config only, which Python does not see: submission jobs, Data and Train are silent",
            ENV_CURE + ", too",
        )
    elif by_variable or is_on(system.get(SWITCH)):
        yield Finding(
            "export", "ok", "on" + (", by system config too" if is_on(system.get(SWITCH)) else ", by variable")
        )
    elif some:
        listed = ", ".join(some) if isinstance(some, list) else str(some)
        yield Finding("export", "warn", f"on for {listed} only", f"{ENV_CURE} to export all types")
    elif written:
        yield Finding("export", "ok", "on: there are events" + ("" if environments else "; settings not seen"))
    else:
        yield Finding("export", "bad", "off: no event was written", f"{HEAD_CURE}, and {ENV_CURE}")


def _drivers(node: Node) -> Iterator[Finding]:
    silent, good = [], 0
    for session in node.sessions:
        sizes, changed_s = _task_files(session)
        for pid in sorted(session.drivers & sizes.keys()):
            if sizes[pid]:
                good += 1
            elif _is_silent(node, session, pid, changed_s[pid]):
                silent.append(pid)
    if silent:
        pids = ", ".join(map(str, silent[:5])) + (", ..." if len(silent) > 5 else "")
        yield Finding(
            "drivers",
            "bad",
            f"{_count(len(silent), 'driver')} without the variable ({pids}): "
            "names, arguments and ends of their tasks are missing",
            f"{DRIVER_CURE}; or {HEAD_CURE}, which reaches them",
        )
    elif good:
        yield Finding("drivers", "ok", f"{_count(good, 'driver')} wrote events")


def _task_files(session: Session) -> tuple[Counter[int], dict[int, float]]:
    """
    Return how large the files of task events of each process are, and when they changed last.

    Nothing where all are empty: another check says why.
    """
    sizes: Counter[int] = Counter()
    changed_s: dict[int, float] = {}
    for file in session.files:
        if file.type == "TASK" and file.pid is not None:
            sizes[file.pid] += file.size
            changed_s[file.pid] = max(file.changed_s, changed_s.get(file.pid, 0))
    return (sizes, changed_s) if any(sizes.values()) else (Counter(), {})


def _is_silent(node: Node, session: Session, pid: int, changed_s: float) -> bool:
    """Return whether a driver without events was not told to export. A driver that was has not done anything yet."""
    environ = node.drivers.get(pid) if node.alive(session) else None
    if environ is None:
        return node.now_s - changed_s > FLUSH_SECONDS
    return not (is_on(node.system_config().get(SWITCH)) or is_on(environ.get(f"RAY_{SWITCH}")))


def _silenced(node: Node) -> Iterator[Finding]:
    silenced = False
    posted = next((url for _, environ in node.environments() if (url := environ.get(HTTP_ADDRESS))), "")
    if posted:
        types = ", ".join(SILENCING[name] for name in HTTP_SWITCHES)
        yield Finding("ray events", "ok", f"{types} are posted to {posted}, where an agent's receiver takes them")
        return
    for switch, types in SILENCING.items():
        whose = [who for who, environ in node.environments() if is_on(environ.get(f"RAY_{switch}"))]
        if is_on(node.system_config().get(switch)):
            whose.insert(0, "system config")
        if whose:
            silenced = True
            yield Finding(
                "ray events",
                "bad",
                f"{switch} is on ({', '.join(whose[:3])}): the files of {types} stay empty",
                f"unset RAY_{switch}, as `raytrail run` does, or take it out of --system-config",
            )
    for session in node.sessions:
        sizes = _bytes_by_type(session)
        if not silenced and sizes.get("TASK") and sizes.get("NODE") == 0:
            silenced = True
            yield Finding(
                "ray events",
                "bad",
                f"event_EXPORT_NODE.log is empty, though tasks are exported ({session.dir.name})",
                "unset RAY_enable_ray_event on the head, as `raytrail run` does; it silences ACTOR, NODE, DRIVER_JOB",
            )
    if not silenced and node.running:
        yield Finding("ray events", "ok", "no switch silences the files")


def _batch(node: Node) -> Iterator[Finding]:
    sizes = {who: as_number(value or DEFAULT_BATCH) for who, value in node.values(BATCH).items()}
    small = {who: size for who, size in sizes.items() if loss(BATCH, size)}
    if small:
        who, size = min(small.items(), key=lambda item: item[1] or 0)
        detail = f"{BATCH} is {size} ({who}): {loss(BATCH, size)}"
        yield Finding("write batch", "warn", detail, f"{ENV_CURE}; or {HEAD_CURE}")
    elif sizes:
        yield Finding("write batch", "ok", f"{BATCH} is large enough")


def _lossy(node: Node) -> Iterator[Finding]:
    """Settings that lose something where they are set, and nothing by default."""
    meant = "leave it if it is meant, as by --profile lean; else unset it, or take it out of --system-config"
    for name, check, cure in (
        (INTERVAL, "report interval", f"{ENV_CURE}; or {HEAD_CURE}"),
        (EXPORT_BUFFER, "export buffer", f"unset RAY_{EXPORT_BUFFER}, or take it out of --system-config"),
        *((name, "profile events", meant) for name in (TIMELINE, *PROFILE_LIMITS)),
    ):
        losing = [(who, value) for who, value in node.values(name).items() if value is not None and loss(name, value)]
        for who, value in losing[:1]:
            yield Finding(check, "warn", f"{name} is {as_text(value)} ({who}): {loss(name, value)}", cure)


def _preload(node: Node) -> Iterator[Finding]:
    for who, environ in node.environments():
        if not who.startswith("raylet"):
            continue
        wanted = [
            event_type
            for event_type in HOOKED_TYPES
            if event_type in environ.get(SOURCES, as_text([*HOOKED_TYPES])).split(",")
        ]
        loaded = node.system_config().get(PRELOADED) or environ.get(f"RAY_{PRELOADED}", "").split(",")
        if wanted and PRELOAD not in loaded:
            detail = f"{who} does not preload {PRELOAD}: no hook writes {', '.join(wanted)}"
            yield Finding("preload", "warn", detail, f"{ENV_CURE}; with --types, if you do not want these")
        elif wanted:
            yield Finding("preload", "ok", f"{PRELOAD}, which writes {', '.join(wanted)}")


def _publisher_buffer(node: Node) -> Iterator[Finding]:
    for who, environ in node.environments():
        value = node.system_config().get(PUBLISHER_BUFFER) or environ.get(f"RAY_{PUBLISHER_BUFFER}")
        size = as_number(value or DEFAULT_PUBLISHER_BUFFER_BYTES)
        if who.startswith("gcs_server") and size is not None and size >= DEFAULT_PUBLISHER_BUFFER_BYTES:
            detail = f"{who} keeps up to {words.size(size)} in memory for a slow subscriber of ray://"
            yield Finding("publisher buffer", "warn", detail, HEAD_CURE)


def _rotation_bug(node: Node) -> Iterator[Finding]:
    for name in ROTATION:
        whose = [who for who, environ in node.environments() if name in environ]
        if whose:
            yield Finding(
                "rotation",
                "bad",
                f"{name} is set ({', '.join(whose[:3])}); Ray reads it as yes or no: files never rotate, "
                "or at each byte",
                f"unset {name}, as `raytrail run` does",
            )


def _train(node: Node) -> Iterator[Finding]:
    silent = [
        session.dir.name
        for session in node.sessions
        if (session.dir / "logs" / "train").is_dir() and not _bytes_by_type(session).get("TRAIN_STATE")
    ]
    # a raylet has no part in it, but hands its environment to the drivers of submitted jobs
    without = [
        who
        for who, environ in node.environments()
        if not who.startswith("gcs_server") and not is_on(environ.get(TRAIN))
    ]
    for name in silent:
        yield Finding("train", "warn", f"Train runs in {name} export no state", DRIVER_CURE)
    if without and not silent:
        detail = f"{TRAIN} is off ({', '.join(without[:3])}): Train runs would export no state"
        yield Finding("train", "warn", detail, f"{ENV_CURE}; {DRIVER_CURE}")


def _backups(node: Node, session: Session) -> Iterator[Finding]:
    unread = [file for file in session.files if file.size > node.acknowledged.get(file.inode, 0)]
    oldest = max(unread, key=lambda file: file.backup, default=None)
    if oldest is not None and oldest.backup > BACKUPS - BACKUPS_TO_SPARE:
        rotations_left = BACKUPS - oldest.backup
        yield Finding(
            "rotation",
            "warn" if rotations_left else "bad",
            f"{oldest.name} was not shipped, and is backup {oldest.backup} of {BACKUPS}: Ray deletes it "
            + (f"after {rotations_left + 1} more rotations" if rotations_left else "at the next rotation"),
            "start the agent, or see in its log why it falls behind; `raytrail import` takes what is left",
        )


def _files(node: Node, session: Session) -> Iterator[Finding]:
    full = [file for file in session.files if file.size]
    if full:
        sizes = _bytes_by_type(session)
        counts = Counter(file.type for file in full)
        listed = ", ".join(f"{kind} {counts[kind]} ({words.size(sizes[kind])})" for kind in sorted(counts))
        newest_s = max(file.changed_s for file in full)
        ago = times.show_span(max(0, round((node.now_s - newest_s) * 1_000)))
        yield Finding(
            "files",
            "ok",
            f"{words.size(sum(sizes.values()))} in {_count(len(full), 'file')}, last {ago} ago: {listed}",
        )


def _bytes_by_type(session: Session) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for file in session.files:
        sizes[file.type] = sizes.get(file.type, 0) + file.size
    return sizes


def _names(processes: Sequence[Process]) -> str:
    return ", ".join(f"{process.name} {process.pid}" for process in processes)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _show(findings: Sequence[Finding]) -> None:
    printing.findings((finding.verdict, finding.check, finding.found, finding.cure) for finding in findings)
    worst = Counter(finding.verdict for finding in findings)
    note(f"{worst['ok']} ok, {worst['warn']} warn, {worst['bad']} bad")
