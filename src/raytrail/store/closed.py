"""
Closed states whose keys return: an event may come after all that was expected, however late.

Files never change. A closed state that returns is therefore copied back to those that are open, and its row is noted
as *superseded* in a file of its own, by which readers leave it out. So a key has one row at any moment. Files with many
such rows are written anew without them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from raytrail.fold.literals import literal
from raytrail.store.catalogue import StateFile
from raytrail.store.engine import Engine, parquet
from raytrail.store.files import Files

SUPERSEDED = "superseded"
"""The kind of the files that say which rows of closed files are superseded."""

WORN = 0.25
"""The share of superseded rows from which on a file is written anew."""

FEW_SUPERSEDED = 20_000
"""So few superseded rows in all such files are let be."""


def partial_states(states: Iterable[StateFile]) -> list[StateFile]:
    """Return those of a living session's files that hold partial states."""
    return [state for state in states if state.kind in ("open", "closed")]


def current(files: Files, states: Collection[StateFile]) -> str:
    """
    Return the relation of an entity's partial states in a living session, one a key.

    Args:
        files: Checks the files.
        states: All that there are of the entity.
    """
    superseded = files.paths(state for state in states if state.kind == SUPERSEDED)
    if not superseded:
        return parquet(files.paths(partial_states(states)))
    closed = files.paths(state for state in states if state.kind == "closed")
    opened = files.paths(state for state in states if state.kind == "open")
    relation = f"SELECT * EXCLUDE (_file, _row) FROM {_without(closed, parquet(superseded))}"
    return f"({relation}{f' UNION ALL BY NAME FROM {parquet(opened)}' if opened else ''})"


def _without(closed: Iterable[Path], superseded: str) -> str:
    """Return the relation of closed files' other rows, each with its ``_file`` and ``_row``."""
    return f"(FROM {parquet(closed, numbered=True)} ANTI JOIN {superseded} USING (_file, _row))"


class Closed:
    """
    The keys of an entity's closed states in a living session, and which of their rows are superseded.

    Each key takes 15 bytes of memory, for a hash and the number of its file, and each superseded row 61.
    """

    def __init__(self, engine: Engine, key: str) -> None:
        """
        Begin with none.

        Args:
            engine: Holds them.
            key: The expression of a state's key's hash.
        """
        self._engine = engine
        self._key = key
        self._names: list[str] = []
        """The names of the files by their numbers. Files that were written together as one have several."""
        name = f"closed_{time.monotonic_ns()}"
        self._keys, self._matching, self.superseded = f"{name}_keys", f"{name}_matching", f"{name}_superseded"
        self._rows = 0
        """The number of superseded rows."""
        self.changed = False
        """Whether they are others than a file says."""
        engine.run(f"CREATE TABLE {self._keys}(key_hash UBIGINT, file INTEGER)")
        engine.run(f"CREATE TABLE {self.superseded}(_file VARCHAR, _row BIGINT)")

    def load(self, closed: Sequence[Path], superseded: Sequence[Path]) -> None:
        """Take over what files say."""
        if superseded:
            [(self._rows,)] = self._engine.run(f"INSERT INTO {self.superseded} FROM {parquet(superseded)}")
        if closed:
            self._names = [path.name for path in closed]
            numbers = ", ".join(f"({literal(name)}, {number})" for number, name in enumerate(self._names))
            self._engine.run(
                f"INSERT INTO {self._keys} SELECT {self._key}, number FROM {_without(closed, self.superseded)} "
                f"JOIN (VALUES {numbers}) named(_file, number) USING (_file)"
            )

    def add(self, path: Path, hashes: str) -> None:
        """Note the states of a new file, whose keys' hashes a SELECT gives."""
        self._engine.run(f"INSERT INTO {self._keys} SELECT key_hash, {len(self._names)} FROM ({hashes})")
        self._names.append(path.name)

    @property
    def among_closed(self) -> str:
        """The condition that a hash is that of a closed state's key."""
        return _among(self._keys)

    def find(self, batch: str) -> set[str]:
        """Return the names of the files that hold closed states of the keys whose hashes are in a table."""
        numbers = self._engine.run(f"SELECT DISTINCT file FROM {self._keys} WHERE {_among(batch)}")
        return {self._names[number] for (number,) in numbers}

    def take_back(self, batch: str, closed: Sequence[Path], into: str) -> None:
        """
        Copy the closed states of keys into a table. From now on they are superseded, and not closed.

        Args:
            batch: The table of the keys' hashes.
            closed: The files that `find` names.
            into: The table.
        """
        # first the rows' numbers, for which the keys alone are read
        self._engine.run(
            f"CREATE OR REPLACE TABLE {self._matching} AS SELECT _file, _row, {self._key} AS key_hash "
            f"FROM {_without(closed, self.superseded)} WHERE {_among(batch, self._key)}"
        )
        self._engine.run(
            f"INSERT INTO {into} BY NAME SELECT * EXCLUDE (_file, _row), {self._key} AS key_hash "
            f"FROM {parquet(closed, numbered=True)} SEMI JOIN {self._matching} USING (_file, _row)"
        )
        [(rows,)] = self._engine.run(f"INSERT INTO {self.superseded} SELECT _file, _row FROM {self._matching}")
        self._engine.run(f"DELETE FROM {self._keys} WHERE {_among(self._matching)}")
        self._engine.run(f"DROP TABLE {self._matching}")
        self._rows += rows
        self.changed = True

    def select_current(self, closed: Iterable[Path]) -> str:
        """Return the SELECT of these files' rows that are not superseded."""
        return f"SELECT * EXCLUDE (_file, _row) FROM {_without(closed, self.superseded)}"

    def find_worn(self, closed: Sequence[StateFile]) -> list[StateFile]:
        """Return those of these files that are to be written anew without their superseded rows."""
        if self._rows <= FEW_SUPERSEDED:
            return []
        counts = dict(self._engine.run(f"SELECT _file, count(*) FROM {self.superseded} GROUP BY _file"))
        gone = {file: counts.get(Path(file.path).name, 0) for file in closed}
        worn = [file for file, rows in gone.items() if rows >= file.rows * WORN]
        return worn if sum(gone[file] for file in worn) > FEW_SUPERSEDED else []

    def replace(self, old: Iterable[Path], new: Sequence[Path]) -> None:
        """Note that what is current in some files is in one other from now on, or that nothing was."""
        names = {path.name for path in old}
        self._names = [new[0].name if new and name in names else name for name in self._names]
        listed = ", ".join(map(literal, names))
        [(rows,)] = self._engine.run(f"DELETE FROM {self.superseded} WHERE _file IN ({listed})")
        self._rows -= rows
        self.changed |= rows > 0

    def drop(self) -> None:
        """Forget all of them."""
        for table in (self._keys, self._matching, self.superseded):
            self._engine.run(f"DROP TABLE IF EXISTS {table}")


def _among(batch: str, hash: str = "key_hash") -> str:
    return f"{hash} IN (SELECT key_hash FROM {batch})"
