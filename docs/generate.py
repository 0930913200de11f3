"""
The pages of docs/reference, and the tables of docs/why/fidelity.md, made from the code.

    python docs/generate.py            write them
    python docs/generate.py --check    exit with 1 and name what would change
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import msgspec

from raytrail import cli, config, errors, exit_codes, export
from raytrail.config import ServerConfig
from raytrail.entities import COMMON, INFERRED, Column, Derived, Entity, installed
from raytrail.fold import merge
from raytrail.fold.layout import shown
from raytrail.fold.public import event_type, field_name, json_schema, schema
from raytrail.server import application
from raytrail.server.ray import coverage, fidelity, jobs, resources, state
from raytrail.store import Store
from raytrail.terminal import options

DOCS = Path(__file__).parent
MADE = "<!-- Made by docs/generate.py from the code: change the code, then run `make docs`. -->\n"
HELP_WIDTH = 100


def pages() -> dict[str, str]:
    """Return every file that is made, by its path in docs."""
    made = {
        "reference/settings.md": _settings(),
        "reference/ray-settings.md": _ray_settings(),
        "reference/command-line.md": _command_line(),
        "reference/events.md": _events(),
        "reference/http.md": _http(),
        "reference/errors.md": _errors(),
        "reference/brokers.md": _brokers(),
        "reference/schema/event.json": _json(schema()),
        "why/fidelity.md": _fidelity((DOCS / "why/fidelity.md").read_text(encoding="utf-8")),
    }
    for entity in installed().values():
        made[f"reference/entities/{entity.plural}.md"] = _entity(entity)
        if entity.event_types:
            made[f"reference/schema/{_type(entity)}.json"] = _json(json_schema(entity))
    return made


def _settings() -> str:
    return f"""{MADE}
# Settings

You can give a setting in three places. A later place wins over an earlier one.

1. The first is a TOML file that `--config` or `RAYTRAIL_CONFIG` names. It has one table for each part of Raytrail.
2. The second is the environment, as `RAYTRAIL_<TABLE>_<NAME>`. A list is comma-separated there.
3. The third is the command line. A command takes the flags of the settings that it uses. `raytrail COMMAND --help`
   lists the common ones, and `--help-all` lists every one.

A size may have a unit everywhere, such as `256 KiB` or `64MB`. `raytrail settings` shows every value and where it comes
from. An unknown name, or a value out of range, stops the start.

```toml
[tail]
cluster = "prod"
event_types = ["TASK", "ACTOR"]

[store]
dir = "/var/lib/raytrail/store"
```

{config.markdown()}"""


def _ray_settings() -> str:
    profiles = list(export.PROFILES)
    types = f"`RAY_{export.SWITCH}`<br>`{export.SWITCH}`"
    which = [
        (types, "1 for all of Ray's types, else 0"),
        (
            f"`RAY_{export.SOME}`<br>`{export.SOME}`",
            "some of Ray's types. Ray reads it only while the one above is off",
        ),
        (
            f"`RAY_{export.PRELOADED}`<br>`{export.PRELOADED}`",
            f"`{export.PRELOAD}`, beside those that are there already. It writes {_listed(export.HOOKED_TYPES)}",
        ),
        (f"`{export.SOURCES}`", f"some of {_listed((*export.HOOKED_TYPES, *export.PROBED_TYPES))}"),
        (f"`{export.TRAIN}`", "1 for TRAIN_RUN or TRAIN_RUN_ATTEMPT, else 0"),
    ]
    which += [
        (f"`RAY_{name}`<br>`{name}`", f"1 with `--http-events`, for {_listed(of)}, else not set")
        for name, of in export.HTTP_SWITCHES.items()
    ]
    which += [
        (f"`{export.HTTP_ADDRESS}`", "with `--http-events`, where to post them"),
        (f"`{export.HTTP_TYPES}`", "with `--http-events`, ALL"),
    ]
    how = [
        (
            f"`{setting.variable}`<br>`{setting.name}`",
            f"`{export.as_text(setting.default)}`",
            *(f"`{export.as_text(setting.values.get(name, setting.default))}`" for name in profiles),
            _text(setting.doc),
        )
        for setting in export.SETTINGS
    ]
    harmful = [(f"`RAY_{name}`", f"the files of {types} stay empty") for name, types in export.SILENCING.items()]
    harmful += [
        (f"`{name}`", "Ray reads the number as yes or no, which rotates never or at each byte")
        for name in export.ROTATION
    ]
    meanings = [(f"`{name}`", text) for name, text in export.PROFILES.items()]
    return f"""{MADE}
