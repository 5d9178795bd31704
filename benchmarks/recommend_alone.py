"""`python -m jobs.recommend` against what a practitioner would pick instead, in one process, with intervals over shoppers.

Every peer is tuned on the window before the test, as the product chooses for itself; `two_stages` is LambdaMART over the candidates
of the other peers. Nothing is chosen on the test window.

  python benchmarks/recommend_alone.py uci                    repeats allowed: train before 2011-11-11, test the 28 days from then
  python benchmarks/recommend_alone.py uci_new                the same, --repeats exclude
  python benchmarks/recommend_alone.py strangers              shoppers of the test window never seen before, by country only
  python benchmarks/recommend_alone.py newcomers              the same after their first basket (--context), their later baskets asked for
  python benchmarks/recommend_alone.py cold                   items first sold in the test window, ranked among each other (--candidates)
  python benchmarks/recommend_alone.py journey                complete_journey, its last four weeks; also by age and income
  python benchmarks/recommend_alone.py order --file F.parquet leave each shopper's last event out; any file of user_id, item_id, event_ts
  python benchmarks/recommend_alone.py order                  the same, derived from the UCI shop: first purchases only, places for times

--back DAYS moves a protocol into the past (where to choose settings); --shoppers N takes a seeded part of the shoppers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import online_retail
import pandas as pd
import recommender_peers as peers
import scipy.sparse as sp
from recommender_peers import Events

from jobs import recommend
from nightmarket.evaluate import bootstrap
from nightmarket.evaluate.metrics import per_user
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.shop import PROJECT

END, DAYS = pd.Timestamp("2011-11-11", tz="Europe/London"), 28
RESAMPLES = 1000


@dataclass(frozen=True)
class Protocol:
    """What is known, who is asked, and what was right. Frames have user_id and item_id as text."""

    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    truth: pd.DataFrame
    cut: float
    """In days."""
    window: float
    exclude: bool = False
    context: pd.DataFrame | None = None
    candidates: list[str] | None = None
    ordered: bool = False
    peers: tuple[str, ...] = ("popularity", "recent_popularity", "frequency", "cosine", "bm25", "rp3beta", "ease", "als", "tifu_knn", "up_cf")
    slices: dict[str, pd.Series] = field(default_factory=dict)


def uci(data: Path, back: int, shoppers: int | None) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(sales, items, users)."""
    sold = online_retail.sales(online_retail.lines(data / "online_retail"))
    if shoppers:
        names = np.array(sorted(sold["user_id"].unique()))
        sold = sold[sold["user_id"].isin(np.random.default_rng(0).choice(names, shoppers, replace=False))]
    events = pd.DataFrame({"user_id": sold["user_id"], "item_id": sold["item_id"], "event_type": "purchase", "event_ts": sold["time"],
                           "quantity": sold["Quantity"], "unit_price": sold["UnitPrice"], "order_id": sold["InvoiceNo"]})
    end = END.tz_convert("UTC") + pd.Timedelta(days=DAYS - back)
    events = events[events["event_ts"] < end]
    # titles as they were known at the cut, and of new items as they were first offered
    items = sold.dropna(subset=["Description"]).sort_values("time", kind="stable").groupby("item_id")["Description"].last().str.strip().rename("title").reset_index()
    users = sold.groupby("user_id")["Country"].last().rename("country").reset_index()
    return events.reset_index(drop=True), items, users


