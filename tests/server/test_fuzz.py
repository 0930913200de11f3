"""
Whatever is sent to the server: it answers, it has no bug to report, and goes on.

Short and the same each time; ``make fuzz FUZZ_SECONDS=600`` goes on for that long, with other requests each time, and
looks at its memory, too.
"""

import base64
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from raytrail.config import ServerConfig
from raytrail.server import app

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SESSION = "session_2026-11-23_07-40-30_867494_13129"
THREADS = 4
GROWTH_KB = 200_000
"""What memory may grow after the first quarter of a long run: the answers that are kept take 64 MB."""
PATIENCE = 120
RAYS_500 = re.compile(
    r"/api/(v0/(logs|tasks/timeline|[^/]+/summarize)|jobs/|prometheus_health|train/v2/runs)|/nodes($|\?)"
)
"""Where Ray's own server catches no error of a wrong question (docs/reference/http.md)."""

NASTY = [
    *(
        "",
        " ",
        ".",
        "..",
        "../../../etc/passwd",
        "/",
        "//",
        "\\",
        "*",
        "**",
        "[",
        "[!",
        "?",
        "#",
        "%",
        "&",
        "=",
        ";",
        "\0",
    ),
    *("'", '"', "' OR 1=1 --", "x'); DROP TABLE task; --", "<script>alert(1)</script>", "${x}", "{}", "[]", "null"),
    *("-1", "+1", " 1", "1_000", "0x10", "1e999", "NaN", "²", "١٢", "1" * 16, "9" * 400, "-" + "9" * 30, "1.5"),
    *("\ud800", "ÿ", "🦊", "\u202e", "\r\n", "\r\nX: y", "a" * 3000, "true", "latest", "None"),
]
KNOWN = [
    *(SESSION, "latest", "varied", "13129", "01000000", "02000000", "tasks", "actors", "nodes", "jobs", "workers"),
    *(
        "objects",
        "placement_groups",
        "cluster_events",
        "runtime_envs",
        "file",
        "stream",
        "raylet.out",
        "static",
        "ALIVE",
    ),
    *(
        "state",
        "task_id",
        "name",
        "job_id",
        "worker_pid",
        "=",
        "!=",
        "<",
        "0",
        "1",
        "100",
        "10000",
        "1000000",
        "100000000",
    ),
    *("legacy", "summary", "hostNameList", "lineage", "func_name", "actor", "worker-*", "**/*.log", "out", "err"),
    *("1763883640000", "1795419640000", "9" * 15, "0" * 15),
]
NAMES = [
    *("filter_keys", "filter_predicates", "filter_values", "limit", "detail", "exclude_driver", "timeout", "format"),
    *("actor_id", "attempt_number", "download", "download_filename", "filename", "filter_ansi_code", "glob", "ids"),
    *(
        "job_id",
        "node_id",
        "node_ip",
        "pid",
        "style",
        "submission_id",
        "suffix",
        "summary_by",
        "task_id",
        "view",
        "lines",
    ),
    *("encoding", "errors", "interval", "_"),
]
HEADERS = [
    *(
        "Origin",
        "Host",
        "Cookie",
        "Authorization",
        "Accept",
        "If-None-Match",
        "Sec-Fetch-Site",
        "Content-Type",
        "Range",
    ),
    *("Content-Encoding", "Transfer-Encoding", "Expect", "Upgrade", "Connection", "X-Forwarded-Proto", "X"),
    *("raytrail-version", "raytrail-session", "raytrail-cluster", "raytrail-node-id", "raytrail-event-type"),
    *("raytrail-segments", "raytrail-line"),
]
VALUES = [
    *("close", "keep-alive", "Upgrade", "websocket", "100-continue", "chunked", "gzip", "zstd", "identity", "br", "1"),
    *(
        "text/html",
        "application/json",
        "application/msgpack",
        "application/x-ndjson",
        "Basic !",
        "Bearer x",
        "raytrail=x",
    ),
    *('"x"', "*", "https://evil.example", "null", "same-origin", "cross-site", "127.0.0.1", "TASK", "LOG", "a:0:0:5"),
    *(
        "a:-1:0:5",
        "a:0:0:99999999999999999999",
        "a:1e20:0:1",
        ":::",
        "a:0:0:0,b:0:0:0",
        SESSION,
        "..%2F..",
        "%ED%A0%80",
    ),
]
EVENT = {
    "event_data": {"task_id": base64.b64encode(b"x" * 24).decode(), "attempt_number": 0, "job_id": "AQAAAA=="},
    "event_id": "0" * 36,
    "source_type": "EXPORT_TASK",
    "timestamp": 1795419640,
}

