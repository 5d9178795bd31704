"""What another shop's model brings: the towers may begin with what it learnt of content and behaviour (`model.transfer`).

Who an item or a shopper is differs between shops; how words, categories and prices are read, and how old and new events of each kind tell what
comes next, need not. So every weight is taken over but the rows of items, which begin with nothing beside their content, and those of countries
that the source did not know. What happens to the weights then is the way:

* frozen     what reads content and events stays as it is; the rows of items and countries and both last layers learn
* gradual    first that, then all but the tables of words, categories, prices, kinds and gaps, then everything (Howard & Ruder 2018), each at half
             the rate of before
* full       everything goes on learning, at half the rate
* joint      no weight is taken over: the towers learn the source's purchase days beside their own, in a vocabulary of both, each among the items of
             its own shop, and all of the source's weighing as much as all of their own

Whether it helps is judged on the newest period before the holdout: towers that learnt the days before it with and without. What is not better there
beyond chance is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nightmarket import log as logs
from nightmarket.evaluate.bootstrap import difference
from nightmarket.learn import loop
from nightmarket.learn.strategy import Placement
from nightmarket.recommend import stages, towers
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import PURCHASE, Histories
from nightmarket.recommend.stages import Period, Towers
from nightmarket.shop import Model as Settings

_LOG = logs.logger("recommend")
Way = Literal["scratch", "frozen", "gradual", "full", "joint"]
_ROWS = ("identity", "country_of")
"""Tables whose rows have another meaning in each shop."""
_READS = ("word", "category_of", "price_of", "kind_of", "gap_of")
_LAST = ("content_out", "history_out")
_AT_MOST, _AT_LEAST = 10, 2_000
"""Purchase days of the source that are learnt jointly: so many for each of the shop's own, and no fewer than that."""


@dataclass(frozen=True)
class Source:
    """Another shop's trained recommender."""

    name: str
    """Where it was found."""
    towers: Towers
    catalogue: Catalogue
    cut: float
    """Seconds since 1970 UTC; it has seen nothing at or after this."""
    histories: Histories | None
    """Of that shop's shoppers, in the catalogue's vocabulary; None where the package holds none."""

    @classmethod
    def load(cls, folder: Path, name: str) -> Source:
        """From the folder of a registered model, which holds its shoppers' histories, or of one that was only saved. Raises ModelError."""
        from nightmarket.recommend.model import Recommender
        from nightmarket.recommend.served import Snapshot

        kept = folder / "artifacts"
        before = Recommender.load(saved_in(folder))
        held = Snapshot.load(kept / "snapshot").histories if (kept / "snapshot").is_dir() else None
        catalogue = before.catalogue
        return cls(name, before.before().towers, catalogue, before.before().cut,
                   Histories.from_table(held, list(catalogue.item_ids)) if held is not None else None)

    def unfit(self, way: Way, wanted: Settings, cut: float) -> str:
        """Why this way is closed to towers of these settings that may know nothing at or after `cut`; empty where it is not."""
        if way == "joint":
            return "" if self.histories is not None else f"{self.name} holds no histories; name the folder or version that it was registered as"
        theirs = self.towers.shape
        if theirs.dim != wanted.embedding_dim:
            return f"{self.name} is {theirs.dim} wide, these towers {wanted.embedding_dim}; set model.embedding_dim to {theirs.dim}"
        if theirs.clusters != wanted.content_clusters:
            return f"{self.name} has {theirs.clusters} content clusters, these towers {wanted.content_clusters}; set model.content_clusters to {theirs.clusters}"
        return f"{self.name} has seen days after this night's cut" if self.cut > cut else ""


def saved_in(folder: Path) -> Path:
    """Where in a registered model's folder the recommender is saved; any other folder is that itself."""
    inside = folder / "artifacts" / "saved"
    return inside if inside.is_dir() else folder


