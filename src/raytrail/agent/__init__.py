"""
tail -> publish: runs on every node, beside Ray.

`loop` is one destination's straight line. `agent` runs all destinations of a node, with its probes and its receiver.
"""

from raytrail.agent.loop import drain, run

__all__ = ["drain", "run"]
