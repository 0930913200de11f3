"""A Redis server: what it must be asked first, and its errors made ours."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis import exceptions

from raytrail.errors import BrokerUnavailable, ConfigError

_OLDEST = (7, 0)  # since then a script may be let through when memory is full: a full server must be readable
_BULK_BYTES = 512 * 1024**2  # proto-max-bulk-len, where it may not be asked for

log = logging.getLogger(__name__)


class Server:
    """
    One Redis, and the stream that we use of it.

    Args:
        shown: The URL, for people.
        stream: The stream's key.
        client: The connections to it. Its answers are typed for every shape of every protocol.
    """

    def __init__(self, shown: str, stream: str, client: Any) -> None:
        self.shown, self.stream, self.client = shown, stream, client
        self._bulk_bytes: int | None = None

    def lease(self, group: str) -> str:
        """Return the key that the one reader of a group holds."""
        # in braces the stream's name decides where a cluster keeps it: beside the stream
        stream = self.stream if "{" in self.stream else f"{{{self.stream}}}"
        return f"{stream}:{group}:reader"

    async def prepare(self) -> int:
        """Look at the server once, warn of what loses chunks, and return the longest value that it takes."""
        if self._bulk_bytes is None:
            info = await self.client.info()
            version = str(info["redis_version"])
            if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
                raise ConfigError(f"{self.shown} runs Redis {version}; 7.0 or newer is needed, upgrade it")
            self._warn_of_losses(info)
            self._bulk_bytes = _BULK_BYTES
            with suppress(exceptions.ResponseError):  # hosted ones do not let us see their configuration
                config = await self.client.config_get("proto-max-bulk-len")
                self._bulk_bytes = int(config.get("proto-max-bulk-len", _BULK_BYTES))
        return self._bulk_bytes

    def _warn_of_losses(self, info: dict[str, Any]) -> None:
        if not int(info.get("aof_enabled", 1)):
            log.warning(
                "%s keeps no append-only file: what is stored is lost when it stops without a snapshot; "
                "set appendonly yes and appendfsync always in redis.conf",
                self.shown,
            )
        if not int(info.get("maxmemory", 1)):
            log.warning(
                "%s has no maxmemory: while nobody reads it may take all memory of its machine; set maxmemory, "
                "and maxmemory-policy noeviction, in redis.conf",
                self.shown,
            )
        if (policy := str(info.get("maxmemory_policy", ""))).startswith("allkeys-"):
            log.warning(
                "%s may evict the stream %r when its memory is full, unread or not: its maxmemory-policy is "
                "%s; set it to noeviction",
                self.shown,
                self.stream,
                policy,
            )

    @asynccontextmanager
    async def ours(self) -> AsyncGenerator[None, None]:
        """Make the client's errors ours."""
        try:
            yield
        except exceptions.ReadOnlyError as error:
            # it was the primary: its name may lead to another one by now, but only a new connection asks
            await self.client.connection_pool.disconnect()
            raise BrokerUnavailable(f"{self.shown} is a replica: {error}; name the primary") from error
        except (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError) as error:
            raise ConfigError(f"{self.shown} does not let us in: {error}; mend user and password") from error
        except exceptions.ResponseError as error:
            raise self._refusal(error) from error
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(f"{self.shown} does not answer: {error}; start it, or mend the URL") from error

    def _refusal(self, error: exceptions.ResponseError) -> BrokerUnavailable | ConfigError:
        if isinstance(error, exceptions.OutOfMemoryError):
            return BrokerUnavailable(
                f"{self.shown} is out of memory: {error}; start the readers of its groups, raise maxmemory, "
                f"or lower retain_bytes"
            )
        if isinstance(error, exceptions.NoPermissionError):
            return ConfigError(
                f"{self.shown} does not let us do it: {error}; give the user +@stream +@scripting +@transaction "
                f"+@connection +get +set +del +pexpire +exists +time +info +memory on ~{self.stream} and "
                f"~{self.lease('*')}"
            )
        if isinstance(error, exceptions.MovedError):
            return ConfigError(f"{self.shown} is a cluster: {error}; name a Redis that is not")
        reason = str(error)
        if "WRONGTYPE" in reason:  # in a transaction, the command stands before it
            return ConfigError(f"{self.shown}: key {self.stream!r} is no stream; name another one")
        if reason.startswith(("NOAUTH", "WRONGPASS", "unknown command", "DB index")):
            return ConfigError(f"{self.shown} cannot be used: {reason}; mend the URL or the server")
        return BrokerUnavailable(f"{self.shown} does not do it now: {reason}; trying again may help")
