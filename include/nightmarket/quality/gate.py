"""The data gate: judges what a night delivered, before anything downstream may use it.

`judge` reads the night's clean partitions, lets Great Expectations evaluate the contract and the business rules, and
returns findings, verdict and profiles; it publishes nothing. A first load of several nights is judged as one batch, its
newest night standing for the business rules that compare nights.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from nightmarket.contracts import QUALITY, Dataset, clean_of, raw_of
from nightmarket.lake import Input, Lake, Manifest, days, read_spark
from nightmarket.protect.masking import mask
from nightmarket.quality import rules as r
from nightmarket.quality import suites
from nightmarket.quality.suites import Finding, Measure
from nightmarket.quality.verdict import passed_nights
from nightmarket.shop import Settings

if TYPE_CHECKING:
    import pyarrow
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier
    from great_expectations.data_context import AbstractDataContext
    from pyspark.sql import DataFrame, SparkSession

Verdict = Literal["passed", "warned", "refused"]
EXAMPLES = 5
HIDDEN = "‹hidden›"
MIN_WEEKS = 2
"""Earlier nights of the same weekday without which a volume is not judged: one is no pattern."""
MIN_DRIFT_ROWS = 200
"""Rows on either side below which a distribution is noise, and drift is not judged."""
TOP_CATEGORIES = 50
"""Categories kept by name in a profile; the rest are counted together."""
OTHER, MISSING = "‹other›", "‹none›"
_SMOOTHING = 0.5  # added to each count, so that a category seen on one side only has a finite ratio


@dataclass(frozen=True)
class Judgement:
    """What the gate concluded about a night (or a first load of nights)."""

    findings: tuple[Finding, ...]
    profiles: dict[str, dict[str, int]]
    """Rows by category, by 'entity.column': what later nights compare themselves with."""
    results: tuple[ExpectationSuiteValidationResult, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        failed = {f.rule.severity for f in self.findings if not f.success}
        return "refused" if "critical" in failed else "warned" if "warning" in failed else "passed"

    def failed(self, severity: str = "critical") -> list[Finding]:
        return [f for f in self.findings if not f.success and f.rule.severity == severity]


@dataclass(frozen=True)
class Batch:
    """One entity's part of what is judged together: its manifests by night, and those it is compared with."""

    entity: str
    nights: tuple[date, ...]
    clean: dict[date, Manifest]
    raw: dict[date, Manifest]
    earlier: dict[date, Manifest]
    """Manifests of the clean partitions of the same weekday in the weeks before."""

    @property
    def dataset(self) -> Dataset:
        return clean_of(self.entity)

    @property
    def missing(self) -> list[date]:
        return [d for d in self.nights if d not in self.clean]

    @property
    def rows(self) -> int:
        return sum(m.rows_out for m in self.clean.values())


def gather(lake: Lake, settings: Settings, entity: str, from_date: date, run_date: date, passed: Collection[date]) -> Batch:
    """The manifests that judging `entity` takes."""
    nights = tuple(days(from_date, run_date))
    clean = {d: m for d in nights if (m := lake.manifest(clean_of(entity), d)) is not None}
    raw = {d: m for d in nights if (m := lake.manifest(raw_of(entity), d)) is not None}
    weeks = [run_date - timedelta(weeks=w) for w in range(1, settings.shop.gate.volume_weeks + 1)]
    comparable = [d for d in weeks if d in passed or from_date <= d]
    earlier = {d: m for d in comparable if (m := lake.manifest(clean_of(entity), d)) is not None}
    return Batch(entity, nights, clean, raw, earlier)


def batches(lake: Lake, settings: Settings, from_date: date, run_date: date) -> list[Batch]:
    passed = {d for d in passed_nights(lake, run_date) if d < from_date}
    return [gather(lake, settings, entity, from_date, run_date, passed) for entity in settings.shop.datasets]


