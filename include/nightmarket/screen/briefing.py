"""The morning letter to the risk owner: what was stopped and why, how well, what waits for a person."""

from __future__ import annotations

import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket.contracts import SCREENED, SCREENING_DECISIONS, SCREENING_EVALUATION, SCREENING_FEATURES
from nightmarket.lake import Lake, nights
from nightmarket.quality.letter import Letter, Picture, Section, Table, Tone
from nightmarket.registry import candidate as candidates
from nightmarket.registry.kinds import SCREENER
from nightmarket.screen import ledger, pictures
from nightmarket.screen.blocklist import waiting
from nightmarket.screen.decisions import Costs
from nightmarket.shop import Language, Settings

SHOWN = 12
"""Cases in the letter, the most suspicious first."""
_METRICS = ("average_precision", "precision_at_capacity", "recall_at_capacity")
_TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "subject": "[{shop}] Fraud screening of {date}: {blocked:,} blocked, {review:,} to review",
        "headline": "The screening of {date} is done.",
        "lead": "{rows:,} decisions: {allowed:,} allowed, {review:,} to review, {blocked:,} blocked. Model: {model} version {version}, learned from data up to {trained}.",
        "known": "{n:,} of the blocked are known by a verdict, not by the model.",
        "proposals": "{n:,} proposals for the blocklist wait for a person. Until somebody answers, nothing of them is blocked.",
        "unlabelled": "The model was judged on planted cases, for there are no verdicts: they show that it works, not how much it finds.",
        "counts": "What was decided", "kind": "kind", "allow": "allowed", "review": "to review", "block": "blocked", "threshold": "looked at from",
        "hours": "hours to decision", "drift": "drift of scores",
        "moved": "drift of features", "counts.words": "Drift is the population stability index of tonight's scores and features against four weeks; above 0.25 is much.",
        "reviewed": "What became of the last four weeks' alerts", "alerts": "alerts with a verdict", "bad": "bad", "precision": "precision", "missed": "bad ones allowed",
        "cases": "The most suspicious cases", "case": "case", "score": "score", "decision": "decision", "why": "why",
        "week": "The week's alerts by reason", "week.alt": "Stacked bars: alerts of each day by their first reason.",
        "cost": "What each threshold would cost", "cost.alt": "Curves of the cost of missed fraud, of reviews and of both by threshold; the chosen one is marked.",
        "curve": "What the score finds", "curve.alt": "Precision against recall of the new screener and its baselines on later rows.",
        "ring": "Who hangs together", "ring.alt": "Graph of blocked cases and what they share; known bad ones are ringed in red.",
        "quality": "Quality on later rows", "quality.words": "Mean over kinds with its 95 % interval over rows; higher is better.", "model": "model",
        "card": "Model card", "decision.link": "The decision about the model, check by check",
        "footer": "Written by Nightmarket for {owner}. To unblock: python -m jobs.blocklist unblock --help; to say what was true: python -m jobs.feedback --help.",
        "order": "order", "account": "account", "brushing": "brushing", "challenger": "tonight's model", "champion": "the one that served",
    },
    "zh": {
        "subject": "[{shop}] {date} 的欺诈筛查:拦截 {blocked:,} 项,待审核 {review:,} 项",
        "headline": "{date} 的筛查已完成。",
        "lead": "共 {rows:,} 项决定:放行 {allowed:,},待审核 {review:,},拦截 {blocked:,}。模型:{model} 版本 {version},所用数据截至 {trained}。",
        "known": "其中 {n:,} 项拦截来自已知结论,而非模型判断。",
        "proposals": "黑名单有 {n:,} 项提议等待人工确认;在有人答复之前不会生效。",
        "unlabelled": "由于没有已知结论,模型是在植入的案例上评估的:这只说明它能工作,不说明能发现多少欺诈。",
        "counts": "决定一览", "kind": "类别", "allow": "放行", "review": "待审核", "block": "拦截", "threshold": "审核阈值",
        "hours": "决定用时(小时)", "drift": "分数漂移",
        "moved": "特征漂移", "counts.words": "漂移为今晚分数与特征相对于前四周的群体稳定性指数,超过 0.25 即为明显。",
        "reviewed": "最近四周警报的结果", "alerts": "已有结论的警报", "bad": "确为欺诈", "precision": "准确率", "missed": "放行的欺诈",
        "cases": "最可疑的案例", "case": "案例", "score": "分数", "decision": "决定", "why": "原因",
        "week": "一周警报的原因", "week.alt": "堆叠柱状图:每天的警报按首要原因划分。",
        "cost": "各阈值的成本", "cost.alt": "漏检成本、审核成本及总成本随阈值变化的曲线,标出所选阈值。",
        "curve": "分数能发现什么", "curve.alt": "新模型与基线在后期数据上的精确率与召回率曲线。",
        "ring": "关联图", "ring.alt": "被拦截案例及其共享信息的关系图,已知欺诈以红圈标出。",
        "quality": "在后期数据上的质量", "quality.words": "对各类别取平均,附 95 % 置信区间,越高越好。", "model": "模型",
        "card": "模型卡片", "decision.link": "逐项检查的模型决定",
        "footer": "由 Nightmarket 为 {owner} 撰写。解除拦截:python -m jobs.blocklist unblock --help;反馈结论:python -m jobs.feedback --help。",
        "order": "订单", "account": "账户", "brushing": "刷单", "challenger": "今晚的模型", "champion": "此前服务的模型",
    },
}
_KIND = {"en": "review", "zh": "评论"}
"""The kind, apart from the decision of that name."""


