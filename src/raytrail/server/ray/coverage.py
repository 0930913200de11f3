"""What the history of one cluster can say of what Ray shows, column by column, and why not where it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from starlette.responses import Response

from raytrail.answers import snapshots
from raytrail.entities import Column, Derived, Entity, entity
from raytrail.fold.layout import find
from raytrail.fold.sessions import of_session
from raytrail.server.context import View, encode
from raytrail.server.ray.fidelity import CANNOT, EXCUSES, INFERRED, ROWS, WITHOUT_LOGS
from raytrail.server.ray.resources import RESOURCES, RUNTIME_ENVS, Field, Resource
from raytrail.store import Filter


def coverage(view: View) -> Response:
    """
    How each column of Ray's comes to be known: `exact`, `derived`, `inferred` or `not exported`.

    As JSON, for this cluster: with the source, the reason where it is not exact, and counts of rows and of those closed
    without an event.
    """
    resources = [_resource(view, resource) for resource in RESOURCES.values()]
    resources += [
        {
            "resource": name,
            "columns": [_not_exported(column, reason) for column, reason in columns.items()],
            **_of_rows(name),
        }
        for name, columns in CANNOT.items()
        if name not in RESOURCES and (columns or name in ROWS)
    ]
    return encode({"session": view.cluster.session, "at_ms": view.snapshot.at_ms, "resources": resources})


def unknown(view: View, resource: Resource) -> str:
    """Return why nothing is known of a resource; nothing if it is."""
    if resource is RUNTIME_ENVS:
        return f"{resource.noun}: Ray exports no event of them, so this history does not know them"
    if listed := snapshots.asked(view.store, view.cluster).get(resource.noun):
        return snapshots.lacking(listed) if listed["total_rows"] is None else ""
    kind = resource.entity.upper()
    if resource.is_asked_for and kind not in {row.event_type for row in view.store.ledger(view.cluster.session)}:
        return f"{resource.noun}: no event of them has come; agents ask Ray for them with --types {kind}"
    return ""


def _resource(view: View, resource: Resource) -> dict[str, Any]:
    reason = unknown(view, resource)
    rows = inferred = 0
    if reason:
        columns = [_not_exported(field.name, reason) for field in resource.fields]
    else:
        declaration = entity(resource.entity)
        rows = view.snapshot.count(resource.entity)
        inferred = view.snapshot.count(resource.entity, [Filter("inferred", "!=", None)])
        closed = set(_closed(declaration)) if inferred else set()
        columns = [_column(view, resource, declaration, field, closed) for field in resource.fields]
    return {
        "resource": resource.noun,
        "rows": rows,
        "inferred_rows": inferred,
        "columns": columns,
        **_of_rows(resource.noun),
    }


def known(
    resource: Resource, field: Field, *, reported: bool = False, closed: AbstractSet[str] = frozenset()
) -> tuple[str, str]:
    """
    Return how a column of Ray's comes to be known, and why not exactly; nothing if it is.

    Args:
        resource: Whose column.
        field: The column.
        reported: Whether something is known of what Ray's files do not say: its HTTP export may have said it.
        closed: The columns that are concluded of rows that no event ended.
    """
    cannot, concluded = (of.get(resource.noun, {}).get(field.name, "") for of in (CANNOT, INFERRED))
    if not field.exported:
        return "not exported", cannot or "no event of Ray's says it"
    if (cannot or concluded) and not reported:
        return ("not exported", cannot) if cannot else ("inferred", concluded)
    declaration = entity(resource.entity)
    column = find(declaration, field.column or field.name)
    if column.name in closed:
        return "inferred", "of rows that no event ended it is concluded; each says why in `inferred`"
    if isinstance(column, Derived) or column.computed or declaration.view:
        return "derived", column.doc
    return "exact", ""


def _column(
    view: View, resource: Resource, declaration: Entity, field: Field, closed: AbstractSet[str]
) -> dict[str, Any]:
    name = field.column or field.name
    untold = any(field.name in of.get(resource.noun, {}) for of in (CANNOT, INFERRED))
    reported = field.exported and untold and bool(view.snapshot.count(declaration.name, [Filter(name, "!=", None)]))
    how, reason = known(resource, field, reported=reported, closed=closed)
    if how == "not exported":
        return _not_exported(field.name, reason)
    parts = dict(CANNOT.get(resource.noun, {}))
    if not (view.cluster.sealed and view.cluster.log_bytes):
        parts.update(WITHOUT_LOGS.get(resource.noun, {}))
    exceptions = [
        *(
            {"part": part, "reason": why}
            for part, why in parts.items()
            if part == field.name or part.startswith(f"{field.name}.")
        ),
        *(
            {"part": part, "reason": excuse.reason}
            for excuse in EXCUSES
            for part in excuse.fields
            if excuse.resource == resource.noun and part.partition(".")[0] == field.name
        ),
    ]
    return {
        "column": field.name,
        "how": how,
        "source": sorted(set(_origins(declaration, find(declaration, name)))) if reported or not untold else [],
        **({"reason": reason} if reason else {}),
        **({"exceptions": exceptions} if exceptions else {}),
    }


def _not_exported(column: str, reason: str) -> dict[str, Any]:
    return {"column": column, "how": "not exported", "source": [], "reason": reason}


def _of_rows(resource: str) -> dict[str, str]:
    return {"reason": ROWS[resource]} if resource in ROWS else {}


def _origins(declaration: Entity, column: Column | Derived) -> Iterator[str]:
    """Yield the places in Ray's events that a column is read from."""
    if declaration.view:
        for name in re.findall(r"{(\w+)}", of_session(declaration.view, many=False)):
            yield from entity(name).event_types
        return
    if isinstance(column, Column) and not column.computed:
        yield f"{'/'.join(declaration.event_types)} {column.origin}"
        return
    columns: tuple[Column | Derived, ...] = declaration.columns
    columns += declaration.derived
    text = column.sql if isinstance(column, Derived) else column.computed
    for name in sorted(set(re.findall(r"\w+", text))):
        for other in columns:
            if other.name == name and other is not column:
                yield from _origins(declaration, other)


def _closed(declaration: Entity) -> Iterator[str]:
    """Yield the columns that closing what is open says something of."""
    closing = {name for name, _ in declaration.life.closing}
    for column in declaration.columns:
        if column.name in closing:
            yield column.name
    for derived in declaration.derived:
        if closing & set(re.findall(r"\w+", derived.sql)):
            yield derived.name
