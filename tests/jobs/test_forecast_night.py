"""The forecasts' night from series to letter: fitted, judged, registered, promoted, published, adjusted, told; and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import yaml

from jobs import announce_forecasts, bless, fit_forecasts, judge_forecasts, publish_forecasts, register, respond, series
from nightmarket.contracts import FORECAST_EVALUATION, FORECASTS, QUALITY, REORDERS, SALES_SERIES
from nightmarket.forecast import fitted, judging
from nightmarket.forecast.chunked import fitted_parts, judged_parts
from nightmarket.forecast.family import family
from nightmarket.forecast.fitted import Fitted, answer, since, unbiased, why_anew
from nightmarket.forecast.forecaster import forecast
from nightmarket.forecast.spread import chunks
from nightmarket.lake import Lake
from nightmarket.quality.outbox import Outbox
from nightmarket.registry import candidate as candidates
from nightmarket.registry.kinds import FORECASTER
from nightmarket.registry.ledger import Ledger
from nightmarket.shop import Settings
from tests.forecast.nights import NIGHT, sales, table
from tests.jobs.learning import put

RULES = {"budget": "fast", "horizon": 7, "refit_days": 3, "minimum_sales": 40, "lead_days": 3, "bootstrap": 60, "history_days": 400,
         "blessing": {"slice_users": 5}}
STEPS = {"fit": fit_forecasts, "judge": judge_forecasts, "publish": publish_forecasts, "announce": announce_forecasts}
Y = sales(items=12, length=126)


def night_of(n: int) -> date:
    return NIGHT + timedelta(days=n)


def publish_series(settings: Settings, n: int, y: np.ndarray | None = None, **more: Any) -> None:
    """gold.sales_series of the n-th night, of sales up to it, judged as passed."""
    y = Y[:, : 120 + n] if y is None else y
    put(settings, SALES_SERIES, table(y, night_of(n), **more), night_of(n), {"holidays": "GB"})
    put(settings, QUALITY, QUALITY.arrow_schema().empty_table(), night_of(n), {"verdict": "passed", "from_date": str(night_of(n))})


def run(settings: Settings, step: str, n: int = 0, *more: str) -> int:
    argv = ["--shop", str(settings.file), "--run-date", str(night_of(n)), *more]
    if step in ("register", "bless"):
        return {"register": register, "bless": bless}[step].main([*argv, "--model", "forecaster"])
    code: int = STEPS[step].main(argv)
    return code


def candidate(settings: Settings, n: int) -> candidates.Candidate:
    return candidates.require(settings, night_of(n), FORECASTER)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, shop_in: Callable[..., Settings]) -> Settings:
    """Two nights: one that fits and promotes, one that keeps the champion and adjusts it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTMARKET_ROOT", "NIGHTMARKET_SHOP", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        settings = shop_in(tmp_path_factory.mktemp("forecasts"), forecast=RULES)
        # verification starts a process that imports MLflow anew; tests/registry has it
        patch.setattr("nightmarket.registry.client.Registry.verify", lambda self, version, *_: self.tag(
            version, "verification", json.dumps({"passed": True, "detail": "", "seconds": 0.0})))
        for n in (0, 1):
            publish_series(settings, n)
            for step in ("fit", "judge", "register", "bless", "publish", "announce"):
                assert run(settings, step, n) == 0, f"{step} of night {n}"
    return settings


def test_the_first_night_fits_judges_and_promotes(chain: Settings) -> None:
    made, told = candidate(chain, 0), json.loads((candidates.folder_of(chain, night_of(0), FORECASTER) / "evaluation" / "evaluation.json").read_text())
    assert made.training["why"] == "no champion" and made.training["series"] == 12 and made.training["borrowing"] == 6
    assert sum(made.training["weights"].values()) == pytest.approx(1.0, abs=0.01)
    assert sum(count for name, count in made.training["diagnosis"].items() if not name.startswith("with ")) == 12
    models = {n: m["slices"]["all"] for n, m in told["models"].items()}
    assert set(models) == {"challenger", "seasonal_naive", "smoothing", "equal_weights"}
    assert models["seasonal_naive"]["skill"]["value"] == pytest.approx(0.0)
    assert models["challenger"]["skill_rmsse"]["value"] > 0.1 and models["challenger"]["skill"]["users"] == 11
    assert 0.6 < models["challenger"]["coverage@80"]["value"] < 0.95 < models["challenger"]["coverage@95"]["value"] + 0.07
    decision = json.loads((candidates.report_of(chain, night_of(0), FORECASTER) / "decision.json").read_text())["decision"]
    assert decision["outcome"] == "promoted"
    rows = {(r["model"], r["metric"]): r["value"] for r in Lake(chain.places.lake).at(FORECAST_EVALUATION, night_of(0)).arrow().to_pylist()
            if r["slice"] == "all"}
    assert rows["challenger", "skill"] == models["challenger"]["skill"]["value"]


