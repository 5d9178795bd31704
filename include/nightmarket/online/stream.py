"""Events as they happen, exactly once into the lake: Spark Structured Streaming, one micro-batch at a time.

Spark's checkpoint says which input a micro-batch is, and gives the same input under the same number again after a crash; the lake's
manifest says which micro-batches a night's partition holds. So a batch is taken exactly once wherever the process dies: before the
manifest is replaced the batch does not exist, after it the same number is known and passed over. What only this process knows and
another attempt could see differently, the night of a batch and the watermark, is written down before the batch is looked at.

A batch is typed, pseudonymised and cleaned by the very functions of the night's delivery, then judged as a whole by the contract's rules
in Great Expectations and by the share of rejected rows. Lines that cannot be used are in quarantine with their reason, and so is every
line of a batch that is refused; the stream goes on. Rows in = rows out + quarantined, for every batch and night.

The night's own delivery remains the truth: a live event lives until the night that brings it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import log as logs
from nightmarket.clean import cleaner
from nightmarket.command import Refused
from nightmarket.contracts import EVENTS, LIVE_EVENTS, RAW_EVENTS
from nightmarket.lake import Input, Lake, code_version, write_atomically
from nightmarket.lake.partitions import QUARANTINE
from nightmarket.online.live import NEWEST
from nightmarket.protect.keys import Keyring
from nightmarket.quality.gate import proven_share
from nightmarket.quality.rules import contract_rules
from nightmarket.shop import Settings, Stream
from nightmarket.sources import mapping, records

if TYPE_CHECKING:
    from great_expectations.data_context import AbstractDataContext
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming import StreamingQuery

_LOG = logs.logger("stream")
BATCHES = "batches"
"""Note of a live partition: rows of every micro-batch that it holds by 'stream:number'."""


@dataclass(frozen=True)
class Intent:
    """What a micro-batch will be, written down before it is looked at."""

    night: date
    watermark: float | None
    """Seconds since 1970 UTC; events before it are too late. None: nothing came before."""

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "night": self.night.isoformat()})

    @classmethod
    def from_json(cls, text: str) -> Intent:
        told = json.loads(text)
        return cls(date.fromisoformat(told["night"]), told["watermark"])


@dataclass(frozen=True)
class Taken:
    """What became of one micro-batch."""

    batch: int
    night: date
    rows_in: int
    rows_out: int
    refused: str
    """Rules that the batch as a whole broke; empty where it was let through."""


class Intake:
    """Takes micro-batches of one stream into the lake. `checkpoint` is Spark's folder for it."""

    def __init__(self, settings: Settings, lake: Lake, checkpoint: Path, night: date | None = None):
        """`night`: the partition that batches go into; None: the shop's day at which each arrives."""
        if settings.shop.stream is None:
            raise Refused(f"{settings.file.name} describes no stream; add `stream: {{path: …}}` or `stream: {{kafka: …}}`")
        self.settings, self.lake, self.checkpoint, self._night = settings, lake, checkpoint, night
        self.rules = settings.shop.stream
        self.taken: list[Taken] = []
        self._keyring = Keyring.load(settings)
        self._context: AbstractDataContext | None = None

    @property
    def id(self) -> str:
        """The stream's identity, which Spark makes with the checkpoint: another checkpoint counts its batches anew."""
        return str(json.loads((self.checkpoint / "metadata").read_text())["id"])

    def take(self, lines: DataFrame, number: int) -> None:
        """One micro-batch of (line string, origin string), for `foreachBatch`."""
        started = time.monotonic()
        intent = self._intent(number)
        key = f"{self.id}:{number}"
        made = self.lake.manifest(LIVE_EVENTS, intent.night)
        if made is not None and key in made.notes[BATCHES]:
            _LOG.info(logs.said("taken before", batch=number, night=intent.night))
            return
        given = lines.toArrow()
        if not given.num_rows:
            return
        good, rejected = self._rows(lines.sparkSession, given, number, intent)
        good, rejected, refused = self._judged(lines.sparkSession, good, rejected, given.num_rows)
        self._publish(key, number, intent, good, rejected, given.num_rows, time.monotonic() - started)
        self.taken.append(Taken(number, intent.night, given.num_rows, good.num_rows, refused))
        write = _LOG.warning if refused else _LOG.info
        write(logs.said("taken", batch=number, night=intent.night, rows_in=given.num_rows, rows_out=good.num_rows, refused=refused or None,
                        seconds=round(time.monotonic() - started, 2)))

    def _intent(self, number: int) -> Intent:
        """The intent of this very batch; made where nobody has tried it yet."""
        path = self.checkpoint / "intents" / f"{number:012d}.json"
        if path.exists():
            return Intent.from_json(path.read_text())
        newest = max((m.notes.get(NEWEST) or 0.0 for d in self.lake.dates(LIVE_EVENTS)[-2:] if (m := self.lake.manifest(LIVE_EVENTS, d))), default=0.0)
        watermark = newest - self.rules.late_minutes * 60 if newest else None
        intent = Intent(self._night or datetime.now(self.settings.zone).date(), watermark)
        write_atomically(path, intent.to_json())
        (path.parent / f"{number - 100:012d}.json").unlink(missing_ok=True)  # Spark gives no batch again that is so old
        return intent

    def _rows(self, spark: SparkSession, given: pa.Table, number: int, intent: Intent) -> tuple[pa.Table, pa.Table]:
        """(rows of the live contract, rejected rows) of the lines, in an order of their own so that a second attempt gives the same."""
        parsed, names = _parsed(given.sort_by([("origin", "ascending"), ("line", "ascending")]), number, intent.night)
        if not names:  # not one object among them: nothing to map
            sealed = [self._keyring.encrypt(line, f"stream\0{number}\0{n}") for n, line in enumerate(parsed[records.LINE].to_pylist())]
            return LIVE_EVENTS.arrow_schema().empty_table(), _rejected(
                [{"reason": "malformed_row", "detail": "no JSON object", "source_row": n, "record": s} for n, s in enumerate(sealed)], number, intent.night)
        plan, _ = mapping.plan(spark, self.settings, RAW_EVENTS, dict.fromkeys(names, "string"), {f"stream-{number}": names}, True)
        typed = mapping.typed(spark.createDataFrame(parsed), plan, self._keyring).persist()
        try:
            bronze = typed.where(f"{mapping.REASON} IS NULL").select(*RAW_EVENTS.column_names)
            unusable = typed.where(f"{mapping.REASON} IS NOT NULL").select(mapping.REASON, records.DETAIL, "source_row", mapping.RECORD).toArrow()
            shop = self.settings.shop
            cleaned = cleaner("events")(bronze, shop.clean, shop.time_zone, shop.currency)
            judged = cleaned.judged.persist()
            try:
                rows, refused = cleaned.rows.toArrow(), cleaned.rejected.toArrow()
            finally:
                judged.unpersist()
        finally:
            typed.unpersist()
        told = unusable.rename_columns(["reason", "detail", "source_row", "record"]).to_pylist()
        rejected = _rejected([*told, *refused.select(["reason", "detail", "source_row", "record"]).to_pylist()], number, intent.night)
        rows = rows.append_column("batch", pa.repeat(number, rows.num_rows)).select(LIVE_EVENTS.column_names).cast(LIVE_EVENTS.arrow_schema())
        return self._in_time(rows, rejected, number, intent)

    def _in_time(self, rows: pa.Table, rejected: pa.Table, number: int, intent: Intent) -> tuple[pa.Table, pa.Table]:
        """Takes out what is too late, and what another batch brought already."""
        late = pc.less(pc.cast(rows["event_ts"], pa.int64()), int((intent.watermark or 0.0) * 1e6)) if intent.watermark else pa.nulls(rows.num_rows, pa.bool_())
        late = pc.fill_null(late, False)
        nights = [d for d in self.lake.dates(LIVE_EVENTS) if intent.night - timedelta(days=2) <= d <= intent.night]
        known = pa.chunked_array([self.lake.at(LIVE_EVENTS, d).arrow(["event_id"])["event_id"].combine_chunks() for d in nights], pa.string())
        again = pc.and_(pc.is_in(rows["event_id"], value_set=known), pc.invert(late))
        out = [
            {"reason": reason, "detail": detail, "source_row": r["source_row"], "record": json.dumps(r, default=str, ensure_ascii=False)}
            for reason, detail, mask in (("too_late", "event_ts: before the watermark", late), ("superseded", "event_id: an earlier batch brought it", again))
            for r in rows.filter(mask).to_pylist()
        ]
        return rows.filter(pc.invert(pc.or_(late, again))), pa.concat_tables([rejected, _rejected(out, number, intent.night)])

    def _judged(self, spark: SparkSession, good: pa.Table, rejected: pa.Table, rows_in: int) -> tuple[pa.Table, pa.Table, str]:
        """The batch as it may be published: as it is, or all of it rejected, with the rules that it broke.

        Rows that are late or came twice are no fault of the batch.
        """
        reasons = rejected["reason"].to_pylist()
        faulty = sum(r not in ("too_late", "superseded", "exact_duplicate") for r in reasons)
        broken = [] if proven_share(faulty, rows_in) <= self.settings.shop.gate.quarantine_share else ["quarantine_share"]
        if good.num_rows:
            broken += self._broken(spark, good)
        if not broken:
            return good, rejected, ""
        why = ", ".join(broken)
        refused = [{"reason": "bad_batch", "detail": f"the batch broke {why}", "source_row": r["source_row"],
                    "record": json.dumps(r, default=str, ensure_ascii=False)} for r in good.to_pylist()]
        night = good["delivered_on"][0].as_py() if good.num_rows else date.min
        return good.slice(0, 0), pa.concat_tables([rejected, _rejected(refused, int(good["batch"][0].as_py()) if good.num_rows else 0, night)]), why

    def _broken(self, spark: SparkSession, good: pa.Table) -> list[str]:
        """Critical rules of the contract that the rows break. References are the night's to judge: an item may come after its first event."""
        from nightmarket.quality import suites

        rules = [r for r in contract_rules(self.settings, EVENTS) if r.reference is None and r.severity == "critical"]
        if self._context is None:
            self._context = suites.context(None)
        frame = spark.createDataFrame(good.select(EVENTS.column_names))
        run = suites.run_identifier(self.settings, "stream", datetime(2000, 1, 1, tzinfo=timezone.utc))
        judged = suites.validate(self._context, "stream", frame, rules, run)
        return [f.rule.key for f in suites.findings(judged, rules) if not f.success]

    def _publish(self, key: str, number: int, intent: Intent, good: pa.Table, rejected: pa.Table, rows_in: int, seconds: float) -> None:
        """The night's partition with this batch, in place of the one without it, by one rename."""
        with self.lake.writer(LIVE_EVENTS, [intent.night]) as writer:
            made = self.lake.manifest(LIVE_EVENTS, intent.night)
            held: dict[str, Any] = dict(made.notes[BATCHES]) if made else {}
            rows, refused = good, rejected
            if made is not None:
                before = self.lake.at(LIVE_EVENTS, intent.night)
                rows, refused = pa.concat_tables([before.arrow(), good]), pa.concat_tables([before.quarantine(), rejected])
            newest = [m.timestamp() for m in [pc.max(good["event_ts"]).as_py()] if m is not None]
            if made is not None and made.notes.get(NEWEST):
                newest.append(made.notes[NEWEST])
            elif intent.watermark is not None:
                newest.append(intent.watermark + self.rules.late_minutes * 60)
            writer.stage_arrow(intent.night, rows, refused)
            writer.publish(
                intent.night, inputs=[*(made.inputs if made else ()), Input(f"stream/{key}", f"{good.num_rows}-{rejected.num_rows}", rows_in)],
                settings=self.settings.digest("clean", "time_zone", "currency", "datasets", "gate"), code=code_version(),
                seconds=(made.seconds if made else 0.0) + seconds, rows_in=rows.num_rows + refused.num_rows,
                notes={BATCHES: {**held, key: rows_in}, NEWEST: max(newest, default=None)},
            )


