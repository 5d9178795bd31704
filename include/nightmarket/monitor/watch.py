"""What of the lake is watched for drift: a night's clean tables, its publication, and what became of the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.contracts import (
    DRIFT,
    EVALUATION,
    EVENTS,
    FEATURES,
    ITEMS,
    ORDERS,
    RECOMMENDATIONS,
    REVIEWS,
    SCREENING_DECISIONS,
    Dataset,
)
from nightmarket.evaluate.bootstrap import mean
from nightmarket.evaluate.protocol import Holdout
from nightmarket.lake import Input, Lake, Manifest, newest_arrow
from nightmarket.monitor import drift
from nightmarket.monitor.drift import Finding, Hypothesis, Sample
from nightmarket.monitor.retraining import Live
from nightmarket.quality.verdict import passed_nights
from nightmarket.shop import Settings

FIRST_PLACES = 10
_EVENT_COLUMNS = ("event_id", "event_type", "session_id", "order_id", "user_id", "item_id", "unit_price", "quantity", "country", "referrer")
_ORDER_COLUMNS = ("order_id", "user_id", "amount", "payment_method", "country", "is_fraud", "is_cancellation")
_REVIEW_COLUMNS = ("review_id", "user_id", "rating", "is_fake")
_METRIC = "ndcg@10"


@dataclass(frozen=True)
class Watched:
    """What the watch of a night found."""

    findings: tuple[Finding, ...]
    hits: int
    """Buyers of the night who found something that they bought in the first places of the publication before."""
    buyers: int
    live: Live | None
    versions: Mapping[str, str]
    """By alert, the version whose publication was measured."""

    @property
    def drifted(self) -> tuple[str, ...]:
        return tuple(drift.drifted(self.findings))

    def table(self) -> pa.Table:
        """Rows of gold.drift."""
        return pa.Table.from_pylist([asdict(f) for f in self.findings], schema=DRIFT.arrow_schema())

    def notes(self) -> dict[str, Any]:
        return {"drifted": list(self.drifted), "hits": self.hits, "buyers": self.buyers, "live": asdict(self.live) if self.live else None,
                "versions": dict(self.versions)}


def inputs(lake: Lake, settings: Settings, night: date) -> list[Input]:
    """Everything that the watch of a night is made from."""
    found = []
    for day in [*window(lake, settings, night), night]:
        for dataset in (EVENTS, ORDERS, REVIEWS, RECOMMENDATIONS):
            made = lake.manifest(dataset, day)
            if made is not None:
                found.append(made.as_input())
    found += [m.as_input() for d in lake.dates(SCREENING_DECISIONS)
              if night - timedelta(days=settings.shop.screening.history_days) <= d <= night and (m := lake.manifest(SCREENING_DECISIONS, d)) is not None]
    items = lake.manifest(ITEMS, night)
    return found + ([items.as_input()] if items else [])


def window(lake: Lake, settings: Settings, night: date) -> list[date]:
    """Nights that the gate let through among those of the reference weeks, oldest first."""
    passed = passed_nights(lake, night - timedelta(days=1))
    first = night - timedelta(weeks=settings.shop.drift.weeks)
    return sorted(d for d in passed if first <= d < night and lake.manifest(EVENTS, d) is not None)


def watch(settings: Settings, lake: Lake, night: date) -> Watched:
    """Compares a night with its reference window. Raises LakeError where the night's clean tables are not published."""
    rules = settings.shop.drift
    passed = passed_nights(lake, night)
    catalogue = newest_arrow(lake, ITEMS, night, only=passed, columns=["item_id", "category"])
    category_of = {i: c for i, c in zip(*(catalogue[c].to_pylist() for c in ("item_id", "category")), strict=True) if c}
    past = window(lake, settings, night)
    tonight = sample(lake, night, category_of)
    weekdays = [sample(lake, d, category_of) for d in past if (night - d).days % 7 == 0]
    # of the days of the week only an unbroken row of nights tells
    hypotheses = drift.features(tonight, weekdays, [brief(lake, d) for d in _unbroken(past, night)], rules)
    hypotheses += predictions(settings, lake, night, past, category_of)
    hits, buyers = found_again(lake, night)
    before = [m.notes for d in past if (m := lake.manifest(DRIFT, d)) is not None]
    hypotheses += decisions(settings, lake, night, past)
    concepts = drift.hit_rate(hits, buyers, sum(n["hits"] for n in before), sum(n["buyers"] for n in before),
                              settings.shop.retraining.live_loss, rules)
    concepts += labels(settings, lake, night, past)
    live = live_quality(settings, lake, night)
    versions = {"drift.recommendations": _version(lake, [*past, night]), "quality.hit_rate": _version(lake, _served(lake, night)),
                "quality.live": live.version if live else None}
    findings = (*drift.judged(hypotheses, rules), *drift.judged(concepts, rules, drift.CONCEPTS))
    return Watched(findings, hits, buyers, live, {name: v for name, v in versions.items() if v})


