"""A server that a proxy has under a path, which it cuts from what it asks or leaves."""

import re

import httpx
import pytest

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import app
from raytrail.server.auth import check

pytestmark = pytest.mark.anyio
TOKEN = "a long secret"


def connected(store, **settings):
    served = app(store, ServerConfig(base_path="/ray/history", **settings))
    return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://history")


@pytest.mark.parametrize("asked", ["", "/ray/history"])
async def test_its_pages_are_there_and_every_link_begins_with_it(asked, store):
    async with connected(store) as client:
        for path in ("/", "/clusters/varied/about", "/clusters/varied/at/2026-11-23T07:40:50Z/about"):
            page = await client.get(f"{asked}{path}")
            assert page.status_code == 200
            links = re.findall(r'(?:href|src|action)="(/[^"]*)', page.text)
            assert all(link.startswith("/ray/history/") for link in links)
            for link in dict.fromkeys(links):
                if "/at/2026" not in link or "about" in link:  # a chart leads to a hundred moments
                    answer = await client.get(link.replace("&amp;", "&"), headers={"accept": "text/html"})
                    assert answer.status_code in (200, 303), link


async def test_names_with_encoded_slashes_are_found_there(add, task, made):
    add(task(1), cluster="eu/prod")
    async with connected(made) as client:
        for asked in ("", "/ray/history"):
            assert (await client.get(f"{asked}/clusters/eu%2Fprod/about")).status_code == 200


async def test_it_asks_for_the_token_and_sets_the_cookie_there(store):
    for asked in ("", "/ray/history"):
        async with connected(store, token=TOKEN) as client:
            assert (await client.get(f"{asked}/")).status_code == 401
            assert (await client.get(f"{asked}/healthz")).text == "ok\n"
            answer = await client.post(f"{asked}/login", data={"token": TOKEN})
            assert answer.headers["location"] == "/ray/history/"
            assert "Path=/ray/history/" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "path", ["ray", "/ray/", "/", "//x", "/a b", "/x?y", "/..", "/a/../b", "/история", "/clusters", "/api/v1"]
)
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ConfigError, match="not a path"):
        check(ServerConfig(base_path=path))