def briefing(settings: Settings, lake: Lake, night: date) -> Letter:
    """What is said of the night's screening. Raises LakeError where there is none."""
    partition = lake.at(SCREENING_DECISIONS, night)
    made, rows = partition.manifest, partition.arrow().to_pylist()
    owner = settings.owner_of("risk")
    language = owner.language or settings.shop.language
    words = _TEXTS[language] | {"kind.review": _KIND[language]}
    shop = settings.shop.title or settings.shop.shop
    count = {d: sum(r["decision"] == d for r in rows) for d in ("allow", "review", "block")}
    version, trained = str(made.notes["model_version"]), made.notes["trained_on"]
    lead = [words["lead"].format(rows=len(rows), allowed=count["allow"], review=count["review"], blocked=count["block"], model=settings.shop.screening.name,
                                 version=version, trained=trained)]
    if known := sum(r["rule"] == "verdict" and r["decision"] == "block" for r in rows):
        lead.append(words["known"].format(n=known))
    open_ = len(waiting(ledger.read(settings), ledger.end_of(settings, night)))
    if open_:
        lead.append(words["proposals"].format(n=open_))
    judged = lake.manifest(SCREENING_EVALUATION, night)
    if judged is not None and judged.notes["judged_by"] != "verdicts":
        lead.append(words["unlabelled"])
    tone: Tone = "look" if count["review"] or open_ else "good"
    with tempfile.TemporaryDirectory(prefix="nightmarket-briefing-") as scratch:
        sections = [_counts(made.notes, rows, words), _reviewed(made.notes, words), _cases(rows, words), _week(lake, night, Path(scratch), words),
                    _quality(settings, lake, night, words), _cost(settings, lake, night, rows, Path(scratch), words), _ring(lake, night, rows, Path(scratch), words)]
    folder = candidates.report_of(settings, night, SCREENER)
    links = tuple((words[k], (folder / f).as_uri()) for k, f in (("decision.link", "decision.md"), ("card", "model_card.md")) if (folder / f).is_file())
    return Letter(
        slug="screening", shop=shop, night=night, language=language, recipients=owner.mail, tone=tone,
        subject=words["subject"].format(shop=shop, date=night, blocked=count["block"], review=count["review"]), headline=words["headline"].format(date=night),
        lead=tuple(lead), sections=tuple(s for s in sections if s is not None), links=links, footer=words["footer"].format(owner=owner.name),
    )


