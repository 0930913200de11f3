"""Signatures, judged by errors of which a person has said which are the same."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from raytrail.config import StoreConfig
from raytrail.fold.literals import literal
from raytrail.fold.signature import signatures
from raytrail.store.engine import Engine

LABELLED = Path(__file__).parents[1] / "captures" / "signatures.ndjson"
LEAST_AGREEMENT = 0.99

RAISED = """User exception:
\x1b[36mray::train()\x1b[39m (pid=14054, ip=192.0.2.2)
  File "/srv/app/train.py", line 8, in train
    step(batch)
  File "/opt/venv/lib/python3.12/site-packages/torch/nn/module.py", line 3, in forward
    return f(x)
           ^^^^
{}"""


@pytest.fixture(scope="module")
def engine():
    engine = Engine(StoreConfig())
    yield engine
    engine.close()


def signed(engine, errors):
    """Return the signatures of errors, each a type and a text, in their order: error, text, frame."""
    rows = ", ".join(f"({n}, {literal(kind)}, {literal(text)})" for n, (kind, text) in enumerate(errors))
    source = f"(SELECT * FROM (VALUES {rows}) AS errors(id, error_type, message))"
    return [row for _, *row in sorted(engine.run(f"SELECT id, hash, error, text, frame FROM ({signatures(source)})"))]


def masked_text(engine, line, kind="TASK_EXECUTION_EXCEPTION"):
    """Return the masked text of what an exception says, which it has raised in torch, called by our code."""
    [(_, error, text, frame)] = signed(engine, [(kind, RAISED.format(f"ValueError: {line}"))])
    assert (error, frame) == ("ValueError", "train.py:train")
    return text


def test_errors_are_grouped_as_a_person_would(engine):
    labelled = [json.loads(line) for line in LABELLED.read_text().splitlines()]
    hashes = [row[0] for row in signed(engine, [(row["error_type"], row["message"]) for row in labelled])]
    assert len(labelled) >= 200
    either = both = 0
    wrong = set()
    for (first, first_hash), (second, second_hash) in combinations(zip(labelled, hashes, strict=True), 2):
        together = first["label"] == second["label"]
        either += together or first_hash == second_hash
        both += together and first_hash == second_hash
        if together != (first_hash == second_hash):
            wrong.add((first["label"], second["label"]))
    # of the pairs that are together either way: nearly all of some 84,000 pairs belong apart, and say nothing
    assert both / either >= LEAST_AGREEMENT, f"{both} of {either}: {sorted(wrong)}"


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("row 17 of 4,096 is -1.5e-07", "row <n> of <n> is <n>"),
        ("no '/data/part-00003' for \"user 7\"", "no '…' for '…'"),
        ("it's the user's 3rd", "it's the user's <n>rd"),
        ("not in s3://bucket/a/b.parquet or /mnt/x/y.bin", "not in <url> or <path>"),
        ("<Net object at 0x7f5ff47583d0> of 10.0.0.7:8265", "<Net object at <address>> of <ip>"),
        ("id 123e4567-e89b-12d3-a456-426614174000 at 2026-11-29T03:12:00.5Z", "id <id> at <time>"),
        ("Tried to allocate 2.50 GiB in 30s", "Tried to allocate <size> in <duration>"),
        ("shapes (3,4) and (3,), got [1, 2, 3] or []", "shapes (<n>) and (<n>), got […] or […]"),
        ("'Order' object has no attribute 'total'", "'Order' object has no attribute 'total'"),
        ("decade facade", "decade facade"),
    ],
)
def test_what_differs_from_one_failure_to_the_next_is_masked(engine, line, masked):
    assert masked_text(engine, line) == masked


def test_the_frame_is_the_deepest_of_the_users_own_code_wherever_it_lies(engine):
    text = 'Traceback (most recent call last):\n  File "{}", line 3, in f\n    g()\nKeyError: 1\n'
    paths = (
        "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123/train.py",
        "/home/u/train.py",
        "/home/u/net/__init__.py",
        "/tmp/ipykernel_41/123456.py",
        "/opt/venv/lib/python3.12/site-packages/pandas/core/frame.py",
        "python/ray/_raylet.pyx",
    )
    frames = [row[3] for row in signed(engine, [("", text.format(path)) for path in paths])]
    assert frames == [
        "train.py:f",
        "train.py:f",
        "net/__init__.py:f",
        "<ipython>:f",
        "pandas/core/frame.py:f",
        "",
    ]


def test_a_task_whose_argument_failed_has_the_signature_of_the_arguments_task(engine):
    cause = RAISED.format("ValueError: bad 7")
    chained = (
        "User exception:\nray::sink() (pid=1, ip=192.0.2.2)\n  At least one of the input arguments for this task could "
        f"not be computed:\nray.exceptions.RayTaskError: {cause.removeprefix('User exception:').strip()}"
    )
    original, dependent = signed(engine, [("TASK_EXECUTION_EXCEPTION", cause), ("TASK_EXECUTION_EXCEPTION", chained)])
    assert original == dependent


def test_what_python_did_not_print_goes_by_rays_type_of_the_error(engine):
    rows = signed(engine, [("WORKER_DIED", "RpcError: RPC error: Socket closed rpc_code: 14"), ("WORKER_DIED", "")])
    assert [row[1:] for row in rows] == [
        ["WORKER_DIED", "RpcError: RPC error: Socket closed rpc_code: <n>", ""],
        ["WORKER_DIED", "", ""],
    ]


def test_a_text_of_any_length_and_kind_has_a_signature(engine):
    texts = (
        RAISED.format("ValueError: bad 7") + "\n" + "x" * 200_000,
        RAISED.format("y" * 200_000 + "\n" + "ValueError: bad 7"),
        "\x00\x1b[31m\u202e '\"" * 1_000,
        ' File "' * 10_000,
    )
    rows = signed(engine, [("TASK_EXECUTION_EXCEPTION", text) for text in texts])
    assert all(len(text) <= 300 for _, _, text, _ in rows)
    assert len(rows) == len(texts)
