"""What an experiment shows as of a night, and what is done about it.

A shopper counts from the night on which `horizon_days` after the first exposure have passed, with the value of that span (for
guardrails `guardrail_days`, which is sooner), so that every shopper is one complete observation, and looking every night is what
`sequential.always_valid` allows. Values are adjusted by CUPED (Deng, Xu, Kohavi & Walker 2013): the same metric over the
`cuped_days` before the exposure, with the slope pooled within arms.

Decisions, in this order, at level `level` shared among treatments (guardrails share it again among themselves):

* invalid         the arms do not hold the shares they should (`sequential.mismatch`);
* harmed          a guardrail's or the metric's confidence sequence lies wholly on the bad side: everybody gets the control at once;
* won             the metric's lies wholly on the good side, every guardrail has excluded a loss beyond its tolerance, and all of the
                  traffic has been enrolled for `minimum_days`;
* no_difference   the planned sample is reached and neither of these holds;
* inconclusive    `days` are over.

While it runs, enrolment rises one step of `canary` after `step_days` in which every guardrail has excluded a loss beyond its
tolerance; until the data exclude it, it stays where it is. So a harm of that size reaches the next step with a chance of `level` at most,
however long one looks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np

from nightmarket.online.assignment import Split
from nightmarket.online.sequential import (
    MINIMUM_SPREAD,
    MINIMUM_UNITS,
    AlwaysValid,
    Mismatch,
    SampleSize,
    always_valid,
    mismatch,
    sample_size,
)
from nightmarket.recommend.histories import CART, DAY, PURCHASE, RETURN, VIEW, Histories, seconds
from nightmarket.shop import Experiment, ExperimentMetric

Status = Literal["running", "won", "harmed", "no_difference", "inconclusive", "invalid"]
FINAL: tuple[Status, ...] = ("won", "harmed", "no_difference", "inconclusive", "invalid")
Role = Literal["metric", "guardrail"]
SMALLER_IS_BETTER: frozenset[ExperimentMetric] = frozenset({"returns"})
_UNITS, _Y, _X, _YY, _XX, _XY, _SPREAD = range(7)


@dataclass(frozen=True)
class Exposed:
    """First exposures of n shoppers, those who were shown an arm."""

    unit: np.ndarray
    """(n,) str."""
    arm: np.ndarray
    """(n,) index of the arm, in the order of shop.yaml."""
    at: np.ndarray
    """(n,) seconds since 1970-01-01 UTC."""


@dataclass(frozen=True)
class Comparison:
    """Adjusted means of a treatment and the control at each look; arrays (…, looks)."""

    control: np.ndarray
    treatment: np.ndarray
    difference: np.ndarray
    """treatment - keep x control."""
    variance: np.ndarray
    units: np.ndarray
    """Effective: 1 / (1 / n_treatment + 1 / n_control)."""
    ready: np.ndarray
    """Whether both arms hold enough units for a mean to be normal."""


def sums(arm: np.ndarray, look: np.ndarray, value: np.ndarray, before: np.ndarray, arms: int, looks: int) -> np.ndarray:
    """(looks, arms, 7) cumulative sufficient statistics: units, sums of value and covariate, of their squares and product, and units
    whose value is not 0. `look` (n,) is the first at which a unit counts; units beyond the last are left out."""
    made = np.zeros((looks, arms, 7))
    inside = (look >= 0) & (look < looks)
    y, x = value[inside], before[inside]
    parts = np.stack([np.ones(len(y)), y, x, y * y, x * x, x * y, y != 0], axis=1)
    np.add.at(made, (look[inside], arm[inside]), parts)
    return np.cumsum(made, axis=0)


def compare(found: np.ndarray, treatment: int, keep: float = 1.0) -> Comparison:
    """Treatment against control (arm 0) from `sums` (…, looks, arms, 7): the contrast treatment - keep x control.

    With `keep` = 1 - t the contrast is above 0 exactly where less than the share t of the control's mean is lost.
    """
    n = found[..., _UNITS]
    safe = np.maximum(n, 1.0)
    y, x = found[..., _Y] / safe, found[..., _X] / safe
    freedom = np.maximum(n - 1, 1.0)
    within = {k: np.maximum(0.0, found[..., c] - n * a * b) if k != "xy" else found[..., c] - n * a * b
              for k, c, a, b in (("yy", _YY, y, y), ("xx", _XX, x, x), ("xy", _XY, x, y))}
    spread = within["xx"].sum(axis=-1)
    slope = np.divide(within["xy"].sum(axis=-1), spread, out=np.zeros_like(spread), where=spread > 0)
    overall = found[..., _X].sum(axis=-1) / np.maximum(n.sum(axis=-1), 1.0)
    mean = y - slope[..., None] * (x - overall[..., None])
    variance = (within["yy"] - 2 * slope[..., None] * within["xy"] + slope[..., None] ** 2 * within["xx"]) / freedom / safe
    pair = [0, treatment]
    enough = (n[..., pair].min(axis=-1) >= MINIMUM_UNITS) & (found[..., pair, _SPREAD].min(axis=-1) >= MINIMUM_SPREAD)
    return Comparison(
        control=mean[..., 0], treatment=mean[..., treatment], difference=mean[..., treatment] - keep * mean[..., 0],
        variance=np.maximum(variance[..., treatment], 0) + keep**2 * np.maximum(variance[..., 0], 0),
        units=1 / (1 / safe[..., 0] + 1 / safe[..., treatment]), ready=enough,
    )


def judge(compared: Comparison, planned: float, level: float) -> AlwaysValid:
    """The always-valid test of a comparison; `planned` effective units at the planned end set where it is sharpest."""
    return always_valid(compared.difference, compared.variance, compared.units / planned, level, compared.ready)


# --- values ------------------------------------------------------------------------------------------------------------
def values(histories: Histories, metric: ExperimentMetric, codes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n,) the metric of each shopper between `start` and `end` (seconds, excluded); 0 for code -1, who was never seen.

    purchase and returns: 1 where there was one; revenue: net of returns; units: bought; views and carts: events.
    """
    opens, closes = np.full(histories.users, np.inf), np.full(histories.users, -np.inf)
    known = codes >= 0
    opens[codes[known]], closes[codes[known]] = start[known], end[known]
    wanted = {"purchase": [PURCHASE], "revenue": [PURCHASE, RETURN], "units": [PURCHASE], "views": [VIEW], "carts": [CART],
              "returns": [RETURN]}[metric]
    rows = (histories.time >= opens[histories.user]) & (histories.time < closes[histories.user]) & np.isin(histories.kind, wanted)
    user = histories.user[rows]
    weight = np.ones(len(user))
    if metric == "revenue":
        weight = histories.quantity[rows].astype(float) * np.nan_to_num(histories.price[rows].astype(float))
    elif metric == "units":
        weight = histories.quantity[rows].astype(float)
    total = np.bincount(user, weights=weight, minlength=histories.users)
    if metric in ("purchase", "returns"):
        total = (total > 0).astype(float)
    return np.where(known, total[np.maximum(codes, 0)] if histories.users else 0.0, 0.0)


