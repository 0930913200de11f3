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
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby

import msgspec
from ahocorasick_rs import BytesAhoCorasick, MatchKind

from raytrail.event import LOG, UNDECODABLE
from raytrail.redact import command, names, shapes, urls
from raytrail.redact.escapes import unquoted, without_needless_escapes
from raytrail.redact.quoted import (
    Spans,
    closing_apostrophe,
    closing_quote,
    json_value,
    repr_value,
    slashes_before,
)

DEFAULT = ("env_vars",)
"""Names whose values are masked whole, whatever is in them."""

Patch = tuple[int, bytes]
"""The places where something else should stand, and what."""
_Take = Callable[["_Lines", int, int], int]
"""Masks what a word says, that stands at these places, and returns up to where that is done."""

# `ahocorasick_rs` searches for 64 words at most with vector instructions, ten times as fast, and faster still where all
# are of four bytes at least
_SEARCHED_AT_ONCE = 64
_LONG = 4
_KNOWN = 1000  # values that are remembered
_KNOWN_BYTES = 4096
_BEFORE_BYTES = 16  # hold the quote of a name that is quoted up to three times, and what stands before it
_NAME_BYTES = 64
_WORD_BYTES = 4
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
_IN_NAMES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
_NAME_END = re.compile(rb"[\w.-]{0,64}")
_JSON_COLON = re.compile(rb'(\\*)"\s{0,8}:\s{0,8}')
_REPR_COLON = re.compile(rb"'\s{0,8}:\s{0,8}")
_REPR_NEXT_ITEM = re.compile(rb"'\s{0,8},\s{0,8}(?=')")
_PAIR = re.compile(rb'(\\*)"\s{0,8},\s{0,8}\1"(?:value|v)\1"\s{0,8}:\s{0,8}(?=\1")')
_NEXT_ITEM = re.compile(rb'(\\*)"\s{0,8},\s{0,8}(?=\1")')
_EQUALS = re.compile(rb"(\s{0,8})=\s{0,8}(?!=)")
_COLON = re.compile(rb":[ \t]{1,8}|:(?=[\"'])")
_SPACE = re.compile(rb"[ \t]{1,8}(?!-)")
_SCHEME = re.compile(rb"(?:Bearer|Basic|Token|Digest|Negotiate|ApiKey)\s", re.IGNORECASE)
_BARE = re.compile(rb"[^\s\"'\\,;&|)\]}]+")
_HEADER = re.compile(rb"[^\"'\\\n]+")
_CODE = re.compile(
    rb"(?:[A-Za-z_][\w.]{0,64})?(?:\([^\s()]{0,64}\)|\[[\"'\\])|<[\w. ]{1,64}[> ]"
    rb"|(?:None|null|True|true|False|false)(?![\w-])|(?:self|os|cls|args|config)\.\w"
)
"""Text that is no value but an expression, or nothing."""
_RANDOM = re.compile(rb"(?=[^\s\"'\\,;]{0,64}\d)(?=[^\s\"'\\,;]{0,64}[A-Za-z])[^\s\"'\\,;]{6}")
"""Text that is no word of a sentence."""
_MORE = re.compile(rb"(?:,(?![\w.-]{1,64}=)|\\\\(?=\w))[^\s\"'\\,;&|)\]}]+")
_FIRST_QUOTE = re.compile(rb"(\\{0,15})\"|'")
_ENDED = re.compile(rb"[,:}\]]")
_BEARER_TOKEN = re.compile(rb"[\w.~+/=-]{16,}")
_QUERY_VALUE = re.compile(rb"(?=[\w%+/=.~-]{0,64}\d)[\w%+/=.~-]{16,}")
_STRING_END = re.compile(rb"[\"\n]")
_SPELT_KEY = re.compile(rb"(?=\D{0,64}\d)(?=[^A-Z]{0,64}[A-Z])(?=[^a-z]{0,64}[a-z])[A-Za-z0-9+/=-]{16,}\Z")
_ESCAPED_LETTERS, _ESCAPED_NUMBER = b"nrtbf", ord("u")