def _version(lake: Lake, days: Sequence[date]) -> str | None:
    """Who published the newest recommendations of these days."""
    made = next((m for d in reversed(days) if (m := lake.manifest(RECOMMENDATIONS, d)) is not None), None)
    return made.notes.get("model_version") if made else None


def _served(lake: Lake, night: date) -> list[date]:
    """Days of a week before the night with publications, oldest first."""
    return [d for d in lake.dates(RECOMMENDATIONS) if night - timedelta(days=7) <= d < night]


def _unbroken(past: Sequence[date], night: date) -> list[date]:
    """The newest nights of `past` without a hole before `night`."""
    kept: list[date] = []
    for day in reversed(past):
        if day != night - timedelta(days=len(kept) + 1):
            break
        kept.append(day)
    return kept[::-1]


def sample(lake: Lake, night: date, category_of: dict[str, str]) -> Sample:
    """The night's clean tables as independent units."""
    orders, reviews = (
        _frame(lake, dataset, night, columns) if lake.manifest(dataset, night) is not None else None
        for dataset, columns in ((ORDERS, _ORDER_COLUMNS), (REVIEWS, _REVIEW_COLUMNS)))
    return drift.sample(_frame(lake, EVENTS, night, _EVENT_COLUMNS), orders, reviews, category_of)


def brief(lake: Lake, night: date) -> Sample:
    """Only what every night of the window is asked for: how many rows, from the manifests, labels, and what items cost."""
    rows = {d.name: m.rows_out for d in (EVENTS, ORDERS) if (m := lake.manifest(d, night)) is not None}
    found: dict[str, dict[str, int]] = {}
    for dataset, key, column in ((ORDERS, "order_id", "is_fraud"), (REVIEWS, "review_id", "is_fake")):
        frame = _frame(lake, dataset, night, (key, column))
        known = frame[frame[column].notna()]
        if len(known):
            found[f"{dataset.name}.{column}"] = drift.units_by_value(known, key, key, column)
    priced = _frame(lake, EVENTS, night, ("event_id", *drift.VISIT, "item_id", "unit_price"))
    return Sample(categories=found, rows=rows, prices=drift.prices(drift.one_row_a_cluster(priced, drift.VISIT, "event_id")),
                  usual=drift.usual_prices(priced))


def _frame(lake: Lake, dataset: Dataset, night: date, columns: Sequence[str]) -> pd.DataFrame:
    """The night's rows, decimals as floats; empty where the shop does not have the dataset."""
    if lake.manifest(dataset, night) is None:
        return dataset.arrow_schema().empty_table().select(list(columns)).to_pandas()
    table = lake.at(dataset, night).arrow(list(columns))
    for n, column in enumerate(table.schema):
        if pa.types.is_decimal(column.type):
            table = table.set_column(n, column.name, table[column.name].cast(pa.float64()))
    return table.to_pandas()


def predictions(settings: Settings, lake: Lake, night: date, past: Sequence[date], category_of: dict[str, str]) -> list[Hypothesis]:
    """The newest publication up to the night, which is tonight's where that was made already, against those of the window before
    it: scores among those of the same version, categories among all."""
    rules = settings.shop.drift
    published = [m for d in [*past, night] if (m := lake.manifest(RECOMMENDATIONS, d)) is not None]
    if len(published) < 2:
        return []
    *before, made = published
    version = made.notes.get("model_version")
    scores, categories = _published(lake, date.fromisoformat(made.run_date), category_of)
    earlier = {date.fromisoformat(m.run_date): _published(lake, date.fromisoformat(m.run_date), category_of) for m in before}
    same = [earlier[date.fromisoformat(m.run_date)][0] for m in before if m.notes.get("model_version") == version]
    found = drift.numeric("prediction", "recommendations.score", scores, np.concatenate(same), rules) if same else []
    total: dict[str, int] = {}
    for _, counts in earlier.values():
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return found + drift.categorical("prediction", "recommendations.category", categories, total, rules)


