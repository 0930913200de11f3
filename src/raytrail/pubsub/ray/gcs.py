"""A connection to the GCS, with a mailbox there."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from raytrail.errors import BrokerUnavailable, ConfigError, RaytrailError
from raytrail.pubsub.ray.wire import ID_BYTES, Topic
from raytrail.ray_calls import failed

_SERVICES = ("ObservabilityPubSubService", "InternalPubSubGcsService")  # since 2.60, and before
_COMMANDS = "GcsSubscriberCommandBatch"
_CHANNEL = 8  # RAY_NODE_RESOURCE_USAGE_CHANNEL
_FIELD = 51966
_STATS = json.dumps(
    {
        **{"now": 0.0, "hostname": "", "ip": "", "cpu": 0.0, "cpus": [0, 0], "mem": [0, 0, 0.0, 0]},
        **{"hostMem": [0, 0], "workers": [], "bootTime": 0.0, "loadAvg": [[0.0, 0.0, 0.0], None], "disk": {}},
        **{"diskIo": [0, 0, 0, 0], "diskIoSpeed": [0.0, 0.0, 0.0, 0.0], "gpus": [], "tpus": []},
        **{"network": [0, 0], "networkSpeed": [0.0, 0.0], "cmdline": []},
    },
    separators=(",", ":"),
)
"""A StatsPayload (ray/dashboard/modules/reporter/reporter_models.py, 2.52 to 2.60)."""

POLL_SECONDS = 10.0
_CALL_SECONDS = 10.0


class Gcs:
    """A connection to the GCS, its errors made ours, with a mailbox there for what it has subscribed to."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._keys: list[bytes] = []
        self.subscriber_id = os.urandom(ID_BYTES)
        self._channel: Any = None
        self._service = ""
        self._publisher_id, self._sequence = b"", 0
        self.polling = False
        """Whether it waits for something to come; if not, something may be there already."""

    async def subscribe(self, *keys: bytes) -> None:
        """Have what is published under `keys`, too, put into the mailbox from now on, and find the service for it."""
        self._keys += keys
        if self._channel is None:
            await self._open()
        codes = self._grpc.StatusCode
        refusals = (codes.UNIMPLEMENTED, codes.ABORTED, codes.INVALID_ARGUMENT)
        request = self._command("subscribe_message", self._keys, self.subscriber_id)
        for service in _SERVICES:
            if await self._call(_COMMANDS, request, _CALL_SECONDS, refusals, service) is not None:
                self._service = service  # not before: others call it meanwhile
                return
        raise ConfigError(
            f"there is no pub/sub of a GCS at {self._topic.shown}; name the address that `ray start --head` prints, of "
            f"port 6379 mostly and not Ray Client's 10001, of a Ray from 2.48 to 2.60"
        )

    async def _open(self) -> None:
        try:
            # the whole of Ray comes with them: a second of work, for whoever uses it only
            self._grpc, self._calls, self._pubsub, utils, services, self._unknown = [
                await asyncio.to_thread(importlib.import_module, name)
                for name in (
                    *("grpc", "ray.core.generated.gcs_service_pb2", "ray.core.generated.pubsub_pb2"),
                    *("ray._private.gcs_utils", "ray._private.services", "google.protobuf.unknown_fields"),
                )
            ]
        except ImportError as error:
            raise ConfigError(
                f"{self._topic.shown} needs Ray: {error}; install the Ray of your cluster, with ray[default]"
            ) from error
        find = services.get_ray_address_from_environment
        address = self._topic.address or await asyncio.to_thread(find, None, None)
        if address is None:
            raise BrokerUnavailable(
                f"{self._topic.shown}: no Ray was started on this machine; start it, set RAY_ADDRESS, or name the "
                f"GCS's address"
            )
        if "://" in address:
            raise ConfigError(
                f"{self._topic.shown}: RAY_ADDRESS is {address!r}, which is no GCS; write its address into the URL"
            )
        self._channel = utils.create_gcs_channel(address, aio=True)  # with Ray's TLS and token

    async def publish(self, key: bytes, payload: bytes) -> None:
        """Publish under `key`, returning once the GCS took it, for whoever listens."""
        usage = {"json": _STATS}
        message = self._pubsub.PubMessage(channel_type=_CHANNEL, key_id=key, node_resource_usage_message=usage)
        message.node_resource_usage_message.MergeFromString(
            _varint(_FIELD << 3 | 2) + _varint(len(payload)) + payload  # 2: bytes follow
        )
        await self._call("GcsPublish", self._calls.GcsPublishRequest(pub_messages=[message]), _CALL_SECONDS)

    async def poll(self, timeout_seconds: float) -> list[tuple[bytes, bytes]]:
        """Wait for what comes, and return it as keys and payloads; nothing after `timeout_seconds`."""
        request = self._calls.GcsSubscriberPollRequest(
            subscriber_id=self.subscriber_id, max_processed_sequence_id=self._sequence, publisher_id=self._publisher_id
        )
        self.polling = True
        late = (self._grpc.StatusCode.DEADLINE_EXCEEDED,)
        reply = await self._call("GcsSubscriberPoll", request, timeout_seconds, late)
        self.polling = False
        if reply is None:
            await self.subscribe()  # it may have forgotten us: it restarted, or we had not polled for five minutes
            return []
        if reply.publisher_id != self._publisher_id:
            if self._publisher_id:
                await self.subscribe()
            self._publisher_id, self._sequence = reply.publisher_id, 0
        messages = [message for message in reply.pub_messages if message.sequence_id > self._sequence]
        if messages:
            self._sequence = messages[-1].sequence_id  # the next poll says that it may be forgotten
        return [
            (message.key_id, field.data)
            for message in messages
            for field in self._unknown.UnknownFieldSet(message.node_resource_usage_message)
            if field.field_number == _FIELD
        ]

    async def unsubscribe(self, *keys: bytes, subscriber_id: bytes) -> None:
        """Have no more put into that subscriber's mailbox; what is in it the GCS drops after five minutes."""
        await self._call(_COMMANDS, self._command("unsubscribe_message", keys, subscriber_id), _CALL_SECONDS)

    def _command(self, name: str, keys: Iterable[bytes], subscriber_id: bytes) -> Any:
        commands = [self._pubsub.Command(channel_type=_CHANNEL, key_id=key, **{name: {}}) for key in keys]
        return self._calls.GcsSubscriberCommandBatchRequest(subscriber_id=subscriber_id, commands=commands)

    async def _call(
        self, method: str, request: Any, timeout_seconds: float, refusals: Sequence[Any] = (), service: str = ""
    ) -> Any:
        """Return the reply, or None where the error is one of `refusals`."""
        # by name, as Ray's stubs know the services of their own release only
        call = self._channel.unary_unary(
            f"/ray.rpc.{service or self._service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(self._calls, f"{method}Reply").FromString,
        )
        try:
            return await call(request, timeout=timeout_seconds)
        except self._grpc.RpcError as error:
            if error.code() in refusals:
                return None
            gcs = f"GCS of {self._topic.shown}"
            raise failed(error, gcs, BrokerUnavailable, "start Ray, or mend the address") from error

    async def aclose(self) -> None:
        """Leave, and close the connection. Safe to call twice."""
        channel = self._channel
        if channel is None:
            return
        try:
            with suppress(RaytrailError):
                await self.unsubscribe(*self._keys, subscriber_id=self.subscriber_id)
        finally:
            self._channel = None
            await channel.close()


def _varint(number: int) -> bytes:
    """Encode as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
