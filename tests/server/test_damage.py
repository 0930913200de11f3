"""A session with a damaged file, over HTTP: an error that says which, while all others are served."""

import httpx
import pytest
from tests.damage import CONFIG, LIVE, SEALED, damage, fill

from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("served") / "store"
    fill(root)
    return root


@pytest.fixture
def served(root, tmp_path):
    """Return the damaged file, and a client of a copy of the store that has it."""
    opened = []

    def serve(pattern):
        path = damage(root, tmp_path / "store", pattern)
        opened.append(Store.open(tmp_path / "store", CONFIG))
        transport = httpx.ASGITransport(app(opened[-1], ServerConfig()))
        return path, httpx.AsyncClient(transport=transport, base_url="http://history")

    yield serve
    for store in opened:
        store.close()


async def test_a_damaged_state_is_an_error_of_its_session_alone(served):
    path, client = served(f"state/{LIVE}/task-open-*")
    async with client:
        answer = await client.get(f"/clusters/{LIVE}/api/v0/tasks")
        assert answer.status_code == 500
        assert answer.json() == {
            "result": False,
            "msg": f"{path}: its bytes are not those that were written; fold it anew from the log: "
            f"raytrail rebuild --cluster {LIVE}",
            "data": {"result": None},
        }
        page = await client.get(f"/clusters/{LIVE}/about", headers={"accept": "text/html"})
        assert (page.status_code, path.name in page.text) == (500, True)
        other = await client.get(f"/clusters/{SEALED}/api/v0/tasks")
        assert (other.status_code, len(other.json()["data"]["result"]["result"])) == (200, 100)
        home = await client.get("/?fold=no")
        assert (home.status_code, "damaged</span>" in home.text) == (200, True)
        clusters = {
            cluster["session"]: cluster["damaged"] for cluster in (await client.get("/api/clusters")).json()["clusters"]
        }
        assert (clusters[SEALED], path.name in clusters[LIVE]) == ("", True)


@pytest.mark.parametrize(
    "route",
    ["api/v0/tasks", "api/v0/tasks/summarize", "api/v0/tasks/timeline", "api/cluster_status", "nodes?view=summary"],
)
async def test_a_damaged_cache_is_nobodys_trouble(served, root, route):
    path, client = served("state/*/*.duckdb")
    data = path.read_bytes()
    path.write_bytes(data[:12288] + bytes(len(data) - 12288))
    async with client:
        answer = await client.get(f"/clusters/{SEALED}/{route}")
    with Store.open(root, CONFIG) as store:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app(store, ServerConfig())), base_url="http://history"
        ) as client:
            undamaged = await client.get(f"/clusters/{SEALED}/{route}")
    assert (answer.status_code, answer.content) == (undamaged.status_code, undamaged.content)
    assert answer.status_code == 200
