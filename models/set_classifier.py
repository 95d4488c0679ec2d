"""The permutation-invariant classifier ρ(aggregate_k φ(x_k, m_k)), step 2.

Source: HyperMM, section 2.3, equations 1 and 2; Zaheer et al. 2017.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Aggregate = Literal["mean", "sum", "max"]


def aggregate(features: Tensor, sets: Tensor, count: int, how: Aggregate) -> Tensor:
    """Combine the features of each set's members; the order of members has no influence.

    Args:
        features: (N, D), one row a scan.
        sets: (N,) int64 in [0, count): the set that each scan belongs to. Every set has at least one scan.
        count: number of sets B.
        how: sum (equation 1), mean (the authors' code) or max.

    Returns:
        (B, D).
    """
    reduce = {"sum": "sum", "mean": "mean", "max": "amax"}[how]
    out = features.new_zeros(count, features.shape[1])
    index = sets.unsqueeze(1).expand_as(features)
    return out.scatter_reduce(0, index, features, reduce=reduce, include_self=False)


class SetClassifier(nn.Module):
    """ρ: three linear layers with ReLU between, on the aggregate of a set's features.

    Args:
        features: D, numbers in one scan's φ (C·H·W).
        classes: K.
        hidden: widths of the two hidden layers.
        dropout: share of hidden units dropped in training.
        how: how the set is aggregated.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        hidden: tuple[int, int] = (512, 128),
        dropout: float = 0.0,
        how: Aggregate = "mean",
    ) -> None:
        super().__init__()
        self.how: Aggregate = how
        first, second = hidden
        self.rho = nn.Sequential(
            nn.Linear(features, first),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(second, classes),
        )

    def forward(self, features: Tensor, sets: Tensor, count: int) -> Tensor:
        """Logits of sets.

        Args:
            features: φ of every scan of every set, (N, D).
            sets: (N,) int64, which set each scan belongs to.
            count: number of sets B.

        Returns:
            (B, K).
        """
        return self.rho(aggregate(features, sets, count, self.how))


def drop_members(sets: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Which scans stay when each is dropped at random, never the last of its set (`modality_dropout`).

    Args:
        sets: (N,) int64.
        probability: of dropping a scan, in [0, 1).
        generator: source of the randomness, on the CPU.

    Returns:
        (N,) bool.
    """
    draw = torch.rand(len(sets), generator=generator).to(sets.device)
    best = torch.full((int(sets.max()) + 1,), -1.0, device=sets.device).scatter_reduce(0, sets, draw, "amax")
    return (draw >= probability) | (draw == best[sets])
