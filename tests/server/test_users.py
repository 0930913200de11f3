"""Whom a server knows: several tokens, a proxy's users, and what is in its log of them."""

import hashlib
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import anyio
import httpx
import pytest
from tests.serving import listening

from raytrail.config import ServerConfig
from raytrail.config.users import fits, read_users
from raytrail.errors import ConfigError
from raytrail.server import app
from raytrail.server.auth import check
from raytrail.server.users import Users

pytestmark = pytest.mark.anyio

SESSION = "session_2026-11-23_07-40-30_867494_13129"
TOKEN = "token-of-a-reader"
PROXY = """
[[user]]
user = "*@example.com"
read = ["nothing-*"]
[[user]]
group = "team-v"
read = ["var*"]
"""


def token_of(name, token, rights='read = ["*"]', form="token"):
    return f'[[token]]\nname = "{name}"\n{form} = "{token}"\n{rights}\n'


@pytest.fixture
def users_file(tmp_path):
    file = tmp_path / "users.toml"
    file.write_text(token_of("reader", TOKEN))
    return file


def connected(store, users_file, take=None, **settings):
    served = app(store, ServerConfig(users_file=str(users_file), **settings), take)
    return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://history")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("form", ["token", "sha256", "token_file"])
async def test_a_token_is_given_as_text_digest_or_file(form, store, users_file):
    value = {
        "token": TOKEN,
        "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "token_file": "secret",
    }[form]
    (users_file.parent / "secret").write_text(f"{TOKEN}\n")
    users_file.write_text(token_of("reader", value, form=form))
    async with connected(store, users_file) as client:
        for path in ("/", "/api/clusters"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=bearer("wrong"))).status_code == 401
            assert (await client.get(path, headers=bearer(value))).status_code == (200 if form == "token" else 401)
            assert (await client.get(path, headers=bearer(TOKEN))).status_code == 200
        assert (await client.post("/login", data={"token": TOKEN})).status_code == 303
        page = await client.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, ">reader</a>" in page.text) == (200, True)


async def test_somebody_who_is_known_may_give_another_token(store, users_file):
    users_file.write_text(token_of("reader", TOKEN) + token_of("other", "other-token"))
    async with connected(store, users_file) as client:
        for name, token in (("reader", TOKEN), ("other", "other-token")):
            form = await client.get("/login", headers={"Accept": "text/html"})
            assert (form.status_code, 'name="token"' in form.text) == (200, True)
            await client.post("/login", data={"token": token})
            page = await client.get("/", headers={"Accept": "text/html"})
            assert f'href="/login">{name}</a>' in page.text


async def test_the_digest_of_a_token_lets_nobody_in(store, users_file):
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    users_file.write_text(token_of("reader", digest, form="sha256"))
    async with connected(store, users_file) as client:
        for cookie in (digest, hashlib.sha256(digest.encode()).hexdigest(), ""):
            assert (await client.get("/", headers={"Cookie": f"raytrail={cookie}"})).status_code == 401


async def test_the_token_of_the_settings_reads_all_beside_the_file(store, users_file):
    async with connected(store, users_file, token="of-the-settings") as client:
        assert (await client.get("/metrics", headers=bearer("of-the-settings"))).status_code == 200


async def test_tokens_that_write_post_and_do_nothing_else(store, users_file):
    taken = []

    async def take(_, body):
        taken.append(body)

    users_file.write_text(token_of("reader", TOKEN) + token_of("agents", "of-agents", "write = true"))
    async with connected(store, users_file, take, ingest_token="of-old-agents") as client:
        for token in ("of-agents", "of-old-agents"):
            assert (await client.post("/ingest", headers=bearer(token), content=b"a")).status_code == 204
            assert (await client.post("/ingest", auth=("any", token), content=b"a")).status_code == 204
            assert (await client.get("/", headers=bearer(token))).status_code == 403
            assert (await client.post("/login", data={"token": token})).status_code == 403
        assert (await client.post("/ingest", headers=bearer(TOKEN), content=b"b")).status_code == 403
        assert (await client.post("/ingest", content=b"b")).status_code == 401
        await client.post("/login", data={"token": TOKEN})
        assert (await client.post("/ingest", content=b"b")).status_code == 401
    assert taken == [b"a"] * 4


