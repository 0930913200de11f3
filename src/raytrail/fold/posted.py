"""
Decode of events of Ray's HTTP export, as Ray posts them: the SQL that reads rows of the log from a spool of such lines.

All follows from the entities' declarations (`PostedEvent`). The SQL takes what Ray writes. Where a line is odd in any
way, the engine refuses it or gives no row for it, and `raytrail.fold.ray_event` puts it into the words of event files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from raytrail.entities import MOST_SECONDS, Column, Entity, Posted, PostedEvent, PostedKind
from raytrail.fold.layout import STORED, in_log, plant
from raytrail.fold.literals import literal, quote
from raytrail.fold.sessions import SESSION

_TIME = r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):\d\d:\d\d(\.\d{1,9})?Z"
_EARLIEST, _LATEST = "1970-01-01T00:00:00Z", "2242-03-16T12:56:31Z"
assert MOST_SECONDS == 2**33, "the latest time is that many seconds after 1970"

_WHOLE_AMOUNT = r'\{"[A-Za-z_]+":[1-9]\d{0,8}\.0\}'

_CALLED = (
    "STRUCT(pythonFunctionDescriptor STRUCT(className VARCHAR, functionName VARCHAR), "
    "javaFunctionDescriptor STRUCT(className VARCHAR, functionName VARCHAR), "
    "cppFunctionDescriptor STRUCT(functionName VARCHAR))"
)
_SPANS = 'STRUCT("startTime" BIGINT, "endTime" BIGINT, "eventName" VARCHAR, "extraData" VARCHAR)[]'
_IN_LINE: dict[PostedKind, str] = {
    "int": "BIGINT",
    "bool": "BOOLEAN",
    "spans": _SPANS,
    "json": "JSON",
    "amounts": "JSON",
    "has": "JSON",
    "texts in base64": "JSON",
    "function": _CALLED,
}
"""The engine's type of a field, by its kind. All others are texts."""
_UNREAD = ("messages", "constant")
"""The kinds of which the SQL reads no field: what is there is odd, or of no matter."""


@cache
def posted_type(entity: Entity, event: PostedEvent) -> str:
    """Return the ``columns`` argument of `read_json`: the type of a line of a spool of such events."""
    body = _type_of(event.columns)
    if event.each:
        body[event.each] = f"{_render(_type_of(event.of_each) | {'timestamp': 'VARCHAR'})}[]"
    if event.times:
        body[event.times] = 'STRUCT(state VARCHAR, "timestamp" VARCHAR)[]'
    tree: dict[str, object] = {"timestamp": "VARCHAR", event.body: body}
    if entity.ordered():
        tree |= {"_file": "VARCHAR", "_offset": "BIGINT"}
    if SESSION in entity.columns:
        tree[SESSION.name] = "VARCHAR"
    return "{" + ", ".join(f"{quote(name)}: {literal(_render(node))}" for name, node in tree.items()) + "}"