def _named(kind: str, words: dict[str, str]) -> str:
    return words.get(f"kind.{kind}", words.get(kind, kind))


def _counts(notes: dict[str, Any], rows: list[dict[str, Any]], words: dict[str, str]) -> Section:
    table = []
    for kind in SCREENED:
        mine = [r for r in rows if r["kind"] == kind]
        if mine:
            table.append((_named(kind, words), *(f"{sum(r['decision'] == d for r in mine):,}" for d in ("allow", "review", "block")), f"{mine[0]['threshold']:.3f}",
                          f"{notes['hours_to_decision'][kind]:.0f}" if kind in notes["hours_to_decision"] else "–",
                          f"{notes['score_drift'][kind]:.2f}" if kind in notes["score_drift"] else "–",
                          next((f"{v:.2f} {n}" for n, v in notes.get("feature_drift", {}).get(kind, {}).items()), "–")))
    header = tuple(words[k] for k in ("kind", "allow", "review", "block", "threshold", "hours", "drift", "moved"))
    return Section(words["counts"], (words["counts.words"],), Table(header, tuple(table)))


def _reviewed(notes: dict[str, Any], words: dict[str, str]) -> Section | None:
    found = notes.get("reviewed", {})
    if not found:
        return None
    table = tuple((_named(k, words), f"{v['alerts']:,}", f"{v['bad']:,}", "–" if v["precision"] is None else f"{v['precision']:.0%}", f"{v['missed']:,}")
                  for k, v in found.items())
    return Section(words["reviewed"], (), Table(tuple(words[k] for k in ("kind", "alerts", "bad", "precision", "missed")), table))


def _cases(rows: list[dict[str, Any]], words: dict[str, str]) -> Section | None:
    alerts = sorted((r for r in rows if r["decision"] != "allow" and r["rule"] != "verdict"), key=lambda r: (-r["score"], r["kind"], r["id"]))[:SHOWN]
    if not alerts:
        return None
    table = tuple((f"{_named(r['kind'], words)} {r['id']}", words[r["decision"]], f"{r['score']:.3f}", "; ".join(r["reasons"])) for r in alerts)
    return Section(words["cases"], (), Table(tuple(words[k] for k in ("case", "decision", "score", "why")), table, numbers=False))


def _week(lake: Lake, night: date, scratch: Path, words: dict[str, str]) -> Section | None:
    days, why = [], []
    for partition in nights(lake, SCREENING_DECISIONS, night, night - timedelta(days=6)):
        for r in partition.arrow(["decision", "reasons", "at"]).to_pylist():
            if r["decision"] != "allow" and r["reasons"] and r["at"].date() >= night - timedelta(days=6):
                days.append(r["at"].date().isoformat())
                why.append(_plain(r["reasons"][0]))
    if not days:
        return None
    drawn = pictures.alerts_by_reason(scratch / "week.png", days, why, words["week"])
    return Section(words["week"], picture=Picture(drawn.read_bytes(), words["week.alt"]))


def _plain(reason: str) -> str:
    """A reason without its numbers, so that alike ones are counted together."""
    kept = [w for w in reason.replace(",", "").split() if not any(c.isdigit() for c in w)]
    return " ".join(kept)[:48] or reason[:48]


