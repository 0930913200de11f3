"""The probes of a node: one process for each raylet here, kept running as long as it and the agent do."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from raytrail import disk
from raytrail.config import SourcesConfig
from raytrail.exit_codes import BROKEN, OK
from raytrail.log import log_format
from raytrail.sources.probe import OF_HEAD, TYPES, Probe
from raytrail.tail import discovery, processes

log = logging.getLogger(__name__)

_ADDRESS_BYTES = 4096
_LOOK_SECONDS = 5.0
_RETRY_SECONDS, _MOST_RETRY_SECONDS = 1.0, 60.0
_WELL_SECONDS = 60.0  # one that ran for so long is started again as if for the first time


class Raylet(NamedTuple):
    """A raylet that runs on this node."""

    session_dir: Path
    gcs_address: str
    node_id: str
    """Hex."""
    pid: int
    """0 where its processes are not to be seen from here, but its socket is."""
    is_head: bool
    """Whether the GCS of its cluster runs here, too."""


def wanted(sources: SourcesConfig) -> tuple[str, ...]:
    """Return the event types that are to be polled for."""
    return tuple(event_type for event_type in TYPES if event_type in sources.types or "ALL" in sources.types)


def raylets(temp_dirs: Iterable[Path], proc: Path = processes.PROC) -> Iterator[Raylet]:
    """
    Yield the raylets of this node whose sessions are in one of Ray's temporary directories.

    An agent that also sees the processes of other pods leaves those to their agents.
    """
    here = [process for process in processes.processes(proc) if process.name == "raylet"]
    seen = discovery.running(proc)
    for temp_dir in temp_dirs:
        visible = False
        for process in here:
            # by name: from another container the same directory may be seen under another path
            directory = temp_dir / process.session_dir.name
            arguments = process.arguments
            if not directory.is_dir() or not arguments.keys() >= {"node_id", "gcs_address"}:
                continue
            visible = True
            there = discovery.nodes(directory)
            raylet = discovery.Raylet(
                process.pid, directory.name, arguments["node_id"], arguments.get("session_dir", "")
            )
            if discovery.works_in(raylet, directory, there, proc):
                is_head = "head" in arguments or there.head == arguments["node_id"]
                yield Raylet(directory, arguments["gcs_address"], arguments["node_id"], process.pid, is_head)
        if not visible and seen is not None:
            yield from _behind_a_socket(temp_dir, seen)


def _behind_a_socket(temp_dir: Path, seen: discovery.Running) -> Iterator[Raylet]:
    """Yield those that a sidecar shares a network with, and not the processes: Ray's files say what they are."""
    session = discovery.latest(temp_dir)
    if session is None:
        return
    directory = temp_dir / session
    there = discovery.nodes(directory)
    living = discovery.living(session, directory, there, seen)
    with suppress(OSError):  # a node that is about to begin has not written it yet
        root = temp_dir.resolve()
        gcs_address = _text(root / "ray_current_cluster", root)
        if there.head not in living or _is_of_head(gcs_address, directory, there.head):
            for node_id in there.ids:
                if node_id in living:
                    yield Raylet(directory, gcs_address, node_id, 0, node_id == there.head)


def _is_of_head(gcs_address: str, directory: Path, head: str) -> bool:
    """Say whether an address is that of a head's GCS, which writes its port before `ray start` writes the address."""
    port = _text(directory / f"gcs_server_port_{head}", directory)
    return not port or gcs_address.rpartition(":")[2] == port


def _text(path: Path, root: Path) -> str:
    return disk.read_file(path, root, _ADDRESS_BYTES).decode(errors="replace").strip()


class Probes:
    """Starts them, starts them again where they die, and ends them with the agent."""

    def __init__(self) -> None:
        self._sources, self._temp_dirs = SourcesConfig(), frozenset[Path]()
        self._kept: dict[Raylet, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    async def configure(self, sources: SourcesConfig, temp_dirs: Iterable[Path]) -> None:
        """
        Go on by these settings.

        Args:
            sources: The event types to write, and how often to ask for them.
            temp_dirs: Ray's temporary directories whose sessions are exported. It is empty where export is off.
        """
        before, self._sources, self._temp_dirs = self._sources, sources, frozenset(temp_dirs)
        self._changed.set()
        if sources != before:
            await self.aclose()  # those that are wanted are started anew

    async def run(self) -> None:
        """Look again and again which raylets there are, until cancelled."""
        try:
            while True:
                seen = await asyncio.to_thread(self._see) if wanted(self._sources) else []
                # by the settings of now, which may have changed meanwhile
                present = {
                    raylet
                    for raylet in seen
                    if raylet.session_dir.parent in self._temp_dirs and self._choose_types(raylet)
                }
                for raylet in self._kept.keys() - present:
                    await _end(self._kept.pop(raylet, None))
                for raylet in present - self._kept.keys():
                    self._kept[raylet] = asyncio.create_task(self._keep(raylet))
                    self._kept[raylet].add_done_callback(_say_why)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _LOOK_SECONDS)
                self._changed.clear()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End all of them. Safe to call twice."""
        kept, self._kept = self._kept, {}
        for task in kept.values():
            await _end(task)

    def _see(self) -> list[Raylet]:
        return list(raylets(self._temp_dirs))

    def _choose_types(self, raylet: Raylet) -> tuple[str, ...]:
        # the head asks for the event types that are the same for all nodes
        return tuple(event_type for event_type in wanted(self._sources) if event_type not in OF_HEAD or raylet.is_head)

    async def _keep(self, raylet: Raylet) -> None:
        """Have a probe of this raylet running until it ends well, which is when the raylet has."""
        probe = Probe(
            *(str(raylet.session_dir), raylet.gcs_address, raylet.node_id, raylet.pid),
            types=self._choose_types(raylet),
            sources=self._sources,
        )
        wait_seconds, last_message = _RETRY_SECONDS, ""
        while True:
            began = time.monotonic()
            try:
                code, message = await _run(probe)
            except OSError as error:  # no memory, or no more processes
                code, message = BROKEN, str(error)
            if code == OK:
                return
            message = message or f"it ended with {code}"
            if time.monotonic() - began > _WELL_SECONDS:
                wait_seconds, last_message = _RETRY_SECONDS, ""
            if message != last_message:
                log.warning("%s of node %s: %s; tried again now and then", _noun(probe.types), raylet.node_id, message)
            last_message = message
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, _MOST_RETRY_SECONDS)


async def _run(probe: Probe) -> tuple[int, str]:
    """Run a probe to its end, and return its exit code and what it said kept it from asking."""
    argument = msgspec.json.encode(probe).decode()
    command = [sys.executable, "-m", "raytrail.agent.probe_process", argument, log_format()]
    # its standard input is at its end once we are gone, however that came about
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    log.info("%s of node %s are asked for by process %d", _noun(probe.types), probe.node_id, process.pid)
    try:
        assert process.stdout is not None
        output = await process.stdout.read()
        return await process.wait(), output.decode(errors="replace")
    finally:
        await _gone(process)


async def _gone(process: Process) -> None:
    assert process.stdin is not None
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    process.stdin.close()


def _say_why(task: asyncio.Task[None]) -> None:
    """Log a bug of ours: it costs the events that were to be asked for, and must not cost the others."""
    if not task.cancelled() and (error := task.exception()):
        log.error("Ray is not asked for what it does not export", exc_info=error)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _noun(types: tuple[str, ...]) -> str:
    nouns = [
        "Serve" if event_type.startswith("SERVE_") else event_type.lower().replace("_", " ") + "s"
        for event_type in types
    ]
    return " and ".join(dict.fromkeys(nouns))
