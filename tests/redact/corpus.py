"""
What is a secret, and what is none: lines as Ray writes them.

Secrets are put together here, so that nobody's scanner takes this file for a leak of them.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

PASSWORD = "hun" + "ter2-Xy9"
LONG = "Zx81" + "kQmP04vTr7" * 3


class Case(NamedTuple):
    name: str
    event_type: str
    line: bytes
    secret: bytes
    """As it is written in the line."""


SHAPES = {
    "AWS": "AKIA" + "Q3EGRTXYZ7LMN2PO",
    "AWS, for a while": "ASIA" + "Q3EGRTXYZ7LMN2PO",
    "Google API": "AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "Google OAuth": "ya29." + "a0AfH6SMBx7kQmP04vTr7Zx81kQmP04",
    "Google client": "GOCSPX-" + "4vTr7Zx81kQmP04vTr7Zx81kQmP",
    "GitHub": "ghp_" + "k7Qm" * 9,
    "GitHub OAuth": "gho_" + "k7Qm" * 9,
    "GitHub user": "ghu_" + "k7Qm" * 9,
    "GitHub server": "ghs_" + "k7Qm" * 9,
    "GitHub refresh": "ghr_" + "k7Qm" * 9,
    "GitHub, fine": "github_pat_" + "11ABCDEFG0k7QmZx81kQm_" + "P04vTr7Zx8" * 5,
    "GitLab": "glpat-" + "k7QmZx81kQmP04vTr7Z-",
    "Slack bot": "xoxb-" + "123456789012-1234567890123-k7QmZx81kQmP04vTr7Zx81kQ",
    "Slack user": "xoxp-" + "123456789012-k7QmZx81kQmP04vT",
    "Slack app": "xapp-" + "1-A0123456789-1234567890123-k7QmZx81kQmP04vT",
    "Slack hook": "hooks.slack" + ".com/services/T0123ABCD/B0123ABCD/k7QmZx81kQmP04vTr7Zx81kQ",
    "Hugging Face": "hf_" + "kQmPvTrZx" * 4,
    "OpenAI": "sk-" + "k7QmZx81kQmP04vTr7Zx" + "T3Blbk" + "FJk7QmZx81kQmP04vTr7Zx",
    "OpenAI project": "sk-proj-" + "k7QmZx81-kQmP04_vTr7Zx" * 4,
    "OpenAI service": "sk-svcacct-" + "k7QmZx81kQmP04vTr7Zx" * 3,
    "Anthropic": "sk-ant-" + "api03-" + "k7QmZx81kQ-mP04vTr7_Zx" * 4 + "AA",
    "JWT": "eyJ"
    + "hbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    + ".eyJ"
    + "zdWIiOiIxMjM0NTY3ODkwIn0"
    + ".dozjgNryP4J3jVmNHl0w5N",
    "Entra": "k7Q" + "8Q~" + "mZx81kQmP04vTr7Zx81kQmP04vTr7Zx8",
}

NAMES = (
    *("password", "PASSWORD", "db_password", "dbPassword", "passwd", "DB_PASSWD", "passphrase", "pwd", "DB_PWD"),
    *("token", "HF_TOKEN", "github-token", "accessToken", "X-Auth-Token", "authtoken", "client_secret", "clientSecret"),
    *("SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "aws_access_key_id", "api_key", "apiKey", "apikey", "API_KEY", "APIKEY"),
    *("X-Api-Key", "openai_api_key", "private_key", "privateKey", "AccountKey", "SharedAccessKey", "authorization"),
    *("Authorization", "AUTHORIZATION", "credentials", "GOOGLE_CREDENTIALS", "connection_string", "ConnectionString"),
    *("encryption_key", "secret", "secrets", "refresh_token", "fs.s3a.secret.key", "env_vars", "ENV_VARS", "token1"),
)

# {} is the secret; each is the entrypoint of a job
ENTRYPOINTS = (
    'bash -c "K={} python x.py"',
    "bash -c 'export K={}; python x.py'",
    'bash -lc "cd /w && K={} python x.py"',
    'sh -c "bash -c \\"K={} python x.py\\""',
    "python x.py --token={}",
    "python x.py --token {}",
    'python x.py --token "{}"',
    "python x.py --token='{}'",
    "python x.py --api-key {}",
    "python x.py --api-key={} --lr 0.1",
    "python x.py --hf-token {}",
    "python x.py --db-password '{}'",
    'curl -H "Authorization: {}" https://host/x',
    'curl -H "Authorization: Bearer {}" https://host/x',
    "curl -H 'Authorization: Basic {}' https://host/x",
    'curl -H "X-Api-Key: {}" https://host/x',
    "curl -u me:{} https://host/x",
    'curl --user "me:{}" https://host/x',
    "sudo K={} python x.py",
    "sudo -E K={} python x.py",
    "sudo -u bob K={} python x.py",
    "if true; then K={} python x.py; fi",
    "for i in 1 2; do K={} python x.py; done",
    "a && K={} python x.py",
    "a || K={} python x.py",
    "(K={} python x.py)",
    "{{ K={}; }}",
    "x=$(K={} python y.py)",
    'python x.py "$(K={} python y.py)"',
    "`K={} python y.py`",
    "time K={} python x.py",
    "nohup env K={} python x.py &",
    "env -i A=1 K={} python x.py",
    "env -u A K={} python x.py",
    "export A=1 K={}",
    "declare -x K={}",
    "docker run -e K={} image",
    "docker run -eK={} image",
    "docker run --env K={} image",
    "docker run --env=K={} image",
    "podman build --build-arg K={} .",
    "K='{}' python x.py",
    'K="{}" python x.py',
    "K=a{} python x.py",
    "set -e\nK={}\npython x.py",
    "while K={} python x.py; do true; done",
    "! K={} python x.py",
    "exec K={} python x.py",
    "wget https://{}@host/x",
    "git clone https://me:{}@github.com/org/repo",
    "pip install git+https://{}@github.com/org/repo",
    "aws configure set aws_secret_access_key={}",
    "mysql --password={} -u me",
    "su me -c 'K={} python x.py'",
)

# {} is the secret; each is a text anywhere
TEXTS = (
    "https://{}@host.example/x",
    "https://me:{}@host.example/x",
    "redis://:{}@cache:6379/0",
    "git+https://{}@github.com/org/repo@main",
    "postgres://me:a@{}@db.example:5432/x",
    "postgres://me:a/{}@db.example/x",
    "mongodb+srv://me:{}@cluster0.example/db?retryWrites=true",
    "redis://a:{}@one:1,redis://a:b@two:2",
    "https://account.blob.example/c/b?sv=2022-11-02&sig={}&se=2026",
    "https://account.blob.example/c/b?sig={}",
    "https://bucket.example/key?X-Amz-Algorithm=AWS4&X-Amz-Signature={}",
    "https://bucket.example/key?X-Amz-Credential={}&X-Amz-Date=1",
    "https://bucket.example/key?X-Amz-Security-Token={}",
    "https://storage.example/key?X-Goog-Signature={}",
    "https://host/x?token={}",
    "https://host/x?a=b&access_token={}&c=d",
    "https://host/x?password={}#there",
    "https://host/x?api_key={}",
    "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={};EndpointSuffix=core",
    "Endpoint=sb://x.example/;SharedAccessKeyName=Root;SharedAccessKey={}",
    "Server=db;User Id=me;Password={};Encrypt=true",
    "Driver=ODBC;UID=me;PWD={};",
    "host=db user=me password={} dbname=x",
    "Traceback (most recent call last):\n  File \"x.py\", line 1\nValueError: api_key='{}' is wrong",
    "requests.get(url, headers={{'Authorization': 'Bearer {}'}})",
    "{{'env_vars': {{'A': '{}', 'B': 'x'}}, 'pip': ['numpy']}}",
    "RuntimeEnv(env_vars={{'A': '{}'}})",
    'RuntimeEnv(env_vars={{"A": "{}"}})',
    "could not set up {{'env_vars': {{'A': \"it's {}\"}}}}",
    "login(token='{}')",
    "login(token={})",
    'Client(api_key="{}", timeout=5)',
    "{{'password': '{}'}}",
    "{{'db': {{'user': 'me', 'password': '{}'}}}}",
    "header Authorization: Bearer {}",
    "sent Authorization: {}",
    "with Bearer {}",
    "with token: {}",
    "password: {}",
    "Secret: {}",
    "X-Api-Key: {}",
    "export HF_TOKEN={}",
    "\nHF_TOKEN={}\n",
    "\tpassword={}",
    "argv ['--token', '{}']",
    "argv ['x.py', '--api-key={}']",
    '{{"password": "{}"}}',
    '{{"a": {{"client_secret": ["{}"]}}}}',
    '{{"name": "API_KEY", "value": "{}"}}',
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
    "-----BEGIN OPENSSH PRIVATE KEY-----\n{}",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{}\n-----END PGP PRIVATE KEY BLOCK-----",
)

# where a text may stand: the type, and the event's data
PLACES = {
    "a task's error": ("TASK", {"task_id": "AQ==", "state_updates": {"error_info": {"error_message": "{}"}}}),
    "a task's name": ("TASK", {"task_info": {"name": "{}", "func_or_class_name": "f"}}),
    "an actor's name": ("ACTOR", {"actor_id": "AQ==", "name": "{}"}),
    "an actor's repr": ("ACTOR", {"actor_id": "AQ==", "repr_name": "{}"}),
    "an actor's death": ("ACTOR", {"death_cause": {"actor_died_error_context": {"error_message": "{}"}}}),
    "a job's message": ("SUBMISSION_JOB", {"submission_job_id": "raysubmit_1", "message": "{}"}),
    "a job's metadata": ("SUBMISSION_JOB", {"metadata": {"who": "{}"}}),
    "a driver's metadata": ("DRIVER_JOB", {"config": {"metadata": {"job_name": "{}"}}}),
    "a node's label": ("NODE", {"labels": {"note": "{}"}}),
    "Serve's settings": ("SERVE_DEPLOYMENT", {"deployment_config": {"user_config": {"x": ["{}"]}}}),
    "an application's message": ("SERVE_APPLICATION", {"app_name": "x", "message": "{}"}),
    "Data's arguments": ("DATASET_METADATA", {"topology": {"operators": [{"args": {"kwargs": "{}"}}]}}),
    "an operator's event": ("DATASET_OPERATOR_EVENT", {"message": "{}"}),
    "Train's settings": ("TRAIN_STATE", {"run_settings": {"train_loop_config": {"x": "{}"}}}),
    "an event set aside": ("SET_ASIDE", {"line": "{}"}),
    "a cluster event": ("CLUSTER_EVENT", {"message": "{}"}),
    "a runtime environment": ("TASK", {"task_info": {"runtime_env_info": {"serialized_runtime_env": "<{}>"}}}),
}


def positives() -> Iterator[Case]:
    yield from _places()
    for event_type in ("DRIVER_JOB", "SUBMISSION_JOB"):
        for command in ENTRYPOINTS:
            yield _line(f"{command!r}", event_type, {"entrypoint": command.format(PASSWORD)}, PASSWORD)
    yield from _environments()
    yield from _escaped()


def _places() -> Iterator[Case]:
    for place, (event_type, data) in PLACES.items():
        for shape, secret in SHAPES.items():
            yield _case(f"{shape} in {place}", event_type, data, f"see {secret}, it says", secret)
        for text in TEXTS:
            yield _case(f"{text!r} in {place}", event_type, data, text.format(LONG), LONG)
        for name in NAMES:
            inner = json.dumps({"a": 1, name: LONG, "b": [2]})
            yield _case(f"{name} quoted in {place}", event_type, data, inner, LONG)
    for place, (event_type, _) in PLACES.items():
        for name in NAMES:
            yield _line(f"{name} in {event_type}, {place}", event_type, {"x": {name: LONG}}, LONG)
            yield _line(f"{name} deep in {event_type}, {place}", event_type, {name: {"a": [{"b": LONG}]}}, LONG)


def _environments() -> Iterator[Case]:
    for name, environment in {
        "options": {"container": {"image": "x", "run_options": [f"-e K={PASSWORD}"]}},
        "options apart": {"container": {"image": "x", "run_options": ["-e", f"K={PASSWORD}"]}},
        "options, long": {"container": {"image": "x", "run_options": [f"--env=K={PASSWORD}"]}},
        "options in one": {"container": {"image": "x", "run_options": f"-v /a:/b -e K={PASSWORD}"}},
        "image's options": {"image_uri": "x", "run_options": ["--env", f"K={PASSWORD}"]},
        "executable": {"py_executable": f"env K={PASSWORD} python"},
        "executable, flag": {"py_executable": f"uv run --token {PASSWORD} python"},
        "pip": {"pip": ["numpy", f"git+https://{PASSWORD}@github.com/org/repo"]},
        "index": {
            "pip": {"packages": ["x"], "pip_install_options": [f"--index-url=https://me:{PASSWORD}@host/simple"]}
        },
        "upper case": {"ENV_VARS": {"A": PASSWORD}},
        "key": {"env_vars": {LONG: "x"}},
        "config": {"config": {"x": {"api_key": PASSWORD}}},
        "working directory": {"working_dir": f"https://me:{PASSWORD}@host/x.zip"},
        "variables": {"env_vars": {"A": PASSWORD}},
    }.items():
        secret = LONG if name == "key" else PASSWORD
        text = json.dumps(environment)
        data = {"task_info": {"runtime_env_info": {"serialized_runtime_env": text}}}
        yield _line(f"environment: {name}", "TASK", data, secret)
        yield _line(f"a job's environment: {name}", "SUBMISSION_JOB", {"runtime_env_json": text}, secret)
        yield _line(f"environment, deeper: {name}", "SET_ASIDE", {"line": json.dumps(data)}, secret)
    number = {"env_vars": {"PIN": 428190}, "config": {"timeout": 5}}
    yield _line("a number", "TASK", {"serialized_runtime_env": json.dumps(number)}, "428190")


def _escaped() -> Iterator[Case]:
    for name, text in {
        "a letter": r'{"event_data":{"\u0070assword":"%s"}}',
        "a letter of env_vars": r'{"event_data":{"env\u005fvars":{"A":"%s"}}}',
        "all letters": r'{"event_data":{"\u0074\u006f\u006B\u0065\u006e":"%s"}}',
        "deeper": r'{"event_data":{"x":"{\"\\u0074oken\":\"%s\"}"}}',
        "quotes": r'{"event_data":{"x":"{\u0022token\u0022: \u0022%s\u0022}"}}',
        "quotes, deeper": r'{"event_data":{"x":"{\"y\": \"{\\u0022token\\u0022: \\u0022%s\\u0022}\"}"}}',
        "at": r'{"event_data":{"x":"https://me:%s\u0040host/x"}}',
        "flag": r'{"event_data":{"entrypoint":"x --\u0074oken=%s"}}',
        "spaced": '{"event_data" : {"token"  :  "%s"}}',
    }.items():
        yield Case(f"escaped: {name}", "SUBMISSION_JOB", (text % LONG).encode() + b"\n", LONG.encode())
    yield Case("a value", "TASK", rb'{"password":"\u0068unter2","z":1}' + b"\n", rb"\u0068unter2")


def _case(name: str, event_type: str, data: object, text: str, secret: str) -> Case:
    return _line(name, event_type, _filled(data, text), secret)


def _line(name: str, event_type: str, data: object, secret: str) -> Case:
    event = {"event_data": data, "event_id": "5f6f", "source_type": f"EXPORT_{event_type}", "timestamp": 1795419634}
    return Case(name, event_type, json.dumps(event).encode() + b"\n", secret.encode())


def _filled(data: object, text: str) -> object:
    if isinstance(data, dict):
        return {key: _filled(value, text) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, text) for value in data]
    forms: dict[object, object] = {"{}": text, "<{}>": json.dumps({"x": text})}
    return forms.get(data, data)


ORDINARY = (
    # what a language model reads is called as a secret is
    *('{"max_tokens": 512, "num_tokens": 4096, "token_count": 17}', '{"pad_token": "[PAD]", "eos_token": "</s>"}'),
    *(
        '{"pad_token_id": 0, "eos_token_id": 2, "bos_token": "<s>"}',
        '{"tokens": ["hello", "world"], "tokens_per_s": 17.5}',
    ),
    *(
        '{"tokenizer": "meta-llama/Llama-3", "tokenizer_mode": "auto"}',
        '{"stop_token_ids": [1, 2], "mask_token": "<mask>"}',
    ),
    *(
        "tokenize(batch)",
        "train.tokenize",
        "MapBatches(TokenizeBatch)",
        "num_tokens=4096, token_count=3",
        "next_token: 5",
    ),
    *(
        "generated 512 tokens in 3.1 s",
        "token 5 of 17",
        "unexpected token: '}' at line 3",
        "SyntaxError: invalid token",
    ),
    *("JSONDecodeError: unexpected token: }", "token_type_ids", "prefill tokens: 4096", "output_tokens_per_second"),
    # what is about secrets, and is none
    *(
        '{"secret_name": "db-creds", "secretName": "tls"}',
        '{"password_file": "/run/secrets/db"}',
        "--password-file /run/x",
    ),
    *('{"token_url": "https://host/oauth"}', '{"credential_refresh_enabled": true}', '{"authorization_mode": "rbac"}'),
    *(
        '{"token_ttl": 3600, "token_type": "bearer"}',
        '{"api_key_name": "main"}',
        "--token-file=/run/token",
        "the password",
    ),
    *("wrong password for user bob", "no credentials were found", "the secret of success", "authorization failed"),
    *(
        "token is required",
        "password must not be empty",
        "Password: ",
        "secret",
        "credentials",
        "api_key",
        "token",
        "pwd",
    ),
    *(
        "password=None",
        "token=null",
        "api_key=True",
        "secret=False",
        "token=<object object at 0x7f>",
        "password=self.password",
    ),
    *("token=os.environ['HF_TOKEN']", "api_key=get_key()", "token=token", "cd $(pwd) && ls", "PWD=/home/ray"),
    *(
        '{"primary_key": "id", "partition_key": "day", "sort_key": "ts"}',
        "groupby_key=user",
        "cache_key=x",
        "public_key=abc",
    ),
    *(
        '{"key": "value", "keys": ["a"]}',
        "KeyError: 'api'",
        "RAY_AUTH_MODE=token",
        "secretary of state",
        "passwordless",
    ),
    *(
        '{"env_vars": {}}',
        '{"env_vars": null}',
        "env_vars are not set",
        '{"my_env_vars": {"A": "x"}}',
        "env_vars=env_vars",
    ),
    # addresses
    *("s3://bucket/a/b@c", "gs://bucket/x", "hdfs://name:8020/x", "abfss://container@account.dfs.core.windows.net/x"),
    *("https://host:8080/a@b", "https://github.com/org/repo@main", "git+https://github.com/org/repo.git@v1.2.3"),
    *("git+ssh://git@github.com/org/repo", "ssh://me@host/x", "git@github.com:org/repo.git", "me@host.example", "a@b"),
    *("http://10.0.0.1:8265", "http://[::1]:8265/x@y", "gcs://_ray_pkg_ab4f8979bd806e5c.zip", "tcp://127.0.0.1:6379"),
    *("https://host/x?a=b@c&d=e", "https://host/x?sign=a", "https://host/x?sig=none", "file:///tmp/a@b", "12:30@noon"),
    *(
        "https://huggingface.co/org/model",
        "https://host/x#token",
        "ray://head:10001",
        "grpc://head:50051/a",
        "@ray.remote",
    ),
    # code, commands and messages
    *(
        "python x.py a=b lr=0.1",
        "python -m x --lr 0.1 --key name",
        "python -c 'a=1'",
        "torchrun --nproc 4 x.py model=a",
    ),
    *("python x.py optimizer.lr=1e-3 trainer.epochs=5", "serve run app:x --name a", "ls -l && cat x", "echo a; echo b"),
    *(
        "f(a=1, b='x')",
        "signature=(a, b)",
        "signature = inspect.signature(f)",
        "design=x",
        "sigma=0.123456789012345678",
    ),
    *(
        "lambda x: x['a']",
        "ValueError: a=1 is not b=2",
        "x = {'a': 'b', 'c': ['d']}",
        "task-0123456789abcdef0123456789abcdef",
    ),
    *("disk-0123456789abcdef0123456789abcdef01", "mask-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "risk-free", "sk-learn"),
    *(
        "scikit-learn-sk-classifier-random-forest",
        "hf_model",
        "hf_hub_download",
        "ghp_",
        "AKIA",
        "eyJ",
        "xoxo-",
        "glpat-",
    ),
    *(
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    ),
    *(
        "bearer of news",
        "the Bearer was here",
        "clearer than before",
        "Authorization is off",
        "shearer abcdefghijklmnopq1",
    ),
    *(
        "\u001b[36mray::f()\u001b[39m",
        "<lambda>",
        "naïve café",
        "日本語",
        "a\\b\\c",
        "C:\\token\\x",
        "50% done [=====>    ]",
    ),
    *("Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2.",),
)


def negatives() -> Iterator[Case]:
    for number, text in enumerate(ORDINARY):
        for place, (event_type, data) in PLACES.items():
            yield _case(f"{number} {text!r} in {place}", event_type, data, text, "")
    for text in ORDINARY:
        # a variable may follow each of these marks
        if not re.search(r"[;&|(\n]", text):
            yield _line(f"command {text!r}", "SUBMISSION_JOB", {"entrypoint": f"python x.py {text}"}, "")
