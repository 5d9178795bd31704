"""What does an update between nights learn, and may it serve? A guard on a rolling holdout, and three strikes.

The challenger starts from the champion's weights and learns all that has come by now, older days again with the new ones (see
`recommend.training.warm_start`: replay, clipped gradients, new items by their content, new shoppers by their history), but for the newest days
of some shoppers, always the same by a hash of their key. Both are then asked about those days of those shoppers, which neither has
learnt, with the same histories before them. It is dropped where it harms: where the paired
difference is below zero beyond chance, or below `-margin`. All other rows of the model gate's truth table hold as every night; only
`not_worse`, which asks for more shoppers than a few days have, is replaced by this guard.

Three drops in a row are no bad luck: updates stop until a person lifts the switch, and are counted anew from then on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.evaluate.blessing import Decision, Evidence, decide
from nightmarket.evaluate.protocol import Trial
from nightmarket.recommend.histories import LISTS
from nightmarket.shop import Blessing

Outcome = Literal["accepted", "dropped", "lifted"]
"""lifted: no update, but a person who lets updates go on after a stop."""
STRIKES = 3
REPLACED = "not_worse"


@dataclass(frozen=True)
class Entry:
    """One update, as `<root>/online/updates.jsonl` has it: lineage and verdict."""

    recipe: str
    """Digest of the parent, the inputs, settings and code: the same is not tried twice."""
    run_date: str
    parent: str
    """Version that it started from."""
    version: str | None
    """Registered version; None where it was dropped before."""
    outcome: Outcome
    why: str
    difference: dict[str, Any] | None
    """Of the metric on the rolling holdout, update minus parent: value, low, high, users."""
    live_events: int
    at: str


class Updates:
    """The log of a shop's updates; lines are only ever added."""

    def __init__(self, root: Path):
        self.path = root / "online" / "updates.jsonl"

    def entries(self) -> list[Entry]:
        if not self.path.exists():
            return []
        return [Entry(**json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def lift(self, who: str, night: date) -> None:
        """Notes that a person lets updates go on: what was dropped before is no strike any more."""
        self.add(Entry("", night.isoformat(), "", None, "lifted", f"{who} lifts the stop", None, 0, datetime.now(timezone.utc).isoformat(timespec="seconds")))

    def add(self, entry: Entry) -> None:
        """Appends a line; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as out:
            out.write((json.dumps(asdict(entry), sort_keys=True, ensure_ascii=False) + "\n").encode())
            out.flush()
            os.fsync(out.fileno())


def judges(trial: Trial, share: float, least: int) -> Trial:
    """The part of `trial` that judges an update: `share` of its shoppers, at least `least`."""
    keys = [hashlib.blake2b(str(trial.histories.user_ids[u]).encode(), digest_size=8, person=b"online").digest() for u in trial.users]
    wanted = max(least, math.ceil(share * len(keys)))
    rows = np.sort(np.array(sorted(range(len(keys)), key=keys.__getitem__)[:wanted], np.int64))
    return replace(trial, users=trial.users[rows], truth=trial.truth[rows])


def lesson(histories: pa.Table, trial: Trial) -> pa.Table:
    """`histories` without what the trial's shoppers did from its holdout on: what an update may learn.

    histories: rows of gold.features, as the trial's.
    """
    judging = pc.is_in(histories["user_id"], value_set=pa.array([str(u) for u in trial.histories.user_ids[trial.users]], pa.string()))
    cut = trial.holdout.cut.timestamp()
    rows = histories.filter(judging).to_pylist()
    for row in rows:
        known = sum(t < cut for t in row["event_times"])  # oldest first
        row |= {c: row[c][:known] for c in LISTS}
    return pa.concat_tables([histories.filter(pc.invert(judging)), pa.Table.from_pylist(rows, histories.schema)]).sort_by("user_id")


def strikes(entries: Sequence[Entry]) -> int:
    """Drops in a row, newest first, since a person lifted a stop."""
    n = 0
    for entry in reversed(entries):
        if entry.outcome != "dropped":
            break
        n += 1
    return n


def harm(difference: Any, margin: float) -> str:
    """Why an update with this paired difference (value, low, high; None where nobody could be asked) harms; empty where it does not."""
    if difference is None:
        return "nobody could be asked about the newest days"
    if math.isnan(difference.value):
        return "its quality is no number"
    if difference.high is not None and difference.high < 0:
        return f"it is worse on the newest days: {difference}"
    if difference.value < -margin:
        return f"it is worse on the newest days by more than {margin:g}: {difference}"
    return ""


def judge(evidence: Evidence, rules: Blessing) -> tuple[Outcome, str, Decision]:
    """The guard and the rest of the truth table: (outcome, why, decision as the ledger keeps it)."""
    decision = decide(evidence, rules)
    bad = harm(evidence.ahead_of_champion, rules.margin)
    failed = [c.name for c in decision.failed if c.name != REPLACED]
    if bad or failed:
        return "dropped", "; ".join([*([bad] if bad else []), *([f"failed {', '.join(failed)}"] if failed else [])]), replace(decision, outcome="kept")
    return "accepted", f"no harm on the newest days: {evidence.ahead_of_champion}", replace(decision, outcome="promoted")
