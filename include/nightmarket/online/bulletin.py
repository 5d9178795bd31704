"""An experiment's page and letter: where it stands, what it shows, what happens next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from nightmarket.online.before import Foreseen
from nightmarket.online.experiments import Reading, State
from nightmarket.online.promotion import promoted
from nightmarket.quality.letter import Letter, Section, Table, Tone
from nightmarket.registry.ledger import Move
from nightmarket.shop import Experiment, Language, Settings

_TONES: dict[str, Tone] = {"running": "good", "won": "good", "harmed": "bad", "invalid": "bad", "no_difference": "look", "inconclusive": "look"}
_TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "subject": "[{shop}] Experiment {name}: {status}",
        "headline": "Experiment {name}: {status}",
        "running": "running, {share:.0%} of its traffic take part", "won": "{arm} won", "harmed": "stopped, {arm} does harm",
        "invalid": "stopped, its arms are not comparable", "no_difference": "no difference", "inconclusive": "undecided when its days were over",
        "lead": "About {metric} by shopper over {horizon} days; smallest change worth finding {effect:.0%}. Began {starts}, ends {ends} at the latest.",
        "plan": "Planned: {units:,} shoppers a treatment (a single look at the end would need {once:,}). Before it began the mean was {mean:.4g}, "
                "and what shoppers did before explains {explained:.0%} of the differences between them.",
        "no_plan": "Not planned: the metric was 0 for everybody before it began.",
        "readings": "What it shows", "readings.words": "Change against {control}, better is positive; the intervals stay true however often one looks.",
        "arm": "treatment, metric", "shoppers": "shoppers", "change": "change", "p": "p",
        "guardrail": "{arm}: {metric} (guardrail, a loss of {tolerance:.0%} is {excluded})", "metric": "{arm}: {metric}",
        "excluded": "excluded", "open": "not excluded yet", "early": "too few yet",
        "arms": "Who was exposed", "arms.words": "Sample-ratio check: chi-square {chi:.2f}, p {once:.3g} for one look, {always:.3g} for all looks.",
        "share": "share",
        "promote": "To make it the champion: python -m jobs.experiment --run-date {night} --promote {name} --approve NAME --reason TEXT",
        "ahead": "begins on {starts}", "ahead.title": "What the log says beforehand",
        "ahead.words": "Mean {metric} by shopper over {horizon} days, had every shopper of the log been shown the arm's lists: off-policy estimates with 95 % "
                       "intervals. What was shown instead came to {shown}.",
        "ahead.arm": "{arm}, version {version}: {estimator}", "ahead.value": "estimate", "ahead.none": "{arm}, version {version}: no estimate: {why}.",
        "ahead.code": "No registered version serves an arm, so what it would show is not known here, and nothing can be said beforehand.",
        "ahead.agreed": "of {n:,} shoppers {agreed:,} were shown what it would have shown, {covered:.0%} of its lists could have been shown",
        "promoted": "Its version is the champion: {who}, {why}.",
        "not promoted": "It was not promoted by itself: {why}. That is not tried again; once the cause is mended a person may.",
        "footer": "Written by Nightmarket for {owner}.",
    },
    "zh": {
        "subject": "[{shop}] 实验 {name}:{status}",
        "headline": "实验 {name}:{status}",
        "running": "进行中,{share:.0%} 的流量参与", "won": "{arm} 胜出", "harmed": "已停止,{arm} 造成损害",
        "invalid": "已停止,各组不可比", "no_difference": "没有差异", "inconclusive": "期限已到,尚无结论",
        "lead": "指标:每位顾客 {horizon} 天内的 {metric};值得发现的最小变化 {effect:.0%}。始于 {starts},最迟 {ends} 结束。",
        "plan": "计划:每个实验组 {units:,} 位顾客(仅在结束时看一次则需 {once:,})。开始前均值为 {mean:.4g},顾客此前的行为解释了差异的 {explained:.0%}。",
        "no_plan": "无法计划:开始前该指标对所有人均为 0。",
        "readings": "实验结果", "readings.words": "与 {control} 相比的变化,正值更好;无论看多少次,区间都成立。",
        "arm": "实验组与指标", "shoppers": "顾客", "change": "变化", "p": "p",
        "guardrail": "{arm}:{metric}(护栏,{tolerance:.0%} 的损失{excluded})", "metric": "{arm}:{metric}",
        "excluded": "已排除", "open": "尚未排除", "early": "样本太少",
        "arms": "参与的顾客", "arms.words": "样本比例检验:卡方 {chi:.2f},单次 p 为 {once:.3g},随时有效 p 为 {always:.3g}。",
        "share": "份额",
        "promote": "如需上线:python -m jobs.experiment --run-date {night} --promote {name} --approve 姓名 --reason 理由",
        "ahead": "将于 {starts} 开始", "ahead.title": "日志的事先估计",
        "ahead.words": "若日志中每位顾客都看到该组的列表,{horizon} 天内每位顾客的平均 {metric}:离线策略估计及 95 % 区间。实际展示所得为 {shown}。",
        "ahead.arm": "{arm},版本 {version}:{estimator}", "ahead.value": "估计值", "ahead.none": "{arm},版本 {version}:无法估计:{why}。",
        "ahead.code": "没有已注册版本为实验组提供服务,其展示内容未知,无法事先估计。",
        "ahead.agreed": "{n:,} 位顾客中有 {agreed:,} 位看到了与之相同的列表;其列表有 {covered:.0%} 可能被展示过",
        "promoted": "其版本已成为当前模型:{who},{why}。",
        "not promoted": "未能自动上线:{why}。系统不会再次尝试;排除原因后可由人工上线。",
        "footer": "由 Nightmarket 为 {owner} 撰写。",
    },
}


def bulletin(settings: Settings, state: State, rules: Experiment, came: Move | None = None) -> Letter:
    """What the recommendations' owner is told of an experiment after a night; `came` is the ledger's row about its winner, if any."""
    owner = settings.owner_of("recommendations")
    language = owner.language or settings.shop.language
    words = _TEXTS[language]
    shop = settings.shop.title or settings.shop.shop
    status = words[state.status].format(share=state.enrolment(rules), arm=state.arm)
    control = next(iter(rules.arms))
    lead = [f"{state.why[0].upper()}{state.why[1:]}.", words["lead"].format(
        metric=rules.metric, horizon=rules.horizon_days, effect=rules.effect, starts=rules.starts,
        ends=rules.starts + timedelta(days=rules.days - 1))]
    if state.plan is not None:
        lead.append(words["plan"].format(units=state.plan.units, once=state.plan.once, mean=state.plan.mean, explained=state.plan.explained)
                    if state.plan.units else words["no_plan"])
    if came is not None:
        lead.append(words["promoted" if promoted(came) else "not promoted"].format(who=came.who, why=came.why))
    if state.status == "won" and state.arm in rules.serves and not promoted(came):
        lead.append(words["promote"].format(night=state.night, name=state.name))
    readings = Table((words["arm"], words["shoppers"], words["change"], words["p"]), tuple(_row(r, words) for r in state.readings))
    found = state.mismatch
    total = max(1, sum(state.units.values()))
    arms = Table((words["arm"], words["shoppers"], words["share"]), tuple(
        (arm, f"{n:,}", f"{n / total:.1%} / {rules.arms[arm]:.1%}") for arm, n in state.units.items()))
    return Letter(
        slug=f"experiment-{state.name}", shop=shop, night=state.night, language=language, recipients=owner.mail, tone=_TONES[state.status],
        subject=words["subject"].format(shop=shop, name=state.name, status=status),
        headline=words["headline"].format(name=state.name, status=status), lead=tuple(lead),
        sections=(
            Section(words["readings"], (words["readings.words"].format(control=control),), readings),
            Section(words["arms"], (words["arms.words"].format(chi=found.chi_square, once=found.p_once, always=found.p_always),), arms),
        ),
        footer=words["footer"].format(owner=owner.name),
    )


def announcement(settings: Settings, name: str, rules: Experiment, arms: Sequence[Foreseen], night: date) -> Letter:
    """What the owner is told of an experiment before it begins: what its arms would have earned by the log, or why that cannot be told."""
    owner = settings.owner_of("recommendations")
    language = owner.language or settings.shop.language
    words, shop = _TEXTS[language], settings.shop.title or settings.shop.shop
    status = words["ahead"].format(starts=rules.starts)
    said = [words["ahead.none"].format(arm=a.arm, version=a.version, why=a.why) for a in arms if a.why] or ([] if arms else [words["ahead.code"]])
    rows = []
    for a in arms:
        for estimator, e in a.estimates.items():
            rows.append((words["ahead.arm"].format(arm=a.arm, version=a.version, estimator=estimator), f"{e.value:.4g} [{e.low:.4g}, {e.high:.4g}]"))
        if a.estimates:
            said.append(f"{a.arm}: " + words["ahead.agreed"].format(n=a.shoppers, agreed=a.agreed, covered=min(a.covered, 1.0)))
    shown = ", ".join(sorted({f"{a.shown:.4g}" for a in arms if a.estimates}))
    if rows:
        said.insert(0, words["ahead.words"].format(metric=rules.metric, horizon=rules.horizon_days, shown=shown))
    lead = words["lead"].format(metric=rules.metric, horizon=rules.horizon_days, effect=rules.effect, starts=rules.starts,
                                ends=rules.starts + timedelta(days=rules.days - 1))
    return Letter(
        slug=f"experiment-{name}", shop=shop, night=night, language=language, recipients=owner.mail, tone="look" if any(a.why for a in arms) else "good",
        subject=words["subject"].format(shop=shop, name=name, status=status), headline=words["headline"].format(name=name, status=status), lead=(lead,),
        sections=(Section(words["ahead.title"], tuple(said), Table((words["arm"], words["ahead.value"]), tuple(rows)) if rows else None),),
        footer=words["footer"].format(owner=owner.name),
    )


def _row(r: Reading, words: dict[str, str]) -> tuple[str, ...]:
    name = words["metric"].format(arm=r.arm, metric=r.metric) if r.role == "metric" else words["guardrail"].format(
        arm=r.arm, metric=r.metric, tolerance=r.tolerance, excluded=words["excluded" if r.excluded else "open"])
    if r.change is None or r.low is None or r.high is None:
        return name, f"{r.units:,}", words["early"], "–"
    return name, f"{r.units:,}", f"{r.change:+.1%} [{r.low:+.1%}, {r.high:+.1%}]", f"{r.p_value:.3g}"
