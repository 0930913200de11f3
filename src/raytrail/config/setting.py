"""Each setting as its users see it, for the flags, ``raytrail settings`` and the table in the docs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect

from raytrail.config import tables
from raytrail.config.size import shown_bytes
from raytrail.config.tables import Config

_COMMON = frozenset(
    {
        *("tail.cluster", "tail.temp_dir", "tail.event_types", "tail.redact", "tail.logs", "tail.state_dir"),
        *("sources.types", "sources.receiver", "agent.to", "agent.listen", "agent.drain_seconds"),
        *("store.dir", "store.threads", "store.memory_bytes", "store.seal_after_quiet_seconds", "store.retain_days"),
        *("history.metrics",),
        *("server.host", "server.port", "server.token", "server.tls_certificate", "server.tls_key", "server.ingest"),
    }
)
"""The settings of the short help. ``--help-all`` shows every one."""
_BY_MACHINE = {"store.threads": "one a core"}
"""Defaults that depend on the machine, in words."""


class Setting(NamedTuple):
    """One setting as its users see it."""

    table: str
    name: str
    type: Any
    kind: str
    """Its allowed values, in words, e.g. ``integer >= 1``."""
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
        """Its name on the command line. A table's ``dir`` goes by the table's name."""
        return "--" + (self.table if self.name == "dir" else self.name.replace("_", "-"))

    @property
    def common(self) -> bool:
        """Whether it is in the short help, as many people set it."""
        return self.key in _COMMON

    @property
    def shown_default(self) -> str:
        """The default as people write it, e.g. ``256 KiB``. Empty where there is none."""
        if self.key in _BY_MACHINE:
            return _BY_MACHINE[self.key]
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        if isinstance(self.default, (int, float)):
            return shown_bytes(int(self.default)) if self.name.endswith("_bytes") else f"{self.default:.10g}"
        return self.default if isinstance(self.default, str) else ""


@cache
def settings() -> tuple[Setting, ...]:
    """Return every setting, in the order of their declarations."""
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
    """Return what each table of settings is about, in the order of their declarations."""
    rooms = msgspec.structs.fields(Config)
    return {room.name: inspect.getdoc(room.type) or "" for room in rooms if room.name != "destinations"}


def markdown() -> str:
    """Return the docs' table of all settings."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in settings():
        doc = re.sub(r"``(.+?)``|`(.+?)`", r"`\1\2`", setting.doc).replace("|", "\\|")
        names = f"`{setting.key}`<br>`{setting.variable}`<br>`{setting.flag}`"
        default = f"`{setting.shown_default}`" if setting.shown_default else "none"
        lines.append(f"| {names} | {default}<br>{setting.kind} | {doc} |")
    return "\n".join(lines) + "\n"


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
        for table in ast.parse(inspect.getsource(tables)).body
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