def inputs(lake: Lake, settings: Settings, from_date: date, run_date: date) -> list[Input]:
    """Everything a judgement is made from: the same inputs give the same judgement."""
    found = []
    for batch in batches(lake, settings, from_date, run_date):
        found += [m.as_input() for m in (*batch.clean.values(), *batch.raw.values())]
        found += [Input(f"compared:{m.dataset}/{m.run_date}", m.digest, m.rows_out) for m in batch.earlier.values()]
        for reference in batch.dataset.references:
            known = _reference_nights(lake, settings, reference.to, from_date, run_date)
            if known:
                text = "\n".join(f"{d} {m.digest}" for d, m in sorted(known.items()))
                found.append(Input(f"keys:{batch.entity}.{reference.column}", hashlib.sha256(text.encode()).hexdigest()[:16]))
    past = json.dumps(_past_profiles(lake, settings, from_date), sort_keys=True)
    found.append(Input("profiles", hashlib.sha256(past.encode()).hexdigest()[:16]))
    return found


def _reference_nights(lake: Lake, settings: Settings, to: str, from_date: date, run_date: date) -> dict[date, Manifest]:
    """Partitions whose keys count as known as of the night: those let through, and those judged now."""
    entity = to.split(".")[1]
    if entity not in settings.shop.datasets:
        return {}
    passed = passed_nights(lake, run_date)
    wanted = [d for d in lake.dates(clean_of(entity)) if d <= run_date and (d >= from_date or d in passed)]
    return {d: m for d in wanted if (m := lake.manifest(clean_of(entity), d)) is not None}


def frame(spark: SparkSession, lake: Lake, settings: Settings, batch: Batch, run_date: date) -> DataFrame:
    """The batch's rows with one boolean column for each reference: was the key found as of the night?

    The newest view keeps every key that was ever delivered, so its keys are the distinct keys of its partitions.
    """
    from pyspark.sql import functions as F

    rows = read_spark(spark, [lake.at(batch.dataset, d) for d in batch.clean], batch.dataset)
    for reference in batch.dataset.references:
        known = _reference_nights(lake, settings, reference.to, batch.nights[0], run_date)
        if reference.to.split(".")[1] not in settings.shop.datasets:
            continue
        other = clean_of(reference.to.split(".")[1])
        flag = r.found_flag(reference)
        keys = read_spark(spark, [lake.at(other, d) for d in known], other).select(
            F.col(reference.to_column).alias("__key")).where("__key is not null").distinct()
        rows = rows.join(keys, rows[reference.column] == keys["__key"], "left").withColumn(
            flag, F.when(F.col(reference.column).isNotNull(), F.col("__key").isNotNull())).drop("__key")
    return rows


def schema_differences(lake: Lake, batch: Batch) -> list[str]:
    """Columns of the published files that are not as the contract has them."""
    import pyarrow.parquet as pq

    want = _types(batch.dataset.arrow_schema())
    found = set()
    for day in batch.clean:
        for file in lake.at(batch.dataset, day).files:
            have = _types(pq.read_schema(file))
            found |= {n for n in {*want, *have} if n not in have or n not in want or have[n] != want[n]}
    return sorted(found)


def _types(schema: pyarrow.Schema) -> dict[str, str]:
    """Types by column; what Spark and Arrow call the elements of a list, and whether they may be null, means nothing."""
    return {f.name: re.sub(r"\b(?:item|element): | not null", "", str(f.type)) for f in schema}


def profile(rows: DataFrame, entity: str) -> dict[str, dict[str, int]]:
    """Rows by category of each column watched for drift, in one query."""
    from pyspark.sql import functions as F

    columns = r.DRIFT_COLUMNS[entity]
    pairs = F.explode(F.array(*[F.struct(F.lit(c).alias("c"), F.col(c).alias("v")) for c in columns])).alias("p")
    counted = rows.select(pairs).groupBy("p.c", "p.v").count().collect()
    found: dict[str, dict[str, int]] = {f"{entity}.{c}": {} for c in columns}
    for row in sorted(counted, key=lambda x: (-x["count"], str(x["v"]))):
        into = found[f"{entity}.{row['c']}"]
        name = MISSING if row["v"] is None else mask(row["v"])
        name = name if len(into) < TOP_CATEGORIES else OTHER
        into[name] = into.get(name, 0) + row["count"]
    return found


def proven_share(bad: int, rows: int) -> float:
    """Lower end of the share of bad rows that `bad` of `rows` prove at 95 %, one-sided: one of four is no proof of a tenth.

    Wilson's score interval (1927). For nights of thousands of rows it is the share itself, but for its third digit.
    """
    z = 1.6449
    p = bad / rows
    centre, spread = p + z * z / (2 * rows), z * math.sqrt(p * (1 - p) / rows + z * z / (4 * rows * rows))
    return max(0.0, (centre - spread) / (1 + z * z / rows))


