"""What somebody may not read leaves no trace in any answer, of whichever route."""

import re
import time
from itertools import product

import httpx
import pytest

from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.server.routing import NamedWebSocketRoute

pytestmark = pytest.mark.anyio

SESSION, CLUSTER = "session_2026-11-23_07-40-30_867494_13129", "varied"
FAKE = "session_2026-11-23_07-40-30_867494_00000"
USERS = """
[[token]]
name = "all"
token = "token-of-all"
read = ["*"]
[[token]]
name = "others"
token = "token-of-others"
read = ["other-*"]
[[token]]
name = "ours"
token = "token-of-ours"
read = ["va*"]
[[token]]
name = "agents"
token = "token-of-agents"
write = true
"""
QUERIES = {
    "/": ["q={word}", "name={name}", "fold=no"],
    "/clusters.json": ["q={word}", "name={name}", "fold=no"],
    "/clusters.csv": ["fold=no"],
    "/sql": ["q=SELECT session, name FROM task", "q=SELECT cluster, node_id FROM node", "q=SELECT 1&explain=1"],
    "/sql.json": ["q=SELECT session, name FROM task", "q=FROM task&explain=1"],
    "/sql.csv": ["q=SELECT * FROM job"],
    "/diff": ["a={id}", "a={id}&b={id}/01000000", "b={id}"],
    "/diff.json": ["a={id}", "a={id}&b={id}/01000000", "b={id}"],
    "/diff.csv": ["a={id}&b={id}"],
    "/failures": ["name={name}"],
    "/failures.json": ["name={name}"],
}
FIELDS = {"ms": "2026-11-23T15:41:00Z", "job": "01000000", "job_id": "01000000", "resource": "tasks", "noun": "tasks"}
CHANGING = re.compile(r'"?took_ms"?:[^,]+,|\d+(\.\d+)? ms|\d+ (second|minute)s? ago')


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    dashboard = tmp_path_factory.mktemp("dashboard")
    (dashboard / "static").mkdir()
    (dashboard / "index.html").write_text("<html><script></script></html>")
    (dashboard / "favicon.ico").touch()
    return dashboard


async def take(headers, body):
    raise AssertionError("nobody here may post")


@pytest.fixture(scope="module")
def served(store, dashboard):
    (dashboard / "users.toml").write_text(USERS)
    config = ServerConfig(
        users_file=str(dashboard / "users.toml"), dashboard=str(dashboard), wrong_tokens_per_minute=1_000_000
    )
    return app(store, config, take)


def client_of(served, token):
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(served),
        base_url="http://history",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )


@pytest.fixture(scope="module")
def traces(store):
    """Words that are in nothing but the cluster."""
    rows = store.snapshot(SESSION).rows("task", columns=["task_id", "func_or_class_name", "error_message"])
    nodes = store.snapshot(SESSION).rows("node", columns=["node_id"])
    jobs = store.snapshot(SESSION).rows("job", columns=["entrypoint"])
    functions = {row["func_or_class_name"] for row in rows if len(row["func_or_class_name"] or "") > 5}
    ids = {row["task_id"] for row in rows[:50]} | {node["node_id"] for node in nodes}
    return {
        SESSION,
        f'"{CLUSTER}"',
        f">{CLUSTER}<",
        f"{CLUSTER},",
        *functions,
        *ids,
        *(of["entrypoint"] for of in jobs),
    }


def addresses(route, id):
    """The addresses of a route that ask for a cluster, by whichever of its names."""
    path = re.sub(r"{(\w+)(:path)?}", lambda field: {**FIELDS, "id": id}.get(field[1], "x"), route.path)
    asked = {"id": id, "name": CLUSTER if id != FAKE else "nothing", "word": id}
    return [path, *(f"{path}?{query.format(**asked)}" for query in QUERIES.get(route.path, []))]


def shown(answer, *ids):
    """An answer without what was asked, and without times."""
    text = CHANGING.sub("", answer.text)
    for id in ids:
        text = text.replace(id, "ID")
    headers = {k: v for k, v in answer.headers.items() if k not in ("content-length", "date", "location")}
    return answer.status_code, headers, text


async def test_no_route_tells_of_a_cluster_that_may_not_be_read(served, traces):
    routes = [route for route in served.routes if not isinstance(route, NamedWebSocketRoute)]
    seen = 0
    async with client_of(served, "token-of-others") as others, client_of(served, "token-of-all") as all_:
        for route, accept in product(routes, ("*/*", "text/html")):
            post = route.declared.method == "POST"
            for real, fake in zip(addresses(route, SESSION), addresses(route, FAKE), strict=True):
                if real == "/metrics" or "/live" in real:
                    continue
                answer = await others.request("POST" if post else "GET", real, headers={"Accept": accept})
                # what was asked for may be said again, just as of what is not there
                echoed = {trace for trace in traces if trace.strip('"><,') in real}
                assert not {trace for trace in traces - echoed if trace in answer.text}, real
                not_there = await others.request("POST" if post else "GET", fake, headers={"Accept": accept})
                assert shown(answer, SESSION, CLUSTER) == shown(not_there, FAKE, "nothing"), real
                if accept == "*/*" and not post:
                    known = await all_.get(real)
                    seen += known.status_code == 200 and any(trace in known.text for trace in traces)
    # the words are such that they would be found
    assert seen > 60


