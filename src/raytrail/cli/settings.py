"""``raytrail settings``: every setting, and where its value comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from raytrail import config as settings_of
from raytrail.config import Config
from raytrail.pubsub.url import shown
from raytrail.terminal import options, printing
from raytrail.terminal.printing import Field


@click.command(cls=options.Command)
@options.output_format("table", "json", "markdown")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Settings file (TOML).")
def settings(form: str, config_file: Path | None) -> None:
    """
    Show every setting with its value.

    The setting tail.poll_seconds is written as poll_seconds = 0.5 under [tail] in the settings file, as
    RAYTRAIL_TAIL_POLL_SECONDS=0.5 in the environment, and as --poll-seconds 0.5 on the command line. Later ones win.
    Markdown is the table of the docs, which has defaults and no values.
    """
    if form == "markdown":
        click.echo(settings_of.markdown(), nl=False)
        return
    config = settings_of.load(config_file, os.environ, {})
    rows = _rows(config, settings_of.layers(config_file, os.environ))
    if form == "json":
        printing.write_json(rows)
        return
    for row in rows:
        row["value"] = msgspec.json.encode(row["value"]).decode()  # which is how TOML writes these, too
    fields = (
        Field("setting", whole=True),
        Field("value", whole=True),
        Field("from"),
        Field("meaning", rank=1),
    )
    printing.leave_note(printing.table(fields, rows, wrap="meaning"))


def _shown(name: str, value: Any) -> Any:
    """Return a value without what is secret in it."""
    if name.endswith("token") and value:
        return "***"
    return shown(value) if isinstance(value, str) and "://" in value else value


def _rows(config: Config, layers: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "setting": setting.key,
            "value": _shown(setting.name, getattr(getattr(config, setting.table), setting.name)),
            "from": next(
                (layer for layer in reversed(layers) if setting.name in layers[layer].get(setting.table, {})), "default"
            ),
            "meaning": setting.doc.replace("``", "").replace("`", ""),
        }
        for setting in settings_of.settings()
    ]
