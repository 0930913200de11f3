"""Ray's own dashboard, served for a dead cluster."""

import json
import re

import httpx
import pytest

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import app
from raytrail.server.dashboard_files import find_build

pytestmark = pytest.mark.anyio

SESSION = "session_2026-11-23_07-40-30_867494_13129"


def bar_data(page):
    """What the page tells our bar."""
    [text] = re.findall(r'<script type="application/json" id="raytrail">(.*?)</script>', page.text)
    return json.loads(text)


async def test_the_page_of_a_cluster_is_rays_dashboard_with_our_bar_before_its_script(client):
    page = await client.get("/clusters/varied/")
    assert "<title>Ray Dashboard</title>" in page.text
    scripts = re.findall(r'src="([^"]+)"', page.text)
    assert scripts[0] == "./raytrail-bar.js"
    assert scripts[1].startswith("./static/js/main.")
    for path in scripts:
        script = await client.get(page.url.join(path))
        assert script.headers["content-type"].startswith("text/javascript")
    assert "'self'" in page.headers["content-security-policy"]
    assert "script-src" not in page.headers["content-security-policy"]  # as all else: from here, and never inline


@pytest.mark.parametrize(
    ("path", "at_ms", "final"),
    [("", 1795420013999, False), ("at/1795419650000/", 1795419650000, False), ("final/", None, True)],
)
async def test_the_bar_is_told_the_moment(path, at_ms, final, client):
    bar = bar_data(await client.get(f"/clusters/varied/{path}"))
    assert (bar["at_ms"], bar["final"]) == (at_ms, final)
    assert bar["home"] == f"/clusters/{SESSION}/"
    assert bar["url"] == f"/clusters/{SESSION}/{path}"


async def test_a_clusters_name_cannot_end_the_element_that_it_stands_in(made_client, add, task):
    name = "</script><script>alert(1)</script>"
    add(task(1), cluster=name)
    page = await made_client.get("/clusters/latest/")
    assert "<script>alert" not in page.text
    assert bar_data(page)["title"] == name


async def test_files_may_be_kept_forever_and_the_page_may_not(client):
    page = await client.get("/clusters/varied/")
    [script] = re.findall(r'src="(\./static/[^"]+)"', page.text)
    kept = (await client.get(page.url.join(script))).headers["cache-control"]
    assert "immutable" in kept
    assert "immutable" not in page.headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["static/js/none.js", "static/../index.html", "static/%2e%2e/index.html", "static//etc/passwd", "static/"]
)
async def test_only_files_of_the_build_are_served(path, client):
    answer = await client.get(f"/clusters/varied/{path}")
    assert answer.status_code in (404, 501)
    assert "root:" not in answer.text


async def test_without_a_dashboard_our_own_page_is_shown(store):
    transport = httpx.ASGITransport(app(store, ServerConfig(dashboard="off")))
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        page = await client.get("/clusters/varied/")
        assert "How complete this history is" in page.text
        assert "Ray's dashboard" not in page.text
        assert (await client.get("/clusters/varied/static/js/main.js")).status_code == 501


def test_a_directory_without_a_dashboard_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no index"):
        find_build(str(tmp_path))
    (tmp_path / "index.html").write_text("<html><script></script></html>")
    assert find_build(str(tmp_path)) is not None
