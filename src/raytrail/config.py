"""
Every setting: its name, unit, default and meaning, in one place.

Read from a TOML file with one table a room, then from the environment (``RAYTRAIL_TAIL_POLL_SECONDS``), then
from the command line (``--poll-seconds``); later ones win. The flags, ``raytrail settings`` and the table in
the docs are made from here too (`settings`, `markdown`).
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
"""How often an agent says of a session that is alive that it is, at least."""
LEAST_QUIET_SECONDS = 2 * HEARTBEAT_SECONDS
"""The shortest quiet that says anything: a session that is alive is heard of once in that time, and may be late."""

Table = TypeVar("Table", bound="_Table")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the settings file."""


class TailConfig(_Table, frozen=True, kw_only=True):
    """Files to chunks, on every node."""

    cluster: str = ""
    """
    The name you give this cluster. Sessions of one name are listed together; each keeps its own
    history.
    """
    temp_dir: str = "/tmp/ray"
    """Ray's ``--temp-dir``: where its session directories are."""
    sessions: Literal["new", "all"] = "new"
    """
    Which sessions to ship: ``new`` (``session_latest`` and all that begin later) or ``all`` that are
    there.
    """
    export: bool = True
    """
    Off: nothing is read, and nothing leaves this node. What Ray writes meanwhile is shipped once it is on
    again, as far as Ray still has it.
    """
    event_types: tuple[str, ...] = ()
    """Event types to ship, as in file names (``TASK``, ``ACTOR``, ...); none means all."""
    without_event_types: tuple[str, ...] = ()
    """Event types not to ship, whatever `event_types` says."""
    events_per_second: dict[str, Annotated[float, Positive]] = {}
    """
    Most events of a type that are shipped in a second, as ``TASK=5000``; ``ALL`` is for all types together, and
    the small types come before ``TASK``, logs last. What is over waits in its file, and is never dropped. A log's
    lines are no events.
    """
    bytes_per_second: dict[str, Annotated[float, Positive]] = {}
    """The same in bytes, as Ray wrote them, before any compression."""
    redact: tuple[str, ...] = ("env_vars",)
    """
    Names whose values are masked with asterisks before anything leaves the node, wherever in an event they are, in
    lower and in upper case. What is called or looks like a secret is masked as well: passwords, tokens, keys, what URLs
    and commands hold of them. None: nothing is masked at all.
    """
    redact_logs: bool = True
    """Mask the same in the lines of logs. Off: what a program prints leaves the node as it is."""
    logs: bool = True
    """Ship the sessions' logs, too: all files in ``logs/`` that hold no events, as event type ``LOG``."""
    log_include: tuple[str, ...] = ()
    """Logs to ship, as globs of their names in ``logs/``, e.g. ``worker-*`` or ``serve/*``; none means all."""
    log_exclude: tuple[str, ...] = ("debug_state*.txt",)
    """Logs not to ship, whatever `log_include` says. Ray writes the default ones anew every ten seconds."""
    log_file_bytes: Annotated[int, AtLeastOne] = 1024 * 1024 * 1024
    """Most bytes of one log that are shipped. What is over is counted as skipped, and missing where it is read."""
    rotation_bytes: Annotated[int, AtLeastOne] = 100_000_000
    """At what size Ray rotates an event file (100 MB in Ray 2.60); for the warning below."""
    rotation_files: Annotated[int, AtLeastOne] = 20
    """
    How many rotated files Ray keeps of a writer before it deletes the oldest. It is warned of when unread bytes have
    less than a quarter of that way to go.
    """
    poll_seconds: Annotated[float, Positive] = 0.18
    """How often new bytes are looked for; also the most that an event waits for company."""
    sweep_seconds: Annotated[float, Positive] = 2.0
    """How often the directories are listed in full, whatever inotify said."""
    inotify: bool = True
    """
    Let the kernel name the files that grew. Off, or where there is no inotify: look at all of them each
    time.
    """
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 256 * 1024
    """Most bytes in a chunk; one longer line makes a chunk of its own."""
    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    """A longer line is set aside: its range is reported as skipped, the file goes on after it."""
    state_dir: str = "~/.local/state/raytrail"
    """Where the checkpoint is kept, and ``raytrail up`` keeps all that it has."""


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
    Event types to write: ``SERVE_INSTANCE``, ``SERVE_PROXY``, ``SERVE_APPLICATION``, ``SERVE_DEPLOYMENT``,
    ``SERVE_REPLICA``, ``DATASET_PROGRESS``, ``PLACEMENT_GROUP``, ``OBJECT``, ``WORKER``; ``ALL`` is all of them, none
    means none.
    """
    placement_group_seconds: Annotated[float, Positive] = 1.0
    """
    How often the GCS is asked for its placement groups, on the head node. Less often where an answer costs more than a
    hundredth of that.
    """
    worker_seconds: Annotated[float, Positive] = 1.0
    """The same for its workers."""
    object_seconds: Annotated[float, Positive] = 1.0
    """
    How often a node's raylet is asked for its workers' object references. Less often where an answer costs more than a
    hundredth of that: about every ten seconds with 10 000 references.
    """
    objects_limit: Annotated[int, AtLeastOne] = 10_000
    """Most object references that are asked for at once. Of more, those in the answer are kept up with."""
    serve_seconds: Annotated[float, Positive] = 1.0
    """
    How often Serve's REST API is asked, on the head node, where Serve runs without hooks and `types` has its types.
    Less often where an answer costs more than a hundredth of that.
    """
    wait_seconds: Annotated[float, Positive] = 60.0
    """The longest that a slow answer makes the next one wait; our own CPU time is kept below 1 % whatever this is."""
    receiver: str = ""
    """
    Where to take what Ray's HTTP export posts, as ``127.0.0.1:8367``, with ``raytrail run --http-events`` for the same
    address; empty means nowhere.
    """
    receiver_token: str = ""
    """
    What whoever posts there must send, as bearer token or as the password of basic authentication; empty lets everybody
    in who reaches it.
    """
    receiver_body_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    """Most bytes that are taken at once. Ray sends a thousand events at a time, again and again until they are."""


class AgentConfig(_Table, frozen=True, kw_only=True):
    """Chunks to the broker, on every node."""

    to: str = ""
    """
    Where to publish, e.g. ``file:///var/lib/raytrail/events`` or ``kafka://host:9092/ray-events``. Several places at
    once: ``[destinations.<name>]`` tables in the settings file.
    """
    listen: str = ""
    """Where to answer ``/metrics`` (Prometheus) and ``/healthz``, as ``127.0.0.1:8366``; empty means nowhere."""
    with_ray: bool = False
    """
    End when Ray on this node has: ship what is left, then exit. Told to stop while Ray runs, wait for it to stop
    first, `drain_seconds` at most, as when both are told at the same time.
    """
    in_flight_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 16 * 1024 * 1024
    """
    Most bytes that are read and not yet acknowledged. At the limit, reading stops: the file is the
    buffer.
    """
    retry_seconds: Annotated[float, Positive] = 1.0
    """How long to wait before an absent broker is tried again."""
    report_seconds: Annotated[float, Positive] = 10.0
    """
    How often the agent reports what it has seen written, for the completeness ledger, and looks whether Ray still runs;
    every 60 seconds at least.
    """
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    """How long an agent that is told to stop goes on shipping what is left. Kubernetes kills after 30."""


class StoreConfig(_Table, frozen=True, kw_only=True):
    """The history on disk."""

    dir: str = ""
    """Where the history is; empty means ``store`` in `tail.state_dir`."""
    threads: Annotated[int, AtLeastOne] = max(1, os.cpu_count() or 1)
    """Threads of the engine."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 * 1024 * 1024)] = 1024 * 1024 * 1024
    """Memory of the engine; what does not fit spills to the store's ``tmp``."""
    sql_seconds: Annotated[float, Positive] = 300.0
    """How long a question in SQL may take before it is given up."""
    sql_rows: Annotated[int, AtLeastOne] = 1_000_000
    """Most rows of an answer in SQL: all of them are held in memory, beside `memory_bytes`."""
    sql_spill_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 4 * 1024 * 1024 * 1024
    """Most bytes of the disk that questions in SQL may take, beside `memory_bytes`, while they are worked out."""
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    """Most bytes of lines appended at once; bounds memory and the time to an ack."""
    batch_seconds: Annotated[float, Positive] = 1.0
    """
    How long arriving chunks are gathered before they are appended, unless `batch_bytes` is reached
    first.
    """
    fold_seconds: Annotated[float, Positive] = 2.0
    """How often appended events are folded into what is served."""
    seal_after_end_seconds: Annotated[float, Positive] = 15.0
    """A session whose nodes are all dead is sealed when nothing has arrived for this long."""
    seal_after_quiet_seconds: Annotated[float, Positive] = 3600.0
    """
    A session of which nothing was heard for this long is sealed, and what was open is closed as inferred. Agents say
    every 60 seconds that a session is alive, where nothing else happens in it: less than 120 is refused.
    """
    stop_seconds: Annotated[float, Positive] = 60.0
    """
    How long a history that is told to stop may take for what it is at. Then it is ended by force: nothing is lost, and
    what was not acknowledged comes again.
    """
    set_aside_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    """
    Most bytes kept, for a person to read, of chunks that arrived and cannot be stored; the oldest go first. The ledgers
    go on counting those that went. 0 keeps none.
    """


