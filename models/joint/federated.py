"""The joint model of several sites from one round of sums: what a site sums, how sums add up, and the model of them.

The basis is the public one, so that scores mean the same everywhere. A site shares, for each class and pattern of
blocks, count, Σ s and Σ s sᵀ; and for each modality the sums of what lies outside of the basis, Σ u and Σ u², which
give the mean and spread of feature maps. No row of a patient.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.joint.basis import SKETCH, Basis, public_components
from models.joint.blocks import Blocks, FloatArray, Pattern
from models.joint.embedding import shared_directions
from models.joint.gaussian import SPARE
from models.joint.model import COVARIATE, CannotJoinError, Features, JointModel, Patients
from models.joint.posterior import DRAWS, fit
from models.joint.sums import Cell, Sums, merge, sums_of

Shape = tuple[int, int, int]
CellKey = tuple[int, Pattern]
CHUNK = 64  # patients whose features are held in double precision at once


@dataclass(frozen=True)
class OutsideSums:
    """Of the features of a modality, what lies outside of the public basis, u = x − P x.

    Attributes:
        count: of patients with the modality.
        total: Σ u, (D,).
        squares: Σ u², (D,).
    """

    count: int
    total: FloatArray
    squares: FloatArray


@dataclass(frozen=True)
class Contribution:
    """What a site shares, or several together.

    Attributes:
        sums: of scores, for each class and pattern.
        outside: modality → sums outside of the basis; empty where feature maps are not shared.
    """

    sums: Sums
    outside: Mapping[str, OutsideSums] = field(default_factory=dict)


def blocks_of(modalities: Iterable[str], covariates: Mapping[str, int], *, channels: int, components: int) -> Blocks:
    """Return the layout that all sites share.

    Args:
        modalities: names, in an order that all sites share.
        covariates: name → numbers of its block.
        channels: C of a feature map.
        components: scores of a modality, at most C.
    """
    sizes = dict.fromkeys(modalities, min(components, channels))
    sizes |= {COVARIATE + name: size for name, size in covariates.items()}
    return Blocks(tuple(sizes), tuple(sizes.values()))


def scores_of(patients: Patients, blocks: Blocks, shape: Shape) -> FloatArray:
    """Return the public scores of patients, (n, d), in double precision; NaN where a block is missing."""
    rows = np.full((len(patients), blocks.width), np.nan)
    for name, values in patients.features.items():
        if name in blocks.names:
            part = blocks.slice_of(name)
            components = public_components(shape, part.stop - part.start).astype(np.float64)
            there = np.flatnonzero(patients.has(name))
            for some in _parts(there):
                rows[some, part] = values[some].astype(np.float64) @ components.T
    for name, numbers in patients.covariates.items():
        if COVARIATE + name in blocks.names:
            rows[:, blocks.slice_of(COVARIATE + name)] = numbers
    return rows


def outside_sums(values: Features, shape: Shape, count: int) -> OutsideSums:
    """Sum what lies outside of the public basis.

    Args:
        values: features of patients, (n, D), finite.
        shape: (C, H, W).
        count: components of the basis.
    """
    components = public_components(shape, count).astype(np.float64)
    total, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for some in _parts(np.arange(len(values))):
        x = values[some].astype(np.float64)
        left = x - (x @ components.T) @ components
        total += left.sum(axis=0)
        squares += (left**2).sum(axis=0)
    return OutsideSums(len(values), total, squares)


def small_cells(keys: Sequence[CellKey], subjects: Sequence[str], least: int) -> dict[CellKey, int]:
    """Return the cells with fewer patients than `least`, and how many they have.

    Args:
        keys: cell of each observation.
        subjects: the patient of each; several sessions of a patient count once.
        least: patients.
    """
    members: dict[CellKey, set[str]] = {}
    for key, subject in zip(keys, subjects, strict=True):
        members.setdefault(key, set()).add(subject)
    return {key: len(members[key]) for key in sorted(members) if len(members[key]) < least}


def contribution_of(
    patients: Patients, labels: NDArray[np.int64], blocks: Blocks, classes: int, shape: Shape, *, feature_maps: bool
) -> Contribution:
    """Sum patients of one site.

    Args:
        patients: of training, small cells left out before.
        labels: (n,), in [0, K).
        blocks: of `blocks_of`.
        classes: K.
        shape: (C, H, W) of a feature map.
        feature_maps: whether the sums outside of the basis are shared too.
    """
    sums = sums_of(scores_of(patients, blocks, shape), labels, blocks, classes)
    outside: dict[str, OutsideSums] = {}
    for name in patients.features if feature_maps else ():
        if name in blocks.names and (there := patients.has(name)).any():
            size = blocks.sizes[blocks.names.index(name)]
            outside[name] = outside_sums(patients.features[name][there], shape, size)
    return Contribution(sums, outside)


def add(contributions: Iterable[Contribution]) -> Contribution:
    """Add the contributions of different patients.

    Raises:
        ValueError: there is none; or blocks or classes differ.
    """
    every = list(contributions)
    if not every:
        raise ValueError("no contribution to add")
    sums, outside = every[0].sums, dict(every[0].outside)
    for more in every[1:]:
        sums = merge(sums, more.sums)
        for name, part in more.outside.items():
            old = outside.get(name, OutsideSums(0, np.zeros_like(part.total), np.zeros_like(part.squares)))
            outside[name] = OutsideSums(old.count + part.count, old.total + part.total, old.squares + part.squares)
    return Contribution(sums, outside)


def marginal(sums: Sums, names: Iterable[str]) -> Sums:
    """Return the sums of some blocks alone; patients without any of them are left out."""
    kept = [name in set(names) for name in sums.blocks.names]
    blocks = Blocks(
        tuple(itertools.compress(sums.blocks.names, kept)), tuple(itertools.compress(sums.blocks.sizes, kept))
    )
    out = Sums(blocks, sums.classes, {})
    for (label, pattern), cell in sums.cells.items():
        small = tuple(itertools.compress(pattern, kept))
        columns = sums.blocks.columns(pattern)
        places = np.flatnonzero(np.array(kept)[sums.blocks.owner[columns]])
        if any(small):
            part = Cell(cell.count, cell.total[places], cell.outer[np.ix_(places, places)])
            out = merge(out, Sums(blocks, sums.classes, {(label, small): part}))
    return out


def model_of(
    contribution: Contribution, modalities: Iterable[str], shape: Shape, *, factors: int, seed: int, draws: int = DRAWS
) -> JointModel:
    """Fit the joint model to added contributions.

    A block that too few patients have is left out and named in the notes.

    Args:
        contribution: of all sites.
        modalities: names of the blocks that are modalities.
        shape: (C, H, W) of a feature map.
        factors: directions of the embedding.
        seed: of the draws of parameters.
        draws: of the parameters.

    Raises:
        CannotJoinError: no modality is left.
    """
    sums, notes, kept = contribution.sums, [], []
    for name, patients in zip(sums.blocks.names, sums.with_block().T, strict=True):
        needed = max(SPARE + int((patients > 0).sum()), SPARE + 1)
        if patients.sum() >= needed:
            kept.append(name)
        else:
            notes.append(f"{name}: {patients.sum()} training patients of all sites have it, {needed} are needed")
    learnt = [name for name in modalities if name in kept]
    if not learnt:
        raise CannotJoinError(f"no modality can be learnt: {'; '.join(notes)}")
    sums = marginal(sums, kept)
    gaussian = fit(sums, draws=draws, seed=seed)
    size = dict(zip(sums.blocks.names, sums.blocks.sizes, strict=True))
    bases = {name: public_basis(shape, size[name], contribution.outside.get(name)) for name in learnt}
    is_modality = np.array([name in learnt for name in sums.blocks.names])
    if len(learnt) > 1 and not any(np.array(pattern)[is_modality].sum() > 1 for _, pattern in sums.cells):
        notes.append("no training patient has two modalities: links between them come through the class alone")
    embedding = shared_directions(gaussian.estimate, sums.blocks, factors)
    return JointModel(bases, gaussian, embedding, sums, (*notes, *gaussian.notes))


def public_basis(shape: Shape, count: int, outside: OutsideSums | None) -> Basis:
    """Return the public basis, with mean and spread of features outside of it; 0 where they are not shared.

    Draws of what lies outside have the right spread in each feature, but features do not go together: the directions
    that `models.joint.basis.fit_basis` takes from scans would be mixtures of patients.
    """
    components = public_components(shape, count)
    width = components.shape[1]
    offset, residual = np.zeros(width), np.zeros(width)
    if outside is not None:
        offset = outside.total / outside.count
        residual = np.sqrt(np.maximum(outside.squares / outside.count - offset**2, 0))
    drawn = np.random.default_rng(1).standard_normal((SKETCH, width))
    return Basis(
        np.zeros(width, dtype=np.float32),
        components,
        1.0,
        offset.astype(np.float32),
        residual.astype(np.float32),
        (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32),
        np.ones(width, dtype=np.float32),
    )


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
