"""The model gate: may a challenger serve? A pure truth table over evidence; `jobs.bless` gathers it and acts.

A challenger is promoted when every one of these holds:

1. `data_gate`       the data gate let the challenger's night through;
2. `measured`        every metric of the challenger is a number;
3. `floor`           its metric is above `blessing.floor`;
4. `beats <name>`    for each baseline of `blessing.beat`: its metric is higher, and the lower end of the paired interval of
                     the difference is not below -margin (it is better, and not by a few lucky shoppers alone);
5. `verified`        a fresh process loaded the registered version and answered as the training side did;
6. `fairness <dim>`  by country and by history: the worst group's metric is at least `fairness_ratio` of the best group's,
                     or its interval reaches that far (groups of fewer than `slice_users` shoppers are too small to say);

and, where a champion serves:

7. `same_holdout`    both were judged on the same frozen holdout;
8. `not_worse`       the lower end of the paired 95 % bootstrap interval over shoppers of (challenger - champion) is at
                     least -margin, in units of the metric: a non-inferiority test, so fewer shoppers must show more;
9. `slices`          in no slice of at least `slice_users` shoppers did it lose more than the share `slice_margin` of the
                     champion's value there, beyond chance (upper end of the paired interval below zero);
10. `newer`          it was not trained on older data than the champion, unless a person approves by name and reason;

a champion that this code cannot load answers nobody and has no quality to lose: rows 7 to 9 give way to

*  `without_champion` which holds, and says so in the record and in the letter; baselines, floor and all other rows decide;

and, where it, or a version made from exactly the same, was taken out of service (`jobs.rollback`):

11. `back_in_service` a person approves by name and reason.

A person's approval lifts the last two alone. A number that is missing or not finite fails its row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Literal

from nightmarket.shop import Blessing

FAIR_DIMENSIONS = ("country", "history")

Outcome = Literal["promoted", "kept", "refused"]
"""promoted: the challenger serves; kept: the champion goes on serving; refused: nothing serves."""


@dataclass(frozen=True)
class Measured:
    """A mean over shoppers with its 95 % interval; the ends are None where they were not computed."""

    value: float
    low: float | None = None
    high: float | None = None
    users: int = 0

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{ends}"


@dataclass(frozen=True)
class Slice:
    """A slice of the holdout, `dimension=value`; `difference` is challenger - champion over the same shoppers."""

    name: str
    challenger: Measured
    champion: Measured | None = None
    difference: Measured | None = None

    @property
    def dimension(self) -> str:
        return self.name.partition("=")[0]


@dataclass(frozen=True)
class Approval:
    """A person takes it upon them."""

    who: str
    why: str


@dataclass(frozen=True)
class Evidence:
    """All that the decision rests on."""

    challenger: str
    """Registry version."""
    challenger_date: date
    """Night of the data it was trained on."""
    data_gate: str
    """passed, warned, refused, or missing."""
    metric: str
    measured: Mapping[str, float]
    """Every metric of the challenger over all shoppers."""
    quality: Measured | None
    """The challenger's `metric`."""
    baselines: Mapping[str, Measured] = field(default_factory=dict)
    """`metric` of each baseline."""
    ahead_of: Mapping[str, Measured] = field(default_factory=dict)
    """Paired difference of `metric`, challenger minus baseline."""
    verified: bool | None = None
    """None: nobody tried."""
    verification: str = ""
    slices: tuple[Slice, ...] = ()
    champion: str | None = None
    champion_date: date | None = None
    champion_quality: Measured | None = None
    ahead_of_champion: Measured | None = None
    same_holdout: bool | None = None
    unreadable: str = ""
    """Why the champion could not be loaded to be judged; empty: it could."""
    rolled_back: str = ""
    """Who took it, or another version of its recipe, out of service and why; empty: nobody."""
    approval: Approval | None = None


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    passed: bool
    observed: str
    required: str
    text: str
    """A sentence for the owner."""


