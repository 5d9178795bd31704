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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import log as logs
from nightmarket.command import Refused
from nightmarket.screen import anomaly, calibration, decisions, features, learners, reasons, texts
from nightmarket.screen.decisions import Costs, Thresholds
from nightmarket.screen.features import Matrix, Recipe
from nightmarket.screen.table import Asked, Rows, find_roles, read_rows
from nightmarket.screen.windows import DAY, History, Moments

LOG = logs.logger("screen")
LEAST = 10
"""Known rows of each class from which on labels are learned from."""
_FEW_ROWS = 20_000
"""Rows up to which a linear model is asked too."""


@dataclass(frozen=True)
class Options:
    label_delay_days: float = 0.0
    seed: int = 17
    costs: Costs = field(default_factory=Costs)
    folds: int = 5
    negatives: int = 150_000
    """At most this many good rows are learned from; they stand for the rest."""
    seeds: int = 1
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


def screen(train: pa.Table, new: pa.Table, asked: Asked, options: Options, now: int) -> Judged:
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
    rows = read_rows(train, new, roles, options.label_delay_days, now, options.follow_new_labels)
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
    reasons: list[list[str]]
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
        matrix = features.build(rows, recipe)
        _read_texts(matrix, rows)
        X = matrix.array()
        said["features"] = X.shape[1]
    fresh = np.flatnonzero(rows.new)
    score, probability = np.zeros(len(fresh)), np.full(len(fresh), np.nan)
    decision, threshold = np.zeros(len(fresh), int), np.zeros(len(fresh))
    told: list[list[str]] = [[] for _ in fresh]
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
    reasons: list[list[str]]
    model: str
    summary: dict[str, Any]


def _stage(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, cut: int, asked: np.ndarray, options: Options) -> _Judged:
    """One model, learned from what was known at `cut`, and its judgement of the rows `asked`."""
    past = np.flatnonzero(~rows.new & (rows.times < cut))
    if not len(past):
        past = np.flatnonzero(~rows.new)[:1]
    known = _known(rows, cut, options)
    with logs.stage(LOG, "learned", rows=len(known)) as said:
        if _enough(rows, known):
            judged = _supervised(rows, recipe, names, X, past, known, asked, options)
        else:
            LOG.warning(logs.said("too few labels, judged by strangeness alone", bad=int((rows.label[known] == 1).sum()),
                                  good=int((rows.label[known] == 0).sum()), needed=LEAST))
            judged = _unsupervised(rows, recipe, names, X, past, asked, options)
        said.update({k: v for k, v in judged.summary.items() if not isinstance(v, (dict, list))})
    return judged


def _unsupervised(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, past: np.ndarray, asked: np.ndarray, options: Options) -> _Judged:
    fitted = anomaly.fit(names, X, past, options.seed)
    surprise = 1 - np.exp(-anomaly.in_company(rows, recipe, fitted.alone(X)) / 8)
    before, score = surprise[past], surprise[asked]
    lifted, why_lifted = _beyond(names, X, past, asked)
    score = np.where(lifted > 0, 1 - (1 - score) / (2 + lifted), score)
    days = max(float(np.ptp(rows.times[past])) / DAY, 1.0)
    thresholds = decisions.by_share(options.costs, before, days)
    decision = np.where(lifted > 0, np.maximum(thresholds.decide(score), decisions.REVIEW), thresholds.decide(score))
    push = fitted.push(X[asked])
    told = _told(names, X[asked], push, rows, recipe, score, decision, why_lifted, options)
    model = _digest({"recipe": repr(recipe), "seed": options.seed, "past": len(past), "kind": "strangeness"})
    return _Judged(score, np.full(len(asked), np.nan), decision, np.full(len(asked), thresholds.review), told, model,
                   {"kind": "strangeness", "model": model, "threshold_review": thresholds.review})


