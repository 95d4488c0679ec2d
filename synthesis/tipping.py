"""If scans are missing for what they would have shown: how far must imputed scores be moved for a conclusion to change?

Missing scores are imputed many times as if they were missing at random, then moved by δ standard deviations along one
direction of their modality. What δ is true cannot be learnt; at which δ a conclusion changes can be told.

Source: Rubin 1987 (several imputations, and their interval); Cro et al. 2020, Statistics in Medicine 39:2815 (moving
them by δ until the conclusion changes).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from models.joint.blocks import FloatArray
from models.joint.gaussian import JointGaussian, class_probabilities
from models.joint.posterior import draw

IMPUTATIONS = 50
LEVEL = 0.95


class CannotTipError(ValueError):
    """There is nothing to move, or nothing to compare; the message says what."""


class Direction(NamedTuple):
    """Along what scores are moved.

    Attributes:
        unit: in the scores of the block, (d_b,), of length 1; `direction_of` gives the last class the higher mean along
            it.
        spread: standard deviation of patients along it.
    """

    unit: FloatArray
    spread: float


def direction_of(model: JointGaussian, block: str, along: str) -> Direction:
    """Return where scans of a modality differ most (`principal`), or the direction between the classes (`class`).

    The class direction leads from the mean of the other classes to that of the last one.

    Raises:
        CannotTipError: the classes do not differ in this block at all.
    """
    part = model.blocks.slice_of(block)
    share, mean = model.estimate.share, model.estimate.mean[:, part]
    rest = share[:-1] / share[:-1].sum() if share[:-1].sum() > 0 else np.full(len(share) - 1, 1 / (len(share) - 1))
    apart = mean[-1] - rest @ mean[:-1]
    total = model.estimate.total()[1][part, part]
    unit = np.linalg.eigh(total)[1][:, -1] if along == "principal" else apart
    length = float(np.linalg.norm(unit))
    if not length > 0:
        raise CannotTipError(f"{block}: the classes have the same mean, so there is no direction between them")
    unit = unit / length
    if unit @ apart < 0:
        unit = -unit
    return Direction(unit, float(np.sqrt(unit @ total @ unit)))


def class_difference(
    model: JointGaussian,
    rows: FloatArray,
    labels: NDArray[np.int64],
    block: str,
    direction: Direction,
    deltas: Sequence[float],
    random: np.random.Generator,
    *,
    last_only: bool = False,
    subjects: Sequence[str] | None = None,
) -> FloatArray:
    """Return how far the last class lies from the others along a direction, with its interval, for each δ, (q, 3).

    Missing scores are drawn given the class: imputed without it they would pull the classes together. In standard
    deviations; an interval is that of several imputations (Rubin).

    Args:
        model: fitted.
        rows: scores, (n, d), NaN where a block is missing.
        labels: (n,).
        block: whose missing scores are moved.
        direction: of the block.
        deltas: in standard deviations.
        random: source of chance.
        last_only: move only those of the last class.
        subjects: patient of each row, whose sessions are averaged: they count as one patient; None for one row each.

    Raises:
        CannotTipError: nobody (of the class) lacks the block, or one side has fewer than 2 patients.
    """
    part, last = model.blocks.slice_of(block), labels == model.classes - 1
    lacking = np.isnan(rows[:, part.start])
    moved = lacking & last if last_only else lacking
    if not moved.any():
        raise CannotTipError(f"{block}: no such patient lacks it, so there is nothing to move")
    who = np.arange(len(rows)) if subjects is None else np.unique(np.asarray(subjects), return_inverse=True)[1]
    _, patient = np.unique(np.stack([who, last], axis=1), axis=0, return_inverse=True)  # within a class
    sessions = np.bincount(patient)
    of_last = np.bincount(patient, weights=last) > 0
    if min(of_last.sum(), (~of_last).sum()) < 2:
        raise CannotTipError(
            f"{block}: {of_last.sum()} patients of the last class and {(~of_last).sum()} others; 2 each needed"
        )
    mean = np.zeros((len(rows), len(sessions)))
    mean[np.arange(len(rows)), patient] = 1 / sessions[patient]
    drawn, _ = draw(model, rows, IMPUTATIONS, random, labels)
    scores = drawn[:, :, part] @ direction.unit / direction.spread
    return np.array([_rubin((scores + delta * moved) @ mean, of_last) for delta in deltas])


def answers(
    model: JointGaussian,
    rows: FloatArray,
    block: str,
    direction: Direction,
    deltas: Sequence[float],
    random: np.random.Generator,
) -> FloatArray:
    """Return class probabilities of patients, of whom those who lack the block have it imputed and moved, (q, n, K).

    The answer is the mean over imputations; at δ = 0 it is the model's own up to the chance of these draws. Classes are
    not used.

    Args:
        model: fitted.
        rows: scores, (n, d), NaN where a block is missing.
        block: whose missing scores are moved.
        direction: of the block.
        deltas: in standard deviations.
        random: source of chance.
    """
    part, parameters = model.blocks.slice_of(block), model.estimate
    out = np.repeat(class_probabilities(model, parameters, rows)[None], len(deltas), axis=0)
    lacking = np.flatnonzero(np.isnan(rows[:, part.start]))
    if len(lacking) == 0:
        return out
    drawn, _ = draw(model, rows[lacking], IMPUTATIONS, random, plug_in=True)
    for i, delta in enumerate(deltas):
        moved = drawn.copy()
        moved[:, :, part] += delta * direction.spread * direction.unit
        found = class_probabilities(model, parameters, moved.reshape(-1, rows.shape[1]))
        out[i, lacking] = found.reshape(IMPUTATIONS, len(lacking), -1).mean(axis=0)
    return out


def _rubin(scores: FloatArray, last: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the difference of means with its interval; scores of patients (S, p)."""
    one, other = scores[:, last], scores[:, ~last]
    difference = one.mean(axis=1) - other.mean(axis=1)
    within = float((one.var(axis=1, ddof=1) / one.shape[1] + other.var(axis=1, ddof=1) / other.shape[1]).mean())
    between = (1 + 1 / len(scores)) * float(difference.var(ddof=1))
    freedom = float(scores.shape[1] - 2)
    if between > 0:
        freedom = min(freedom, (len(scores) - 1) * (1 + within / between) ** 2)
    reach = float(student.ppf(0.5 + LEVEL / 2, freedom)) * np.sqrt(within + between)
    middle = float(difference.mean())
    return middle, middle - reach, middle + reach
