"""The command line itself, without anything behind it."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from watcher.command_line import main
from watcher.commands.exit_code import ExitCode

WORDS = ["run", "once", "plan", "check-config", "healthcheck", "agent", "barrier"]


def _exit_code(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code("--version") == 0
    assert capsys.readouterr().out == f"watcher {version('pgbouncer-watcher')}\n"


def test_help_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code("--help") == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{word}\b", text, re.MULTILINE) for word in WORDS)
    assert all(f"{code.value:3}  {code.meaning}" in text for code in ExitCode)


@pytest.mark.parametrize("word", WORDS)
def test_every_command_has_its_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(word, "--help") == 0
    assert f"usage: watcher {word}" in capsys.readouterr().out


def test_no_flag_takes_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    _exit_code("run", "--help")
    flags = set(re.findall(r"^ +(--[a-z0-9_.-]+)", capsys.readouterr().out, re.MULTILINE))
    assert "--etcd-username" in flags or "--etcd.username" in flags
    assert [flag for flag in flags if re.search(r"(password|passphrase)$", flag)] == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["walk"], ["run", "--unheard-of", "1"], ["agent", "--config", "x"], ["barrier", "--config", "x"]],
)
def test_a_wrong_word_or_flag_is_refused_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(*arguments) == ExitCode.BAD_SETTINGS
    assert "usage: watcher" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["run", "once", "plan", "check-config"])
def test_a_missing_file_is_named(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--config", str(tmp_path / "none.yaml")]) == ExitCode.BAD_SETTINGS
    said = capsys.readouterr()
    assert said.out == ""
    assert str(tmp_path / "none.yaml") in said.err
    assert "HINT: " in said.err


def test_who_reads_no_more_stops_nothing() -> None:
    """As `watcher check-config | head` does; what is said after that goes nowhere."""
    script = "from watcher.commands.saying import say; say('one'); say('two'); raise SystemExit(3)"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (3, "")


def test_agent_prints_a_program_that_runs_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["agent"]) == ExitCode.OK
    program = tmp_path / "agent.py"
    program.write_text(capsys.readouterr().out)
    imported = {
        name.name
        for node in ast.walk(ast.parse(program.read_text()))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= sys.stdlib_module_names
    done = subprocess.run(
        [sys.executable, "-I", program, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "--file" in done.stdout) == (0, True)


def test_help_does_not_load_grpc_or_ssh() -> None:
    loaded = "set(sys.modules) & {'grpc', 'paramiko'}"
    script = (
        f"import sys; from watcher.command_line import main\ntry: main(['--help'])\nfinally: print({loaded})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_a_health_check_does_not_load_grpc_or_ssh(tmp_path: Path) -> None:
    loaded = "set(sys.modules) & {'grpc', 'paramiko'}"
    (tmp_path / "w.yaml").write_text(
        "{cluster: {scope: a}, etcd: {endpoints: ['127.0.0.1:1']}, http: {listen: '127.0.0.1:9'},"
        " targets: [{name: a, via: local, file: /a, console: {address: '127.0.0.1:1'}}]}"
    )
    command = f"main(['healthcheck', '--config', '{tmp_path / 'w.yaml'}'])"
    script = f"import sys; from watcher.command_line import main; print({command}, {loaded})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 set()\n", done.stderr


def test_the_barrier_starts_without_what_the_other_commands_need() -> None:
    heavy = "{'grpc', 'paramiko', 'pydantic', 'urllib3', 'watcher.command_line'}"
    script = (
        "import sys; from watcher.__main__ import main\nsys.argv = ['watcher', 'barrier', '--check']\n"
        f"code = main(); print(code, set(sys.modules) & {heavy})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 set()\n"


def test_garbage_is_collected_again_once_all_is_imported() -> None:
    script = (
        "import gc, sys; from watcher.__main__ import main\n"
        "sys.argv = ['watcher', 'plan', '--config', '/no/such/file']\n"
        "main(); print(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_the_barrier_and_the_other_words_go_through_the_same_door() -> None:
    script = "import sys; from watcher.__main__ import main\nsys.argv = ['watcher', {!r}]\nsys.exit(main())"
    for word, said in (("barrier", "scope"), ("agent", "What runs beside PgBouncer")):
        done = subprocess.run(
            [sys.executable, "-c", script.format(word)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert said in done.stdout + done.stderr