async def test_the_file_is_read_again_when_it_changes(store, users_file, caplog, monkeypatch):
    monkeypatch.setattr("raytrail.server.users.LOOK_SECONDS", 0.05)
    async with connected(store, users_file) as client:

        async def until(token, status):
            with anyio.fail_after(60):
                while (await client.get("/", headers=bearer(token))).status_code != status:  # noqa: ASYNC110 (a file has no event)
                    await anyio.sleep(0.1)

        await until(TOKEN, 200)
        users_file.write_text(token_of("another", "another-token"))
        await until("another-token", 200)
        await until(TOKEN, 401)
        users_file.write_text(token_of("another", "missing", form="token_file"))
        with anyio.fail_after(60):
            while "stays in force" not in caplog.text:
                await until("another-token", 200)
                await anyio.sleep(0.1)
        # what was wrong may be a file that nothing read before names
        (users_file.parent / "missing").write_text("in-a-file")
        await until("in-a-file", 200)
        await until("another-token", 401)
    assert caplog.text.count("stays in force") == 1


async def test_who_follows_a_cluster_is_asked_anew_when_the_file_changes(made, add, task, users_file):
    add(task(1))
    with listening(made, ServerConfig(port=0, users_file=str(users_file))) as url:
        async with (
            httpx.AsyncClient(timeout=60, headers=bearer(TOKEN)) as client,
            client.stream("GET", f"{url}/api/clusters/latest/live") as answer,
        ):
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("retry")
            users_file.write_text(token_of("another", "another-token"))
            assert not [line async for line in lines if line.strip(":")]
            assert (await client.get(f"{url}/api/clusters/latest/live")).status_code == 401


def test_a_token_that_can_be_guessed_is_warned_of(users_file, caplog):
    users_file.write_text(token_of("short", "easy") + token_of("long", "x" * 32))
    Users(ServerConfig(users_file=str(users_file)))
    assert caplog.messages == [
        f"{users_file}: token 'short' is short enough to be guessed; give it 32 random characters"
    ]


def test_a_file_that_stays_wrong_is_told_once(users_file, caplog):
    now = [0.0]
    users = Users(ServerConfig(users_file=str(users_file)), clock=lambda: now[0])
    users_file.write_text("[[token]]")
    for _ in range(5):
        now[0] += 2
        users.look_again()
        assert users.by_token(TOKEN)
    assert caplog.text.count("stays in force") == 1


def test_a_token_that_changes_while_its_file_is_read_is_read_again(users_file, monkeypatch):
    now, secret = [0.0], users_file.parent / "secret"
    secret.write_text("a")
    users_file.write_text(token_of("reader", "secret", form="token_file"))

    def read_and_change(path):
        read = read_users(path)
        secret.write_text(f"{secret.read_text()}a")
        return read

    with monkeypatch.context() as patch:
        patch.setattr("raytrail.server.users.read_users", read_and_change)
        users = Users(ServerConfig(users_file=str(users_file)), clock=lambda: now[0])
    now[0] += 2
    users.look_again()
    assert users.by_token(secret.read_text())
    readings = users.readings
    now[0] += 2
    users.look_again()
    assert users.readings == readings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[token", "Expected"),
        (token_of("a", "~nobody-has-this-name/a", form="token_file"), "~nobody-has-this-name/a: No such file"),
        (token_of("a", "a\\u0000", form="token_file"), "embedded null byte"),
        ("[[tokens]]", "unknown field `tokens`"),
        ('[[token]]\nname = ""\n', "length >= 1"),
        (token_of("a", "x", form="sha256"), "matching regex"),
        (token_of("a", hashlib.sha256(b"").hexdigest(), form="sha256"), "token 'a': sha256 is that of nothing"),
        ('[[token]]\nname = "a"\nread = ["*"]\n', "token 'a' has none or several of token, sha256 and token_file"),
        (token_of("a", "x", rights=""), "token 'a' has no rights; give read"),
        (token_of("a", "none", form="token_file"), "none: No such file or directory; create it"),
        (token_of("a", "same") + token_of("b", "same"), "tokens 'a' and 'b' are the same"),
        ('[[user]]\nread = ["*"]\n', "has both user and group, or none"),
    ],
)
def test_a_wrong_file_stops_the_start(store, users_file, text, message):
    users_file.write_text(text)
    with pytest.raises(ConfigError, match=r"server\.users_file") as error:
        app(store, ServerConfig(users_file=str(users_file)))
    assert message in str(error.value)


