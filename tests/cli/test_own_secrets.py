"""A secret in any setting or URL of ours is in no log, error, figure, checkpoint or store."""

import asyncio
import logging
import os
import re
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from lab.ports import free_port

from raytrail.cli import main
from raytrail.config import settings
from raytrail.errors import RaytrailError
from raytrail.pubsub import connect, open_bucket
from raytrail.pubsub.url import shown

SECRET = "hunter2Xy9"
# as people write them who have not heard of percent-encoding; what is before and after the mark must not be told either
AWKWARD = [f"hunter{mark}Xy9" for mark in '#/?@%[]:&=+; \\|^ü"']
SCHEMES = ("file", "kafka", "nats", "redis", "http", "https", "s3", "gs", "az", "ray", "memory", "stdout", "kafkaa")
BUCKETS = ("s3", "gs", "az")
PLACES = (
    "{scheme}://me:{secret}@127.0.0.1:{port}/there",
    "{scheme}://{secret}@127.0.0.1:{port}/there",
    "{scheme}://:{secret}@127.0.0.1:{port}/there",
    "{scheme}://me:{secret}@/there",
    "{scheme}://me:{secret}@127.0.0.1:x/there",
    "{scheme}://me:{secret}@127.0.0.1:{port}",
    "{scheme}://me:{secret}@127.0.0.1:{port}/there#fragment",
    "{scheme}://me:{secret}@127.0.0.1:{port}/there?unknown=1",
    "{scheme}://127.0.0.1:{port}/there?token={secret}",
    "{scheme}://127.0.0.1:{port}/there?password={secret}&password={secret}",
    "{scheme}://127.0.0.1:{port}/there?sasl.password={secret}&sasl.mechanism=none",
    "{scheme}://127.0.0.1:{port}/there?raytrail.token={secret}",
    "{scheme}://there/x?aws_secret_access_key={secret}&aws_secret_no={secret}",
    "{scheme}://there/x?azure_storage_sas_token={secret}",
    "{scheme}://me:{secret}@[::1/there",
    "{scheme}://me:{secret}@host\u2100/there",
)


def holds(text, secret):
    return secret in text or any(part in text for part in re.split(r"\W", secret) if len(part) > 2 and part != "there")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_error_of_a_url_tells_what_is_secret_in_it(scheme, caplog):
    caplog.set_level(logging.DEBUG)
    port, leaks = free_port(), []
    for place in PLACES:
        for secret in [SECRET] if "{secret}&" in place else [SECRET, *AWKWARD]:
            if place.startswith("{scheme}://{secret}") and (":" in secret or ("/" in secret and scheme in BUCKETS)):
                continue  # what is before the mark is a user's name, or a bucket's
            if "={secret}" in place and "&" in secret:
                continue  # what is after it is another setting
            url = place.format(scheme=scheme, secret=secret, port=port)
            for make in (connect, open_bucket):
                try:
                    text = repr(vars(make(url)).get("_shown"))
                except RaytrailError as error:
                    text = str(error)
                if holds(text + shown(url), secret):
                    leaks.append((url, text, shown(url)))
    assert leaks == []
    assert not holds(caplog.text, SECRET)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["kafka", "nats", "redis", "http", "ray", "s3"])
async def test_no_error_of_a_broker_that_is_away_tells_what_is_secret_in_its_url(scheme, caplog, chunk_of_a_task):
    caplog.set_level(logging.DEBUG)
    keys = f"aws_access_key_id=x&aws_secret_access_key={SECRET}"
    query = {"s3": f"timeout_seconds=1&endpoint=http://127.0.0.1:{free_port()}&{keys}"}
    query |= {"http": "raytrail.timeout_seconds=3"}
    where = "there" if scheme in ("s3", "ray") else f"me:{SECRET}@127.0.0.1:{free_port()}"
    path = "0" if scheme == "redis" else "there"
    broker = connect(f"{scheme}://{where}/{path}?{query.get(scheme, 'timeout_seconds=3')}")
    try:
        with pytest.raises(RaytrailError) as caught:
            await asyncio.wait_for(broker.publish(chunk_of_a_task), 60)
    finally:
        await broker.aclose()
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


