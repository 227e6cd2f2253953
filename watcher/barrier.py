#!/usr/bin/env python3
"""What Patroni runs before it stops PostgreSQL: has every target held first, and waits for it, bounded.

    postgresql:
      before_stop: /usr/local/bin/pgbouncer-watcher-barrier --patroni-config /etc/patroni/config.yml

One file, standard library and PyYAML (which Patroni itself needs), Python 3.6 or newer, so that it can be
installed alone on a Patroni node and be run by Patroni's own Python. It speaks etcd's JSON gateway, as
Patroni does: gRPC would take longer to import than most holds take.

    watcher   → {prefix}pgbouncer-watcher/targets/<target>/<watcher>   {"watcher": …, "held_for": "<id>"}
    barrier   → {prefix}pgbouncer-watcher/stop/<member>                {"id": …, "member": …, "limit": …}

Promises. A stop that concerns nobody (a replica's, or no watcher is alive) is not delayed, but for a read of
etcd. No stop is delayed beyond the limit, nor once etcd is silent, nor once the leader key is another's, nor
while that key is about to run out: PostgreSQL goes on writing while this waits. The exit code is 0 whatever
happened, a line on standard error says what.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import re
import ssl
import sys
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

LIMIT = 10.0  # seconds; what `--limit` is where it is not given
SILENCE = 1.5  # etcd that has not answered for so long is not waited for
TRY = 0.5  # for one question to one member of etcd, connection included
LINGER = 3  # seconds that the request outlives us: until PostgreSQL itself refuses, and others see that
LEAST_LEFT = 1 / 3  # of the leader key's time to live: PostgreSQL must be down before the key runs out
MOST_BYTES = 4 * 1024 * 1024  # of one answer of etcd's
GRACE = 0.5  # after the limit: then this ends whatever it is at, a resolver that hangs included
OK, FAILED, BAD_SETTINGS = 0, 1, 2


class Unusable(Exception):
    """Settings that cannot be used: what is wrong, and what to do."""


class Unheard(Exception):
    """etcd did not answer in time, or refuses us."""


# --- settings, out of Patroni's own --------------------------------------------------------------------


class Access(NamedTuple):
    """How etcd is reached. `hosts` are tried in their order."""

    hosts: List[Tuple[str, int]]
    tls: bool = False
    ca: Optional[str] = None
    certificate: Optional[str] = None
    key: Optional[str] = None
    username: Optional[str] = None
    password: Optional[str] = None


class Settings(NamedTuple):
    """`prefix` is that of all keys of the cluster, with the slash at its end."""

    member: str
    prefix: str
    access: Access
    limit: float


def settings_of(options: argparse.Namespace) -> Settings:
    """Patroni's file, with what the flags say instead. Unusable with the reason."""
    config = read_patroni(options.patroni_config) if options.patroni_config else {}
    namespace = str(options.namespace or config.get("namespace") or "service").strip("/")
    scope = _required(options.scope or config.get("scope"), "scope")
    group = _group(config) if options.group is None else options.group
    return Settings(
        member=_required(options.name or config.get("name"), "name"),
        prefix="/{}/{}/".format(namespace, scope if group is None else "{}/{}".format(scope, group)),
        access=access_of(config, options.etcd),
        limit=options.limit,
    )


def _group(config: Dict[str, Any]) -> Optional[int]:
    """In Citus each group has keys of its own (Patroni dcs/__init__.py, client_path)."""
    citus = config.get("citus")
    group = citus.get("group") if isinstance(citus, dict) else None
    return group if isinstance(group, int) else None


def _required(value: Any, name: str) -> str:
    if value is None or value == "":
        raise Unusable(
            "`{0}` is not in Patroni's configuration; name the right file in --patroni-config, or say --{0}"
            " (what Patroni takes from PATRONI_* variables is not seen here)".format(name)
        )
    return str(value)


def read_patroni(path: str) -> Dict[str, Any]:
    """Patroni's file, or all of its folder of files, as Patroni reads them."""
    files = [path]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith((".yml", ".yaml")))
        files = [os.path.join(path, name) for name in names]
    config = {}  # type: Dict[str, Any]
    for file in files:
        _merge(config, _read_yaml(file))
    return config


