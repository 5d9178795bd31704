"""The ledger: compare-and-set, atomic promotions, history that cannot be rewritten unnoticed."""

from __future__ import annotations

import sqlite3
import threading
from datetime import date, datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightmarket.registry.ledger import Ledger, LedgerError, Moved, NothingToGoBackTo, Tampered

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", clock=lambda: NOON)


def test_an_empty_ledger_points_nowhere_and_looking_makes_no_file(ledger: Ledger) -> None:
    assert ledger.current("recommender", "champion") is None
    assert ledger.history("recommender") == []
    assert ledger.verify() == 0
    assert not ledger.path.exists()


def test_a_move_is_kept_with_who_why_evidence_and_when(ledger: Ledger) -> None:
    ledger.move("recommender", "challenger", None, "1", "jobs.register", "a candidate", {"recipe": "abc"}, date(2026, 2, 28))
    (row,) = ledger.history("recommender")
    assert (row.seq, row.alias, row.from_version, row.to_version) == (1, "challenger", None, "1")
    assert (row.who, row.why, row.evidence, row.run_date) == ("jobs.register", "a candidate", {"recipe": "abc"}, "2026-02-28")
    assert row.at == "2026-03-01T12:00:00+00:00"
    assert ledger.current("recommender", "challenger") == "1"
    assert ledger.current("other", "challenger") is None


def test_compare_and_set_names_what_was_expected_and_found(ledger: Ledger) -> None:
    ledger.move("recommender", "champion", None, "4", "ada", "first")
    with pytest.raises(Moved, match=r"recommender@champion was expected at version 3 and is at version 4") as refused:
        ledger.move("recommender", "champion", "3", "5", "ada", "second")
    assert (refused.value.expected, refused.value.found) == ("3", "4")
    with pytest.raises(Moved, match="expected at no version"):
        ledger.move("recommender", "champion", None, "5", "ada", "second")
    assert ledger.current("recommender", "champion") == "4"
    assert len(ledger.history("recommender")) == 1


def test_promotion_moves_all_three_aliases_together(ledger: Ledger) -> None:
    ledger.move("recommender", "challenger", None, "1", "jobs.register", "candidate", None, date(2026, 1, 1))
    ledger.promote("recommender", "1", None, "jobs.bless", "first", {}, date(2026, 1, 1))
    ledger.move("recommender", "challenger", None, "2", "jobs.register", "candidate", None, date(2026, 1, 2))
    made = ledger.promote("recommender", "2", "1", "jobs.bless", "better", {"ndcg@10": 0.2}, date(2026, 1, 2))
    assert [(m.alias, m.from_version, m.to_version, m.run_date) for m in made] == [
        ("previous", None, "1", "2026-01-01"), ("champion", "1", "2", "2026-01-02"), ("challenger", "2", None, None),
    ]
    assert len({m.operation for m in made}) == 1
    assert [ledger.current("recommender", a) for a in ("champion", "previous", "challenger")] == ["2", "1", None]


def test_promotion_leaves_another_challenger_alone(ledger: Ledger) -> None:
    ledger.move("recommender", "challenger", None, "7", "jobs.register", "candidate")
    ledger.promote("recommender", "3", None, "ada", "by hand")
    assert ledger.current("recommender", "challenger") == "7"


def test_a_refused_promotion_writes_nothing(ledger: Ledger) -> None:
    ledger.promote("recommender", "1", None, "jobs.bless", "first")
    before = ledger.head()
    with pytest.raises(Moved):
        ledger.promote("recommender", "3", "2", "jobs.bless", "stale belief")
    with pytest.raises(ValueError, match="champion already"):
        ledger.promote("recommender", "1", "1", "jobs.bless", "again")
    assert ledger.head() == before


