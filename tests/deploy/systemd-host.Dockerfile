# A whole host with systemd: PgBouncer, sshd, an etcd of one member, and the watcher's program in its place.
# A unit that has been stopped by policy-rc.d is started by the test.
ARG BASE
ARG WATCHER
FROM ${WATCHER} AS watcher

FROM ${BASE}
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        systemd systemd-sysv dbus openssh-server pgbouncer etcd-server etcd-client python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && systemctl disable etcd pgbouncer ssh
COPY --from=watcher /opt/pgbouncer-watcher /opt/pgbouncer-watcher
CMD ["/sbin/init"]
