"""Screeners and baselines on the same later rows, with intervals and paired differences.

The holdout is the rows from the cut on whose verdicts were known by the night; a screener is judged as it was learned before the cut.
Metrics of a kind: average precision, and precision and recall among as many rows as the analysts can look at; of a screener that says
probabilities the expected calibration error too (`calibration_loss`, lower is better). "all" is their mean over the kinds.

Where no kind has verdicts in the holdout, planted rows are judged instead: copies of its rows with some counts, amounts and sharings pushed to
the far end of what was seen. That a screener finds them says that it works, not how much fraud it finds; it may serve all the same, because
without verdicts nothing is blocked and the analysts' capacity bounds what it costs. `evaluation.json` says which it was.

Baselines: `chance` (a seeded draw), `strangeness` (without verdicts), `known_bad` (share of known bad rows of the row's entities),
`logistic` (logistic regression on the same features); and `strongest_simple`, of each kind the best of these on the very rows that are judged,
which the model gate asks to be beaten. Where fewer than ENOUGH bad rows are known the best of several would be a lucky one: there
`strongest_simple` is chance, and `evaluation.json` says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import SCREENING_EVALUATION
from nightmarket.evaluate.bootstrap import Interval, draws, quantiles
from nightmarket.screen import anomaly, learners, screening
from nightmarket.screen.calibration import BINS
from nightmarket.screen.decisions import Costs
from nightmarket.screen.screener import Answer, Described, Part, Screener
from nightmarket.screen.screening import Options
from nightmarket.screen.windows import DAY

CHALLENGER, CHAMPION, CHANCE, SIMPLE = "challenger", "champion", "chance", "strongest_simple"
METRICS = ("average_precision", "precision_at_capacity", "recall_at_capacity")
CALIBRATION = "calibration_loss"
LEAST = 3
"""Known rows of either class from which on a kind is judged by its verdicts."""
ENOUGH = 20
"""Bad rows in a kind's holdout from which on the strongest simple way is told from a lucky one."""
_PLANTED = 200


def cut_of(given: Mapping[str, Described], end: datetime, days: int) -> datetime:
    """Where the holdout begins: `days` before the night's end, or earlier (up to half of the history) where only that leaves verdicts of both
    classes on either side. Verdicts come late, so the newest days have few."""
    until = round(end.timestamp() * 1_000_000)
    oldest = min((int(d.times.min()) for d in given.values() if len(d)), default=until)
    for more in (1.0, 1.5, 2.0, 3.0, 4.0):
        back = int(days * more * DAY)
        if more > 1 and back > (until - oldest) / 2:
            break
        for rows in given.values():
            later = rows.times >= until - back
            before = rows.before(until - back).label
            if min((rows.label[later] == c).sum() for c in (0, 1)) >= LEAST and min((before == c).sum() for c in (0, 1)) >= screening.LEAST:
                return end - timedelta(days=days * more)
    return end - timedelta(days=days)


@dataclass(frozen=True)
class Trial:
    """What is judged of one kind: rows, their labels, and everything that describes them."""

    given: Described
    index: np.ndarray
    label: np.ndarray
    capacity: int
    planted: bool = False

    @property
    def digest(self) -> str:
        told = "\n".join(f"{self.given.kind}/{i}={int(v)}" for i, v in zip(self.given.ids[self.index], self.label, strict=True))
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def trials(given: Mapping[str, Described], cut: datetime, end: datetime, costs: Mapping[str, Costs], seed: int) -> list[Trial]:
    """Kinds with enough verdicts in the holdout; where none has, kinds with rows there, with planted ones."""
    begin, until = (round(m.timestamp() * 1_000_000) for m in (cut, end))
    made = []
    days = max((until - begin) / DAY, 1.0)
    for kind, rows in given.items():
        later = (rows.times >= begin) & (rows.times < until)
        index = np.flatnonzero(later & ~np.isnan(rows.label))
        label = rows.label[index]
        if min((label == 1).sum(), (label == 0).sum()) >= LEAST:
            # verdicts are a sample of the rows: the analysts' days shrink with it
            each = costs[kind].capacity
            wanted = len(index) if each is None else round(each * days * len(index) / max(int(later.sum()), 1))
            made.append(Trial(rows, index, label, int(np.clip(wanted, 1, len(index)))))
    if made:
        return made
    return [t for kind, rows in given.items() if (t := _plant(rows, begin, until, seed)) is not None]


