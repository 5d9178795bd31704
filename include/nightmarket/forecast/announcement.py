"""The morning letter to the forecasts' owner."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np

from nightmarket.contracts import FORECAST_EVALUATION, FORECASTS, ITEMS, REORDERS, SALES_SERIES
from nightmarket.forecast import pictures
from nightmarket.forecast.explaining import explain
from nightmarket.forecast.family import Family, family
from nightmarket.forecast.fitted import Fitted, reach_of
from nightmarket.forecast.forecaster import fallback
from nightmarket.forecast.sales_series import TOTAL
from nightmarket.lake import Lake, newest_arrow
from nightmarket.quality.letter import Letter, Picture, Section, Table, Tone
from nightmarket.quality.verdict import passed_nights
from nightmarket.registry import candidate as candidates
from nightmarket.registry.client import Registry
from nightmarket.registry.kinds import FORECASTER
from nightmarket.shop import Language, Settings

SHOWN = 15
"""Items of the order list in the letter."""
_WEEK = 7
_TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "subject": "[{shop}] Sales forecasts of {date}: {units:,.0f} units in the next {days} days",
        "headline": "The forecasts of {date} are published.",
        "lead": "{model} version {version}, fitted on {trained}, forecasts {horizon} days of {series:,} series; {borrowing:,} items that sell "
                "rarely are shares of their category. In the next {days} days {units:,.0f} units are expected; the last {days} days sold {sold:,.0f}.",
        "how.fresh": "It was fitted tonight.", "how.adjusted": "The errors since it was fitted have adjusted level and intervals.",
        "how.applied": "It is older than its reach: its weights were applied to the sales of now.",
        "why": "The forecaster fitted tonight: {why}.",
        "days": "Of the last 28 days {closed} were closed, and {missing} are not known.",
        "quarantined": "{n} series could not be forecast as the others and have a seasonal naive forecast: {names}.",
        "total": "The whole shop", "total.picture": "Daily sales of the whole shop, earlier forecasts with their intervals, and the forecast.",
        "explained": "Where the expected units come from: level and trend, the season of week and year, public holidays.",
        "day": "day", "expected": "expected", "interval": "{level} % interval", "level": "level", "season": "season", "holiday": "holiday",
        "quality": "Quality", "quality.words": "Skill is 1 - error / error of last week's sales said again; mean over {n} series with its 95 % interval; "
                                             "higher is better. Coverage is the share of days within the interval.",
        "quality.picture": "Mean error of each model by days ahead.", "model": "model",
        "orders": "What to order", "orders.words": "Stock and open orders together should reach this to last {lead} days with a probability of {service:.0%}. "
                                                  "The {n} items of most expected sales; all are in reorders.csv.",
        "item": "item", "order_up_to": "stock and orders up to", "out": "out of stock", "yes": "yes",
        "surprises": "Surprises of the last {days} days", "surprises.words": "Beside the forecast published on {date}.",
        "surprises.picture": "Series whose sales lay farthest outside what was forecast.",
        "parts": "The whole shop in parts", "parts.picture": "Daily sales of the whole shop, its trend, its seasons and what is left.",
        "forecasts.csv": "All forecasts, for a spreadsheet", "reorders.csv": "All orders, for a spreadsheet", "decision.md": "The decision, check by check",
        "model_card.md": "Model card", "whole": "whole shop",
        "footer": "Written by Nightmarket for {owner}. To go back: python -m jobs.ledger --help.",
        "challenger": "tonight's forecaster", "champion": "the one that served", "kept": "the forecaster that stays",
        "seasonal_naive": "last week again", "smoothing": "exponential smoothing", "equal_weights": "plain mean of all methods",
    },
    "zh": {
        "subject": "[{shop}] {date} 的销售预测:未来 {days} 天预计 {units:,.0f} 件",
        "headline": "{date} 的销售预测已发布。",
        "lead": "{model} 版本 {version}(拟合于 {trained})预测了 {series:,} 个序列未来 {horizon} 天的销量;{borrowing:,} 种很少售出的商品按所属类别分摊。"
                "未来 {days} 天预计售出 {units:,.0f} 件,过去 {days} 天售出 {sold:,.0f} 件。",
        "how.fresh": "模型于今晚拟合。", "how.adjusted": "已用拟合以来的误差调整了水平和区间。", "how.applied": "模型已超出其预测范围:其权重被用于最新的销售数据。",
        "why": "今晚拟合的模型:{why}。",
        "days": "过去 28 天中有 {closed} 天停业,{missing} 天数据未知。",
        "quarantined": "{n} 个序列无法像其他序列一样预测,改用季节性朴素预测:{names}。",
        "total": "全店", "total.picture": "全店每日销量、以往的预测及其区间,以及当前预测。",
        "explained": "预计销量的来源:水平与趋势、周与年的季节性、公共假日。",
        "day": "日期", "expected": "预计", "interval": "{level} % 区间", "level": "水平", "season": "季节", "holiday": "假日",
        "quality": "质量", "quality.words": "技能值为 1 − 误差 / 重复上周销量的误差;对 {n} 个序列取平均,附 95 % 置信区间,越高越好。覆盖率为落在区间内的天数占比。",
        "quality.picture": "各模型按预测天数的平均误差。", "model": "模型",
        "orders": "订货建议", "orders.words": "库存加在途订单达到该数量时,能以 {service:.0%} 的概率维持 {lead} 天。此处列出预计销量最高的 {n} 种商品,完整清单见 reorders.csv。",
        "item": "商品", "order_up_to": "库存加订单补至", "out": "缺货", "yes": "是",
        "surprises": "过去 {days} 天的意外", "surprises.words": "与 {date} 发布的预测相比。",
        "surprises.picture": "销量偏离预测最多的序列。",
        "parts": "全店销量的分解", "parts.picture": "全店每日销量及其趋势、季节性和剩余部分。",
        "forecasts.csv": "全部预测(表格文件)", "reorders.csv": "全部订货建议(表格文件)", "decision.md": "逐项检查的决定",
        "model_card.md": "模型卡片", "whole": "全店",
        "footer": "由 Nightmarket 为 {owner} 撰写。如需回退:python -m jobs.ledger --help。",
        "challenger": "今晚的模型", "champion": "此前服务的模型", "kept": "继续使用的模型",
        "seasonal_naive": "重复上周", "smoothing": "指数平滑", "equal_weights": "各方法的简单平均",
    },
}


def announcement(settings: Settings, lake: Lake, night: date) -> Letter:
    """What is said of the night's forecasts. Raises LakeError where there are none."""
    published = lake.at(FORECASTS, night)
    made, rules = published.manifest, settings.shop.forecast
    series = lake.at(SALES_SERIES, night)
    tree = family(series.arrow(), reach_of(rules), rules.minimum_sales, series.manifest.notes["holidays"])
    owner = settings.owner_of("forecasts")
    language = owner.language or settings.shop.language
    words = _TEXTS[language]
    shop, notes = settings.shop.title or settings.shop.shop, made.notes
    folder = candidates.report_of(settings, night, FORECASTER)
    total = [r for r in published.arrow().to_pylist() if r["level"] == "total"]
    days = min(_WEEK, rules.horizon)
    units = float(sum(r["mean"] for r in total[:days]))
    decision = json.loads((folder / "decision.json").read_text())["decision"] if (folder / "decision.json").is_file() else None
    lead = [words["lead"].format(model=settings.shop.forecast.name, version=notes["model_version"], trained=notes["trained_on"], horizon=notes["horizon"],
                                 series=notes["series"], borrowing=notes["borrowing"], days=days, units=units, sold=float(np.nansum(tree.panel.y[0, -days:]))),
            words[f"how.{notes['how']}"]]
    if decision is not None and notes["how"] == "fresh":
        lead.append(words["why"].format(why=decision["why"]))
    closed, missing = _days(series.arrow(["freq", "level", "sale_date", "status"]), night)
    if closed or missing:
        lead.append(words["days"].format(closed=closed, missing=missing))
    if notes["quarantined"]:
        lead.append(words["quarantined"].format(n=len(notes["quarantined"]), names=", ".join(sorted(notes["quarantined"])[:5])))
    tone: Tone = "look" if notes["quarantined"] or missing or (decision and decision["outcome"] != "promoted" and notes["how"] == "applied") else "good"
    titles = _titles(lake, night)
    model = Fitted.load(Registry(settings, FORECASTER).version(notes["model_version"]).folder)
    sections = [
        _whole(tree, model, total, words, days), _quality(settings, lake, night, words), _orders(lake, night, titles, words, rules.lead_days,
                                                                                                rules.service_level),
        _surprises(lake, tree, night, titles, words), _parts(tree, words),
    ]
    links = tuple((words[file], (folder / file).as_uri()) for file in ("forecasts.csv", "reorders.csv", "decision.md", "model_card.md")
                  if (folder / file).is_file())
    return Letter(
        slug="forecasts", shop=shop, night=night, language=language, recipients=owner.mail, tone=tone,
        subject=words["subject"].format(shop=shop, date=night, units=units, days=days), headline=words["headline"].format(date=night), lead=tuple(lead),
        sections=tuple(s for s in sections if s is not None), links=links, footer=words["footer"].format(owner=owner.name),
    )


