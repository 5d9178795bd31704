"""What helps the towers where there is little to learn from: on the UCI "Online Retail" shop, and on fewer and fewer of its shoppers.

  python benchmarks/sparsity.py [--shares 1 0.2 0.05] [--json FILE]

Towers are trained on the purchase days before 2011-11-11, stopped early by shoppers kept out of them, and asked about the 28 days from
then: the cross-entropy of what was bought on each purchase day, and NDCG@10 of all products ranked by the towers alone. Beside plain
ones: events of histories left out anew in each step (`model.sequence_dropout`), products of like content sharing a vector
(`model.content_clusters`), both, and more weight decay. The question is the same for all: the shoppers of the whole shop, so one that
the towers never met is asked as well. Differences are paired by shopper, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import online_retail
import scipy.sparse as sp

from nightmarket import log as logs
from nightmarket.evaluate.bootstrap import difference, mean
from nightmarket.evaluate.metrics import per_user
from nightmarket.evaluate.protocol import Holdout
from nightmarket.learn.strategy import place, tensorflow
from nightmarket.recommend import stages, towers
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.counts import top_k
from nightmarket.recommend.earlier import pairs_at
from nightmarket.recommend.histories import PURCHASE, Histories
from nightmarket.recommend.signals import Options, Signals
from nightmarket.recommend.training import groups_of
from nightmarket.shop import PROJECT, Model

LAST = date(2011, 12, 8)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {}, "dropout 0.1": {"sequence_dropout": 0.1}, "dropout 0.3": {"sequence_dropout": 0.3},
    "64 clusters": {"content_clusters": 64}, "256 clusters": {"content_clusters": 256},
    "256 clusters, dropout 0.3": {"content_clusters": 256, "sequence_dropout": 0.3}, "ten times the decay": {"weight_decay": 1e-2},
}


def kept(user_ids: np.ndarray, share: float) -> np.ndarray:
    """(len,) bool: a share of the shoppers, by a hash of their id."""
    return np.array([int.from_bytes(hashlib.blake2b(str(u).encode(), digest_size=4, person=b"sparse").digest(), "big") < share * 2**32 for u in user_ids])


def asked(whole: Histories, priced: Catalogue, made: stages.Towers, codes: np.ndarray, cut: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """((shoppers,) cross-entropy a purchase day, lower is better, (shoppers,) NDCG@10) of those who had a history at the cut and bought after it."""
    tf = tensorflow()
    past = whole.before(cut)
    known = np.intersect1d(np.unique(past.user), np.unique(whole.of(PURCHASE).between(cut, end).user))
    vectors = towers.item_vectors(made.model, codes, priced.hashed())
    rows = np.arange(1, len(codes) + 1, dtype=np.int32)
    encode, names = towers.encoder(made.model), list(made.countries)
    moments, owner, item = towers.purchase_days(whole, cut, end)
    logits = encode(tf.constant(vectors), towers.sequences(whole, moments, made.shape.history, rows),
                    towers.country_codes(whole.countries[moments.user], names)) @ vectors.T
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    by_day = np.bincount(owner, -logits[owner, item], minlength=len(moments.user)) / np.bincount(owner, minlength=len(moments.user))
    mine = np.isin(moments.user, known)
    place_of = np.searchsorted(known, moments.user[mine])
    entropy = np.bincount(place_of, by_day[mine], minlength=len(known)) / np.bincount(place_of, minlength=len(known))
    scores = made.signal(codes, priced)(pairs_at(past, cut, PURCHASE), known.astype(np.int64))
    after = whole.of(PURCHASE).between(cut, end)
    truth = sp.csr_matrix((np.ones(len(after)), (after.user, after.item)), shape=(whole.users, whole.items))[known]
    truth.data[:] = 1.0
    return entropy, per_user(top_k(scores, 20), truth, np.ones(whole.items))["ndcg@10"]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data" / "online_retail", metavar="FOLDER")
    p.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.2, 0.05], help="of the shoppers that are learnt from")
    p.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    args = p.parse_args()
    logs.configure()
    sold = online_retail.sales(online_retail.lines(args.data))
    holdout = Holdout.of(LAST, 28, ZoneInfo("Europe/London"))
    cut, end = holdout.cut.timestamp(), holdout.end.timestamp()
    whole = Histories.from_table(online_retail.histories(sold))
    catalogue = Catalogue.of(whole.item_ids, online_retail.items(sold))
    seen = Signals(pairs_at(whole, cut, PURCHASE), catalogue, groups_of(whole), Options(seed=17))
    priced = catalogue.with_prices(np.exp(seen.log_price).astype(np.float32))
    told: list[dict[str, Any]] = []
    for share in args.shares:
        before = whole.before(cut)
        past = before.where(kept(before.user_ids, share)[before.user]).compact()
        plain: tuple[np.ndarray, np.ndarray] | None = None
        code_of = {item: n + 1 for n, item in enumerate(past.item_ids)}
        codes = np.array([code_of.get(item, 0) for item in whole.item_ids], np.int32)
        for name, more in WAYS.items():
            settings = Model.model_validate(more)
            shape = stages.shape_of(past, settings)
            trainer = stages.trainer(stages.task_of(past, priced.aligned(past.item_ids), shape, settings), settings, place(1))
            with tempfile.TemporaryDirectory() as work:
                history = stages.stage(trainer, past, shape, float(past.time.min()), cut, 0, settings, Path(work))
            entropy, ndcg = asked(whole, priced, stages.Towers(trainer.model, shape, stages.names_of(past)), codes, cut, end)
            plain = plain or (entropy, ndcg)
            row = {"share": share, "shoppers": len(np.unique(past.user)), "items": past.items, "way": name, "epochs": len(history),
                   "entropy": mean(entropy, 1000, 17), "ahead": difference(plain[0], entropy, 1000, 17),
                   "ndcg@10": mean(ndcg, 1000, 17), "ndcg_ahead": difference(ndcg, plain[1], 1000, 17)}
            told.append({k: v if isinstance(v, (str, int, float)) else asdict(v) for k, v in row.items()})
            print(f"{share:5.2f} {row['shoppers']:5} shoppers {name:26} cross-entropy {row['entropy']}  ahead {row['ahead']}   "
                  f"NDCG@10 {row['ndcg@10']}  ahead {row['ndcg_ahead']}  {len(history)} epochs", flush=True)
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
