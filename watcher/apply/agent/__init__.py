"""What runs beside PgBouncer: replaces its file, relays its console, and lets its clients wait.

Standard library only, Python 3.6 or newer, because it is sent over the SSH connection to hosts that have
nothing of ours, or installed there behind a forced command; `bundle.source()` makes one file of it:

    restrict,command="/usr/bin/python3 -I /usr/local/lib/pgbouncer-watcher/agent.py --block demo
        --file /etc/pgbouncer/pgbouncer.ini --console /var/run/postgresql/.s.PGSQL.6432" ssh-ed25519 …

The caller then chooses only between three words: `file` (read, write, reload), `console` (bytes to and
from PgBouncer's console) and `hold` (PAUSE and RESUME, on a lease). A local target runs the same as a
child process. All of them end when their standard input ends, so nothing outlives the watcher.

    wire ◄── file                    one JSON object a line, each way
         ◄── console ◄── hold        PgBouncer's console as simple queries
             greeting ◄── guard ◄─┘  does PostgreSQL take a login?
    bounds                           what an installed agent refuses, whoever holds the key
    main                             the command line
"""
