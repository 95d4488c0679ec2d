"""The permutation-invariant classifier ρ(aggregate_k φ(x_k, m_k)), step 2.

Source: HyperMM, section 2.3, equations 1 and 2; Zaheer et al. 2017.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.settings import Aggregate

OnnxNode = tuple[str, list[str], str, dict[str, int]]  # operation, names of inputs, name of the output, attributes


class Pooling(nn.Module):
    """An aggregate over the scans of each set; one with weights of its own makes them from D."""

    def forward(self, features: Tensor, sets: Tensor, count: int) -> Tensor:
        """Combine the features of each set's members; the order of members has no influence.

        Args:
            features: (N, D), one row a scan.
            sets: (N,) int64 in [0, count): the set that each scan belongs to. Every set has at least one scan.
            count: number of sets B.

        Returns:
            (B, D).
        """
        raise NotImplementedError

    def onnx(self) -> tuple[list[OnnxNode], dict[str, Tensor]]:
        """Return the nodes from "features" (N, D), all of one set, to "rho_0" (1, D), and the tensors they read.

        The tensor "scans" is there already: [0], the axis of scans.
        """
        raise NotImplementedError


class Reduction(Pooling):
    """An aggregate without weights: a reduction of `scatter_reduce`, and the ONNX operation that does the same."""

    def __init__(self, reduce: str, operation: str) -> None:
        super().__init__()
        self.reduce, self.operation = reduce, operation

    def forward(self, features: Tensor, sets: Tensor, count: int) -> Tensor:
        """As `Pooling.forward`."""
        out = features.new_zeros(count, features.shape[1])
        index = sets.unsqueeze(1).expand_as(features)
        return out.scatter_reduce(0, index, features, reduce=self.reduce, include_self=False)

    def onnx(self) -> tuple[list[OnnxNode], dict[str, Tensor]]:
        """As `Pooling.onnx`."""
        return [(self.operation, ["features", "scans"], "rho_0", {"keepdims": 1})], {}


AGGREGATES: dict[Aggregate, Callable[[int], Pooling]] = {
    "mean": lambda features: Reduction("mean", "ReduceMean"),
    "sum": lambda features: Reduction("sum", "ReduceSum"),
    "max": lambda features: Reduction("amax", "ReduceMax"),
}
"""Name, as in `models.settings.Aggregate` → from D, the numbers of one scan's φ, to the aggregate.

The sum is the paper's equation 1, the mean is what the authors' code takes.
"""


class SetClassifier(nn.Module):
    """ρ: linear layers with ReLU between, on the aggregate of a set's features; three as published.

    The last layer starts at zero, so that training starts from equal probabilities and not from a random function,
    which with few patients stays visible in the predictions to the end (docs/decisions/0005).

    Args:
        features: D, numbers in one scan's φ (C·H·W).
        classes: K.
        hidden: widths of the hidden layers; two as published, none makes ρ linear.
        dropout: share of hidden units dropped in training.
        how: how the set is aggregated.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        hidden: tuple[int, ...] = (512, 128),
        dropout: float = 0.0,
        how: Aggregate = "mean",
    ) -> None:
        super().__init__()
        self.pooling = AGGREGATES[how](features)
        self.classes = classes
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise((features, *hidden)):
            layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(dropout)]
        last = nn.Linear((features, *hidden)[-1], classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.rho = nn.Sequential(*layers, last)

    def forward(self, features: Tensor, sets: Tensor, count: int) -> Tensor:
        """Return logits of sets.

        Args:
            features: φ of every scan of every set, (N, D).
            sets: (N,) int64, which set each scan belongs to.
            count: number of sets B.

        Returns:
            (B, K).
        """
        return self.rho(self.pooling(features, sets, count))


def drop_members(sets: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Drop scans at random, never the last of a set (`modality_dropout`); return which stay.

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
