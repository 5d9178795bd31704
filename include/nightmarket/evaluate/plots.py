"""Pictures of an evaluation, as PNG files. One idea a picture; the challenger is always the same blue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket.evaluate import heads
from nightmarket.evaluate.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Table = Mapping[str, Mapping[str, Mapping[str, Interval]]]
_BLUE, _GREY, _ORANGE, _INK = "#1f5fa8", "#9aa5b1", "#d9822b", "#243447"
_TASK_COLOURS = {"view": "#5b8c5a", "cart": _ORANGE, "purchase": _BLUE, "return": "#a34a5c", "next_category": "#7a6aa0"}
_SHOWN = ("ndcg@10", "recall@20", "mrr", "hit_rate@10", "coverage@20", "novelty@20")
_NAMES = {
    "challenger": "challenger", "champion": "champion", "personal_frequency": "personal frequency", "item_item": "item-item cosine",
    "recent_popularity": "recent popularity", "popularity": "popularity",
}


def draw(
    folder: Path, title: str, table: Table, differences: Table, pairs: Mapping[str, Mapping[str, heads.Pairs]], head_table: Table,
    thresholds: Mapping[str, Mapping[str, float]],
) -> list[Path]:
    """Draws all pictures into `folder`; returns their paths. `thresholds`: by model and behaviour, from where on it is said to happen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": _INK,
                         "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK}):

        def save(figure: Any, name: str) -> None:
            path = folder / f"{name}.png"
            # without metadata: the same picture is the same bytes
            figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            made.append(path)

        save(_models(plt, title, table), "models")
        if differences:
            save(_differences(plt, title, differences), "differences")
        save(_slices(plt, title, table), "slices")
        for model, tasks in pairs.items():
            shown = {t: p for t, p in tasks.items() if t in head_table.get(model, {})}
            if shown:
                save(_curves(plt, f"{title}: {model}", shown, head_table[model]), f"heads_{model}")
                save(_confusion(plt, f"{title}: {model}", shown, thresholds[model]), f"confusion_{model}")
    return made


