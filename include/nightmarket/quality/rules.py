"""The rules of the gate: which there are, what a failure means, and which apply to a dataset of a shop.

Contract rules follow from the contract's columns and keys; business rules from shop.yaml `gate`. A `Rule` says what is
asked of what; Great Expectations decides whether it holds (`quality.suites`). Nothing here is heavy.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Literal

from nightmarket.contracts import Dataset, Reference, clean_of
from nightmarket.shop import FilesSource, Settings, Severity, ShopError, SqlSource

Kind = Literal["not_null", "in_set", "between", "unique", "row_count", "newest", "measure"]

SEVERITIES: dict[str, Severity] = {
    # of the contract
    "schema": "critical",
    "not_null": "critical",
    "allowed": "critical",
    "range": "critical",
    "unique_key": "critical",
    # of the business
    "delivery": "critical",
    "minimum_rows": "critical",
    "volume": "warning",
    "volume_lost": "critical",
    "freshness": "warning",
    "references": "warning",
    "references_lost": "critical",
    "null_share": "warning",
    "category_drift": "warning",
    "quarantine_share": "critical",
    "recount": "critical",
    "totals": "critical",
    "changed_files": "warning",
    "late_files": "info",
    "schema_drift": "warning",
}
"""Every rule by name, with the severity it has unless shop.yaml `gate.severity` says otherwise."""

LOST = 0.1
"""Below this part of the lower volume bound a delivery is not small but broken."""
FRESHNESS_COLUMN = {"events": "event_ts", "orders": "order_ts"}
"""Datasets that a shop adds to every day, and the column that says when."""
DRIFT_COLUMNS = {
    "events": ("event_type", "country"), "items": ("category",), "users": ("country",),
    "orders": ("country", "payment_method"), "reviews": ("language",),
}
"""Category columns whose distribution is compared with that of recent nights."""


@dataclass(frozen=True)
class Rule:
    """One thing asked of one dataset. `kind` says how Great Expectations is asked."""

    entity: str
    name: str
    kind: Kind
    severity: Severity
    expected: str
    column: str | None = None
    mostly: float = 1.0
    allowed: tuple[str | bool, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    reference: Reference | None = None

    @property
    def key(self) -> str:
        return ".".join(p for p in (self.entity, self.name, self.column) if p)


def found_flag(reference: Reference) -> str:
    """The frame's boolean column that says whether a row's key was found in the other dataset."""
    return f"{reference.column} in {reference.to}"


def severity_of(settings: Settings, entity: str, name: str, column: str | None = None) -> Severity:
    """shop.yaml's severity for 'entity.rule.column', 'entity.rule', 'rule.column' or 'rule', else the rule's own."""
    overrides = settings.shop.gate.severity
    for key in (f"{entity}.{name}.{column}", f"{entity}.{name}", f"{name}.{column}", name):
        if key in overrides:
            return overrides[key]
    return SEVERITIES[name]


def check_severities(settings: Settings) -> None:
    """Raises ShopError for an override that names no rule: a misspelt one would be silently without effect."""
    problems = []
    for key in settings.shop.gate.severity:
        parts = key.split(".")
        entity = parts.pop(0) if parts[0] in settings.shop.datasets else None
        known = parts and parts[0] in SEVERITIES and len(parts) <= 2
        if known and len(parts) == 2 and entity:
            known = parts[1] in clean_of(entity).column_names
        if not known:
            problems.append(f"gate.severity.{key}: no such rule; write a rule, such as volume or events.volume, "
                            f"of {', '.join(sorted(SEVERITIES))}")
    if problems:
        raise ShopError(settings.file, problems)


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _between(minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return f"≤ {_number(maximum)}" if maximum is not None else ""
    return f"≥ {_number(minimum)}" if maximum is None else f"{_number(minimum)} … {_number(maximum)}"


def contract_rules(settings: Settings, dataset: Dataset) -> list[Rule]:
    """What the contract itself asks of the rows, and the share rules that shop.yaml adds to its columns."""
    entity, gate = dataset.name, settings.shop.gate
    rules: list[Rule] = []

    def add(name: str, kind: Kind, expected: str, column: str | None = None, **more: object) -> None:
        severity = severity_of(settings, entity, name, column)
        rules.append(Rule(entity, name, kind, severity, expected, column, **more))  # type: ignore[arg-type]

    for c in dataset.columns:
        if not c.nullable:
            add("not_null", "not_null", "100 %", c.name)
        if c.allowed:
            add("allowed", "in_set", ", ".join(c.allowed), c.name, allowed=c.allowed)
        elif c.minimum is not None or c.maximum is not None:
            add("range", "between", _between(c.minimum, c.maximum), c.name, minimum=c.minimum, maximum=c.maximum)
    add("unique_key", "unique", "100 %", dataset.primary_key[0])
    for key, share in sorted(gate.null_share.items()):
        if key.split(".")[0] == entity:
            add("null_share", "not_null", f"≤ {share:.4g}", key.split(".")[1], mostly=1 - share)
    for reference in dataset.references:
        if reference.to.split(".")[1] in settings.shop.datasets:
            for name, share in (("references", gate.reference_share), ("references_lost", gate.reference_share / 2)):
                add(name, "in_set", f"≥ {share:.4g}", reference.column, mostly=share, allowed=(True,), reference=reference)
    return rules


def recount_rule(settings: Settings, entity: str, rows: int) -> Rule:
    """The rows of the frame are as many as the manifests say."""
    return Rule(entity, "recount", "row_count", severity_of(settings, entity, "recount"), f"{rows:,}",
                minimum=rows, maximum=rows)


def night_end(settings: Settings, run_date: date) -> datetime:
    """Midnight at the end of the night's day in the shop's time zone, in UTC."""
    local = datetime.combine(run_date + timedelta(days=1), datetime.min.time(), settings.zone)
    return local.astimezone(timezone.utc)


def freshness_rule(settings: Settings, entity: str, run_date: date) -> Rule:
    """The newest row is at most `gate.freshness_hours` older than the night's end."""
    column = FRESHNESS_COLUMN[entity]
    oldest = night_end(settings, run_date) - timedelta(hours=settings.shop.gate.freshness_hours)
    return Rule(entity, "freshness", "newest", severity_of(settings, entity, "freshness", column),
                f"≥ {oldest:%Y-%m-%d %H:%M} UTC", column, minimum=oldest.timestamp())


def measure_rule(
    settings: Settings, entity: str, name: str, minimum: float | None = None, maximum: float | None = None,
    column: str | None = None, expected: str | None = None,
) -> Rule:
    """A number computed from manifests or several partitions lies within bounds."""
    return Rule(entity, name, "measure", severity_of(settings, entity, name, column),
                expected or _between(minimum, maximum), column, minimum=minimum, maximum=maximum)


def expects_delivery(source: FilesSource | SqlSource, run_date: date) -> bool:
    """Whether a source delivers for that night at all: a weekly snapshot comes on Mondays, a monthly on the first."""
    if source.snapshot == "weekly":
        return run_date.weekday() == calendar.MONDAY
    if source.snapshot == "monthly":
        return run_date.day == 1
    return True
