"""A recommender for one file: signals and a second stage, learnt from the file's own earlier moments, then answered as of the last.

What is asked decides the lists that are learnt from. Where shoppers are active again and again, a question is "what in the next weeks":
lists are made at several earlier moments, answered by what shoppers had in the weeks after. Where most come once, or only an order is
known, the question is "what next": each shopper's newest, second newest … event is held out in turn. Everything is chosen on the newest
of these lists; the moment of asking itself is never looked behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket import log as logs
from nightmarket.recommend import lists as listing
from nightmarket.recommend import second
from nightmarket.recommend.causes import Causes
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.earlier import FRESH, NEWCOMER, REGULAR, STRANGER, Earlier, joined, pairs_at
from nightmarket.recommend.histories import DAY, Histories
from nightmarket.recommend.second import Lists, Plan, Second
from nightmarket.recommend.signals import Options, Signals
from nightmarket.recommend.tables import Question, back, places_back

_LOG = logs.logger("recommend")
HORIZON_DAYS = 28.0
_STEPS = 2
"""Moments to a horizon: their lists look into overlapping weeks."""
_LEAST_OF_FEW = 200
"""Lists with a hit below which a segment beside the regulars is not learnt on its own."""
_RETURNING = 0.1
"""Share of shoppers that must be there on both sides of the newest moment for the question to be one of weeks."""


@dataclass(frozen=True)
class Budget:
    """How much is tried."""

    moments: int
    candidates: int
    lists: int
    """Shoppers' lists at most, over all moments."""
    options: Options
    plan: Plan


def budget(name: str, seed: int) -> Budget:
    """`fast`, `balanced` or `best`."""
    if name == "fast":
        return Budget(2, 100, 3_000, Options(neighbours=100, alike=200, factors=48, dense_items=3_000, seed=seed),
                      Plan(rounds=150, leaves=15, learning_rate=0.1, network=False, seed=seed))
    if name == "balanced":
        return Budget(6, 200, 6_000, Options(dense_items=13_000, seed=seed), Plan(seed=seed))
    return Budget(10, 300, 12_000, Options(alike=400, neighbours=300, factors=128, dense_items=20_000, seed=seed),
                  Plan(rounds=800, learning_rate=0.03, epochs=12, members=8, seed=seed))


@dataclass(frozen=True)
class Setting:
    """How the question is put to earlier moments."""

    events: Histories
    context: Histories
    moment: float
    horizon: float
    """Seconds."""
    clock: bool
    """Whether times are those of the file."""
    unit: float | None = None
    """The rhythm where it is not to be taken from the events: of an order, an eighth of a usual history."""


def setting(question: Question) -> Setting:
    """Weeks ahead, or the next event."""
    events, moment = question.histories, question.moment
    if question.ordered:
        return Setting(events, question.context, moment, DAY, False, _rhythm_of_places(events))
    wanted = events.of(question.objective)
    span = (moment - float(events.time.min())) / DAY
    days = float(np.clip(span / 5.0, 1.0, HORIZON_DAYS))
    cut = moment - days * DAY
    before, after = np.unique(events.before(cut).user), np.unique(wanted.between(cut, moment).user)
    again = len(np.intersect1d(before, after))
    active = len(np.unique(events.user))
    if again >= _RETURNING * active:
        _LOG.info(logs.said("question", kind="weeks ahead", days=round(days, 1), returning=again, shoppers=active))
        return Setting(events, question.context, moment, days * DAY, True)
    _LOG.info(logs.said("question", kind="next event", why=f"{again} of {active} shoppers are there on both sides of {days:.0f} days ago"))
    placed, context, last = in_order(events, question.context)
    return Setting(placed, context, last, DAY, False, _rhythm_of_places(placed))