def protocol(name: str, args: argparse.Namespace) -> Protocol:
    if name == "journey":
        return journey(args)
    if name == "order":
        return order(args)
    events, items, users = uci(args.data, args.back, args.shoppers)
    moment = END.tz_convert("UTC") - pd.Timedelta(days=args.back)
    past, future = events[events["event_ts"] < moment], events[events["event_ts"] >= moment]
    cut = moment.timestamp() / 86400
    sold, known = set(past["item_id"]), set(past["user_id"])
    if name in ("uci", "uci_new"):
        truth = future[future["item_id"].isin(sold) & future["user_id"].isin(known)]
        return Protocol(past, items, users, _pairs(truth, past if name == "uci_new" else None), cut, DAYS, exclude=name == "uci_new")
    if name == "strangers":
        truth = future[future["item_id"].isin(sold) & ~future["user_id"].isin(known)]
        return Protocol(past, items, users, _pairs(truth, None), cut, DAYS, peers=("popularity", "recent_popularity", "country_popularity"))
    if name == "newcomers":
        fresh = future[~future["user_id"].isin(known)].sort_values(["user_id", "event_ts"], kind="stable")
        first = fresh["order_id"] == fresh.groupby("user_id")["order_id"].transform("first")
        truth = fresh[~first & fresh["item_id"].isin(sold)]
        context = fresh[first & fresh["user_id"].isin(truth["user_id"])]
        return Protocol(past, items, users, _pairs(truth, None), cut, DAYS, context=context.reset_index(drop=True))
    if name == "cold":
        truth = future[~future["item_id"].isin(sold) & future["user_id"].isin(known)]
        fresh = sorted(set(future["item_id"]) - sold)
        return Protocol(past, items, users, _pairs(truth, None), cut, DAYS, candidates=fresh, peers=("content", "ease"))
    raise SystemExit(f"no protocol {name!r}")


def journey(args: argparse.Namespace) -> Protocol:
    folder = args.data / "complete_journey"
    lines = pd.read_parquet(folder / "transactions_sample.parquet")
    products = pd.read_parquet(folder / "products.parquet")
    people = pd.read_parquet(folder / "demographics.parquet")
    lines = lines[(lines["quantity"] > 0) & (lines["sales_value"] > 0)]
    events = pd.DataFrame({
        "user_id": lines["household_id"].astype(str), "item_id": lines["product_id"].astype(str), "event_type": "purchase",
        "event_ts": pd.to_datetime(lines["transaction_timestamp"]).dt.tz_localize("America/New_York", ambiguous=True, nonexistent="shift_forward").dt.tz_convert("UTC"),
        "quantity": lines["quantity"], "unit_price": lines["sales_value"] / lines["quantity"], "order_id": lines["basket_id"].astype(str)})
    moment = events["event_ts"].max().normalize() + pd.Timedelta(days=1) - pd.Timedelta(days=DAYS + args.back)
    events = events[events["event_ts"] < moment + pd.Timedelta(days=DAYS)]
    past, future = events[events["event_ts"] < moment].reset_index(drop=True), events[events["event_ts"] >= moment]
    products = products[products["product_id"].astype(str).isin(events["item_id"])]
    items = pd.DataFrame({"item_id": products["product_id"].astype(str), "title": products["product_type"].astype(object).where(products["product_type"].notna(), None),
                          **{c: products[c].astype(object).where(products[c].notna(), None) for c in ("department", "brand", "product_category", "manufacturer_id", "package_size")}})
    users = pd.DataFrame({"user_id": people["household_id"].astype(str), **{c: people[c].astype(object).where(people[c].notna(), None) for c in ("age", "income", "household_comp")}})
    truth = future[future["item_id"].isin(past["item_id"]) & future["user_id"].isin(past["user_id"])]
    by = users.set_index("user_id")
    return Protocol(past, items, users, _pairs(truth, None), moment.timestamp() / 86400, DAYS, slices={"age": by["age"], "income": by["income"]},
                    peers=("popularity", "recent_popularity", "frequency", "cosine", "bm25", "rp3beta", "als", "tifu_knn", "up_cf"))


