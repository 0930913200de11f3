"""The path that a proxy serves all under: links begin with it, and routes do not."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def path_below(scope: Scope) -> str:
    """Return a request's path as routes have it, without the base path."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


class BasePath:
    """Tells an application where it is, whether or not the proxy cuts that from the paths that it asks."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        """
        Serve an application under a path.

        Args:
            app: The application.
            base_path: The path, without a slash at its end. Empty: it is served at the root.
        """
        self._app = app
        self._base = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does there."""
        if self._base and scope["type"] in ("http", "websocket"):
            raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
            cut = not f"{scope['path']}/".startswith(f"{self._base}/")
            prefix = self._base if cut else ""
            # with the base before both, as ASGI has it where an application is mounted
            scope = {
                **scope,
                "root_path": self._base,
                "path": prefix + scope["path"],
                "raw_path": (prefix + raw).encode("latin-1"),
            }
        await self._app(scope, receive, send)
