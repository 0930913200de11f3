"""Options that commands share, the flags of the settings among them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from raytrail import config as settings_of
from raytrail import export, times
from raytrail.config import Setting
from raytrail.log import FORMATS, log_as
from raytrail.sources import address

Body = TypeVar("Body", bound=Callable[..., Any])


_EVERY = "raytrail.help_all"
"""The key under which a context notes that its help shows every setting."""


class SettingOption(click.Option):
    """The flag of a setting. Help lists these apart."""

    def __init__(self, *args: Any, setting: Setting, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setting = setting


class Command(click.Command):
    """A command whose help shows its own options first, then the settings that it minds: the common ones, or all."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write its own options, then the settings."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        settings = [option for option in options if isinstance(option, SettingOption)]
        with formatter.section("Options"):
            formatter.write_dl(_records(ctx, (option for option in options if option not in settings)))
        if ctx.meta.get(_EVERY):
            for table, doc in settings_of.table_docs().items():
                if records := _records(ctx, (option for option in settings if option.setting.table == table)):
                    with formatter.section(f"Settings in [{table}]. {doc.splitlines()[0].rstrip('.')}"):
                        formatter.write_dl(records)
        elif settings:
            with formatter.section("Settings"):
                formatter.write_dl(_records(ctx, (option for option in settings if option.setting.common)))
            hidden = sum(not option.setting.common for option in settings)
            more = f"--help-all shows {hidden} more. " if hidden else ""
            formatter.write_paragraph()
            formatter.write_text(
                f"{more}Each setting may also stand in the environment as RAYTRAIL_<TABLE>_<NAME>, or in the file of "
                "--config; raytrail settings shows their names."
            )


def _records(ctx: click.Context, options: Iterable[click.Option]) -> list[tuple[str, str]]:
    return [record for option in options if (record := option.get_help_record(ctx)) is not None]


def show_every(ctx: click.Context) -> None:
    """Have a context's help show every setting."""
    ctx.meta[_EVERY] = True


def _help_all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        show_every(ctx)
        click.echo(ctx.get_help())
        ctx.exit()


def settings(*names: str, reloadable: bool = False) -> Callable[[Body], Body]:
    """
    Add the flags of settings, and ``--config``. The command is called with the `config` made of them.

    Args:
        names: Tables (``tail``) or single settings (``store.dir``).
        reloadable: Call it with `load`, too, which reads file and environment again.
    """
    chosen = [setting for setting in settings_of.settings() if setting.table in names or setting.key in names]

    def decorate(command: Body) -> Body:
        @functools.wraps(command)
        def with_config(*args: Any, config_file: Path | None, **kwargs: Any) -> Any:
            flags: dict[str, dict[str, Any]] = {}
            for setting in chosen:
                value = kwargs.pop(f"{setting.table}_{setting.name}")
                if value is not None:
                    flags.setdefault(setting.table, {})[setting.name] = value
            load = functools.partial(settings_of.load, config_file, os.environ, flags)
            again = {"load": load} if reloadable else {}
            return command(*args, config=load(), **again, **kwargs)

        decorated: Any = with_config
        for setting in reversed(chosen):
            decorated = _flag(setting)(decorated)
        decorated = click.option(
            "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_help_all,
            help="Show every setting, and exit.",
        )(decorated)  # fmt: skip
        decorated = click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Settings file (TOML). [default: the one that RAYTRAIL_CONFIG names]",
        )(decorated)
        return decorated  # type: ignore[no-any-return]  # click returns what it was given

    return decorate


def _flag(setting: Setting) -> Callable[[Any], Any]:
    names = setting.flag if setting.type is not bool else f"{setting.flag}/--no-{setting.flag[2:]}"
    default = f" [default: {setting.shown_default}]" if setting.shown_default else ""
    # None, and not the default, is how a flag that was not given leaves the word to the environment
    return click.option(
        names,
        f"{setting.table}_{setting.name}",
        cls=SettingOption,
        setting=setting,
        default=None,
        type=bool if setting.type is bool else str,
        metavar=None if setting.type is bool else _metavar(setting),
        help=setting.doc.replace("``", "").replace("`", "") + default,
    )


