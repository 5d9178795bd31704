"""Data Docs: Great Expectations' own pages of every suite and of the last nights' results."""

from __future__ import annotations

import fcntl
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
    """Renders the pages of `run` and of its suites, and the index. Returns the index's path."""
    store = made.validation_results_store
    keys = store.list_keys()
    runs = sorted({(k.run_id.run_time, k.run_id.run_name) for k in keys})
    for key in keys:
        if (key.run_id.run_time, key.run_id.run_name) in runs[:-KEPT_RUNS] and key.run_id != run:
            store.remove_key(key)
    made.build_data_docs(site_names=["quality"])
    return settings.places.reports / "data_docs" / "index.html"
