"""What Airflow adds to a night, and what a night without drift costs.

  python benchmarks/orchestration.py [--pairs 2] [--folder FOLDER] [--json FILE]
  python benchmarks/orchestration.py --screening [--folder FOLDER]

On a copy of the demo shop, in FOLDER (default: a temporary one; one that holds such a copy goes on with its next night). After a first night:

airflow  a night as `make run` does it: from the trigger to the end of both runs, and by the clock with start and stop
bare     the next night: the same steps as commands, one after another, against a shared Spark server that is warm as well
quiet    a night whose models are left alone: watched (drift, respond, plan_retraining), published by the champion (retrain, which
         skips), told about (summarise); against the steps of a night that trains, both after the same ingestion

With --screening instead: the demo's whole history as one night, about 10,000 orders and reviews, its ingestion aside, and then every step of
`fraud_screening` as a command of its own, start-up included, against a warm Spark server: the night that learns anew, and the decisions alone.

Nights of the first two take turns; with --pairs 0 only one bare night is measured, for the last. A ratio of one pair is of two
neighbouring nights, which are alike but not the same.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import yaml

from nightmarket.contracts import QUALITY, RETRAINING, SCREENING_DECISIONS
from nightmarket.embedded.shared_spark import served
from nightmarket.lake import Lake
from nightmarket.shop import PROJECT, Settings, child_environment, load_shop

TAKEN_IN = ("deliver", "ingest", "clean", "gate", "aggregate")
INGESTION = (*TAKEN_IN, "report", "send", "metrics")
TRAINING = ("drift", "respond", "train", "evaluate", "register", "bless", "publish", "onboard", "experiment", "announce", "send", "metrics")
SCREENING = ("feedback", "screen_features", "train_screener", "judge_screener", "register", "bless", "decide", "brief_risk", "send", "metrics")
WATCH = ("drift", "respond", "plan_retraining")


def copy(folder: Path) -> Settings:
    """shops/demo.yaml with everything it leaves in `folder`."""
    told = yaml.safe_load((PROJECT / "shops" / "demo.yaml").read_text())
    told["storage"]["root"] = "var"
    file = folder / "shop.yaml"
    if file.exists():
        return load_shop(file)
    file.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    return load_shop(file)


def through_airflow(settings: Settings, night: date, first: date | None = None) -> tuple[float, float]:
    """Seconds of the night and of the whole command. Raises SystemExit where the night fails."""
    started = time.monotonic()
    words = ["--date", str(night), *(["--from", str(first)] if first else [])]
    done = subprocess.run([sys.executable, "-m", "nightmarket.embedded", "run", "--shop", str(settings.file), *words], cwd=PROJECT,
                          env=child_environment(), capture_output=True, text=True, check=False)
    told = re.search(r"done in (\d+) min (\d+) s", done.stdout)
    if done.returncode or told is None:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return int(told[1]) * 60 + int(told[2]), time.monotonic() - started


def step(settings: Settings, environment: dict[str, str], name: str, night: date, *more: str) -> float:
    """Seconds of one command. Raises SystemExit where it fails."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"jobs.{name}", "--shop", str(settings.file), "--run-date", str(night), *more],
                          cwd=PROJECT, env=child_environment(**environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return time.monotonic() - started


def one_by_one(settings: Settings, night: date) -> dict[str, float]:
    """Seconds of each step of a night that trains."""
    took: dict[str, float] = {}
    with served(settings) as environment:
        # `make run` starts its server while Airflow starts, so this one may warm up too
        for name in (*INGESTION, *TRAINING):
            took[name] = took.get(name, 0.0) + step(settings, environment, name, night)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2, help="nights through Airflow, and as many bare (default: 2)")
    parser.add_argument("--folder", type=Path, help="an empty folder; kept")
    parser.add_argument("--screening", action="store_true", help="the screening of the demo's whole history as one night instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightmarket-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        told = screened(copy(folder)) if args.screening else measure(copy(folder), args.pairs)
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


def screened(settings: Settings) -> dict[str, object]:
    demo = settings.shop.demo
    assert demo is not None
    first = date.fromisoformat(demo.first_day)
    night = first + timedelta(days=demo.days - 1)
    took: dict[str, float] = {}
    with served(settings) as environment:
        for name in TAKEN_IN:
            step(settings, environment, name, night, "--from-date", str(first))
        for name in SCREENING:
            took[name] = step(settings, environment, name, night, *(("--model", "screener") if name in ("register", "bless") else ()))
        again = {name: step(settings, environment, name, night, "--force") for name in ("screen_features", "decide")}
    made = Lake(settings.places.lake).manifest(SCREENING_DECISIONS, night)
    assert made is not None
    print(", ".join(f"{n} {s:.1f}" for n, s in took.items()))
    print(f"{made.rows_out} decided about: {sum(took.values()):.0f} s; described and decided by the champion that there is, once more: {sum(again.values()):.0f} s")
    return {"rows": made.rows_out, "took": took, "again": again}


def measure(settings: Settings, pairs: int) -> dict[str, object]:
    demo = settings.shop.demo
    assert demo is not None
    first = date.fromisoformat(demo.first_day)
    night = first + timedelta(days=demo.days - 1)
    if known := Lake(settings.places.lake).dates(QUALITY):
        night = known[-1]
    else:
        of_night, whole = through_airflow(settings, night, first)
        print(f"first night: {of_night:.0f} s of {whole:.0f} s", flush=True)
    airflow: list[float] = []
    bare: list[dict[str, float]] = []
    clock: list[float] = []
    for _ in range(pairs):
        night += timedelta(days=1)
        of_night, whole = through_airflow(settings, night)
        airflow.append(of_night)
        clock.append(whole)
        night += timedelta(days=1)
        bare.append(one_by_one(settings, night))
        print(f"pair: airflow {airflow[-1]:.0f} s ({clock[-1]:.0f} s by the clock), bare {sum(bare[-1].values()):.0f} s, "
              f"ratio {airflow[-1] / sum(bare[-1].values()):.2f}", flush=True)
    night += timedelta(days=1)
    trained = bare
    if not bare:
        trained = [one_by_one(settings, night)]
        night += timedelta(days=1)
    quiet: dict[str, float] = {}
    with served(settings) as environment:
        for name in INGESTION:
            step(settings, environment, name, night)
        for name in WATCH:
            quiet[name] = step(settings, environment, name, night)
        plan = {r["model"]: (r["action"], r["why"]) for r in Lake(settings.places.lake).at(RETRAINING, night).arrow().to_pylist()}
        quiet["retrain"] = step(settings, environment, "retrain", night, "--model", "recommender")
        quiet["summarise"] = step(settings, environment, "summarise", night)
    full = [sum(took[n] for n in TRAINING) for took in trained]
    print(f"plan of the quiet night: {plan['recommender']}")
    print("quiet: " + ", ".join(f"{n} {s:.1f}" for n, s in quiet.items()))
    print(f"quiet {sum(quiet.values()):.0f} s against {sum(full) / len(full):.0f} s: {sum(quiet.values()) / (sum(full) / len(full)):.3f}")
    ratios = [a / sum(b.values()) for a, b in zip(airflow, bare, strict=True)]
    print("airflow over bare: " + ", ".join(f"{r:.3f}" for r in ratios))
    return {"airflow": airflow, "clock": clock, "bare": trained, "quiet": quiet, "plan": plan, "ratios": ratios}


if __name__ == "__main__":
    main()
