"""A corpus of secrets, none of which leaves the node, and one of ordinary lines, which nothing is taken out of."""

import base64
import json
import random
import re
import tarfile
import time
from itertools import islice
from pathlib import Path

import pytest
from tests.redact.corpus import negatives, positives

from raytrail.redact import Redactor

CAPTURED = Path(__file__).parents[1] / "captures" / "ray-2.60.tar.xz"
POSITIVES, NEGATIVES = list(positives()), list(negatives())


def known(cases):
    return {case.name: case for case in cases}.values()


def test_no_secret_of_the_corpus_passes_and_each_line_stays_as_long_and_json():
    assert len(known(POSITIVES)) >= 150
    redact, wrong = Redactor(), []
    for case in POSITIVES:
        assert case.secret in case.line, case.name
        masked = redact(case.line, case.event_type)
        if case.secret in masked or len(masked) != len(case.line) or not same(case.line, masked):
            wrong.append((case.name, masked))
    assert not wrong


def same(line, masked):
    """Say whether two lines of JSON say the same but for asterisks, and for a 1 in the place of a digit."""

    def equal(before, after):
        if isinstance(before, dict):
            return [equal(*pair) for pair in zip(before.items(), after.items(), strict=True)] and len(before) == len(
                after
            )
        if isinstance(before, list | tuple):
            return len(before) == len(after) and all(map(equal, before, after))
        return type(before) is type(after) and (before == after or "*" in str(after) or set(str(after)) == {"1"})

    return equal(json.loads(line), json.loads(masked))


def test_what_is_masked_is_said_around_as_before():
    redact = Redactor()
    for case in POSITIVES:
        masked = json.loads(redact(case.line, case.event_type))
        if "event_id" in masked:
            assert (masked["event_id"], masked["timestamp"]) == ("5f6f", 1795419634), case.name


def test_nothing_is_taken_out_of_what_only_looks_like_a_secret():
    assert len(known(NEGATIVES)) >= 300
    redact = Redactor()
    assert [
        (case.name, masked) for case in NEGATIVES if (masked := redact(case.line, case.event_type)) is not case.line
    ] == []


def test_nothing_is_taken_out_of_what_ray_wrote():
    redact, count = Redactor(), 0
    with tarfile.open(CAPTURED) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            for line in islice(file or (), 400):
                if b"env_vars" not in line:
                    count += 1
                    assert redact(line, "SUBMISSION_JOB") is line, line
                    assert redact(line, "LOG") is line, line
    assert count >= 300


def test_nothing_is_taken_out_of_ids_and_hashes():
    chosen, redact = random.Random(7), Redactor()
    for size in (4, 16, 18, 20, 24, 28, 32, 40, 64):
        for _ in range(300):
            id = chosen.randbytes(size)
            for text in (id.hex(), base64.b64encode(id).decode(), base64.urlsafe_b64encode(id).decode()):
                line = json.dumps({"event_id": text, "task_id": text, "commit": text, "message": f"{text} at {text}"})
                assert redact(line.encode() + b"\n", "TASK") == line.encode() + b"\n"


HOSTILE = {
    "names": b"token=",
    "names in quotes": b'"token":',
    "objects": b'"token":{',
    "arrays": b'{"env_vars":[',
    "environments": b'"env_vars":{"a":"b"',
    "flags": b"--token ",
    "headers": b"Authorization: ",
    "signatures": b"sig=",
    "backslashes": b"\\",
    "quotes": b'\\"',
    "words": b"tokentoken",
    "dashes": b"-token-",
    "beginnings": b"eyJ",
    "halves of tokens": b"eyJaaaaaaaa.",
    "marks between": b"-eyJ.eyJ",
    "keys": b"sk-ant-",
    "blocks": b"-----BEGIN PRIVATE KEY-----",
    "addresses": b"://",
    "users": b"a://b:c@",
    "at": b"@",
    "colons": b"://a:b/@",
    "escapes": b"\\u0070",
    "escapes, deeper": b"\\\\\\u0022",
    "apostrophes": b"'token': '",
    "environments, in Python": b"'env_vars': {'a': ",
    "commands": b'"entrypoint":"',
    "options": b'"run_options":["',
    "a command": b"sudo -u ",
    "spaces": b" ",
    "braces": b'"env_vars":{}',
}