def test_back_returns_to_the_previous_and_back_again_undoes_it(ledger: Ledger) -> None:
    ledger.promote("recommender", "1", None, "jobs.bless", "first", None, date(2026, 1, 1))
    ledger.promote("recommender", "2", "1", "jobs.bless", "second", None, date(2026, 1, 2))
    ledger.back("recommender", "2", "ada", "complaints")
    assert [ledger.current("recommender", a) for a in ("champion", "previous")] == ["1", "2"]
    newest = ledger.newest("recommender", "champion")
    assert newest is not None and (newest.action, newest.run_date) == ("back", "2026-01-01")
    ledger.back("recommender", "1", "ada", "it was not the model")
    assert [ledger.current("recommender", a) for a in ("champion", "previous")] == ["2", "1"]


def test_back_to_a_named_version(ledger: Ledger) -> None:
    for version, day in (("1", 1), ("2", 2), ("3", 3)):
        ledger.promote("recommender", version, ledger.current("recommender", "champion"), "jobs.bless", "better", None, date(2026, 1, day))
    made = ledger.back("recommender", "3", "ada", "both were bad", to="1", run_date=date(2026, 1, 1))
    assert [(m.alias, m.from_version, m.to_version, m.run_date) for m in made] == [
        ("previous", "2", "3", "2026-01-03"), ("champion", "3", "1", "2026-01-01")]
    with pytest.raises(ValueError, match="version 1 is the champion already"):
        ledger.back("recommender", "1", "ada", "again", to="1")


def test_what_was_gone_back_from_stays_out_until_it_is_made_champion_again(ledger: Ledger) -> None:
    ledger.promote("recommender", "1", None, "jobs.bless", "first")
    ledger.promote("recommender", "2", "1", "jobs.bless", "second")
    assert ledger.gone_back_from("recommender") == {}
    ledger.back("recommender", "2", "ada", "complaints")
    assert {v: m.why for v, m in ledger.gone_back_from("recommender").items()} == {"2": "complaints"}
    ledger.promote("recommender", "3", "1", "jobs.bless", "third")
    assert set(ledger.gone_back_from("recommender")) == {"2"}, "another promotion does not forgive it"
    ledger.promote("recommender", "2", "3", "bo", "it was the delivery")
    assert ledger.gone_back_from("recommender") == {}
    ledger.back("recommender", "2", "ada", "no, it was not", to="1")
    ledger.back("recommender", "1", "bo", "undone")
    assert set(ledger.gone_back_from("recommender")) == {"1"}, "going back undone: the version it went to is out instead"


def test_back_without_a_previous_or_after_someone_else_moved(ledger: Ledger) -> None:
    ledger.promote("recommender", "1", None, "jobs.bless", "first")
    with pytest.raises(NothingToGoBackTo):
        ledger.back("recommender", "1", "ada", "complaints")
    ledger.promote("recommender", "2", "1", "jobs.bless", "second")
    with pytest.raises(Moved):
        ledger.back("recommender", "1", "ada", "complaints")


@pytest.mark.parametrize(("who", "why"), [("", "reason"), ("  ", "reason"), ("ada", ""), ("ada", " ")])
def test_nobody_and_no_reason_are_refused(ledger: Ledger, who: str, why: str) -> None:
    with pytest.raises(ValueError, match="a name and a reason"):
        ledger.move("recommender", "champion", None, "1", who, why)


def test_an_unknown_alias_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="no alias 'production'"):
        ledger.move("recommender", "production", None, "1", "ada", "why")  # type: ignore[arg-type]


def test_evidence_that_is_not_json_leaves_nothing_behind(ledger: Ledger) -> None:
    with pytest.raises(ValueError):
        ledger.move("recommender", "champion", None, "1", "ada", "why", {"ndcg@10": float("nan")})
    assert ledger.history("recommender") == []


def test_rows_cannot_be_changed_or_removed_through_sql(ledger: Ledger) -> None:
    ledger.promote("recommender", "1", None, "jobs.bless", "first")
    with sqlite3.connect(ledger.path) as db:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute("UPDATE moves SET who = 'eve'")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute("DELETE FROM moves")


