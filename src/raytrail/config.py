"""
Every setting: its name, unit, default and meaning, in one place.

Settings are read from a TOML file with one table a room, then from the environment (``RAYTRAIL_TAIL_POLL_SECONDS``),
then from the command line (``--poll-seconds``). Later ones win. The flags, ``raytrail settings`` and the table in the
docs are made from here too (`settings`, `markdown`).
"""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_origin

import msgspec
import msgspec.inspect

from raytrail.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Positive = msgspec.Meta(gt=0)
AtLeastOne = msgspec.Meta(ge=1)


HEARTBEAT_SECONDS = 60.0
"""The longest that an agent lets pass before it reports again that a session is alive."""
LEAST_QUIET_SECONDS = 2 * HEARTBEAT_SECONDS
"""The shortest quiet that says anything. An agent reports a living session once in half of it, and may be late."""

Table = TypeVar("Table", bound="_Table")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the settings file."""


class TailConfig(_Table, frozen=True, kw_only=True):
    """Files to chunks, on every node."""

    cluster: str = ""
    """
    The name you give this cluster. Sessions of one name are listed together. Each keeps its own history.
    """
    temp_dir: str = "/tmp/ray"
    """Ray's ``--temp-dir``, which holds its session directories."""
    sessions: Literal["new", "all"] = "new"
    """
    Which sessions to ship. ``new`` is ``session_latest`` and all that begin later, ``all`` is every session that is
    there.
    """
    export: bool = True
    """
    Ship at all. When it is off, nothing is read and nothing leaves this node. The agent ships what Ray wrote meanwhile
    once it is on again, as far as Ray still has it.
    """
    event_types: tuple[str, ...] = ()
    """Event types to ship, as in file names (``TASK``, ``ACTOR``, ...). None means all."""
    without_event_types: tuple[str, ...] = ()
    """Event types not to ship, whatever `event_types` says."""
    events_per_second: dict[str, Annotated[float, Positive]] = {}
    """
    The most events of a type that are shipped in a second, as ``TASK=5000``. ``ALL`` is for all types together. Then
    the small types come before ``TASK``, and logs come last. An event over the limit waits in its file and is never
    dropped. A log's lines are no events.
    """
    bytes_per_second: dict[str, Annotated[float, Positive]] = {}
    """The most bytes of a type that are shipped in a second, as Ray wrote them, before any compression."""
    redact: tuple[str, ...] = ("env_vars",)
    """
    Names whose values are masked with asterisks before anything leaves the node. A name counts wherever in an event it
    is, in lower and in upper case. Passwords, tokens, keys and the like are masked as well, by their names and by their
    looks, also in URLs and commands. An empty list masks nothing at all.
    """
    redact_logs: bool = True
    """Mask the same in the lines of logs. When it is off, whatever a program prints leaves the node as it is."""
    logs: bool = True
    """Ship the sessions' logs, too. They are all files in ``logs/`` without events. Their event type is ``LOG``."""
    log_include: tuple[str, ...] = ()
    """Logs to ship, as globs of their names in ``logs/``, e.g. ``worker-*`` or ``serve/*``. None means all."""
    log_exclude: tuple[str, ...] = ("debug_state*.txt",)
    """Logs not to ship, whatever `log_include` says. Ray writes the default ones anew every ten seconds."""
    log_file_bytes: Annotated[int, AtLeastOne] = 1024 * 1024 * 1024
    """
    The most bytes of one log that are shipped. Bytes over the limit are counted as skipped, and are missing where the
    log is read.
    """
    rotation_bytes: Annotated[int, AtLeastOne] = 100_000_000
    """The size at which Ray rotates an event file (100 MB in Ray 2.60). It serves the warning of `rotation_files`."""
    rotation_files: Annotated[int, AtLeastOne] = 20
    """
    How many rotated files Ray keeps of a writer before it deletes the oldest. The agent warns when unread bytes have
    less than a quarter of that way to go.
    """
    poll_seconds: Annotated[float, Positive] = 0.18
    """How often the agent looks for new bytes. An event waits no longer than this for others to go with."""
    sweep_seconds: Annotated[float, Positive] = 2.0
    """How often the directories are listed in full, whatever inotify reported."""
    inotify: bool = True
    """
    Let the kernel name the files that grew. When it is off, or where there is no inotify, the agent looks at all of
    them each time.
    """
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 512 * 1024
    """The most bytes in a chunk. A longer line makes a chunk of its own."""
    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    """The longest line that is shipped. A longer one is reported as skipped, and the file goes on after it."""
    state_dir: str = "~/.local/state/raytrail"
    """Directory of the agent's checkpoint, and of all that ``raytrail up`` keeps."""


