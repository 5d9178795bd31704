"""A night's delivery of one dataset, from the drop folder or database to its bronze partition.

`prepare()` finds and checks what was delivered and says which nights are not current, without Spark; `frame()` proves the
mapping and gives the typed rows; `stage()` and `publish()` write them. The job does each step for all datasets before the
next one, so that a refusal leaves nothing published.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nightmarket.command import Night
from nightmarket.contracts import Dataset, raw_of
from nightmarket.lake import Input, LakeError, Manifest, Writer, code_version
from nightmarket.log import said
from nightmarket.protect.keys import Keyring
from nightmarket.shop import FilesSource, ShopError, SqlSource
from nightmarket.sources import delivery, files, mapping, records, sql
from nightmarket.sources.files import Inspected
from nightmarket.sources.ip_ranges import Supplied

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession



_NIGHTS_TOLD = 14
"""Of a longer range the log names only nights with something to say."""


class DeliveryChanged(LakeError):
    """A file was written to while it was read; running again reads it whole."""


@dataclass
class Intake:
    """One dataset's delivery for the nights of a run."""

    contract: Dataset
    source: FilesSource | SqlSource
    settings: str
    """Digest of what decides the rows: mapping, source, time zone, the key of the pseudonyms, and the countries of IP addresses."""
    found: delivery.Delivery
    files: dict[date, list[Inspected]]
    stale: list[date]
    """Nights that have to be made; the others are current."""
    manifests: dict[date, Manifest]
    countries: Supplied | None = None
    """Where the countries of IP addresses come from; None where the rows have none to be told."""
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)
    sums: dict[date, dict[str, str]] = field(default_factory=dict)
    rows_in: dict[date, int] = field(default_factory=dict)

    @property
    def entity(self) -> str:
        return self.contract.name

    @property
    def layout(self) -> records.Layout:
        """How the files are written; rows of a database are staged as Parquet."""
        return files.layout_of(self.source) if isinstance(self.source, FilesSource) else records.Layout("parquet")

    def chosen(self) -> list[Inspected]:
        """The files of the nights that have to be made, each once."""
        return list({f.path: f for n in self.stale for f in self.files[n]}.values())

    def inputs(self, night: date) -> tuple[Input, ...]:
        return tuple(Input(f.name, f.digest, bytes=f.bytes) for f in self.files[night])


def prepare(
    night: Night, entity: str, keyring: Keyring, inspected: dict[tuple[str, records.Layout], Inspected], scratch: sql.Scratch,
    supplied: Supplied | None = None,
) -> Intake:
    """Finds, checks and digests what was delivered. `inspected` is shared by datasets that read the same files, `supplied` by those with IP
    addresses.

    Raises Refused for a delivery that is missing or cannot be used, ShopError for a source that cannot be read as described.
    """
    shop, contract = night.settings.shop, raw_of(entity)
    described = shop.datasets[entity]
    source = shop.sources[described.source]
    if isinstance(source, SqlSource):
        found, whole = sql.fetch(night, described.source, source, contract, scratch)
    else:
        _known_encoding(night, described.source, source)
        folder, layout = night.settings.resolve(source.path), files.layout_of(source)
        found = delivery.find(entity, source, folder, night.dates, night.lake, contract, shop.clean.late_days)
        whole = {}
        for day, dropped in found.files.items():
            whole[day] = []
            for file in dropped:
                key = (str(file.path), layout)
                if key not in inspected:
                    inspected[key] = files.inspect(file.path, file.name, layout)
                whole[day].append(inspected[key])
    countries = supplied if _tells_countries(contract, described.columns) else None
    made = Intake(contract, source, _settings_digest(night, entity, keyring, countries), found, whole, [], {}, countries)
    for day in night.dates:
        manifest = night.lake.manifest(contract, day)
        if manifest is not None and night.is_current(contract, day, made.inputs(day), made.settings):
            made.manifests[day] = manifest
        else:
            made.stale.append(day)
    return made


def _known_encoding(night: Night, name: str, source: FilesSource) -> None:
    try:
        "".encode(source.encoding)
    except LookupError:
        raise ShopError(night.settings.file, [f"sources.{name}.encoding: {source.encoding!r} is no encoding; write one such as "
                                              f"utf-8, utf-8-sig, utf-16, cp1252 or latin-1"]) from None


def _tells_countries(contract: Dataset, mapped: Mapping[str, str]) -> bool:
    """Whether a file of ranges decides anything: the shop delivers IP addresses and not their countries."""
    return "ip_country" in contract.column_names and "ip_address" in mapped and "ip_country" not in mapped


