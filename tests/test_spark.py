"""A session of a job's own, beside a server that others share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nightmarket.spark import session


def test_who_wants_a_session_of_its_own_gets_it_beside_a_shared_server(spark: Any, make_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream's job does: the function of a micro-batch runs in its process. pyspark follows $SPARK_REMOTE by itself."""
    monkeypatch.setenv("SPARK_REMOTE", "sc://localhost:15002")
    own = session(replace(make_settings(), spark_remote=None), "stream")
    assert own.range(3).count() == 3 and own.sparkContext.master.startswith("local")
