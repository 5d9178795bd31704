"""Whom a candidate meets: a champion that cannot be read is no opponent, one whose files cannot be reached is a fault."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightmarket.registry.judging import readable


def champion(folder: Path) -> Any:
    return SimpleNamespace(name="recommender", version="7", folder=folder)


def of_another_format(folder: Path) -> str:
    raise ValueError("of format 1")


def test_whom_a_candidate_meets(tmp_path: Path) -> None:
    assert readable(None, str) == (None, "")
    assert readable(champion(tmp_path), str) == (str(tmp_path), "")
    assert readable(champion(tmp_path), of_another_format) == (None, "ValueError: of format 1")


def test_a_store_that_is_not_there_promotes_nobody(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"version 7 of recommender is not there"):
        readable(champion(tmp_path / "gone"), str)
