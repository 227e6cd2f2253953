"""Mutation testing of `watcher/decide/`: `python -m tests.mutants` (docs/reliability.md)."""
