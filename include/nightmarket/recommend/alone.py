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
from nightmarket.recommend.histories import DAY, Histories
from nightmarket.recommend.pairs import Intervals, Occasions, Pairs, rhythm
from nightmarket.recommend.second import Lists, Plan, Second
from nightmarket.recommend.signals import Options, Signals
from nightmarket.recommend.tables import Question, back, places_back

_LOG = logs.logger("recommend")
HORIZON_DAYS = 28.0
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
        return Budget(6, 200, 6_000, Options(seed=seed), Plan(seed=seed))
    return Budget(10, 300, 12_000, Options(alike=400, neighbours=300, factors=128, dense_items=12_000, seed=seed),
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


def setting(question: Question) -> Setting:
    """Weeks ahead, or the next event."""
    events, moment = question.histories, question.moment
    if question.ordered:
        return Setting(events, question.context, moment, DAY, False)
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
    return Setting(placed, context, last, DAY, False)


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
    step = put.horizon / 2.0 if put.clock else put.horizon
    newest = put.moment - put.horizon
    room = min(put.horizon, (put.moment - first) / 3.0)
    return [newest - n * step for n in range(wanted) if newest - n * step - first >= room]


def pairs_at(events: Histories, moment: float, objective: int) -> Pairs:
    past = events.before(moment)
    had = Occasions.of(past, moment, objective)
    return Pairs(past, moment, objective, rhythm(past, objective), Intervals.of(had, events.items))


def lists_at(
    question: Question, put: Setting, cut: float, number: int, how_many: int, asked: Budget, repeats: bool,
) -> Lists | None:
    """Lists of shoppers who had something before `cut` and wanted something within the horizon after it."""
    pairs = pairs_at(put.events, cut, question.objective)
    signals = Signals(pairs, question.catalogue, question.groups, asked.options)
    future = put.events.between(cut, cut + put.horizon).of(question.objective)
    allowed = np.bincount(pairs.had.item, minlength=signals.items) > 0
    known = np.bincount(pairs.events.user, minlength=put.events.users) > 0
    keep = allowed[future.item] & known[future.user]
    code = np.unique(future.user[keep].astype(np.int64) * signals.items + future.item[keep])
    if not repeats:
        ever = pairs.ever
        had = np.sort(np.repeat(np.arange(ever.shape[0]), np.diff(ever.indptr)).astype(np.int64) * signals.items + ever.indices)
        code = np.setdiff1d(code, had)
    users = np.unique(code // max(signals.items, 1))
    if len(users) > how_many:
        rng = np.random.default_rng([asked.options.seed, number])
        users = np.sort(rng.choice(users, how_many, replace=False))
    if not len(users):
        return None
    right = np.bincount(np.searchsorted(users, code // signals.items).clip(0, len(users) - 1),
                        weights=np.isin(code // signals.items, users), minlength=len(users)).astype(np.int64)
    parts = []
    for block in listing.blocks(signals, pairs, users, asked.candidates, allowed, repeats):
        wide = np.full((len(block.users), asked.candidates), -1, np.int64)
        wide[:, : block.items.shape[1]] = block.items
        short = asked.candidates - block.items.shape[1]

        def pad(values: np.ndarray, short: int = short) -> np.ndarray:
            return np.pad(values, ((0, 0), (0, short), *((0, 0),) * (values.ndim - 2))) if short else values

        listed = wide >= 0
        labels = np.isin(block.users[:, None].astype(np.int64) * signals.items + np.maximum(wide, 0), code) & listed
        parts.append(Lists(pad(block.features), labels, listed, np.zeros(len(block.users), np.int64), np.full(len(block.users), -number),
                           {n: pad(s) for n, s in block.scores.items()}))
    return replace(Lists.together(parts), right=right)


def learn(question: Question, put: Setting, asked: Budget, repeats: bool, work: Path) -> Second:
    """The second stage, learnt at earlier moments."""
    cuts = cut_times(put, asked.moments)
    made = []
    for number, cut in enumerate(cuts):
        with logs.stage(_LOG, "lists", moment=number + 1, of=len(cuts)) as said:
            part = lists_at(question, put, cut, number, max(asked.lists // len(cuts), 1), asked, repeats)
            if part is not None:
                made.append(part)
            said |= {"shoppers": 0 if part is None else len(part), "recall": None if part is None else round(
                float((part.labels.sum(axis=1) / np.maximum(part.right, 1)).mean()), 3)}
    if not made:
        _LOG.warning(logs.said("chosen", how="one signal", why="no shopper has events on both sides of an earlier moment"))
        return Second({"own" if repeats else "together": 1.0, "popular": 1e-3}, account={"lists": 0})
    with logs.stage(_LOG, "learnt"):
        found = second.fit(Lists.together(made), asked.plan, work, repeats)
    _LOG.info(logs.said("chosen", **{k: v for k, v in found.account.items() if k != "signals"}))
    _LOG.info(logs.said("signals", **found.account.get("signals", {})))
    return found


def recommend(question: Question, k: int, repeats: bool, asked: Budget, work: Path) -> tuple[pa.Table, dict[str, Any]]:
    """(user_id, item_id, rank, score, reason), best first for each target in their order; and the account of what was chosen."""
    put = setting(question)
    found = learn(question, put, asked, repeats, work)
    base = pairs_at(put.events, put.moment, question.objective)
    signals = Signals(base, question.catalogue, question.groups, asked.options)
    pairs = base
    if len(put.context):
        pairs = replace(base, events=_joined(put.events, put.context))
    causes = Causes(signals, pairs, put.clock)
    history = np.bincount(pairs.events.user, minlength=pairs.events.users) > 0
    parts: dict[int, tuple[np.ndarray, np.ndarray, list[str]]] = {}
    known = np.sort(question.targets[history[question.targets]])
    for block in listing.blocks(signals, pairs, known, max(asked.candidates, k), question.allowed, repeats):
        for user, answer in _answers(block, found, causes, signals, k):
            parts[user] = answer
    barred = None if repeats else pairs.ever
    for user in question.targets:
        held = parts.get(int(user))
        parts[int(user)] = _filled(int(user), held, k, question, signals, causes, barred)
    return _table(question, parts), found.account


def _joined(one: Histories, other: Histories) -> Histories:
    user, item, kind = (np.concatenate([getattr(one, n), getattr(other, n)]) for n in ("user", "item", "kind"))
    time, quantity, price = (np.concatenate([getattr(one, n), getattr(other, n)]) for n in ("time", "quantity", "price"))
    by = np.lexsort((price, quantity, kind, item, time, user))
    return replace(one, user=user[by], item=item[by], kind=kind[by], time=time[by], quantity=quantity[by], price=price[by])


def _answers(
    block: listing.Block, found: Second, causes: Causes, signals: Signals, k: int,
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, list[str]]]]:
    listed = block.items >= 0
    order = np.argsort(np.where(listed, block.items, np.iinfo(np.int64).max), axis=1, kind="stable")
    scores = found.score(block.features, listed, block.scores)
    best = top_k(np.take_along_axis(scores, order, axis=1), k)
    columns = np.where(best >= 0, np.take_along_axis(order, np.maximum(best, 0), axis=1), -1)
    said = causes.of(block, columns)
    for row, user in enumerate(block.users):
        kept = columns[row][columns[row] >= 0]
        yield int(user), (block.items[row, kept], scores[row, kept], said[row])


def _filled(
    user: int, held: tuple[np.ndarray, np.ndarray, list[str]] | None, k: int, question: Question, signals: Signals, causes: Causes, barred: Any,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The list, with what is popular (then what is like it, then the rest by code) where it is shorter than k."""
    items, scores, said = held if held is not None else (np.empty(0, np.int64), np.empty(0), [])
    if len(items) >= k:
        return items, scores, said
    open_to = question.allowed.copy()
    open_to[items] = False
    if barred is not None:
        open_to[barred.indices[barred.indptr[user] : barred.indptr[user + 1]]] = False
    fill = signals.popular(np.array([user]))[0].astype(np.float64)
    own = causes.content_scores(user)
    value = fill / max(fill.max(initial=0.0), 1e-12) + (own / max(own.max(initial=0.0), 1e-12) if own is not None else 0.0)
    more = top_k(np.where(open_to, value, -np.inf)[None, :], k - len(items))[0]
    more = more[more >= 0]
    floor = float(scores.min()) - 1.0 if len(scores) else float(value[more].max(initial=0.0))
    added = floor - (value[more].max(initial=0.0) - value[more])
    cold = signals.popularity[3][more] == 0
    words = [causes.similar(int(i), user) if c else causes.popular(int(i), user) for i, c in zip(more, cold, strict=True)]
    return np.concatenate([items, more]), np.concatenate([scores, added]), [*said, *words]


def _table(question: Question, parts: dict[int, tuple[np.ndarray, np.ndarray, list[str]]]) -> pa.Table:
    users: list[str] = []
    items: list[str] = []
    ranks: list[int] = []
    scores: list[float] = []
    reasons: list[str] = []
    for user in question.targets:
        held, value, said = parts[int(user)]
        users += [str(question.histories.user_ids[user])] * len(held)
        items += [str(question.histories.item_ids[i]) for i in held]
        ranks += range(1, len(held) + 1)
        scores += [float(v) for v in value]
        reasons += said
    return pa.table({
        "user_id": back(users, question.users_written), "item_id": back(items, question.items_written),
        "rank": pa.array(ranks, pa.int32()), "score": pa.array(scores, pa.float64()), "reason": pa.array(reasons, pa.string()),
    })
