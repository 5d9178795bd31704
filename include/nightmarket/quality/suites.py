"""From rules to Great Expectations suites, and from their results to findings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket.contracts import clean_of
from nightmarket.quality.rules import Rule, found_flag
from nightmarket.shop import Settings, set_environment

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier
    from great_expectations.data_context import AbstractDataContext

NIGHT_SUITE = "night"
"""The suite of rules over several partitions; the others are called as their dataset."""


@dataclass(frozen=True)
class Finding:
    """What the gate found out about one rule; a row of gold.quality."""

    dataset: str
    rule: Rule
    success: bool
    observed: str | None
    """None: there was nothing to judge, such as no earlier night to compare with."""
    unexpected_rows: int | None = None
    checked_rows: int | None = None
    examples: str | None = None

    def row(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset, "expectation": self.rule.name, "column": self.rule.column,
            "severity": self.rule.severity, "success": self.success, "observed": self.observed,
            "expected": self.rule.expected, "unexpected_rows": self.unexpected_rows,
            "checked_rows": self.checked_rows, "examples": self.examples,
        }


@dataclass(frozen=True)
class Measure:
    """A number computed outside the rows of one partition, and the rule it must fit. None: nothing to judge."""

    rule: Rule
    value: float | None
    observed: str | None
    unexpected_rows: int | None = None
    checked_rows: int | None = None
    examples: Sequence[dict[str, Any]] = ()


def context(folder: Path | None, docs: Path | None = None) -> AbstractDataContext:
    """A GX context that calls nobody: in `folder` with a Data Docs site in `docs`, or in memory."""
    set_environment(GX_ANALYTICS_ENABLED="false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    from nightmarket.quality import expectations  # noqa: F401 (registers our expectations, which stored suites name)

    if folder is None:
        made: AbstractDataContext = gx.get_context(mode="ephemeral")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        made = gx.get_context(mode="file", project_root_dir=str(folder))
    made.enable_analytics(enable=False)
    made.variables.progress_bars = ProgressBarsConfig(globally=False)
    if docs is not None:
        made.variables.data_docs_sites = {
            "quality": {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            }
        }
        made.variables.save()
    return made


def expectation(rule: Rule) -> Any:
    """The Great Expectations expectation that decides about `rule`."""
    from great_expectations import expectations as gxe

    from nightmarket.quality import expectations as ours

    dataset = clean_of(rule.entity).id
    common: dict[str, Any] = {"severity": rule.severity, "meta": {"rule": rule.key}}
    if rule.kind == "not_null":
        return ours.ExpectContractValuesToNotBeNull(dataset=dataset, column=rule.column, mostly=rule.mostly, **common)
    if rule.kind == "in_set":
        column = found_flag(rule.reference) if rule.reference else rule.column
        return ours.ExpectContractValuesToBeInSet(
            dataset=dataset, column=column, value_set=list(rule.allowed), mostly=rule.mostly, **common)
    if rule.kind == "between":
        return ours.ExpectContractValuesToBeBetween(
            dataset=dataset, column=rule.column, min_value=rule.minimum, max_value=rule.maximum, **common)
    if rule.kind == "unique":
        return ours.ExpectContractKeysToBeUnique(dataset=dataset, column=rule.column, min_value=1.0, **common)
    if rule.kind == "row_count":
        return ours.ExpectContractRowCountToEqual(dataset=dataset, value=int(rule.minimum or 0), **common)
    if rule.kind == "newest":
        return ours.ExpectContractNewestValueToBeBetween(dataset=dataset, column=rule.column, min_value=rule.minimum, **common)
    return gxe.ExpectColumnValuesToBeBetween(column=rule.key, min_value=rule.minimum, max_value=rule.maximum, **common)


def validate(
    made: AbstractDataContext, name: str, frame: Any, rules: Sequence[Rule], run: RunIdentifier
) -> ExpectationSuiteValidationResult:
    """Great Expectations judges `frame`, a Spark or pandas frame, by `rules`."""
    import great_expectations as gx
    import pandas as pd

    batch = _batch_definition(made, name, isinstance(frame, pd.DataFrame))
    # what an earlier night stored under the name is dropped unread: GX would compare each of its expectations with each new one
    for factory in (made.validation_definitions, made.suites):
        _forget(factory, name)
    suite = made.suites.add(gx.ExpectationSuite(name=name, expectations=[expectation(r) for r in rules]))
    definition = made.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    judged = definition.run(batch_parameters={"dataframe": frame}, run_id=run, result_format={"result_format": "BASIC"})
    for result in judged.results:
        raised = [e for e in _exceptions(result.exception_info) if e]
        if raised:
            raise RuntimeError(f"{name}: {result.expectation_config.meta['rule']} could not be judged: {raised[0]}")
    return judged


def _batch_definition(made: AbstractDataContext, name: str, pandas: bool) -> Any:
    """Source, asset and batch of one name, made once: GX writes its whole configuration anew for each of the three."""
    if name in made.data_sources.all():
        return made.data_sources.get(name).get_asset(name).get_batch_definition(name)
    # persist: GX would cache the whole frame to read it once; our one query needs a part of it
    source = made.data_sources.add_pandas(name) if pandas else made.data_sources.add_spark(name, persist=False)
    return source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe(name)


def _forget(factory: Any, name: str) -> None:
    store = factory._store
    key = store.get_key(name=name, id=None)
    if store.has_key(key=key):
        store.remove_key(key=key)


def _exceptions(info: Any) -> Iterable[str | None]:
    """GX nests exception_info by metric where a metric failed, and not where nothing did."""
    if not isinstance(info, dict):
        return
    if "raised_exception" in info:
        yield info.get("exception_message") if info["raised_exception"] else None
        return
    for value in info.values():
        yield from _exceptions(value)


def findings(judged: ExpectationSuiteValidationResult, rules: Sequence[Rule]) -> list[Finding]:
    """Findings on a Spark batch, in the order of `rules`."""
    by_key = {r.expectation_config.meta["rule"]: r for r in judged.results}
    found = []
    for rule in rules:
        result = by_key[rule.key]
        seen = result.result
        checked, bad = seen.get("element_count"), seen.get("unexpected_count")
        if checked is not None:
            checked -= seen.get("missing_count") or 0  # rows without a value are not looked at
        if rule.kind == "row_count":
            observed: str | None = f"{seen['observed_value']:,}"
        elif rule.kind == "newest":
            newest = seen["observed_value"]
            observed = f"{datetime.fromtimestamp(newest, timezone.utc):%Y-%m-%d %H:%M} UTC" if newest is not None else None
        elif rule.kind == "unique":
            observed = _share(seen["observed_value"])
        elif not checked:
            observed = None
        elif rule.name == "null_share":
            observed = f"{bad / checked:.4g}"
        elif rule.reference:
            observed = _share(1 - bad / checked)
        else:
            observed = f"{bad:,} / {checked:,}"
        found.append(Finding(clean_of(rule.entity).id, rule, bool(result.success), observed, bad, checked))
    return found


def _share(value: float) -> str:
    """A share that is not quite all must not be rounded to all."""
    percent = math.floor(value * 1e6) / 1e4
    return f"{percent:.10g} %"


def measure_findings(judged: ExpectationSuiteValidationResult, measures: Sequence[Measure]) -> list[Finding]:
    """Findings on the one-row frame of measures."""
    by_key = {r.expectation_config.meta["rule"]: r for r in judged.results}
    return [
        Finding(clean_of(m.rule.entity).id, m.rule, bool(by_key[m.rule.key].success),
                None if m.value is None else m.observed, m.unexpected_rows, m.checked_rows,
                json.dumps(list(m.examples), ensure_ascii=False) if m.examples else None)
        for m in measures
    ]


def measure_frame(measures: Sequence[Measure]) -> Any:
    """One row, one column a measure."""
    import pandas as pd

    return pd.DataFrame({m.rule.key: pd.Series([m.value], dtype="float64") for m in measures})


def run_identifier(settings: Settings, name: str, moment: datetime) -> RunIdentifier:
    """The run of a night, named by the night: a repeated run takes the place of the first in Data Docs."""
    from great_expectations.core import RunIdentifier

    return RunIdentifier(run_name=f"{settings.shop.shop}-{name}", run_time=moment)