def _places(events: Histories) -> np.ndarray:
    """How many places each shopper of an order has; shoppers without any left out."""
    count = np.bincount(np.unique(events.user.astype(np.int64) << 32 | events.time // int(DAY)) >> 32)
    return count[count > 0]


def _rhythm_of_places(events: Histories) -> float:
    return float(max(np.median(_places(events)) / 8.0, 1.0))


def in_order(events: Histories, context: Histories) -> tuple[Histories, Histories, float]:
    """(events, context, moment) with times as places, counted back from the moment: see `tables`."""
    user, time = np.concatenate([events.user, context.user]), np.concatenate([events.time, context.time])
    back = places_back(user, np.repeat([0, 1], [len(events), len(context)]), time)
    moment = float((int(back.max(initial=0)) + 2) * DAY)
    made = (moment - back * DAY).astype(np.int64)
    return replace(events, time=made[: len(events)]), replace(context, time=made[len(events):]), moment


def cut_times(put: Setting, wanted: int) -> list[float]:
    """Earlier moments, newest first, each with history before it."""
    first = float(put.events.time.min())
    step = put.horizon / _STEPS if put.clock else put.horizon
    newest = put.moment - put.horizon
    room = min(put.horizon, (put.moment - first) / 3.0)
    if not put.clock:
        # short histories say little of what they were half as long
        wanted = int(np.clip(np.median(_places(put.events)) // 2, 2, wanted))
    return [newest - n * step for n in range(wanted) if newest - n * step - first >= room]


_STARTS = {REGULAR: "own", NEWCOMER: REGULAR, STRANGER: "popular", FRESH: "content"}


def segments(question: Question, put: Setting) -> tuple[str, ...]:
    """What the targets and candidates need."""
    history = np.bincount(put.events.user, minlength=put.events.users) > 0
    context = np.bincount(put.context.user, minlength=put.events.users) > 0
    known = np.bincount(put.events.item, minlength=put.events.items) > 0
    asked = question.targets
    warm = bool((question.allowed & known).any())
    needed = [REGULAR] if warm and (history | context)[asked].any() else []
    # an order has no first visit that a context could be likened to
    needed += [NEWCOMER] if warm and put.clock and (context & ~history)[asked].any() else []
    needed += [STRANGER] if warm and not (history | context)[asked].all() else []
    needed += [FRESH] if (question.allowed & ~known).any() and len(asked) else []
    return tuple(needed)


def _earlier(question: Question, put: Setting, cut: float, number: int, asked: Budget) -> Earlier:
    pairs = pairs_at(put.events, cut, question.objective, put.unit)
    return Earlier(pairs, Signals(pairs, question.catalogue, question.groups, asked.options),
                   put.events.between(cut, cut + put.horizon).of(question.objective), number)


def learn(question: Question, put: Setting, asked: Budget, repeats: bool, work: Path) -> tuple[dict[str, Second], Budget]:
    """(the second stage of each segment that is needed, learnt at earlier moments; the budget with what was chosen for the signals)."""
    needed = segments(question, put)
    asked = replace(asked, options=replace(asked.options, ordered=not put.clock))
    cuts = cut_times(put, asked.moments)
    made: dict[str, list[Lists]] = {segment: [] for segment in needed}
    newest = _earlier(question, put, cuts[0], 0, asked) if cuts else None
    if newest is not None and REGULAR in needed:
        newest = newest.suited(repeats)
        asked = replace(asked, options=newest.signals.options)
    for number, cut in enumerate(cuts):
        with logs.stage(_LOG, "lists", moment=number + 1, of=len(cuts)) as said:
            # what was tried at the newest moment is counted already
            earlier, newest = newest or _earlier(question, put, cut, number, asked), None
            for segment in needed:
                part = earlier.lists(segment, max(asked.lists // len(cuts), 1), asked.candidates, repeats)
                if part is not None:
                    made[segment].append(part)
                said[segment] = 0 if part is None else len(part)
                if part is not None and number == 0:
                    said[f"{segment}_recall"] = round(float((part.labels.sum(axis=1) / np.maximum(part.right, 1)).mean()), 3)
    found: dict[str, Second] = {}
    for segment in needed:
        parts = made.pop(segment)
        lists = Lists.together(parts) if parts else None
        del parts
        if segment == NEWCOMER and lists is not None:
            # what is learnt of regulars is one opinion on newcomers
            lists = replace(lists, scores={**lists.scores, REGULAR: found[REGULAR].score(lists.features, lists.listed, lists.scores)})
        start = "together" if segment == REGULAR and not repeats else _STARTS[segment]
        plan = asked.plan if segment == REGULAR else replace(asked.plan, network=False, least_lists=_LEAST_OF_FEW)
        with logs.stage(_LOG, "learnt", segment=segment):
            found[segment] = second.fit(lists, plan, work / segment, start, _STEPS if put.clock else 1)
        account = found[segment].account
        _LOG.info(logs.said("chosen", segment=segment, **{k: v for k, v in account.items() if k != "signals"}))
        if "signals" in account:
            _LOG.info(logs.said("signals", segment=segment, **account["signals"]))
    return found, asked


def recommend(question: Question, k: int, repeats: bool, asked: Budget, work: Path) -> tuple[pa.Table, dict[str, Any]]:
    """(user_id, item_id, rank, score, reason), best first for each target in their order; and the account of what was chosen.

    Items that nobody had come after those that somebody had: they are compared among themselves only.
    """
    put = setting(question)
    found, asked = learn(question, put, asked, repeats, work)
    pairs = base = pairs_at(put.events, put.moment, question.objective, put.unit)
    signals = Signals(base, question.catalogue, question.groups, asked.options)
    if len(put.context):
        pairs = replace(base, events=joined(put.events, put.context))
    causes = Causes(signals, pairs, put.clock)
    size = pairs.events.users
    history, context = np.bincount(put.events.user, minlength=size) > 0, np.bincount(put.context.user, minlength=size) > 0
    seen = np.bincount(base.events.item, minlength=signals.items) > 0
    answers = {int(u): Answer(np.empty(0, np.int64), np.empty(0), []) for u in question.targets}
    targets = np.sort(question.targets)
    groups = {REGULAR: history[targets] | context[targets], NEWCOMER: ~history[targets] & context[targets], STRANGER: ~(history | context)[targets]}
    if NEWCOMER in found:
        groups[REGULAR] &= history[targets]
    for segment, member in groups.items():
        if segment not in found:
            continue
        for block in listing.blocks(signals, pairs, targets[member], max(asked.candidates, k), question.allowed & seen, repeats):
            for user, answer in _answers(block, found, segment, causes, k):
                answers[user] = answer
    fresh = np.flatnonzero(question.allowed & ~seen)
    if FRESH in found and len(fresh):
        short = np.array([u for u in targets if len(answers[int(u)]) < k and (history | context)[u]], np.int64)
        for block in listing.fresh_blocks(signals, pairs, short, fresh, max(asked.candidates, k)):
            for user, answer in _answers(block, found, FRESH, causes, k):
                answers[user] = answers[user].then(answer, k)
    barred = None if repeats else pairs.ever
    popular: dict[bytes, np.ndarray] = {}
    for user, answer in answers.items():
        if len(answer) < k:
            answers[user] = _filled(user, answer, k, question, signals, causes, barred, popular)
    return _table(question, answers), {segment: second.account for segment, second in found.items()}


@dataclass(frozen=True)
class Answer:
    """A shopper's list, best first."""

    items: np.ndarray
    scores: np.ndarray
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.items)

    def then(self, other: Answer, k: int) -> Answer:
        """This list, and after it the other's, scores moved below, k in all."""
        room = k - len(self)
        if not len(self):
            return Answer(other.items[:room], other.scores[:room], other.reasons[:room])
        moved = other.scores - (other.scores.max(initial=0.0) - float(self.scores.min())) - 1.0
        return Answer(np.concatenate([self.items, other.items[:room]]), np.concatenate([self.scores, moved[:room]]), [*self.reasons, *other.reasons[:room]])


def _answers(block: listing.Block, found: dict[str, Second], segment: str, causes: Causes, k: int) -> Iterator[tuple[int, Answer]]:
    listed = block.items >= 0
    order = np.argsort(np.where(listed, block.items, np.iinfo(np.int64).max), axis=1, kind="stable")
    scores = dict(block.scores)
    if segment == NEWCOMER:
        scores[REGULAR] = found[REGULAR].score(block.features, listed, block.scores)
    value = found[segment].score(block.features, listed, scores)
    best = top_k(np.take_along_axis(value, order, axis=1), k)
    columns = np.where(best >= 0, np.take_along_axis(order, np.maximum(best, 0), axis=1), -1)
    said = causes.of(block, columns)
    for row, user in enumerate(block.users):
        kept = columns[row][columns[row] >= 0]
        yield int(user), Answer(block.items[row, kept], value[row, kept], said[row])


def _filled(
    user: int, held: Answer, k: int, question: Question, signals: Signals, causes: Causes, barred: Any, popular: dict[bytes, np.ndarray],
) -> Answer:
    """The list, with what is popular, then the rest by code, where it is shorter than k."""
    open_to = question.allowed.copy()
    open_to[held.items] = False
    if barred is not None:
        open_to[barred.indices[barred.indptr[user] : barred.indptr[user + 1]]] = False
    kind = question.groups.codes[user].tobytes()
    if kind not in popular:
        popular[kind] = signals.popular(np.array([user]))[0].astype(np.float64)
    value = popular[kind]
    more = top_k(np.where(open_to, value, -np.inf)[None, :], k - len(held))[0]
    more = more[more >= 0]
    return held.then(Answer(more, value[more], [causes.popular(int(i), user) for i in more]), k)


def _table(question: Question, answers: dict[int, Answer]) -> pa.Table:
    users: list[str] = []
    items: list[str] = []
    ranks: list[int] = []
    scores: list[float] = []
    reasons: list[str] = []
    for user in question.targets:
        held = answers[int(user)]
        users += [str(question.histories.user_ids[user])] * len(held)
        items += [str(question.histories.item_ids[i]) for i in held.items]
        ranks += range(1, len(held) + 1)
        scores += held.scores.tolist()
        reasons += held.reasons
    return pa.table({
        "user_id": back(users, question.users_written), "item_id": back(items, question.items_written),
        "rank": pa.array(ranks, pa.int32()), "score": pa.array(scores, pa.float64()), "reason": pa.array(reasons, pa.string()),
    })