HookedType = Literal[
    "SERVE_INSTANCE", "SERVE_PROXY", "SERVE_APPLICATION", "SERVE_DEPLOYMENT", "SERVE_REPLICA", "DATASET_PROGRESS"
]
"""Event types that are written in Ray's own processes."""
ProbedType = Literal["PLACEMENT_GROUP", "WORKER", "OBJECT"]
"""Event types that Ray is asked for."""


class SourcesConfig(_Table, frozen=True, kw_only=True):
    """Event files that Ray does not write itself."""

    types: tuple[Literal["ALL"] | HookedType | ProbedType, ...] = ()
    """
    Event types to write, among ``SERVE_INSTANCE``, ``SERVE_PROXY``, ``SERVE_APPLICATION``, ``SERVE_DEPLOYMENT``,
    ``SERVE_REPLICA``, ``DATASET_PROGRESS``, ``PLACEMENT_GROUP``, ``OBJECT`` and ``WORKER``. ``ALL`` is all of them.
    None means none.
    """
    placement_group_seconds: Annotated[float, Positive] = 1.0
    """
    How often the agent on the head node asks the GCS for its placement groups. It asks less often where an answer costs
    more than a hundredth of that.
    """
    worker_seconds: Annotated[float, Positive] = 1.0
    """The same for the GCS's workers."""
    object_seconds: Annotated[float, Positive] = 1.0
    """
    How often the agent asks its node's raylet for its workers' object references. It asks less often where an answer
    costs more than a hundredth of that, which is about every ten seconds with 10 000 references.
    """
    objects_limit: Annotated[int, AtLeastOne] = 10_000
    """
    The most object references that are asked for at once. If there are more, only those in the answer are known.
    """
    serve_seconds: Annotated[float, Positive] = 1.0
    """
    How often the agent on the head node asks Serve's REST API, where Serve runs without hooks and `types` has its
    types. It asks less often where an answer costs more than a hundredth of that.
    """
    wait_seconds: Annotated[float, Positive] = 60.0
    """The longest that a slow answer makes the next one wait. Raytrail's own CPU time stays below 1 % all the same."""
    receiver: str = ""
    """
    Address where the agent takes what Ray's HTTP export posts, e.g. ``127.0.0.1:8367``. Ray posts there when it is
    started with ``raytrail run --http-events`` and the same address. Empty means nowhere.
    """
    receiver_token: str = ""
    """
    Token that a sender must give, as bearer token or as the password of basic authentication. Empty lets everybody in
    who reaches it.
    """
    receiver_body_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    """
    The most bytes that are taken at once. Ray sends a thousand events at a time, and sends them again until they are
    taken.
    """


class AgentConfig(_Table, frozen=True, kw_only=True):
    """Chunks to the broker, on every node."""

    to: str = ""
    """
    Place to publish to, e.g. ``file:///var/lib/raytrail/events`` or ``kafka://host:9092/ray-events``. To publish to
    several places at once, give ``[destinations.<name>]`` tables in the settings file.
    """
    listen: str = ""
    """Address that answers ``/metrics`` (Prometheus) and ``/healthz``, e.g. ``127.0.0.1:8366``. Empty means nowhere."""
    with_ray: bool = False
    """
    End when Ray on this node has ended. The agent ships what is left, then exits. An agent that is told to stop while
    Ray runs waits for Ray to stop first, `drain_seconds` at most. That serves where both are told at the same time.
    """
    in_flight_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 10 * 1024 * 1024
    """
    The most bytes that are read and not yet acknowledged. At the limit, reading stops, since the file is the buffer.
    """
    retry_seconds: Annotated[float, Positive] = 1.0
    """How long to wait before an absent broker is tried again."""
    report_seconds: Annotated[float, Positive] = 10.0
    """
    How often the agent reports what it has seen written, for the completeness ledger, and looks whether Ray still runs.
    It does both every 60 seconds at least.
    """
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    """How long an agent that is told to stop goes on shipping what is left. Kubernetes kills after 30."""


