"""The status page: one document, made whole here, readable without JavaScript, no request to elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from urllib.parse import quote

from watcher.expose.status import (
    WORST_FIRST,
    Cluster,
    Fleet,
    Happening,
    MemberState,
    Problem,
    Source,
    Status,
    Switch,
    SwitchedTarget,
    Target,
    leader_words,
    paused_words,
    refused_words,
)
from watcher.expose.units import ago, clock, of_bytes

REFRESH_SECONDS = 2
MOST_TIMELINES = 8
"""Of each switch, the slowest targets first."""

PATIENCE_SECONDS = 4
"""How long the page waits for a fresh one before it says that it is old."""

_WORDS = {
    "ok": "OK",
    "failing": "Failing",
    "waiting": "Clients wait",
    "paused": "Paused",
    "wrong": "Wrong",
    "unknown": "Not known",
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #57606a; --paper: #ffffff; --card: #f6f8fa;
  --line: #d0d7de; --ok: #116329; --waiting: #7d4e00; --wrong: #a40e26; --paused: #5a32a3; --unknown: #57606a;
  --s0: #8250df; --s1: #0969da; --s2: #1a7f37; --s3: #9a6700; --s4: #bc4c00; --s5: #bf3989; --s6: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9da7b1; --paper: #0d1117;
  --card: #161b22; --line: #30363d; --ok: #56d364; --waiting: #e3b341; --wrong: #ff7b72;
  --paused: #bc8cff; --unknown: #9da7b1;
  --s0: #bc8cff; --s1: #58a6ff; --s2: #56d364; --s3: #e3b341; --s4: #ffa657; --s5: #ff9bce; --s6: #9da7b1; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
main, header, footer { max-width: 64rem; margin: 0 auto; }
h1 { font-size: 1rem; margin: 0; color: var(--dim); font-weight: 600; }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: .25rem 0; }
.verdict { font-size: 1.5rem; font-weight: 650; line-height: 1.25; margin: .5rem 0; padding: .75rem 1rem;
  border: 1px solid var(--line); border-left: .5rem solid currentColor; border-radius: .25rem;
  background: var(--card); }
.ok { color: var(--ok); } .waiting { color: var(--waiting); } .wrong { color: var(--wrong); }
.failing { color: var(--waiting); } .paused { color: var(--paused); } .unknown { color: var(--unknown); }
.dim { color: var(--dim); }
.old .verdict { text-decoration: line-through; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .25rem; padding: .5rem .75rem;
  margin: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
caption { text-align: left; color: var(--dim); padding-top: .75rem; }
th { color: var(--dim); font-weight: 600; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .25rem 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: .9rem; margin: .25rem 0; }
.stages { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3 { fill: var(--s3); }
.s4 { fill: var(--s4); } .s5 { fill: var(--s5); } .s6 { fill: var(--s6); }
.key { display: inline-block; width: .7rem; height: .7rem; margin: 0 .35rem 0 0; }
a { color: inherit; }
@media (max-width: 40rem) { body { padding: .5rem; } .verdict { font-size: 1.2rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .35rem; } }
"""

_SCRIPT = f"""
(function () {{
  var asking = false;
  function again() {{
    if (document.hidden || asking) return;
    asking = true;
    var patience = AbortSignal.timeout({PATIENCE_SECONDS * 1000});
    fetch(location.pathname, {{cache: "no-store", signal: patience}}).then(function (answer) {{
      if (!answer.ok) throw new Error(answer.status);
      return answer.text();
    }}).then(function (text) {{
      var fresh = new DOMParser().parseFromString(text, "text/html");
      document.title = fresh.title;
      document.querySelector("main").replaceWith(fresh.querySelector("main"));
    }}).catch(function () {{
      document.getElementById("stale").hidden = false;
      document.querySelector("main").classList.add("old");
      document.title = "not answering: " + document.title.replace(/^not answering: /, "");
    }}).finally(function () {{ asking = false; }});
  }}
  setInterval(again, {REFRESH_SECONDS * 1000});
  document.addEventListener("visibilitychange", again);
}})();
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"default-src 'none'; style-src '{_digest(_STYLE)}';"
    f" script-src '{_digest(_SCRIPT)}'; connect-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def page_of(status: Status) -> str:
    """The whole document about one cluster."""
    name = escape(status.cluster.name)
    return _document(name, f"cluster <code>{name}</code>", status, _main(status))


def overview_of(fleet: Fleet) -> str:
    """The whole document about several: a row each, the worst first."""
    name = f"{len(fleet.clusters)} clusters"
    return _document(name, name, fleet, _overview(fleet))


def _document(title: str, subject: str, status: Status | Fleet, main: str) -> str:
    """Its links are relative: a cluster of several has its page at a path of its own."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS * 2}"></noscript>
