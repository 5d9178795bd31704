"""The screening of a table: TRAIN and NEW in, one decision for each row of NEW out.

1. Both files become one history in a fixed order (`table`), described as of each row's moment (`features`, `texts`).
2. What learns, learns from labels known before the first row of NEW (the cut): trees, a linear model where rows are few, a
   reader of texts; and an isolation forest from rows before the cut, labelled or not. Each is fitted on folds too, so that its
   predictions of rows it has not seen are there for what follows.
3. Those predictions are *provisional scores*: their sums over each entity's past are features of a second pass of trees. So a
   card whose last rows look like fraud is suspicious before anybody's verdict is in.
4. A stack weighs the learners, a calibration makes probabilities, the cost table makes decisions (`decisions`).

Where verdicts arrive among the rows of NEW (its time overlaps TRAIN's), everything is learned again each time their number has
doubled, and a row is judged by the model of its moment. With too few labels the forest alone decides, and nothing is blocked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import log as logs
from nightmarket.command import Refused
from nightmarket.screen import anomaly, calibration, decisions, features, learners, reasons, texts
from nightmarket.screen.decisions import Costs, Thresholds
from nightmarket.screen.features import Recipe
from nightmarket.screen.parts import Matrix
from nightmarket.screen.table import Asked, Rows, find_roles, read_rows
from nightmarket.screen.windows import DAY, History, Moments
from nightmarket.sources.ip_ranges import Ranges

LOG = logs.logger("screen")
LEAST = 10
"""Known rows of each class from which on labels are learned from."""
_ANCHORED = 2000
"""Bad texts below which the base rate alone sets the level of probabilities: a level fitted to the texts of one subject is wrong
for the next, and few texts are seldom of many subjects."""
_FEW_ROWS = 20_000
"""Rows up to which a linear model is asked too."""
_PER_BAD = 6
"""Good rows for each bad one that are learned from at least, where there are as many: with thirty a month of card payments was ranked
a little worse (`benchmarks/screening.py`; README, Limits)."""
_BLOCK = 131_072
"""Rows that learners are asked about at once."""


@dataclass(frozen=True)
class Options:
    label_delay_days: float = 0.0
    seed: int = 17
    costs: Costs = field(default_factory=Costs)
    folds: int = 5
    negatives: int = 30_000
    """At most this many good rows are learned from, or `_PER_BAD` for each bad one where that is more; they stand for the rest."""
    seeds: int = 3
    """Models averaged in the second pass."""
    threads: int = 0
    follow_new_labels: bool = False
    """Labels that NEW carries count in the histories of later rows, from when they are known."""
    train_from: int | None = None
    """Microseconds: earlier rows are history, not examples."""
    reasons_for: int = 20_000
    """Rows for which reasons are told at most, the most suspicious first."""


@dataclass(frozen=True)
class Judged:
    """`table` has one row for each row of NEW, in its order: the id, score, probability, decision, reasons, threshold, model, notes."""

    table: pa.Table
    summary: dict[str, Any]


def screen(train: pa.Table, new: pa.Table, asked: Asked, options: Options, now: int, ranges: Ranges | None = None) -> Judged:
    """Judges every row of `new`. `now` is the clock in microseconds since 1970: rows of `train` after it are left out.

    Raises UsageError (columns) and Refused (rows) from reading, and Refused where `train` holds no usable row.
    """
    roles = find_roles(train, new, asked)
    if not roles.timestamp:
        options = replace(options, label_delay_days=0.0)
    LOG.info(logs.said("roles", id=roles.id, timestamp=roles.timestamp, label=roles.label, label_known_at=roles.label_known_at,
                       entities=",".join(roles.entities), numbers=",".join(roles.numbers), categories=",".join(roles.categories),
                       texts=",".join(roles.texts), times=",".join(roles.other_times), not_used=roles.dropped or None))
    train, _ = _in_order(train, roles.timestamp, roles.id)
    new, places = _in_order(new, roles.timestamp, roles.id)
    rows = read_rows(train, new, roles, options.label_delay_days, now, options.follow_new_labels, ranges)
    for what, count in rows.mended.items():
        LOG.warning(logs.said("mended", what=what, rows=count))
    if not rows.new.any():
        return Judged(_table(rows, np.zeros(0), np.zeros(0), np.zeros(0, int), [], np.zeros(0), "none", [], np.zeros(0, int)), {"rows": 0})
    if rows.new.all():
        raise Refused("--train has no usable row to learn from; give it rows with readable times")
    verdict = judge(rows, options)
    notes = _notes(rows, now)
    decision = np.where((notes != "") & (verdict.decision == decisions.ALLOW), decisions.REVIEW, verdict.decision)
    made = _table(rows, verdict.score, verdict.probability, decision, verdict.reasons, verdict.threshold, verdict.model, notes, places)
    return Judged(made, verdict.summary | {"decisions": {str(n): int((decision == i).sum()) for i, n in enumerate(decisions.NAMES)},
                                           "mended": rows.mended})


def _in_order(table: pa.Table, timestamp: str | None, key: str | None) -> tuple[pa.Table, np.ndarray]:
    """The table by time and id, and where its rows were: no result depends on the order of a file."""
    keys = [(c, "ascending") for c in (timestamp, key) if c]
    if not keys or not len(table):
        return table, np.arange(len(table))
    try:
        index = pc.sort_indices(table.select([c for c, _ in keys]), sort_keys=keys)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        plain = pa.table({c: table[c].cast(pa.string()) for c, _ in keys})
        index = pc.sort_indices(plain, sort_keys=keys)
    return table.take(index), np.asarray(index)


@dataclass(frozen=True)
class Verdict:
    """(k,) of the rows of NEW, in the order of `Rows`."""

    score: np.ndarray
    probability: np.ndarray
    decision: np.ndarray
    reasons: list[Sequence[str]]
    threshold: np.ndarray
    model: str
    summary: dict[str, Any]


def judge(rows: Rows, options: Options) -> Verdict:
    """Learns and judges; see the module's text."""
    cut = int(rows.times[rows.new & ~rows.timeless].min(initial=np.iinfo(np.int64).max))
    if cut == np.iinfo(np.int64).max:
        cut = int(rows.times[~rows.new].max()) + 1
    early = _enough(rows, _known(rows, cut, options))
    follow = options.follow_new_labels or not early
    past = rows.times[~rows.new & (rows.times < cut)]
    span = int(np.ptp(past)) if len(past) else 0
    recipe = features.make_recipe(rows, follow, cut, int(np.clip(span / 4, DAY, 30 * DAY)))
    with logs.stage(LOG, "features", rows=len(rows)) as said:
        matrix = features.build(rows, recipe, options.threads)
        describe_texts(matrix, rows)
        X = matrix.array()
        matrix.blocks.clear()  # the array is all that is needed, and large
        said["features"] = X.shape[1]
    fresh = np.flatnonzero(rows.new)
    score, probability = np.zeros(len(fresh)), np.full(len(fresh), np.nan)
    decision, threshold = np.zeros(len(fresh), int), np.zeros(len(fresh))
    told: list[Sequence[str]] = [()] * len(fresh)
    cuts = _cuts(rows, cut, early, options)
    summary: dict[str, Any] = {"models": []}
    names: list[str] = []
    for k, start in enumerate(cuts):
        until = cuts[k + 1] if k + 1 < len(cuts) else np.iinfo(np.int64).max
        # the first model also judges what has no time
        mine = np.flatnonzero((rows.times[fresh] >= (start if k else np.iinfo(np.int64).min)) & (rows.times[fresh] < until))
        if not len(mine):
            continue
        judged = _stage(rows, recipe, matrix.names, X, start, fresh[mine], options)
        score[mine], probability[mine], decision[mine], threshold[mine] = judged.score, judged.probability, judged.decision, judged.threshold
        for i, why in zip(mine, judged.reasons, strict=True):
            told[i] = why
        names.append(judged.model)
        summary["models"].append(judged.summary | {"from": str(np.datetime64(start, "us"))})
    return Verdict(score, probability, decision, told, threshold, "+".join(names[-1:]), summary)


