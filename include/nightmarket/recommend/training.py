"""How a recommender learns: towers on every purchase day, then the ranking head on lists as they would have been served.

Nothing sees its own future. The ranker's lists are made at several earlier moments (cuts): evidence and towers of before the cut,
labels of the `fit_days` after it. The towers are therefore trained in stages, oldest first: what stage n proposes at cut n it
learnt before cut n, and only the last stage, which serves, has seen everything before the holdout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket import log as logs
from nightmarket.learn import loop
from nightmarket.learn.inputs import Examples, as_lists, write_examples
from nightmarket.learn.strategy import Placement
from nightmarket.recommend import features, ranker, towers
from nightmarket.recommend.candidates import TOWER, Candidates, Generator, block_size, propose
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.evidence import Evidence
from nightmarket.recommend.histories import CART, DAY, PURCHASE, VIEW, Histories
from nightmarket.shop import Model as Settings

_LOG = logs.logger("recommend")
CUTS = 6
"""Moments at which lists are made, half a fit window apart."""
VALID_SHARE = 0.1
"""Of shoppers, kept from the ranker's lists to stop it early."""
LISTS_PER_CUT = 8_000
"""More shoppers than this are sampled: the ranker has few weights and is sated."""
TOWER_WEIGHT_DECAY = 1e-3
RANKER_WEIGHT_DECAY = 1e-3
CONTINUED_EPOCHS = 3
"""Of each later stage of the towers, at a quarter of the learning rate: new days are added, old ones not forgotten."""
WARM_EPOCHS = 2
"""Of a warm start, at a quarter of the learning rate, over the newest `fit_days`: the days since the champion's, and older ones again."""
RANKER_BATCH = 64
RANKER_EPOCHS = 12


class TooLittle(ValueError):
    """The histories are too thin to learn from. The message says what is missing and how much there is."""


class CannotStartWarm(ValueError):
    """The earlier model does not fit these settings or this moment. The message says why; train from scratch."""


@dataclass(frozen=True)
class Lists:
    """A block of shoppers' candidates with all that the ranker reads."""

    candidates: Candidates
    features: np.ndarray
    """(n, L, F)."""


@dataclass(frozen=True)
class Towers:
    """Trained towers with what turns histories into their inputs."""

    model: Any
    shape: towers.TowerShape
    countries: tuple[str, ...]

    def generator(self, evidence: Evidence, codes: np.ndarray, catalogue: Catalogue) -> Generator:
        """A candidate generator for this evidence. `codes` (items,): tower code of each item, 0 beyond the vocabulary."""
        content = catalogue.hashed()
        vectors = towers.item_vectors(self.model, codes, content)
        rows = np.arange(1, len(codes) + 1, dtype=np.int32)
        country = towers.country_codes(evidence.histories.countries, list(self.countries))

        def scores(_: Evidence, users: np.ndarray) -> np.ndarray:
            moments = towers.Moments(users, np.full(len(users), int(evidence.as_of)))
            read = towers.sequences(evidence.histories, moments, self.shape.history, rows)
            shoppers = np.concatenate(list(towers.encode(self.model, vectors, read, country[users])))
            logits = shoppers @ vectors.T
            # a probability over the catalogue: comparable between shoppers, and never negative
            logits -= logits.max(axis=1, keepdims=True)
            chance = np.exp(logits)
            return (chance / chance.sum(axis=1, keepdims=True)).astype(np.float32)

        return scores


def lists(evidence: Evidence, users: np.ndarray, limit: int, generator: Generator | None) -> Iterator[Lists]:
    """Candidates and features of `users`, a block at a time."""
    allowed = np.bincount(evidence.histories.item, minlength=evidence.histories.items) > 0
    step = block_size(evidence.histories.items)
    for start in range(0, len(users), step):
        found = propose(evidence, users[start : start + step], limit, allowed, {TOWER: generator} if generator else None)
        yield Lists(found, features.assemble(evidence, found))


def cut_times(first_event: float, cut: float, fit_days: int, wanted: int = CUTS) -> list[float]:
    """Moments for lists, oldest first; the newest leaves exactly `fit_days` before `cut`. Each has history before it.

    At least a fit window's worth of history, or a third of all there is where that is less, must lie before the oldest one.
    """
    span = (cut - first_event) / DAY
    newest = cut - fit_days * DAY
    room = min(fit_days, span / 3.0) * DAY
    times = [newest - n * fit_days * DAY / 2.0 for n in range(wanted)]
    kept = [t for t in times if t - first_event >= room]
    return sorted(kept)


