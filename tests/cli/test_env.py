"""`raytrail env`: what it prints, as those read it that it is for."""

import json
import shlex
import subprocess
import sys

import pytest

from raytrail.export import settings


@pytest.fixture(params=["full", "lean"])
def profile(request):
    return request.param


def variables(profile, *types):
    environment = settings(profile, *types).environment
    return {name: value for name, value in environment.items() if value is not None}


def test_a_shell_takes_it(run, profile):
    script = run("env", "--profile", profile).stdout
    after = f'eval "$SCRIPT"; unset SCRIPT; {shlex.quote(sys.executable)} -c "$0"'
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    environ = {"RAY_enable_ray_event": "1", "RAY_EXPORT_EVENT_MAX_BACKUP_COUNT": "5", "SCRIPT": script}
    done = subprocess.run(["sh", "-euc", after, show], env=environ, stdout=subprocess.PIPE, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen.items() >= variables(profile).items()
    assert "RAY_enable_ray_event" not in seen
    assert "RAY_EXPORT_EVENT_MAX_BACKUP_COUNT" not in seen
    assert json.loads(seen["RAYTRAIL_RAY_SYSTEM_CONFIG"]) == settings(profile).system_config


def test_a_program_takes_it(run, profile):
    shown = json.loads(run("env", "--profile", profile, "--types", "NODE,SERVE_REPLICA", "--format", "json").stdout)
    wanted = settings(profile, ["NODE", "SERVE_REPLICA"])
    assert shown["environment"] == variables(profile, ["NODE", "SERVE_REPLICA"])
    assert shown["system_config"] == wanted.system_config
    assert shown["unset"] == [name for name, value in wanted.environment.items() if value is None]


def test_docker_takes_it(run, profile):
    lines = run("env", "--profile", profile, "--format", "docker").stdout.splitlines()
    # docker takes what stands after the first equals sign as it is, quotes included
    environment = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert json.loads(environment.pop("RAYTRAIL_RAY_SYSTEM_CONFIG")) == settings(profile).system_config
    assert environment == variables(profile)


def test_kubernetes_takes_it(run, profile):
    yaml = pytest.importorskip("yaml")
    shown = yaml.safe_load(run("env", "--profile", profile, "--format", "kubernetes").stdout)
    assert {variable["name"]: variable["value"] for variable in shown["env"]} == variables(profile)
    # KubeRay makes a shell's command of it: --<name>=<value>
    printed = subprocess.run(
        ["sh", "-c", f"printf %s --system-config={shown['rayStartParams']['system-config']}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert json.loads(printed.removeprefix("--system-config=")) == settings(profile).system_config


def test_the_cluster_launcher_takes_it(run, profile):
    yaml = pytest.importorskip("yaml")
    shown = yaml.safe_load(run("env", "--profile", profile, "--format", "yaml").stdout)
    show = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    ray = f'ray() {{ {shlex.quote(sys.executable)} -c {shlex.quote(show)} "$@"; }}'
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = shown[key]
        assert stop == "ray stop"
        done = subprocess.run(["sh", "-c", f"{ray}\n{start}"], stdout=subprocess.PIPE, text=True, check=True, env={})
        argv, environ = json.loads(done.stdout)
        assert environ.items() >= variables(profile).items()
        given = [argument.partition("=")[2] for argument in argv if argument.startswith("--system-config=")]
        assert list(map(json.loads, given)) == ([settings(profile).system_config] if "--head" in argv else [])
    assert argv[0] == "start"
