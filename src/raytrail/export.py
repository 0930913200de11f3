"""
The settings of Ray that make it write down what happens. No other place names Ray's own settings.

    settings("full").environment      for `ray start` on every node, and for every driver
    settings("full").system_config    for `ray start --head`: from there it reaches C++ on all nodes, and any driver

Both are needed. Ray's Python reads the environment only, and so does a driver that starts a Ray of its own. A driver
that joins a cluster without the variables is reached by the system config only. If both set something, the system
config wins (RayConfig::initialize).

Names, defaults and effects are those of Ray 2.60 (ray_config_def.h, task_event_buffer.cc, ray_constants.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from raytrail.config import HookedType, ProbedType
from raytrail.errors import ConfigError

RAY_TYPES = (
    "TASK",
    "ACTOR",
    "NODE",
    "DRIVER_JOB",
    "SUBMISSION_JOB",
    "TRAIN_RUN",
    "TRAIN_RUN_ATTEMPT",
    "DATASET_METADATA",
    "DATASET_OPERATOR_EVENT",
    "DATASET_OPERATOR_SCHEMA",
)
"""Event types that Ray writes (`ExportEvent.SourceType`, export_event.proto)."""
HOOKED_TYPES: tuple[str, ...] = get_args(HookedType)
"""Those that `PRELOAD` writes in Ray's own workers."""
PROBED_TYPES: tuple[str, ...] = get_args(ProbedType)
"""Those that are asked for beside Ray."""
TYPES = (*RAY_TYPES, *HOOKED_TYPES, *PROBED_TYPES)

SWITCH = "enable_export_api_write"
SOME = "enable_export_api_write_config"
"""The types to write. Ray reads it only while `SWITCH` is off."""
PRELOADED = "preload_python_modules"
PRELOAD = "raytrail.sources.preload"
BATCH = "export_task_events_write_batch_size"
INTERVAL = "task_events_report_interval_ms"
TIMELINE = "enable_timeline"
PUBLISHER_BUFFER = "publisher_entity_buffer_max_bytes"
EXPORT_BUFFER = "task_events_max_num_export_status_events_buffer_on_worker"
PROFILE_LIMITS = ("task_events_max_num_profile_events_per_task", "task_events_max_num_profile_events_buffer_on_worker")
TRAIN = "RAY_TRAIN_ENABLE_STATE_TRACKING"
SOURCES = "RAYTRAIL_SOURCES_TYPES"

SILENCING = {
    # see gcs_actor.cc and its like, and task_event_buffer.cc
    "enable_ray_event": "ACTOR, NODE and DRIVER_JOB",
    "enable_core_worker_ray_event_to_aggregator": "TASK",
    "enable_ray_task_event_recorder": "TASK",
}
"""Switches of Ray's newer event path: each with the event types whose files it silences."""
HTTP_SWITCHES = {
    "enable_ray_event": ("ACTOR", "NODE", "DRIVER_JOB", "WORKER"),
    "enable_core_worker_ray_event_to_aggregator": ("TASK",),
}
"""The switches that make Ray post events over HTTP, and not write them, each with the event types that then come so."""
HTTP_SINCE = (2, 52)
"""The first Ray that does. An older one does not start with these switches in its system config."""
HTTP_ADDRESS = "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR"
"""The URL that each node's aggregator agent posts to (ray/dashboard/modules/aggregator/aggregator_agent.py)."""
HTTP_TYPES = "RAY_DASHBOARD_AGGREGATOR_AGENT_EXPOSABLE_EVENT_TYPES"
"""The types of its own that it posts. By default those of profiles are not among them."""
ROTATION = ("RAY_EXPORT_EVENT_MAX_FILE_SIZE_BYTES", "RAY_EXPORT_EVENT_MAX_BACKUP_COUNT")
"""Ray reads these numbers as yes or no (ray_constants.py): files never rotate, or at each byte."""

_HARMFUL = (*(f"RAY_{switch}" for switch in SILENCING), *ROTATION)

DEFAULT_BATCH = 10_000
SAFE_BATCH = 100_000
"""Task events that a process writes at once: enough for 25,000 tasks a second, at four a task, once a second."""
DEFAULT_INTERVAL_MS = 1_000
DEFAULT_PUBLISHER_BUFFER_BYTES = 1 << 30

PROFILES = {
    "full": "All that Ray can tell.",
    "lean": "All states, at the least cost to Ray: no profile events, so no timeline, and no names of options(name=).",
}


