"""The candidate folder of a night: what training leaves for evaluation, registration and blessing.

    <work>/models/<model name>/<run date>/
        model/            what the trained model saved
        student/          a smaller one that it taught, where one was asked for
        compressed/       what stands in for it, where the evaluation found that something smaller may
        evaluation/       evaluation.json and pictures, once judged
        candidate.json    written last: recipe, inputs, holdout, account of training

It appears by one rename, so a reader sees a whole candidate or none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nightmarket.command import Refused
from nightmarket.lake import Input, held, write_atomically
from nightmarket.registry.kinds import RECOMMENDER, Kind
from nightmarket.shop import Settings


@dataclass(frozen=True)
class Candidate:
    """candidate.json."""

    name: str
    run_date: str
    recipe: str
    """Digest of inputs, settings, code and seed; the same recipe needs no second training."""
    inputs: tuple[Input, ...]
    """Manifests of what it was trained from."""
    settings: str
    code: str
    seed: int
    cut: str
    """ISO 8601; it has seen nothing at or after this."""
    end: str
    time_zone: str
    training: dict[str, Any]
    seconds: float
    peak_memory_mb: float
    created_at: str
    run_id: str = ""

    @classmethod
    def read(cls, folder: Path) -> Candidate | None:
        """The candidate in `folder`; None where none was completed."""
        try:
            data = json.loads((folder / "candidate.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        data["inputs"] = tuple(Input(**i) for i in data["inputs"])
        return cls(**data)

    def as_input(self) -> Input:
        return Input(f"candidate/{self.name}/{self.run_date}", self.recipe)


def digest_of(account: Mapping[str, Any]) -> str:
    """Of a part of a candidate's account that another candidate was made from."""
    return hashlib.sha256(json.dumps(account, sort_keys=True).encode()).hexdigest()[:16]


def folder_of(settings: Settings, run_date: date, kind: Kind = RECOMMENDER) -> Path:
    return settings.places.work / "models" / kind.name(settings.shop) / run_date.isoformat()


def saved_in(folder: Path) -> Path:
    """What of a candidate is registered: what the evaluation let stand in for it, its compressed model or its student, else the model."""
    return folder / "compressed" if (folder / "compressed").is_dir() else folder / "model"


def report_of(settings: Settings, run_date: date, kind: Kind = RECOMMENDER) -> Path:
    """Where people read the decision about the night's candidate, its model card and the letter."""
    return settings.places.reports / "models" / run_date.isoformat() / kind.name(settings.shop)


def require(settings: Settings, run_date: date, kind: Kind = RECOMMENDER) -> Candidate:
    """The night's candidate. Raises Refused where there is none."""
    folder = folder_of(settings, run_date, kind)
    found = Candidate.read(folder)
    if found is None:
        raise Refused(f"no candidate of {run_date} in {folder}; run `python -m jobs.{kind.train} --run-date {run_date}` first")
    return found


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the candidate's folder against other trainings and evaluations of the same night; waits for them."""
    with held(folder.parent / f".{folder.name}.lock"):
        yield


def publish(folder: Path, candidate: Candidate, save: Callable[[Path], None]) -> None:
    """Puts a whole candidate in place of the one that may be there. Call it while `alone`."""
    staging = folder.with_name(f".staging-{folder.name}-{uuid.uuid4().hex[:8]}")
    for debris in folder.parent.glob(f".staging-{folder.name}-*"):
        shutil.rmtree(debris)  # of a killed training: the lock says that no live one owns it
    try:
        save(staging / "model")
        write_atomically(staging / "candidate.json", json.dumps(asdict(candidate), indent=1, sort_keys=True))
        replace(folder, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace(folder: Path, made: Path) -> None:
    """Renames `made` to `folder`; what was there goes away first, by a rename too."""
    if folder.exists():
        old = folder.with_name(f".old-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(old)
        made.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        made.rename(folder)
