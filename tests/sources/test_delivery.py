"""Which files belong to a night: by name, late, changed, and the rhythm of snapshots. No Spark: manifests are written by hand."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from nightmarket.command import Refused
from nightmarket.contracts import RAW_EVENTS, RAW_ITEMS
from nightmarket.lake import Input, Lake
from nightmarket.shop import FilesSource
from nightmarket.sources import delivery
from nightmarket.sources.files import digest

D1, D2, D3, D4 = (date(2026, 1, 5 + n) for n in range(4))


def source(**changes: object) -> FilesSource:
    return FilesSource(**{"kind": "files", "path": "", "pattern": "events-{date}*.csv", "format": "csv", **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "landing"
    made.mkdir()
    return made


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def publish(lake: Lake, night: date, files: list[Path], folder: Path, late: tuple[str, ...] = ()) -> None:
    inputs = [Input(f.relative_to(folder).as_posix(), digest(f), bytes=f.stat().st_size) for f in files]
    with lake.writer(RAW_EVENTS, [night]) as writer:
        writer.publish(night, inputs=inputs, settings="s", code="c", notes={"late_files": list(late)} if late else {})


def find(folder: Path, lake: Lake, *nights: date, late_days: int = 14, **changes: object) -> delivery.Delivery:
    return delivery.find("events", source(**changes), folder, nights, lake, RAW_EVENTS, late_days)


def names(found: delivery.Delivery, night: date) -> list[str]:
    return [f.name for f in found.files[night]]


def write(folder: Path, name: str, text: str = "id\n1\n") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_night_is_the_files_that_carry_its_date(folder: Path, lake: Lake) -> None:
    for name in ("events-2026-01-05.csv", "events-2026-01-05-b.csv", "events-2026-01-06.csv", "orders-2026-01-05.csv",
                 "events-2026-01-05.csv.part", ".events-2026-01-05.csv"):
        write(folder, name)
    found = find(folder, lake, D1, D2)
    assert names(found, D1) == ["events-2026-01-05-b.csv", "events-2026-01-05.csv"]
    assert names(found, D2) == ["events-2026-01-06.csv"]


def test_dates_may_be_folders(folder: Path, lake: Lake) -> None:
    write(folder, "2026-01-05/part-0.csv")
    assert names(find(folder, lake, D1, pattern="{date}/part-*.csv"), D1) == ["2026-01-05/part-0.csv"]


def test_a_missing_night_is_refused_or_empty_as_the_shop_says(folder: Path, lake: Lake) -> None:
    write(folder, "events-2026-01-05.csv")
    with pytest.raises(Refused, match=r"no file for the night of 2026-01-06 \(and 1 more nights\): nothing named events-2026-01-06\*\.csv"):
        find(folder, lake, D1, D2, D3)
    found = find(folder, lake, D1, D2, D3, on_missing="empty")
    assert found.missing == {D2, D3}


def test_no_folder_is_refused_even_where_empty_nights_are_fine(tmp_path: Path, lake: Lake) -> None:
    with pytest.raises(Refused, match=r"drop folder .*/none does not exist; create it"):
        find(tmp_path / "none", lake, D1, on_missing="empty")


def test_a_name_with_a_date_that_is_none_is_refused(folder: Path, lake: Lake) -> None:
    write(folder, "events-2026-13-45.csv")
    with pytest.raises(Refused, match=r"events-2026-13-45\.csv: the date in the name is none; rename"):
        find(folder, lake, D1)


def test_a_late_file_is_taken_by_the_first_night_that_sees_it_and_stays_there(folder: Path, lake: Lake) -> None:
    first = write(folder, "events-2026-01-05.csv")
    write(folder, "events-2026-01-06.csv")
    write(folder, "events-2026-01-07.csv")
    publish(lake, D1, [first], folder)
    late = write(folder, "events-2026-01-05-late.csv")

    found = find(folder, lake, D2)
    assert names(found, D2) == ["events-2026-01-05-late.csv", "events-2026-01-06.csv"]
    assert found.late == {D2: ["events-2026-01-05-late.csv"]}
    publish(lake, D2, [late, folder / "events-2026-01-06.csv"], folder, late=(late.name,))

    # run again, each night has what it had; the next night does not take it a second time
    assert names(find(folder, lake, D2), D2) == ["events-2026-01-05-late.csv", "events-2026-01-06.csv"]
    assert names(find(folder, lake, D1), D1) == ["events-2026-01-05.csv"]
    assert names(find(folder, lake, D3), D3) == ["events-2026-01-07.csv"]
    over_all = find(folder, lake, D1, D2, D3)
    assert [names(over_all, d) for d in (D1, D2, D3)] == [
        ["events-2026-01-05.csv"], ["events-2026-01-05-late.csv", "events-2026-01-06.csv"], ["events-2026-01-07.csv"]]


def test_a_file_of_a_night_that_never_ran_is_that_nights(folder: Path, lake: Lake) -> None:
    write(folder, "events-2026-01-05.csv")
    write(folder, "events-2026-01-06.csv")
    assert names(find(folder, lake, D2), D2) == ["events-2026-01-06.csv"]
    assert names(find(folder, lake, D1), D1) == ["events-2026-01-05.csv"]


def test_the_file_of_an_empty_night_is_late_too(folder: Path, lake: Lake) -> None:
    publish(lake, D1, [], folder)
    write(folder, "events-2026-01-05.csv")
    write(folder, "events-2026-01-06.csv")
    assert find(folder, lake, D2).late == {D2: ["events-2026-01-05.csv"]}
    # or that night runs again and takes it itself
    assert names(find(folder, lake, D1), D1) == ["events-2026-01-05.csv"]


def test_later_than_late_days_is_too_late(folder: Path, lake: Lake) -> None:
    publish(lake, D1, [], folder)
    write(folder, "events-2026-01-05.csv")
    write(folder, "events-2026-01-08.csv")
    assert find(folder, lake, D4, late_days=2).late == {}
    assert find(folder, lake, D4, late_days=3).late == {D4: ["events-2026-01-05.csv"]}


def test_the_first_night_of_a_range_takes_what_came_late_before_it(folder: Path, lake: Lake) -> None:
    publish(lake, D1, [], folder)
    write(folder, "events-2026-01-05.csv")
    found = find(folder, lake, D2, D3, on_missing="empty")
    assert found.late == {D2: ["events-2026-01-05.csv"]}
    # a date inside the range is that night's own, published before or not
    assert find(folder, lake, D1, D2, on_missing="empty").late == {}


def test_a_changed_file_is_told_and_not_taken(folder: Path, lake: Lake) -> None:
    first = write(folder, "events-2026-01-05.csv")
    publish(lake, D1, [first], folder)
    write(folder, "events-2026-01-06.csv")
    assert find(folder, lake, D2).changed == {}
    write(folder, "events-2026-01-05.csv", "id\n9\n")  # same size, other bytes
    found = find(folder, lake, D2)
    assert found.changed == {D2: ["events-2026-01-05.csv"]}
    assert names(found, D2) == ["events-2026-01-06.csv"]
    assert find(folder, lake, D1, D2).changed == {}  # the range restates it


@pytest.mark.parametrize(("snapshot", "expected"), [
    ("daily", [True] * 10),
    ("weekly", [True, False, False, False, False, True, False, False, False, False]),  # the first ever, then Monday 2026-01-12
    ("monthly", [True] + [False] * 9),
])
def test_snapshots_are_taken_in_their_rhythm_and_first_of_all(
    folder: Path, lake: Lake, snapshot: str, expected: list[bool]
) -> None:
    write(folder, "items.csv")
    nights = [date(2026, 1, 7 + n) for n in range(10)]
    found = delivery.find("items", source(pattern="items.csv", snapshot=snapshot), folder, nights, lake, RAW_ITEMS, 14)
    assert [bool(found.files[n]) for n in nights] == expected
    assert found.not_due == {n for n, due in zip(nights, expected, strict=True) if not due}


def test_a_night_that_took_a_snapshot_takes_it_again(folder: Path, lake: Lake) -> None:
    items = write(folder, "items.csv")
    taken = date(2026, 1, 7)
    with lake.writer(RAW_ITEMS, [taken]) as writer:
        writer.publish(taken, inputs=[Input("items.csv", digest(items))], settings="s", code="c")

    def due(*nights: date) -> set[date]:
        return delivery.snapshot_nights(source(pattern="items.csv", snapshot="monthly"), nights, lake, RAW_ITEMS)

    assert due(taken) == {taken}
    assert due(date(2026, 1, 8)) == set()
    assert due(date(2026, 1, 2)) == {date(2026, 1, 2)}  # before it there is none
    assert due(date(2026, 2, 1)) == {date(2026, 2, 1)}

