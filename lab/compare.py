"""
Our answers beside a live Ray's, field by field, with what the export files cannot give said outright.

    score = compare(recorded["tasks"], ours, resource="tasks")
    print(score)
    assert score.exact
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from raytrail.server.ray.fidelity import CANNOT, EXCUSES, ROWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from raytrail.server.ray.fidelity import Excuse

KEYS: Mapping[str, tuple[str, ...]] = {
    "tasks": ("task_id", "attempt_number"),
    "actors": ("actor_id",),
    "nodes": ("node_id",),
    "jobs": ("job_id", "submission_id"),
    "workers": ("worker_id",),
    "placement_groups": ("placement_group_id",),
    "objects": ("object_id", "ip", "pid"),
    "runtime_envs": ("node_id", "runtime_env"),
    "cluster_events": ("event_id",),
    "tasks summary": ("name",),
    "actors summary": ("name",),
    "objects summary": ("name",),
    "lineage": ("_place",),
    "timeline": ("_key",),
    "submissions": ("job_id", "submission_id"),
    "dashboard nodes": ("raylet.nodeId",),
    "dashboard hosts": ("_number",),
    "dashboard workers": ("pid",),
    "dashboard actors": ("actorId",),
    "dashboard events": ("eventId",),
    "dashboard status": ("_line",),
    "dashboard settings": (),
    "version": (),
    "serve": ("name",),
    "train": ("id",),
    "data": ("dataset",),
}
"""The fields that tell the rows of a resource apart."""


class Difference(NamedTuple):
    """A field of a row that is not the same."""

    key: tuple[Any, ...]
    field: str
    live: Any
    ours: Any


class FieldScore(NamedTuple):
    """How a field compares over all rows that both have."""

    equal: int
    different: int
    missing: int
    """Rows of ours without the field."""
    excused: int
    """Rows not counted above, for an `Excuse`."""
    cannot: str | None
    """Why the files cannot give it, or None where they can."""
    untold: int = 0
    """Values that differ, or that we lack, for one of these reasons: the others came out the same all the same."""


class Score(NamedTuple):
    """How our rows of a resource compare with the live ones."""

    resource: str
    live_rows: int
    our_rows: int
    missing_rows: tuple[tuple[Any, ...], ...]
    """Keys of live rows that we lack."""
    extra_rows: tuple[tuple[Any, ...], ...]
    """Keys of rows that only we have."""
    fields: dict[str, FieldScore]
    differences: tuple[Difference, ...]
    """The first ones of each field that the files can give."""

    @property
    def exact(self) -> bool:
        """Whether all rows and all fields that the files can give are the same."""
        if (self.missing_rows or self.extra_rows) and self.resource not in ROWS:
            return False
        return all(field.cannot or not field.different + field.missing for field in self.fields.values())

    @property
    def equal_ratio(self) -> float:
        """The share of equal values among all that the files can give, or 1.0 where there are none."""
        equal, possible, _ = self.values
        return equal / possible if possible else 1.0

    @property
    def values(self) -> tuple[int, int, int]:
        """
        How many values are equal, of how many that the files can give, of how many there are.

        A row that we lack counts with all its fields, so far as other rows have them.
        """
        counted = [field for field in self.fields.values() if field.cannot is None]
        lacking = 0 if self.resource in ROWS else len(self.missing_rows) * (len(counted) or 1)
        possible = sum(field.equal + field.different + field.missing for field in counted) + lacking
        every = sum(sum(field[:4]) for field in self.fields.values()) + lacking + self._rows_untold
        return sum(field.equal for field in counted), possible, every

    @property
    def untold(self) -> int:
        """
        How many values differ from Ray's, or are lacking, because no event tells them.

        That is not all that is said not to be given: what is the same on both sides, as it is nothing, misleads nobody.
        """
        return sum(field.untold for field in self.fields.values()) + self._rows_untold

    @property
    def _rows_untold(self) -> int:
        return len(self.missing_rows) * (len(self.fields) or 1) if self.resource in ROWS else 0

    def __str__(self) -> str:
        """Return it as a table, then the first differences."""
        lines = [
            f"{self.resource}: {self.live_rows} live rows, {self.our_rows} ours, "
            f"{len(self.missing_rows)} missing, {len(self.extra_rows)} extra; {self.equal_ratio:.2%} equal"
        ]
        width = max(map(len, self.fields), default=0)
        for name, field in self.fields.items():
            total = field.equal + field.different + field.missing
            notes = [f"{field.missing} missing"] if field.missing else []
            if field.excused:
                notes.append(f"{field.excused} excused")
            if field.cannot:
                notes.append(f"cannot: {field.cannot}")
            lines.append(f"  {name:{width}}  {field.equal}/{total}  {'; '.join(notes)}".rstrip())
        for title, keys in (("missing", self.missing_rows), ("extra", self.extra_rows)):
            lines.extend(f"  {title} row: {key}" for key in keys[:10])
        for difference in self.differences:
            lines.append(f"  {difference.field} of {difference.key}:")
            lines.append(f"    live {difference.live!r:.500}")
            lines.append(f"    ours {difference.ours!r:.500}")
        return "\n".join(lines)


def compare(
    live: Iterable[Mapping[str, Any]],
    ours: Iterable[Mapping[str, Any]],
    *,
    resource: str,
    key: Sequence[str] | None = None,
    cannot: Mapping[str, str] | None = None,
    excuses: Sequence[Excuse] = EXCUSES,
    differences_per_field: int = 3,
    types: bool = True,
) -> Score:
    """
    Compare our rows of a resource with Ray's.

    Fields are those of the live rows but for names with ``_`` before them. Fields that only ours have are not looked
    at. A number is equal only to one that JSON writes alike: Ray's server writes 64 bits as text, what it divided with
    a point, and programs that read its answers count on that.

    Args:
        live: Rows as Ray's State API gave them over HTTP.
        ours: Rows with the same column names.
        resource: ``tasks``, ``actors``, ``nodes``, ``jobs``, ``workers``, ``placement_groups`` or ``objects``.
        key: The fields that tell rows apart. None takes them from `KEYS`.
        cannot: Fields that cannot be given, and why. None takes them from `CANNOT`.
        excuses: The fields that cannot be given for some rows.
        differences_per_field: How many to keep.
        types: Whether numbers must be written alike. Those from Ray's Python client, or from a Ray older than the one
            whose API is answered, are equal by value.

    """
    names = KEYS[resource] if key is None else tuple(key)
    reasons = CANNOT[resource] if cannot is None else cannot
    theirs = {_key(row, names): row for row in live}
    own = {_key(row, names): row for row in ours}
    counts: dict[str, Counter[str]] = {}
    differences: dict[str, list[Difference]] = {}
    for row_key, row in theirs.items():
        counterpart = own.get(row_key)
        if counterpart is None:
            continue
        excused = _excused(excuses, resource, row)
        named = [*reasons, *excused]
        flat, our_flat = _split(row, named), _split(counterpart, named)
        for field, value in flat.items():
            if field.startswith("_"):  # these fields are ours, to tell rows apart
                continue
            count = counts.setdefault(field, Counter())
            same = field in our_flat and _same(value, our_flat[field], types)
            count["untold"] += not same and (field in excused or field in reasons)
            verdict = "excused" if field in excused else _verdict(field in our_flat, same)
            count[verdict] += 1
            if verdict == "different":
                of_field = differences.setdefault(field, [])
                if len(of_field) < differences_per_field and field not in reasons:
                    of_field.append(Difference(row_key, field, value, our_flat[field]))
    return Score(
        resource=resource,
        live_rows=len(theirs),
        our_rows=len(own),
        missing_rows=tuple(row_key for row_key in theirs if row_key not in own),
        extra_rows=tuple(row_key for row_key in own if row_key not in theirs),
        fields={
            field: FieldScore(
                count["equal"],
                count["different"],
                count["missing"],
                count["excused"],
                reasons.get(field),
                count["untold"],
            )
            for field, count in counts.items()
        },
        differences=tuple(difference for of_field in differences.values() for difference in of_field),
    )


def _verdict(is_there: bool, same: bool) -> str:
    if same:
        return "equal"
    return "different" if is_there else "missing"


def _excused(excuses: Iterable[Excuse], resource: str, row: Mapping[str, Any]) -> set[str]:
    """Return the fields of a row that cannot be given."""
    applying = (excuse for excuse in excuses if excuse.resource == resource and excuse.applies(row))
    return {field for excuse in applying for field in excuse.fields}


def _key(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    values = (row.get(name) for name in names)
    return tuple(str(value) if isinstance(value, dict) else value for value in values)


def _split(row: Mapping[str, Any], named: Iterable[str]) -> dict[str, Any]:
    """Lift the members that are named out of their fields."""
    flat = dict(row)
    for name in named:
        field, _, member = name.partition(".")
        if member and isinstance(flat.get(field), dict):
            flat[field] = dict(flat[field])
            if member in flat[field]:
                flat[name] = flat[field].pop(member)
    return flat


_DRIVER = re.compile(r"(\w+)='([^']*)'")


def _same(live: Any, ours: Any, types: bool) -> bool:
    if isinstance(live, dict) and isinstance(ours, dict):
        return live.keys() == ours.keys() and all(_same(live[name], ours[name], types) for name in live)
    if isinstance(live, list) and isinstance(ours, list):
        return len(live) == len(ours) and all(
            _same(member, other, types) for member, other in zip(live, ours, strict=True)
        )
    if types or isinstance(live, bool) or isinstance(ours, bool):
        return type(live) is type(ours) and bool(live == ours)
    return _same_value(live, ours)


def _same_value(live: Any, ours: Any) -> bool:
    if isinstance(live, str) and isinstance(ours, dict):
        # Ray's Python client leaves a job's driver_info as pydantic's text: id='01000000' pid='13699'
        return dict(_DRIVER.findall(live)) == ours
    if isinstance(live, str) and isinstance(ours, int):
        return live == str(ours)
    if isinstance(live, int) and isinstance(ours, str):
        return str(live) == ours
    return bool(live == ours)
