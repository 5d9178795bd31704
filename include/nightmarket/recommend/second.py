"""The second stage: which candidates come first, learnt from lists as they would have been served at earlier moments.

Two learners of different kinds read the same numbers: gradient-boosted trees under LambdaMART (Burges 2010; LightGBM) and a network
of the shop's own (`ranker`: listwise softmax, trained under MirroredStrategy). Their scores, standardised within a list, are added with
weights that are chosen on the newest lists, which neither has learnt from then; the same lists decide whether learning is worth it
at all against the best single signal. Afterwards both learn from all lists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket import log as logs

_LOG = logs.logger("recommend")
FEW = 30
"""Lists below which no preference is drawn from them."""
DEPTH = 10
"""Places that count when something is chosen."""
_NETWORK_BATCH = 64


@dataclass(frozen=True)
class Lists:
    """Lists of several moments, with what then happened."""

    features: np.ndarray
    """(n, L, F) float32."""
    labels: np.ndarray
    """(n, L) bool: what was then wanted."""
    listed: np.ndarray
    """(n, L) bool: False is padding."""
    right: np.ndarray
    """(n,) items then wanted, candidates or not."""
    moment: np.ndarray
    """(n,) number of the moment; the largest is the newest."""
    scores: Mapping[str, np.ndarray]
    """By signal, (n, L)."""

    def __len__(self) -> int:
        return len(self.features)

    def where(self, keep: np.ndarray) -> Lists:
        return Lists(self.features[keep], self.labels[keep], self.listed[keep], self.right[keep], self.moment[keep],
                     {n: s[keep] for n, s in self.scores.items()})

    @classmethod
    def together(cls, parts: Sequence[Lists]) -> Lists:
        joined = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("features", "labels", "listed", "right", "moment")}
        return cls(**joined, scores={n: np.concatenate([p.scores[n] for p in parts]) for n in parts[0].scores})


@dataclass(frozen=True)
class Plan:
    """How much is learnt."""

    rounds: int = 400
    """Trees at most."""
    leaves: int = 31
    learning_rate: float = 0.05
    network: bool = True
    epochs: int = 8
    members: int = 4
    seed: int = 17
    least_lists: int = 60
    """Fewer lists with a hit: nothing is learnt, the best signal alone answers."""


@dataclass
class Second:
    """What answers: weights of models and signals over standardised scores."""

    weights: dict[str, float]
    trees: Any = None
    network: Any = None
    account: dict[str, Any] = field(default_factory=dict)

    def score(self, features: np.ndarray, listed: np.ndarray, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, L) float64, comparable within a list; -inf for padding."""
        total = np.zeros(listed.shape)
        for name, weight in self.weights.items():
            if name == "trees":
                made = _trees_score(self.trees, features, listed)
            elif name == "network":
                made = self.network(features)[..., 0].astype(np.float64)
            elif name in scores:
                made = scores[name].astype(np.float64)
            else:
                continue  # nothing is popular among items that nobody had
            total += weight * standard(made, listed)
        return np.where(listed, total, -np.inf)


