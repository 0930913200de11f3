"""Who may import whom: a room meets only the rooms that the line runs through."""

import ast
import subprocess
import sys
from pathlib import Path

import raytrail

ROOT = Path(raytrail.__file__).parent
MAY_IMPORT = {
    "errors": set(),
    "event": set(),
    "config": set(),
    "records": {"event"},
    "disk": set(),
    "zstd": set(),
    "tokens": set(),
    "posts": {"tokens"},
    "ray_calls": set(),
    "redact": {"event"},
    "export": {"config"},
    "ray_event": {"event"},
    "entities": {"event"},
    "fold": {"entities", "ray_event", "event", "words"},
    "sources": {"event", "config", "disk", "records", "posts", "tokens", "ray_calls", "ray_event"},
    "file_report": {"event"},
    "kuberay": {"pubsub", "sources", "tail", "redact", "ray_event", "event", "file_report", "disk"},
    "snapshot": {"sources", "entities", "event", "file_report"},
    "words": set(),
    "times": set(),
    "log": set(),
    "systemd": set(),
    "exit_codes": set(),
    "tail": {"redact", "ray_event", "event", "config", "disk"},
    "pubsub": {"redact", "ray_event", "event", "config", "disk", "records", "zstd", "ray_calls"},
    "store": {"fold", "entities", "event", "config", "disk", "zstd"},
    "answers": {"event", "store", "fold", "entities", "config", "words", "times"},
    "table": {"store"},
    "api": {"answers", "table", "store", "pubsub", "fold", "entities", "event", "config", "words"},
    "server": {
        "answers",
        "metrics",
        "store",
        "fold",
        "entities",
        "config",
        "zstd",
        "posts",
        "tokens",
        "times",
        "words",
    },
    "metrics": {"pubsub", "sources", "store", "event"},
    "agent": {
        "metrics",
        "tail",
        "pubsub",
        "sources",
        "event",
        "config",
        "disk",
        "words",
        "log",
        "systemd",
        "exit_codes",
    },
    "history": {"metrics", "pubsub", "store", "config", "log"},
    "testing": {"event", "entities", "fold", "pubsub", "store", "config"},
    "__main__": {"cli"},
    "terminal": {
        "answers",
        "api",
        "server",
        "store",
        "fold",
        "entities",
        "sources",
        "export",
        "config",
        "times",
        "words",
        "log",
        "systemd",
        "exit_codes",
    },
    "cli": {
        "answers",
        "api",
        "terminal",
        "times",
        "words",
        "log",
        "systemd",
        "exit_codes",
        "agent",
        "history",
        "metrics",
        "server",
        "pubsub",
        "fold",
        "entities",
        "store",
        "tail",
        "redact",
        "config",
        "event",
        "disk",
        "sources",
        "kuberay",
        "snapshot",
        "export",
    },
}
CLIENTS = {
    "ahocorasick_rs": {"redact"},
    "duckdb": {"store"},
    "jinja2": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "click": {"cli", "terminal"},
    "ray": {"pubsub", "sources"},
    "confluent_kafka": {"pubsub"},
    "httpx": {"pubsub"},
    "nats": {"pubsub"},
    "obstore": {"pubsub"},
    "prometheus_client": {"agent", "metrics", "server"},
    "redis": {"pubsub"},
}
SCREEN = 100


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "raytrail":
                yield from (f"raytrail.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_each_room_imports_only_what_it_may():
    wrong = []
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).with_suffix("").parts[0]
        for module in imported(path):
            top, *rest = module.split(".")
            if top == "raytrail" and rest and here != "__init__":
                there = rest[0]
                if there not in MAY_IMPORT[here] | {here, "errors"}:
                    wrong.append(f"{path.relative_to(ROOT)} imports {module}")
            elif here not in CLIENTS.get(top, {here}):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}, which only {sorted(CLIENTS[top])} may")
    assert not wrong


def test_the_end_of_the_line_fits_on_a_screen():
    assert len((ROOT / "history.py").read_text().splitlines()) <= SCREEN


def test_an_agent_holds_no_engine_and_no_tables_in_memory():
    program = (
        "import sys, raytrail.cli.agent, raytrail.pubsub.file; print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not {"duckdb", "rich", "starlette", "prometheus_client", "confluent_kafka", "ray", "grpc"} & set(
        done.stdout.split()
    )
