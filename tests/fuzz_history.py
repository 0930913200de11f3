"""
A history that is sent what means harm, for as long as you like: ``python -m tests.fuzz_history SECONDS [SEED]``.

What comes is chosen by chance from `tests.hostile`, between neighbours that are as they should be. Now and then every
session is asked for, sealed, and the store opened anew. It ends with an error as soon as a neighbour is missing, the
history has ended, a question fails, or memory grows.
"""

import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests import hostile
from tests.histories import TASK, until

from raytrail import history
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.event import received
from raytrail.pubsub import Delivery
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk, line

CONFIG = StoreConfig(threads=1, batch_seconds=0.02, fold_seconds=0.2, set_aside_bytes=1 << 20)
ROUND = 400
GOOD = "session_good"
SESSIONS = (SESSION, "session_2", GOOD)
MOST_GROWTH_MB = 400


class Sender:
    """A broker that yields what is put into it, and counts what was acknowledged."""

    def __init__(self):
        self.waiting: asyncio.Queue[Any] = asyncio.Queue()
        self.acked, self.sent = 0, 0

    def put(self, message):
        self.sent += 1
        self.waiting.put_nowait(message)

    async def subscribe(self, group, *, from_start=False):
        async def ack():
            self.acked += 1

        while True:
            yield Delivery(await self.waiting.get(), ack)


def good(number, session):
    """A neighbour: one task that is as it should be."""
    fields = {"task_id": "AQ==", "attempt_number": number, "task_info": {"type": "NORMAL_TASK"}}
    neighbour = chunk(TASK, [line(TASK, 1795419640, fields)], file=f"1795419640-good{number}")
    return type(neighbour)(
        **{name: getattr(neighbour, name) for name in neighbour.__struct_fields__} | {"session": session}
    )


def anything(chance):
    """Whatever may come."""
    kind = chance.randrange(4)
    session = chance.choice(SESSIONS[:2])
    if kind == 0:
        return received(hostile.headers(chance), chance.randbytes(chance.randrange(300)), "fuzz")
    return hostile.odd_chunk(chance, session) if kind == 1 else hostile.chunk(chance, session)


def ask(store):
    """Ask all that a server asks of every session."""
    for cluster in store.clusters():
        store.ledger(cluster.session)
        for at_ms in (None, 1795419640_500):
            snapshot = store.snapshot(cluster.session, at_ms)
            for name in installed():
                snapshot.rows(name, limit=50)
                snapshot.count(name)
    store.set_aside()


def rss_mb():
    """Return what this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def one_round(store, chance, number):
    """Send some hundred messages, and return how many neighbours are among them."""
    sender, stop, neighbours = Sender(), asyncio.Event(), 0
    running = asyncio.create_task(history.run(sender, store, CONFIG, stop, group="history"))
    try:
        for index in range(ROUND):
            sender.put(anything(chance))
            if index % 4 == 0:
                neighbours += 1
                sender.put(good(number * ROUND + index, GOOD))
        await until(lambda: sender.acked == sender.sent or running.done(), 600)
        if running.done():
            running.result()
        await asyncio.to_thread(ask, store)
    finally:
        stop.set()
        await running
    return neighbours


def run(root, seconds, seed):
    """Fuzz for so long, and return what happened."""
    counts: Counter[str] = Counter()
    chance, expected, number = random.Random(seed), 0, 0
    ends, began = time.monotonic() + seconds, 0.0
    while time.monotonic() < ends:
        with Store.open(root, CONFIG, write=True) as store:
            expected += asyncio.run(one_round(store, chance, number))
            for cluster in store.clusters():
                store.seal(cluster.session)
                store.cache(cluster.session)
            ask(store)
            stored = sum(row.stored_events for row in store.ledger(GOOD))
            assert stored == expected, f"{stored} neighbours of {expected} are stored; seed {seed}, round {number}"
            counts["set aside"] = sum(
                row.rejected_events
                for cluster in store.clusters()
                for row in store.ledger(cluster.session)
                if row.event_type == "SET_ASIDE"
            )
        number += 1
        counts["messages"] += ROUND
        counts["neighbours"] = expected
        began = began or rss_mb()
        assert rss_mb() < began + MOST_GROWTH_MB, f"{rss_mb():.0f} MB, {began:.0f} after the first round"
        print(f"round {number}: {dict(counts)}, {rss_mb():.0f} MB", flush=True)  # noqa: T201 (it is a program)
    return counts


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asked_for = [int(argument) for argument in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), asked_for[0], asked_for[1] if len(asked_for) > 1 else 1)
