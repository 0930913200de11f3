"""The landing page of a history of 10,000 clusters, which months of short jobs make."""

import random
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import msgspec

from bench.polling import quantiles, serving
from bench.sessions import SESSIONS, make
from raytrail.store import Store
from raytrail.store.overview import Text
from raytrail.store.overviews import write_overview

CLUSTERS, NAMES, ASKED = 10_000, 40, 20
"""How many sessions of how many clusters there are, and how often each page is asked for."""
OWN_TEXTS, COMMON_TEXTS = 5, 25
"""How many texts of a session no other one has, and how many others have, too."""
COPIED = {
    "sessions": "first_heard_ms, last_heard_ms, last_grew_ms, sealed_ms, summary",
    "state": "entity, kind, path, rows, bytes, crc32",
    "counts": "event_type, events, bytes, rejected, unknown",
}
PAGES = {
    "landing": "",
    "200 rows": "fold=no",
    "200 rows, by failed tasks, page 40": "fold=no&sort=-failed_tasks&page=40",
    "search that finds most": "q=train",
    "search for two words": "q=shard+actor",
    "search that finds one": "q=run-07777",
    "search that finds nothing": "q=nothing-of-that-kind",
    "one name": "name=team-7",
}


def measure_landing(data, work):
    """The landing page of 10,000 sealed clusters, in milliseconds, over HTTP, one request after another."""
    root = data.parent / "landing"
    if not root.exists():
        fill(data.parent / "sessions", root)
    figures = {}
    with serving(root) as (process, url):
        began = time.perf_counter()
        fetch(url, "")
        figures["first, ms"] = 1000 * (time.perf_counter() - began)
        for name, query in PAGES.items():
            figures[f"{name}, ms"] = quantiles([timed(url, query) for _ in range(ASKED)])
        figures["200 rows, kB"] = len(fetch(url, "fold=no")) / 1000
        with open(f"/proc/{process.pid}/status") as status:
            [peak] = [line for line in status if line.startswith("VmHWM")]
        figures["peak MB"] = int(peak.split()[1]) / 1024
    figures["catalogue, kB a cluster"] = (root / "catalogue.sqlite").stat().st_size / CLUSTERS / 1000
    return figures


def timed(url, query):
    began = time.perf_counter()
    fetch(url, query)
    return time.perf_counter() - began


def fetch(url, query):
    with urllib.request.urlopen(f"{url}/?{query}") as response:
        return response.read()


def fill(sessions, root):
    """Import 1,000 sessions, and have the catalogue name each ten times. No list looks at their files."""
    if not sessions.exists():
        make(sessions)
    command = [sys.executable, "-m", "raytrail", "import", str(sessions), "--store", str(root)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    with Store.open(root) as store:
        look = store.overviews.look()
        overviews = look.of([brief.session for brief in look.briefs([], "began")])
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as db, db:
        texts = [Text(*row) for row in db.execute("SELECT kind, text FROM texts ORDER BY text").fetchall()]
        for number in range(CLUSTERS):
            clone(db, overviews[number % SESSIONS], texts, number)
        for table in (*COPIED, "overview"):
            db.execute(f"DELETE FROM {table} WHERE session NOT LIKE '%copy%'")
    (root / "catalogue.sqlite-sums").unlink()  # nobody has noted these pages


def clone(db, overview, texts, number):
    """Copy all that the catalogue says of a session, with a job, a time and texts of its own."""
    dice = random.Random(number)
    old, new = overview.figures.session, f"{overview.figures.session}_copy{number:05d}"
    for table, columns in COPIED.items():
        db.execute(
            f"INSERT INTO {table}(session, {columns}) SELECT ?, {columns} FROM {table} WHERE session = ?", (new, old)
        )
    team = f"team-{dice.randrange(NAMES)}"
    db.execute("UPDATE sessions SET cluster = ? WHERE session = ?", (team, new))
    began_ms = overview.figures.began_ms + 600_000 * number
    status = dice.choice(["SUCCEEDED"] * 5 + ["FAILED"])
    own = {
        "id": f"raysubmit_{number:05d}",
        "name": f"python jobs/{team}.py",
        "began_ms": began_ms,
        "ended_ms": None,
        "status": status,
    }
    made = msgspec.structs.replace(
        overview,
        figures=msgspec.structs.replace(overview.figures, session=new, cluster=team, began_ms=began_ms),
        runs=tuple(msgspec.structs.replace(run, **own) for run in overview.runs),
        failed_jobs=int(status == "FAILED"),
        failed_tasks=dice.randrange(50),
    )
    mentioned = [Text("error", f"ValueError: run-{number:05d} has no shard {shard}") for shard in range(OWN_TEXTS)]
    write_overview(db, made, [*dice.sample(texts, COMMON_TEXTS), *mentioned])