def _merge(config: Dict[str, Any], more: Dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict):
            _merge(config[name], value)
        else:
            config[name] = value


_OF_YAML = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML raises too, of a text that is none."""


def _read_yaml(file: str) -> Dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise Unusable(
            "this Python has no PyYAML; run it by Patroni's own, or say --name, --scope, --etcd"
        ) from None
    try:
        safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        with open(file, encoding="utf-8") as stream:
            config = yaml.load(stream, safe)  # noqa: S506 # nosec B506 # the quicker one, where it is there
    except (OSError, yaml.YAMLError, *_OF_YAML) as error:
        raise Unusable("{} cannot be read: {}".format(file, " ".join(str(error).split()))) from error
    if not isinstance(config, dict):
        raise Unusable("{} is not Patroni's configuration: no mapping".format(file))
    return config


def access_of(config: Dict[str, Any], endpoints: Optional[str] = None) -> Access:
    """Patroni's section `etcd3`, with `endpoints` (`host:port,…`) instead of its hosts."""
    section = config.get("etcd3") or {}
    if not isinstance(section, dict):
        raise Unusable("`etcd3` in Patroni's configuration is not a mapping")
    url = re.match(r"(https?)://(?:([^:@/]*):([^@/]*)@)?([^/@]+)/?$", str(section.get("url") or ""))
    protocol, user, password, host = url.groups() if url else (None, None, None, None)
    hosts = endpoints or host or section.get("hosts") or section.get("host")
    if not hosts:
        raise Unusable("`etcd3` in Patroni's configuration names no host; say --etcd host:port")
    default_port = section.get("port") or 2379
    return Access(
        hosts=[_host_port(str(one), default_port) for one in _listed(hosts)],
        tls=(protocol or section.get("protocol") or "http") == "https",
        ca=section.get("cacert"),
        certificate=section.get("cert"),
        key=section.get("key"),
        username=user or section.get("username"),
        password=password or section.get("password"),
    )


def _listed(hosts: Any) -> List[Any]:
    return hosts if isinstance(hosts, list) else str(hosts).split(",")


def _host_port(text: str, default_port: Any) -> Tuple[str, int]:
    match = re.match(r"(?:https?://)?(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/]+))(?::(\d{1,5}))?/?$", text.strip())
    if match is None:
        raise Unusable("{!r} is not host:port of an etcd".format(text[:80]))
    port = str(match.group(3) or default_port)
    if re.match(r"[0-9]{1,5}$", port) is None:
        raise Unusable("{!r} is no port of an etcd".format(port[:80]))
    return match.group(1) or match.group(2), int(port)


# --- etcd, by its JSON gateway -------------------------------------------------------------------------


