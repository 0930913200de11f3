"""A page of another origin, in a browser that may reach the server, neither reads nor posts."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import app, serve
from raytrail.server.auth import check

pytestmark = pytest.mark.anyio

TOKEN = "a long secret"
HOST = "127.0.0.1:8365"
OURS = [
    {},
    {"Origin": f"http://{HOST}"},
    {"Origin": f"https://{HOST}"},  # a proxy speaks TLS, and the server does not
    {"Origin": f"HTTP://{HOST}"},
    {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://history.example", "Sec-Fetch-Site": "same-origin"},  # a proxy that asks by another name
    {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://allowed.example"},
    {"Origin": "https://allowed.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},
]
THEIRS = [
    {"Origin": "http://127.0.0.1:9999"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://localhost:8365"},
    {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://127.0.0.1:9999", "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://allowed.example"},
    {"Origin": "https://allowed.example.evil.example"},
    {"Origin": f"http://{HOST}.evil.example"},
    {"Origin": f"http://evil.example@{HOST}"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "\xff"},
    {"Origin": f"http://{HOST} http://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
SETTINGS: dict[str, Any] = {"origins": ("https://allowed.example",)}


def encoded(headers):
    return {name: value.encode("latin-1") for name, value in headers.items()}


@pytest.fixture
def taken():
    return []


@pytest.fixture
def connected(store, taken):
    async def take(_, body):
        taken.append(body)

    def connected(**settings):
        served = app(store, ServerConfig(**SETTINGS, **settings), take)
        return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url=f"http://{HOST}")

    return connected


@pytest.mark.parametrize("headers", THEIRS)
@pytest.mark.parametrize("settings", [{}, {"token": TOKEN}, {"token": TOKEN, "ingest_token": "other"}])
async def test_a_page_of_another_origin_posts_nothing(connected, taken, headers, settings):
    async with connected(**settings) as client:
        known = {"Authorization": f"Bearer {settings.get('ingest_token', TOKEN)}"}
        if "token" in settings:
            await client.post("/login", data={"token": TOKEN})
            assert (await client.get("/")).status_code == 200
        for path in ("/ingest", "/login", "/"):
            for extra in ({}, known):
                answer = await client.post(path, content=b"lines", headers=encoded(headers | extra))
                assert answer.status_code == 403
                assert "set-cookie" not in answer.headers
                assert "server.origins" in answer.text
    assert taken == []


@pytest.mark.parametrize("headers", OURS)
async def test_whoever_is_no_page_or_one_of_ours_goes_on_posting(connected, taken, headers):
    async with connected() as client:
        assert (await client.post("/ingest", content=b"lines", headers=headers)).status_code == 204
    async with connected(token=TOKEN) as client:
        assert (await client.post("/login", data={"token": TOKEN}, headers=headers)).status_code == 303
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.post("/ingest", content=b"lines", headers=headers | known)).status_code == 204
    assert taken == [b"lines"] * 2


@pytest.mark.parametrize("headers", THEIRS)
async def test_whoever_follows_a_link_is_answered(connected, headers):
    async with connected() as client:
        answer = await client.get("/api/clusters", headers=encoded(headers))
    assert answer.status_code == 200
    # and a page that embeds the answer cannot look into it
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers


async def test_the_cookie_of_somebody_who_reads_is_none_to_post_with(connected, taken):
    async with connected(token=TOKEN) as client:
        await client.post("/login", data={"token": TOKEN})
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/ingest", content=b"lines")).status_code == 401
    assert taken == []


async def test_the_page_that_asks_for_the_token_lets_the_browser_say_where_it_comes_from(connected):
    async with connected(token=TOKEN) as client:
        page = await client.get("/", headers={"accept": "text/html"})
    # with no-referrer, browsers post a form with `Origin: null`
    assert page.headers["referrer-policy"] == "same-origin"


@asynccontextmanager
async def listening(store, **settings):
    """The port of a server of its own."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(store, ServerConfig(port=0, **settings), ready=ready.set_result, stop=stop))
    try:
        yield int((await asyncio.wait_for(ready, 30)).rpartition(":")[2])
    finally:
        stop.set()
        await asyncio.wait_for(serving, 30)


@pytest.mark.slow
@pytest.mark.parametrize("token", ["", TOKEN])
async def test_a_page_of_another_origin_follows_no_log(store, token):
    async with listening(store, token=token, **SETTINGS) as port:
        cookie = {}
        if token:
            async with httpx.AsyncClient() as client:
                login = await client.post(f"http://127.0.0.1:{port}/login", data={"token": token})
            cookie = {"Cookie": f"raytrail={login.cookies['raytrail']}"}

        async def status(headers):
            sent = {name: value.replace(HOST, f"127.0.0.1:{port}") for name, value in headers.items()}
            url = f"ws://127.0.0.1:{port}/clusters/varied/api/jobs/none/logs/tail"
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, additional_headers=sent | cookie)
            return refused.value.response.status_code

        # 404: that job is none, which whoever may ask is told
        assert [await status(headers) for headers in OURS] == [404] * len(OURS)
        theirs = [headers for headers in THEIRS if "\xff" not in headers.get("Origin", "")]
        assert [await status(headers) for headers in theirs] == [403] * len(theirs)


@pytest.mark.parametrize(
    "origin", ["history.example", "https://a/b", "https://a/", "*", "ftp://a", "https://", "https://a:x"]
)
def test_an_origin_that_is_none_is_refused(origin):
    with pytest.raises(ConfigError, match=r"server\.origins"):
        check(ServerConfig(origins=(origin,)))
    check(ServerConfig(origins=("https://history.example", "http://10.0.0.1:8080", "https://[::1]:8080")))
