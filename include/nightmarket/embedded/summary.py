"""What came of a night, for a person: everything is read back from the lake and the ledger, nothing is remembered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from nightmarket.contracts import (
    BRONZE,
    EVALUATION,
    FORECAST_EVALUATION,
    FORECASTS,
    QUALITY,
    RECOMMENDATIONS,
    SCREENED,
    SCREENING_DECISIONS,
    SILVER,
    Dataset,
)
from nightmarket.embedded.airflow import state
from nightmarket.embedded.night import Account
from nightmarket.lake import Lake, Manifest, days
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings

_PEAK = re.compile(r"peak_memory_mb=(\d+)")


def text(settings: Settings, account: Account, spark_mb: float | None = None) -> str:
    """The whole summary. `spark_mb`: peak memory of the Spark server that the steps shared."""
    lake = Lake(settings.places.lake)
    night = account.choice.run_date
    nights = days(account.choice.from_date, night)
    verdict = "done" if account.succeeded else "FAILED"
    span = f"{nights[0]} to {night}" if len(nights) > 1 else f"{night}"
    parts = [
        f"\n{settings.shop.title or settings.shop.shop}: night of {span}: {verdict} in {_clock(account.seconds)}",
        rows(lake, nights),
        gate(lake, night),
        models(lake, night),
        promotion(settings, night),
        published(lake, night),
        forecasts(settings, lake, night),
        screening(lake, night),
        steps(settings, account, spark_mb),
        places(settings, night),
    ]
    if not account.succeeded:
        parts.append(trouble(settings, account))
    return "\n\n".join(p for p in parts if p) + "\n"


def rows(lake: Lake, nights: Sequence[date]) -> str:
    """Rows delivered, typed, clean and quarantined by reason, by entity, over the nights."""
    table = [("rows", "delivered", "typed", "clean", "quarantined, by reason")]
    for raw, clean in zip(BRONZE, SILVER, strict=True):
        typed, cleaned = _manifests(lake, raw, nights), _manifests(lake, clean, nights)
        if not typed:
            continue
        reasons: dict[str, int] = {}
        for made in [*typed, *cleaned]:
            for reason, count in made.quarantined.items():
                reasons[reason] = reasons.get(reason, 0) + count
        told = ", ".join(f"{n:,} {r}" for r, n in sorted(reasons.items(), key=lambda e: -e[1])) or "none"
        table.append((raw.name, f"{sum(m.rows_in for m in typed):,}", f"{sum(m.rows_out for m in typed):,}",
                      f"{sum(m.rows_out for m in cleaned):,}", told))
    return _table(table) if len(table) > 1 else ""


def gate(lake: Lake, night: date) -> str:
    """The verdict, counts by severity, and what failed."""
    made = lake.manifest(QUALITY, night)
    if made is None:
        return "gate    not judged"
    lines = [f"gate    {made.notes['verdict']}"]
    found = lake.at(QUALITY, night).arrow(["dataset", "expectation", "column", "severity", "success", "observed", "expected"])
    failed = [r for r in found.to_pylist() if not r["success"]]
    lines[0] += f"    {found.num_rows - len(failed)} of {found.num_rows} expectations held"
    order = {"critical": 0, "warning": 1, "info": 2}
    for r in sorted(failed, key=lambda r: order[r["severity"]])[:12]:
        where = f"{r['dataset']}.{r['column']}" if r["column"] else r["dataset"]
        lines.append(f"  {r['severity']:<9} {where}: {r['expectation']}: observed {r['observed']}, expected {r['expected']}")
    return "\n".join(lines)


def models(lake: Lake, night: date) -> str:
    """Every model and baseline judged that night, with 95 % intervals, best first."""
    if lake.manifest(EVALUATION, night) is None:
        return ""
    found = [r for r in lake.at(EVALUATION, night).arrow().to_pylist() if r["slice"] == "all"]
    metrics = [m for m in ("ndcg@10", "recall@20", "mrr", "hit_rate@10", "coverage@20") if any(r["metric"] == m for r in found)]
    by_model: dict[str, dict[str, dict[str, Any]]] = {}
    for r in found:
        by_model.setdefault(r["model"], {})[r["metric"]] = r
    lead = metrics[0] if metrics else ""
    ranked = sorted(by_model, key=lambda m: -by_model[m].get(lead, {"value": 0})["value"])
    table = [("model", *metrics)]
    for name in ranked:
        if any(m in by_model[name] for m in metrics):
            table.append((name, *(_measure(by_model[name].get(m)) for m in metrics)))
    heads = sorted((r["metric"], r) for r in found if r["model"] == "challenger" and r["metric"].endswith("_roc_auc"))
    behaviour = ", ".join(f"{m.removesuffix('_roc_auc')} {_measure(r)}" for m, r in heads)
    return _table(table) + (f"\nROC AUC of the behaviour heads: {behaviour}" if behaviour else "")


def promotion(settings: Settings, night: date) -> str:
    """Who serves now, and the night's moves of aliases with their reasons."""
    path = settings.places.mlflow / "ledger.db"
    if not path.exists():
        return ""
    ledger, name = Ledger(path), settings.shop.model.name
    champion = ledger.current(name, "champion")
    lines = [f"champion    {name} version {champion}" if champion else "champion    none: nothing may serve yet"]
    for move in ledger.history(name)[-3:]:
        lines.append(f"  {move.alias}: {move.from_version or 'nobody'} -> {move.to_version or 'nobody'}: {move.why}")
    return "\n".join(lines)


