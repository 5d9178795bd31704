"""The morning letter to the recommendations' owner."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from nightmarket.contracts import EVALUATION, ITEMS, RECOMMENDATIONS
from nightmarket.lake import Lake, Manifest, newest_arrow
from nightmarket.quality.letter import Letter, Picture, Section, Table, Tone
from nightmarket.quality.verdict import passed_nights
from nightmarket.registry import candidate as candidates
from nightmarket.shop import Language, Settings

SHOWN = 10
"""Items of everyone's list in the letter."""
_METRICS = ("ndcg@10", "recall@20", "hit_rate@10")
_TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "subject": "[{shop}] Recommendations of {date}: {outcome}",
        "headline": "The recommendations of {date} are published.",
        "promoted": "version {version} promoted",
        "serves": "version {version} serves",
        "lead": "{users:,} shoppers, {countries:,} countries and everyone else have a list; {items:,} different items are shown. "
                "Model: {model} version {version}, learnt from data up to {trained}.",
        "fallback": "{n:,} shoppers without a list of their own get their country's, else everyone's.",
        "why": "The model trained tonight: {why}.",
        "quality": "Quality on the frozen holdout",
        "quality.words": "Mean over shoppers with its 95 % interval; higher is better. Offline: being better here is no proof of selling more.",
        "model": "model",
        "everyone": "What everyone is shown",
        "since": "Beside the publication of {date}.",
        "item": "item", "before": "place before", "new": "new", "rank": "{rank}. {title}",
        "turnover": "Of {users:,} shoppers who had a list then, {changed:.0%} now see at least one other item among their first ten.",
        "picture": "Metrics of every model on the holdout, as dots with their 95 % intervals; the challenger is blue.",
        "decision": "The decision, check by check", "card": "Model card",
        "footer": "Written by Nightmarket for {owner}. To go back: python -m jobs.rollback --help.",
        "challenger": "tonight's model", "champion": "the one that served", "item_item": "item-item cosine",
    },
    "zh": {
        "subject": "[{shop}] {date} 的推荐:{outcome}",
        "headline": "{date} 的推荐已发布。",
        "promoted": "版本 {version} 已上线",
        "serves": "版本 {version} 提供服务",
        "lead": "{users:,} 位顾客、{countries:,} 个国家以及其他所有人都有推荐列表,共展示 {items:,} 种商品。模型:{model} 版本 {version},"
                "所用数据截至 {trained}。",
        "fallback": "{n:,} 位顾客没有自己的列表,使用所在国家或全体的列表。",
        "why": "今晚训练的模型:{why}。",
        "quality": "在冻结的保留集上的质量",
        "quality.words": "对顾客取平均,附 95 % 置信区间,越高越好。离线结果更好并不证明销量更高。",
        "model": "模型",
        "everyone": "向所有人展示的商品",
        "since": "与 {date} 的发布相比。",
        "item": "商品", "before": "之前的名次", "new": "新", "rank": "{rank}. {title}",
        "turnover": "当时已有列表的 {users:,} 位顾客中,{changed:.0%} 的前十名里至少换了一件商品。",
        "picture": "各模型在保留集上的指标,圆点附 95 % 置信区间;今晚的模型为蓝色。",
        "decision": "逐项检查的决定", "card": "模型卡片",
        "footer": "由 Nightmarket 为 {owner} 撰写。如需回退:python -m jobs.rollback --help。",
        "challenger": "今晚的模型", "champion": "此前服务的模型", "item_item": "item-item cosine",
    },
}


def announcement(settings: Settings, lake: Lake, night: date) -> Letter:
    """What is said of the night's publication. Raises LakeError where there is none."""
    made = lake.at(RECOMMENDATIONS, night).manifest
    owner = settings.owner_of("recommendations")
    language = owner.language or settings.shop.language
    words = _TEXTS[language]
    shop, model = settings.shop.title or settings.shop.shop, settings.shop.model.name
    version = str(made.notes["model_version"])
    folder = candidates.report_of(settings, night)
    decision = _decision(folder)
    tone: Tone = "good"
    lead = [words["lead"].format(**made.notes, model=model, version=version, trained=made.notes["trained_on"])]
    if made.notes["users_by_fallback"]:
        lead.append(words["fallback"].format(n=made.notes["users_by_fallback"]))
    if decision is not None:
        lead.append(words["why"].format(why=decision["why"]))
        tone = "good" if decision["outcome"] == "promoted" else "look"
    fresh = decision is not None and decision["outcome"] == "promoted" and str(decision["challenger"]) == version
    outcome = words["promoted" if fresh else "serves"].format(version=version)
    sections = [s for s in (_quality(settings, lake, night, words), _everyone(lake, night, words)) if s is not None]
    links = [(words[key], (folder / file).as_uri()) for key, file in (("decision", "decision.md"), ("card", "model_card.md"))
             if (folder / file).is_file()]
    return Letter(
        slug="recommendations", shop=shop, night=night, language=language, recipients=owner.mail, tone=tone,
        subject=words["subject"].format(shop=shop, date=night, outcome=outcome), headline=words["headline"].format(date=night),
        lead=tuple(lead), sections=tuple(sections), links=tuple(links), footer=words["footer"].format(owner=owner.name),
    )


