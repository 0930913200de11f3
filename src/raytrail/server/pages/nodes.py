"""The pages of a cluster's nodes, and of one of them."""

from __future__ import annotations

from raytrail.answers.nodes import NodeReport, Nodes, node, nodes
from raytrail.server.context import View
from raytrail.server.pages.page import Page, scope

_JOB = {"job": "Count only the attempts of this job: a driver job's id, or a submission's."}


def _answer(view: View) -> Nodes:
    """Each node with what ran on it, why it died and what was lost with it, and where one was slower than others."""
    return nodes(scope(view), job=view.param("job"), order=view.param("order"))


def _answer_one(view: View) -> NodeReport:
    """One node with its functions beside the same on the others, and the tasks and actors that were lost with it."""
    return node(scope(view), str(view.path["node"]), job=view.param("job"))


PAGE = Page(
    path="/nodes",
    title="Nodes",
    answer=_answer,
    template="nodes.html",
    rows="nodes",
    parameters={
        **_JOB,
        "order": "The column to sort by, with `-` before one that descends. Without it, those come first that died "
        "though nobody asked them to.",
    },
    for_browsers=True,
)
ONE = Page(
    path="/nodes/{node}",
    title="Node",
    answer=_answer_one,
    template="node.html",
    rows="functions",
    parameters=_JOB,
    for_browsers=True,
    tab=False,
)
