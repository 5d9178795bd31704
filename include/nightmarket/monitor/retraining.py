"""Is a model trained tonight, and how? A pure truth table over evidence; `jobs.plan_retraining` gathers it.

The first row that applies decides; every later one that would have asked for as much is told as a reason too.

    row                what is seen                                                          what is done
    data_gate          the data gate did not let the night through                           skip
    same_inputs        a training from exactly these inputs exists, and nobody forces it     skip
    ordered            a person, or a response, asked for it                                 what they asked for
    no_champion        nothing serves                                                        retrain
    incompatible       the champion was made with other settings or another form             retrain
    much_drift         `scratch_drifts` features or more drifted                             retrain
    live_quality       the live quality is below the promise by more than `live_loss`,
                       beyond chance (the upper end of its interval)                         retrain
    due                the kind's own rules ask for it (`due` of its newest publication)     retrain
    age                made anew `max_age_days` ago or longer                                retrain
    warm_starts        `warm_starts` warm starts in a row                                    retrain
    some_drift         a feature drifted                                                     fine_tune
    new_data           new rows are at least `new_share` of those it learnt from             fine_tune
    (none)                                                                                   skip

A kind of model that cannot start warm is retrained where this says fine_tune.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nightmarket.shop import Retraining

Action = Literal["skip", "fine_tune", "retrain"]
ACTIONS: tuple[Action, ...] = ("skip", "fine_tune", "retrain")


@dataclass(frozen=True)
class Order:
    """Somebody asked for a training."""

    action: Action
    who: str
    why: str


@dataclass(frozen=True)
class Live:
    """Quality of what was published, as labels arrived, beside what the evaluation promised: the same metric over as many days."""

    metric: str
    value: float
    low: float
    high: float
    promise: float
    users: int
    version: str = ""
    """That published it."""


@dataclass(frozen=True)
class Evidence:
    """All that the decision about one model rests on."""

    model: str
    data_gate: str
    """passed, warned, refused, or missing."""
    inputs: str
    """Digest of what a training of tonight would be made from."""
    trained_from: tuple[str, ...] = ()
    """The same of every training that left a registered version."""
    forced: bool = False
    order: Order | None = None
    champion: str | None = None
    compatible: bool = True
    """Whether the champion was made with tonight's settings and can be loaded by this code."""
    warm: bool = False
    """Whether this kind of model can start from the champion's weights."""
    drifted: tuple[str, ...] = ()
    """Names of what drifted tonight."""
    live: Live | None = None
    due: str | None = None
    """Why the kind's own rules ask for another model, as its newest publication noted: errors beyond its backtests', verdicts it has not seen."""
    age_days: int | None = None
    """Nights since the champion, or the model that it was warm-started from, was made anew."""
    warm_starts: int = 0
    """Warm starts in a row since then."""
    rows_learnt: int | None = None
    rows_now: int | None = None


@dataclass(frozen=True)
class Reason:
    """One row of the table that applies."""

    name: str
    action: Action
    text: str


@dataclass(frozen=True)
class Decision:
    """What is done about one model tonight, and why; the first reason decided."""

    model: str
    action: Action
    inputs: str
    reasons: tuple[Reason, ...]

    @property
    def why(self) -> str:
        return "; ".join(r.text for r in self.reasons)

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "action": self.action, "inputs": self.inputs, "why": self.why, "reasons": [asdict(r) for r in self.reasons]}


def decide(e: Evidence, rules: Retraining) -> Decision:
    """Applies the table above. Nothing is read, nothing is done."""
    found = _rows(e, rules)
    if not found:
        return Decision(e.model, "skip", e.inputs, (Reason("nothing_new", "skip", "nothing drifted, nothing is due, too little is new"),))
    action = found[0].action
    if action == "fine_tune" and (not e.warm or e.champion is None or not e.compatible):
        action = "retrain"
    stops = found[0].name in ("data_gate", "same_inputs")
    told = found[:1] if stops else [r for r in found if ACTIONS.index(r.action) >= ACTIONS.index(found[0].action) or r is found[0]]
    return Decision(e.model, action, e.inputs, tuple(told))


def _rows(e: Evidence, rules: Retraining) -> list[Reason]:
    """The rows that apply, in the table's order."""
    found: list[Reason] = []

    def row(name: str, applies: bool, action: Action, text: str) -> None:
        if applies:
            found.append(Reason(name, action, text))

    row("data_gate", e.data_gate not in ("passed", "warned"), "skip", f"the data gate's verdict on the night is {e.data_gate}")
    row("same_inputs", e.inputs in e.trained_from and not e.forced, "skip", "it was trained from exactly these inputs before")
    if e.order is not None:
        row("ordered", True, e.order.action, f"{e.order.who} asked for it: {e.order.why}")
    if e.forced and e.order is None:
        row("forced", True, "retrain", "a person forces it")
    row("no_champion", e.champion is None, "retrain", "nothing serves")
    if e.champion is None:
        return found
    row("incompatible", not e.compatible, "retrain", f"champion {e.champion} was made with other settings or another form of model")
    row("much_drift", len(e.drifted) >= rules.scratch_drifts, "retrain", f"{len(e.drifted)} features drifted: {_listed(e.drifted)}")
    if (live := e.live) is not None:
        least = live.promise * (1 - rules.live_loss)
        row("live_quality", math.isfinite(live.high) and live.high < least, "retrain",
            f"live {live.metric} is {live.value:.4f} [{live.low:.4f}, {live.high:.4f}], promised were {live.promise:.4f}")
    row("due", e.due is not None, "retrain", f"its own rules ask for it: {e.due}")
    if e.age_days is not None:
        row("age", e.age_days >= rules.max_age_days, "retrain", f"made anew {e.age_days} nights ago")
    row("warm_starts", e.warm and 0 < e.warm_starts >= rules.warm_starts, "retrain", f"{e.warm_starts} warm starts in a row")
    row("some_drift", 0 < len(e.drifted) < rules.scratch_drifts, "fine_tune", f"drifted: {_listed(e.drifted)}")
    if e.rows_learnt is not None and e.rows_now is not None:
        share = (e.rows_now - e.rows_learnt) / max(e.rows_learnt, 1)
        row("new_data", share >= rules.new_share, "fine_tune", f"{share:.1%} more rows than it learnt from")
    return found


def _listed(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