class ServerConfig(_Table, frozen=True, kw_only=True):
    """The store over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8365
    """Port to listen on; 0 takes a free one."""
    token: str = ""
    """
    What whoever asks must send, as bearer token; browsers are asked for it once. Needed where other machines reach
    `host`.
    """
    wrong_tokens_per_minute: Annotated[int, AtLeastOne] = 10
    """
    How many wrong tokens of one address are answered with 401 in a minute; those that are over, with 429. Whoever sends
    the right one is let in all the same.
    """
    open: bool = False
    """Whether other machines may ask without a token, as behind a proxy that knows its users."""
    hosts: tuple[str, ...] = ()
    """
    Names that the server is asked by, beside ``localhost`` and addresses. Without a token it refuses others, so that no
    page on the web can have its own name lead here.
    """
    origins: tuple[str, ...] = ()
    """
    Origins of pages that may post and follow logs beside the server's own, as ``https://history.example``: where a
    proxy asks by another name than the browser does. Those of others are refused, with a token or without.
    """
    tls_certificate: str = ""
    """File of the certificate, with those it was signed by, to serve HTTPS."""
    tls_key: str = ""
    """File of the certificate's key."""
    dashboard: str = ""
    """
    Directory of Ray's dashboard, ``ray/dashboard/client/build`` in a Ray. Empty takes that of the Ray that is installed
    beside the server, where there is one; ``off`` shows a page of our own in its place.
    """
    ingest: str = ""
    """
    Where to publish what agents and foreign collectors post to ``/ingest``, a broker's URL; ``on`` with ``raytrail up``
    is what it publishes to itself. Empty: nothing is taken.
    """
    ingest_token: str = ""
    """
    What whoever posts to ``/ingest`` must send, as bearer token or as the password of basic authentication. It lets
    them read nothing. Empty: `server.token`, where there is one; else everybody is let in.
    """
    ingest_body_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 65 * 1024 * 1024
    """
    Most bytes of a body, as sent and as decompressed: the longest line that an agent ships by default, and some.
    """
    ingest_ratio: Annotated[float, msgspec.Meta(ge=1)] = 200.0
    """How many times as long as it was sent a body may be when decompressed; 16 MB it may be anyway."""
    ingest_memory_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    """
    Most bytes of all bodies that are being taken at the same time. Where there is no room, those that hardly come make
    some, and then others are told to come back.
    """
    connections: Annotated[int, AtLeastOne] = 512
    """Most connections at the same time. Those on which nothing was asked for yet make room for new ones."""
    header_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 64 * 1024
    """Most bytes of a request's line and headers."""
    header_seconds: Annotated[float, Positive] = 10.0
    """How long a request's line and headers may take to come."""
    body_seconds: Annotated[float, Positive] = 60.0
    """How long a request's body may take to come."""
    answer_seconds: Annotated[float, Positive] = 60.0
    """How long whoever asked may read nothing of an answer that is being sent, before the connection is closed."""


