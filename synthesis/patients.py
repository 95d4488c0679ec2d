"""Draw patients that never were: class, which scans there are, covariates, features and images.

The class is drawn by its share in training. Which scans there are is drawn from the patterns of training patients of
that class. Everything else comes from one Gaussian of all scores, so that what belongs together is drawn together;
parameters are drawn from their posterior, and what lies outside of a basis is added back: of the class's mean, and as
noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import FloatArray
from models.joint.model import COVARIATE, Features, JointModel

FEWEST = 5  # patients of a class whose mean may be shown
AT_ONCE = 20  # patients drawn with the same parameters


@dataclass(frozen=True)
class Drawn:
    """Patients that never were.

    Attributes:
        classes: index of the class, (n,).
        has: modality → who has it, (n,) bool.
        scores: (n, d), of all blocks.
        covariates: name → standardised numbers, (n, k).
    """

    classes: NDArray[np.int64]
    has: Mapping[str, NDArray[np.bool_]]
    scores: FloatArray
    covariates: Mapping[str, FloatArray]

    def features(
        self,
        model: JointModel,
        block: str,
        members: NDArray[np.int64],
        random: np.random.Generator,
        *,
        offsets: Features | None = None,
    ) -> Features:
        """Return what the scores of some patients stand for in one block, with a drawn residual, (m, D) float32.

        Args:
            model: that the scores are of.
            block: name.
            members: patients, (m,).
            random: source of residuals.
            offsets: what each class has outside of the basis, (K, D), of `class_offsets`; None for nothing.
        """
        basis = model.bases[block]
        made = basis.features(self.scores[members][:, model.blocks.slice_of(block)])
        if offsets is not None:
            made = made + offsets[self.classes[members]]
        return made + basis.draw_residuals(len(members), random)


def class_offsets(model: JointModel, block: str, features: Features, labels: NDArray[np.int64]) -> Features:
    """Return by how much the training mean of each class lies beside what the model gives it, (K, D) float32.

    A basis of a few components keeps what varies most, and the sign of a disease may not be in it. With this added, the
    mean of a class is that of training, by chance as much as by disease, as it is for whoever trains on real patients.
    A class of fewer than `FEWEST` patients has no offset: it would be too much like one of them.

    Args:
        model: fitted.
        block: name.
        features: of training patients, (n, D), rows of NaN where they lack it.
        labels: their classes, (n,).
    """
    basis, part = model.bases[block], model.blocks.slice_of(block)
    offsets = np.zeros((model.gaussian.classes, features.shape[1]), dtype=np.float32)
    means = model.class_means()[:, part]
    there = ~np.isnan(features[:, 0])
    for label in range(len(offsets)):
        rows = features[there & (labels == label)]
        if len(rows) >= FEWEST:
            offsets[label] = rows.mean(axis=0) - basis.features(means[[label]])[0]
    return offsets


def draw_patients(model: JointModel, count: int, modalities: tuple[str, ...], random: np.random.Generator) -> Drawn:
    """Draw patients from the joint model.

    Args:
        model: fitted to training patients.
        count: of patients.
        modalities: blocks that a patient has or lacks.
        random: source of chance.

    Raises:
        ValueError: no training patient has any of the modalities.
    """
    patterns = observed_patterns(model, modalities)
    if not patterns:
        raise ValueError(f"no training patient has any of {', '.join(modalities)}")
    keys = sorted(patterns)
    weights = np.array([patterns[key] for key in keys], dtype=np.float64)
    chosen = random.choice(len(keys), size=count, p=weights / weights.sum())  # class and pattern together
    classes = np.array([keys[i][0] for i in chosen], dtype=np.int64)
    has = np.array([keys[i][1] for i in chosen], dtype=bool)
    scores = np.empty((count, model.blocks.width))
    for start in range(0, count, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        empty = np.full((len(classes[some]), model.blocks.width), np.nan)
        scores[some] = model.draw_scores(empty, 1, random, classes[some])[0][0]
    covariates = {
        name.removeprefix(COVARIATE): scores[:, model.blocks.slice_of(name)]
        for name in model.blocks.names
        if name.startswith(COVARIATE)
    }
    return Drawn(classes, {name: has[:, i] for i, name in enumerate(modalities)}, scores, covariates)


def observed_patterns(model: JointModel, modalities: tuple[str, ...]) -> dict[tuple[int, tuple[bool, ...]], int]:
    """Return (class, which modalities there are) → training patients; those without any are left out."""
    names = model.blocks.names
    found: dict[tuple[int, tuple[bool, ...]], int] = {}
    for (label, pattern), cell in model.sums.cells.items():
        there = tuple(bool(pattern[names.index(name)]) for name in modalities)
        if any(there):
            found[label, there] = found.get((label, there), 0) + int(cell.count)
    return found
