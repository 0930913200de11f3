"""
Every setting: its name, unit, default and meaning.

A setting is a field with a docstring in the table of its room. Flag, variable, help and docs follow from it.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec

Positive = msgspec.Meta(gt=0)
AtLeastOne = msgspec.Meta(ge=1)


HEARTBEAT_SECONDS = 60.0
"""The longest that an agent lets pass before it reports again that a session is alive."""
LEAST_QUIET_SECONDS = 2 * HEARTBEAT_SECONDS
"""The shortest quiet that says anything. An agent reports a living session once in half of it, and may be late."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the settings file."""


class TailConfig(Table, frozen=True, kw_only=True):
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


class SourcesConfig(Table, frozen=True, kw_only=True):
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


class AgentConfig(Table, frozen=True, kw_only=True):
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


class StoreConfig(Table, frozen=True, kw_only=True):
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
    retain_days: Annotated[float, msgspec.Meta(ge=0)] = 0
    """
    How many days a sealed session is kept after its last event came. Then the history deletes it. 0 keeps all for good.
    Sessions that live, or that `raytrail hold` holds, are never deleted.
    """
    retain_days_by_name: dict[str, Annotated[float, msgspec.Meta(ge=0)]] = {}
    """
    The same by the cluster's name, in place of `retain_days`: ``nightly-*=7,prod=0``. ``*`` stands for any characters.
    Of several patterns that match a name, the one that keeps longest counts.
    """
    retain_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """
    The most bytes of all sessions' files. Over the limit, the history deletes sealed sessions, and those first whose
    last event came first. 0 sets no limit.
    """
    set_aside_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    """
    The most bytes that are kept, for a person to read, of chunks that arrived and cannot be stored. The oldest go
    first. The ledgers go on counting those that went. 0 keeps none.
    """


class HistoryConfig(Table, frozen=True, kw_only=True):
    """From a broker to the history."""

    metrics: str = ""
    """
    Address where the history answers ``/metrics`` (Prometheus), ``/healthz`` and ``/readyz``, e.g. ``127.0.0.1:8368``.
    Empty means nowhere.
    """


class ServerConfig(Table, frozen=True, kw_only=True):
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
    users_file: str = ""
    """
    File (TOML) of tokens, and of a proxy's users and groups, each with the clusters that it may read. The server reads
    it again when it changes. `token` may read all beside it. Empty means that only `token` is known.
    """
    trusted_proxies: tuple[str, ...] = ()
    """
    Addresses or networks of proxies whose word is taken for who asks, such as ``10.0.0.7`` or ``10.1.0.0/16``. They
    are believed `user_header` and `groups_header`, and ``X-Forwarded-For`` and ``X-Forwarded-Proto``. With none,
    ``127.0.0.1`` is believed the last two.
    """
    user_header: str = ""
    """
    Header in which a trusted proxy names the user, such as ``X-Forwarded-User``. It is ignored from everybody else.
    Empty takes nobody's word.
    """
    groups_header: str = ""
    """Header in which a trusted proxy names the user's groups, with commas between them."""
    access_log: str = "off"
    """
    Log each request with its user, client, path, status, bytes and duration. ``on`` logs to stderr, and a path to that
    file.
    """
    live_url: str = ""
    """
    Where people reach Ray's dashboard of a living cluster, such as ``https://ray.example/{name}/``. ``{name}`` is the
    cluster's name, ``{session}`` its session's. Pages then link there while the cluster lives. Empty links nowhere.
    """
    live_links: bool = False
    """
    Link a living cluster's dashboard at the head node's address, port 8265, where `live_url` is empty. Only a private
    address is linked, since whoever may post events names it.
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
    base_path: str = ""
    """
    The path that a proxy serves it under, such as ``/ray-history``. Links and cookies then begin with it. The proxy may
    cut it from what it asks, or leave it.
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


class Config(Table, frozen=True, kw_only=True):
    """One table a room."""

    tail: TailConfig = TailConfig()
    sources: SourcesConfig = SourcesConfig()
    agent: AgentConfig = AgentConfig()
    store: StoreConfig = StoreConfig()
    history: HistoryConfig = HistoryConfig()
    server: ServerConfig = ServerConfig()
    destinations: dict[str, dict[str, Any]] = {}
    """
    Places that an agent publishes to, by name. Each has a `to`, and the settings of ``tail`` and ``agent`` that differ
    there from those tables. Each has a checkpoint of its own, and goes at its own pace.
    """


PROCESS = {"state_dir", "listen", "with_ray"}
"""Settings of the agent's process, which its destinations share."""