@dataclass(frozen=True)
class Plan:
    """What the power calculation says, from the shoppers who came in the span before the start."""

    units: int | None
    """Matured shoppers that each treatment needs; None where the metric was never above 0."""
    once: int | None
    """The same for a single look at the end, for comparison."""
    mean: float
    deviation: float
    explained: float
    """Share of the variance that CUPED takes away."""
    daily: float
    """Shoppers a day who would be exposed at full enrolment, all arms together."""
    guardrails: Mapping[str, int | None] = field(default_factory=dict)
    """Matured shoppers of each treatment after which a guardrail's loss of its tolerance is expected to show."""


def plan(rules: Experiment, histories: Histories, zone: ZoneInfo) -> Plan:
    """The power calculation of an experiment, from nothing later than its start."""
    start = float(seconds(datetime.combine(rules.starts, time(), zone)))
    level = rules.level / (len(rules.arms) - 1)
    size, mean, deviation, explained, came = _needed(rules, histories, start, rules.metric, rules.horizon_days, rules.effect, level)
    guardrails = {
        metric: _needed(rules, histories, start, metric, rules.guardrail_days, tolerance, level / len(rules.guardrails))[0]
        for metric, tolerance in rules.guardrails.items()
    }
    return Plan(size.always if size else None, size.once if size else None, mean, deviation, explained,
                came / rules.horizon_days * (rules.traffic[1] - rules.traffic[0]), {m: g.always if g else None for m, g in guardrails.items()})


def _needed(
    rules: Experiment, histories: Histories, start: float, metric: ExperimentMetric, days: int, effect: float, level: float
) -> tuple[SampleSize | None, float, float, float, int]:
    """(sample, mean, deviation, explained, shoppers) from those who came in the `days` before the start; no sample for a metric that was 0."""
    span = days * DAY
    came = np.unique(histories.between(start - span, start).user).astype(np.int64)
    at = np.full(len(came), start - span)
    value = values(histories, metric, came, at, at + span)
    before = values(histories, metric, came, at - rules.cuped_days * DAY, at)
    mean, deviation = (float(value.mean()), float(value.std(ddof=1))) if len(value) > 1 else (0.0, 0.0)
    explained = float(np.corrcoef(value, before)[0, 1] ** 2) if deviation > 0 and before.std() > 0 else 0.0
    if mean <= 0 or deviation <= 0:
        return None, mean, deviation, explained, len(came)
    control, *treatments = rules.arms.values()
    least = min(treatments)
    return (sample_size(mean, deviation, effect, level, rules.power, least / (least + control), min(explained, 0.99)),
            mean, deviation, explained, len(came))