def test_a_file_that_is_not_there_stops_the_start(tmp_path):
    with pytest.raises(ConfigError) as error:
        read_users(tmp_path / "none.toml")
    assert str(error.value) == (
        f"server.users_file: {tmp_path}/none.toml: No such file or directory; create it, or mend its path"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user_header": "X-User"}, "server.user_header 'X-User' needs server.trusted_proxies"),
        ({"groups_header": "X-Groups"}, "server.groups_header 'X-Groups' is set and server.user_header is not"),
        ({"trusted_proxies": ("proxy",)}, "server.trusted_proxies 'proxy': 'proxy' does not appear to be an"),
        ({"trusted_proxies": ("0.0.0.0/0",)}, "server.trusted_proxies '0.0.0.0/0' is everybody; name the proxies"),
    ],
)
def test_proxies_that_make_no_sense_stop_the_start(settings, message):
    with pytest.raises(ConfigError) as error:
        check(ServerConfig(**settings))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("pattern", "text", "fit"),
    [
        ("*", "", True),
        ("team-?", "team-a", True),
        ("team-?", "team-ab", False),
        ("a.c", "abc", False),
        ("[a]", "a", False),
    ],
)
def test_a_pattern_has_two_wildcards(pattern, text, fit):
    assert fits(pattern, text) == fit


# -- behind a proxy


@pytest.fixture(scope="module")
def behind(store, tmp_path_factory):
    """The port of a server that takes the word of 127.0.0.2 for who asks."""
    file = tmp_path_factory.mktemp("behind") / "users.toml"
    file.write_text(PROXY + token_of("reader", TOKEN))
    log = file.parent / "access.log"
    config = ServerConfig(
        port=0,
        users_file=str(file),
        trusted_proxies=("127.0.0.2",),
        user_header="X-Forwarded-User",
        groups_header="X-Forwarded-Groups",
        access_log=str(log),
    )
    with listening(store, config) as url:
        yield url, log


@contextmanager
def client_at(behind, address):
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(transport=transport, base_url=behind[0], timeout=30) as client:
        yield client


def test_only_a_trusted_proxy_is_believed(behind):
    named = [("X-Forwarded-User", "ada@example.com"), ("X-Forwarded-Groups", "team-x, team-v")]
    with client_at(behind, "127.0.0.2") as proxy:
        answer = proxy.get("/clusters/latest/about", headers=[*named, ("Accept", "text/html")])
        assert (answer.status_code, ">ada@example.com</a>" in answer.text) == (200, True)
        assert answer.headers["vary"] == "Authorization, Cookie, X-Forwarded-User, X-Forwarded-Groups"
        # who is in no group that may reads nothing of it
        assert proxy.get(f"/clusters/{SESSION}/about", headers=named[:1]).status_code == 404
        stranger = proxy.get("/", headers={"X-Forwarded-User": "eve@elsewhere.org"})
        assert (stranger.status_code, stranger.text) == (
            403,
            "'eve@elsewhere.org' may not do this; it takes read = [\"...\"] in server.users_file\n",
        )
        assert proxy.get("/metrics", headers=named).status_code == 403
    with client_at(behind, "127.0.0.1") as other:
        assert other.get("/", headers=named).status_code == 401
        # nor does it help to say that one is the proxy
        assert other.get("/", headers=[*named, ("X-Forwarded-For", "127.0.0.2")]).status_code == 401
        assert other.get("/", headers=[*named, ("Authorization", f"Bearer {TOKEN}")]).status_code == 200


