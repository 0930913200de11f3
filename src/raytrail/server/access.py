"""
Who may ask: whoever sends the token, if there is one; and without one, only who asks this machine by a name of its own.

    Authorization: Bearer <token>     Ray's clients (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN), scripts
    Cookie: raytrail=...              browsers, after they have posted the token to /login once
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import ssl
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import pages

COOKIE = "raytrail"
COOKIE_SECONDS = 30 * 24 * 3600
MAX_FORM_BYTES = 16 * 1024
OPEN = ("/healthz",)
"""What says nothing of any cluster, and is asked by probes that know no token."""
GUARDED_BY_ITSELF = "/ingest"
"""Takes `server.ingest_token`, if there is one; whoever may post need not be allowed to read."""


class Access:
    """Lets through whoever may ask."""

    def __init__(self, app: ASGIApp, config: ServerConfig, *, check_host: bool) -> None:
        """
        Guard an application.

        Args:
            app: What is guarded.
            config: Its token, and the names it is known by.
            check_host: Whether to refuse, without a token, who asks for another host than these: a page of somebody's
                that has its own name lead to this machine (DNS rebinding).
        """
        self._app = app
        self._token = config.token.encode()
        # what a browser keeps is not the token itself
        self._ticket = hmac.new(self._token, b"raytrail cookie", hashlib.sha256).hexdigest().encode()
        self._own_token = bool(config.ingest_token)
        self._hosts = {name.lower() for name in ("localhost", *config.hosts)} if check_host else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the application, or let it answer."""
        refused = None
        if scope["type"] in ("http", "websocket"):
            refused = await self._refuse(scope, receive)
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "send the token of this server"})
        else:
            await refused(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        if not self._token:
            host = headers.get("host", "")
            if self._hosts is None or _plain(host) in self._hosts or _is_address(host):
                return None
            return PlainTextResponse(
                f"this server does not know itself as {_plain(host)!r}; name it in server.hosts, or set server.token\n",
                421,
            )
        if path in OPEN or (path == GUARDED_BY_ITSELF and self._own_token):
            return None
        if path == "/login" and scope["type"] == "http" and scope["method"] == "POST":
            return await self._login(scope, receive)
        if self._knows(headers):
            return None
        if "text/html" in headers.get("accept", ""):
            return HTMLResponse(pages.login(_root(scope), wrong=False), 401, headers=pages.LOGIN_HEADERS)
        return PlainTextResponse(
            "send the token of this server, as `Authorization: Bearer TOKEN`; Ray's clients do with "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN\n",
            401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _knows(self, headers: Headers) -> bool:
        kind, _, said = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(said.strip().encode(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._ticket)

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        body = b""
        more = True
        while more and len(body) <= MAX_FORM_BYTES:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        said = parse_qs(body[:MAX_FORM_BYTES].decode(errors="replace")).get("token", [""])[0]
        if not hmac.compare_digest(said.strip().encode(), self._token):
            return HTMLResponse(pages.login(_root(scope), wrong=True), 401, headers=pages.LOGIN_HEADERS)
        answer = RedirectResponse(_root(scope), 303)
        answer.set_cookie(
            COOKIE,
            self._ticket.decode(),
            max_age=COOKIE_SECONDS,
            path=_root(scope),
            secure=scope["scheme"] in ("https", "wss"),
            httponly=True,
            samesite="strict",
        )
        return answer


def check(config: ServerConfig) -> None:
    """
    Refuse to serve who may not be asked by everybody without a token.

    Raises:
        ConfigError: It would listen for other machines, and has no token; or TLS cannot be had with its files.
    """
    if bool(config.tls_certificate) != bool(config.tls_key):
        raise ConfigError("server.tls_certificate and server.tls_key: one is set and the other is not; set both")
    if config.tls_certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_certificate, config.tls_key)
        except OSError as error:  # of which ssl.SSLError is one
            raise ConfigError(
                f"server.tls_certificate {config.tls_certificate!r}, server.tls_key {config.tls_key!r}: {error}; "
                "name files in PEM that belong together"
            ) from error
    if not config.token and not config.open and not _is_loopback(config.host):
        raise ConfigError(
            f"server.host {config.host!r} is reached by other machines, and server.token is not set; set it "
            "(RAYTRAIL_SERVER_TOKEN), or server.open where everybody who reaches it may read all"
        )


def _root(scope: Scope) -> str:
    return f"{scope.get('root_path', '')}/"


def _plain(host: str) -> str:
    """Return a Host header without its port."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") and host.count(":") != 0 else host
    return name.lower().strip("[]")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(_plain(host))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
