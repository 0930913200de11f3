"""The command line. Each file is one command, which is imported when it is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from raytrail.errors import ConfigError, NotFoundError, RaytrailError
from raytrail.exit_codes import BROKEN, BUG, DIFFERENT, INTERRUPTED, OK, USAGE

if TYPE_CHECKING:
    from logging import Logger

COMMANDS = {
    "Export": {
        "run": "Start Ray, or a driver, so that nothing is lost.",
        "env": "Print what Ray must be told so that nothing is lost.",
    },
    "Ship and keep": {
        "up": "Agent, history and server in one process, for one machine.",
        "agent": "Publish what Ray writes on this node.",
        "history": "Keep what the agents publish.",
        "serve": "Answer over HTTP, as the clusters would have.",
        "import": "Read sessions that Ray left on disk into a history.",
        "snapshot": "Keep what a running Ray says, where it exports nothing.",
    },
    "Ask": {
        "clusters": "List the clusters of a history.",
        "why": "Say how a job or a cluster ended, and why.",
        "list": "List tasks, actors, nodes, jobs, ... of a cluster, as they were at any time.",
        "get": "Show one task, actor, node, job, ... in full.",
        "exec": "Run a command on a cluster of the history as if it were there.",
        "failures": "Group what failed by what it has in common.",
        "summary": "Count tasks, actors or objects by name and state.",
        "functions": "Show which functions took the time.",
        "diff": "Show what is different between two runs.",
        "logs": "List a cluster's logs, or print one.",
        "timeline": "Write what each process did, and when, to a file.",
        "sql": "Ask all clusters in SQL.",
        "ledger": "Show what was written, what was stored, and what is missing.",
        "rejected": "List chunks that arrived and could not be stored, or print the bytes of one.",
        "subscribe": "Print events as they are published.",
        "schema": "Print the JSON Schema of events.",
    },
    "Care": {
        "doctor": "Say what this node would export, and what is wrong.",
        "settings": "Show every setting with its value.",
        "seal": "Close a session for good.",
        "delete": "Delete sessions for good.",
        "hold": "Keep sessions from being deleted, by the settings or by anybody.",
        "verify": "Check that the history's files are what was written.",
        "backup": "Back the history up.",
        "restore": "Bring a history back from a backup.",
        "migrate": "Bring a history of an older version to the newest layout.",
        "rebuild": "Make a session's state anew from its events alone.",
    },
}
"""
Each command with the first sentence of its help, by section.

It stands here so that ``raytrail --help`` imports no command. A test keeps the two equal.
"""


_HELP = """\
Raytrail gives every state change of a Ray cluster as a stream, from Ray's Export API, and keeps a history that
answers after the cluster is gone.

\b
    file -> tail -> chunk -> publish -> consume -> append -> fold -> serve
            '------- agent -------'     '------ history ------'
"""

_EPILOG = """\
\b
Exit codes:
  0    done
  1    not found, or something lacks or differs (doctor, import, snapshot, ledger --check,
       verify, restore, delete)
  2    a wrong option, argument or setting
  3    the store, the broker or a file could not be used
  70   a bug in Raytrail
  130  interrupted before it was done
`run` and `exec` end as their command does.
"""


class _Main(click.Group):
    """Imports a command when it is called, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        # import and list are words of Python's own
        module = name + "_" if name in ("import", "list") else name
        command: click.Command = getattr(import_module(f"raytrail.cli.{module}"), module)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        every = self.list_commands(ctx)
        if args[0] not in every and not args[0].startswith("-"):
            from raytrail.words import instead

            ctx.fail(f"no command {args[0]!r}{instead(args[0], every, 'there are')}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(_EPILOG)

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except RaytrailError as error:
            _say(error)
            if isinstance(error, ConfigError):
                ctx.exit(USAGE)
            ctx.exit(DIFFERENT if isinstance(error, NotFoundError) else BROKEN)
        except BrokenPipeError:
            # `| head` has seen enough. Python would complain once more when it closes stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(OK)
        except OSError as error:
            _say(error)
            ctx.exit(BROKEN)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as fault:  # noqa: BLE001 (the outermost line)
            _say_bug(fault)
            ctx.exit(BUG)


def _say(error: Exception) -> None:
    message = " ".join(str(error).split()) or type(error).__name__
    if log := _structured_log():
        log.error("%s", message)
    else:
        click.echo(f"raytrail: error: {message}", err=True)


def _say_bug(fault: Exception) -> None:
    if log := _structured_log():
        log.critical("this is a bug in Raytrail; please report it with this line", exc_info=fault)
    else:
        sys.excepthook(*sys.exc_info())
        click.echo("raytrail: error: this is a bug in Raytrail; please report it with the lines above", err=True)


def _structured_log() -> Logger | None:
    """Return what also takes errors that end a command, where programs read the log."""
    import logging

    from raytrail.log import log_format

    return logging.getLogger("raytrail") if log_format() == "json" else None


@click.group(
    cls=_Main,
    help=_HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="raytrail")
@click.option("-v", "--verbose", is_flag=True, help="Log more, on stderr.")
def main(verbose: bool) -> None:
    """Read `_HELP`."""
    from raytrail.log import log_to_stderr  # importing `logging` costs as much as all of --help

    log_to_stderr(verbose)
