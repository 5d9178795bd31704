"""The model card (Mitchell et al. 2019), generated: what the model is, what it was made of, how good it is and where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightmarket.evaluate.markdown import table
from nightmarket.recommend.carried import told
from nightmarket.registry.candidate import Candidate

_METRICS = ("ndcg@10", "recall@20", "mrr", "hit_rate@10", "coverage@20", "novelty@20")


def card(shop: str, candidate: Candidate, evaluation: Mapping[str, Any], metric: str) -> str:
    """Markdown. `evaluation` is evaluation.json of the candidate (`nightmarket.evaluate.judge`)."""
    holdout, models = evaluation["holdout"], evaluation["models"]
    lines = [
        f"# {candidate.name} of {candidate.run_date}, {shop}",
        "",
        "Recommends products to known shoppers, and to strangers by country or to anyone. Two-tower and counting candidates, "
        "ranked by a multi-task network; trained nightly by Nightmarket.",
        "",
        "## Data",
        "",
        f"- Learnt from events before {candidate.cut}; recipe `{candidate.recipe}`, code `{candidate.code}`, seed {candidate.seed}.",
        f"- Judged on {holdout['shoppers']:,} shoppers who bought before {holdout['cut']} and again before {holdout['end']}; "
        f"{holdout['items']:,} items to choose from, all ranked. Holdout `{holdout['digest']}`.",
        *(f"- {i.name}: {i.rows if i.rows is not None else '?'} rows, `{i.digest}`" for i in candidate.inputs[:1]),
        f"- {max(0, len(candidate.inputs) - 1)} more inputs in inputs.json.",
        *(f"- From another shop: {line}" for line in told(candidate.training.get("transfer", {}))),
        *_student(candidate.training),
        "",
        "## Quality beside the champion and the baselines",
        "",
        "Mean over shoppers with its 95 % bootstrap interval. Higher is better.",
        "",
        *table(("model", *_METRICS), [
            (_name(name, model), *(_interval(model["slices"]["all"].get(m)) for m in _METRICS))
            for name, model in sorted(models.items(), key=lambda kv: -_value(kv[1]["slices"]["all"].get(metric)))
        ]),
        "",
        "## Behaviour heads",
        "",
        *_heads(evaluation.get("heads", {}).get("challenger", {})),
        "",
        *_together(candidate.training),
        f"## Slices ({metric})",
        "",
        *table(("slice", "shoppers", "challenger", "champion", "popularity"), [
            (name, f"{values[metric]['users']:,}" if metric in values else "", _interval(values.get(metric)),
             *(_interval(models.get(other, {}).get("slices", {}).get(name, {}).get(metric)) for other in ("champion", "popularity")))
            for name, values in sorted(models["challenger"]["slices"].items()) if name != "all"
        ]),
        "",
        "## Limits",
        "",
        "- Judged on shoppers who bought before and again; nothing is said of those who only look.",
        "- Offline: what was never shown cannot have been bought. Being better here is no proof of selling more.",
        "- Items first seen after the cut are counted, not learnt; strangers get what sells in their country.",
        "- Age and income are never features. Fairness is judged by country and length of history only.",
        f"- {_caution(models['challenger']['slices'], metric)}",
        "",
    ]
    return "\n".join(lines)


def _student(training: Mapping[str, Any]) -> list[str]:
    if "taught" in training:
        return ["- A student: taught by a larger model of an earlier night, and taught on by the newest days."]
    if "student" not in training:
        return []
    taught = training["student"]
    return [f"- It taught a student of {taught['weights']['student']:,} weights in its networks beside {taught['weights']['teacher']:,}; which of them is "
            "registered, and what that loses, is in compression.json."]


def _name(name: str, model: Mapping[str, Any]) -> str:
    return f"{name} (version {model['version']})" if model.get("version") else name


def _value(interval: Mapping[str, float] | None) -> float:
    return interval["value"] if interval else float("-inf")


def _interval(interval: Mapping[str, float] | None) -> str:
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""


def _heads(heads: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    if not heads:
        return ["None could be judged: the holdout shows too little behaviour."]
    names = sorted({m for task in heads.values() for m in task})
    return table(("behaviour", *names), [(task, *(_interval(values.get(n)) for n in names)) for task, values in sorted(heads.items())])


def _together(training: Mapping[str, Any]) -> list[str]:
    if not (tasks := training.get("second", {}).get("tasks")):
        return []
    apart = "that is more than chance, so the order and the behaviours have networks of their own" if tasks["separated"] else "they share one network"
    return [f"Learnt with the behaviours, the network's order reached NDCG@10 {tasks['order_together']:.4f} on the newest lists, alone "
            f"{tasks['order_alone']:.4f} (standard error of the difference {tasks['error']:.4f}): {apart}.", ""]


def _caution(slices: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str) -> str:
    parts = {name: values[metric]["value"] for name, values in slices.items() if name != "all" and metric in values}
    if not parts:
        return "No slice was large enough to judge."
    worst = min(parts, key=lambda name: (parts[name], name))
    return f"Weakest slice: {worst}, with {metric} {parts[worst]:.4f}."
