"""The joint model for feature maps by modality, with covariates beside them.

Each modality has a basis of its own, learnt from training scans; several scans of one modality of a patient are
averaged first. A table member comes as a feature map too, and its basis has as few scores as it has columns. Covariates
are blocks of their own, as numbers that were standardised before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from models.joint.basis import MOST, Basis, Kind, NoVariationError, fit_basis
from models.joint.blocks import Blocks, FloatArray
from models.joint.embedding import Embedding, shared_directions
from models.joint.gaussian import SPARE, Conditional, JointGaussian, class_probabilities, condition
from models.joint.posterior import DRAWS, draw, fit
from models.joint.sums import Sums, sums_of

CHUNK = 256  # patients at a time
Features = NDArray[np.float32]
COVARIATE = "covariate "  # before the name of a covariate's block: a modality may have the same name


class CannotJoinError(ValueError):
    """There is nothing to learn a joint model from; the message says why."""


@dataclass(frozen=True)
class JointConfig:
    """Settings of the joint model.

    Attributes:
        basis: of a modality: pca of training scans, or public, learnt from nobody.
        components: scores of a modality at most.
        draws: of the parameters, kept with the model.
        factors: directions of the embedding.
        seed: of folds and draws.
    """

    basis: Kind = "pca"
    components: int = MOST
    draws: int = DRAWS
    factors: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Patients:
    """Patients as the joint model takes them.

    Attributes:
        features: modality → (n, D) float32, rows of NaN where it is missing.
        covariates: name → (n, k) float64, rows of NaN where it is missing.
    """

    features: Mapping[str, Features]
    covariates: Mapping[str, FloatArray]

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    def has(self, modality: str) -> NDArray[np.bool_]:
        """Return who has a modality, (n,); nobody has one that these patients' tables do not know."""
        values = self.features.get(modality)
        return np.zeros(len(self), dtype=bool) if values is None else ~np.isnan(values[:, 0])

    def rows(self, chosen: NDArray[np.int64]) -> "Patients":
        """Return some of the patients."""
        return Patients(
            {name: values[chosen] for name, values in self.features.items()},
            {name: values[chosen] for name, values in self.covariates.items()},
        )


