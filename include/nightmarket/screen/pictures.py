"""Pictures for the risk owner, as PNG files: what the score finds, what each threshold costs, why rows were stopped, and one ring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket.screen.decisions import Costs

_BLUE, _GREY, _ORANGE, _RED, _INK = "#1f5fa8", "#9aa5b1", "#d9822b", "#b3392f", "#243447"
_PALETTE = (_BLUE, _ORANGE, "#5b8c5a", "#7a5195", "#8c6d46", "#4c9a9a")


def precision_recall(path: Path, label: np.ndarray, scores: dict[str, np.ndarray], title: str) -> Path:
    """Curves of (n,) scores against (n,) 1/0 labels; the first is ours."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    def draw(axis: Any) -> None:
        for i, (name, score) in enumerate(scores.items()):
            precision, recall, _ = precision_recall_curve(label, score)
            axis.plot(recall, precision, color=_BLUE if i == 0 else _PALETTE[1 + (i - 1) % 5], linewidth=2 if i == 0 else 1.2,
                      label=f"{name}  AP {average_precision_score(label, score):.3f}")
        axis.axhline(label.mean(), color=_GREY, linewidth=0.8, linestyle=":", label=f"by chance  {label.mean():.3f}")
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title(title, loc="left", fontsize=11)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))

    return _saved(path, draw, (7.5, 4.2))


def cost_curve(path: Path, label: np.ndarray, probability: np.ndarray, costs: Costs, threshold: float, title: str) -> Path:
    """Cost per thousand rows of reviewing from each threshold on: missed fraud, reviews, and their sum; the chosen one is marked."""
    order = np.argsort(-probability, kind="stable")
    reviewed = np.arange(len(order) + 1)
    missed = label.sum() - np.concatenate([[0], np.cumsum(label[order])])
    edge = np.concatenate([[1.0], probability[order]])
    scale = 1000 / max(len(label), 1)

    def draw(axis: Any) -> None:
        axis.plot(edge, missed * costs.missed * scale, color=_RED, linewidth=1.2, label="missed fraud")
        axis.plot(edge, reviewed * costs.review * scale, color=_ORANGE, linewidth=1.2, label="reviews")
        total = (missed * costs.missed + reviewed * costs.review) * scale
        axis.plot(edge, total, color=_BLUE, linewidth=2, label="both")
        axis.axvline(threshold, color=_INK, linewidth=1, linestyle="--", label=f"threshold {threshold:.3f}")
        shown = edge >= max(float(edge[edge > 0].min(initial=1e-6)), 1e-6)
        axis.set(xscale="log", xlabel="reviewed from this probability on", ylabel="cost per thousand rows", xlim=(edge[shown].min(), 1))
        axis.set_ylim(0, max(float(total[0]), float(costs.missed * label.sum() * scale)) * 1.5 + 1e-9)
        axis.set_title(title, loc="left", fontsize=11)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))

    return _saved(path, draw, (7.5, 4.2))


def alerts_by_reason(path: Path, days: Sequence[str], reasons: Sequence[str], title: str, most: int = 6) -> Path:
    """Stacked bars: alerts a day by their first reason. `days` and `reasons` have one entry an alert."""
    common = [r for r, _ in Counter(reasons).most_common(most)]
    axis_days = sorted(set(days))
    places = {d: i for i, d in enumerate(axis_days)}
    heights = np.zeros((len(common) + 1, len(axis_days)))
    for day, reason in zip(days, reasons, strict=True):
        heights[common.index(reason) if reason in common else len(common), places[day]] += 1

    def draw(axis: Any) -> None:
        base = np.zeros(len(axis_days))
        for i, name in enumerate([*common, "other reasons"]):
            if heights[i].any():
                axis.bar(range(len(axis_days)), heights[i], bottom=base, color=_GREY if i == len(common) else _PALETTE[i % 6], label=name, width=0.75)
                base += heights[i]
        step = max(len(axis_days) // 10, 1)
        axis.set_xticks(range(0, len(axis_days), step), axis_days[::step], rotation=30, ha="right")
        axis.set_ylabel("alerts")
        axis.set_title(title, loc="left", fontsize=11)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))

    return _saved(path, draw, (8.5, 3.8))


def ring(path: Path, edges: Iterable[tuple[str, str]], kinds: dict[str, str], bad: Iterable[str], title: str) -> Path:
    """The graph of a case: nodes coloured by `kinds`, known bad ones ringed in red. Laid out by stress of the graph's distances."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import shortest_path

    pairs = list(dict.fromkeys(edges))
    nodes = list(dict.fromkeys(n for e in pairs for n in e))
    place = {n: i for i, n in enumerate(nodes)}
    left, right = np.array([place[a] for a, _ in pairs], int), np.array([place[b] for _, b in pairs], int)
    links = coo_matrix((np.ones(len(pairs)), (left, right)), shape=(len(nodes), len(nodes)))
    far = shortest_path(links, directed=False, unweighted=True)
    far[~np.isfinite(far)] = min(6.0, float(np.nanmax(np.where(np.isfinite(far), far, 0), initial=1)) + 2)
    at = _laid_out(far)
    wrong = set(bad)

    def draw(axis: Any) -> None:
        for a, b in zip(left, right, strict=True):
            axis.plot(at[[a, b], 0], at[[a, b], 1], color=_GREY, linewidth=0.8, zorder=1)
        names = sorted({kinds.get(n, "other") for n in nodes})
        for i, name in enumerate(names):
            mine = [k for k, n in enumerate(nodes) if kinds.get(n, "other") == name]
            axis.scatter(at[mine, 0], at[mine, 1], s=70, color=_PALETTE[i % 6], label=name, zorder=2,
                         edgecolors=[_RED if nodes[k] in wrong else "white" for k in mine], linewidths=[2.2 if nodes[k] in wrong else 0.8 for k in mine])
        if wrong:
            axis.scatter([], [], s=70, color="white", edgecolors=_RED, linewidths=2.2, label="known bad")
        if len(nodes) <= 30:
            for k, n in enumerate(nodes):
                axis.annotate(n, at[k], xytext=(6, 5), textcoords="offset points", fontsize=7)
        axis.set_aspect("equal")
        axis.margins(0.12)
        axis.axis("off")
        axis.set_title(title, loc="left", fontsize=11)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))

    return _saved(path, draw, (7.5, 5.5))


def _laid_out(far: np.ndarray, rounds: int = 150) -> np.ndarray:
    """(n, 2) places whose distances are near the graph's: stress majorisation (Gansner, Koren and North, 2004) from a circle."""
    n = len(far)
    angle = 2 * np.pi * np.arange(n) / max(n, 1)
    at = np.column_stack([np.cos(angle), np.sin(angle)]) * (0.5 + 0.1 * np.arange(n)[:, None] / max(n, 1)) * max(float(far.max(initial=1)), 1)
    weight = 1 / np.maximum(far, 0.5) ** 2
    np.fill_diagonal(weight, 0)
    for _ in range(rounds):
        apart = at[:, None] - at[None]
        distance = np.sqrt((apart**2).sum(-1)) + 1e-9
        pull = at[None] + far[..., None] * apart / distance[..., None]
        at = (weight[..., None] * pull).sum(1) / np.maximum(weight.sum(1), 1e-9)[:, None]
    return np.asarray(at)


def _saved(path: Path, draw: Any, size: tuple[float, float]) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": _INK, "text.color": _INK,
                         "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK}):
        figure, axis = plt.subplots(figsize=size)
        draw(axis)
        # without metadata: the same picture is the same bytes
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    return path