# Ray's settings

`raytrail run` starts Ray with these settings, and `raytrail env` prints them.
[Export safely](../how-to/export-safely.md) says why.

{_table(("profile", "what it keeps"), meanings)}
Names that begin with `RAY_` are variables, for `ray start` on every node and for every driver. The others are keys of
the head's `--system-config`. Ray hands it to C++ on all nodes and to any driver. It wins over the variables.

## Which events are written

{_table(("setting", "value"), which)}
Ray's own types are {_listed(export.RAY_TYPES)}.

## How they are written

{_table(("setting", "Ray's default", *profiles, "what it is for"), how)}
## What must not be set

`--http-events` sets the first two. They must not be set without it.

{_table(("variable", "with it"), harmful)}"""


def _words(names: Iterable[str], joint: str) -> str:
    """Return names as a sentence lists them, e.g. ``A, B and C``."""
    *some, last = names
    return f"{', '.join(some)} {joint} {last}" if some else last


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


COMPLETION = """\
The shell completes commands, flags and nouns. To switch that on, put one of these into its start-up file:

    eval "$(_RAYTRAIL_COMPLETE=bash_source raytrail)"                 # ~/.bashrc
    eval "$(_RAYTRAIL_COMPLETE=zsh_source raytrail)"                  # ~/.zshrc
    _RAYTRAIL_COMPLETE=fish_source raytrail | source                  # ~/.config/fish/config.fish

On a terminal a table shows the state first, in colour. Then it shows what a row is, what went wrong and how long it
took. Ids come last, cut to 16 letters where these tell them apart. `raytrail get` finds a row by them. In a file or a
pipe, ids are whole and there are no colours.
"""


def _command_line() -> str:
    lines = [MADE, "# Command line", ""]
    sections = [
        (section, ", ".join(f"[{name}](#raytrail-{name})" for name in commands))
        for section, commands in cli.COMMANDS.items()
    ]
    lines += [_table(("for", "commands"), sections), COMPLETION, "```text", _help(cli.main, "raytrail"), "```", ""]
    parent = click.Context(cli.main, info_name="raytrail")
    for name in cli.main.list_commands(parent):
        command = cli.main.get_command(parent, name)
        assert command is not None, name
        lines += [f"## raytrail {name}", "", "```text", _help(command, name, parent), "```", ""]
    return "\n".join(lines)


def _help(command: click.Command, name: str, parent: click.Context | None = None) -> str:
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=HELP_WIDTH,
        max_content_width=HELP_WIDTH,
        help_option_names=["-h", "--help"],
    )
    options.show_every(context)
    return "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())


def _events() -> str:
    rows = [
        (
            f"[`{entity.plural}`](entities/{entity.plural}.md)",
            f"[`{_type(entity)}`](schema/{_type(entity)}.json)" if entity.event_types else "",
            ", ".join(_files(kind) for kind in entity.file_types if kind != "FILE"),
            _text(entity.doc),
        )
        for entity in installed().values()
    ]
    emitted = [
        (f"`{entity.plural}`", *map(_text, (emission.source, emission.when, emission.latency, emission.missed)))
        for entity in installed().values()
        if (emission := entity.emitted)
    ]
    common = [(f"`{c.name}`", c.type, _text(c.doc)) for c in (INFERRED, *COMMON)]
    return f"""{MADE}
# Events and entities

