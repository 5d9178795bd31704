"""How the towers learn: stage after stage, each on the purchase days since the one before; and how well they foretell later ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket.learn import loop
from nightmarket.learn.inputs import WEIGHT
from nightmarket.learn.strategy import Placement, tensorflow
from nightmarket.recommend import towers
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import DAY, PURCHASE, Histories
from nightmarket.recommend.pairs import Pairs
from nightmarket.shop import Model as Settings

VALID_SHARE = 0.1
"""Of shoppers, kept from the towers' first stage to stop it early."""
EPOCHS = 12
CONTINUED_EPOCHS = 3
"""Of each later stage, at a quarter of the learning rate: new days are added, old ones not forgotten."""


@dataclass(frozen=True)
class Towers:
    """Trained towers with what turns histories into their inputs."""

    model: Any
    shape: towers.TowerShape
    countries: tuple[str, ...]

    @cached_property
    def _encode(self) -> Callable[[Any, dict[str, np.ndarray], np.ndarray], np.ndarray]:
        return towers.encoder(self.model)

    def signal(self, codes: np.ndarray, catalogue: Catalogue) -> Callable[[Pairs, np.ndarray], np.ndarray]:
        """A signal over the items of `catalogue`. `codes` (items,): tower code of each, 0 beyond the vocabulary."""
        vectors = towers.item_vectors(self.model, codes, catalogue.hashed())
        table = tensorflow().constant(vectors)
        rows = np.arange(1, len(codes) + 1, dtype=np.int32)
        known = list(self.countries)

        def scores(asked: Pairs, users: np.ndarray) -> np.ndarray:
            at = asked.at(users)
            moments = towers.Moments(at, np.full(len(users), int(asked.moment)))
            read = towers.sequences(asked.events, moments, self.shape.history, rows)
            logits = self._encode(table, read, towers.country_codes(asked.events.countries[at], known)) @ vectors.T
            # a probability over the catalogue: comparable between shoppers, and never negative
            logits -= logits.max(axis=1, keepdims=True)
            chance = np.exp(logits)
            return (chance / chance.sum(axis=1, keepdims=True)).astype(np.float32)

        return scores


def names_of(past: Histories) -> tuple[str, ...]:
    """The countries that the towers know, in the order of their codes."""
    return tuple(sorted({c for c in past.countries if c}))


def shape_of(past: Histories, settings: Settings) -> towers.TowerShape:
    return towers.TowerShape(items=past.items, countries=len(names_of(past)), dim=settings.embedding_dim, history=settings.max_history,
                             clusters=settings.content_clusters)


def codes_of(past: Histories) -> np.ndarray:
    """(items,) tower codes of a vocabulary that the towers are built for."""
    return np.arange(1, past.items + 1, dtype=np.int32)


def held_out(user_ids: np.ndarray) -> np.ndarray:
    """(len,) bool: shoppers kept for early stopping, by a hash of their id, so the same ones in every run."""
    return np.array([
        int.from_bytes(hashlib.blake2b(str(u).encode(), digest_size=4, person=b"valid").digest(), "big") < VALID_SHARE * 2**32
        for u in user_ids
    ], dtype=bool)


def task_of(past: Histories, priced: Catalogue, shape: towers.TowerShape, settings: Settings) -> towers.RetrievalTask:
    # what negatives are drawn by; a proposal that the loss corrects for, so it may be of all time
    frequency = np.concatenate([[0.0], np.bincount(past.of(PURCHASE).item, minlength=past.items)])
    return towers.RetrievalTask(shape, towers.content_table(priced), frequency, settings.seed, dropout=settings.sequence_dropout)


def trainer(task: loop.Task, settings: Settings, placement: Placement) -> loop.Trainer:
    return loop.Trainer(task, placement, settings.batch_size, settings.clip_norm, settings.seed, settings.weight_decay)


def first_plan(settings: Settings) -> loop.Plan:
    """Of the first stage, which is stopped early."""
    return loop.Plan(epochs=min(EPOCHS, settings.epochs), learning_rate=settings.learning_rate, patience=settings.patience, checkpoint_steps=200)


