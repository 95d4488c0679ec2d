"""A joint model that is updated as patients come, and forgets those who ask for it.

    sums ← λ · sums + sums(new)

The scores are those of a public basis, which is learnt from nobody; so a patient is in the sums and nowhere else, and
is taken out by a subtraction. With a basis that was learnt from the patient that would not do: the components would
still show in which directions the patient differs from the others. What each patient gave is kept beside the sums,
since a later session of the same patient takes its place.

Source: prequential ("predict, then learn"): Dawid 1984. Surprise: Wilson and Hilferty 1931, for squared distances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import TOLERANCE, JointGaussian, class_probabilities, fit_estimate
from models.joint.sums import LEFT, Sums, merge, onto, scale, subtract, sums_of

FOLDS = 5  # in which the first patients are held out
GROUPS = 20  # of earlier patients, to know what is usual
ROUGH = 1e-3  # tolerance of EM for these; surprise is averaged over patients
NEWEST = 20  # patients who are held against the earlier ones, at least
FEWEST_NEW, FEWEST_EARLIER = 8, 20
LEVEL = 0.05  # chance of a false alarm in all updates together
LEAST_WEIGHT = 1e-6  # a patient who counts less is not in any more


@dataclass(frozen=True)
class Updated:
    """What is known of patients.

    Attributes:
        sums: of all who are in.
        subjects: who is in, sorted.
        rows: scores of each, (n, d), NaN where a block is missing.
        labels: class of each, (n,).
        weights: how much each counts, (n,).
    """

    sums: Sums
    subjects: tuple[str, ...]
    rows: FloatArray
    labels: NDArray[np.int64]
    weights: FloatArray

    def without(self, subjects: Sequence[str]) -> "Updated":
        """Return what is left when some are taken out of the sums; others are not touched.

        Raises:
            ValueError: one of them is not in.
        """
        gone = set(subjects)
        if unknown := sorted(gone - set(self.subjects)):
            raise ValueError(f"{unknown[0]} is not in; who is not cannot be taken out")
        out = np.array([name in gone for name in self.subjects], dtype=bool)
        less = weighted_sums(self.rows[out], self.labels[out], self.weights[out], self.sums.blocks, self.sums.classes)
        return Updated(
            subtract(self.sums, less),
            tuple(name for name in self.subjects if name not in gone),
            self.rows[~out],
            self.labels[~out],
            self.weights[~out],
        )

    def anew(self) -> Sums:
        """Return the sums made anew from everybody who is in."""
        return weighted_sums(self.rows, self.labels, self.weights, self.sums.blocks, self.sums.classes)


@dataclass(frozen=True)
class Prediction:
    """What a model said of patients before it learnt from them.

    Attributes:
        classes: probabilities, (n, K).
        surprise: how far the scores are from those of the patient's class, (n,); about standard normal where the model
            holds, large where it does not. NaN without a score that the model knows.
    """

    classes: FloatArray
    surprise: FloatArray


@dataclass(frozen=True)
class Drift:
    """Are the newest patients farther from the model than the earlier ones?

    Attributes:
        p: one-sided, of Student's t against the groups; NaN with too few patients.
        limit: p below which drift is said; the limits of all updates add up to `LEVEL`.
        newest: patients looked at.
        earlier: patients that the groups are drawn from.
    """

    p: float
    limit: float
    newest: int
    earlier: int

    @property
    def found(self) -> bool:
        """Whether drift is said."""
        return bool(self.p < self.limit)


def nobody(blocks: Blocks, classes: int) -> Updated:
    """Return the state before the first patient."""
    empty = np.zeros(0)
    return Updated(Sums(blocks, classes, {}), (), np.zeros((0, blocks.width)), empty.astype(np.int64), empty)


def learn(
    state: Updated, subjects: Sequence[str], rows: FloatArray, labels: NDArray[np.int64], *, forgetting: float = 1.0
) -> Updated:
    """Add patients; one who is in already is taken out first.

    Args:
        state: who is in so far.
        subjects: names, all different.
        rows: their scores, (m, d).
        labels: their classes, (m,).
        forgetting: λ, what those who are in count after this, from 0 (excluded) to 1.

    Raises:
        ValueError: a name occurs twice, or λ is not in (0, 1].
    """
    if len(set(subjects)) < len(subjects) or not 0 < forgetting <= 1:
        raise ValueError(f"{len(subjects)} patients, λ = {forgetting}: expected different names, and 0 < λ ≤ 1")
    kept = state.without([name for name in subjects if name in set(state.subjects)])
    weights = kept.weights * forgetting
    if faded := [name for name, weight in zip(kept.subjects, weights, strict=True) if weight < LEAST_WEIGHT]:
        kept = kept.without(faded)
        weights = kept.weights * forgetting
    new = sums_of(rows, labels, state.sums.blocks, state.sums.classes)
    names = [*kept.subjects, *subjects]
    order = np.argsort(names)
    return Updated(
        merge(scale(kept.sums, forgetting), new),
        tuple(names[i] for i in order),
        np.concatenate([kept.rows, rows])[order],
        np.concatenate([kept.labels, labels])[order],
        np.concatenate([weights, np.ones(len(rows))])[order],
    )


def with_blocks(state: Updated, blocks: Blocks) -> Updated:
    """Return the state in another layout of scores, such as with a modality that nobody had so far."""
    rows = np.full((len(state.rows), blocks.width), np.nan)
    for name in blocks.names:
        if name in state.sums.blocks.names:
            rows[:, blocks.slice_of(name)] = state.rows[:, state.sums.blocks.slice_of(name)]
    return replace(state, sums=onto(state.sums, blocks), rows=rows)


def weighted_sums(
    rows: FloatArray, labels: NDArray[np.int64], weights: FloatArray, blocks: Blocks, classes: int
) -> Sums:
    """Return the sums of patients who do not all count the same."""
    total = Sums(blocks, classes, {})
    for weight in np.unique(weights):
        same = weights == weight
        total = merge(total, scale(sums_of(rows[same], labels[same], blocks, classes), float(weight)))
    return total


def apart(one: Sums, other: Sums) -> float:
    """Return the largest difference between two sums, as a share of their largest entry; 0 where both are empty."""
    largest, difference = 0.0, 0.0
    for key in {*one.cells, *other.cells}:
        cells = [sums.cells.get(key) for sums in (one, other)]
        for name in ("count", "total", "outer"):
            a, b = (0.0 if cell is None else np.asarray(getattr(cell, name)) for cell in cells)
            largest = max(largest, float(np.abs(a).max()), float(np.abs(b).max()))
            difference = max(difference, float(np.abs(a - b).max()))
    return difference / max(largest, LEFT)


def model_of(sums: Sums, *, tolerance: float = TOLERANCE) -> tuple[JointGaussian, tuple[str, ...]]:
    """Return the Gaussian of the sums, and the blocks that are left out of it because too few patients have them.

    Args:
        sums: of patients.
        tolerance: of EM.

    Raises:
        TooFewPatientsError: no block has enough.
    """
    has = sums.with_block()
    needed = np.maximum((has > 0).sum(axis=0), 1) + 2
    enough = has.sum(axis=0) >= needed
    if not enough.any():
        return fit_estimate(sums, tolerance=tolerance)[0], ()  # raises
    names, sizes = sums.blocks.names, sums.blocks.sizes
    kept = [i for i in range(len(names)) if enough[i]]
    some = Blocks(tuple(names[i] for i in kept), tuple(sizes[i] for i in kept))
    left_out = tuple(name for name, there in zip(names, enough, strict=True) if not there)
    return fit_estimate(onto(sums, some), tolerance=tolerance)[0], left_out


def predict(sums: Sums, rows: FloatArray, labels: NDArray[np.int64], *, tolerance: float = TOLERANCE) -> Prediction:
    """Return what the model of some sums says of patients who are not in them.

    Args:
        sums: of others.
        rows: (n, d).
        labels: classes, (n,), for the surprise alone.
        tolerance: of EM.

    Raises:
        TooFewPatientsError: as `model_of`.
    """
    model, left_out = model_of(sums, tolerance=tolerance)
    columns = [sums.blocks.slice_of(name) for name in sums.blocks.names if name not in left_out]
    known = np.concatenate([rows[:, part] for part in columns], axis=1)
    surprise = np.full(len(rows), np.nan)
    covariance = model.estimate.covariance
    for i, (row, pattern) in enumerate(zip(known, model.blocks.patterns(known), strict=True)):
        seen = model.blocks.columns(pattern)
        if len(seen):
            off = row[seen] - model.estimate.mean[labels[i], seen]
            square = float(off @ np.linalg.solve(covariance[np.ix_(seen, seen)], off)) / len(seen)
            noise = 2 / (9 * len(seen))
            surprise[i] = (np.cbrt(square) - (1 - noise)) / np.sqrt(noise)
    return Prediction(class_probabilities(model, model.estimate, known), surprise)


def held_out(state: Updated, *, seed: int = 0) -> Prediction:
    """Return the same for patients who are in, each by a model without its fold; folds are taken out by subtraction.

    Raises:
        TooFewPatientsError: as `model_of`.
    """
    n = len(state.subjects)
    fold = np.random.default_rng([seed, 15]).permutation(n) % min(FOLDS, max(n, 1))
    classes, surprise = np.zeros((n, state.sums.classes)), np.full(n, np.nan)
    for number in np.unique(fold):
        out = np.flatnonzero(fold == number)
        rest = state.without([state.subjects[i] for i in out])
        said = predict(rest.sums, state.rows[out], state.labels[out])
        classes[out], surprise[out] = said.classes, said.surprise
    return Prediction(classes, surprise)


def drift(state: Updated, newest: Mapping[str, float], *, version: int, seed: int = 0) -> Drift:
    """Hold the surprise of the newest patients against that of random groups of the earlier ones.

    Each group is predicted by a model without it, so what such a model gets wrong for all of a group alike counts as
    chance in both. With single patients held out it would not, and every second update would find drift.

    Args:
        state: with the newest.
        newest: subject → surprise before it was learnt from.
        version: of the update, from 2 on; the limits of all versions add up to `LEVEL`.
        seed: of the groups.

    Raises:
        TooFewPatientsError: as `model_of`.
    """
    limit = LEVEL * 6 / np.pi**2 / max(version - 1, 1) ** 2
    values = np.array([value for value in newest.values() if np.isfinite(value)])
    here = set(state.subjects)
    earlier = state.without([name for name in newest if name in here])
    if len(values) < FEWEST_NEW or len(earlier.subjects) < FEWEST_EARLIER:
        return Drift(float("nan"), limit, len(values), len(earlier.subjects))
    random = np.random.default_rng([seed, 16])
    size = min(len(values), len(earlier.subjects) // 2)
    usual = []
    for _ in range(GROUPS):
        out = random.permutation(len(earlier.subjects))[:size]
        rest = earlier.without([earlier.subjects[i] for i in out])
        usual.append(np.nanmean(predict(rest.sums, earlier.rows[out], earlier.labels[out], tolerance=ROUGH).surprise))
    spread = np.std(usual, ddof=1) * np.sqrt(1 + 1 / GROUPS)
    p = float(student.sf((values.mean() - np.mean(usual)) / spread, GROUPS - 1))
    return Drift(p, limit, len(values), len(earlier.subjects))
