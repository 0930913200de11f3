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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

KEYS: Mapping[str, tuple[str, ...]] = {
    "tasks": ("task_id", "attempt_number"),
    "actors": ("actor_id",),
    "nodes": ("node_id",),
    "jobs": ("job_id", "submission_id"),
    "workers": ("worker_id",),
    "placement_groups": ("placement_group_id",),
    "objects": ("object_id", "ip", "pid"),
}
"""What tells the rows of a resource apart."""

CANNOT: Mapping[str, Mapping[str, str]] = {
    "tasks": {
        "call_site": "not in TaskInfo as exported; null unless RAY_record_task_actor_creation_sites is set",
        "fallback_strategy": "not in TaskInfo as exported; {'options': []} by default, null for drivers",
        "task_log_info.stdout_start": "0 where start and end of a task share a flush (TaskLogInfoToExport)",
        "task_log_info.stderr_start": "0 where start and end of a task share a flush (TaskLogInfoToExport)",
        "task_log_info.stdout_file": "'' as exported; a prestarted worker's has ffffffff for the job's id",
        "task_log_info.stderr_file": "'' as exported; a prestarted worker's has ffffffff for the job's id",
    },
    "actors": {
        "num_restarts_due_to_lineage_reconstruction": "not exported",
        "num_restarts_due_to_node_preemption": "not exported",
        "call_site": "not exported; null unless RAY_record_task_actor_creation_sites is set",
        "fallback_strategy": "not exported",
    },
    "nodes": {},
    "jobs": {},
    "workers": {},
    "placement_groups": {},
    "objects": {},
}
"""
Fields that Ray's export files cannot give, and why; ``a.b`` is member b of field a.

They are counted like the others, and do not keep a score from being exact.
"""


class Excuse(NamedTuple):
    """Fields that the files cannot give for some rows."""

    resource: str
    fields: tuple[str, ...]
    applies: Callable[[Mapping[str, Any]], bool]
    """Whether to a live row."""
    reason: str


def _ran_to_its_end(row: Mapping[str, Any]) -> bool:
    spans = (row["profiling_data"] or {}).get("events", ())
    return any(span["event_name"].startswith("task::") for span in spans)


EXCUSES: tuple[Excuse, ...] = (
    Excuse(
        "tasks",
        ("name",),
        lambda row: (
            row.get("state") != "FINISHED"
            and not _ran_to_its_end(row)
            and not row["name"].endswith(row["func_or_class_name"])
        ),
        "only the profile event of the whole run tells options(name=), and there is none",
    ),
    Excuse(
        "tasks",
        ("end_time_ms", "events"),
        lambda row: str(row.get("error_message") or "").startswith("Worker running the task ("),
        "GCS saw the worker die; the files tell its actor's death in whole seconds, or its job's end",
    ),
    Excuse(
        "tasks",
        ("error_message",),
        lambda row: str(row.get("error_message") or "").startswith("Worker running the task (") and not row["actor_id"],
        "how a worker without an actor ended is in no event",
    ),
)
"""What the files cannot give for some rows only."""


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
    """Why the files cannot give it; None where they can."""


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
        if self.missing_rows or self.extra_rows:
            return False
        return all(field.cannot or not field.different + field.missing for field in self.fields.values())

    @property
    def equal_ratio(self) -> float:
        """Equal values among all that the files can give; 1.0 where there are none."""
        counted = [field for field in self.fields.values() if field.cannot is None]
        total = sum(field.equal + field.different + field.missing for field in counted)
        return sum(field.equal for field in counted) / total if total else 1.0

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
) -> Score:
    """
    Compare our rows of a resource with Ray's.

    Fields are those of the live rows; what only ours have is not looked at. Numbers are equal by value, also
    where one side has an integer as text: Ray's HTTP gives int64 so, its Python client does not.

    Args:
        live: Rows as Ray's State API gave them, over HTTP or from its Python client.
        ours: Rows with the same column names.
        resource: ``tasks``, ``actors``, ``nodes``, ``jobs``, ``workers``, ``placement_groups`` or ``objects``.
        key: The fields that tell rows apart; None takes them from `KEYS`.
        cannot: Fields that cannot be given, and why; None takes them from `CANNOT`.
        excuses: What cannot be given for some rows.
        differences_per_field: How many to keep.

    """
    names = KEYS[resource] if key is None else tuple(key)
    reasons = CANNOT[resource] if cannot is None else cannot
    theirs = {tuple(row[name] for name in names): row for row in live}
    own = {tuple(row[name] for name in names): row for row in ours}
    counts: dict[str, Counter[str]] = {}
    differences: dict[str, list[Difference]] = {}
    for row_key, row in theirs.items():
        counterpart = own.get(row_key)
        if counterpart is None:
            continue
        excused = {
            field
            for excuse in excuses
            if excuse.resource == resource and excuse.applies(row)
            for field in excuse.fields
        }
        flat, our_flat = _split(row, reasons), _split(counterpart, reasons)
        for field, value in flat.items():
            count = counts.setdefault(field, Counter())
            if field in excused:
                count["excused"] += 1
            elif field not in our_flat:
                count["missing"] += 1
            elif _same(value, our_flat[field]):
                count["equal"] += 1
            else:
                count["different"] += 1
                kept = differences.setdefault(field, [])
                if len(kept) < differences_per_field and field not in reasons:
                    kept.append(Difference(row_key, field, value, our_flat[field]))
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
            )
            for field, count in counts.items()
        },
        differences=tuple(difference for kept in differences.values() for difference in kept),
    )


def _split(row: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Lift the members that `reasons` names out of their fields."""
    flat = dict(row)
    for name in reasons:
        field, _, member = name.partition(".")
        if member and isinstance(flat.get(field), dict):
            flat[field] = dict(flat[field])
            if member in flat[field]:
                flat[name] = flat[field].pop(member)
    return flat


_DRIVER = re.compile(r"(\w+)='([^']*)'")


def _same(live: Any, ours: Any) -> bool:
    if isinstance(live, dict) and isinstance(ours, dict):
        return live.keys() == ours.keys() and all(_same(live[name], ours[name]) for name in live)
    if isinstance(live, list) and isinstance(ours, list):
        return len(live) == len(ours) and all(map(_same, live, ours))
    if isinstance(live, str) and isinstance(ours, dict):
        # Ray's Python client leaves a job's driver_info as pydantic's text: id='01000000' pid='13699'
        return dict(_DRIVER.findall(live)) == ours
    if isinstance(live, bool) or isinstance(ours, bool):
        return live is ours
    if isinstance(live, str) and isinstance(ours, int):
        return live == str(ours)
    if isinstance(live, int) and isinstance(ours, str):
        return str(live) == ours
    return bool(live == ours)
