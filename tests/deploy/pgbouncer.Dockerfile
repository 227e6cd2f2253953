# PgBouncer alone, as the pods of deploy/kubernetes expect it: on the path, and run by any account.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends pgbouncer && rm -rf /var/lib/apt/lists/*
