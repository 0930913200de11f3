"""
Ray's own dashboard, as the Ray that is installed beside us ships it, served for one cluster at one moment.

It asks for all by relative paths, so it works under any prefix, in as many tabs as one likes. Nothing in it is changed:
its page gets one script more, which draws our bar above it.
"""

from __future__ import annotations

import importlib.util
import mimetypes
from functools import cache
from importlib.resources import files
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

from raytrail.errors import ConfigError
from raytrail.server import pages
from raytrail.server.context import Answer, View
from raytrail.server.routing import Route

PAGE_HEADERS = {
    # emotion, which styles the dashboard, writes <style> elements as it goes
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""For files whose names change with what is in them."""


class Build:
    """A build of Ray's dashboard on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = (root / "index.html").read_text()
        # what is served is what is there now, by name: no path of a request is ever opened
        self._files = {path.relative_to(root / "static").as_posix(): path for path in (root / "static").rglob("*")}

    def routes(self) -> tuple[Route[Answer], ...]:
        """Return what it answers, below each cluster and moment."""
        return (
            Route("/", self.index),
            Route("/static/{file:path}", self.static),
            Route("/favicon.ico", self.favicon),
            Route("/raytrail-bar.js", bar, api="ours"),
        )

    def index(self, view: View) -> Response:
        """Ray's own dashboard, where a Ray is installed beside the server; else our own page, `about`."""
        cluster = view.cluster
        scripts = pages.bar(
            {
                "title": cluster.cluster or cluster.session,
                "session": cluster.session,
                "began_ms": cluster.began_ms,
                "ended_ms": cluster.last_event_ms if cluster.ended_ms is None else cluster.ended_ms,
                "before_shutdown_ms": cluster.before_shutdown_ms,
                "alive": cluster.alive,
                "at_ms": view.snapshot.at_ms,
                "final": view.url.endswith("/final/"),
                "missing_bytes": cluster.missing_bytes,
                "rejected": cluster.rejected,
                "snapshot_ms": cluster.snapshot_ms,
                "home": view.here_at_last,
                "url": view.here,
                "root": view.base,
            }
        )
        # before the dashboard's own script, as it sets the clock by which that works out how long things have lasted
        return HTMLResponse(self._index.replace("<script", f"{scripts}<script", 1), headers=PAGE_HEADERS)

    def static(self, view: View) -> Response:
        """Files of Ray's dashboard."""
        path = self._files.get(str(view.path["file"]))
        if path is None or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, headers=FOREVER, media_type=mimetypes.guess_type(path.name)[0])

    def favicon(self, _: View) -> Response:
        """The icon of Ray's dashboard."""
        return FileResponse(self._root / "favicon.ico", headers=FOREVER)


def bar(_: View) -> Response:
    """The script that draws the bar above Ray's dashboard."""
    return Response(_bar(), media_type="text/javascript", headers={"Cache-Control": "private, no-cache"})


@cache
def _bar() -> bytes:
    return (files("raytrail.server") / "bar.js").read_bytes()


def find_build(directory: str) -> Build | None:
    """
    Return Ray's dashboard; None where no Ray is installed here, or none is wanted.

    Args:
        directory: Where it is; empty looks for the Ray that is installed here, ``off`` wants none.

    Raises:
        ConfigError: It is not in the directory.
    """
    if directory == "off":
        return None
    if directory:
        if not (Path(directory).expanduser() / "index.html").is_file():
            raise ConfigError(
                f"server.dashboard {directory!r}: no index.html there; name the directory ray/dashboard/client/build "
                "of a Ray, or leave it empty"
            )
        return Build(Path(directory).expanduser())
    # only looked for: to import Ray takes a second, and starts threads
    spec = importlib.util.find_spec("ray")
    for package in (spec.submodule_search_locations if spec else None) or ():
        build = Path(package) / "dashboard" / "client" / "build"
        if (build / "index.html").is_file():
            return Build(build)
    return None
