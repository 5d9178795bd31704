"""Airflow for tests: a home of its own, no database. Set before anything imports airflow."""

from __future__ import annotations

import os
import tempfile

from nightmarket.shop import PROJECT

_HOME = tempfile.mkdtemp(prefix="nightmarket-airflow-")
os.environ.update(
    AIRFLOW_HOME=_HOME, AIRFLOW_CONFIG=str(PROJECT / "airflow.cfg"), NIGHTMARKET_HOME=str(PROJECT), NIGHTMARKET_STATE=_HOME
)