class StoreConfig(_Table, frozen=True, kw_only=True):
    """The history on disk."""

    dir: str = ""
    """Directory of the history. Empty means ``store`` in `tail.state_dir`."""
    threads: Annotated[int, AtLeastOne] = max(1, os.cpu_count() or 1)
    """Threads of the engine."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 * 1024 * 1024)] = 1024 * 1024 * 1024
    """Memory of the engine. Data that does not fit spills to the store's ``tmp``."""
    sql_seconds: Annotated[float, Positive] = 300.0
    """How long a question in SQL may take before it is given up."""
    sql_rows: Annotated[int, AtLeastOne] = 1_000_000
    """The most rows of an answer in SQL. All of them are held in memory, beside `memory_bytes`."""
    sql_spill_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 4 * 1024 * 1024 * 1024
    """The most bytes of the disk that questions in SQL may take, beside `memory_bytes`, while they are worked out."""
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    """The most bytes of lines that are appended at once. It bounds memory and the time to an ack."""
    batch_seconds: Annotated[float, Positive] = 1.0
    """
    How long arriving chunks are gathered before they are appended, unless `batch_bytes` is reached first.
    """
    fold_seconds: Annotated[float, Positive] = 2.0
    """How often appended events are folded into what is served."""
    seal_after_end_seconds: Annotated[float, Positive] = 15.0
    """A session whose nodes are all dead is sealed when nothing has arrived for this long."""
    seal_after_quiet_seconds: Annotated[float, Positive] = 3600.0
    """
    A session of which nothing was heard for this long is sealed, and what was open is closed as inferred. Agents report
    every 60 seconds that a session is alive, even where nothing else happens in it. Less than 120 is refused.
    """
    stop_seconds: Annotated[float, Positive] = 60.0
    """
    How long a history that is told to stop may take to finish its work. Then it is ended by force. Nothing is lost,
    since chunks that were not acknowledged come again.
    """
    set_aside_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    """
    The most bytes that are kept, for a person to read, of chunks that arrived and cannot be stored. The oldest go
    first. The ledgers go on counting those that went. 0 keeps none.
    """


class ServerConfig(_Table, frozen=True, kw_only=True):
    """The store over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8365
    """Port to listen on. 0 takes a free one."""
    token: str = ""
    """
    Token that a client must send, as bearer token. Browsers are asked for it once. It is needed where other machines
    reach `host`.
    """
    wrong_tokens_per_minute: Annotated[int, AtLeastOne] = 10
    """
    How many wrong tokens of one address are answered with 401 in a minute. Those over the limit are answered with 429.
    A client that sends the right one is let in all the same.
    """
    open: bool = False
    """Let other machines ask without a token, as behind a proxy that knows its users."""
    hosts: tuple[str, ...] = ()
    """
    Names that the server is asked by, beside ``localhost`` and addresses. A server without a token refuses others, so
    that no page on the web can have its own name lead here.
    """
    origins: tuple[str, ...] = ()
    """
    Origins of pages that may post and follow logs beside the server's own, e.g. ``https://history.example``. They are
    needed where a proxy asks by another name than the browser does. Other pages are refused, with a token or without.
    """
    tls_certificate: str = ""
    """File of the certificate, with those it was signed by, to serve HTTPS."""
    tls_key: str = ""
    """File of the certificate's key."""
    dashboard: str = ""
    """
    Directory of Ray's dashboard, ``ray/dashboard/client/build`` in a Ray. Empty takes that of the Ray that is installed
    beside the server, where there is one. ``off`` shows a page of Raytrail's own in its place.
    """
    ingest: str = ""
    """
    URL of the broker to publish to what agents and foreign collectors post to ``/ingest``. ``on`` is for ``raytrail
    up`` and means the broker that it publishes to itself. Empty takes nothing.
    """
    ingest_token: str = ""
    """
    Token that a sender to ``/ingest`` must give, as bearer token or as the password of basic authentication. It lets
    them read nothing. Empty takes `server.token`, and lets everybody in where there is none.
    """
    ingest_body_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 65 * 1024 * 1024
    """
    The most bytes of a body, as sent and as decompressed. The default is the longest line that an agent ships by
    default, and some.
    """
    ingest_ratio: Annotated[float, msgspec.Meta(ge=1)] = 200.0
    """How many times longer than it was sent a body may be when decompressed. It may be 16 MB in any case."""
    ingest_memory_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    """
    The most bytes of all bodies that are being taken at the same time. When there is no room, bodies that hardly
    come are given up. If that is not enough, the sender is told to come back.
    """
    connections: Annotated[int, AtLeastOne] = 512
    """The most connections at the same time. Those on which nothing was asked for yet make room for new ones."""
    header_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 64 * 1024
    """The most bytes of a request's line and headers."""
    header_seconds: Annotated[float, Positive] = 10.0
    """How long a request's line and headers may take to come."""
    body_seconds: Annotated[float, Positive] = 60.0
    """How long a request's body may take to come."""
    answer_seconds: Annotated[float, Positive] = 60.0
    """How long a client may read nothing of an answer that is being sent, before the connection is closed."""


