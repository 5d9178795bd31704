"""How a recommender learns: towers on every purchase day, then the second stage on lists as they would have been served.

Nothing sees its own future. The lists are made at several earlier moments (cuts): signals and towers of before the cut, labels of the
`fit_days` after it. The towers are therefore trained in stages, oldest first: what stage n proposes at cut n it learnt before cut
n, and only the last stage, which serves, has seen everything before the holdout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket import log as logs
from nightmarket.learn import loop
from nightmarket.learn.strategy import Placement
from nightmarket.recommend import carried, ranker, search, second, stages, student, towers
from nightmarket.recommend import lists as listing
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.earlier import Earlier, pairs_at
from nightmarket.recommend.histories import CART, DAY, PURCHASE, RETURN, VIEW, Histories
from nightmarket.recommend.second import Lists, Second
from nightmarket.recommend.signals import Groups, Options, Signals
from nightmarket.recommend.stages import Towers
from nightmarket.shop import Model as Settings

_LOG = logs.logger("recommend")
TOWER = "tower"
"""Name of the towers' signal."""
CUTS = 6
"""Moments at which lists are made, half a fit window apart."""
_STEPS = 2
"""Moments to a fit window: their lists look into overlapping weeks."""
LISTS, CELLS = 8_000, 2_000_000
"""Lists, and candidates in them, over all cuts; more shoppers than that are sampled, which bounds memory."""
REFRESHED = 2
"""Newest moments whose lists a warm start makes again and learns from: an order learnt from lists of a month ago lags behind the season."""
WARM_EPOCHS = 2
"""Of a warm start, at a quarter of the learning rate, over the newest `fit_days`: the days since the champion's, and older ones again."""
RANKER_EPOCHS = 8


class TooLittle(ValueError):
    """The histories are too thin to learn from. The message says what is missing and how much there is."""


class CannotStartWarm(ValueError):
    """The earlier model does not fit these settings or this moment. The message says why; train from scratch."""


@dataclass(frozen=True)
class Aside:
    """Towers as they were at an earlier moment, of which lists of then may be made: they have not seen what happened next."""

    model: Any
    moment: float
    """Seconds since 1970 UTC; they have seen nothing at or after this."""


@dataclass(frozen=True)
class Trained:
    """All that was learnt."""

    towers: Towers
    second: Second
    options: Options
    account: dict[str, Any]
    aside: Aside | None = None
    """What the next warm start goes on from; a student has none."""
    student: Trained | None = None
    """A smaller one that it taught."""


def groups_of(events: Histories) -> Groups:
    """Shoppers' countries: what popularity is counted by."""
    names = sorted({str(c) for c in events.countries if c}) or [""]
    place = {c: n for n, c in enumerate(names)}
    codes = np.array([place.get(c, -1) if c else -1 for c in events.countries], np.int32)
    return Groups(("country",), (np.array(names, dtype=object),), codes[:, None])


def cut_times(first_event: float, cut: float, fit_days: int, wanted: int = CUTS) -> list[float]:
    """Moments for lists, oldest first; the newest leaves exactly `fit_days` before `cut`. Each has history before it.

    At least a fit window's worth of history, or a third of all there is where that is less, must lie before the oldest one.
    """
    span = (cut - first_event) / DAY
    newest = cut - fit_days * DAY
    room = min(fit_days, span / 3.0) * DAY
    times = [newest - n * fit_days * DAY / _STEPS for n in range(wanted)]
    kept = [t for t in times if t - first_event >= room]
    return sorted(kept)


_KINDS = (VIEW, CART, PURCHASE, RETURN)
"""Kinds of events that the first of ranker.TASKS are."""


