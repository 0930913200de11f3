r"""
What failures have in common: from the text of an error to its signature, in SQL.

    User exception:
    ray::train() (pid=14054, ip=192.0.2.2)
      File "/srv/app/train.py", line 8, in train                 train.py:train
      File "/opt/venv/lib/python3.12/site-packages/x.py", line 3, in y
    ValueError: row 17 of '/data/part-00003' is negative         ValueError, "row <n> of '…' is negative"

A signature is three things, the same in two failures that have one reason:

- ``error``: the type of the exception, else the error type that Ray gave.
- ``text``: the line that says what happened, with what differs from one failure to the next masked.
- ``frame``: the file and function of the user's own code that are deepest in the traceback. Of a library's where it
  has none of the user's.

Each failure's text is different, as it names a process. It is therefore cut down in steps, and repetitions are merged
after each: first to its line and frame, which needs no regular expression over all of it, then to that with all digits
the same, and only the few that then are left are masked.
"""

from __future__ import annotations

from raytrail.fold.literals import literal

HASH_DIGITS = 16
"""How many hex digits name a signature."""

_FRAME = ' File "'
_LIBRARIES = "(?:.*/(?:site-packages|dist-packages|python3[.]\\d+)/)?"
"""The directory of libraries."""
_LIBRARY_PARTS = (
    "/site-packages/",
    "/dist-packages/",
    "/lib/python3",
    "/lib64/python3",
    "python/ray/",
    "/ray/_private/",
    "/runtime_resources/pip/",
    "/runtime_resources/uv/",
    "<frozen ",
    ".pyx",
    ".pxi",
)
"""The parts of paths that tell code of libraries, Ray's own, and the interpreter's from that of the user."""

_WRAPPERS = ("ray.exceptions.UserCodeException",)
"""The exceptions that only say that another one, which the same text tells before, was raised."""

_TOLD_AFTER = "before finishing this task."
"""The end of the first line of an actor's death, which tells nothing. A later line tells why."""
_ACTOR_DEAD = r"(?:^|\n)(The actor (?:is dead|died) because[^\n]*)"

_EXCEPTION = r"[A-Za-z_][\w.]*(?:\([\w.]+\))?"
"""The name of an exception's type. Ray's own name for one of a task has the type of its cause in parentheses."""
_NAMED_EXCEPTION = r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Timeout|Failure|Group)(?:\([\w.]+\))?"
"""The same in any line, where another word and a colon might be meant."""
_ANY_EXCEPTION = rf"(?:^|\n)({_NAMED_EXCEPTION}(?:: [^\n]*)?)"
_PARAGRAPH = r"nullif(regexp_extract(flat, '\n\n([A-Z\[][^\n]+)', 1), '')"
"""A whole line, where Ray has cut the beginning off: it keeps 500 bytes of what a task raised."""
_HEADING = r"^(?:(?:\w+: )?User exception:|An exception raised from \w+:)"
"""What Ray puts above an error's own text."""
_FIRST_LINE = rf"trim(regexp_extract(regexp_replace(flat, '{_HEADING}', ''), '[^\n]*\S[^\n]*'))"

_Q = "\x01"
"""Stands for a quote whose text is kept."""

