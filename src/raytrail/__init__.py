"""
Ray's Export API, end to end: file -> tail -> chunk -> publish -> consume -> append -> fold -> serve.

`open` reads a history and `subscribe` a stream of events, from Python; `raytrail.api` documents both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raytrail.api import open as open
    from raytrail.api import subscribe as subscribe

__all__ = ["open", "subscribe"]


def __getattr__(name: str) -> Any:
    # an agent imports this package, too, and must not hold the engine in memory
    if name in __all__:
        from raytrail import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
