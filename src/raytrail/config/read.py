"""Settings as they are given: in a TOML file, then in the environment, then on the command line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import msgspec

from raytrail.config.destination import destinations
from raytrail.config.setting import settings
from raytrail.config.size import as_bytes
from raytrail.config.suggestion import suggestion
from raytrail.config.tables import HEARTBEAT_SECONDS, LEAST_QUIET_SECONDS, Config
from raytrail.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Mapping[str, Any]]) -> Config:
    """
    Read the settings: file, then environment, then flags.

    Args:
        path: The TOML file. None reads the one that ``RAYTRAIL_CONFIG`` names, if any.
        environ: The process's environment, with names as ``RAYTRAIL_<TABLE>_<NAME>``. A list is comma-separated.
        flags: The command line's values, by table and name. Text is read as the environment's is.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or out of range.
    """
    tables: dict[str, dict[str, Any]] = {}
    for layer in layers(path, environ).values():
        for table, values in layer.items():
            tables.setdefault(table, {}).update(values)
    known = {(setting.table, setting.name): setting for setting in settings()}
    for table, given in flags.items():
        for name, value in given.items():
            setting = known[table, name]
            text = isinstance(value, str)
            tables.setdefault(table, {})[name] = _from_text(setting.flag, value, setting.type) if text else value
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings: {error}") from error
    destinations(config)
    if config.store.seal_after_quiet_seconds < LEAST_QUIET_SECONDS:
        raise ConfigError(
            f"settings: store.seal_after_quiet_seconds {config.store.seal_after_quiet_seconds:g} is shorter than two "
            f"signs of life of an agent, which come every {HEARTBEAT_SECONDS:g} seconds: clusters that are idle would "
            f"be sealed while they live; give {LEAST_QUIET_SECONDS:g} or more"
        )
    return config


def layers(path: Path | None, environ: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return the values of the settings file and of the environment, by their source. Later ones win.

    Raises:
        ConfigError: As in `load`.
    """
    if path is None and environ.get("RAYTRAIL_CONFIG"):
        path = Path(environ["RAYTRAIL_CONFIG"])
    return ({} if path is None else {str(path): _read(path)}) | {"environment": _from_environment(environ)}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables: dict[str, dict[str, Any]] = _with_sizes(tomllib.loads(path.read_text(encoding="utf-8")))
        msgspec.convert(tables, Config)
    except OSError as error:
        raise ConfigError(f"settings file {path}: {error.strerror}; create it, or mend its path") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}{suggestion(str(error))}") from error
    return tables


_KUBERNETES = re.compile(r"_(SERVICE_(HOST|PORT(_.+)?)|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)$")
"""The variables that Kubernetes gives every pod of a namespace about a service named, say, ``raytrail-server``."""


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    known = {setting.variable: setting for setting in settings()}
    prefixes = tuple({f"RAYTRAIL_{setting.table}_".upper() for setting in known.values()})
    for name, text in environ.items():
        # ... and it calls its URL RAYTRAIL_SERVER_PORT
        a_service = "://" in text and (name not in known or known[name].type is not str)
        if not name.startswith(prefixes) or _KUBERNETES.search(name) or a_service:
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or sorted(known)
            value = f" (={text!r})" if re.fullmatch(r"[0-9.]+|true|false", text) else ""  # else it may be a secret
            raise ConfigError(f"no setting {name}{value} in the environment; did you mean {near[0]}?")
        setting = known[name]
        tables.setdefault(setting.table, {})[setting.name] = _from_text(name, text, setting.type)
    return tables


def _from_text(name: str, text: str, kind: Any) -> Any:
    value: Any = text
    if name.lower().endswith("bytes") and get_origin(kind) is not dict:
        value = as_bytes(text)
    elif get_origin(kind) is tuple:
        value = tuple(part for part in text.split(",") if part)
    elif get_origin(kind) is dict:
        value = {key: rate for key, _, rate in (part.partition("=") for part in text.split(",") if part)}
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        shown = "***" if "@" in text or "://" in text else repr(text)
        raise ConfigError(f"{name}={shown}: {error}") from error


def _with_sizes(values: Any) -> Any:
    """Return a file's values with sizes as numbers of bytes."""
    if not isinstance(values, dict):
        return values
    return {
        name: as_bytes(value) if name.endswith("_bytes") and isinstance(value, str) else _with_sizes(value)
        for name, value in values.items()
    }