An **entity** is a kind of thing that events are about, such as a task. Its declaration gives its columns. It says where
each column comes from in the line that Ray writes, and how two values of it become one. The entity's table, its noun on
the command line and in URLs, and the schema of its events follow from the declaration.

{_table(("entity", "event type", "file", "what it is"), rows)}
`jobs` has no events of its own. It is made of `driver_jobs` and `submission_jobs`. `operators_progress` is made of
`datasets_progress`. `files` are Raytrail's own reports.
[Serve and Data progress](../how-to/serve-and-data.md) says how `serve_…` and `…_progress` come to be written.

## Who writes them, when, and what they do not tell

"At once" means that the writer writes the event before it goes on. The agent reads the file, which adds
`tail.poll_seconds`.

{_table(("entity", "written by", "whenever", "in the file after", "what it does not tell"), emitted)}
## The public form of an event

`raytrail subscribe` prints one event a line, and `raytrail schema` prints its JSON Schema. The same schemas lie in
[schema/](schema/event.json).

```json
{{"event_type": "ACTOR", "event_id": "97b5…", "timestamp_s": 1795419718, "cluster": "prod",
 "session": "session_2026-11-23_07-40-30_867494_13129", "node_id": "c82f…",
 "actor": {{"actor_id": "e68e…", "state": "ALIVE", "class_name": "Station"}}}}
```

- Ids are hex, as Ray shows them. States are names. A number whose name ends in a unit is in that unit.
- A field that an event does not have is left out.
- `timestamp_s` is Ray's own, in whole seconds.
- Fields of a known type that this version does not know are kept under `extra`, by their path.
- The version of the form is in the schema's `title`. It rises when a reader of the last version could misread the new.

## Columns that every entity has

{_table(("column", "type", "meaning"), common)}
## Types

| type | what it holds | how it looks |
|---|---|---|
| id | bytes, base64 in Ray's files | hex |
| text | a string, the name of a state among them | a string |
| texts | a list of strings | a list of strings |
| int | 64 bits. A time's name ends in its unit | a number |
| float | a double | a number |
| bool | | true or false |
| json | an object or list as Ray wrote it | an object or list |
| spans | profile events, with name, start, end and extra data | a list of objects, with times in nanoseconds |

## Merges

Two values of a column become one by its merge. None minds order or repetition. A null erases a value in `latest` alone.