class Config(_Table, frozen=True, kw_only=True):
    """One table a room."""

    tail: TailConfig = TailConfig()
    sources: SourcesConfig = SourcesConfig()
    agent: AgentConfig = AgentConfig()
    store: StoreConfig = StoreConfig()
    server: ServerConfig = ServerConfig()
    destinations: dict[str, dict[str, Any]] = {}
    """
    Places that an agent publishes to, by name. Each has a `to`, and the settings of ``tail`` and ``agent`` that differ
    there from those tables. Each has a checkpoint of its own, and goes at its own pace.
    """


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


_PROCESS = {"state_dir", "listen", "with_ray"}
"""Settings of the agent's process, which its destinations share."""


_COMMON = frozenset(
    {
        *("tail.cluster", "tail.temp_dir", "tail.event_types", "tail.redact", "tail.logs", "tail.state_dir"),
        *("sources.types", "sources.receiver", "agent.to", "agent.listen", "agent.drain_seconds"),
        *("store.dir", "store.threads", "store.memory_bytes", "store.seal_after_quiet_seconds"),
        *("server.host", "server.port", "server.token", "server.tls_certificate", "server.tls_key", "server.ingest"),
    }
)
"""The settings of the short help. ``--help-all`` shows every one."""
_BY_MACHINE = {"store.threads": "one a core"}
"""Defaults that depend on the machine, in words."""
_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]?(?:iB|B)?)\s*")


class Setting(NamedTuple):
    """One setting as its users see it."""

    table: str
    name: str
    type: Any
    kind: str
    """Its allowed values, in words, e.g. ``integer >= 1``."""
    default: Any
    doc: str

    @property
    def key(self) -> str:
        """Its place in the settings file, e.g. ``tail.poll_seconds``."""
        return f"{self.table}.{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"RAYTRAIL_{self.table}_{self.name}".upper()

    @property
    def flag(self) -> str:
        """Its name on the command line. A table's ``dir`` goes by the table's name."""
        return "--" + (self.table if self.name == "dir" else self.name.replace("_", "-"))

    @property
    def common(self) -> bool:
        """Whether it is in the short help, as many people set it."""
        return self.key in _COMMON

    @property
    def shown_default(self) -> str:
        """The default as people write it, e.g. ``256 KiB``. Empty where there is none."""
        if self.key in _BY_MACHINE:
            return _BY_MACHINE[self.key]
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        if isinstance(self.default, (int, float)):
            return _size(int(self.default)) if self.name.endswith("_bytes") else f"{self.default:.10g}"
        return self.default if isinstance(self.default, str) else ""


@cache
def settings() -> tuple[Setting, ...]:
    """Return every setting, in the order of this file."""
    docs = _docstrings()
    return tuple(
        Setting(
            table.name,
            field.name,
            field.type,
            _kind(msgspec.inspect.type_info(field.type)),
            field.default,
            docs[table.type.__name__, field.name],
        )
        for table in msgspec.structs.fields(Config)
        if table.name != "destinations"
        for field in msgspec.structs.fields(table.type)
    )


def table_docs() -> dict[str, str]:
    """Return what each table of settings is about, in the order of this file."""
    tables = msgspec.structs.fields(Config)
    return {table.name: inspect.getdoc(table.type) or "" for table in tables if table.name != "destinations"}


