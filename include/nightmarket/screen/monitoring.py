"""How the screening does, as far as verdicts tell: precision among what it sent to the analysts or blocked, by kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from nightmarket.contracts import SCREENING_DECISIONS, SCREENING_FEATURES
from nightmarket.lake import Lake, nights
from nightmarket.shop import Settings

WEEKS = 4


def reviewed(settings: Settings, lake: Lake, night: date) -> dict[str, dict[str, Any]]:
    """By kind, of the decisions of the last WEEKS weeks whose verdict is known by now: alerts, how many were bad, precision, and bad ones allowed."""
    del settings
    found: dict[str, dict[str, Any]] = {}
    for kind, decision, _, verdict in _known(lake, night):
        said = found.setdefault(kind, {"alerts": 0, "bad": 0, "missed": 0})
        if decision == "allow":
            said["missed"] += verdict
        else:
            said["alerts"] += 1
            said["bad"] += verdict
    return {k: {**v, "precision": round(v["bad"] / v["alerts"], 4) if v["alerts"] else None} for k, v in sorted(found.items())}


def worse(settings: Settings, lake: Lake, night: date, version: str) -> str | None:
    """What says that fewer of the version's alerts are bad ones than of those that the versions before raised in the same weeks: by kind a
    one-sided exact test, beyond `retraining.live_loss`, corrected for the kinds. None where nothing does."""
    from nightmarket.monitor import drift

    counts: dict[tuple[str, bool], list[int]] = {}
    for kind, decision, by, verdict in _known(lake, night):
        if decision != "allow":
            said = counts.setdefault((kind, by == version), [0, 0])
            said[0] += verdict
            said[1] += 1
    asked = []
    for kind in sorted({kind for kind, _ in counts}):
        (bad_ones, alerts), (bad_before, before) = (counts.get((kind, own), [0, 0]) for own in (True, False))
        tests = drift.hit_rate(bad_ones, alerts, bad_before, before, settings.shop.retraining.live_loss, settings.shop.drift)
        asked += [replace(h, feature=kind) for h in tests]
    bad = [f for f in drift.judged(asked, settings.shop.drift) if f.drifted]
    return "; ".join(f"{f.now} of its alerts about {f.feature} were bad ones, {f.before} before it" for f in bad) or None


def _known(lake: Lake, night: date) -> Iterator[tuple[str, str, str, bool]]:
    """(kind, decision, version, whether it was bad) of the last WEEKS weeks' decisions whose verdict is known by now; none that a verdict made."""
    if lake.manifest(SCREENING_FEATURES, night) is None:
        return
    table = lake.at(SCREENING_FEATURES, night).arrow(["kind", "id", "is_bad"])
    known = {(k, i): b for k, i, b in zip(*(table[c].to_pylist() for c in ("kind", "id", "is_bad")), strict=True) if b is not None}
    columns = ["kind", "id", "decision", "rule", "model_version"]
    for partition in nights(lake, SCREENING_DECISIONS, night - timedelta(days=1), night - timedelta(days=7 * WEEKS)):
        rows = partition.arrow(columns)
        for kind, key, decision, rule, version in zip(*(rows[c].to_pylist() for c in columns), strict=True):
            verdict = known.get((kind, key))
            if verdict is not None and rule != "verdict":
                yield kind, decision, version, bool(verdict)
