"""Everything that is asked of generated rows, in one record, and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from evaluation.generated.distributions import (
    FloatArray,
    FrechetDistance,
    KernelDistance,
    Subjects,
    check_rows,
    frechet_with_null,
    kernel_test,
    variance_ratio,
)
from evaluation.generated.likelihood import FeatureLikelihood, feature_likelihood
from evaluation.generated.neighbours import Manifold, Memorisation, manifold, memorisation
from evaluation.generated.patients import IntArray, one_each, owners, patients
from evaluation.generated.usefulness import Probe, real_or_generated

FEWEST = 6  # patients on either side
MOST_COPIED = 0.05  # share of generated rows that may pass for copies; honest ones reach .005, narrow ones .03
NEAR = -3.0  # C_T, standard normal: generated rows are nearer to training than held-out ones are
SIGNIFICANT = 0.01  # of the kernel distance
NARROW, WIDE = 0.85, 1.2  # variance ratios that an interval has to lie beyond
MANIFOLD_DRAWS = 20  # subsets of generated rows


@dataclass(frozen=True)
class Judgement:
    """What was found in one space of features, scaled by the training rows.

    Attributes:
        train: real rows that the generator was fitted to.
        held_out: real rows that it never saw.
        generated: rows judged, each a patient.
        searched: rows that copies were looked for among.
        train_patients: patients whose rows those of training are.
        held_out_patients: likewise.
        kernel: distance of generated from held-out rows. What the generator learnt from may itself be off by chance:
            compare it with the next.
        kernel_of_training: distance of training from held-out rows.
        frechet_train: distance to training rows, with null; copying makes it small.
        frechet_held_out: distance to held-out rows, with null.
        manifold: how as many generated rows as there are training rows lie among the held-out ones; mean over subsets.
        manifold_of_training: how the training rows lie among the held-out ones: what can be expected.
        memorisation: closeness to training rows.
        likelihood: of training and held-out rows around generated ones, and the gap; copying makes it large.
        variance: total variance over that of training rows; ratio, low, high.
        probe: whether a linear classifier tells generated from held-out rows.
    """

    train: int
    held_out: int
    generated: int
    searched: int
    train_patients: int
    held_out_patients: int
    kernel: KernelDistance
    kernel_of_training: KernelDistance
    frechet_train: FrechetDistance
    frechet_held_out: FrechetDistance
    manifold: Manifold
    manifold_of_training: Manifold
    memorisation: Memorisation
    likelihood: FeatureLikelihood
    variance: tuple[float, float, float]
    probe: Probe

    def copies_too_much(self, most: float = MOST_COPIED) -> bool:
        """Return whether more generated rows than allowed are copies of training rows."""
        return self.memorisation.copied > most

    def findings(self, most_copied: float = MOST_COPIED) -> tuple[str, ...]:
        """Return what is wrong: `copies`, `near`, `narrow`, `wide`, `different`; empty if nothing was found."""
        _, low, high = self.variance
        found = {
            "copies": self.copies_too_much(most_copied),
            "near": self.memorisation.c_t < NEAR,
            "narrow": high < NARROW,
            "wide": low > WIDE,
            "different": self.kernel.p < SIGNIFICANT,
        }
        return tuple(name for name, holds in found.items() if holds)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as plain values for JSON."""
        return asdict(self)