| merge | result |
|---|---|
| key | what rows are grouped by |
| max | the larger, for values that are written once, and for times that only move forward |
| min | the smaller |
| last | the one written later, by the event's timestamp, then by its place in its writer's files |
| latest | what the newest event says, null included, for entities whose events are each the whole row |
| union | the distinct members of both lists, the first {merge.MOST_MEMBERS:,} in their order |
"""


def _entity(entity: Entity) -> str:
    rows = [_column(column) for column in shown(entity) if column not in (INFERRED, *COMMON)]
    hidden = [
        (f"`{field_name(column)}`", column.type, _origin(column), column.merge, _meaning(column))
        for column in entity.columns
        if column.name.startswith("_") and not column.computed
    ]
    lines = [MADE, f"# {entity.plural}", "", _text(entity.doc), ""]
    if entity.event_types:
        source_types = _words((f"`{event_type}`" for event_type in entity.event_types), "or")
        lines.append(f"- Ray's `source_type` is {source_types}")
        lines.append(f"- the event type is [`{_type(entity)}`](../schema/{_type(entity)}.json)")
    if entity.posted:
        types = _words((f"`{event.event_type}`" for event in entity.posted), "and")
        lines.append(f"- [Ray's HTTP export](../../how-to/http-events.md) tells of it by {types}")
    lines.append(f"- one row for each {' and '.join(f'`{name}`' for name in entity.key)}")
    life = entity.life
    if life.state:
        verb = "ends" if len(life.terminal) == 1 else "end"
        lines.append(f"- its state is in `{life.state}`, and {_words(life.terminal, 'and')} {verb} its life")
    if life.closing:
        lines.append("- open at the end of its session, it is closed, and `inferred` says why")
    lines += ["", f"    raytrail list {entity.plural}", f"    raytrail sql 'FROM {entity.name}'", ""]
    if entity.view:
        lines.append(_table(("column", "type", "meaning"), [(row[0], row[1], row[4]) for row in rows]))
    else:
        lines.append(_table(("column", "type", "origin", "merge", "meaning"), rows))
    lines.append("Also those [that every entity has](../events.md#columns-that-every-entity-has).")
    if hidden:
        lines += ["", "## In events only", "", "Rows show these in other columns, or under another name.", ""]
        lines.append(_table(("field", "type", "origin", "merge", "meaning"), hidden))
    return "\n".join(lines).rstrip() + "\n"


def _column(column: Column | Derived) -> tuple[str, ...]:
    if isinstance(column, Derived):
        return (f"`{column.name}`", column.type, "from other columns", "", _meaning(column))
    return (f"`{column.name}`", column.type, _origin(column), column.merge, _meaning(column))


def _meaning(column: Column | Derived) -> str:
    """Return what a column means, with the names of its enumeration where that leaves any out."""
    untold = [value for value in column.values if not re.search(rf"\b{value}\b", column.doc)]
    return _text(column.doc) + (f" One of {_listed(column.values)}. Newer Rays may have more." if untold else "")


def _origin(column: Column) -> str:
    return f"= `{_text(column.computed)}`" if column.computed else f"`{column.origin}`"


OTHER_STATUSES = (
    ("401", "The server asks for a token, and there is none or a wrong one."),
    ("400, at any address", "A trusted proxy names several users (`server.user_header`)."),
    ("403", "A page of another origin posts or opens a WebSocket (`server.origins`)."),
    ("403, with a name", "The token or the user has no right to it (`server.users_file`)."),
    ("405", "The method is neither GET nor HEAD."),
    ("421", "The server has no token, and does not know itself by this name (`server.hosts`)."),
    ("429", "This address sent too many wrong tokens (`server.wrong_tokens_per_minute`). The right one is let in."),
    ("501", "This version does not serve it."),
    ("503, with nothing in it", "There are more connections than `server.connections`."),
)
"""What the server answers beside the statuses of errors: a status, and when."""

WIRE = {"text": ", as text", "float": ", with a point", "floats": ", numbers with a point"}
"""How the tables say in which way numbers are written."""


def _declared() -> list[Any]:
    """Return the routes of a server that takes events, with Ray's dashboard, whatever is installed here."""

    async def take(headers: Mapping[str, str], body: bytes) -> None:
        """Make the server one that takes events."""

    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory, "store"), write=True) as store:
        Path(directory, "index.html").touch()
        routes: list[Any] = application.app(store, ServerConfig(dashboard=directory), take).routes
    undocumented = [route.path for route in routes if not route.declared.doc]
    if undocumented:
        raise SystemExit(f"docs/generate.py: the functions that answer {undocumented} have no docstring")
    return routes


def _routes(routes: Iterable[Any], api: str) -> str:
    """Return the table of the routes of ours, or of those that Ray's clients ask for."""
    return _table(("path", "answer", "parameters"), map(_route, (route for route in routes if _is_shown(route, api))))


def _is_shown(route: Any, api: str) -> bool:
    """Return whether a route has a line: those of a moment are not told apart from those of the cluster."""
    return route.declared.api == api and not route.path.startswith(application.MOMENTS)


def _route(route: Any) -> tuple[str, str, str]:
    declared = route.declared
    path = route.path.replace("{rest:path}", "…").replace(":path", "")
    method = "" if declared.method == "GET" else f"{declared.method} "
    parameters = "<br>".join(f"`{name}`: {text}" for name, text in declared.parameters.items())
    return f"{method}`{path}`", declared.doc, parameters


