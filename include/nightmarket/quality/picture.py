"""The trend of the last nights as a picture. Labels are dataset names, dates and numbers: no language, no missing glyph."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

CLEAN, QUARANTINED = "#2563eb", "#ea580c"
VERDICT = {"passed": ("#15803d", "o"), "warned": ("#b45309", "^"), "refused": ("#b91c1c", "s")}
"""Colour and shape: either alone tells them apart."""


@dataclass(frozen=True)
class NightRows:
    """One night of one dataset."""

    night: date
    clean: int
    quarantined: int


def trend(nights: Sequence[date], series: Mapping[str, Sequence[NightRows | None]], verdicts: Mapping[date, str]) -> bytes:
    """PNG, 1160 pixels wide, shown at half of that: a panel of bars a dataset, the night's verdict below the bars.

    `series` has one entry a night, None where nothing was published.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    height = 0.45 + 1.25 * len(series)
    figure = Figure(figsize=(5.8, height), dpi=200, facecolor="white")
    axes = figure.subplots(len(series), 1, squeeze=False, sharex=True)[:, 0]
    places = range(len(nights))
    for axis, (name, rows) in zip(axes, series.items(), strict=True):
        clean = [row.clean if row else 0 for row in rows]
        bad = [row.quarantined if row else 0 for row in rows]
        axis.bar(places, clean, color=CLEAN, width=0.72)
        axis.bar(places, bad, bottom=clean, color=QUARANTINED, width=0.72)
        top = max([c + b for c, b in zip(clean, bad, strict=True)] + [1])
        axis.set_ylim(-0.17 * top, 1.08 * top)
        for place, night in enumerate(nights):
            if night in verdicts:
                colour, mark = VERDICT[verdicts[night]]
                axis.plot(place, -0.09 * top, mark, color=colour, markersize=3.6, clip_on=False)
        axis.axhline(0, color="#9ca3af", linewidth=0.6)
        axis.set_title(name, loc="left", fontsize=8, fontweight="bold", color="#111827", pad=3)
        axis.yaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=2))
        axis.yaxis.set_major_formatter(FuncFormatter(_short))
        axis.tick_params(axis="both", labelsize=6.5, colors="#374151", length=0)
        axis.grid(axis="y", color="#e5e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in axis.spines.values():
            side.set_visible(False)
    shown = list(range(len(nights) - 1, -1, -5))[::-1]
    axes[-1].set_xticks(shown, [f"{nights[i]:%m-%d}" for i in shown])
    axes[-1].set_xlim(-0.7, len(nights) - 0.3)
    figure.subplots_adjust(left=0.085, right=0.99, top=1 - 0.22 / height, bottom=0.24 / height, hspace=0.42)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})  # the same rows give the same bytes
    return out.getvalue()


def _short(value: float, _: object) -> str:
    """1200 -> 1.2k; nothing below the axis, where the verdicts are."""
    if value < 0:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