def labels(future: Histories, candidates: Candidates) -> np.ndarray:
    """(n, L, tasks) float32: which behaviours the shopper showed towards each candidate in `future`."""
    users, items = candidates.users, candidates.items
    out = np.zeros((*items.shape, len(ranker.TASKS)), np.float32)
    asked = users[:, None].astype(np.int64) * max(future.items, 1) + np.maximum(items, 0)
    for n, kind in enumerate((VIEW, CART, PURCHASE)):
        part = future.of(kind)
        did = np.unique(part.user.astype(np.int64) * max(future.items, 1) + part.item)
        out[..., n] = np.isin(asked, did) & (items >= 0)
    return out


def sample_users(past: Histories, future: Histories, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shoppers for lists, with weights: buyers of the window, and a sample of the others that stands for all of them.

    Without the others the behaviours' probabilities would be those of buyers only.
    """
    known = np.unique(past.user)
    buyers = np.intersect1d(known, np.unique(future.of(PURCHASE).user))
    others = np.setdiff1d(known, buyers)
    rng = np.random.default_rng([seed, len(known)])
    if len(buyers) > LISTS_PER_CUT:
        share = len(buyers) / LISTS_PER_CUT
        buyers = np.sort(rng.choice(buyers, LISTS_PER_CUT, replace=False))
    else:
        share = 1.0
    wanted = min(len(others), max(len(buyers) // 4, 1))
    picked = np.sort(rng.choice(others, wanted, replace=False)) if wanted else others[:0]
    weights = np.concatenate([np.full(len(buyers), share), np.full(len(picked), len(others) / max(wanted, 1))]) / share
    users = np.concatenate([buyers, picked])
    order = np.argsort(users)
    return users[order], weights[order].astype(np.float32)


def held_out(user_ids: np.ndarray) -> np.ndarray:
    """(len,) bool: shoppers kept for early stopping, by a hash of their id, so the same ones in every cut and run."""
    return np.array([
        int.from_bytes(hashlib.blake2b(str(u).encode(), digest_size=4, person=b"valid").digest(), "big") < VALID_SHARE * 2**32
        for u in user_ids
    ], dtype=bool)


def train(
    past: Histories, catalogue: Catalogue, cut: float, settings: Settings, work: Path, placement: Placement,
) -> tuple[Towers, Any, ranker.RankerShape, dict[str, Any]]:
    """(towers, ranking model, its shape, account). `past` ends at `cut` and its vocabulary has items with events only.

    Raises TooLittle.
    """
    if past.items < 2:
        raise TooLittle(f"{past.items} item(s) before the holdout; there is nothing to choose between. Deliver more items")
    bought = past.of(PURCHASE)
    if not len(bought):
        raise TooLittle("no purchase by a known shopper before the holdout; a recommender learns from purchases")
    first = float(past.time.min())
    cuts = cut_times(first, cut, settings.fit_days)
    if not cuts:
        raise TooLittle(
            f"{(cut - first) / DAY:.0f} days of history before the holdout; the ranker needs more than model.fit_days "
            f"({settings.fit_days}): deliver earlier nights or lower it"
        )
    both = np.intersect1d(np.unique(past.before(cuts[-1]).user), np.unique(bought.between(cuts[-1], cut).user))
    if len(both) < settings.minimum_users:
        raise TooLittle(
            f"{len(both)} shoppers have a history before the fit window and a purchase in it; model.minimum_users is "
            f"{settings.minimum_users}: wait for more nights or lower it"
        )
    account: dict[str, Any] = {"cuts": len(cuts), "items": past.items, "shoppers": len(np.unique(past.user))}
    present = np.array([(past.kind == k).any() for k in (VIEW, CART, PURCHASE)])
    account["absent_tasks"] = [t for t, p in zip(ranker.TASKS, present, strict=True) if not p]

    shape = towers.TowerShape(
        items=past.items, countries=len({c for c in past.countries if c}), dim=settings.embedding_dim, history=settings.max_history)
    names = tuple(sorted({c for c in past.countries if c}))
    priced = catalogue.with_prices(np.exp(Evidence.of(past, catalogue, cut).log_price).astype(np.float32))
    codes = np.arange(1, past.items + 1, dtype=np.int32)
    country = towers.country_codes(past.countries, list(names))
    files_train: list[Path] = []
    files_valid: list[Path] = []
    kept_out = held_out(past.user_ids)
    # what negatives are drawn by; a proposal that the loss corrects for, so it may be of all time
    frequency = np.concatenate([[0.0], bought_items(past)])
    trainer = loop.Trainer(
        towers.RetrievalTask(shape, towers.content_table(priced), frequency, settings.seed), placement, settings.batch_size,
        settings.clip_norm, settings.seed, TOWER_WEIGHT_DECAY)
    current = Towers(trainer.model, shape, names)
    moments = [*cuts, cut]
    begin = first
    for n, moment in enumerate(moments):
        with logs.stage(_LOG, "towers_trained", stage=n + 1, of=len(moments)) as said:
            history = _tower_stage(trainer, past, shape, codes, country, begin, moment, n, settings, work, kept_out)
            said |= {"epochs": len(history), "loss": history[-1]["loss"] if history else None}
            account[f"towers_{n}"] = history[-1] if history else {}
        begin = moment
        if moment == cut:
            break
        with logs.stage(_LOG, "lists_made", stage=n + 1, of=len(cuts)) as said:
            made = _write_lists(past, priced, codes, moment, settings, work / "lists", n, current, present, kept_out)
            files_train += made[0]
            files_valid += made[1]
            said["files"] = len(made[0]) + len(made[1])
    with logs.stage(_LOG, "ranker_trained") as said:
        model, rank_shape, history = _train_ranker(files_train, files_valid, settings, work, placement)
        said |= {"epochs": len(history), **history[-1]}
    account["ranker"] = {"epochs": len(history), **history[-1]}
    account["lists"] = int(sum(Examples((f,), (), 1).rows for f in files_train))
    account["thresholds"] = _thresholds(model, rank_shape, files_valid or files_train, present)
    return current, model, rank_shape, account


@dataclass(frozen=True)
class Before:
    """A trained model that another starts from."""

    towers: Towers
    item_ids: np.ndarray
    """(items,) str: the vocabulary of its towers."""
    cut: float
    """Seconds since 1970 UTC; it has seen nothing at or after this."""
    ranker: Any
    ranker_shape: ranker.RankerShape
    account: dict[str, Any]
    """absent_tasks, thresholds."""


def warm_start(
    past: Histories, catalogue: Catalogue, cut: float, settings: Settings, work: Path, placement: Placement, before: Before,
) -> tuple[Towers, Any, ranker.RankerShape, dict[str, Any]]:
    """What `train` returns, from the weights of `before`: its towers learn the newest purchase days, its ranker stays.

    The ranker reads counts, which are counted anew from any histories, and the towers' scores. Lists to teach it would be made at
    moments that the towers have seen beyond, and it would learn to trust them too much; so it is left to the next training from scratch.
    Items and countries that `before` did not know begin with their content alone. Raises CannotStartWarm.
    """
    names = tuple(sorted({c for c in past.countries if c}))
    shape = towers.TowerShape(items=past.items, countries=len(names), dim=settings.embedding_dim, history=settings.max_history)
    old = before.towers.shape
    if (old.dim, old.history, before.ranker_shape.list_size) != (shape.dim, shape.history, settings.candidates):
        raise CannotStartWarm(f"the earlier model has dim {old.dim}, history {old.history} and {before.ranker_shape.list_size} candidates; "
                              f"shop.yaml says {shape.dim}, {shape.history} and {settings.candidates}")
    if before.cut > cut:
        raise CannotStartWarm("the earlier model has seen days after this night's cut")
    absent = [t for n, t in zip((VIEW, CART, PURCHASE), ranker.TASKS, strict=True) if not (past.kind == n).any()]
    if absent != before.account["absent_tasks"]:
        raise CannotStartWarm("the shop has other behaviours than the earlier model learnt")
    priced = catalogue.with_prices(np.exp(Evidence.of(past, catalogue, cut).log_price).astype(np.float32))
    trainer = loop.Trainer(
        towers.RetrievalTask(shape, towers.content_table(priced), np.concatenate([[0.0], bought_items(past)]), settings.seed), placement,
        settings.batch_size, settings.clip_norm, settings.seed, TOWER_WEIGHT_DECAY)
    tables = {"identity": _rows_of(before.item_ids, past.item_ids), "country_of": _rows_of(before.towers.countries, names)}
    towers.take_over(trainer.model, before.towers.model, tables)
    codes = np.arange(1, past.items + 1, dtype=np.int32)
    begin = min(before.cut, cut - settings.fit_days * DAY)
    folder = work / "towers-warm"
    files, examples = towers.write(folder, "train", past, begin, cut, shape, codes, towers.country_codes(past.countries, list(names)), settings.seed)
    plan = loop.Plan(epochs=WARM_EPOCHS, learning_rate=settings.learning_rate * 0.25, patience=settings.patience, checkpoint_steps=200)
    with logs.stage(_LOG, "towers_continued", examples=examples) as said:
        history = trainer.fit(towers.examples(files, shape, settings.batch_size, settings.seed), None, plan, folder) if examples else []
        said |= {"epochs": len(history), "loss": history[-1]["loss"] if history else None}
    account = {
        "items": past.items, "shoppers": len(np.unique(past.user)), "absent_tasks": absent, "thresholds": before.account["thresholds"],
        "towers_warm": history[-1] if history else {}, "new_items": int(past.items - len(tables["identity"][0])),
    }
    return Towers(trainer.model, shape, names), before.ranker, before.ranker_shape, account


def _rows_of(old: Any, new: Any) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the old table, rows of the new one) of what both know; row 0 of a table is what it does not know, and stays that."""
    place = {name: n + 1 for n, name in enumerate(old)}
    both = [(place[name], n + 1) for n, name in enumerate(new) if name in place]
    from_, to = zip(*both, strict=True) if both else ((), ())
    return np.array(from_, np.int64), np.array(to, np.int64)


def bought_items(past: Histories) -> np.ndarray:
    """(items,) purchases."""
    return np.bincount(past.of(PURCHASE).item, minlength=past.items).astype(np.float64)


def _tower_stage(
    trainer: loop.Trainer, past: Histories, shape: towers.TowerShape, codes: np.ndarray, country: np.ndarray, begin: float, end: float,
    stage: int, settings: Settings, work: Path, kept_out: np.ndarray,
) -> list[dict[str, float]]:
    """One stage: the first from scratch, stopped early by shoppers kept out; later ones continue on the purchase days since."""
    folder = work / f"towers-{stage}"
    first = stage == 0
    learners = past.where(~kept_out[past.user]) if first else past
    files, examples = towers.write(folder, "train", learners, begin, end, shape, codes, country, settings.seed)
    if not examples:
        return []
    valid = None
    if first:
        valid_files, some = towers.write(folder, "valid", past.where(kept_out[past.user]), begin, end, shape, codes, country, settings.seed)
        valid = towers.examples(valid_files, shape, settings.batch_size, None) if some else None
    plan = loop.Plan(
        epochs=settings.epochs if first else CONTINUED_EPOCHS, learning_rate=settings.learning_rate * (1.0 if first else 0.25),
        patience=settings.patience, checkpoint_steps=200)
    return trainer.fit(towers.examples(files, shape, settings.batch_size, settings.seed + stage), valid, plan, folder)


def _write_lists(
    past: Histories, catalogue: Catalogue, codes: np.ndarray, moment: float, settings: Settings, folder: Path, stage: int,
    current: Towers, present: np.ndarray, kept_out: np.ndarray,
) -> tuple[list[Path], list[Path]]:
    evidence = Evidence.of(past, catalogue, moment)
    future = past.between(moment, moment + settings.fit_days * DAY)
    users, weights = sample_users(evidence.histories, future, settings.seed)
    generator = current.generator(evidence, codes, catalogue)
    weight_of = dict(zip(users.tolist(), weights.tolist(), strict=True))
    train_files: list[Path] = []
    valid_files: list[Path] = []
    for n, block in enumerate(lists(evidence, users, settings.candidates, generator)):
        found = block.candidates
        length = settings.candidates
        wide = _fit_width(block.features, length)
        did = _fit_width(labels(future, found), length)
        listed = _fit_width((found.items >= 0).astype(np.float32), length)
        weight = np.array([weight_of[u] for u in found.users.tolist()], np.float32)
        valid = kept_out[found.users]
        for keep, files, name in ((~valid, train_files, "train"), (valid, valid_files, "valid")):
            if keep.any():
                files.append(write_examples(folder, f"{name}-{stage:02d}-{n:05d}", {
                    "features": as_lists(wide[keep]), "labels": as_lists(did[keep]), "listed": as_lists(listed[keep]),
                    "present": as_lists(np.tile(present.astype(np.float32), (int(keep.sum()), 1))), "weight": pa.array(weight[keep]),
                }, rows_per_group=128))
    return train_files, valid_files


def _fit_width(values: np.ndarray, length: int) -> np.ndarray:
    """(n, length, …): lists of a small catalogue are shorter than the ranker's; the rest is 0."""
    if values.shape[1] == length:
        return values
    return np.pad(values, ((0, 0), (0, length - values.shape[1]), *((0, 0),) * (values.ndim - 2)))


def _train_ranker(
    train_files: list[Path], valid_files: list[Path], settings: Settings, work: Path, placement: Placement,
) -> tuple[Any, ranker.RankerShape, list[dict[str, float]]]:
    shape = ranker.RankerShape(len(features.names()), settings.candidates)
    fields = ranker.input_fields(shape)
    mean, deviation = _moments(train_files, fields, shape)
    data = Examples(tuple(train_files), fields, RANKER_BATCH, shuffle_rows=1024, seed=settings.seed)
    valid = Examples(tuple(valid_files), fields, RANKER_BATCH) if valid_files else None
    trainer = loop.Trainer(
        ranker.RankingTask(shape, mean, deviation), placement, RANKER_BATCH, settings.clip_norm, settings.seed, RANKER_WEIGHT_DECAY)
    plan = loop.Plan(
        epochs=min(RANKER_EPOCHS, settings.epochs), learning_rate=settings.learning_rate, patience=settings.patience, warmup_steps=20,
        checkpoint_steps=200)
    history = trainer.fit(data, valid, plan, work / "ranker")
    return trainer.model, shape, history


def _moments(files: list[Path], fields: tuple[Any, ...], shape: ranker.RankerShape) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over the listed candidates, one pass."""
    total = np.zeros(shape.features)
    square = np.zeros(shape.features)
    count = 0.0
    for batch in Examples(tuple(files), fields, 128).batches():
        listed = (batch["listed"] > 0) & (batch["weight"] > 0)[:, None]
        rows = batch["features"][listed].astype(np.float64)
        total += rows.sum(axis=0)
        square += np.square(rows).sum(axis=0)
        count += len(rows)
    mean = total / max(count, 1.0)
    deviation = np.sqrt(np.maximum(square / max(count, 1.0) - mean**2, 0.0))
    return mean.astype(np.float32), np.where(deviation < 1e-4, 1.0, deviation).astype(np.float32)


def _thresholds(model: Any, shape: ranker.RankerShape, files: list[Path], present: np.ndarray) -> dict[str, float]:
    """By behaviour, the probability above which 'will do it' is said: largest F1 on the shoppers kept out of training."""
    score = ranker.scorer(model)
    found: list[list[np.ndarray]] = [[] for _ in ranker.TASKS]
    truth: list[list[np.ndarray]] = [[] for _ in ranker.TASKS]
    for batch in Examples(tuple(files), ranker.input_fields(shape), 128).batches():
        logits = score(batch["features"])
        listed = (batch["listed"] > 0) & (batch["weight"] > 0)[:, None]
        for n in range(len(ranker.TASKS)):
            found[n].append(logits[..., 1 + n][listed])
            truth[n].append(batch["labels"][..., n][listed] > 0)
    out = {}
    for n, task in enumerate(ranker.TASKS):
        if not present[n]:
            continue
        logit, did = np.concatenate(found[n]), np.concatenate(truth[n])
        order = np.argsort(-logit, kind="stable")
        right = np.cumsum(did[order])
        f1 = 2.0 * right / (np.arange(1, len(order) + 1) + max(did.sum(), 1))
        at = float(logit[order][int(f1.argmax())]) if len(order) else 0.0
        out[task] = float(1.0 / (1.0 + np.exp(-at)))
    return out


def recipe(settings: Settings, data: str) -> str:
    """Names the work folder: a restart continues only work on the same data and settings."""
    return hashlib.sha256(json.dumps([settings.model_dump(mode="json"), data], sort_keys=True).encode()).hexdigest()[:16]


def describe(shape: Any) -> dict[str, Any]:
    return asdict(shape)
