"""Great Expectations' own expectations, answered from one Spark aggregation a batch.

GX resolves metrics in dependency order, one query for each level of that order, and fetches unexpected values with one
more query for each expectation, failed or not. Here all expectations of a batch ask for a single custom metric,
`table.contract_statistics`: every count that the contract calls for, in one aggregation. Each class then hands those
numbers to the GX class it derives from, which decides about success, `mostly`, severity and how Data Docs show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from great_expectations import expectations as gxe
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.validator.metric_configuration import MetricConfiguration

from nightmarket.contracts import dataset as contract
from nightmarket.quality.rules import found_flag

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn

    from nightmarket.contracts import Dataset

STATISTICS = "table.contract_statistics"


def aggregates(dataset: Dataset, columns: list[str]) -> dict[str, SparkColumn]:
    """Every statistic the contract calls for, by name; `columns` are those of the frame, flags of references included.

    `rows`; `keys` (distinct primary keys a night); and for each column, where the contract asks for it, `null.C`
    (rows without a value), `odd.C` (rows outside the allowed values or bounds), `last.C` (newest timestamp).
    """
    from pyspark.sql import functions as F

    def rows(condition: SparkColumn) -> SparkColumn:
        return F.coalesce(F.sum(F.when(condition, 1).otherwise(0)), F.lit(0))

    named = {"rows": F.count(F.lit(1)), "keys": F.countDistinct("delivered_on", *dataset.primary_key)}
    for column in dataset.columns:
        value = F.col(f"`{column.name}`")
        named[f"null.{column.name}"] = F.count(F.lit(1)) - F.count(value)
        if column.allowed:
            named[f"odd.{column.name}"] = rows(~value.isin(*column.allowed))
        elif column.minimum is not None or column.maximum is not None:
            low = value < column.minimum if column.minimum is not None else F.lit(False)
            high = value > column.maximum if column.maximum is not None else F.lit(False)
            named[f"odd.{column.name}"] = rows(low | high)
        if column.type == "timestamp":
            named[f"last.{column.name}"] = F.unix_timestamp(F.max(value))
    for reference in dataset.references:
        flag = found_flag(reference)
        if flag in columns:
            named[f"null.{flag}"] = named[f"null.{reference.column}"]
            named[f"odd.{flag}"] = rows(F.col(f"`{reference.column}`").isNotNull() & ~F.col(f"`{flag}`"))
    return named


class ContractStatistics(TableMetricProvider):
    """All statistics of a batch under one contract, by one query."""

    metric_name = STATISTICS
    value_keys = ("dataset",)

    @metric_value(engine=SparkDFExecutionEngine)
    def _spark(
        cls, execution_engine: SparkDFExecutionEngine, metric_domain_kwargs: dict, metric_value_kwargs: dict,
        metrics: dict[str, Any], runtime_configuration: dict,
    ) -> dict[str, int | None]:
        frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        named = aggregates(contract(metric_value_kwargs["dataset"]), frame.columns)
        row = frame.agg(*named.values()).collect()[0]
        return dict(zip(named, row, strict=True))


class _FromStatistics:
    """Asks for the one metric and answers the questions of the GX class that comes next in the inheritance."""

    if TYPE_CHECKING:  # what the GX class next in the inheritance has
        configuration: Any
        dataset: str
        column: str
        map_metric: str

        def _answers(self, seen: dict[str, Any]) -> dict[str, Any]: ...

    def get_validation_dependencies(self, execution_engine: Any = None, runtime_configuration: Any = None, **_: Any) -> Any:
        needed = gxe.Expectation.get_validation_dependencies(self, execution_engine, runtime_configuration)
        # the same domain and arguments for every expectation of the batch, so that GX resolves the metric once
        batch = {"batch_id": self.configuration.kwargs.get("batch_id")}
        needed.set_metric_configuration(STATISTICS, MetricConfiguration(STATISTICS, batch, {"dataset": self.dataset}))
        return needed

    def _validate(self, metrics: dict, runtime_configuration: Any = None, execution_engine: Any = None) -> Any:
        answers = self._answers(metrics[STATISTICS])
        return super()._validate(answers, runtime_configuration=runtime_configuration, execution_engine=execution_engine)  # type: ignore[misc]

    def _counts(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {
            "table.row_count": seen["rows"],
            "column_values.nonnull.unexpected_count": seen[f"null.{self.column}"],
            f"{self.map_metric}.unexpected_count": seen.get(f"odd.{self.column}", seen[f"null.{self.column}"]),
        }


class ExpectContractValuesToNotBeNull(_FromStatistics, gxe.ExpectColumnValuesToNotBeNull):
    """At least `mostly` of the rows have a value."""

    dataset: str

    def _answers(self, seen: dict[str, Any]) -> dict[str, Any]:
        nulls = seen[f"null.{self.column}"]
        return {"table.row_count": seen["rows"], f"{self.map_metric}.unexpected_count": nulls}


class ExpectContractValuesToBeInSet(_FromStatistics, gxe.ExpectColumnValuesToBeInSet):
    """At least `mostly` of the values present are allowed ones (or, of a reference's flag, true)."""

    dataset: str

    def _answers(self, seen: dict[str, Any]) -> dict[str, Any]:
        return self._counts(seen)


class ExpectContractValuesToBeBetween(_FromStatistics, gxe.ExpectColumnValuesToBeBetween):
    """Every value present is within the contract's bounds."""

    dataset: str

    def _answers(self, seen: dict[str, Any]) -> dict[str, Any]:
        return self._counts(seen)


class ExpectContractKeysToBeUnique(_FromStatistics, gxe.ExpectColumnProportionOfUniqueValuesToBeBetween):
    """No primary key twice in a night. The observed value is distinct keys over rows; 1 for no rows."""

    dataset: str

    def _answers(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {"column.unique_proportion": seen["keys"] / seen["rows"] if seen["rows"] else 1.0}


class ExpectContractRowCountToEqual(_FromStatistics, gxe.ExpectTableRowCountToEqual):
    """As many rows as the manifests say."""

    dataset: str

    def _answers(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {"table.row_count": seen["rows"]}


class ExpectContractNewestValueToBeBetween(_FromStatistics, gxe.ExpectColumnMaxToBeBetween):
    """The newest timestamp, in seconds since 1970-01-01 UTC, is not too old."""

    dataset: str

    def _answers(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {"column.max": seen[f"last.{self.column}"]}
