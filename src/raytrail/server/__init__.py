"""The store over HTTP: Ray's State API and Jobs API for any cluster at any time, and plain pages."""

from __future__ import annotations

from raytrail.server.application import app
from raytrail.server.serving import serve

__all__ = ["app", "serve"]
