"""What a server tells Prometheus, and whether it is ready."""

import asyncio

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving import listening

from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.server.metrics import ServerMetrics, Slots
from raytrail.store import Store

pytestmark = pytest.mark.anyio

TOKEN = "a token of more than sixteen characters"


async def figures(client):
    """Return every sample by name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of_routes(samples):
    """Return how often each route answered with each status."""
    return {key[1:]: value for key, value in samples.items() if key[0] == "raytrail_server_requests_total"}


async def test_requests_are_counted_by_the_route_that_answers_and_never_by_their_address(client):
    for number in range(3):
        assert (await client.get(f"/clusters/varied/api/v0/tasks?limit={number + 1}")).status_code == 200
        assert (await client.get(f"/nothing/{number}")).status_code == 404
        assert (await client.get(f"/clusters/gone{number}/api/version")).status_code == 404
        assert (await client.get(f"/clusters/varied/api/nothing{number}")).status_code == 501
    assert (await client.get("/clusters/varied/at/1795419650000/api/v0/tasks")).status_code == 200
    assert (await client.get("/clusters/varied/api/jobs/team%2Fjob")).status_code == 404
    assert (await client.post("/clusters/varied/api/jobs/")).status_code == 405
    samples = await figures(client)
    assert of_routes(samples) == {
        ("/clusters/{id}/api/v0/{noun}", "200"): 3,
        ("none", "404"): 3,
        ("/clusters/{id}/api/version", "404"): 3,
        ("/clusters/{id}/{rest:path}", "501"): 3,
        ("/clusters/{id}/at/{ms}/api/v0/{noun}", "200"): 1,
        ("/clusters/{id}/api/jobs/{job}", "404"): 1,
        ("/clusters/{id}/api/jobs/", "405"): 1,
    }
    assert samples["raytrail_server_answer_seconds_count", "/clusters/{id}/api/v0/{noun}"] == 3
    assert 0 < samples["raytrail_server_answer_seconds_sum", "/clusters/{id}/api/v0/{noun}"] < 60
    assert (await figures(client))["raytrail_server_requests_total", "/metrics", "200"] == 1


async def test_answers_from_the_cache_and_the_store_are_told(client):
    before = await figures(client)
    assert before["raytrail_server_cached_answers_total",] == 0
    for _ in range(3):
        await client.get("/clusters/varied/api/v0/nodes")
    samples = await figures(client)
    assert samples["raytrail_server_cached_answers_total",] == 2
    assert samples["raytrail_server_uncached_answers_total",] >= 1
    assert (samples["raytrail_store_clusters", "living"], samples["raytrail_store_clusters", "sealed"]) == (0, 1)
    assert samples["raytrail_store_bytes",] > 0
    assert samples["process_resident_memory_bytes",] > 1e6


async def test_a_fault_of_ours_is_counted(store, monkeypatch):
    def fault():
        raise RuntimeError("a fault")

    monkeypatch.setattr(store, "clusters", fault)
    transport = httpx.ASGITransport(app(store, ServerConfig()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        assert (await client.get("/api/clusters")).status_code == 500
        assert (await figures(client))["raytrail_server_requests_total", "/api/clusters", "500"] == 1


async def test_who_follows_a_page_is_counted_while_it_lasts(made, add, task):
    add(task(1))
    with listening(made) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            async with client.stream("GET", "/api/clusters/latest/live") as answer:
                lines = answer.aiter_lines()  # which ends the answer once nobody holds it
                await anext(lines)
                samples = await figures(client)
                assert samples["raytrail_server_open_streams",] == 1
                # its time is not how long somebody follows it
                assert samples["raytrail_server_requests_total", "/api/clusters/{id}/live", "200"] == 1
            with anyio.fail_after(60):
                while (await figures(client))["raytrail_server_open_streams",]:  # noqa: ASYNC110 (the server tells it when it is asked)
                    await anyio.sleep(0.05)


async def test_who_waits_for_a_turn_is_counted(store):
    waiting = ServerMetrics(store).waiting.labels("large")
    slots = Slots(1, waiting)
    assert await slots.acquire()
    others = [asyncio.create_task(slots.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    assert waiting._value.get() == 2
    slots.release()
    await others[0]
    assert waiting._value.get() == 1
    others[1].cancel()
    await asyncio.wait(others)
    assert waiting._value.get() == 0


async def test_metrics_need_the_token_and_probes_do_not(store):
    transport = httpx.ASGITransport(app(store, ServerConfig(token=TOKEN)))
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        assert (await client.get("/metrics")).status_code == 401
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).text == "ok\n"
        client.headers["authorization"] = f"Bearer {TOKEN}"
        # whoever was refused is counted as well
        assert (await figures(client))["raytrail_server_requests_total", "none", "401"] == 1


@pytest.mark.parametrize("how", ["gone", "closed"])
async def test_a_server_whose_store_cannot_be_read_is_not_ready_and_says_why(how, made, tmp_path):
    with Store.open(tmp_path / "made") as store:
        transport = httpx.ASGITransport(app(store, ServerConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
            assert (await client.get("/readyz")).text == "ok\n"
            if how == "gone":
                (tmp_path / "made/catalogue.sqlite").rename(tmp_path / "elsewhere")
            else:
                store._catalogue._db.close()
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert answer.text.startswith("catalogue.sqlite: ")
            assert answer.text.endswith("; see that the store is there and its disk can be read\n")
            samples = await figures(client)
            assert samples["raytrail_store_readable",] == 0
            assert ("raytrail_store_clusters", "living") not in samples
            assert (await client.get("/healthz")).status_code == 200
            if how == "gone":
                (tmp_path / "elsewhere").rename(tmp_path / "made/catalogue.sqlite")
