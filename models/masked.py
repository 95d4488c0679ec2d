"""Masked-modality pretraining of φ: what would the scan that is hidden show? No class is needed.

One modality of each set is hidden, φ of the others is averaged, and a linear head a modality predicts the hidden one's
scores. So φ learns what modalities share, from sets that nobody has labelled, or that a model drew.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.extractor import UniversalExtractor
from models.fit import History, fit
from models.settings import Training


@dataclass(frozen=True)
class MaskedSets:
    """Sets with one scan a modality at most; B of them.

    Attributes:
        feature_maps: (B, M, C, H, W) float32; 0 where a scan is missing.
        has: (B, M) bool.
        scores: what is predicted of each scan, (B, M, k) float32; 0 where it is missing, and beyond a modality's own k.
        train: sets to learn from, (T,) int64.
        validation: sets that decide when to stop, (V,) int64.
    """

    feature_maps: Tensor
    has: Tensor
    scores: Tensor
    train: Tensor
    validation: Tensor


class MaskedNetwork(nn.Module):
    """φ, and a linear head for each modality.

    Args:
        extractor: φ.
        modalities: M.
        scores: k.
    """

    def __init__(self, extractor: UniversalExtractor, modalities: int, scores: int) -> None:
        super().__init__()
        self.extractor = extractor
        width = extractor.feature_map_shape[0]
        self.heads = nn.ModuleList(nn.Linear(width, scores) for _ in range(modalities))

    def codes(self, feature_maps: Tensor, visible: Tensor) -> Tensor:
        """Return the mean of φ over the visible scans and all positions, (B, C); 0 for a set without any."""
        owner, modality = visible.nonzero(as_tuple=True)
        phi = self.extractor(feature_maps[owner, modality], modality).mean(dim=(2, 3))
        total = phi.new_zeros(len(visible), phi.shape[1]).index_add(0, owner, phi)
        return total / visible.sum(dim=1, keepdim=True).clamp_min(1)

    def forward(self, feature_maps: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Return the predicted scores of the hidden modality (B,), (B, k)."""
        codes = self.codes(feature_maps, visible)
        every = torch.stack([head(codes) for head in self.heads], dim=1)
        return every[torch.arange(len(codes)), hidden]


def normalise(network: MaskedNetwork, sets: MaskedSets) -> None:
    """Fit what φ standardises its input with, to training sets; nothing else is learnt."""

    def batches() -> list[tuple[Tensor, Tensor]]:
        owner, modality = sets.has[sets.train].nonzero(as_tuple=True)
        return [(sets.feature_maps[sets.train[owner], modality], modality)]

    network.extractor.fit_normalisation(batches, "standardise")


def pretrain_masked(network: MaskedNetwork, sets: MaskedSets, training: Training) -> History:
    """Train φ and the heads in place; the epoch that is best on validation sets stays.

    Sets with fewer than two scans have nothing to hide. In validation the hidden modality is fixed for each set.

    Args:
        network: untrained.
        sets: training sets need no class and may be synthetic; validation sets are real.
        training: of the fit loop.

    Raises:
        ValueError: no training set has two scans.
        FloatingPointError: the loss is no longer a finite number.
    """
    enough = sets.has.sum(dim=1) >= 2
    normalise(network, sets)
    draws = torch.Generator().manual_seed(training.seed)

    def loss(items: Tensor, learning: bool) -> dict[str, Tensor]:
        has = sets.has[items]
        if learning:
            hidden = torch.multinomial(has.float(), 1, generator=draws).squeeze(1)
        else:
            place = (items % has.sum(dim=1)).long()
            hidden = (has.long().cumsum(dim=1) == place[:, None] + 1).long().argmax(dim=1)
        rows = torch.arange(len(items))
        visible = has.clone()
        visible[rows, hidden] = False
        predicted = network(sets.feature_maps[items], visible, hidden)
        return {"mse": F.mse_loss(predicted, sets.scores[items, hidden])}

    return fit(
        network, loss, train=sets.train[enough[sets.train]], validation=sets.validation[enough[sets.validation]],
        training=training,
    )  # fmt: skip