# --- state -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reading:
    """One metric of one treatment against the control. Changes are relative to the control's mean, better is positive."""

    metric: ExperimentMetric
    role: Role
    arm: str
    units: int
    """Matured shoppers in the treatment."""
    control: float
    treatment: float
    change: float | None
    low: float | None
    high: float | None
    """Ends of the confidence sequence; None while too few shoppers were seen."""
    p_value: float
    """Always valid, two-sided, of no change."""
    tolerance: float | None
    excluded: bool
    """Whether a loss beyond the tolerance is excluded; for the metric, whether any loss is."""
    harm: bool
    """Whether a loss is proven."""


@dataclass(frozen=True)
class State:
    """Where an experiment stands after a night."""

    name: str
    night: date
    definition: str
    """Digest of its lines in shop.yaml but for `promote`: another one is another experiment."""
    status: Status
    why: str
    step: int
    """Index into `canary`."""
    since: date
    """First night of the step."""
    arm: str | None = None
    """The treatment that won or harmed."""
    units: Mapping[str, int] = field(default_factory=dict)
    """Exposed shoppers by arm."""
    readings: tuple[Reading, ...] = ()
    mismatch: Mismatch = field(default_factory=lambda: Mismatch(0.0, 1.0, 1.0))
    plan: Plan | None = None

    @property
    def final(self) -> bool:
        return self.status != "running"

    def enrolment(self, rules: Experiment) -> float:
        """Share of the traffic that takes part from the night on."""
        return rules.canary[self.step] if self.status in ("running", "won") else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "night": self.night.isoformat(), "since": self.since.isoformat()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> State:
        made = dict(told)
        made["night"], made["since"] = date.fromisoformat(told["night"]), date.fromisoformat(told["since"])
        made["readings"] = tuple(Reading(**r) for r in told["readings"])
        made["mismatch"] = Mismatch(**told["mismatch"])
        made["plan"] = Plan(**told["plan"]) if told["plan"] else None
        return cls(**made)


def definition(rules: Experiment) -> str:
    """What must not change while it runs."""
    told = rules.model_dump(mode="json", exclude={"promote"})
    return hashlib.sha256(json.dumps(told, sort_keys=False).encode()).hexdigest()[:16]


def split(shop: str, name: str, rules: Experiment) -> Split:
    return Split(name, rules.layer, rules.traffic, rules.arms, shop)


class Changed(ValueError):
    """An experiment's lines were changed while it ran; the message says what to do."""


def assess(
    name: str, rules: Experiment, exposed: Exposed, histories: Histories, night: date, zone: ZoneInfo, before: State | None
) -> State:
    """The state after `night`, from the exposures and histories as of its end and the state after an earlier night.

    A final state stays. Raises Changed where the experiment's lines are not those it began with.
    """
    if before is not None and before.definition != definition(rules):
        raise Changed(f"experiments.{name} was changed while it ran: what it has shown is about the old lines; "
                      f"undo the change, or give the new ones another name")
    if before is not None and before.final:
        return replace(before, night=night)
    planned = before.plan if before is not None and before.plan is not None else plan(rules, histories, zone)
    looks = (night - rules.starts).days + 1
    ends = np.array([float(seconds(datetime.combine(rules.starts + timedelta(days=n + 1), time(), zone))) for n in range(looks)])
    arms = list(rules.arms)
    codes = histories.codes_of(list(exposed.unit))
    asked: list[tuple[ExperimentMetric, Role]] = [(rules.metric, "metric"), *((m, "guardrail") for m in rules.guardrails)]
    found = {(metric, role): _sums(rules, metric, role, exposed, codes, histories, ends) for metric, role in asked}
    level = rules.level / (len(arms) - 1)
    readings = [
        _reading(rules, metric, role, arms, treatment, found[metric, role], *_planned(planned, rules, metric, role, level))
        for treatment in range(1, len(arms)) for metric, role in found
    ]
    entered = np.searchsorted(ends, exposed.at, side="right")
    counts = np.cumsum(np.stack([np.bincount(entered[exposed.arm == a], minlength=looks)[:looks] for a in range(len(arms))], axis=1), axis=0)
    state = State(
        name=name, night=night, definition=definition(rules), status="running", why="", step=before.step if before else 0,
        since=before.since if before else rules.starts, units={a: int(counts[-1, n]) for n, a in enumerate(arms)},
        readings=tuple(readings), mismatch=mismatch(counts, list(rules.arms.values())), plan=planned,
    )
    return _decide(state, rules)


def _planned(plan: Plan, rules: Experiment, metric: ExperimentMetric, role: Role, level: float) -> tuple[int | None, float]:
    """(shoppers of a treatment at which the test is sharpest, its level)."""
    return (plan.units, level) if role == "metric" else (plan.guardrails.get(metric), level / len(rules.guardrails))


