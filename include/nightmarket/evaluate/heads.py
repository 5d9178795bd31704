"""Judging the behaviour heads: does a shopper view, cart or buy a candidate in the days after the cut?

Pairs are the ranker's own candidates of shoppers with a history, whether they came back or not. Intervals resample shoppers. To
resample a curve hundreds of times, each shopper's pairs are counted in bins of equal size by score; the values themselves are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from nightmarket.evaluate.bootstrap import Interval, draws, quantiles

BINS = 500
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Pairs:
    """Candidates of n shoppers: owner (M,) row of the shopper, probability (M,), did (M,) bool, and how many shoppers."""

    owner: np.ndarray
    probability: np.ndarray
    did: np.ndarray
    users: int


def measure(pairs: Pairs, threshold: float, resamples: int, seed: int) -> dict[str, Interval]:
    """accuracy, precision, recall, f1 at `threshold`; roc_auc, average_precision; calibration_loss. Empty without both outcomes.

    calibration_loss is the expected calibration error: mean distance of said and seen frequency over bins of equal size.
    """
    if pairs.did.all() or not pairs.did.any():
        return {}
    cells = _cells(pairs, threshold)
    by_user = {k: np.bincount(pairs.owner, weights=v, minlength=pairs.users) for k, v in cells.items()}
    values = {k: float(v) for k, v in _rates({k: v.sum() for k, v in by_user.items()}).items()}
    values["roc_auc"] = float(roc_auc_score(pairs.did, pairs.probability))
    values["average_precision"] = float(average_precision_score(pairs.did, pairs.probability))
    values["calibration_loss"] = calibration(pairs)[3]
    rank = np.argsort(np.argsort(pairs.probability, kind="stable"), kind="stable")
    # equal probabilities share a bin, or the order of rows would decide between them
    _, first = np.unique(pairs.probability, return_inverse=True)
    lowest = np.full(first.max() + 1, len(rank))
    np.minimum.at(lowest, first, rank)
    bins = (lowest[first] * BINS // len(rank)).astype(np.int64)
    shape = (pairs.users, BINS)
    positive = np.bincount(pairs.owner * BINS + bins, weights=pairs.did, minlength=pairs.users * BINS).reshape(shape)
    negative = np.bincount(pairs.owner * BINS + bins, weights=~pairs.did, minlength=pairs.users * BINS).reshape(shape)
    chance = np.bincount(pairs.owner * BINS + bins, weights=pairs.probability, minlength=pairs.users * BINS).reshape(shape)
    samples: dict[str, list[np.ndarray]] = {k: [] for k in values}
    for counts in draws(pairs.users, resamples, seed):
        drawn = counts.astype(np.float64)
        for name, value in _rates({k: drawn @ v for k, v in by_user.items()}).items():
            samples[name].append(value)
        p, n, c = drawn @ positive, drawn @ negative, drawn @ chance
        samples["roc_auc"].append(_binned_auc(p, n))
        samples["average_precision"].append(_binned_precision(p, n))
        samples["calibration_loss"].append(_binned_calibration(p, n, c))
    out = {}
    for name, measured in values.items():
        low, high = quantiles(np.concatenate(samples[name]))
        out[name] = Interval(measured, min(low, measured), max(high, measured), pairs.users)
    return out


def confusion(pairs: Pairs, threshold: float) -> dict[str, int]:
    """How many pairs are true and false positives and negatives where 'will do it' is said from `threshold` on: tp, fp, fn, tn."""
    return {name: int(cell.sum()) for name, cell in _cells(pairs, threshold).items()}


def _cells(pairs: Pairs, threshold: float) -> dict[str, np.ndarray]:
    said = pairs.probability >= threshold
    return {"tp": said & pairs.did, "fp": said & ~pairs.did, "fn": ~said & pairs.did, "tn": ~said & ~pairs.did}


def calibration(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(mean said, share seen, pairs) of up to CALIBRATION_BINS bins of equal size, and the expected calibration error."""
    order = np.argsort(pairs.probability, kind="stable")
    said, seen, size = [], [], []
    for part in np.array_split(order, min(CALIBRATION_BINS, len(order))):
        said.append(pairs.probability[part].mean())
        seen.append(pairs.did[part].mean())
        size.append(len(part))
    a, b, n = np.array(said), np.array(seen), np.array(size)
    return a, b, n, float((np.abs(a - b) * n).sum() / n.sum())


def _rates(c: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    total = c["tp"] + c["fp"] + c["fn"] + c["tn"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": (c["tp"] + c["tn"]) / total,
            "precision": np.where(c["tp"] + c["fp"] > 0, c["tp"] / (c["tp"] + c["fp"]), 0.0),
            "recall": np.where(c["tp"] + c["fn"] > 0, c["tp"] / (c["tp"] + c["fn"]), 0.0),
            "f1": np.where(c["tp"] > 0, 2 * c["tp"] / (2 * c["tp"] + c["fp"] + c["fn"]), 0.0),
        }


def _binned_auc(p: np.ndarray, n: np.ndarray) -> np.ndarray:
    below = np.cumsum(n, axis=1) - n
    with np.errstate(invalid="ignore", divide="ignore"):
        return (p * (below + n / 2)).sum(axis=1) / (p.sum(axis=1) * n.sum(axis=1))


def _binned_precision(p: np.ndarray, n: np.ndarray) -> np.ndarray:
    p, n = p[:, ::-1], n[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(p + n > 0, np.cumsum(p, axis=1) / np.cumsum(p + n, axis=1), 0.0)
        return (precision * p).sum(axis=1) / p.sum(axis=1)


def _binned_calibration(p: np.ndarray, n: np.ndarray, c: np.ndarray) -> np.ndarray:
    tenth = BINS // CALIBRATION_BINS
    p, n, c = (x.reshape(len(x), CALIBRATION_BINS, tenth).sum(axis=2) for x in (p, n, c))
    return np.abs(c - p).sum(axis=1) / np.maximum((p + n).sum(axis=1), 1.0)