async def test_what_may_be_read_tells_of_no_other_cluster(made, add, task, dashboard):
    """The same functions and jobs ran in both, and the other one's ran last."""
    failed = {"state_updates": {"error_info": {"error_type": "OUT_OF_MEMORY", "error_message": "no memory"}}}
    for number, name in enumerate(("team-a-mine", "team-b-secret")):
        job = {"submission_job_id": f"job-of-{name}", "status": "FAILED", "entrypoint": "python same.py"}
        of = {"session": f"session_2026-01-0{number + 1}_00-00-00_000000_{name[-6:]}", "cluster": name}
        kind, of_task = task(1, name=f"task-of-{name}")
        add(
            (kind, {**of_task, **failed}), ("EXPORT_SUBMISSION_JOB_EVENT", {**job, "start_time": "1767225600000"}), **of
        )
        made.seal(of["session"])
    (dashboard / "teams.toml").write_text('[[token]]\nname = "a"\ntoken = "token-of-a"\nread = ["team-a-*"]\n')
    served = app(made, ServerConfig(users_file=str(dashboard / "teams.toml"), dashboard=str(dashboard)), take)
    async with client_of(served, "token-of-a") as reader:
        assert "team-a-mine" in (await reader.get("/clusters.json")).text
        assert (await reader.get("/clusters/latest/about")).status_code == 200
        for route, accept in product(served.routes, ("*/*", "text/html")):
            asked = [] if isinstance(route, NamedWebSocketRoute) else addresses(route, "latest")
            for address in asked:
                answer = await reader.get(address, headers={"Accept": accept})
                assert "secret" not in answer.text, address


@pytest.mark.parametrize("id", ["latest", CLUSTER, "13129", SESSION])
async def test_below_a_cluster_all_is_as_if_it_were_not_there(served, id):
    async with client_of(served, "token-of-others") as others:
        for route in served.routes:
            # but for the slash at the end of an address, which is asked for before anything is looked up
            if "{id}" in route.path and not isinstance(route, NamedWebSocketRoute) and route.declared.path:
                [path] = addresses(route, id)
                answer = await others.get(path)
                assert (answer.status_code, path) == (404, path)
                assert f"cluster {id!r}: not in the store; there are none yet" in answer.text


async def follow(served, path):
    """The messages that a WebSocket is answered with."""
    messages = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        messages.append(message)

    headers = [(b"host", b"history"), (b"authorization", b"Bearer token-of-others")]
    path, _, query = path.partition("?")
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    scope |= {"headers": headers, "scheme": "ws", "client": ("127.0.0.1", 1), "server": ("history", 80)}
    await served(scope | {"subprotocols": [], "extensions": {"websocket.http.response": {}}}, receive, send)
    return messages


async def test_websockets_and_streams_tell_nothing(served):
    answers: dict[str, list[tuple[int, str]]] = {SESSION: [], FAKE: []}
    async with client_of(served, "token-of-others") as others:
        for id in answers:
            for route in served.routes:
                if isinstance(route, NamedWebSocketRoute):
                    [path] = addresses(route, id)
                    start, body = await follow(served, path)
                    answers[id].append((start["status"], body["body"].decode().replace(id, "ID")))
            answer = await others.get(f"/api/clusters/{id}/live")
            answers[id].append((answer.status_code, answer.text.replace(id, "ID")))
    assert answers[SESSION] == answers[FAKE]
    assert {status for status, _ in answers[SESSION]} == {404}


async def test_what_was_answered_to_one_is_not_given_to_another(served, monkeypatch):
    path = f"/clusters/{SESSION}/about"
    now_ns = time.time_ns()  # which stands still: answers of ours are others in the next minute
    monkeypatch.setattr("raytrail.server.application.time.time_ns", lambda: now_ns)
    async with client_of(served, "token-of-ours") as ours, client_of(served, "token-of-others") as others:
        known = await ours.get(path, headers={"Accept": "text/html"})
        assert known.status_code == 200
        assert known.headers["vary"] == "Authorization, Cookie"
        assert known.headers["cache-control"] == "private, no-cache"
        etag = {"If-None-Match": known.headers["etag"], "Accept": "text/html"}
        assert (await ours.get(path, headers=etag)).status_code == 304
        assert (await others.get(path, headers=etag)).status_code == 404
        async with client_of(served, "token-of-all") as all_:
            answer = await all_.get(path, headers=etag)
            assert (answer.status_code, "You are known here by this name" in answer.text) == (200, True)
            assert ">all</a>" in answer.text
            assert ">ours</a>" in known.text


@pytest.mark.parametrize("end", ["%0a", "%0A", "%0d%0a", "%00", "%20", "/", "//", "%2f", "?", ";"])
async def test_no_other_spelling_of_an_address_gives_a_right(served, end):
    async with client_of(served, "token-of-ours") as ours:
        assert (await ours.get(f"/metrics{end}", follow_redirects=True)).status_code in (403, 404)
        assert (await ours.post(f"/ingest{end}", content=b"")).status_code in (307, 403, 404)


async def test_each_token_does_what_it_may(served, store):
    async with client_of(served, "token-of-agents") as agents:
        assert {(await agents.get(path)).status_code for path in ("/", "/metrics", "/none", "/api/clusters")} == {403}
        assert (await agents.get("/")).text == (
            "'agents' may not do this; it takes read = [\"...\"] in server.users_file\n"
        )
    for token in ("token-of-ours", "token-of-all"):
        async with client_of(served, token) as reader:
            assert (await reader.post("/ingest", content=b"")).status_code == 403
            assert (await reader.get("/metrics")).status_code == (200 if token == "token-of-all" else 403)
            assert CLUSTER in (await reader.get("/clusters.json")).text
