"""Each setting that cannot be used is refused with its place, its source and what to do."""

from __future__ import annotations

import copy
import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from watcher.decide.errors import SettingsError
from watcher.settings import load

CANARY = "c4naryS3cret"

GOOD: dict[str, Any] = {
    "cluster": {"scope": "main"},
    "etcd": {"endpoints": ["10.0.0.11:2379"]},
    "targets": [
        {
            "name": "pgb1",
            "via": "ssh",
            "file": "/etc/pgbouncer/pgbouncer.ini",
            "ssh": {"host": "10.0.0.21", "user": "postgres", "known_hosts": "/k", "key_file": "/id"},
            "console": {"socket": "/run/.s.PGSQL.6432"},
        }
    ],
}
REMOVE = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one place set; `0` in the path is the first target."""
    values = copy.deepcopy(GOOD)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    section: Any = values
    for part in way:
        section = section.setdefault(part, {}) if isinstance(section, dict) else section[part]
    if value is REMOVE:
        del section[last]
    else:
        section[last] = value
    return values


def refusal(values: dict[str, Any], tmp_path: Path) -> str:
    """What `load` says to these settings. JSON is YAML, so a file of it has lines."""
    file = tmp_path / "watcher.yaml"
    file.write_text(json.dumps(values, indent=1))
    file.chmod(0o600)
    with pytest.raises(SettingsError) as caught:
        load({}, file, {})
    return str(caught.value)


TLS = {"ca": "/ca"}
ETCD = {"endpoints": ["a:1"], "username": "u"}
SQL = {"user": "u"}
TARGET = GOOD["targets"][0]
OTHER_SITE = {"etcd": {"endpoints": ["b:2379"]}}
SITES = {"scope": "main", "standby": "other_site", "other_site": OTHER_SITE}

FAULTS: list[tuple[str, Any, str, str, str]] = [
    # changed, to what, place in the message, problem, remedy
    ("cluster", REMOVE, "cluster", "is required", "which needs scope"),
    ("cluster", "main", "cluster", "is not a section", "under it stand: scope, namespace"),
    ("cluster.scope", REMOVE, "cluster.scope", "is required", "WATCHER_CLUSTER__SCOPE"),
    ("cluster.scope", "a/b", "cluster.scope", "'a/b' is not written as it must be", "No slash"),
    ("cluster.scope", "a\nb", "cluster.scope", "is not written as it must be", "scope"),
    ("cluster.scope", 730, "cluster.scope", "730 is not text", "put it in quotes"),
    ("cluster.namespace", "/", "cluster.namespace", "is empty", "default: service"),
    ("cluster.scop", "x", "cluster.scop", "is no setting", "did you mean `scope`?"),
    ("cluster.zzz", "x", "cluster.zzz", "is no setting", "here can stand: scope"),
    ("cluster.connect_via", "dns", "cluster.connect_via", "'dns' is none of its values", "'proxy_url'"),
    ("cluster.connect_via", "addresses", "cluster.addresses", "is empty", "name every member"),
    ("cluster.addresses", {"n": "h:1"}, "cluster.addresses", "has no effect", "set `connect_via: addresses`"),
    ("cluster.addresses", {"n": "h h"}, "cluster.addresses.n", "'h h' is not host:port", "one host and port"),
    ("cluster.ready_by", "sql", "cluster.sql", "is missing", "set `sql.user`"),
    ("cluster.sql", SQL, "cluster.sql", "has no effect", "set `ready_by: sql`"),
    ("cluster.standby", "perhaps", "cluster.standby", "'perhaps' is none of its values", "'standby_leader'"),
    (
        "cluster.follow_standby_leader",
        True,
        "cluster.follow_standby_leader",
        "is no setting any more",
        "`standby: standby_leader`",
    ),
    ("cluster.standby", "other_site", "cluster.other_site", "is missing", "name where it is heard of"),
    ("cluster.other_site", OTHER_SITE, "cluster.other_site", "has no effect", "set `standby: other_site`"),
    (
        "cluster",
        SITES | {"connect_via": "addresses", "addresses": {"n": "h"}},
        "cluster.other_site.addresses",
        "is empty",
        "name every member there",
    ),
    (
        "cluster",
        SITES | {"other_site": OTHER_SITE | {"addresses": {"n": "h"}}},
        "cluster.other_site.addresses",
        "has no effect",
        "set `connect_via: addresses`",
    ),
    (
        "cluster",
        SITES | {"other_site": {"scope": "b"}},
        "cluster.other_site.etcd",
        "is required",
        "endpoints",
    ),
    ("cluster.unknown_limit", 0, "cluster.unknown_limit", "0 is not above 0", "at most 300 seconds"),
    ("etcd", REMOVE, "etcd", "is required", "which needs endpoints"),
    ("etcd.endpoints", [], "etcd.endpoints", "is empty", "`host:port`"),
    ("etcd.endpoints", "a:2379", "etcd.endpoints", "is not a list", "`host:port`"),
    ("etcd.endpoints", ["a"], "etcd.endpoints[0]", "'a' is not host:port", "write host and port"),
    ("etcd.endpoints", ["::1"], "etcd.endpoints[0]", "'::1' is not host:port", "IPv6 address in brackets"),
    ("etcd.endpoints", ["a:0"], "etcd.endpoints[0]", "'a:0' is not host:port", "write one host and port"),
    ("etcd.endpoints", ["http://a:2379"], "etcd.endpoints[0]", "is a URL", "without a scheme"),
    ("etcd.endpoints", ["a:1", "a:1"], "etcd.endpoints", "names a:1 twice", "leave one"),
    ("etcd.tls", {}, "etcd.tls.ca", "is required", "WATCHER_ETCD__TLS__CA"),
    ("etcd.tls", {"certificate": "/c", "key": "/k"}, "etcd.tls.ca", "is required", "WATCHER_ETCD__TLS__CA"),
    ("etcd.tls", {"ca": "ca.pem"}, "etcd.tls.ca", "'ca.pem' is not an absolute path", "from / on"),
    ("etcd.tls", TLS | {"key": "/k"}, "etcd.tls.certificate", "is missing beside `key`", "or neither"),
    ("etcd.tls", TLS | {"certificate": "/c"}, "etcd.tls.key", "is missing beside", "or neither"),
    ("etcd.username", "u", "etcd.password", "is missing beside `username`", "or neither"),
    ("etcd.password", "p", "etcd.username", "is missing beside `password`", "or neither"),
    (
        "etcd",
        ETCD | {"password_file": "/no/such"},
        "etcd.password_file",
        "cannot be read: No such file",
        "correct the path",
    ),
    ("etcd", ETCD | {"password_file": "here"}, "etcd.password_file", "is not an absolute path", "from / on"),
    ("etcd.timeout", -1, "etcd.timeout", "-1 is not above 0", "at most 60 seconds"),
    ("etcd.timeout", 61, "etcd.timeout", "61 is above 60", "at most 60 seconds"),
    ("etcd.timeout", True, "etcd.timeout", "is true or false, not a number", "write a number"),
    ("etcd.timeout", "2s", "etcd.timeout", "'2s' is not a number", "seconds"),
    ("etcd.timeout", "nan", "etcd.timeout", "is not a number of use", "seconds"),
    ("etcd.silence_limit", 5.5, "etcd.silence_limit", "is not above `reread_interval`", "above 7.5"),
    ("patroni.nodes", ["10.0.0.1:8008"], "patroni.nodes[0]", "is not a", "write http://host:8008"),
    ("patroni.nodes", ["ftp://a"], "patroni.nodes[0]", "is not an http", "write http://host:8008"),
    (
        "patroni.nodes",
        ["http://a:1/patroni"],
        "patroni.nodes[0]",
        "holds more than",
        "write http://host:8008",
    ),
    ("patroni.nodes", ["http://a:x"], "patroni.nodes[0]", "is not a URL", "write http://host:8008"),
    ("patroni.nodes", ["http://a,b:1"], "patroni.nodes[0]", "neither a host name", "one host"),
    ("patroni.interval", "inf", "patroni.interval", "'inf' is", "at most 300 seconds"),
    ("targets", REMOVE, "targets", "is required", "which needs name, via, file"),
    ("targets", [], "targets", "is empty", "Every PgBouncer"),
    ("targets", [TARGET, TARGET], "targets[1].name", "a second target is named 'pgb1'", "a name of its own"),
    ("targets.0.name", "a b", "targets[0].name", "'a b' is not written", "at most 64 letters"),
    ("targets.0.via", "ftp", "targets[0].via", "'ftp' is none of its values", "'ssh' or 'local'"),
    ("targets.0.via", "local", "targets[0].ssh", "has no effect", "set `via: ssh`"),
    ("targets.0.file", "~/x", "targets[0].file", "'~/x' is not an absolute path", "~ and variables"),
    ("targets.0.block", "a:b", "targets[0].block", "'a:b' is not written", "without `:` and `]`"),
    ("targets.0.write", "copy", "targets[0].write", "'copy' is none", "'rename'"),
    ("targets.0.ssh", REMOVE, "targets[0].ssh", "is missing", "set `ssh.host`"),
    ("targets.0.ssh.host", "a;b", "targets[0].ssh.host", "'a;b' is neither", "one host"),
    ("targets.0.ssh.port", 0, "targets[0].ssh.port", "0 is below 1", "SSH server"),
    ("targets.0.ssh.port", 22.5, "targets[0].ssh.port", "22.5 is not a whole number", "SSH server"),
    ("targets.0.ssh.known_hosts", REMOVE, "targets[0].ssh.known_hosts", "is required", "any other key is"),
    ("targets.0.ssh.key_file", REMOVE, "targets[0].ssh.key_file", "and so is `password`", "private key"),
    ("targets.0.ssh.python", "py; x", "targets[0].ssh.python", "'py; x' is not written", "a name or a path"),
    ("targets.0.console", {}, "targets[0].console.socket", "and so is `address`", "exactly one"),
    ("targets.0.console.address", "h:1", "targets[0].console.socket", "is set beside", "exactly one"),
    ("targets.0.console.tls", TLS, "targets[0].console.tls", "has no effect on a Unix", "leave it out"),
    ("targets.0.console", REMOVE, "targets[0].console", "and so is `reload_command`", "set `console.socket`"),
    ("targets.0.reload_command", "", "targets[0].reload_command", "'' is empty", "Shell command"),
    ("retry", {"first": 3}, "retry.limit", "is below `first` = 3", "set it to `first` or more"),
    ("log.level", "LOUD", "log.level", "'LOUD' is none", "'WARNING'"),
    (
        "targets.0.ssh",
        {"host": "h", "user": "u", "known_hosts": "/k", "password": "p", "key_passphrase": "p"},
        "targets[0].ssh.key_passphrase",
        "has no effect without `key_file`",
        "name the private key",
    ),
    ("lgo", {}, "lgo", "is no setting", "did you mean `log`?"),
    ("_env_file", "/x", "_env_file", "is no setting", "here can stand"),
]


@pytest.mark.parametrize(("path", "value", "place", "problem", "remedy"), FAULTS)
def test_a_fault_is_told_with_its_place_its_problem_and_its_remedy(
    path: str, value: Any, place: str, problem: str, remedy: str, tmp_path: Path
) -> None:
    text = refusal(changed(path, value), tmp_path)

    first, _, rest = text.partition("\n")
    assert first.startswith(f"{place}: ")
    assert problem in first
    assert rest.startswith("  HINT: ")
    assert remedy in rest


def test_the_settings_that_the_faults_are_made_from_are_good(tmp_path: Path) -> None:
    file = tmp_path / "watcher.yaml"
    file.write_text(json.dumps(GOOD))
    assert load({}, file, {}).settings.cluster.scope == "main"


def test_all_faults_are_told_at_once_each_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "watcher.yaml"
    file.write_text("cluster:\n  scope: a/b\netcd:\n  endpoints: [a:1]\n  timeout: 0\n")
    environ = {"WATCHER_LOG__LEVEL": "LOUD", "WATCHER_PATRONI__NODES": "http://a", "WATCHER_RETRY": "x"}

    with pytest.raises(SettingsError) as caught:
        load({"retry.first": "soon", "retry.last": 1}, file, environ)

    text = str(caught.value)
    assert text.startswith("settings: 8 faults\n")
    for told in (
        f"cluster.scope: 'a/b' is not written as it must be (file {file}:2)",
        f"etcd.timeout: 0 is not above 0 (file {file}:5)",
        "targets: is required, and missing\n",
        "log.level: 'LOUD' is none of its values (environment WATCHER_LOG__LEVEL)",
        "patroni.nodes: is not JSON (environment WATCHER_PATRONI__NODES)",
        "retry: is not JSON (environment WATCHER_RETRY)",
        "retry.first: 'soon' is not a number (command line --retry-first)",
        "retry.last: is no setting (command line --retry-last)",
    ):
        assert told in text


# --- files ------------------------------------------------------------------------------------------

FILES = [
    ("a.yaml", "cluster: {scope: main\n", "a.yaml:2", "is not YAML", "quotes"),
    ("a.yaml", "cluster:\n  scope: a\n  scope: b\n", "a.yaml:3", "cluster.scope is set twice", "leave one"),
    ("a.yaml", "cluster:\n  on: 1\n", "a.yaml:2", "a name under cluster is not text", "in quotes"),
    ("a.yaml", "cluster: &c\n  sql: *c\n", "a.yaml:1", "cluster.sql holds itself", "write it out"),
    ("a.yaml", "- cluster\n", "a.yaml", "does not begin with names", "write `cluster:`"),
    ("a.yaml", "a: 1\n---\nb: 2\n", "a.yaml:2", "is not YAML", "quotes"),
    ("a.yaml", "cluster: \x07\n", "a.yaml", "what YAML does not allow", "control characters"),
    ("a.yaml", "cluster: 2026-13-45\n", "a.yaml", "what YAML does not allow", "quotes"),
    ("a.toml", "cluster = {scope = }\n", "a.toml", "is not TOML", "correct it"),
    ("a.ini", "[cluster]\n", "a.ini", "is neither .yaml", "name it by its format"),
]


@pytest.mark.parametrize(("name", "content", "place", "problem", "remedy"), FILES)
def test_a_file_that_cannot_be_parsed_is_refused_with_its_line(
    name: str, content: str, place: str, problem: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(SettingsError) as caught:
        load({}, tmp_path / name, {})

    assert caught.value.place == str(tmp_path / place)
    assert problem in caught.value.problem
    assert remedy in caught.value.hint


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"cluster: \xff")
    with pytest.raises(SettingsError, match="is not text in UTF-8"):
        load({}, tmp_path / "a.yaml", {})


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    with pytest.raises(SettingsError, match="3 faults"):
        load({}, tmp_path / "a.yaml", {})


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file") as caught:
        load({}, None, {"WATCHER_CONFIG_FILE": str(tmp_path / "none.yaml")})
    assert "correct the path" in caught.value.hint


def test_a_folder_of_secrets_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="folder of secrets cannot be read"):
        load({}, None, {"WATCHER_SECRETS_DIR": str(tmp_path / "none")})


# --- secrets ----------------------------------------------------------------------------------------


def said_of(error: BaseException) -> str:
    """Everything that a log or a traceback could show of an error."""
    seen = [error, error.__cause__, error.__context__]
    return "".join(traceback.format_exception(error)) + "".join(f"{e!s}{e!r}" for e in seen)


LEAKS = [
    f"etcd: {{endpoints: [a:1], username: [], password: {CANARY}}}",
    f"etcd: {{endpoints: [a:1], username: u, password: [{CANARY}]}}",
    f"etcd: {{endpoints: [a:1], username: u, password: {{x: {CANARY}}}}}",
    f"etcd: {{endpoints: [a:1], username: u, pasword: {CANARY}}}",
    f"etcd: {{endpoints: ['root:{CANARY}@a:1']}}",
    f"etcd: {{endpoints: ['http://root:{CANARY}@a:1']}}",
    f"etcd: {CANARY}",
    f"patroni: {{nodes: ['http://u:{CANARY}@a:8008']}}",
    f"etcd:\n  password: *{CANARY}",
    f"etcd:\n  password: !{CANARY}",
    f"etcd:\n  password: '{CANARY}",
    f"etcd:\n  password: {CANARY}: x",
    f"etcd:\n  password: %{CANARY}",
    f"etcd:\n  password: x {CANARY}\n {CANARY}\n",
    f"etcd:\n  password: &{CANARY} *{CANARY}",
    f"targets: [{{console: {{password: {CANARY}}}}}]",
    f"targets: [{{console: {CANARY}}}]",
    f"targets: {CANARY}",
    CANARY,
    f"- {CANARY}",
]


@pytest.mark.parametrize("content", LEAKS)
def test_an_error_never_holds_a_secret_of_the_yaml_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "watcher.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load({}, file, {})
    assert CANARY not in said_of(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        f'etcd = {{password = "{CANARY}}}',
        f"etcd = {{password = {CANARY}}}",
        f'etcd.password = "{CANARY}"\netcd.password = "{CANARY}"',
        f'[etcd]\npassword = "{CANARY}\\q"',
    ],
)
def test_an_error_never_holds_a_secret_of_the_toml_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "watcher.toml"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load({}, file, {})
    assert CANARY not in said_of(caught.value)


@pytest.mark.parametrize(
    "variable", ["WATCHER_ETCD", "WATCHER_TARGETS", "WATCHER_ETCD__PASSWORD", "WATCHER_ETCD__PASSWORD_FILE"]
)
@pytest.mark.parametrize("text", [CANARY, f'{{"password": "{CANARY}"', f'[{{"password": "{CANARY}"}}]'])
def test_an_error_never_holds_a_secret_of_the_environment(variable: str, text: str) -> None:
    if variable.endswith("_FILE"):
        text = "/no/such/file"
    with pytest.raises(SettingsError) as caught:
        load({}, None, {variable: text})
    assert CANARY not in said_of(caught.value)


def test_an_unknown_section_hides_no_other_fault(tmp_path: Path) -> None:
    file = tmp_path / "watcher.yaml"
    file.write_text("lgo: {}\netcd: {endpoints: ['http://a:1']}\n")
    with pytest.raises(SettingsError) as refusal:
        load({}, file, {})
    for place in ("lgo", "etcd.endpoints[0]", "cluster", "targets"):
        assert place in str(refusal.value)
