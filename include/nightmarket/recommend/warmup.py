"""New items and new shoppers: exposure that is bounded, explored, and measured on logs; questions that tell the most.

* `Exposure` bounds the share of places that new items get: at no moment were more than `share` of all places theirs.
* `Thompson` (Thompson 1933; Chapelle & Li 2011) and `LinUcb` (Li et al. 2010, disjoint) say which new item gets the place.
* `ips`, `snips` and `replay` say from a log with propensities what a policy would have earned, without showing it to anybody.
* `questions` picks the items that a newcomer is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

_DRAWS = 2_000


class Policy(Protocol):
    """Chooses one of n items for a context (d,), learns from what happened."""

    def choose(self, context: np.ndarray | None, allowed: np.ndarray | None = None) -> int: ...

    def learn(self, item: int, reward: float, context: np.ndarray | None = None) -> None: ...


@dataclass
class Exposure:
    """A bound on the places that new items get. After any number of places, new items had at most `share` of them."""

    share: float
    shown: int = 0
    new: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a share outside 0 … 1."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share}: 0 … 1")

    def room(self) -> bool:
        """Whether the next place may go to a new item."""
        return self.new + 1 <= self.share * (self.shown + 1)

    def count(self, new: bool) -> None:
        """A place was shown. Raises ValueError where a new item had no room."""
        if new and not self.room():
            raise ValueError(f"{self.new + 1} of {self.shown + 1} places would exceed the share {self.share}")
        self.shown += 1
        self.new += int(new)


class Thompson:
    """Beta-Bernoulli Thompson sampling over n items; rewards 0 or 1."""

    def __init__(self, items: int, prior: tuple[float, float] = (1.0, 1.0), seed: int = 17):
        """`prior`: successes and failures that each item is taken to have had, e.g. of its category. Both above 0."""
        if min(prior) <= 0:
            raise ValueError(f"prior {prior}: both above 0")
        self.won, self.lost = np.full(items, prior[0]), np.full(items, prior[1])
        self._rng = np.random.default_rng(seed)

    def choose(self, context: np.ndarray | None = None, allowed: np.ndarray | None = None) -> int:
        return _best(self._rng.beta(self.won, self.lost), allowed)

    def learn(self, item: int, reward: float, context: np.ndarray | None = None) -> None:
        self.won[item] += reward
        self.lost[item] += 1.0 - reward

    def chances(self, draws: int = _DRAWS, seed: int = 17) -> np.ndarray:
        """(n,) how likely each item is to be chosen now, from `draws` seeded draws."""
        drawn = np.random.default_rng(seed).beta(self.won, self.lost, (draws, len(self.won)))
        return np.bincount(drawn.argmax(axis=1), minlength=len(self.won)) / draws


class LinUcb:
    """A ridge regression of rewards on the context for each of n items, and the upper end of its confidence band."""

    def __init__(self, items: int, dim: int, alpha: float = 1.0, ridge: float = 1.0):
        """`alpha` 0 or more: standard deviations of optimism. `ridge` above 0."""
        if alpha < 0 or ridge <= 0:
            raise ValueError(f"alpha {alpha} must be 0 or more, ridge {ridge} above 0")
        self.alpha = alpha
        self._inverse = np.tile(np.eye(dim) / ridge, (items, 1, 1))
        self._sums = np.zeros((items, dim))

    def bounds(self, context: np.ndarray) -> np.ndarray:
        """(n,) upper confidence bound of each item's reward."""
        guess = np.einsum("nij,nj,i->n", self._inverse, self._sums, context)
        width = np.sqrt(np.einsum("i,nij,j->n", context, self._inverse, context))
        return guess + self.alpha * width

    def choose(self, context: np.ndarray | None, allowed: np.ndarray | None = None) -> int:
        if context is None:
            raise ValueError("LinUCB chooses by a context; give one, or use Thompson sampling")
        return _best(self.bounds(context), allowed)

    def learn(self, item: int, reward: float, context: np.ndarray | None = None) -> None:
        if context is None:
            raise ValueError("LinUCB learns from a context; give one, or use Thompson sampling")
        # Sherman-Morrison: the inverse after adding context x contextᵀ
        moved = self._inverse[item] @ context
        self._inverse[item] -= np.outer(moved, moved) / (1.0 + context @ moved)
        self._sums[item] += reward * context


@dataclass
class WarmUp:
    """Gives new items the last place of a list, as far as the exposure bound has room, until each has been seen enough."""

    policy: Policy
    exposure: Exposure
    enough: int
    """Shows after which an item has graduated: the recommender knows it from then on."""
    shows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def serve(self, listed: np.ndarray, new_items: np.ndarray, context: np.ndarray | None = None) -> tuple[np.ndarray, int | None]:
        """(list, index into `new_items` of the one that got a place, or None).

        `listed` (k,) ids, best first; `new_items` (n,) ids, always the same ones in the same order. A new item that is on the list
        by its own merit is shown there and is not counted as given.
        """
        if len(self.shows) != len(new_items):
            self.shows = np.zeros(len(new_items), np.int64)
        waiting = (self.shows < self.enough) & ~np.isin(new_items, listed)
        for _ in range(len(listed) - 1):
            self.exposure.count(new=False)
        if not len(listed):
            return listed, None
        if not waiting.any() or not self.exposure.room():
            self.exposure.count(new=False)
            return listed, None
        picked = self.policy.choose(context, waiting)
        self.exposure.count(new=True)
        self.shows[picked] += 1
        return np.concatenate([listed[:-1], new_items[picked : picked + 1]]), picked

    def learn(self, picked: int, reward: float, context: np.ndarray | None = None) -> None:
        self.policy.learn(picked, reward, context)


