"""Every family of metrics: its name, type, labels and meaning. `metrics.py` fills them, docs/metrics.md is
made from them, and the alerts and the dashboard are held against them.

Names as in a query but for what the type adds (`_total`, `_bucket` …), base units, no address, error text or
revision as a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from watcher.decide.model import Reason, Role, Source

Kind = Literal["counter", "histogram", "gauge", "info"]

_SWITCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_HOLD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_STAGES = ("decide", "hold", "write", "ready", "reload", "confirm", "release")
HOLDS = (
    Reason.ANNOUNCED,
    Reason.STOPPING,
    Reason.NO_LEADER,
    Reason.LEADER_NOT_READY,
    Reason.LEADER_UNUSABLE,
    Reason.PRIMARY_REFUSES,
    Reason.CANARY,
    Reason.STANDBY_CLUSTER,
)
SESSION_ENDS = (
    "closed",
    "refused",
    "silent",
    "denied",
    "no_quorum",
    "compacted",
    "missed",
    "lagging",
    "restored",
    "too_large",
    "broken",
)
"""`observe.etcd_client.Reason`, which is not known here; a test compares."""


@dataclass(frozen=True, slots=True)
class Family:
    """`known` are the values of the last label, or () for no further label, that exist from the start."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    about: str
    known: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """As a query has it; of a histogram the stem of its `_bucket`, `_count` and `_sum`."""
        added = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        return f"watcher_{self.name}{added}"

    @property
    def has_free_label(self) -> bool:
        """Whether it has a label beside cluster and target."""
        return bool(set(self.labels) - {"cluster", "target"})


_CLUSTER, _TARGET = ("cluster",), ("cluster", "target")


def _gauge(name: str, about: str, *labels: str) -> Family:
    return Family(name, "gauge", (*_CLUSTER, *labels), about)