def _known(rows: Rows, cut: int, options: Options) -> np.ndarray:
    """Indices of the rows that can be learned from at `cut`."""
    known = ~rows.new & ~np.isnan(rows.label) & (rows.known_at <= cut) & (rows.times < cut)
    if options.train_from is not None:
        known &= rows.times >= options.train_from
    return np.flatnonzero(known)


def _enough(rows: Rows, index: np.ndarray) -> bool:
    return min((rows.label[index] == 1).sum(), (rows.label[index] == 0).sum()) >= LEAST


def _cuts(rows: Rows, cut: int, early: bool, options: Options) -> list[int]:
    """Moments at which models are learned: the first row of NEW, and where labels come in among its rows, each doubling."""
    arrivals = np.sort(rows.known_at[~rows.new & ~np.isnan(rows.label)])
    # found from the labels alone, in the order they come: later labels move no earlier cut
    have = int(np.searchsorted(arrivals, cut, "right"))
    cuts = [cut]
    target = max(2 * have, 200)
    while target <= len(arrivals):
        at = int(arrivals[target - 1]) + 1
        if at > cuts[-1] and not early:
            cuts.append(at)
        target *= 2
    return cuts


@dataclass(frozen=True)
class _Judged:
    score: np.ndarray
    probability: np.ndarray
    decision: np.ndarray
    threshold: np.ndarray
    reasons: list[Sequence[str]]
    model: str
    summary: dict[str, Any]
    lifted: np.ndarray
    """(k,) above 0 where counts lie far beyond anything seen before: a person looks at these at least."""