def stability_index(now: dict[str, int], before: dict[str, int]) -> float:
    """Population stability index: the sum over categories of (p - q) ln(p / q), shares of now and before.

    0 for the same distribution; above 0.25 is by custom a large shift. Counts are smoothed by one half, so that a
    category that is new or gone has a finite part in it.
    """
    names = sorted({*now, *before})
    total_now = sum(now.values()) + _SMOOTHING * len(names)
    total_before = sum(before.values()) + _SMOOTHING * len(names)
    index = 0.0
    for name in names:
        p = (now.get(name, 0) + _SMOOTHING) / total_now
        q = (before.get(name, 0) + _SMOOTHING) / total_before
        index += (p - q) * math.log(p / q)
    return index


def _past_profiles(lake: Lake, settings: Settings, from_date: date) -> dict[str, dict[str, int]]:
    """Rows by category over the nights let through in the weeks before."""
    first = from_date - timedelta(weeks=settings.shop.gate.volume_weeks)
    total: dict[str, dict[str, int]] = {}
    for night in sorted(passed_nights(lake, from_date - timedelta(days=1))):
        manifest = lake.manifest(QUALITY, night) if night >= first else None
        if manifest is None or manifest.notes["verdict"] == "refused":
            continue
        for key, counts in manifest.notes.get("profiles", {}).items():
            into = total.setdefault(key, {})
            for name, count in counts.items():
                into[name] = into.get(name, 0) + count
    return total


def measures(lake: Lake, settings: Settings, batch: Batch, run_date: date,
             profiles: dict[str, dict[str, int]], past: dict[str, dict[str, int]]) -> list[Measure]:
    """The numbers over several partitions, or from manifests, that the night suite judges."""
    entity, gate = batch.entity, settings.shop.gate
    source = settings.shop.sources[settings.shop.datasets[entity].source]
    newest = batch.clean[run_date]
    found: list[Measure] = []

    def add(name: str, value: float | None, observed: str | None, minimum: float | None = None, maximum: float | None = None,
            column: str | None = None, expected: str | None = None, unexpected: int | None = None,
            checked: int | None = None, examples: Sequence[dict[str, Any]] = ()) -> None:
        rule = r.measure_rule(settings, entity, name, minimum, maximum, column, expected)
        found.append(Measure(rule, value, observed, unexpected, checked, examples))

    differing = schema_differences(lake, batch)
    add("schema", len(differing), ", ".join(differing) or "=", maximum=0, expected="=")

    if entity in gate.minimum_rows:
        expected = r.expects_delivery(source, run_date)
        least = gate.minimum_rows[entity]
        add("minimum_rows", newest.rows_out if expected else None, f"{newest.rows_out:,}", minimum=least)

    usual = [m.rows_out for _, m in sorted(batch.earlier.items())]
    middle = median(usual) if len(usual) >= MIN_WEEKS else 0
    low, high = gate.volume_ratio
    ratio = newest.rows_out / middle if middle else None
    told = f"{newest.rows_out:,} / {middle:,.10g} = {ratio:.3g}" if ratio is not None else None
    add("volume", ratio, told, low, high, checked=newest.rows_out)
    excused = newest.rows_in == 0 and source.on_missing == "empty"
    add("volume_lost", None if excused else ratio, told, low * r.LOST, checked=newest.rows_out)

    delivered = sum(m.rows_in for m in batch.raw.values()) or sum(m.rows_in for m in batch.clean.values())
    rejected = _sum_reasons([*batch.raw.values(), *batch.clean.values()])
    share = sum(rejected.values()) / delivered if delivered else None
    proven = proven_share(sum(rejected.values()), delivered) if delivered else None
    told = f"{sum(rejected.values()):,} / {delivered:,} = {share or 0:.4g}" + (f", surely ≥ {proven:.4g}" if proven else "")
    add("quarantine_share", proven, told, maximum=gate.quarantine_share,
        unexpected=sum(rejected.values()), checked=delivered,
        examples=[{"reason": k, "rows": v} for k, v in sorted(rejected.items(), key=lambda x: (-x[1], x[0]))[:EXAMPLES]])

    if batch.raw:
        gaps = layer_gaps(batch)
        add("totals", len(gaps), "; ".join(gaps) or "=", maximum=0, expected="=", checked=delivered)

    changed = _noted(batch, "changed_files")
    add("changed_files", len(changed), ", ".join(changed[:EXAMPLES]) or "0", maximum=0,
        examples=[{"file": n} for n in changed[:EXAMPLES]])
    late = _noted(batch, "late_files")
    add("late_files", len(late), ", ".join(late[:EXAMPLES]) or "0", maximum=0, examples=[{"file": n} for n in late[:EXAMPLES]])
    drifted = sorted({*_noted(batch, "new_columns"), *_noted(batch, "missing_columns")})
    add("schema_drift", len(drifted), ", ".join(drifted[:EXAMPLES]) or "0", maximum=0,
        examples=[{"column": n} for n in drifted[:EXAMPLES]])

    for column in r.DRIFT_COLUMNS[entity]:
        now, before = profiles.get(f"{entity}.{column}", {}), past.get(f"{entity}.{column}", {})
        mapped = column in settings.shop.datasets[entity].columns
        enough = min(sum(now.values()), sum(before.values())) >= MIN_DRIFT_ROWS
        if mapped:
            index = stability_index(now, before) if enough else None
            add("category_drift", index, None if index is None else f"{index:.4f}", maximum=gate.category_drift, column=column,
                checked=sum(now.values()), examples=_largest_shifts(now, before) if enough else ())
    return found


