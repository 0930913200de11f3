"""
The looks of secrets, whatever their names are. They are the keys that vendors give a beginning of their own, and JWTs.

Each pattern is tried where its beginning stands, and none can go back: a line of any kind takes time in proportion to
its length.
"""

from __future__ import annotations

import re

SHAPES: dict[bytes, re.Pattern[bytes]] = {
    beginning: re.compile(pattern)
    for beginnings, pattern in (
        # Amazon's access keys, as its documentation of unique identifiers says
        ((b"AKIA", b"ASIA"), rb"[A-Z0-9]{16}(?![A-Za-z0-9])"),
        # Google: API keys, access tokens, secrets of OAuth clients
        ((b"AIza",), rb"[\w-]{35}"),
        ((b"ya29.",), rb"[\w.-]{20,}"),
        ((b"GOCSPX-",), rb"[\w-]{20,}"),
        # GitHub, as its documentation of authentication says
        ((b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), rb"[A-Za-z0-9]{30,}"),
        ((b"github_pat_",), rb"\w{22,}"),
        ((b"glpat-",), rb"[\w.-]{20,}"),
        # Slack: bots, users, applications, and the addresses of its webhooks
        ((b"xox",), rb"[a-z](?:\.xox[a-z])?-[\w-]{10,}"),
        ((b"xapp-",), rb"[\w-]{10,}"),
        ((b"hooks.slack",), rb"\.com/(?:services|workflows|triggers)/[\w/]{10,}"),
        ((b"hf_",), rb"[A-Za-z0-9]{30,}"),
        # OpenAI, Anthropic and those who write theirs in the same way
        ((b"sk-",), rb"(?:(?:ant|proj|svcacct|admin|None|or|lf)-[\w-]{16,}|[A-Za-z0-9]{32,})"),
        # a JSON Web Token: two objects in base64, and a signature, which may be empty
        ((b"eyJ",), rb"[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]*"),
    )
    for beginning in beginnings
}
"""The rest of a key, by what it begins with."""

AZURE = b"8Q~"
AZURE_START = re.compile(rb"[\w.~-]{3}")
AZURE_KEY = re.compile(rb"[\w.~-]{31,34}(?![\w.~-])")
"""The rest of the secret of an application of Entra ID: three characters stand before the mark."""

BLOCK = b"-----BEGIN"
BLOCK_HEADER = re.compile(rb" (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
BLOCK_END = b"-----END"
BLOCK_BYTES = 64 * 1024
"""The longest block of a private key that is masked as a whole."""
