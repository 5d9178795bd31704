"""Whole files that cannot be used are refused with their name and a remedy; single records that cannot be split are kept."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket.command import Refused
from nightmarket.sources.files import Inspected, digest, inspect, reading_types
from nightmarket.sources.records import Layout, Record, records

CSV = Layout("csv")
GOOD = b"id,ts\n1,2026-01-05\n"


def parquet_bytes(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


_SMALL = parquet_bytes(pa.table({"id": ["1"]}))


@pytest.mark.parametrize(("name", "content", "layout", "said"), [
    ("empty.csv", b"", CSV, r"empty \(0 bytes\); deliver it again"),
    ("empty.csv.gz", gzip.compress(b"", mtime=0), CSV, "holds nothing, not even a header"),
    ("only-mark.csv", b"\xef\xbb\xbf", CSV, "holds nothing"),
    ("blank.csv", b"\n\n  \n", CSV, "holds nothing"),
    ("empty.jsonl.gz", gzip.compress(b"", mtime=0), Layout("jsonl"), "holds nothing"),
    ("cut.csv.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], CSV, "gzip is cut off"),
    ("cut-header.csv.gz", gzip.compress(GOOD, mtime=0)[:5], CSV, "gzip is cut off"),
    ("plain.csv.gz", GOOD, CSV, "not a sound gzip file .* name it without .gz"),
    ("damaged.csv.gz", (lambda b: b[:30] + bytes([b[30] ^ 255]) + b[31:])(gzip.compress(bytes(range(256)) * 50, mtime=0)), CSV, "gzip"),
    ("semicolons.csv", b"id;ts;item\n1;2;3\n", CSV, r"looks separated by a semicolon \(';'\), not by ','; set the source's `delimiter`"),
    ("tabs.csv", b"id\tts\n1\t2\n", CSV, "looks separated by a tab"),
    ("bars.csv", b"id|ts\n1|2\n", CSV, "looks separated by a bar"),
    ("commas.csv", b"id,ts\n1,2\n", Layout("csv", ";"), r"looks separated by a comma \(','\), not by ';'"),
    ("twice.csv", b"id,ts,ID\n1,2,3\n", CSV, "more than once .*: ID, id; rename"),
    ("nameless.csv", b",,\n1,2,3\n", CSV, "names no column"),
    ("reserved.csv", b"id,__row\n1,2\n", CSV, "kept for reading; rename __row"),
    ("sixteen.csv", "id,ts\n1,2\n".encode("utf-16"), CSV, "header is not utf-8 text; set the source's `encoding`"),
    ("sixteen-no-mark.csv", "id,ts\n1,2\n".encode("utf-16-le"), CSV, "header is not utf-8 text"),
    ("eight.csv", GOOD, Layout("csv", encoding="utf-16"), "header is not utf-16 text"),
    ("latin.csv", "größe,ts\n1,2\n".encode("latin-1"), CSV, "header is not utf-8 text"),
    ("carriage.csv", b"id,ts\r1,2\r", CSV, "carriage return alone"),
    ("open.csv", b'"id,ts\n1,2\n', CSV, "header cannot be read .*a quote that never closes"),
    ("text.parquet", GOOD, Layout("parquet"), "not a readable Parquet file"),
    ("cut.parquet", _SMALL[:-30], Layout("parquet"), "not a readable Parquet file"),
    ("empty.parquet", b"", Layout("parquet"), "empty"),
    ("twice.parquet", parquet_bytes(pa.table({"id": ["1"], "Id": ["2"]})), Layout("parquet"), "more than once"),
])
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, name: str, content: bytes, layout: Layout, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Refused, match=said) as error:
        inspect(path, name, layout)
    assert str(error.value).startswith(f"{name}: ")


@pytest.mark.parametrize(("name", "content", "layout", "columns"), [
    ("good.csv", GOOD, CSV, ("id", "ts")),
    ("good.csv.gz", gzip.compress(GOOD, mtime=0), CSV, ("id", "ts")),
    ("gzip-without-the-name.csv", gzip.compress(GOOD, mtime=0), CSV, ("id", "ts")),
    ("two-members.csv.gz", gzip.compress(b"id,ts\n", mtime=0) + gzip.compress(b"1,2\n", mtime=0), CSV, ("id", "ts")),
    ("marked.csv", b"\xef\xbb\xbf" + GOOD, CSV, ("id", "ts")),
    ("marked-sig.csv", b"\xef\xbb\xbf" + GOOD, Layout("csv", encoding="utf-8-sig"), ("id", "ts")),
    ("windows.csv", "größe;ts\r\n1;2\r\n".encode("cp1252"), Layout("csv", ";", "cp1252"), ("größe", "ts")),
    ("sixteen.csv", "größe\tts\n1\t2\n".encode("utf-16"), Layout("csv", "\t", "utf-16"), ("größe", "ts")),
    ("header-only.csv", b"id,ts", CSV, ("id", "ts")),
    ("one-column.csv", b"id\n1\n", CSV, ("id",)),
    ("blank-name.csv", b",id,ts\n0,1,2\n", CSV, ("_c0", "id", "ts")),
    ("quoted.csv", b'"id","a ""b"", c"," ts "\n1,2,3\n', CSV, ("id", 'a "b", c', "ts")),
    ("keys.jsonl", b'{"a": 1}\n{"b": 2, "a": null}\nnot json\n', Layout("jsonl"), ("a", "b")),
])
def test_columns_of_a_file(tmp_path: Path, name: str, content: bytes, layout: Layout, columns: tuple[str, ...]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = inspect(path, name, layout)
    assert found.columns == columns
    assert (found.digest, found.bytes) == (digest(path), len(content))


def split(text: bytes, layout: Layout = CSV, width: int | None = 2) -> list[Record]:
    return list(records(io.BufferedReader(io.BytesIO(text)), layout, width))


@pytest.mark.parametrize(("text", "expected"), [
    (b"a,b\nc,d\n", [["a", "b"], ["c", "d"]]),
    (b"a,b\r\nc,d", [["a", "b"], ["c", "d"]]),
    (b"a,b\n\n   \nc,d\n", [["a", "b"], ["c", "d"]]),  # blank lines are no records
    (b'"a, b","say ""hi"""\n', [["a, b", 'say "hi"']]),
    (b'"two\nlines",x\ny,z\n', [["two\nlines", "x"], ["y", "z"]]),
    (b'"two\r\nlines",x\r\ny,z\r\n', [["two\r\nlines", "x"], ["y", "z"]]),
    (b'5" pipe,x\n', [['5" pipe', "x"]]),  # a quote inside an unquoted field is only a quote
    (b",\n", [["", ""]]),
    (b"a\n", "1 fields, the header has 2"),
    (b"a,b,c\n", "3 fields, the header has 2"),
    (b'"a"x,b\n', "a quote inside a field"),
    (b'"never,closed\n', "a quote that never closes"),
    (b"a,b\0\n", "a NUL character"),
])
def test_csv_records(text: bytes, expected: list[list[str]] | str) -> None:
    found = split(text)
    if isinstance(expected, str):
        assert [(r.reason, r.detail, r.line) for r in found] == [("malformed_row", expected, text.decode().removesuffix("\n"))]
    else:
        assert [r.fields for r in found] == expected


