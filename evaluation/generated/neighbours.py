"""Nearest neighbours of generated and real rows: fidelity, coverage, and copies of training rows.

Distances are Euclidean, so features should be in comparable units.

Source: Kynkäänniemi et al. (2019) for precision and recall; Naeem et al. (2020), section 3.1, for density and coverage;
Alaa et al., How Faithful is your Synthetic Data? (2022), section 3, for authenticity; Meehan et al., A
Non-Parametric Test to Detect Data-Copying (2020), section 3, for C_T, with a single cell in place of k-means cells,
which cohorts of some tens of patients would leave empty; Carlini et al., Extracting Training Data from Diffusion
Models (2023), section 4.2, for the distance in units of that of further neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist

from evaluation.generated.distributions import FloatArray, Subjects, check_rows
from evaluation.generated.patients import nearest_of_each, one_each, owners, patients

K = 5  # neighbours of precision, recall, density and coverage
NEARER_THAN = 0.05  # quantile of the real rows' distances below which a generated row is near
NEXT = 5  # neighbours after the nearest that say how dense training is there
FEWEST_PATIENTS = 3  # of training
SESSION_DRAWS = 20
AT_ONCE = 1000  # generated rows
ALONE = 1 / 2  # of the ratio that 95 % of real rows exceed; a copy is below


@dataclass(frozen=True)
class Manifold:
    """How generated rows lie among real ones.

    Attributes:
        precision: share of generated rows within the K-nearest-neighbour ball of a real one, [0, 1].
        recall: share of real rows within such a ball of a generated one, [0, 1].
        density: mean number of real balls that a generated row lies in, over K, ≥ 0; about 1 for the same distribution.
        coverage: share of real balls that hold a generated row, [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Copy:
    """A generated row that is a copy of a training row.

    Attributes:
        generated: its row.
        training: the nearest training row.
        distance: between them.
        ratio: that distance over the mean distance to the next `NEXT` training patients; near 0 for a copy.
    """

    generated: int
    training: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class Memorisation:
    """How close generated rows are to training rows.

    Attributes:
        authentic: share of generated rows that are farther from the nearest training row than that is from the next
            training patient (AuthPct as a share), [0, 1].
        c_t: standard normal; strongly negative where generated rows are nearer to training than held-out ones are.
        nearer: share of generated rows nearer to training than 95 % of held-out rows; .05 if nothing was copied.
        copies: rows that are both nearer than 95 % of real rows and much nearer to one training row than to others.
        copied: share of generated rows among `copies`, [0, 1].
    """

    authentic: float
    c_t: float
    nearer: float
    copies: tuple[Copy, ...]
    copied: float


def manifold(real: FloatArray, generated: FloatArray, *, k: int = K) -> Manifold:
    """Return precision, recall, density and coverage; NaN where a side has no more than k rows.

    Args:
        real: (n, d).
        generated: (m, d).
        k: neighbour whose distance is the radius of a ball.

    Raises:
        ValueError: no rows, other columns, or values that are not finite.
    """
    check_rows(real, generated, fewest=1)
    if min(len(real), len(generated)) <= k:
        return Manifold(*[np.nan] * 4)
    across = cdist(real, generated)
    real_radius, generated_radius = _radii(real, k), _radii(generated, k)
    inside = across < real_radius[:, np.newaxis]
    return Manifold(
        precision=float(inside.any(axis=0).mean()),
        recall=float((across < generated_radius).any(axis=1).mean()),
        density=float(inside.sum(axis=0).mean() / k),
        coverage=float((across.min(axis=1) < real_radius).mean()),
    )


def memorisation(
    train: FloatArray,
    held_out: FloatArray,
    generated: FloatArray,
    *,
    subjects: Subjects = (None, None),
    seed: int = 0,
    most: int | None = None,
) -> Memorisation:
    """Compare how close generated and held-out rows are to training rows.

    A row that is close because all generated rows huddle in the middle is no copy: a copy is close to one training row
    and not to the others. What is close for both is taken from real rows: held-out ones, and training rows
    among those of the other training patients. Neighbours are patients, each as near as its nearest row: another
    session of the same patient would hide a copy, and make training rows look close.

    Args:
        train: (n, d), what the generator was fitted to; of three patients at least.
        held_out: (m, d), real rows that it never saw; one at least.
        generated: (g, d).
        subjects: of training and of held-out rows; None if each row is of another patient.
        seed: of the sessions of held-out patients that `c_t` takes, one each, mean over draws.
        most: generated rows, the first, that `authentic`, `c_t` and `nearer` are of; None for all. Copies are looked
            for among all.

    Raises:
        ValueError: fewer rows or patients, other columns, or values that are not finite.
    """
    check_rows(train, held_out, generated, fewest=1)
    owner, held_owner = owners(subjects[0], len(train)), owners(subjects[1], len(held_out))
    if patients(owner) < FEWEST_PATIENTS:
        raise ValueError(f"{patients(owner)} training patients, at least {FEWEST_PATIENTS} needed")
    among = nearest_of_each(cdist(train, train), owner)
    among[np.arange(len(train)), owner] = np.inf
    parts = []
    for start in range(0, len(generated), AT_ONCE):
        to_rows = cdist(generated[start : start + AT_ONCE], train)
        parts.append((to_rows.argmin(axis=1), *_nearest_and_ratio(nearest_of_each(to_rows, owner))))
    nearest, distance, ratio = map(np.concatenate, zip(*parts, strict=True))
    held_distance, held_ratio = _nearest_and_ratio(nearest_of_each(cdist(held_out, train), owner))
    own_distance, own_ratio = _nearest_and_ratio(among)
    random, several = np.random.default_rng([seed, 8]), patients(held_owner) < len(held_owner)
    sessions = [one_each(held_owner, random) for _ in range(SESSION_DRAWS if several else 1)]
    near = np.quantile(np.concatenate([held_distance, own_distance]), NEARER_THAN)
    alone = ALONE * np.quantile(np.concatenate([held_ratio, own_ratio]), NEARER_THAN)
    copied = (distance < near) & (ratio < alone) | (distance == 0)
    few = distance[:most]
    return Memorisation(
        authentic=float((few > own_distance[nearest[:most]]).mean()),
        c_t=float(np.mean([data_copying_score(few, held_distance[rows]) for rows in sessions])),
        nearer=float((few < np.quantile(held_distance, NEARER_THAN)).mean()),
        copies=tuple(
            Copy(int(row), int(nearest[row]), float(distance[row]), float(ratio[row]))
            for row in np.flatnonzero(copied)[np.argsort(ratio[copied], kind="stable")]
        ),
        copied=float(copied.mean()),
    )


def data_copying_score(generated: FloatArray, held_out: FloatArray) -> float:
    """Return the standardised Mann-Whitney statistic of distances to training; negative if generated are nearer.

    Args:
        generated: distance of each generated row from the nearest training row, (g,).
        held_out: the same of held-out rows, (m,).
    """
    g, m = len(generated), len(held_out)
    ranks = stats.rankdata(np.concatenate([generated, held_out]))
    _, ties = np.unique(ranks, return_counts=True)
    u = ranks[:g].sum() - g * (g + 1) / 2
    total = g + m
    spread = g * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((u - g * m / 2) / np.sqrt(spread)) if spread > 0 else 0.0


def _nearest_and_ratio(distances: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the distance to the nearest training row, and that over the mean of the next ones; distances (g, n)."""
    finite = int(np.isfinite(distances[0]).sum())
    ordered = np.sort(distances, axis=1)[:, : min(NEXT + 1, finite)]
    further = ordered[:, 1:].mean(axis=1)
    return ordered[:, 0], np.divide(ordered[:, 0], further, out=np.ones(len(ordered)), where=further > 0)


def _radii(rows: FloatArray, k: int) -> npt.NDArray[np.float64]:
    """Return the distance of each row from its k-th nearest other row."""
    among = cdist(rows, rows)
    return np.asarray(np.partition(among, k, axis=1)[:, k])
