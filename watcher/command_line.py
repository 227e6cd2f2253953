"""The command line. What each word does is in `commands/`."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from watcher import barrier
from watcher.apply.agent import bundle
from watcher.commands.exit_code import ExitCode
from watcher.commands.saying import say, say_error, warned
from watcher.decide.endpoint import parse_address
from watcher.decide.errors import WatcherError
from watcher.decide.model import Endpoint
from watcher.settings import Loaded, flag, load
from watcher.settings.tree import Place, dotted, fields, is_list, is_secret, section_of

_DESCRIPTION = "Keeps PgBouncer pointed at the primary of a Patroni cluster, driven by etcd events."
_WORDS = {
    "run": "stay, and keep every target where the leader is; SIGHUP re-reads the settings",
    "once": "look once, lead every target to the leader, and tell by the exit code",
    "plan": "show what `once` would change, as a diff; nothing is written",
    "check-config": "show the settings in force and their sources, then try all that they lead to",
    "status": "show what the running watcher says of itself; the exit code tells whether all is well",
    "history": "show its last switches, step by step",
    "healthcheck": "ask the running watcher whether it works; for the health check of a container",
    "pause": "keep every watcher of the cluster off its targets, until `resume`; kept in etcd",
    "resume": "end `pause`",
    "agent": "print the agent that a PgBouncer host may have installed (docs/install.md)",
    "barrier": "run by Patroni before it stops PostgreSQL: waits until targets are held (docs/barrier.md)",
}
_ASKING = ("status", "history", "healthcheck")
_WITHOUT_SETTINGS = ("agent", "barrier")
_OF_INTEREST = {
    "status": ("http",),
    "history": ("http",),
    "healthcheck": ("http",),
    "pause": ("cluster", "etcd"),
    "resume": ("cluster", "etcd"),
}
_OF_ONE_CLUSTER = ("once", "plan", "check-config", "status", "history", "pause", "resume")
_SOURCES = """\
Settings come from the first of these that has one: flags, WATCHER_* variables, files of --secrets-dir,
the file of --config, defaults. Secrets have no flag: a process list shows flags to everybody.
All settings: docs/configuration.md
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit code, one of `ExitCode`; argparse's own 2 for a wrong flag means the same there."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["barrier"]:
        return barrier.main(given[1:])  # has flags, limits and exit codes of its own; see also `__main__`
    options = _parser().parse_args(given)
    try:
        return _carry_out(options)
    except WatcherError as error:  # the others are told where they happen
        say_error(error)
        return ExitCode.BAD_SETTINGS
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _carry_out(options: argparse.Namespace) -> ExitCode:
    if options.word == "agent":
        say(bundle.source().rstrip("\n"))
        return ExitCode.OK
    given = {
        path: value for path, value in vars(options).items() if path in options.paths and value is not None
    }

    def read() -> Loaded:
        return load(given, options.config, secrets_dir=options.secrets_dir).only(options.cluster)

    return _command(options)(read)


def _command(options: argparse.Namespace) -> Callable[[Callable[[], Loaded]], ExitCode]:
    """Imported only now: gRPC and SSH take half a second to load. `--help` should not, nor what only asks a
    running watcher, every few seconds even."""
    from watcher.expose import logs

    logs.set_up("ERROR", "text")  # what libraries have to say; `run` sets up its own by the settings
    command = _asking(options) if options.word in _ASKING else _doing(options)
    gc.freeze()  # what is imported: full collections look at the rest alone, and come in time
    gc.enable()
    return command


def _asking(options: argparse.Namespace) -> Callable[[Callable[[], Loaded]], ExitCode]:
    from watcher.commands import asking

    commands: dict[str, Callable[[Callable[[], Loaded]], ExitCode]] = {
        "status": lambda load: asking.status(_place_to_ask(options, load), options.cluster, options.json),
        "history": lambda load: asking.history(_place_to_ask(options, load), options.cluster, options.json),
        "healthcheck": lambda load: asking.healthcheck(_place_to_ask(options, load)),
    }
    return commands[options.word]