@pytest.fixture
def chunk_of_a_task(make):
    from tests.cli.conftest import chunk

    return chunk("TASK", make.task(1))


URLS = [f"kafkaa://me:{SECRET}@host/x", f"file://me:{SECRET}@/x", f"http://{SECRET}@[::1/x"]
COMMANDS = [
    *(["agent", "--to", url] for url in URLS),
    *(["history", url] for url in URLS),
    *(["subscribe", url] for url in URLS),
    *(["up", "--to", url] for url in URLS),
    *(["import", url] for url in URLS),
    *(["serve", "--ingest", url] for url in URLS),
    ["run", "--http-events", f"http//ray:{SECRET}@127.0.0.1:1/x", "--", "true"],
    ["env", "--http-events", f"ray:{SECRET}@127.0.0.1:x"],
    ["agent", "--to", "stdout:", "--receiver", f"ray:{SECRET}@127.0.0.1:x", "--receiver-token", SECRET],
    ["serve", "--token", SECRET, "--host", "256.1.1.1"],
    ["serve", "--token", SECRET, "--ingest-token", SECRET, "--ingest", "on"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_tells_what_is_secret_in_what_it_was_given(command, tmp_path):
    environ = {"RAYTRAIL_TAIL_STATE_DIR": str(tmp_path), "RAYTRAIL_STORE_DIR": str(tmp_path / "store")}
    done = CliRunner().invoke(main, command, env=environ)
    assert done.exit_code != 0
    assert SECRET not in done.output


@pytest.mark.parametrize("form", ["table", "json"])
def test_settings_tell_no_secret(form, tmp_path):
    texts = [setting for setting in settings() if setting.type is str]
    environ = {setting.variable: SECRET for setting in texts if setting.name.endswith(("token", "password", "secret"))}
    environ |= {
        setting.variable: f"kafka://me:{SECRET}@host/x?sasl.password={SECRET}"
        for setting in texts
        if setting.name == "to"
    }
    environ |= {
        setting.variable: f"http://{SECRET}@host/x?token={SECRET}" for setting in texts if setting.name == "ingest"
    }
    assert len(environ) >= 5
    file = tmp_path / "raytrail.toml"
    file.write_text(f'[destinations.lake]\nto = "kafka://me:{SECRET}@host/x"\n')
    done = CliRunner().invoke(main, ["settings", "--format", form, "--config", str(file)], env=environ)
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    assert "***" in done.output


@pytest.mark.parametrize(
    "wrong",
    [
        {"RAYTRAIL_SERVER_TOKN": SECRET},
        {"RAYTRAIL_SERVER_PASSWORD": SECRET},
        {"RAYTRAIL_AGENT_TOO": f"kafka://me:{SECRET}@host/x"},
        {"RAYTRAIL_SOURCES_RECEIVER_TOKENS": SECRET},
        {"RAYTRAIL_TAIL_EVENTS_PER_SECOND": f"TASK=kafka://me:{SECRET}@host/x"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_variable_is_told_without_its_value(wrong):
    done = CliRunner().invoke(main, ["settings"], env=wrong)
    assert SECRET not in done.output


@pytest.mark.parametrize(
    "text",
    [
        f'[server]\ntoken = "{SECRET}" x',
        f'[server]\ntokn = "{SECRET}"',
        f'[server]\ntoken = ["{SECRET}"]',
        f'[destinations.lake]\nto = "kafkaa://me:{SECRET}@host/x"\n',
        f'[destinations.lake]\ntoo = "kafka://me:{SECRET}@host/x"\n',
        f'[destinations."{SECRET}"]\nto = "x"\n',
        f'[agent]\nto = "file://me:{SECRET}@/x"\n',
    ],
)
def test_a_wrong_settings_file_is_told_without_its_values(text, tmp_path):
    file = tmp_path / "raytrail.toml"
    file.write_text(text)
    environ = {"RAYTRAIL_TAIL_STATE_DIR": str(tmp_path / "state")}
    done = CliRunner().invoke(main, ["agent", "--config", str(file)], env=environ)
    assert done.exit_code != 0
    if SECRET not in text.partition("]")[0]:  # the name of a table is no place for one
        assert SECRET not in done.output


RUNNING = """
[tail]
cluster = "c"
state_dir = "{here}/state"
sweep_seconds = 0.2
[agent]
listen = "127.0.0.1:0"
report_seconds = 0.2
retry_seconds = 0.1
[sources]
receiver = "127.0.0.1:0"
receiver_token = "{secret}"
[destinations.kept]
to = "file://{here}/events"
[destinations.away]
to = "http://me:{secret}@127.0.0.1:{port}/x?token={secret}"
drain_seconds = 0.1
[destinations.refused]
to = "redis://{secret}@127.0.0.1:{port}/0"
drain_seconds = 0.1
"""


@pytest.mark.slow
def test_an_agent_tells_and_keeps_no_secret_of_its_settings(start, ray_dir, tmp_path, write, make, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_HTTP_TOKEN", SECRET)
    file = tmp_path / "raytrail.toml"
    file.write_text(RUNNING.format(here=tmp_path, secret=SECRET, port=free_port()))
    write("TASK", make.task(1))
    running = start("-v", "agent", "--config", file, "--temp-dir", ray_dir)
    at = re.compile(r"metrics on (http://127\.0\.0\.1:\d+)/metrics\n")
    url = running.wait_for(lambda: at.search(running.printed["err"]))[1]
    running.wait_for(lambda: 'failed_chunks_total{destination="away"}' in httpx.get(f"{url}/metrics").text)
    pages = [httpx.get(f"{url}{path}").text for path in ("/metrics", "/healthz")]
    assert SECRET not in "".join(pages)
    running.stop()
    assert SECRET not in running.printed["err"] + running.printed["out"]
    assert files_with_it(tmp_path) == [file]


SERVING = """
[tail]
state_dir = "{here}/state"
[agent]
to = "file://{here}/events"
[store]
dir = "{here}/store"
[server]
port = 0
token = "{secret}"
ingest = "on"
ingest_token = "{secret}"
"""


@pytest.mark.slow
def test_a_server_tells_and_keeps_no_secret_of_its_settings(start, ray_dir, tmp_path, write, make):
    file = tmp_path / "raytrail.toml"
    file.write_text(SERVING.format(here=tmp_path, secret=SECRET))
    write("TASK", make.task(1))
    running = start("-v", "up", "--config", file, "--temp-dir", ray_dir)
    at = re.compile(r"serving on (http://127\.0\.0\.1:\d+)")
    url = running.wait_for(lambda: at.search(running.printed["err"]))[1]
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {SECRET}"}) as client:
        running.wait_for(lambda: client.get("/api/clusters").json())
        pages = [client.get(path).text for path in ("/", "/api/clusters", "/healthz", "/nothing")]
        posted = client.post("/login", data={"token": SECRET})
        pages += [posted.text, str(posted.headers), httpx.get(f"{url}/").text, httpx.get(f"{url}/?token={SECRET}").text]
        pages += [client.post("/ingest", content=b"{", headers={"content-encoding": "gzip"}).text]
    assert SECRET not in "".join(pages)
    running.stop()
    assert SECRET not in running.printed["err"] + running.printed["out"]
    assert files_with_it(tmp_path) == [file]


def files_with_it(directory):
    """Return the files that hold the secret, in their names too; the checkpoint, the store and the broker are below."""
    files = [Path(root) / name for root, _, names in os.walk(directory) for name in names]
    assert len(files) > 5
    return [path for path in files if SECRET.encode() in path.read_bytes() or SECRET in path.name]