def order(args: argparse.Namespace) -> Protocol:
    if args.file:
        events = pd.read_parquet(args.file)
    else:
        events, _, _ = uci(args.data, args.back, args.shoppers)
        events = events.sample(frac=1.0, random_state=0).sort_values(["user_id", "event_ts"], kind="stable").drop_duplicates(["user_id", "item_id"])
        # short histories, as public review files have: the newest dozen of each
        events = events.groupby("user_id").tail(12)
    items = pd.read_parquet(args.items) if args.items else (uci(args.data, 0, None)[1] if not args.file else pd.DataFrame({"item_id": events["item_id"].unique()}))
    events = events.assign(user_id=events["user_id"].astype(str), item_id=events["item_id"].astype(str))
    events["event_ts"] = events.groupby("user_id").cumcount()
    size = events.groupby("user_id")["event_ts"].transform("size")
    last = (events["event_ts"] == size - 1) & (size >= 3)
    past, truth = events[~last], events[last]
    truth = truth[truth["item_id"].isin(past["item_id"])]
    keep = [c for c in ("user_id", "item_id", "event_type", "event_ts") if c in past.columns]
    past = past[keep].assign(event_type="purchase").reset_index(drop=True)
    # peers read a place as a day, counted back from a common end
    back = past.groupby("user_id")["event_ts"].transform("max") - past["event_ts"]
    return Protocol(past.assign(place=1e4 - back), items, pd.DataFrame({"user_id": past["user_id"].unique()}), _pairs(truth, None), 10_001.0, 1.0, exclude=True, ordered=True,
                    peers=("popularity", "cosine", "bm25", "rp3beta", "ease", "als", "rules", "up_cf", "content"))


def _pairs(truth: pd.DataFrame, known: pd.DataFrame | None) -> pd.DataFrame:
    made = truth[["user_id", "item_id"]].drop_duplicates()
    if known is not None:
        had = known[["user_id", "item_id"]].drop_duplicates().assign(had=True)
        made = made.merge(had, how="left")
        made = made[made["had"].isna()].drop(columns="had")
    return made.sort_values(["user_id", "item_id"]).reset_index(drop=True)


def product(p: Protocol, budget: str, folder: Path, k: int = 20) -> tuple[pd.DataFrame, float]:
    """(answers, seconds) of the command itself."""
    sent = {"events": p.events.drop(columns=[c for c in ("place",) if c in p.events]), "items": p.items, "users": p.users,
            "targets": pd.DataFrame({"user_id": p.truth["user_id"].unique()})}
    if p.context is not None:
        sent["context"] = p.context
    if p.candidates is not None:
        sent["candidates"] = pd.DataFrame({"item_id": p.candidates})
    arguments = ["--out", str(folder / "out.parquet"), "--k", str(k), "--budget", budget, "--repeats", "exclude" if p.exclude else "allow"]
    for name, frame in sent.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
        arguments += [f"--{name}", str(folder / f"{name}.parquet")]
    started = time.monotonic()
    if recommend.main(arguments) != 0:
        raise SystemExit("the command failed")
    return pd.read_parquet(folder / "out.parquet"), time.monotonic() - started


@dataclass(frozen=True)
class Coded:
    """A protocol in codes, for the peers."""

    events: Events
    users: np.ndarray
    truth: sp.csr_matrix
    allowed: np.ndarray
    user_ids: list[str]
    item_code: dict[str, int]
    """Place of each item."""
    base: Events
    """Without the context, to be tuned on."""