def _parsed(lines: pa.Table, number: int, night: date) -> tuple[pa.Table, list[str]]:
    """The lines as a table of `records.READING_COLUMNS` and their fields as text; lines that are no object keep their text."""
    made: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for n, line in enumerate(lines["line"].to_pylist()):
        row: dict[str, Any] = {records.NIGHT: night, records.FILE: f"stream-{number:08d}", records.ROW: n, records.BAD: None, records.DETAIL: None,
                               records.LINE: None}
        try:
            told = json.loads(line or "")
        except ValueError:
            told = None
        if isinstance(told, dict):
            row |= {k: None if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in told.items()}
            names |= dict.fromkeys(told)
        else:
            row |= {records.BAD: "malformed_row", records.DETAIL: "no JSON object", records.LINE: line}
        made.append(row)
    fields = [k for k in names if k not in records.READING_COLUMNS]
    schema = pa.schema([(records.NIGHT, pa.date32()), (records.FILE, pa.string()), (records.ROW, pa.int64()), (records.BAD, pa.string()),
                        (records.DETAIL, pa.string()), (records.LINE, pa.string()), *((f, pa.string()) for f in fields)])
    return pa.Table.from_pylist(made, schema), fields


def _rejected(rows: Iterable[dict[str, Any]], number: int, night: date) -> pa.Table:
    whole = [{**r, "source_file": f"stream-{number:08d}", "delivered_on": night} for r in rows]
    return pa.Table.from_pylist(whole, QUARANTINE.arrow_schema())


