"""Settings whose values must fit together."""

import pytest

from raytrail.config import HEARTBEAT_SECONDS, LEAST_QUIET_SECONDS, load
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