def _supervised(rows: Rows, recipe: Recipe, names: list[str], X: np.ndarray, past: np.ndarray, known: np.ndarray, asked: np.ndarray,
                options: Options) -> _Judged:
    label = rows.label[known]
    index, weight = learners.thinned(label, options.negatives, options.seed)
    learn = known[index]
    y = rows.label[learn]
    folds = learners.folds_of(rows.times[learn], y, options.folds, options.seed)
    others = np.setdiff1d(np.arange(len(rows)), learn, assume_unique=True)
    fit = _Fitting(rows, X, names, learn, y, weight, folds, others, asked, options)
    parts: dict[str, _Part] = {}
    if rows.texts:
        parts |= fit.readers()
    settings = fit.settings()
    parts["trees"] = first = fit.trees(X, settings, 1)
    doubt = weight * learners.trust(y, first.held)
    if len(learn) <= _FEW_ROWS and X.shape[1]:
        parts["linear"] = fit.linear()
    wide = X
    wide_names = names
    if recipe.entities:
        provisional = np.zeros(len(rows))
        provisional[learn], provisional[others] = first.held, first.rest
        more = features.score_windows(rows, recipe, 1 / (1 + np.exp(-provisional)))
        wide = np.hstack([X, more.array()])
        wide_names = names + more.names
        del provisional
        parts["second"] = replace(fit, weight=doubt).trees(wide, settings, options.seeds)
    stack = calibration.fit_stack({k: p.held for k, p in parts.items()}, y, weight)
    held = stack.log_odds({k: p.held for k, p in parts.items()})
    curve = calibration.fit_calibration(held, y, weight)
    raw = stack.log_odds({k: p.asked for k, p in parts.items()})
    lifted, why_lifted = _beyond(names, X, past, asked)
    raw = np.where(lifted > 0, np.maximum(raw, float(held.max(initial=0))) + lifted, raw)
    probability = curve.probability(raw)
    score = 1 / (1 + np.exp(-raw))
    days = max(float(np.ptp(rows.times[learn])) / DAY, 1.0)
    thresholds = decisions.by_cost(options.costs, curve.probability(held), weight, days)
    decision = thresholds.decide(probability)
    decision = np.where(lifted > 0, np.maximum(decision, decisions.REVIEW), decision)
    teller = parts["second" if "second" in parts else "trees"].model
    told = _told(wide_names, wide[asked], teller, rows, recipe, score, decision, why_lifted, options)
    model = _digest({"recipe": repr(recipe), "options": asdict(options), "rows": len(learn), "weights": [round(float(w), 9) for w in stack.weights]})
    return _Judged(score, probability, decision, np.full(len(asked), thresholds.review), told, model, {
        "kind": "labels", "model": model, "bad": int((y == 1).sum()), "good": int((label == 0).sum()), "leaves": settings.leaves,
        "rounds": settings.rounds, "stack": {n: round(float(w), 3) for n, w in zip(stack.names, stack.weights, strict=True)},
        "threshold_review": thresholds.review, "threshold_block": thresholds.block, "doubted": int((doubt < weight * 0.999).sum()),
    })


@dataclass(frozen=True)
class _Part:
    """Log-odds of one learner: `held` (learned rows, by models that have not seen them), `rest` (all other rows), `asked`."""

    held: np.ndarray
    rest: np.ndarray
    asked: np.ndarray
    model: Any