def _plant(rows: Described, begin: int, until: int, seed: int) -> Trial | None:
    later = np.flatnonzero((rows.times >= begin) & (rows.times < until))
    if len(later) < 20 or not (rows.times < begin).any():
        return None
    rng = np.random.default_rng(seed)
    chosen = rng.choice(later, min(_PLANTED, max(len(later) // 10, 5)), replace=False)
    suspicious = np.flatnonzero([anomaly.side(n) == 1 for n in rows.names])
    values = rows.values.copy()
    with np.errstate(all="ignore"):
        known = np.where(np.isfinite(rows.values), rows.values, -np.inf).max(0) if len(rows) else np.zeros(0)
    for i in chosen:
        pushed = suspicious[rng.random(len(suspicious)) < 1 / 3]
        values[i, pushed] = np.where(np.isfinite(known[pushed]), known[pushed] * rng.uniform(1.0, 3.0, len(pushed)), values[i, pushed])
    label = np.isin(later, chosen).astype(np.float64)
    return Trial(replace(rows, values=values), later, label, len(chosen), planted=True)


@dataclass(frozen=True)
class Verdicts:
    """`table`: model -> slice -> metric -> interval; `differences`: other -> slice -> metric -> challenger minus it, paired."""

    trials: list[Trial]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    """kind -> model -> (n,) scores."""
    versions: Mapping[str, str | None]
    table: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    differences: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    seed: int
    resamples: int
    simple: Mapping[str, str] = field(default_factory=dict)
    """The baseline that is `strongest_simple`, by kind."""

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(t.digest for t in self.trials).encode()).hexdigest()[:16]

    def rows(self) -> pa.Table:
        """Rows of gold.screening_evaluation."""
        made = [{"model": n, "model_version": self.versions.get(n), "slice": s, "metric": m, "value": i.value, "low": i.low, "high": i.high, "users": i.users}
                for n, slices in self.table.items() for s, metrics in slices.items() for m, i in metrics.items()]
        return pa.Table.from_pylist(made, schema=SCREENING_EVALUATION.arrow_schema())

    def save(self, folder: Path, cut: datetime, end: datetime, costs: Mapping[str, Costs], title: str) -> None:
        """Writes evaluation.json and plots, the JSON last."""
        from nightmarket.screen import pictures

        (folder / "plots").mkdir(parents=True)
        drawn = []
        for trial in self.trials:
            kind, scores = trial.given.kind, self.scores[trial.given.kind]
            shown = {CHALLENGER: scores[CHALLENGER], **{n: s for n, s in scores.items() if n != CHALLENGER}}
            drawn.append(pictures.precision_recall(folder / "plots" / f"{kind}_precision_recall.png", trial.label, shown, f"{title}: {kind}, later rows"))
        (folder / "evaluation.json").write_text(json.dumps({
            "holdout": {"cut": cut.isoformat(), "end": end.isoformat(), "digest": self.digest, "judged_by": "planted rows" if any(t.planted for t in self.trials) else "verdicts",
                        "kinds": {t.given.kind: {"rows": len(t.index), "bad": int(t.label.sum()), SIMPLE: self.simple.get(t.given.kind, CHANCE)} for t in self.trials}},
            "seed": self.seed, "resamples": self.resamples,
            "models": {n: {"version": self.versions.get(n), "slices": _plain(t)} for n, t in self.table.items()},
            "differences": {n: _plain(t) for n, t in self.differences.items()}, "plots": [p.name for p in drawn],
        }, indent=1, sort_keys=True), encoding="utf-8")


def judge(found: list[Trial], screeners: Mapping[str, tuple[str | None, Screener]], cut: datetime, options: Options, resamples: int) -> Verdicts:
    """Judges `screeners` (name -> (version, as learned before the cut)) and the baselines. Raises ValueError for no trials."""
    if not found:
        raise ValueError("nothing to judge on")
    moment = round(cut.timestamp() * 1_000_000)
    scores: dict[str, dict[str, np.ndarray]] = {}
    probabilities: dict[str, dict[str, np.ndarray]] = {}
    for trial in found:
        kind = trial.given.kind
        own = {n: a for n, (_, s) in screeners.items() if (a := _asked(s.parts.get(kind), trial, options)) is not None}
        scores[kind] = {n: a.score for n, a in own.items()} | _baselines(trial, moment, options)
        probabilities[kind] = {n: a.probability for n, a in own.items() if not trial.planted and not np.isnan(a.probability).any()}
    # a screener that does not know a kind is judged as chance there: what it would decide is nothing
    names = list(dict.fromkeys([*screeners, *(n for s in scores.values() for n in s), SIMPLE]))
    table: dict[str, dict[str, dict[str, Interval]]] = {n: {} for n in names}
    apart: dict[str, dict[str, dict[str, Interval]]] = {n: {} for n in names if n != CHALLENGER}
    sampled = {t.given.kind: {n: _samples(t, scores[t.given.kind].get(n, scores[t.given.kind][CHANCE]), resamples, options.seed) for n in names if n != SIMPLE}
               for t in found}
    simple: dict[str, str] = {}
    for trial in found:
        kind = trial.given.kind
        reached = {n: float(sampled[kind][n][METRICS[0]][0]) for n in scores[kind] if n not in screeners}
        simple[kind] = max(reached, key=reached.__getitem__) if not trial.planted and int(trial.label.sum()) >= ENOUGH else CHANCE
        sampled[kind][SIMPLE] = sampled[kind][simple[kind]]
    users = sum(len(t.index) for t in found)
    for metric in METRICS:
        for name in names:
            for trial in found:
                values = sampled[trial.given.kind][name][metric]
                table[name].setdefault(f"kind={trial.given.kind}", {})[metric] = _interval(values, len(trial.index))
            whole = np.mean([sampled[t.given.kind][name][metric] for t in found], 0)
            table[name].setdefault("all", {})[metric] = _interval(whole, users)
            if name != CHALLENGER:
                for label, kinds in (("all", [t.given.kind for t in found]), *((f"kind={t.given.kind}", [t.given.kind]) for t in found)):
                    gap = np.mean([sampled[k][CHALLENGER][metric] - sampled[k][name][metric] for k in kinds], 0)
                    apart[name].setdefault(label, {})[metric] = _interval(gap, table[name].get(label, table[name]["all"])[metric].users)
    for name in screeners:
        off = {t.given.kind: _calibration(t, p, resamples, options.seed) for t in found if (p := probabilities[t.given.kind].get(name)) is not None}
        for trial in found:
            if trial.given.kind in off:
                table[name][f"kind={trial.given.kind}"][CALIBRATION] = _interval(off[trial.given.kind], len(trial.index))
        if off:
            table[name]["all"][CALIBRATION] = _interval(np.mean(list(off.values()), 0), sum(len(t.index) for t in found if t.given.kind in off))
    return Verdicts(found, scores, {n: v for n, (v, _) in screeners.items()}, table, apart, options.seed, resamples, simple)


def _asked(part: Part | None, trial: Trial, options: Options) -> Answer | None:
    if part is None:
        return None
    # only what was known at each row's moment describes it, but a label of the holdout is no label to the one who is judged
    blind = replace(trial.given, label=np.where(np.isin(np.arange(len(trial.given)), trial.index), np.nan, trial.given.label))
    return part.ask(blind, trial.index, replace(options, reasons_for=1))


def _baselines(trial: Trial, moment: int, options: Options) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(options.seed)
    made = {CHANCE: rng.random(len(trial.index))}
    past = trial.given.before(moment)
    nothing = np.full(len(past), np.nan)
    if len(past):
        alone = Part.learn(replace(past, label=nothing), moment, options)
        made["strangeness"] = alone.ask(trial.given, trial.index, replace(options, reasons_for=1)).score
    if trial.planted:
        return made
    risks = np.flatnonzero([n.endswith(".risk.28d") for n in trial.given.names])
    if len(risks):
        made["known_bad"] = np.nan_to_num(trial.given.values[trial.index][:, risks]).max(1)
    known = np.flatnonzero(~np.isnan(past.label))
    if min((past.label[known] == 1).sum(), (past.label[known] == 0).sum()) >= screening.LEAST:
        model = learners.fit_linear(past.values[known], past.label[known], np.ones(len(known)))
        made["logistic"] = model.log_odds(trial.given.values[trial.index])
    return made


def _samples(trial: Trial, score: np.ndarray, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """metric -> (1 + resamples,): its value, then that of each resample of the rows."""
    order = np.lexsort((np.arange(len(score)), -score))
    label, ranked = trial.label[order], score[order]
    # rows of one score stand together: each is told the precision of the last of them
    last = np.searchsorted(-ranked, -ranked, "right") - 1
    whole = np.ones((1, len(label)), np.int64)
    blocks = [whole, *(c[:, order] for c in draws(len(label), resamples, seed))]
    found: dict[str, list[np.ndarray]] = {m: [] for m in METRICS}
    for counts in blocks:
        hits, rows = np.cumsum(counts * label, 1), np.cumsum(counts, 1)
        bad = np.maximum(hits[:, -1], 1e-9)
        precision = hits[:, last] / np.maximum(rows[:, last], 1)
        found["average_precision"].append((precision * counts * label).sum(1) / bad)
        within = rows <= trial.capacity
        caught = np.where(within, counts * label, 0).sum(1)
        found["precision_at_capacity"].append(caught / np.maximum(np.where(within, counts, 0).sum(1), 1))
        found["recall_at_capacity"].append(caught / bad)
    return {m: np.concatenate(v) for m, v in found.items()}


def _calibration(trial: Trial, probability: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(1 + resamples,) expected calibration error: its value, then that of each resample of the rows."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)[:, None] == np.arange(BINS)
    gap = bins * (probability - trial.label)[:, None]
    whole = np.ones((1, len(probability)), np.int64)
    return np.concatenate([np.abs(counts @ gap).sum(1) / counts.sum(1) for counts in (whole, *draws(len(probability), resamples, seed))])


def _interval(values: np.ndarray, users: int) -> Interval:
    low, high = quantiles(values[1:])
    return Interval(float(values[0]), low, high, users)


def _plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {s: {m: asdict(i) for m, i in by_metric.items()} for s, by_metric in table.items()}
