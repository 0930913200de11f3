"""What an agent answers over HTTP: its figures for Prometheus, and whether it is well."""

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from raytrail.agent.metrics import answering
from raytrail.config import AgentConfig, Destination, TailConfig
from raytrail.errors import ConfigError
from raytrail.exit_codes import USAGE
from raytrail.metrics import answering as page_server

pytestmark = pytest.mark.slow

SIDE_BY_SIDE = """
[tail]
event_types = ["TASK", "NODE"]
[agent]
retry_seconds = 0.1
[destinations.all]
to = "file://{here}/all"
[destinations.few]
to = "file://{here}/few"
event_types = ["NODE"]
[destinations.away]
to = "file://{here}/away?retain_seconds=5"
drain_seconds = 0.1
"""


@pytest.fixture
def agent(start, ray_dir, tmp_path):
    """Start an agent that answers; it and its URL."""

    def agent(text):
        file = tmp_path / "raytrail.toml"
        file.write_text(text.replace("{here}", str(tmp_path)))
        running = start("agent", "--config", file, "--temp-dir", ray_dir, "--listen", "127.0.0.1:0")
        listening = re.compile(r"metrics on (http://127\.0\.0\.1:\d+)/metrics\n")
        return running, running.wait_for(lambda: listening.search(running.printed["err"]))[1]

    return agent


def metrics_of(url):
    """Return every sample by name and labels."""
    answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.slow
def test_the_figures_are_those_of_what_was_shipped(agent, shipped, write, make, tmp_path):
    (tmp_path / "away").write_text("no directory")
    write("TASK", *map(make.task, range(3, 101)))
    running, url = agent(SIDE_BY_SIDE)
    published = "raytrail_agent_published_events_total"
    running.wait_for(lambda: metrics_of(url).get((published, "all", "TASK")) == 100)
    running.wait_for(lambda: metrics_of(url).get((published, "few", "NODE")) == 1)
    running.wait_for(lambda: metrics_of(url).get(("raytrail_agent_failed_chunks_total", "away")))
    metrics = metrics_of(url)
    sizes = {"TASK": sum(len(make.task(number)) for number in range(1, 101)), "NODE": len(make.node("ALIVE"))}
    for kind, size in sizes.items():
        there = [chunk for chunk in shipped(tmp_path / "all") if chunk.event_type == kind]
        assert metrics[published, "all", kind] == sum(chunk.data.count(b"\n") for chunk in there)
        assert metrics["raytrail_agent_published_bytes_total", "all", kind] == size == sum(len(c.data) for c in there)
    assert (published, "few", "TASK") not in metrics
    assert (published, "away", "NODE") not in metrics
    by_destination = {
        name: {key[1]: value for key, value in metrics.items() if key[0] == name}
        for name in {key[0] for key in metrics if key[0].startswith("raytrail_")}
    }
    assert by_destination["raytrail_agent_broker_up"] == {"all": 1, "few": 1, "away": 0}
    assert by_destination["raytrail_tail_unread_bytes"] == {"all": 0, "few": 0, "away": sum(sizes.values())}
    # what is all read has nothing that could be deleted
    assert by_destination["raytrail_tail_bytes_until_deleted"] == {"away": 21 * 100_000_000 - sizes["TASK"]}
    assert by_destination["raytrail_tail_open_files"] == {"all": 2, "few": 1, "away": 2}
    assert by_destination["raytrail_agent_failed_chunks_total"]["all"] == 0
    for nothing in (
        "agent_refused_events_total",
        "tail_moved_files_total",
        "tail_refused_names_total",
        "tail_skipped_bytes",
    ):
        assert by_destination[f"raytrail_{nothing}"] == {"all": 0, "few": 0, "away": 0}
    assert by_destination["raytrail_agent_in_flight_bytes"]["all"] == 0
    assert set(by_destination["raytrail_tail_checkpoint_age_seconds"]) == {"all", "few", "away"}
    assert abs(metrics["raytrail_agent_last_stored_timestamp_seconds", "all"] - time.time()) < 30
    assert metrics["process_resident_memory_bytes",] > 1e6
    assert running.stop() == 0


@pytest.mark.slow
def test_an_agent_whose_broker_is_away_is_well_and_says_what_failed(agent, make, tmp_path):
    (tmp_path / "away").write_text("no directory")
    running, url = agent(SIDE_BY_SIDE)

    def health_report():
        answer = httpx.get(f"{url}/healthz")
        assert answer.status_code == 200
        return answer.json()

    running.wait_for(lambda: health_report()["destinations"]["away"]["failure"])
    running.wait_for(lambda: health_report()["destinations"]["all"]["published_events"] == 3)
    health = health_report()
    assert health["status"] == "ok"
    assert health["destinations"]["away"]["failure"] in running.messages("WARNING")[0]
    away = health["destinations"]["away"]
    size = len(make.task(1) + make.task(2) + make.node("ALIVE"))
    assert (away["to"], away["published_events"], away["unread_bytes"]) == (f"file://{tmp_path}/away", 0, size)
    assert health["destinations"]["all"]["failure"] == ""
    assert running.stop() == 0


