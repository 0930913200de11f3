"""An agent that takes what Ray's HTTP export posts; with a real Ray: tests/sources."""

import asyncio
import json
import re
import urllib.error
import urllib.request

import pytest
from lab.ports import free_port
from tests.sources.posted import SESSION, event

from raytrail.agent.receiving import Receiving, probed
from raytrail.config import SourcesConfig
from raytrail.errors import ConfigError

pytestmark = pytest.mark.slow

NODE = {"nodeId": "Tg==", "nodeIpAddress": "192.0.2.7", "startTimestamp": "2026-11-23T08:08:50.899Z"}


def posted(id):
    return event("NODE_DEFINITION_EVENT", "nodeDefinitionEvent", NODE, eventId=id)


def post(listen, *events, token=""):
    request = urllib.request.Request(f"http://{listen}/v1/events", json.dumps(events).encode())
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def receiving(tmp_path):
    """Have a receiver by some settings, within one event loop."""

    async def receiving(*steps):
        receiver = Receiving()
        try:
            for sources, check in steps:
                try:
                    await receiver.configure(SourcesConfig(**sources), [tmp_path / "ray"], tmp_path)
                except ConfigError as error:
                    check(error)
                else:
                    await asyncio.to_thread(check, None)
        finally:
            await receiver.aclose()

    return lambda *steps: asyncio.run(receiving(*steps))


def test_settings_that_change_are_taken_without_a_new_agent(receiving, tmp_path):
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))

    def gone(listen):
        with pytest.raises(urllib.error.URLError):
            post(listen, posted("x"))

    receiving(
        ({}, lambda _: gone(first)),
        ({"receiver": first}, lambda _: post(first, posted("n1"))),
        ({"receiver": first, "receiver_token": "t"}, lambda _: post(first, posted("n1"), posted("n2"), token="t")),
        ({"receiver": second, "receiver_token": "t"}, lambda _: gone(first)),
        ({"receiver": second, "receiver_token": "t"}, lambda _: post(second, posted("n2"), posted("n3"), token="t")),
        ({}, lambda _: gone(second)),
    )
    [path] = (tmp_path / "ray" / SESSION / "logs" / "export_events").iterdir()
    assert [json.loads(line)["eventId"] for line in path.read_bytes().splitlines()] == ["n1", "n2", "n3"]


def test_an_address_that_cannot_be_had_leaves_the_one_before_it(receiving):
    listen = f"127.0.0.1:{free_port()}"

    def check(error):
        assert str(error).startswith("receiver's address '8367' is not host:port")
        assert post(listen, posted("n1")) == 204

    receiving(({"receiver": listen}, lambda _: None), ({"receiver": "8367"}, check))


def test_a_token_is_not_for_the_command_line_of_a_probe():
    sources = SourcesConfig(types=("WORKER",), receiver="127.0.0.1:1", receiver_token="secret")
    assert probed(sources) == SourcesConfig(types=("WORKER",))


@pytest.mark.slow
def test_an_agent_ships_what_was_posted_to_it_up_to_its_end(start, ray_dir, shipped, tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    flags = ["--to", f"file://{tmp_path}/sent", "--temp-dir", ray_dir, "--state-dir", tmp_path, "--sessions", "all"]
    agent = start("agent", "--receiver", listen, *flags)
    agent.wait_for(lambda: re.search("Ray's events are taken on ", agent.printed["err"]))
    assert post(listen, posted("n1"), 7) == 204
    agent.process.terminate()
    assert agent.process.wait(30) == 0
    ids = [
        json.loads(line)["eventId"]
        for chunk in shipped(tmp_path / "sent")
        if (chunk.session, chunk.event_type) == (SESSION, "NODE_DEFINITION_EVENT")
        for line in chunk.data.splitlines()
    ]
    assert ids == ["n1"]
    assert "Expected `object`, got `int`" in (tmp_path / "set-aside.ndjson").read_text()
