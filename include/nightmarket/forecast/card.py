"""The forecaster's model card: what it is, what it was made of, how good it is and where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightmarket.evaluate.markdown import table
from nightmarket.registry.candidate import Candidate

_METRICS = ("skill", "skill_rmsse", "skill_wape", "skill_interval", "mase_loss")


def card(shop: str, candidate: Candidate, evaluation: Mapping[str, Any], metric: str) -> str:
    """Markdown. `evaluation` is evaluation.json of the candidate (`nightmarket.forecast.judging`)."""
    holdout, models, told = evaluation["holdout"], evaluation["models"], candidate.training
    covered = sorted(m for m in models["challenger"]["slices"]["all"] if m.startswith("coverage@"))
    lines = [
        f"# {candidate.name} of {candidate.run_date}, {shop}", "",
        "Forecasts daily sales of items, categories, countries and the shop: exponential smoothing, regression, intermittent methods and "
        "boosted trees, combined by weights from backtests, with conformal intervals; made to add up when published.", "",
        "## Data", "",
        f"- Learnt from sales before {candidate.cut}; recipe `{candidate.recipe}`, code `{candidate.code}`, seed {candidate.seed}.",
        f"- {told.get('series', '?')} series over {told.get('days', '?')} days; {told.get('borrowing', '?')} items borrow from their category. "
        f"Why tonight: {told.get('why', 'kept')}.",
        *([f"- Diagnosis: {', '.join(f'{name} {count}' for name, count in told['diagnosis'].items())} series."] if told.get("diagnosis") else []),
        f"- Judged from {holdout['cut']} to {holdout['end']} on {holdout['series']} series. Holdout `{holdout['digest']}`.",
        *(f"- {i.name}: {i.rows if i.rows is not None else '?'} rows, `{i.digest}`" for i in candidate.inputs), "",
        "## Quality beside the champion and the baselines", "",
        "Skills are 1 - error / error of the seasonal naive forecast; mean over series with its 95 % bootstrap interval.", "",
        *table(("model", *_METRICS, *covered), [
            (name, *(_interval(model["slices"]["all"].get(m)) for m in (*_METRICS, *covered)))
            for name, model in sorted(models.items(), key=lambda kv: -kv[1]["slices"]["all"][metric]["value"])
        ]), "",
        f"## Slices ({metric})", "",
        *table(("slice", "series", "challenger", "champion"), [
            (name, str(values[metric]["users"]), _interval(values[metric]), _interval(models.get("champion", {}).get("slices", {}).get(name, {}).get(metric)))
            for name, values in sorted(models["challenger"]["slices"].items()) if name != "all" and metric in values
        ]), "",
        "## Weights", "",
        *table(("candidate", "mean weight"), [(name, f"{w:.3f}") for name, w in sorted(told.get("weights", {}).items(), key=lambda kv: -kv[1])]), "",
        "## Limits", "",
        "- Prices and promotions of the days ahead are not known to it; public holidays are.",
        "- Days without stock are unknown demand, not zero; what was never on sale cannot be learnt.",
        "- The point forecast of an item that sells rarely lies between its median and its mean; order by the quantiles.",
        *([f"- {len(told['quarantined'])} series failed and have a seasonal naive forecast."] if told.get("quarantined") else []), "",
    ]
    return "\n".join(lines)


def _interval(interval: Mapping[str, float] | None) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else ""
