"""Whether a new forecaster is better: rolling origins that neither it nor its baselines have seen past, over series.

At each origin the new forecaster is made from what was known then (its weights too), the champion combines the same candidates with
the weights it has, and the baselines are candidates by themselves. What is published is judged, so both are made to add up first.
Every series counts alike. `skill` is 1 - MASE / MASE of the seasonal naive forecast, and so on for RMSSE, WAPE and the scaled
interval score; each is a mean over series, so that intervals and paired differences are resampled over series.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import FORECAST_EVALUATION
from nightmarket.evaluate import bootstrap
from nightmarket.evaluate.bootstrap import Interval
from nightmarket.forecast import combining, pictures, spread
from nightmarket.forecast.closed import closed
from nightmarket.forecast.diagnosis import diagnose
from nightmarket.forecast.family import REST, Family, coherent, last_day
from nightmarket.forecast.fitted import Fitted, Since, reach_of, unbiased, variance_of
from nightmarket.forecast.forecaster import BUDGETS, Forecast, Weights, backtest, combination, fallback
from nightmarket.forecast.series import Panel
from nightmarket.shop import Forecasting

CHALLENGER, CHAMPION, NAIVE = "challenger", "champion", "seasonal_naive"
BASELINES = (NAIVE, "smoothing", "equal_weights")
FEWEST_DAYS = 21
"""Days of history that the first origin must have."""


def origins(rules: Forecasting, length: int) -> tuple[int, ...]:
    """Days before the night of each origin, oldest first: a third of the horizon apart, the newest a horizon back. Empty for too short a history."""
    apart = max(1, rules.horizon // 3)
    if apart % 7 == 0:
        apart += 1  # so that origins fall on different weekdays
    return tuple(b for k in reversed(range(rules.origins)) if length - (b := rules.horizon + k * apart) >= FEWEST_DAYS)


def judge_chunk(panel: Panel, rules: Forecasting, backs: Sequence[int], champion: Weights | None, champion_budget: str | None) -> dict[str, np.ndarray]:
    """'<origin>/<model>/mean', '…/low/<level>', '…/high/<level>' (n, horizon) and '…/variance' (n,), '<origin>/scale', '<origin>/root' (n,)."""
    out: dict[str, np.ndarray] = {}
    for k, back in enumerate(backs):
        then = panel.cut(back, reach_of(rules))
        y = then.y.copy()
        y[np.isnan(y).all(axis=1), -1] = 0.0  # had not sold yet
        names = (CHALLENGER, *BASELINES, *(() if champion is None else (CHAMPION,)))
        parts = [_at(some, made or dict.fromkeys(names, fallback(some, rules.intervals))) for some, made, _ in spread.halving(replace(then, y=y), lambda p: _models(p, rules, champion, champion_budget))]
        for name in parts[0]:
            out[f"{k}/{name}"] = np.concatenate([p[name][..., : rules.horizon] if p[name].ndim == 2 else p[name] for p in parts])
    return out


def _models(panel: Panel, rules: Forecasting, champion: Weights | None, champion_budget: str | None) -> dict[str, Forecast]:
    shut = closed(panel)
    found = diagnose(panel, shut)
    test = backtest(panel, shut, found, BUDGETS[rules.budget], rules.seed)
    names, n = test.names, panel.size
    alone = {name: np.tile(np.eye(len(names))[names.index(name)], (n, 1)) for name in names}
    there = np.isfinite(test.forecasts[:, -1]).all(axis=-1).T  # (n, c)
    smooth = alone.get("smoothing", alone[NAIVE])
    weights = {
        CHALLENGER: combining.weights(test, found.rare), NAIVE: alone[NAIVE],
        "smoothing": np.where((smooth * there).sum(axis=1, keepdims=True) > 0, smooth, alone[NAIVE]), "equal_weights": np.full((n, len(names)), 1.0 / len(names)),
    }
    made = {name: combination(panel, found, test, weight, rules.intervals) for name, weight in weights.items()}
    if champion is not None:
        if champion_budget is not None and champion_budget != rules.budget:
            test = backtest(panel, shut, found, BUDGETS[champion_budget], rules.seed)
        made[CHAMPION] = combination(panel, found, test, champion.table(panel.ids, test.names), rules.intervals)
    return made


def _at(panel: Panel, made: Mapping[str, Forecast]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for name, raw in made.items():
        f = unbiased(panel.ids, raw) if name in (CHALLENGER, CHAMPION) else raw
        out |= {f"{name}/mean": f.mean, f"{name}/variance": variance_of(f)}
        for level, (low, high) in f.bounds.items():
            out |= {f"{name}/low/{level}": low, f"{name}/high/{level}": high}
    first = next(iter(made.values())).backtest
    return out | {"scale": first.scale, "root": first.root}


@dataclass(frozen=True)
class Judged:
    """What was found, over the nodes that are published."""

    ids: tuple[str, ...]
    values: Mapping[str, Mapping[str, np.ndarray]]
    """model → metric → (k,) of each series."""
    versions: Mapping[str, str | None]
    kinds: tuple[str, ...]
    by_step: Mapping[str, np.ndarray]
    """model → (H,) mean absolute scaled error by days ahead."""
    cut: date
    """First day that was judged."""
    end: date
    """Day after the last one."""
    seed: int
    resamples: int

    @property
    def digest(self) -> str:
        """Of what was judged: days and series."""
        return hashlib.sha256("\n".join([str(self.cut), str(self.end), *self.ids]).encode()).hexdigest()[:16]

    def slices(self) -> dict[str, np.ndarray]:
        """Name → (k,) bool: all, level=…, kind=…, each of two series at least."""
        levels = np.array([i.partition("/")[0] for i in self.ids])
        found = {"all": np.ones(len(self.ids), bool)}
        found |= {f"level={v}": levels == v for v in np.unique(levels)}
        found |= {f"kind={v}": np.array(self.kinds) == v for v in sorted(set(self.kinds))}
        return {name: mask for name, mask in found.items() if mask.sum() >= 2 or name == "all"}

    @cached_property
    def table(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """model → slice → metric → mean with its interval."""
        return {name: {s: {m: bootstrap.mean(v[mask], self.resamples, self.seed) for m, v in values.items()} for s, mask in self.slices().items()}
                for name, values in self.values.items()}

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """other → slice → metric → challenger minus it, paired."""
        mine = self.values[CHALLENGER]
        return {name: {s: {m: bootstrap.difference(mine[m][mask], v[mask], self.resamples, self.seed) for m, v in values.items()}
                       for s, mask in self.slices().items()} for name, values in self.values.items() if name != CHALLENGER}

    def rows(self) -> pa.Table:
        """Rows of gold.forecast_evaluation."""
        made = [{"model": name, "model_version": self.versions.get(name), "slice": s, "metric": m, "value": i.value, "low": i.low, "high": i.high,
                 "users": i.users} for name, by_slice in self.table.items() for s, by in by_slice.items() for m, i in by.items()]
        return pa.Table.from_pylist(made, schema=FORECAST_EVALUATION.arrow_schema())

    def save(self, folder: Path) -> None:
        """Writes evaluation.json, series.npz and plots into `folder`, the JSON last."""
        plots = folder / "plots"
        plots.mkdir(parents=True)
        (plots / "horizon.png").write_bytes(pictures.errors_by_horizon(self.by_step, len(self.ids)))
        arrays: dict[str, Any] = {"ids": np.array(self.ids, np.str_)}
        arrays |= {f"{name}/{m}": v for name, values in self.values.items() for m, v in values.items()}
        np.savez_compressed(folder / "series.npz", **arrays)
        (folder / "evaluation.json").write_text(json.dumps({
            "holdout": {"cut": self.cut.isoformat(), "end": self.end.isoformat(), "digest": self.digest, "series": len(self.ids)},
            "seed": self.seed, "resamples": self.resamples,
            "models": {n: {"version": self.versions.get(n), "slices": _plain(t)} for n, t in self.table.items()},
            "differences": {n: _plain(t) for n, t in self.differences.items()},
            "heads": {}, "plots": ["horizon.png"],
        }, indent=1, sort_keys=True), encoding="utf-8")


def _plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {s: {m: asdict(i) for m, i in by.items()} for s, by in table.items()}


def judge(tree: Family, rules: Forecasting, backs: Sequence[int], chunks: Iterable[tuple[Sequence[str], Mapping[str, np.ndarray]]],
          champion_version: str | None) -> Judged:
    """Scores of what `judge_chunk` made of all nodes, chunk by chunk: (ids, arrays)."""
    place = {i: row for row, i in enumerate(tree.panel.ids)}
    whole: dict[str, np.ndarray] = {}
    for ids, arrays in chunks:
        rows = np.array([place[i] for i in ids], int)
        for name, values in arrays.items():
            target = whole.setdefault(name, np.full((tree.panel.size, *values.shape[1:]), np.nan))
            target[rows] = values
    length, horizon = tree.panel.length, rules.horizon
    truth = np.stack([tree.panel.y[:, length - b : length - b + horizon] for b in backs])  # (o, n, H)
    scale, root = (np.stack([whole[f"{k}/{what}"] for k in range(len(backs))])[:, :, None] for what in ("scale", "root"))
    names = [m for m in (CHALLENGER, CHAMPION, *BASELINES) if f"0/{m}/mean" in whole]
    if champion_version is None:
        names = [m for m in names if m != CHAMPION]
    shown = np.array([not str(i).startswith(f"{REST}/") for i in tree.panel.ids]) & np.isfinite(truth).any(axis=(0, 2))
    raw: dict[str, dict[str, np.ndarray]] = {}
    by_step: dict[str, np.ndarray] = {}
    for name in names:
        mean, bounds = _published(tree, rules, backs, whole, name)
        scores = _scores(truth, mean, bounds, scale, root)
        raw[name] = {k: v[shown] for k, v in scores.items()}
        by_step[name] = _by_step(truth[:, shown], mean[:, shown], scale[:, shown])
    found = diagnose(tree.panel)
    last = last_day(tree)
    return Judged(
        tuple(str(i) for i, s in zip(tree.panel.ids, shown, strict=True) if s), {n: _metrics(v, raw[NAIVE]) for n, v in raw.items()},
        {CHAMPION: champion_version}, tuple(k for k, s in zip(found.kind, shown, strict=True) if s), by_step,
        last - timedelta(days=max(backs) - 1), last + timedelta(days=1), rules.seed, rules.bootstrap,
    )


def _scores(truth: np.ndarray, mean: np.ndarray, bounds: Mapping[int, tuple[np.ndarray, np.ndarray]], scale: np.ndarray, root: np.ndarray) -> dict[
    str, np.ndarray
]:
    """(n,) of each series over (o, n, H) origins and days that are known; `scale` and `root` are (o, n, 1)."""
    use = np.isfinite(truth)
    count = np.maximum(use.sum(axis=(0, 2)), 1)
    y = np.nan_to_num(truth)

    def over(values: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.where(use, values, 0.0).sum(axis=(0, 2)) / count
        return total

    off = np.abs(y - mean)
    scores = {"mase": over(off / scale), "rmsse": np.sqrt(over((off / (scale * root)) ** 2)), "off": over(off), "interval": np.zeros(truth.shape[1])}
    for level, (low, high) in bounds.items():
        share = 1 - level / 100
        width = (high - low) + 2 / share * np.maximum(low - y, 0) + 2 / share * np.maximum(y - high, 0)
        scores["interval"] = scores["interval"] + over(width / scale) / len(bounds)
        scores[f"coverage@{level}"] = over(((y >= low - 1e-9) & (y <= high + 1e-9)).astype(float))
    return scores


def _by_step(truth: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(H,) mean absolute scaled error by days ahead."""
    off = np.where(np.isfinite(truth), np.abs(np.nan_to_num(truth) - mean) / scale, 0.0)
    made: np.ndarray = off.sum(axis=(0, 1)) / np.maximum(np.isfinite(truth).sum(axis=(0, 1)), 1)
    return made


