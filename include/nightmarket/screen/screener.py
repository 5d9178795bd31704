"""The night's screener: one model a kind, learned from gold.screening_features, saved without pickle, asked about the same dataset.

Where a kind has verdicts its model is the stack of `screening` (trees, a linear model, a second pass over provisional scores, a reader
of texts); where it has too few, strangeness alone, which blocks nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.screen import decisions, saved, screening
from nightmarket.screen.decisions import Costs, Thresholds
from nightmarket.screen.features import Recipe
from nightmarket.screen.screening import Held, Options, Supervised, Unlabelled
from nightmarket.screen.table import Rows
from nightmarket.screen.windows import DAY

RECENT_DAYS = 28
"""Days before a night whose rows say how many a threshold sends to the analysts."""
_MOST_WORDS = 200


@dataclass(frozen=True)
class Described:
    """The rows of one kind, by time and id."""

    kind: str
    ids: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    """(n, f) float32."""
    times: np.ndarray
    first_night: np.ndarray
    stake: np.ndarray
    label: np.ndarray
    known_at: np.ndarray
    entities: Mapping[str, Sequence[str | None]]
    categories: Mapping[str, Sequence[str | None]]
    texts: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, table: pa.Table, notes: Mapping[str, Any]) -> dict[str, Described]:
        """By kind, from a partition of gold.screening_features and its manifest's notes."""
        made = {}
        for kind, said in notes["kinds"].items():
            part = table.filter(pc.equal(table["kind"], kind)).sort_by([("at", "ascending"), ("id", "ascending")])
            values = np.asarray(part["values"].combine_chunks().flatten(), np.float32).reshape(len(part), len(said["values"]))
            entities, categories = ({n: [row[i] for row in lists] for i, n in enumerate(said[what])}
                                    for what, lists in (("entities", part["entities"].to_pylist()), ("categories", part["categories"].to_pylist())))
            made[kind] = cls(
                kind, np.array(part["id"].to_pylist(), object), tuple(said["values"]), values, _micros(part["at"]),
                np.asarray(part["first_night"].cast(pa.int32()), np.int64), np.asarray(part["stake"].fill_null(np.nan), np.float64),
                np.asarray(part["is_bad"].cast(pa.float64()).fill_null(np.nan), np.float64), _micros(part["known_at"]), entities, categories,
                part["text"].to_pylist(),
            )
        return made

    def before(self, moment: int) -> Described:
        """Rows before the moment, with the labels known by then."""
        keep = self.times < moment
        known = self.label[keep].copy()
        known[self.known_at[keep] >= moment] = np.nan
        index = np.flatnonzero(keep).tolist()
        picked: dict[str, Any] = {n: getattr(self, n)[keep] for n in ("ids", "values", "times", "first_night", "stake", "known_at")}
        picked |= {n: {k: [v[i] for i in index] for k, v in getattr(self, n).items()} for n in ("entities", "categories")}
        return replace(self, label=known, texts=[self.texts[i] for i in index], **picked)


def _micros(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.int64()).fill_null(0), np.int64)


@dataclass(frozen=True)
class Answer:
    """(k,) of the rows asked."""

    score: np.ndarray
    probability: np.ndarray
    """NaN where strangeness alone judges."""
    reasons: list[Sequence[str]]
    lifted: np.ndarray


@dataclass(frozen=True)
class Part:
    """The model of one kind, and the columns it knows."""

    kind: str
    names: tuple[str, ...]
    entities: tuple[str, ...]
    vocabulary: Mapping[str, list[str]]
    """Words of each category, most frequent first."""
    texts: bool
    cut: int
    model: Supervised | Unlabelled
    held_ids: np.ndarray
    held: Mapping[str, np.ndarray]

    @property
    def supervised(self) -> bool:
        return isinstance(self.model, Supervised)

    @classmethod
    def learn(cls, given: Described, cut: int, options: Options, languages: Sequence[str] = ()) -> Part:
        """From the rows before `cut` (microseconds) and the labels known by then. Raises ValueError for no rows."""
        past = given.before(cut)
        if not len(past):
            raise ValueError(f"{given.kind}: no rows before the cut")
        entities = tuple(past.entities)
        vocabulary = {n: _words(v) for n, v in past.categories.items()}
        known = (past.label == 1).sum() >= screening.LEAST
        read = known and sum(bool(t) for t in past.texts) >= len(past) / 2 and _spoken(past, languages)
        empty = cls(given.kind, past.names, entities, vocabulary, bool(read), cut, None, np.zeros(0, object), {})  # type: ignore[arg-type]
        rows, recipe, names, X = empty._described(past)
        model, held = screening.learn(rows, recipe, names, X, cut, options)
        return replace(empty, model=model, held_ids=past.ids[held.index], held=held.log_odds)

    def ask(self, given: Described, asked: np.ndarray, options: Options) -> Answer:
        """What the model says of the rows `asked` (indices). Columns it has not learned are not looked at, missing ones are unknown."""
        if not len(asked):
            return Answer(np.zeros(0), np.zeros(0), [], np.zeros(0))
        rows, recipe, names, X = self._described(given)
        place = {key: i for i, key in enumerate(given.ids)}
        there = np.array([place.get(key, -1) for key in self.held_ids], np.int64)
        fresh = np.isin(there, asked) | (there < 0)
        held = Held(there[~fresh], {n: v[~fresh] for n, v in self.held.items()})
        found = self.model.judge(rows, recipe, names, X, asked, held, options)
        return Answer(found.score, found.probability, found.reasons, found.lifted)

    def _described(self, given: Described) -> tuple[Rows, Recipe, list[str], np.ndarray]:
        place = {n: i for i, n in enumerate(given.names)}
        columns = [given.values[:, place[n]] if n in place else np.full(len(given), np.nan, np.float32) for n in self.names]
        categories = {}
        for name, words in self.vocabulary.items():
            rank = {w: i for i, w in enumerate(words)}
            codes = np.array([rank.get(w, -1) if w is not None else -1 for w in given.categories.get(name, [None] * len(given))], np.int64)
            categories[name] = (codes, list(words))
            columns.append(np.where(codes >= 0, codes, np.nan).astype(np.float32))
        entities = {e: _codes(given.entities.get(e, [None] * len(given))) for e in self.entities}
        texts = {"text": [t or "" for t in given.texts]} if self.texts else {}
        rows = Rows.bare(given.times, entities, given.label, given.known_at, categories=categories, texts=texts)
        recipe = Recipe(self.entities, (), (), {}, {n: list(range(len(w))) for n, w in self.vocabulary.items()}, (), (), True, self.cut, 30 * DAY, False)
        names = [*self.names, *(f"category.{n}" for n in self.vocabulary)]
        X = np.column_stack(columns).astype(np.float32) if columns else np.empty((len(given), 0), np.float32)
        return rows, recipe, names, np.where(np.isfinite(X), X, np.nan)


