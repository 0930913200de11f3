"""What sources write, folded as the history folds it."""

import pytest

from raytrail.config import StoreConfig
from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.tail import discovery
from raytrail.testing.entities import SESSION


@pytest.fixture
def rows(tmp_path_factory):
    """Fold the event files of a directory, and return an entity's rows, unsealed, as of a moment or at last."""

    def rows(directory, entity, at_ms=None):
        with Store.open(tmp_path_factory.mktemp("store"), StoreConfig(threads=1), write=True) as store:
            for path in sorted(directory.glob("event_EXPORT_*")):
                data, name = path.read_bytes(), discovery.parse(path.name)
                segments = (Segment(f"{path.name}-0", 0, 0, len(data)),)
                store.append(
                    [
                        Chunk(
                            cluster="",
                            session=SESSION,
                            node_id="",
                            event_type=name.event_type,
                            segments=segments,
                            data=data,
                        )
                    ]
                )
            if not store.clusters():
                return []
            store.fold()
            assert not any(row.rejected_events for row in store.ledger(SESSION))
            return store.snapshot(SESSION, at_ms).rows(entity)

    return rows
