"""Routes: each is declared once, and the docs are made of the declarations."""

from pathlib import Path

import pytest

from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.server.application import CLUSTER, MOMENTS

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


async def take(headers, body):
    raise AssertionError


@pytest.fixture(scope="module")
def routes(tmp_path_factory):
    """All that a server answers which takes events and has Ray's dashboard."""
    dashboard = tmp_path_factory.mktemp("dashboard")
    (dashboard / "index.html").touch()
    return app(None, ServerConfig(dashboard=str(dashboard)), take).routes  # type: ignore[arg-type]  # none is asked


def cells(path, doc):
    """The line of the docs that tells of a path. A page of ours and Ray's API may have the same."""
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("|") and f"`{path}` |" in line]
    [row] = [parts for line in lines if doc in (parts := [part.strip() for part in line.strip("|").split(" | ")])]
    return row


def test_each_route_that_the_server_answers_is_in_the_docs(routes):
    for route in routes:
        path = route.path
        for moment in MOMENTS:
            path = path.replace(moment, CLUSTER)
        method, answer, parameters = cells(path.replace("{rest:path}", "…").replace(":path", ""), route.declared.doc)
        assert method.startswith("`") == (route.declared.method == "GET")
        assert answer == route.declared.doc != ""
        assert all(f"`{name}`: {text}" in parameters for name, text in route.declared.parameters.items())


def test_all_that_is_below_a_cluster_is_below_its_moments(routes):
    below = {at: [route.path[len(at) :] for route in routes if route.path.startswith(at)] for at in MOMENTS}
    of_cluster = [route.path for route in routes if route.path.startswith(CLUSTER)]
    of_cluster = [path[len(CLUSTER) :] for path in of_cluster if not path.startswith(MOMENTS)]
    assert below == dict.fromkeys(MOMENTS, of_cluster)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/clusters/eu%2Fprod/about", "/api/clusters/eu%2Fprod"])
async def test_a_cluster_whose_name_has_a_slash_is_found(path, add, task, made_client):
    add(task(1), cluster="eu/prod")
    assert (await made_client.get(path)).status_code == 200
