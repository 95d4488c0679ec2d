"""At which move a conclusion changes."""

import numpy as np
import pytest

from evaluation.tipping import ANSWERS, AUC, CHANGE, DIFFERENCE, state, tip


@pytest.mark.parametrize(
    ("conclusion", "figures", "words"),
    [
        (DIFFERENCE, (0.5, 0.1, 0.9), "above 0"),
        (DIFFERENCE, (-0.5, -0.9, -0.1), "below 0"),
        (CHANGE, (0.02, -0.1, 0.1), "not told from 0"),
        (AUC, (0.7, 0.55, 0.8), "above chance"),
        (AUC, (0.7, 0.45, 0.8), "not above chance"),
        (AUC, (0.7, np.nan, np.nan), "not told"),
        (ANSWERS, (0.0, np.nan, np.nan), "none"),
        (ANSWERS, (0.1, np.nan, np.nan), "some"),
    ],
)
def test_what_a_figure_says(conclusion: str, figures: tuple[float, float, float], words: str) -> None:
    assert state(conclusion, *figures) == words


def test_the_first_change_on_either_side_of_zero() -> None:
    deltas = (-2.0, -1.0, 0.0, 1.0, 2.0)
    assert tip(deltas, ("b", "a", "a", "b", "b")) == ("a", -2.0, 1.0)
    assert tip(deltas, ("a", "b", "a", "a", "a")) == ("a", -1.0, None)  # it comes back, and has changed all the same
    assert tip(deltas, ("c", "b", "a", "b", "c")) == ("a", -1.0, 1.0)
    assert tip(deltas, ("a",) * 5) == ("a", None, None)
    with pytest.raises(ValueError, match="no conclusion 'accuracy'"):
        state("accuracy", 0.5, 0.4, 0.6)
