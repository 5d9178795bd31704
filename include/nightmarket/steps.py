"""Every step of the night: what it reads and writes, and how it may be run.

DAGs build their operators from here, docs/DAGS.md is generated from here, and `command.main` runs them. Imports nothing
heavy: DAG files import it when parsed.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightmarket.contracts import (
    BRONZE,
    DAILY_SALES,
    DRIFT,
    EVALUATION,
    EVENTS,
    EXPERIMENTS,
    EXPOSURES,
    FEATURES,
    FORECAST_EVALUATION,
    FORECASTS,
    ITEMS,
    LIVE_EVENTS,
    ONBOARDING,
    ORDERS,
    QUALITY,
    RECOMMENDATIONS,
    REORDERS,
    RETRAINING,
    REVIEWS,
    SALES_SERIES,
    SCREENING_DECISIONS,
    SCREENING_EVALUATION,
    SCREENING_FEATURES,
    SCREENING_FEEDBACK,
    SHOWN,
    SILVER,
    USERS,
    Dataset,
)


@dataclass(frozen=True)
class Step:
    """`python -m jobs.<name>`. `pool` keeps heavy steps apart; a fault is retried, a refusal never."""

    name: str
    summary: str
    reads: tuple[Dataset, ...] = ()
    writes: tuple[Dataset, ...] = ()
    pool: str = "default_pool"
    retries: int = 2
    timeout_minutes: int = 60
    dated: bool = True
    """Whether it is about a night, `--run-date`."""
    module: str = ""
    """Where another package has it; empty: `jobs.<name>`."""

    @property
    def runs(self) -> str:
        """The module that `python -m` runs."""
        return self.module or f"jobs.{self.name}"


POOLS = {
    "spark": (1, "One Spark job at a time: each may use every core and most of the memory."),
    "training": (1, "One training or scoring job at a time, for the same reason."),
}
"""Slots and reasons. The embedded night makes them; elsewhere `airflow pools set` does (docs/DAGS.md)."""

STEPS: tuple[Step, ...] = (
    Step("deliver", "Write a generated shop's delivery of a night into its drop folder.", pool="spark"),
    Step("ingest", "Type a night's delivery, pseudonymise it, account for every row.", writes=BRONZE, pool="spark"),
    Step("clean", "Deduplicate, normalise, flag outliers; reject with reasons.", BRONZE, SILVER, pool="spark"),
    Step("gate", "Judge the night with Great Expectations; a critical failure refuses it.", SILVER, (QUALITY,), pool="spark"),
    Step("report", "Write the owners' quality report and put their mails into the outbox.", (QUALITY,), timeout_minutes=10),
    Step("send", "Send what waits in the outbox.", retries=1, timeout_minutes=10),
    Step("aggregate", "Daily sales, and every shopper's history as of the night.", (EVENTS, USERS),
         (DAILY_SALES, FEATURES), pool="spark"),
    Step("train", "Train the recommender and its baselines before the holdout.", (FEATURES, ITEMS), pool="training",
         timeout_minutes=240),
    Step("evaluate", "Judge the new model, the champion and the baselines on the frozen holdout.", (FEATURES, ITEMS),
         (EVALUATION,), pool="training"),
    Step("register", "Register the model in MLflow and load it again in a fresh process.", (EVALUATION,), pool="training"),
    Step("bless", "Promote the challenger if the model gate lets it.", (EVALUATION,), timeout_minutes=10),
    Step("publish", "Publish the champion's recommendations.", (FEATURES, ITEMS), (RECOMMENDATIONS,), pool="training"),
    Step("onboard", "Choose the questions that tell most about a newcomer.", (FEATURES, ITEMS), (ONBOARDING,), timeout_minutes=30),
    Step("announce", "Write the recommendations' owner what was published, and put the mail into the outbox.",
         (RECOMMENDATIONS, EVALUATION), timeout_minutes=10),
    Step("feedback", "Take in the verdicts of analysts and the reports of shoppers.", (), (SCREENING_FEEDBACK,), timeout_minutes=10),
    Step("screen_features", "Describe orders, accounts, reviews and products' days as of their moments.",
         (ORDERS, USERS, REVIEWS, EVENTS, SCREENING_FEEDBACK), (SCREENING_FEATURES,), pool="spark"),
    Step("train_screener", "Learn the screener, before the holdout and as of the night.", (SCREENING_FEATURES,), pool="training", timeout_minutes=240),
    Step("judge_screener", "Judge the new screener, the champion and the baselines on the same later rows.", (SCREENING_FEATURES,),
         (SCREENING_EVALUATION,), pool="training"),
    Step("decide", "Allow, send to review or block what came in, with reasons.", (SCREENING_FEATURES, SCREENING_FEEDBACK), (SCREENING_DECISIONS,), pool="training"),
    Step("brief_risk", "Write the risk owner what was stopped, why and how well, and put the mail into the outbox.",
         (SCREENING_DECISIONS, SCREENING_EVALUATION), timeout_minutes=15),
    Step("propose", "Propose what blocked cases share for the blocklist.", (SCREENING_DECISIONS, SCREENING_FEATURES), timeout_minutes=10),
    Step("enter", "Enter what was approved into the blocklist; nothing where nobody answered.", timeout_minutes=10),
    Step("drift", "Compare the night's data, publications and labels with the nights before.", (EVENTS, ORDERS, REVIEWS, ITEMS, SCREENING_DECISIONS), (DRIFT,),
         timeout_minutes=30),
    Step("plan_retraining", "Decide for every kind of model whether it is trained tonight, and how.", (QUALITY, DRIFT), (RETRAINING,),
         timeout_minutes=10),
    Step("retrain", "Do what the plan says about one kind of model, and publish.", (RETRAINING,), pool="training", timeout_minutes=360),
    Step("respond", "Do what shop.yaml says about the night's alerts, and see whether earlier responses helped.", (DRIFT,), timeout_minutes=30),
    Step("summarise", "Write the morning summary of all models, and put the mail into the outbox.", (RETRAINING, DRIFT), timeout_minutes=10),
    Step("rollback", "Take the champion out of service and serve from another version.", pool="training", timeout_minutes=15, dated=False),
    Step("experiment", "Take the exposure log in, judge the experiments, serve their arms, tell their owner.", (FEATURES, ITEMS),
         (EXPOSURES, SHOWN, EXPERIMENTS), pool="training", timeout_minutes=30),
    Step("stream", "Take what came by the stream into the lake, exactly once.", writes=(LIVE_EVENTS,), pool="spark", timeout_minutes=30),
    Step("update", "Answer with what the stream brought, and learn from it where that does no harm.", (LIVE_EVENTS, FEATURES, ITEMS),
         pool="training"),
    Step("metrics", "Put the night's metrics into a text file, and to the push gateway where there is one.", retries=1, timeout_minutes=10),
    Step("series", "Sales of items, categories, countries and the shop on a complete calendar, as known on the night.",
         (DAILY_SALES, ITEMS), (SALES_SERIES,), pool="spark"),
    Step("fit_forecasts", "Fit a new forecaster, or keep the champion.", (SALES_SERIES,), pool="training", timeout_minutes=240),
    Step("judge_forecasts", "Judge the forecaster, the champion and the baselines on the same rolling origins.", (SALES_SERIES,),
         (FORECAST_EVALUATION,), pool="training", timeout_minutes=240),
    Step("publish_forecasts", "Publish the champion's forecasts, and what to order by them.", (SALES_SERIES,), (FORECASTS, REORDERS),
         pool="training"),
    Step("announce_forecasts", "Write the forecasts' owner what was published, and put the mail into the outbox.",
         (FORECASTS, REORDERS, SALES_SERIES, FORECAST_EVALUATION), timeout_minutes=10),
)


def step(name: str) -> Step:
    """The step called `name`, of the shop's nights or of a kind of model that another package registers. Raises KeyError that lists them."""
    from nightmarket.registry.kinds import KINDS

    known = [*STEPS, *(s for k in KINDS for s in k.steps)]
    for s in known:
        if s.name == name:
            return s
    raise KeyError(f"no step {name!r}; there are {', '.join(s.name for s in known)}")