def test_a_quote_that_never_closes_costs_its_own_line_only() -> None:
    found = split(b'a,b\n"open,c\nd,e\n"f",g\nh,i\n')
    assert [(r.fields, r.reason) for r in found] == [
        (["a", "b"], ""), (None, "malformed_row"), (["d", "e"], ""), (["f", "g"], ""), (["h", "i"], "")]


def test_bytes_that_are_no_text_cost_their_own_line_only() -> None:
    found = split("a,b\nné,x\n".encode() + "né,x\n".encode("cp1252") + b"c,d\n")
    assert [r.fields for r in found] == [["a", "b"], ["né", "x"], None, ["c", "d"]]
    assert (found[2].reason, found[2].line) == ("bad_encoding", "n\\xe9,x")
    wide = split("a,b\nc,d\n".encode("utf-16") + b"\x00\xd8\x2c\x00\x41\x00\x0a\x00", Layout("csv", encoding="utf-16"))
    assert [r.reason for r in wide] == ["", "", "bad_encoding"]


def test_json_records_keep_numbers_as_they_were_written() -> None:
    found = split(
        b'{"a": 2.50, "b": 9007199254740993, "c": true, "d": null, "e": {"x": [1]}, "f": "t"}\n\n[1]\n{"a": \n{"a": "\\ud800"}\n"x"\n',
        Layout("jsonl"))
    assert found[0].values == {"a": "2.50", "b": "9007199254740993", "c": "true", "d": None, "e": '{"x": ["1"]}', "f": "t"}
    assert [(r.reason, r.detail) for r in found[1:]] == [
        ("malformed_row", "not a JSON object"), ("malformed_row", "not JSON"), ("bad_encoding", "an escaped half of a character"),
        ("malformed_row", "not a JSON object")]


_FIELD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=8)


@given(st.lists(st.lists(_FIELD, min_size=3, max_size=3), max_size=12))
def test_what_a_csv_writer_wrote_is_read_back(rows: list[list[str]]) -> None:
    import csv

    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    assert [r.fields for r in split(out.getvalue().encode(), width=3)] == rows


@given(st.binary(max_size=300).filter(lambda b: not b.startswith(b"\x1f\x8b")))
def test_no_line_is_lost_whatever_is_delivered(noise: bytes) -> None:
    """A record a line, but for blank ones and for lines inside quotes."""
    found = split(noise, width=2)
    lines = [x for x in noise.removeprefix(b"\xef\xbb\xbf").split(b"\n") if x.removesuffix(b"\r").strip(b" \t\x0b\x0c\x1c\x1d\x1e\x1f\r")]
    inside = sum(r.line.count("\n") for r in found)
    assert len(found) <= len(lines) <= len(found) + inside + sum(1 for x in lines if not x.decode("utf-8", "replace").strip())


def test_types_where_files_disagree() -> None:
    def file(**types: str) -> Inspected:
        return Inspected("f", Path("f"), "", 0, tuple(types), types)

    assert reading_types([file(a="long", b="string"), file(A="double", c="date")]) == {"a": "double", "b": "string", "c": "date"}
    assert reading_types([file(a="long"), file(a="timestamp")]) == {"a": "string"}
