"""Files that nobody names: deleted once nobody can be reading them."""

import os

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk

TASK = installed()["task"]


def unnamed(store):
    named = {
        path
        for (path,) in store._catalogue.query(
            "SELECT path FROM log UNION SELECT path FROM state UNION SELECT path FROM bodies"
        )
    }
    files = [path for kind in ("log", "logs", "state") for path in store._root.glob(f"{kind}/*/*")]
    return [path for path in files if str(path.relative_to(store._root)) not in named]


def fold_twice(root, task):
    """Fold so that files of a moment ago are named no more, and close."""
    with Store.open(root, StoreConfig(threads=1), write=True) as store:
        for number in (1, 2):
            store.append([chunk(TASK, [task(number)], file=f"0000000000-{number}")])
            store.fold()
        store.seal(SESSION)
        assert unnamed(store)


def test_a_writer_deletes_them_at_its_end(tmp_path, task):
    fold_twice(tmp_path, task)
    with Store.open(tmp_path) as store:
        assert unnamed(store) == []
        assert store.snapshot(SESSION).count("task") == 2


def test_while_somebody_reads_they_stay_until_the_next_writer(tmp_path, task):
    Store.open(tmp_path, write=True).close()
    with Store.open(tmp_path) as reader:
        fold_twice(tmp_path, task)
        for path in (leftovers := unnamed(reader)):
            os.utime(path, (1, 1))  # only what is old is taken for a leftover
        assert leftovers
    with Store.open(tmp_path, write=True) as store:
        assert unnamed(store) == []
        store.close()
        store.close()