@dataclass(frozen=True)
class Decision:
    """What is done, and every reason."""

    outcome: Outcome
    challenger: str
    champion: str | None
    """Who served before."""
    checks: tuple[Check, ...]
    note: str = ""
    """What an owner must know beside the checks."""

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)

    @property
    def why(self) -> str:
        """One line for the ledger and the log."""
        said = f"passed all {len(self.checks)} checks" if self.outcome == "promoted" else f"failed {', '.join(c.name for c in self.failed)}"
        return f"{said}; {self.note}" if self.note else said

    def to_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "challenger": self.challenger, "champion": self.champion, "why": self.why,
                "checks": [asdict(c) for c in self.checks], **({"note": self.note} if self.note else {})}


def decide(evidence: Evidence, rules: Blessing) -> Decision:
    """Applies the table above. Nothing is read, nothing is moved."""
    checks = [_data_gate(evidence), _measured(evidence), _floor(evidence, rules)]
    checks += [_beats(name, evidence, rules) for name in rules.beat]
    checks.append(_verified(evidence))
    checks += [_fairness(dimension, evidence, rules) for dimension in FAIR_DIMENSIONS]
    lost = evidence.unreadable if evidence.champion is not None else ""
    if evidence.champion is not None:
        checks += [_without_champion(evidence)] if lost else [_same_holdout(evidence), _not_worse(evidence, rules), _slices(evidence, rules)]
        checks.append(_newer(evidence))
    if evidence.rolled_back:
        checks.append(_back_in_service(evidence))
    if all(c.passed for c in checks):
        outcome: Outcome = "promoted"
    else:
        outcome = "kept" if evidence.champion is not None else "refused"
    note = f"champion {evidence.champion} cannot be loaded ({lost}), so the baselines alone were compared with" if lost else ""
    return Decision(outcome, evidence.challenger, evidence.champion, tuple(checks), note)


def _data_gate(e: Evidence) -> Check:
    return Check("data_gate", e.data_gate in ("passed", "warned"), e.data_gate, "passed or warned",
                 f"The data gate's verdict on the night of {e.challenger_date} is {e.data_gate!r}.")


def _measured(e: Evidence) -> Check:
    wrong = sorted(name for name, value in e.measured.items() if not math.isfinite(value))
    if e.quality is None:
        wrong.append(e.metric)
    if not e.measured and not wrong:
        wrong.append("every metric")
    return Check("measured", not wrong, f"not numbers: {', '.join(wrong)}" if wrong else f"{len(e.measured)} metrics",
                 "every metric is a finite number", "A model that cannot be measured cannot be trusted." if wrong
                 else "Every metric of the challenger was measured.")


def _floor(e: Evidence, rules: Blessing) -> Check:
    ok = _finite(e.quality) and e.quality.value > rules.floor  # type: ignore[union-attr]
    return Check("floor", ok, _show(e.quality), f"{e.metric} > {rules.floor:g}",
                 f"The challenger's {e.metric} is {_show(e.quality)}; the floor is {rules.floor:g}.")


def _beats(name: str, e: Evidence, rules: Blessing) -> Check:
    baseline, ahead = e.baselines.get(name), e.ahead_of.get(name)
    ok = (
        _finite(e.quality) and _finite(baseline) and e.quality.value > baseline.value  # type: ignore[union-attr]
        and _finite(ahead) and _low(ahead) >= -rules.margin
    )
    return Check(f"beats {name}", ok, f"{_show(e.quality)} against {_show(baseline)}, difference {_show(ahead)}",
                 f"higher, and lower end of the paired interval >= {-rules.margin:g}",
                 f"Against {name} ({_show(baseline)}) the challenger has {_show(e.quality)}.")


def _verified(e: Evidence) -> Check:
    observed = {True: "answered alike", False: f"failed: {e.verification}", None: "not tried"}[e.verified]
    return Check("verified", e.verified is True, observed, "loads and answers alike in a fresh process",
                 f"The registered version in a fresh process: {observed}.")


