"""
Partial states that cannot be folded on. Those of an older Raytrail may lack a column, or have another type of it.
Others are damaged.

The log is the truth, so such states are not converted: their entity is folded anew from the session's log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from raytrail.entities import Entity, installed
from raytrail.errors import StoreDamaged
from raytrail.fold import merge
from raytrail.store.catalogue import Catalogue, StateFile
from raytrail.store.closed import partial_states
from raytrail.store.engine import Engine, parquet
from raytrail.store.files import Files

log = logging.getLogger(__name__)


class Partials:
    """Tells files of partial states that this version can fold on from others."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._types: dict[Path, dict[str, str]] = {}

    def usable(self, entity: Entity, paths: list[Path]) -> bool:
        """Return whether all of these files have the columns and types of today's partial states."""
        return all(self._read_types(path) == merge.partial_types(entity) for path in paths)

    def _read_types(self, path: Path) -> dict[str, str]:
        if path not in self._types:
            described = self._engine.run(f"DESCRIBE SELECT * FROM {parquet([path])}")
            self._types[path] = {name: kind for name, kind, *_ in described}
        return self._types[path]


def unfold(root: Path, catalogue: Catalogue, engine: Engine, files: Files) -> list[Path]:
    """
    Forget the partial states that cannot be folded on, so that the next fold makes them anew from the log.

    Returns:
        The files that are no longer named. Delete them once nobody reads them.
    """
    live = catalogue.query(
        "SELECT DISTINCT session, entity FROM state JOIN sessions USING (session) "
        "WHERE kind IN ('open', 'closed') AND sealed_ms IS NULL"
    )
    partials, retired = Partials(engine), list[Path]()
    for session, name in live:
        entity = installed().get(name)
        states = catalogue.state_files(session, name)
        if entity is None or _usable(partials, entity, files, states):
            continue
        with catalogue.transaction() as db:
            db.execute("DELETE FROM state WHERE session = ? AND entity = ?", (session, name))
            db.execute("UPDATE log SET folded = 0 WHERE session = ? AND entity = ?", (session, name))
        retired += [root / state.path for state in states]
    return retired


def _usable(partials: Partials, entity: Entity, files: Files, states: Sequence[StateFile]) -> bool:
    try:
        files.paths(states)
        return partials.usable(entity, files.paths(partial_states(states)))
    except StoreDamaged as error:
        log.warning("%s, which is done now", error)
        return False
