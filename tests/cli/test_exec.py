"""A command on a cluster of the history, as if the cluster were there."""

import json
import os
import signal
import subprocess
import sys

import pytest

from raytrail.cli.run import NOT_FOUND
from raytrail.exit_codes import DIFFERENT
from raytrail.terminal import gcs

pytestmark = pytest.mark.slow

ASK = """
import json, os, urllib.request
address = os.environ["RAY_API_SERVER_ADDRESS"]
with urllib.request.urlopen(address + "/api/v0/nodes") as answer:
    states = [row["state"] for row in json.load(answer)["data"]["result"]["result"]]
same = os.environ["RAY_DASHBOARD_ADDRESS"] == address
print(json.dumps({"address": address, "states": states, "gcs": os.environ["RAY_ADDRESS"], "same": same}))
"""


def exec(history, *arguments, **options):
    command = [sys.executable, "-m", "raytrail", "exec", "--store", str(history), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize(
    ("at", "suffix", "state"),
    [([], "", "ALIVE"), (["--at", "end"], "/final", "DEAD"), (["--at", "+1s"], "/at/1795419631000", "ALIVE")],
)
def test_the_command_finds_the_cluster_by_its_environment(at, suffix, state, history, make):
    done = exec(history, "latest", *at, "--", sys.executable, "-c", ASK)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["address"].endswith(f"/clusters/{make.SESSION}{suffix}")
    assert printed["states"] == [state]
    assert printed["same"]
    assert printed["gcs"].startswith(f"{gcs.HOST}:")


def test_what_a_server_for_others_asks_is_not_asked_of_the_command(history):
    environ = {**os.environ, "RAYTRAIL_SERVER_TOKEN": "secret", "RAYTRAIL_SERVER_HOST": "0.0.0.0"}
    done = exec(history, "latest", "--", sys.executable, "-c", ASK, env=environ)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"].startswith("http://127.0.0.1:")


def test_it_ends_as_its_command_does(history):
    assert exec(history, "latest", "--", "false").returncode == 1
    killed = exec(history, "latest", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert killed.returncode == 128 + signal.SIGKILL
    missing = exec(history, "latest", "--", "no-such-command")
    assert missing.returncode == NOT_FOUND
    assert "no-such-command: there is no such command" in missing.stderr


def test_an_unknown_cluster_runs_nothing(history):
    done = exec(history, "prod", "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (DIFFERENT, "")


def test_rays_own_client_of_a_gcs_is_told_where_the_dashboard_is():
    ask = (
        "import sys; from ray._raylet import GcsClient; client = GcsClient(address=sys.argv[1]); "
        "print(client.internal_kv_get(b'dashboard', namespace=b'dashboard')); "
        "print(client.internal_kv_get(b'other', namespace=b'dashboard'))"
    )
    with gcs.standing_in("127.0.0.1:8365/clusters/x", "x") as address:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-c", ask, address], capture_output=True, text=True, timeout=60, check=False, env=environ
        )
    assert done.stdout.split("\n")[:2] == ["b'127.0.0.1:8365/clusters/x'", "None"], done.stderr