def _published(tree: Family, rules: Forecasting, backs: Sequence[int], whole: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, dict[int, Any]]:
    """(o, n, H) means and bounds of a model; coherent for those that may serve."""
    means: list[np.ndarray] = []
    bounds: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {level: ([], []) for level in rules.intervals}
    for k in range(len(backs)):
        base = whole[f"{k}/{name}/mean"]
        mean = coherent(tree, base, whole[f"{k}/{name}/variance"], rules.coherence) if name in (CHALLENGER, CHAMPION) else base
        means.append(mean)
        for level in rules.intervals:
            bounds[level][0].append(np.minimum(whole[f"{k}/{name}/low/{level}"], mean))
            bounds[level][1].append(np.maximum(whole[f"{k}/{name}/high/{level}"], mean))
    return np.stack(means), {level: (np.stack(low), np.stack(high)) for level, (low, high) in bounds.items()}


def _metrics(scores: Mapping[str, np.ndarray], naive: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    def skill(name: str) -> np.ndarray:
        usual = float(np.mean(naive[name]))
        return 1.0 - scores[name] / usual if usual > 0 else np.zeros(len(scores[name]))

    made = {"skill": skill("mase"), "skill_rmsse": skill("rmsse"), "skill_wape": skill("off"), "skill_interval": skill("interval")}
    made |= {name: scores[name] for name in sorted(scores) if name.startswith("coverage@")}
    return made | {"mase_loss": scores["mase"], "rmsse_loss": scores["rmsse"]}


def follow_up(fitted: Fitted, tree: Family, rules: Forecasting, version: str, found: Since) -> Judged:
    """The forecaster that stays, on the days since it was made, beside the seasonal naive forecast of then."""
    place = {i: row for row, i in enumerate(tree.panel.ids)}
    ahead = min(found.seen, fitted.reach)
    known = set(found.ids)
    naive = fallback(tree.panel.cut(found.seen, fitted.reach), rules.intervals)
    stays: list[dict[str, np.ndarray]] = []
    simple: list[dict[str, np.ndarray]] = []
    steps: dict[str, list[np.ndarray]] = {CHALLENGER: [], NAIVE: []}
    ids: list[str] = []
    kinds: list[str] = []
    for part in fitted.pieces:
        own = np.array([k for k, i in enumerate(part.ids) if i in known and not i.startswith(f"{REST}/")], int)
        if not len(own):
            continue
        rows = np.array([place[part.ids[k]] for k in own], int)
        truth = tree.panel.y[rows, tree.panel.length - found.seen : tree.panel.length - found.seen + ahead][None]
        test = part.made.backtest
        scale, root = test.scale[own][None, :, None], test.root[own][None, :, None]
        for f, at, name, kept in ((unbiased(part.ids, part.made), own, CHALLENGER, stays), (naive, rows, NAIVE, simple)):
            mean = f.mean[at, :ahead][None]
            bounds = {level: (np.minimum(low[at, :ahead][None], mean), np.maximum(high[at, :ahead][None], mean)) for level, (low, high) in f.bounds.items()}
            kept.append(_scores(truth, mean, bounds, scale, root))
            steps[name].append(np.where(np.isfinite(truth), np.abs(np.nan_to_num(truth) - mean) / scale, np.nan)[0])
        ids += [part.ids[k] for k in own]
        kinds += [part.made.diagnosis.kind[k] for k in own]
    raw = {name: {m: np.concatenate([p[m] for p in parts]) for m in parts[0]} for name, parts in ((CHALLENGER, stays), (NAIVE, simple))}
    by_step = {n: np.nansum(np.concatenate(w), axis=0) / np.maximum(np.isfinite(np.concatenate(w)).sum(axis=0), 1) for n, w in steps.items()}
    last = last_day(tree)
    return Judged(tuple(ids), {n: _metrics(v, raw[NAIVE]) for n, v in raw.items()}, {CHALLENGER: version}, tuple(kinds), by_step,
                  fitted.made_on + timedelta(days=1), last + timedelta(days=1), rules.seed, rules.bootstrap)
