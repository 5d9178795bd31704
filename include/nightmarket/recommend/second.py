"""The second stage: which candidates come first, learnt from lists as they would have been served at earlier moments.

Two learners of different kinds read the same numbers: gradient-boosted trees under LambdaMART (Burges 2010; LightGBM) and a network
of the shop's own (`ranker`: listwise softmax, trained under MirroredStrategy). Their scores, standardised within a list, are added with
weights that are chosen on the newest lists, which neither has learnt from then; the same lists decide whether learning is worth it
at all against the best single signal. Afterwards the trees learn from all lists anew, and the network goes on learning on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightmarket.learn.strategy import cores
from nightmarket.recommend import ranker

if TYPE_CHECKING:
    from nightmarket.learn.strategy import Placement

FEW = 30
"""Lists below which no preference is drawn from them."""
DEPTH = 10
"""Places that count when something is chosen."""
LEARNERS = ("trees", "network")
"""What the second stage learns, by name."""
_ORDER = "purchase"
"""The one behaviour that is learnt with the order in any case: what the order is of."""
_FURTHER_EPOCHS = 3
"""Over all lists, after what was chosen on the newest of them."""
_PATIENCE = 4
"""Epochs without a gain on the newest lists before the network stops: over a few hundred of them its loss goes up and down by chance."""


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
    behaviours: np.ndarray | None = None
    """(n, L, tasks) bool: what the shopper then did, for the network's further heads; None: nothing but what was wanted is asked for."""
    weight: np.ndarray | None = None
    """(n,) float32: how many lists one stands for; None: one."""

    def __len__(self) -> int:
        return len(self.features)

    def where(self, keep: np.ndarray) -> Lists:
        """The lists of a mask or of places."""
        return Lists(self.features[keep], self.labels[keep], self.listed[keep], self.right[keep], self.moment[keep],
                     {n: s[keep] for n, s in self.scores.items()}, None if self.behaviours is None else self.behaviours[keep],
                     None if self.weight is None else self.weight[keep])

    @classmethod
    def together(cls, parts: Sequence[Lists]) -> Lists:
        joined = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("features", "labels", "listed", "right", "moment")}
        for name in ("behaviours", "weight"):
            if getattr(parts[0], name) is not None:
                joined[name] = np.concatenate([getattr(p, name) for p in parts])
        return cls(**joined, scores={n: np.concatenate([p.scores[n] for p in parts]) for n in parts[0].scores})

    @property
    def with_hit(self) -> np.ndarray:
        """(n,) bool."""
        return (self.labels & self.listed).any(axis=1)


@dataclass(frozen=True)
class Plan:
    """How much is learnt."""

    rounds: int = 400
    """Trees at most."""
    leaves: int = 31
    learning_rate: float = 0.05
    network: bool = True
    epochs: int = 8
    hidden: tuple[int, ...] = (96, 48)
    """Widths of the network."""
    members: int = 4
    seed: int = 17
    least_lists: int = 60
    """Fewer lists with a hit: nothing is learnt, the best signal alone answers."""
    heads: tuple[str, ...] = ()
    """Behaviours whose probabilities are asked for: then the network is learnt whatever it is worth to the order."""
    architecture: ranker.Architecture = "shared_bottom"
    sampled: int = 64
    """Candidates of a list that a step of the network looks at."""
    batch: int = 64
    network_rate: float = 2e-3
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Second:
    """What answers: weights of models and signals over standardised scores."""

    weights: dict[str, float]
    trees: Any = None
    network: Any = None
    """The keras.Model of `ranker`."""
    account: dict[str, Any] = field(default_factory=dict)
    heads: Any = None
    """Another keras.Model of `ranker`, whose heads answer for the behaviours where they hurt the order that was learnt with them."""

    @property
    def parameters(self) -> int:
        """Weights of the networks."""
        return sum(int(n.count_params()) for n in (self.network, self.heads) if n is not None)

    @cached_property
    def logits(self) -> Callable[[np.ndarray], np.ndarray]:
        """features (n, L, F) -> (n, L, 1 + tasks): the network's score and its heads' logits."""
        from nightmarket.recommend import ranker

        if self.heads is None:
            return ranker.scorer(self.network)
        order, behaviours = ranker.scorer(self.network), ranker.scorer(self.heads)
        return lambda features: np.concatenate([order(features)[..., :1], behaviours(features)[..., 1:]], axis=2)

    def score(
        self, features: np.ndarray, listed: np.ndarray, scores: Mapping[str, np.ndarray], logits: np.ndarray | None = None,
    ) -> np.ndarray:
        """(n, L) float64, comparable within a list; -inf for padding. `logits`: the network's answer, where it was asked already."""
        total = np.zeros(listed.shape)
        for name, weight in self.weights.items():
            if name == "trees":
                made = _trees_score(self.trees, features, listed)
            elif name == "network":
                made = (self.logits(features) if logits is None else logits)[..., 0].astype(np.float64)
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


