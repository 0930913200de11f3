"""``raytrail delete``: sessions that are no longer to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from raytrail import times, words
from raytrail.config import Config
from raytrail.errors import ConfigError
from raytrail.exit_codes import DIFFERENT
from raytrail.store import Deleted, Plan, Request
from raytrail.terminal import changes, note, options, printing, stores
from raytrail.terminal.printing import Field

FIELDS = (
    Field("session", whole=True),
    Field("cluster", rank=1),
    Field("events", right=True),
    Field("stored", right=True),
    Field("outcome"),
)
WHY = "asked for with `raytrail delete`"
MARKED = "deleted; its files go shortly"


@click.command(cls=options.Command)
@click.argument("cluster_ids", nargs=-1, metavar="CLUSTER...")
@click.option("--name", help="All sessions of a cluster's name, too.")
@click.option("--reason", default="", metavar="TEXT", help="The reason, which the history remembers and logs.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--list", "listing", is_flag=True, help="List the sessions that were deleted, and nothing else.")
@click.option("--forget", is_flag=True, help="Take events of these deleted sessions again. Give their whole names.")
@options.output_format("table", "json")
@options.settings("store")
def delete(
    cluster_ids: tuple[str, ...],
    name: str | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    listing: bool,
    forget: bool,
    form: str,
    config: Config,
) -> None:
    """
    Delete sessions for good.

    It says what it would delete, and asks. A session that lives, or that `raytrail hold` holds, is not deleted, and the
    exit code is 1. A history and servers may go on meanwhile: from then on nobody lists or opens the session, and its
    files go once no answer can still be reading them. Events of it that come later are set aside.

    \b
    raytrail delete session_2026-11-23_07-40-30_867494_13129
    raytrail delete --name nightly --dry-run
    """
    if listing:
        _list(config, form)
        return
    if not cluster_ids and name is None:
        raise ConfigError("nothing to delete; give a CLUSTER, or --name, or --list for what was deleted")
    if forget:
        _forget(config, cluster_ids, name)
        return
    plans = _plan(config, cluster_ids, name)
    able = [plan for plan in plans if not plan.refusal]
    outcomes = {plan.session: plan.refusal or "would be deleted" for plan in plans}
    if able and not dry_run:
        if not yes:
            _show(plans, outcomes)
            size = words.size(sum(plan.bytes for plan in able))
            many = f"{len(able)} session{'' if len(able) == 1 else 's'}"
            click.confirm(f"Delete {many}, {size}, for good?", abort=True, err=True)
        why = f"{WHY}: {reason}" if reason else WHY
        changes.change(config, [Request(verb="delete", session=plan.session, reason=why) for plan in able])
        outcomes |= _read_outcomes(config, able)
    if form == "json":
        printing.write_json({**msgspec.structs.asdict(plan), "outcome": outcomes[plan.session]} for plan in plans)
    else:
        _show(plans, outcomes)
    if any(outcomes[plan.session] not in ("would be deleted", "deleted", MARKED) for plan in plans):
        click.get_current_context().exit(DIFFERENT)


def _forget(config: Config, sessions: Sequence[str], name: str | None) -> None:
    if name is not None or not sessions:
        raise ConfigError("--forget takes whole names of sessions, and no --name; `raytrail delete --list` has them")
    changes.change(config, [Request(verb="forget", session=session) for session in sessions])
    note(f"events of {', '.join(sessions)} are taken again")


def _plan(config: Config, cluster_ids: Sequence[str], name: str | None) -> list[Plan]:
    with stores.reading(config) as store:
        return [store.deletions.plan(cluster.session) for cluster in changes.chosen(store, cluster_ids, name)]


def _read_outcomes(config: Config, plans: Sequence[Plan]) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    with stores.reading(config) as store:
        for plan in plans:
            gone = store.marks.find(plan.session)
            if gone is None:
                refusal = store.deletions.plan(plan.session).refusal
                outcomes[plan.session] = refusal or "not deleted; the history's log says why"
            else:
                outcomes[plan.session] = "deleted" if gone.done else MARKED
    return outcomes


def _show(plans: Sequence[Plan], outcomes: dict[str, str]) -> None:
    rows = [
        {
            "session": plan.session,
            "cluster": plan.cluster,
            "events": f"{plan.events:,}",
            "stored": words.size(plan.bytes),
            "outcome": outcomes[plan.session],
        }
        for plan in plans
    ]
    printing.leave_note(printing.table(FIELDS, rows, wrap="outcome"))


def _list(config: Config, form: str) -> None:
    with stores.reading(config) as store:
        every = store.marks.every()
    if form == "json":
        printing.write_json(every)
    elif not every:
        note("no session was deleted")
    else:
        fields = (
            Field("session", whole=True),
            Field("deleted"),
            Field("freed", rank=1, right=True),
            Field("late chunks", rank=2, right=True),
            Field("why"),
        )
        printing.leave_note(printing.table(fields, [_shown(deleted) for deleted in every], wrap="why"))


def _shown(deleted: Deleted) -> dict[str, str]:
    return {
        "session": deleted.session,
        "deleted": times.show(deleted.deleted_ms, digits=0),
        "freed": words.size(deleted.bytes) if deleted.done else "not yet",
        "late chunks": f"{deleted.late_chunks:,}",
        "why": deleted.why,
    }
