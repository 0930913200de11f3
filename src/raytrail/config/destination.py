"""Where an agent publishes to, and where it and the history keep what is theirs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from raytrail.config.suggestion import suggestion
from raytrail.config.tables import PROCESS, AgentConfig, Config, Table, TailConfig
from raytrail.errors import ConfigError

_Changed = TypeVar("_Changed", bound=Table)


class Destination(NamedTuple):
    """A place that an agent publishes to."""

    name: str
    """Empty for the one that `agent.to` names."""
    tail: TailConfig
    agent: AgentConfig

    @property
    def checkpoint_file(self) -> Path:
        """The file in which the agent keeps its progress."""
        return Path(self.tail.state_dir).expanduser() / f"{self.name or 'checkpoint'}.sqlite"

    @property
    def dead_letters(self) -> Path:
        """The directory of the lines that the broker will never take."""
        return Path(self.tail.state_dir).expanduser() / "dead-letters" / (self.name or "checkpoint")


def destinations(config: Config) -> tuple[Destination, ...]:
    """
    Return the places that the agent publishes to, from `agent.to` and from every table of `destinations`.

    Raises:
        ConfigError: A destination has no `to`, a setting that is none of a destination's, or one out of range.
    """
    configured = [Destination("", config.tail, config.agent)] if config.agent.to else []
    for name, given in config.destinations.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in ("checkpoint", "default"):
            raise ConfigError(f"destination {name!r}: name it with a-z, 0-9, '_', '-'; not 'checkpoint' or 'default'")
        if not given.get("to"):
            raise ConfigError(f"destination {name!r} names no place; give it a `to`, e.g. kafka://host:9092/ray-events")
        for setting in given.keys() & PROCESS:
            raise ConfigError(f"destination {name!r}: {setting} is one for all; set it in [tail] or [agent]")
        ours = set(TailConfig.__struct_fields__)
        try:
            tail = _changed(config.tail, {key: value for key, value in given.items() if key in ours})
            agent = _changed(config.agent, {key: value for key, value in given.items() if key not in ours})
        except msgspec.ValidationError as error:
            raise ConfigError(f"destination {name!r}: {error}{suggestion(str(error), of_destination=True)}") from error
        configured.append(Destination(name, tail, agent))
    return tuple(configured)


def _changed(table: _Changed, values: dict[str, Any]) -> _Changed:
    return msgspec.convert({**msgspec.to_builtins(table), **values}, type(table))


def store_dir(config: Config) -> Path:
    """Return where the history is."""
    return Path(config.store.dir).expanduser() if config.store.dir else state_dir(config) / "store"


def state_dir(config: Config) -> Path:
    """Return where the agent, and ``raytrail up``, keep what is theirs."""
    return Path(config.tail.state_dir).expanduser()


def checkpoint_files(config: Config) -> tuple[Path, ...]:
    """Return where the agent keeps how far it is, for each destination, or for one that its command line names."""
    configured = destinations(config) or (Destination("", config.tail, config.agent),)
    return tuple(destination.checkpoint_file for destination in configured)
