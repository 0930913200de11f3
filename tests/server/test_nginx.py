"""A real nginx before the server, set up as the guide says, with one in oauth2-proxy's place that it asks."""

import asyncio
import logging
import os
import re
import shutil
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from lab.ports import HOST, free_port
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.serving import listening, served

from raytrail.config import ServerConfig

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "users-and-rights.md"
USERS = """
[[user]]
group = "readers"
read = ["*"]
[[token]]
name = "agents"
token = "token-of-the-agents"
write = true
"""
PEOPLE = {"ann": ("ann@example.com", "readers"), "eve": ("eve@example.com", "others")}
"""By cookie, who has logged in: address and groups."""
FORGED = {"X-Auth-Request-Email": "ann@example.com", "X-Auth-Request-Groups": "readers"}
START_SECONDS = 60


def asked(request):
    """Answer as oauth2-proxy's /oauth2/auth does with `set_xauthrequest`."""
    person = PEOPLE.get(request.cookies.get("user"))
    if person is None:
        return PlainTextResponse("", 401)
    return PlainTextResponse("", 202, {"X-Auth-Request-Email": person[0], "X-Auth-Request-Groups": person[1]})


def sign_in(request):
    return PlainTextResponse(f"sign in, then to {request.headers['x-auth-request-redirect']}")


@asynccontextmanager
async def nginx(directory, history, proxy):
    """Run the nginx of the guide, without TLS; yields its address."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no nginx: run `make brokers` as root")
    [block] = re.findall(r"^```text\n(server \{\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    port = free_port()
    block = re.sub(r"^ *ssl_.*\n", "", block, flags=re.MULTILINE)
    for old, new in {
        "listen 443 ssl;": f"listen {HOST}:{port};",
        "http://127.0.0.1:8365": history,
        "http://127.0.0.1:4180": f"http://{HOST}:{proxy}",
    }.items():
        assert old in block
        block = block.replace(old, new)
    places = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {directory}/pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\nclient_body_temp_path {directory}/body;\n{places}{block}}}\n"
    )
    log = directory / "nginx.log"
    with log.open("wb") as file:
        command = [program, "-e", "stderr", "-c", config, "-p", directory]
        process = subprocess.Popen(command, stdout=file, stderr=file)  # noqa: ASYNC220 (it returns at once)
    try:
        deadline = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    await client.get(f"http://{HOST}:{port}/")
                except httpx.ConnectError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                else:
                    break
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@asynccontextmanager
async def guarded(store, tmp_path):
    """Serve a store behind that nginx; yields a client of it."""
    (tmp_path / "users.toml").write_text(USERS)
    config = ServerConfig(
        port=0,
        users_file=str(tmp_path / "users.toml"),
        trusted_proxies=(HOST,),
        user_header="X-Auth-Request-Email",
        groups_header="X-Auth-Request-Groups",
        access_log="on",
    )
    directory = tmp_path / "nginx"
    directory.mkdir()
    routes = [Route("/oauth2/auth", asked), Route("/oauth2/sign_in", sign_in)]
    with listening(store, config) as url:
        async with (
            served(*routes) as proxy,
            nginx(directory, url.rstrip("/"), proxy) as address,
            httpx.AsyncClient(base_url=address, timeout=60) as client,
        ):
            yield client


async def test_who_has_logged_in_reads_what_is_theirs_under_their_name(made, add, task, tmp_path, caplog):
    caplog.set_level(logging.INFO, "raytrail.access")
    add(task(1))
    async with guarded(made, tmp_path) as client:
        answers = {name: await client.get("/api/clusters", headers={"Cookie": f"user={name}"}) for name in PEOPLE}
        assert {name: answer.status_code for name, answer in answers.items()} == {"ann": 200, "eve": 403}
    logged = [record.getMessage() for record in caplog.records if record.name == "raytrail.access"]
    assert [re.findall(r"^(\S+) \S+ GET /api/clusters (\d+) ", line) for line in logged] == [
        [("ann@example.com", "200")],
        [("eve@example.com", "403")],
    ]


async def test_nobody_is_whom_a_client_says_it_is(made, add, task, tmp_path, caplog):
    caplog.set_level(logging.INFO, "raytrail.access")
    add(task(1))
    async with guarded(made, tmp_path) as client:
        answer = await client.get("/api/clusters", headers=FORGED)
        assert (answer.status_code, answer.text) == (401, "sign in, then to /api/clusters")
        assert (await client.get("/api/clusters", headers={**FORGED, "Cookie": "user=eve"})).status_code == 403
        # the one path without a login takes a token, and no header
        assert (await client.post("/ingest", headers=FORGED)).status_code == 401
        token = {**FORGED, "Authorization": "Bearer token-of-the-agents"}
        # its server takes nothing: whoever hears so is known
        assert (await client.post("/ingest", headers=token)).status_code == 501
    assert caplog.records
    assert "ann@example.com" not in caplog.text


async def test_a_living_page_hears_through_it_of_what_is_folded_and_of_the_end(made, add, task, tmp_path):
    add(task(1))
    async with (
        guarded(made, tmp_path) as client,
        client.stream("GET", "/api/clusters/latest/live", headers={"Cookie": "user=ann"}) as answer,
    ):
        with anyio.fail_after(60):
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("retry")
            await asyncio.to_thread(add, task(2))
            while await anext(lines) != "event: changed":
                pass
            [session] = [cluster.session for cluster in made.clusters()]
            await asyncio.to_thread(made.seal, session)
            assert "event: ended" in [line async for line in lines]
