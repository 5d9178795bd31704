"""The screener's model card (Mitchell et al. 2019), generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightmarket.evaluate.markdown import table

if TYPE_CHECKING:
    from nightmarket.registry.candidate import Candidate

_METRICS = ("average_precision", "precision_at_capacity", "recall_at_capacity")


def card(shop: str, candidate: Candidate, evaluation: Mapping[str, Any], metric: str) -> str:
    """Markdown. `evaluation` is evaluation.json of the candidate (`nightmarket.screen.judging`)."""
    holdout, models = evaluation["holdout"], evaluation["models"]
    by_name = sorted(models, key=lambda n: (-models[n]["slices"]["all"][metric]["value"], n))
    kinds = sorted(s for s in models["challenger"]["slices"] if s != "all")
    learned = candidate.training.get("kinds", {})
    return "\n".join([
        f"# {candidate.name} of {candidate.run_date}, {shop}", "",
        "Scores orders, accounts, reviews and products' days for fraud. Where verdicts are known: a stack of boosted trees, a linear model and a "
        "reader of texts, calibrated. Elsewhere: strangeness, which sends to review and blocks nothing.", "",
        "## Data", "",
        f"- Judged as learned before {candidate.cut}; serves as learned from all that was known by {candidate.end}.",
        f"- Recipe `{candidate.recipe}`, code `{candidate.code}`, seed {candidate.seed}. Holdout `{holdout['digest']}`, judged by {holdout['judged_by']}.",
        *(f"- {k}: {said['rows']:,} rows judged, {said['bad']:,} bad." for k, said in sorted(holdout["kinds"].items())),
        *(f"- {k}: learned from {said['kind']}" + (f", {said['bad']:,} bad and {said['good']:,} good" if "bad" in said else "") + "." for k, said in sorted(learned.items())),
        "", "## Quality beside the champion and the baselines", "", "Mean over the kinds with its 95 % interval over rows. Higher is better.", "",
        *table(("model", *_METRICS), [(n, *(_interval(models[n]["slices"]["all"].get(m)) for m in _METRICS)) for n in by_name]), "",
        f"## Kinds ({metric})", "",
        *table(("kind", "rows", *by_name), [(s.removeprefix("kind="), f"{models['challenger']['slices'][s][metric]['users']:,}",
                                             *(_interval(models[n]["slices"].get(s, {}).get(metric)) for n in by_name)) for s in kinds]), "",
        "## Limits", "",
        "- Judged on rows whose verdicts are known; who decides what is looked at decides what is known.",
        "- Planted rows, where there are no verdicts, show that the screener works, not how much fraud it finds.",
        "- Age and income are never features.", "",
    ])


def _interval(interval: Mapping[str, float] | None) -> str:
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""
