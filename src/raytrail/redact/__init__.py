"""
Secrets out of lines, before they leave the node: by what they are called, and by what they look like.

A masked line is as long as it was, each byte of a secret an asterisk, so that the ranges of the source file stay true.
All else is untouched. Ray writes runtime environments as JSON within JSON, and prints them into messages: names and
values are found at any depth of quoting, by their bytes, and no line is decoded.

Every byte is searched once, for all words at once, by the vector instructions of `ahocorasick_rs`. The name around a
word is looked at only where one stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from io import BytesIO
from itertools import groupby

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from raytrail.redact import command, labels, names, shapes, urls
from raytrail.redact.escapes import unquoted, without_needless_escapes
from raytrail.redact.lines import Lines, Patch, Take, line_end, name_begins
from raytrail.redact.quoted import Spans, json_value
from raytrail.redact.values import shape, take_azure, take_bearer, take_block, take_query, take_repr, take_text

DEFAULT = ("env_vars",)
"""Names whose values are masked whole, whatever is in them."""

# `ahocorasick_rs` searches for 64 words at most with vector instructions, ten times as fast, and faster still where all
# are of four bytes at least
_SEARCHED_AT_ONCE = 64
_LONG = 4
_KNOWN = 1000  # values that are remembered
_KNOWN_BYTES = 4096
_BEFORE_BYTES = 16  # hold the quote of a name that is quoted up to three times, and what stands before it
_COMMAND_BYTES = 128 * 1024  # Linux takes no longer one, in MAX_ARG_STRLEN
# ends of names: their beginnings are those of other names in every line of Ray's, which makes the search slow
_COMMANDS = {b"trypoint": b"entrypoint", b"n_options": b"run_options", b"py_executable": b"py_executable"}
_WITH_ENTRYPOINT = (
    "DRIVER_JOB",
    "SUBMISSION_JOB",
    "DRIVER_JOB_DEFINITION_EVENT",
    "SUBMISSION_JOB_DEFINITION_EVENT",
    "SET_ASIDE",
)
# what libraries say of a task or an actor, which Ray posts in base64. It is mostly empty, and then no word stands there
_LABELS = tuple(b'%b":%b{"' % (name, space) for name in (b"refIds", b"ref_ids") for space in (b"", b" "))
_ESCAPE, _OF_LETTERS = b"\\u00", b"24567"
_QUERIES = (b"sig=", b"ignature=")
_BEARER = b"earer "

_JSON_VALUES = (b"{", b"[", b'"', b"\\", b"-", *(b"%d" % digit for digit in range(10)))
_NAME_END = re.compile(rb"[\w.-]{0,64}")
_JSON_COLON = re.compile(rb'(\\*)"\s{0,8}:\s{0,8}')
_SPELT_KEY = re.compile(rb"(?=\D{0,64}\d)(?=[^A-Z]{0,64}[A-Z])(?=[^a-z]{0,64}[a-z])[A-Za-z0-9+/=-]{16,}\Z")


class Redactor:
    """
    Masks what `names` are the names of, and what is called or looks like a secret.

    A value is a string, or all strings in an object or array but its keys. Numbers in ``env_vars``, and numbers with a
    secret's name, get a 1 for each digit. Other numbers stay.

    Any number of threads may use one.

    Args:
        names: Further names, in lower or upper case. None: nothing is masked at all.
    """

    def __init__(self, names: Iterable[str] = DEFAULT) -> None:
        # events that Ray posts have the names of the protocol in camel case
        forms = (form for name in names for form in (name, name.lower(), name.upper(), _camel(name)))
        self._exact = {form.encode() for form in forms}
        self._secret: dict[bytes, bool] = {}
        # All tasks of a job have the same runtime environment: from a name with its value, and what stands just before
        # it, to the value with its strings masked.
        self._known: dict[bytes, bytes] = {}
        self._commands: dict[tuple[bytes, int], Spans] = {}
        self._labels: dict[bytes, list[Patch]] = {}
        takes = list(self._list_takes().items()) if self._exact else []
        self._searches = [
            (
                BytesAhoCorasick([word for word, _ in some], matchkind=MatchKind.LeftmostFirst),
                [take for _, take in some],
            )
            for group in (
                [(word, take) for word, take in takes if len(word) >= _LONG],
                [(word, take) for word, take in takes if len(word) < _LONG],
            )
            for some in _parts(group, _SEARCHED_AT_ONCE)
        ]

    def __call__(self, data: bytes, event_type: str) -> bytes:
        """Return `data`, lines of one event type, with all secrets masked. It is the same object if there are none."""
        if not self._searches:
            return data
        patches = self._find_patches(data, event_type)
        if not patches:
            return data
        return _patched(data, patches)

    def _find_patches(self, data: bytes, event_type: str, *, again: bool = False) -> list[Patch]:
        lines = Lines(data, event_type, again=again)
        for search, takes in self._searches:
            done = 0
            for word, start, end in search.find_matches_as_indexes(data):
                if start >= done and (take := takes[word]):
                    done = take(lines, start, end)
        at = data.find(b"@")  # far rarer than "://"
        while at >= 0:
            begins = data.rfind(b"\n", 0, at) + 1
            end = line_end(data, at)
            lines.mask(urls.passwords(data, begins, end))
            at = data.find(b"@", end)
        return lines.patches

    def _list_takes(self) -> dict[bytes, Take | None]:
        """Return what is searched for, the longer first of those that begin alike, and what to do where it stands."""
        takes: dict[bytes, Take | None] = dict.fromkeys(sorted(self._exact, key=len, reverse=True), self._take_exact)
        takes |= dict.fromkeys(map(str.encode, names.NO_PARTS))
        for word in _COMMANDS:
            takes.setdefault(word, self._take_command)
        takes |= dict.fromkeys(_LABELS, self._take_labels)
        takes |= dict.fromkeys(_QUERIES, take_query)
        takes |= {
            _ESCAPE: self._take_escape,
            _BEARER: take_bearer,
            shapes.AZURE: take_azure,
            shapes.BLOCK: take_block,
        }
        takes |= {beginning: shape(pattern) for beginning, pattern in shapes.SHAPES.items()}
        for part in names.PARTS:
            takes.setdefault(part.encode(), self._take_part)
        return takes

    def _take_exact(self, lines: Lines, start: int, end: int) -> int:
        data = lines.data
        closes = data.find(b"}", end, end + _KNOWN_BYTES) + 1
        hidden = self._known.get(data[start - _BEFORE_BYTES : closes])
        if hidden and not lines.again:
            lines.patches.append((end, hidden))
            return closes
        tail = _NAME_END.match(data, end)
        if data[name_begins(data, start) : tail.end() if tail else end] not in self._exact:
            return self._take_part(lines, start, end)
        colon = _JSON_COLON.match(data, end)
        if colon and _opens(data, start, len(colon[1])):
            return self._take_json(lines, start, end, colon, whole=True)
        return take_repr(lines, end, whole=True)

    def _take_json(self, lines: Lines, start: int, end: int, colon: re.Match[bytes], *, whole: bool) -> int:
        """Mask the JSON value after a name that ends at `end`. With `whole`, remember it."""
        data, at, slashes = lines.data, colon.end(), len(colon[1])
        if data[at : at + 1] not in _JSON_VALUES:
            return at
        value = json_value(data, at, slashes)
        odd = [span for span in value.keys if _SPELT_KEY.match(data, *span)]
        before = len(lines.patches)
        lines.mask(value.strings + odd)
        if not whole or data[start:end].lower() == b"env_vars":
            lines.mask_numbers(value.numbers)
        if (
            whole
            and not lines.again
            and data[value.end - 1 : value.end] == b"}"
            and value.end - end < _KNOWN_BYTES
            and len(colon[1]) < _BEFORE_BYTES - 2
        ):
            self._remember(data, start, end, value.end, lines.patches[before:])
        return value.end

    def _remember(self, data: bytes, start: int, end: int, closes: int, patches: list[Patch]) -> None:
        """Remember what stands in the place of a name's value that ends with its first brace."""
        text = data[end:closes]
        if not patches or text.find(b"}") < len(text) - 1 or start < _BEFORE_BYTES:
            return
        if len(self._known) >= _KNOWN:
            self._known.clear()
        key = data[start - _BEFORE_BYTES : closes]
        self._known[key] = _patched(text, [(place - end, instead) for place, instead in patches])

    def _take_part(self, lines: Lines, start: int, end: int) -> int:
        """Mask the value of a name, if it is that of a secret, wherever values follow names."""
        data = lines.data
        tail = _NAME_END.match(data, end)
        end = tail.end() if tail else end
        begins = name_begins(data, start)
        name = data[begins:end]
        if not self._is_secret(name):
            return end
        colon = _JSON_COLON.match(data, end)
        if colon:
            if _opens(data, begins, len(colon[1])):
                return self._take_json(lines, begins, end, colon, whole=False)
        elif data[end : end + 1] == b"'" and not name.startswith(b"-"):
            return take_repr(lines, end)
        return take_text(lines, begins, end)

    def _is_secret(self, name: bytes) -> bool:
        known = self._secret.get(name)
        if known is None:
            if len(self._secret) >= _KNOWN:
                self._secret.clear()
            known = self._secret[name] = names.is_secret(name.decode("ascii", "replace"))
        return known

    def _take_command(self, lines: Lines, start: int, end: int) -> int:
        """Mask what a shell's command sets, or a container's options."""
        data, name = lines.data, _COMMANDS[lines.data[start:end]]
        start = end - len(name)
        if name == b"entrypoint" and lines.event_type not in _WITH_ENTRYPOINT:
            return end
        colon = _JSON_COLON.match(data, end)
        if (
            start < lines.commands_end
            or colon is None
            or not (data.startswith(name, start) and _opens(data, start, len(colon[1])))
        ):
            return end
        value = json_value(data, colon.end(), len(colon[1]))
        lines.commands_end = value.end
        for start, end in value.strings:
            lines.mask((start + a, start + b) for a, b in self._search_command(data[start:end], len(colon[1])))
        return colon.end()  # names and keys in it are found as they are elsewhere

    def _search_command(self, text: bytes, slashes: int) -> Spans:
        if len(text) > _COMMAND_BYTES:
            return [(0, len(text))]
        known = self._commands.get((text, slashes))
        if known is None:
            plain, place = unquoted(text, slashes.bit_length() + 1)
            known = [(place(start), place(end)) for start, end in command.secrets(plain)]
            if len(self._commands) >= _KNOWN or len(text) > _KNOWN_BYTES:
                self._commands.clear()
            self._commands[text, slashes] = known
        return known

    def _take_labels(self, lines: Lines, start: int, end: int) -> int:
        """Mask the texts of an object of texts in base64, each by what it says and by its name."""
        begins = end - 2
        value = json_value(lines.data, begins, 0)
        text = lines.data[begins : value.end]
        patches = self._labels.get(text)
        if patches is None:
            patches = labels.patches(text, lambda line: self(line, lines.event_type))
            if len(self._labels) >= _KNOWN or len(text) > _KNOWN_BYTES:
                self._labels.clear()
            self._labels[text] = patches
        lines.patches += [(begins + at, instead) for at, instead in patches]
        return value.end

    def _take_escape(self, lines: Lines, start: int, end: int) -> int:
        """Mask a line once more as it is without its needless escapes."""
        data = lines.data
        if lines.again or not lines.is_json or data[end : end + 1] not in _OF_LETTERS:
            return end
        begins, ends = data.rfind(b"\n", 0, start) + 1, line_end(data, start)
        spelt = without_needless_escapes(data[begins:ends])
        for at, instead in self._find_patches(spelt.text, lines.event_type, again=True):
            first, last = begins + spelt.place(at), begins + spelt.place(at + len(instead))
            lines.patches.append((first, instead if last - first == len(instead) else instead[:1] * (last - first)))
        return ends


def _parts(items: list[tuple[bytes, Take | None]], most: int) -> Iterator[list[tuple[bytes, Take | None]]]:
    for _, some in groupby(enumerate(items), key=lambda numbered: numbered[0] // most):
        yield [item for _, item in some]


def _patched(data: bytes, patches: Iterable[Patch]) -> bytes:
    """Return a copy of `data` with other bytes in the places of some. It copies once, and a bytearray does twice."""
    copy = BytesIO(data)
    seek, write = copy.seek, copy.write
    for start, instead in patches:
        seek(start)
        write(instead)
    return copy.getvalue()


def _camel(name: str) -> str:
    return re.sub("_([a-z])", lambda match: match[1].upper(), name)


@cache
def default() -> Redactor:
    """Return the one that masks what is masked unless a setting says otherwise."""
    return Redactor()


def _opens(data: bytes, start: int, slashes: int) -> bool:
    """Say whether a name that begins at `start` is a whole one, in quotes with that many backslashes."""
    quote = start - slashes - 1
    return data[max(0, quote) : start] == b"\\" * slashes + b'"' and data[max(0, quote - 1) : quote] != b"\\"
