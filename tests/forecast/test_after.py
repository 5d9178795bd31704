"""What is done with forecasts: adding up, adjusting, the gate, orders, explanations, pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from matplotlib.image import imread

from nightmarket.forecast import adjusting, explaining, gate, pictures, reordering
from nightmarket.forecast.fitted import Fitted, Piece, arrays, piece
from nightmarket.forecast.forecaster import Forecast, forecast
from nightmarket.forecast.series import Panel, read_panel
from tests.forecast.test_forecaster import shop, table


@pytest.fixture(scope="module")
def made() -> tuple[Panel, Forecast]:
    panel, _ = read_panel(table(shop(12, 160)), "D", 14)
    return panel, forecast(panel, budget="fast")


def test_a_fitted_forecaster_counts_what_its_series_are(made: tuple[Panel, Forecast]) -> None:
    panel, f = made
    found = replace(f.diagnosis, kind=("smooth",) * 11 + ("lumpy",), breaks=np.r_[0, 40, [-1] * 10], outliers=np.r_[[0] * 11, 3],
                    season=np.r_[[0.3] * 11, np.nan], seasonal=np.r_[[True] * 8, [False] * 3, True])
    model = Fitted(date(2024, 6, 30), 14, (80, 95), "fast", 17, (Piece(panel.ids, replace(f, diagnosis=found)),), ())
    assert model.diagnosed() == {"lumpy": 1, "smooth": 11, "with a season": 8, "with a break": 2, "with outliers": 1}


def test_what_was_kept_before_seasons_were_told_is_read(made: tuple[Panel, Forecast]) -> None:
    panel, f = made
    held = arrays(Piece(panel.ids, f))
    again = piece(held).made.diagnosis
    assert np.array_equal(again.season, f.diagnosis.season, equal_nan=True) and np.array_equal(again.seasonal, f.diagnosis.seasonal)
    older = piece({k: v for k, v in held.items() if k not in ("diagnosis/season", "diagnosis/seasonal")}).made.diagnosis
    assert np.isnan(older.season).all() and older.seasonal.all() and older.kind == f.diagnosis.kind


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


def test_orders_meet_the_service_level() -> None:
    y = shop(80, 260, seed=9)
    panel, _ = read_panel(table(y[:, :-14]), "D", 14)
    f = forecast(panel, budget="fast")
    came = y[:, -14:-7].sum(axis=1)
    for service in (0.5, 0.9):
        assert abs((came <= reordering.demand_quantile(f, 7, service)).mean() - service) < 0.15
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
    drawn = [lambda: pictures.decomposition(panel, 0), lambda: pictures.fan_chart(panel, f, 1),
             lambda: pictures.surprises(panel, f.mean, f.bounds[80], came)]
    for draw in drawn:
        one = draw()
        assert one == draw()
        picture = imread(io.BytesIO(one))
        # something was drawn: the picture is neither empty nor of one colour
        assert picture.shape[1] > 600 and picture[:, :, :3].std() > 0.05
