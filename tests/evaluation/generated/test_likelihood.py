"""Feature likelihood: the mixture written out by hand, and a gap that copying opens and shrinking does not."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from evaluation.generated.likelihood import NARROWEST, _costs, feature_likelihood


def rows(count: int, seed: int, columns: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, columns))


def test_the_cost_is_that_of_the_mixture() -> None:
    """With widths that nothing can be fitted to any more: all at the floor."""
    real, made = rows(10, 1), rows(7, 2)
    squares = np.square(real[:, None] - made[None]).mean(2)
    first = np.arange(10) < 6
    floor = 9.0  # no fitted variance is as large
    parts = [multivariate_normal(centre, floor * np.eye(6)).pdf(real) for centre in made]
    expected = -100 / 6 * np.log(np.mean(parts, axis=0))
    found = _costs(squares, first, 6, floor)
    assert found == pytest.approx([expected[:6].mean(), expected[6:].mean()])


def test_widths_are_those_of_greatest_likelihood() -> None:
    """Of one generated row: the mean squared distance."""
    real, made = rows(30, 1), rows(1, 2)
    squares = np.square(real[:, None] - made[None]).mean(2)
    first = np.arange(30) < 20
    best, _ = _costs(squares, first, 6, 1e-9)
    variance = squares[first].mean()
    assert best == pytest.approx(100 / 2 * (1 + np.log(2 * np.pi * variance)))


def test_copies_open_a_gap_and_shrinking_does_not() -> None:
    found = {}
    for seed in range(2):
        train, held, honest = rows(40, 10 + seed, 30), rows(40, 20 + seed, 30), rows(120, 30 + seed, 30)
        random = np.random.default_rng(seed)
        copies = train[random.integers(0, 40, 120)] + 0.05 * random.normal(0, 1, (120, 30))
        half = np.vstack([honest[:60], copies[60:]])
        for name, made in {"honest": honest, "copies": copies, "half": half, "shrunk": 0.7 * honest}.items():
            found.setdefault(name, []).append(feature_likelihood(train, held, made, permutations=19, seed=seed))
    gap = {name: np.mean([each.gap for each in one]) for name, one in found.items()}
    assert gap["copies"] > gap["half"] > 10 * max(abs(gap["honest"]), abs(gap["shrunk"]))
    assert all(each.p == pytest.approx(1 / 20) for name in ("copies", "half") for each in found[name])
    assert np.mean([each.p for name in ("honest", "shrunk") for each in found[name]]) > 0.1


def test_an_exact_copy_has_a_bounded_width() -> None:
    train, held = rows(20, 1), rows(20, 2)
    found = feature_likelihood(train, held, train[:8], permutations=3)
    assert np.isfinite([found.training, found.held_out, found.gap]).all()
    among = np.square(np.vstack([train, held])[:, None] - np.vstack([train, held])[None]).mean(2)
    np.fill_diagonal(among, np.inf)
    least = NARROWEST**2 * among.min(1).mean()
    assert found.training > 100 / 2 * np.log(2 * np.pi * least) - 1e-6


def test_rows_of_other_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="the same features"):
        feature_likelihood(rows(5, 1), rows(5, 2), rows(5, 3, 4))
