"""What a question is about: one session of a cluster, at one moment or at last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from raytrail.fold.literals import literal
from raytrail.store import Cluster, Filter, Snapshot, Store

T = TypeVar("T", bound=msgspec.Struct)

COUNTED: Mapping[str, tuple[Filter, ...]] = {
    "task": (Filter("type", "!=", None), Filter("type", "!=", "DRIVER_TASK")),
}
"""
The rows that Ray's own ``list`` and ``summary`` count, by entity. All rows of other entities count.

The GCS shows no attempt of which it has only a part, and its clients leave drivers out (`exclude_driver`).
"""


def object_or_none(value: Any) -> dict[str, Any] | None:
    """Return a value of a column of JSON if it is an object. Those who write events may put anything there."""
    return value if isinstance(value, dict) else None


class Scope(NamedTuple):
    """One session of a cluster, at one moment."""

    store: Store
    """The history. Other sessions of it are asked for what is compared."""
    cluster: Cluster
    """The session's figures, at last."""
    snapshot: Snapshot
    """The session at the moment that is asked for."""

    @property
    def of_session(self) -> str:
        """The condition of a query that reads this session alone, in `raytrail sql` as here."""
        return f"session = {literal(self.cluster.session)}"

    def ask(self, kind: type[T], statement: str, params: Sequence[Any] = ()) -> list[T]:
        """
        Return the rows of one SELECT over views named after the entities, each as a struct.

        Args:
            kind: The struct. The columns are named as its fields.
            statement: A question that `raytrail sql` answers, too, with the same rows where no moment is asked for.
            params: The values of its question marks.

        Raises:
            UnreadableError: The statement is wrong.
        """
        answer = self.snapshot.query(statement, params)
        return [kind(**dict(zip(answer.columns, row, strict=True))) for row in answer.rows]
