"""Data Docs: Great Expectations' own pages of every suite and of the last nights' results."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket.quality.suites import context
from nightmarket.shop import Settings

if TYPE_CHECKING:
    from great_expectations.core import RunIdentifier
    from great_expectations.data_context import AbstractDataContext

KEPT_RUNS = 31
"""Nights that Data Docs show: GX reads every stored result to build its index, so an endless store gets slow."""


@contextmanager
def site(settings: Settings) -> Iterator[AbstractDataContext]:
    """The shop's GX context, held by one gate at a time: its stores are plain files that two writers would mix up."""
    folder = settings.places.work / "gx"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield context(folder, settings.places.reports / "data_docs")


def build(made: AbstractDataContext, settings: Settings, run: RunIdentifier) -> Path:
    """Renders the pages of `run` and of its suites, and the index; drops what is older. Returns the index's path."""
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier

    folder = settings.places.reports / "data_docs"
    store = made.validation_results_store
    keys = store.list_keys()
    nights = sorted({k.run_id.run_name for k in keys})
    gone = set(nights[:-KEPT_RUNS]) - {run.run_name}
    for key in keys:
        if key.run_id.run_name in gone:
            store.remove_key(key)
    for pages in [p for p in (folder / "validations").rglob("*") if p.name in gone]:
        shutil.rmtree(pages)
    fresh = [k for k in keys if k.run_id.run_name == run.run_name]
    suites = [ExpectationSuiteIdentifier(name=k.expectation_suite_identifier.name) for k in fresh]
    made.build_data_docs(site_names=["quality"], resource_identifiers=[*fresh, *suites])
    return folder / "index.html"