def _doing(options: argparse.Namespace) -> Callable[[Callable[[], Loaded]], ExitCode]:
    from watcher.commands import check_config, maintenance, once, plan, run
    from watcher.commands.looking import at_each_cluster

    commands: dict[str, Callable[[Callable[[], Loaded]], ExitCode]] = {
        "run": run.run,
        "once": lambda load: at_each_cluster(warned(load()).fleet, once.once),
        "plan": lambda load: at_each_cluster(warned(load()).fleet, plan.plan),
        "check-config": lambda load: check_config.check_config(load()),
        "pause": lambda load: maintenance.pause(warned(load()).one, options.why),
        "resume": lambda load: maintenance.resume(warned(load()).one),
    }
    return commands[options.word]


def _place_to_ask(options: argparse.Namespace, load: Callable[[], Loaded]) -> Endpoint:
    """Where a running watcher serves its pages; `--at` needs no settings, which may have a fault just now."""
    if options.at is not None:
        return parse_address(options.at, "--at")
    from watcher.commands.asking import listens_at

    return listens_at(warned(load()).settings)


# --- flags -----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="watcher",
        allow_abbrev=False,  # `--etcd-password x` must not become `--etcd-password-file x`
        description=_DESCRIPTION,
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('pgbouncer-watcher')}")
    words = parser.add_subparsers(dest="word", required=True, metavar="COMMAND", title="commands")
    for word, does in _WORDS.items():
        child = words.add_parser(
            word,
            allow_abbrev=False,
            help=does,
            usage=f"watcher {word}"
            + ("" if word in _WITHOUT_SETTINGS else " [--config FILE] [--SETTING VALUE …]"),
            description=does[0].upper() + does[1:] + ".",
            epilog="" if word in _WITHOUT_SETTINGS else f"{_SOURCES}\n{_exit_codes()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        child.set_defaults(cluster=None)
        if word not in _WITHOUT_SETTINGS:
            _add_settings(child, _OF_INTEREST.get(word))
        if word in _ASKING:
            at = "where the watcher serves its pages (`http.listen`); no settings are read then"
            child.add_argument("--at", metavar="HOST:PORT", help=at)
        if word in _OF_ONE_CLUSTER:
            one = "of several clusters, this one alone: its `cluster.scope`, or `scope/group` in Citus"
            child.add_argument("--cluster", metavar="SCOPE", help=one)
        if word in ("status", "history"):
            child.add_argument("--json", action="store_true", help="the whole document (docs/status.md)")
        if word == "pause":
            child.add_argument("--why", default="", metavar="TEXT", help="shown wherever the pause is")
    return parser


def _exit_codes() -> str:
    return "exit codes:\n" + "\n".join(f"  {code.value:3}  {code.meaning}" for code in ExitCode)


def _add_settings(parser: argparse.ArgumentParser, of_interest: tuple[str, ...] | None = None) -> None:
    """A flag for each; where only some sections are of interest, the help is silent about the others."""
    parser.add_argument("--config", "-c", type=Path, metavar="FILE", help="YAML or TOML file with settings")
    parser.add_argument("--secrets-dir", type=Path, metavar="DIR", help="folder with one file a secret")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for place, description in _settable():
        section = str(place[0]) if len(place) > 1 else "watcher"
        group = groups.setdefault(section, parser.add_argument_group(section))
        told = description.replace("%", "%%")
        silent = of_interest is not None and section not in of_interest
        group.add_argument(
            flag(dotted(place)),
            dest=dotted(place),
            metavar="VALUE",
            help=argparse.SUPPRESS if silent else told,
        )
    parser.set_defaults(paths={dotted(place) for place, _ in _settable()})


def _settable() -> Iterator[tuple[Place, str]]:
    """What has a flag: every value that is no secret and stands in no list. A whole list is JSON."""
    for place, field in fields():
        inside_list = any(isinstance(part, int) for part in place)
        whole_section = section_of(field) is not None and not is_list(field)
        if not (inside_list or whole_section or is_secret(field)):
            yield place, field.description or ""
