"""What is done with forecasts: adding up, adjusting, the gate, orders, explanations, pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from nightmarket.forecast import adjusting, explaining, gate, pictures, reconciling, reordering
from nightmarket.forecast.forecaster import Forecast, forecast
from nightmarket.forecast.series import Panel, read_panel
from tests.forecast.test_forecaster import shop, table


@pytest.fixture(scope="module")
def made() -> tuple[Panel, Forecast]:
    panel, _ = read_panel(table(shop(12, 160)), "D", 14)
    return panel, forecast(panel, budget="fast")


TREE = reconciling.hierarchy(["a", "b", "c"], {"category": ["x", "x", "y"]})


def test_a_hierarchy_names_its_nodes_and_adds_up() -> None:
    assert TREE.names == (("total", "total"), ("category", "x"), ("category", "y"), ("item", "a"), ("item", "b"), ("item", "c"))
    assert np.array_equal(TREE.sums.toarray(), [[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="level category names 2 series; there are 3"):
        reconciling.hierarchy(["a", "b", "c"], {"category": ["x", "y"]})


def test_bottom_up_and_least_squares_by_hand() -> None:
    base = np.array([[10.0], [7.0], [2.0], [3.0], [3.0], [2.0]])
    assert np.allclose(reconciling.reconcile(TREE, base, "bottom_up")[:, 0], [8, 6, 2, 3, 3, 2])
    summing = TREE.sums.toarray()
    projected = summing @ np.linalg.lstsq(summing, base, rcond=None)[0]
    assert np.allclose(reconciling.reconcile(TREE, base, "ols"), projected)


def test_minimum_trace_trusts_the_nodes_that_err_least() -> None:
    rng = np.random.default_rng(2)
    errors = rng.normal(0, 1, (6, 400)) * np.array([0.05, 3, 3, 3, 3, 3])[:, None]
    base = np.array([[10.0], [7.0], [2.0], [3.0], [3.0], [2.0]])
    for method in ("wls", "mint"):
        made = reconciling.reconcile(TREE, base, method, errors)
        assert made[0, 0] == pytest.approx(10.0, abs=0.05) and reconciling.coherent_within(TREE, made) < 1e-9
    # independent errors: the shrunk covariance is nearly diagonal, so both agree
    assert np.allclose(reconciling.reconcile(TREE, base, "mint", errors), reconciling.reconcile(TREE, base, "wls", errors), atol=0.1)
    with pytest.raises(ValueError, match="mint needs errors of all 6 nodes"):
        reconciling.reconcile(TREE, base, "mint")


@given(st.lists(st.floats(0, 1e5), min_size=3, max_size=3))
def test_pennies_add_up(low: list[float]) -> None:
    coherent = TREE.sums @ np.array(low)[:, None]
    counted = reconciling.pennies(TREE, coherent)
    assert counted[0, 0] == counted[1, 0] + counted[2, 0] == counted[3:].sum()
    assert abs(counted[0, 0] - coherent[0, 0] * 100) <= 0.51 and (np.abs(counted[3:, 0] - np.array(low) * 100) < 1.0).all()


def test_adjusting_moves_to_what_came_and_widens_after_misses(made: tuple[Panel, Forecast]) -> None:
    _, f = made
    came = np.maximum(f.mean[:, :4] * 1.5, f.bounds[95][1][:, :4] + 1)
    after = adjusting.adjust(f, came, gain=0.3)
    assert (after.mean >= f.mean[:, 4:]).all() and (after.shift > 0).all() and after.mean.shape == (12, 10)
    assert (after.widths[95] > 1.05).all()
    calm = adjusting.adjust(f, f.mean[:, :4], gain=0.3)
    assert np.allclose(calm.mean, f.mean[:, 4:]) and (calm.widths[80] < 1).all()
    assert adjusting.gain_of(f, 4) in adjusting.GAINS
    with pytest.raises(ValueError, match="some must be known and some left"):
        adjusting.adjust(f, f.mean)


def test_adjusting_knows_nothing_of_unknown_days(made: tuple[Panel, Forecast]) -> None:
    _, f = made
    after = adjusting.adjust(f, np.full((12, 3), np.nan), gain=0.5)
    assert np.allclose(after.mean, f.mean[:, 3:]) and np.allclose(after.widths[95], 1.0)


def test_the_gate_passes_what_is_sound_and_names_what_is_not(made: tuple[Panel, Forecast]) -> None:
    panel, f = made
    assert all(c.passed for c in gate.check(panel, f))
    for value, name in ((np.nan, "finite"), (-5.0, "non_negative"), (1e7, "within_history")):
        mean = f.mean.copy()
        mean[2, 3] = value
        bad = Forecast(mean, f.bounds, f.model, f.diagnosis, f.combined, f.backtest, f.weights)
        failed = {c.name: c.detail for c in gate.check(panel, bad) if not c.passed}
        assert name in failed and "s02" in failed[name]
    assert gate.check_coherent(TREE, TREE.sums @ np.ones((3, 2))).passed
    assert not gate.check_coherent(TREE, np.ones((6, 2))).passed


def test_a_champion_falls_only_to_what_is_not_worse(made: tuple[Panel, Forecast]) -> None:
    _, f = made
    ours = gate.errors(f.backtest, f.combined)
    off = np.abs(f.backtest.actual[:-1] - f.combined[:-1])
    assert ours[0] == pytest.approx(np.nanmean(off[:, 0]) / f.backtest.scale[0])
    assert gate.against_champion(ours, ours * 1.2, 0.01, 500, 1).passed
    assert not gate.against_champion(ours * 1.2, ours, 0.01, 500, 1).passed


def test_orders_meet_the_service_level() -> None:
    y = shop(80, 260, seed=9)
    panel, _ = read_panel(table(y[:, :-14]), "D", 14)
    f = forecast(panel, budget="fast")
    came = y[:, -14:-7].sum(axis=1)
    for service in (0.5, 0.9):
        assert abs((came <= reordering.demand_quantile(f, 7, service)).mean() - service) < 0.15
    wanted = reordering.reorder(f, 7, 0.9)
    assert (reordering.reorder(f, 7, 0.9, on_hand=np.full(80, 1e9)) == 0).all()
    assert (wanted - reordering.reorder(f, 7, 0.9, on_hand=np.ones(80))).max() <= 1 and wanted.dtype == np.int64
    with pytest.raises(ValueError, match="a lead time of 15 periods; forecasts reach 1 to 14"):
        reordering.demand_quantile(f, 15, 0.9)
    with pytest.raises(ValueError, match="service level"):
        reordering.demand_quantile(f, 7, 95)


def test_an_explanation_adds_up(made: tuple[Panel, Forecast]) -> None:
    panel, f = made
    why = explaining.explain(panel, f)
    assert np.allclose(why.level + why.season + why.known, f.mean) and not why.known.any()
    assert why.season.max() > 0 > why.season.min()


def test_holidays_by_country() -> None:
    days = np.array([["2024-07-14", "2024-07-04"]], "M8[D]")
    assert explaining.holiday(days, "FR").tolist() == [[True, False]]
    assert explaining.holiday(days, "US").tolist() == [[False, True]]
    with pytest.raises(ValueError, match="ISO 3166"):
        explaining.holiday(days, "ZZ")


def test_pictures_are_drawn_and_repeat(made: tuple[Panel, Forecast]) -> None:
    panel, f = made
    came = f.mean[:, :7] * np.linspace(0.2, 3.0, 12)[:, None]
    drawn = [lambda: pictures.decomposition(panel, 0), lambda: pictures.fan_chart(panel, f, 1), lambda: pictures.error_by_horizon(f),
             lambda: pictures.surprises(panel, f.mean, f.bounds[80], came)]
    for draw in drawn:
        one = draw()
        assert one == draw()
        picture = imread(io.BytesIO(one))
        # something was drawn: the picture is neither empty nor of one colour
        assert picture.shape[1] > 600 and picture[:, :, :3].std() > 0.05
