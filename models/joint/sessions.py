"""Which session of a patient a joint model learns from: a patient counts once, however often seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def one_session_each(
    subjects: Sequence[Any] | NDArray[Any], modalities: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows to learn from, sorted: of each patient the session with the most modalities, of those the latest.

    Nothing but a patient's own sessions decides which one it is, so a patient more changes nobody else's row.

    Args:
        subjects: the patient of each row, (n,).
        modalities: how many each row has, (n,).
        order: of sessions in time, (n,); of two rows alike in all this, the last one.
    """
    best = np.lexsort((order, modalities))  # by modalities first
    chosen = {subjects[i]: i for i in best.tolist()}
    return np.array(sorted(chosen.values()), dtype=np.int64)