def _stage(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, cut: int, asked: np.ndarray, options: Options) -> _Judged:
    """One model, learned from what was known at `cut`, and its judgement of the rows `asked`."""
    with logs.stage(LOG, "learned") as said:
        model, held = learn(rows, recipe, names, X, cut, options)
        said.update({k: v for k, v in model.summary.items() if not isinstance(v, (dict, list))})
    with logs.stage(LOG, "judged", rows=len(asked)):
        return model.judge(rows, recipe, names, X, asked, held, options)


@dataclass(frozen=True)
class Held:
    """What learners said of the rows they were learned from, each by a model that had not seen it."""

    index: np.ndarray
    log_odds: dict[str, np.ndarray]


def learn(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, cut: int, options: Options) -> tuple[Supervised | Unlabelled, Held]:
    """A model of the labels known at `cut`; where they are too few, of what is usual before it.

    `X` (n, f) are the features `names` of all rows, as `features.build` and `describe_texts` make them.
    """
    past = np.flatnonzero(~rows.new & (rows.times < cut))
    if not len(past):
        past = np.flatnonzero(~rows.new)[:1]
    known = _known(rows, cut, options)
    if _enough(rows, known):
        return _learn_labels(rows, recipe, names, X, past, known, options)
    LOG.warning(logs.said("too few labels, judged by strangeness alone", bad=int((rows.label[known] == 1).sum()),
                          good=int((rows.label[known] == 0).sum()), needed=LEAST))
    return _learn_usual(rows, recipe, names, X, past, options), Held(known[:0], {})


@dataclass(frozen=True)
class Unlabelled:
    """Strangeness and the score from which a row is looked at."""

    strangeness: anomaly.Strangeness
    thresholds: Thresholds
    tops: dict[int, float]
    summary: dict[str, Any]

    def judge(self, rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, asked: np.ndarray, held: Held, options: Options) -> _Judged:
        del held
        near = np.flatnonzero(rows.times >= rows.times[asked].min(initial=recipe.cut) - features.LONGEST)
        score = np.zeros(len(rows))
        score[near] = self.strangeness.alone(X[near])
        score = _as_share(anomaly.in_company(rows, recipe, score, self.strangeness.ties)[asked])
        lifted, why = _beyond(names, X, asked, self.tops)
        score = np.where(lifted > 0, 1 - (1 - score) / (2 + lifted), score)
        decision = self.thresholds.decide(score)
        decision = np.where(lifted > 0, np.maximum(decision, decisions.REVIEW), decision)
        told = _told(names, lambda chosen: X[asked[chosen]], self.strangeness.push, rows, recipe, score, why, options)
        return _Judged(score, np.full(len(asked), np.nan), decision, np.full(len(asked), self.thresholds.review), told, self.summary["model"], self.summary, lifted)