def _days(rows: Any, night: date) -> tuple[int, int]:
    """Closed and missing days among the last 28."""
    last = [r["status"] for r in rows.to_pylist() if r["freq"] == "D" and r["level"] == "total" and r["sale_date"] > night - timedelta(days=28)]
    return last.count("closed"), last.count("missing")


def _titles(lake: Lake, night: date) -> dict[str, str]:
    table = newest_arrow(lake, ITEMS, night, only=passed_nights(lake, night), columns=["item_id", "title"])
    return {i: t for i, t in zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True) if t}


def _whole(tree: Family, model: Fitted, total: list[dict[str, Any]], words: dict[str, str], days: int) -> Section:
    """The next days of the total, in parts, with the fan chart of the forecaster that serves."""
    mean = np.array([[float(r["mean"]) for r in total]])
    panel = tree.panel.cut(0, mean.shape[1]).take([0])
    parts = explain(panel, replace(fallback(panel), mean=mean))
    low, high = np.searchsorted(total[0]["probabilities"], 0.5) - 1, np.searchsorted(total[0]["probabilities"], 0.5)
    level = round(100 * (total[0]["probabilities"][high] - total[0]["probabilities"][low]))
    header = (words["day"], words["expected"], words["interval"].format(level=level), words["level"], words["season"], words["holiday"])
    rows = tuple((
        f"{r['forecast_date']:%a %Y-%m-%d}" if words["day"] == "day" else str(r["forecast_date"]), f"{r['mean']:,.0f}",
        f"{r['quantiles'][low]:,.0f} – {r['quantiles'][high]:,.0f}", f"{parts.level[0, n]:,.0f}", f"{parts.season[0, n]:+,.0f}", f"{parts.known[0, n]:+,.0f}",
    ) for n, r in enumerate(total[:days]))
    picture = None
    seen = int((tree.panel.ends[0] - np.datetime64(model.made_on)).astype(int))
    for part in model.pieces:
        name = f"total/{TOTAL}"
        if name in part.ids:
            row = part.ids.index(name)
            then = replace(tree.panel.cut(seen, model.reach).take([0]), ids=(words["whole"],))
            picture = Picture(pictures.fan_chart(then, _only(part.made, row), 0), words["total.picture"])
    return Section(words["total"], (words["explained"],), Table(header, rows), picture)