def _quality(settings: Settings, lake: Lake, night: date, words: dict[str, str]) -> Section | None:
    if lake.manifest(SCREENING_EVALUATION, night) is None:
        return None
    value = {(r["model"], r["metric"]): r for r in lake.at(SCREENING_EVALUATION, night).arrow().to_pylist() if r["slice"] == "all"}
    models = sorted({m for m, _ in value}, key=lambda m: (-value[m, _METRICS[0]]["value"], m))
    table = tuple((words.get(m, m.replace("_", " ")), *(f"{v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for metric in _METRICS for v in [value[m, metric]]))
                  for m in models)
    drawn = sorted((candidates.folder_of(settings, night, SCREENER) / "evaluation" / "plots").glob("*_precision_recall.png"))
    first = next((p for p in drawn if p.name.startswith("order")), drawn[0] if drawn else None)
    picture = Picture(first.read_bytes(), words["curve.alt"]) if first else None
    return Section(words["quality"], (words["quality.words"],), Table((words["model"], *_METRICS), table), picture)


def _cost(settings: Settings, lake: Lake, night: date, rows: list[dict[str, Any]], scratch: Path, words: dict[str, str]) -> Section | None:
    """Of the orders of all nights so far whose verdict is known, as they were decided before it was."""
    features = lake.at(SCREENING_FEATURES, night).arrow(["kind", "id", "is_bad"])
    known = {i: b for k, i, b in zip(*(features[c].to_pylist() for c in ("kind", "id", "is_bad")), strict=True) if k == "order" and b is not None}
    seen: list[tuple[float, float]] = []
    columns = ["kind", "id", "probability", "rule"]
    for partition in nights(lake, SCREENING_DECISIONS, night, night - timedelta(days=settings.shop.screening.history_days)):
        for kind, key, probability, rule in zip(*(partition.arrow(columns)[c].to_pylist() for c in columns), strict=True):
            if kind == "order" and probability is not None and rule != "verdict" and key in known:
                seen.append((probability, float(known[key])))
    if len(seen) < 20 or len({v for _, v in seen}) < 2:
        return None
    probability, label = (np.array(v) for v in zip(*seen, strict=True))
    each = settings.shop.screening.costs_of("order")
    threshold = next((r["threshold"] for r in rows if r["kind"] == "order"), 1.0)
    drawn = pictures.cost_curve(scratch / "cost.png", label, probability, Costs(each.missed, each.review, each.wrongly_blocked, each.capacity), threshold, words["cost"])
    return Section(words["cost"], picture=Picture(drawn.read_bytes(), words["cost.alt"]))


def _ring(lake: Lake, night: date, rows: list[dict[str, Any]], scratch: Path, words: dict[str, str]) -> Section | None:
    """The most suspicious order of the night, and the blocked or known bad ones that share something with it."""
    stopped = sorted((r for r in rows if r["kind"] == "order" and r["decision"] != "allow"), key=lambda r: (-r["score"], r["id"]))
    if not stopped:
        return None
    partition = lake.at(SCREENING_FEATURES, night)
    names = partition.manifest.notes["kinds"]["order"]["entities"]
    table = [r for r in partition.arrow(["kind", "id", "is_bad", "entities"]).to_pylist() if r["kind"] == "order"]
    wanted = {r["id"] for r in stopped} | {r["id"] for r in table if r["is_bad"]}
    of = {r["id"]: {f"{n} {_short(e)}" for n, e in zip(names, r["entities"], strict=True) if e and n != "address"} for r in table if r["id"] in wanted}
    group, reach = {stopped[0]["id"]}, of.get(stopped[0]["id"], set())
    for _ in range(2):
        group |= {i for i, e in of.items() if e & reach}
        reach = set().union(*(of.get(i, set()) for i in group))
    shown = sorted(group)[:25]
    edges = [(f"order {_short(i)}", e) for i in shown for e in sorted(of.get(i, set())) if sum(e in of.get(j, set()) for j in shown) > 1]
    if len(shown) < 2 or not edges:
        return None
    kinds = {n: n.split()[0] for e in edges for n in e}
    bad = [f"order {_short(r['id'])}" for r in table if r["is_bad"] and r["id"] in shown]
    drawn = pictures.ring(scratch / "ring.png", edges, kinds, bad, words["ring"])
    return Section(words["ring"], picture=Picture(drawn.read_bytes(), words["ring.alt"]))


def _short(value: str) -> str:
    return value if len(value) <= 12 else f"…{value[-8:]}"
