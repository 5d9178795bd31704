"""Several tasks learnt together against the best single-task model of each, in one process, with intervals.

Each task is answered by the product (`learn.tasks.Tasks`), by its joint network alone, and by what a practitioner would train for
that task alone: LightGBM (leaves and rounds chosen on the validation part), a network of its own, logistic regression over TF-IDF.
All see the same columns and rows; no task's label, nor a column that gives it away, is among them.

  python benchmarks/multitask.py online_shoppers    purchase, page value, bounce (the three columns behind the latter are no inputs)
  python benchmarks/multitask.py online_shoppers_all  purchase and returning visitor, with page value and rates as inputs
  python benchmarks/multitask.py womens_clothing    recommended, rating, department, positive feedback from title and text
  python benchmarks/multitask.py funnel             view, cart, purchase of the generated demo shop
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from nightmarket import log as logs
from nightmarket.evaluate.bootstrap import difference, mean
from nightmarket.learn.multitask import Fit, Shape, Target
from nightmarket.learn.strategy import place
from nightmarket.learn.tasks import Tasks, choose_architecture, expected_calibration_error, row_losses
from nightmarket.shop import PROJECT, DemoShop
from nightmarket.sources.demo import tables
from nightmarket.sources.demo.truth import Truth
from nightmarket.sources.demo.world import World


class Case:
    """A table with its tasks: frame, labels (n,) by task, input columns, and which rows are validation and test."""

    def __init__(self, frame: pd.DataFrame, labels: dict[str, np.ndarray], targets: list[Target], columns: list[str],
                 validation: np.ndarray, test: np.ndarray, texts: tuple[str, ...] = (), categories: tuple[str, ...] = ()):
        self.frame, self.labels, self.targets, self.columns = frame, labels, targets, columns
        self.validation, self.test, self.texts, self.categories = validation, test, texts, categories


def parts(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(validation, test) masks: a fifth each, drawn; for tables without a time."""
    drawn = np.random.default_rng(seed).permutation(rows) / rows
    return (drawn >= 0.6) & (drawn < 0.8), drawn >= 0.8


def online_shoppers(data: Path, seed: int, everything: bool) -> Case:
    frame = pd.read_csv(data / "online_shoppers" / "online_shoppers_intention.csv")
    labels = {"purchase": frame["Revenue"].to_numpy(np.float64), "page_value": (frame["PageValues"] > 0).to_numpy(np.float64),
              "bounce": (frame["BounceRates"] > 0).to_numpy(np.float64),
              "returning": (frame["VisitorType"] == "Returning_Visitor").to_numpy(np.float64)}
    hidden = {"Revenue", "VisitorType"} if everything else {"Revenue", "PageValues", "BounceRates", "ExitRates"}
    names = ("purchase", "returning") if everything else ("page_value", "bounce", "purchase")
    coded = ("OperatingSystems", "Browser", "Region", "TrafficType", "Month", "VisitorType", "Weekend")
    return Case(frame, labels, [Target(n) for n in names], [c for c in frame if c not in hidden], *parts(len(frame), seed),
                categories=tuple(c for c in coded if c not in hidden))


def womens_clothing(data: Path, seed: int) -> Case:
    frame = pd.read_parquet(data / "reviews" / "womens_clothing.parquet")
    frame["text"] = frame["Title"].fillna("") + " . " + frame["Review Text"].fillna("")
    frame = frame[frame["Department Name"].notna()].reset_index(drop=True)
    departments = sorted(frame["Department Name"].unique())
    labels = {"recommended": frame["Recommended IND"].to_numpy(np.float64), "rating": frame["Rating"].to_numpy(np.float64),
              "department": frame["Department Name"].map({d: n for n, d in enumerate(departments)}).to_numpy(np.float64),
              "feedback": (frame["Positive Feedback Count"] > 0).to_numpy(np.float64)}
    targets = [Target("recommended"), Target("rating", "number"), Target("department", "classes", classes=len(departments)), Target("feedback")]
    return Case(frame, labels, targets, ["text", "Age"], *parts(len(frame), seed), texts=("text",))