def labels(future: Histories, block: listing.Block, catalogue: Catalogue) -> np.ndarray:
    """(n, L, tasks) bool: which behaviours the shopper showed towards each candidate in `future`; see ranker.TASKS."""
    items = block.items
    out = np.zeros((*items.shape, len(ranker.TASKS)), bool)
    asked = block.users[:, None].astype(np.int64) * max(future.items, 1) + np.maximum(items, 0)
    for n, kind in enumerate(_KINDS):
        part = future.of(kind)
        did = np.unique(part.user.astype(np.int64) * max(future.items, 1) + part.item)
        out[..., n] = np.isin(asked, did) & (items >= 0)
    codes = catalogue.category_codes
    wide = np.int64(codes.max(initial=0)) + 1
    first = first_days(future.of(PURCHASE))
    wanted = np.unique(first.user.astype(np.int64) * wide + codes[first.item])
    of = codes[np.maximum(items, 0)]
    out[..., len(_KINDS)] = np.isin(block.users[:, None].astype(np.int64) * wide + of, wanted) & (items >= 0) & (of > 0)
    return out


def first_days(bought: Histories) -> Histories:
    """Each shopper's purchases of the first day (24 hours of UTC) that has one."""
    day = bought.time // int(DAY)
    first = np.full(bought.users, np.iinfo(np.int64).max)
    np.minimum.at(first, bought.user, day)
    return bought.where(day == first[bought.user])


def behaviours_of(past: Histories, catalogue: Catalogue) -> tuple[str, ...]:
    """Those of ranker.TASKS that a shop's events and products tell of: a category has to be one of several."""
    kinds = [t for t, k in zip(ranker.TASKS, _KINDS, strict=False) if (past.kind == k).any()]
    return tuple(kinds) + (("next_category",) if catalogue.category_codes.max(initial=0) > 1 else ())