def _models(plt: Any, title: str, table: Table) -> Any:
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), sharey=True)
    names = sorted(table, key=lambda n: table[n]["all"]["ndcg@10"].value)
    for axis, metric in zip(axes.flat, _SHOWN, strict=True):
        for y, name in enumerate(names):
            _bar(axis, y, table[name]["all"][metric], _colour(name))
        axis.set_title(metric, fontsize=10, loc="left")
        axis.set_yticks(range(len(names)), [_NAMES.get(n, n) for n in names])
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
    figure.suptitle(f"{title}: models on the frozen holdout, 95 % intervals", x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _differences(plt: Any, title: str, differences: Table) -> Any:
    names = sorted(differences, key=lambda n: -differences[n]["all"]["ndcg@10"].value)
    figure, axis = plt.subplots(figsize=(7.5, 0.9 + 0.5 * len(names)))
    for y, name in enumerate(names):
        found = differences[name]["all"]["ndcg@10"]
        axis.errorbar(found.value, y, xerr=[[found.value - found.low], [found.high - found.value]], fmt="o", color=_BLUE, capsize=3)
        axis.annotate(f"{found.value:+.3f}", (found.high, y), xytext=(6, 0), textcoords="offset points", va="center")
    axis.axvline(0, color=_INK, linewidth=0.8)
    axis.set_yticks(range(len(names)), [f"minus {_NAMES.get(n, n)}" for n in names])
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.margins(x=0.15)
    axis.set_xlabel("difference in ndcg@10, same shoppers, 95 % interval")
    axis.set_title(f"{title}: challenger against each", loc="left", fontsize=11)
    return figure


def _slices(plt: Any, title: str, table: Table) -> Any:
    first = "challenger" if "challenger" in table else next(iter(table))
    shown = list(table[first])
    others = [n for n in ("champion", "personal_frequency") if n in table and n != first]
    figure, axis = plt.subplots(figsize=(8, 1.0 + 0.42 * len(shown)))
    for y, label in enumerate(reversed(shown)):
        found = table[first][label]["ndcg@10"]
        _bar(axis, y, found, _BLUE)
        for other, mark in zip(others, ("D", "o"), strict=False):
            axis.plot(table[other][label]["ndcg@10"].value, y, mark, color=_ORANGE if other == "champion" else _INK, markersize=5,
                      label=_NAMES[other] if y == 0 else None, zorder=3)
    axis.set_yticks(range(len(shown)), [f"{s} ({table[first][s]['ndcg@10'].users})" for s in reversed(shown)])
    axis.set_xlabel("ndcg@10, 95 % interval; shoppers in brackets")
    axis.set_title(f"{title}: {first} by slice", loc="left", fontsize=11)
    if others:
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _curves(plt: Any, title: str, pairs: Mapping[str, heads.Pairs], measured: Mapping[str, Mapping[str, Interval]]) -> Any:
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (roc, curve, reliable) = plt.subplots(1, 3, figsize=(12, 4))
    for task, p in pairs.items():
        colour = _TASK_COLOURS[task]
        wrong, right, _ = roc_curve(p.did, p.probability)
        roc.plot(wrong, right, color=colour, label=f"{task}  AUC {measured[task]['roc_auc'].value:.3f}")
        precision, recall, _ = precision_recall_curve(p.did, p.probability)
        curve.plot(recall, precision, color=colour, label=f"{task}  AP {measured[task]['average_precision'].value:.3f}")
        curve.axhline(p.did.mean(), color=colour, linewidth=0.8, linestyle=":")
        said, seen, _, loss = heads.calibration(p)
        above = (said > 0) & (seen > 0)
        reliable.plot(said[above], seen[above], "o-", color=colour, markersize=4, label=f"{task}  error {loss:.4f}")
    roc.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
    _square(roc, "false positive rate", "true positive rate", "ROC", "lower right")
    _square(curve, "recall", "precision", "precision and recall (dotted: by chance)", "upper right")
    reliable.set_xscale("log")
    reliable.set_yscale("log")
    ends = [min(reliable.get_xlim()[0], reliable.get_ylim()[0]), 1.0]
    reliable.plot(ends, ends, color=_GREY, linewidth=0.8, linestyle=":")
    _square(reliable, "probability said", "share seen", "calibration, bins of equal size", "upper left")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _confusion(plt: Any, title: str, pairs: Mapping[str, heads.Pairs], thresholds: Mapping[str, float]) -> Any:
    """Of each behaviour, counts of said and seen; the darker, the larger a share of what was seen."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(0.6 + 3.4 * len(pairs), 3.2), squeeze=False)
    for axis, (task, p) in zip(axes[0], pairs.items(), strict=True):
        c = heads.confusion(p, thresholds[task])
        rows = [[c["tp"], c["fn"]], [c["fp"], c["tn"]]]
        axis.imshow([[v / max(sum(row), 1) for v in row] for row in rows], cmap="Blues", vmin=0.0, vmax=1.6)
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                axis.annotate(f"{value:,}\n{value / max(sum(row), 1):.1%}", (x, y), ha="center", va="center")
        axis.set_xticks([0, 1], ["said", "not said"])
        axis.set_yticks([0, 1], ["did", "did not"])
        axis.set_title(f"{task}, from {thresholds[task]:.3f} on", loc="left", fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _square(axis: Axes, x: str, y: str, title: str, legend: Any) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title, loc="left", fontsize=10)
    axis.legend(frameon=False, loc=legend)


def _bar(axis: Axes, y: float, found: Interval, colour: str) -> None:
    axis.barh(y, found.value, color=colour, height=0.62)
    axis.errorbar(found.value, y, xerr=[[max(found.value - found.low, 0)], [max(found.high - found.value, 0)]], fmt="none",
                  ecolor=_INK, elinewidth=0.9, capsize=2.5)
    axis.annotate(f"{found.value:.3f}" if abs(found.value) < 10 else f"{found.value:.1f}", (max(found.high, found.value), y), xytext=(4, 0),
                  textcoords="offset points", va="center", fontsize=8)


def _colour(name: str) -> str:
    return {"challenger": _BLUE, "champion": _ORANGE}.get(name, _GREY)
