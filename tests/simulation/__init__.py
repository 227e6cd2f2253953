"""The watcher's own decisions against a world that is simulated, fault by fault, from a seed.

Real are `watcher.decide`, `board`, `mailbox` and `reconciler`. Simulated are time, etcd, Patroni's nodes, the
network between, and PgBouncer's hosts, which are those of `tests.support.fake_target`.
"""
