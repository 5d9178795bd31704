"""What a policy would have earned, from a log of another policy with propensities: before anybody is shown anything.

* IPS (Horvitz & Thompson 1952): unbiased where every action that the new policy takes could have been logged; wide.
* SNIPS (Swaminathan & Joachims 2015): the same divided by the mean weight; narrower, a little biased.
* Doubly robust (Dudík, Langford & Li 2011): a reward model, corrected by IPS of what it got wrong; right where either of the two
  is. The model is cross-fitted, so that no row is corrected by a model that has seen it, and weights are cut off at the square root
  of the rows (Ionides 2008): beyond it the model is trusted.

`nightmarket.recommend.warmup` has the terms of the first two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nightmarket.recommend.warmup import ips

FOLDS = 3


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, by the bootstrap over rows."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.5f} [{self.low:.5f}, {self.high:.5f}]"


@dataclass(frozen=True)
class Log:
    """n rows of a policy's log over K actions."""

    action: np.ndarray
    """(n,) what was shown."""
    reward: np.ndarray
    """(n,) what came of it."""
    propensity: np.ndarray
    """(n,) chance above 0 that the logging policy had of showing it."""
    context: np.ndarray
    """(n, d)."""
    actions: int

    def __post_init__(self) -> None:
        """Raises ValueError for an action outside 0 … K - 1 or a propensity not above 0."""
        if len(self.action) and not (self.action.min() >= 0 and self.action.max() < self.actions):
            raise ValueError(f"actions run from 0 to {self.actions - 1}; the log shows {self.action.min()} … {self.action.max()}")
        ips(self.reward, self.propensity, self.propensity)


Model = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(context, action, reward, context to say of) -> (m, K) expected reward of each action."""


def shrunken_means(actions: int, weight: float = 100.0) -> Model:
    """A reward model without context: each action's mean, drawn to the mean of all as if that had been seen `weight` times."""

    def fit(_: np.ndarray, action: np.ndarray, reward: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        overall = reward.mean() if len(reward) else 0.0
        seen = np.bincount(action, minlength=actions)
        means = (np.bincount(action, weights=reward, minlength=actions) + weight * overall) / (seen + weight)
        return np.tile(means, (len(wanted), 1))

    return fit


def logistic(actions: int, strength: float = 0.1) -> Model:
    """A logistic regression on context and action, for rewards of 0 and 1; `strength` is scikit-learn's C."""

    def fit(context: np.ndarray, action: np.ndarray, reward: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        from scipy import sparse
        from sklearn.linear_model import LogisticRegression

        def design(x: np.ndarray, a: np.ndarray) -> sparse.csr_matrix:
            shown = sparse.csr_matrix((np.ones(len(a)), (np.arange(len(a)), a)), shape=(len(a), actions))
            return sparse.hstack([sparse.csr_matrix(x), shown], format="csr")

        if len(np.unique(reward)) < 2:
            return np.full((len(wanted), actions), float(reward.mean()) if len(reward) else 0.0)
        learnt = LogisticRegression(C=strength, max_iter=500).fit(design(context, action), reward)
        return np.stack([learnt.predict_proba(design(wanted, np.full(len(wanted), a)))[:, 1] for a in range(actions)], axis=1)

    return fit


def doubly_robust(log: Log, target: np.ndarray, model: Model, seed: int = 17) -> np.ndarray:
    """(n,) terms whose mean is the value of the policy with chances `target` (n, K)."""
    rows = np.arange(len(log.action))
    fold = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    expected = np.empty((len(rows), log.actions))
    for f in range(FOLDS):
        learn, say = fold != f, fold == f
        expected[say] = model(log.context[learn], log.action[learn], log.reward[learn], log.context[say])
    direct = (target * expected).sum(axis=1)
    weight = np.minimum(target[rows, log.action] / log.propensity, np.sqrt(len(rows)))
    return direct + weight * (log.reward - expected[rows, log.action])


def estimates(log: Log, target: np.ndarray, model: Model, resamples: int = 1000, seed: int = 17) -> dict[str, Estimate]:
    """IPS, SNIPS and doubly robust of the policy with chances `target` (n, K); rows sum to 1."""
    if target.shape != (len(log.action), log.actions) or not np.allclose(target.sum(axis=1), 1, atol=1e-6):
        raise ValueError(f"target {target.shape}: one row of {log.actions} chances, summing to 1, for each of {len(log.action)} rows")
    wanted = target[np.arange(len(log.action)), log.action]
    terms = ips(log.reward, log.propensity, wanted)
    weight = ips(np.ones(len(log.reward)), log.propensity, wanted)
    robust = doubly_robust(log, target, model, seed)
    rng = np.random.default_rng(seed)
    n = len(log.action)
    # rows drawn with replacement are multinomial counts: one product gives all resamples of all sums
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples) @ np.stack([terms, weight, robust], axis=1)

    def of(value: float, found: np.ndarray) -> Estimate:
        low, high = np.nanquantile(found, [0.025, 0.975])
        return Estimate(float(value), float(low), float(high))

    with np.errstate(invalid="ignore", divide="ignore"):
        normalised = drawn[:, 0] / drawn[:, 1]
        return {
            "IPS": of(terms.mean(), drawn[:, 0] / n),
            "SNIPS": of(terms.sum() / weight.sum(), normalised),
            "doubly robust": of(robust.mean(), drawn[:, 2] / n),
        }
