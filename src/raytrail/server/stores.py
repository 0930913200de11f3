"""
The store as each reader may see it.

This is the one place at which rights to read are enforced: endpoints have no other store than what they are given here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from starlette.types import Scope

from raytrail.server.users import reader_of
from raytrail.store import RestrictedStore, Store

MOST = 128
"""
For how many different rights a store is kept open. The one that was asked longest ago is forgotten first.

Each has two files open, and many a system lets a process have 1024. To open one takes some milliseconds.
"""


class Stores:
    """
    A store, restricted to what each reader may see. Threads may share it.

    Args:
        store: The whole store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._restricted: OrderedDict[tuple[str, ...], RestrictedStore] = OrderedDict()

    def of(self, scope: Scope) -> Store:
        """
        Return the store of who asks. It may take a look at the disk.

        Args:
            scope: The request's.
        """
        reader = reader_of(scope)
        if reader.reads_all:
            return self._store
        with self._lock:
            store = self._restricted.pop(reader.clusters, None) or RestrictedStore(self._store, reader.clusters)
            self._restricted[reader.clusters] = store
            if len(self._restricted) > MOST:
                self._restricted.popitem(last=False)  # whoever is being answered has it still
            return store

    def close(self) -> None:
        """Close those that are open, but for the whole one."""
        with self._lock:
            while self._restricted:
                self._restricted.popitem()[1].close()