class Etcd:
    """Questions to whichever member of etcd answers. Each is answered within SILENCE seconds, or Unheard."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._context = _context(access) if access.tls else None
        self._connection = None  # type: Optional[http.client.HTTPConnection]
        self._token = ""
        self._turn = 0

    def ask(self, path: str, question: Dict[str, Any], until: float) -> Dict[str, Any]:
        """The answer of `POST /v3/{path}`, at the latest at `until` of the monotonic clock."""
        until = min(until, time.monotonic() + SILENCE)
        while True:
            try:
                return self._ask_one(path, question)
            except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
                self._drop()
                if time.monotonic() >= until:
                    raise Unheard("etcd does not answer: {}".format(str(error) or repr(error))) from error
                time.sleep(0.05)

    def _ask_one(self, path: str, question: Dict[str, Any]) -> Dict[str, Any]:
        if self._connection is None:
            self._connection = self._connect()
            self._token = self._authenticate()
        return self._post(path, question)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._access.hosts[self._turn % len(self._access.hosts)]
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=TRY, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=TRY)

    def _authenticate(self) -> str:
        user = self._access.username
        if not user:
            return ""
        try:
            answer = self._post("auth/authenticate", {"name": user, "password": self._access.password or ""})
        except (Unheard, OSError) as error:
            if "authentication is not enabled" in str(error):
                return ""
            raise
        return str(answer["token"])

    def _post(self, path: str, question: Dict[str, Any]) -> Dict[str, Any]:
        assert self._connection is not None  # noqa: S101 - the caller connected
        headers = {"Authorization": self._token} if self._token else {}
        self._connection.request("POST", "/v3/" + path, json.dumps(question).encode(), headers)
        response = self._connection.getresponse()
        answer = _parsed(response.read(MOST_BYTES).decode(errors="replace"))
        if response.status != 200:
            _refuse(answer)
        return answer

    def _drop(self) -> None:
        """The next question goes to the next member, over a new connection with a new token."""
        self.close()
        self._turn += 1

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._token = None, ""


def _parsed(text: str) -> Dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise OSError("is that etcd's client port? it says {!r}".format(text.strip()[:160])) from None


_FOR_GOOD = (3, 7)  # INVALID_ARGUMENT (a wrong password), PERMISSION_DENIED


def _refuse(answer: Dict[str, Any]) -> None:
    """Unheard where asking again is no use, OSError where another member may answer."""
    problem = str(answer.get("error") or answer.get("message") or answer)
    if answer.get("code") in _FOR_GOOD:
        raise Unheard("etcd refuses us: {}".format(problem))
    raise OSError(problem)


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.key, _no_passphrase)
    except (OSError, ValueError, TypeError) as error:  # ssl.SSLError is an OSError
        raise Unusable("the TLS files of `etcd3` cannot be used: {}".format(error)) from error
    return context


def _no_passphrase() -> str:
    """Without this OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(coded: str) -> str:
    return base64.b64decode(coded).decode(errors="replace")


def _below(prefix: str) -> Dict[str, str]:
    """The range of all keys below `prefix`, which ends with a slash."""
    return {"key": _coded(prefix), "range_end": _coded(prefix[:-1] + "0")}


# --- the barrier ---------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """The cluster at one revision. `held` maps each target to the ids of the stops that it is held for."""

    leader: Optional[str]
    leader_lease: int
    held: Dict[str, Set[str]]

    def missing(self, stop_id: str) -> List[str]:
        """The targets that no watcher holds for this stop; one of several watchers is enough."""
        return sorted(target for target, ids in self.held.items() if stop_id not in ids)


_NOT_ETCD_S = (LookupError, TypeError, ValueError, AttributeError, OverflowError)


