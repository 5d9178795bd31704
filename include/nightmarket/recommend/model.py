"""The recommender: fit, save, load, recommend.

Two stages. Generators (counts of many kinds and a two-tower network) propose candidates; a multi-task network ranks them from
features of shopper, item and pair. What is learnt is weights; what is counted is counted again from the histories at hand, so a
model trained last month serves what was bought this morning.

Saved without pickle: `recommender.json` (config), `catalogue.json` (vocabulary and item metadata), `towers.keras`, `ranker.keras`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket import log as logs
from nightmarket.learn.strategy import Placement, place, tensorflow
from nightmarket.recommend import features, ranker, strangers, towers, training
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.evidence import Evidence
from nightmarket.recommend.histories import Histories, seconds
from nightmarket.recommend.reasons import Reasons
from nightmarket.recommend.training import CannotStartWarm, Lists, TooLittle, Towers
from nightmarket.shop import Model as Settings

__all__ = ["FORMAT", "OUTPUT", "CannotStartWarm", "ModelError", "Recommender", "TooLittle"]
_LOG = logs.logger("recommend")
FORMAT = 1
OUTPUT = pa.schema([
    ("audience", pa.string()), ("audience_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()),
    ("score", pa.float64()), ("reason", pa.string()),
])


class ModelError(ValueError):
    """The saved model cannot be used. The message names the file and the remedy."""


@dataclass(frozen=True)
class Ranked:
    """Lists of a block of shoppers, best first."""

    users: np.ndarray
    """(n,) codes of the histories they were ranked from."""
    items: np.ndarray
    """(n, k) item codes, -1 where there is none."""
    scores: np.ndarray
    """(n, k) float64; comparable within a shopper."""
    columns: np.ndarray
    """(n, k) place among the candidates, -1 where there is none."""
    lists: Lists
    logits: np.ndarray
    """(n, L, tasks) of all candidates."""


class Recommender:
    """A trained recommender. Make one with `fit` or `load`."""

    def __init__(self, config: dict[str, Any], catalogue: Catalogue, towers_model: Any, ranker_model: Any):
        self.config = config
        self.catalogue = catalogue
        self._towers = Towers(towers_model, towers.TowerShape(**config["towers"]), tuple(config["countries"]))
        self._ranker = ranker_model
        self._score = ranker.scorer(ranker_model)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Behaviours that it learnt; a shop without views has none."""
        return tuple(t for t in ranker.TASKS if t not in self.config["absent_tasks"])

    @classmethod
    def fit(
        cls, histories: pa.Table, items: pa.Table, cut: datetime, settings: Settings, work: Path,
        placement: Placement | None = None, time_zone: str = "UTC", warm: Recommender | None = None,
    ) -> Recommender:
        """Learns from events strictly before `cut`; with `warm` from that model's weights (`training.warm_start`).

        histories: rows of `gold.features`; items: rows of `silver.items`; work: folder for examples and checkpoints, in which an
        interrupted fit with the same arguments continues. Raises TooLittle, CannotStartWarm, HistoryError, learn.loop.Diverged.
        """
        placement = placement or place(settings.replicas, settings.precision)
        moment = float(seconds(cut))
        past = Histories.from_table(histories).before(moment).compact()
        catalogue = Catalogue.of(past.item_ids, items)
        if warm is None:
            trained, model, shape, account = training.train(past, catalogue, moment, settings, work, placement)
        else:
            trained, model, shape, account = training.warm_start(past, catalogue, moment, settings, work, placement, warm.before())
        prices = np.exp(Evidence.of(past, catalogue, moment).log_price).astype(np.float32)
        config = {
            "format": FORMAT, "cut": cut.astimezone(timezone.utc).isoformat(), "time_zone": time_zone, "seed": settings.seed,
            "candidates": settings.candidates, "towers": asdict(trained.shape), "ranker": asdict(shape),
            "countries": list(trained.countries), "features": list(features.names()), "absent_tasks": account["absent_tasks"],
            "thresholds": account["thresholds"], "training": account, "placement": placement.describe(),
        }
        return cls(json.loads(json.dumps(config)), catalogue.with_prices(prices), trained.model, model)

    def save(self, folder: Path) -> None:
        """Writes the model's files into `folder`, the config last."""
        folder.mkdir(parents=True, exist_ok=True)
        self._towers.model.save(folder / "towers.keras")
        self._ranker.save(folder / "ranker.keras")
        self.catalogue.save(folder / "catalogue.json")
        (folder / "recommender.json").write_text(json.dumps(self.config, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """A saved model. Raises ModelError where files are missing or of another format or feature set."""
        tensorflow()
        import keras

        path = folder / "recommender.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"{path} is missing; the folder holds no saved recommender. Train again, or choose another version") from None
        if config.get("format") != FORMAT:
            raise ModelError(f"{path} is of format {config.get('format')}, this code reads {FORMAT}; train again")
        if config["features"] != list(features.names()):
            raise ModelError(f"{path} was trained on other features than this code makes; train again with this code")
        for name in ("towers.keras", "ranker.keras", "catalogue.json"):
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name} is missing; the copy is not whole. Copy it again, or train again")
        return cls(
            config, Catalogue.load(folder / "catalogue.json"),
            keras.models.load_model(folder / "towers.keras", compile=False, safe_mode=True),
            keras.models.load_model(folder / "ranker.keras", compile=False, safe_mode=True),
        )

    def before(self) -> training.Before:
        """This model as what another starts from."""
        return training.Before(
            self._towers, self.catalogue.item_ids, float(seconds(datetime.fromisoformat(self.config["cut"]))), self._ranker,
            ranker.RankerShape(**self.config["ranker"]), {k: self.config[k] for k in ("absent_tasks", "thresholds")})

    # -- answering

    def evidence(self, histories: pa.Table | Histories, as_of: datetime, items: pa.Table | None = None) -> Evidence:
        """What the histories show before `as_of`. `items` adds metadata of items that came after training."""
        held = histories if isinstance(histories, Histories) else Histories.from_table(histories, list(self.catalogue.item_ids))
        catalogue = self.catalogue.aligned(held.item_ids)
        if items is not None:
            newer = Catalogue.of(held.item_ids, items)
            catalogue = Catalogue(
                held.item_ids, np.where(newer.titles == "", catalogue.titles, newer.titles),
                np.where(newer.categories == "", catalogue.categories, newer.categories),
                np.where(np.isnan(newer.prices), catalogue.prices, newer.prices))
        return Evidence.of(held, catalogue, float(seconds(as_of)))

    def rank(self, evidence: Evidence, users: np.ndarray, k: int, limit: int | None = None) -> Any:
        """Yields Ranked blocks of at most k items for each of `users` (codes). Equal scores: the smaller item code first."""
        place_of = {item: n + 1 for n, item in enumerate(self.catalogue.item_ids)}
        codes = np.array([place_of.get(i, 0) for i in evidence.histories.item_ids], dtype=np.int32)
        generator = self._towers.generator(evidence, codes, evidence.catalogue)
        for block in training.lists(evidence, users, limit or self.config["candidates"], generator):
            answer = self._score(block.features)
            items = block.candidates.items
            # columns in the order of item codes, so that equal scores are settled by code and not by proposal
            order = np.argsort(np.where(items >= 0, items, np.iinfo(np.int64).max), axis=1, kind="stable")
            scores = np.take_along_axis(np.where(items >= 0, answer[..., 0], -np.inf), order, axis=1)
            best = top_k(scores, k)
            columns = np.where(best >= 0, np.take_along_axis(order, np.maximum(best, 0), axis=1), -1)
            safe = np.maximum(columns, 0)
            yield Ranked(
                block.candidates.users, np.where(columns >= 0, np.take_along_axis(items, safe, axis=1), -1),
                np.where(columns >= 0, np.take_along_axis(answer[..., 0], safe, axis=1), -np.inf).astype(np.float64),
                columns, block, answer[..., 1:],
            )

    def recommend(
        self, histories: pa.Table, as_of: datetime, k: int, user_ids: Sequence[str] | None = None, items: pa.Table | None = None,
    ) -> pa.Table:
        """Top k with scores and reasons: for shoppers ('user'), every country ('country') and everybody ('everyone', '*').

        `user_ids` restricts the shoppers; one without a history before `as_of` is a stranger and has no list of their own:
        serve the country's. Events at or after `as_of` change nothing. Raises ValueError for k < 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1")
        evidence = self.evidence(histories, as_of, items)
        known = np.unique(evidence.histories.user)
        if user_ids is not None:
            known = np.intersect1d(known, evidence.histories.codes_of(user_ids))
        reasons = Reasons(evidence, self.config["time_zone"])
        parts = [strangers.table(evidence, reasons, k)]
        for block in self.rank(evidence, known.astype(np.int64), k):
            said = reasons.of(block.lists.candidates, block.columns)
            row, column = np.nonzero(block.items >= 0)
            parts.append(pa.table([
                pa.array(["user"] * len(row), pa.string()),
                pa.array(evidence.histories.user_ids[block.users[row]], pa.string()),
                pa.array(column + 1, pa.int32()),
                pa.array(evidence.histories.item_ids[block.items[row, column]], pa.string()),
                pa.array(block.scores[row, column], pa.float64()),
                pa.array([text for line in said for text in line], pa.string()),
            ], schema=OUTPUT))
        return pa.concat_tables(parts)
