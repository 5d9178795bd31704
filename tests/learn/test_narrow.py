"""Wide tables: L1 keeps the columns that matter, components hold the variance, cost is paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from nightmarket.learn.narrow import components, cost, everything, select


def wide() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(800, 40)) * np.where(np.arange(40) == 7, 1000.0, 1.0)
    return x, (x[:, 3] - x[:, 11] + 0.3 * rng.normal(size=800) > 0).astype(float)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_l1_keeps_the_columns_that_tell(kind: type) -> None:
    x, label = wide()
    made = select(kind(x), label, 2)
    assert sorted(made.kept.tolist()) == [3, 11] and (made.width, made.wide) == (2, 40)  # type: ignore[union-attr]
    assert made.apply(kind(x)).shape == (800, 2)


def test_nothing_to_select_is_said() -> None:
    with pytest.raises(ValueError, match="no column tells anything"):
        select(np.zeros((40, 3)), np.arange(40) % 2, 2)


def test_components_are_those_of_pca() -> None:
    x, _ = wide()
    made, theirs = components(x, 3), PCA(3).fit(x)
    ours, wanted = made.apply(x), theirs.transform(x)
    assert np.abs(ours[:, 0]) == pytest.approx(np.abs(wanted[:, 0]), rel=1e-3)
    assert made.explained == pytest.approx(theirs.explained_variance_ratio_.sum(), abs=1e-3)
    assert everything(x).apply(x) is x


def test_cost_is_what_the_narrow_model_loses() -> None:
    found = cost(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5, 3.5]))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