_MASKS: tuple[tuple[str, str], ...] = (
    # Ray's advice
    (r" (?:Some common causes include: |This can happen if the node was |Check cluster logs \().*", ""),
    # names that the code gives, not its data
    (r"'([A-Za-z_][\w.]*)'( object| has no attribute| is not defined| referenced| where it is not)", rf"{_Q}\1{_Q}\2"),
    (
        r"(attribute|argument|named|module|type|import name|function|constraint|relation|column type|class):? "
        r"['\"]([A-Za-z_][\w.]*)['\"]",
        rf"\1 {_Q}\2{_Q}",
    ),
    (r"(type\(s\) for [^ ]+): '(\w+)' and '(\w+)'", rf"\1: {_Q}\2{_Q} and {_Q}\3{_Q}"),
    (r"\((not|got) ['\"](\w+)['\"]\)", rf"(\1 {_Q}\2{_Q})"),
    # quoted text. An apostrophe within a word opens none
    (r"'\[[^\]\n]*\]'", "'…'"),
    (r"(^|[^\w'])[bfru]?'(?:[^'\\\n]|\\.)*'", r"\1'…'"),
    (r"(^|[^\w\"])[bfru]?\"(?:[^\"\\\n]|\\.)*\"", r"\1'…'"),
    # addresses
    (r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>)\]},]+", "<url>"),
    (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "<email>"),
    (r"(^|[\s(\[{=:,<])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][\w.@=+%~#-]+){2,}[/\\]?", r"\1<path>"),
    (r"(^|[\s(\[{=:,<])[/\\][\w.@=+%~#-]*[A-Za-z_][\w.@=+%~#-]*", r"\1<path>"),
    (r"(^|[\s(\[{=:,<])[\w.@=+-]*[A-Za-z_][\w.@=+-]*(?:/[\w.@=+-]+)+\.\w+", r"\1<path>"),
    # ids and times
    (r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b", "<id>"),
    (r"\b0x[0-9a-fA-F]{1,5}\b", "<n>"),
    (r"\b0x[0-9a-fA-F]+\b", "<address>"),
    (r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z| ?[+-]\d\d:?\d\d)?)?\b", "<time>"),
    (r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?::\d+)?\b", "<ip>"),
    (r"\[?\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{0,4}\]?(?::\d+)?", "<ip>"),
    (r"\b[0-9a-fA-F]*(?:\d[a-fA-F]|[a-fA-F]\d)[0-9a-fA-F]{6,}\b", "<id>"),
    (r"\b[0-9a-fA-F]{16,}\b", "<id>"),
    (r"\b(raysubmit_|_ray_pkg_)\w+", r"\1<id>"),
    # sizes, durations, numbers
    (r"[-+]?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)? ?(?:[KMGTP]i?B|[kKMG]?[bB]ytes?|B)\b", "<size>"),
    (r"[-+]?\d[\d,_]*(?:\.\d+)? ?(?:ns|us|µs|ms|s|secs?|seconds?|minutes?|mins?|hours?|h)\b", "<duration>"),
    (r"[-+]?\d+(?:[,_]\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?j?", "<n>"),
    (r"([^\w])[-+]?(?:nan|inf|infinity)\b", r"\1<n>"),
    (r"[-+]<n>", "<n>"),
    # many of one kind are one
    (r"<(n|id|address|ip|path|url|time|size|duration)>(?:(?:, ?| |x|\*|-|\.|/|:|_)<(?:n|id)>)+", r"<\1>"),
    (r"(<\w+>),\)", r"\1)"),
    (r"'…'(?:, ?'…')+", "'…'"),
    (r"\{[^{}]*\}", "{…}"),
    (r"\[(?:'…'|<\w+>|None|True|False|nan|[,.\s\[\]()])*\]", "[…]"),
    (r"\((?:'…'|<\w+>|None|[.\s])*,(?:'…'|<\w+>|None|[,.\s])*\)", "(…)"),
    (r"\[…\](?:, ?\[…\])+", "[…]"),
    (r"\(…\)(?:, ?\(…\))+", "(…)"),
    (_Q, "'"),
    (r"\s+", " "),
)
"""What is masked, in this order, each with what stands for it."""

HEAD_CHARACTERS, END_CHARACTERS = 4_000, 60_000
"""How much of a text is looked at, of its beginning and of its end."""
LINE_CHARACTERS = 600
"""How much of a line is looked at."""
TEXT_CHARACTERS = 300
"""How much of it is kept, masked."""


def signatures(source: str) -> str:
    """
    Return the SELECT of the signatures of errors: ``id``, ``hash``, ``error``, ``text`` and ``frame``.

    Args:
        source: The relation of errors, with the columns ``id``, ``error_type`` and ``message``.
    """
    return (
        f"WITH cut AS MATERIALIZED ({_cut(source)}), "
        f"few AS MATERIALIZED (SELECT said, {_shortened('text')} AS text "
        f"FROM (SELECT said, {_masked('said')} AS text FROM (SELECT DISTINCT said FROM cut))) "
        f"SELECT id, {hashed('error', 'text', 'frame')} AS hash, error, text, frame FROM cut JOIN few USING (said)"
    )


def hashed(error: str, text: str, frame: str) -> str:
    """Return the expression of the name of a signature."""
    return f"left(md5({error} || chr(10) || {text} || chr(10) || {frame}), {HASH_DIGITS})"


# -- from the text to its line and frame