def first_files(
    past: Histories, begin: float, end: float, shape: towers.TowerShape, settings: Settings, folder: Path,
) -> tuple[list[Path], list[Path]]:
    """(examples to learn from, examples of the shoppers kept out) of purchase days between two moments; either may be none."""
    country = towers.country_codes(past.countries, list(names_of(past)))
    kept_out = held_out(past.user_ids)
    made = []
    for name, mask in (("train", ~kept_out), ("valid", kept_out)):
        files, some = towers.write(folder, name, past.where(mask[past.user]), begin, end, shape, codes_of(past), country, settings.seed)
        made.append(files if some else [])
    return made[0], made[1]


def stage(
    learner: loop.Trainer, past: Histories, shape: towers.TowerShape, begin: float, end: float, number: int, settings: Settings, work: Path,
) -> list[dict[str, float]]:
    """One stage: the first from scratch, stopped early by shoppers kept out; later ones continue on the purchase days since."""
    folder = work / f"towers-{number}"
    if number == 0:
        files, valid_files = first_files(past, begin, end, shape, settings, folder)
        valid = towers.examples(valid_files, shape, settings.batch_size, None) if valid_files else None
        plan = first_plan(settings)
    else:
        country = towers.country_codes(past.countries, list(names_of(past)))
        made, some = towers.write(folder, "train", past, begin, end, shape, codes_of(past), country, settings.seed)
        files, valid = made if some else [], None
        plan = loop.Plan(epochs=min(CONTINUED_EPOCHS, settings.epochs), learning_rate=settings.learning_rate * 0.25, patience=settings.patience,
                         checkpoint_steps=200)
    if not files:
        return []
    return learner.fit(towers.examples(files, shape, settings.batch_size, settings.seed + number), valid, plan, folder)


@dataclass(frozen=True)
class Period:
    """A period before the holdout, to judge on what was learnt from the days before it."""

    moment: float
    """Seconds since 1970 UTC at which it begins."""
    end: float
    past: Histories
    priced: Catalogue
    """With what was charged before the period."""
    learn: tuple[Path, ...]
    watch: tuple[Path, ...]
    """Of the shoppers kept out, to stop early; none where nobody was."""
    judge: tuple[Path, ...]

    @classmethod
    def of(
        cls, past: Histories, priced: Catalogue, begin: float, moment: float, end: float, settings: Settings, folder: Path,
    ) -> Period | None:
        """Writes its examples into `folder`; None where there is nothing to learn from or to judge on."""
        shape = shape_of(past, settings)
        learn, watch = first_files(past, begin, moment, shape, settings, folder)
        judge, some = towers.write(folder, "judge", past, moment, end, shape, codes_of(past), towers.country_codes(past.countries, list(names_of(past))),
                                   settings.seed)
        return cls(moment, end, past, priced, tuple(learn), tuple(watch), tuple(judge)) if learn and some else None

    def learner(self, settings: Settings, placement: Placement) -> loop.Trainer:
        """Towers that know nothing yet."""
        return trainer(task_of(self.past, self.priced, shape_of(self.past, settings), settings), settings, placement)

    def sets(self, settings: Settings) -> tuple[Any, Any]:
        """(examples to learn from, examples to stop early by or None)."""
        shape = shape_of(self.past, settings)
        return (towers.examples(list(self.learn), shape, settings.batch_size, settings.seed),
                towers.examples(list(self.watch), shape, settings.batch_size, None) if self.watch else None)

    def losses(self, learner: loop.Trainer, settings: Settings) -> np.ndarray:
        """(purchase days,) cross-entropy of what was bought on each day of the period; lower is better."""
        tf = tensorflow()
        found = []
        task = task_of(self.past, self.priced, shape_of(self.past, settings), settings)
        step = tf.function(lambda batch: task.valid_losses(learner.model, batch), reduce_retracing=True)
        for batch in towers.examples(list(self.judge), shape_of(self.past, settings), settings.batch_size, None).batches():
            found.append(step({k: tf.constant(v) for k, v in batch.items()}).numpy()[batch[WEIGHT] > 0])
        return np.concatenate(found).astype(np.float64)


def moments(cuts: Sequence[float], fit_days: int, wanted: int) -> list[float]:
    """Of the moments of lists, at most `wanted` that begin windows of `fit_days` apart from each other, oldest first; the newest is one."""
    kept: list[float] = []
    for moment in sorted(cuts, reverse=True):
        if not kept or kept[-1] - moment >= fit_days * DAY:
            kept.append(moment)
    return sorted(kept[:wanted])