_ALL = (
    Family("build", "info", ("version", "python_version"), "What runs here."),
    _gauge(
        "state",
        "1 for why the wish is what it is, 0 for every other reason; there are two amid a canary, and where"
        " one cannot be held.",
        "reason",
    ),
    _gauge("paused", "Whether an operator said `watcher pause`."),
    _gauge("paused_since_timestamp_seconds", "When that was; absent while nobody did."),
    _gauge(
        "active",
        "Whether this watcher is the active one, by its lease in etcd; absent with"
        " `controller.mode: together`.",
    ),
    # the settings
    _gauge("settings_last_read_successful", "Whether the settings had no fault when they were last read."),
    _gauge("settings_read_timestamp_seconds", "When the settings in force were read."),
    _gauge(
        "certificate_expiry_timestamp_seconds",
        "When a certificate that the settings name expires; `setting` is where it is named.",
        "setting",
    ),
    # etcd
    _gauge("etcd_watch_connected", "Whether a watch on etcd stands."),
    _gauge("etcd_revision", "etcd's revision as of the last key that was heard of."),
    _gauge(
        "etcd_last_contact_timestamp_seconds", "When etcd was last heard; advances on an idle cluster too."
    ),
    Family(
        "etcd_sessions_ended",
        "counter",
        ("cluster", "reason"),
        "Watches on etcd that ended or could not begin; the next endpoint is asked at once. A reason that"
        " repeats at one endpoint counts once until a watch stands again.",
        known=SESSION_ENDS,
    ),
    _gauge(
        "barrier_connected",
        "Whether targets and holds can be told to etcd for `watcher barrier`; absent where it is off.",
    ),
    _gauge(
        "other_site_connected",
        "Whether a watch on the other site's etcd stands; absent where none is named (`cluster.other_site`).",
    ),
    # the leader
    _gauge("leader_known", "Whether etcd names a leader, by all that was heard."),
    _gauge("leader_info", "1 for the member that leads by etcd.", "leader"),
    _gauge(
        "leader_last_change_timestamp_seconds",
        "When the present reign began; absent where it had begun before the watcher was started.",
    ),
    Family(
        "leader_changes",
        "counter",
        ("cluster", "source"),
        "Reigns that began while this watcher ran, by etcd; and switches on the health check's word.",
        known=tuple(map(str, Source)),
    ),
    # the health check
    _gauge(
        "health_check_nodes",
        "Nodes by what their Patroni said in the last round; `failed`: nothing of use.",
        "answer",
    ),
    _gauge("health_check_last_round_timestamp_seconds", "When the last round began."),
    Family(
        "health_check_duration_seconds",
        "histogram",
        _CLUSTER,
        "One round of Patroni's REST API, all nodes at once.",
        buckets=_SWITCH_BUCKETS[2:-2],
    ),
    Family(
        "health_check_disagreements",
        "counter",
        _CLUSTER,
        "Rounds in which more than one node said that it is the primary.",
    ),
    # switches
    Family("switches", "counter", _TARGET, "Switches that PgBouncer itself confirmed."),
    Family(
        "corrections",
        "counter",
        _TARGET,
        "Those of them that only took back what somebody else had written since this watcher led the target"
        " there: another watcher with other settings, a tool, or a hand, but for one during `watcher pause`.",
    ),
    Family(
        "switch_duration_seconds",
        "histogram",
        _CLUSTER,
        "From the first word of a new leader to PgBouncer's own that it leads there.",
        buckets=_SWITCH_BUCKETS,
    ),
    Family(
        "switch_stage_duration_seconds",
        "histogram",
        ("cluster", "stage"),
        "The parts of a switch: `decide` is from the first word to the wish, readiness included; `ready` is"
        " how long clients waited for the leader alone.",
        known=_STAGES,
        buckets=_SWITCH_BUCKETS,
    ),
    # holds
    Family(
        "holds",
        "counter",
        (*_TARGET, "reason"),
        "Holds begun, by why clients had to wait.",
        known=tuple(map(str, HOLDS)),
    ),
    Family(
        "hold_duration_seconds",
        "histogram",
        _CLUSTER,
        "How long clients waited, told by the watcher that let them go.",
        buckets=_HOLD_BUCKETS,
    ),
    Family(
        "holds_ended_by_agent",
        "counter",
        _TARGET,
        "Holds that ended on PgBouncer's host without our word: at their limit, or since something had gone.",
    ),
    Family(
        "holds_given_up",
        "counter",
        _TARGET,
        "Holds that were ended with nowhere to go: at their limit, since errors beat a silent stall.",
    ),
    Family(
        "holds_left", "counter", _TARGET, "Holds found left behind by an agent that was killed, and ended."
    ),
    Family(
        "connections_cut",
        "counter",
        _TARGET,
        "Connections to the old server that were in use after a switch still, and were ended.",
    ),
    # reads
    Family(
        "reads_led",
        "counter",
        _TARGET,
        "Times that PgBouncer was seen to lead its databases for reads to other servers than before, at the"
        " first look too.",
    ),
    _gauge(
        "target_readers",
        "To how many servers its databases for reads lead by its file; absent where it has none.",
        "target",
    ),
    _gauge(
        "replica_unfit",
        "1 for why a member should serve no reads of a target that has databases for reads; absent for one"
        " that should, and while no leader is known. Its reasons are in docs/replicas.md.",
        "target",
        "member",
        "reason",
    ),
    # targets
    _gauge(
        "target_in_sync",
        "Whether PgBouncer itself leads to the leader, and nobody waits; 0 where PgBouncer does not answer."
        " While its host cannot be reached, by what it showed last; while no leader is known, as before.",
        "target",
    ),
    _gauge("target_held", "Whether the target's clients are made to wait by us.", "target"),
    _gauge("target_held_since_timestamp_seconds", "Since when; absent while nobody waits.", "target"),
    _gauge(
        "target_can_hold",
        "Whether they could be made to wait just now; absent where the settings do not let them, and while a"
        " target that could cannot be reached, or its block cannot be used.",
        "target",
    ),
    _gauge(
        "target_connected", "Whether host, file and console answered in the worker's last turn.", "target"
    ),
    _gauge("target_last_success_timestamp_seconds", "When it was last seen in sync.", "target"),
    _gauge("target_failing_since_timestamp_seconds", "Since when every turn fails; absent else.", "target"),
    _gauge("target_leader_info", "1 for the leader that its block was written for.", "target", "leader"),
    Family(
        "target_failures",
        "counter",
        (*_TARGET, "kind"),
        "Turns of its worker that failed, by kind of error (the classes of watcher/decide/errors.py).",
    ),
    Family(
        "target_connects",
        "counter",
        (*_TARGET, "result"),
        "Connections to its host that were tried for.",
        known=("connected", "failed"),
    ),
)

FAMILIES = {family.name: family for family in _ALL}
ANSWERS = (*map(str, Role), "failed")