def _settings_digest(night: Night, entity: str, keyring: Keyring, countries: Supplied | None) -> str:
    shop = night.settings.shop
    described = shop.datasets[entity]
    source = shop.sources[described.source].model_dump(mode="json", exclude={"path", "url", "on_missing"})
    parts: dict[str, Any] = {"mapping": described.model_dump(mode="json"), "source": source, "zone": shop.time_zone}
    if raw_of(entity).personal_columns("pseudonym"):
        parts["pseudonyms"] = keyring.pseudonym_id
    if countries is not None:
        parts["ip_countries"] = countries.digest
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def frame(spark: SparkSession, night: Night, made: Intake, keyring: Keyring) -> DataFrame | None:
    """The typed rows of the stale nights, as `mapping.typed` has them; None where nothing was delivered."""
    chosen = made.chosen()
    types = files.reading_types(chosen)
    if not types:
        return None
    headers = {f.name: f.columns for f in chosen}
    # of JSON Lines a night may lack a key that no row has a value for
    seen_before = made.layout.format == "jsonl" or bool(night.lake.dates(made.contract))
    resolved, made.lacking = mapping.plan(spark, night.settings, made.contract, types, headers, seen_before)
    nights_of = {f.path: [n for n in made.stale if f in made.files[n]] for f in chosen}
    source = made.source
    if isinstance(source, FilesSource) and source.slice_by:
        rows = files.read(spark, [(f, None) for f in chosen], made.layout)
        rows = _sliced(rows, night, made, source.slice_by)
    elif all(len(nights) == 1 for nights in nights_of.values()):
        rows = files.read(spark, [(f, nights_of[f.path][0]) for f in chosen], made.layout)
    else:  # a snapshot that several nights take: read once, repeated
        from pyspark.sql import functions as F

        rows = files.read(spark, [(f, None) for f in chosen], made.layout)
        taken = F.array(*[F.lit(n) for n in made.stale if made.files[n]])
        rows = rows.withColumn(records.NIGHT, F.explode(taken))
    return mapping.typed(rows, resolved, keyring, made.countries.ranges if made.countries else None)


