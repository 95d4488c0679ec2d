"""At which move δ of imputed values does a conclusion change?"""

import math
from collections.abc import Sequence
from typing import NamedTuple

DIFFERENCE, AUC, CHANGE, ANSWERS = CONCLUSIONS = (
    "classes apart", "AUC", "AUC against no move", "answers changed",
)  # fmt: skip
"""Means of the last class and the others along the direction, sd; AUC of the model's answers; that minus the one at
δ = 0; share of the answers of patients who lack the scan that are of another class than at δ = 0."""


class Tip(NamedTuple):
    """Where a conclusion changes.

    Attributes:
        here: the conclusion at δ = 0.
        below: first δ under 0 at which it is another; None for none that was looked at.
        above: likewise over 0.
    """

    here: str
    below: float | None
    above: float | None


def state(conclusion: str, value: float, low: float, high: float) -> str:
    """Return what a figure with its interval says, in words; NaN limits say nothing.

    Raises:
        ValueError: there is no such conclusion.
    """
    if conclusion == DIFFERENCE or conclusion == CHANGE:
        return "above 0" if low > 0 else "below 0" if high < 0 else "not told from 0"
    if conclusion == AUC:
        return "not told" if math.isnan(low) else "above chance" if low > 0.5 else "not above chance"
    if conclusion == ANSWERS:
        return "none" if value == 0 else "some"
    raise ValueError(f"no conclusion {conclusion!r}; there are {', '.join(CONCLUSIONS)}")


def tip(deltas: Sequence[float], states: Sequence[str]) -> Tip:
    """Return where a conclusion changes.

    Args:
        deltas: ascending, 0 among them.
        states: the conclusion at each.
    """
    here = states[list(deltas).index(0.0)]
    other = [delta for delta, each in zip(deltas, states, strict=True) if each != here]
    below, above = [d for d in other if d < 0], [d for d in other if d > 0]
    return Tip(here, below[-1] if below else None, above[0] if above else None)