class Barrier:
    """One stop of one member."""

    def __init__(
        self, settings: Settings, etcd: Etcd, say: Callable[[str], None], began_at: Optional[float] = None
    ) -> None:
        self._member = settings.member
        self._limit = settings.limit
        self._leader_key = settings.prefix + "leader"
        self._targets = settings.prefix + "pgbouncer-watcher/targets/"
        self._stop_key = settings.prefix + "pgbouncer-watcher/stop/" + settings.member
        self._etcd = etcd
        self._say = say
        self._began_at = time.monotonic() if began_at is None else began_at
        self._until = self._began_at + settings.limit
        self._id = base64.b16encode(os.urandom(8)).decode().lower()

    def run(self) -> None:
        """Returns when the stop may go on. Unheard if etcd cannot be heard, or not be understood."""
        try:
            self._run()
        except _NOT_ETCD_S as error:
            raise Unheard("is that etcd? its answer cannot be understood: {!r}".format(error)) from error

    def _run(self) -> None:
        seen = self.look()
        if seen.leader != self._member:
            return self._say("nothing to hold: {} does not lead".format(self._member))
        if not seen.held:
            return self._say("nobody to ask: no watcher announces a target")
        return self._hold(seen)

    def look(self) -> Seen:
        """Leader and targets, by one linearizable read."""
        questions = [{"key": _coded(self._leader_key)}, _below(self._targets)]
        answer = self._ask("kv/txn", {"success": [{"request_range": each} for each in questions]})
        leader, targets = (each["response_range"].get("kvs", []) for each in answer["responses"])
        return Seen(
            leader=_text(leader[0].get("value", "")) if leader else None,
            leader_lease=int(leader[0].get("lease", 0)) if leader else 0,
            held=self._held(targets),
        )

    def _held(self, keys: List[Dict[str, str]]) -> Dict[str, Set[str]]:
        held = {}  # type: Dict[str, Set[str]]
        for each in keys:
            target = _text(each["key"])[len(self._targets) :].split("/")[0]
            held.setdefault(target, set()).add(_held_for(_text(each.get("value", ""))))
        return held

    def _hold(self, seen: Seen) -> None:
        lease = _Lease(self._ask, LINGER)
        if not self._request(lease.id):
            return self._say("nothing to hold: {} no longer leads".format(self._member))
        leadership = _Leadership(self._ask, seen.leader_lease)
        return self._say(self._wait(lease, leadership))

    def _request(self, lease: int) -> bool:
        """Ask for the hold, unless the leader key is another's meanwhile."""
        request = json.dumps({"id": self._id, "member": self._member, "limit": self._limit})
        compare = {"key": _coded(self._leader_key), "target": "VALUE", "value": _coded(self._member)}
        put = {"key": _coded(self._stop_key), "value": _coded(request), "lease": str(lease)}
        answer = self._ask("kv/txn", {"compare": [compare], "success": [{"request_put": put}]})
        return bool(answer.get("succeeded"))

    def _wait(self, lease: "_Lease", leadership: "_Leadership") -> str:
        """What ended the wait. The request stays for LINGER seconds after it, until the stop is seen."""
        asked = set()  # type: Set[str]
        while True:
            seen = self.look()
            asked.update(seen.held)
            missing = seen.missing(self._id)
            waited = time.monotonic() - self._began_at
            if not missing:
                return _outcome(waited, sorted(seen.held), sorted(asked - set(seen.held)))
            without = "the stop goes on without {}: ".format(", ".join(missing))
            if seen.leader != self._member:
                return without + "{} no longer leads".format(self._member)
            if waited >= self._limit:
                return without + "not held within {:g} s".format(self._limit)
            if not leadership.is_safe():
                return without + "the leader key is about to run out"
            if not lease.keep():
                return without + "the request ran out"
            time.sleep(max(0.002, min(0.02, waited / 50)))  # adds a fiftieth to what is waited for

    def _ask(self, path: str, question: Dict[str, Any]) -> Dict[str, Any]:
        return self._etcd.ask(path, question, self._until)


def _outcome(waited: float, held: List[str], gone: List[str]) -> str:
    """Nobody is missing any more; who could not be held has taken its name back, or its watcher died."""
    how = "held after {:.0f} ms: {}".format(waited * 1000, ", ".join(held) or "nobody")
    return how + (" (and without {}, which no watcher can hold)".format(", ".join(gone)) if gone else "")


def _held_for(value: str) -> str:
    """What no watcher writes counts as a target that is not held."""
    try:
        return str(json.loads(value)["held_for"])
    except (ValueError, TypeError, KeyError):
        return ""


class _Lease:
    """That of the request: short, and kept alive while we wait. So it also ends soon if we are killed."""

    def __init__(self, ask: Callable[[str, Dict[str, Any]], Dict[str, Any]], seconds: int) -> None:
        self._ask = ask
        answer = ask("lease/grant", {"TTL": str(seconds)})
        self.id = int(answer["ID"])
        self._granted = int(answer["TTL"])  # etcd may grant more than was asked for
        self._keep_at = time.monotonic() + self._granted / 3

    def keep(self) -> bool:
        """Whether it still lives."""
        if time.monotonic() < self._keep_at:
            return True
        answer = self._ask("lease/keepalive", {"ID": str(self.id)})
        self._keep_at = time.monotonic() + self._granted / 3
        return int(answer.get("result", answer).get("TTL", 0)) > 0