class Config(_Table, frozen=True, kw_only=True):
    """One table a room."""

    tail: TailConfig = TailConfig()
    sources: SourcesConfig = SourcesConfig()
    agent: AgentConfig = AgentConfig()
    store: StoreConfig = StoreConfig()
    server: ServerConfig = ServerConfig()
    destinations: dict[str, dict[str, Any]] = {}
    """
    Places that an agent publishes to, by name, each with a `to` and whatever settings of ``tail`` and ``agent`` are
    other ones there than in those tables. Each has a checkpoint of its own, and goes at its own pace.
    """


class Destination(NamedTuple):
    """A place that an agent publishes to."""

    name: str
    """Empty for the one that `agent.to` names."""
    tail: TailConfig
    agent: AgentConfig

    @property
    def checkpoint_file(self) -> Path:
        """Where the agent keeps how far it is."""
        return Path(self.tail.state_dir).expanduser() / f"{self.name or 'checkpoint'}.sqlite"

    @property
    def dead_letters(self) -> Path:
        """Where the agent keeps the lines that the broker will never take."""
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
    """What it may be, in words: ``integer >= 1``."""
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
        """Its name on the command line; a table's ``dir`` goes by the table's name."""
        return "--" + (self.table if self.name == "dir" else self.name.replace("_", "-"))

    @property
    def common(self) -> bool:
        """Whether many people set it, so that it is in the short help."""
        return self.key in _COMMON

    @property
    def shown_default(self) -> str:
        """The default as people write it, e.g. ``256 KiB``; empty where there is none."""
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
        path: The TOML file; None reads the one that ``RAYTRAIL_CONFIG`` names, if any.
        environ: The process's environment. ``RAYTRAIL_<TABLE>_<NAME>``; a list is comma-separated.
        flags: What the command line said, by table and name; text is read as the environment's is.

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
    Return where the agent publishes to: what `agent.to` says, and every table of `destinations`.

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
            raise ConfigError(f"destination {name!r}: {error}{_meant(str(error))}") from error
        configured.append(Destination(name, tail, agent))
    return tuple(configured)


