"""What failed, and why: failures grouped by signature, each group under the failure that the others follow from."""

from raytrail.answers.failures.all_sessions import all_failures
from raytrail.answers.failures.limit import MOST_SHOWN, SHOWN
from raytrail.answers.failures.one_session import failure_rows, failures_of
from raytrail.answers.failures.structs import AllFailures, FailureGroup, FailureRows, Failures, Part, SeenGroup

__all__ = [
    "MOST_SHOWN",
    "SHOWN",
    "AllFailures",
    "FailureGroup",
    "FailureRows",
    "Failures",
    "Part",
    "SeenGroup",
    "all_failures",
    "failure_rows",
    "failures_of",
]