def begin(
    way: Way, source: Source, learner: loop.Trainer, past: Histories, priced: Catalogue, learn: Sequence[Path], watch: Sequence[Path], until: float,
    settings: Settings, placement: Placement, work: Path,
) -> list[dict[str, float]]:
    """The first stage of `learner`'s towers by one way, stopped early by the examples `watch`; nothing of the source is known from `until` on.

    The same call with the same `work` continues. Raises learn.loop.Diverged.
    """
    shape = stages.shape_of(past, settings)
    plan = stages.first_plan(settings)

    def sets(more: Sequence[Path] = ()) -> tuple[Any, Any]:
        return (towers.examples([*learn, *more], shape, settings.batch_size, settings.seed),
                towers.examples(list(watch), shape, settings.batch_size, None) if watch else None)

    if way == "joint":
        own = sets()[0].rows
        joint, more = _together(source, past, priced, own, until, settings, placement, work)
        history = joint.fit(*sets(more), plan, work / "joint")
        names = stages.names_of(past)
        towers.take_over(learner.model, joint.model, {
            "identity": (stages.codes_of(past), stages.codes_of(past)),
            "country_of": (np.arange(1, len(names) + 1), np.arange(1, len(names) + 1))})
        return history
    if way != "scratch":
        theirs = {name: n + 1 for n, name in enumerate(source.towers.countries)}
        both = [(theirs[name], n + 1) for n, name in enumerate(stages.names_of(past)) if name in theirs]
        nothing = np.zeros(0, np.int64)
        towers.take_over(learner.model, source.towers.model, {
            "identity": (nothing, nothing),
            "country_of": (np.array([b[0] for b in both], np.int64), np.array([b[1] for b in both], np.int64))})
    history = []
    for n, (still, share) in enumerate(steps(way, [v.path for v in learner.model.trainable_variables])):
        learner.freeze(still)
        history += learner.fit(*sets(), replace(plan, learning_rate=plan.learning_rate * share), work / f"{way}-{n}")
    return history


def steps(way: Way, paths: Sequence[str]) -> list[tuple[list[str], float]]:
    """(paths that stay as they are, share of the learning rate) of each step of a way. What is frozen last stays frozen in later stages."""
    def of(names: Sequence[str]) -> set[str]:
        return {p for p in paths if set(p.split("/")) & set(names)}

    body = [p for p in paths if p not in of((*_ROWS, *_LAST))]
    if way == "frozen":
        return [(body, 1.0)]
    if way == "gradual":
        return [(body, 1.0), (sorted(of(_READS)), 0.5), ([], 0.25)]
    return [([], 0.5 if way == "full" else 1.0)]


def _together(
    source: Source, past: Histories, priced: Catalogue, own: int, until: float, settings: Settings, placement: Placement, work: Path,
) -> tuple[loop.Trainer, list[Path]]:
    """(towers of both vocabularies, the shop's first, that know nothing yet; files of the source's purchase days before `until`)."""
    assert source.histories is not None
    theirs = source.histories.before(until).compact()
    found = towers.purchase_days(theirs, -math.inf, until)[0]
    days = np.bincount(found.user, minlength=theirs.users)
    order = np.random.default_rng([settings.seed, theirs.users]).permutation(theirs.users)
    kept = np.zeros(theirs.users, bool)
    kept[order[np.cumsum(days[order]) <= max(_AT_MOST * own, _AT_LEAST)]] = True
    names = stages.names_of(past)
    names = (*names, *(c for c in stages.names_of(theirs) if c not in names))
    shape = replace(stages.shape_of(past, settings), items=past.items + theirs.items, countries=len(names))
    content = {k: np.concatenate([ours, more]) for (k, ours), more in
               zip(towers.content_table(priced).items(), source.catalogue.aligned(theirs.item_ids).hashed().values(), strict=True)}
    counted = [np.bincount(h.of(PURCHASE).item, minlength=h.items).astype(np.float64) for h in (past, theirs)]
    counted[1] *= counted[0].sum() / max(counted[1].sum(), 1.0)  # negatives are drawn as often from either shop
    task = towers.RetrievalTask(shape, content, np.concatenate([[0.0], *counted]), settings.seed, "joint_towers", border=past.items,
                                dropout=settings.sequence_dropout)
    files: list[Path] = []
    if some := int(days[kept].sum()):
        files, _ = towers.write(
            work, "source", theirs.where(kept[theirs.user]), 0.0, until, shape, np.arange(past.items + 1, shape.items + 1, dtype=np.int32),
            towers.country_codes(theirs.countries, list(names)), settings.seed, weight=min(1.0, own / some))
    return stages.trainer(task, settings, placement), files


