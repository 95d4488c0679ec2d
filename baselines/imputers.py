"""Ways to fill the feature maps of missing modalities, so that Multi-CNN can take every observation.

An imputer is fitted on training observations and returns a filler. The filler fills an observation from its own feature
maps and from the training observations, never from other observations of validation or test.

Source: the comparison "impute, then classify" of HyperMM, section 3.1. The paper imputes with pix2pix and cycleGAN
(`TableImputer` takes their feature maps); the four imputers here that need no network of their own are additions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from baselines.cnn import MultiCNN, class_probabilities, count_parameters, require_two_classes, train_multi_cnn
from baselines.sample import CannotFit, Sample
from models.settings import Training

PENALTIES = (1e3, 1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3)
"""Ridge penalties to choose from, as multiples of the mean squared length of the centred source feature maps."""


class Filler(Protocol):
    """Fills the gaps of observations.

    Attributes:
        mask: whether the classifier gets a mask of the real feature maps.
        notes: sentences on what could not be learnt and what is done instead.
    """

    mask: bool
    notes: tuple[str, ...]

    def fill(self, grid: Tensor, modality_mask: Tensor, observations: Tensor) -> Tensor:
        """Fill missing feature maps; those present stay as they are.

        Args:
            grid: (n, M, C, H, W), float32, anything where a feature map is missing.
            modality_mask: (n, M), bool.
            observations: (n,), int64, the numbers of these observations in their sample.

        Returns:
            (n, M, C, H, W), float32.
        """
        ...


Imputer = Callable[[Tensor, Tensor], Filler]
"""Maps the grid (T, M, C, H, W) and the modality mask (T, M) of training observations to a filler."""


@dataclass
class ConstantFiller:
    """One feature map a modality, the same for everyone.

    Attributes:
        feature_maps: (M, C, H, W), float32.
        mask: as in `Filler`.
        notes: as in `Filler`.
    """

    feature_maps: Tensor
    mask: bool = False
    notes: tuple[str, ...] = ()

    def fill(self, grid: Tensor, modality_mask: Tensor, observations: Tensor) -> Tensor:
        """Fill missing feature maps, as `Filler.fill`."""
        return torch.where(_wide(modality_mask), grid, self.feature_maps)


def impute_zero(grid: Tensor, modality_mask: Tensor) -> ConstantFiller:
    """Fill with 0 and give the classifier the modality mask. Nothing is learnt."""
    return ConstantFiller(torch.zeros_like(grid[0]), mask=True)


def impute_mean(grid: Tensor, modality_mask: Tensor) -> ConstantFiller:
    """Fill with the mean of the training observations that have the modality; several scans count as one."""
    total = torch.where(_wide(modality_mask), grid, 0.0).sum(0)
    return ConstantFiller(total / modality_mask.sum(0).clamp_min(1).view(-1, 1, 1, 1))


@dataclass
class NearestFiller:
    """The feature map of the training observation that has it and is nearest in the modalities that both have.

    Distance is the mean squared difference over the shared feature maps. The mean feature map is taken where no
    training observation has both the missing modality and one that is present.

    Attributes:
        grid: training observations, (T, M, C, H, W), float32.
        modality_mask: (T, M), bool.
        mean: filler used otherwise.
        mask: as in `Filler`.
        notes: as in `Filler`.
    """

    grid: Tensor
    modality_mask: Tensor
    mean: ConstantFiller
    mask: bool = False
    notes: tuple[str, ...] = ()

    def fill(self, grid: Tensor, modality_mask: Tensor, observations: Tensor) -> Tensor:
        """Fill missing feature maps, as `Filler.fill`."""
        out = self.mean.fill(grid, modality_mask, observations)
        shared = torch.einsum(
            "nm,tm->nt", modality_mask.double(), self.modality_mask.double()
        )  # modalities that both have
        distance = self._squared_differences(grid, modality_mask) / shared  # (n, T), NaN where nothing is shared
        for m in range(modality_mask.shape[1]):
            usable = (shared > 0) & self.modality_mask[:, m]
            rows = (~modality_mask[:, m] & usable.any(1)).nonzero().squeeze(1)
            nearest = distance[rows].masked_fill(~usable[rows], torch.inf).argmin(1)
            out[rows, m] = self.grid[nearest, m]
        return out

    def _squared_differences(self, grid: Tensor, modality_mask: Tensor) -> Tensor:
        """Return the mean squared differences, summed over the modalities that both have, (n, T), float64."""
        total = torch.zeros(len(grid), len(self.grid), dtype=torch.float64, device=grid.device)
        for m in range(modality_mask.shape[1]):
            ours, theirs = grid[:, m].flatten(1).double(), self.grid[:, m].flatten(1).double()
            squares = ours.square().sum(1, keepdim=True) + theirs.square().sum(1) - 2 * ours @ theirs.T
            total += torch.where(
                modality_mask[:, m, None] & self.modality_mask[:, m], squares.clamp_min(0) / ours.shape[1], 0.0
            )
        return total


def impute_nearest(grid: Tensor, modality_mask: Tensor) -> NearestFiller:
    """Fit the nearest-neighbour filler, which keeps the training observations."""
    pairs = _pairs(modality_mask)
    notes = tuple(
        f"no training observation has both modality {s} and modality {m}: "
        f"where only modality {s} is available, modality {m} is filled with its mean feature map"
        for (s, m), rows in pairs.items()
        if len(rows) == 0
    )
    return NearestFiller(grid, modality_mask, impute_mean(grid, modality_mask), notes=notes)


@dataclass
class RidgeMap:
    """Ridge regression with an intercept from the feature map of one modality to that of another, in its dual form.

    Attributes:
        sources: centred source feature maps of the P pairs, (P, D), float64.
        source_mean: (D,), float64.
        target_mean: (D,), float64.
        dual: (K + λ I)⁻¹ of the centred target feature maps, (P, D), float64, with K the Gram matrix of `sources`.
        penalty: λ.
    """

    sources: Tensor
    source_mean: Tensor
    target_mean: Tensor
    dual: Tensor
    penalty: float

    def __call__(self, feature_maps: Tensor) -> Tensor:
        """Return target feature maps (n, D), float64, of source feature maps (n, D)."""
        return self.target_mean + (feature_maps.double() - self.source_mean) @ self.sources.T @ self.dual


@dataclass
class RidgeFiller:
    """A missing feature map as the mean of its ridge regressions from every modality that is present.

    Attributes:
        maps: (source modality, missing modality) to the regression, where it could be learnt.
        mean: filler used where none of them applies.
        mask: as in `Filler`.
        notes: as in `Filler`.
    """

    maps: dict[tuple[int, int], RidgeMap]
    mean: ConstantFiller
    mask: bool = False
    notes: tuple[str, ...] = ()

    def fill(self, grid: Tensor, modality_mask: Tensor, observations: Tensor) -> Tensor:
        """Fill missing feature maps, as `Filler.fill`."""
        out = self.mean.fill(grid, modality_mask, observations)
        total = torch.zeros_like(grid, dtype=torch.float64)
        count = torch.zeros_like(modality_mask, dtype=torch.int64)
        for (s, m), regression in self.maps.items():
            rows = (modality_mask[:, s] & ~modality_mask[:, m]).nonzero().squeeze(1)
            total[rows, m] += regression(grid[rows, s].flatten(1)).view(-1, *grid.shape[2:])
            count[rows, m] += 1
        return torch.where(_wide(count > 0), (total / _wide(count.clamp_min(1))).to(grid.dtype), out)


def impute_ridge(grid: Tensor, modality_mask: Tensor) -> RidgeFiller:
    """Fit a regression for every ordered pair of modalities that two or more training observations have."""
    maps, notes = {}, []
    for (s, m), rows in _pairs(modality_mask).items():
        if len(rows) < 2:
            notes.append(
                f"{len(rows)} training observations have both modality {s} and modality {m}, and a regression needs 2: "
                f"where only modality {s} is available, modality {m} is filled with its mean feature map"
            )
            continue
        maps[s, m] = fit_ridge(grid[rows, s].flatten(1), grid[rows, m].flatten(1))
    return RidgeFiller(maps, impute_mean(grid, modality_mask), notes=tuple(notes))


def fit_ridge(sources: Tensor, targets: Tensor) -> RidgeMap:
    """Minimise ‖Y − X W − 1 bᵀ‖² + λ ‖W‖², with λ of the smallest leave-one-out error among `PENALTIES`.

    One P×P eigendecomposition serves all penalties: with K = U S Uᵀ of the centred X, residuals are
    U λ/(S+λ) Uᵀ Y, and dividing row i by 1 − 1/P − Σ_j U_ij² S_j/(S_j+λ) makes them those of leaving i out, exactly.
    The largest penalty wins a tie. Feature maps have more numbers (25,088) than there are pairs, hence the dual form.

    Args:
        sources: X, (P, D), P >= 2.
        targets: Y, (P, D).
    """
    x, y = sources.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    eigenvalues, vectors = torch.linalg.eigh(x @ x.T)
    eigenvalues = eigenvalues.clamp_min(0)
    unit = max(float(eigenvalues.mean()), torch.finfo(torch.float64).tiny)
    rotated = vectors.T @ y
    outer = rotated @ rotated.T
    errors: list[float] = []
    for multiple in PENALTIES:
        left = multiple * unit / (eigenvalues + multiple * unit)  # (P,), share of Y that is not explained
        residual = vectors * left
        squares = torch.einsum("ij,jk,ik->i", residual, outer, residual)  # squared length of every row's residual
        kept = 1 - 1 / len(x) - (vectors.square() * (1 - left)).sum(1)
        errors.append(float((squares / kept.square()).sum()))
    best = next(i for i, error in enumerate(errors) if error <= min(errors) * (1 + 1e-9))
    penalty = PENALTIES[best] * unit
    return RidgeMap(x, x_mean, y_mean, vectors @ (rotated / (eigenvalues + penalty)[:, None]), penalty)


@dataclass
class TableImputer:
    """Feature maps that were imputed elsewhere, by pix2pix or cycleGAN; an imputer that is its own filler.

    Fitting needs every missing feature map of training and validation observations; a prediction those of all
    observations with a scan, so remove the scans of observations that need no prediction (`Sample.without`).

    Attributes:
        table: (observation, modality) to a feature map (C, H, W), standardised as the sample is. It may hold more
            than is needed; feature maps that are present are never replaced.
        mask: as in `Filler`.
        notes: as in `Filler`.
    """

    table: Mapping[tuple[int, int], Tensor]
    mask: bool = False
    notes: tuple[str, ...] = ()

    def __call__(self, grid: Tensor, modality_mask: Tensor) -> "TableImputer":
        """Return the imputer itself, as there is nothing to learn."""
        return self

    def fill(self, grid: Tensor, modality_mask: Tensor, observations: Tensor) -> Tensor:
        """Fill missing feature maps, as `Filler.fill`.

        Raises:
            CannotFit: a feature map that is needed is not in the table.
            ValueError: a feature map of the table has another shape than the sample's.
        """
        numbers = observations.tolist()
        needed = {(numbers[i], m): (i, m) for i, m in (~modality_mask).nonzero().tolist()}
        absent = [key for key in needed if key not in self.table]
        if absent:
            observation, modality = absent[0]
            raise CannotFit(
                f"{len(absent)} of {len(needed)} missing feature maps are not among the {len(self.table)} imputed ones "
                f"(the first: observation {observation}, modality {modality}); "
                "impute them, or leave these observations out"
            )
        out = grid.clone()
        for key, position in needed.items():
            feature_map = self.table[key]
            if feature_map.shape != grid.shape[2:]:
                raise ValueError(
                    f"observation {key[0]}, modality {key[1]}: feature map of shape {tuple(feature_map.shape)}; "
                    f"expected {tuple(grid.shape[2:])}"
                )
            out[position] = feature_map.to(out)
        return out


@dataclass
class ImputedCNN:
    """A filler and the Multi-CNN that was trained on what it fills.

    Attributes:
        filler: the filler, learnt from training observations.
        network: the Multi-CNN.
        parameters: trained numbers of the network.
        notes: what the filler could not learn.
    """

    filler: Filler
    network: MultiCNN
    parameters: int
    notes: tuple[str, ...]

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN only for an observation without any scan."""
        modality_mask = sample.modality_mask
        rows = modality_mask.any(1).nonzero().squeeze(1)
        filled = self.filler.fill(sample.grid()[rows], modality_mask[rows], rows)
        out = torch.full((len(modality_mask), sample.classes), torch.nan, dtype=torch.float64, device=filled.device)
        out[rows] = class_probabilities(self.network, filled, modality_mask[rows])
        return out