# --- the query ---------------------------------------------------------------------------------------------------------
def lines(spark: SparkSession, settings: Settings, rules: Stream) -> DataFrame:
    """The stream as (line, origin), the same for both kinds of source. `origin` orders lines within a batch.

    Kafka needs Spark's connector on the class path: spark.jars.packages org.apache.spark:spark-sql-kafka-0-10_2.13.
    """
    if rules.kafka is not None:
        reader = spark.readStream.format("kafka")
        for name, value in {"startingOffsets": "earliest", "failOnDataLoss": "true", **rules.kafka}.items():
            reader = reader.option(name, value)
        return reader.load().selectExpr("CAST(value AS string) AS line", "format_string('%s/%06d/%020d', topic, partition, offset) AS origin")
    folder = settings.resolve(str(rules.path))
    folder.mkdir(parents=True, exist_ok=True)
    # whole files only: a writer moves a file in when it is complete, under a name that does not begin with . or _
    reader = spark.readStream.format("text").option("maxFilesPerTrigger", rules.files_per_batch).option("pathGlobFilter", "*.jsonl*")
    return reader.load(str(folder)).selectExpr("value AS line", "_metadata.file_name AS origin")


def start(spark: SparkSession, intake: Intake, every: str | None) -> StreamingQuery:
    """Starts the query: what is there now and then an end, or, with `every` such as '10 seconds', until it is stopped."""
    writer = lines(spark, intake.settings, intake.rules).writeStream.foreachBatch(intake.take)
    writer = writer.option("checkpointLocation", str(intake.checkpoint)).queryName("nightmarket-stream")
    return (writer.trigger(processingTime=every) if every else writer.trigger(availableNow=True)).start()
