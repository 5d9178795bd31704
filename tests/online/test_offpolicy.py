"""Off-policy estimates: unbiased where the truth is known, and right about the open bandit log's two policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nightmarket.online.offpolicy import Log, doubly_robust, estimates, logistic, shrunken_means

ACTIONS = 5


def world(rng: np.random.Generator, n: int) -> tuple[Log, np.ndarray, float]:
    """A log of a policy that looks at the context, another policy, and that policy's true value."""
    x = rng.integers(0, 2, n)
    rates = np.array([[0.1, 0.2, 0.3, 0.1, 0.05], [0.3, 0.1, 0.05, 0.2, 0.4]])
    logging = np.array([[0.4, 0.3, 0.1, 0.1, 0.1], [0.1, 0.1, 0.4, 0.2, 0.2]])
    target = np.array([[0.1, 0.1, 0.6, 0.1, 0.1], [0.2, 0.1, 0.1, 0.1, 0.5]])
    action = (rng.random(n)[:, None] > np.cumsum(logging, axis=1)[x]).sum(axis=1)
    reward = (rng.random(n) < rates[x, action]).astype(float)
    log = Log(action, reward, logging[x, action], np.stack([x, 1 - x], axis=1).astype(float), ACTIONS)
    return log, target[x], float((rates * target).sum(axis=1).mean())


def test_all_three_find_the_true_value_and_say_how_surely() -> None:
    rng = np.random.default_rng(4)
    errors: dict[str, list[float]] = {}
    held: dict[str, list[bool]] = {}
    for _ in range(100):
        log, target, truth = world(rng, 1500)
        for name, e in estimates(log, target, shrunken_means(ACTIONS), resamples=200).items():
            errors.setdefault(name, []).append(e.value - truth)
            held.setdefault(name, []).append(e.low <= truth <= e.high)
    for name, off in errors.items():
        assert abs(np.mean(off)) < 3 * np.std(off) / 10, name  # no bias that 100 logs would show
        assert np.mean(held[name]) >= 0.88, name
    assert np.std(errors["SNIPS"]) < np.std(errors["IPS"]) and np.std(errors["doubly robust"]) < np.std(errors["IPS"])


def test_doubly_robust_is_right_where_either_part_is() -> None:
    log, target, truth = world(np.random.default_rng(5), 40_000)
    wrong_model = doubly_robust(log, target, lambda c, a, r, wanted: np.full((len(wanted), ACTIONS), 0.9))
    assert wrong_model.mean() == pytest.approx(truth, abs=0.02)
    rates = np.array([[0.1, 0.2, 0.3, 0.1, 0.05], [0.3, 0.1, 0.05, 0.2, 0.4]])
    wrong_chances = Log(log.action, log.reward, np.full(len(log.action), 0.5), log.context, ACTIONS)
    right_model = doubly_robust(wrong_chances, target, lambda c, a, r, wanted: rates[wanted[:, 0].astype(int)])
    assert right_model.mean() == pytest.approx(truth, abs=0.02)


def test_a_logistic_model_learns_the_actions() -> None:
    rng = np.random.default_rng(6)
    action = rng.integers(0, 3, 3000)
    reward = (rng.random(3000) < np.array([0.1, 0.5, 0.9])[action]).astype(float)
    said = logistic(3, strength=1.0)(np.ones((3000, 1)), action, reward, np.ones((2, 1)))
    assert said.shape == (2, 3) and said[0] == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    assert logistic(3)(np.ones((3, 1)), np.arange(3), np.zeros(3), np.ones((2, 1))).tolist() == [[0.0] * 3] * 2


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="actions run from 0 to 1; the log shows 0 … 2"):
        Log(np.array([0, 2]), np.zeros(2), np.ones(2), np.zeros((2, 1)), 2)
    with pytest.raises(ValueError, match="row 1: a propensity"):
        Log(np.array([0, 1]), np.zeros(2), np.array([0.5, 0.0]), np.zeros((2, 1)), 2)
    log = Log(np.array([0, 1]), np.zeros(2), np.ones(2), np.zeros((2, 1)), 2)
    with pytest.raises(ValueError, match="summing to 1"):
        estimates(log, np.ones((2, 2)), shrunken_means(2))


@pytest.mark.real_data
def test_the_open_bandit_logs_agree_about_each_other(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two policies on two campaigns, each estimated from the other's log: every estimate's interval allows for what its own log says."""
    from benchmarks.experiments import off_policy

    off_policy(real_data, 17)
    said = capsys.readouterr().out
    assert said.count("own log says") == 4 and said.count("within its interval") == 16 and "BEYOND" not in said
