"""
Who may ask: whoever sends a token, if there is one; and without one, only who asks this machine by a name of its own.

    Authorization: Bearer <token>     Ray's clients (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN), scripts
    Cookie: raytrail=...              browsers, after they have posted the token to /login once
    <server.user_header>: <user>      a trusted proxy that has asked who it is (`raytrail.server.proxies`)

Who it is stands in the request's scope from here on. What they may read follows from it in `raytrail.server.stores`.

A page of another origin may have a browser ask, of which the browser shows it nothing. Its posts and WebSockets are
refused. Of wrong tokens and cookies each address has a few a minute; the right one is always let through.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import pages
from raytrail.server.base_path import path_below
from raytrail.server.proxies import SEVERAL, named_user, networks
from raytrail.server.users import EVERYBODY, READER, Reader, Users
from raytrail.tokens import Tries, many_wrong, said_token

COOKIE = "raytrail"
COOKIE_SECONDS = 30 * 24 * 3600
MAX_FORM_BYTES = 16 * 1024
OPEN = ("/healthz", "/readyz")
"""What says nothing of any cluster, and is asked by probes that know no token."""
GUARDED_BY_ITSELF = "/ingest"
"""
Takes `server.ingest_token`, if there is one; whoever may post need not be allowed to read. A cookie, which a browser
sends whatever page it shows, is none to post with.
"""
METRICS = "/metrics"
"""Counts all clusters, also for who may not read them."""
OURS = frozenset({"api", "clusters", "diff", "failures", "healthz", "ingest", "login", "scripts", "sql"})
"""How paths of our own begin."""
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Access:
    """Lets through whoever may ask."""

    def __init__(self, app: ASGIApp, config: ServerConfig, users: Users, tries: Tries, *, check_host: bool) -> None:
        """
        Guard an application.

        Args:
            app: What is guarded.
            config: The names it is known by.
            users: Who is known.
            tries: Counts the wrong tokens.
            check_host: Whether to refuse, without a token, who asks for another host than these: a page of somebody's
                that has its own name lead to this machine (DNS rebinding).
        """
        self._app = app
        self._users = users
        self._tries = tries
        self._own_token = bool(config.ingest_token) and not users.have_names
        self._origins = frozenset(origin.lower() for origin in config.origins)
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
            await send({"type": "websocket.close", "code": 1008, "reason": "it may not be followed from there"})
        else:
            await refused(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive) -> Response | None:
        headers, path = Headers(scope=scope), path_below(scope)
        asks = scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")
        if not asks and not self._is_ours(headers):
            return PlainTextResponse(
                f"a page of {headers.get('origin', 'another site')!r} may not do this; name its origin in "
                "server.origins if it is yours\n",
                403,
            )
        if not self._users.are_known:
            scope[READER] = EVERYBODY
            return self._refuse_host(headers.get("host", ""))
        if path in OPEN or (path == GUARDED_BY_ITSELF and self._own_token):
            return None
        if self._users.are_due:
            await asyncio.to_thread(self._users.look_again)
        if path == "/login" and scope["type"] == "http" and (scope["method"] == "POST" or self._users.have_names):
            return await self._login(scope, receive) if scope["method"] == "POST" else _form(scope, status=200)
        return self._refuse_who(scope, headers, path)

    def _refuse_who(self, scope: Scope, headers: Headers, path: str) -> Response | None:
        """Find out who it is, and refuse whoever may not do this."""
        user = named_user(scope)
        if user == SEVERAL:
            return PlainTextResponse("several users are named; have the proxy replace what a client sends\n", 400)
        if user is not None:
            scope[READER] = self._users.by_proxy(*user)
        elif refused := self._refuse_stranger(scope, headers, posts=path == GUARDED_BY_ITSELF):
            return refused
        return _refuse_reader(scope[READER], path)

    def _refuse_host(self, host: str) -> Response | None:
        if self._hosts is None or _plain(host) in self._hosts or _is_address(host):
            return None
        return PlainTextResponse(
            f"this server does not know itself as {_plain(host)!r}; name it in server.hosts, or set server.token\n",
            421,
        )

    def _refuse_stranger(self, scope: Scope, headers: Headers, *, posts: bool) -> Response | None:
        """Refuse who sends no token, or a wrong one, else note who it is. Cookies count where nothing is posted."""
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        bearer = credentials.strip() if kind.lower() == "bearer" else ""
        scheme = "Bearer"
        if posts and self._users.have_names:
            bearer, scheme = said_token(headers.get("authorization", "")), 'Bearer, Basic realm="raytrail"'
        ticket = "" if posts else _ticket(headers)
        if reader := self._users.by_token(bearer, ticket):
            scope[READER] = reader
            return None
        # who sends none tries none
        wait = self._tries.wrong(peer(scope)) if bearer or ticket else 0
        if "text/html" in headers.get("accept", ""):
            return _form(scope, wait=wait)
        if wait:
            return PlainTextResponse(f"{many_wrong('server')}\n", 429, headers={"Retry-After": str(wait)})
        return PlainTextResponse(
            "send the token of this server, as `Authorization: Bearer TOKEN`; Ray's clients do with "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN\n",
            401,
            headers={"WWW-Authenticate": scheme},
        )

    def _is_ours(self, headers: Headers) -> bool:
        """Return whether a request comes from no page, or from one that may do more than ask."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() in self._origins:
            return True
        if site is not None:  # which no page can forge, and which knows of every proxy
            return site in ("same-origin", "none")
        return origin is None or _names(origin, headers.get("host", ""))

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        body = b""
        more = True
        while more and len(body) <= MAX_FORM_BYTES:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        token = parse_qs(body[:MAX_FORM_BYTES].decode(errors="replace")).get("token", [""])[0].strip()
        reader = self._users.by_token(token)
        if reader is None:
            return _form(scope, wrong=True, wait=self._tries.wrong(peer(scope)) if token else 0)
        if refused := _refuse_reader(reader, "/"):
            return refused
        answer = RedirectResponse(_root(scope), 303)
        answer.set_cookie(
            COOKIE,
            self._users.cookie_of(token),
            max_age=COOKIE_SECONDS,
            path=_root(scope),
            secure=scope["scheme"] in ("https", "wss"),
            httponly=True,
            samesite="strict",
        )
        return answer