texts = st.one_of(st.sampled_from(KNOWN), st.sampled_from(NASTY), st.text(max_size=12))
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.none()
values = st.recursive(
    texts | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def escaped(text, safe=""):
    return quote(text, safe=safe, errors="surrogatepass").encode()


@st.composite
def events(draw):
    """An event, or nearly one, as a collector sends it."""
    event = dict(EVENT)
    for name in draw(st.lists(st.sampled_from([*EVENT, "message", "log", "file", "path", "x"]), max_size=3)):
        event[name] = draw(values)
    shape = draw(st.sampled_from(["bare", "message", "text"]))
    if shape == "message":
        return {"message": json.dumps(event), "file": draw(texts)}
    return json.dumps(event) if shape == "text" else event


@st.composite
def bodies(draw):
    kind = draw(st.sampled_from(["none", "bytes", "array", "lines", "deep", "many", "form"]))
    if kind == "array":
        return json.dumps(draw(st.lists(events() | values, max_size=5))).encode("utf-8", "surrogatepass")
    if kind == "lines":
        return "\n".join(map(json.dumps, draw(st.lists(events() | values, max_size=5)))).encode()
    if kind == "deep":
        return draw(st.sampled_from([b"[", b'{"a":', b'[{"message":', b'{"event_data":'])) * draw(
            st.sampled_from([10, 800, 5_000, 100_000])
        )
    if kind == "many":
        return b"[" + draw(st.sampled_from([b"0,", b"{},", b"[],", b'"",', b"\n"])) * 200_000 + b"0]"
    if kind == "form":
        return b"token=" + escaped(draw(texts))
    return draw(st.binary(max_size=50)) if kind == "bytes" else b""


def packed(body, how):
    if how == "gzip":
        return gzip.compress(body, 1)
    return zstandard.compress(body, 1) if how == "zstd" else body


class Asked(NamedTuple):
    route: str
    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    sent: int
    """How many bytes are sent before the connection is closed; all of them, mostly."""

    def __repr__(self):
        sent = self.raw()[: self.sent]
        return f"<{sent[:2000]!r} and {max(0, len(sent) - 2000)} bytes more>"

    def raw(self):
        headers = b"".join(b"%s: %s\r\n" % header for header in self.headers)
        return b"%s %s HTTP/1.1\r\n%s\r\n%s" % (self.method, self.target, headers, self.body)


def routes():
    """The paths that the server knows, with names in braces."""

    async def take(headers, body):
        raise AssertionError

    known: list[Any] = app(None, ServerConfig(dashboard="off"), take).routes  # type: ignore[arg-type]  # none is asked
    return sorted({route.path for route in known} | {"/login", "/none"})


@st.composite
def requests(draw):
    route = draw(st.sampled_from([*routes(), *["/ingest"] * 20]))  # which looks at more of a request than any other
    safe = draw(st.sampled_from(["", "/", "/%", "/%?#"]))
    path = b"".join(
        escaped(SESSION if part == "{id}" and draw(st.integers(0, 3)) else draw(texts), safe)
        if part.startswith("{")
        else part.encode()
        for part in re.split(r"(\{[^}]+\})", route)
    )
    query = b"&".join(
        escaped(name) + b"=" + escaped(value)
        for name, value in draw(st.lists(st.tuples(st.sampled_from(NAMES) | texts, texts), max_size=6))
    )
    target = (path + (b"?" + query if query else b"")).replace(b" ", b"%20") or b"/"
    method = draw(st.sampled_from([b"GET"] * 6 + [b"POST"] * 3 + [b"HEAD", b"PUT", b"OPTIONS", b"G\xff", b"x"]))
    if route == "/ingest":
        method = draw(st.sampled_from([b"POST"] * 9 + [b"GET"]))
    encoding = draw(st.sampled_from(["identity", "identity", "gzip", "zstd"]))
    body = packed(draw(bodies()), encoding)
    chosen = draw(st.lists(st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES) | texts), max_size=4))
    headers = [(name.encode(), value.encode("utf-8", "surrogatepass")) for name, value in chosen]
    if draw(st.integers(0, 9)):
        headers = [(name, re.sub(rb"[^\x20-\x7e]", b"?", value)) for name, value in headers]
        headers.append((b"Host", b"127.0.0.1"))
        headers.append((b"Content-Length", b"%d" % len(body)))
        if encoding != "identity":
            headers.append((b"Content-Encoding", encoding.encode()))
    asked = Asked(route, method, target, tuple(headers), body, 0)
    length = len(asked.raw())
    return asked._replace(sent=length if draw(st.integers(0, 9)) else draw(st.integers(0, length)))


