"""
The history on disk: the log of all events, and the states folded from it.

    <root>/
      catalogue.sqlite              sessions, files, byte ranges seen, rejected lines, chunks set aside, signatures
      catalogue.sqlite-sums         the checksums of its pages
      log/<session>/*.parquet       every event as typed columns: the truth
      logs/<session>/*.zst          what Ray and its workers wrote for people
      state/<session>/*.parquet     what the events add up to; *.duckdb beside it serves a sealed session faster
      requests/                     what commands ask of the one process that writes
      tmp/                          the spool, and what the engine spills

One process writes. Any number read, while it writes too. Whoever reads looks at files that no longer change.
"""

from __future__ import annotations

from raytrail.store.backup import Manifest, back_up, read_manifest, restore
from raytrail.store.border import SetAside
from raytrail.store.deletion import Plan
from raytrail.store.engine import Limits, Rows, Run, UnreadableError
from raytrail.store.figures import Cluster
from raytrail.store.filters import Filter
from raytrail.store.finder import LogFinder, LogPart
from raytrail.store.ledger import LedgerRow, Missing, Rejected
from raytrail.store.logs import Log, matches
from raytrail.store.marks import Deleted
from raytrail.store.read import Snapshot
from raytrail.store.requests import Request
from raytrail.store.restricted import RestrictedStore
from raytrail.store.signatures import Signature
from raytrail.store.states import TablesLost
from raytrail.store.store import Store
from raytrail.store.verify import Finding

__all__ = [
    "Cluster",
    "Deleted",
    "Filter",
    "Finding",
    "LedgerRow",
    "Limits",
    "Log",
    "LogFinder",
    "LogPart",
    "Manifest",
    "Missing",
    "Plan",
    "Rejected",
    "Request",
    "RestrictedStore",
    "Rows",
    "Run",
    "SetAside",
    "Signature",
    "Snapshot",
    "Store",
    "TablesLost",
    "UnreadableError",
    "back_up",
    "matches",
    "read_manifest",
    "restore",
]
