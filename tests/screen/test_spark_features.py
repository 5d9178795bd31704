"""Spark's features are the single machine's, on random rows that share moments and lack values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
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

    def word(prefix: str, code: int) -> str | None:
        return None if code < 0 else f"{prefix}{code}"

    def number(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    card, shop, country, amount = (*rows.entities.values(), rows.categories["country"][0], rows.numbers["amount"])
    told = [("order", i, int(rows.times[i]), int(rows.known_at[i]), number(rows.label[i]), [word("c", card[i]), word("s", shop[i])], [number(amount[i])],
             [number(amount[i])], [], [None if country[i] < 0 else countries[country[i]]]) for i in range(len(rows))]
    # rows of another kind, of the same cards, change nothing
    told += [("other", i, int(rows.times[i]), 0, None, [word("c", card[i])], [], [], [], []) for i in range(40)]
    schema = "kind string, row_id long, at long, known_at long, label double, entities array<string>, numbers array<double>, leading array<double>, " \
             "elapsed array<double>, categories array<string>"
    given = spark.createDataFrame(told, schema)
    other = replace(recipe, entities=("card",), numbers=(), leading=(), scales={}, categories={}, pairs=(), graph=False)
    names = spark_features.names(recipe)
    assert sorted(names) == sorted(n for n in own.names if not n.startswith("category."))
    for buckets in (1, 5):
        found = spark_features.build(given, {"order": recipe, "other": other}, buckets).where("kind = 'order'").toPandas().sort_values("row_id")
        values = dict(zip(names, np.array(found["values"].tolist(), np.float32).T, strict=True))
        for name, column in zip(own.names, own.columns, strict=True):
            if name in values:
                np.testing.assert_array_equal(values[name], column.astype(np.float32), err_msg=name)


def test_a_night_that_has_all_entities_is_narrowed_to_itself() -> None:
    """Spark Connect refuses to add no columns at all."""
    from nightmarket.screen.night import narrowed

    frame = object()
    assert narrowed(frame, {}) is frame  # type: ignore[arg-type]
