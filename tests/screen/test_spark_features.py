"""Spark's features are the single machine's, on random rows that share moments and lack values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from nightmarket.screen.features import build, make_recipe
from nightmarket.screen.windows import DAY
from tests.screen.test_features import some

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.spark
@pytest.mark.parametrize("seed", [1, 2])
def test_spark_and_one_machine_agree(spark: SparkSession, seed: int) -> None:
    from nightmarket.screen import spark_features

    rows = some(seed, 200)
    recipe = make_recipe(rows, True, int(rows.times[-1]) + 1, 10 * DAY)
    own = build(rows, recipe)
    countries = ["DE", "FR", "IT"]
    frame = pd.DataFrame({
        "row_id": np.arange(len(rows)), "at": rows.times, "known_at": rows.known_at,
        "label": [None if np.isnan(v) else float(v) for v in rows.label], "amount": [None if np.isnan(v) else float(v) for v in rows.numbers["amount"]],
        "card": [None if c < 0 else f"c{c}" for c in rows.entities["card"]], "shop": [None if c < 0 else f"s{c}" for c in rows.entities["shop"]],
        "country": [None if c < 0 else countries[c] for c in rows.categories["country"][0]],
    })
    schema = "row_id long, at long, known_at long, label double, amount double, card string, shop string, country string"
    given = spark.createDataFrame([tuple(None if isinstance(v, float) and np.isnan(v) else v for v in r) for r in frame.astype(object).itertuples(index=False)], schema)
    names = spark_features.names(recipe)
    assert sorted(names) == sorted(n for n in own.names if not n.startswith("category."))
    for buckets in (1, 5):
        found = spark_features.build(given, recipe, buckets).toPandas().sort_values("row_id")
        values = dict(zip(names, np.array(found["values"].tolist(), np.float32).T, strict=True))
        for name, column in zip(own.names, own.columns, strict=True):
            if name in values:
                np.testing.assert_array_equal(values[name], column.astype(np.float32), err_msg=name)