def test_forecasts_add_up_to_the_last_digit(chain: Settings) -> None:
    for n in (0, 1):
        rows = Lake(chain.places.lake).at(FORECASTS, night_of(n)).arrow().to_pylist()
        assert len(rows) == 7 * (1 + 2 + 2 + 12)
        sums: dict[tuple[str, date], Decimal] = {}
        for r in rows:
            sums[r["level"], r["forecast_date"]] = sums.get((r["level"], r["forecast_date"]), Decimal(0)) + r["mean"]
        for ahead in range(1, 8):
            day = night_of(n + ahead)
            assert sums["item", day] == sums["category", day] == sums["country", day] == sums["total", day]
        assert all(r["probabilities"] == [0.025, 0.1, 0.9, 0.975] and r["quantiles"] == sorted(r["quantiles"]) and r["quantiles"][0] >= 0 for r in rows)
        total = sum(float(r["mean"]) for r in rows if r["level"] == "total")
        assert total == pytest.approx(Y.sum(axis=0)[:120].mean() * 7, rel=0.25)


def test_the_second_night_keeps_the_champion_and_adjusts_it(chain: Settings) -> None:
    made = candidate(chain, 1)
    assert made.training["kept"] == "1" and made.recipe == candidate(chain, 0).recipe
    notes = Lake(chain.places.lake).at(FORECASTS, night_of(1)).manifest.notes
    assert (notes["how"], notes["model_version"], notes["trained_on"]) == ("adjusted", "1", str(night_of(0)))
    followed = Lake(chain.places.lake).at(FORECAST_EVALUATION, night_of(1)).manifest.notes
    assert followed["kept"] == "1" and followed["holdout"] == {**followed["holdout"], "cut": str(night_of(1)), "end": str(night_of(2))}


