"""The brokers: clients of them, what they must be asked first, and their errors made ours."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, RaytrailError
from raytrail.pubsub.groups import name_of
from raytrail.redact.names import is_secret

REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic, or lower the agent's chunk_bytes",
    KafkaError.RECORD_LIST_TOO_LARGE: "raise segment.bytes of the topic, or lower the agent's chunk_bytes",
    KafkaError.INVALID_RECORD: "look into the broker's log for what it has against it",
}
"""What it will never take, and what may be done about it."""

_TO_MEND = {
    KafkaError._AUTHENTICATION: "mend user, password and sasl.mechanism",
    KafkaError.SASL_AUTHENTICATION_FAILED: "mend user, password and sasl.mechanism",
    KafkaError._SSL: "mend the ssl.* properties, or the broker's certificate",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow this user Describe, and Write or Read, on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow this user Write on the topic, and Create where it is missing",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow this user Read on the group",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "something else reads as that group, name another",
    KafkaError.INVALID_GROUP_ID: "name another group",
    KafkaError.TOPIC_EXCEPTION: "name another topic",
    KafkaError.INVALID_PARTITIONS: "say another number of partitions",
    KafkaError.POLICY_VIOLATION: "make the topic by hand, or say another number of partitions",
    KafkaError.INVALID_TIMESTAMP: "set this machine's clock, or the broker's",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "make it, or say ?partitions=8 and it is made",
    KafkaError._UNKNOWN_TOPIC: "make it, or say ?partitions=8 and it is made",
}
"""What a person must mend, and how."""

_QUIET = {"FAIL", "ERROR", "CONFWARN", "REQTMOUT", "TERMINATE", "GETPID", "FATAL"}
_librdkafka = logging.getLogger(f"{__package__}.librdkafka")


class _Log:
    """librdkafka's log in ours. Lost connections are told by the errors that we raise, once."""

    def log(self, level: int, text: str, facility: str, *rest: object) -> None:
        """Write one line."""
        _librdkafka.log(logging.DEBUG if facility in _QUIET else level, text, facility, *rest)


class Cluster:
    """
    The brokers of one topic.

    Args:
        shown: The URL, for people.
        hosts: Where brokers are.
        topic: Its name.
        partitions: How many the topic is made with where it is missing; None where it is not made.
        timeout_seconds: How long the brokers may take to store a chunk; a third of it, to answer at first.
        properties: librdkafka's, for every client.
    """

    def __init__(
        self,
        shown: str,
        hosts: Sequence[str],
        topic: str,
        partitions: int | None,
        timeout_seconds: float,
        properties: dict[str, Any],
    ) -> None:
        self.worked = False
        """Whether the brokers have ever taken a chunk or given one."""
        self.last: KafkaError | None = None
        """What was heard last of a broker that failed."""
        self.down = False
        """Whether all brokers are."""
        self._shown, self._topic, self._partitions = shown, topic, partitions
        self._timeout_seconds, self._connect_seconds = timeout_seconds, max(timeout_seconds / 3, 1)
        self._properties: dict[str, Any] = {**properties, "error_cb": self.hear, "logger": _Log()}
        self.client(Producer, {})  # without a broker, to see whether the properties are good
        self._properties["bootstrap.servers"] = ",".join(hosts)

    def client(self, kind: Callable[[dict[str, Any]], Any], properties: dict[str, Any]) -> Any:
        """
        Make a client; one of the URL's properties goes before one of `properties`.

        Raises:
            ConfigError: librdkafka does not take a property.
        """
        try:
            return kind({**properties, **self._properties})
        except (KafkaException, TypeError, ValueError) as error:
            cause = error.args[0]
            text = str(cause.str() if isinstance(cause, KafkaError) else cause)
            for name, value in properties.items() | self._properties.items():
                if isinstance(value, str) and value and is_secret(name):
                    # as a whole: a short one is part of other words
                    text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "***", text)
            raise ConfigError(f"{self._shown!r}: {text}; mend the URL") from error

    def prepare(self, client: Any) -> int:
        """
        Return the topic's partitions, waiting for the brokers and for the topic, which is made if we are to.

        Not with a consumer that reads: what it has would be taken from it here.
        """
        deadline, partitions, wait = time.monotonic() + self._connect_seconds, self._partitions, 1.0
        self.last, self.down = None, False
        while True:
            try:
                topic = client.list_topics(self._topic, timeout=wait).topics[self._topic]
                error = topic.error
            except KafkaException as failed:
                client.poll(0)  # `hear` hears why
                seconds_left = deadline - time.monotonic()
                if seconds_left <= 0 or self._must_be_mended():
                    raise self.ours(failed.args[0]) from failed
                # longer, for an answer that comes too late is not waited for again
                wait = min(2 * wait, max(seconds_left, 1))
                continue
            if error is None:
                self.last, self.down = None, False
                return len(topic.partitions)
            missing = error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)
            if partitions and missing:
                self._make_topic(partitions)
                partitions = None  # made, but the brokers tell each other of it in their own time
            elif not missing or time.monotonic() > deadline:
                raise self.ours(error)
            time.sleep(0.1)

    def _must_be_mended(self) -> bool:
        return self.last is not None and self.last.code() in _TO_MEND

    def _make_topic(self, partitions: int) -> None:
        admin: AdminClient = self.client(AdminClient, {})
        # as many replicas as the broker makes by default
        made = admin.create_topics([NewTopic(self._topic, partitions)], request_timeout=self._connect_seconds)
        try:
            made[self._topic].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self.ours(error.args[0]) from error

    def hear(self, error: KafkaError) -> None:
        """Note what a client says of its brokers."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down = True  # what came before it says why
        else:
            self.last = error

    def slow(self) -> BrokerUnavailable:
        """Return the error of a chunk of which nothing is heard."""
        why = f" ({self.last.str()})" if self.last else ""
        return BrokerUnavailable(
            f"{self._shown} did not say within {self._timeout_seconds:g} seconds that a chunk is stored{why}; "
            f"look after its brokers, or raise timeout_seconds"
        )

    def ours(self, error: KafkaError, group: str = "") -> RaytrailError:
        """Make librdkafka's error ours, which it met while it read as that group."""
        if error.code() < 0 and self.last is not None:
            error = self.last  # the client's own errors say that it waited in vain; this one says for what
        if do := REFUSED.get(error.code()):
            return ChunkRefused(f"{self._shown} does not take a chunk: {error.str()}; {do}")
        mend = _TO_MEND.get(error.code())
        if mend and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and group:
            mend = f"allow this user Read on group {group!r}, or on all that begin with {name_of(group)!r}"
        if mend:
            # who has published or read outlives what an administrator changes and mends
            kind = BrokerUnavailable if self.worked else ConfigError
            return kind(f"{self._shown}: {error.str()}; {mend}")
        return BrokerUnavailable(f"{self._shown}: {error.str()}; look after its brokers and the way to them")
