"""Links to Ray's own dashboard of clusters that live."""

import httpx
import pytest
from tests.server.conftest import MADE, b64

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import app
from raytrail.server.live_links import LiveLinks

pytestmark = pytest.mark.anyio

HTML = {"Accept": "text/html"}


def connected(store, **settings):
    transport = httpx.ASGITransport(app(store, ServerConfig(**settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://history", headers=HTML)


def node(ip, state="ALIVE"):
    data = {"node_id": b64("11" * 28), "node_manager_address": ip, "is_head_node": True, "state": state}
    return "EXPORT_NODE", {**data, "start_time_ms": "1767225600000"}


async def links(client):
    """The addresses outside the server that the landing page and the cluster's own link."""
    texts = [(await client.get(path)).text for path in ("/", "/clusters/latest/about")]
    return [
        text.count('rel="noreferrer"') and text.split('rel="noreferrer"')[1].split('href="')[1].split('"')[0]
        for text in texts
    ]


async def test_a_living_cluster_is_linked_where_the_operator_says(made, add, task):
    add(node("10.0.0.5"), task(1), cluster="prod/train a")
    async with connected(made, live_url="https://ray.example/{name}/?s={session}") as client:
        assert await links(client) == [f"https://ray.example/prod%2Ftrain%20a/?s={MADE}"] * 2
        at = await client.get("/clusters/latest/at/2026-01-01T00:00:10Z/about")
        assert 'rel="noreferrer"' not in at.text
        made.seal(MADE)
        assert await links(client) == [0, 0]


@pytest.mark.parametrize(
    ("ip", "url"),
    [
        ("10.0.0.5", "http://10.0.0.5:8265/"),
        ("fd00::5", "http://[fd00::5]:8265/"),
        ("8.8.8.8", 0),
        ("169.254.169.254", 0),
        ("0.0.0.0", 0),
        ("evil.example", 0),
        ("10.0.0.5@evil.example", 0),
        ("fd00::1%]@evil.example#", 0),
        ('10.0.0.5"><script>', 0),
        ("", 0),
    ],
)
async def test_without_that_only_a_private_address_of_the_head_is_linked(made, add, task, ip, url):
    add(node(ip), task(1))
    async with connected(made, live_links=True) as client:
        assert await links(client) == [url] * 2
    async with connected(made) as client:
        assert await links(client) == [0, 0]


async def test_this_machine_is_linked_by_a_server_of_its_own_alone(made, add, task):
    add(node("127.0.0.1"), task(1))
    for host, url in (("127.0.0.1", "http://127.0.0.1:8265/"), ("0.0.0.0", 0)):
        async with connected(made, live_links=True, host=host, token="a long secret") as client:
            client.headers["Authorization"] = "Bearer a long secret"
            assert await links(client) == [url] * 2


@pytest.mark.parametrize(
    ("template", "name", "url"),
    [
        ("https://{name}.ray.example/", "train", "https://train.ray.example/"),
        ("https://{name}.ray.example/", "evil.example/", ""),
        ("https://{name}.ray.example/", "a.b", ""),
        ("https://{name}.ray.example/", "7", "https://7.ray.example/"),
        ("http://{name}:8265/", "head-7", "http://head-7:8265/"),
        ("http://{name}:8265/", "134744072", ""),
        ("http://{name}/", "0X8080808", ""),
        ("https://{name}.ray.example/", "", ""),
        ("https://ray.example/{name}/", "..", ""),
        ("https://ray.example/{name}/", "../x?y#z", "https://ray.example/..%2Fx%3Fy%23z/"),
        ("https://ray.example/{session}/", "", "https://ray.example/session_1/"),
        ("https://ray.example/", "", "https://ray.example/"),
    ],
)
def test_a_name_leads_nowhere_else(template, name, url):
    assert LiveLinks(ServerConfig(live_url=template)).of(None, "session_1", name) == url  # type: ignore[arg-type]  # it is not asked


@pytest.mark.parametrize(
    "template",
    [
        "javascript:alert(1)",
        "ray.example/{name}",
        "https://{cluster}/",
        "https://a@ray.example/",
        "http://{",
        "https:///x",
    ],
)
def test_what_is_no_url_stops_the_start(template):
    with pytest.raises(ConfigError) as error:
        LiveLinks(ServerConfig(live_url=template))
    assert str(error.value) == (
        f"server.live_url {template!r}: not a URL; write http[s]://host/path, in which {{name}} stands for the "
        "cluster's name and {session} for its session's"
    )