def _type_of(columns: tuple[Posted, ...]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for posted in columns:
        if posted.path and posted.kind not in _UNREAD:
            plant(tree, posted.path, _IN_LINE.get(posted.kind, "VARCHAR"))
        for name in filter(None, (posted.when[0], posted.default_unless[0])):
            tree[name] = "VARCHAR"
    return tree


def _render(node: object) -> str:
    if isinstance(node, dict):
        return "STRUCT(" + ", ".join(f"{quote(name)} {_render(inner)}" for name, inner in node.items()) + ")"
    return str(node)


def decode_posted(entity: Entity, event: PostedEvent, source: str) -> str:
    """
    Return the SELECT that reads the log's rows from `source`, the relation of a spool of such events.

    A line with a time that is none as Ray writes it gives too few rows, which whoever counts them notices.
    """
    body = quote(event.body)
    if event.times:
        source = _with_times(f"{body}.{quote(event.times)}", source)
    scope, at, number = "", "timestamp", ""
    if event.each:
        members = f"{body}.{quote(event.each)}"
        source = (
            f"(SELECT *, unnest({members}) AS _member, generate_subscripts({members}, 1) - 1 AS _number FROM {source})"
        )
        scope, at, number = "_member", '_member."timestamp"', " + _number"
    columns = [f"{_ns(at)} // 1000000000 AS timestamp"]
    if entity.ordered():
        columns += ["_file AS file", f"_offset{number} AS line_offset"]
    values = {posted.column: _value(entity, posted, body, "timestamp") for posted in event.columns}
    values |= {posted.column: _value(entity, posted, scope, at) for posted in event.of_each}
    columns += [f"{_column_value(column, event, values)} AS {quote(column.name)}" for column in in_log(entity)]
    times = {"timestamp", at, *_times(event.columns, body), *_times(event.of_each, scope)}
    good = [
        *map(_is_time, sorted(times)),
        *(f"{time} BETWEEN '{_EARLIEST}' AND '{_LATEST}'" for time in sorted({at, "timestamp"})),
    ]
    if event.each:  # no row has the event's own time, so nothing else asks whether there is such a day
        good.append("try_cast(timestamp AS TIMESTAMP_NS) IS NOT NULL")
    return f"SELECT {', '.join(columns)} FROM {source} WHERE {' AND '.join(good)}"


def _with_times(moves: str, source: str) -> str:
    """Return a relation with the states of each event, the last first, and their times: of one told twice, the last."""
    relation = (
        f"(SELECT *, list_reverse(list_transform({moves}, lambda m: m.state)) AS _states, "
        f'list_reverse(list_transform({moves}, lambda m: m."timestamp")) AS _told FROM {source})'
    )
    good = f"coalesce(list_bool_and(list_transform(_told, lambda t: {_is_time('t')})), true)"
    return f"(SELECT *, _told::TIMESTAMP_NS[] AS _times FROM {relation} WHERE {good})"


def _times(columns: tuple[Posted, ...], scope: str) -> list[str]:
    times = (posted.path for posted in columns if posted.kind in ("time_ns", "time_ms"))
    return [f"{scope}.{quote(path)}" for path in times if path]


def _is_time(text: str) -> str:
    return f"coalesce(regexp_full_match({text}, '{_TIME}'), false)"


def _ns(text: str) -> str:
    return f"epoch_ns({text}::TIMESTAMP_NS)"


def _column_value(column: Column, event: PostedEvent, values: dict[str, str]) -> str:
    if column.name in values:
        return values[column.name]
    if column == SESSION:
        return SESSION.name
    parent, _, number = column.origin.rpartition(".")
    if event.times and parent == event.times_at:
        return f"epoch_ns(list_extract(_times, list_position(_states, {literal(event.states[int(number)])})))"
    return f"NULL::{STORED[column.type]}"


def _value(entity: Entity, posted: Posted, scope: str, at: str) -> str:
    """
    Return the expression of a column.

    Args:
        entity: Whose column.
        posted: What tells it.
        scope: The message that its path is in.
        at: The time of the event, or of the member, as text.
    """
    column = entity.column(posted.column)
    value = _kind(posted, ".".join([scope, *map(quote, posted.path.split("."))]) if posted.path else at)
    for unset in filter(None, (posted.unset, column.unset if isinstance(column, Column) else "")):
        value = f"nullif({value}, {unset if column.type in ('int', 'float') else literal(unset)})"
    if posted.default:
        value = f"coalesce({value}, {_default(posted, scope)})"
    if field := posted.when[0]:
        value = f"CASE WHEN {scope}.{quote(field)} = {literal(posted.when[1])} THEN {value} END"
    return f"({value})::{STORED[column.type]}"


def _default(posted: Posted, scope: str) -> str:
    default = posted.default if posted.kind == "int" else literal(posted.default)
    conditions = []
    if "." in posted.path:  # the message that it would be in is not there either
        within = ".".join([scope, *map(quote, posted.path.split(".")[:-1])])
        conditions.append(f"{within} IS NOT NULL")
    if field := posted.default_unless[0]:
        conditions.append(f"{scope}.{quote(field)} IS DISTINCT FROM {literal(posted.default_unless[1])}")
    return f"CASE WHEN {' AND '.join(conditions)} THEN {default} END" if conditions else default


def _kind(posted: Posted, field: str) -> str:
    """Return the expression of what a field holds. An empty one is null."""
    expression = _EXPRESSIONS.get(posted.kind)
    return expression(field, posted.argument) if expression else field


def _text(field: str, _: str = "") -> str:
    return f"nullif({field}, '')"


def _id_or_none(field: str, _: str) -> str:
    return f"CASE WHEN ltrim({field}, '/') NOT IN ('', 'w==', '8=') THEN from_base64({field}) END"


def _spans(field: str, _: str) -> str:
    span = (
        "{'start_time': s.\"startTime\", 'end_time': s.\"endTime\", 'event_name': s.\"eventName\", "
        "'extra_data': s.\"extraData\"}"
    )
    return f"CASE WHEN len({field}) > 0 THEN list_transform({field}, lambda s: {span}) END"


def _given(field: str, value: str) -> str:
    """Return the expression of what is made of a JSON object. It is null where that is empty."""
    return f"CASE WHEN ({field})::VARCHAR NOT IN ('{{}}', 'null') THEN {value} END"


def _amounts(field: str, _: str) -> str:
    # most tasks need one resource, in whole numbers: to make a map of it takes four times as long
    text = f"({field})::VARCHAR"
    whole = f"regexp_full_match({text}, '{_WHOLE_AMOUNT}')"
    other = _given(field, _object(f"({field})::MAP(VARCHAR, DOUBLE)", _amount("e.value")))
    return f"CASE WHEN {whole} THEN replace({text}, '.0}}', '}}') ELSE {other} END"


def _texts(field: str, _: str) -> str:
    return _given(field, _object(f"({field})::MAP(VARCHAR, VARCHAR)", "to_json(decode(from_base64(e.value)))::VARCHAR"))


def _runtime_env(field: str, _: str) -> str:
    of_nothing = literal('{"serialized_runtime_env":""}')
    text = f"'{{\"serialized_runtime_env\":' || to_json({field})::VARCHAR || '}}'"
    return f"CASE WHEN {_text(field)} IS NULL THEN {of_nothing} ELSE {text} END"


def _called(field: str, _: str) -> str:
    """Return the expression of what is called, as `raytrail.fold.ray_event` has it."""
    python, java, cpp = (f"{field}.{language}FunctionDescriptor" for language in ("python", "java", "cpp"))

    def last(text: str) -> str:
        return f"CASE WHEN {text} != '' THEN split_part({text}, '.', -1) END"

    of_python = f"concat_ws('.', {last(f'{python}.className')}, {last(f'{python}.functionName')})"
    of_java = f"concat_ws('.', {_text(f'{java}.className')}, {_text(f'{java}.functionName')})"
    called = f"CASE WHEN {python} IS NOT NULL THEN {of_python} WHEN {java} IS NOT NULL THEN {of_java} "
    return _text(f"{called}ELSE {cpp}.functionName END")


def _object(entries: str, value: str) -> str:
    """Return the expression of the JSON of a map, sorted by its keys."""
    member = f"to_json(e.key)::VARCHAR || ':' || {value}"
    members = f"list_transform(list_sort(map_entries({entries})), lambda e: {member})"
    return f"'{{' || array_to_string({members}, ',') || '}}'"


def _amount(number: str) -> str:
    """Return the text of an amount: 1 for 1.0. Numbers that other programs print otherwise are refused."""
    plain = f"abs({number}) BETWEEN 0.0001 AND 1e15 OR {number} = 0"
    return (
        f"CASE WHEN {number} = floor({number}) AND abs({number}) <= 1e15 THEN {number}::BIGINT::VARCHAR "
        f"WHEN {plain} THEN {number}::VARCHAR ELSE error('an amount that is spelt in several ways') END"
    )


_EXPRESSIONS: dict[PostedKind, Callable[[str, str], str]] = {
    "id": lambda field, _: f"from_base64({_text(field)})",
    "id or none": _id_or_none,
    "text": _text,
    "spans": _spans,
    "json": lambda field, _: _given(field, f"({field})::VARCHAR"),
    "messages": lambda *_: "NULL",
    "amounts": _amounts,
    "texts in base64": _texts,
    "time_ns": lambda field, _: _ns(field),
    "time_ms": lambda field, _: f"{_ns(field)} // 1000000",
    "function": _called,
    # the id of a task is 8 bytes of its own, and then its actor's (TaskID, id.h)
    "creates actor": lambda field, _: f"nullif(from_base64({field})[9:], ''::BLOB)",
    "runtime env": _runtime_env,
    "constant": lambda _, argument: literal(argument),
    "equals": lambda field, argument: f"coalesce({field}, '') = {literal(argument)}",
    "has": lambda field, argument: _given(field, f"json_exists({field}, {literal('/' + argument)})"),
}
"""What makes a column of each kind of field, given its expression and the argument. Others are what they are."""
