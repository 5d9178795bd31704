"""What judging a night's candidate has in common for every kind of model: whom it meets, whether that was done, where it is kept."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nightmarket import log as logs
from nightmarket.command import Night, Refused
from nightmarket.contracts import Dataset
from nightmarket.lake import Input, Manifest
from nightmarket.registry import candidate as candidates
from nightmarket.registry.candidate import Candidate
from nightmarket.registry.kinds import Kind

if TYPE_CHECKING:
    from nightmarket.registry.client import RegisteredModel

log = logs.logger("judging")
Model = TypeVar("Model")
UNREADABLE = (ValueError, KeyError, TypeError, FileNotFoundError)
"""What reading a model raises that another version of the code saved, or that is not whole; a disk that fails is a fault."""


def judged(
    night: Night, kind: Kind, made_from: Dataset, digest: str, judge: Callable[[Candidate, RegisteredModel | None, list[Input]], Manifest],
) -> list[Manifest]:
    """The manifest of the kind's evaluation of the night: the one there is where this very candidate and champion were judged before with
    these settings (`digest`), else what `judge` publishes while it holds the candidate's folder. None in a dry run.

    Raises Refused where there is no candidate, or it was made from another `made_from` than the one published now.
    """
    from nightmarket.registry.client import Registry

    settings = night.settings
    made = candidates.require(settings, night.run_date, kind)
    if night.lake.at(made_from, night.run_date).manifest.as_input() not in made.inputs:
        raise Refused(f"the candidate of {night.run_date} was made from another {made_from.id} than the one published now; run "
                      f"`python -m jobs.{kind.train} --run-date {night.run_date}` again")
    champion = Registry(settings, kind).opponent(made.recipe, anew=night.force)
    read = [made.as_input(), *made.inputs]
    if champion is not None:
        read.append(Input(f"champion/{made.name}/{champion.version}", champion.tags.get("recipe", champion.run_id)))
    folder = candidates.folder_of(settings, night.run_date, kind)
    before = night.lake.manifest(kind.evaluation, night.run_date)
    if before is not None and (folder / "evaluation" / "evaluation.json").is_file() and night.is_current(
        kind.evaluation, night.run_date, read, digest, made.seed
    ):
        log.info(logs.said("current", run_date=night.run_date, recipe=made.recipe))
        return [before]
    if night.dry_run:
        log.info(logs.said("would judge", run_date=night.run_date, candidate=made.recipe, champion=champion and champion.version))
        return []
    with candidates.alone(folder):
        return [judge(made, champion, read)]


def readable(champion: RegisteredModel | None, load: Callable[[Path], Model]) -> tuple[Model | None, str]:
    """(the champion's model, ""), or (None, why) where this code cannot read it. A champion that cannot answer is no opponent: the
    candidate is judged beside the baselines alone, `tell_unreadable` says so, and the model gate takes it into its record."""
    if champion is None:
        return None, ""
    if not champion.folder.is_dir():  # a store that cannot be reached is a fault: nobody may be promoted past the champion for it
        raise OSError(f"{champion.folder}: version {champion.version} of {champion.name} is not there; mend the registry's store and run again")
    try:
        return load(champion.folder), ""
    except UNREADABLE as error:
        why = f"{type(error).__name__}: {error}"
        log.warning(logs.said("champion is not comparable", model=champion.name, version=champion.version, why=why,
                              outcome="the candidate is judged beside the baselines alone"))
        return None, why


def tell_unreadable(folder: Path, champion: RegisteredModel | None, why: str) -> None:
    """Notes in the evaluation.json of `folder` that the champion could not be judged; nothing where `why` is empty."""
    if champion is None or not why:
        return
    path = folder / "evaluation.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(said | {"unreadable": {"version": champion.version, "why": why}}, indent=1, sort_keys=True), encoding="utf-8")


@contextmanager
def evaluation_folder(folder: Path) -> Iterator[Path]:
    """A path to write an evaluation to; at the end it takes the place of the candidate's `evaluation/`, whole or not at all."""
    for debris in folder.glob(".evaluation-*"):
        shutil.rmtree(debris)
    staging = folder / f".evaluation-{uuid.uuid4().hex[:8]}"
    yield staging
    candidates.replace(folder / "evaluation", staging)
