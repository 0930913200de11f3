"""
Every error that Raytrail raises on purpose.

RaytrailError
 + ConfigError            a setting, URL or argument is wrong; mend it and start again
 + EventError             one line is not an event; it is set aside, the stream goes on
 + PublishError           a chunk was not stored by the broker
 |  + BrokerUnavailable   the broker could not be reached, or did not answer in time (retryable)
 |  + ChunkRefused        the broker will never take this chunk; others it may take
 + SourceError            what is asked for events that Ray does not write cannot be asked
 |  + SourceUnavailable   it could not be reached, or did not answer in time (retryable)
 |  + SourceTaken         another process on this node asks it already (retryable)
 + StoreError             the history on disk cannot be used as asked
 |  + StoreLocked         another process writes to it
 |  + StoreTooNew         a newer Raytrail wrote it
 |  + StoreDamaged        a file of it is not what was written; all else of it can be used
 |  + StoreUnavailable    its disk is full or fails, or memory ran out (retryable)
 + NotFoundError          no such cluster, entity, column or row
"""

from __future__ import annotations

from typing import ClassVar


class RaytrailError(Exception):
    """Base class, so that a caller can catch all of them."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later; loops ask this, never the text."""


class ConfigError(RaytrailError):
    """A setting, URL or argument is wrong."""


class EventError(RaytrailError):
    """One line is not an event."""


class PublishError(RaytrailError):
    """The broker did not store a chunk."""


class BrokerUnavailable(PublishError):
    """The broker could not be reached, or did not answer in time."""

    retryable: ClassVar[bool] = True


class ChunkRefused(PublishError):
    """The broker will never take this chunk, too large or unwelcome as it is; others it may take."""


class SourceError(RaytrailError):
    """What is asked for events that Ray does not write cannot be asked."""


class SourceUnavailable(SourceError):
    """A GCS or raylet could not be reached, or did not answer in time."""

    retryable: ClassVar[bool] = True


class SourceTaken(SourceError):
    """Another process on this node asks that GCS or raylet already."""

    retryable: ClassVar[bool] = True


class StoreError(RaytrailError):
    """The history on disk cannot be used as asked."""


class StoreLocked(StoreError):
    """Another process writes to this store."""


class StoreTooNew(StoreError):
    """A newer Raytrail wrote this store."""


class StoreDamaged(StoreError):
    """A file of this store is not what was written: bits of it have turned, or it is cut or gone."""

    def __init__(self, text: str, session: str = "") -> None:
        super().__init__(text)
        self.session = session
        """Whose file it is, which concerns no other; empty: it is the catalogue."""


class StoreUnavailable(StoreError):
    """The store's disk is full or fails, or memory ran out; nothing was changed."""

    retryable: ClassVar[bool] = True


class NotFoundError(RaytrailError):
    """No such cluster, entity, column or row."""