def _largest_shifts(now: dict[str, int], before: dict[str, int]) -> list[dict[str, Any]]:
    shares = [(n, now.get(n, 0) / sum(now.values()), before.get(n, 0) / sum(before.values())) for n in {*now, *before}]
    shares.sort(key=lambda s: (-abs(s[1] - s[2]), s[0]))
    return [{"value": n, "now": round(p, 4), "before": round(q, 4)} for n, p, q in shares[:EXAMPLES]]


def layer_gaps(batch: Batch) -> list[str]:
    """Where what one layer gave is not what the next took: rows, and each total of the contract."""
    gaps = []
    for night in batch.nights:
        raw, clean = batch.raw.get(night), batch.clean.get(night)
        if raw is None or clean is None:
            gaps.append(f"{night}: {'bronze' if raw is None else 'silver'} is missing")
            continue
        if raw.rows_out != clean.rows_in:
            gaps.append(f"{night}: bronze gave {raw.rows_out:,} rows, silver took {clean.rows_in:,}")
        gaps += [f"{night}: {g}" for g in _sum_gaps(raw, clean)]
    return gaps


def _sum_gaps(raw: Manifest, clean: Manifest) -> list[str]:
    """Totals that ingestion says it gave and cleaning says it took, to the last digit."""
    gaps = []
    for expression in raw_of(raw.dataset.split(".")[1]).sums:
        gave, took = raw.sums.get(f"out: {expression}"), clean.sums.get(f"in {expression}")
        if gave is not None and took is not None and Decimal(gave) != Decimal(took):
            gaps.append(f"sum of {expression}: bronze gave {Decimal(gave):,f}, silver took {Decimal(took):,f}")
    return gaps


def _sum_reasons(manifests: Collection[Manifest]) -> dict[str, int]:
    total: dict[str, int] = {}
    for manifest in manifests:
        for reason, count in manifest.quarantined.items():
            total[reason] = total.get(reason, 0) + count
    return total


def _noted(batch: Batch, note: str) -> list[str]:
    """Names under a note of the bronze manifests, each once."""
    names: set[str] = set()
    for manifest in batch.raw.values():
        for entry in manifest.notes.get(note) or []:
            names.add(str(entry["name"] if isinstance(entry, dict) and "name" in entry else entry))
    return sorted(names)