def _decision(folder: Any) -> dict[str, Any] | None:
    """What the model gate decided about the night's own challenger, where it decided."""
    path = folder / "decision.json"
    return dict(json.loads(path.read_text())["decision"]) if path.is_file() else None


def _quality(settings: Settings, lake: Lake, night: date, words: dict[str, str]) -> Section | None:
    """Models and baselines, best first, with the picture of them."""
    if lake.manifest(EVALUATION, night) is None:
        return None
    found = [r for r in lake.at(EVALUATION, night).arrow().to_pylist() if r["slice"] == "all" and r["metric"] in _METRICS]
    value = {(r["model"], r["metric"]): r for r in found}
    models = sorted({r["model"] for r in found}, key=lambda m: (-value[m, _METRICS[0]]["value"], m))
    rows = tuple((words.get(m, m.replace("_", " ")), *(_interval(value.get((m, metric))) for metric in _METRICS)) for m in models)
    drawn = candidates.folder_of(settings, night) / "evaluation" / "plots" / "models.png"
    picture = Picture(drawn.read_bytes(), words["picture"]) if drawn.is_file() else None
    return Section(words["quality"], (words["quality.words"],), Table((words["model"], *_METRICS), rows), picture)


def _interval(row: dict[str, Any] | None) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row else "–"


def _everyone(lake: Lake, night: date, words: dict[str, str]) -> Section:
    """The list of everyone beside the one of the newest earlier publication, and how many shoppers' lists changed."""
    now, earlier = lake.at(RECOMMENDATIONS, night).arrow(), _earlier(lake, night)
    catalogue = newest_arrow(lake, ITEMS, night, only=passed_nights(lake, night), columns=["item_id", "title"])
    titles = dict(zip(catalogue["item_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True))
    places = _places(earlier[1]) if earlier else {}
    rows = []
    for item, rank in sorted(_places(now).items(), key=lambda kv: kv[1])[:SHOWN]:
        shown = words["rank"].format(rank=rank, title=titles.get(item) or item)
        before = str(places[item]) if item in places else words["new"]
        rows.append((shown, before) if earlier else (shown,))
    said: tuple[str, ...] = ()
    if earlier:
        said = (words["since"].format(date=earlier[0].run_date),)
        both, changed = _turnover(now, earlier[1])
        if both:
            said += (words["turnover"].format(users=both, changed=changed / both),)
    return Section(words["everyone"], said, Table((words["item"], words["before"]) if earlier else (words["item"],), tuple(rows)))


def _earlier(lake: Lake, night: date) -> tuple[Manifest, Any] | None:
    before = [d for d in lake.dates(RECOMMENDATIONS) if d < night]
    if not before:
        return None
    partition = lake.at(RECOMMENDATIONS, before[-1])
    return partition.manifest, partition.arrow()


def _places(rows: Any) -> dict[str, int]:
    """Item -> place in everyone's list."""
    import pyarrow.compute as pc

    shown = rows.filter(pc.equal(rows["audience"], "everyone"))
    return dict(zip(shown["item_id"].to_pylist(), shown["rank"].to_pylist(), strict=True))


def _turnover(now: Any, before: Any) -> tuple[int, int]:
    """(shoppers with a list in both, those whose ten first items are not the same set)."""
    import pyarrow.compute as pc

    def first_ten(rows: Any) -> Any:
        own = rows.filter(pc.and_(pc.equal(rows["audience"], "user"), pc.less_equal(rows["rank"], 10)))
        return own.select(["audience_id", "item_id"]).to_pandas().groupby("audience_id")["item_id"].agg(frozenset)

    left, right = first_ten(now), first_ten(before)
    both = left.index.intersection(right.index)
    return len(both), int((left[both] != right[both]).sum())
