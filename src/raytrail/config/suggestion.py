"""The name that is likely meant by one that no setting has."""

from __future__ import annotations

import difflib
import re

from raytrail.config.setting import settings
from raytrail.config.tables import PROCESS, Config


def suggestion(error: str, *, of_destination: bool = False) -> str:
    """Return the end of an error about an unknown name, with the name that is likely meant."""
    match = re.match(r"Object contains unknown field `(.+?)`(?: - at `\$\.(\w+))?", error)
    if match is None:
        return ""
    unknown, table = match.groups()
    if of_destination:
        names = [setting.name for setting in settings() if setting.table in ("tail", "agent")]
        meant = {name: name for name in {*names, "to"} - PROCESS}
    elif table:
        meant = {setting.name: setting.name for setting in settings() if setting.table == table}
    else:  # a table, or a setting that stands in none
        meant = {setting.name: f"{setting.name} in [{setting.table}]" for setting in settings()}
        meant |= {name: name for name in Config.__struct_fields__}
    near = difflib.get_close_matches(unknown, meant, n=1)
    return f"; did you mean {meant[near[0]]}?" if near else "; `raytrail settings` lists all"
