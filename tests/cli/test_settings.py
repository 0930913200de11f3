"""Settings: file, environment and flags, and how they are shown."""

import json

import msgspec
import pytest

from raytrail import config
from raytrail.config import Config, load
from raytrail.errors import ConfigError
from raytrail.exit_codes import USAGE


def test_every_setting_has_a_meaning_a_kind_and_a_flag_of_its_own():
    every = config.settings()
    tables = [field.type for field in msgspec.structs.fields(Config) if field.name != "destinations"]
    assert len(every) == sum(len(table.__struct_fields__) for table in tables)
    assert [setting.key for setting in every if not setting.doc or not setting.kind] == []
    assert len({setting.flag for setting in every}) == len(every)


def test_later_ones_win_flag_over_environment_over_file(tmp_path):
    file = tmp_path / "raytrail.toml"
    file.write_text('[tail]\npoll_seconds = 1\nsweep_seconds = 1\nchunk_bytes = 2048\nevent_types = ["TASK"]\n')
    environ = {"RAYTRAIL_TAIL_SWEEP_SECONDS": "2", "RAYTRAIL_TAIL_CHUNK_BYTES": "4096"}
    tail = load(file, environ, {"tail": {"chunk_bytes": "8192", "inotify": False}}).tail
    assert (tail.poll_seconds, tail.sweep_seconds, tail.chunk_bytes) == (1.0, 2.0, 8192)
    assert (tail.event_types, tail.inotify) == (("TASK",), False)


def test_the_file_may_be_named_in_the_environment(tmp_path):
    (tmp_path / "x.toml").write_text("[server]\nport = 1\n")
    assert load(None, {"RAYTRAIL_CONFIG": str(tmp_path / "x.toml")}, {}).server.port == 1


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RAYTRAIL_TAIL_POLL_SECONDS": "0"}, "RAYTRAIL_TAIL_POLL_SECONDS='0': Expected `float` > 0.0"),
        ({"RAYTRAIL_TAIL_INOTIFY": "perhaps"}, "RAYTRAIL_TAIL_INOTIFY='perhaps': Expected `bool`, got `str`"),
        ({"RAYTRAIL_TAIL_SESSIONS": "old"}, "RAYTRAIL_TAIL_SESSIONS='old': Invalid enum value 'old'"),
        (
            {"RAYTRAIL_TAIL_POL_SECONDS": "1"},
            "no setting RAYTRAIL_TAIL_POL_SECONDS (='1') in the environment; did you mean RAYTRAIL_TAIL_POLL_SECONDS?",
        ),
    ],
)
def test_a_wrong_variable_stops_the_start(environ, says):
    with pytest.raises(ConfigError) as caught:
        load(None, environ, {})
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[tail]\npol_seconds = 1\n",
            "Object contains unknown field `pol_seconds` - at `$.tail`; did you mean poll_seconds?",
        ),
        (
            "poll_seconds = 1\n",
            "Object contains unknown field `poll_seconds`; did you mean poll_seconds in [tail]?",
        ),
        ("[tial]\npoll_seconds = 1\n", "Object contains unknown field `tial`; did you mean tail?"),
        ("[tail]\nxyz = 1\n", "Object contains unknown field `xyz` - at `$.tail`; `raytrail settings` lists all"),
        ("[agent]\nin_flight_bytes = 1\n", "Expected `int` >= 1024 - at `$.agent.in_flight_bytes`"),
        ("[tail\n", "Expected ']' at the end of a table declaration (at line 1, column 6)"),
    ],
)
def test_a_wrong_file_stops_the_start(tmp_path, text, says):
    file = tmp_path / "raytrail.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {}, {})
    assert str(caught.value) == f"{file}: {says}"