def _http() -> str:
    at, final = application.MOMENTS
    routes = _declared()
    nouns = "\n".join(
        f"### {resource.noun}\n\n"
        + _table(
            ("field", "type", "filtered by", "only with `detail`", "if not known", "how it is known"),
            [
                (
                    f"`{field.name}`",
                    f"{field.kind}{WIRE.get(field.wire, '')}",
                    "yes" if field.filterable else "",
                    "yes" if field.detail else "",
                    f"`{msgspec.json.encode(field.default).decode()}`" + ("" if field.exported else ", always"),
                    coverage.known(resource, field)[0],
                )
                for field in resource.fields
            ],
        )
        for resource in resources.RESOURCES.values()
    )
    statuses = _table(
        ("status", "when"),
        sorted([*((str(code), _sentence(kind)) for kind, code in application.STATUSES.items()), *OTHER_STATUSES]),
    )
    return f"""{MADE}
# HTTP

`raytrail serve` and `raytrail up` answer GET and HEAD, and change nothing. They listen on `127.0.0.1`. For any other
`server.host` they ask for [a token](../how-to/see-a-dead-cluster.md#for-other-machines).

## Our own

{_routes(routes, "ours")}
If the server has a token, a browser is shown a form that asks for it. `POST /login` takes the token from that form.
With a users file, `/login` shows the form to whoever wants to give another token.

## What Ray's clients and its dashboard ask

{_routes(routes, "Ray's")}
## Clusters and moments

`{{id}}` is a session's name, a part of it that no other has, a cluster's name (its newest session) or `latest`.

Every path under `/clusters/{{id}}` is also there under `{at}` and under
`{final}`. Under the first, it answers as the cluster would have answered at that moment, in milliseconds
since 1970. Under the second, it answers as of the very end.
With neither, a cluster that has ended answers as of just before its shutdown began. A clean stop ends all that is alive
within its last second, so the very end shows little of what the cluster was.

You can point Ray's own tools at a cluster, live or gone, now or at an earlier moment:

    ray list tasks --address http://127.0.0.1:8365/clusters/latest
    ray summary tasks --address http://127.0.0.1:8365/clusters/latest/at/1795473644000
    ray job list --address http://127.0.0.1:8365/clusters/latest

If `RAY_ADDRESS` is set, it wins over `--address`. `RAY_API_SERVER_ADDRESS` wins over both.

## Ray's State API

The requests, answers and columns are those of Ray {jobs.RAY_VERSION}. The parameters are `filter_keys`,
`filter_predicates` (`=` and `!=`), `filter_values`, `detail`, `exclude_driver` and `limit`. The limit is
{state.DEFAULT_LIMIT} unless given, and at most {state.MAX_LIMIT:,}. Ray's own servers refuse more than
{state.RAYS_MAX_LIMIT:,}.

A limit leaves the rows with the smallest ids, as in Ray. If there are very many tasks, Ray looks only at the newest
{state.RAYS_MAX_LIMIT:,}. A list of that many or fewer is made of these here, too. A longer list is made of all tasks.
The dashboard asks for {state.RAYS_MAX_LIMIT:,} tasks, with details and without a `timeout`. If there are more, it gets
those that failed, those that are open, and then the newest of the others. The bar says how many are shown of how many.

Filters pass what Ray's filters pass, with their oddities:

- Case does not matter in texts, ids, states and types.
- If a key is spelt exactly, Ray's GCS looks for it, too. For tasks, `total` then counts only what passes `task_id`,
  `job_id`, `actor_id`, `name` and `state`. For nodes and workers, `num_after_truncation` counts only what passes. A key
  in another case finds the same rows, and `total` counts all.
- `!=` passes every row where the column is a number or a flag that Ray may leave out, such as `worker_pid`.
- A row that does not have `error_type`, an actor's `node_id` or `placement_group_id`, or a worker's `exit_type`,
  `debugger_port` or `num_paused_threads` passes no filter of that column, not even `!=`.
- A filter is refused if its column is unknown, or if it has a text where the column has a number. It is refused as soon
  as there is a row to compare it with.

Numbers are written as Ray writes them, some as text and some with a point. The tables say which.

The last column says what the events in Ray's files tell:

| word | meaning |
|---|---|
| exact | the value itself |
| derived | other values, from which this one follows |
| inferred | other values, from which this one is concluded |
| not exported | nothing, so the value is always its default |

[Fidelity](../why/fidelity.md) says why, and what cannot be told of some rows only. `/clusters/{{id}}/coverage` says it
of one cluster, with what was concluded if no event told an end.

{nouns}
A resource that no event tells of has no rows, and a warning says why. `runtime_envs` never has rows. Placement groups,
workers and objects have none if no agent was told to ask for them. `ray list` and `ray summary` print the warning.

## Errors

{statuses}
Under a cluster, a path that is not served is answered with 501 and not with 404. Ray's dashboard, as a proxy, would
answer a 404 from the cluster that it lives in.

`/ingest` answers 204 once all is stored. Its errors are these:

| status | when |
|---|---|
| 400 or 415 | The body cannot be read. |
| 408 | The body did not come within `server.body_seconds`. |
| 413 | The body is too long or packed too well (`server.ingest_body_bytes`, `server.ingest_ratio`). |
| 503, with `Retry-After` | The broker is away, or `server.ingest_memory_bytes` are in use. |

Ray's own server catches no error of some wrong questions, and its status is then 500. The status is 500 here, too.
These questions are lists of jobs, summaries, the timeline, and logs.

State API errors have Ray's form, `{{"result": false, "msg": …, "data": {{"result": null}}}}`. Others are plain text.

## Caching

A session is *sealed* once its final states are written. Answers about a sealed session carry an `ETag` and are
revalidated. All others are `no-store`.
"""


