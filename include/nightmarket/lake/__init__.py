"""Partitions, manifests, atomic publication."""

from nightmarket.lake.manifest import Input, Manifest, code_version, recipe
from nightmarket.lake.partitions import (
    Busy,
    Lake,
    LakeError,
    Partition,
    SchemaError,
    Writer,
    content_digest,
    days,
    held,
    peak_memory_mb,
    read_spark,
    write_atomically,
)
from nightmarket.lake.views import newest, newest_arrow, newest_spark, nights

__all__ = [
    "Busy", "Input", "Lake", "LakeError", "Manifest", "Partition", "SchemaError", "Writer", "code_version",
    "content_digest", "days", "held", "newest", "newest_arrow", "newest_spark", "nights", "peak_memory_mb", "read_spark", "recipe", "write_atomically",
]
