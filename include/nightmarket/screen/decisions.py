"""Allow, review or block: the decision that costs least, within what the analysts can look at in a day.

With p the probability of fraud, letting a row pass costs p · missed, looking at it costs a review, blocking it costs
(1 - p) · wrongly blocked. Without labels nothing is blocked: strangeness alone is a reason to look, not to act.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALLOW, REVIEW, BLOCK = 0, 1, 2
NAMES = np.array(["allow", "review", "block"])


@dataclass(frozen=True)
class Costs:
    """In the shop's currency, per row. `capacity` is how many rows the analysts look at in a day; None: as many as pay."""

    missed: float = 100.0
    review: float = 5.0
    wrongly_blocked: float = 50.0
    capacity: int | None = None

    def __post_init__(self) -> None:
        if min(self.missed, self.review, self.wrongly_blocked) < 0 or self.review >= self.missed:
            raise ValueError(f"costs must not be negative and a review ({self.review:g}) must cost less than a missed fraud ({self.missed:g})")
        if self.capacity is not None and self.capacity < 0:
            raise ValueError(f"a capacity of {self.capacity} rows a day; write 0 or more")


@dataclass(frozen=True, order=True)
class Thresholds:
    """From `review` on a row is looked at, from `block` on it is blocked; above 1 is never."""

    review: float
    block: float

    def decide(self, values: np.ndarray) -> np.ndarray:
        return np.where(values >= self.block, BLOCK, np.where(values >= self.review, REVIEW, ALLOW))


NEVER = 2.0


def by_cost(costs: Costs, past: np.ndarray, weight: np.ndarray, days: float) -> Thresholds:
    """Thresholds on the probability. `past` (n,) probabilities of earlier rows, each standing for `weight` rows, over `days`:
    where more of them a day would be looked at than the capacity, the review threshold rises until they fit.
    """
    review = costs.review / costs.missed
    # blocking beats reviewing where (1 - p) · wrongly_blocked < review, and beats allowing where (1 - p) · wrongly_blocked < p · missed
    block = max(1 - costs.review / costs.wrongly_blocked if costs.wrongly_blocked > 0 else 0.0,
                costs.wrongly_blocked / (costs.wrongly_blocked + costs.missed))
    review = min(review, block)
    if costs.capacity is not None:
        review = max(review, _fits(past[past < block], weight[past < block], costs.capacity * days))
        if review >= block:
            review = block
    return Thresholds(review, block)


def by_share(costs: Costs, past: np.ndarray, days: float, share: float = 0.01) -> Thresholds:
    """Thresholds on an unsupervised score: the strangest `share` of earlier rows, or as many as the capacity allows."""
    rows = len(past) * share if costs.capacity is None else costs.capacity * days
    return Thresholds(_fits(past, np.ones(len(past)), rows), NEVER)


def _fits(values: np.ndarray, weight: np.ndarray, rows: float) -> float:
    """The smallest value at or above which at most `rows` (by weight) lie."""
    order = np.argsort(-values, kind="stable")
    ahead = np.cumsum(weight[order])
    within = np.searchsorted(ahead, rows, "right")
    if within >= len(values):
        return 0.0
    # ties belong together: above the first value that no longer fits
    return float(np.nextafter(values[order[within]], np.inf))
