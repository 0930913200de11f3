"""How long attempts of tasks waited and ran, in SQL over the public view ``task``."""

from __future__ import annotations

from collections.abc import Sequence


def _span(start: str, end: str) -> str:
    """Return the nanoseconds between two times, which two clocks may have told. Null where one is not known."""
    return f"CASE WHEN {end} > {start} THEN {end} - {start} WHEN {end} <= {start} THEN 0 END"


def _part(start: str, end: str) -> str:
    return f"greatest({end} - {start}, 0)"  # which is 0 where one is not known


COUNTED = "type IS NOT NULL AND type != 'DRIVER_TASK'"
"""The attempts that Ray's own list and summary count."""
FUNCTION = "coalesce(func_or_class_name, '')"
RUNNING_NS = _span("running_ns", "coalesce(failed_ns, finished_ns)")
"""From the start to the end."""
WAITING_NS = _span("pending_args_avail_ns", "running_ns")
"""From the submission to the start."""
ARGUMENTS_NS = " + ".join(
    (
        _part("pending_args_avail_ns", "pending_node_assignment_ns"),
        _part("pending_args_fetch_ns", "submitted_to_worker_ns"),
        _part("getting_and_pinning_args_ns", "running_ns"),
    )
)
"""Of the waiting: until its arguments existed, and until they were at its worker."""
ASSIGNMENT_NS = _part(
    "pending_node_assignment_ns",
    "coalesce(pending_obj_store_mem_avail_ns, pending_args_fetch_ns, submitted_to_worker_ns)",
)
"""Of the waiting: until a node had room for it and a worker took it, or until its actor was there."""


def of_jobs(job_ids: Sequence[str]) -> str:
    """Return the rest of the condition on tasks: the driver jobs that they belong to. None means all."""
    if not job_ids:
        return ""
    listed = ", ".join(f"'{job_id}'" for job_id in job_ids)
    return f" AND job_id IN ({listed})"