class Server:
    """`raytrail serve` in a process of its own."""

    def __init__(self, store, events, log):
        command = [sys.executable, "-m", "raytrail", "serve", "--store", str(store), "--port", "0"]
        command += ["--ingest", f"file://{events}", "--header-seconds", "0.5", "--body-seconds", "0.5"]
        command += ["--memory-bytes", str(512 * 1024**2)]
        self.log = log
        self._file = log.open("wb")
        self.process = subprocess.Popen(command, stderr=self._file, stdout=self._file)
        until = time.monotonic() + PATIENCE
        while not (listening := re.search(rb"serving on http://[^:]+:(\d+)", log.read_bytes())):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        self.port = int(listening[1])

    def close(self):
        self.process.terminate()
        self.process.wait(60)
        self._file.close()

    def kilobytes(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            [kilobytes] = re.findall(r"VmRSS:\s+(\d+)", file.read())
            return int(kilobytes)

    def answer(self, asked):
        """Send a request; return what was said to it, of a long answer the beginning."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            reply, raw = b"", asked.raw()
            try:
                connection.sendall(raw[: asked.sent])
                if asked.sent < len(raw):
                    connection.shutdown(socket.SHUT_WR)
                while not is_whole(reply, asked.method) and (piece := connection.recv(65536)):
                    reply += piece
            except TimeoutError:
                raise AssertionError(f"no answer in {PATIENCE} seconds: {asked!r}") from None
            except OSError:
                pass  # it was told off, or closed, while it still sent
            return reply


def is_whole(reply, method):
    head, end, body = reply.partition(b"\r\n\r\n")
    if not end or method == b"HEAD":
        return bool(end)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return len(body) >= min(int(length[1]) if length else 4096, 4096) or body.endswith(b"0\r\n\r\n")


def check(asked, reply):
    status = int(reply[9:12]) if reply.startswith(b"HTTP/1.1 ") and reply[9:12].isdigit() else 0
    assert reply == b"" or status, reply
    assert b"Internal Server Error" not in reply[:4096].partition(b"\r\n\r\n")[2], asked
    if status >= 500 and status not in (501, 503):
        # of a filter without its value, too, which has a text of its own
        unpaired = b"filter_" in asked.target and (asked.method == b"HEAD" or b'"msg":"filters: ' in reply)
        assert unpaired or RAYS_500.search(asked.target.decode("latin-1")), (asked, reply)
    return status


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    at = tmp_path_factory.mktemp("fuzz")
    server = Server(store._root, at / "events", at / "said")
    yield server
    server.close()


def fuzz(server, number, examples, answered):
    """Ask so many questions; `answered` counts them by route and status."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(asked=requests())
    def ask(asked):
        answered[asked.route, check(asked, server.answer(asked))] += 1

    ask()


def test_whatever_is_sent_the_server_goes_on(server):
    answered: Counter[tuple[str, int]] = Counter()
    memory: list[tuple[float, int]] = []
    lock = threading.Lock()
    until = time.monotonic() + SECONDS
    seeds = iter(range(10**9)) if not SECONDS else iter(range(time.time_ns(), time.time_ns() + 10**9))

    def work(_):
        while True:
            with lock:
                number = next(seeds)
            fuzz(server, number, 60, answered)
            memory.append((time.monotonic(), server.kilobytes()))
            if time.monotonic() >= until:
                return

    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))
    assert server.process.poll() is None
    text = server.log.read_text(errors="replace")
    assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:10_000]
    asked = Asked("/healthz", b"GET", b"/healthz", ((b"Host", b"127.0.0.1"),), b"", 10**6)
    assert server.answer(asked).endswith(b"ok\n")
    if SECONDS:
        early = max([size for at, size in memory if at <= began + SECONDS / 4] or [memory[0][1]])
        statuses: Counter[int] = Counter()
        for (_, status), count in answered.items():
            statuses[status] += count
        sys.stderr.write(f"\n{sum(answered.values())} requests, by status {dict(sorted(statuses.items()))}\n")
        sys.stderr.write(f"memory: {early} kB at most in the first quarter, {memory[-1][1]} kB at the end\n")
        assert memory[-1][1] < early + GROWTH_KB
        if sum(answered.values()) > 50 * len(routes()):
            assert {route for route, _ in answered} == set(routes())
