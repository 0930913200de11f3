"""Who may ask."""

import asyncio
import ssl
import subprocess

import httpx
import pytest

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server import app, serve
from raytrail.server.auth import check

pytestmark = pytest.mark.anyio

TOKEN = "a long secret"


def connected(store, *, check_host=False, base_url="http://history", take=None, **settings):
    served = app(store, ServerConfig(**settings), take, check_host=check_host)
    return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url=base_url)


@pytest.mark.parametrize("path", ["/", "/api/clusters", "/clusters/varied/", "/clusters/varied/api/v0/tasks", "/none"])
async def test_nothing_is_said_without_the_token(path, store):
    async with connected(store, token=TOKEN) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Cookie": f"raytrail={TOKEN}"},
        ):
            answer = await client.get(path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "varied" not in answer.text
        known = await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert known.status_code == (404 if path == "/none" else 200)
        assert (await client.get("/healthz")).text == "ok\n"


async def test_a_browser_is_asked_once_and_keeps_no_token(store):
    async with connected(store, token=TOKEN) as client:
        page = await client.get("/clusters/varied/", headers={"accept": "text/html"})
        assert (page.status_code, "asks for a token" in page.text) == (401, True)
        assert "form-action 'self'" in page.headers["content-security-policy"]
        wrong = await client.post("/login", data={"token": "wrong"})
        assert (wrong.status_code, "that is not the token" in wrong.text) == (401, True)
        assert "set-cookie" not in wrong.headers
        right = await client.post("/login", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert TOKEN not in cookie
        assert (await client.get("/clusters/varied/")).status_code == 200


async def test_the_cookie_of_another_token_is_none(store):
    async with connected(store, token="another") as client:
        cookie = (await client.post("/login", data={"token": "another"})).cookies["raytrail"]
    async with connected(store, token=TOKEN) as client:
        assert (await client.get("/", headers={"Cookie": f"raytrail={cookie}"})).status_code == 401


def guesses(client):
    return [
        lambda guess: client.post("/login", data={"token": guess}),
        lambda guess: client.get("/api/clusters", headers={"Authorization": f"Bearer {guess}"}),
        lambda guess: client.get("/", headers={"Cookie": f"raytrail={guess}", "Accept": "text/html"}),
        lambda guess: client.post("/ingest", headers={"Authorization": f"Bearer {guess}"}),
    ]


@pytest.mark.parametrize("way", range(4))
async def test_a_token_is_not_guessed_without_limit(way, store, caplog):
    settings = {"token": TOKEN, "ingest_token": "other", "take": lambda *_: None, "wrong_tokens_per_minute": 5}
    async with connected(store, **settings) as client:
        answers = [await guesses(client)[way](f"guess-{number}") for number in range(8)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
        assert all(1 <= int(answer.headers["retry-after"]) <= 12 for answer in answers[5:])
        # ... in whichever other way it is tried
        assert {(await guess("another")).status_code for guess in guesses(client)} == {429}
    assert caplog.text.count("many wrong tokens come from 127.0.0.1; see who asks from there") == 1


async def test_the_right_token_is_let_in_whatever_others_tried_from_its_address(store):
    async with connected(store, token=TOKEN, wrong_tokens_per_minute=1) as client:
        for _ in range(5):
            await client.post("/login", data={"token": "wrong"})
        assert (await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert (await client.post("/login", data={"token": TOKEN})).status_code == 303
        assert (await client.get("/")).status_code == 200
        client.cookies.clear()
        page = await client.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, "asks for a token" in page.text) == (401, True)


async def test_a_form_without_end_is_not_read(store):
    async def endless():
        while True:
            yield b"x" * 65536

    async with connected(store, token=TOKEN) as client:
        assert (await client.post("/login", content=endless())).status_code == 401


async def test_who_may_post_events_need_not_be_allowed_to_read(store):
    taken = []

    async def take(_, body):
        taken.append(body)

    async with connected(store, take=take, token=TOKEN, ingest_token="other") as client:
        bearer = {"Authorization": "Bearer other"}
        assert (await client.get("/", headers=bearer)).status_code == 401
        assert (await client.post("/ingest", headers=bearer, content=b"lines")).status_code == 204
    async with connected(store, take=take, token=TOKEN) as client:
        assert (await client.post("/ingest", content=b"more lines")).status_code == 401
    assert taken == [b"lines"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://localhost:8365", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:8365", 200),
        ("http://history.example:8365", 200),
        ("http://evil.example", 421),
    ],
)
async def test_without_a_token_only_its_own_names_are_answered(url, status, store):
    async with connected(store, check_host=True, base_url=url, hosts=("history.example",)) as client:
        answer = await client.get("/api/clusters")
        assert answer.status_code == status
    async with connected(store, check_host=True, base_url=url, token=TOKEN) as client:
        assert (await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.2", "history.example"])
def test_other_machines_are_served_with_a_token_only(host):
    with pytest.raises(ConfigError, match=r"server\.token is not set"):
        check(ServerConfig(host=host))
    check(ServerConfig(host=host, token=TOKEN))
    check(ServerConfig(host=host, open=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_this_machine_needs_none(host):
    check(ServerConfig(host=host))


def test_tls_without_its_files_does_not_start(tmp_path):
    with pytest.raises(ConfigError, match="set both"):
        check(ServerConfig(tls_key="key.pem"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="name files in PEM"):
        check(ServerConfig(tls_certificate=str(tmp_path / "bad.pem"), tls_key=str(tmp_path / "none.pem")))


@pytest.fixture
def certificate(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_https_is_served(store, certificate):
    url, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    config = ServerConfig(port=0, tls_certificate=str(certificate[0]), tls_key=str(certificate[1]))
    serving = asyncio.create_task(serve(store, config, ready=url.set_result, stop=stop))
    try:
        at = await asyncio.wait_for(url, 30)
        assert at.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=certificate[0])) as client:
            answer = await client.get(at.replace("127.0.0.1", "localhost") + "/healthz")
        assert answer.text == "ok\n"
    finally:
        stop.set()
        await serving