<title>{_WORDS[status.health]}: {title}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header><h1>pgbouncer-watcher, {subject}</h1></header>
<main>
{main}
</main>
<footer class="dim"><p>Version {escape(status.version)}.
The same as <a href="status">JSON</a>, for <a href="metrics">Prometheus</a>.</p></footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _overview(fleet: Fleet) -> str:
    rows = "".join(map(_row, sorted(fleet.clusters, key=lambda status: WORST_FIRST.index(status.health))))
    return "\n".join(
        part
        for part in (
            _head(fleet),
            "<h2>Clusters</h2>",
            '<div class="scroll"><table><tr><th>Cluster<th>Health<th>Leader<th>PgBouncers<th></tr>',
            f"{rows}</table></div>",
        )
        if part
    )


def _row(status: Status) -> str:
    name = status.cluster.name
    link = f'<a href="clusters/{quote(name, safe="")}/">{escape(name)}</a>'
    health = f'<span class="{status.health}">{_WORDS[status.health]}</span>'
    led = sum(target.health == "ok" for target in status.targets)
    leader, counted = escape(status.cluster.leader or "none"), f"{led} of {len(status.targets)} well"
    return f"<tr><td>{link}<td>{health}<td>{leader}<td>{counted}<td>{escape(status.words)}</tr>\n"


def _head(status: Status | Fleet, more: str = "") -> str:
    refused, now = status.settings_refused_at, status.now
    words = "" if refused is None else f'\n<p class="failing">{escape(refused_words(refused, now))}</p>'
    return f"""<p class="verdict {status.health}" role="status">{escape(status.words)}</p>
<p id="stale" class="wrong" hidden>The watcher does not answer; what stands here is old.</p>
<p class="dim">As of {clock(now)} UTC{more}.</p>{words}"""


def _main(status: Status) -> str:
    now = status.now
    parts = [
        _head(status, f"; at work for {ago(now, status.started_at)}"),
        "<h2>PgBouncers</h2>",
        *(_target(target, now) for target in status.targets),
        "<h2>Cluster</h2>",
        _cluster(status.cluster, now),
        "<h2>Last switches</h2>",
        *(_switch(switch, now) for switch in status.switches),
        "" if status.switches else '<p class="dim">None since this watcher was started.</p>',
        "<h2>What happened</h2>",
        _happenings(status.happenings),
    ]
    return "\n".join(part for part in parts if part)


# --- PgBouncers ---------------------------------------------------------------------------------------


def _target(target: Target, now: datetime) -> str:
    rows = [
        ("in its file", ", ".join(target.file) or "not read"),
        ("in PgBouncer", "cannot be asked" if target.pgbouncer is None else ", ".join(target.pgbouncer)),
        ("written for", target.leader or "nobody yet"),
    ]
    if target.reads:
        others = ", ".join(f"{name} ({why})" for name, why in target.not_for_reads.items())
        rows.append(("reads", ", ".join(target.reads) + (others and f"; not {others}")))
    if target.held_since is not None:
        rows.append(("clients wait for", ago(now, target.held_since)))
    if target.in_sync_since is not None and target.health == "ok":
        rows.append(("in sync for", ago(now, target.in_sync_since)))
    if target.failing_since is not None:
        rows.append(("failing for", ago(now, target.failing_since)))
    if target.seen_at is not None:
        rows.append(("last seen", f"{ago(now, target.seen_at)} ago"))
    if not target.can_hold:
        rows.append(("holds", "its clients cannot be made to wait"))
    return f"""<section class="card"><h3><code>{escape(target.name)}</code>
<span class="{target.health}">{_WORDS[target.health]}</span>: {escape(target.words)}</h3>
{_list(rows)}{_problem(target.problem)}</section>"""


def _problem(problem: Problem | None) -> str:
    if problem is None:
        return ""
    remedy = f"<br><strong>What now:</strong> {escape(problem.hint)}" if problem.hint else ""
    return f'<p class="wrong">{escape(problem.place)}: {escape(problem.problem)}{remedy}</p>'


# --- cluster ------------------------------------------------------------------------------------------