def _sums(
    rules: Experiment, metric: ExperimentMetric, role: Role, exposed: Exposed, codes: np.ndarray, histories: Histories, ends: np.ndarray
) -> np.ndarray:
    span = (rules.horizon_days if role == "metric" else rules.guardrail_days) * DAY
    value = values(histories, metric, codes, exposed.at, exposed.at + span)
    earlier = values(histories, metric, codes, exposed.at - rules.cuped_days * DAY, exposed.at)
    return sums(exposed.arm, np.searchsorted(ends, exposed.at + span), value, earlier, len(rules.arms), len(ends))


def _reading(
    rules: Experiment, metric: ExperimentMetric, role: Role, arms: Sequence[str], treatment: int, found: np.ndarray, planned: int | None,
    level: float,
) -> Reading:
    control_share, share = rules.arms[arms[0]], rules.arms[arms[treatment]]
    effective = (planned or 10 * MINIMUM_UNITS) * control_share / (share + control_share)
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0
    compared = compare(found, treatment)
    seen = judge(compared, effective, level)
    low, high = sorted((sign * float(seen.low[-1]), sign * float(seen.high[-1])))
    tolerance = rules.guardrails[metric] if role == "guardrail" else None
    # where less is better a loss of the share t is t more than the control
    held = judge(compare(found, treatment, 1 - sign * (tolerance or 0.0)), effective, level)
    excluded = float(held.low[-1]) > 0 if sign > 0 else float(held.high[-1]) < 0
    control = float(compared.control[-1])

    def relative(v: float) -> float | None:
        return v / control if np.isfinite(v) and control > 0 else None

    return Reading(
        metric, role, arms[treatment], int(found[-1, treatment, _UNITS]), control, float(compared.treatment[-1]),
        relative(sign * float(compared.difference[-1])), relative(low), relative(high), float(seen.p_value[-1]), tolerance, excluded, high < 0,
    )


def _decide(state: State, rules: Experiment) -> State:
    """Applies the order of the module's docstring to the readings."""
    metric = [r for r in state.readings if r.role == "metric"]
    guardrails = [r for r in state.readings if r.role == "guardrail"]
    if state.mismatch.found:
        shares = ", ".join(f"{a} {n}" for a, n in state.units.items())
        return replace(state, status="invalid", why=f"the arms do not hold their shares ({shares}; p {state.mismatch.p_always:.2g}): "
                       f"find out whose exposures are lost or doubled before believing anything else")
    if hurt := [r for r in (*guardrails, *metric) if r.harm]:
        r = hurt[0]
        return replace(state, status="harmed", arm=r.arm, why=f"{r.metric} of {r.arm} is worse than the control's: {told(r)}")
    at_top = state.step == len(rules.canary) - 1
    days = (state.night - state.since).days + 1
    held = {arm: all(r.excluded for r in guardrails if r.arm == arm) for arm in list(rules.arms)[1:]}
    if winners := [r for r in metric if r.excluded and held[r.arm] and at_top and days >= rules.minimum_days]:
        best = max(winners, key=lambda r: r.change or 0.0)
        return replace(state, status="won", arm=best.arm, why=f"{best.metric} of {best.arm} is better than the control's: {told(best)}")
    wanted = state.plan.units if state.plan else None
    if wanted and at_top and all(r.units >= wanted for r in metric):
        return replace(state, status="no_difference", why=f"{wanted} shoppers a treatment, as planned, show no change: "
                       + "; ".join(f"{r.arm} {told(r)}" for r in metric))
    if (state.night - rules.starts).days + 1 >= rules.days:
        return replace(state, status="inconclusive", why=f"its {rules.days} days are over: " + "; ".join(f"{r.arm} {told(r)}" for r in metric))
    if at_top:
        return replace(state, why="all of its traffic takes part")
    waiting = sorted({f"{r.metric} of {r.arm}" for r in guardrails if not r.excluded})
    if waiting:
        return replace(state, why=f"{rules.canary[state.step]:.0%} of its traffic take part until a loss beyond the tolerance is excluded for {', '.join(waiting)}")
    if days < rules.step_days:
        return replace(state, why=f"{rules.canary[state.step]:.0%} of its traffic take part; guardrails hold, the step lasts {rules.step_days} days")
    step = state.step + 1
    return replace(state, step=step, since=state.night + timedelta(days=1), why=f"guardrails hold: from tomorrow {rules.canary[step]:.0%} of its traffic take part")


def told(r: Reading) -> str:
    """The change with its interval, in words."""
    if r.change is None or r.low is None or r.high is None:
        return "too few shoppers yet"
    return f"{r.change:+.1%} [{r.low:+.1%}, {r.high:+.1%}]"