def _brokers() -> str:
    kinds: dict[Any, list[str]] = {}
    for point in sorted(entry_points(group="raytrail.pubsub"), key=lambda point: point.name):
        if point.value.startswith("raytrail."):
            kinds.setdefault(point.load(), []).append(point.name)
    order = sorted(kinds, key=lambda kind: ("at-most" in kind.guarantee, kinds[kind]))
    rows = []
    parts = []
    for kind in order:
        schemes = ", ".join(f"`{name}://`".replace("stdout://", "stdout:") for name in kinds[kind])
        module = inspect.getdoc(sys.modules[kind.__module__]) or ""
        first, _, rest = module.partition("\n")
        extra = _extra(kind.__module__)
        rows.append((schemes, kind.guarantee, f"`raytrail[{extra}]`" if extra else "", _prose(first)))
        own = inspect.getdoc(kind) or ""
        parts.append(f"## {schemes.replace('`', '')}\n\n{_prose(first)}\n{_prose(rest)}\n\n{_prose(own)}\n")
    return f"""{MADE}
# Brokers

A broker carries chunks from the agents to a history. A *chunk* is what an agent publishes. It is whole lines of one
event type, with the byte ranges of the files that they came from. A URL names the broker, also a broker of
[your own](../how-to/add-a-broker.md). The client of each comes with an extra. All that can be
read pass one contract, `raytrail.testing.check_pubsub`, against the real server. `http://` passes it over one
connection, to our own server.

{_table(("URL", "promise", "extra", "what it is"), rows)}

A broker that is at most once by itself says so. [Guarantees](../why/guarantees.md#brokers) has what follows from it.

{chr(10).join(parts)}"""


def _extra(module: str) -> str:
    """Return the extra that a backend's client comes with: that which names its package."""
    name = module.rpartition(".")[2]
    extras = metadata.metadata("raytrail").get_all("Provides-Extra") or []
    return name if name in extras else ""


def _prose(doc: str) -> str:
    """Turn a docstring's double backticks into Markdown's; its paragraphs and drawings stay."""
    return re.sub(r"``(.+?)``", r"`\1`", doc)