def _learn_usual(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, past: np.ndarray, options: Options) -> Unlabelled:
    strangeness = anomaly.fit(names, X, past, options.seed)
    score = np.zeros(len(rows))
    score[past] = strangeness.alone(X[past])
    strangeness = replace(strangeness, ties=anomaly.ties_of(rows, recipe, score, past))
    before = _as_share(anomaly.in_company(rows, recipe, score, strangeness.ties)[past])
    days = max(float(np.ptp(rows.times[past])) / DAY, 1.0)
    thresholds = decisions.by_share(options.costs, before, days)
    model = _digest({"recipe": repr(recipe), "seed": options.seed, "past": len(past), "kind": "strangeness"})
    return Unlabelled(strangeness, thresholds, _tops(names, X[past]), {"kind": "strangeness", "model": model, "threshold_review": thresholds.review})


def _as_share(surprise: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.exp(-surprise / 8))


@dataclass(frozen=True)
class Supervised:
    """Learners, what they weigh, and what follows from their sum."""

    learners: dict[str, Any]
    """By name; `behaviour` and `trees` also score the rows of the last days, for `second`."""
    blind: np.ndarray
    """Features that know no labels."""
    stack: calibration.Stack
    curve: calibration.Calibration
    ceiling: float
    """Largest log-odds of any row learned from."""
    thresholds: Thresholds
    tops: dict[int, float]
    summary: dict[str, Any]

    def judge(self, rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, asked: np.ndarray, held: Held, options: Options) -> _Judged:
        parts: dict[str, np.ndarray] = {}
        extra = np.empty((len(asked), 0), np.float32)
        for column, given in rows.texts.items():
            parts[f"text {column}"] = self.learners[f"text {column}"].log_odds([given[i] for i in asked])
        for name in ("trees", "linear"):
            if name in self.learners:
                parts[name] = _said(self.learners[name], X, asked)
        if "second" in self.learners:
            more = second_features(rows, recipe, X, self.learners, self.blind, asked, held, {"trees": parts["trees"]}, options.threads)
            names, extra = names + more.names, more.array()[asked]
            parts["second"] = _said(self.learners["second"], X, asked, more=extra)
        raw = self.stack.log_odds(parts)
        lifted, why = _beyond(names, X, asked, self.tops)
        raw = np.where(lifted > 0, np.maximum(raw, self.ceiling) + lifted, raw)
        probability, score = self.curve.probability(raw), 1 / (1 + np.exp(-raw))
        decision = self.thresholds.decide(probability)
        decision = np.where(lifted > 0, np.maximum(decision, decisions.REVIEW), decision)
        teller = self.learners["second" if "second" in self.learners else "trees"]
        told_reasons = _told(names, lambda chosen: np.hstack([X[asked[chosen]], extra[chosen]]), teller.contributions, rows, recipe, score, why, options)
        return _Judged(score, probability, decision, np.full(len(asked), self.thresholds.review), told_reasons, self.summary["model"], self.summary, lifted)


def second_features(rows: Rows, recipe: Recipe, X: np.ndarray, made: dict[str, Any], blind: np.ndarray, asked: np.ndarray, held: Held,
                    done: dict[str, np.ndarray], threads: int = 0) -> Matrix:
    """Provisional scores of each entity's other rows, and its known labels beyond what behaviour tells.

    Rows that were learned from are scored by models that had not seen them (`held`), the rows `asked` and those of the days
    before by the models in `made`; `done` has what these already said of `asked`.
    """
    first = min(rows.times[i].min() for i in (held.index, asked) if len(i))
    open_ = rows.times >= first - features.LONGEST
    open_[held.index] = open_[asked] = False
    todo = np.flatnonzero(open_)

    def scores(name: str, columns: np.ndarray | None = None) -> np.ndarray:
        found = np.full(len(rows), -np.inf)
        found[held.index] = held.log_odds[name] if len(held.index) else []
        for index in (todo, asked):
            if len(index):
                known = done.get(name) if index is asked else None
                found[index] = _said(made[name], X, index, columns) if known is None else known
        return 1 / (1 + np.exp(-found))

    given: dict[str, tuple[np.ndarray, Sequence[str]]] = {"suspicion": (scores("trees"), tuple(features.SCORE_WINDOWS))}
    if "behaviour" in made:
        given["looks"] = scores("behaviour", blind), ("1d", "7d", "14d")
    more = features.score_windows(rows, recipe, given, threads)
    if "looks" in given:
        more.extend(features.unexplained(rows, recipe, given["looks"][0], threads))
    return more


