"""Tell whether a name, as of a setting, a variable or an HTTP header, is that of a secret."""

from __future__ import annotations

import re

PARTS = (
    *("oken", "OKEN", "ecret", "ECRET", "assw", "ASSW", "assphr", "ASSPHR", "uthoriz", "UTHORIZ"),
    *("redential", "REDENTIAL", "_key", "_KEY", "-key", "-Key", "piKey", "ssKey", "ntKey", "teKey", "pikey", "PIKEY"),
    *("sskey", "pwd", "Pwd", "PWD", "nection_s", "NECTION_S", "nectionS"),
)
"""The parts of such names, in the cases that they are written in. Every byte is searched for them."""
NO_PARTS = ("okeni",)
"""Words that begin as a part does, and are so frequent that they are told apart by the search itself: to tokenize."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET = {
    *("password", "passwords", "passwd", "passphrase", "secret", "secrets", "credential", "credentials"),
    *("pwd", "authorization", "apikey", "apikeys", "accesskey", "secretkey", "privatekey", "accountkey"),
}
# the last two are names in URLs alone: no line is searched for a part of them
_ENDS_IN_SECRET = (
    *("password", "passwd", "passphrase", "secret", "apikey", "accesskey", "secretkey", "privatekey"),
    *("connectionstring", "connstr"),
)
_OF_KEYS = {
    *("api", "access", "private", "secret", "account", "shared", "signing", "encryption", "decryption", "master"),
    *("ssh", "storage", "service", "auth", "hmac", "jwt", "fernet", "license", "subscription", "webhook", "deploy"),
    *("admin", "openai", "anthropic", "azure", "aws", "gcp", "wandb", "datadog", "dd", "app", "application", "session"),
}
_OF_TOKENS = {
    *("pad", "eos", "bos", "sep", "cls", "unk", "mask", "stop", "start", "end", "special", "next", "first", "last"),
    *("max", "min", "num", "new", "image", "audio", "video", "per", "decoder", "forced", "prompt", "completion"),
    *("target", "source", "blank", "begin", "page", "continuation", "cancel", "cancellation", "unexpected", "invalid"),
    *("each", "every", "one", "word", "char", "to", "by", "of", "time", "chat", "separator", "delimiter"),
}
"""Words before `token` where it is what a language model reads, or a place in a list."""
_SECRET_TOKENS = {"api", "access", "auth", "bearer", "refresh", "secret", "hf", "github", "session"}
"""Words before `tokens`, of which a language model has as many."""
_AFTER = {
    "key": _OF_KEYS,
    "keys": _OF_KEYS,
    "tokens": _SECRET_TOKENS,
    "string": {"connection", "conn"},
    "str": {"connection", "conn"},
}
"""Last words that are secrets after these alone."""
_ABOUT = {
    *("name", "names", "ref", "path", "file", "filename", "dir", "type", "types", "kind", "count", "length", "len"),
    *("size", "limit", "enabled", "disabled", "ttl", "expiry", "expires", "expired", "expiration", "seconds", "ms"),
    *("version", "manager", "class", "provider", "providers", "store", "scope", "scopes", "policy", "mode", "usage"),
    *("field", "header", "index", "budget", "bucket", "rate", "ratio", "required", "error", "errors", "namespace"),
    *("url", "uri", "endpoint", "plugin", "validator", "algorithm", "format", "timeout", "age", "arn", "source"),
}
"""The ends of names that are about a secret, and are none."""


def is_secret(name: str) -> bool:
    """Say whether something of that name, in any case and with any mark between its words, is a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    while words and (words[-1].isdigit() or words[-1] in ("value", "text", "b", "base", "plain", "hash")):
        words.pop()
    if not words or words[-1] in _ABOUT:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    # an id is of a key that is no secret without its other half, or of a word that a language model reads
    if last == "id":
        return before == "secret" or words[-3:-1] == ["access", "key"]
    if last in _AFTER:
        return before in _AFTER[last]
    if last.endswith("token"):
        return before not in _OF_TOKENS
    return not _SECRET.isdisjoint(words) or last.endswith(_ENDS_IN_SECRET)