class Setting(NamedTuple):
    """One of Ray's settings that is the same for all types: how they are written, and not which."""

    name: str
    """In the system config."""
    default: Any
    """Ray's own."""
    values: Mapping[str, Any]
    """The values by profile. A profile that is not named keeps the default."""
    doc: str
    """Its purpose."""

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"RAY_{self.name}"

    def text_in(self, wanted: RaySettings) -> str | None:
        """Return its value among settings, as text, or None where they leave it to Ray."""
        return wanted.environment.get(self.variable)


SETTINGS = (
    Setting(
        BATCH,
        DEFAULT_BATCH,
        {"full": 1_000_000, "lean": 1_000_000},
        "Most task events that a process writes at each flush, and at its end; there are four for each task that it "
        "submits. What is over when it ends is lost without a word.",
    ),
    Setting(
        INTERVAL,
        DEFAULT_INTERVAL_MS,
        {"full": 500, "lean": 500},
        "How often a process flushes its task events: how late they are, and what a SIGKILL costs.",
    ),
    Setting(
        TIMELINE,
        True,
        {"lean": False},
        "Profile events: `ray timeline`, and the names that `options(name=)` gives to tasks.",
    ),
    Setting(
        PUBLISHER_BUFFER,
        DEFAULT_PUBLISHER_BUFFER_BYTES,
        {"full": 64 << 20, "lean": 64 << 20},
        "Bytes that the GCS keeps in memory for a slow subscriber of `ray://`; beyond it the oldest are dropped.",
    ),
)


class RaySettings(NamedTuple):
    """The settings for one Ray."""

    environment: Mapping[str, str | None]
    """None: it must not be set."""
    system_config: Mapping[str, Any]


def settings(profile: str = "full", types: Collection[str] = TYPES, *, http_events: str = "") -> RaySettings:
    """
    Return what Ray must be told so that it exports.

    Args:
        profile: One of `PROFILES`.
        types: Event types, of `TYPES`.
        http_events: The URL to post to what `HTTP_SWITCHES` names. Empty leaves all to files.
    """
    config: dict[str, Any] = {SWITCH: set(RAY_TYPES) <= set(types)}
    if not config[SWITCH]:
        config[SOME] = [f"EXPORT_{event_type}" for event_type in RAY_TYPES if event_type in types]
    if set(HOOKED_TYPES) & set(types):
        config[PRELOADED] = [PRELOAD]
    config |= {setting.name: setting.values[profile] for setting in SETTINGS if profile in setting.values}
    switches = [name for name, of in HTTP_SWITCHES.items() if http_events and set(of) & set(types)]
    config |= dict.fromkeys(switches, True)
    environment = {f"RAY_{name}": as_text(value) for name, value in config.items()}
    if switches:
        environment |= {HTTP_ADDRESS: http_events, HTTP_TYPES: "ALL"}
    environment[TRAIN] = as_text(bool({"TRAIN_RUN", "TRAIN_RUN_ATTEMPT"} & set(types)))
    environment[SOURCES] = as_text([event_type for event_type in (*HOOKED_TYPES, *PROBED_TYPES) if event_type in types])
    return RaySettings({**dict.fromkeys(_HARMFUL), **environment}, config)


def off() -> RaySettings:
    """Return what Ray must be told so that it writes nothing."""
    environment = {f"RAY_{SWITCH}": "0", f"RAY_{SOME}": None, TRAIN: "0", SOURCES: ""}
    return RaySettings(environment, {SWITCH: False, SOME: []})


def parse_types(text: str) -> tuple[str, ...]:
    """
    Return the event types that a comma-separated list names, in the order of `TYPES`.

    Raises:
        ConfigError: There is no such type.
    """
    named = {name.strip().upper().removeprefix("EXPORT_") for name in text.split(",") if name.strip()}
    if unknown := sorted(named - set(TYPES)):
        raise ConfigError(f"no event type {unknown[0]!r}; name some of {', '.join(TYPES)}")
    return tuple(event_type for event_type in TYPES if event_type in named)