def _said(learner: learners.Trees | learners.Linear, X: np.ndarray, index: np.ndarray, columns: np.ndarray | None = None, more: np.ndarray | None = None) -> np.ndarray:
    """(k,) log-odds that a learner gives the rows `index`, told their `columns` (all where None) and `more` (k, g). In blocks: a table's worth
    of copies would be most of what a worker needs."""
    found = np.zeros(len(index))
    for start in range(0, len(index), _BLOCK):
        mine = slice(start, start + _BLOCK)
        block = X[index[mine]] if columns is None else X[np.ix_(index[mine], columns)]
        found[mine] = learner.log_odds(block if more is None else np.hstack([block, more[mine]]))
    return found


def _learn_labels(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, past: np.ndarray, known: np.ndarray, options: Options) -> tuple[Supervised, Held]:
    label = rows.label[known]
    most = max(options.negatives, _PER_BAD * int((label == 1).sum()))
    index, weight = learners.thinned(label, most, options.seed)
    learned = known[index]
    fit = _Fitting.of(rows, learned, weight, options)
    made: dict[str, Any] = {}
    held: dict[str, np.ndarray] = {}
    for column in rows.texts:
        made[f"text {column}"], held[f"text {column}"] = fit.reader(column)
    A = X[learned]
    settings = fit.settings(A)
    made["trees"], held["trees"] = fit.trees(A, settings, 1)
    if len(learned) <= _FEW_ROWS and X.shape[1]:
        made["linear"], held["linear"] = fit.linear(A)
    blind = np.flatnonzero([features.kind(n) not in features.LABEL_KINDS for n in names])
    apart: dict[str, np.ndarray] = {}
    parts, doubt = held, weight * learners.trust(fit.y, held["trees"])
    if recipe.entities:
        if len(blind) < len(names):
            made["behaviour"], apart["behaviour"] = fit.trees(A[:, blind], settings, 1)
        # the first pass can be asked about good rows that it left out: the second learns from those of all that look bad
        left = np.setdiff1d(np.arange(len(known)), index)
        said = {n: _joined(index, held[n], left, _asked(made[n], n, rows, X, known[left])) for n in held}
        more = second_features(rows, recipe, X, made, blind, known[left], Held(learned, held | apart), {"trees": said["trees"][left]}, options.threads)
        trusted = learners.trust(label, said["trees"])
        index, weight = learners.telling(label, said["trees"], most, options.seed)
        again, doubt = known[index], weight * trusted[index]
        fit = _Fitting.of(rows, again, weight, options)
        A = np.hstack([X[again], more.array()[again]])
        settings = fit.settings(A)
        parts = {n: v[index] for n, v in said.items()}
        made["second"], parts["second"] = replace(fit, weight=doubt).trees(A, settings, options.seeds)
    y = fit.y
    prior = float(label.mean())
    prior = float(np.log(prior / (1 - prior)))
    # readers are balanced and say 0 at even odds; trees and lines say the base rate's log-odds where they know nothing
    at_rest = {n: 0.0 if n.startswith("text ") else prior for n in parts}
    anchor = prior if rows.texts and (y == 1).sum() < _ANCHORED else None
    stack = calibration.fit_stack(parts, y, weight, at_rest, anchor)
    sum_ = stack.log_odds(parts)
    curve = calibration.SAME if anchor is not None else calibration.fit_calibration(sum_, y, weight)
    days = max(float(np.ptp(rows.times[learned])) / DAY, 1.0)
    thresholds = decisions.by_cost(options.costs, curve.probability(sum_), weight, days)
    weights = {n: round(float(w), 4) for n, w in zip(stack.names, stack.weights, strict=True)}
    summary = {
        "kind": "labels", "model": _digest({"recipe": repr(recipe), "options": asdict(options), "rows": len(learned), "weights": weights}),
        "bad": int((y == 1).sum()), "good": int((label == 0).sum()), "leaves": settings.leaves, "rounds": settings.rounds, "stack": weights,
        "threshold_review": thresholds.review, "threshold_block": thresholds.block, "doubted": int((doubt < weight * 0.999).sum()),
    }
    model = Supervised(made, blind, stack, curve, float(sum_.max()), thresholds, _tops(names, X[past]), summary)
    return model, Held(learned, held | apart)