def _words(values: Sequence[str | None]) -> list[str]:
    counted: dict[str, int] = {}
    for value in values:
        if value:
            counted[value] = counted.get(value, 0) + 1
    return sorted(counted, key=lambda w: (-counted[w], w))[:_MOST_WORDS]


def _codes(values: Sequence[str | None]) -> np.ndarray:
    seen: dict[str, int] = {}
    return np.array([-1 if v is None else seen.setdefault(v, len(seen)) for v in values], np.int64)


def _spoken(given: Described, languages: Sequence[str]) -> bool:
    """Whether most texts are in the languages that are read; all are where none is named."""
    if not languages or "language" not in given.categories:
        return True
    said = [v for v, t in zip(given.categories["language"], given.texts, strict=True) if t]
    return sum(v in languages for v in said) * 2 >= len(said)


@dataclass(frozen=True)
class Screener:
    """One model a kind."""

    parts: Mapping[str, Part]

    @classmethod
    def learn(cls, given: Mapping[str, Described], cut: datetime, options: Options, languages: Sequence[str] = ()) -> Screener:
        """Of each kind with rows before the cut."""
        moment = round(cut.timestamp() * 1_000_000)
        return cls({k: Part.learn(d, moment, options, languages) for k, d in given.items() if (d.times < moment).any()})

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for kind, part in self.parts.items():
            about = {"kind": kind, "names": part.names, "entities": part.entities, "vocabulary": dict(part.vocabulary), "texts": part.texts, "cut": part.cut}
            arrays = {"held/ids": part.held_ids.astype(str), **{f"held/{n}": v for n, v in part.held.items()}}
            saved.save(folder / kind, part.model, about, arrays)
        (folder / "screener.json").write_text(json.dumps({"kinds": list(self.parts)}))

    @classmethod
    def load(cls, folder: Path, threads: int = 0) -> Screener:
        parts = {}
        for kind in json.loads((folder / "screener.json").read_text())["kinds"]:
            model, about, arrays = saved.load(folder / kind, threads)
            held = {n.removeprefix("held/"): v for n, v in arrays.items() if n.startswith("held/") and n != "held/ids"}
            parts[kind] = Part(kind, tuple(about["names"]), tuple(about["entities"]), about["vocabulary"], about["texts"], about["cut"], model,
                               arrays["held/ids"].astype(object), held)
        return cls(parts)


@dataclass(frozen=True)
class Decided:
    """(k,) of the rows decided about."""

    index: np.ndarray
    answer: Answer
    decision: np.ndarray
    """decisions.ALLOW, REVIEW or BLOCK."""
    thresholds: Thresholds
    recent: np.ndarray
    """Values (probability, else score) of the rows of the weeks before, for the drift of scores."""


def decide(part: Part, given: Described, asked: np.ndarray, end: int, costs: Costs, options: Options) -> Decided:
    """Decisions about the rows `asked`. Thresholds follow from the costs, and from how many of the rows of the last RECENT_DAYS days up to
    `end` (microseconds) lie above them a day."""
    recent = np.flatnonzero((given.times >= end - RECENT_DAYS * DAY) & (given.times < end))
    both = np.union1d(recent, asked)
    found = part.ask(given, both, replace(options, reasons_for=max(options.reasons_for, len(asked))))
    value = found.probability if part.supervised else found.score
    last = value[np.searchsorted(both, recent)]
    span = min(float(end - given.times.min(initial=end)) / DAY, RECENT_DAYS)
    days = max(span, 1.0)
    if part.supervised:
        thresholds = decisions.by_cost(costs, last, np.ones(len(last)), days)
    else:
        # the strangest hundredth, however many more the analysts could look at
        thresholds = max(decisions.by_share(c, last, days) for c in (costs, replace(costs, capacity=None)))
    at = np.searchsorted(both, asked)
    lifted = found.lifted[at]
    decision = thresholds.decide(value[at])
    decision = np.where(lifted > 0, np.maximum(decision, decisions.REVIEW), decision)
    answer = Answer(found.score[at], found.probability[at], [found.reasons[i] for i in at], lifted)
    return Decided(asked, answer, decision, thresholds, last)