def _errors() -> str:
    doc = errors.__doc__ or ""
    tree = doc[doc.index("RaytrailError") :].rstrip()
    rows = []
    for kind in _kinds(errors.RaytrailError):
        code = exit_codes.USAGE if issubclass(kind, errors.ConfigError) else exit_codes.BROKEN
        code = exit_codes.DIFFERENT if issubclass(kind, errors.NotFoundError) else code
        rows.append((f"`{kind.__name__}`", _sentence(kind), "yes" if kind.retryable else "", str(code)))
    epilog = cli._EPILOG.partition("Exit codes:\n")[2].rstrip()
    return f"""{MADE}
# Errors and exit codes

An error is one line. It says what failed, which one with its value, and what to do.

    raytrail: error: no entity 'taskz'; did you mean tasks?

A wrong setting stops the start. A wrong line is set aside with its offset, and the rest goes on. Raytrail waits for a
broker that is away, and for a disk that is full. These are the errors marked as retryable.

## Exit codes

```text
{epilog}
```

## The tree

```text
{tree}
```

{_table(("error", "meaning", "retryable", "exit code"), rows)}"""


def _kinds(kind: type[errors.RaytrailError]) -> Iterator[type[errors.RaytrailError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _kinds(child)


def _sentence(kind: type[Exception]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _fidelity(page: str) -> str:
    """Fill in the tables between the marks of that page; the words around them are written by hand."""
    cannot, by_http, inferred, without_logs = (
        [
            (f"`{resource}`", f"`{field}`", _text(reason))
            for resource, fields in reasons.items()
            for field, reason in fields.items()
        ]
        for reasons in (fidelity.CANNOT, fidelity.CANNOT_BY_HTTP, fidelity.INFERRED, fidelity.WITHOUT_LOGS)
    )
    excuses = [
        (f"`{excuse.resource}`", ", ".join(f"`{field}`" for field in excuse.fields), _text(excuse.reason))
        for excuse in fidelity.EXCUSES
    ]
    ends = [
        (entity.plural, f"`{end.why}`", _text(end.doc), f"{end.delay_ms / 1000:g} s" if end.delay_ms else "at once")
        for entity in installed().values()
        for end in entity.life.ends
    ]
    for mark, table in (
        ("ends", _table(("of", "`inferred`", "which end closes what", "after"), ends)),
        ("cannot", _table(("resource", "field", "why"), cannot)),
        ("cannot by http", _table(("resource", "field", "why"), by_http)),
        ("inferred", _table(("resource", "field", "how"), inferred)),
        ("without logs", _table(("resource", "field", "why"), without_logs)),
        ("excuses", _table(("resource", "fields", "why"), excuses)),
        ("rows", _table(("resource", "why"), [(f"`{name}`", _text(reason)) for name, reason in fidelity.ROWS.items()])),
    ):
        begin, end = f"<!-- made: {mark} -->\n", f"<!-- end: {mark} -->"
        if begin not in page or end not in page:
            raise SystemExit(f"docs/generate.py: docs/why/fidelity.md has no mark {begin.strip()} … {end}; put it back")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return page


def _type(entity: Entity) -> str:
    return event_type(entity.event_types[0])


def _files(kind: str) -> str:
    return "`logs/events/event_…`" if kind == "CLUSTER_EVENT" else f"`event_EXPORT_{kind}…`"


def _text(text: str) -> str:
    """Return a docstring's text as Markdown in a table."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def main() -> int:
    """Write the pages, or say which are stale."""
    parser = argparse.ArgumentParser(description="Make the docs' reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything would change")
    check = parser.parse_args().check
    made = {DOCS / name: text for name, text in pages().items()}
    there = {path for path in (DOCS / "reference").rglob("*") if path.is_file()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    gone = sorted(there - made.keys())
    for path in (*stale, *gone):
        sys.stdout.write(
            f"{'stale' if check else 'removed' if path in gone else 'written'}: docs/{path.relative_to(DOCS)}\n"
        )
    if check:
        return 1 if stale or gone else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    for path in gone:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