def _only(made: Any, row: int) -> Any:
    """One series of a forecast."""
    test, at = made.backtest, [row]
    own = replace(test, forecasts=test.forecasts[:, :, at], actual=test.actual[:, at], shut=test.shut[:, at], scale=test.scale[at], root=test.root[at])
    return replace(made, mean=made.mean[at], bounds={k: (low[at], high[at]) for k, (low, high) in made.bounds.items()}, model=(made.model[row],),
                   combined=made.combined[:, at], backtest=own, weights=made.weights[at])


def _quality(settings: Settings, lake: Lake, night: date, words: dict[str, str]) -> Section | None:
    """Models and baselines, best first, with the picture of their errors."""
    manifest = lake.manifest(FORECAST_EVALUATION, night)
    if manifest is None:
        return None
    found = {(r["model"], r["metric"]): r for r in lake.at(FORECAST_EVALUATION, night).arrow().to_pylist() if r["slice"] == "all"}
    metrics = ["skill", "mase_loss", *sorted({m for _, m in found if m.startswith("coverage@")})]
    models = sorted({m for m, _ in found}, key=lambda m: (-found[m, "skill"]["value"], m))
    named = {**words, "challenger": words["kept"]} if manifest.notes.get("kept") else words
    rows = tuple((named.get(m, m), *(_interval(found.get((m, metric))) for metric in metrics)) for m in models)
    drawn = candidates.folder_of(settings, night, FORECASTER) / "evaluation" / "plots" / "horizon.png"
    picture = Picture(drawn.read_bytes(), words["quality.picture"]) if drawn.is_file() else None
    header = (words["model"], *(m.removesuffix("_loss").replace("mase", "MASE") for m in metrics))
    return Section(words["quality"], (words["quality.words"].format(n=manifest.notes["holdout"]["series"]),), Table(header, rows), picture)