def coded(p: Protocol) -> Coded:
    everything = p.events if p.context is None else pd.concat([p.events, p.context])
    user_ids = sorted({*everything["user_id"], *p.truth["user_id"]})
    item_ids = sorted({*everything["item_id"], *p.truth["item_id"], *(p.candidates or ())})
    users, items = {u: n for n, u in enumerate(user_ids)}, {i: n for n, i in enumerate(item_ids)}
    title = dict(zip(p.items["item_id"].astype(str), p.items["title"], strict=True)) if "title" in p.items else {}
    more = {c: dict(zip(p.items["item_id"].astype(str), p.items[c], strict=True)) for c in p.items if c not in ("item_id", "title")}
    attributes = {c: np.array([(str(v),) if isinstance(v := held.get(i), (str, int, float)) and v == v else () for i in item_ids] + [None], dtype=object)[:-1] for c, held in more.items()}
    words = Catalogue(np.array(item_ids, dtype=object), np.array([t if isinstance(t := title.get(i), str) else "" for i in item_ids], dtype=object),
                      np.full(len(item_ids), "", dtype=object), np.full(len(item_ids), np.nan, np.float32), attributes).tfidf()
    country = np.full(len(user_ids), -1)
    if "country" in p.users:
        names = {c: n for n, c in enumerate(sorted(p.users["country"].unique()))}
        for user, value in zip(p.users["user_id"], p.users["country"], strict=True):
            if user in users:
                country[users[user]] = names[value]

    def events(frame: pd.DataFrame, latest: float | None = None) -> Events:
        day = frame["place"].to_numpy(float) if p.ordered else frame["event_ts"].to_numpy("datetime64[s]").astype(float) / 86400
        day = np.minimum(day, latest) if latest is not None else day
        u, i = frame["user_id"].map(users).to_numpy(), frame["item_id"].map(items).to_numpy()
        seen = pd.DataFrame({"u": u, "i": i, "d": day, "n": np.floor(day)}).sort_values("d").drop_duplicates(["u", "i", "n"], keep="last")
        return Events(seen["u"].to_numpy(), seen["i"].to_numpy(), seen["d"].to_numpy(), len(user_ids), len(item_ids), p.cut, country, words)

    asked = np.unique(p.truth["user_id"].map(users).to_numpy())
    truth = sp.csr_matrix((np.ones(len(p.truth), bool), (np.searchsorted(asked, p.truth["user_id"].map(users)), p.truth["item_id"].map(items))),
                          shape=(len(asked), len(item_ids)), dtype=bool)
    allowed = np.isin(item_ids, p.candidates) if p.candidates is not None else np.isin(item_ids, p.events["item_id"].unique())
    # a first basket counts as of the moment of asking
    return Coded(events(everything, p.cut - 0.01 if p.context is not None else None), asked, truth, allowed, [user_ids[a] for a in asked], items, events(p.events))


def windows(p: Protocol, c: Coded, how_far: int) -> tuple[Events, np.ndarray, sp.csr_matrix, np.ndarray]:
    """(events before, users, truth, allowed) of the window `how_far` windows before the test's, in the protocol's own manner."""
    moment = p.cut - how_far * p.window
    e = c.base
    before = e.before(moment)
    inside = (e.day >= moment) & (e.day < moment + p.window)
    sold = np.bincount(before.item, minlength=e.items) > 0
    known = np.bincount(before.user, minlength=e.users) > 0
    user, item, day = e.user[inside], e.item[inside], e.day[inside]
    allowed = sold
    if p.candidates is not None:
        allowed = ~sold & (np.bincount(item, minlength=e.items) > 0)
        keep = allowed[item] & known[user]
    elif p.context is not None:
        opening = np.full(e.users, np.inf)
        np.minimum.at(opening, user, np.floor(day))
        first = np.floor(day) == opening[user]
        fresh = ~known[user]
        keep = fresh & ~first & sold[item]
        more = fresh & first
        before = replace(before, user=np.concatenate([before.user, user[more]]), item=np.concatenate([before.item, item[more]]),
                         day=np.concatenate([before.day, np.full(int(more.sum()), moment - 0.01)]))
    elif "country_popularity" in p.peers:
        keep = ~known[user] & sold[item]
    else:
        keep = known[user] & sold[item]
    user, item = user[keep], item[keep]
    if p.exclude:
        had = np.asarray(before.binary[user, item]).ravel() > 0
        user, item = user[~had], item[~had]
    asked = np.unique(user)
    truth = sp.csr_matrix((np.ones(len(user), bool), (np.searchsorted(asked, user), item)), shape=(len(asked), e.items), dtype=bool)
    truth.sum_duplicates()
    return before, asked, truth, allowed


