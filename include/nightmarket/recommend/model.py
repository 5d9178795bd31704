"""The recommender: fit, save, load, recommend.

Two stages. Signals (counts of many kinds and a two-tower network) propose candidates; trees and a multi-task network order them by
features of shopper, item and pair, with weights chosen on the newest lists. What is learnt is weights; what is counted is counted
again from the histories at hand, so a model trained last month serves what was bought this morning.

Saved without pickle: `recommender.json` (config), `catalogue.json` (vocabulary and item metadata), `towers.keras`, `ranker.keras`,
`heads.keras` where the behaviours have a network of their own, `trees.txt` where trees have a say, and `aside.keras`, the towers of an earlier moment that the next warm start goes on from.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightmarket.learn.strategy import Placement, place, tensorflow
from nightmarket.recommend import carried, ranker, strangers, towers, training
from nightmarket.recommend import lists as listing
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.causes import Causes
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.earlier import joined, pairs_at
from nightmarket.recommend.histories import PURCHASE, VIEW, Histories, seconds
from nightmarket.recommend.pairs import Pairs
from nightmarket.recommend.second import Second
from nightmarket.recommend.signals import SIGNALS, Options, Signals
from nightmarket.recommend.stages import Towers
from nightmarket.recommend.training import TOWER, CannotStartWarm, TooLittle
from nightmarket.shop import Model as Settings

if TYPE_CHECKING:
    from nightmarket.learn.compress import Precision

__all__ = ["FORMAT", "OUTPUT", "CannotStartWarm", "ModelError", "Recommender", "TooLittle"]
FORMAT = 3
_FEATURES = listing.names(PURCHASE, (*SIGNALS, TOWER), ("country",))
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
    block: listing.Block
    logits: np.ndarray
    """(n, L, tasks) of all candidates."""


class Recommender:
    """A trained recommender. Make one with `fit` or `load`."""

    student: Recommender | None = None
    """A smaller one that it has taught in this very `fit`; saved by itself."""

    def __init__(self, config: dict[str, Any], catalogue: Catalogue, towers_model: Any, second: Second, aside: Any = None):
        """`aside`: the towers that the next warm start goes on from, or the file that keeps them; nobody is answered with these."""
        self.config = config
        self._aside = aside
        self.catalogue = catalogue
        self._towers = Towers(towers_model, towers.TowerShape(**config["towers"]), tuple(config["countries"]))
        self._second = second

    @property
    def tasks(self) -> tuple[str, ...]:
        """Behaviours that it learnt; a shop without views has none."""
        return tuple(t for t in ranker.TASKS if t not in self.config["absent_tasks"])

    @classmethod
    def fit(
        cls, histories: pa.Table, items: pa.Table, cut: datetime, settings: Settings, work: Path,
        placement: Placement | None = None, time_zone: str = "UTC", warm: Recommender | None = None, searched: Mapping[str, Any] | None = None,
        source: carried.Source | None = None, refresh: bool = True,
    ) -> Recommender:
        """Learns from events strictly before `cut`; with `warm` from that model's weights (`training.warm_start`, which `refresh` is for), with
        `searched` by the settings that an earlier search found, with `source` from what another shop's model knows (`carried`).

        histories: rows of `gold.features`; items: rows of `silver.items`; work: folder for examples and checkpoints, in which an
        interrupted fit with the same arguments continues. Raises TooLittle, CannotStartWarm, HistoryError, learn.loop.Diverged.
        """
        placement = placement or place(settings.replicas, settings.precision)
        moment = float(seconds(cut))
        past = Histories.from_table(histories).before(moment).compact()
        catalogue = Catalogue.of(past.item_ids, items)
        made = (training.train(past, catalogue, moment, settings, work, placement, searched, source) if warm is None
                else training.warm_start(past, catalogue, moment, settings, work, placement, warm.before(), refresh))
        signals = Signals(pairs_at(past, moment, PURCHASE), catalogue, training.groups_of(past), made.options)
        common = {
            "format": FORMAT, "cut": cut.astimezone(timezone.utc).isoformat(), "time_zone": time_zone, "seed": settings.seed,
            "candidates": settings.candidates, "signals": asdict(made.options), "features": list(_FEATURES),
            "placement": placement.describe(), "precision": "float32",
        }
        catalogue = catalogue.with_prices(np.exp(signals.log_price).astype(np.float32))
        model = cls._trained(made, common, catalogue)
        model.student = cls._trained(made.student, common, catalogue) if made.student is not None else None
        return model

    @classmethod
    def _trained(cls, made: training.Trained, common: dict[str, Any], catalogue: Catalogue) -> Recommender:
        config = common | {
            "towers": asdict(made.towers.shape), "weights": made.second.weights, "countries": list(made.towers.countries),
            "absent_tasks": made.account["absent_tasks"], "thresholds": made.second.account["thresholds"], "training": made.account,
            "aside": made.aside.moment if made.aside is not None else None, "separated": made.second.heads is not None,
        }
        return cls(json.loads(json.dumps(config)), catalogue, made.towers.model, made.second, made.aside.model if made.aside is not None else None)

    def save(self, folder: Path) -> None:
        """Writes the model's files into `folder`, the config last."""
        folder.mkdir(parents=True, exist_ok=True)
        precision = self.config["precision"]
        networks = {"towers": self._towers.model, "ranker": self._second.network, "heads": self._second.heads, "aside": self._set_aside()}
        for name, network in networks.items():
            if network is None:
                continue
            if precision == "float32":
                network.save(folder / f"{name}.keras")
            else:
                from nightmarket.recommend import compact

                compact.pack(network, folder / f"{name}.npz", precision)
        if self._second.trees is not None:
            (folder / "trees.txt").write_text(self._second.trees.model_to_string(), encoding="utf-8")
        self.catalogue.save(folder / "catalogue.json")
        (folder / "recommender.json").write_text(json.dumps(self.config, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """A saved model. Raises ModelError where files are missing, or were saved by code that this code does not understand."""
        try:
            return cls._load(folder)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{folder} holds what this code cannot read ({type(error).__name__}: {error}); train again with this code") from error

    @classmethod
    def _load(cls, folder: Path) -> Recommender:
        tensorflow()
        path = folder / "recommender.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"{path} is missing; the folder holds no saved recommender. Train again, or choose another version") from None
        if config.get("format") != FORMAT:
            raise ModelError(f"{path} is of format {config.get('format')}, this code reads {FORMAT}; train again")
        Options(**config["signals"])
        if config["features"] != list(_FEATURES):
            raise ModelError(f"{path} was trained on other features than this code makes; train again with this code")
        trees = ("trees.txt",) if "trees" in config["weights"] else ()
        kept = "keras" if config["precision"] == "float32" else "npz"
        aside = (folder / f"aside.{kept}",) if config.get("aside") is not None else ()
        heads = (f"heads.{kept}",) if config["separated"] else ()
        for name in (f"towers.{kept}", f"ranker.{kept}", *heads, "catalogue.json", *trees, *(f.name for f in aside)):
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name} is missing; the copy is not whole. Copy it again, or train again")
        booster = None
        if trees:
            import lightgbm

            booster = lightgbm.Booster(model_str=(folder / "trees.txt").read_text(encoding="utf-8"))
        networks = [cls._network(folder / f"{name}.{kept}") for name in ("towers", "ranker")]
        second = Second(config["weights"], booster, networks[1], config["training"]["second"], *(cls._network(folder / name) for name in heads))
        return cls(config, Catalogue.load(folder / "catalogue.json"), networks[0], second, *aside)

    @staticmethod
    def _network(file: Path) -> Any:
        if file.suffix == ".npz":
            from nightmarket.recommend import compact

            return compact.unpack(file)
        import keras

        return keras.models.load_model(file, compile=False, safe_mode=True)

    def compressed(self, precision: Precision, folder: Path) -> Recommender:
        """The same with its networks' weights kept in `precision`, saved to `folder` and loaded from there."""
        Recommender(self.config | {"precision": precision}, self.catalogue, self._towers.model, self._second, self._aside).save(folder)
        return Recommender.load(folder)

    def before(self) -> training.Before:
        """This model as what another starts from."""
        aside = training.Aside(self._set_aside(), float(self.config["aside"])) if self._aside is not None else None
        return training.Before(
            self._towers, self.catalogue.item_ids, float(seconds(datetime.fromisoformat(self.config["cut"]))), self._second,
            Options(**self.config["signals"]), self.config["candidates"], self.config["training"], aside)

    def _set_aside(self) -> Any:
        return self._network(self._aside) if isinstance(self._aside, Path) else self._aside

    # -- answering

    def signals(self, histories: pa.Table | Histories, as_of: datetime, items: pa.Table | None = None) -> Signals:
        """What the histories show before `as_of`. `items` adds metadata of items that came after training.

        After the histories' own shoppers come, as codes without events, a stranger from each country and one from nowhere:
        `strangers.codes`.
        """
        held = histories if isinstance(histories, Histories) else Histories.from_table(histories, list(self.catalogue.item_ids))
        catalogue = self.catalogue.aligned(held.item_ids)
        if items is not None:
            newer = Catalogue.of(held.item_ids, items)
            catalogue = Catalogue(
                held.item_ids, np.where(newer.titles == "", catalogue.titles, newer.titles),
                np.where(newer.categories == "", catalogue.categories, newer.categories),
                np.where(np.isnan(newer.prices), catalogue.prices, newer.prices))
        place_of = {item: n + 1 for n, item in enumerate(self.catalogue.item_ids)}
        codes = np.array([place_of.get(i, 0) for i in held.item_ids], dtype=np.int32)
        held = strangers.added(held)
        return Signals(pairs_at(held, float(seconds(as_of)), PURCHASE), catalogue, training.groups_of(held),
                       Options(**self.config["signals"]), {TOWER: self._towers.signal(codes, catalogue)})

    def rank(
        self, signals: Signals, users: np.ndarray, k: int, asked: Pairs | None = None, allowed: np.ndarray | None = None,
    ) -> Iterator[Ranked]:
        """Blocks of at most k items for each of `users` (codes). Equal scores: the smaller item code first.

        `asked` has the shoppers' own pairs where they are not those that the signals were counted from; `allowed` (items,) is what may be
        listed, everything with an event where it is not given.
        """
        if allowed is None:
            allowed = signals.seen
        for block in listing.blocks(signals, signals.past if asked is None else asked, users, max(self.config["candidates"], k), allowed, repeats=True):
            items, listed = block.items, block.items >= 0
            logits = self._second.logits(block.features)
            value = self._second.score(block.features, listed, block.scores, logits)
            # columns in the order of item codes, so that equal scores are settled by code and not by proposal
            order = np.argsort(np.where(listed, items, np.iinfo(np.int64).max), axis=1, kind="stable")
            best = top_k(np.take_along_axis(value, order, axis=1), k)
            columns = np.where(best >= 0, np.take_along_axis(order, np.maximum(best, 0), axis=1), -1)
            safe = np.maximum(columns, 0)
            yield Ranked(
                block.users, np.where(columns >= 0, np.take_along_axis(items, safe, axis=1), -1),
                np.where(columns >= 0, np.take_along_axis(value, safe, axis=1), -np.inf), columns, block, logits[..., 1:])

    def recommend(
        self, histories: pa.Table, as_of: datetime, k: int, user_ids: Sequence[str] | None = None, items: pa.Table | None = None,
        barred: Collection[str] = (),
    ) -> pa.Table:
        """Top k with scores and reasons: for shoppers ('user'), every country ('country') and everybody ('everyone', '*').

        `user_ids` restricts the shoppers; one without a history before `as_of` is a stranger and has no list of their own:
        serve the country's. No list has an item of `barred`. Events at or after `as_of` change nothing. Raises ValueError for k < 1.
        """
        return self.standing(histories, as_of, items).recommend(k, user_ids, barred)

    def standing(self, histories: pa.Table, as_of: datetime, items: pa.Table | None = None) -> Standing:
        """The model with what the histories show before `as_of`: to be asked again and again."""
        return Standing(self, self.signals(histories, as_of, items))


@dataclass(frozen=True)
class Standing:
    """A recommender at one moment. What is counted of the shop is counted once; a question costs what its shopper's history costs."""

    model: Recommender
    signals: Signals

    def recommend(self, k: int, user_ids: Sequence[str] | None = None, barred: Collection[str] = ()) -> pa.Table:
        """See `Recommender.recommend`."""
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1")
        events = self.signals.past.events
        known = np.unique(events.user).astype(np.int64)
        if user_ids is not None:
            known = np.intersect1d(known, events.codes_of(user_ids))
        causes = self._causes(self.signals.past)
        allowed = self.signals.seen & ~np.isin(events.item_ids, list(barred))
        return pa.concat_tables([strangers.table(self.signals, causes, k, allowed), *self._tables(known, k, self.signals.past, causes, allowed)])

    def visit(self, user_id: str | None, country: str | None, item_ids: Sequence[str], k: int) -> pa.Table:
        """The list of a shopper, or of a stranger from a country, who in this visit looked at `item_ids`, oldest first.

        Each counts as a view just before the moment; products that the shop does not know count nothing. Rows of 'user'.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1")
        past = self.signals.past
        code = self._shoppers.get(user_id) if user_id is not None else None
        if code is None:
            code = self._strangers.get(country, self._strangers[None])
        seen = np.array([self._items[i] for i in item_ids if i in self._items], np.int32)
        begin, end = np.searchsorted(past.events.user, [code, code + 1])
        own = past.events.where(np.arange(begin, end))
        own = replace(own, user=np.zeros(len(own), np.int32), user_ids=own.user_ids[[code]], countries=own.countries[[code]])
        looked = replace(
            own, user=np.zeros(len(seen), np.int32), item=seen, kind=np.full(len(seen), VIEW, np.int8),
            # one second apart, the last just before the moment: only what lies strictly before it counts
            time=np.int64(past.moment) - len(seen) + np.arange(len(seen)), quantity=np.ones(len(seen), np.float32),
            price=np.full(len(seen), np.nan, np.float32))
        asked = replace(past, events=joined(own, looked), only=code)
        return pa.concat_tables([*self._tables(np.array([code]), k, asked, self._causes(asked), self.signals.seen), OUTPUT.empty_table()])

    @cached_property
    def _strangers(self) -> dict[str | None, int]:
        return strangers.codes(self.signals.past.events)

    @cached_property
    def _shoppers(self) -> dict[str, int]:
        return {str(u): n for n, u in enumerate(self.signals.past.events.user_ids[: min(self._strangers.values())])}

    @cached_property
    def _items(self) -> dict[str, int]:
        return {str(i): n for n, i in enumerate(self.signals.past.events.item_ids)}

    def _causes(self, asked: Pairs) -> Causes:
        return Causes(self.signals, asked, clock=True, time_zone=self.model.config["time_zone"])

    def _tables(self, users: np.ndarray, k: int, asked: Pairs, causes: Causes, allowed: np.ndarray) -> Iterator[pa.Table]:
        events = self.signals.past.events
        for block in self.model.rank(self.signals, users, k, asked, allowed):
            said = causes.of(block.block, block.columns)
            row, column = np.nonzero(block.items >= 0)
            yield pa.table([
                pa.array(["user"] * len(row), pa.string()),
                pa.array(events.user_ids[block.users[row]], pa.string()),
                pa.array(column + 1, pa.int32()),
                pa.array(events.item_ids[block.items[row, column]], pa.string()),
                pa.array(block.scores[row, column], pa.float64()),
                pa.array([text for line in said for text in line], pa.string()),
            ], schema=OUTPUT)