def settle(
    source: Source, period: Callable[[], Period | None], settings: Settings, placement: Placement, work: Path, cut: float,
) -> dict[str, Any]:
    """Which way is taken, `way` of the account: 'scratch' where none is better beyond chance on the period. The rest of it says why."""
    wanted = settings.transfer
    assert wanted is not None
    account: dict[str, Any] = {"source": source.name, "way": "scratch"}
    closed = {w: why for w in wanted.ways if (why := source.unfit(w, settings, cut))}
    judge = period() if len(closed) < len(wanted.ways) else None
    if closed:
        account["closed"] = closed
        _LOG.warning(logs.said("transfer", **closed))
    if judge is None:
        return account if len(closed) == len(wanted.ways) else account | {"why": "no period before the holdout has purchase days to judge on"}
    losses: dict[Way, np.ndarray] = {}
    ways: tuple[Way, ...] = ("scratch", *(w for w in dict.fromkeys(wanted.ways) if w not in closed))
    for way in ways:
        with logs.stage(_LOG, "transfer_tried", way=way) as said:
            learner = judge.learner(settings, placement)
            try:
                begin(way, source, learner, judge.past, judge.priced, judge.learn, judge.watch, judge.moment, settings, placement, work / way)
            except loop.Diverged as error:
                if way == "scratch":
                    raise
                account.setdefault("closed", {})[way] = str(error)
                continue
            losses[way] = _by_shopper(judge, judge.losses(learner, settings))
            said["loss"] = round(float(losses[way].mean()), 5)
    account |= {
        "losses": {w: float(v.mean()) for w, v in losses.items()}, "shoppers": len(losses["scratch"]),
        "period": [datetime.fromtimestamp(m, timezone.utc).isoformat() for m in (judge.moment, judge.end)]}
    if len(losses) > 1:
        best = min((w for w in losses if w != "scratch"), key=lambda w: account["losses"][w])
        gain = difference(losses["scratch"], losses[best], settings.bootstrap, settings.seed)
        account |= {"best": best, "gain": asdict(gain), "way": best if gain.low > 0 else "scratch"}
        _LOG.info(logs.said("transfer_settled", way=account["way"], best=best, gain=str(gain)))
    return account


def _by_shopper(period: Period, losses: np.ndarray) -> np.ndarray:
    """(shoppers,) mean of each one's purchase days: days of one shopper are alike, and would make chance look smaller."""
    user = towers.purchase_days(period.past, period.moment, period.end)[0].user
    _, place = np.unique(user, return_inverse=True)
    return np.bincount(place, losses) / np.bincount(place)


def told(account: Mapping[str, Any]) -> list[str]:
    """Sentences for people about what `settle` found."""
    said = [f"{way} was not tried: {why}." for way, why in account.get("closed", {}).items()]
    if "gain" in account:
        gain, best = account["gain"], account["best"]
        verdict = "it is taken" if account["way"] == best else "nothing is taken over, because that is not better beyond chance"
        said.insert(0, f"Of {account['source']}, judged on {account['shoppers']:,} shoppers from {account['period'][0][:10]} to {account['period'][1][:10]}: "
                       f"{best} is {gain['value']:.4f} [{gain['low']:.4f}, {gain['high']:.4f}] of cross-entropy ahead of learning without; {verdict}.")
    elif "why" in account:
        said.append(f"Nothing is taken over from {account['source']}: {account['why']}.")
    return said
