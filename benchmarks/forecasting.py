"""Forecasts beside statsforecast's models and a direct global LightGBM, on three rolling origins, in one process, with intervals over series.

Origins lie a horizon apart and end a horizon before the data does; nothing is chosen on what follows them. MASE and the interval
score are divided by the mean absolute seasonal difference of each history. Lower is better but for coverage.

  python benchmarks/forecasting.py                              all data, budget balanced
  python benchmarks/forecasting.py --only aus_retail --budget fast --budget balanced
  python benchmarks/forecasting.py --only stores --lightgbm-alone --series 40
  python benchmarks/forecasting.py --growth                     CPU seconds from 100 to 10,000 series, beside AutoETS and its company
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import forecast_data
import forecast_peers
import numpy as np
import pandas as pd
import pyarrow as pa
from forecast_data import Data
from forecast_peers import LEVELS, STATISTICAL, Made

from nightmarket import log as logs
from nightmarket.evaluate import bootstrap
from nightmarket.forecast.forecaster import BUDGETS, forecast
from nightmarket.forecast.series import Panel, read_panel
from nightmarket.forecast.spread import forecast_chunks
from nightmarket.shop import PROJECT

RESAMPLES = 2000
METRICS = ("MASE", "RMSSE", "WAPE", "cover80", "cover95", "score80", "score95")
log = logs.logger("benchmark")


def window(data: Data, origin: pd.Timestamp) -> tuple[pd.DataFrame, pd.DataFrame]:
    """History up to an origin, of series that have one, and the horizon after it."""
    last = data.dates[list(data.dates).index(origin) + data.horizon]
    history = data.rows[data.rows["ds"] <= origin]
    count = history.groupby("series_id")["y"].size()
    kept = count.index[count >= data.season + 2]
    rows = data.rows[data.rows["series_id"].isin(kept)]
    return rows[rows["ds"] <= origin], rows[(rows["ds"] > origin) & (rows["ds"] <= last)]


def panel_of(data: Data, history: pd.DataFrame, ahead: pd.DataFrame) -> Panel:
    future = pa.Table.from_pandas(ahead.drop(columns="y"), preserve_index=False) if data.known else None
    return read_panel(pa.Table.from_pandas(history, preserve_index=False), data.freq, data.horizon, data.known, future)[0]  # type: ignore[arg-type]


def judged(data: Data, history: pd.DataFrame, ahead: pd.DataFrame, made: Made) -> pd.DataFrame:
    """One row a series: the metrics' parts. WAPE's numerator and denominator are `off` and `size`."""
    truth = ahead.pivot(index="series_id", columns="ds", values="y")
    y = truth.to_numpy()
    scale, root = [], []
    for _, rows in history.groupby("series_id", sort=True):
        apart = np.abs(rows["y"].to_numpy()[data.season :] - rows["y"].to_numpy()[: -data.season])
        scale.append(apart.mean())
        root.append(np.sqrt((apart**2).mean()))
    s, r = np.array(scale), np.array(root)
    s, r = np.where(s > 0, s, np.nan), np.where(r > 0, r, np.nan)
    off = np.abs(y - made.mean)
    out = {"MASE": off.mean(axis=1) / s, "RMSSE": np.sqrt((off**2).mean(axis=1)) / r, "off": off.sum(axis=1), "size": np.abs(y).sum(axis=1)}
    for level in LEVELS:
        if level in made.bounds:
            low, high = made.bounds[level]
            share = 1 - level / 100
            score = (high - low) + 2 / share * np.maximum(low - y, 0) + 2 / share * np.maximum(y - high, 0)
            out[f"cover{level}"] = ((y >= low) & (y <= high)).mean(axis=1)
            out[f"score{level}"] = score.mean(axis=1) / s
    return pd.DataFrame(out, index=truth.index)


def run(data: Data, budgets: list[str], seed: int, statistical: bool = True) -> dict[str, object]:
    """Every model on every origin: metrics with intervals, paired differences, seconds; without `statistical` LightGBM alone beside ours."""
    tables: dict[str, list[pd.DataFrame]] = {}
    seconds: dict[str, float] = {}

    def add(name: str, made: Made, history: pd.DataFrame, ahead: pd.DataFrame) -> None:
        tables.setdefault(name, []).append(judged(data, history, ahead, made))
        seconds[name] = seconds.get(name, 0.0) + made.seconds

    settings = forecast_peers.tuned(data, lambda mean, h, a: float(np.nanmean(judged(data, h, a, Made(mean, {}, 0.0))["MASE"])))
    for origin in data.origins():
        history, ahead = window(data, origin)
        panel = panel_of(data, history, ahead)
        for budget in budgets:
            started = time.process_time()
            ours = forecast(panel, LEVELS, budget, seed)
            add(f"Nightmarket {budget}", Made(ours.mean, ours.bounds, time.process_time() - started), history, ahead)
        peers = forecast_peers.statistical(data, history) if statistical else {}
        peers["LightGBM"] = forecast_peers.lightgbm(data, history, ahead, settings)
        if statistical:
            peers["mean of three"] = Made(np.mean([peers[k].mean for k in STATISTICAL], axis=0), {}, sum(peers[k].seconds for k in STATISTICAL))
        for name, made in peers.items():
            add(name, made, history, ahead)
        log.info(logs.said("origin", data=data.name, origin=str(origin.date()), series=panel.size))
    joined = {name: pd.concat(parts).groupby(level=0).agg(lambda v: v.mean()) for name, parts in tables.items()}
    return {"settings": settings, "series": len(next(iter(joined.values()))), "seconds": seconds, "joined": joined}


def interval(table: pd.DataFrame, metric: str, seed: int) -> bootstrap.Interval | None:
    """Mean over series with its 95 % interval; WAPE is a ratio of sums, resampled as one."""
    if metric == "WAPE":
        off, size = table["off"].to_numpy(), table["size"].to_numpy()
        drawn = [(c @ off) / (c @ size) for c in bootstrap.draws(len(off), RESAMPLES, seed)]
        low, high = bootstrap.quantiles(np.concatenate(drawn))
        return bootstrap.Interval(float(off.sum() / size.sum()), low, high, len(off))
    if metric not in table:
        return None
    values = table[metric].dropna().to_numpy()
    return bootstrap.mean(values, RESAMPLES, seed)


def apart(one: pd.DataFrame, other: pd.DataFrame, metric: str, seed: int) -> bootstrap.Interval:
    """The first minus the other, series by series."""
    pair = one[metric].dropna().index.intersection(other[metric].dropna().index)
    return bootstrap.difference(one.loc[pair, metric].to_numpy(), other.loc[pair, metric].to_numpy(), RESAMPLES, seed)


def report(data: Data, found: dict[str, object], budgets: list[str], seed: int) -> dict[str, object]:
    """Prints the table and the goals, and returns both."""
    joined: dict[str, pd.DataFrame] = found["joined"]  # type: ignore[assignment]
    seconds: dict[str, float] = found["seconds"]  # type: ignore[assignment]
    cells = {name: {m: interval(t, m, seed) for m in METRICS} for name, t in joined.items()}
    print(f"\n{data.name}: {found['series']} series, horizon {data.horizon}, season {data.season}, {forecast_data.ORIGINS} origins; "
          f"LightGBM tuned to {found['settings']}")
    print(f"{'':22}" + "".join(f"{m:>25}" for m in METRICS) + f"{'s':>8}")
    for name in sorted(cells, key=lambda n: cells[n]["MASE"].value):  # type: ignore[union-attr]
        print(f"{name:22}" + "".join(f"{v!s:>25}" if v else f"{'':25}" for v in cells[name].values()) + f"{seconds[name]:8.1f}")
    peers = [n for n in joined if not n.startswith("Nightmarket") and n != "mean of three"]
    told: dict[str, object] = {}
    for budget in budgets:
        name = f"Nightmarket {budget}"
        best = {m: min((n for n in peers if cells[n][m]), key=lambda n: cells[n][m].value) for m in METRICS if not m.startswith("cover")}  # type: ignore[union-attr]
        lines = {}
        for other in (best["MASE"], *(["mean of three"] if "mean of three" in joined else [])):
            ratio = cells[name]["MASE"].value / cells[other]["MASE"].value - 1  # type: ignore[union-attr]
            lines[f"MASE against {other}"] = f"{100 * ratio:+.1f} %, difference {apart(joined[name], joined[other], 'MASE', seed)}"
        for m in ("RMSSE", "WAPE", "score80", "score95"):
            lines[f"{m} against {best[m]}"] = f"{cells[name][m].value:.4f} and {cells[best[m]][m].value:.4f}"  # type: ignore[union-attr]
            if m != "WAPE":  # a ratio of sums
                lines[f"{m} against {best[m]}"] += f", difference {apart(joined[name], joined[best[m]], m, seed)}"
        lines["seconds"] = f"{seconds[name]:.1f}"
        if "mean of three" in seconds:
            lines["seconds"] += f"; AutoETS {seconds['AutoETS']:.1f}, AutoETS + AutoTheta + CES {seconds['mean of three']:.1f}"
        print(f"  {name}")
        for what, said in lines.items():
            print(f"    {what}: {said}")
        told[name] = lines
    return {
        "series": found["series"], "settings": found["settings"], "goals": told, "seconds": seconds,
        "metrics": {n: {m: None if v is None else [v.value, v.low, v.high] for m, v in row.items()} for n, row in cells.items()},
    }


def growth(data: Data, sizes: list[int], budgets: list[str], peers_up_to: int, seed: int) -> list[dict[str, object]]:
    """Seconds of all models on the same series, repeated with noise to `sizes`; the peers' cost a series does not depend on how many."""
    history, ahead = window(data, data.origins()[-1])
    base = panel_of(data, history, ahead)
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        pick = np.arange(size) % base.size
        y = base.y[pick] * np.exp(rng.normal(0, 0.02, (size, base.length)) * (np.arange(size) >= base.size)[:, None])
        panel = Panel(tuple(range(size)), base.freq, base.ends[pick], y, base.known[pick], base.names, base.categories)
        row: dict[str, object] = {"series": size}
        for budget in budgets:
            started = time.process_time()
            for _ in forecast_chunks(panel, LEVELS, budget, seed):
                pass
            row[budget] = time.process_time() - started
        if size <= peers_up_to:
            from statsforecast import StatsForecast
            from statsforecast.models import AutoCES, AutoETS, AutoTheta

            dates = pd.DatetimeIndex(panel.dates()[0, : panel.length])
            keep = np.isfinite(y)
            frame = pd.DataFrame({"unique_id": np.repeat(np.arange(size), panel.length)[keep.ravel()], "ds": np.tile(dates, size)[keep.ravel()], "y": y[keep]})
            for name, model in (("AutoETS", AutoETS), ("AutoTheta", AutoTheta), ("CES", AutoCES)):
                started = time.process_time()
                StatsForecast(models=[model(season_length=data.season)], freq=data.freq, n_jobs=1).forecast(df=frame, h=data.horizon, level=list(LEVELS))
                row[name] = time.process_time() - started
        print("  ".join(f"{k} {v}" if k == "series" else f"{k} {v:.1f} s ({1000 * v / size:.1f} ms)" for k, v in row.items()), flush=True)  # type: ignore[operator,str-bytes-safe]
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    p.add_argument("--only", action="append", choices=[*forecast_data.DATA, *forecast_data.MADE], default=[], help="one of the data sets; again for more")
    p.add_argument("--budget", action="append", choices=list(BUDGETS), default=[])
    p.add_argument("--seed", type=int, default=17)
    p.add_argument("--series", type=int, metavar="N", help="how many series simulated data has")
    p.add_argument("--lightgbm-alone", action="store_true", help="leave statsforecast's models out, which take most of the time and know no promotions")
    p.add_argument("--growth", action="store_true", help="measure the cost of 100 to 10,000 series instead")
    p.add_argument("--sizes", default="100,1000,10000", help="with --growth: how many series")
    p.add_argument("--peers-up-to", type=int, default=100, help="with --growth: the largest size that the peers run on")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the numbers here as JSON")
    args = p.parse_args(argv)
    logs.configure()
    budgets = args.budget or ["balanced"]
    told: dict[str, object] = {}
    for name in args.only or list(forecast_data.DATA):
        data = forecast_data.MADE[name](**({"series": args.series} if args.series else {})) if name in forecast_data.MADE else forecast_data.DATA[name](args.data)
        if args.growth:
            told[name] = growth(data, [int(s) for s in args.sizes.split(",")], budgets, args.peers_up_to, args.seed)
        else:
            told[name] = report(data, run(data, budgets, args.seed, not args.lightgbm_alone), budgets, args.seed)
        if args.out:
            args.out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
