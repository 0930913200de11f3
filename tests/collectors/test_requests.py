"""
Requests as Vector and Fluent Bit send them with the configurations that ship, posted to a real server.

Neither of them runs here. What is sent follows from their sources: Vector 0.58's ``sinks/http/encoder.rs``,
Fluent Bit 5.1's ``plugins/out_http/http.c``.
"""

import asyncio
import base64
import contextlib
import glob
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from lab.generate import generate
from lab.ports import free_port
from tests.collectors.folded import answers, imported
from tests.line import wait_for

from raytrail.config import StoreConfig
from raytrail.pubsub import connect
from raytrail.store import Store

yaml = pytest.importorskip("yaml")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CONFIGURATIONS = Path(__file__).parents[2] / "deploy" / "collectors"
TOKEN = "only-for-this-test"
AT_ONCE = 200
"""Records of a request."""


def shipped(name):
    return yaml.safe_load((CONFIGURATIONS / name).read_text(encoding="utf-8"))


def read(pattern, temp_dir):
    """Yield lists of paths and lines, as a collector reads them: some of each file in turn."""
    assert pattern.startswith("/tmp/ray/")
    paths = glob.glob(pattern.replace("/tmp/ray/", f"{temp_dir}/"))
    files = [(path, iter(Path(path).read_text(encoding="utf-8").splitlines())) for path in sorted(paths)]
    waiting = []
    while files:
        for path, lines in [*files]:
            some = [(path, line) for line in islice(lines, 50)]
            waiting += some
            if not some:
                files.remove((path, lines))
        while len(waiting) >= AT_ONCE or (waiting and not files):
            yield waiting[:AT_ONCE]
            del waiting[:AT_ONCE]


def vector(temp_dir, **changed):
    """Yield the headers and the body of each request."""
    configuration = shipped("vector.yaml")
    sink = configuration["sinks"]["raytrail"] | changed
    [pattern] = configuration["sources"]["ray"]["include"]
    only, framing = sink["encoding"].get("only_fields"), sink.get("framing", {}).get("method")
    for records in read(pattern, temp_dir):
        events = [
            {
                "file": path,
                "host": "node-1",
                "message": line,
                "source_type": "file",
                "timestamp": "2026-11-23T07:40:40Z",
            }
            for path, line in records
        ]
        encoded = [
            json.dumps(
                {name: value for name, value in event.items() if not only or name in only},
                separators=(",", ":"),
                ensure_ascii=False,
            )
            for event in events
        ]
        if sink["encoding"]["codec"] == "text":
            kind, body = "text/plain", "".join(f"{event['message']}\n" for event in events)
        elif framing == "newline_delimited":
            kind, body = "application/x-ndjson", "\n".join(encoded)
        else:
            kind, body = "application/json", f"[{','.join(encoded)}]"
        headers = {"content-type": kind, "user-agent": "Vector/0.58.0", "authorization": f"Bearer {TOKEN}"}
        yield headers | sink["request"].get("headers", {}), sink.get("compression"), body.encode()


def fluent_bit(temp_dir, **changed):
    """Yield the headers and the body of each request."""
    pipeline = shipped("fluent-bit.yaml")["pipeline"]
    [tail], [http] = pipeline["inputs"], pipeline["outputs"]
    http |= changed
    for records in read(tail["path"], temp_dir):
        date = {} if http["json_date_key"] is False else {http["json_date_key"]: 1795419640.123456}
        encoded = [
            json.dumps({**date, tail["path_key"]: path, tail["key"]: line}, separators=(",", ":"))
            for path, line in records
        ]
        if http["format"] == "json_lines":
            kind, body = "application/x-ndjson", "".join(f"{record}\n" for record in encoded)
        else:
            kind, body = "application/json", f"[{','.join(encoded)}]"
        user = base64.b64encode(f"raytrail:{TOKEN}".encode()).decode()
        headers = {"content-type": kind, "user-agent": "Fluent-Bit", "authorization": f"Basic {user}"}
        yield headers, http.get("compress"), body.encode()


SESSION = "session_2026-11-20_10-00-00_000000_1"
FORMS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "vector.yaml": (vector, {}),
    "Vector, everything by default": (vector, {"encoding": {"codec": "json"}, "framing": {}, "compression": "none"}),
    "Vector, lines as they are": (
        vector,
        {"encoding": {"codec": "text"}, "request": {"headers": {"raytrail-session": SESSION}}},
    ),
    "fluent-bit.yaml": (fluent_bit, {}),
    "Fluent Bit, json_lines with a date": (fluent_bit, {"format": "json_lines", "json_date_key": "date"}),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The URL of a server that takes what is posted, and of what it publishes to."""
    root = tmp_path_factory.mktemp("served")
    with Store.open(root / "store", StoreConfig(threads=1), write=True):
        pass
    behind, port = f"file://{root}/events", free_port()
    command = ["serve", "--store", root / "store", "--port", str(port), "--ingest", behind]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "raytrail", *command],
            stdout=log,
            stderr=log,
            env={**os.environ, "RAYTRAIL_SERVER_INGEST_TOKEN": TOKEN},
        )
    try:
        wait_for(lambda: "serving on" in (root / "log").read_text(), 30, "a server")
        yield f"http://127.0.0.1:{port}/ingest", behind
    finally:
        server.terminate()
        assert server.wait(30) == 0, (root / "log").read_text()


@pytest.mark.parametrize("form", FORMS)
async def test_what_a_collector_sends_folds_to_what_an_import_of_the_same_files_does(form, served, tmp_path):
    url, behind = served
    session = SESSION.replace("0_1", f"0_{list(FORMS).index(form) + 1}")
    written = generate(tmp_path / "ray", tasks=300, files=6, duplicate_ratio=0, session=session)
    requests, changed = FORMS[form]
    if "request" in changed:
        changed = changed | {"request": {"headers": {"raytrail-session": session}}}
    sent = 0
    async with httpx.AsyncClient(timeout=30) as client:
        for headers, compression, body in requests(tmp_path / "ray", **changed):
            if compression == "gzip":
                headers["content-encoding"], body = "gzip", gzip.compress(body)
            for _ in range(1 + sent % 2):  # every other one again, as when its answer was lost
                answer = await client.post(url, headers=headers, content=body)
                assert (answer.status_code, answer.text) == (204, "")
            sent += 1
    assert sent > 3
    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
        async with (
            contextlib.aclosing(connect(behind)) as broker,
            contextlib.aclosing(broker.subscribe(session, from_start=True)) as deliveries,
        ):
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    delivery = await asyncio.wait_for(anext(deliveries), 1)
                    if delivery.chunk.session == session:
                        store.append([delivery.chunk])
    facts = answers(tmp_path / "store")
    assert sum(written.events.values()) == sum(count for key, (count, _) in numbers(facts).items())
    assert facts == imported(tmp_path / "ray", tmp_path / "imported")


def numbers(facts):
    return {key: value for key, value in facts.items() if key[-1] == "events"}


async def test_one_who_does_not_know_the_token_is_told_so_and_nothing_is_kept(served):
    url, _ = served
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(url, content=b"{}", headers={"authorization": "Bearer another"})
    assert (answer.status_code, answer.text) == (401, "send the token of this server\n")
