"""How far a group is behind the end of its topic, asked of the brokers by a client that reads nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_ANSWER_SECONDS = 3.0


class Measure:
    """
    Compares what a group has committed with where its partitions end.

    The reader's own client is not asked: it may be closed by its thread at any time.

    Args:
        make: Makes a consumer, of these properties.
        topic: The topic.
        group: The group. It is not joined.
    """

    def __init__(self, make: Callable[[dict[str, Any]], Consumer], topic: str, group: str) -> None:
        self._make, self._topic, self._group = make, topic, group
        self._client: Any = None
        self._one_at_a_time = threading.Lock()

    def unacknowledged(self) -> int:
        """
        Return how many messages the group has not committed, in all partitions.

        Raises:
            KafkaException: The brokers are away, or refuse.
        """
        with self._one_at_a_time:
            if self._client is None:
                self._client = self._make({"group.id": self._group, "enable.auto.commit": False})
            try:
                return self._count(self._client)
            except KafkaException:
                # what librdkafka would log of brokers that stay away is kept in memory, as nobody polls this client
                self._drop()
                raise

    def _count(self, client: Any) -> int:
        topic = client.list_topics(self._topic, timeout=_ANSWER_SECONDS).topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        partitions = [TopicPartition(self._topic, number) for number in topic.partitions]
        waiting = 0
        for partition in client.committed(partitions, timeout=_ANSWER_SECONDS):
            ends = client.get_watermark_offsets(partition, timeout=_ANSWER_SECONDS)
            if ends is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            first, end = ends
            # one that was never committed is -1001, and what was deleted before it was read does not come any more
            waiting += end - max(first, partition.offset)
        return waiting

    def close(self) -> None:
        """Drop the connection."""
        with self._one_at_a_time:
            self._drop()

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