def _cluster(cluster: Cluster, now: datetime) -> str:
    rows = [
        ("leader", leader_words(cluster, now)),
        ("why", cluster.detail),
        ("etcd", _source(cluster.etcd, now)),
        ("etcd last heard", _or_never(cluster.etcd_heard_at, now)),
        ("health check", _or_never(cluster.health_check_at, now)),
    ]
    if cluster.barrier is not None:
        rows.append(("barrier", _source(cluster.barrier, now)))
    if cluster.controller is not None:
        rows.append(("this watcher", cluster.controller.words))
        if cluster.controller.lease is not None:
            rows.append(("lease", _source(cluster.controller.lease, now)))
    if cluster.other_site is not None:
        rows.append(("other site", _source(cluster.other_site, now)))
    if cluster.paused is not None:
        rows.append(("maintenance", paused_words(cluster.paused, now)))
    problem = _problem(cluster.etcd.problem) if cluster.etcd is not None else ""
    return f'<div class="card">{_list(rows)}{problem}</div>{_members(cluster.members)}{_nodes(cluster, now)}'


def _source(source: Source | None, now: datetime) -> str:
    if source is None:
        return "not heard yet"
    return f"{'heard at' if source.connected else 'NOT heard at'} {source.place} for {ago(now, source.since)}"


def _or_never(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{ago(now, moment)} ago"


def _members(members: Iterable[MemberState]) -> str:
    return _table(
        "Members, by etcd",
        ("member", "role", "state", "timeline", "lag", "PostgreSQL"),
        (
            (
                member.name + ("" if member.present else " (its key has gone)"),
                member.role if member.present else f"was {member.role}",
                member.state,
                "" if member.timeline is None else str(member.timeline),
                "" if member.lag_bytes is None else of_bytes(member.lag_bytes),
                member.endpoint or "",
            )
            for member in members
        ),
    )


def _nodes(cluster: Cluster, now: datetime) -> str:
    return _table(
        f"Nodes, as their Patroni's REST API told {_or_never(cluster.health_check_at, now)}",
        ("node", "answer", "URL"),
        ((node.name or "?", node.answer, node.url) for node in cluster.nodes),
    )


# --- switches -----------------------------------------------------------------------------------------


def _switch(switch: Switch, now: datetime) -> str:
    slowest = sorted(switch.targets, key=lambda target: -target.duration_ms)[:MOST_TIMELINES]
    faster = len(switch.targets) - len(slowest)
    others = f'<p class="dim">{faster} more were faster; all are in the JSON.</p>' if faster else ""
    told_by = f"on the word of {escape(switch.source)}, id <code>{escape(switch.id)}</code>"
    return f"""<section class="card"><h3>to <code>{escape(switch.leader)}</code> at
<code>{escape(switch.endpoint)}</code>, {ago(now, switch.at)} ago</h3>
<p class="dim">{clock(switch.at)} UTC, {told_by}</p>
{"".join(map(_timeline, slowest))}{others}</section>"""


def _timeline(switched: SwitchedTarget) -> str:
    """A bar, and the same in words."""
    whole, waited = switched.duration_ms, switched.waited_ms
    at = 0.0
    bars: list[str] = []
    words: list[str] = []
    for number, (stage, ms) in enumerate(switched.stages_ms.items()):
        width = 100 * ms / whole if whole > 0 else 0
        bars.append(f'<rect class="s{number % 7}" x="{at:.2f}%" width="{width:.2f}%" height="100%"/>')
        square = f'<rect class="s{number % 7}" width="100%" height="100%"/>'
        mark = f'<svg class="key" aria-hidden="true">{square}</svg>'
        words.append(f"<li>{mark}{escape(stage)} {ms:.1f} ms</li>")
        at += width
    wait = "" if waited is None else f"; clients waited {waited:.0f} ms"
    back = f"; led back: {escape(switched.corrects)}" if switched.corrects else ""
    return f"""<p><code>{escape(switched.target)}</code> confirmed after {whole:.1f} ms{wait}{back}</p>
<svg aria-hidden="true">{"".join(bars)}</svg><ul class="stages">{"".join(words)}</ul>"""


def _happenings(happenings: Iterable[Happening]) -> str:
    return _table(
        "The newest first, in UTC",
        ("when", "about", "what"),
        ((clock(one.at), one.about, one.text) for one in happenings),
    )


# --- small --------------------------------------------------------------------------------------------


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in rows)}</dl>"


def _table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f'<caption class="dim">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