def _interval(row: dict[str, Any] | None) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row else "–"


def _orders(lake: Lake, night: date, titles: dict[str, str], words: dict[str, str], lead: int, service: float) -> Section:
    rows = sorted(lake.at(REORDERS, night).arrow().to_pylist(), key=lambda r: (-r["expected_units"], r["item_id"]))[:SHOWN]
    header = (words["item"], words["expected"], words["order_up_to"], words["out"])
    table = Table(header, tuple((titles.get(r["item_id"], r["item_id"]), f"{r['expected_units']:,.1f}", f"{r['order_up_to']:,}",
                                 words["yes"] if r["stocked_out"] else "") for r in rows))
    return Section(words["orders"], (words["orders.words"].format(lead=lead, service=service, n=len(rows)),), table)


def _surprises(lake: Lake, tree: Family, night: date, titles: dict[str, str], words: dict[str, str]) -> Section | None:
    """What the last week's publication said, beside what came; None where there was none in time."""
    before = [d for d in lake.dates(FORECASTS) if night - timedelta(days=14) <= d <= night - timedelta(days=_WEEK)]
    if not before:
        return None
    told: dict[str, list[dict[str, Any]]] = {}
    for r in lake.at(FORECASTS, before[-1]).arrow().to_pylist():
        if night - timedelta(days=_WEEK) < r["forecast_date"] <= night:
            told.setdefault(f"{r['level']}/{r['series_id']}", []).append(r)
    rows = [k for k, i in enumerate(tree.panel.ids) if len(told.get(str(i), ())) == _WEEK]
    if not rows:
        return None
    said = [told[str(tree.panel.ids[k])] for k in rows]
    mean = np.array([[float(r["mean"]) for r in s] for s in said])
    bounds = tuple(np.array([[r["quantiles"][end] for r in s] for s in said]) for end in (0, -1))
    keys = [tree.keys[k] for k in rows]
    names = [words["whole"] if key == TOTAL else titles.get(key, key) for key in keys]
    drawn = pictures.surprises(tree.panel.take(rows), mean, (bounds[0], bounds[1]), tree.panel.y[rows, -_WEEK:], names=names)
    return Section(words["surprises"].format(days=_WEEK), (words["surprises.words"].format(date=before[-1]),),
                   picture=Picture(drawn, words["surprises.picture"]))


def _parts(tree: Family, words: dict[str, str]) -> Section | None:
    if int(np.isfinite(tree.panel.y[0]).sum()) < 4 * _WEEK:
        return None
    panel = replace(tree.panel.take([0]), ids=(words["whole"],))
    return Section(words["parts"], picture=Picture(pictures.decomposition(panel, 0), words["parts.picture"]))