def _published(lake: Lake, night: date, category_of: dict[str, str]) -> tuple[np.ndarray, dict[str, int]]:
    """(scores of the first place, shoppers who are shown each category in the first places)."""
    table = lake.at(RECOMMENDATIONS, night).arrow(["audience", "audience_id", "rank", "item_id", "score"])
    own = table.filter(pc.and_(pc.equal(table["audience"], "user"), pc.less_equal(table["rank"], FIRST_PLACES))).to_pandas()
    own["category"] = own["item_id"].map(category_of)
    return own.loc[own["rank"] == 1, "score"].to_numpy(), drift.units_by_value(own, "audience_id", "audience_id", "category")


def decisions(settings: Settings, lake: Lake, night: date, past: Sequence[date]) -> list[Hypothesis]:
    """What the newest screening up to the night said of what had just come in, against the window's of the same version, by kind."""
    published = [m for d in [*past, night] if (m := lake.manifest(SCREENING_DECISIONS, d)) is not None]
    if len(published) < 2:
        return []
    *before, made = published
    same = [_screened(settings, lake, m) for m in before if m.notes.get("model_version") == made.notes.get("model_version")]
    found: list[Hypothesis] = []
    for kind, scores in sorted(_screened(settings, lake, made).items()):
        earlier = [s[kind] for s in same if kind in s]
        if earlier:
            found += drift.numeric("prediction", f"screening_decisions.{kind}", scores, np.concatenate(earlier), settings.shop.drift)
    return found


def _screened(settings: Settings, lake: Lake, made: Manifest) -> dict[str, np.ndarray]:
    """kind -> (n,) scores of what happened on the day of the night or the one before: a first night decides about a whole history."""
    night = date.fromisoformat(made.run_date)
    table = lake.at(SCREENING_DECISIONS, night).arrow(["kind", "at", "score", "rule"])
    recent = pc.greater_equal(table["at"], pa.scalar(Holdout.of(night, 2, settings.zone).cut, pa.timestamp("us", "UTC")))
    own = table.filter(pc.and_(recent, pc.not_equal(table["rule"], "verdict"))).to_pandas()
    return {str(kind): rows["score"].to_numpy() for kind, rows in own.groupby("kind")}


LABELLED = ((ORDERS, "order", "order_id", "is_fraud"), (REVIEWS, "review", "review_id", "is_fake"))


def labels(settings: Settings, lake: Lake, night: date, past: Sequence[date]) -> list[Hypothesis]:
    """The labels that the night brought, against what was expected of them before."""
    now = {kind: _known(lake, dataset, night, key, column) for dataset, kind, key, column in LABELLED}
    before = {kind: pd.concat([_known(lake, dataset, d, key, column) for d in past]) for dataset, kind, key, column in LABELLED if past}
    return drift.labels(now, before, _said(settings, lake, night), settings.shop.drift)


def _known(lake: Lake, dataset: Dataset, night: date, key: str, column: str) -> pd.DataFrame:
    """id and bad (bool) of the rows whose label the night brought, each once."""
    frame = _frame(lake, dataset, night, (key, column))
    known = frame[frame[column].notna()].drop_duplicates(key, keep="last")
    return pd.DataFrame({"id": known[key].astype(str), "bad": known[column].astype(bool)})


def _said(settings: Settings, lake: Lake, night: date) -> dict[str, dict[str, float]]:
    """kind -> id -> the first probability that a night before said of it, not knowing its label."""
    found: dict[str, dict[str, float]] = {}
    first = night - timedelta(days=settings.shop.screening.history_days)
    for day in lake.dates(SCREENING_DECISIONS):
        if first <= day < night:
            table = lake.at(SCREENING_DECISIONS, day).arrow(["kind", "id", "probability", "rule"])
            blind = table.filter(pc.and_(pc.is_valid(table["probability"]), pc.not_equal(table["rule"], "verdict")))
            for kind, key, probability in zip(*(blind[c].to_pylist() for c in ("kind", "id", "probability")), strict=True):
                found.setdefault(kind, {}).setdefault(key, probability)
    return found


