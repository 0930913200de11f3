"""
Every setting: its name, unit, default and meaning, in one place.

Settings are read from a TOML file with one table a room, then from the environment (``RAYTRAIL_TAIL_POLL_SECONDS``),
then from the command line (``--poll-seconds``). Later ones win. The flags, ``raytrail settings`` and the table in the
docs are made from the declarations too (`settings`, `markdown`).
"""

from __future__ import annotations

from raytrail.config.destination import Destination, checkpoint_files, destinations, state_dir, store_dir
from raytrail.config.read import layers, load
from raytrail.config.setting import Setting, markdown, settings, table_docs
from raytrail.config.tables import (
    HEARTBEAT_SECONDS,
    LEAST_QUIET_SECONDS,
    AgentConfig,
    Config,
    HookedType,
    ProbedType,
    ServerConfig,
    SourcesConfig,
    StoreConfig,
    TailConfig,
)

__all__ = [
    "HEARTBEAT_SECONDS",
    "LEAST_QUIET_SECONDS",
    "AgentConfig",
    "Config",
    "Destination",
    "HookedType",
    "ProbedType",
    "ServerConfig",
    "Setting",
    "SourcesConfig",
    "StoreConfig",
    "TailConfig",
    "checkpoint_files",
    "destinations",
    "layers",
    "load",
    "markdown",
    "settings",
    "state_dir",
    "store_dir",
    "table_docs",
]
