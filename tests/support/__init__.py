"""Real servers as objects: the test bed of this project.

Every module here promises the same three things: a server is stopped by its own process id and never by
name, nothing of it outlives the process that started it, and every wait ends at a deadline and then says
what it saw. Start with `bed.Bed`, or with one server: `etcd.EtcdCluster`, `pgbouncer.PgBouncer`, …
"""
