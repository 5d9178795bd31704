"""From log-odds of several models to one score and one probability, learned on predictions of rows that the models had not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15
_MANY = 200
"""Positives from which on the shape of the calibration is free (isotonic); below, it is a line in log-odds (Platt, 1999)."""


@dataclass(frozen=True)
class Stack:
    """A weighted sum of how far the learners' log-odds lie from what they say where they know nothing; weights are not negative."""

    names: tuple[str, ...]
    weights: np.ndarray
    at_rest: np.ndarray
    bias: float

    def log_odds(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        far = (np.clip(parts[n], -30, 30) - r for n, r in zip(self.names, self.at_rest, strict=True))
        return np.asarray(sum(w * z for w, z in zip(self.weights, far, strict=True)) + self.bias)


def fit_stack(parts: dict[str, np.ndarray], label: np.ndarray, weight: np.ndarray, at_rest: dict[str, float], anchor: float | None = None) -> Stack:
    """Minimises the weighted log loss over weights ≥ 0, with a little pull towards equal shares (few rows decide little).

    `at_rest` is each learner's log-odds where it knows nothing; `anchor` fixes the bias.
    """
    from scipy.optimize import minimize

    names = tuple(parts)
    rest = np.array([at_rest[n] for n in names])
    Z = np.column_stack([np.clip(parts[n], -30, 30) for n in names]) - rest
    total, even = weight.sum(), np.full(len(names), 1 / len(names))
    strength = 0.1 / max(float((label == 1).sum()), 1.0)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = Z @ theta[:-1] + theta[-1]
        value = float((weight * (np.logaddexp(0, z) - label * z)).sum() / total)
        slope = weight * (1 / (1 + np.exp(-z)) - label) / total
        pull = theta[:-1] - even
        return value + strength * float(pull @ pull), np.concatenate([Z.T @ slope + 2 * strength * pull, [slope.sum()]])

    start = np.concatenate([even, [0.0 if anchor is None else anchor]])
    bounds: list[tuple[float | None, float | None]] = [(0, None)] * len(names) + [(anchor, anchor)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return Stack(names, found.x[:-1], rest, float(found.x[-1]))


@dataclass(frozen=True)
class Calibration:
    """Piecewise linear from log-odds to log-odds; outside its points the ends go on at slope 1, so order is never lost."""

    at: np.ndarray
    to: np.ndarray

    def probability(self, log_odds: np.ndarray) -> np.ndarray:
        z = np.interp(log_odds, self.at, self.to)
        return np.asarray(1 / (1 + np.exp(-z)))


SAME = Calibration(np.array([-40.0, 40.0]), np.array([-40.0, 40.0]))
"""Log-odds as they are."""


def fit_calibration(log_odds: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Calibration:
    """Isotonic regression (Zadrozny and Elkan, 2002) joined by lines, or a line where positives are few."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if (label == 1).sum() < _MANY:
        line = LogisticRegression(C=10.0).fit(log_odds[:, None], label, sample_weight=weight)
        ends = np.array([-40.0, 40.0])
        slope = max(float(line.coef_[0, 0]), 1e-3)
        return Calibration(ends, slope * ends + float(line.intercept_[0]))
    fitted = IsotonicRegression(out_of_bounds="clip").fit(log_odds, label, sample_weight=weight)
    height = fitted.predict(log_odds)
    at, to = [], []
    floor = 0.5 / weight.sum()
    for level in np.unique(height):
        members = height == level
        at.append(float(np.average(log_odds[members], weights=weight[members])))
        clipped = float(np.clip(level, floor, 1 - 0.5 / max((label == 1).sum(), 1)))
        to.append(np.log(clipped / (1 - clipped)))
    return Calibration(np.array(at), np.array(to))


def expected_calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
    """Mean |said - seen| over bins of equal width, weighted by rows (Naeini et al., 2015)."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    size = np.bincount(which, minlength=bins)
    said, seen = np.bincount(which, probability, bins), np.bincount(which, label, bins)
    return float(np.abs(said - seen).sum() / max(size.sum(), 1))
