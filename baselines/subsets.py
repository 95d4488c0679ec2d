"""A trained network that takes any subset of modalities as a grid with gaps: Multi-VAE and ShaSpec."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.sample import Sample
from models.fit import History

BATCH = 64  # observations a pass in prediction


@dataclass
class FittedOnSubsets:
    """A fitted network that takes any observation with a scan of a modality it has learnt.

    Attributes:
        network: with the weights of its best validation epoch.
        logits: maps a grid (b, M, C, H, W) and its modality mask (b, M), bool, to logits (b, K).
        learnt: modalities that training observations had, (M,), bool; scans of others are ignored.
        history: of the training.
        parameters: trained numbers, those that only training uses included.
    """

    network: nn.Module
    logits: Callable[[Tensor, Tensor], Tensor]
    learnt: Tensor
    history: History
    parameters: int

    @torch.no_grad()
    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN for an observation without a usable scan."""
        grid, modality_mask = sample.grid(), sample.modality_mask & self.learnt
        out = grid.new_full((len(modality_mask), sample.classes), torch.nan, dtype=torch.float64)
        for rows in modality_mask.any(1).nonzero().squeeze(1).split(BATCH):
            out[rows] = self.logits(grid[rows], modality_mask[rows]).double().softmax(1)
        return out