def _best(value: np.ndarray, allowed: np.ndarray | None) -> int:
    """The first of the highest. Raises ValueError where nothing is allowed."""
    if allowed is not None:
        if not allowed.any():
            raise ValueError("no item is allowed; there is nothing to choose")
        value = np.where(allowed, value, -np.inf)
    return int(np.argmax(value))


# --- what a policy would have earned ----------------------------------------------------------------------------------
def ips(reward: np.ndarray, logged: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(n,) terms whose mean is the policy's value (Horvitz & Thompson 1952): reward x wanted / logged chance of what was shown.

    Raises ValueError for a logged chance that is not above 0.
    """
    if len(logged) and not (logged > 0).all():
        raise ValueError(f"row {int(np.argmin(logged > 0))}: a propensity of {logged.min()}; what was shown had a chance above 0")
    return reward * wanted / logged


def snips(reward: np.ndarray, logged: np.ndarray, wanted: np.ndarray) -> float:
    """The self-normalised estimate (Swaminathan & Joachims 2015): less variance, a little bias. NaN where the policy never agrees."""
    weight = ips(np.ones(len(logged)), logged, wanted)
    return float((reward * weight).sum() / weight.sum()) if weight.sum() > 0 else float("nan")


def snips_interval(reward: np.ndarray, logged: np.ndarray, wanted: np.ndarray, resamples: int = 1000, seed: int = 17) -> tuple[float, float, float]:
    """(estimate, low, high): percentile bootstrap over rows, 95 %."""
    weight = ips(np.ones(len(logged)), logged, wanted)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        rows = rng.integers(0, len(reward), len(reward))
        total = weight[rows].sum()
        if total > 0:
            found.append((reward[rows] * weight[rows]).sum() / total)
    low, high = np.quantile(found, [0.025, 0.975]) if found else (float("nan"), float("nan"))
    return snips(reward, logged, wanted), float(low), float(high)


@dataclass(frozen=True)
class Replayed:
    """Rewards of the rows at which policy and log agreed, in their order."""

    reward: np.ndarray
    rows: int


def replay(policy: Policy, shown: np.ndarray, reward: np.ndarray, contexts: np.ndarray | None, order: Iterable[int]) -> Replayed:
    """Runs a learning policy through a log that was shown uniformly at random (Li et al. 2011): unbiased for such logs alone.

    A row at which the policy would have shown something else is skipped, and it learns nothing from it.
    """
    kept, rows = [], 0
    for n in order:
        rows += 1
        context = None if contexts is None else contexts[n]
        if policy.choose(context) == shown[n]:
            policy.learn(int(shown[n]), float(reward[n]), context)
            kept.append(float(reward[n]))
    return Replayed(np.array(kept), rows)


def regret(policy: Policy, rates: np.ndarray, rounds: int, seed: int, contexts: Callable[[np.random.Generator], np.ndarray] | None = None) -> np.ndarray:
    """(rounds,) cumulative regret where item n is clicked with chance rates[n]: best rate less that of what was chosen."""
    rng = np.random.default_rng(seed)
    lost = np.empty(rounds)
    for n in range(rounds):
        context = None if contexts is None else contexts(rng)
        item = policy.choose(context)
        policy.learn(item, float(rng.random() < rates[item]), context)
        lost[n] = rates.max() - rates[item]
    return np.cumsum(lost)


# --- what to ask a newcomer --------------------------------------------------------------------------------------------
def questions(vectors: np.ndarray, familiarity: np.ndarray, k: int, noise: float = 1.0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(items, gain): up to `k` items whose answers tell most, greedily, and by how much each lowers the mean squared error of what is
    then said of all items.

    A taste is a vector w ~ N(0, spread² I), the answer about item n is vectors[n]·w with variance noise², and it comes with the chance
    familiarity[n]: who does not know an item cannot say (transductive experimental design, Yu, Bi & Tresp 2006, with missing
    answers). `vectors` (n, d); `familiarity` (n,) 0 … 1, and 0 is never asked.
    """
    covariance = np.eye(vectors.shape[1]) * spread**2
    matters = vectors.T @ vectors / len(vectors)
    open_ = familiarity > 0
    chosen, gains = [], []
    for _ in range(min(k, int(open_.sum()))):
        moved = vectors @ covariance
        lowered = familiarity * np.einsum("nd,de,ne->n", moved, matters, moved) / (noise**2 + (moved * vectors).sum(axis=1))
        best = int(np.argmax(np.where(open_, lowered, -np.inf)))
        chosen.append(best)
        gains.append(float(lowered[best]))
        open_[best] = False
        # the mean of what it will be with the answer and without
        covariance = covariance - familiarity[best] * np.outer(moved[best], moved[best]) / (noise**2 + vectors[best] @ moved[best])
    return np.array(chosen, np.int64), np.array(gains)


def taste(vectors: np.ndarray, answers: np.ndarray, noise: float = 1.0, spread: float = 1.0) -> np.ndarray:
    """(d,) most likely taste after `answers` (m,) about items with `vectors` (m, d); zero without any."""
    precision = vectors.T @ vectors / noise**2 + np.eye(vectors.shape[1]) / spread**2
    return np.linalg.solve(precision, vectors.T @ np.asarray(answers, np.float64) / noise**2)