class _Leadership:
    """Whether the leader key will outlast the stop. Patroni refreshes it during a switchover, but not
    during every stop, and once it has run out another member may be promoted while we still write.
    """

    def __init__(self, ask: Callable[[str, Dict[str, Any]], Dict[str, Any]], lease: int) -> None:
        self._ask = ask
        self._lease = lease
        self._safe_until = 0.0

    def is_safe(self) -> bool:
        if self._lease == 0 or time.monotonic() < self._safe_until:
            return True
        asked_at = time.monotonic()
        answer = self._ask("lease/timetolive", {"ID": str(self._lease)})
        left, granted = int(answer.get("TTL", 0)), int(answer.get("grantedTTL", 0))
        self._safe_until = asked_at + left - granted * LEAST_LEFT
        return asked_at < self._safe_until


# --- the command ---------------------------------------------------------------------------------------


def main(arguments: Optional[List[str]] = None, prog: str = "watcher barrier") -> int:
    """0 whatever happened, for the stop goes on; 2 for a wrong flag; with --check 1 or 2 for a fault."""
    began_at = time.monotonic()
    options = parser(prog).parse_args(arguments)
    if options.print:
        with open(__file__, encoding="utf-8") as program:
            sys.stdout.write(program.read())
        return OK
    if options.check:
        return _check(options)
    latest = _end_at_the_latest(began_at + options.limit + GRACE)
    try:
        settings = settings_of(options)
        with contextlib.closing(Etcd(settings.access)) as etcd:
            Barrier(settings, etcd, _say, began_at).run()
    except Exception as error:  # whatever it is, it must not keep PostgreSQL from being stopped
        _say("the stop goes on without holds: {}".format(_described(error)))
    finally:
        latest.cancel()
    return OK


def _check(options: argparse.Namespace) -> int:
    """What a stop would find, and no more: nothing is written."""
    try:
        settings = settings_of(options)
        with contextlib.closing(Etcd(settings.access)) as etcd:
            seen = Barrier(settings, etcd, _say).look()
    except Unusable as error:
        _say(str(error))
        return BAD_SETTINGS
    except Exception as error:
        _say(_described(error))
        return FAILED
    targets = ", ".join(sorted(seen.held)) or "nobody: no watcher announces a target"
    if seen.leader != settings.member:
        targets = "nobody: {} does not lead".format(settings.member)
    _say("{} of {}; {} leads; would ask {}".format(settings.member, settings.prefix, seen.leader, targets))
    return OK


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, (Unusable, Unheard)) else repr(error)


def _say(text: str) -> None:
    sys.stderr.write("pgbouncer-watcher barrier: {}\n".format(text))
    sys.stderr.flush()


def _end_at_the_latest(at: float) -> threading.Timer:
    """From a thread, because a resolver that hangs heeds neither time-outs nor signals."""

    def end() -> None:
        _say("the stop goes on: the limit is over")
        os._exit(OK)

    timer = threading.Timer(at - time.monotonic(), end)
    timer.daemon = True
    timer.start()
    return timer


def parser(prog: str) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="Run by Patroni before it stops PostgreSQL: has every target held, and waits for it.",
        epilog="The exit code is 0 whatever happens, for the stop goes on; standard error says what it was.",
    )
    add = flags.add_argument
    add("--patroni-config", metavar="FILE", help="Patroni's configuration: its file, or its folder of files")
    add("--limit", type=_seconds, default=LIMIT, metavar="SECONDS", help="longest wait (default: 10)")
    add("--name", help="this member's name, instead of Patroni's `name`")
    add("--scope", help="instead of Patroni's `scope`")
    add("--group", type=int, help="in Citus, instead of Patroni's `citus.group`")
    add("--namespace", help="instead of Patroni's `namespace`")
    add("--etcd", metavar="HOST:PORT,…", help="instead of the hosts in Patroni's `etcd3`")
    add("--check", action="store_true", help="say what a stop would find now, and write nothing")
    add("--print", action="store_true", help="print this program, to be installed alone")
    return flags


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 300:
        raise argparse.ArgumentTypeError("{} is not between 0 and 300 seconds".format(text))
    return value


if __name__ == "__main__":
    sys.exit(main(prog=os.path.basename(sys.argv[0])))
