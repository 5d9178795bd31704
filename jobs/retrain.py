"""Do what the night's plan says about one kind of model: its steps one after another, each a process of its own.

`retrain` and `fine_tune` run the kind's training (warm for the latter), evaluation, `register`, `bless`, and publication; `skip`
only the publication, for shoppers' histories are fresh each night. Where a step fails, or refuses, the champion publishes all the
same, and the first bad exit code is this command's. Run again it finds finished steps current. A shop may have nothing that a kind
beside the recommender learns from: where its training refuses and it never had a champion, nothing is wrong.

  python -m jobs.retrain --run-date 2026-02-01 --model recommender
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from nightmarket import command
from nightmarket import log as logs
from nightmarket.command import REFUSED, USAGE, Night, Refused, UsageError
from nightmarket.contracts import RETRAINING
from nightmarket.lake import Manifest
from nightmarket.registry import kinds
from nightmarket.registry.kinds import KINDS, RECOMMENDER, Kind
from nightmarket.shop import PROJECT, child_environment
from nightmarket.steps import step

log = logs.logger("retrain")


class StepFailed(Exception):
    """A step ended with a fault; what it said stands above."""


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, choices=[k.id for k in KINDS], help="the kind of model")


def run(night: Night) -> list[Manifest]:
    """What was published for the night. Raises Refused, UsageError or StepFailed as the first step that did not end well did."""
    kind = kinds.kind(night.args.model)
    planned = next(r for r in night.lake.at(RETRAINING, night.run_date).arrow().to_pylist() if r["model"] == kind.id)
    log.info(logs.said("planned", model=kind.id, run_date=night.run_date, action=planned["action"], why=planned["why"]))
    champion = json.loads(planned["evidence"]).get("champion")
    if planned["action"] == "skip" and champion is None:
        log.info(logs.said("nothing to publish", model=kind.id, run_date=night.run_date, why="no champion, and nothing is trained"))
        return []
    trouble: tuple[str, int] | None = None
    for name, more in steps_of(kind, planned["action"]):
        if trouble is not None and name != kind.publish:
            continue
        code = _step(night, name, more)
        if code and trouble is None:
            trouble = (name, code)
        if code == REFUSED and name in (*kind.prepare, kind.train) and champion is None and kind != RECOMMENDER:
            log.warning(logs.said("not for this shop yet", model=kind.id, run_date=night.run_date, of=name))
            return []
        if name == "register" and code == 0 and not night.dry_run:
            _lineage(night, kind)
    if trouble is not None:
        _raise(kind, *trouble)
    return [m for d in step(kind.publish).writes if (m := night.lake.manifest(d, night.run_date)) is not None]


def steps_of(kind: Kind, action: str) -> list[tuple[str, tuple[str, ...]]]:
    """(step, further arguments) of an action, in order."""
    first: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in kind.prepare]
    if action == "skip":
        return [*first, (kind.publish, ())]
    model = ("--model", kind.id)
    return [*first, (kind.train, ("--warm",) if action == "fine_tune" else ()), (kind.evaluate, ()), ("register", model), ("bless", model),
            (kind.publish, ())]


def _step(night: Night, name: str, more: Sequence[str]) -> int:
    """Exit code of the step; what it says goes where this says things."""
    words = [sys.executable, "-m", step(name).runs, "--run-date", night.run_date.isoformat(), "--shop", str(night.settings.file),
             "--run-id", night.run_id, *more]
    words += [w for w, asked in (("--force", night.force), ("--dry-run", night.dry_run)) if asked and name != "bless"]
    started = time.monotonic()
    code = subprocess.run(words, cwd=PROJECT, env=child_environment(), check=False, stdin=subprocess.DEVNULL).returncode
    log.info(logs.said("stepped", of=name, exit_code=code, seconds=round(time.monotonic() - started, 1)))
    return code


def _raise(kind: Kind, name: str, code: int) -> None:
    said = f"{kind.id}: step {name} ended with {code}; its own words stand above"
    if code == REFUSED:
        raise Refused(said)
    if code == USAGE:
        raise UsageError(said)
    raise StepFailed(said if code >= 0 else f"{kind.id}: step {name} was killed by signal {-code}")


def _lineage(night: Night, kind: Kind) -> None:
    """Notes on the night's version since when its line has been warm-started, and how often."""
    from jobs.plan_retraining import MADE_ANEW, WARM_STARTS
    from nightmarket.registry import candidate as candidates
    from nightmarket.registry.client import Registry, weights_digest

    made = candidates.require(night.settings, night.run_date, kind)
    registry = Registry(night.settings, kind)
    version = registry.find(made.recipe, weights_digest(candidates.folder_of(night.settings, night.run_date, kind) / "model"))
    if version is None:
        return
    warm: dict[str, Any] = made.training.get("warm_start") or {}
    parent = registry.version(warm["version"]).tags if warm else {}
    registry.tag(version, MADE_ANEW, parent.get(MADE_ANEW, parent.get("run_date", night.run_date.isoformat())))
    registry.tag(version, WARM_STARTS, str(int(parent.get(WARM_STARTS, "0")) + 1 if warm else 0))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("retrain", __doc__ or "", run, argv, extend)


if __name__ == "__main__":
    sys.exit(main())
