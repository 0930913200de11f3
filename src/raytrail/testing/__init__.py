"""The contracts, as functions that anyone may run on a part of their own. They need no pytest."""

from raytrail.testing.entities import check_entity
from raytrail.testing.pubsub import check_pubsub

__all__ = ["check_entity", "check_pubsub"]