class _Lines:
    """Lines of one event type, and what is to stand in them instead."""

    def __init__(self, data: bytes, event_type: str, *, again: bool) -> None:
        self.data, self.event_type = data, event_type
        self.patches: list[Patch] = []
        self.again = again
        """Whether these are lines whose needless escapes were taken out."""
        self.commands_end = 0
        """Up to where commands have been looked for."""

    @property
    def is_json(self) -> bool:
        return self.event_type != LOG

    def mask(self, spans: Iterable[tuple[int, int]]) -> None:
        """Have asterisks stand there, but for the ends of lines."""
        for start, end in spans:
            for line in self.data[start:end].splitlines(keepends=True) if end > start else ():
                text = line.rstrip(b"\r\n")
                self.patches.append((start, b"*" * len(text)))
                start += len(line)

    def mask_numbers(self, spans: Spans) -> None:
        """Have a 1 stand for each digit, so that a number stays one."""
        for start, end in spans:
            self.patches.append((start, re.sub(rb"\d", b"1", self.data[start:end])))


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
        self._labels: dict[bytes, bytes] = {}
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
        masked = bytearray(data)
        for start, instead in patches:
            masked[start : start + len(instead)] = instead
        return bytes(masked)

    def _find_patches(self, data: bytes, event_type: str, *, again: bool = False) -> list[Patch]:
        lines = _Lines(data, event_type, again=again)
        for search, takes in self._searches:
            done = 0
            for word, start, end in search.find_matches_as_indexes(data):
                if start >= done and (take := takes[word]):
                    done = take(lines, start, end)
        at = data.find(b"@")  # far rarer than "://"
        while at >= 0:
            begins = data.rfind(b"\n", 0, at) + 1
            end = _line_end(data, at)
            lines.mask(urls.passwords(data, begins, end))
            at = data.find(b"@", end)
        return lines.patches

    def _list_takes(self) -> dict[bytes, _Take | None]:
        """Return what is searched for, the longer first of those that begin alike, and what to do where it stands."""
        takes: dict[bytes, _Take | None] = dict.fromkeys(sorted(self._exact, key=len, reverse=True), self._take_exact)
        takes |= dict.fromkeys(map(str.encode, names.NO_PARTS))
        for word in _COMMANDS:
            takes.setdefault(word, self._take_command)
        takes |= dict.fromkeys(_LABELS, self._take_labels)
        takes |= dict.fromkeys(_QUERIES, _take_query)
        takes |= {
            _ESCAPE: self._take_escape,
            _BEARER: _take_bearer,
            shapes.AZURE: _take_azure,
            shapes.BLOCK: _take_block,
        }
        takes |= {beginning: _shape(pattern) for beginning, pattern in shapes.SHAPES.items()}
        for part in names.PARTS:
            takes.setdefault(part.encode(), self._take_part)
        return takes

    def _take_exact(self, lines: _Lines, start: int, end: int) -> int:
        data = lines.data
        closes = data.find(b"}", end, end + _KNOWN_BYTES) + 1
        hidden = self._known.get(data[start - _BEFORE_BYTES : closes])
        if hidden and not lines.again:
            lines.patches.append((end, hidden))
            return closes
        tail = _NAME_END.match(data, end)
        if data[_name_begins(data, start) : tail.end() if tail else end] not in self._exact:
            return self._take_part(lines, start, end)
        colon = _JSON_COLON.match(data, end)
        if colon and _opens(data, start, len(colon[1])):
            return self._take_json(lines, start, end, colon, whole=True)
        return _take_repr(lines, end, whole=True)

    def _take_json(self, lines: _Lines, start: int, end: int, colon: re.Match[bytes], *, whole: bool) -> int:
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
        masked = bytearray(text)
        for place, instead in patches:
            masked[place - end : place - end + len(instead)] = instead
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[data[start - _BEFORE_BYTES : closes]] = bytes(masked)

    def _take_part(self, lines: _Lines, start: int, end: int) -> int:
        """Mask the value of a name, if it is that of a secret, wherever values follow names."""
        data = lines.data
        tail = _NAME_END.match(data, end)
        end = tail.end() if tail else end
        begins = _name_begins(data, start)
        name = data[begins:end]
        if not self._is_secret(name):
            return end
        colon = _JSON_COLON.match(data, end)
        if colon:
            if _opens(data, begins, len(colon[1])):
                return self._take_json(lines, begins, end, colon, whole=False)
        elif data[end : end + 1] == b"'" and not name.startswith(b"-"):
            return _take_repr(lines, end)
        return _take_text(lines, begins, end)

    def _is_secret(self, name: bytes) -> bool:
        known = self._secret.get(name)
        if known is None:
            if len(self._secret) >= _KNOWN:
                self._secret.clear()
            known = self._secret[name] = names.is_secret(name.decode("ascii", "replace"))
        return known

    def _take_command(self, lines: _Lines, start: int, end: int) -> int:
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

    def _take_labels(self, lines: _Lines, start: int, end: int) -> int:
        """Mask the texts of an object of texts in base64, each by what it says and by its name."""
        data, begins = lines.data, end - 2
        closes = data.find(b"}", end) + 1
        text = data[begins:closes]
        masked = self._labels.get(text)
        if masked is None:
            masked = self._mask_labels(text)
            if len(self._labels) >= _KNOWN or len(text) > _KNOWN_BYTES:
                self._labels.clear()
            self._labels[text] = masked
        if masked != text:
            lines.patches.append((begins, masked))
        return closes or end

    def _mask_labels(self, text: bytes) -> bytes:
        try:
            labels = msgspec.json.decode(text, type=dict[str, str])
            plain = {name: b64decode(value, validate=True).decode() for name, value in labels.items()}
        except (*UNDECODABLE, ValueError):
            return text  # they are none, and nobody reads them
        masked = text
        for name, value in plain.items():
            line = msgspec.json.encode({"labels": {name: value}})
            hidden = self(line, "TASK")
            if hidden == line:
                continue
            [[said]] = [
                list(one.values()) for one in msgspec.json.decode(hidden, type=dict[str, dict[str, str]]).values()
            ]
            length = len(value.encode())
            instead = said.encode() if len(said.encode()) == length else b"*" * length
            masked = masked.replace(labels[name].encode(), b64encode(instead))
        return masked

    def _take_escape(self, lines: _Lines, start: int, end: int) -> int:
        """Mask a line once more as it is without its needless escapes."""
        data = lines.data
        if lines.again or not lines.is_json or data[end : end + 1] not in _OF_LETTERS:
            return end
        begins, ends = data.rfind(b"\n", 0, start) + 1, _line_end(data, start)
        spelt = without_needless_escapes(data[begins:ends])
        for at, instead in self._find_patches(spelt.text, lines.event_type, again=True):
            first, last = begins + spelt.place(at), begins + spelt.place(at + len(instead))
            lines.patches.append((first, instead if last - first == len(instead) else instead[:1] * (last - first)))
        return ends