def test_an_absent_file_stops_the_start(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", {}, {})
    assert str(caught.value) == (
        f"settings file {tmp_path}/none.toml: No such file or directory; create it, or mend its path"
    )


def test_what_kubernetes_says_about_a_service_named_raytrail_server_is_no_setting():
    environ = {
        "RAYTRAIL_SERVER_PORT": "tcp://10.0.0.1:8365",
        "RAYTRAIL_SERVER_SERVICE_HOST": "10.0.0.1",
        "RAYTRAIL_SERVER_SERVICE_PORT_HTTP": "8365",
        "RAYTRAIL_SERVER_PORT_8365_TCP_ADDR": "10.0.0.1",
        "RAYTRAIL_SERVER_PORT_8365_TCP": "tcp://10.0.0.1:8365",
    }
    assert load(None, environ, {}) == Config()


def test_the_store_lies_beside_the_checkpoint_unless_it_is_given():
    assert str(config.store_dir(load(None, {"RAYTRAIL_TAIL_STATE_DIR": "/x"}, {}))) == "/x/store"
    assert str(config.store_dir(load(None, {"RAYTRAIL_STORE_DIR": "/y"}, {}))) == "/y"


def test_settings_are_shown_with_where_they_come_from(run, tmp_path, monkeypatch):
    file = tmp_path / "raytrail.toml"
    file.write_text("[tail]\npoll_seconds = 0.5\n")
    monkeypatch.setenv("RAYTRAIL_SERVER_PORT", "9000")
    rows = {r["setting"]: r for r in json.loads(run("settings", "--config", file, "--format", "json").stdout)}
    assert (rows["tail.poll_seconds"]["value"], rows["tail.poll_seconds"]["from"]) == (0.5, str(file))
    assert (rows["server.port"]["value"], rows["server.port"]["from"]) == (9000, "environment")
    assert (rows["server.host"]["value"], rows["server.host"]["from"]) == ("127.0.0.1", "default")
    table = run("settings").stdout.splitlines()
    assert table[0].split() == ["setting", "value", "from", "meaning"]
    assert len(table) == len(rows) + 1


def test_the_docs_table_holds_defaults_that_are_the_same_on_every_machine(run):
    text = run("settings", "--format", "markdown").stdout
    assert text == config.markdown()
    assert (
        "| `tail.poll_seconds`<br>`RAYTRAIL_TAIL_POLL_SECONDS`<br>`--poll-seconds` | `0.18`<br>number, > 0 | "
        "How often the agent looks for new bytes. An event waits no longer than this for others to go with. |\n"
    ) in text
    assert "| `one a core`<br>integer, >= 1 | Threads of the engine. |" in text


def test_a_commands_flags_are_those_of_the_settings_it_minds(run):
    text = run("agent", "--help-all").stdout
    assert "--poll-seconds SECONDS" in text
    assert "--inotify / --no-inotify" in text
    assert "[default: 512 KiB]" in text
    assert "--port" not in text
    assert "--store DIR" in run("list", "--help").stdout


def test_a_wrong_flag_names_itself(run):
    done = run("agent", "--to", "memory://", "--poll-seconds", "soon", code=USAGE)
    assert done.stderr == "raytrail: error: --poll-seconds='soon': Expected `float`, got `str`\n"


def of(text, tmp_path, **agent):
    file = tmp_path / "raytrail.toml"
    file.write_text(text)
    return config.destinations(load(file, {}, {"agent": agent}))


def test_without_any_place_there_is_no_destination(tmp_path):
    assert of("", tmp_path) == ()


def test_a_destination_has_what_it_says_and_else_what_all_have(tmp_path):
    text = """
        [tail]
        state_dir = "/x"
        event_types = ["TASK"]
        [tail.events_per_second]
        TASK = 10
        [agent]
        drain_seconds = 5
        [destinations.lake]
        to = "memory://lake"
        event_types = []
        bytes_per_second = {ALL = 1000}
        drain_seconds = 7
        [destinations.b-2]
        to = "memory://b"
    """
    first, lake, other = of(text, tmp_path, to="memory://a")
    assert [destination.name for destination in (first, lake, other)] == ["", "lake", "b-2"]
    assert [destination.agent.to for destination in (first, lake, other)] == [
        "memory://a",
        "memory://lake",
        "memory://b",
    ]
    assert [destination.agent.drain_seconds for destination in (first, lake, other)] == [5, 7, 5]
    assert [destination.tail.event_types for destination in (first, lake, other)] == [("TASK",), (), ("TASK",)]
    assert [destination.tail.events_per_second for destination in (first, lake, other)] == [{"TASK": 10}] * 3
    assert [destination.tail.bytes_per_second for destination in (first, lake, other)] == [{}, {"ALL": 1000}, {}]
    assert [str(destination.checkpoint_file) for destination in (first, lake, other)] == [
        "/x/checkpoint.sqlite",
        "/x/lake.sqlite",
        "/x/b-2.sqlite",
    ]
    assert [str(destination.dead_letters) for destination in (first, lake)] == [
        "/x/dead-letters/checkpoint",
        "/x/dead-letters/lake",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[destinations.lake]\nevent_types = []\n",
            "destination 'lake' names no place; give it a `to`, e.g. kafka://host:9092/ray-events",
        ),
        (
            '[destinations."../x"]\nto = "memory://x"\n',
            "destination '../x': name it with a-z, 0-9, '_', '-'; not 'checkpoint' or 'default'",
        ),
        (
            '[destinations.checkpoint]\nto = "memory://x"\n',
            "destination 'checkpoint': name it with a-z, 0-9, '_', '-'; not 'checkpoint' or 'default'",
        ),
        (
            '[destinations.lake]\nto = "memory://x"\nlisten = ":1"\n',
            "destination 'lake': listen is one for all; set it in [tail] or [agent]",
        ),
        (
            '[destinations.lake]\nto = "memory://x"\nevent_type = ["TASK"]\n',
            "destination 'lake': Object contains unknown field `event_type`; did you mean event_types?",
        ),
        (
            '[destinations.lake]\nto = "memory://x"\nevents_per_second = {TASK = 0}\n',
            "destination 'lake': Expected `float` > 0.0 - at `$.events_per_second[...]`",
        ),
    ],
)
def test_a_wrong_destination_stops_the_start(tmp_path, text, says):
    with pytest.raises(ConfigError) as caught:
        of(text, tmp_path)
    assert str(caught.value) == says


def test_limits_are_given_as_pairs_outside_of_the_file():
    environ = {"RAYTRAIL_TAIL_EVENTS_PER_SECOND": "TASK=5000,ALL=9e3"}
    tail = load(None, environ, {"tail": {"bytes_per_second": "ALL=1000000", "redact": ""}}).tail
    assert (tail.events_per_second, tail.bytes_per_second) == ({"TASK": 5000, "ALL": 9000}, {"ALL": 1e6})
    assert tail.redact == ()
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"tail": {"events_per_second": "TASK"}})
    assert str(caught.value) == "--events-per-second='TASK': Expected `float`, got `str` - at `$[...]`"


def test_a_url_in_the_environment_is_a_setting():
    assert load(None, {"RAYTRAIL_AGENT_TO": "kafka://host:9092/topic"}, {}).agent.to == "kafka://host:9092/topic"