def markdown() -> str:
    """Return the docs' table of all settings."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in settings():
        doc = re.sub(r"``(.+?)``|`(.+?)`", r"`\1\2`", setting.doc).replace("|", "\\|")
        names = f"`{setting.key}`<br>`{setting.variable}`<br>`{setting.flag}`"
        default = f"`{setting.shown_default}`" if setting.shown_default else "none"
        lines.append(f"| {names} | {default}<br>{setting.kind} | {doc} |")
    return "\n".join(lines) + "\n"


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
        for setting in given.keys() & _PROCESS:
            raise ConfigError(f"destination {name!r}: {setting} is one for all; set it in [tail] or [agent]")
        ours = set(TailConfig.__struct_fields__)
        try:
            tail = _changed(config.tail, {key: value for key, value in given.items() if key in ours})
            agent = _changed(config.agent, {key: value for key, value in given.items() if key not in ours})
        except msgspec.ValidationError as error:
            raise ConfigError(f"destination {name!r}: {error}{_meant(str(error), of_destination=True)}") from error
        configured.append(Destination(name, tail, agent))
    return tuple(configured)


def _changed(table: Table, values: dict[str, Any]) -> Table:
    return msgspec.convert({**msgspec.to_builtins(table), **values}, type(table))


def layers(path: Path | None, environ: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return the values of the settings file and of the environment, by their source. Later ones win.

    Raises:
        ConfigError: As in `load`.
    """
    if path is None and environ.get("RAYTRAIL_CONFIG"):
        path = Path(environ["RAYTRAIL_CONFIG"])
    return ({} if path is None else {str(path): _read(path)}) | {"environment": _from_environment(environ)}


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


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables: dict[str, dict[str, Any]] = _with_sizes(tomllib.loads(path.read_text(encoding="utf-8")))
        msgspec.convert(tables, Config)
    except OSError as error:
        raise ConfigError(f"settings file {path}: {error.strerror}; create it, or mend its path") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}{_meant(str(error))}") from error
    return tables


def _meant(error: str, *, of_destination: bool = False) -> str:
    """Return the end of an error about an unknown name, with the name that is likely meant."""
    match = re.match(r"Object contains unknown field `(.+?)`(?: - at `\$\.(\w+))?", error)
    if match is None:
        return ""
    unknown, table = match.groups()
    if of_destination:
        names = [setting.name for setting in settings() if setting.table in ("tail", "agent")]
        meant = {name: name for name in {*names, "to"} - _PROCESS}
    elif table:
        meant = {setting.name: setting.name for setting in settings() if setting.table == table}
    else:  # a table, or a setting that stands in none
        meant = {setting.name: f"{setting.name} in [{setting.table}]" for setting in settings()}
        meant |= {name: name for name in Config.__struct_fields__}
    near = difflib.get_close_matches(unknown, meant, n=1)
    return f"; did you mean {meant[near[0]]}?" if near else "; `raytrail settings` lists all"


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
        value = _bytes(text)
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
        name: _bytes(value) if name.endswith("_bytes") and isinstance(value, str) else _with_sizes(value)
        for name, value in values.items()
    }


def _bytes(text: str) -> str | int:
    """Return the bytes of a size such as ``256 KiB``. Other text stays, since the type's error says more about it."""
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else text


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit of which it is a whole number, e.g. ``256 KiB``."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "kB"):
        if count and count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]} {unit}"
    return f"{count} B"


def _kind(info: Any) -> str:
    match info:
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(map(str, values))
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.VarTupleType():
            return "list"
        case msgspec.inspect.DictType(value_type=value):
            return f"table of {_kind(value)}"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            word = "integer" if isinstance(info, msgspec.inspect.IntType) else "number"
            bounds = ((">", info.gt), (">=", info.ge), ("<", info.lt), ("<=", info.le))
            return ", ".join([word, *(f"{sign} {bound:.12g}" for sign, bound in bounds if bound is not None)])
        case _:
            return "text"


def _docstrings() -> dict[tuple[str, str], str]:
    """Return each field's docstring, which a struct does not keep."""
    return {
        (table.name, name): " ".join(doc.split())
        for table in ast.parse(inspect.getsource(sys.modules[__name__])).body
        if isinstance(table, ast.ClassDef)
        for name, doc in _fields(table)
    }


def _fields(table: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, after in zip(table.body, table.body[1:], strict=False):
        match field, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as doc)),
            ):
                yield name, doc