def test_nothing_new_is_nothing_to_do(chain: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmarket.forecast.forecaster.backtest", lambda *_: pytest.fail("something was fitted"))
    before = [Lake(chain.places.lake).manifest_path(d, night_of(n)).read_bytes() for d in (FORECASTS, REORDERS, FORECAST_EVALUATION) for n in (0, 1)]
    for n in (0, 1):
        for step in ("fit", "judge", "register", "bless", "publish", "announce"):
            assert run(chain, step, n) == 0
    assert [Lake(chain.places.lake).manifest_path(d, night_of(n)).read_bytes() for d in (FORECASTS, REORDERS, FORECAST_EVALUATION) for n in (0, 1)] == before
    assert len(list(Outbox(chain.places.outbox).entries())) == 2
    for step in ("fit", "judge", "publish", "announce"):
        assert run(chain, step, 1, "--dry-run") == 0


def test_what_it_publishes_says_when_another_forecaster_is_due(chain: Settings) -> None:
    """For the plan of the night after: where that is scheduled, nobody else fits."""
    publish_series(chain, 3)
    assert run(chain, "publish", 3) == 0
    notes = [Lake(chain.places.lake).at(FORECASTS, night_of(n)).manifest.notes["due"] for n in (0, 1, 3)]
    assert notes == [None, None, "age of 3 days"]


def test_orders_follow_service_level_and_lead_time(chain: Settings) -> None:
    rows = {r["item_id"]: r for r in Lake(chain.places.lake).at(REORDERS, night_of(0)).arrow().to_pylist()}
    assert len(rows) == 12 and {r["lead_days"] for r in rows.values()} == {3} and {r["service_level"] for r in rows.values()} == {0.95}
    assert all(r["order_up_to"] >= r["expected_units"] for r in rows.values())
    forecasts = Lake(chain.places.lake).at(FORECASTS, night_of(0)).arrow().to_pylist()
    for item in ("i0", "i1"):
        first = sum(float(r["mean"]) for r in forecasts if r["series_id"] == item and r["forecast_date"] <= night_of(3))
        assert rows[item]["expected_units"] == pytest.approx(first, abs=1e-6)


def test_spreadsheets_hold_what_is_published(chain: Settings) -> None:
    folder = candidates.report_of(chain, night_of(0), FORECASTER)
    with (folder / "forecasts.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    published = Lake(chain.places.lake).at(FORECASTS, night_of(0)).arrow().to_pylist()
    assert len(rows) == len(published) and list(rows[0])[:8] == ["level", "series_id", "forecast_date", "mean", "q2.5", "q10", "q90", "q97.5"]
    assert [Decimal(r["mean"]) for r in rows] == [r["mean"] for r in published]


def test_the_owner_is_told_once_with_pictures(chain: Settings) -> None:
    outbox = Outbox(chain.places.outbox)
    mails = [outbox.message(e.id) for e in outbox.entries()]
    subjects = sorted(m["Subject"].strip() for m in mails)  # a long one is folded before its first word
    assert len(subjects) == 2 and subjects[0].startswith(f"[Small shop] Sales forecasts of {night_of(0)}: ")
    pictures = [p for p in mails[0].walk() if p.get_content_type() == "image/png"]
    assert len(pictures) == 3
    text = (candidates.report_of(chain, night_of(1), FORECASTER) / "forecasts.txt").read_text()
    for said in ("The errors since it was fitted have adjusted level and intervals.", "the forecaster that stays", "What to order", "last week again"):
        assert said in text


def test_a_past_night_is_answered_by_its_own_champion_and_no_later_night(chain: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    publish_series(chain, -5)
    assert run(chain, "publish", -5) == 3
    assert "no champion may forecast the night" in capsys.readouterr().err


def test_forecasts_of_a_night_are_those_without_later_nights(make_settings: Callable[..., Settings]) -> None:
    """Rows after the night change nothing: the model that is fitted and what it says are the same to the last bit."""
    rules = make_settings(forecast=RULES).shop.forecast
    settings = make_settings(forecast=RULES)

    def said(y: np.ndarray) -> Any:
        rows = table(y, night_of(y.shape[1] - 120))
        kept = rows.filter(np.array([d <= NIGHT for d in rows["sale_date"].to_pylist()]))
        tree = family(kept, 10, 40, "GB")
        return answer(fitted.fit(tree, rules, fitted_parts(tree.panel, rules, settings)), tree, rules)

    one, two = said(Y[:, :120]), said(Y)
    assert np.array_equal(one.mean, two.mean) and np.array_equal(one.bounds[95][1], two.bounds[95][1]) and np.array_equal(one.wanted, two.wanted)


@pytest.fixture(scope="module")
def made(chain: Settings) -> tuple[Any, Fitted]:
    rules = chain.shop.forecast
    model = Fitted.load(candidates.folder_of(chain, night_of(0), FORECASTER) / "model")
    return rules, model


def tree_of(y: np.ndarray, horizon: int = 10) -> Any:
    return family(table(y, night_of(y.shape[1] - 120)), horizon, 40, "GB")


def test_what_is_saved_is_what_was_fitted(made: tuple[Any, Fitted], chain: Settings) -> None:
    rules, model = made
    tree = tree_of(Y[:, :120])
    again = fitted.fit(tree, rules, fitted_parts(tree.panel, rules, chain))
    for one, two in zip(model.pieces, again.pieces, strict=True):
        assert one.ids == two.ids and np.array_equal(one.made.mean, two.made.mean) and one.made.model == two.made.model
        assert np.array_equal(one.made.weights, two.made.weights) and one.made.diagnosis.kind == two.made.diagnosis.kind
    assert answer(model, tree, rules).how == "fresh"


def test_a_forecaster_beyond_its_reach_applies_its_weights(made: tuple[Any, Fitted]) -> None:
    rules, model = made
    late = tree_of(Y[:, :126])
    told = answer(model, late, rules)
    assert told.how == "applied" and np.isfinite(told.mean).all() and (told.mean >= 0).all()
    with pytest.raises(ValueError, match="has seen days after"):
        answer(model, tree_of(Y[:, :119]), rules)


def test_when_a_forecaster_is_fitted_anew(made: tuple[Any, Fitted]) -> None:
    rules, model = made
    assert why_anew(None, tree_of(Y[:, :120]), rules, True, True) == "no champion"
    assert why_anew(model, tree_of(Y[:, :121]), rules, True, True) is None
    assert why_anew(model, tree_of(Y[:, :121]), rules, False, True) == "other settings"
    assert why_anew(model, tree_of(Y[:, :121]), rules, True, False) == "other code"
    assert why_anew(model, tree_of(Y[:, :123]), rules, True, True) == "age of 3 days"
    patient = rules.model_copy(update={"refit_days": 30})
    moved = Y[:, :124].copy()
    moved[:, 120:] *= 6
    assert why_anew(model, tree_of(moved), patient, True, True) == "drift"
    assert why_anew(model, tree_of(Y[:, :124]), patient, True, True) is None
    assert since(model, tree_of(Y[:, :124])).seen == 4


def test_a_series_that_fails_is_named_and_gets_the_simplest_forecast(made: tuple[Any, Fitted], chain: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightmarket.forecast import spread

    rules, _ = made
    whole = spread.forecast

    def failing(panel: Any, *rest: Any) -> Any:
        if "item/i2" in panel.ids:
            raise ValueError("as tested")
        return whole(panel, *rest)

    monkeypatch.setattr(spread, "forecast", failing)
    tree = tree_of(Y[:, :120])
    model = fitted.fit(tree, rules, fitted_parts(tree.panel, rules, chain))
    assert [(q.series_id, q.reason) for q in model.quarantined] == [("item/i2", "ValueError: as tested")]
    told = answer(model, tree, rules)
    assert told.model[tree.panel.ids.index("item/i2")] == "seasonal_naive" and np.isfinite(told.mean).all()


def test_a_wild_forecast_is_replaced_and_named(made: tuple[Any, Fitted]) -> None:
    rules, model = made
    tree = tree_of(Y[:, :120])
    part = model.pieces[0]
    i = part.ids.index("item/i0")
    mean = part.made.mean.copy()
    mean[i] = 1e6
    wild = replace(model, pieces=(replace(part, made=replace(part.made, mean=mean)),))
    told = answer(wild, tree, rules)
    assert told.mean[tree.panel.ids.index("item/i0")].max() < 1e3
    assert [q.series_id for q in told.quarantined] == ["item/i0"] and "5 times the largest day" in told.quarantined[0].reason


def test_points_are_made_means_of_what_backtests_sold(made: tuple[Any, Fitted]) -> None:
    part = made[1].pieces[0]
    sound = unbiased(part.ids, part.made)
    low = unbiased(part.ids, replace(part.made, mean=part.made.mean / 2, combined=part.made.combined / 2))
    assert np.allclose(low.mean, sound.mean)
    test = part.made.backtest
    use = np.isfinite(test.actual[:-1]) & ~test.shut[:-1]
    total = part.ids.index("total/*")
    assert np.where(use, sound.combined[:-1], 0)[:, total].sum() == pytest.approx(np.where(use, test.actual[:-1], 0)[:, total].sum(), rel=0.02)


def test_judging_knows_nothing_after_an_origin(made: tuple[Any, Fitted]) -> None:
    rules = made[0]
    one, two = Y[:, :120].copy(), Y[:, :120].copy()
    two[:, 113:] = np.random.default_rng(1).integers(0, 90, (12, 7))
    panels = [tree_of(y).panel for y in (one, two)]
    keep = [i for i in panels[0].ids if i in panels[1].ids]
    first, second = (judging.judge_chunk(p.take([p.ids.index(i) for i in keep]), rules, (7,), None, None) for p in panels)
    assert all(np.array_equal(first[k], second[k]) for k in first if k.endswith(("mean", "/low/80", "/scale")))


@pytest.mark.spark
def test_chunks_in_spark_tasks_are_chunks_here(spark: Any, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(forecast={**RULES, "chunk": 10, "minimum_sales": 10})
    rules, panel = settings.shop.forecast, tree_of(sales(items=24, length=70)).panel
    assert panel.size > 10
    spreading = {i: mean for part in fitted_parts(panel, rules, settings) for i, mean in zip(part.panel.ids, part.made.mean, strict=True)}
    for rows in chunks(panel, 10):
        here = forecast(panel.take(rows), rules.intervals, rules.budget, rules.seed)
        for i, mean in zip(panel.take(rows).ids, here.mean, strict=True):
            assert np.allclose(spreading[i], mean), i
    judged = list(judged_parts(panel, rules, (7,), None, settings))
    assert sorted(i for ids, _ in judged for i in ids) == sorted(panel.ids)


def test_what_the_night_refuses(make_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input, each with its exit code and the remedy."""
    settings = make_settings(forecast=RULES)

    def told(step: str, n: int = 0) -> tuple[int, str]:
        code = run(settings, step, n)
        return code, capsys.readouterr().err

    code, said = told("fit")
    assert code == 1 and "gold.sales_series of 2026-03-31 is not published; run `python -m jobs.series --run-date 2026-03-31` first" in said
    publish_series(settings, 0, Y[:, :10])
    code, said = told("fit")
    assert code == 3 and "has 10 days; two weeks are the least" in said
    code, said = told("judge")
    assert code == 3 and "no candidate of 2026-03-31" in said and "python -m jobs.fit_forecasts --run-date 2026-03-31" in said
    publish_series(settings, 0, Y[:, :25])
    assert told("fit")[0] == 0
    code, said = told("judge")
    assert code == 3 and "has 25 days; to judge forecasts of 7 days ahead 28 are needed" in said
    publish_series(settings, 0, Y[:, :60])
    code, said = told("judge")
    assert code == 3 and "made from another gold.sales_series" in said
    code, said = told("announce")
    assert code == 3 and "no forecasts of 2026-03-31 are published; run `python -m jobs.publish_forecasts" in said
    put(settings, QUALITY, QUALITY.arrow_schema().empty_table(), NIGHT, {"verdict": "refused", "from_date": str(NIGHT)})
    for step in (lambda: run(settings, "publish"), lambda: series.main(["--shop", str(settings.file), "--run-date", str(NIGHT)])):
        assert step() == 3 and "the gate refused the night of 2026-03-31" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "y"), [
    ("nothing but one sale", np.eye(1, 60)), ("constant", np.full((3, 60), 4.0)), ("a jump", np.repeat([[1.0] * 30 + [90.0] * 30], 3, axis=0)),
    ("sold only once, long ago", np.pad(np.full((2, 1), 7.0), ((0, 0), (0, 59)))), ("two weeks", sales(4, 14)), ("one item", sales(1, 60)),
])
def test_odd_series_are_forecast_all_the_same(name: str, y: np.ndarray, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(forecast={**RULES, "minimum_sales": 10})
    rules = settings.shop.forecast
    tree = family(table(y, NIGHT, missing=(3,)), 10, 10, None)
    told = answer(fitted.fit(tree, rules, fitted_parts(tree.panel, rules, settings)), tree, rules)
    from nightmarket.forecast.publication import publication

    made = publication(tree, told, rules, "forecaster", "1")
    assert not made.failed, made.failed
    sold = [k for k in range(len(y)) if y[k].any()]
    countries = sum(1 for share in (np.round(y * 0.7), y - np.round(y * 0.7)) if share.any())
    assert made.forecasts.num_rows == 7 * (1 + len({k % 2 for k in sold}) + countries + len(sold))


def test_a_bad_section_is_told_with_its_line(make_settings: Callable[..., Settings]) -> None:
    from nightmarket.shop import ShopError

    with pytest.raises(ShopError, match="lead_days 30 reaches beyond the horizon of 28 days"):
        make_settings(forecast={"lead_days": 30})
    with pytest.raises(ShopError, match="give whole percents from 1 to 99"):
        make_settings(forecast={"intervals": [80, 100]})
    with pytest.raises(ShopError, match="history_days 30 is too short"):
        make_settings(forecast={"history_days": 30})


def test_what_fails_a_check_is_not_published(chain: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nightmarket.forecast.gate import Check

    before = Lake(chain.places.lake).manifest_path(FORECASTS, night_of(1)).read_bytes()
    monkeypatch.setattr("nightmarket.forecast.publication.check_sums", lambda *_: Check("coherent", False, "as tested"))
    assert run(chain, "publish", 1, "--force") == 3
    assert "are not published: coherent: as tested. Fit anew with `python -m jobs.fit_forecasts --force`" in capsys.readouterr().err
    assert Lake(chain.places.lake).manifest_path(FORECASTS, night_of(1)).read_bytes() == before


def test_the_letter_says_the_same_in_every_language() -> None:
    import re

    from nightmarket.forecast.announcement import _TEXTS

    assert set(_TEXTS["en"]) == set(_TEXTS["zh"])
    for key, text in _TEXTS["en"].items():
        assert set(re.findall(r"{(\w+)", text)) == set(re.findall(r"{(\w+)", _TEXTS["zh"][key])), key


def test_the_letter_names_the_surprises_of_the_week(chain: Settings) -> None:
    from nightmarket.forecast.announcement import announcement

    lake, before = Lake(chain.places.lake), night_of(-7)
    rows = [{"level": level, "series_id": key, "forecast_date": before + timedelta(days=n), "mean": Decimal(1), "probabilities": [0.1, 0.9],
             "quantiles": [0.0, 2.0], "model": "m", "model_name": "forecaster", "model_version": "1"}
            for level, key in (("total", "*"), ("item", "i0")) for n in range(1, 8)]
    import pyarrow as pa

    put(chain, FORECASTS, pa.Table.from_pylist(rows, FORECASTS.arrow_schema()), before)
    try:
        told = announcement(chain, lake, night_of(0))
    finally:
        lake.drop(FORECASTS, before)
    section = next(s for s in told.sections if s.title.startswith("Surprises"))
    assert section.words == (f"Beside the forecast published on {before}.",) and section.picture is not None and section.picture.png[:4] == b"\x89PNG"


def test_a_forecaster_that_errs_beyond_its_backtests_is_gone_back_from_by_itself(chain: Settings) -> None:
    """Version 2 of the same artifacts, promoted on night 1; five times the usual is sold from then on."""
    from mlflow.tracking import MlflowClient

    client, ledger = MlflowClient(chain.mlflow_uri), Ledger(chain.places.mlflow / "ledger.db")
    first = client.get_model_version("forecaster", "1")
    second = client.create_model_version("forecaster", first.source, first.run_id, tags=first.tags | {"recipe": "another"}, model_id=first.model_id)
    version = str(second.version)
    ledger.promote("forecaster", version, "1", "a test", "the same again", run_date=night_of(1))
    y = Y[:, :124].copy()
    y[:, 120:] *= 5
    publish_series(chain, 4, y)
    assert run(chain, "publish", 4) == 0
    notes = Lake(chain.places.lake).at(FORECASTS, night_of(4)).manifest.notes
    assert (notes["model_version"], notes["worse"]) == (version, "its errors of 4 days are beyond 1.5 times those of its backtests")
    told = yaml.safe_load(chain.file.read_text())
    chain.file.write_text(yaml.safe_dump({**told, "responses": [{"when": "quality.*", "do": "rollback", "after_promotion_nights": 6}]}))
    for n, champion in ((7, version), (5, "1")):  # on night 7 its window is over
        assert respond.main(["--shop", str(chain.file), "--run-date", str(night_of(n))]) == 0
        assert ledger.current("forecaster", "champion") == champion
    newest = ledger.newest("forecaster", "champion")
    assert newest is not None and (newest.who, newest.evidence["alert"], newest.evidence["measured"]) == ("jobs.respond", "quality.forecaster", version)
    assert Lake(chain.places.lake).at(FORECASTS, night_of(4)).manifest.notes["model_version"] == "1", "the newest night is published again"