def in_environment(wanted: RaySettings, environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """
    Return an environment with these settings, and what is to be said about it.

    The way events are written (`SETTINGS`) stays as it is set there. The types that are written are those that were
    asked for.
    """
    merged = {name: value for name, value in environ.items() if wanted.environment.get(name, "") is not None}
    kept = {setting.variable for setting in SETTINGS} & environ.keys()
    merged |= {name: value for name, value in wanted.environment.items() if value is not None and name not in kept}
    modules = _modules(environ.get(f"RAY_{PRELOADED}", "").split(","), wanted)
    merged = {name: value for name, value in merged.items() if name != f"RAY_{PRELOADED}"}
    if modules:
        merged[f"RAY_{PRELOADED}"] = as_text(modules)
    return merged, [*_removed(environ, merged), *_kept(wanted, environ, merged)] if exports(wanted) else []


def _removed(environ: Mapping[str, str], merged: Mapping[str, str]) -> Iterator[str]:
    names = [name for name in _HARMFUL if name in environ.keys() - merged.keys()]
    if names := [name for name in names if name in ROTATION or is_on(environ[name])]:
        yield f"not passed on, as event files would stay empty or never rotate: {', '.join(names)}"


def _kept(wanted: RaySettings, environ: Mapping[str, str], merged: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environ.keys() & merged.keys()):
        value, ours = merged[name], wanted.environment.get(name, environ[name])
        why = "" if value == wanted.environment.get(name) else loss(name.removeprefix("RAY_"), value)
        if why or (value == environ[name] != ours and name != f"RAY_{PRELOADED}"):
            yield f"{name}={value} is kept, as it is set" + (f": {why}" if why else f" (otherwise {ours})")


def in_system_config(
    wanted: RaySettings, given: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """
    Return a system config with these settings, and what is to be said about it.

    Args:
        wanted: The wanted settings. Off wins over the given ones, and all else gives way to them.
        given: The one that Ray would have had.
        environ: Ray's environment. Its values of `SETTINGS` must not be overruled.
    """
    modules = _modules(given.get(PRELOADED, []), wanted)
    preloaded = {PRELOADED: modules} if modules or PRELOADED in given else {}
    if not exports(wanted):
        return {**given, **preloaded, **wanted.system_config}, []
    kept = {
        setting.name
        for setting in SETTINGS
        if environ.get(setting.variable, setting.text_in(wanted)) != setting.text_in(wanted)
    }
    ours = {name: value for name, value in wanted.system_config.items() if name not in kept}
    lost = {name: loss(name, value) for name, value in given.items() if ours.get(name) != value}
    notes = [f"--system-config has {name} = {as_text(given[name])}: {why}" for name, why in lost.items() if why]
    return {**ours, **given, **preloaded}, notes


def exports(wanted: RaySettings) -> bool:
    """Return whether these settings let Ray write anything."""
    return bool(wanted.system_config.get(SWITCH) or wanted.system_config.get(SOME) or wanted.environment[SOURCES])


def loss(name: str, value: object) -> str:
    """Return what a setting of Ray's makes the event files lose, in a few words, or nothing where it is harmless."""
    number = as_number(value)
    if name == SWITCH and not is_on(value):
        return "C++ exports nothing: no tasks, actors, nodes and driver jobs"
    if name in SILENCING and is_on(value):
        return f"the files of {SILENCING[name]} stay empty"
    if name == BATCH and number is not None and number < SAFE_BATCH:
        return f"a driver above {number // 4:,} tasks/s loses the backlog when it ends"
    if name == EXPORT_BUFFER and number is not None and number < SAFE_BATCH:
        return f"of more than {number:,} task events between two flushes the oldest are lost"
    if name == INTERVAL and number is not None and number <= 0:
        return "no task event is recorded"
    if name == INTERVAL and number is not None and number > DEFAULT_INTERVAL_MS:
        return f"a process that is killed loses what it did in up to {number / 1_000:g} s"
    if (name == TIMELINE and not is_on(value)) or (name in PROFILE_LIMITS and number == 0):
        return "no timeline, and no names that options(name=) gave to tasks"
    return ""


def posts_events(version: str) -> bool:
    """Return whether the Ray of that version can post events over HTTP."""
    return tuple(int(number) for number in version.split(".")[:2]) >= HTTP_SINCE


def is_on(value: object) -> bool:
    """Return whether Ray takes a switch for on (RayConfig, ray_constants.env_bool)."""
    return str(value).lower() in ("1", "true")


def as_number(value: object) -> int | None:
    """Return a number as Ray reads it, or None where it is none."""
    try:
        return int(str(value))
    except ValueError:
        return None


def as_text(value: Any) -> str:
    """Return a value as Ray reads it from the environment."""
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(value) if isinstance(value, list) else str(value)


def _modules(given: Iterable[str], wanted: RaySettings) -> list[str]:
    """Return the modules to preload: those given, and ours where it is wanted."""
    return [*(module for module in given if module not in ("", PRELOAD)), *wanted.system_config.get(PRELOADED, [])]
