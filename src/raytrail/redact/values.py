"""
Masks what follows a word: the value of a name in a text or in Python's notation, and what looks like a key.

Each function masks what stands there, and returns where that ends.
"""

from __future__ import annotations

import re

from raytrail.redact import shapes
from raytrail.redact.lines import Lines, Take, name_begins
from raytrail.redact.quoted import closing_apostrophe, closing_quote, repr_value, slashes_before

_WORD_BYTES = 4
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


def take_repr(lines: Lines, end: int, *, whole: bool = False) -> int:
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


def take_text(lines: Lines, begins: int, end: int) -> int:
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


def _take_value(lines: Lines, at: int, name: bytes, *, strict: bool = False, closes: bool = False) -> int:
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


def _take_bare(lines: Lines, at: int, name: bytes, *, strict: bool) -> int:
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


def take_query(lines: Lines, start: int, end: int) -> int:
    """Mask the signature in a URL that is signed, or in a header."""
    name = lines.data[name_begins(lines.data, start) : end - 1].lower()
    value = _QUERY_VALUE.match(lines.data, end)
    if value is None or not (name == b"sig" or name.endswith(b"signature")):
        return end
    lines.mask([value.span()])
    return value.end()


def take_bearer(lines: Lines, start: int, end: int) -> int:
    """Mask what stands after ``Bearer``."""
    token = _BEARER_TOKEN.match(lines.data, end)
    if token is None or lines.data[max(0, start - 1) : start] not in (b"B", b"b"):
        return end
    lines.mask([token.span()])
    return token.end()


def take_azure(lines: Lines, start: int, end: int) -> int:
    """Mask the secret of an application of Entra ID."""
    key = shapes.AZURE_KEY.match(lines.data, end)
    if key is None or start < 3 or not shapes.AZURE_START.fullmatch(lines.data, start - 3, start):
        return end
    lines.mask([(start - 3, key.end())])
    return key.end()


def take_block(lines: Lines, start: int, end: int) -> int:
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


def shape(pattern: re.Pattern[bytes]) -> Take:
    """Return what masks a word together with what follows it, if that has the look of a key."""

    def take(lines: Lines, start: int, end: int) -> int:
        rest = pattern.match(lines.data, end) if _is_apart(lines.data, start) else None
        if rest is None:
            return end
        lines.mask([(start, rest.end())])
        return rest.end()

    return take


def _is_apart(data: bytes, start: int) -> bool:
    """Say whether what begins at `start` is not the middle of a word."""
    before = data[max(0, start - 1) : start]
    if not before.isalnum():
        return before not in (b"-", b"_")
    escaped = before in (b"n", b"r", b"t") and data[max(0, start - 2) : start - 1] == b"\\"
    return escaped or data[max(0, start - 6) : max(0, start - 4)] == b"\\u"
