"""Keeps PgBouncer pointed at the primary of a Patroni cluster.

The tree reads as a sentence: `observe` what etcd and Patroni say, `decide` where clients belong,
`apply` it to each PgBouncer, `expose` what happened. `docs/architecture.md` is the map.
"""