def _asked(learner: Any, name: str, rows: Rows, X: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(k,) log-odds that a learner gives the rows `index`."""
    if not len(index) or not name.startswith("text "):
        return _said(learner, X, index)
    return np.asarray(learner.log_odds([rows.texts[name.removeprefix("text ")][i] for i in index]))


def _joined(one: np.ndarray, values: np.ndarray, other: np.ndarray, others: np.ndarray) -> np.ndarray:
    made = np.empty(len(one) + len(other))
    made[one], made[other] = values, others
    return made


@dataclass(frozen=True)
class _Fitting:
    """Rows to learn from; A below is (learned, f). What is fitted comes with its log-odds of rows it has not seen."""

    rows: Rows
    learned: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    folds: np.ndarray
    options: Options

    @classmethod
    def of(cls, rows: Rows, learned: np.ndarray, weight: np.ndarray, options: Options) -> _Fitting:
        y = rows.label[learned]
        return cls(rows, learned, y, weight, learners.folds_of(rows.times[learned], y, options.folds, options.seed), options)

    def settings(self, A: np.ndarray) -> learners.TreeSettings:
        """Size and number of the trees: tried on the newest fold by those of the others."""
        positives = int((self.y == 1).sum())
        base = learners.TreeSettings(rounds=1000, threads=self.options.threads, least=int(np.clip(len(self.y) // 200, 5, 40)))
        last = self.folds == self.folds.max()
        best: tuple[float, learners.TreeSettings] | None = None
        for settings in [replace(base, leaves=n) for n in ((7, 15) if positives < learners.FEW else (15, 31, 63))]:
            watched = A[last], self.y[last], self.weight[last]
            fitted = learners.fit_trees(A[~last], self.y[~last], self.weight[~last], settings, [self.options.seed], watched)
            loss = _log_loss(fitted.log_odds(A[last]), self.y[last], self.weight[last])
            if best is None or loss < best[0]:
                best = (loss, replace(settings, rounds=max(learners.rounds_of(fitted), 20)))
        assert best is not None
        return best[1]

    def trees(self, A: np.ndarray, settings: learners.TreeSettings, seeds: int) -> tuple[learners.Trees, np.ndarray]:
        held = np.zeros(len(self.learned))
        for k in np.unique(self.folds):
            mask = self.folds != k
            held[~mask] = learners.fit_trees(A[mask], self.y[mask], self.weight[mask], settings, [self.options.seed]).log_odds(A[~mask])
        return learners.fit_trees(A, self.y, self.weight, settings, [self.options.seed + i for i in range(seeds)]), held

    def linear(self, A: np.ndarray) -> tuple[learners.Linear, np.ndarray]:
        held = np.zeros(len(self.learned))
        for k in np.unique(self.folds):
            mask = self.folds != k
            held[~mask] = learners.fit_linear(A[mask], self.y[mask], self.weight[mask]).log_odds(A[~mask])
        return learners.fit_linear(A, self.y, self.weight), held

    def reader(self, column: str) -> tuple[texts.Reader, np.ndarray]:
        given = [self.rows.texts[column][i] for i in self.learned]
        vectors = texts.Vectors.of(given)
        words, characters = vectors.matrices(given)

        def fitted(mask: np.ndarray) -> texts.Reader:
            return texts.fit_reader(vectors, words[mask], characters[mask], self.y[mask], self.weight[mask], self.options.seed)

        held = np.zeros((len(given), len(texts.KINDS)))
        for k in np.unique(self.folds):
            out = self.folds == k
            held[out] = fitted(~out).readings(words[out], characters[out])
        spread = np.maximum(held.std(0), 1e-9)
        return replace(fitted(np.ones(len(given), bool)), spread=spread), (held / spread).mean(1)


def _log_loss(log_odds: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * (np.logaddexp(0, log_odds) - label * log_odds)).sum() / weight.sum())


def describe_texts(matrix: Matrix, rows: Rows) -> None:
    """How texts are written, and how many near-copies there were before each."""
    for column, given in rows.texts.items():
        written = texts.style(given)
        for i, name in enumerate(texts.STYLE):
            matrix.add(f"text.{column}.{name}", written[:, i])
        moments = Moments(rows.times, rows.times)
        copies = np.zeros(len(rows), np.int64)
        for band in texts.bands(given):
            copies = np.maximum(copies, History(band, moments, band).count(None) - (band >= 0))
        matrix.add(f"text.{column}.copies", np.where(np.array([bool(t.strip()) for t in given]), copies, np.nan))


def _tops(names: list[str], X: np.ndarray) -> dict[int, float]:
    """The largest value of each count of rows, by its column."""
    counts = [f for f, n in enumerate(names) if features.kind(n) in ("rows", "new", "copies") and not n.endswith(".rows.ever")]
    return {f: max(float(np.nanmax(X[:, f])) if np.isfinite(X[:, f]).any() else 0.0, 1.0) for f in counts}


def _beyond(names: list[str], X: np.ndarray, asked: np.ndarray, tops: dict[int, float]) -> tuple[np.ndarray, dict[int, str]]:
    """How far counts of the rows `asked` lie beyond anything seen before, as log2 of the excess; 0 within three times that. And in words,
    by place.

    Trees and forests cannot tell what lies outside what they were fitted on from what lies at its edge; counts can.
    """
    lifted, which = np.zeros(len(asked)), np.full(len(asked), -1)
    for f, top in tops.items():
        values = X[asked, f]
        far = np.flatnonzero(values >= max(3 * top, 20.0))
        excess = np.log2(values[far] / top)
        better = excess > lifted[far]
        lifted[far[better]], which[far[better]] = excess[better], f
    return lifted, {int(i): f"{reasons.told(names[which[i]], float(X[asked[i], which[i]]))}, far beyond anything before" for i in np.flatnonzero(which >= 0)}


def _told(names: list[str], values: Callable[[np.ndarray], np.ndarray], push: Callable[[np.ndarray], np.ndarray], rows: Rows, recipe: Recipe,
          score: np.ndarray, first: dict[int, str], options: Options) -> list[Sequence[str]]:
    """Reasons of the most suspicious rows, as many as the options say; `values` gives the features of chosen rows, `push` what each of these adds
    to their scores; `first` are said before these, by place."""
    chosen = np.lexsort((np.arange(len(score)), -score))[:options.reasons_for]
    told: list[Sequence[str]] = [()] * len(score)  # one for all: most rows of a large table have none
    if len(chosen) and len(names):
        words = {n: [rows.categories[n][1][c] for c in codes] for n, codes in recipe.categories.items()}
        described = values(chosen)
        for i, why in zip(chosen, reasons.top(names, described, push(described), words), strict=True):
            told[i] = why
    for i, f in first.items():
        told[i] = (f, *told[i])[:3]
    return told


def _digest(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _notes(rows: Rows, now: int) -> np.ndarray:
    """(k,) what is wrong with a row of NEW itself; such rows are looked at by a person at least."""
    fresh = np.flatnonzero(rows.new)
    notes = np.full(len(fresh), "", dtype=object)
    for mask, word in ((rows.timeless[fresh], "its time cannot be read"), (rows.times[fresh] > now + DAY, "its time lies in the future"),
                       (rows.backwards[fresh], "another of its times is later than its own")):
        notes[mask] = [f"{n}; {word}" if n else word for n in notes[mask]]
    return notes


def _table(rows: Rows, score: np.ndarray, probability: np.ndarray, decision: np.ndarray, told: Sequence[Sequence[str]], threshold: np.ndarray,
           model: str, notes: Sequence[str] | np.ndarray, places: np.ndarray) -> pa.Table:
    """Rows of NEW in the order they came in."""
    fresh = np.flatnonzero(rows.new)
    back = np.empty(len(fresh), np.int64)
    back[places] = np.arange(len(fresh))
    ids = rows.ids.take(pa.array(fresh))
    columns: dict[str, Any] = {"id": ids}
    columns |= {
        "score": pa.array(score, pa.float64()), "probability": pa.array(probability, pa.float64(), from_pandas=True),
        "decision": pa.array(decisions.NAMES[decision], pa.string()), "reasons": pa.array(["; ".join(t) for t in told], pa.string()),
        "threshold": pa.array(threshold, pa.float64()), "model": pa.array([model] * len(fresh), pa.string()),
        "notes": pa.array(list(notes), pa.string()),
    }
    if rows.roles.id and rows.roles.id not in columns:
        columns[rows.roles.id] = ids
    return pa.table(columns).take(pa.array(back))