@pytest.mark.slow
def test_a_port_that_is_taken_stops_the_start(start, ray_dir, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = start("agent", "--to", f"file://{tmp_path}/events", "--temp-dir", ray_dir, "--listen", listen)
        assert agent.wait() == USAGE
    assert agent.printed["err"] == (
        f"raytrail: error: listen='{listen}': [Errno 98] Address already in use; "
        "give host:port of a free port, e.g. 127.0.0.1:8366\n"
    )
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("8366", " is not host:port; write e.g. 127.0.0.1:8366"),
        ("127.0.0.1:http", " is not host:port; write e.g. 127.0.0.1:8366"),
        ("::1:8366", " is not host:port; write e.g. 127.0.0.1:8366"),
        ("127.0.0.1:99999", ": bind(): port must be 0-65535.; give host:port of a free port, e.g. 127.0.0.1:8366"),
        (
            "192.0.2.1:0",
            ": [Errno 99] Cannot assign requested address; give host:port of a free port, e.g. 127.0.0.1:8366",
        ),
    ],
)
async def test_what_cannot_be_listened_on_is_said(listen, why):
    with pytest.raises(ConfigError) as caught, answering(listen, nobody()):
        pass
    assert str(caught.value) == f"listen={listen!r}{why}"


def nobody():
    return SimpleNamespace(shippings={})


async def ask(url):
    return await asyncio.to_thread(httpx.get, url)


async def test_it_answers_on_ipv6_and_on_a_port_alone():
    with answering("[::1]:0", nobody()) as url:
        assert url.startswith("http://[::1]:")
        assert (await ask(f"{url}/healthz")).json() == {"status": "ok", "destinations": {}}
    with answering(":0", nobody()) as url:
        assert url.startswith("http://127.0.0.1:")
        assert (await ask(f"{url}/metrics?name[]=x")).status_code == 200


async def test_another_path_is_not_found():
    with answering("127.0.0.1:0", nobody()) as url:
        answer = await ask(url)
        assert (answer.status_code, answer.text) == (404, "/metrics, /healthz\n")


async def test_whoever_says_nothing_holds_up_nobody_and_takes_no_threads():
    before = threading.active_count()
    with answering("127.0.0.1:0", nobody()) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        idle = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(100)]
        assert (await ask(f"{url}/healthz")).status_code == 200
        # the oldest had to make room
        assert [await asyncio.to_thread(connection.recv, 1) for connection in idle[:60]] == [b""] * 60
        until = time.monotonic() + 60
        while threading.active_count() - before >= 60 and time.monotonic() < until:  # noqa: ASYNC110 (threads end by themselves)
            await asyncio.sleep(0.01)  # those of the connections that ended are ending
        assert threading.active_count() - before < 60


async def test_afterwards_nobody_answers():
    with answering("127.0.0.1:0", nobody()) as url:
        pass
    with pytest.raises(httpx.ConnectError):
        await ask(url)
    assert not [thread for thread in threading.enumerate() if thread.name == "raytrail-http"]


async def test_an_agent_whose_loop_does_not_turn_is_not_well_but_has_figures(monkeypatch):
    monkeypatch.setattr(page_server, "_ANSWER_SECONDS", 0.2)
    answers = {}
    with answering("127.0.0.1:0", nobody()) as url:

        def from_outside():
            for path in ("healthz", "metrics"):
                answers[path] = httpx.get(f"{url}/{path}")

        asking = threading.Thread(target=from_outside)
        asking.start()
        asking.join(10)  # on the loop's own thread: it stands still
        assert (answers["healthz"].status_code, answers["metrics"].status_code) == (503, 200)
        assert answers["healthz"].json() == {"status": "the agent's loop has not turned for 0.2 seconds"}
        assert (await ask(f"{url}/healthz")).status_code == 200


async def test_neither_password_nor_query_of_a_url_is_told():
    destination = Destination("", TailConfig(), AgentConfig(to="memory://name"))
    secret = destination._replace(agent=AgentConfig(to="kafka://me:geheim@host:9092/topic?sasl.password=geheim"))
    from raytrail.agent.destination import Shipping
    from raytrail.pubsub import connect

    shipping = Shipping(destination, connect("memory://name"))
    shipping.destination = secret
    try:
        agent: Any = SimpleNamespace(shippings={"": shipping})
        with answering("127.0.0.1:0", agent) as url:
            text = (await ask(f"{url}/healthz")).text
            assert json.loads(text)["destinations"]["default"]["to"] == "kafka://me:***@host:9092/topic"
            assert "geheim" not in text + (await ask(f"{url}/metrics")).text
    finally:
        await shipping.aclose()