def tuned(p: Protocol, c: Coded, name: str) -> dict[str, Any]:
    make, grid = peers.GRIDS[name]
    before, users, truth, allowed = windows(p, c, 1)
    if len(grid) == 1 or not len(users):
        return grid[0]
    flat = np.full(before.items, 0.5)
    barred = before.binary if p.exclude else None
    reached = [per_user(peers.top(make(before, **s), users, allowed, barred), truth, flat)["ndcg@10"].mean() for s in grid]
    return grid[int(np.argmax(reached))]


def two_stages(p: Protocol, c: Coded, settings: dict[str, dict[str, Any]], answered: Events) -> np.ndarray:
    """LambdaMART over the candidates of the other peers, learnt on the two windows before the test."""
    names = [n for n in settings if n not in ("popularity",)]
    depth = 100

    def lists(before: Events, users: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        barred = before.binary if p.exclude else None
        scores = {n: peers.GRIDS[n][0](before, **settings[n]) for n in names}
        own, sold, recent = before.counts(), np.asarray(before.binary.sum(axis=0)).ravel(), np.asarray(before.counts(14.0).sum(axis=0)).ravel()
        last = sp.csr_matrix((before.day - before.day.min() + 1.0, (before.user, before.item)), shape=own.shape)
        items_out, features = [], []
        for start in range(0, len(users), 256):
            part = users[start : start + 256]
            tops = {n: next(peers.scored(scores[n], part, allowed, barred, depth)) for n in names}
            union = [np.unique(np.concatenate([tops[n][0][r] for n in names])) for r in range(len(part))]
            width = max(len(u) for u in union)
            items = np.full((len(part), width), -1)
            for r, u in enumerate(union):
                items[r, : len(u)] = u
            safe = np.maximum(items, 0)
            columns = []
            for n in names:
                block = np.asarray(scores[n](part))
                value = np.take_along_axis(block, safe, axis=1)
                columns += [value, value / np.maximum(np.abs(block).max(axis=1, keepdims=True), 1e-12)]
            for matrix in (own, last):
                columns.append(np.take_along_axis(matrix[part].toarray(), safe, axis=1))
            active = np.asarray(own[part].sum(axis=1))
            columns += [sold[safe], recent[safe], np.broadcast_to(active, safe.shape), np.broadcast_to(np.asarray((own[part] > 0).sum(axis=1)), safe.shape)]
            items_out += list(items)
            features += list(np.stack(columns, axis=-1).astype(np.float32))
        return np.array(items_out, dtype=object), np.array(features, dtype=object)

    rows, labels, groups = [], [], []
    for far in (1, 2):
        before, users, truth, allowed = windows(p, c, far)
        if not len(users):
            continue
        items, features = lists(before, users, allowed)
        for r in range(len(users)):
            real = items[r] >= 0
            right = np.isin(items[r][real], truth.indices[truth.indptr[r] : truth.indptr[r + 1]])
            if right.any():
                rows.append(np.asarray(features[r])[real])
                labels.append(right)
                groups.append(int(real.sum()))
    data = lightgbm.Dataset(np.concatenate(rows), np.concatenate(labels).astype(int), group=groups)
    booster = lightgbm.train({"objective": "lambdarank", "num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 50, "feature_fraction": 0.7,
                              "verbosity": -1, "seed": 0, "deterministic": True, "force_row_wise": True}, data, 200)
    items, features = lists(answered, c.users, c.allowed)
    out = np.full((len(c.users), 20), -1)
    for r in range(len(c.users)):
        real = items[r] >= 0
        best = items[r][real][np.argsort(-booster.predict(np.asarray(features[r])[real]), kind="stable")][:20]
        out[r, : len(best)] = best
    return out


def main(argv: list[str] | None = None) -> int:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("protocol", choices=("uci", "uci_new", "strangers", "newcomers", "cold", "journey", "order"))
    a.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    a.add_argument("--budget", default="balanced")
    a.add_argument("--back", type=int, default=0, metavar="DAYS")
    a.add_argument("--shoppers", type=int, metavar="N")
    a.add_argument("--file", type=Path)
    a.add_argument("--items", type=Path)
    a.add_argument("--only", choices=("product", "peers"), help="half of the comparison")
    a.add_argument("--out", type=Path, metavar="FILE", help="write the numbers here as JSON")
    args = a.parse_args(argv)
    p = protocol(args.protocol, args)
    c = coded(p)
    lists: dict[str, np.ndarray] = {}
    seconds = 0.0
    if args.only != "peers":
        with tempfile.TemporaryDirectory() as folder:
            answers, seconds = product(p, args.budget, Path(folder))
        place = {u: n for n, u in enumerate(c.user_ids)}
        made = np.full((len(c.users), 20), -1)
        made[answers["user_id"].map(place), answers["rank"] - 1] = answers["item_id"].map(c.item_code)
        lists["nightmarket"] = made
    if args.only != "product":
        settings = {}
        barred = c.events.binary if p.exclude else None
        for name in p.peers:
            settings[name] = tuned(p, c, name)
            lists[name] = peers.top(peers.GRIDS[name][0](c.events, **settings[name]), c.users, c.allowed, barred)
            print(f"{name}: {settings[name]}", file=sys.stderr, flush=True)
        if len(settings) > 3 or p.candidates is not None:
            lists["two_stages"] = two_stages(p, c, settings, c.events)
    report(p, c, lists, seconds, args)
    return 0


def report(p: Protocol, c: Coded, lists: dict[str, np.ndarray], seconds: float, args: argparse.Namespace) -> None:
    flat = np.full(c.truth.shape[1], 0.5)
    values = {n: per_user(found, c.truth, flat) for n, found in lists.items()}
    print(f"\n{args.protocol}: {len(c.users)} shoppers, {int(c.allowed.sum())} items, {len(p.events)} events; the command took {seconds:.0f} s ({args.budget})\n")
    rows: dict[str, Any] = {}
    for name in sorted(values, key=lambda n: -values[n]["ndcg@10"].mean()):
        rows[name] = {m: str(bootstrap.mean(values[name][m], RESAMPLES, 0)) for m in ("ndcg@10", "recall@20", "hit_rate@10")}
        print(f"  {name:20}" + "  ".join(f"{m} {v}" for m, v in rows[name].items()))
    others = {n: v for n, v in values.items() if n != "nightmarket"}
    if "nightmarket" in values and others:
        best = max(others, key=lambda n: others[n]["ndcg@10"].mean())
        rows["difference"] = {"peer": best, "ndcg@10": str(bootstrap.difference(values["nightmarket"]["ndcg@10"], others[best]["ndcg@10"], RESAMPLES, 0))}
        print(f"\n  nightmarket minus {best}, same shoppers: ndcg@10 {rows['difference']['ndcg@10']}")
        length = np.diff(c.events.binary.indptr)[c.users]
        slices: dict[str, Callable[[], np.ndarray]] = {"items had before": lambda: pd.cut(length, [-1, 0, 2, 5, 20, 100, 10**9]).astype(str)}
        slices |= {name: (lambda s=series: s.reindex(c.user_ids).astype(object).fillna("unknown").to_numpy()) for name, series in p.slices.items()}
        for name, make in slices.items():
            label = np.asarray(make())
            for value in sorted(set(label)):
                at = label == value
                if at.sum() >= 20:
                    print(f"    {name} {value}: {int(at.sum())} shoppers, nightmarket {bootstrap.mean(values['nightmarket']['ndcg@10'][at], RESAMPLES, 0)}, {best} {others[best]['ndcg@10'][at].mean():.4f}")
    if args.out:
        args.out.write_text(json.dumps({"protocol": args.protocol, "seconds": seconds, "shoppers": len(c.users), "rows": rows}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
