"""
A real Ray of one's own: on free ports, in its own directory, exporting its events.

    with ray_cluster() as cluster:
        cluster.run([sys.executable, "demo/workload.py"])
        record(cluster.dashboard_url, Path("answers.json"))
        cluster.stop()
        ...  # the files in cluster.session_dir are complete now

Ray runs in processes of its own and is never imported here. Several clusters can run side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.ports import HOST, free_ports
from raytrail.errors import ConfigError, RaytrailError
from raytrail.export import in_environment, off, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LATE = ("Failed to start the dashboard", "The current node timed out during startup")
"""What Ray prints before it ends where a part of it took longer to start than the 20 or 30 s that it gives it."""
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "node-manager-port",
    "object-manager-port",
    "ray-client-server-port",
)
"""Options of ``ray start``, the first two as `RayCluster` has them."""


_OF_DRIVERS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""The variables that tell a driver, and no node, which cluster is meant, by its GCS and by its dashboard."""
_HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port")
"""Those of them that only the head node has."""


class RayNode:
    """A further node of a `RayCluster`, on the same machine, in the same session directory."""

    def __init__(self, node_id: str, process: subprocess.Popen[bytes]) -> None:
        self.node_id = node_id
        """Its id, hex."""
        self._process = process

    def kill(self) -> None:
        """
        End the node as if its machine had lost power: its raylet and all its workers at once, by SIGKILL.

        Every process is stopped first, so that none can report the end of another one.
        """
        stopped: set[tuple[int, str]] = set()
        while begun := _processes_below({self._process.pid}) - stopped:
            _signal(begun, signal.SIGSTOP)
            stopped |= begun
        _signal(stopped, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """Ask the node to end. Does nothing where it has ended."""
        if self._process.poll() is None:
            self._process.terminate()


class RayCluster:
    """A Ray that `ray_cluster` started."""

    def __init__(
        self,
        temp_dir: Path,
        ports: Sequence[int],
        environment: Mapping[str, str],
        process: subprocess.Popen[bytes],
    ) -> None:
        self.temp_dir = temp_dir
        """Ray's temporary directory, which holds its sessions."""
        self.address = f"{HOST}:{ports[0]}"
        """The address of the GCS, for `ray.init`."""
        self.dashboard_url = f"http://{HOST}:{ports[1]}"
        self.environment = {
            **environment,
            **dict(zip(_OF_DRIVERS, (self.address, self.dashboard_url), strict=True)),
        }
        """The environment of a driver, so that its events are exported too."""
        self._process = process
        self._nodes: list[RayNode] = []

    def add_node(self, *, ip: str, num_cpus: int = 4, start_seconds: float = 120.0) -> RayNode:
        """
        Start a further node of the cluster on this machine and return it once the GCS lists it as alive.

        Args:
            ip: Its address, one of the loopback range that no other node has, as 127.0.0.2.
            num_cpus: How many CPUs it is to believe in.
            start_seconds: How long it may take to start.

        Raises:
            RaytrailError: It did not start.

        """
        names = [name for name in _PORTS if name not in _HEAD_PORTS]
        ports = zip(names, free_ports(len(names)), strict=True)
        command: list[str] = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"),
            *("--log-color=false", "--address", self.address, "--node-ip-address", ip, "--num-cpus", str(num_cpus)),
            *("--object-store-memory", str(100 << 20), "--min-worker-port", "0", "--max-worker-port", "0"),
            *(word for name, port in ports for word in (f"--{name}", str(port))),
        ]
        environment = {name: value for name, value in self.environment.items() if name not in _OF_DRIVERS}
        log_path = self.temp_dir / f"start-{ip}.log"
        deadline = time.monotonic() + start_seconds
        while True:
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            while process.poll() is None and time.monotonic() < deadline:
                nodes = self.ask("/api/v0/nodes?detail=1")["data"]["result"]["result"]
                for row in nodes:
                    if row["state"] == "ALIVE" and row["node_ip"] == ip:
                        self._nodes.append(RayNode(row["node_id"], process))
                        return self._nodes[-1]
                time.sleep(0.2)
            process.kill()
            process.wait()
            printed = log_path.read_text("utf-8", "replace")
            if not _is_late(printed) or time.monotonic() > deadline:
                raise RaytrailError(f"no node {ip} at {self.address} in time; it printed:\n{printed}")

    @property
    def session_dir(self) -> Path:
        """The session's directory. It stays when the cluster stops."""
        return (self.temp_dir / "session_latest").resolve()

    @property
    def log(self) -> str:
        """The output of ``ray start``."""
        return (self.temp_dir / "start.log").read_text(errors="replace")

    def run(
        self, command: Sequence[str | Path], *, timeout_seconds: float = 120.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a driver to its end and return what it printed.

        Raises:
            RaytrailError: It ended with an error, and `check` is set.
            subprocess.TimeoutExpired: It took longer, and was killed.

        """
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_seconds,
            check=False,
        )
        if check and done.returncode:
            raise RaytrailError(f"{command} ended with {done.returncode}; it printed:\n{done.stdout[-4000:]}")
        return done

    def ask(self, path: str, *, timeout_seconds: float = 10.0) -> Any:
        """Return the dashboard's answer to a GET of `path`, decoded."""
        token = self.environment.get("RAY_AUTH_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        asked = urllib.request.Request(self.dashboard_url + path, headers=headers)
        with urllib.request.urlopen(asked, timeout=timeout_seconds) as reply:
            return json.load(reply)

    def stop(self, *, timeout_seconds: float = 60.0) -> None:
        """
        End Ray, and any process of it that outlives that. Does nothing where it has ended.

        It is asked first, so that every process writes out what it holds.
        """
        ours = _processes_of(self._process.pid, self.temp_dir)
        for node in self._nodes:
            node.terminate()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        # workers leave on their own when their raylet has. Those that do not are killed
        deadline = time.monotonic() + 10
        while _alive(ours) and time.monotonic() < deadline:
            time.sleep(0.1)
        ours |= _processes_of(self._process.pid, self.temp_dir)
        _signal(ours, signal.SIGKILL)
        self._process.wait()

    def wait_until_ready(self, deadline: float) -> None:
        """
        Wait until the dashboard lists a living node and takes jobs.

        Raises:
            RaytrailError: It did not by `deadline` (`time.monotonic`), or Ray ended.

        """
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RaytrailError(f"ray start ended with {self._process.returncode}; it printed:\n{self.log}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                nodes = self.ask("/api/v0/nodes")["data"]["result"]["result"]
                self.ask("/api/jobs/")
                if any(node["state"] == "ALIVE" for node in nodes):
                    return
            time.sleep(0.2)
        raise RaytrailError(f"no Ray at {self.dashboard_url} in time; ray start printed:\n{self.log}")


@contextmanager
def ray_cluster(
    *,
    temp_dir: Path | None = None,
    export: bool = True,
    profile: str = "full",
    http_events: str = "",
    prefix: Sequence[str] = (),
    num_cpus: int = 4,
    system_config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    start_seconds: float = 180.0,
) -> Iterator[RayCluster]:
    """
    Start a Ray of one node and yield it. Stop it at the end, if `RayCluster.stop` has not.

    Args:
        temp_dir: Ray's temporary directory, kept at the end. It is short, as the paths of Ray's sockets must stay below
            107 bytes. None makes one in /tmp and deletes it at the end.
        export: Whether Ray writes its export event files.
        profile: How, as in `raytrail run --profile`.
        http_events: The URL that Ray is to post events to, in place of files.
        prefix: The words before ``ray start``, as ``raytrail run --``. Exporting is then up to that command alone.
        num_cpus: How many CPUs Ray is to believe in.
        system_config: Further entries of Ray's system config.
        environment: Further variables of Ray's environment, and of its drivers'.
        start_seconds: How long it may take to start, once no other of this environment does.

    Raises:
        ConfigError: There is no `ray` beside this Python.
        RaytrailError: Ray did not start.

    """
    executable = Path(sys.executable).with_name("ray")
    if not executable.exists():
        raise ConfigError(f"no ray command: {executable} is not there; install ray[default] in its environment")
    kept = temp_dir is not None
    directory = temp_dir or Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    directory.mkdir(parents=True, exist_ok=True)
    wanted = settings(profile, http_events=http_events) if export else off()
    config = {**({} if prefix else wanted.system_config), **(system_config or {})}
    # a RAY_ADDRESS or the like from outside would lead elsewhere
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        # else a token that some ray.init() has left in the home directory locks out who asks the dashboard
        "RAY_AUTH_MODE": "disabled",
        # else a node that is told to end waits half a minute for its detached actors
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # else a Ray kills its workers where it is others that take the machine's memory
        "RAY_memory_monitor_refresh_ms": "0",
        # else a node or a driver waits 20 s for the GCS, which a busy machine may take to start it
        "RAY_gcs_server_port_wait_time_s": "120",
    }
    if not prefix:
        variables, _ = in_environment(wanted, variables)
    variables |= environment or {}
    command: list[str] = [
        *(*prefix, str(executable), "start", "--head", "--block", "--disable-usage-stats", "--log-color=false"),
        *("--node-ip-address", HOST, "--temp-dir", str(directory), "--num-cpus", str(num_cpus)),
        *("--include-dashboard", "true", "--dashboard-host", HOST, "--object-store-memory", str(200 << 20)),
        # any free port: the default range is the same for every Ray of a machine
        *("--min-worker-port", "0", "--max-worker-port", "0"),
    ]
    if config:
        command += ["--system-config", json.dumps(config)]
    try:
        with executable.open("rb") as lock:
            # Ray 2.48 gives its dashboard 20 s, whatever its settings say: two at once would take each other's time
            fcntl.flock(lock, fcntl.LOCK_EX)
            cluster = _started(command, directory, variables, time.monotonic() + start_seconds)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def _started(command: Sequence[str], directory: Path, variables: Mapping[str, str], deadline: float) -> RayCluster:
    while True:
        ports = free_ports(len(_PORTS))
        listening = [word for name, port in zip(_PORTS, ports, strict=True) for word in (f"--{name}", str(port))]
        with (directory / "start.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, *listening],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        cluster, ready = RayCluster(directory, ports, variables, process), False
        try:
            cluster.wait_until_ready(deadline)
            ready = True
            return cluster
        except RaytrailError:
            # on a busy machine one alone may need longer, too
            if not _is_late(cluster.log) or time.monotonic() > deadline:
                raise
        finally:
            if not ready:
                cluster.stop()


def _is_late(printed: str) -> bool:
    return any(words in printed for words in _LATE)


def _processes_of(leader: int, temp_dir: Path) -> set[tuple[int, str]]:
    """
    Return the processes below `leader`, and those whose command line names `temp_dir`.

    Each with the time it started, as a process id may be used again. Ray's workers rename themselves to
    ``ray::f``, but stay below their raylet until that is gone.
    """
    marker = f"{temp_dir}/".encode()
    named: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and marker in (entry / "cmdline").read_bytes():
                named.add(int(entry.name))
    named.discard(os.getpid())
    return _processes_below({leader, *named})


def _processes_below(leaders: set[int]) -> set[tuple[int, str]]:
    """Return these processes and all below them, each with the time it started."""
    stats = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    parents = {pid: int(stat[1]) for pid, stat in stats.items() if stat is not None}
    started = {pid: stat[19] for pid, stat in stats.items() if stat is not None}
    ours, grown = set(leaders), 0
    while grown != len(ours):
        grown = len(ours)
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    return {(pid, started[pid]) for pid in ours if pid in started}


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the third on, its state, or None where it is gone or dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields


def _alive(processes: set[tuple[int, str]]) -> list[int]:
    return [pid for pid, started in processes if (stat := _stat(pid)) is not None and stat[19] == started]


def _signal(processes: set[tuple[int, str]], number: signal.Signals) -> None:
    for pid in _alive(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
