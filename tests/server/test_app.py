"""What holds for every answer: errors, caching, headers, and the server's life."""

import asyncio
import json
import socket
import threading
from typing import Any

import httpx
import pytest
from tests.serving import listening
from uvicorn.protocols.http.h11_impl import H11Protocol

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import app, application, serve
from raytrail.server.ray import routes
from raytrail.server.ray.state import find_rows
from raytrail.store import Store

pytestmark = pytest.mark.anyio

SESSION = "session_2026-11-23_07-40-30_867494_13129"
MADE = "session_2026-01-01_00-00-00_000000_1"


def refused(answer):
    """The reason, from the body that Ray's State API clients read."""
    body = answer.json()
    assert (body["result"], body["data"]) == (False, {"result": None})
    return answer.status_code, body["msg"]


@pytest.mark.parametrize("id", [SESSION, "varied", "13129", "latest"])
async def test_a_cluster_answers_to_each_of_its_names(id, client):
    assert (await client.get(f"/clusters/{id}/api/version")).json()["session_name"] == SESSION


async def test_an_unknown_cluster_is_not_found_and_the_known_are_named(client):
    for path in ("api/v0/tasks", "api/v0/tasks/summarize"):
        status, reason = refused(await client.get(f"/clusters/gone/{path}"))
        assert status == 404
        assert "'gone'" in reason
        assert SESSION in reason
    answer = await client.get("/clusters/gone/api/version")
    assert (answer.status_code, SESSION in answer.text) == (404, True)
    page = await client.get("/clusters/gone/", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("api/v0/nodes/summarize", "summary of nodes: Ray sums up tasks, actors and objects only"),
        (
            "api/component_activities",
            f"/api/component_activities is not served by this version; see http://history/clusters/{SESSION}/",
        ),
    ],
)
async def test_what_a_live_cluster_would_answer_and_we_cannot_is_never_404(path, reason, client):
    assert refused(await client.get(f"/clusters/varied/{path}")) == (501, reason)
    assert refused(await client.get(f"/clusters/varied/at/1/{path}")) == (501, reason)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/clusters/varied/api/jobs/", "/clusters/varied/api/packages/gcs/x", "/"])
async def test_nothing_can_be_written(method, path, client):
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.text == f"{method} {path}: this is a read-only history; only GET and HEAD are answered"
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("moment", ["yesterday", "-5", "1.5", "²", "9" * 16, "9" * 5000])
async def test_a_moment_that_is_none_is_refused(moment, client):
    reason = (
        f"moment '{moment}' is neither milliseconds since 1970, in 15 digits at most, nor a time such as "
        "2026-11-29T03:12:00Z"
    )
    assert refused(await client.get(f"/clusters/varied/at/{moment}/api/v0/tasks")) == (400, reason)


async def test_summary_by_anything_else_is_refused(client):
    answer = await client.get("/clusters/varied/api/v0/tasks/summarize?summary_by=node")
    assert refused(answer) == (500, "summary_by 'node': it is func_name, task_name or lineage")


async def test_a_page_that_is_nowhere_says_where_the_clusters_are(client):
    answer = await client.get("/dashboard")
    assert answer.status_code == 404
    assert answer.text == "/dashboard: no such page; the clusters are at http://history/"


async def test_a_cluster_without_its_slash_leads_to_it(client):
    for path in ("/clusters/varied", "/clusters/varied/at/1795419650000"):
        answer = await client.get(path)
        assert answer.status_code == 307
        assert str(answer.next_request.url) == f"http://history{path}/"