def _fairness(dimension: str, e: Evidence, rules: Blessing) -> Check:
    groups = [s for s in e.slices if s.dimension == dimension and s.challenger.users >= rules.slice_users]
    required = f"worst >= {rules.fairness_ratio:g} x best among groups of {rules.slice_users} shoppers or more"
    name = f"fairness {dimension}"
    if broken := [s.name for s in groups if not math.isfinite(s.challenger.value)]:
        return Check(name, False, f"not numbers: {', '.join(broken)}", required, f"Groups by {dimension} were not measured.")
    if len(groups) < 2:
        return Check(name, True, f"{len(groups)} group{'s' if len(groups) != 1 else ''} large enough", required,
                     f"By {dimension} there are no two groups large enough to compare.")
    best = max(groups, key=lambda s: s.challenger.value)
    worst = min(groups, key=lambda s: s.challenger.value)
    reach = worst.challenger.value if worst.challenger.high is None else worst.challenger.high
    ratio = 1.0 if best.challenger.value <= 0 else worst.challenger.value / best.challenger.value
    ok = ratio >= rules.fairness_ratio or reach >= rules.fairness_ratio * best.challenger.value
    return Check(name, ok, f"{ratio:.2f}: {worst.name} {worst.challenger}, {best.name} {best.challenger}", required,
                 f"By {dimension} the worst group ({worst.name}) has {ratio:.0%} of the best ({best.name}).")


def _same_holdout(e: Evidence) -> Check:
    observed = {True: "the same", False: "another", None: "unknown"}[e.same_holdout]
    return Check("same_holdout", e.same_holdout is True, observed, "the same frozen holdout",
                 f"The champion was judged on {observed} holdout.")


def _without_champion(e: Evidence) -> Check:
    return Check("without_champion", True, f"not comparable: {e.unreadable}", "said where the champion cannot be loaded",
                 f"Champion {e.champion} cannot be loaded by this code: {e.unreadable}")


def _not_worse(e: Evidence, rules: Blessing) -> Check:
    ok = _finite(e.champion_quality) and _finite(e.ahead_of_champion) and _low(e.ahead_of_champion) >= -rules.margin
    return Check("not_worse", ok, f"{_show(e.quality)} against {_show(e.champion_quality)}, difference {_show(e.ahead_of_champion)}",
                 f"lower end of the paired interval >= {-rules.margin:g}",
                 f"Champion {e.champion} has {_show(e.champion_quality)}; the difference is {_show(e.ahead_of_champion)}.")


def _slices(e: Evidence, rules: Blessing) -> Check:
    lost, looked_at = [], 0
    for s in e.slices:
        if s.champion is None or min(s.challenger.users, s.champion.users) < rules.slice_users:
            continue
        looked_at += 1
        if not (math.isfinite(s.challenger.value) and math.isfinite(s.champion.value)):
            lost.append(f"{s.name} (not a number)")
            continue
        much = s.champion.value - s.challenger.value > rules.slice_margin * s.champion.value
        by_chance = s.difference is not None and s.difference.high is not None and s.difference.high >= 0
        if much and not by_chance:
            lost.append(f"{s.name} {s.challenger.value:.4f} against {s.champion.value:.4f}")
    return Check("slices", not lost, "; ".join(lost) or f"{looked_at} slices held",
                 f"no slice of {rules.slice_users} shoppers or more loses over {rules.slice_margin:.0%} beyond chance",
                 f"Slices that lost: {'; '.join(lost)}." if lost else f"None of {looked_at} slices lost beyond chance.")


def _newer(e: Evidence) -> Check:
    known = e.champion_date is not None
    newer = known and e.challenger_date >= e.champion_date  # type: ignore[operator]
    observed = f"{e.challenger_date} against {e.champion_date if known else 'an unknown night'}"
    text = f"The challenger learned from the night of {e.challenger_date}, the champion from that of {e.champion_date}."
    if not newer and e.approval is not None:
        observed += f", approved by {e.approval.who}"
        text += f" {e.approval.who} approved: {e.approval.why}"
    return Check("newer", newer or e.approval is not None, observed,
                 "not older data than the champion's, or a person's approval (--approve NAME --reason TEXT)", text)


def _back_in_service(e: Evidence) -> Check:
    observed, text = e.rolled_back, f"It was taken out of service: {e.rolled_back}."
    if e.approval is not None:
        observed += f", approved by {e.approval.who}"
        text += f" {e.approval.who} approved: {e.approval.why}"
    return Check("back_in_service", e.approval is not None, observed, "a person's approval (--approve NAME --reason TEXT)", text)


def _finite(m: Measured | None) -> bool:
    return m is not None and math.isfinite(m.value)


def _low(m: Measured | None) -> float:
    """The lower end; NaN, which compares false with everything, where there is none."""
    return math.nan if m is None or m.low is None else m.low


def _show(m: Measured | None) -> str:
    return "missing" if m is None else str(m)