def sample_users(past: Histories, future: Histories, seed: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Shoppers for lists, with weights: at most `limit` buyers of the window, and a sample of the others that stands for all of them.

    Without the others the behaviours' probabilities would be those of buyers only.
    """
    known = np.unique(past.user)
    buyers = np.intersect1d(known, np.unique(future.of(PURCHASE).user))
    others = np.setdiff1d(known, buyers)
    rng = np.random.default_rng([seed, len(known)])
    share = 1.0
    if len(buyers) > limit:
        share = len(buyers) / limit
        buyers = np.sort(rng.choice(buyers, limit, replace=False))
    wanted = min(len(others), max(len(buyers) // 4, 1))
    picked = np.sort(rng.choice(others, wanted, replace=False)) if wanted else others[:0]
    weights = np.concatenate([np.full(len(buyers), share), np.full(len(picked), len(others) / max(wanted, 1))]) / share
    users = np.concatenate([buyers, picked])
    order = np.argsort(users)
    return users[order], weights[order].astype(np.float32)


def train(
    past: Histories, catalogue: Catalogue, cut: float, settings: Settings, work: Path, placement: Placement, searched: Mapping[str, Any] | None = None,
    source: carried.Source | None = None,
) -> Trained:
    """Learns everything. `past` ends at `cut` and its vocabulary has items with events only. `searched`: the account of an earlier
    search for settings (`search.settle`), whose winner is taken instead of searching again. `source`: what `settings.transfer` may begin
    with. Raises TooLittle."""
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
    present = behaviours_of(past, catalogue)
    account: dict[str, Any] = {"cuts": len(cuts), "items": past.items, "shoppers": len(np.unique(past.user)),
                               "absent_tasks": [t for t in ranker.TASKS if t not in present]}
    groups = groups_of(past)
    options = Options(seed=settings.seed)
    everything = Signals(pairs_at(past, cut, PURCHASE), catalogue, groups, options)
    priced = catalogue.with_prices(np.exp(everything.log_price).astype(np.float32))
    newest = pairs_at(past, cuts[-1], PURCHASE)
    options = Earlier(newest, Signals(newest, priced, groups, options), bought.between(cuts[-1], cut), 0).suited(repeats=True).signals.options

    chosen = settings
    if settings.search is not None:
        account["search"] = dict(searched) if searched is not None else _search(past, catalogue, groups, first, cuts, settings, work, placement)
        chosen = settings.model_copy(update=account["search"]["settings"])
    shape, codes = stages.shape_of(past, chosen), stages.codes_of(past)
    way: carried.Way = "scratch"
    if source is not None:
        account["transfer"] = carried.settle(
            source, lambda: next(iter(_periods(past, catalogue, groups, first, cuts, chosen, work / "transfer", 1)), None), chosen, placement,
            work / "transfer", cut)
        way = account["transfer"]["way"]
    trainer = stages.trainer(stages.task_of(past, priced, shape, chosen), chosen, placement)
    current = Towers(trainer.model, shape, stages.names_of(past))
    parts: list[Lists] = []
    aside: Aside | None = None
    begin = first
    for n, moment in enumerate([*cuts, cut]):
        with logs.stage(_LOG, "towers_trained", stage=n + 1, of=len(cuts) + 1) as said:
            if n == 0 and source is not None and way != "scratch":
                files, kept_out = stages.first_files(past, begin, moment, shape, chosen, work / "towers-0")
                history = carried.begin(way, source, trainer, past, priced, files, kept_out, cut, chosen, placement, work / "towers-0") if files else []
            else:
                history = stages.stage(trainer, past, shape, begin, moment, n, chosen, work)
            said |= {"epochs": len(history), "loss": history[-1]["loss"] if history else None}
            account[f"towers_{n}"] = history[-1] if history else {}
        begin = moment
        if moment == cut:
            break
        if moment == cuts[-REFRESHED:][0]:
            aside = Aside(towers.copied(trainer.model, shape), moment)
        with logs.stage(_LOG, "lists_made", stage=n + 1, of=len(cuts)) as said:
            signals = Signals(pairs_at(past, moment, PURCHASE), priced, groups, options, {TOWER: current.signal(codes, priced)})
            parts.append(_lists(signals, past, n, len(cuts), settings))
            said["lists"] = len(parts[-1])
    made = Lists.together(parts)
    del parts
    account["lists"] = len(made)
    plan = _second_plan(present, settings)
    with logs.stage(_LOG, "second_stage_trained") as said:
        found = second.fit(made, plan, work / "second", "own", _STEPS, placement)
        said |= {k: v for k, v in found.account.items() if k not in ("signals", "thresholds")}
    pupil = None
    if settings.student is not None:
        narrow, judge, told = student.teach(current, found, made, plan, past, priced, first, cut, chosen, work / "student", _STEPS, placement)
        pupil = Trained(narrow, judge, options, account | {"second": judge.account, "taught": told})
        account["student"] = told
    return Trained(current, found, options, account | {"second": found.account}, aside, pupil)


def _second_plan(present: tuple[str, ...], settings: Settings) -> second.Plan:
    return second.Plan(epochs=min(RANKER_EPOCHS, settings.epochs), seed=settings.seed, heads=present, architecture=settings.heads,
                       network_rate=settings.learning_rate, clip_norm=settings.clip_norm)


def _search(
    past: Histories, catalogue: Catalogue, groups: Groups, first: float, cuts: list[float], settings: Settings, work: Path, placement: Placement,
) -> dict[str, Any]:
    """The account of a search for the towers' settings; shop.yaml's own where no period can be judged on."""
    periods = _periods(past, catalogue, groups, first, cuts, settings, work, search.PERIODS)
    if not periods:
        return {"settings": {}, "run": 0, "trials": [], "why": "no period before the holdout has purchase days to judge on"}
    return search.settle(periods, settings, work, placement)


def _periods(
    past: Histories, catalogue: Catalogue, groups: Groups, first: float, cuts: list[float], settings: Settings, work: Path, wanted: int,
) -> list[stages.Period]:
    """At most `wanted` windows before the holdout that can be judged on, the newest of them, with what was charged before each."""
    def priced(moment: float) -> Catalogue:
        seen = Signals(pairs_at(past, moment, PURCHASE), catalogue, groups, Options(seed=settings.seed))
        return catalogue.with_prices(np.exp(seen.log_price).astype(np.float32))

    return search.periods_of(past, priced, first, cuts, settings, work, wanted)


@dataclass(frozen=True)
class Before:
    """A trained model that another starts from."""

    towers: Towers
    item_ids: np.ndarray
    """(items,) str: the vocabulary of its towers."""
    cut: float
    """Seconds since 1970 UTC; it has seen nothing at or after this."""
    second: Second
    options: Options
    candidates: int
    account: dict[str, Any]
    """Of its training: absent_tasks, and what was settled for it."""
    aside: Aside | None = None


def warm_start(
    past: Histories, catalogue: Catalogue, cut: float, settings: Settings, work: Path, placement: Placement, before: Before, refresh: bool = True,
) -> Trained:
    """What `train` returns, from the weights of `before`.

    Lists that teach the second stage may not be made by towers that have seen beyond their moments: it would learn to trust them too much.
    So the towers that were set aside at an earlier moment go on, stage after stage as in `train`, over the last `REFRESHED` moments up to
    the cut; the second stage learns on from the lists of these moments, with the weights that it has. Without towers set aside (an older model, a student), or
    without `refresh` (between nights, where minutes count), the towers of `before` learn the newest purchase days and the second stage stays: what it
    reads is counted anew from any histories. Items and countries that `before` did not know begin with their content alone. Raises CannotStartWarm.
    """
    settled = {"search": before.account["search"]} if settings.search is not None and "search" in before.account else {}
    chosen = settings.model_copy(update=settled.get("search", {}).get("settings", {}))
    if settings.student is not None and "taught" in before.account:  # a student goes on as what it is
        settled["taught"] = before.account["taught"]
        chosen = chosen.model_copy(update={"embedding_dim": settings.student.embedding_dim})
    names, shape = stages.names_of(past), stages.shape_of(past, chosen)
    old = before.towers.shape
    if (old.dim, old.history, old.clusters, before.candidates) != (shape.dim, shape.history, shape.clusters, settings.candidates):
        raise CannotStartWarm(f"the earlier model has dim {old.dim}, history {old.history}, {old.clusters} content clusters and {before.candidates} candidates; "
                              f"this night wants {shape.dim}, {shape.history}, {shape.clusters} and {settings.candidates}")
    if before.cut > cut:
        raise CannotStartWarm("the earlier model has seen days after this night's cut")
    present = behaviours_of(past, catalogue)
    absent = [t for t in ranker.TASKS if t not in present]
    if absent != before.account["absent_tasks"]:
        raise CannotStartWarm("the shop has other behaviours than the earlier model learnt")
    charged = Signals(pairs_at(past, cut, PURCHASE), catalogue, groups_of(past), before.options).log_price
    priced = catalogue.with_prices(np.exp(charged).astype(np.float32))
    trainer = stages.trainer(stages.task_of(past, priced, shape, chosen), chosen, placement)
    tables = {"identity": _rows_of(before.item_ids, past.item_ids), "country_of": _rows_of(before.towers.countries, names)}
    current = Towers(trainer.model, shape, names)
    account: dict[str, Any] = {
        "items": past.items, "shoppers": len(np.unique(past.user)), "absent_tasks": absent, "new_items": int(past.items - len(tables["identity"][0])), **settled,
    }
    moments = cut_times(float(past.time.min()), cut, settings.fit_days)
    if refresh and before.aside is not None and moments and before.aside.moment <= moments[-REFRESHED:][0]:
        towers.take_over(trainer.model, before.aside.model, tables)
        found, aside, told = _refreshed(current, trainer, past, priced, moments, cut, chosen, work, placement, before, before.aside)
        return Trained(current, found, before.options, account | told | {"second": found.account}, aside)
    towers.take_over(trainer.model, before.towers.model, tables)
    begin = min(before.cut, cut - settings.fit_days * DAY)
    folder = work / "towers-warm"
    files, examples = towers.write(folder, "train", past, begin, cut, shape, stages.codes_of(past), towers.country_codes(past.countries, list(names)), settings.seed)
    plan = loop.Plan(epochs=WARM_EPOCHS, learning_rate=chosen.learning_rate * 0.25, patience=settings.patience, checkpoint_steps=200)
    with logs.stage(_LOG, "towers_continued", examples=examples) as said:
        history = trainer.fit(towers.examples(files, shape, chosen.batch_size, settings.seed), None, plan, folder) if examples else []
        said |= {"epochs": len(history), "loss": history[-1]["loss"] if history else None}
    account |= {"second": before.second.account, "towers_warm": history[-1] if history else {}}
    kept = None
    if before.aside is not None:
        kept = Aside(towers.build(shape), before.aside.moment)
        towers.take_over(kept.model, before.aside.model, tables)
    return Trained(current, before.second, before.options, account, kept)


def _refreshed(
    current: Towers, trainer: loop.Trainer, past: Histories, priced: Catalogue, moments: list[float], cut: float, settings: Settings, work: Path,
    placement: Placement, before: Before, aside: Aside,
) -> tuple[Second, Aside, dict[str, Any]]:
    """(second stage, what is set aside for the next time, an account); the towers of `current`, which begin as `aside` is, learn up to `cut`."""
    newest, groups, codes = moments[-REFRESHED:], groups_of(past), stages.codes_of(past)
    parts: list[Lists] = []
    account: dict[str, Any] = {}
    begin = aside.moment
    for n, moment in enumerate([*newest, cut]):
        with logs.stage(_LOG, "towers_continued", stage=n + 1, of=len(newest) + 1) as said:
            history = stages.stage(trainer, past, current.shape, begin, moment, n + 1, settings, work)
            said |= {"epochs": len(history), "loss": history[-1]["loss"] if history else None}
            account[f"towers_warm_{n}"] = history[-1] if history else {}
        begin = moment
        if moment == cut:
            break
        if n == 0:
            aside = Aside(towers.copied(trainer.model, current.shape), moment)
        with logs.stage(_LOG, "lists_made", stage=n + 1, of=len(newest)) as said:
            signals = Signals(pairs_at(past, moment, PURCHASE), priced, groups, before.options, {TOWER: current.signal(codes, priced)})
            parts.append(_lists(signals, past, len(moments) - len(newest) + n, len(moments), settings))
            said["lists"] = len(parts[-1])
    present = tuple(t for t in ranker.TASKS if t not in before.account["absent_tasks"])
    with logs.stage(_LOG, "second_stage_continued") as said:
        try:
            found = second.refresh(before.second, Lists.together(parts), _second_plan(present, settings), work / "second", placement)
        except ValueError as error:
            raise CannotStartWarm(f"the earlier model's ranking network is of another shape than these settings ask for ({error})") from error
        said |= found.account["refreshed"]
    return found, aside, account


def _rows_of(old: Any, new: Any) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the old table, rows of the new one) of what both know; row 0 of a table is what it does not know, and stays that."""
    place = {name: n + 1 for n, name in enumerate(old)}
    both = [(place[name], n + 1) for n, name in enumerate(new) if name in place]
    from_, to = zip(*both, strict=True) if both else ((), ())
    return np.array(from_, np.int64), np.array(to, np.int64)


def _lists(signals: Signals, past: Histories, number: int, of: int, settings: Settings) -> Lists:
    """Lists as they would have been served at the signals' moment, the `number`-th `of` so many, and what shoppers did in the `fit_days` after it."""
    pairs, items, moment = signals.past, signals.items, number - of + 1
    future = past.between(pairs.moment, pairs.moment + settings.fit_days * DAY)
    limit = max(min(LISTS, CELLS // settings.candidates) // of, 1)
    users, weights = sample_users(pairs.events, future, settings.seed, limit)
    allowed = np.bincount(pairs.events.item, minlength=items) > 0
    bought = future.of(PURCHASE)
    keys = np.unique(bought.user.astype(np.int64) * items + bought.item)
    right = np.bincount(keys[allowed[keys % items]] // items, minlength=future.users)
    weight = dict(zip(users.tolist(), weights.tolist(), strict=True))
    parts = []
    for block in listing.blocks(signals, pairs, users, settings.candidates, allowed, repeats=True):
        did = listing.widened(labels(future, block, signals.catalogue), settings.candidates)
        parts.append(Lists(
            listing.widened(block.features, settings.candidates), did[..., ranker.TASKS.index("purchase")],
            listing.widened(block.items >= 0, settings.candidates), right[block.users], np.full(len(block.users), moment),
            {n: listing.widened(s, settings.candidates) for n, s in block.scores.items()}, did,
            np.array([weight[u] for u in block.users.tolist()], np.float32)))
    return Lists.together(parts)