def _metavar(setting: Setting) -> str:
    unit = setting.name.rpartition("_")[2].upper()
    if unit in ("SECONDS", "BYTES", "DIR", "HOST", "PORT"):
        return unit
    word = setting.kind.partition(",")[0]
    if setting.kind.startswith("table"):
        return "NAME=DAYS,..." if unit == "NAME" else "TYPE=NUMBER,..."
    return {"list": "A,B,...", "text": "TEXT", "integer": "NUMBER"}.get(word, word.replace(" or ", "|"))


def exporting(command: Body) -> Body:
    """Add ``--profile``, ``--types`` and ``--http-events``, which say what Ray writes or posts, and how."""
    meanings = " ".join(f"{name}: {text}" for name, text in export.PROFILES.items()).replace("`", "")
    with_types = click.option(
        "--types",
        callback=lambda _, __, text: export.TYPES if text is None else export.parse_types(text),
        metavar="A,B,...",
        help=f"Event types to write, among {', '.join(export.TYPES)}. [default: all]",
    )
    with_profile = click.option(
        "--profile", type=click.Choice(list(export.PROFILES)), default="full", show_default=True, help=meanings
    )
    with_http = click.option(
        "--http-events",
        default="",
        callback=lambda _, __, listen: address.url(listen) if listen else "",
        metavar="HOST:PORT",
        help="Have Ray post tasks, actors, nodes, driver jobs and workers to an agent's --receiver at this address, in "
        "place of writing them. They then have call sites, ports, times in nanoseconds and reasons of restarts. It "
        "costs Ray more. A URL will do, too, e.g. http://ray:TOKEN@127.0.0.1:8367/v1/events.",
    )
    return with_profile(with_types(with_http(command)))


def logged(command: Body) -> Body:
    """Add ``--log-format``, for commands that run for long."""
    return click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        is_eager=True,  # a wrong setting is told in this form, too
        expose_value=False,
        callback=lambda _, __, form: log_as(form),
        help="Form of the log on stderr. json: one object a line, with time, level, logger, message and exception.",
    )(command)


def cluster(command: Body) -> Body:
    """Add ``--cluster``."""
    return click.option(
        "--cluster",
        "cluster_id",
        default="latest",
        show_default=True,
        metavar="ID",
        help="A session's name, a part of it that no other has, a cluster's name, or latest.",
    )(command)


def job(command: Body) -> Body:
    """Add ``--job``."""
    return click.option(
        "--job", default="", metavar="ID", help="Only this job: a driver job's id, or a submission's. [default: all]"
    )(command)


def at(command: Body) -> Body:
    """Add ``--at``."""
    return click.option(
        "--at",
        metavar="TIME",
        help=f"Show it as it was at this time: {times.HELP}. A note on stderr says when a time is outside the "
        "cluster's life.",
    )(command)


def filtered(command: Body) -> Body:
    """Add ``--filter`` and ``--all``, which choose rows."""
    with_all = click.option(
        "--all",
        "every",
        is_flag=True,
        help="Take in the tasks that Ray's own list and summary leave out. They are drivers, and attempts of which "
        "only a part was exported.",
    )
    with_filter = click.option(
        "--filter",
        "filters",
        multiple=True,
        metavar="FILTER",
        help="COLUMN=VALUE, or one of != < <= > >= in place of =. All filters must hold. = and != compare texts in any "
        "case. The value of a time may be a TIME, e.g. start_time_ms>-5m.",
    )
    return with_filter(with_all(command))


def output_format(*formats: str) -> Callable[[Body], Body]:
    """Add ``--format``. The first form is the default."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Form of the output.",
    )
