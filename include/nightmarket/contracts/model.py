"""What a dataset is: columns with types, units, keys, owner, personal-data class and bounds.

Everything else is derived from here: Spark and Arrow schemas, the Great Expectations suite, the Airflow asset,
the place in the lake and docs/DATASETS.md. This module imports nothing heavy: DAG files import it when parsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow
    from pyspark.sql.types import StructType

Layer = Literal["bronze", "silver", "gold"]
Personal = Literal["", "pseudonym", "encrypt", "free_text"]
"""How a personal column leaves landing: a keyed pseudonym (joins still work), authenticated encryption (readable
with the key), or text in which mail addresses and phone numbers are masked."""


@dataclass(frozen=True)
class Column:
    """One column. `type` is a Spark DDL type; `minimum`, `maximum` and `allowed` are hard bounds of a clean value."""

    name: str
    type: str
    description: str
    unit: str = ""
    nullable: bool = True
    personal: Personal = ""
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Reference:
    """`column` of this dataset should be found as `to_column` of the newest view of dataset `to`."""

    column: str
    to: str
    to_column: str


@dataclass(frozen=True)
class Dataset:
    """A table of the lake, partitioned by `run_date`, the night that delivered or computed the rows."""

    name: str
    layer: Layer
    description: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    owner: str = ""
    """Key of shop.yaml `owners`: who is mailed about it. Empty: the shop's default owner."""
    version_by: tuple[str, ...] = ()
    """Columns that order corrections of one key, oldest first; the night breaks ties."""
    references: tuple[Reference, ...] = ()
    sums: tuple[str, ...] = ()
    """Spark SQL expressions whose totals the manifest keeps, so that layers can be reconciled."""
    required: tuple[str, ...] = field(default=())
    """Columns that a delivery must map for the dataset to be usable at all."""

    @property
    def id(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def uri(self) -> str:
        """The Airflow asset's URI: logical, so that a lake can move without breaking schedules."""
        return f"nightmarket://lake/{self.layer}/{self.name}"

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def column(self, name: str) -> Column:
        for c in self.columns:
            if c.name == name:
                return c
        raise KeyError(f"{self.id} has no column {name!r}; it has {', '.join(self.column_names)}")

    def personal_columns(self, kind: Personal) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns if c.personal == kind)

    def spark_schema(self) -> StructType:
        """The schema of a published partition as Spark reads it."""
        from pyspark.sql.types import StructField, StructType

        return StructType([StructField(c.name, _spark_type(c.type), True) for c in self.columns])

    def arrow_schema(self) -> pyarrow.Schema:
        """The schema of a published partition as Arrow reads it; timestamps are microseconds in UTC."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, _arrow_type(c.type)) for c in self.columns])

    def ddl(self) -> str:
        """Spark DDL, e.g. for `createDataFrame(rows, dataset.ddl())`."""
        return ", ".join(f"`{c.name}` {c.type}" for c in self.columns)


def _spark_type(ddl: str) -> Any:
    """Spark's own DDL parser needs a running JVM; the few types used here do not."""
    from pyspark.sql import types as t

    simple = {
        "string": t.StringType(), "long": t.LongType(), "int": t.IntegerType(), "double": t.DoubleType(),
        "float": t.FloatType(), "timestamp": t.TimestampType(), "date": t.DateType(), "boolean": t.BooleanType(),
    }
    if ddl in simple:
        return simple[ddl]
    if ddl.startswith("array<"):
        return t.ArrayType(_spark_type(ddl[6:-1]), True)
    if ddl.startswith("decimal("):
        precision, scale = (int(x) for x in ddl[8:-1].split(","))
        return t.DecimalType(precision, scale)
    raise ValueError(f"contract type {ddl!r} is not one of {', '.join(simple)}, decimal(p,s), array<type>")


def _arrow_type(ddl: str) -> Any:
    import pyarrow as pa

    simple = {
        "string": pa.string(), "long": pa.int64(), "int": pa.int32(), "double": pa.float64(), "float": pa.float32(),
        "timestamp": pa.timestamp("us", tz="UTC"), "date": pa.date32(), "boolean": pa.bool_(),
    }
    if ddl in simple:
        return simple[ddl]
    if ddl.startswith("array<"):
        return pa.list_(_arrow_type(ddl[6:-1]))
    if ddl.startswith("decimal("):
        precision, scale = (int(x) for x in ddl[8:-1].split(","))
        return pa.decimal128(precision, scale)
    raise ValueError(f"contract type {ddl!r} has no Arrow type")
