"""Which questions tell most about a newcomer: by hand on four products, and against scikit-learn's regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from nightmarket.recommend import onboarding
from nightmarket.recommend.histories import Histories
from nightmarket.recommend.onboarding import Likings, TooFew, questions
from tests.recommend.synthetic import features, history, moment

AS_OF = moment(50).timestamp()


def likings(rows: dict[str, str], kind: str = "purchase", **more: object) -> Likings:
    """From shopper -> the products he likes, one letter each."""
    table = features([history(u, [(1.0 + n, kind, i) for n, i in enumerate(items)]) for u, items in rows.items()])
    return Likings.of(Histories.from_table(table), AS_OF, **more)  # type: ignore[arg-type]


def crowd() -> dict[str, str]:
    """e is liked by everyone. a, b and c go together (ten shoppers), d goes its own way (ten others, two of the ten)."""
    return {**{f"u{n:02d}": "abce" + ("d" if n < 2 else "") for n in range(10)}, **{f"v{n:02d}": "e" + ("d" if n < 8 else "") for n in range(10)}}


def test_what_stands_for_most_is_asked_first_and_not_asked_again() -> None:
    made = questions(likings(crowd()), 4)
    # a, b and c say the same: one of them is asked (the first by name), then d; e tells nothing, b and c nothing more
    assert made.items[:2] == ("a", "d")
    assert "e" not in made.items
    assert made.liked[:2] == pytest.approx((0.5, 0.5))
    # variances: a = b = c = 1/4 and d = 1/4; asking a takes cov(a, .)^2 / var(a): 3/4 of a, b, c, and of d (0.1 - 0.25)^2 / 0.25 = 0.09
    assert made.explained[0] == pytest.approx((0.75 + 0.09) / 1.0, abs=0.05)
    assert made.explained[1] > 0.9
    assert list(made.explained) == sorted(made.explained)


def test_answers_move_the_expectation_as_a_regression_on_them_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    taste = rng.normal(size=(400, 2))
    liked = taste @ rng.normal(size=(2, 8)) + rng.normal(size=(400, 8)) > 0.3
    rows = {f"u{n:03d}": "".join("abcdefgh"[i] for i in np.flatnonzero(row)) + "z" for n, row in enumerate(liked)}
    monkeypatch.setattr(onboarding, "RIDGE", 0.0)
    made = likings(rows)
    asked = questions(made, 3).items
    place = ["abcdefgh".index(i) for i in asked]
    oracle = LinearRegression().fit(liked[:, place].astype(float), liked.astype(float))
    for answers in ((True, False, True), (False, False, False)):
        expected = oracle.predict(np.array([answers], dtype=float))[0]
        found = dict(zip(made.items, made.expected(asked, answers), strict=True))
        assert [found[i] for i in "abcdefgh"] == pytest.approx(expected, abs=1e-9)
    assert made.expected((), ()).tolist() == made.mean.tolist()


def test_the_shares_explained_are_those_of_the_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onboarding, "RIDGE", 0.0)
    made = likings(crowd())
    names, likes = "abcde", crowd()
    x = np.array([[i in likes[u] for i in names] for u in sorted(likes)], dtype=float)
    found = questions(made, 2)
    for n in (1, 2):
        place = [names.index(i) for i in found.items[:n]]
        left = x - LinearRegression().fit(x[:, place], x).predict(x[:, place])
        assert found.explained[n - 1] == pytest.approx(1 - left.var(axis=0).sum() / x.var(axis=0).sum(), abs=1e-9)


def test_looking_counts_where_nobody_buys_and_only_allowed_products_are_asked() -> None:
    assert questions(likings(crowd(), kind="view"), 1).items == ("a",)
    assert questions(likings(crowd(), allowed=["b", "d", "e"]), 1).items == ("b",)


def test_later_events_change_nothing() -> None:
    rows = [history(u, [(1.0, "purchase", i) for i in items]) for u, items in crowd().items()]
    later = [history("w", [(60.0, "purchase", "q")])]
    one, other = (Likings.of(Histories.from_table(features(r)), AS_OF) for r in (rows, rows + later))
    assert questions(one, 3) == questions(other, 3)


def test_too_few_is_said() -> None:
    with pytest.raises(TooFew, match="2 shoppers with a history and 0 products that at least 5"):
        likings({"u": "a", "v": "b"})


def test_when_all_like_the_same_nothing_is_asked() -> None:
    assert questions(likings({f"u{n}": "ab" for n in range(6)}), 3).items == ()