async def test_a_proxy_is_known_by_its_address_of_ipv4_on_a_socket_for_both(store, users_file):
    users_file.write_text(PROXY)
    config = ServerConfig(users_file=str(users_file), trusted_proxies=("10.1.0.0/16",), user_header="X-User")
    served = app(store, config)
    for address, status in (("::ffff:10.1.2.3", 200), ("::ffff:10.2.2.3", 401), ("10.1.2.3", 200), ("", 401)):
        transport = httpx.ASGITransport(served, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
            assert (await client.get("/", headers={"X-User": "ada@example.com"})).status_code == status


def test_a_user_beside_the_proxys_is_refused(behind):
    for header in ("X-Forwarded-User", "X-Forwarded-Groups"):
        named = [("X-Forwarded-User", "ada@example.com"), ("X-Forwarded-Groups", "team-v"), (header, "other")]
        with client_at(behind, "127.0.0.2") as proxy:
            assert proxy.get("/", headers=named).status_code == 400


def test_a_token_goes_through_the_proxy_where_it_names_nobody(behind):
    with client_at(behind, "127.0.0.2") as proxy:
        assert proxy.get("/", headers=bearer(TOKEN)).status_code == 200
        assert proxy.get("/", headers={"X-Forwarded-User": ""}).status_code == 401


# -- the access log


def _lines(log):
    return log.read_text().splitlines() if log.exists() else []


def line_of(log, path):
    """The columns of the only line with a path. It is written once the answer is, which may have been read by then."""
    deadline = time.monotonic() + 30
    while not (lines := [line for line in _lines(log) if f" {path} " in line]):
        assert time.monotonic() < deadline, _lines(log)
        time.sleep(0.02)
    [line] = lines
    return line.split()[-7:]


def test_each_request_is_a_line(behind):
    _, log = behind
    with client_at(behind, "127.0.0.2") as proxy:
        proxy.get("/clusters.json?q=a%0ab", headers=bearer(TOKEN) | {"X-Forwarded-For": "192.0.2.7"})
        proxy.get("/none", headers={"X-Forwarded-User": b"a b\\\x1b[31m".decode("latin-1")})
    first, second = line_of(log, "/clusters.json?q=a%0ab"), line_of(log, "/none")
    assert first[:5] == ["reader", "192.0.2.7", "GET", "/clusters.json?q=a%0ab", "200"]
    assert int(first[5]) > 100
    assert float(first[6]) > 0
    assert second[:6] == [r"a\x20b\\\x1b[31m", "127.0.0.2", "GET", "/none", "403", second[5]]


def test_the_log_of_a_server_process_masks_secrets_and_is_json(tmp_path, store):
    program = [sys.executable, "-m", "raytrail", "serve", "--port", "0", "--store", str(store.root)]
    program += ["--log-format", "json", "--access-log", "on", "--dashboard", "off"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = next(line for line in server.stderr if "serving on" in line).split("serving on ")[1].split('"')[0]
            answer = httpx.get(f"{url.strip()}/clusters/none/about?token=abcdefgh12345&q=1", timeout=60)
            line = next(line for line in server.stderr if "clusters/none" in line)
        finally:
            server.terminate()
    record = json.loads(line)
    assert record | {"time": "", "message": "", "duration_ms": 0} == {
        "time": "",
        "level": "INFO",
        "logger": "raytrail.access",
        "message": "",
        "user": "-",
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/clusters/none/about?token=*************&q=1",
        "status": 404,
        "bytes": len(answer.content),
        "duration_ms": 0,
    }


def test_a_log_that_cannot_be_written_stops_the_start(store, tmp_path):
    with pytest.raises(ConfigError) as error:
        app(store, ServerConfig(access_log=f"{tmp_path}/none/access.log"))
    assert str(error.value) == (
        f"server.access_log '{tmp_path}/none/access.log': No such file or directory; write on, off, or a file that can "
        "be written"
    )


def test_no_column_of_a_line_is_longer_than_need_be(store, tmp_path):
    log = tmp_path / "access.log"
    with listening(store, ServerConfig(port=0, access_log=str(log))) as url:
        httpx.request("LONG" * 5_000, f"{url}/a", headers={"X-Forwarded-For": "long" * 5_000}, timeout=60)
        client, method, *_ = line_of(log, "/a")[1:]
    assert [client, method] == [f"{'long' * 500}...", f"{'LONG' * 500}..."]


def test_a_log_that_is_moved_stays_private_and_one_that_is_lost_costs_no_answer(store, tmp_path, caplog):
    directory = tmp_path / "logs"
    directory.mkdir()
    log = directory / "access.log"
    with listening(store, ServerConfig(port=0, access_log=str(log))) as url, httpx.Client(timeout=60) as client:
        client.get(f"{url}/before")
        line_of(log, "/before")
        log.rename(directory / "old.log")
        client.get(f"{url}/after")
        line_of(log, "/after")
        assert log.stat().st_mode & 0o007 == 0
        directory.rename(tmp_path / "moved")
        assert [client.get(f"{url}/healthz").status_code for _ in range(5)] == [200] * 5
        (tmp_path / "moved").rename(directory)
        client.get(f"{url}/again")
        line_of(log, "/again")
    assert caplog.messages == [
        f"server.access_log: [Errno 2] No such file or directory: '{log}'; lines are lost until it can be written"
    ]