async def test_health_is_answered_without_the_store(made):
    made.close()
    transport = httpx.ASGITransport(app(made, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        assert (await client.get("/healthz")).text == "ok\n"


async def test_clusters_and_their_ledgers_are_json_too(client):
    [cluster] = (await client.get("/api/clusters")).json()["clusters"]
    assert (cluster["session"], cluster["cluster"], cluster["tasks"]) == (SESSION, "varied", 2398)
    details = (await client.get("/api/clusters/varied")).json()
    assert details["cluster"] == cluster
    assert {row["event_type"] for row in details["ledger"]} >= {"TASK", "ACTOR", "NODE", "DRIVER_JOB"}
    assert sum(row["stored_events"] for row in details["ledger"]) == cluster["events"]


@pytest.mark.parametrize("path", ["", "api/v0/tasks?limit=1", "api/v0/tasks/summarize", "api/jobs/", "at/1/"])
async def test_a_sealed_answer_is_sent_once(path, client):
    first = await client.get(f"/clusters/varied/{path}")
    assert first.headers["cache-control"] == "private, no-cache"
    etag = first.headers["etag"]
    assert etag.startswith('"')
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await client.get(f"/clusters/varied/{path}", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = await client.get(f"/clusters/varied/{path}", headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


async def test_different_questions_have_different_etags(client):
    paths = (
        "api/v0/tasks",
        "api/v0/tasks?limit=1",
        "api/v0/actors",
        "at/1/api/v0/tasks",
        "at/2/api/v0/tasks",
    )
    etags = [(await client.get(f"/clusters/varied/{path}")).headers["etag"] for path in paths]
    assert len(set(etags)) == len(paths)


async def test_a_session_that_lives_is_asked_each_time(made, add, task, made_client):
    add(task(1))
    live = await made_client.get("/clusters/latest/api/v0/tasks")
    assert (live.headers["cache-control"], live.headers.get("etag")) == ("no-store", None)
    made.seal(MADE)
    made.cache(MADE)
    sealed = await made_client.get("/clusters/latest/api/v0/tasks")
    add(task(2))
    made.seal(MADE)
    made.cache(MADE)
    headers = {"if-none-match": sealed.headers["etag"]}
    again = await made_client.get("/clusters/latest/api/v0/tasks", headers=headers)
    assert (again.status_code, again.json()["data"]["result"]["total"]) == (200, 2)


@pytest.mark.parametrize("path", ["/", "/healthz", "/clusters/varied/api/v0/tasks", "/clusters/gone/", "/x"])
async def test_browsers_are_told_not_to_guess(path, client):
    assert (await client.get(path)).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/api/clusters", "/clusters/gone/", "/clusters/varied/api/v0/nodes/summarize"])
async def test_what_may_change_is_not_kept(path, client):
    answer = await client.get(path)
    assert (answer.headers["cache-control"], answer.headers.get("etag")) == ("no-store", None)


async def test_a_history_with_holes_says_so_to_rays_clients(made, chunk, add, task, made_client):
    add(task(1))
    made.append([chunk("NODE", b"no event\n")])
    made.fold()
    for path in ("tasks", "tasks/summarize"):
        answer = (await made_client.get(f"/clusters/latest/api/v0/{path}")).json()
        assert answer["data"]["result"]["warnings"] == [
            "The history of this cluster is not complete: 0 bytes of events are missing and 1 lines were "
            f"unreadable. http://history/clusters/{MADE}/ says which."
        ]


async def test_a_long_list_is_streamed(client, monkeypatch):
    # another URL, whose answer is kept
    whole = (await client.get("/clusters/varied/api/v0/tasks?limit=2000&timeout=1")).json()
    monkeypatch.setattr(routes, "PAGE_ROWS", 1000)
    answer = await client.get("/clusters/varied/api/v0/tasks?limit=2000")
    assert "content-length" not in answer.headers
    assert "etag" in answer.headers
    assert answer.json() == whole


async def test_few_requests_read_the_store_at_once(made):
    lock, entered, leave = threading.Lock(), threading.Semaphore(0), threading.Event()
    inside, most = 0, 0

    class Slow:
        def clusters(self):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            entered.release()
            assert leave.wait(30)
            with lock:
                inside -= 1
            return []

    transport = httpx.ASGITransport(app(Slow(), ServerConfig()))  # type: ignore[arg-type]  # all of a Store that is asked
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        asked = [asyncio.create_task(client.get("/api/clusters")) for _ in range(3 * application.QUERIES_AT_ONCE)]
        for _ in range(application.QUERIES_AT_ONCE):
            assert await asyncio.to_thread(entered.acquire, timeout=30)
        # the loop answers meanwhile
        assert (await client.get("/healthz")).status_code == 200
        leave.set()
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert most == application.QUERIES_AT_ONCE


async def test_who_asks_for_few_rows_does_not_wait_for_those_who_ask_for_many(client, monkeypatch):
    lock, entered, leave = threading.Lock(), threading.Semaphore(0), threading.Event()
    inside, most = 0, 0

    def slow(snapshot, query):
        nonlocal inside, most
        if query.limit <= application.LARGE_ROWS:
            return find_rows(snapshot, query)
        with lock:
            inside += 1
            most = max(most, inside)
        entered.release()
        assert leave.wait(30)
        with lock:
            inside -= 1
        return find_rows(snapshot, query)

    monkeypatch.setattr(routes, "find_rows", slow)
    url = "/clusters/varied/api/v0/tasks?limit="
    many = [
        asyncio.create_task(client.get(f"{url}{application.LARGE_ROWS + number}"))
        for number in range(1, 2 * application.QUERIES_AT_ONCE)
    ]
    try:
        for _ in range(application.LARGE_AT_ONCE):
            assert await asyncio.to_thread(entered.acquire, timeout=30)
        few = await asyncio.wait_for(client.get(f"{url}{application.LARGE_ROWS}"), 30)
    finally:
        leave.set()
    answers = [few, *await asyncio.gather(*many)]
    assert {answer.status_code for answer in answers} == {200}
    assert most == application.LARGE_AT_ONCE


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_it_serves_on_a_free_port_until_it_is_stopped(host, store):
    stop = asyncio.Event()
    url = asyncio.get_running_loop().create_future()
    config = ServerConfig(host=host, port=0)
    serving = asyncio.create_task(serve(store, config, ready=url.set_result, stop=stop))
    await asyncio.wait([url, serving], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    async with httpx.AsyncClient(base_url=url.result()) as client:
        assert (await client.get("/api/clusters/varied")).json()["cluster"]["session"] == SESSION
    stop.set()
    await asyncio.wait_for(serving, 30)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, httpx.URL(url.result()).port)


@pytest.mark.slow
async def test_an_answer_that_takes_too_long_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr("raytrail.server.serving.GRACE_SECONDS", 1)
    entered, leave = threading.Event(), threading.Event()

    class Stuck:
        def clusters(self):
            entered.set()
            assert leave.wait(30)
            return []

    stop = asyncio.Event()
    url = asyncio.get_running_loop().create_future()
    store: Any = Stuck()
    serving = asyncio.create_task(serve(store, ServerConfig(port=0), ready=url.set_result, stop=stop))
    async with httpx.AsyncClient(base_url=await url) as client:
        asked = asyncio.create_task(client.get("/api/clusters"))
        assert await asyncio.to_thread(entered.wait, 30)
        stop.set()
        await asyncio.wait_for(serving, 20)
        leave.set()
        assert (await asked).status_code == 500


def test_an_answer_waits_for_no_acknowledgement(store, monkeypatch):
    set_at_once = []
    connection_made = H11Protocol.connection_made

    def look(self, transport):
        of = transport.get_extra_info("socket")
        set_at_once.append(of.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        connection_made(self, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", look)
    with listening(store) as url:
        assert httpx.get(f"{url}/healthz").text == "ok\n"
    assert set_at_once == [1]


async def test_a_port_that_is_taken_is_named(store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            await serve(store, ServerConfig(port=port), ready=print, stop=asyncio.Event())
    assert str(error.value) == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another host or port, or 0 for a free port"
    )


async def test_a_store_in_another_process_is_served_while_it_is_written(made, add, task, tmp_path):
    add(task(1))
    with Store.open(tmp_path / "made") as reader:
        transport = httpx.ASGITransport(app(reader, ServerConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:

            async def total():
                answer = await client.get("/clusters/latest/api/v0/tasks")
                return json.loads(answer.content)["data"]["result"]["total"]

            assert await total() == 1
            add(task(2))
            assert await total() == 2
            made.seal(MADE)
            made.cache(MADE)
            assert await total() == 2