@pytest.mark.parametrize(
    ("sql", "seq", "message"),
    [
        ("UPDATE moves SET to_version = '9' WHERE seq = 2", 2, "content"),
        ("UPDATE moves SET evidence = '{}' WHERE seq = 1", 1, "content"),
        ("UPDATE moves SET who = 'eve' WHERE seq = 3", 3, "content"),
        ("DELETE FROM moves WHERE seq = 2", 2, "missing"),
        ("DELETE FROM moves WHERE seq = 1", 1, "missing"),
        ("UPDATE moves SET previous_hash = hash WHERE seq = 3", 3, "follow"),
    ],
)
def test_tampering_is_found_at_the_row(ledger: Ledger, sql: str, seq: int, message: str) -> None:
    for n in (1, 2, 3):
        ledger.move("recommender", "challenger", str(n - 1) if n > 1 else None, str(n), "ada", "why", {"n": n})
    assert ledger.verify() == 3
    _behind_its_back(ledger, sql)
    with pytest.raises(Tampered, match=message) as found:
        ledger.verify()
    assert found.value.seq == seq


def test_a_cut_off_end_is_found_with_a_hash_noted_earlier(ledger: Ledger) -> None:
    ledger.move("recommender", "challenger", None, "1", "ada", "why")
    ledger.move("recommender", "challenger", "1", "2", "ada", "why")
    head = ledger.head()
    ledger.move("recommender", "challenger", "2", "3", "ada", "why")
    assert ledger.verify(head) == 3
    _behind_its_back(ledger, "DELETE FROM moves WHERE seq >= 2")
    assert ledger.verify() == 1, "the chain alone cannot know"
    with pytest.raises(Tampered, match="is gone"):
        ledger.verify(head)


def _behind_its_back(ledger: Ledger, sql: str) -> None:
    with sqlite3.connect(ledger.path) as db:
        db.execute("DROP TRIGGER moves_are_never_changed")
        db.execute("DROP TRIGGER moves_are_never_removed")
        db.execute(sql)


def test_of_many_at_once_exactly_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    results: list[str] = []
    start = threading.Barrier(8)

    def promote(version: str) -> None:
        start.wait()
        try:
            Ledger(path).promote("recommender", version, None, "jobs.bless", "race")
            results.append(version)
        except Moved:
            results.append("lost")

    threads = [threading.Thread(target=promote, args=(str(n),)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results.count("lost") == 7
    assert Ledger(path).verify() == 1


def test_a_locked_ledger_says_so_in_time(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).move("recommender", "champion", None, "1", "ada", "why")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(LedgerError, match=r"ledger\.db: database is locked"):
            Ledger(path, wait_seconds=0.1).move("recommender", "champion", "1", "2", "ada", "why")
    finally:
        holder.close()


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.db: .*restore it"):
        Ledger(path).current("recommender", "champion")


_STEPS = st.lists(st.tuples(st.sampled_from(["promote", "back", "register", "stale"]), st.integers(1, 5).map(str)), max_size=15)


@settings(max_examples=40, deadline=None)
@given(steps=_STEPS)
def test_whatever_happens_the_aliases_are_the_last_rows_and_the_chain_holds(
    steps: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The oracle is three plain variables."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.db", clock=lambda: NOON)
    champion: str | None = None
    previous: str | None = None
    challenger: str | None = None
    for what, version in steps:
        if what == "register":
            ledger.move("m", "challenger", challenger, version, "who", "why")
            challenger = version
        elif what == "promote" and version != champion:
            ledger.promote("m", version, champion, "who", "why")
            previous = champion if champion is not None else previous
            champion, challenger = version, None if challenger == version else challenger
        elif what == "back" and previous is not None:
            ledger.back("m", champion, "who", "why")
            champion, previous = previous, champion
        elif what == "stale":
            with pytest.raises(Moved):
                ledger.promote("m", "99", "98", "who", "why")
        assert [ledger.current("m", a) for a in ("champion", "previous", "challenger")] == [champion, previous, challenger]
    assert ledger.verify() == len(ledger.history("m"))
