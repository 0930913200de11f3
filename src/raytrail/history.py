"""consume -> append -> fold: what keeps the history up to date."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing

from raytrail.config import StoreConfig
from raytrail.errors import PublishError, StoreError
from raytrail.log import Seldom
from raytrail.metrics.history import Watch
from raytrail.pubsub import Delivery, Subscriber
from raytrail.pubsub.groups import OwnGroup
from raytrail.store import Store

log = logging.getLogger(__name__)
WAITING = 64
"""The most chunks that wait for the store. Above that the broker keeps them."""


async def run(
    feed: Subscriber, store: Store, config: StoreConfig, stop: asyncio.Event, *, group: str, watch: Watch | None = None
) -> None:
    """Append what arrives, acknowledge it once it is durable, and fold, until `stop` is set."""
    waiting: asyncio.Queue[Delivery] = asyncio.Queue(WAITING)
    watch = watch or Watch(store)
    watch.follow_queue(waiting.qsize)
    own = OwnGroup(feed, store.id, store.left_plain_group if store.read_in_plain_group else None)
    consuming = asyncio.create_task(_consume(watch.reading(own), waiting, group, config))
    folded = 0.0
    try:
        while not stop.is_set():
            if consuming.done():
                consuming.result()
            if batch := await _gather(waiting, config):
                await _append(watch, batch, config, stop, Seldom(log))
            if time.monotonic() - folded >= config.fold_seconds:
                folded = await _fold(watch)
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    await _fold(watch)


async def _consume(subscriber: Subscriber, waiting: asyncio.Queue[Delivery], group: str, config: StoreConfig) -> None:
    say = Seldom(log)
    while True:
        try:
            async with aclosing(subscriber.subscribe(group)) as deliveries:
                async for delivery in deliveries:
                    await waiting.put(delivery)
        except PublishError as error:
            if not error.retryable:
                raise
            say(logging.WARNING, "%s; what was not acknowledged comes again", error)
        await asyncio.sleep(config.batch_seconds)


async def _gather(waiting: asyncio.Queue[Delivery], config: StoreConfig) -> list[Delivery]:
    """Return what arrives within `batch_seconds`, sooner where it is `batch_bytes`."""
    batch, size, deadline = list[Delivery](), 0, time.monotonic() + config.batch_seconds
    while size < config.batch_bytes and (seconds := deadline - time.monotonic()) > 0:
        try:
            delivery = await asyncio.wait_for(waiting.get(), seconds)
        except asyncio.TimeoutError:
            break
        batch.append(delivery)
        size += len(delivery.chunk.data)
    return batch


async def _append(store: Watch, batch: list[Delivery], config: StoreConfig, stop: asyncio.Event, say: Seldom) -> None:
    while not stop.is_set():
        try:
            await asyncio.to_thread(store.append, [delivery.chunk for delivery in batch])
        except StoreError as error:
            if not error.retryable:
                raise
            say(logging.ERROR, "%s; nothing is lost, %d chunks wait at the broker", error, len(batch))
            await asyncio.sleep(config.batch_seconds)
        else:
            for delivery in batch:
                await delivery.ack()
            return


async def _fold(store: Watch) -> float:
    """Fold what was appended, seal what has ended, and delete what is not kept any more."""
    try:
        await asyncio.to_thread(store.fold)
        for session in await asyncio.to_thread(store.seal_due, time.time_ns() // 1_000_000):
            log.info("sealed %s", session)
        await asyncio.to_thread(store.tidy, time.time_ns() // 1_000_000)
    except StoreError as error:
        if not error.retryable:
            raise
        log.error("%s; what is served stays as it was", error)
    return time.monotonic()
