"""Pictures of forecasts as PNG bytes, for reports and mail. One idea a picture; forecasts are always the same blue."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nightmarket.forecast.diagnosis import decompose
from nightmarket.forecast.forecaster import Forecast
from nightmarket.forecast.intervals import at_origin
from nightmarket.forecast.series import Panel

_BLUE, _GREY, _ORANGE, _INK = "#1f5fa8", "#9aa5b1", "#d9822b", "#243447"
_STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": _INK, "text.color": _INK,
          "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.titlelocation": "left", "axes.titlesize": 10}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **more)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})  # the same numbers give the same bytes
    return out.getvalue()


def _dates(axis: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def decomposition(panel: Panel, row: int) -> bytes:
    """History of one series, its trend, its seasons and what is left. Raises ValueError below two seasons."""
    y = panel.y[row]
    parts = decompose(y, panel.freq)
    shown: list[tuple[str, np.ndarray, str]] = [("sales", y, _INK), (f"trend (strength {parts.trend_strength:.2f})", parts.trend, _BLUE)]
    shown += [(f"season of {p} periods (strength {parts.season_strength[p]:.2f})", s, _BLUE) for p, s in parts.seasons.items()]
    shown += [("what is left", parts.remainder, _ORANGE)]
    figure, axes = _figure(9, 1.5 * len(shown), len(shown), 1, sharex=True)
    dates = panel.dates()[row, : panel.length]
    for axis, (title, values, colour) in zip(axes[:, 0], shown, strict=True):
        if title == "what is left":
            axis.axhline(0, color=_GREY, linewidth=0.7)
            axis.plot(dates, values, ".", color=colour, markersize=2.5)
        else:
            axis.plot(dates, values, color=colour, linewidth=1.0)
        axis.set_title(title)
    _dates(axes[-1, 0])
    figure.suptitle(str(panel.ids[row]), fontweight="bold", fontsize=11, x=0.01, ha="left")
    return _png(figure)


def fan_chart(panel: Panel, made: Forecast, row: int, origins: int = 3) -> bytes:
    """Recent history of one series with the intervals that backtests gave for it, and the forecast."""
    test = made.backtest
    horizon = panel.horizon
    chosen: list[int] = []  # newest first, not overlapping
    for j in reversed(range(len(test.origins) - 1)):
        if not chosen or test.origins[j] + horizon <= test.origins[chosen[-1]]:
            chosen.append(j)
    chosen = chosen[: origins - 1] if len(chosen) >= origins else chosen
    figure, axes = _figure(9, 3.4)
    axis = axes[0, 0]
    dates = panel.dates()[row]
    first = max(0, int(test.origins[chosen[-1]] if chosen else panel.length) - 2 * horizon)
    axis.plot(dates[first : panel.length], panel.y[row, first:], color=_INK, linewidth=1.0, label="sales")
    nonnegative = np.nanmin(panel.y, axis=1) >= 0
    for place, j in enumerate([*chosen[::-1], len(test.origins) - 1]):
        last = j == len(test.origins) - 1
        bounds = made.bounds if last else at_origin(test, made.combined, tuple(made.bounds), nonnegative, j)
        start = int(test.origins[j])
        at = dates[start : start + horizon]
        for level in sorted(bounds, reverse=True):
            low, high = bounds[level]
            axis.fill_between(at, low[row], high[row], color=_BLUE, alpha=0.16 if level >= 90 else 0.28, linewidth=0,
                              label=f"{level} %" if place == 0 else None)
        axis.plot(at, made.combined[j, row], color=_BLUE, linewidth=1.4, label="forecast" if place == 0 else None)
        axis.axvline(at[0], color=_GREY, linewidth=0.7, linestyle=":")
    _dates(axis)
    axis.set_title(f"{panel.ids[row]}: {made.model[row]}", fontsize=9)
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="upper left")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.15 * (high - low))
    return _png(figure)


def errors_by_horizon(models: Mapping[str, np.ndarray], series: int) -> bytes:
    """Mean absolute scaled error (H,) of each judged model by days ahead; the challenger is the thick one."""
    colours = {"challenger": (_BLUE, 2.0), "champion": (_INK, 1.4), "seasonal_naive": (_ORANGE, 1.0)}
    lines = [(name.replace("_", " "), values, *colours.get(name, (_GREY, 1.0))) for name, values in models.items()]
    return _by_horizon(lines, f"Error by days ahead, {series} series")


def _by_horizon(lines: Sequence[tuple[str, np.ndarray, str, float]], title: str) -> bytes:
    figure, axes = _figure(7, 3.4)
    axis = axes[0, 0]
    top = 0.0
    for name, by, colour, width in lines:
        axis.plot(np.arange(1, len(by) + 1), by, color=colour, linewidth=width, label=name, marker="o" if len(by) <= 14 else None, markersize=3)
        top = max(top, float(np.nanmax(by)) if np.isfinite(by).any() else 0.0)
    axis.set_xlabel("periods ahead")
    axis.set_ylabel("error / seasonal difference")
    axis.set_ylim(0, 1.25 * top if top > 0 else 1)
    axis.set_title(title)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
    return _png(figure)


def surprises(panel: Panel, mean: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], actual: np.ndarray, most: int = 10,
              names: Sequence[str] | None = None) -> bytes:
    """The series whose sums over the (n, seen) `actual` lay farthest outside what was forecast, in half-widths of the interval."""
    seen = actual.shape[1]
    known = np.isfinite(actual)
    expected = np.where(known, mean[:, :seen], 0.0).sum(axis=1)
    came = np.where(known, actual, 0.0).sum(axis=1)
    # errors of a week partly cancel: the interval of a sum lies between the root of summed squares and the sum
    half = np.where(known, (bounds[1] - bounds[0])[:, :seen] / 2, 0.0)
    wide = np.sqrt(half.sum(axis=1) * np.sqrt((half**2).sum(axis=1)))
    score = np.where(wide > 0, (came - expected) / np.where(wide > 0, wide, 1.0), 0.0)
    order = np.argsort(-np.abs(score), kind="stable")[:most][::-1]
    labels = [str(panel.ids[i]) if names is None else names[i] for i in order]
    figure, axes = _figure(8, 0.9 + 0.32 * len(order))
    axis = axes[0, 0]
    places = np.arange(len(order))
    axis.barh(places, score[order], color=[_ORANGE if score[i] < 0 else _BLUE for i in order], height=0.66)
    for place, i in zip(places, order, strict=True):
        right = score[i] >= 0
        axis.annotate(f"{came[i]:,.0f} instead of {expected[i]:,.0f}", (score[i], place), xytext=(4 if right else -4, 0), textcoords="offset points",
                      va="center", ha="left" if right else "right", fontsize=8)
    axis.axvline(0, color=_INK, linewidth=0.8)
    axis.set_yticks(places, [label if len(label) <= 34 else label[:33] + "…" for label in labels])
    reach = max(1.0, float(np.abs(score[order]).max(initial=0.0)))
    axis.set_xlim(-1.7 * reach if (score[order] < 0).any() else -0.1 * reach, 1.7 * reach if (score[order] > 0).any() else 0.1 * reach)
    axis.set_xlabel("beyond the forecast, in half-widths of its interval")
    axis.set_title("Surprises of the week")
    return _png(figure)