def funnel(days: int, events: int, seed: int) -> Case:
    """One row a shopper, item and day with a view: was it put into the cart, was it bought, by what was known before that day."""
    world = World.of(DemoShop(seed=seed, days=days, events=events), "Europe/London")
    seen, items = [], []
    with TemporaryDirectory() as folder:
        for day in range(days):
            truth = Truth(Path(folder) / f"{day}.parquet")
            for entity, rows in tables.delivered(world, day, truth):
                if entity == "events":
                    seen.append(rows.select(["action", "customer", "sku", "country", "source"]).to_pandas().assign(day=day))
                elif entity == "items":
                    items.append(rows.select(["sku", "department", "maker", "rrp"]).to_pandas())
            truth.close()
    log = pd.concat(seen, ignore_index=True)
    log = log[log["customer"].notna() & (log["customer"] != "")]
    catalogue = pd.concat(items, ignore_index=True).drop_duplicates("sku", keep="first")
    did = log.assign(n=1).pivot_table(index=["customer", "sku", "day"], columns="action", values="n", aggfunc="sum", fill_value=0).reset_index()
    did = did[did["page_view"] > 0]
    first = log.drop_duplicates(["customer", "sku", "day"])[["customer", "sku", "day", "country", "source"]]
    rows = did.merge(first, on=["customer", "sku", "day"], how="left").merge(catalogue, on="sku", how="left").sort_values("day", kind="stable")
    rows["rrp"] = pd.to_numeric(rows["rrp"].astype(str).str.replace(r"[^\d.]", "", regex=True), errors="coerce")
    for who in (["customer"], ["sku"], ["customer", "sku"], ["customer", "department"]):
        daily = rows.groupby([*who, "day"])[["page_view", "add_to_cart", "purchase"]].sum().reset_index()
        name = "_".join(who)
        before = daily.groupby(who)[["page_view", "add_to_cart", "purchase"]].cumsum() - daily[["page_view", "add_to_cart", "purchase"]]
        daily[[f"{name}_views", f"{name}_carts", f"{name}_purchases"]] = before.to_numpy()
        daily[f"{name}_days_since"] = daily["day"] - daily.groupby(who)["day"].shift(1)
        rows = rows.merge(daily[[*who, "day", f"{name}_views", f"{name}_carts", f"{name}_purchases", f"{name}_days_since"]], on=[*who, "day"])
    rows = rows.sort_values("day", kind="stable").reset_index(drop=True)
    rows["weekday"] = (rows["day"] % 7).astype(str)
    labels = {"cart": (rows["add_to_cart"] > 0).to_numpy(np.float64),
              "purchase": ((rows["purchase"] > 0) & (rows["add_to_cart"] > 0)).to_numpy(np.float64)}
    columns = [c for c in rows if c.endswith(("_views", "_carts", "_purchases", "_days_since"))]
    columns += ["country", "source", "department", "maker", "rrp", "weekday", "sku"]
    day = rows["day"].to_numpy()
    return Case(rows, labels, [Target("cart"), Target("purchase", after="cart")], columns, (day >= days * 0.7) & (day < days * 0.85),
                day >= days * 0.85, categories=("country", "source", "department", "maker", "weekday", "sku"))


