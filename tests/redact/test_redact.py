"""Secrets do not leave the node; everything else does, to the byte."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raytrail.redact import Redactor

redactor = Redactor(["env_vars"])
SECRET = "hunter2"


def redact(line, event_type="TASK"):
    return redactor(line, event_type)


def nested(value, depth):
    """Put a value into a line as JSON within JSON, as Ray does with runtime environments."""
    for _ in range(depth):
        value = {"task_info": {"runtime_env_info": {"serialized_runtime_env": json.dumps(value)}}, "env": "vars"}
    return json.dumps(value).encode() + b"\n"


def unnested(line, depth):
    value = json.loads(line)
    for _ in range(depth):
        value = json.loads(value["task_info"]["runtime_env_info"]["serialized_runtime_env"])
    return value


@pytest.mark.parametrize("depth", range(4))
def test_values_are_masked_at_any_depth_of_quoting_and_nothing_else_is(depth):
    value = {"pip": ["numpy"], "env_vars": {"TOKEN": SECRET, "EMPTY": "", "Ünï": 'a"b\\c\\'}, "after": {"x": SECRET}}
    line = nested(value, depth)
    masked = redact(line)
    assert len(masked) == len(line)
    out = unnested(masked, depth)
    assert out["pip"] == value["pip"]
    assert out["after"] == value["after"]
    assert list(out["env_vars"]) == ["TOKEN", "EMPTY", "Ünï"]
    assert out["env_vars"]["TOKEN"] == "*" * len(SECRET)
    assert set(out["env_vars"]["Ünï"]) == {"*"}
    assert out["env_vars"]["EMPTY"] == ""


def is_harmless(value):
    return redact(nested({"rest": value}, 0)) == nested({"rest": value}, 0)


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(
    st.dictionaries(st.text(), st.text(min_size=1), max_size=4),
    st.integers(0, 3),
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text())), max_size=4),
)
def test_whatever_the_values_are(env, depth, rest):
    # Hypothesis draws constants of the code, too, as names of secrets are
    rest = {name: value for name, value in rest.items() if name != "env_vars" and is_harmless({name: value})}
    line = nested({"env_vars": env, "rest": rest}, depth)
    masked = redact(line)
    assert len(masked) == len(line)
    out = unnested(masked, depth)
    assert list(out["env_vars"]) == list(env)
    assert all(set(value) == {"*"} for value in out["env_vars"].values())
    assert out["rest"] == rest


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(), st.integers(0, 10_000))
def test_any_bytes_keep_their_length_and_their_lines(noise, seed):
    chosen = random.Random(seed)
    pieces = [
        noise,
        b"token=",
        b"'password': '",
        b"--api-key ",
        b"://a:b@",
        b"\\u0070",
        b'"entrypoint":"',
        b"sig=",
        b"'",
    ]
    pieces += [
        b"Authorization: ",
        b"-----BEGIN PRIVATE KEY-----",
        b"eyJ",
        b"sk-ant-",
        b"\\\\u0022",
        b'"env_vars":',
        b'\\"env_vars\\":{\\"',
        b'{"',
        b"\n",
        b'"',
        b"\\",
        b"}",
        b"env_vars",
    ]
    data = b"".join(chosen.choice(pieces) for _ in range(20))
    masked = redact(data)
    assert len(masked) == len(data)
    assert [at for at, byte in enumerate(masked) if byte == 10] == [at for at, byte in enumerate(data) if byte == 10]


def test_a_line_that_is_cut_is_masked_to_its_end_and_the_next_one_is_not():
    data = b'{"env_vars": {"A": "hunter2 and so on\n{"a": "b"}\n'
    assert redact(data) == b'{"env_vars": {"A": "' + b"*" * 17 + b'\n{"a": "b"}\n'


def test_a_cut_at_the_end_of_the_data_is_masked_too():
    assert redact(b'{"env_vars": {"A": "hunter2') == b'{"env_vars": {"A": "*******'


@pytest.mark.parametrize(
    "line",
    [
        b'{"env_vars": null, "name": "hunter2"}\n',
        b'{"env_vars": 1, "name": "hunter2"}\n',
        b'{"my_env_vars": {"A": "hunter2"}}\n',
        b'{"env_vars_of": {"A": "hunter2"}}\n',
        b'{"doc": "env_vars: see hunter2"}\n',
        b'{"a": ["env_vars", "hunter2"]}\n',
    ],
)
def test_what_only_looks_like_it_is_left_as_it_is(line):
    assert redact(line) == line


def test_text_arrays_and_deeper_objects_are_masked_and_numbers_are_not():
    other = Redactor(["entrypoint", "metadata"])
    line = b'{"entrypoint": "python x.py --key s3", "metadata": {"a": ["x", {"b": "y"}], "n": 5}, "z": "z"}\n'
    assert other(line, "TASK") == (
        b'{"entrypoint": "********************", "metadata": {"a": ["*", {"b": "*"}], "n": 5}, "z": "z"}\n'
    )


def test_passwords_in_urls_are_masked():
    line = b'{"uris": ["https://me:t0ken@host/x?a=b@c", "s3://bucket/key", "git://host:80/a@b"], "t": "12:30@noon"}\n'
    assert redact(line) == line.replace(b"t0ken", b"*****")


@pytest.mark.parametrize(
    ("entrypoint", "masked"),
    [
        ("TOKEN=hunter2 python x.py --lr=0.1 n=3", "TOKEN=******* python x.py --lr=0.1 n=3"),
        ("A=1 B='x y' C=\"x y\" D= python x.py", "A=* B=***** C=******* D= python x.py"),
        ("cd /w && env -i A=1 B=2 python x.py; export C=3", "cd /w && env -i A=* B=* python x.py; export C=*"),
        ("python x.py --env A=1", "python x.py --env A=*"),
        ("set -e\nA=hunter2\npython x.py a=b", "set -e\nA=*******\npython x.py a=b"),
        ('A="un closed', "A=***********"),
        ("python -c 'x=1'", "python -c 'x=1'"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("event_type", ["DRIVER_JOB", "SUBMISSION_JOB"])
def test_variables_that_an_entrypoint_sets_are_masked(entrypoint, masked, event_type):
    line = json.dumps({"event_data": {"entrypoint": entrypoint, "z": "A=1"}}).encode() + b"\n"
    hidden = redact(line, event_type)
    assert len(hidden) == len(line)
    assert json.loads(hidden)["event_data"] == {"entrypoint": masked, "z": "A=1"}
    # elsewhere it is no command; what is called a secret is one in every event
    assert (redact(line, "TASK") is line) == ("TOKEN" not in entrypoint)
    if entrypoint == masked:
        assert hidden is line


def test_with_no_names_nothing_is_masked():
    line = b'{"env_vars": {"A": "hunter2"}, "uri": "https://me:t0ken@host"}\n'
    assert Redactor([])(line, "TASK") is line
