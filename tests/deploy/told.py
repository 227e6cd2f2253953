"""What the watchers of a deployed system say that they saw."""

import json
from datetime import datetime


def waited_from(*histories: str) -> float:
    """Unix time from which every target's clients waited in the last hold, by `watcher history --json` of all
    watchers. A watcher notes it once they do, so what begins later has waited.
    """
    last: dict[str, float] = {}
    for history in histories:
        for one in reversed(json.loads(history)["happenings"]):  # the newest is the first
            if one["text"].startswith("clients wait: "):
                last[one["about"]] = datetime.fromisoformat(one["at"]).timestamp()
    assert last, "no watcher has noted that clients wait"
    return max(last.values())
