"""Linear classifiers of feature maps: one a modality, averaged; and one linear function of the whole set.

They are the linear counterparts of Uni-CNN and HyperMM, and show how much of a result is due to the backbone alone. The
regression itself is `models.softmax_regression`.

Source: an addition to the paper's baselines.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from baselines.cnn import LateFusion, ScanScores, require_two_classes
from baselines.sample import CannotFit, Sample
from models.settings import Training
from models.softmax_regression import cross_entropies, inner_products, minimise, span

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
"""L2 penalties to choose from, for rows whose mean squared length is 1."""

PENALTY = 0.01
"""The one taken without validation rows; for 100 rows of length 1 it is scikit-learn's default, C = 1."""


@dataclass
class LinearSet:
    """f(S) = mean over the scans of S of w_m·z, plus b.

    Attributes:
        weights: (M, C·H·W, K), float32; 0 for a modality that is not in `modalities`.
        bias: (K,), float32.
        modalities: those with training scans; scans of others are left out of the mean.
        penalty: that was chosen.
        parameters: trained numbers.
    """

    weights: Tensor
    bias: Tensor
    modalities: tuple[int, ...]
    penalty: float
    parameters: int

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN for an observation without a scan of these modalities."""
        sums, scans = set_sums(sample, self.modalities)
        logits = torch.stack([sums[m] @ self.weights[m] for m in self.modalities]).sum(0).double()
        return (logits / scans.unsqueeze(1) + self.bias.double()).softmax(1)  # 0 / 0 is NaN


def fit_averaged_probes(sample: Sample, training: Training) -> LateFusion:
    """Fit a logistic regression on the single scans of every modality; the scores of those present are averaged.

    Each penalty is chosen on the validation scans of its modality.

    Args:
        sample: standardised.
        training: not used, as there are no epochs; all baselines have the same signature.

    Raises:
        CannotFit: no modality has training scans of two classes.
    """
    labels = sample.target[sample.observation]
    members: list[ScanScores] = []
    reasons: list[str] = []
    for m in range(sample.modalities):
        train, validation = (
            scans[sample.modality[scans] == m]
            for scans in (sample.scans_of(sample.train), sample.scans_of(sample.validation))
        )
        try:
            if len(train) == 0:
                raise CannotFit(f"modality {m} has no training scan")
            require_two_classes(labels[train], f"training scans of modality {m}")
        except CannotFit as reason:
            reasons.append(str(reason))
            continue
        weights, bias, _ = fit_softmax(
            (sample.feature_maps[train].flatten(1), labels[train]),
            (sample.feature_maps[validation].flatten(1), labels[validation]),
            classes=sample.classes,
        )
        members.append(ScanScores(_linear(weights, bias), (m,), weights.numel() + bias.numel()))
    if not members:
        raise CannotFit("no modality can be fitted: " + "; ".join(reasons))
    return LateFusion(tuple(members), sum(member.parameters for member in members))


def fit_linear_set(sample: Sample, training: Training) -> LinearSet:
    """Fit one linear function of sets with logistic loss; any subset of modalities can be used.

    f is linear in a row that has, for every modality, the sum of the set's feature maps divided by the number of all
    its scans. The inner product of two such rows is the mean over pairs of scans, one of each set, of their inner
    product if they are of one modality and 0 if not.

    Args:
        sample: standardised.
        training: not used, as there are no epochs; all baselines have the same signature.

    Raises:
        CannotFit: no training scan, or training observations of one class only.
    """
    modalities = tuple(sample.modality[sample.scans_of(sample.train)].unique().tolist())
    if not modalities:
        raise CannotFit("there is no training scan")
    sums, scans = set_sums(sample, modalities)
    train, validation = (rows[scans[rows] > 0] for rows in (sample.train, sample.validation))
    require_two_classes(sample.target[train], "training observations")
    train_rows, validation_rows = (
        torch.cat([sums[m][rows] for m in modalities], 1) / scans[rows].unsqueeze(1) for rows in (train, validation)
    )
    weights, bias, penalty = fit_softmax(
        (train_rows, sample.target[train]), (validation_rows, sample.target[validation]), classes=sample.classes
    )
    placed = weights.new_zeros(sample.modalities, sample.feature_maps[0].numel(), sample.classes)
    placed[list(modalities)] = weights.unflatten(0, (len(modalities), -1))
    return LinearSet(placed, bias, modalities, penalty, weights.numel() + bias.numel())


def set_sums(sample: Sample, modalities: tuple[int, ...]) -> tuple[dict[int, Tensor], Tensor]:
    """Sum every observation's feature maps by modality, (B, C·H·W), and count the scans summed, (B,)."""
    count = len(sample.target)
    sums: dict[int, Tensor] = {}
    scans = torch.zeros(count, dtype=torch.int64, device=sample.feature_maps.device)
    for m in modalities:
        of_modality = sample.modality == m
        rows = sample.feature_maps[of_modality].flatten(1)
        sums[m] = rows.new_zeros(count, rows.shape[1]).index_add_(0, sample.observation[of_modality], rows)
        scans += torch.bincount(sample.observation[of_modality], minlength=count)
    return sums, scans


def fit_softmax(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], *, classes: int
) -> tuple[Tensor, Tensor, float]:
    """Fit a multinomial logistic regression with an L2 term; its penalty is chosen on the validation rows.

    Minimises mean cross-entropy + ½ λ u ‖W‖² over W and b; b is free, and u is the mean squared length of the training
    rows, so that λ means the same for feature maps of any size. λ is the one of `PENALTIES` with the lowest log loss
    on the validation rows, the larger one in a tie; without such rows it is `PENALTY`.

    Args:
        train: rows (n, D), float32, and classes (n,), int64.
        validation: rows (v, D) and classes (v,); v >= 0.
        classes: K.

    Returns:
        W (D, K) and b (K,), float32, and λ.
    """
    (rows, labels), (held_rows, held_labels) = train, validation
    features, projection = span(inner_products(rows, rows))
    held_out = inner_products(held_rows, rows) @ projection
    inputs, wanted = features.cpu().numpy(), labels.cpu().numpy()
    held_inputs, held_wanted = held_out.cpu().numpy(), held_labels.cpu().numpy()
    solution = np.zeros((inputs.shape[1] + 1, classes))  # the last row is b
    best, chosen, penalty = np.inf, solution, PENALTY
    for candidate in PENALTIES if len(held_wanted) else (PENALTY,):
        solution = minimise(inputs, wanted, candidate, solution)
        loss = cross_entropies(held_inputs, held_wanted, solution).mean() if len(held_wanted) else 0.0
        if loss < best:
            best, chosen, penalty = loss, solution, candidate
    weights = torch.from_numpy(chosen).to(projection)
    return rows.T @ (projection @ weights[:-1]).to(rows), weights[-1].to(rows), penalty


def _linear(weights: Tensor, bias: Tensor) -> nn.Module:
    """Return a network that maps feature maps to logits."""
    layer = nn.Linear(*weights.shape).to(weights.device)
    with torch.no_grad():
        layer.weight.copy_(weights.T)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)