def _refuse_reader(reader: Reader, path: str) -> Response | None:
    """Refuse what somebody who is known may not do at all. What they may read is for the store that they are shown."""
    may, right = bool(reader.clusters), 'read = ["..."]'
    if path == GUARDED_BY_ITSELF:
        may, right = reader.write, "write = true"
    elif path == METRICS:
        may, right = reader.metrics, "metrics = true"
    if may:
        return None
    return PlainTextResponse(f"{reader.name!r} may not do this; it takes {right} in server.users_file\n", 403)


def peer(scope: Scope) -> str:
    """Return the address that a request comes from."""
    client = scope.get("client")
    return client[0] if client else ""


def _ticket(headers: Headers) -> str:
    """Return what the browser was given for the token, or nothing."""
    try:
        ticket = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return ticket.value if ticket is not None else ""


def _form(scope: Scope, *, wrong: bool = False, wait: int = 0, status: int = 401) -> Response:
    """Return the page that asks for the token; `wait`: after so many wrong ones that others are refused so long."""
    headers = {"Retry-After": str(wait)} if wait else None
    return pages.answer(pages.login(_root(scope), wrong=wrong), 429 if wait else status, headers, form=True)


def check(config: ServerConfig) -> None:
    """
    Refuse to serve who may not be asked by everybody without a token.

    Raises:
        ConfigError: It would listen for other machines, and has no token; TLS cannot be had with its files; or a
            setting makes no sense.
    """
    if config.ingest_memory_bytes < config.ingest_body_bytes:
        raise ConfigError(
            f"server.ingest_memory_bytes {config.ingest_memory_bytes} is less than a body may hold, "
            f"server.ingest_body_bytes {config.ingest_body_bytes}; raise it"
        )
    _check_addresses(config)
    _check_proxies(config)
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
    if not config.token and not config.users_file and not config.open and not _is_loopback(config.host):
        raise ConfigError(
            f"server.host {config.host!r} is reached by other machines, and server.token is not set; set it "
            "(RAYTRAIL_SERVER_TOKEN) or server.users_file, or server.open where everybody who reaches it may read all"
        )


def _check_proxies(config: ServerConfig) -> None:
    """Refuse a proxy that names users of whom nothing is said, or that is anybody."""
    networks(config.trusted_proxies)
    if config.groups_header and not config.user_header:
        raise ConfigError(
            f"server.groups_header {config.groups_header!r} is set and server.user_header is not; set both"
        )
    if config.user_header and not (config.trusted_proxies and config.users_file):
        raise ConfigError(
            f"server.user_header {config.user_header!r} needs server.trusted_proxies, whose word is taken, and "
            "server.users_file, which says what users may read; set both"
        )


def _check_addresses(config: ServerConfig) -> None:
    """Refuse paths and origins that are none."""
    for origin in config.origins:
        if not _is_origin(origin):
            raise ConfigError(
                f"server.origins {origin!r}: not an origin; write http[s]://host[:port], as the browser shows it, with "
                "no slash at its end"
            )
    if not _is_base_path(config.base_path):
        raise ConfigError(
            f"server.base_path {config.base_path!r}: not a path, or one of our own; write e.g. /ray-history, with no "
            "slash at its end"
        )


def _is_base_path(text: str) -> bool:
    # a proxy that cuts the base would otherwise ask for what looks as if it had left it
    if text.split("/")[1:2] and text.split("/")[1] in OURS:
        return False
    return text == "" or bool(re.fullmatch(r"(/(?!\.{1,2}(?:/|$))[\w.~-]+)+", text, re.ASCII))


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(
            parts.hostname and parts.scheme in _DEFAULT_PORTS and f"{parts.scheme}://{parts.netloc}" == text
        ) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _names(origin: str, host: str) -> bool:
    """Return whether an origin is that of a Host header, whichever of the two schemes a proxy has made of the other."""
    scheme, separator, name = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return bool(separator and port and name) and name.removesuffix(f":{port}") == host.lower().removesuffix(f":{port}")


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
