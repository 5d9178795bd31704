"""How the screening does, as far as verdicts tell: precision among what it sent to the analysts or blocked, by kind."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from nightmarket.contracts import SCREENING_DECISIONS, SCREENING_FEATURES
from nightmarket.lake import Lake, nights
from nightmarket.shop import Settings

WEEKS = 4


def reviewed(settings: Settings, lake: Lake, night: date) -> dict[str, dict[str, Any]]:
    """By kind, of the decisions of the last WEEKS weeks whose verdict is known by now: alerts, how many were bad, precision, and bad ones allowed."""
    del settings
    if lake.manifest(SCREENING_FEATURES, night) is None:
        return {}
    table = lake.at(SCREENING_FEATURES, night).arrow(["kind", "id", "is_bad"])
    known = {(k, i): b for k, i, b in zip(*(table[c].to_pylist() for c in ("kind", "id", "is_bad")), strict=True) if b is not None}
    found: dict[str, dict[str, Any]] = {}
    for partition in nights(lake, SCREENING_DECISIONS, night - timedelta(days=1), night - timedelta(days=7 * WEEKS)):
        columns = ["kind", "id", "decision", "rule"]
        rows = partition.arrow(columns)
        for kind, key, decision, rule in zip(*(rows[c].to_pylist() for c in columns), strict=True):
            verdict = known.get((kind, key))
            if verdict is None or rule == "verdict":
                continue
            said = found.setdefault(kind, {"alerts": 0, "bad": 0, "missed": 0})
            if decision == "allow":
                said["missed"] += bool(verdict)
            else:
                said["alerts"] += 1
                said["bad"] += bool(verdict)
    return {k: {**v, "precision": round(v["bad"] / v["alerts"], 4) if v["alerts"] else None} for k, v in sorted(found.items())}