def published(lake: Lake, night: date) -> str:
    made = lake.manifest(RECOMMENDATIONS, night)
    if made is None:
        newest = lake.dates(RECOMMENDATIONS)
        return f"published    nothing tonight; the publication of {newest[-1]} keeps serving" if newest else ""
    return f"published    {made.rows_out:,} recommendations"


def forecasts(settings: Settings, lake: Lake, night: date) -> str:
    """What the night forecast, by whom and how good it is beside saying last week again."""
    made, judged = lake.manifest(FORECASTS, night), lake.manifest(FORECAST_EVALUATION, night)
    if made is None:
        return ""
    said = made.notes
    lines = [f"forecasts    {made.rows_out:,} of {said['horizon']} days by {settings.shop.forecast.name} version {said['model_version']} ({said['how']})"]
    if judged is not None:
        found = {r["model"]: r for r in lake.at(FORECAST_EVALUATION, night).arrow().to_pylist() if (r["slice"], r["metric"]) == ("all", "skill")}
        lines.append("  skill over the seasonal naive forecast: " + ", ".join(
            f"{name} {_measure(found[name])}" for name in sorted(found, key=lambda n: -found[n]["value"])))
    return "\n".join(lines)


def screening(lake: Lake, night: date) -> str:
    """What the night screened and what was decided, by kind."""
    made = lake.manifest(SCREENING_DECISIONS, night)
    if made is None:
        return ""
    table: list[tuple[str, ...]] = [("screened", "allow", "review", "block")]
    counts = made.notes["counts"]
    for kind in SCREENED:
        found = [counts.get(f"{kind} {decision}", 0) for decision in ("allow", "review", "block")]
        if any(found):
            table.append((kind, *(f"{n:,}" for n in found)))
    return _table(table) if len(table) > 1 else "screened    nothing came in"


def steps(settings: Settings, account: Account, spark_mb: float | None = None) -> str:
    """Seconds and peak memory of each step, as its own last log line has it."""
    table = [("step", "state", "seconds", "peak memory")]
    dag = None
    for task in account.tasks:
        run_id = account.runs[task.dag][0]
        if task.dag != dag:
            dag = task.dag
            table.append((dag, "", "", ""))
        peak = peak_memory(task_log(settings, task.dag, run_id, task.name, task.tries))
        table.append((f"  {task.name}", task.state, f"{task.seconds:.1f}", f"{peak} MB" if peak else ""))
    if spark_mb:
        table.append(("spark", "shared", "", f"{spark_mb:.0f} MB"))
    return _table(table) if len(table) > 1 else ""


def places(settings: Settings, night: date) -> str:
    """Where a person finds the rest."""
    p = settings.places
    found = [
        ("reports", p.reports / "quality" / night.isoformat() / "index.html"), ("data docs", p.reports / "data_docs" / "index.html"),
        ("mails", p.mailbox / "index.html"), ("decision", p.reports / "models" / night.isoformat()),
        ("plots", p.work / "models" / settings.shop.model.name / night.isoformat() / "evaluation" / "plots"), ("lake", p.lake), ("logs", p.logs),
    ]
    lines = [f"  {what:<10} {path}" for what, path in found if path.exists()]
    return "\n".join(["where", *lines, "  pages      `make up` opens Airflow and MLflow"])


def trouble(settings: Settings, account: Account) -> str:
    """What went wrong: the last lines of each failed task's log."""
    lines = ["what went wrong"]
    if account.trouble:
        lines.append(f"  {account.trouble}")
    for task in account.tasks:
        if task.state == "failed":
            log = task_log(settings, task.dag, account.runs[task.dag][0], task.name, task.tries)
            lines.append(f"  {task.dag}.{task.name}, full log {log}")
            lines += [f"    {line}" for line in last_words(log)]
    return "\n".join(lines)


def task_log(settings: Settings, dag: str, run_id: str, task: str, attempt: int) -> Path:
    return state(settings) / "logs" / f"dag_id={dag}" / f"run_id={run_id}" / f"task_id={task}" / f"attempt={attempt}.log"


def peak_memory(log: Path) -> int | None:
    if not log.exists():
        return None
    found = _PEAK.findall(log.read_text(errors="replace"))
    return int(found[-1]) if found else None


def last_words(log: Path, lines: int = 8) -> list[str]:
    """The last lines that the job itself wrote, out of Airflow's structured log."""
    if not log.exists():
        return ["(no log)"]
    said = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that the logger did not write; the full log has it
        if str(entry.get("logger", "")).endswith("JobOperator"):
            said.append(str(entry.get("event", "")))
    return said[-lines:]


def _manifests(lake: Lake, dataset: Dataset, nights: Iterable[date]) -> list[Manifest]:
    return [m for d in nights if (m := lake.manifest(dataset, d)) is not None]


def _measure(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = f" [{row['low']:.4f}, {row['high']:.4f}]" if row["low"] is not None and row["high"] is not None else ""
    return f"{row['value']:.4f}{interval}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
