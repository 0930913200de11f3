"""A Kubernetes without nodes, for checks: etcd, API server and controllers, on ports of this machine's loopback."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from lab.ports import HOST, free_ports

START_SECONDS = 180
ENDING_SECONDS = 60


class Cluster:
    """One that runs, for its administrator."""

    def __init__(self, programs: Path, config: Path) -> None:
        self._programs = programs
        self._config = config

    def run(self, program: str, *words: str, typed: str = "") -> tuple[int, str]:
        """Run kubectl or helm. Return its exit code and what it prints."""
        done = subprocess.run(
            [str(self._programs / program), *words],
            env={"KUBECONFIG": str(self._config), "HOME": str(self._config.parent), "PATH": "/usr/bin:/bin"},
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        # a warning beside what is printed is not part of it
        return done.returncode, (done.stdout + done.stderr if done.returncode else done.stdout).strip()

    def must(self, program: str, *words: str, typed: str = "") -> str:
        """Run what cannot fail, and return what it prints."""
        code, printed = self.run(program, *words, typed=typed)
        if code:
            raise SystemExit(f"{program} {' '.join(words)}: {printed}")
        return printed

    def named(self, kind: str) -> dict[str, Any]:
        """Return the objects of a kind in the current namespace, by name."""
        listed = json.loads(self.must("kubectl", "get", kind, "--output=json"))["items"]
        return {item["metadata"]["name"]: item for item in listed}


@contextmanager
def started(programs: Path) -> Iterator[Cluster]:
    """
    Start a cluster, and end it.

    Args:
        programs: Directory of kube-apiserver, kube-controller-manager, kubectl and helm. etcd is Debian's.
    """
    with tempfile.TemporaryDirectory(prefix="raytrail-cluster-") as name, ExitStack() as running:
        here = Path(name)
        token = secrets.token_hex(16)
        (here / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "RSA", "-out", str(here / "key.pem")],  # noqa: S607 (wherever it is)
            check=True,
            capture_output=True,
        )
        client, peer, port = free_ports(3)
        config = here / "config.yaml"
        config.write_text(yaml.safe_dump(_kubeconfig(f"https://{HOST}:{port}", token)))
        _start(running, here / "etcd.log", [shutil.which("etcd") or "etcd", *_etcd(here, client, peer)])
        server = str(programs / "kube-apiserver")
        log = _start(running, here / "kube-apiserver.log", [server, *_apiserver(here, client, port)])
        cluster = Cluster(programs, config)
        _wait_for(cluster, log)
        manager = str(programs / "kube-controller-manager")
        _start(running, here / "kube-controller-manager.log", [manager, *_manager(here, config)])
        yield cluster


def _kubeconfig(url: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
        "current-context": "here",
    }


def _etcd(here: Path, client: int, peer: int) -> list[str]:
    return [
        f"--data-dir={here / 'etcd'}",
        f"--listen-client-urls=http://{HOST}:{client}",
        f"--advertise-client-urls=http://{HOST}:{client}",
        f"--listen-peer-urls=http://{HOST}:{peer}",
        f"--initial-advertise-peer-urls=http://{HOST}:{peer}",
        f"--initial-cluster=default=http://{HOST}:{peer}",
        # all of it is thrown away
        "--unsafe-no-fsync",
    ]


def _apiserver(here: Path, client: int, port: int) -> list[str]:
    return [
        f"--etcd-servers=http://{HOST}:{client}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        f"--cert-dir={here / 'certificates'}",
        f"--token-auth-file={here / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        f"--service-account-issuer=https://{HOST}",
        f"--service-account-key-file={here / 'key.pem'}",
        f"--service-account-signing-key-file={here / 'key.pem'}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--endpoint-reconciler-type=none",
    ]


def _manager(here: Path, config: Path) -> list[str]:
    return [
        f"--kubeconfig={config}",
        f"--service-account-private-key-file={here / 'key.pem'}",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def _start(running: ExitStack, log: Path, command: list[str]) -> Path:
    """Start a server, which ends with the others. Return where it logs to."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    running.callback(process.wait, ENDING_SECONDS)
    running.callback(process.terminate)
    return log


def _wait_for(cluster: Cluster, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while cluster.run("kubectl", "get", "--raw=/readyz")[0]:
        if time.monotonic() > deadline:
            raise SystemExit(f"the API server does not start: {log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.5)
