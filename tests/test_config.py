"""Settings whose values must fit together."""

from pathlib import Path
from typing import Any

import pytest

from raytrail.config import HEARTBEAT_SECONDS, LEAST_QUIET_SECONDS, load, settings
from raytrail.errors import ConfigError

QUIET = "seal_after_quiet_seconds"


@pytest.mark.parametrize("how", ["file", "environment", "flag"])
def test_quiet_that_is_shorter_than_signs_of_life_is_refused(tmp_path, how):
    file = tmp_path / "raytrail.toml"
    file.write_text(f"[store]\n{QUIET} = 119.5\n" if how == "file" else "")
    environ = {"RAYTRAIL_STORE_SEAL_AFTER_QUIET_SECONDS": "119.5"} if how == "environment" else {}
    flags = {"store": {QUIET: "119.5"}} if how == "flag" else {}
    with pytest.raises(ConfigError) as error:
        load(file, environ, flags)
    assert str(error.value) == (
        "settings: store.seal_after_quiet_seconds 119.5 is shorter than two signs of life of an agent, which come "
        "every 60 seconds: clusters that are idle would be sealed while they live; give 120 or more"
    )


def test_the_shortest_quiet_holds_two_signs_of_life():
    assert LEAST_QUIET_SECONDS == 2 * HEARTBEAT_SECONDS
    config = load(None, {}, {"store": {QUIET: LEAST_QUIET_SECONDS}})
    assert config.store.seal_after_quiet_seconds == LEAST_QUIET_SECONDS


@pytest.mark.parametrize(
    ("text", "size"),
    [("262144", 262_144), ("256 KiB", 262_144), ("256KiB", 262_144), ("1.5 MB", 1_500_000), ("2G", None)],
)
def test_a_size_may_have_a_unit_wherever_it_is_said(tmp_path, text, size):
    file = tmp_path / "raytrail.toml"
    file.write_text(f'[tail]\nchunk_bytes = "{text}"\n')
    cases: tuple[tuple[Path | None, dict[str, str], dict[str, Any]], ...] = (
        (file, {}, {}),
        (None, {"RAYTRAIL_TAIL_CHUNK_BYTES": text}, {}),
        (None, {}, {"tail": {"chunk_bytes": text}}),
    )
    for case in cases:
        if size is None:
            with pytest.raises(ConfigError, match="int"):
                load(*case)
        else:
            assert load(*case).tail.chunk_bytes == size


def test_a_default_is_shown_as_people_write_it():
    shown = {setting.key: setting.shown_default for setting in settings()}
    assert shown["tail.chunk_bytes"] == "512 KiB"
    assert shown["tail.rotation_bytes"] == "100 MB"
    assert (shown["tail.redact"], shown["tail.event_types"], shown["tail.export"]) == ("env_vars", "", "true")
    assert (shown["store.threads"], shown["tail.poll_seconds"]) == ("one a core", "0.18")
    # what is shown can be given
    for setting in settings():
        if setting.name.endswith("_bytes"):
            assert (
                getattr(getattr(load(None, {setting.variable: setting.shown_default}, {}), setting.table), setting.name)
                == setting.default
            )
