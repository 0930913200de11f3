"""The headers that every answer of the server has."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raytrail.config import ServerConfig


class EveryAnswer:
    """Forbids browsers to guess what an answer is, to give it to pages of others, and to keep it unless it says so."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._vary = _varies_with(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with these headers."""

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers.setdefault("Cache-Control", "no-store")
                if self._vary:
                    headers.add_vary_header(self._vary)
            await send(message)

        await self._app(scope, receive, say)


def _varies_with(config: ServerConfig) -> str:
    """Return the headers by which an answer may be another one."""
    names = ["Authorization", "Cookie", *filter(None, (config.user_header, config.groups_header))]
    return ", ".join(names) if config.users_file else ""