def fit_imputed(sample: Sample, training: Training, imputer: Imputer) -> ImputedCNN:
    """Fill what is missing, then train a Multi-CNN on all training observations.

    Several scans of one modality are averaged first; real feature maps are never replaced. The imputer is fitted on
    training observations only.

    Args:
        sample: standardised.
        training: settings of the fit loop.
        imputer: one of `IMPUTERS`, or a `TableImputer`.

    Raises:
        CannotFit: a modality has no training scan, training observations have one class only, a feature map that is
            needed was not imputed, or the loss diverged.
    """
    grid, modality_mask = sample.grid(), sample.modality_mask
    train, validation = (rows[modality_mask[rows].any(1)] for rows in (sample.train, sample.validation))
    unseen = (~modality_mask[train].any(0)).nonzero().squeeze(1).tolist()
    if unseen:
        raise CannotFit(f"modality {unseen[0]} has no training scan, so it cannot be filled; leave that modality out")
    require_two_classes(sample.target[train], "training observations")
    filler = imputer(grid[train], modality_mask[train])
    read = torch.cat([train, validation])
    grid[read] = filler.fill(grid[read], modality_mask[read], read)
    network = train_multi_cnn(sample, training, grid=grid, train=train, validation=validation, mask=filler.mask)
    return ImputedCNN(filler, network, count_parameters(network), filler.notes)


IMPUTERS: dict[str, Imputer] = {
    "zero": impute_zero, "mean": impute_mean, "nearest": impute_nearest, "ridge": impute_ridge,
}  # fmt: skip
"""Imputers that need nothing from elsewhere."""


def _wide(values: Tensor) -> Tensor:
    """Reshape (n, M) to (n, M, 1, 1, 1)."""
    return values[:, :, None, None, None]


def _pairs(modality_mask: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return, for every ordered pair of modalities, the observations that have both."""
    count = modality_mask.shape[1]
    return {
        (s, m): (modality_mask[:, s] & modality_mask[:, m]).nonzero().squeeze(1)
        for s in range(count)
        for m in range(count)
        if s != m
    }