def fit(lists: Lists | None, plan: Plan, work: Path, start: str, apart: int = 1, placement: Placement | None = None) -> Second:
    """Learns from `lists`; the newest moment's choose sizes and weights first, then everything is learnt from all of them.

    `start` is the signal that answers where nothing can be compared. `apart`: the lists of so many moments look into the same time as
    the newest one's, so that they may not be learnt from while something is chosen on it. `work` keeps checkpoints of the network: the
    same call with the same folder continues. Raises learn.loop.Diverged.
    """
    if lists is None or not len(lists):
        return Second({start: 1.0, "popular": 1e-3}, account={"lists": 0, "chosen": "one signal", "best_signal": start, "why": "no earlier lists"})
    newest = lists.moment == lists.moment.max()
    held = lists.where(newest & (lists.right > 0))
    single = {n: float(ndcg(held.scores[n], held).mean()) if len(held) else 0.0 for n in lists.scores}
    # a handful of lists prefers a signal by chance
    best = max(single, key=lambda n: (single[n], n == start)) if max(single.values()) > 0 and len(held) >= FEW else start
    hits = int(lists.with_hit.sum())
    account: dict[str, Any] = {"lists": len(lists), "with_hit": hits, "signals": {n: round(v, 4) for n, v in single.items()}, "best_signal": best}
    earlier = lists.moment <= lists.moment.max() - apart
    if int(lists.with_hit[earlier].sum()) < plan.least_lists // 2:
        third = _third(len(lists), plan.seed)
        earlier, newest = ~third, third
        held = lists.where(newest & (lists.right > 0))
        single = {n: float(ndcg(held.scores[n], held).mean()) if len(held) else 0.0 for n in lists.scores}
    network = _Network(lists, plan, work, placement) if plan.network or plan.heads else None
    if hits < plan.least_lists or not len(held):
        account |= {"chosen": "one signal", "why": f"{hits} lists with a hit, {plan.least_lists} are needed to learn from"}
        return _one_signal(best, account, network if plan.heads else None, earlier, newest)
    told: dict[str, np.ndarray] = {n: standard(held.scores[n].astype(np.float64), held.listed) for n in held.scores if single[n] > 0}
    trees, rounds = _trees(lists, earlier, held, plan)
    told["trees"] = standard(_trees_score(trees, held.features, held.listed), held.listed)
    order = network
    if network is not None:
        account |= network.learn(earlier, newest)
        told["network"] = standard(network.logits(held.features)[..., 0].astype(np.float64), held.listed)
        if len(plan.heads) > 1:
            alone = _Network(lists, replace(plan, heads=(_ORDER,)), work / "single", placement)
            alone.learn(earlier, newest)
            said = standard(alone.logits(held.features)[..., 0].astype(np.float64), held.listed)
            account["tasks"] = together = _together(ndcg(told["network"], held), ndcg(said, held))
            if together["separated"]:
                order, told["network"] = alone, said
    weights, reached = _blend(told, held, start=(*(n for n in LEARNERS if n in told), *(n for n in (best, "rising") if n in told)))
    account |= {"held_lists": len(held), "rounds": rounds,
                "validation": {n: round(float(ndcg(told[n], held).mean()), 4) for n in LEARNERS if n in told}, "blend": round(reached, 4)}
    total = np.sum([w * told[n] for n, w in weights.items()], axis=0)
    gain = ndcg(total, held) - ndcg(held.scores[best], held)
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        account |= {"chosen": "one signal", "why": f"on the newest lists {best} alone reaches {single[best]:.4f}, the learnt order {reached:.4f}: no clear gain"}
        return _one_signal(best, account, network if plan.heads else None)
    account |= {"chosen": "learnt", "weights": {n: round(w, 3) for n, w in weights.items()}}
    heads = network if plan.heads else None
    first = order if "network" in weights else heads
    apart_from_it = heads if heads is not first else None
    for learner in (first, apart_from_it):
        if learner is not None:
            learner.go_on()
    final = _trees(lists, np.ones(len(lists), bool), None, replace(plan, rounds=_more(rounds)))[0] if "trees" in weights else None
    return Second(weights, final, first.model if first is not None else None, account, apart_from_it.model if apart_from_it is not None else None)


