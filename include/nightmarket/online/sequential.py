"""Tests that stay valid however often one looks, and how many shoppers a question needs.

* `always_valid`: the mixture sequential probability ratio test of a difference of means (Robbins 1970; Johari, Koomen, Pekelis & Walsh,
  "Always valid inference", Operations Research 2022). Its p-value is valid at every look at once, and inverting it gives a confidence
  sequence; with estimated variances both hold asymptotically (Waudby-Smith et al., "Time-uniform central limit theory", Annals of
  Statistics 2024), which is why nothing is said before `MINIMUM_UNITS` shoppers and `MINIMUM_SPREAD` informative ones in each arm.
* `mismatch`: whether arms hold the shares they should: chi-square for one look, and the anytime-valid multinomial test of Lindon &
  Malek (NeurIPS 2022), which decides, for all looks.
* `sample_size`: units an arm from a power calculation, for one look at the end and for looking every night.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

MINIMUM_UNITS = 100
"""Units an arm before which a mean is not taken to be normal."""
MINIMUM_SPREAD = 20
"""Units an arm whose value differs from the commonest one (who bought at all, say), likewise."""
MISMATCH_LEVEL = 0.001
"""Below this p-value arms do not hold the shares they should, and nothing else about them can be believed."""
_CONCENTRATION = 1_000.0
"""Prior weight of the expected shares in `mismatch`: it is keenest on gaps of about 1 / sqrt(this)."""


@dataclass(frozen=True)
class AlwaysValid:
    """Always-valid inference at each look; arrays (looks,) or (…, looks)."""

    p_value: np.ndarray
    """Never rises from look to look."""
    low: np.ndarray
    high: np.ndarray
    """Ends of the confidence sequence; infinite while too few units were seen."""


def best_ratio(level: float) -> float:
    """Prior variance of the effect over the variance of its estimate at the planned end, where the sequence is then narrowest
    (Waudby-Smith et al. 2024, equation for rho)."""
    return -2 * math.log(level) + math.log(-2 * math.log(level) + 1)


def always_valid(
    difference: np.ndarray, variance: np.ndarray, information: np.ndarray, level: float, ready: np.ndarray | None = None,
    null: float = 0.0,
) -> AlwaysValid:
    """The mixture test of `difference == null`, two-sided, looks along the last axis.

    `variance` of each difference; `information` is the units seen over those planned, so that the prior variance of the effect is the
    same at every look. Looks at which `ready` is false say nothing.
    """
    ready = np.ones(np.shape(difference), bool) if ready is None else ready
    ok = ready & (variance > 0) & np.isfinite(difference)
    ratio = best_ratio(level) * np.where(ok, information, 1.0)
    safe = np.where(ok, variance, 1.0)
    z2 = np.square(np.where(ok, difference - null, 0.0)) / safe
    # log of the mixture's likelihood ratio: sqrt(1 / (1 + r)) exp(z² r / (2 (1 + r)))
    evidence = np.where(ok, 0.5 * z2 * ratio / (1 + ratio) - 0.5 * np.log1p(ratio), -np.inf)
    p_value = np.minimum(np.exp(-np.maximum.accumulate(evidence, axis=-1)), 1.0)
    width = np.where(ok, np.sqrt(safe * (1 + ratio) / ratio * np.log((1 + ratio) / level**2)), np.inf)
    centre = np.where(ok, difference, 0.0)
    return AlwaysValid(p_value, centre - width, centre + width)


@dataclass(frozen=True)
class Mismatch:
    """Whether units fell into the arms as they should."""

    chi_square: float
    """Statistic of the counts so far."""
    p_once: float
    """Its p-value, right for one look."""
    p_always: float
    """P-value of the anytime-valid test, right for all looks; below MISMATCH_LEVEL the experiment is invalid."""

    @property
    def found(self) -> bool:
        return self.p_always < MISMATCH_LEVEL


def mismatch(counts: np.ndarray, shares: Sequence[float]) -> Mismatch:
    """`counts` (looks, arms) cumulative units by arm at each look so far; `shares` sum to 1.

    The multinomial mixture's Bayes factor against the expected shares is a martingale when they hold, so its largest value so far
    is at least 1 / p with chance at most p (Ville's inequality).
    """
    expected = np.asarray(shares, float)
    counts = np.atleast_2d(np.asarray(counts, float))
    total = counts.sum(axis=1)
    prior = _CONCENTRATION * expected
    evidence = (
        special.gammaln(_CONCENTRATION) - special.gammaln(_CONCENTRATION + total)
        + (special.gammaln(prior + counts) - special.gammaln(prior) - counts * np.log(expected)).sum(axis=1)
    )
    last = counts[-1]
    if last.sum() == 0:
        return Mismatch(0.0, 1.0, 1.0)
    statistic, p = stats.chisquare(last, last.sum() * expected)
    return Mismatch(float(statistic), float(p), float(min(1.0, math.exp(-evidence.max()))))


@dataclass(frozen=True)
class SampleSize:
    """Units that each arm needs."""

    once: int
    """For one look, at the end."""
    always: int
    """For the always-valid test at its planned end; a large effect is found long before it."""


def sample_size(
    mean: float, deviation: float, effect: float, level: float, power: float, share: float = 0.5, explained: float = 0.0
) -> SampleSize:
    """Units in the treatment arm to find a relative change of `effect` of a metric with this mean and standard deviation.

    `share` is the treatment's part of treatment and control together; `explained` is the squared correlation with the covariate of
    CUPED, which takes that part of the variance away (Deng et al. 2013). Raises ValueError where no sample would do.
    """
    if mean <= 0 or deviation <= 0 or effect <= 0:
        raise ValueError(f"mean {mean:g}, deviation {deviation:g}, effect {effect:g}: each above 0, or no sample is large enough")
    if not 0 < share < 1 or not 0 <= explained < 1:
        raise ValueError(f"share {share:g} must lie inside 0 … 1, explained {explained:g} in 0 … 1 (1 excluded)")
    variance = deviation**2 * (1 - explained) / (effect * mean) ** 2
    ratio = best_ratio(level)
    reach = float(stats.norm.ppf(power))
    limits = stats.norm.ppf(1 - level / 2), math.sqrt((1 + ratio) / ratio * math.log((1 + ratio) / level**2))
    # var(difference) = variance / n_treatment + variance / n_control, with n_control = n_treatment (1 - share) / share
    once, always = (math.ceil((limit + reach) ** 2 * variance * (1 + share / (1 - share))) for limit in limits)
    return SampleSize(max(once, MINIMUM_UNITS), max(always, MINIMUM_UNITS))