@dataclass(frozen=True)
class JointModel:
    """The fitted model.

    Attributes:
        bases: modality → basis; modalities that could not be learnt are not in it.
        gaussian: of all scores.
        embedding: shared directions.
        sums: what the Gaussian was learnt from; with the patients of each class and pattern of blocks.
        notes: sentences on what could not be learnt and what is done instead.
    """

    bases: Mapping[str, Basis]
    gaussian: JointGaussian
    embedding: Embedding
    sums: Sums
    notes: tuple[str, ...] = ()

    @property
    def blocks(self) -> Blocks:
        """Layout of the scores."""
        return self.gaussian.blocks

    def on(self, device: torch.device | str) -> Self:
        """Return the model with its network, if it has one, on a device."""
        return self

    def draw_scores(
        self,
        rows: FloatArray,
        count: int,
        random: np.random.Generator,
        labels: NDArray[np.int64] | None = None,
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Draw the missing scores of patients (n, d), and their classes; as `models.joint.posterior.draw`."""
        return draw(self.gaussian, rows, count, random, labels)

    def condition(self, rows: FloatArray, labels: NDArray[np.int64] | None = None) -> Conditional:
        """Return mean and covariance of all scores given those that are there; as `models.joint.gaussian.condition`."""
        return condition(self.gaussian, rows, labels)

    def class_means(self) -> FloatArray:
        """Return the mean scores of each class, (K, d)."""
        return self.gaussian.estimate.mean

    def scores(self, patients: Patients) -> FloatArray:
        """Return the scores of patients, (n, d), NaN where a block is missing or was not learnt.

        Raises:
            ValueError: features of another width, part of them NaN, or infinite.
        """
        found: dict[str, FloatArray] = {}
        for name, basis in self.bases.items():
            values = patients.features.get(name)
            scores = np.full((len(patients), basis.size), np.nan)
            if values is not None and (there := ~np.isnan(values).all(axis=1)).any():
                scores[there] = basis.scores(values[there])
            found[name] = scores
        for name, numbers in patients.covariates.items():
            if COVARIATE + name in self.blocks.names:
                found[COVARIATE + name] = numbers
        return self.blocks.stack(found)

    def without_scans(self, rows: FloatArray) -> FloatArray:
        """Return scores (n, d) with those of every modality missing, so that only covariates are left."""
        bare = rows.copy()
        for name in self.bases:
            bare[:, self.blocks.slice_of(name)] = np.nan
        return bare

    def covariates_given(self, row: FloatArray) -> list[str]:
        """Return the covariates that a patient's scores (d,) hold."""
        return [
            name.removeprefix(COVARIATE)
            for name in self.blocks.names
            if name.startswith(COVARIATE) and not np.isnan(row[self.blocks.slice_of(name)]).any()
        ]

    def embed(self, patients: Patients) -> tuple[FloatArray, FloatArray]:
        """Return mean (n, r) and covariance (n, r, r) of the embeddings; classes are not used.

        For patients whom the model was learnt from use `embed_scores`, with the scores that `fit_model` returned.
        """
        return self.embed_scores(self.scores(patients))

    def embed_scores(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As `embed`, of scores (n, d), NaN where a block is missing."""
        parts = [self.embedding.of(self.condition(rows[i : i + CHUNK])) for i in range(0, len(rows), CHUNK)]
        return np.concatenate([mean for mean, _ in parts]), np.concatenate([spread for _, spread in parts])

    def distances(self, patients: Patients) -> FloatArray:
        """Return how far patients are from the nearest class of training, (n,); about 1 for patients like those.

        It is the root of the squared Mahalanobis distance per observed score; NaN without any score.
        """
        return self.distances_of_scores(self.scores(patients))

    def distances_of_scores(self, rows: FloatArray) -> FloatArray:
        """As `distances`, of scores (n, d), NaN where a block is missing."""
        estimate = self.gaussian.estimate
        out = np.full(len(rows), np.nan)
        for i, (row, pattern) in enumerate(zip(rows, self.blocks.patterns(rows), strict=True)):
            seen = self.blocks.columns(pattern)
            if len(seen):
                off = row[seen] - estimate.mean[:, seen]
                inner = np.linalg.solve(estimate.covariance[np.ix_(seen, seen)], off.T)
                out[i] = np.sqrt(np.einsum("kd,dk->k", off, inner).min() / len(seen))
        return out

    def impute(
        self, patients: Patients, modality: str, labels: NDArray[np.int64] | None = None
    ) -> tuple[Features, Features]:
        """Return mean and standard deviation of a modality's features, (n, D) each, for patients who lack it.

        Args:
            patients: whatever scans they have; a scan of this modality is used too, so hide it first.
            modality: to be imputed.
            labels: classes, if they may be used; never of patients who are to be tested.
        """
        return self.impute_scores(self.scores(patients), modality, labels)

    def impute_scores(
        self, rows: FloatArray, modality: str, labels: NDArray[np.int64] | None = None
    ) -> tuple[Features, Features]:
        """As `impute`, of scores (n, d), NaN where a block is missing."""
        basis, part = self.bases[modality], self.blocks.slice_of(modality)
        mean, variance = [], []
        for i in range(0, len(rows), CHUNK):
            found = self.condition(rows[i : i + CHUNK], None if labels is None else labels[i : i + CHUNK])
            mean.append(found.mean[:, part])
            variance += [basis.variance(each[part, part]) for each in found.covariance]
        return basis.features(np.concatenate(mean)), np.sqrt(np.stack(variance)).astype(np.float32)

    def draw(
        self,
        patients: Patients,
        count: int,
        random: np.random.Generator,
        labels: NDArray[np.int64] | None = None,
        *,
        modalities: tuple[str, ...] | None = None,
        scores: tuple[FloatArray, NDArray[np.int64]] | None = None,
    ) -> tuple[dict[str, Features], NDArray[np.int64]]:
        """Draw the features of modalities, with parameters and residuals drawn too.

        Args:
            patients: whatever scans they have.
            count: of draws, S.
            random: source of chance.
            labels: as in `impute`.
            modalities: those wanted; None for all that were learnt.
            scores: (S, n, d) and classes (S, n) drawn before, in place of a new draw.

        Returns:
            modality → (S, n, D), drawn for everybody, those who have it included (theirs are near their own scan: same
            scores, another residual); and the drawn classes, (S, n).
        """
        drawn, classes = scores or self.draw_scores(self.scores(patients), count, random, labels)
        made = {}
        for name in modalities or tuple(self.bases):
            basis = self.bases[name]
            flat = drawn[:, :, self.blocks.slice_of(name)].reshape(-1, basis.size)
            features = basis.features(flat) + basis.draw_residuals(len(flat), random)
            made[name] = features.reshape(*drawn.shape[:2], -1)
        return made, classes

    def class_probabilities(self, patients: Patients) -> FloatArray:
        """Return p(y | scans), (n, K), averaged over the posterior draws."""
        rows = self.scores(patients)
        every = self.gaussian.draws or (self.gaussian.estimate,)
        return np.mean([class_probabilities(self.gaussian, each, rows) for each in every], axis=0)


def fit_model(
    patients: Patients,
    labels: NDArray[np.int64],
    classes: int,
    config: JointConfig,
    *,
    shape: tuple[int, int, int] | None = None,
) -> tuple[JointModel, FloatArray]:
    """Fit the joint model to training patients, and to nobody else.

    A modality with too few training scans, or whose scans are all alike, is left out and named in the notes.

    Args:
        patients: of training.
        labels: their classes, (n,), in [0, K).
        classes: K.
        config: settings.
        shape: (C, H, W) of a feature map; needed for a public basis over positions.

    Returns:
        The model, and the scores (n, d) that it was learnt from: not those of `JointModel.scores`, which are too large
        for patients whom the bases were learnt from.

    Raises:
        CannotJoinError: no modality can be learnt.
        ValueError: part of a feature map is NaN, or a number is infinite.
    """
    bases: dict[str, Basis] = {}
    scores: dict[str, FloatArray] = {}
    notes: list[str] = []
    for name, values in patients.features.items():
        nan = np.isnan(values).mean(axis=1)
        for row in np.flatnonzero((nan > 0) & (nan < 1)).tolist():
            raise ValueError(f"patient in row {row}: part of {name} is NaN; expected all its features or none of them")
        there = np.flatnonzero(nan == 0)
        needed = max(SPARE + len(set(labels[there].tolist())), SPARE + 1)
        if len(there) < needed:
            notes.append(
                f"{name}: {len(there)} training patients have it, {needed} are needed; it is neither used nor imputed"
            )
            continue
        try:
            basis, made = fit_basis(
                values[there], kind=config.basis, shape=shape, most=config.components, seed=config.seed
            )
        except NoVariationError as error:
            notes.append(f"{name}: {error}; it is neither used nor imputed")
            continue
        bases[name] = basis
        scores[name] = np.full((len(patients), basis.size), np.nan)
        scores[name][there] = made
    if not bases:
        raise CannotJoinError(f"no modality can be learnt: {'; '.join(notes) or 'there is none'}")
    for name, numbers in patients.covariates.items():
        given = ~np.isnan(numbers[:, 0])
        needed = max(SPARE + len(set(labels[given].tolist())), SPARE + 1)
        if given.sum() < needed:
            notes.append(f"{name}: {given.sum()} training patients have it, {needed} are needed; it is not used")
        elif numbers.shape[1] == 0 or not (numbers[given].std(axis=0) > 0).all():
            notes.append(f"{name}: it is the same for all training patients; it is not used")
        else:
            scores[COVARIATE + name] = numbers
    blocks = Blocks(tuple(scores), tuple(values.shape[1] for values in scores.values()))
    rows = blocks.stack(scores)
    sums = sums_of(rows, labels, blocks, classes)
    gaussian = fit(sums, draws=config.draws, seed=config.seed)
    embedding = shared_directions(gaussian.estimate, blocks, config.factors)
    if len(bases) > 1 and not any(sum(pattern[: len(bases)]) > 1 for _, pattern in sums.cells):
        notes.append("no training patient has two modalities: links between them come through the class alone")
    return JointModel(bases, gaussian, embedding, sums, (*notes, *gaussian.notes)), rows
