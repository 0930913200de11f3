"""``raytrail env`` prints what Ray must be told so that nothing is lost, for people who start it in another way."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator

import click

from raytrail import export
from raytrail.export import RaySettings
from raytrail.terminal import options

VARIABLE = "RAYTRAIL_RAY_SYSTEM_CONFIG"
"""Holds the system config for a shell. Ray itself reads none from its environment."""


def _shell(wanted: RaySettings) -> Iterator[str]:
    yield "# for `ray start` on every node, and for every driver"
    for name, value in wanted.environment.items():
        yield f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
    yield f'# for the head, too: ray start --head --system-config "${VARIABLE}"'
    yield f"export {VARIABLE}={shlex.quote(json.dumps(wanted.system_config))}"


def _json(wanted: RaySettings) -> Iterator[str]:
    unset = [name for name, value in wanted.environment.items() if value is None]
    yield json.dumps(
        {"environment": _variables(wanted), "unset": unset, "system_config": wanted.system_config}, indent=2
    )


def _docker(wanted: RaySettings) -> Iterator[str]:
    yield "# docker run --env-file, or env_file of Compose, for every Ray container and every driver's"
    yield from (f"{name}={value}" for name, value in _variables(wanted).items())
    yield f"# for the head, too, in its container: sh -c 'ray start --head --block --system-config \"${VARIABLE}\"'"
    yield f"{VARIABLE}={json.dumps(wanted.system_config)}"


def _kubernetes(wanted: RaySettings) -> Iterator[str]:
    yield "# of every Ray container, and of every driver's"
    yield "env:"
    for name, value in _variables(wanted).items():
        yield f"  - name: {name}"
        yield f"    value: {json.dumps(value)}"
    yield "# of KubeRay's headGroupSpec; a shell reads it, hence two kinds of quotes"
    yield "rayStartParams:"
    yield f"  system-config: {json.dumps(shlex.quote(json.dumps(wanted.system_config)))}"


def _yaml(wanted: RaySettings) -> Iterator[str]:
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in _variables(wanted).items())
    system_config = shlex.quote(json.dumps(wanted.system_config))
    head = "--head --port=6379 --object-manager-port=8076 --autoscaling-config=~/ray_bootstrap_config.yaml"
    yield "# for `ray up`; drivers need the variables, too, where they are not submitted as jobs"
    for key, flags in (
        ("head_start_ray_commands", f"{head} --system-config={system_config}"),
        ("worker_start_ray_commands", "--address=$RAY_HEAD_IP:6379 --object-manager-port=8076"),
    ):
        yield f"{key}:"
        yield "  - ray stop"
        yield f"  - {json.dumps(f'export {variables}; ray start {flags}')}"


FORMATS: dict[str, Callable[[RaySettings], Iterator[str]]] = {
    "shell": _shell,
    "json": _json,
    "docker": _docker,
    "kubernetes": _kubernetes,
    "yaml": _yaml,
}


@click.command(cls=options.Command)
@options.exporting
@options.output_format(*FORMATS)
def env(profile: str, types: tuple[str, ...], http_events: str, form: str) -> None:
    """
    Print what Ray must be told so that nothing is lost.

    It is for a Ray that `raytrail run` cannot start, as in a shell, in containers, with KubeRay or with the cluster
    launcher (yaml).

    \b
        eval "$(raytrail env)"
        ray start --head --system-config "$RAYTRAIL_RAY_SYSTEM_CONFIG"

    The environment is for `ray start` on every node and for every driver. The system config is for the head alone.
    """
    for line in FORMATS[form](export.settings(profile, types, http_events=http_events)):
        click.echo(line)


def _variables(wanted: RaySettings) -> dict[str, str]:
    return {name: value for name, value in wanted.environment.items() if value is not None}
