"""What an arm would have earned, from the log of what was shown, before anybody is shown it.

A row is one shopper's first logged show of the days looked at: the list, the chance with which it was shown (`online.serving` knows it: 1
for a list without a draw, an experiment's shares for its arms), and the metric over the days since. The arm is one action: to show exactly the
list that its version would have shown then. So a row counts for it where that is the list which was shown, and what it would show and never
could be seen is not guessed at: where the log covers too little of that, no estimate is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nightmarket.online.offpolicy import Estimate, Log, estimates, logistic, shrunken_means

LEAST = 30
"""Shoppers who were shown what the arm would show; fewer say nothing."""
COVERED = 0.9
"""Of what the arm would show the log must have been able to show so much, or the rest may be anything."""
_SHOWS, _OTHER = 0, 1


@dataclass(frozen=True)
class Shown:
    """n shoppers' first shows."""

    unit: np.ndarray
    """(n,) str."""
    at: np.ndarray
    """(n,) seconds since 1970-01-01 UTC."""
    items: Sequence[tuple[str, ...]]
    """n lists, best first."""
    chance: np.ndarray
    """(n,) above 0: how likely this list was, when it was shown."""


@dataclass(frozen=True)
class Foreseen:
    """What is said of an arm: estimates of its mean metric by shopper, or why there are none."""

    arm: str
    version: str
    why: str
    """Why no estimate can be given; empty where they are."""
    shoppers: int = 0
    agreed: int = 0
    """Shoppers who were shown what the arm would have shown."""
    covered: float = 0.0
    """Share of what the arm would show that the log could have shown: the mean weight."""
    shown: float = 0.0
    """Mean metric under what was shown."""
    estimates: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def foresee(arm: str, version: str, shown: Shown, wanted: Mapping[int, Sequence[str]], value: np.ndarray, context: np.ndarray) -> Foreseen:
    """`wanted` by row is the version's list as of the show (a row without one agrees with nothing); `value` (n,) the metric after it,
    `context` (n, d) what was known of the shopper before."""
    n = len(shown.unit)
    same = np.array([row in wanted and tuple(wanted[row])[: len(items)] == items for row, items in enumerate(shown.items)], bool)
    if not n:
        return Foreseen(arm, version, "nothing that was shown with its chance is logged for days of which the outcome is known")
    covered = float((same / shown.chance).mean())
    told = Foreseen(arm, version, "", n, int(same.sum()), covered, float(value.mean()))
    if told.agreed < LEAST:
        return _without(told, f"no overlap: of {n} logged lists {told.agreed} are what it would have shown, and {LEAST} are needed")
    spread = float((same / shown.chance).std(ddof=1)) / np.sqrt(n)
    if covered + 2 * spread < COVERED:
        return _without(told, f"too little overlap: what was shown could have been {covered:.0%} of what it would show; the rest is unknown")
    log = Log(np.where(same, _SHOWS, _OTHER), value, shown.chance, context, 2)
    model = logistic(2) if np.isin(value, (0.0, 1.0)).all() else shrunken_means(2)
    return Foreseen(arm, version, "", n, told.agreed, covered, told.shown, estimates(log, np.tile([1.0, 0.0], (n, 1)), model))


def _without(told: Foreseen, why: str) -> Foreseen:
    return Foreseen(told.arm, told.version, why, told.shoppers, told.agreed, told.covered, told.shown)
