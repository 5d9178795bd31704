"""The decisions of a night, as a table: what was asked, what the model said, what follows, and what a person should know of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import SCREENING_DECISIONS
from nightmarket.screen import decisions
from nightmarket.screen.blocklist import Entry
from nightmarket.screen.decisions import Costs
from nightmarket.screen.screener import RECENT_DAYS, Decided, Described, Screener, decide
from nightmarket.screen.screening import Options
from nightmarket.screen.windows import DAY

LISTED = {"shopper": "customer", "card": "card", "device": "device", "ip": "ip", "address": "address", "mail": "email", "phone": "phone", "product": "product"}
"""The blocklist's word for each entity."""

DRIFTED = 3
_LEAST = 30
"""Rows on either side from which on the drift of features is told."""
_GROWING = (".ever.", ".days_known.", ".with.", ".different.", "group.")


@dataclass(frozen=True)
class Made:
    """`table` has the columns of gold.screening_decisions."""

    table: pa.Table
    drift: Mapping[str, float] = field(default_factory=dict)
    """Population stability index of tonight's scores against those of the weeks before, by kind."""
    feature_drift: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same of the DRIFTED features that moved most, by kind and name; kinds with enough rows on either side."""
    hours: Mapping[str, float] = field(default_factory=dict)
    """Median hours from event to the night's end, by kind, of the night's own rows."""

    def counts(self) -> dict[str, int]:
        """Rows by kind and decision: 'order block' and so on."""
        found: dict[str, int] = {}
        for kind, decision in zip(self.table["kind"].to_pylist(), self.table["decision"].to_pylist(), strict=True):
            found[f"{kind} {decision}"] = found.get(f"{kind} {decision}", 0) + 1
        return dict(sorted(found.items()))

    def notes(self) -> dict[str, Any]:
        return {"counts": self.counts(), "score_drift": dict(self.drift), "feature_drift": {k: dict(v) for k, v in self.feature_drift.items()}, "hours_to_decision": dict(self.hours)}


def make(given: Mapping[str, Described], screener: Screener, decided: Mapping[tuple[str, str], str], end: str, costs: Mapping[str, Costs], options: Options,
         entries: Mapping[tuple[str, str], Entry], model_name: str, model_version: str) -> Made:
    """Decides about every row that was not decided about, and anew where a verdict contradicts what was. `decided`: what was decided last
    about (kind, id). `end` is the night's, ISO 8601."""
    until = round(datetime.fromisoformat(end).timestamp() * 1_000_000)
    tables, drift, moved, hours = [], {}, {}, {}
    for kind, rows in given.items():
        part = screener.parts.get(kind)
        before = np.array([decided.get((kind, i), "") for i in rows.ids], object)
        asked = np.flatnonzero((before == "") | ((rows.label == 1) & (before != "block")) | ((rows.label == 0) & (before == "block")))
        if part is None or not len(asked):
            continue
        found = decide(part, rows, asked, until, costs[kind], options)
        tables.append(_table(kind, rows, found, entries, model_name, model_version))
        fresh = rows.times[asked] >= until - 2 * DAY
        if fresh.any():
            value = found.answer.probability if part.supervised else found.answer.score
            drift[kind] = round(stability(found.recent, value[fresh]), 4)
            before_it = (rows.times >= until - RECENT_DAYS * DAY) & (rows.times < until - 2 * DAY)
            if min(fresh.sum(), before_it.sum()) >= _LEAST:
                moved[kind] = drifted(rows.names, rows.values[before_it], rows.values[asked[fresh]])
            hours[kind] = round(float(np.median(until - rows.times[asked][fresh])) / DAY * 24, 1)
    schema = SCREENING_DECISIONS.arrow_schema()
    return Made(pa.concat_tables(tables) if tables else schema.empty_table(), drift, moved, hours)


def _table(kind: str, rows: Described, found: Decided, entries: Mapping[tuple[str, str], Entry], model_name: str, model_version: str) -> pa.Table:
    index = found.index
    decision = found.decision.copy()
    reasons = [list(r) for r in found.answer.reasons]
    rule = np.full(len(index), "cost", object)
    verdict = rows.label[index]
    for k in np.flatnonzero(~np.isnan(verdict)).tolist():
        decision[k], rule[k] = decisions.BLOCK if verdict[k] == 1 else decisions.ALLOW, "verdict"
        told = datetime.fromtimestamp(rows.known_at[index[k]] / 1e6, timezone.utc)
        reasons[k].insert(0, f"known to be {'bad' if verdict[k] == 1 else 'good'} since {told:%Y-%m-%d}")
    for name, values in rows.entities.items():
        for k, i in enumerate(index.tolist()):
            entry = entries.get((LISTED[name], str(values[i]))) if name in LISTED and values[i] is not None else None
            if entry is not None and rule[k] != "verdict":
                decision[k], rule[k] = decisions.BLOCK, "blocklist"
                reasons[k].insert(0, f"its {name} is on the blocklist since {entry.action.at:%Y-%m-%d}, by {entry.action.decided_by}: {entry.action.evidence}")
    if kind == "account":
        for k, i in enumerate(index.tolist()):
            entry = entries.get(("customer", str(rows.ids[i])))
            if entry is not None and rule[k] != "verdict":
                decision[k], rule[k] = decisions.BLOCK, "blocklist"
                reasons[k].insert(0, f"on the blocklist since {entry.action.at:%Y-%m-%d}, by {entry.action.decided_by}: {entry.action.evidence}")
    n = len(index)
    schema = SCREENING_DECISIONS.arrow_schema()
    columns = {
        "kind": [kind] * n, "id": rows.ids[index].tolist(), "at": [datetime.fromtimestamp(t / 1e6, timezone.utc) for t in rows.times[index]],
        "score": found.answer.score.tolist(), "probability": [None if np.isnan(p) else float(p) for p in found.answer.probability],
        "decision": decisions.NAMES[decision].tolist(), "reasons": reasons, "rule": rule.tolist(), "threshold": [float(found.thresholds.review)] * n,
        "block_threshold": [float(found.thresholds.block)] * n, "model_name": [model_name] * n, "model_version": [model_version] * n,
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


def drifted(names: Sequence[str], before: np.ndarray, now: np.ndarray) -> dict[str, float]:
    """Population stability index of the DRIFTED features (columns of (n, f) and (m, f)) that moved most, by name, the largest first.

    What grows with the history itself, such as an entity's age, is left out: it moves every night.
    """
    found = {n: round(stability(before[:, i], now[:, i]), 4) for i, n in enumerate(names) if not any(g in f"{n}." for g in _GROWING)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:DRIFTED])


def stability(before: np.ndarray, now: np.ndarray, bins: int = 10) -> float:
    """Population stability index of `now` against `before`, in bins of equal counts of `before`; 0 for the same, above 0.25 is much."""
    before, now = before[np.isfinite(before)], now[np.isfinite(now)]
    if not len(before) or not len(now):
        return 0.0
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    old, new = (np.bincount(np.searchsorted(edges, v, "right"), minlength=len(edges) + 1) for v in (before, now))
    # half a row in each bin, so that an empty one is no infinity
    p, q = (old + 0.5) / (old + 0.5).sum(), (new + 0.5) / (new + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())

