"""
The laboratory: made-up sessions, real Rays, what they answer, and comparisons. For tests, benchmarks and the demo.

None of it is in the wheel. Others test their own parts with `raytrail.testing`.
"""