def auc_difference(label: np.ndarray, one: np.ndarray, other: np.ndarray, resamples: int, seed: int) -> str:
    """ROC AUC of one less other's, rows resampled in pairs."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(label), len(label)) for _ in range(resamples)]
    gaps = [roc_auc_score(label[d], one[d]) - roc_auc_score(label[d], other[d]) for d in draws if 0 < label[d].sum() < len(d)]
    low, high = np.quantile(gaps, [0.025, 0.975])
    return f"{roc_auc_score(label, one) - roc_auc_score(label, other):+.4f} [{low:+.4f}, {high:+.4f}]"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("case", choices=("online_shoppers", "online_shoppers_all", "womens_clothing", "funnel"))
    p.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", metavar="FOLDER")
    p.add_argument("--seed", type=int, default=17)
    p.add_argument("--architecture", choices=("shared_bottom", "mmoe", "ple", "auto"), default="mmoe")
    p.add_argument("--epochs", type=int, default=Fit().epochs)
    p.add_argument("--rows", type=int, help="only so many rows, drawn")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--events", type=int, default=60_000, help="of the funnel")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the numbers here as JSON")
    args = p.parse_args(argv)
    logs.configure()
    if args.case == "funnel":
        case = funnel(60, args.events, 7)
    elif args.case == "womens_clothing":
        case = womens_clothing(args.data, args.seed)
    else:
        case = online_shoppers(args.data, args.seed, args.case.endswith("_all"))
    kept = np.ones(len(case.frame), bool)
    if args.rows and args.rows < len(kept):
        kept = np.random.default_rng(1).permutation(len(kept)) < args.rows
    used, test = kept & ~case.test, kept & case.test
    frame, seen = case.frame[used].reset_index(drop=True), {k: v[used] for k, v in case.labels.items()}
    shape, how, placement = Shape(), Fit(epochs=args.epochs, seed=args.seed), place(0, "float32")
    started = time.monotonic()
    common: dict[str, Any] = {"columns": case.columns, "validation": case.validation[used], "placement": placement, "how": how,
                              "texts": case.texts, "categories": case.categories}
    if args.architecture == "auto":
        chosen, scores = choose_architecture(frame, seen, case.targets, shape=shape, **common)
        print(f"architecture {chosen}, of {scores}")
    else:
        chosen = args.architecture
    made = Tasks.fit(frame, seen, case.targets, shape=replace(shape, architecture=chosen), threads=args.threads, **common)
    took = time.monotonic() - started
    rows = case.frame[test].reset_index(drop=True)
    found = made.components(rows)
    said = made.predict(rows, found)
    print(f"\n{args.case}: {int((~case.validation[used]).sum())} rows to learn from, {int(case.validation[used].sum())} validation, "
          f"{len(rows)} test; {chosen}; {took:.0f} s")
    kept_numbers: dict[str, dict[str, str]] = {}
    for t in case.targets:
        label, report = case.labels[t.name][test], made.reports[t.name]
        answers = {"product": said[t.name], "joint network": found[t.name]["joint"], "own network": found[t.name]["alone"],
                   "LightGBM": found[t.name]["trees"], **({"TF-IDF linear": found[t.name]["words"]} if "words" in found[t.name] else {})}
        measure = "squared error" if t.kind == "number" else "log loss"
        print(f"\n{t.name}: transfer {report.transfer} (joint - own on validation {report.joint_minus_alone}), "
              f"{'separated' if report.separated else 'kept together'}, task weight {report.task_weight:.2f}, blend {report.weights}, "
              f"calibration {report.calibration}")
        losses = {k: row_losses(t, v, label) for k, v in answers.items()}
        kept_numbers[t.name] = {}
        for name, values in losses.items():
            more = ""
            if t.kind == "binary":
                more = f"  ROC AUC {roc_auc_score(label, answers[name]):.4f}  calibration error {expected_calibration_error(answers[name], label):.4f}"
                if name != "product":
                    more += f"  product's AUC less this {auc_difference(label, said[t.name], answers[name], 300, args.seed)}"
            elif t.kind == "classes":
                more = f"  accuracy {(answers[name].argmax(axis=1) == label).mean():.4f}"
            else:
                more = f"  R2 {1 - values.mean() / label.var():.4f}"
            gap = "" if name == "product" else f"  product's loss less this {difference(losses['product'], values, 400, args.seed)}"
            line = f"{measure} {mean(values, 400, args.seed)}{gap}{more}"
            kept_numbers[t.name][name] = line
            print(f"  {name:14} {line}")
    if args.out:
        args.out.write_text(json.dumps(kept_numbers, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