@pytest.mark.slow
@pytest.mark.parametrize("event_type", ["SUBMISSION_JOB", "LOG"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_takes_time_in_proportion_to_its_length(name, event_type):
    def cost(size):
        piece = HOSTILE[name]
        line = b'{"entrypoint":"env_vars token ' + piece * (size // len(piece)) + b"\n"
        redact, best = Redactor(), float("inf")
        for _ in range(3):
            began = time.thread_time()
            masked = redact(line, event_type)
            best = min(best, time.thread_time() - began)
        assert len(masked) == len(line)
        return best

    # sixteen times the length in sixteen times the time, and not in 256 times
    small = max(cost(1 << 14), 0.0005)
    assert cost(1 << 18) < 80 * small


def test_lines_are_masked_each_on_its_own():
    redact, chosen = Redactor(), random.Random(3)
    for _ in range(200):
        cases = chosen.sample(POSITIVES, 5)
        event_type = cases[0].event_type
        lines = [case.line for case in cases]
        alone = b"".join(Redactor()(line, event_type) for line in lines)
        assert redact(b"".join(lines), event_type) == alone


def test_a_log_is_masked_as_events_are_and_its_lines_stay():
    redact = Redactor()
    log = b"-----BEGIN PRIVATE KEY-----\nabcd\nefgh\n-----END PRIVATE KEY-----\n{'token': 'say \"x\"', 'a': 1}\n"
    masked = b"-----BEGIN PRIVATE KEY-----\n****\n****\n-----END PRIVATE KEY-----\n{'token': '*******', 'a': 1}\n"
    assert redact(log, "LOG") == masked
    assert not re.search(rb"hunter2", redact(b'TOKEN="hunter2"\nexport API_KEY=hunter2\r\n', "LOG"))


PIECES = [
    *"{}[]()'\"\\\n\t ,;&=:@<>é日",
    "token=",
    "password: ",
    "'password': '",
    '"password": "',
    "--api-key ",
    "://a:b@",
]
PIECES += [
    "env_vars",
    "{'env_vars': {'A': '",
    "Authorization: Bearer ",
    "sig=",
    "-----BEGIN PRIVATE KEY-----",
    "-----END",
]
PIECES += ["hunter2", "abc", "12", "\x7f", "eyJ", "sk-ant-aaaaaaaaaaaaaaaaaaaaaa", "K=v", "bash -c ", "None", "\\u0070"]
KEYS = ["a", "env_vars", "password", "hf_token", "entrypoint", "run_options", "name", "value", "ENV_VARS"]


def made(chosen, depth):
    kind = chosen.random()
    if depth == 0 or kind < 0.5:
        return "".join(chosen.choices(PIECES, k=chosen.randrange(9)))
    if kind < 0.6:
        return chosen.choice([1, -1.5e10, None, True, [], {}, 12345678])
    if kind < 0.75:
        return {chosen.choice(KEYS): made(chosen, depth - 1) for _ in range(chosen.randrange(4))}
    if kind < 0.9:
        return [made(chosen, depth - 1) for _ in range(chosen.randrange(4))]
    return chosen.choice([json.dumps, repr])(made(chosen, depth - 1))


def test_whatever_is_in_a_line_of_json_it_stays_one():
    redact, chosen = Redactor(), random.Random(11)
    for _ in range(4000):
        value = {chosen.choice(KEYS): made(chosen, 4) for _ in range(chosen.randrange(1, 4))}
        line = json.dumps(value, ensure_ascii=chosen.random() < 0.7).encode() + b"\n"
        masked = redact(line, "SUBMISSION_JOB")
        assert len(masked) == len(line)
        assert same(line, masked), (line, masked)
