"""All models and baselines on one frozen holdout, with intervals, paired differences and slices.

The folder `evaluation/` beside a candidate holds what was found:

    evaluation.json   holdout {cut, end, digest, shoppers, items}, seed, resamples,
                      models {name: {version, slices {slice: {metric: {value, low, high, users}}}}}     slice "all" is everybody
                      differences {other: {slice: {metric: {value, low, high, users}}}}                challenger minus other, paired
                      heads {name: {task: {metric: {…}}}}, plots [file]
    users.npz         user_ids (n,) str; "<model>/<metric>" (n,) float64 of each shopper; "slice/<dimension>=<value>" (n,) bool
    plots/*.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from nightmarket import log as logs
from nightmarket.contracts import EVALUATION
from nightmarket.evaluate import heads, metrics, plots, slices
from nightmarket.evaluate.bootstrap import Interval, difference, draws, mean
from nightmarket.evaluate.protocol import Trial
from nightmarket.recommend import baselines, ranker, training
from nightmarket.recommend.histories import Histories, seconds
from nightmarket.recommend.model import Recommender
from nightmarket.recommend.signals import Signals

_LOG = logs.logger("evaluate")
DEPTH = 100
"""Length of the judged lists; the reciprocal rank of anything later counts as 0."""
HEAD_SHOPPERS = 1_500
"""Shoppers, at most, on whom the behaviour heads are judged; each brings hundreds of pairs."""
CHALLENGER, CHAMPION = "challenger", "champion"


@dataclass(frozen=True)
class Judged:
    """One model's answers to the trial."""

    name: str
    version: str | None
    lists: np.ndarray
    """(n, DEPTH) item codes of the trial's histories, -1 where shorter."""
    values: Mapping[str, np.ndarray]
    """metric -> (n,)."""
    head: Mapping[str, heads.Pairs] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdicts:
    """Everything found about all models."""

    trial: Trial
    seed: int
    resamples: int
    judged: Mapping[str, Judged]
    table: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    """model -> slice -> metric -> interval."""
    differences: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    """other -> slice -> metric -> challenger minus other, paired."""
    head_table: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    """model -> task -> metric -> interval."""
    user_slices: Mapping[str, np.ndarray]

    def rows(self) -> pa.Table:
        """Rows of gold.evaluation."""
        made = []
        for name, by_slice in self.table.items():
            version = self.judged[name].version
            found = [(s, m, i) for s, by_metric in by_slice.items() for m, i in by_metric.items()]
            found += [("all", f"{t}_{m}", i) for t, by_metric in self.head_table.get(name, {}).items() for m, i in by_metric.items()]
            made += [{"model": name, "model_version": version, "slice": s, "metric": m, "value": i.value, "low": i.low, "high": i.high,
                      "users": i.users} for s, m, i in found]
        return pa.Table.from_pylist(made, schema=EVALUATION.arrow_schema())

    def save(self, folder: Path, title: str) -> None:
        """Writes evaluation.json, users.npz and plots into `folder`, the JSON last."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {"user_ids": self.trial.histories.user_ids[self.trial.users].astype(str)}
        for name, judged in self.judged.items():
            arrays |= {f"{name}/{metric}": values for metric, values in judged.values.items()}
        arrays |= {f"slice/{name}": mask for name, mask in self.user_slices.items()}
        np.savez_compressed(folder / "users.npz", **cast(Any, arrays))
        drawn = plots.draw(folder / "plots", title, self.table, self.differences, {n: j.head for n, j in self.judged.items()}, self.head_table,
                           {n: j.thresholds for n, j in self.judged.items()})
        holdout = self.trial.holdout
        (folder / "evaluation.json").write_text(json.dumps({
            "holdout": {
                "cut": holdout.cut.isoformat(), "end": holdout.end.isoformat(), "digest": self.trial.digest,
                "shoppers": len(self.trial.users), "items": int(self.trial.allowed.sum()),
            },
            "seed": self.seed, "resamples": self.resamples,
            "models": {n: {"version": self.judged[n].version, "slices": _plain(t)} for n, t in self.table.items()},
            "differences": {n: _plain(t) for n, t in self.differences.items()},
            "heads": {n: _plain(t) for n, t in self.head_table.items()},
            "thresholds": {n: dict(j.thresholds) for n, j in self.judged.items() if j.thresholds},
            "confusion": {n: {t: heads.confusion(p, j.thresholds[t]) for t, p in j.head.items()} for n, j in self.judged.items() if j.head},
            "plots": [p.name for p in drawn],
        }, indent=1, sort_keys=True), encoding="utf-8")


def judge(
    table: pa.Table, items: pa.Table, trial: Trial, models: Mapping[str, tuple[str | None, Recommender]], seed: int, resamples: int,
    slice_users: int,
) -> Verdicts:
    """Judges `models` (name -> (version, model); one is CHALLENGER) and all baselines on the trial.

    table: rows of gold.features that `trial.histories` was made from; items: rows of silver.items.
    """
    histories, cut = trial.histories, float(seconds(trial.holdout.cut))
    bought = baselines.Bought(histories, cut)
    shares = metrics.self_information_share(bought.buyers, bought.shoppers)
    judged: dict[str, Judged] = {}
    for name, (version, model) in models.items():
        with logs.stage(_LOG, "judged", model=name, version=version):
            judged[name] = _judge_model(name, version, model, table, items, trial, shares, seed)
    for name in baselines.BASELINES:
        with logs.stage(_LOG, "judged", model=name):
            ranked = baselines.rank(name, bought, trial.users, DEPTH, trial.allowed)
            judged[name] = Judged(name, None, ranked, metrics.per_user(ranked, trial.truth, shares))

    user_slices, item_slices = slices.of_users(trial, slice_users), slices.of_items(trial)
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    apart: dict[str, dict[str, dict[str, Interval]]] = {}
    by_item = {
        name: {n: _on_items(j.lists, part, shares) for n, j in judged.items()} for name, part in item_slices.items()
    }
    for name, result in judged.items():
        own = {"all": {m: mean(v, resamples, seed) for m, v in result.values.items()}}
        own["all"][metrics.COVERAGE] = _coverage(result.lists, int(trial.allowed.sum()), histories.items, resamples, seed)
        for label, mask in user_slices.items():
            own[label] = {m: mean(v[mask], resamples, seed) for m, v in result.values.items()}
        for label, values in by_item.items():
            own[label] = {m: mean(v, resamples, seed) for m, v in values[name].items()}
        found[name] = own
        if name != CHALLENGER and CHALLENGER in judged:
            first = judged[CHALLENGER]
            between = {"all": {m: difference(first.values[m], v, resamples, seed) for m, v in result.values.items()}}
            for label, mask in user_slices.items():
                between[label] = {m: difference(first.values[m][mask], v[mask], resamples, seed) for m, v in result.values.items()}
            for label, values in by_item.items():
                between[label] = {m: difference(values[CHALLENGER][m], v, resamples, seed) for m, v in values[name].items()}
            apart[name] = between
    head_table = {
        n: {t: heads.measure(p, j.thresholds[t], resamples, seed) for t, p in j.head.items()} for n, j in judged.items() if j.head
    }
    head_table = {n: {t: m for t, m in tasks.items() if m} for n, tasks in head_table.items()}
    return Verdicts(trial, seed, resamples, judged, found, apart, head_table, user_slices)


def quality(model: Recommender, table: pa.Table, items: pa.Table, trial: Trial) -> Mapping[str, np.ndarray]:
    """metric -> (n,) of each judged shopper, for a model that is compared with another outside of the table."""
    bought = baselines.Bought(trial.histories, float(seconds(trial.holdout.cut)))
    shares = metrics.self_information_share(bought.buyers, bought.shoppers)
    return metrics.per_user(_lists_of(model, table, items, trial)[0], trial.truth, shares)


def _lists_of(model: Recommender, table: pa.Table, items: pa.Table, trial: Trial) -> tuple[np.ndarray, Histories, Signals]:
    """((n, DEPTH) lists in codes of the trial, histories in the model's codes, what was known at the cut)."""
    held = Histories.from_table(table, list(model.catalogue.item_ids))
    signals = model.signals(held, trial.holdout.cut, items)
    place = {item: n for n, item in enumerate(trial.histories.item_ids)}
    # a vocabulary may hold items that no history has any more: they are not among what is judged
    recode = np.array([place.get(item, -1) for item in held.item_ids], dtype=np.int64)
    lists = np.full((len(trial.users), DEPTH), -1, np.int64)
    for block in model.rank(signals, trial.users, DEPTH):
        rows = np.searchsorted(trial.users, block.users)
        lists[rows, : block.items.shape[1]] = np.where(block.items >= 0, recode[np.maximum(block.items, 0)], -1)
    return lists, held, signals


def _judge_model(
    name: str, version: str | None, model: Recommender, table: pa.Table, items: pa.Table, trial: Trial, shares: np.ndarray, seed: int,
) -> Judged:
    lists, held, signals = _lists_of(model, table, items, trial)
    pairs = _pairs(model, signals, held, trial, seed)
    return Judged(name, version, lists, metrics.per_user(lists, trial.truth, shares), pairs, model.config["thresholds"])


def _pairs(model: Recommender, signals: Signals, held: Histories, trial: Trial, seed: int) -> dict[str, heads.Pairs]:
    """Candidates of a seeded sample of all shoppers with a history, with said and seen behaviour, by task."""
    known = np.unique(signals.past.events.user).astype(np.int64)
    if len(known) > HEAD_SHOPPERS:
        known = np.sort(np.random.default_rng(seed).choice(known, HEAD_SHOPPERS, replace=False))
    future = held.between(float(seconds(trial.holdout.cut)), float(seconds(trial.holdout.end)))
    owner, logit, did, done = [], [], [], 0
    for ranked in model.rank(signals, known, 1):
        block = ranked.block
        row, column = np.nonzero(block.items >= 0)
        owner.append(row + done)
        logit.append(ranked.logits[row, column])
        did.append(training.labels(future, block, signals.catalogue)[row, column])
        done += len(block.users)
    if not owner:
        return {}
    owners, logits, seen = np.concatenate(owner), np.concatenate(logit).astype(np.float64), np.concatenate(did)
    return {
        task: heads.Pairs(owners, 1.0 / (1.0 + np.exp(-logits[:, n])), seen[:, n], done)
        for n, task in enumerate(ranker.TASKS) if task in model.tasks
    }


def _on_items(lists: np.ndarray, part: sp.csr_matrix, shares: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of the shoppers who bought any item of the part, that part alone being right; places are those of the whole list."""
    some = np.diff(part.indptr) > 0
    return metrics.per_user(lists[some], part[some], shares)


def _coverage(lists: np.ndarray, items: int, codes: int, resamples: int, seed: int) -> Interval:
    """Coverage with value ± 1.96 bootstrap deviations.

    Percentiles would not do: a resample has about 63 % of the shoppers, so its coverage is always below the whole's.
    """
    value = metrics.coverage(lists, items)
    shown = lists[:, :20]
    row, column = np.nonzero(shown >= 0)
    matrix = sp.csr_matrix((np.ones(len(row), np.float32), (row, shown[row, column])), shape=(len(lists), codes))
    samples = np.concatenate([
        np.count_nonzero((counts > 0).astype(np.float32) @ matrix, axis=1) / items
        for counts in draws(len(lists), resamples, seed)
    ])
    spread = 1.96 * float(samples.std())
    return Interval(value, max(0.0, value - spread), min(1.0, value + spread), len(lists))


def _plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {s: {m: asdict(i) for m, i in by_metric.items()} for s, by_metric in table.items()}