def _parts(items: list[tuple[bytes, _Take | None]], most: int) -> Iterator[list[tuple[bytes, _Take | None]]]:
    for _, some in groupby(enumerate(items), key=lambda numbered: numbered[0] // most):
        yield [item for _, item in some]


def _camel(name: str) -> str:
    return re.sub("_([a-z])", lambda match: match[1].upper(), name)


@cache
def default() -> Redactor:
    """Return the one that masks what is masked unless a setting says otherwise."""
    return Redactor()


def _line_end(data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    return len(data) if end < 0 else end


def _opens(data: bytes, start: int, slashes: int) -> bool:
    """Say whether a name that begins at `start` is a whole one, in quotes with that many backslashes."""
    quote = start - slashes - 1
    return data[max(0, quote) : start] == b"\\" * slashes + b'"' and data[max(0, quote - 1) : quote] != b"\\"


def _name_begins(data: bytes, start: int) -> int:
    """Return where the name begins that has a part at `start`. The letter of an escape before it is not in it."""
    head = data[max(0, start - _NAME_BYTES) : start]
    begins = start - len(head) + len(head.rstrip(_IN_NAMES))
    if begins < start and slashes_before(data, max(0, begins - 16), begins) % 2:
        begins += 5 if data[begins] == _ESCAPED_NUMBER else data[begins] in _ESCAPED_LETTERS
    return min(begins, start)


def _is_apart(data: bytes, start: int) -> bool:
    """Say whether what begins at `start` is not the middle of a word."""
    before = data[max(0, start - 1) : start]
    if not before.isalnum():
        return before not in (b"-", b"_")
    escaped = before in (b"n", b"r", b"t") and data[max(0, start - 2) : start - 1] == b"\\"
    return escaped or data[max(0, start - 6) : max(0, start - 4)] == b"\\u"


def _take_repr(lines: _Lines, end: int, *, whole: bool = False) -> int:
    """
    Mask the value after a name in Python's notation: of a dictionary, or what a call is given.

    Args:
        lines: The lines that it stands in.
        end: The end of the name.
        whole: Whether it may be a sentence in which the name is only mentioned.
    """
    data = lines.data
    follows = _REPR_COLON.match(data, end) or _EQUALS.match(data, end)
    if follows is None or (whole and data[follows.end() : follows.end() + 1].isalnum()):
        return end
    return _take_value(lines, follows.end(), b"")


def _take_text(lines: _Lines, begins: int, end: int) -> int:
    """Mask the value after the name of a secret that stands in a text: a command, a message, a URL's query."""
    data = lines.data
    name = data[begins:end]
    if equals := _EQUALS.match(data, end):
        return _take_value(lines, equals.end(), name, strict=bool(equals[1]))
    if colon := _COLON.match(data, end):
        if name.lower().endswith(b"authorization"):
            scheme = _SCHEME.match(data, colon.end())
            header = _HEADER.match(data, scheme.end() if scheme else colon.end())
            lines.mask([header.span()] if header else [])
            return header.end() if header else end
        return _take_value(lines, colon.end(), name, strict=True)
    if pair := _PAIR.match(data, end):
        return _take_value(lines, pair.end(), b"", closes=True)
    if name.startswith(b"-"):
        if item := _NEXT_ITEM.match(data, end) or _REPR_NEXT_ITEM.match(data, end):
            return _take_value(lines, item.end(), b"", closes=True)
        if space := _SPACE.match(data, end):
            return _take_value(lines, space.end(), name)
    return end


def _take_value(lines: _Lines, at: int, name: bytes, *, strict: bool = False, closes: bool = False) -> int:
    """
    Mask the value that begins at `at`, and return where it ends.

    Args:
        lines: The lines that it stands in.
        at: Its beginning.
        name: Its name: `token=token` is code.
        strict: Whether text without quotes may be a word of a sentence.
        closes: Whether it is known to be a string of JSON.
    """
    data = lines.data
    if data[at : at + 1] in (b"{", b"[", b"("):
        value = repr_value(data, at, is_json=lines.is_json)
        lines.mask(value.strings)
        return value.end
    if quote := _FIRST_QUOTE.match(data, at):
        # without a backslash it is the end of the JSON string that the name is in
        if (
            not closes
            and quote[1] is not None
            and ((lines.is_json and not quote[1]) or _ENDED.match(data, quote.end()))
        ):
            return at
        apostrophe = quote[1] is None
        end, after = (
            closing_apostrophe(data, quote.end(), lines.is_json)
            if apostrophe
            else closing_quote(data, quote.end(), len(quote[1]))
        )
        if not strict or end - quote.end() >= _WORD_BYTES:  # else it is the mark that a parser did not expect
            lines.mask([(quote.end(), end)])
        return after
    return _take_bare(lines, at, name, strict=strict)


def _take_bare(lines: _Lines, at: int, name: bytes, *, strict: bool) -> int:
    data = lines.data
    bare = _BARE.match(data, at)
    if (
        bare is None
        or _CODE.match(data, at)
        or bare[0] == name
        or (name == b"PWD" and bare[0].startswith(b"/"))
        or (strict and not _RANDOM.match(data, at))
    ):
        return at
    end = bare.end()
    while more := _MORE.match(data, end):
        end = more.end()
    lines.mask([(at, end)])
    return end


def _take_query(lines: _Lines, start: int, end: int) -> int:
    """Mask the signature in a URL that is signed, or in a header."""
    name = lines.data[_name_begins(lines.data, start) : end - 1].lower()
    value = _QUERY_VALUE.match(lines.data, end)
    if value is None or not (name == b"sig" or name.endswith(b"signature")):
        return end
    lines.mask([value.span()])
    return value.end()


def _take_bearer(lines: _Lines, start: int, end: int) -> int:
    """Mask what stands after ``Bearer``."""
    token = _BEARER_TOKEN.match(lines.data, end)
    if token is None or lines.data[max(0, start - 1) : start] not in (b"B", b"b"):
        return end
    lines.mask([token.span()])
    return token.end()


def _take_azure(lines: _Lines, start: int, end: int) -> int:
    """Mask the secret of an application of Entra ID."""
    key = shapes.AZURE_KEY.match(lines.data, end)
    if key is None or start < 3 or not shapes.AZURE_START.fullmatch(lines.data, start - 3, start):
        return end
    lines.mask([(start - 3, key.end())])
    return key.end()


def _take_block(lines: _Lines, start: int, end: int) -> int:
    """Mask the block of a private key, but for its first and last line."""
    data = lines.data
    header = shapes.BLOCK_HEADER.match(data, end)
    if header is None:
        return end
    limit = min(len(data), header.end() + shapes.BLOCK_BYTES)
    if lines.is_json:
        limit = min(limit, _string_end(data, header.end()))
    stop = data.find(shapes.BLOCK_END, header.end(), limit)
    stop = limit if stop < 0 else stop  # it is cut
    lines.mask([(header.end(), stop)])
    return stop


def _string_end(data: bytes, at: int) -> int:
    """Return where the next quote of any depth is, or the line's end: no key goes on after it."""
    mark = _STRING_END.search(data, at)
    return mark.start() - slashes_before(data, at, mark.start()) if mark else len(data)


def _shape(pattern: re.Pattern[bytes]) -> _Take:
    def take(lines: _Lines, start: int, end: int) -> int:
        rest = pattern.match(lines.data, end) if _is_apart(lines.data, start) else None
        if rest is None:
            return end
        lines.mask([(start, rest.end())])
        return rest.end()

    return take
