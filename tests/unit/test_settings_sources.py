"""Where a setting comes from, which source goes over which, and what is said of it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pydantic
import pytest

from watcher.decide.backoff import Backoff
from watcher.decide.decision import Announced, ConnectVia, HoldPolicy, Policy, ReadyBy, Standby
from watcher.decide.errors import SettingsError
from watcher.decide.model import Endpoint
from watcher.settings import Loaded, load, redacted

CANARY = "c4naryS3cret"
YAML = """\
cluster: {scope: main}
etcd:
  endpoints: [a:2379, b:2379]
  timeout: 1.5
targets:
  - name: pgb1
    via: local
    file: /etc/pgbouncer/pgbouncer.ini
    console:
      socket: /run/.s.PGSQL.6432
"""
TOML = """\
cluster.scope = "main"
etcd.endpoints = ["a:2379"]
[[targets]]
name = "pgb1"
via = "local"
file = "/etc/pgbouncer/pgbouncer.ini"
reload_command = "true"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "watcher.yaml", YAML)


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# --- which goes over which --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("highest", "value", "source"),
    [
        (0, 2.5, "default"),
        (1, 1.1, "file {file}:4"),
        (2, 1.2, "secret file {folder}/etcd__timeout"),
        (3, 1.3, "environment WATCHER_ETCD__TIMEOUT"),
        (4, 1.4, "command line --etcd-timeout"),
    ],
)
def test_each_source_goes_over_those_below_it(
    highest: int, value: float, source: str, tmp_path: Path
) -> None:
    timeout = "timeout: 1.1" if highest >= 1 else ""
    file = written(tmp_path / "watcher.yaml", YAML.replace("timeout: 1.5", timeout))
    folder = tmp_path / "secrets"
    folder.mkdir()
    if highest >= 2:
        written(folder / "etcd__timeout", "1.2\n")
    environ = {"WATCHER_ETCD__TIMEOUT": "1.3"} if highest >= 3 else {}
    overrides = {"etcd.timeout": 1.4} if highest >= 4 else {}

    loaded = load(overrides, file, environ, folder)

    assert loaded.settings.etcd.timeout == value
    assert loaded.sources["etcd.timeout"] == source.format(file=file, folder=folder)


def test_sections_are_joined_and_lists_replaced(file: Path) -> None:
    loaded = load({}, file, {"WATCHER_ETCD__ENDPOINTS": '["c:2379"]'})

    assert loaded.settings.etcd.endpoints == ("c:2379",)
    assert loaded.settings.etcd.timeout == 1.5
    assert loaded.sources["etcd.endpoints"] == "environment WATCHER_ETCD__ENDPOINTS"
    assert loaded.sources["etcd.timeout"] == f"file {file}:4"


def test_a_list_that_was_replaced_leaves_no_source_behind(file: Path) -> None:
    other = '[{"name": "x", "via": "local", "file": "/f", "console": {"address": "a:6432"}}]'
    loaded = load({}, file, {"WATCHER_TARGETS": other})
    assert loaded.sources["targets[0].console.address"] == "environment WATCHER_TARGETS"
    assert loaded.sources["targets[0].console.socket"] == "default"


def test_a_single_variable_goes_over_the_variable_of_its_section(file: Path) -> None:
    environ = {"WATCHER_RETRY__LIMIT": "3", "WATCHER_RETRY": '{"first": 0.5, "limit": 9}'}
    assert load({}, file, environ).settings.retry.backoff() == Backoff(0.5, 3.0)


def test_an_empty_variable_is_not_set_and_null_is_none(file: Path) -> None:
    loaded = load({}, file, {"WATCHER_ETCD__TIMEOUT": "", "WATCHER_ETCD__TLS": "null"})
    assert loaded.settings.etcd.timeout == 1.5
    assert loaded.settings.etcd.tls is None


def test_an_option_that_was_not_given_changes_nothing(file: Path) -> None:
    assert load({"etcd.timeout": None}, file, {}).settings.etcd.timeout == 1.5


def test_an_option_may_be_text_as_in_the_environment_or_a_value(file: Path) -> None:
    text = load({"etcd.endpoints": '["c:1"]', "log.level": "debug"}, file, {}).settings
    value = load({"etcd.endpoints": ("c:1",), "log.level": "DEBUG"}, file, {}).settings
    assert text == value


