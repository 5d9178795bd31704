"""The kinds of model that a shop has. Registering, blessing, retraining and rolling back find them here, never in a list of their own.

Another package adds one by an entry point of the group `nightmarket.kinds` that names its `Kind`, with steps of its own:

    [project.entry-points."nightmarket.kinds"]
    churn = "churn.kind:CHURN"

Its module is imported wherever kinds are looked at, DAG files included, so it imports nothing heavy. From then on it is planned, trained, judged, promoted and gone back from as the others are; its settings stand under `kinds.<id>` of shop.yaml.

A kind trains into the candidate folder (`nightmarket.registry.candidate`): `model/`, `candidate.json`, and, once judged,
`evaluation/evaluation.json`:

    {"holdout": {"cut", "end", "digest", …},
     "models": {"challenger" | "champion" | baseline: {"version": str | None, "slices": {"all" | "dimension=value": {metric: interval}}}},
     "differences": {"champion" | baseline: {slice: {metric: interval}}},      challenger minus it, paired
     "heads": {"challenger": {task: {metric: interval}}},                       where it has some
     "unreadable": {"version": str, "why": str}}                                a champion that this code cannot load; not among the models then
    interval: {"value", "low", "high", "users"}

Every metric is better when higher. Its evaluation dataset's manifest notes `candidate` (the recipe) and `holdout`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from nightmarket.contracts import EVALUATION, FORECAST_EVALUATION, SCREENING_EVALUATION, Dataset

if TYPE_CHECKING:
    from nightmarket.shop import Blessing, Shop
    from nightmarket.steps import Step


@dataclass(frozen=True)
class Kind:
    """One kind of model and where its parts are. Steps are names of `nightmarket.steps`."""

    id: str
    what: str
    """For MLflow's description of the model: 'Recommendations', …"""
    section: str
    """Path of its section in shop.yaml, with `name` and `seed`; dots between."""
    rules: str
    """Path of its `Blessing` in shop.yaml, dots between."""
    evaluation: Dataset
    package: str
    """'module:function' of (night, candidate, folder, evaluation) -> Submission."""
    card: str
    """'module:function' of (shop's title, candidate, evaluation, metric) -> the model card, Markdown."""
    train: str
    evaluate: str
    publish: str
    prepare: tuple[str, ...] = ()
    """Steps of the night that training and publication need first, beside those of ingestion."""
    imports: tuple[str, ...] = ()
    """What loading one of its models imports that takes long."""
    steps: tuple[Step, ...] = ()
    """Steps that `nightmarket.steps` does not have, of a kind from another package."""

    def settings(self, shop: Shop) -> Any:
        """Its section of shop.yaml."""
        return _at(shop, self.section)

    def name(self, shop: Shop) -> str:
        """Name of the registered model."""
        return str(self.settings(shop).name)

    def blessing(self, shop: Shop) -> Blessing:
        return cast("Blessing", _at(shop, self.rules))

    def load(self, function: str) -> Callable[..., Any]:
        """The function that a 'module:function' names; imported now, for it may be heavy."""
        module, _, name = function.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


RECOMMENDER = Kind(
    "recommender", "Recommendations", "model", "blessing", EVALUATION,
    package="nightmarket.recommend.package:package", card="nightmarket.recommend.card:card",
    train="train", evaluate="evaluate", publish="publish", imports=("tensorflow",),
)

FORECASTER = Kind(
    "forecaster", "Sales forecasts", "forecast", "forecast.blessing", FORECAST_EVALUATION,
    package="nightmarket.forecast.package:package", card="nightmarket.forecast.card:card",
    train="fit_forecasts", evaluate="judge_forecasts", publish="publish_forecasts", prepare=("series",),
)

SCREENER = Kind(
    "screener", "Fraud screening", "screening", "screening.blessing", SCREENING_EVALUATION,
    package="nightmarket.screen.package:package", card="nightmarket.screen.card:card",
    train="train_screener", evaluate="judge_screener", publish="decide", prepare=("feedback", "screen_features"),
)

GROUP = "nightmarket.kinds"


def _at(shop: Shop, path: str) -> Any:
    def down(at: Any, name: str) -> Any:
        from nightmarket.shop import OtherKind

        return (at.get(name) or OtherKind(name=name)) if isinstance(at, Mapping) else getattr(at, name)

    return reduce(down, path.split("."), cast(Any, shop))


class _Registered(Sequence[Kind]):
    """The shop's own kinds, then those of installed packages, looked up at the first use: a package's module may import this one."""

    @cached_property
    def _kinds(self) -> tuple[Kind, ...]:
        """Raises ValueError for an entry point that is no kind, or one there is."""
        found = [RECOMMENDER, FORECASTER, SCREENER]
        for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
            made = entry.load()
            if not isinstance(made, Kind) or any(made.id == k.id for k in found):
                raise ValueError(f"entry point {entry.name} = {entry.value} of the group {GROUP}: not a Kind with an id of its own; "
                                 f"mend or uninstall its package")
            found.append(made)
        return tuple(found)

    def __getitem__(self, n: Any) -> Any:
        return self._kinds[n]

    def __len__(self) -> int:
        return len(self._kinds)


KINDS: Sequence[Kind] = _Registered()
SHARED = ("register", "bless", "retrain", "rollback")
"""Steps that run for one kind: `--model` says which."""


def kind(id_: str) -> Kind:
    """The kind with this id. Raises KeyError that lists them."""
    for k in KINDS:
        if k.id == id_:
            return k
    raise KeyError(f"no kind of model {id_!r}; there are {', '.join(k.id for k in KINDS)}")


CONTRADICTED = "quality.labels"
"""Feature of the test of labels against what was expected of them."""
_CONCERNS = {
    RECOMMENDER.id: ("quality.hit_rate", "recommendations."),
    SCREENER.id: (CONTRADICTED, "screening_decisions.", "orders.is_fraud", "reviews.is_fake"),
}


def concerned(feature: str) -> tuple[Kind, ...]:
    """Kinds that a drift of this feature is about: all, unless it is a publication or the labels of one."""
    return tuple(k for k in KINDS if feature.startswith(_CONCERNS.get(k.id, ()))) or tuple(KINDS)


def about(step: str, named: str | None = None) -> str:
    """Id of the kind that a run of the step is about: whose own step it is or, of one that all share, the kind that was named; empty
    where it is about no kind, or about all."""
    if step in SHARED:
        return named or ""
    return next((k.id for k in KINDS if step in (*k.prepare, k.train, k.evaluate, k.publish)), "")