def standard(scores: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Each list's scores with mean 0 and deviation 1 over its candidates; 0 for padding."""
    count = np.maximum(listed.sum(axis=1, keepdims=True), 1)
    clean = np.where(listed, scores, 0.0)
    mean = clean.sum(axis=1, keepdims=True) / count
    off = np.where(listed, clean - mean, 0.0)
    return off / np.maximum(np.sqrt((off**2).sum(axis=1, keepdims=True) / count), 1e-9)


def ndcg(scores: np.ndarray, lists: Lists) -> np.ndarray:
    """(n,) NDCG@10 of ordering each list by `scores`."""
    order = np.argsort(-np.where(lists.listed, scores, -np.inf), axis=1, kind="stable")[:, :DEPTH]
    hit = np.take_along_axis(lists.labels & lists.listed, order, axis=1)
    discount = 1.0 / np.log2(np.arange(2, DEPTH + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(lists.right, DEPTH)]
    return (hit * discount[: hit.shape[1]]).sum(axis=1) / np.maximum(ideal, 1e-9)


def fit(lists: Lists | None, plan: Plan, work: Path, start: str, apart: int = 1) -> Second:
    """Learns from `lists`; the newest moment's choose sizes and weights first, then everything is learnt from all of them.

    `start` is the signal that answers where nothing can be compared. `apart`: the lists of so many moments look into the same time as
    the newest one's, so that they may not be learnt from while something is chosen on it.
    """
    if lists is None or not len(lists):
        return Second({start: 1.0, "popular": 1e-3}, account={"lists": 0, "chosen": "one signal", "best_signal": start, "why": "no earlier lists"})
    newest = lists.moment == lists.moment.max()
    held = lists.where(newest)
    single = {n: float(ndcg(held.scores[n], held).mean()) for n in held.scores}
    # a handful of lists prefers a signal by chance
    best = max(single, key=lambda n: (single[n], n == start)) if max(single.values()) > 0 and len(held) >= FEW else start
    hits = int((lists.labels & lists.listed).any(axis=1).sum())
    account: dict[str, Any] = {"lists": len(lists), "with_hit": hits, "signals": {n: round(v, 4) for n, v in single.items()}, "best_signal": best}
    if hits < plan.least_lists:
        account |= {"chosen": "one signal", "why": f"{hits} lists with a hit, {plan.least_lists} are needed to learn from"}
        return Second({best: 1.0, "popular": 1e-3}, account=account)
    earlier = lists.moment <= lists.moment.max() - apart
    if int((lists.labels & lists.listed).any(axis=1)[earlier].sum()) < plan.least_lists // 2:
        third = _third(len(lists), plan.seed)
        earlier, held = ~third, lists.where(third)
        single = {n: float(ndcg(held.scores[n], held).mean()) for n in held.scores}
    told: dict[str, np.ndarray] = {n: standard(held.scores[n].astype(np.float64), held.listed) for n in held.scores if single[n] > 0}
    trees, rounds = _trees(lists, earlier, held, plan)
    told["trees"] = standard(_trees_score(trees, held.features, held.listed), held.listed)
    epochs = 0
    if plan.network:
        network, epochs = _network(lists, earlier, held, plan, work / "choice")
        told["network"] = standard(network(held.features)[..., 0].astype(np.float64), held.listed)
    weights, reached = _blend(told, held, start=(*(("trees", "network") if plan.network else ("trees",)), *(n for n in (best, "rising") if n in told)))
    account |= {"held_lists": len(held), "rounds": rounds, "epochs": epochs or None,
                "validation": {n: round(float(ndcg(told[n], held).mean()), 4) for n in ("trees", "network") if n in told}, "blend": round(reached, 4)}
    total = np.sum([w * told[n] for n, w in weights.items()], axis=0)
    gain = ndcg(total, held) - ndcg(held.scores[best], held)
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        account |= {"chosen": "one signal", "why": f"on the newest lists {best} alone reaches {single[best]:.4f}, the learnt order {reached:.4f}: no clear gain"}
        return Second({best: 1.0, "popular": 1e-3}, account=account)
    made = Second(weights, account=account | {"chosen": "learnt", "weights": {n: round(w, 3) for n, w in weights.items()}})
    everything = np.ones(len(lists), bool)
    if "trees" in weights:
        # more lists carry more trees
        made.trees, _ = _trees(lists, everything, None, replace(plan, rounds=max(20, int(rounds * 1.15))))
    if "network" in weights:
        made.network, _ = _network(lists, everything, None, replace(plan, epochs=epochs), work / "final")
    return made


def _third(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, size]).random(size) < 1 / 3


def _blend(told: Mapping[str, np.ndarray], held: Lists, start: Sequence[str]) -> tuple[dict[str, float], float]:
    """Weights by greedy forward selection with a bar for each further member (Caruana et al. 2004), on standardised scores."""
    tries = {n: float(ndcg(told[n], held).mean()) for n in start}
    first = max(tries, key=lambda n: tries[n])
    weights, total, reached = {first: 1.0}, told[first].copy(), tries[first]
    for _ in range(6):
        found: tuple[float, str, float] | None = None
        for name in (*start, *(n for n in told if n not in start)):
            for step in ((0.15, 0.3, 0.6, 1.0) if name in start else (0.05, 0.15)):
                value = float(ndcg(total + step * told[name], held).mean())
                if found is None or value > found[0]:
                    found = (value, name, step)
        # a gain on a few hundred lists that is smaller than this is chance
        if found is None or found[0] < reached + (2e-4 if found[1] in ("trees", "network") else 1e-3):
            break
        reached, name, step = found
        weights[name] = weights.get(name, 0.0) + step
        total += step * told[name]
    return weights, reached


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _flat(lists: Lists, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features, labels, sizes) of the lists of a (n,) mask, candidate after candidate."""
    listed = lists.listed & rows[:, None]
    return lists.features[listed], lists.labels[listed].astype(np.float32), lists.listed[rows].sum(axis=1)


def _trees(lists: Lists, learners: np.ndarray, valid: Lists | None, plan: Plan) -> tuple[Any, int]:
    """(booster, its number of trees), learnt from the lists of a mask. Those without a hit teach an order nothing and are left out."""
    import lightgbm

    x, y, groups = _flat(lists, learners & (lists.labels & lists.listed).any(axis=1))
    data = lightgbm.Dataset(x, y, group=groups, free_raw_data=True)
    # not bagging_by_query: with it two threads do not repeat themselves (LightGBM 4.7)
    settings = {
        "objective": "lambdarank", "metric": "ndcg", "eval_at": [DEPTH], "lambdarank_truncation_level": 20, "learning_rate": plan.learning_rate,
        "num_leaves": plan.leaves, "min_data_in_leaf": max(20, min(200, len(y) // 2000)), "feature_fraction": 0.5, "bagging_fraction": 0.8,
        "bagging_freq": 1, "lambda_l2": 5.0, "max_bin": 127, "num_threads": cores(), "seed": plan.seed, "deterministic": True,
        "force_row_wise": True, "verbosity": -1,
    }
    callbacks: list[Any] = []
    watch: list[Any] = []
    if valid is not None:
        vx, vy, vgroups = _flat(valid, np.ones(len(valid), bool))
        watch = [lightgbm.Dataset(vx, vy, group=vgroups, reference=data)]
        callbacks = [lightgbm.early_stopping(40, first_metric_only=True, verbose=False)]
    booster = lightgbm.train(settings, data, plan.rounds, valid_sets=watch, callbacks=callbacks)
    return booster, booster.best_iteration or plan.rounds


def _trees_score(booster: Any, features: np.ndarray, listed: np.ndarray) -> np.ndarray:
    made = np.zeros(listed.shape)
    if listed.any():
        made[listed] = booster.predict(features[listed], num_iteration=booster.best_iteration or -1, num_threads=cores())
    return made


def _network(lists: Lists, learners: np.ndarray, valid: Lists | None, plan: Plan, work: Path) -> tuple[Any, int]:
    """(scorer, epochs of the best weights), learnt from the lists of a mask."""
    from nightmarket.learn import loop
    from nightmarket.learn.inputs import Examples, as_lists, write_examples
    from nightmarket.learn.strategy import place
    from nightmarket.recommend import ranker

    shape = ranker.RankerShape(lists.features.shape[-1], lists.features.shape[1], members=plan.members)
    purchase = ranker.TASKS.index("purchase")

    def write(part: Lists, rows: np.ndarray, name: str, step: int = 512) -> tuple[Path, ...]:
        files = []
        chosen = np.flatnonzero(rows & (part.labels & part.listed).any(axis=1))
        for start in range(0, len(chosen), step):
            span = chosen[start : start + step]
            labels = np.zeros((len(span), part.labels.shape[1], len(ranker.TASKS)), np.float32)
            labels[..., purchase] = part.labels[span]
            present = np.zeros((len(span), len(ranker.TASKS)), np.float32)
            present[:, purchase] = 1.0
            files.append(write_examples(work / name, f"{start // step:05d}", {
                "features": as_lists(part.features[span]), "labels": as_lists(labels), "listed": as_lists(part.listed[span].astype(np.float32)),
                "present": as_lists(present), "weight": pa.array(np.ones(len(span), np.float32)),
            }, rows_per_group=128))
        return tuple(files)

    sampled = np.flatnonzero(learners)[:: max(1, int(learners.sum()) // 2000)]
    sample = lists.features[sampled][lists.listed[sampled]].astype(np.float64)
    mean, deviation = sample.mean(axis=0), sample.std(axis=0)
    fields = ranker.input_fields(shape)
    data = Examples(write(lists, learners, "train"), fields, _NETWORK_BATCH, shuffle_rows=1024, seed=plan.seed)
    held = Examples(write(valid, np.ones(len(valid), bool), "valid"), fields, _NETWORK_BATCH) if valid is not None else None
    task = ranker.RankingTask(shape, mean.astype(np.float32), np.where(deviation < 1e-4, 1.0, deviation).astype(np.float32))
    trainer = loop.Trainer(task, place(), _NETWORK_BATCH, 1.0, plan.seed, 1e-3)
    history = trainer.fit(data, held, loop.Plan(epochs=plan.epochs, learning_rate=2e-3, patience=2, warmup_steps=20))
    if valid is None:
        return ranker.scorer(trainer.model), len(history)
    best = int(np.argmin([h["valid_loss"] for h in history]))
    return ranker.scorer(trainer.model), best + 1
