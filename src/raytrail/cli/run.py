"""``raytrail run`` starts a Ray, or a driver, that writes down what happens."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from raytrail import export
from raytrail.errors import ConfigError
from raytrail.export import RaySettings
from raytrail.terminal import note, options

CANNOT_EXECUTE, NOT_FOUND = 126, 127
"""Exit codes of a program that could not start a command, as the shell, env and nohup have them."""
OPTION = "--system-config"


@click.command(cls=options.Command, context_settings={"allow_interspersed_args": False})
@options.exporting
@click.option("--off", is_flag=True, help="Start it with all exporting switched off, to compare or for secrecy.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(profile: str, types: tuple[str, ...], http_events: str, off: bool, command: tuple[str, ...]) -> None:
    """
    Start Ray, or a driver, so that nothing is lost.

    \b
        raytrail run -- ray start --head
        raytrail run -- ray start --address head:6379
        raytrail run -- python driver.py

    The command takes this process's place, with Ray's export in its environment. `ray start --head` gets it in its
    --system-config, too, which also reaches drivers that are started in another way. Signals and exit codes are the
    command's own. 127 says that there is no such command, 126 that it cannot be executed.

    Your own --system-config wins except with --off, and so does the environment where it sets how events are written. A
    note on stderr says where that loses events.
    """
    if http_events and not off:
        _check_posting()
    wanted = export.off() if off else export.settings(profile, types, http_events=http_events)
    environ, notes = export.in_environment(wanted, os.environ)
    argv, also = with_system_config(command, wanted, os.environ)
    for text in (*notes, *also):
        note(f"raytrail: {text}")
    _become(argv, environ)


def _check_posting() -> None:
    """
    Check that the Ray beside us, if there is one, can post events.

    Raises:
        ConfigError: It is too old.
    """
    with suppress(PackageNotFoundError):
        if not export.posts_events(ray := version("ray")):
            since = ".".join(map(str, export.HTTP_SINCE))
            raise ConfigError(
                f"--http-events: Ray {ray} posts none; leave it out, so that all goes into files, or take Ray {since}"
            )


def with_system_config(
    command: Sequence[str], wanted: RaySettings, environ: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """
    Return a command with the settings in its ``--system-config``, and the notes about them.

    Only a head takes a system config. Any other command stays as it is.

    Raises:
        ConfigError: It has one that is no JSON object.
    """
    argv = list(command)
    at = _options_of_head(argv)
    if at is None:
        return argv, []
    given, rest = _given(argv[at:])
    config, notes = export.in_system_config(wanted, given, environ)
    return [*argv[:at], OPTION, json.dumps(config), *rest], notes


def _options_of_head(argv: Sequence[str]) -> int | None:
    """Return where the options of ``ray start --head`` begin. Something may stand before it, as ``nohup``."""
    for at in range(2, len(argv)):
        if Path(argv[at - 2]).name == "ray" and argv[at - 1] == "start" and "--head" in argv[at:]:
            return at
    return None


def _given(options: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the system config among options, and all the others."""
    text, rest, remaining = "{}", [], iter(options)
    for option in remaining:
        if option == OPTION:
            text = next(remaining, "")
        elif option.startswith(f"{OPTION}="):
            text = option.partition("=")[2]
        else:
            rest.append(option)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{OPTION} {text!r}: {error}; give a JSON object") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{OPTION} {text!r} is no JSON object; give one, as '{{}}'")
    return config, rest


def _become(argv: list[str], environ: Mapping[str, str]) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environ)
    except OSError as error:
        note(f"raytrail: error: {argv[0]}: {error.strerror}; name a command that is on PATH, or its path")
        click.get_current_context().exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE)
