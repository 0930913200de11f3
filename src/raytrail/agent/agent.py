"""A node's agent: the destinations that it ships to, side by side, and what may change while it runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from raytrail import systemd
from raytrail.agent.destination import Shipping
from raytrail.agent.probes import Probes
from raytrail.agent.receiving import Receiving, probed
from raytrail.config import Config, Destination, destinations, state_dir
from raytrail.errors import ConfigError
from raytrail.pubsub import PubSub, connect

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # how often it is looked whether Ray is still there
_CLOSE_SECONDS = 10.0  # how long brokers and checkpoints may take to close


class Agent:
    """
    All destinations of this node.

    Args:
        config: The settings to begin with.
        load: Reads them again, on SIGHUP.
    """

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        self.shippings: dict[str, Shipping] = {}
        self._config = config
        self._load = load
        self._running: dict[asyncio.Future[None], Shipping] = {}
        self._probes = Probes()
        self._receiving = Receiving()

    def ends_within(self) -> float:
        """Return in how many seconds it ends, once it is told to: those of the slowest destination, and some more."""
        running = [shipping.destination.agent for shipping in list(self._running.values())]
        return max(agent.drain_seconds for agent in (self._config.agent, *running)) + _CLOSE_SECONDS

    async def run(self, stop: asyncio.Event) -> None:
        """
        Ship to every destination until told to stop, then what is left.

        Raises:
            ConfigError: There is no destination, or one cannot be used.
        """
        hangup = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        stopping, reloading = (asyncio.ensure_future(event.wait()) for event in (stop, hangup))
        with_ray = asyncio.ensure_future(self._end_with_ray(stop))
        probing = asyncio.ensure_future(self._probes.run())
        try:
            await self._apply(self._config)
            systemd.notify("READY=1")
            while not stop.is_set():
                waited: list[asyncio.Future[Any]] = [stopping, reloading, with_ray, probing, *self._running]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if hangup.is_set():
                    hangup.clear()
                    reloading = asyncio.ensure_future(hangup.wait())
                    await self._reload()
                self._see_who_ended()
                for background in (with_ray, probing):
                    if background.done():
                        background.result()
            await self._finish(probing)
        finally:
            futures: list[asyncio.Future[Any]] = [stopping, reloading, with_ray, probing, *self._running]
            for future in futures:
                future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)
            await self._receiving.aclose()

    async def _apply(self, config: Config) -> None:
        """
        Bring what runs to what is wanted: begin, change or finish.

        Raises:
            ConfigError: A destination cannot be used, or there is none. Nothing was changed.
        """
        wanted = _name_destinations(config)
        brokers = self._connect_changed(wanted)
        begun = await self._begin([destination for name, destination in wanted.items() if name not in self.shippings])
        try:
            # with export off, too: Ray has no other place to keep them
            temp_dirs = [Path(destination.tail.temp_dir) for destination in wanted.values()]
            await self._receiving.configure(config.sources, temp_dirs, state_dir(config))
        except ConfigError:
            for shipping in begun:
                await shipping.aclose()
            raise
        self._finish_unwanted(wanted)
        await self._change(wanted, brokers)
        for shipping in begun:
            self.shippings[shipping.destination.name] = shipping
            self._running[asyncio.ensure_future(shipping.run())] = shipping
        await self._probe(config)

    def _connect_changed(self, wanted: Mapping[str, Destination]) -> dict[str, PubSub]:
        """Return a new broker for each destination that ships to another place from now on."""
        return {
            name: connect(wanted[name].agent.to)
            for name, shipping in self.shippings.items()
            if name in wanted and wanted[name].agent.to != shipping.destination.agent.to
        }

    def _finish_unwanted(self, wanted: Mapping[str, Destination]) -> None:
        """Have the destinations end that are not wanted any more."""
        for name in [name for name in self.shippings if name not in wanted]:
            shipping = self.shippings.pop(name)
            log.info("destination %s: no more; shipping what is left", shipping.label)
            shipping.finish(shipping.destination.agent.drain_seconds)

    async def _change(self, wanted: Mapping[str, Destination], brokers: Mapping[str, PubSub]) -> None:
        """Have the destinations whose settings are others go on by these."""
        for name, shipping in self.shippings.items():
            if shipping.destination != wanted[name]:
                await shipping.change(wanted[name], brokers.get(name))

    async def _probe(self, config: Config) -> None:
        """Have Ray probed, in the temp dirs whose events are shipped."""
        tails = [shipping.destination.tail for shipping in self.shippings.values()]
        await self._probes.configure(probed(config.sources), [Path(tail.temp_dir) for tail in tails if tail.export])

    async def _begin(self, wanted: list[Destination]) -> list[Shipping]:
        """Make what ships to new destinations: all of them, or none."""
        names = {destination.name for destination in wanted}
        back = [future for future, shipping in self._running.items() if shipping.destination.name in names]
        if back:  # it was taken out just now, and holds its checkpoint until it has shipped what is left
            await asyncio.wait(back)
        begun: list[Shipping] = []
        patient = len(wanted) > 1 or bool(self._running)
        try:
            for destination in wanted:
                begun.append(Shipping(destination, patient=patient))  # noqa: PERF401 (those before one that fails are closed)
        except ConfigError:
            for shipping in begun:
                await shipping.aclose()
            raise
        return begun

    async def _reload(self) -> None:
        """Read the settings again. If they are wrong, the running ones stay."""
        try:
            config = self._load()
            await self._apply(config)
        except ConfigError as error:
            log.error("settings are not taken: %s; going on by the old ones", error)
            return
        listen = self._config.agent.listen
        if config.agent.listen != listen:
            log.warning("listen is %r until the agent is started anew", listen)
        agent = msgspec.structs.replace(config.agent, listen=listen)
        self._config = msgspec.structs.replace(config, agent=agent)
        log.info("settings were read again")

    def _see_who_ended(self) -> None:
        for future in [future for future in self._running if future.done()]:
            del self._running[future]
            future.result()

    async def _finish(self, probing: asyncio.Future[None]) -> None:
        """Ship what is left, in the time there is. First wait for Ray, if it is told to stop as well."""
        now = time.monotonic()
        ends = {name: now + shipping.destination.agent.drain_seconds for name, shipping in self.shippings.items()}
        least = 0.0
        if self._config.agent.with_ray:
            last, least = min(ends.values(), default=0), 1.0
            while await self._ray_runs() and time.monotonic() < last:  # noqa: ASYNC110 (Ray's end sets no event here)
                await asyncio.sleep(_LOOK_SECONDS / 4)
        probing.cancel()  # the lines that they write last are shipped, too
        await asyncio.wait([probing])
        await self._receiving.aclose()
        for name, shipping in self.shippings.items():
            shipping.finish(max(least, ends[name] - time.monotonic()))
        if self._running:
            await asyncio.wait(self._running)
        self._see_who_ended()

    async def _end_with_ray(self, stop: asyncio.Event) -> None:
        """Tell the agent to stop once Ray, which did run, has ended. Do so only if that is asked for."""
        ran = False
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                if self._config.agent.with_ray:
                    runs = await self._ray_runs()
                    if ran and not runs:
                        log.info("Ray has ended; shipping what is left")
                        stop.set()
                        return
                    if runs and not ran:
                        log.info("Ray runs here; the agent ends once it has")
                    ran = ran or runs

    async def _ray_runs(self) -> bool:
        tailers = [shipping.tailer for shipping in self.shippings.values()]
        return await asyncio.to_thread(lambda: any(tailer.ray_runs() for tailer in tailers))


def _name_destinations(config: Config) -> dict[str, Destination]:
    """
    Return the destinations by name.

    Raises:
        ConfigError: There is none.
    """
    wanted = {destination.name: destination for destination in destinations(config)}
    if not wanted:
        raise ConfigError(
            "nowhere to publish: give --to URL, e.g. file:///var/lib/raytrail/events, set RAYTRAIL_AGENT_TO, or "
            "write a [destinations.<name>] table into the settings file"
        )
    return wanted