def examples(rows: DataFrame, finding: Finding, dataset: Dataset) -> str | None:
    """A few offending values with the file and row they came from, as JSON; personal values are not shown."""
    from pyspark.sql import functions as F

    rule = finding.rule
    column = dataset.column(rule.column) if rule.column else None
    if column is None or rule.kind not in ("not_null", "in_set", "between", "unique"):
        return None
    value = F.col(f"`{column.name}`")
    shown = F.lit(HIDDEN) if column.personal else value.cast("string")
    if rule.kind == "unique":
        picked = (rows.groupBy("delivered_on", *dataset.primary_key).count().where("count > 1")
                  .select(shown.alias("value"), F.col("count").alias("rows")).orderBy(F.desc("rows"), "value").limit(EXAMPLES))
    elif rule.reference:
        picked = (rows.where(value.isNotNull() & ~F.col(f"`{r.found_flag(rule.reference)}`")).groupBy(shown.alias("value"))
                  .agg(F.count(F.lit(1)).alias("rows")).orderBy(F.desc("rows"), "value").limit(EXAMPLES))
    else:
        if rule.kind == "not_null":
            broken = value.isNull()
        elif rule.kind == "in_set":
            broken = value.isNotNull() & ~value.isin(*rule.allowed)
        else:
            broken = F.lit(False)
            broken = broken | (value < rule.minimum) if rule.minimum is not None else broken
            broken = broken | (value > rule.maximum) if rule.maximum is not None else broken
        picked = (rows.where(broken).select(shown.alias("value"), F.col("source_file").alias("file"), F.col("source_row").alias("row"))
                  .orderBy("file", "row").limit(EXAMPLES))
    # a shifted column puts mail addresses and telephone numbers where nobody expects them
    told = [{k: mask(v) if k == "value" and v is not None else v for k, v in row.asDict().items()} for row in picked.collect()]
    return json.dumps(told, ensure_ascii=False, default=str)


def delivery_finding(settings: Settings, batch: Batch) -> Finding:
    """Every night that is judged has a clean partition; without it nothing else can be said."""
    rule = r.measure_rule(settings, batch.entity, "delivery", minimum=1, expected=f"{len(batch.nights)}")
    missing = batch.missing
    shown = json.dumps([{"night": str(d)} for d in missing[:EXAMPLES]]) if missing else None
    return Finding(batch.dataset.id, rule, not missing, f"{len(batch.clean)} / {len(batch.nights)}", len(missing),
                   len(batch.nights), shown)


def judge(
    made: AbstractDataContext, spark: SparkSession, lake: Lake, settings: Settings, from_date: date, run_date: date,
    run: RunIdentifier,
) -> Judgement:
    """Judges every mapped dataset of the nights. A dataset that was not cleaned fails `delivery`, the others are still judged."""
    found: list[Finding] = []
    asked: list[Measure] = []
    results = []
    profiles: dict[str, dict[str, int]] = {}
    counts: dict[str, Any] = {}
    past = _past_profiles(lake, settings, from_date)
    for batch in batches(lake, settings, from_date, run_date):
        counts[batch.entity] = {
            "delivered": sum(m.rows_in for m in batch.raw.values()), "clean": batch.rows,
            "quarantined": _sum_reasons([*batch.raw.values(), *batch.clean.values()]),
        }
        found.append(delivery_finding(settings, batch))
        if batch.missing:
            continue
        dataset, rows = batch.dataset, frame(spark, lake, settings, batch, run_date)
        rules = [*r.contract_rules(settings, dataset), r.recount_rule(settings, batch.entity, batch.rows)]
        if batch.entity in r.FRESHNESS_COLUMN and batch.clean[run_date].rows_out:
            rules.append(r.freshness_rule(settings, batch.entity, run_date))
        judged = suites.validate(made, dataset.id, rows, rules, run)
        results.append(judged)
        for finding in suites.findings(judged, rules):
            if not finding.success:
                finding = _with_examples(finding, rows, dataset)
            found.append(finding)
        profiles |= profile(rows, batch.entity)
        asked += measures(lake, settings, batch, run_date, profiles, past)
    if asked:
        judged = suites.validate(made, suites.NIGHT_SUITE, suites.measure_frame(asked), [m.rule for m in asked], run)
        results.append(judged)
        found += suites.measure_findings(judged, asked)
    order = {e: i for i, e in enumerate(settings.shop.datasets)}
    found.sort(key=lambda f: (order[f.rule.entity], list(r.SEVERITIES).index(f.rule.name), f.rule.column or ""))
    return Judgement(tuple(found), profiles, tuple(results), counts)


def _with_examples(finding: Finding, rows: DataFrame, dataset: Dataset) -> Finding:
    return replace(finding, examples=examples(rows, finding, dataset))