def _cut(source: str) -> str:
    """
    Return the SELECT of what each error's signature is made of: ``error``, ``frame``, and ``said``, which is to mask.

    An error is ``traced`` where its text is what Python prints. A line of it then begins with an exception's type.
    """
    steps = (
        f"SELECT id, coalesce(error_type, '') AS error_type, "
        f"CASE WHEN length(message) > {HEAD_CHARACTERS + END_CHARACTERS} "
        f"THEN left(message, {HEAD_CHARACTERS}) || chr(10) || right(message, {END_CHARACTERS}) "
        "ELSE coalesce(message, '') END AS message FROM {}",
        # the codes that colour a terminal
        r"SELECT id, error_type, CASE WHEN contains(message, chr(27)) "
        r"THEN regexp_replace(message, '\x1b[^m]*m', '', 'g') ELSE message END AS plain FROM ({})",
        # the lines of a group of exceptions are drawn as a tree
        r"SELECT id, error_type, CASE WHEN contains(plain, 'ExceptionGroup') THEN regexp_replace(regexp_replace("
        r"plain, '(?m)^ *\+[-+ ]*(?: \d+ -+)?$', '', 'g'), '(?m)^ *\| ?', '', 'g') ELSE plain END AS flat FROM ({})",
        f"SELECT *, string_split(flat, {literal(_FRAME)}) AS parts FROM ({{}})",
        f"SELECT *, list_last(list_filter(parts[2:], lambda p: NOT ({_of_library('p')}))) AS own, "
        "CASE WHEN len(parts) > 1 THEN list_last(parts) END AS deepest, "
        r"regexp_extract(list_last(parts), '\n([^\s^~][^\n]*)', 1) AS below, "
        "len(parts) > 1 OR starts_with(flat, 'User exception:') OR contains(flat, 'Traceback (') AS traced FROM ({})",
        "SELECT id, error_type, flat, own, deepest, traced, "
        "CASE WHEN len(parts) > 1 AND below != '' THEN below "
        f"WHEN traced THEN coalesce({_last_exception()}, {_PARAGRAPH}, {_FIRST_LINE}) ELSE {_FIRST_LINE} END AS line "
        "FROM ({})",
        f"SELECT id, error_type, own, deepest, traced, CASE WHEN ends_with(line, {literal(_TOLD_AFTER)}) "
        f"THEN line || coalesce(' ' || list_last(regexp_extract_all(flat, {literal(_ACTOR_DEAD)}, 1)), '') "
        r"WHEN contains(line, 'because its node has died') "
        r"THEN line || ' ' || regexp_extract(flat, '\n\t(the actor''s node was[^\n]*)', 1) "
        # the last paragraph tells how it was lost
        r"WHEN contains(line, 'Failed to retrieve object') THEN regexp_replace(line, '(Failed to retrieve object) .*', "
        r"'\1. ') || regexp_extract(flat, '\n\n([^\n]+)', 1) "
        f"WHEN {_wraps('line')} THEN coalesce({_last_exception(wrapped=True)}, line) ELSE line END AS line FROM ({{}})",
        f"SELECT id, error_type, {_frame()} AS frame, left(line, {LINE_CHARACTERS}) AS line, CASE WHEN traced "
        f"THEN regexp_extract(line, {literal(f'^({_EXCEPTION})(?::|$)')}, 1) ELSE '' END AS error FROM ({{}})",
        # all digits but 0 the same: what then is left is much less, as long, and a 0x stays what it is
        f"SELECT id, {_error()} AS error, frame, "
        "translate(CASE WHEN error = '' THEN line ELSE ltrim(substr(line, length(error) + 1), ': ') END, "
        "'23456789', '11111111') AS said FROM ({})",
    )
    select = source
    for step in steps:
        select = step.replace("{}", select)
    return select


def _of_library(frame: str) -> str:
    header = f"split_part({frame}, chr(10), 1)"
    return " OR ".join(f"contains({header}, {literal(part)})" for part in _LIBRARY_PARTS)


def _frame() -> str:
    """Return the expression of ``file:function`` of the deepest frame, without the quote that the file begins with."""
    path = "split_part(own, '\"', 1)"
    name = f"regexp_extract({path}, '(?:[^/\\\\]+[/\\\\])?__\\w+__\\.py$|[^/\\\\]+$')"
    # a cell of a notebook has a name of its own each time
    file = f"regexp_replace({name}, '^<ipython-input-.*|^\\d+\\.py$', '<ipython>')"
    of_library = f"regexp_extract(split_part(deepest, '\"', 1), '{_LIBRARIES}(.*)', 1)"
    return (
        f"CASE WHEN own IS NOT NULL THEN {file} || {_function('own')} "
        f"WHEN deepest IS NULL OR {_of_ray('deepest')} THEN '' ELSE {of_library} || {_function('deepest')} END"
    )


def _of_ray(frame: str) -> str:
    return f"contains({frame}, 'python/ray/_raylet.pyx') OR contains(split_part({frame}, chr(10), 1), '/ray/_private/')"


def _function(part: str) -> str:
    function = f"regexp_extract({part}, '^[^\\n]*, in ([^\\n]+)', 1)"
    return f"CASE WHEN {function} = '' THEN '' ELSE ':' || {function} END"


def _wraps(line: str) -> str:
    return " OR ".join(f"starts_with({line}, {literal(name)})" for name in _WRAPPERS)


def _last_exception(*, wrapped: bool = False) -> str:
    """Return the expression of the last line that names an exception, or null. With `wrapped`, one that wraps none."""
    every = f"regexp_extract_all(flat, {literal(_ANY_EXCEPTION)}, 1)"
    return f"list_last(list_filter({every}, lambda e: NOT ({_wraps('e')})))" if wrapped else f"list_last({every})"


# -- from the line to the signature


def _error() -> str:
    """Return the expression of the exception's type, else of Ray's error type."""
    # one of a task that Ray raised anew where it was waited for
    cause = r"coalesce(nullif(regexp_extract(error, '\(([\w.]+)\)$', 1), ''), error)"
    return f"coalesce(nullif({cause}, ''), error_type)"


def _masked(text: str) -> str:
    for pattern, stand_in in _MASKS:
        text = f"regexp_replace({text}, {literal(pattern)}, {literal(stand_in)}, 'g')"
    return f"trim({text})"


def _shortened(text: str) -> str:
    most = TEXT_CHARACTERS
    return f"CASE WHEN length({text}) > {most} THEN left({text}, {most - 1}) || '…' ELSE {text} END"
