"""`python -m jobs.screen`: its contract, and the stated outcome of each kind of bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.screen import main
from nightmarket.command import Refused, UsageError
from nightmarket.screen.screening import Judged, Options, screen
from nightmarket.screen.table import Asked

NOW = int(np.datetime64("2026-06-01", "us").astype(np.int64))
CUT = pd.Timestamp("2026-02-10")
QUICK = Options(label_delay_days=3, folds=2, threads=1)


@pytest.fixture(scope="module")
def shop() -> pd.DataFrame:
    """1,600 payments of 60 days by 80 cards at 60 terminals; a fifth of the fraud is told by amounts."""
    rng = np.random.default_rng(5)
    n = 1600
    fraud = rng.random(n) < 0.06
    amount = np.where(fraud, rng.lognormal(5, 0.6, n), rng.lognormal(3, 0.5, n))
    return pd.DataFrame({
        "payment_id": [f"p{i:05}" for i in range(n)],
        "paid_at": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 60 * 86400, n)), unit="s"),
        "card_id": rng.integers(0, 80, n), "terminal_id": [f"t{k}" for k in rng.integers(0, 60, n)],
        "amount": amount.round(2), "country": rng.choice(["DE", "FR", "IT"], n), "is_fraud": fraud.astype(int),
    })


def halves(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return frame[frame["paid_at"] < CUT].reset_index(drop=True), frame[frame["paid_at"] >= CUT].reset_index(drop=True)


def judged(train: pd.DataFrame, new: pd.DataFrame, options: Options = QUICK, **asked: Any) -> Judged:
    made = screen(pa.Table.from_pandas(train, preserve_index=False), pa.Table.from_pandas(new, preserve_index=False), Asked(**asked), options, NOW)
    assert len(made.table) == len(new)
    if len(new):
        score = made.table["score"].to_numpy()
        assert np.isfinite(score).all() and score.min() >= 0 and score.max() <= 1
        assert set(made.table["decision"].to_pylist()) <= {"allow", "review", "block"}
    return made


def test_every_row_of_new_comes_out_once_in_its_order(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    new = new.drop(columns="is_fraud").sample(frac=1, random_state=1)
    table = judged(train, new).table
    assert table["id"].to_pylist() == new["payment_id"].tolist() == table["payment_id"].to_pylist()
    probability = table["probability"].to_numpy()
    assert probability.min() >= 0 and probability.max() <= 1
    truth = shop.set_index("payment_id").loc[table["id"].to_pylist(), "is_fraud"].to_numpy()
    from sklearn.metrics import average_precision_score

    # fraud is told by amounts here; by chance the average precision would be 0.06
    assert average_precision_score(truth, table["score"].to_numpy()) > 0.8
    reviewed = np.array(table["decision"].to_pylist()) != "allow"
    assert reviewed[truth == 1].mean() > 0.8 and all(w for w, r in zip(table["reasons"].to_pylist(), reviewed, strict=True) if r)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".jsonl"])
def test_the_command_reads_every_format(shop: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    train, new = halves(shop.iloc[::4])
    paths = [tmp_path / f"{name}{suffix}" for name in ("train", "new")]
    for path, frame in zip(paths, (train, new.drop(columns="is_fraud")), strict=True):
        if suffix == ".parquet":
            frame.to_parquet(path, index=False)
        elif suffix == ".jsonl":
            frame.to_json(path, orient="records", lines=True, date_format="iso")
        else:
            frame.to_csv(path, index=False)
    out = tmp_path / "decisions.parquet"
    assert main(["--train", str(paths[0]), "--score", str(paths[1]), "--out", str(out), "--label-delay-days", "3",
                 "--entities", "card_id,terminal_id", "--threads", "1"]) == 0
    assert pd.read_parquet(out)["id"].tolist() == new["payment_id"].tolist()


def test_help_states_the_columns_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for word in ("score (0 to 1", "probability", "decision", "reasons", "threshold", "notes", "exit codes", "--label-delay-days"):
        assert word in told


def test_missing_file_missing_column_missing_folder(shop: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, new = (tmp_path / "t.parquet"), (tmp_path / "n.parquet")
    for path, frame in zip((train, new), halves(shop), strict=True):
        frame.to_parquet(path, index=False)
    out = str(tmp_path / "o.parquet")
    assert main(["--train", str(tmp_path / "none.parquet"), "--score", str(new), "--out", out]) == 2
    assert main(["--train", str(train), "--score", str(new), "--out", out, "--entities", "card_id,iban"]) == 2
    assert main(["--train", str(train), "--score", str(new), "--out", str(tmp_path / "no" / "o.parquet")]) == 2
    assert main(["--train", str(train), "--score", str(new), "--out", out, "--label-delay-days", "-1"]) == 2
    assert main(["--train", str(train), "--score", str(new), "--out", out, "--cost-review", "500"]) == 2
    told = capsys.readouterr().err
    for words in ("no such file", "--entities iban: --train has no such column", "make it first", "--label-delay-days -1", "must cost less"):
        assert words in told
    assert not Path(out).exists()


def test_without_any_label_it_still_ranks(shop: pd.DataFrame) -> None:
    from sklearn.metrics import average_precision_score

    train, new = halves(shop)
    made = judged(train.drop(columns="is_fraud"), new.drop(columns="is_fraud"))
    assert made.table["probability"].null_count == len(new) and "block" not in made.table["decision"].to_pylist()
    # amounts tell a fifth of the fraud: by chance the average precision would be the share of fraud, 0.06
    assert average_precision_score(new["is_fraud"], made.table["score"].to_numpy()) > 2 * new["is_fraud"].mean()
    assert made.summary["models"][0]["kind"] == "strangeness"


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_judged_by_strangeness(shop: pd.DataFrame, label: int) -> None:
    train, new = halves(shop)
    train["is_fraud"] = label
    made = judged(train, new.drop(columns="is_fraud"))
    assert made.summary["models"][0]["kind"] == "strangeness" and made.table["probability"].null_count == len(new)


def test_ids_twice(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    new = new.drop(columns="is_fraud")
    with pytest.raises(Refused, match=r"--score column payment_id: 1 ids are there more than once, e.g. 'p\d+'"):
        judged(train, pd.concat([new, new.iloc[:1]]), id="payment_id")
    with pytest.raises(Refused, match="no id"):
        judged(train, new.assign(payment_id=new["payment_id"].where(new.index != 3)), id="payment_id")
    with pytest.raises(Refused, match="stands for different rows"):
        judged(pd.concat([train, train.iloc[:1].assign(amount=1.0)]), new, id="payment_id")
    plain = judged(train, new, id="payment_id").table
    doubled = judged(pd.concat([train, train.iloc[:7]]), new, id="payment_id")
    assert doubled.summary["mended"] == {"exact copies of rows of --train, left out": 7}
    assert doubled.table.equals(plain)
    again = judged(pd.concat([train, new.iloc[:5].assign(is_fraud=1)]), new, id="payment_id")
    assert again.table.equals(plain), "a label of a row that is judged now is no help to judge it"


def test_a_clock_that_runs_backwards(shop: pd.DataFrame) -> None:
    shop = shop.assign(signed_up_at=shop["paid_at"] - pd.Timedelta("3D"))
    train, new = halves(shop)
    new.loc[4, "signed_up_at"] = new.loc[4, "paid_at"] + pd.Timedelta("1D")
    made = judged(train, new.drop(columns="is_fraud"), timestamp="paid_at")
    assert made.table["notes"].to_pylist()[4] == "another of its times is later than its own"
    assert made.table["decision"].to_pylist()[4] != "allow"
    assert sum(made.summary["mended"].values()) == 1


def test_future_and_unreadable_times(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    new = new.drop(columns="is_fraud")
    plain = judged(train, new).table
    late = pd.concat([train, train.iloc[:3].assign(payment_id=["f1", "f2", "f3"], paid_at=pd.Timestamp("2031-01-01"))])
    made = judged(late, new)
    assert made.summary["mended"] == {"rows of --train that lie in the future, left out": 3} and made.table.equals(plain)
    odd = new.copy()
    odd.loc[len(odd) - 1, "paid_at"] = pd.Timestamp("2031-01-01")
    odd.loc[2, "paid_at"] = pd.NaT
    made = judged(train, odd, timestamp="paid_at")
    notes = made.table["notes"].to_pylist()
    assert (notes[2], notes[-1]) == ("its time cannot be read", "its time lies in the future")
    assert {made.table["decision"].to_pylist()[i] for i in (2, -1)} <= {"review", "block"} and notes.count("") == len(new) - 2


def test_labels_before_their_event_count_from_the_event_on(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    train["label_known_at"] = train["paid_at"] + pd.Timedelta("3D")
    plain = judged(train, new.drop(columns="is_fraud"))
    assert plain.table["score"].equals(judged(train.drop(columns="label_known_at"), new.drop(columns="is_fraud")).table["score"])
    train.loc[:9, "label_known_at"] = train.loc[:9, "paid_at"] - pd.Timedelta("1D")
    made = judged(train, new.drop(columns="is_fraud"))
    assert made.summary["mended"] == {"labels known before their event, counted from the event on": 10}


def test_columns_that_new_lacks(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    judged(train, new[["payment_id", "paid_at", "card_id", "terminal_id"]])
    with pytest.raises(UsageError, match="--score has none of --train's columns card_id, terminal_id, amount, country: nothing to judge"):
        judged(train, new[["payment_id", "paid_at"]])
    with pytest.raises(UsageError, match="nothing to judge its rows by"):
        judged(train, new[["payment_id", "paid_at"]], entities=["card_id"])
    with pytest.raises(UsageError, match="--id payment_id: --score has no such column"):
        judged(train, new[["paid_at", "amount"]], id="payment_id")


def test_unseen_categories_infinities_and_empty_columns(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    new = new.drop(columns="is_fraud").assign(country="XX", extra=None)
    new.loc[0, "amount"], new.loc[1, "amount"] = np.inf, np.nan
    train.loc[:3, "amount"] = -np.inf
    made = judged(train, new.assign(terminal_id=[f"never seen {i}" for i in range(len(new))]))
    assert made.summary["mended"] == {"infinite values of amount, taken as missing": 5}
    scores = made.table["score"].to_pylist()
    assert scores[0] == pytest.approx(scores[1], abs=0.2)


def test_new_of_other_types_and_no_rows(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    new = new.drop(columns="is_fraud")
    plain = judged(train, new).table
    assert judged(train, new.assign(card_id=new["card_id"].astype(str))).table["score"].equals(plain["score"])
    assert judged(train, new.iloc[:0]).table.schema.equals(plain.schema)
    with pytest.raises(Refused, match="--train has no usable row"):
        judged(train.iloc[:0], new)


def test_ten_thousand_payments_of_one_card_in_a_minute(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    new = new.drop(columns="is_fraud")
    n = 10_000
    burst = pd.DataFrame({
        "payment_id": [f"b{i}" for i in range(n)], "paid_at": new["paid_at"].iloc[50] + pd.to_timedelta(np.arange(n) * 6, unit="ms"),
        "card_id": 7, "terminal_id": "t1", "amount": 20.0, "country": "DE",
    })
    made = judged(train, pd.concat([new, burst])).table
    decisions = np.array(made["decision"].to_pylist())[len(new):]
    assert (decisions[100:] != "allow").all()
    assert "far beyond anything before" in made["reasons"].to_pylist()[-1]
    assert made["score"].to_numpy()[len(new) + 5000] > np.quantile(made["score"].to_numpy()[:len(new)], 0.9)


def test_labels_of_other_meanings_are_named(shop: pd.DataFrame) -> None:
    train, new = halves(shop)
    with pytest.raises(UsageError, match="--train column amount: a label is 1 for suspicious"):
        judged(train, new, label="amount")
    with pytest.raises(UsageError, match=r"--train column country: label '..' says neither fraud nor not"):
        judged(train, new, label="country")
    words = judged(train.assign(is_fraud=train["is_fraud"].map({0: "legit", 1: "FRAUD"})), new.drop(columns="is_fraud")).table
    assert words["score"].equals(judged(train, new.drop(columns="is_fraud")).table["score"])


@pytest.fixture
def reviews() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    good = ["the room was clean, and the clerk (a nice man) found us a bed.", "we paid 40 for parking; breakfast was fine.", "quiet street, small bath."]
    fake = ["amazing amazing hotel! my family loved it so much!", "I will definitely come back to this wonderful hotel!", "best stay ever! luxury luxury!"]
    fraud = rng.random(300) < 0.3
    return pd.DataFrame({
        "review_id": np.arange(300), "posted_at": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(300), unit="h"),
        "review": [f"{rng.choice(fake if f else good)} {rng.choice(good)} no {i}" for i, f in enumerate(fraud)], "fake": fraud.astype(int),
    })


def test_emoji_control_characters_and_a_million_characters(reviews: pd.DataFrame) -> None:
    train, new = reviews.iloc[:200], reviews.iloc[200:].reset_index(drop=True).drop(columns="fake")
    plain = judged(train, new, text=["review"], timestamp="posted_at")
    odd = ["🤩🤩🤩 \x00\x1b[31m\u202e 最高のホテル！ ممتاز", "word " * 200_000, "", None]
    new.loc[96:, "review"] = pd.Series(odd, index=range(96, 100))
    made = judged(train, new, text=["review"], timestamp="posted_at")
    assert made.summary["mended"] == {"texts of review longer than 20,000 characters, read to there": 1}
    assert made.table["score"].to_pylist()[:96] == plain.table["score"].to_pylist()[:96]


def test_reviews_without_labels_or_times(reviews: pd.DataFrame) -> None:
    train, new = reviews.iloc[:200], reviews.iloc[200:].drop(columns="fake")
    judged(train.drop(columns="fake"), new)
    judged(train.drop(columns="posted_at"), new.drop(columns="posted_at"))
    judged(train[["review", "fake"]], new[["review"]])


@pytest.mark.parametrize("change", ["shuffle", "later rows of new", "later rows of train"])
def test_order_and_the_future_change_no_score(shop: pd.DataFrame, change: str) -> None:
    train, new = halves(shop.iloc[::2])
    plain = judged(train, new.drop(columns="is_fraud")).table.to_pandas().set_index("id")["score"]
    rng = np.random.default_rng(8)
    later = shop.iloc[1::9].assign(paid_at=lambda f: f["paid_at"] + pd.Timedelta("58D"), card_id=3, amount=1e7, terminal_id="new one",
                                   payment_id=lambda f: "x" + f["payment_id"])
    later = later[later["paid_at"] > new["paid_at"].max()]
    assert len(later) > 20
    if change == "shuffle":
        train, new = train.sample(frac=1, random_state=rng.integers(99)), new.sample(frac=1, random_state=rng.integers(99))
    elif change == "later rows of new":
        new = pd.concat([later, new])
    else:
        train = pd.concat([later, train])
    again = judged(train, new.drop(columns="is_fraud")).table.to_pandas().set_index("id")["score"]
    assert again.loc[plain.index].tolist() == plain.tolist()


def test_labels_that_come_in_among_the_rows_of_new_count_from_then(shop: pd.DataFrame) -> None:
    """Every second row is to be judged: no label of a later time may help, yet later rows are judged by labels."""
    new, train = shop.iloc[::2], shop.iloc[1::2]
    made = judged(train, new.drop(columns="is_fraud"))
    kinds = [m["kind"] for m in made.summary["models"]]
    assert kinds[0] == "strangeness" and kinds[-1] == "labels"
    middle = shop["paid_at"].iloc[800]
    turned = train.assign(is_fraud=np.where(train["paid_at"] > middle - pd.Timedelta("3D"), 1 - train["is_fraud"], train["is_fraud"]))
    other = judged(turned, new.drop(columns="is_fraud"))
    before = (new["paid_at"] <= middle).to_numpy()
    one, two = made.table["score"].to_numpy(), other.table["score"].to_numpy()
    assert (one[before] == two[before]).all() and (one[~before] != two[~before]).any()
