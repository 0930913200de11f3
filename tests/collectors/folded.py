"""What a history answers, to compare one that a collector filled with an import of the same files."""

import subprocess
import sys

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import StoreError
from raytrail.store import Store


def answers(store):
    """Every state of each session, and how many events of each type made them or were rejected."""
    facts: dict[tuple[str, ...], object] = {}
    with Store.open(store, StoreConfig(threads=1), write=True) as opened:
        for session in [cluster.session for cluster in opened.clusters()]:
            opened.rebuild(session)
            snapshot = opened.snapshot(session)
            for noun, entity in installed().items():
                # not the files: a collector's batches are others than Ray's files
                if noun != "file":
                    columns = [*entity.key, *filter(None, [entity.life.state])]
                    facts[session, noun] = sorted(map(str, snapshot.rows(noun, columns=columns)))
            for row in opened.ledger(session):
                facts[session, row.event_type, "events"] = row.stored_events, row.rejected_events
    return facts


def imported(temp_dir, store):
    """Return the answers of an import of the files."""
    command = [sys.executable, "-m", "raytrail", "import", temp_dir, "--store", store]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return answers(store)


def events(store):
    """Return how many are stored."""
    if not (store / "catalogue.sqlite").exists():
        return 0
    try:
        with Store.open(store, StoreConfig(threads=1)) as opened:
            return sum(cluster.events for cluster in opened.clusters())
    except StoreError:  # it is being made
        return 0