@dataclass(frozen=True)
class _Fitting:
    rows: Rows
    X: np.ndarray
    names: list[str]
    learn: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    folds: np.ndarray
    others: np.ndarray
    asked: np.ndarray
    options: Options

    def settings(self) -> learners.TreeSettings:
        """Size of the trees, tried on the newest fold, and as many of them as still help the folds held out."""
        positives = int((self.y == 1).sum())
        base = learners.TreeSettings(rounds=600, threads=self.options.threads, least=int(np.clip(len(self.y) // 200, 5, 40)))
        tried = [replace(base, leaves=n) for n in ((7, 15) if positives < learners.FEW else (15, 31, 63))]
        last = self.folds == self.folds.max()
        best: tuple[float, learners.TreeSettings] | None = None
        for settings in tried:
            fitted = self._one(self.X[self.learn], ~last, settings, self.options.seed, self.X[self.learn])
            loss = _log_loss(fitted.log_odds(self.X[self.learn][last]), self.y[last], self.weight[last])
            if best is None or loss < best[0]:
                best = (loss, replace(settings, rounds=max(learners.rounds_of(fitted), 20)))
        assert best is not None
        return best[1]

    def _one(self, A: np.ndarray, mask: np.ndarray, settings: learners.TreeSettings, seed: int, held: np.ndarray | None = None) -> learners.Trees:
        watched = None if held is None else (held[~mask], self.y[~mask], self.weight[~mask])
        return learners.fit_trees(A[mask], self.y[mask], self.weight[mask], settings, [seed], watched)

    def trees(self, wide: np.ndarray, settings: learners.TreeSettings, seeds: int) -> _Part:
        A = wide[self.learn]
        held = np.zeros(len(self.learn))
        for k in np.unique(self.folds):
            held[self.folds == k] = self._one(A, self.folds != k, settings, self.options.seed).log_odds(A[self.folds == k])
        full = learners.fit_trees(A, self.y, self.weight, settings, [self.options.seed + i for i in range(seeds)])
        rest = full.log_odds(wide[self.others])
        return self._part(held, rest, full)

    def _part(self, held: np.ndarray, rest: np.ndarray, model: Any) -> _Part:
        return _Part(held, rest, rest[np.searchsorted(self.others, self.asked)], model)

    def linear(self) -> _Part:
        A = self.X[self.learn]
        held = np.zeros(len(self.learn))
        for k in np.unique(self.folds):
            mask = self.folds != k
            held[~mask] = learners.fit_linear(A[mask], self.y[mask], self.weight[mask]).log_odds(A[~mask])
        full = learners.fit_linear(A, self.y, self.weight)
        return self._part(held, full.log_odds(self.X[self.others]), full)

    def readers(self) -> dict[str, _Part]:
        found = {}
        for column, given in self.rows.texts.items():
            mine = [given[i] for i in self.learn]
            held = {kind: np.zeros(len(mine)) for kind in texts.KINDS}
            for k in np.unique(self.folds):
                mask = self.folds != k
                reader = texts.fit_reader([t for t, m in zip(mine, mask, strict=True) if m], self.y[mask], self.weight[mask])
                for kind, z in reader.log_odds([t for t, m in zip(mine, mask, strict=True) if not m]).items():
                    held[kind][~mask] = z
            full = texts.fit_reader(mine, self.y, self.weight)
            rest = full.log_odds([given[i] for i in self.others])
            for kind in texts.KINDS:
                found[f"{column}.{kind}"] = self._part(held[kind], rest[kind], full)
        return found


def _log_loss(log_odds: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * (np.logaddexp(0, log_odds) - label * log_odds)).sum() / weight.sum())


def _read_texts(matrix: Matrix, rows: Rows) -> None:
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


def _beyond(names: list[str], X: np.ndarray, past: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
    """How far counts lie beyond anything seen before the cut, as log2 of the excess; 0 within three times that.

    Trees and forests cannot tell what lies outside what they were fitted on from what lies at its edge; counts can.
    """
    lifted = np.zeros(len(asked))
    which = np.full(len(asked), -1)
    counts = [f for f, n in enumerate(names) if ".rows." in n or ".different." in n or ".new." in n or n.endswith(".copies")]
    counts = [f for f in counts if not names[f].endswith((".rows.ever",)) and ".different." not in names[f]]
    for f in counts:
        seen = X[past, f]
        top = max(float(np.nanmax(seen)) if np.isfinite(seen).any() else 0.0, 1.0)
        excess = np.where(X[asked, f] >= max(3 * top, 20.0), np.log2(np.maximum(X[asked, f], 1) / top), 0.0)
        better = excess > lifted
        lifted[better], which[better] = excess[better], f
    why = [None if f < 0 else f"{reasons.told(names[f], float(X[a, f]))}, far beyond anything before" for a, f in zip(asked, which, strict=True)]
    return lifted, why


def _told(names: list[str], values: np.ndarray, push: Any, rows: Rows, recipe: Recipe, score: np.ndarray, decision: np.ndarray,
          first: list[str | None], options: Options) -> list[list[str]]:
    """Reasons of the rows that are not allowed, and of the most suspicious others up to the options' number."""
    told: list[list[str]] = [[] for _ in score]
    order = np.lexsort((np.arange(len(score)), -score))
    chosen = order if len(order) <= options.reasons_for else order[:max(options.reasons_for, 0)]
    if not len(chosen) or not len(names):
        return [[f] if f else [] for f in first]
    chosen = np.sort(chosen)
    pushed = push.contributions(values[chosen]) if hasattr(push, "contributions") else push[chosen]
    words = {n: [rows.categories[n][1][c] for c in codes] for n, codes in recipe.categories.items()}
    for i, why in zip(chosen, reasons.top(names, values[chosen], pushed, words), strict=True):
        told[i] = why
    del decision
    return [([f, *why] if f else why)[:3] for f, why in zip(first, told, strict=True)]


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


__all__ = ["Judged", "Options", "Thresholds", "judge", "screen"]