def found_again(lake: Lake, night: date) -> tuple[int, int]:
    """(hits, buyers) of the newest publication before the night, by what its shoppers bought on the night's day."""
    served = _served(lake, night)
    bought = _bought(lake, [night], night, night)
    if not served or not len(bought):
        return 0, 0
    shown = _first_places(lake, served[-1])
    bought = bought[bought["user_id"].isin(shown["audience_id"])]
    both = bought.merge(shown, left_on=["user_id", "item_id"], right_on=["audience_id", "item_id"])
    return int(both["user_id"].nunique()), int(bought["user_id"].nunique())


def live_quality(settings: Settings, lake: Lake, night: date) -> Live | None:
    """NDCG@10 of the publication of `model.holdout_days` nights ago over the days since, judged as the evaluation judges: shoppers
    who had bought before, everything they bought that had been seen before. None where no such publication or promise is known."""
    days = settings.shop.model.holdout_days
    start = night - timedelta(days=days)
    made, known = lake.manifest(RECOMMENDATIONS, start), lake.manifest(FEATURES, start)
    if made is None or known is None:
        return None
    promise = _promise(lake, made.notes.get("trained_on"))
    since = [start + timedelta(days=n + 1) for n in range(days)]
    bought = _bought(lake, since, since[0], night)
    if promise is None or not len(bought):
        return None
    history = lake.at(FEATURES, start).arrow(["user_id", "item_ids", "event_types"]).to_pandas()
    buyers = {u for u, kinds in zip(history["user_id"], history["event_types"], strict=True) if "purchase" in kinds}
    seen = {i for items in history["item_ids"] for i in items}
    right = bought[bought["user_id"].isin(buyers) & bought["item_id"].isin(seen)].drop_duplicates()
    if right.empty:
        return None
    shown = _first_places(lake, start)
    found = right.merge(shown, left_on=["user_id", "item_id"], right_on=["audience_id", "item_id"])
    gain = (1.0 / np.log2(found["rank"] + 1.0)).groupby(found["user_id"]).sum()
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, FIRST_PLACES + 2)))])
    wanted = right.groupby("user_id").size()
    values = gain.reindex(wanted.index).fillna(0.0).to_numpy() / discounts[np.minimum(wanted.to_numpy(), FIRST_PLACES)]
    measured = mean(values, settings.shop.model.bootstrap, settings.shop.model.seed)
    return Live(_METRIC, measured.value, measured.low, measured.high, promise, measured.users, str(made.notes.get("model_version", "")))


def _promise(lake: Lake, trained_on: str | None) -> float | None:
    """What the evaluation of the night on which the serving model was trained said of it."""
    if trained_on is None or lake.manifest(EVALUATION, date.fromisoformat(trained_on)) is None:
        return None
    rows = lake.at(EVALUATION, date.fromisoformat(trained_on)).arrow(["model", "slice", "metric", "value"]).to_pylist()
    return next((r["value"] for r in rows if (r["model"], r["slice"], r["metric"]) == ("challenger", "all", _METRIC)), None)


def _bought(lake: Lake, nights: Sequence[date], first: date, last: date) -> pd.DataFrame:
    """user_id, item_id of purchases that happened from `first` to `last`, out of what those nights delivered."""
    parts = []
    for day in nights:
        if lake.manifest(EVENTS, day) is None:
            continue
        table = lake.at(EVENTS, day).arrow(["user_id", "item_id", "event_type", "event_date"])
        inside = pc.and_(pc.greater_equal(table["event_date"], first), pc.less_equal(table["event_date"], last))
        kept = table.filter(pc.and_(inside, pc.and_(pc.equal(table["event_type"], "purchase"), pc.is_valid(table["user_id"]))))
        parts.append(kept.select(["user_id", "item_id"]))
    return pa.concat_tables(parts).to_pandas().drop_duplicates() if parts else pd.DataFrame({"user_id": [], "item_id": []})


def _first_places(lake: Lake, night: date) -> pd.DataFrame:
    table = lake.at(RECOMMENDATIONS, night).arrow(["audience", "audience_id", "rank", "item_id"])
    kept = table.filter(pc.and_(pc.equal(table["audience"], "user"), pc.less_equal(table["rank"], FIRST_PLACES)))
    return kept.select(["audience_id", "rank", "item_id"]).to_pandas()
