"""An earlier moment of a shop: what was known then, what shoppers wanted after it, and the lists that are learnt from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nightmarket import log as logs
from nightmarket.recommend import lists as listing
from nightmarket.recommend import second
from nightmarket.recommend.histories import DAY, Histories
from nightmarket.recommend.pairs import Intervals, Occasions, Pairs, rhythm
from nightmarket.recommend.second import Lists
from nightmarket.recommend.signals import Signals

_LOG = logs.logger("recommend")
_AUTOENCODERS = ((30.0, 1.0), (3.0, 0.2), (100.0, 2.0))
"""(ridge, attributes) that are tried: dense purchases need little of either, short histories much."""
_TRIED_ON = 500
"""Shoppers."""
REGULAR, NEWCOMER, STRANGER, FRESH = "regular", "newcomer", "stranger", "fresh"
"""Whose lists, or of what: shoppers with a history; known by a context only; known by attributes only; items that nobody had."""


def pairs_at(events: Histories, moment: float, objective: int, unit: float | None = None) -> Pairs:
    """`unit`: the rhythm, days, where it is not to be taken from the events."""
    past = events.before(moment)
    had = Occasions.of(past, moment, objective)
    return Pairs(past, moment, objective, rhythm(past, objective) if unit is None else unit, Intervals.of(had, events.items))


def joined(one: Histories, other: Histories) -> Histories:
    user, item, kind = (np.concatenate([getattr(one, n), getattr(other, n)]) for n in ("user", "item", "kind"))
    time, quantity, price = (np.concatenate([getattr(one, n), getattr(other, n)]) for n in ("time", "quantity", "price"))
    by = np.lexsort((price, quantity, kind, item, time, user))
    return replace(one, user=user[by], item=item[by], kind=kind[by], time=time[by], quantity=quantity[by], price=price[by])


@dataclass(frozen=True)
class Wanted:
    """What shoppers wanted after an earlier moment."""

    users: np.ndarray
    right: np.ndarray
    """(len(users),) how many items."""
    code: np.ndarray
    """(shopper * items + item), sorted."""
    allowed: np.ndarray
    """(items,) what could be answered."""
    shown: Pairs
    """What was then known of these shoppers."""


@dataclass(frozen=True)
class Earlier:
    """An earlier moment, and what came after it."""

    pairs: Pairs
    signals: Signals
    future: Histories
    """Events of the objective within the horizon after it."""
    number: int

    def wanted(self, segment: str, repeats: bool) -> Wanted:
        """What one segment's shoppers wanted."""
        pairs, items = self.pairs, self.signals.items
        user, item = self.future.user, self.future.item
        sold = np.bincount(pairs.had.item, minlength=items) > 0
        known = np.bincount(pairs.events.user, minlength=pairs.events.users) > 0
        allowed, shown = sold, pairs
        if segment == REGULAR:
            keep = sold[item] & known[user]
        elif segment == STRANGER:
            keep = sold[item] & ~known[user]
        elif segment == FRESH:
            allowed = ~sold & (np.bincount(item, minlength=items) > 0) & (np.diff(self.signals.words.indptr) > 0)
            keep = allowed[item] & known[user]
        else:
            day = self.future.time // int(DAY)
            opening = np.full(pairs.events.users, np.iinfo(np.int64).max)
            np.minimum.at(opening, user, day)
            first = day == opening[user]
            keep = sold[item] & ~known[user] & ~first
            basket = self.future.where(~known[user] & first)
            shift = np.int64(pairs.moment) - 1 - basket.time
            shown = replace(pairs, events=joined(pairs.events, replace(basket, time=basket.time + shift)))
        code = np.unique(user[keep].astype(np.int64) * items + item[keep])
        if not repeats:
            ever = shown.ever
            had = np.sort(np.repeat(np.arange(ever.shape[0]), np.diff(ever.indptr)).astype(np.int64) * items + ever.indices)
            code = np.setdiff1d(code, had)
        users, right = np.unique(code // items, return_counts=True)
        return Wanted(users, right, code, allowed, shown)

    def suited(self, repeats: bool, tried: Sequence[tuple[float, float]] = _AUTOENCODERS) -> Earlier:
        """The same, its signals with the (ridge, attributes) of the closed-form autoencoder that order best what was then wanted."""
        options, asked = self.signals.options, self.wanted(REGULAR, repeats)
        users = asked.users[np.sort(np.random.default_rng([options.seed, len(asked.users)]).permutation(len(asked.users))[:_TRIED_ON])]
        if len(users) < second.FEW:
            return self
        best, reached = self.signals, -1.0
        for ridge, attributes in tried:
            signals = replace(self.signals, options=replace(options, ridge=ridge, attributes=attributes))
            items, places, _ = listing.propose({"linear": signals.linear_scores(asked.shown, users)}, second.DEPTH, asked.allowed,
                                               None if repeats else asked.shown.known(users))
            hit = np.isin(users[:, None] * signals.items + np.maximum(items, 0), asked.code) & (items >= 0)
            value = float((hit * np.log2(1.0 + places["linear"])).sum())
            if value > reached:
                best, reached = signals, value
        _LOG.info(logs.said("autoencoder", ridge=best.options.ridge, attributes=best.options.attributes, tried=len(tried)))
        return replace(self, signals=best)

    def lists(self, segment: str, how_many: int, limit: int, repeats: bool) -> Lists | None:
        """At most about `how_many` lists of `limit` candidates, of one segment's shoppers who wanted something; None where there are none."""
        found = self.wanted(segment, repeats)
        users, right, code, allowed, shown = found.users, found.right, found.code, found.allowed, found.shown
        items = self.signals.items
        if not len(users):
            return None
        order = np.random.default_rng([self.signals.options.seed, self.number]).permutation(len(users))
        if self.number == 0:
            order = order[:how_many]  # what is chosen is chosen on a fair sample, lists without a hit included
        users, right = users[order], right[order]
        if segment == FRESH:
            made = listing.fresh_blocks(self.signals, shown, users, np.flatnonzero(allowed), limit)
        else:
            made = listing.blocks(self.signals, shown, users, limit, allowed, repeats)
        parts: list[Lists] = []
        start = 0
        for block in made:
            listed = listing.widened(block.items >= 0, limit)
            labels = listing.widened(np.isin(block.users[:, None].astype(np.int64) * items + np.maximum(block.items, 0), code), limit) & listed
            part = Lists(listing.widened(block.features, limit), labels, listed, right[start : start + len(block.users)],
                         np.full(len(block.users), -self.number), {n: listing.widened(s, limit) for n, s in block.scores.items()})
            start += len(block.users)
            # later only lists with a hit are learnt from
            parts.append(part if self.number == 0 else part.where(labels.any(axis=1)))
            if sum(map(len, parts)) >= how_many:
                break
        return Lists.together(parts)