def _sliced(rows: DataFrame, night: Night, made: Intake, slice_by: str) -> DataFrame:
    """Rows of an extract with their nights; those without a readable date belong to the extract's first night."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    settings = night.settings
    at = f"sources.{settings.shop.datasets[made.entity].source}.slice_by"
    own = {c.casefold(): c for c in rows.columns}
    try:
        value = F.col(f"`{own[slice_by.casefold()]}`") if slice_by.casefold() in own else F.expr(slice_by)
        kind = rows.select(value.alias("value")).schema["value"].dataType.simpleString()
    except AnalysisException:
        there = ", ".join(c for c in rows.columns if c not in records.READING_COLUMNS)
        raise ShopError(settings.file, [f"{at}: {slice_by!r} cannot be found or read; there are {there}"]) from None
    described = settings.shop.datasets[made.entity]
    zone = settings.shop.time_zone
    rows = rows.withColumn(records.NIGHT, mapping.day_of(value, kind, zone, described.timestamp_formats))
    first, undated = rows.agg(F.min(records.NIGHT), F.count(F.when(F.col(records.NIGHT).isNull(), 1))).first() or (None, 0)
    if undated:
        rows = rows.withColumn(records.NIGHT, F.coalesce(F.col(records.NIGHT), F.lit(first or min(made.stale))))
    return rows.where(F.col(records.NIGHT).isin(*made.stale))


def stage(writer: Writer, rows: DataFrame, made: Intake) -> None:
    """Writes good and rejected rows, and takes the account by night that publication must agree with."""
    from pyspark.sql import functions as F

    contract = made.contract
    good = F.col(mapping.REASON).isNull()
    rows = rows.persist()
    try:
        totals = []
        for i, expression in enumerate(contract.sums):
            totals += [F.sum(F.expr(expression)).alias(f"all_{i}"), F.sum(F.when(good, F.expr(expression))).alias(f"good_{i}")]
        for account in rows.groupBy("delivered_on").agg(F.count("*").alias("rows"), *totals).collect():
            made.rows_in[account["delivered_on"]] = account["rows"]
            made.sums[account["delivered_on"]] = _sums(contract, account.asDict())
        rejected = rows.where(~good).select(
            F.col(mapping.REASON).alias("reason"), F.col(records.DETAIL).alias("detail"),
            "source_file", "source_row", "delivered_on", F.col(mapping.RECORD).alias("record"),
        )
        writer.stage_spark(rows.where(good).select(*contract.column_names), quarantine=rejected)
    finally:
        rows.unpersist()


def _sums(contract: Dataset, account: Mapping[str, Any]) -> dict[str, str]:
    """Totals as exact decimals: of everything delivered that could be typed under the expression itself (for events also
    as 'value'), and of the rows published and the rows rejected under 'out: …' and 'quarantined: …'."""
    said_sums: dict[str, str] = {}
    for i, expression in enumerate(contract.sums):
        everything, good = (Decimal(account[f"{which}_{i}"] or 0) for which in ("all", "good"))
        said_sums[expression] = format(everything, "f")
        said_sums[f"out: {expression}"] = format(good, "f")
        said_sums[f"quarantined: {expression}"] = format(everything - good, "f")
        if expression == "quantity * unit_price":
            said_sums["value"] = said_sums[expression]
    return said_sums


def unchanged(made: Intake) -> None:
    """Raises DeliveryChanged where a file was written to since it was digested."""
    for file in made.chosen():
        state = file.path.stat()
        if (state.st_size, state.st_mtime_ns) != (file.bytes, file.mtime_ns):
            raise DeliveryChanged(f"{file.name}: the file changed while it was read; run again when it is complete")
    if made.countries is not None and files.digest(made.countries.path) != made.countries.digest:
        raise DeliveryChanged(f"{made.countries.path}: the file changed while it was read; run again when it is complete")


def publish(writer: Writer, night: Night, made: Intake, log: logging.Logger, seconds: float) -> None:
    """One manifest for each stale night."""
    known: Sequence[str] | None = _columns_before(night, made, min(made.stale))
    for day in made.stale:
        notes = _notes(made, day, known)
        known = notes.get("columns", known)
        manifest = writer.publish(
            day, inputs=made.inputs(day), settings=made.settings, code=code_version(), notes=notes, run_id=night.run_id,
            seconds=seconds / len(made.stale), rows_in=made.rows_in.get(day, 0),
            sums=made.sums.get(day) or _sums(made.contract, _no_account(made.contract)),
        )
        made.manifests[day] = manifest
        told = {k: notes[k] for k in ("missing_columns", "new_columns", "late_files", "changed_files") if k in notes}
        if told or len(made.stale) <= _NIGHTS_TOLD:
            write = log.warning if told else log.info
            write(said("published", dataset=made.contract.id, run_date=day, rows_in=manifest.rows_in, rows_out=manifest.rows_out,
                       quarantined=manifest.quarantined or None, files=len(made.files[day]), **told))
        if "changed_files" in notes:
            log.warning(said("changed", dataset=made.contract.id, files=notes["changed_files"], remedy=delivery.REMEDY_CHANGED))
    if len(made.stale) > _NIGHTS_TOLD:
        fresh = [made.manifests[day] for day in made.stale]
        log.info(said("published", dataset=made.contract.id, nights=len(fresh), rows_in=sum(m.rows_in for m in fresh),
                      rows_out=sum(m.rows_out for m in fresh)))


def _no_account(contract: Dataset) -> dict[str, Any]:
    return {f"{which}_{i}": 0 for i in range(len(contract.sums)) for which in ("all", "good")}


def _columns_before(night: Night, made: Intake, day: date) -> Sequence[str] | None:
    """Source columns of the newest earlier night that had a delivery."""
    for earlier in reversed([d for d in night.lake.dates(made.contract) if d < day]):
        manifest = night.lake.manifest(made.contract, earlier)
        if manifest is not None and manifest.notes.get("columns"):
            return manifest.notes["columns"]
    return None


def _notes(made: Intake, day: date, known: Sequence[str] | None) -> dict[str, Any]:
    """What the manifest says beside numbers; empty findings are left out."""
    delivered = made.files[day]
    columns = list({c.casefold(): c for f in delivered for c in f.columns}.values())
    missing: dict[str, str] = {}
    for file in delivered:
        missing |= made.lacking.get(file.name, {})
    notes = {
        "columns": columns,
        "new_columns": [c for c in columns if known is not None and c.casefold() not in {k.casefold() for k in known}],
        "missing_columns": missing,
        "late_files": sorted(made.found.late.get(day, [])),
        "changed_files": sorted(made.found.changed.get(day, [])),
        "no_delivery": day in made.found.missing,
        "not_due": day in made.found.not_due,
    }
    return {k: v for k, v in notes.items() if v}