def judge(
    train: FloatArray,
    held_out: FloatArray,
    generated: FloatArray,
    *,
    subjects: Subjects = (None, None),
    by_column: bool = True,
    seed: int = 0,
    most: int | None = None,
) -> Judgement:
    """Judge generated rows against real ones.

    Rows are centred and scaled by the training rows first. Real patients may have several rows; what is permuted, drawn
    or counted as a neighbour are patients. A generated row is a patient of its own.

    Args:
        train: (n, d), what the generator was fitted to.
        held_out: (m, d), real rows that it never saw, of other patients.
        generated: (g, d).
        subjects: of training and of held-out rows; None if each row is of another patient.
        by_column: scale every column to unit variance, so that none counts more than others (but for those that are
            the same in all training rows); otherwise all by one number, as is right for coordinates of one space.
        seed: of permutations and draws.
        most: generated rows, the first, that are judged; None for all. Copies are looked for among all.

    Raises:
        ValueError: fewer than `FEWEST` patients of a kind, other columns, or values that are not finite.
    """
    check_rows(train, held_out, generated, fewest=FEWEST)
    owner, held_owner = owners(subjects[0], len(train)), owners(subjects[1], len(held_out))
    if (fewest := min(patients(owner), patients(held_owner))) < FEWEST:
        raise ValueError(f"rows of {fewest} patients, at least {FEWEST} patients needed")
    train, held_out, every = _scaled(train, held_out, generated, by_column)
    generated = every[:most]
    generated_like, training_like = _manifolds(train, held_out, generated, owner, held_owner, seed)
    return Judgement(
        train=len(train),
        held_out=len(held_out),
        generated=len(generated),
        searched=len(every),
        train_patients=patients(owner),
        held_out_patients=patients(held_owner),
        kernel=kernel_test(held_out, generated, subjects=(subjects[1], None), seed=seed),
        kernel_of_training=kernel_test(held_out, train, subjects=(subjects[1], subjects[0]), seed=seed),
        frechet_train=frechet_with_null(train, generated, subjects=subjects[0], seed=seed),
        frechet_held_out=frechet_with_null(held_out, generated, subjects=subjects[1], seed=seed),
        manifold=generated_like,
        manifold_of_training=training_like,
        memorisation=memorisation(train, held_out, every, subjects=subjects, seed=seed, most=most),
        likelihood=feature_likelihood(train, held_out, generated, subjects=subjects, seed=seed),
        variance=variance_ratio(train, generated, subjects=subjects[0], seed=seed),
        probe=real_or_generated(held_out, generated, subjects=subjects[1], seed=seed),
    )


def only_closeness(
    train: FloatArray,
    held_out: FloatArray,
    generated: FloatArray,
    *,
    subjects: Subjects = (None, None),
    by_column: bool = True,
    seed: int = 0,
) -> Memorisation:
    """Return what `judge` finds of closeness to training rows; fewer patients are enough for that.

    Args:
        train: as for `judge`, of three patients at least.
        held_out: likewise, one row at least.
        generated: likewise.
        subjects: as for `judge`.
        by_column: likewise.
        seed: of draws.

    Raises:
        ValueError: fewer rows or patients, other columns, or values that are not finite.
    """
    check_rows(train, held_out, generated, fewest=1)
    rows = _scaled(train, held_out, generated, by_column)
    return memorisation(*rows, subjects=subjects, seed=seed)


def _scaled(
    train: FloatArray, held_out: FloatArray, generated: FloatArray, by_column: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return rows centred and scaled by the training rows."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    if not by_column:
        spread = np.full_like(spread, np.sqrt((spread**2).mean()))
    spread = np.where(spread > 1e-6 * max(float(spread.max()), np.finfo(float).tiny), spread, 1.0)
    return (train - mean) / spread, (held_out - mean) / spread, (generated - mean) / spread


def _manifolds(
    train: FloatArray,
    held_out: FloatArray,
    generated: FloatArray,
    owner: IntArray,
    held_owner: IntArray,
    seed: int,
) -> tuple[Manifold, Manifold]:
    """Return how generated and training rows lie among held-out ones, mean over subsets of one row of each patient."""
    count, random = min(patients(owner), len(generated)), np.random.default_rng(seed)
    chosen = np.random.default_rng([seed, 9])
    made, own = [], []
    for _ in range(MANIFOLD_DRAWS):
        real = held_out[one_each(held_owner, chosen)]
        made.append(astuple(manifold(real, generated[random.permutation(len(generated))[:count]])))
        own.append(astuple(manifold(real, train[one_each(owner, chosen)][:count])))
    return Manifold(*np.mean(made, axis=0).tolist()), Manifold(*np.mean(own, axis=0).tolist())
