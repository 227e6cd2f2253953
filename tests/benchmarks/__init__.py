"""How fast, and at what cost: measured on real servers, beside the design that this project replaces.

`python -m tests.benchmarks [CASE]` measures, `--report` prints what was measured last; docs/benchmarks.md.
"""