def _changed(table: Table, values: dict[str, Any]) -> Table:
    return msgspec.convert({**msgspec.to_builtins(table), **values}, type(table))


def layers(path: Path | None, environ: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return what the settings file and the environment say, by where they say it; later ones win.

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


def _meant(error: str) -> str:
    """Return the name that is likely meant by one that msgspec does not know, as the end of an error."""
    match = re.match(r"Object contains unknown field `(.+?)`(?: - at `\$\.(\w+))?", error)
    if match is None:
        return ""
    names = [setting.name for setting in settings() if match[2] in (None, setting.table)]
    tables = [] if match[2] else Config.__struct_fields__
    near = difflib.get_close_matches(match[1], [*tables, *names], n=1)
    return f"; did you mean {near[0]}?" if near else "; `raytrail settings` lists all"


_KUBERNETES = re.compile(r"_(SERVICE_(HOST|PORT(_.+)?)|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)$")
"""What Kubernetes tells every pod of a namespace about a service named, say, ``raytrail-server``."""


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
    """Return what a file says, its sizes as numbers of bytes."""
    if not isinstance(values, dict):
        return values
    return {
        name: _bytes(value) if name.endswith("_bytes") and isinstance(value, str) else _with_sizes(value)
        for name, value in values.items()
    }


def _bytes(text: str) -> str | int:
    """Return a size in bytes, e.g. of ``256 KiB``; what is no size as it is, of which the type's error says more."""
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