def _together(together: np.ndarray, alone: np.ndarray) -> dict[str, Any]:
    """What learning the behaviours with the order did to the order: (n,) NDCG@10 of the same lists with them and without.

    Negative transfer is a mean loss of more than its standard error; then the tasks are separated.
    """
    loss = alone - together
    error = float(loss.std() / np.sqrt(len(loss)))
    return {"order_together": round(float(together.mean()), 4), "order_alone": round(float(alone.mean()), 4), "error": round(error, 4),
            "separated": bool(loss.mean() > error)}


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of lists, and how much a student heeds it."""

    told: np.ndarray
    """(n, L, 1 + tasks) float32: logits as `ranker.TaughtTask` reads them."""
    share: float
    temperature: float


def taught(
    lists: Lists, teacher: Second, plan: Plan, work: Path, share: float, temperature: float, apart: int = 1, placement: Placement | None = None,
) -> Second:
    """A network of `plan` that orders as `teacher` does, trees and signals included, from the lists that the teacher learnt from.

    Where a signal answers alone it goes on doing so, and the network learns the behaviours. `apart`, `work`: as of `fit`.
    """
    logits = teacher.logits(lists.features)
    order = teacher.score(lists.features, lists.listed, lists.scores, logits)
    order = _odds(standard(np.where(lists.listed, order, 0.0), lists.listed), lists)
    told = np.concatenate([order[..., None], logits[..., 1:]], axis=2).astype(np.float32)
    network = _Network(lists, plan, work, placement, Lesson(told, share, temperature))
    newest, earlier = lists.moment == lists.moment.max(), lists.moment <= lists.moment.max() - apart
    if int(lists.with_hit[earlier].sum()) < plan.least_lists // 2:
        newest = _third(len(lists), plan.seed)
        earlier = ~newest
    account: dict[str, Any] = {"lists": len(lists), **network.learn(earlier, newest)}
    network.go_on()
    learnt = teacher.account.get("chosen") == "learnt"
    return Second({"network": 1.0} if learnt else dict(teacher.weights), network=network.model, account=account)


def _odds(scores: np.ndarray, lists: Lists) -> np.ndarray:
    """Standardised scores, times what makes their softmax over a list the likeliest to have foretold what was wanted."""
    bought = (lists.labels & lists.listed)[lists.with_hit]
    if not len(bought):
        return scores
    share = bought / bought.sum(axis=1, keepdims=True)

    def loss(factor: float) -> float:
        logits = np.where(lists.listed, scores * factor, -np.inf)[lists.with_hit]
        top = logits.max(axis=1, keepdims=True)
        total = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        return float(-(share * np.where(bought, logits - total, 0.0)).sum(axis=1).mean())

    return scores * min(2.0 ** np.arange(-2.0, 4.25, 0.25), key=loss)


def refresh(before: Second, lists: Lists, plan: Plan, work: Path, placement: Placement | None = None) -> Second:
    """`before` having learnt from `lists`: as many trees anew, its network further. Its weights stay, and so do its heads' thresholds.

    Too few lists to learn from change nothing. Raises ValueError where the network of `before` is of another shape than `plan` says,
    learn.loop.Diverged.
    """
    hits = int(lists.with_hit.sum())
    if hits < plan.least_lists:
        return replace(before, account={**before.account, "refreshed": {"lists": len(lists), "with_hit": hits, "why": f"{plan.least_lists} are needed"}})

    def further(old: Any, how: Plan, name: str) -> Any:
        if old is None:
            return None
        learner = _Network(lists, how, work / name, placement)
        learner.take(old)
        learner.go_on()
        return learner.model

    network = further(before.network, plan if before.heads is None else replace(plan, heads=(_ORDER,)), "order")
    heads = further(before.heads, plan, "heads")
    rounds = replace(plan, rounds=_more(int(before.account["rounds"]))) if "trees" in before.weights else None
    trees = _trees(lists, np.ones(len(lists), bool), None, rounds)[0] if rounds is not None else before.trees
    return Second(before.weights, trees, network, {**before.account, "refreshed": {"lists": len(lists), "with_hit": hits}}, heads)


def _more(rounds: int) -> int:
    """Trees to learn from all lists, where `rounds` were best on a part of them: more lists carry more."""
    return max(20, int(rounds * 1.15))


def _one_signal(
    best: str, account: dict[str, Any], network: _Network | None, learners: np.ndarray | None = None, watchers: np.ndarray | None = None,
) -> Second:
    """A signal that answers alone; the network, where one is asked for, for its heads only."""
    if network is not None:
        if learners is not None and watchers is not None:
            account |= network.learn(learners, watchers)
        network.go_on()
    return Second({best: 1.0, "popular": 1e-3}, network=None if network is None else network.model, account=account)


def _third(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, size]).random(size) < 1 / 3


def _blend(told: Mapping[str, np.ndarray], held: Lists, start: Sequence[str]) -> tuple[dict[str, float], float]:
    """Weights by greedy forward selection with a bar for each further member (Caruana et al. 2004), on standardised scores.

    Where trees and network both learnt, their even sum is what one of them alone must beat by more than chance: a few hundred lists
    cannot tell how much of each is best, two learners of different kinds seldom err alike, and both learn on from more lists afterwards.
    """
    reached_by = {n: ndcg(told[n], held) for n in start}
    first = max(reached_by, key=lambda n: float(reached_by[n].mean()))
    weights, total, reached = {first: 1.0}, told[first].copy(), float(reached_by[first].mean())
    if set(LEARNERS) <= set(told):
        even = told["trees"] + told["network"]
        loss = reached_by[first] - (both := ndcg(even, held))
        if loss.mean() <= loss.std() / np.sqrt(len(loss)):
            weights, total, reached = dict.fromkeys(LEARNERS, 1.0), even, float(both.mean())
    for _ in range(6):
        found: tuple[float, str, float] | None = None
        for name in (*start, *(n for n in told if n not in start)):
            for step in ((0.15, 0.3, 0.6, 1.0) if name in start else (0.05, 0.15)):
                value = float(ndcg(total + step * told[name], held).mean())
                if found is None or value > found[0]:
                    found = (value, name, step)
        # a gain on a few hundred lists that is smaller than this is chance
        if found is None or found[0] < reached + (2e-4 if found[1] in LEARNERS and len(weights) < 2 else 1e-3):
            break
        reached, name, step = found
        weights[name] = weights.get(name, 0.0) + step
        total += step * told[name]
    return weights, reached


def _threads(rows: int) -> int:
    """For so many rows of trees. Threads wait for each other many times a tree: on few rows, or beside other work, that costs more than it gives."""
    return max(1, min(cores(), rows // 500_000))


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
        "bagging_freq": 1, "lambda_l2": 5.0, "max_bin": 127, "num_threads": _threads(len(y)), "seed": plan.seed, "deterministic": True,
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
        made[listed] = booster.predict(features[listed], num_iteration=booster.best_iteration or -1, num_threads=_threads(int(listed.sum())))
    return made


class _Network:
    """The ranking network of a set of lists: learnt from some of them while others watch, then on all of them."""

    def __init__(self, lists: Lists, plan: Plan, work: Path, placement: Placement | None, lesson: Lesson | None = None):
        self._lists, self._plan, self._work, self._placement, self._lesson = lists, plan, work, placement, lesson
        self._shape = ranker.RankerShape(lists.features.shape[-1], lists.features.shape[1], plan.hidden, plan.members, plan.architecture, plan.sampled)
        self._trainer: Any = None
        self._epochs = 0

    @property
    def model(self) -> Any:
        return self._trainer.model

    def logits(self, features: np.ndarray) -> np.ndarray:
        return ranker.scorer(self.model)(features)

    def learn(self, learners: np.ndarray, watchers: np.ndarray) -> dict[str, Any]:
        """Learns from the lists of mask `learners`, stopped early by those of `watchers`; an account of it."""
        from nightmarket.learn import loop

        plan, lists = self._plan, self._lists
        sampled = np.flatnonzero(learners)[:: max(1, int(learners.sum()) // 2000)]
        sample = lists.features[sampled][lists.listed[sampled]].astype(np.float64)
        mean, deviation = sample.mean(axis=0), sample.std(axis=0)
        self._begin(mean.astype(np.float32), np.where(deviation < 1e-4, 1.0, deviation).astype(np.float32))
        watching = np.flatnonzero(watchers)
        held = self._examples(watching, "held", None)
        history = self._trainer.fit(self._examples(np.flatnonzero(learners), "early", plan.seed), held, loop.Plan(
            epochs=plan.epochs, learning_rate=plan.network_rate, patience=_PATIENCE, warmup_steps=20, checkpoint_steps=200), self._work / "early")
        self._epochs = 1 + int(np.argmin([h["valid_loss"] for h in history])) if held is not None else len(history)
        return {"epochs": self._epochs, **{k: round(v, 5) for k, v in history[self._epochs - 1].items()},
                **({"thresholds": self._thresholds(watching if held is not None else np.flatnonzero(learners))} if plan.heads else {})}

    def take(self, old: Any) -> None:
        """Begins with the weights of another network. Raises ValueError where it is of another shape."""
        features = self._shape.features
        self._begin(np.zeros(features, np.float32), np.ones(features, np.float32))
        self.model.set_weights(old.get_weights())
        self._epochs = _FURTHER_EPOCHS

    def _begin(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        from nightmarket.learn import loop
        from nightmarket.learn.strategy import place

        task: loop.Task = ranker.RankingTask(self._shape, mean, deviation, seed=self._plan.seed)
        if self._lesson is not None:
            task = ranker.TaughtTask(task, self._lesson.share, self._lesson.temperature)  # type: ignore[arg-type]
        self._trainer = loop.Trainer(task, self._placement or place(), self._plan.batch, self._plan.clip_norm, self._plan.seed, 1e-3)

    def go_on(self) -> None:
        """Learns on from all lists, at a lower rate: the newest are a part that it has not seen."""
        from nightmarket.learn import loop

        everything = self._examples(np.arange(len(self._lists)), "all", self._plan.seed + 1)
        self._trainer.fit(everything, None, loop.Plan(
            epochs=min(_FURTHER_EPOCHS, self._epochs), learning_rate=self._plan.network_rate / 2, patience=2, warmup_steps=20, checkpoint_steps=200), self._work / "all")

    def _examples(self, places: np.ndarray, name: str, seed: int | None, step: int = 512) -> Any:
        """Examples of the lists that teach something; None where there are none."""
        from nightmarket.learn.inputs import Examples, Field, write_examples

        lists, tasks = self._lists, ranker.TASKS
        if lists.behaviours is None:
            places = places[lists.with_hit[places]]  # without further heads, a list without a hit teaches nothing
        files = []
        for start in range(0, len(places), step):
            part = places[start : start + step]
            if lists.behaviours is None:
                labels = np.zeros((len(part), lists.labels.shape[1], len(tasks)), np.float32)
                labels[..., tasks.index(_ORDER)] = lists.labels[part]
            else:
                labels = lists.behaviours[part].astype(np.float32)
            files.append(write_examples(self._work / name, f"{start // step:05d}", {
                "features": lists.features[part], "labels": labels, "listed": lists.listed[part].astype(np.float32),
                "present": np.tile(self._present, (len(part), 1)),
                "weight": np.ones(len(part), np.float32) if lists.weight is None else lists.weight[part],
                **({} if self._lesson is None else {"teacher": self._lesson.told[part]}),
            }, rows_per_group=128))
        fields = ranker.input_fields(self._shape)
        if self._lesson is not None:
            fields = (*fields, Field("teacher", "float32", (self._shape.list_size, ranker.OUTPUTS)))
        return Examples(tuple(files), fields, self._plan.batch, shuffle_rows=1024, seed=seed) if files else None

    @property
    def _present(self) -> np.ndarray:
        """(tasks,) float32: 1 for a behaviour that is learnt."""
        wanted = self._plan.heads or (_ORDER,)
        return np.array([float(t in wanted) for t in ranker.TASKS], np.float32)

    def _thresholds(self, places: np.ndarray) -> dict[str, float]:
        """By behaviour, the probability above which 'will do it' is said: largest F1 on lists that were not learnt from."""
        lists = self._lists.where(places)
        assert lists.behaviours is not None
        logits = self.logits(lists.features)
        out = {}
        for n, task in enumerate(ranker.TASKS):
            if task not in self._plan.heads:
                continue
            logit, did = logits[..., 1 + n][lists.listed], lists.behaviours[..., n][lists.listed]
            order = np.argsort(-logit, kind="stable")
            f1 = 2.0 * np.cumsum(did[order]) / (np.arange(1, len(order) + 1) + max(did.sum(), 1))
            at = float(logit[order][int(f1.argmax())]) if len(order) else 0.0
            out[task] = float(1.0 / (1.0 + np.exp(-at)))
        return out