def test_file_and_folder_can_be_named_by_the_environment(file: Path, tmp_path: Path) -> None:
    written(tmp_path / "secrets" / "etcd__timeout", "1.25")
    environ = {"WATCHER_CONFIG_FILE": str(file), "WATCHER_SECRETS_DIR": str(tmp_path / "secrets")}
    loaded = load({}, None, environ)
    assert loaded.settings.etcd.timeout == 1.25
    assert loaded.warnings == ()


def test_a_toml_file_says_the_same(tmp_path: Path) -> None:
    file = written(tmp_path / "watcher.toml", TOML)
    loaded = load({}, file, {})
    assert loaded.settings.targets[0].reload_command == "true"
    assert loaded.sources["targets[0].name"] == f"file {file}"


def test_without_a_file_the_environment_is_enough() -> None:
    environ = {
        "WATCHER_CLUSTER__SCOPE": "main",
        "WATCHER_ETCD__ENDPOINTS": '["a:2379"]',
        "WATCHER_TARGETS": '[{"name": "x", "via": "local", "file": "/f", "reload_command": "true"}]',
    }
    assert load({}, None, environ).settings.targets[0].name == "x"


def test_an_alias_of_yaml_shares_a_text_and_not_a_place(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", "s")
    shared = f"&same {{username: u, password_file: {secret}, endpoints: [a:1]}}"
    tls = "{ca: /a}"
    file = written(
        tmp_path / "watcher.yaml",
        YAML.split("etcd:")[0] + f"etcd:\n  <<: {shared}\n  tls: &tls {tls}\npatroni: {{tls: *tls}}\n"
        "targets" + YAML.split("targets")[1],
    )
    settings = load({"etcd.tls.ca": "/b"}, file, {}).settings
    assert settings.etcd.tls is not None
    assert settings.patroni.tls is not None
    assert (settings.etcd.tls.ca, settings.patroni.tls.ca) == ("/b", "/a")


# --- secrets ----------------------------------------------------------------------------------------


def secret_of(loaded: Loaded) -> str:
    password = loaded.settings.etcd.password
    assert password is not None
    return password.get_secret_value()


def test_a_secret_may_stand_in_a_file_named_beside_it(file: Path, tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", f" {CANARY} \r\n")
    loaded = load({}, file, {"WATCHER_ETCD__USERNAME": "u", "WATCHER_ETCD__PASSWORD_FILE": str(secret)})
    assert secret_of(loaded) == f" {CANARY} "
    assert loaded.sources["etcd.password"] == f"secret file {secret}, environment WATCHER_ETCD__PASSWORD_FILE"


def test_a_secret_of_a_target_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", CANARY)
    file = written(tmp_path / "watcher.yaml", f"{YAML}      password_file: {secret}\n")
    loaded = load({}, file, {})
    console = loaded.settings.targets[0].console
    assert console is not None
    assert console.password is not None
    assert console.password.get_secret_value() == CANARY
    assert loaded.sources["targets[0].console.password"] == f"secret file {secret}, file {file}:11"


def test_a_secret_of_a_higher_source_goes_over_the_file_of_a_lower_one(file: Path, tmp_path: Path) -> None:
    low = written(tmp_path / "secret", "low")
    file.write_text(YAML.replace("timeout: 1.5", f"username: u\n  password_file: {low}"))
    assert secret_of(load({}, file, {"WATCHER_ETCD__PASSWORD": "high"})) == "high"


def test_a_secret_and_its_file_in_one_source_are_refused(file: Path) -> None:
    environ = {
        "WATCHER_ETCD__PASSWORD_FILE": "/x",
        "WATCHER_ETCD__PASSWORD": CANARY,
        "WATCHER_ETCD__USERNAME": "u",
    }
    with pytest.raises(SettingsError, match=r"etcd\.password_file: is set beside `password`") as caught:
        load({}, file, environ)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(("content", "problem"), [(b"\n", "is empty"), (b"\xff", "is not text in UTF-8")])
def test_a_secret_file_without_a_secret_is_refused(
    content: bytes, problem: str, file: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    with pytest.raises(SettingsError, match=problem):
        load({}, file, {"WATCHER_ETCD__USERNAME": "u", "WATCHER_ETCD__PASSWORD_FILE": str(secret)})


def test_the_folder_of_secrets_may_hold_what_kubernetes_puts_there(file: Path, tmp_path: Path) -> None:
    written(tmp_path / "..data" / "etcd__password", CANARY)
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "..data").symlink_to(tmp_path / "..data")
    (folder / "etcd__password").symlink_to(folder / "..data" / "etcd__password")
    loaded = load({}, file, {"WATCHER_ETCD__USERNAME": "u"}, folder)
    assert secret_of(loaded) == CANARY
    assert loaded.warnings == ()


def test_a_secret_is_never_shown(file: Path, tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", CANARY)
    file.write_text(f"{YAML}      password: {CANARY}\n")
    environ = {"WATCHER_ETCD__USERNAME": "u", "WATCHER_ETCD__PASSWORD_FILE": str(secret)}

    loaded = load({}, file, environ)

    assert CANARY not in repr(loaded)
    assert CANARY not in str(loaded.settings)
    assert CANARY not in "\n".join(redacted(loaded))
    assert f"targets[0].console.password = ********   (file {file}:11)" in redacted(loaded)


# --- what is said of it -----------------------------------------------------------------------------


def test_every_value_in_force_has_one_line_and_one_source(file: Path) -> None:
    loaded = load({}, file, {})
    lines = redacted(loaded)
    assert [line.partition(" = ")[0] for line in lines] == list(loaded.sources)
    for expected in (
        f"cluster.scope = main   (file {file}:1)",
        f"etcd.endpoints = [a:2379, b:2379]   (file {file}:3)",
        "cluster.connect_via = conn_url   (default)",
        "cluster.addresses = {}   (default)",
        "cluster.standby = keep   (default)",
        "targets[0].ssh = none   (default)",
    ):
        assert expected in lines


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WATCHER_ETCD__TIMEOUTS", "; did you mean WATCHER_ETCD__TIMEOUT?"),
        ("WATCHER_CONFIGFILE", "; did you mean WATCHER_CONFIG_FILE?"),
        ("WATCHER_TARGETS__0__NAME", "; targets is set as a whole, by WATCHER_TARGETS"),
        (
            "WATCHER_CLUSTER__ADDRESSES__NODE1",
            "; cluster.addresses is set as a whole, by WATCHER_CLUSTER__ADDRESSES",
        ),
        ("WATCHER_SERVICE_HOST", ""),
        ("WATCHER_PORT_9090_TCP", ""),
    ],
)
def test_a_variable_that_is_no_setting_is_warned_about(name: str, said: str, file: Path) -> None:
    assert load({}, file, {name: CANARY, "PATH": "/"}).warnings == (
        f"environment {name} is no setting and has no effect{said}",
    )


def test_a_file_in_the_folder_of_secrets_that_is_no_setting_is_warned_about(
    file: Path, tmp_path: Path
) -> None:
    secret = written(tmp_path / "secrets" / "etcd__pasword", CANARY)
    assert load({}, file, {}, secret.parent).warnings == (
        f"secret file {secret} names no setting and has no effect; did you mean WATCHER_ETCD__PASSWORD?",
    )


@pytest.mark.parametrize(
    ("mode", "secret", "warned"), [(0o644, True, True), (0o640, True, False), (0o644, False, False)]
)
def test_a_file_with_a_secret_that_everybody_may_read_is_warned_about(
    mode: int, secret: bool, warned: bool, tmp_path: Path
) -> None:
    password = f"      password: {CANARY}\n" if secret else ""
    file = written(tmp_path / "watcher.yaml", YAML + password, mode)
    warnings = load({}, file, {}).warnings
    expected = (
        f"{file} holds targets[0].console.password, and everybody may read it;"
        f" chmod o= {file}, or move it to a secret file",
    )
    assert warnings == (expected if warned else ())


def test_a_named_file_that_cannot_be_read_is_warned_about(file: Path) -> None:
    assert load({"etcd.tls.ca": "/no/such/ca"}, file, {}).warnings == (
        "etcd.tls.ca: /no/such/ca does not exist, or the watcher's account cannot read it",
    )


# --- what is made of it -----------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_policy(file: Path) -> None:
    assert load({}, file, {}).settings.policy() == Policy(hold=HoldPolicy())


def test_the_policy_is_what_was_settled(file: Path) -> None:
    overrides: dict[str, object] = {
        "cluster.connect_via": "addresses",
        "cluster.addresses": {"n1": "10.0.0.1", "n2": "[::1]:6000"},
        "cluster.ready_by": "leader_key",
        "cluster.unknown_limit": 1,
        "cluster.standby": "standby_leader",
        "etcd.silence_limit": 20,
        "patroni.interval": 2,
        "patroni.timeout": 1,
        "hold.limit": 40,
        "hold.announced": "at_barrier",
        "hold.announced_limit": 5,
        "hold.on_crash": False,
    }
    assert load(overrides, file, {}).settings.policy() == Policy(
        connect_via=ConnectVia.ADDRESSES,
        addresses={"n1": Endpoint("10.0.0.1", 5432), "n2": Endpoint("::1", 6000)},
        ready_by=ReadyBy.LEADER_KEY,
        unknown_limit=1.0,
        silence_limit=20.0,
        health_fresh=4.0,
        standby=Standby.STANDBY_LEADER,
        hold=HoldPolicy(40.0, Announced.AT_BARRIER, 5.0, on_crash=False),
    )


@pytest.mark.parametrize(
    ("overrides", "after"),
    [
        ({}, 7.0),  # 10, less 1 and 2
        ({"etcd.silence_limit": 20}, 17.0),
        ({"etcd.silence_limit": 20, "patroni.timeout": 5, "patroni.interval_when_silent": 2}, 13.0),
        ({"etcd.silence_limit": 7.5}, 6.5),  # an etcd that is heard each 5 + 1.5 seconds is not silent
    ],
)
def test_the_health_check_is_asked_before_etcd_counts_as_silent(
    file: Path, overrides: dict[str, object], after: float
) -> None:
    assert load(overrides, file, {}).settings.health_check_after == after


def test_who_wants_no_holds_has_none(file: Path) -> None:
    settings = load({"hold.enabled": False}, file, {}).settings
    assert settings.policy() == Policy()
    assert not settings.can_hold(settings.targets[0])


@pytest.mark.parametrize(
    ("target", "can"),
    [
        ({"console": {"socket": "/s"}}, True),
        ({"console": {"address": "127.0.0.1:6432"}}, True),
        ({"console": {"address": "127.0.0.1:6432", "tls": {"ca": "/ca"}}}, False),
        ({"console": {"socket": "/s"}, "reload_command": "true"}, False),
        ({"reload_command": "true"}, False),
    ],
)
def test_clients_are_held_where_the_agent_itself_can_speak_to_the_console(
    file: Path, target: dict[str, object], can: bool
) -> None:
    targets = [{"name": "here", "via": "local", "file": "/x", **target}]
    settings = load({"targets": targets}, file, {}).settings
    assert settings.can_hold(settings.targets[0]) is can


@pytest.mark.parametrize("namespace", ["service", "/service/", "/service"])
def test_the_prefix_is_the_one_that_patroni_writes_to(namespace: str, file: Path) -> None:
    assert load({"cluster.namespace": namespace}, file, {}).settings.cluster.prefix == "/service/main/"


def test_a_block_is_named_as_the_cluster_unless_said_otherwise(file: Path) -> None:
    settings = load({}, file, {}).settings
    assert settings.block_of(settings.targets[0]) == "main"
    named = settings.targets[0].model_copy(update={"block": "other"})
    assert settings.block_of(named) == "other"


def test_addresses_become_endpoints(file: Path) -> None:
    settings = load({}, file, {}).settings
    assert settings.etcd.addresses == (Endpoint("a", 2379), Endpoint("b", 2379))


def test_a_url_of_a_node_loses_its_last_slash(file: Path) -> None:
    assert load({"patroni.nodes": ["https://a/"]}, file, {}).settings.patroni.nodes == ("https://a",)


def test_settings_cannot_be_changed(file: Path) -> None:
    loaded = load({}, file, {})
    with pytest.raises(pydantic.ValidationError):
        loaded.settings.etcd.timeout = 1.0
    with pytest.raises(FrozenInstanceError):
        loaded.warnings = ()  # type: ignore[misc]
