"""ShaSpec: shared and modality-specific features; the shared features replace those of a missing modality.

Source: Wang et al., CVPR 2023, "Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling",
and the authors' code (github.com/billhhh/ShaSpec), which is for segmentation; here for classes, on feature maps.
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.cnn import count_parameters, run_fit
from baselines.sample import CannotFit, Fitted, Sample
from baselines.subsets import FittedOnSubsets
from models.settings import Training


class ShaSpec(nn.Module):
    """One shared encoder, one specific encoder a modality, residual fusion, and a classifier on all fused features.

    An encoder is 1×1 convolution → leaky ReLU → linear layer, instead of the published ResNet-50: feature maps are
    features already. The linear layer sees every position, where the published domain classifier sees a mean over
    positions. The task's classifier starts at zero (docs/decisions/0005).

    Args:
        modalities: M.
        feature_map_shape: (C, H, W).
        classes: K.
        features: D, width of shared, specific and fused features.
        narrow: channels between the 1×1 convolution and the linear layer.
    """

    def __init__(
        self,
        modalities: int,
        feature_map_shape: tuple[int, int, int],
        classes: int,
        *,
        features: int = 64,
        narrow: int = 32,
    ) -> None:
        super().__init__()

        def encoder() -> nn.Module:
            channels, height, width = feature_map_shape
            return nn.Sequential(
                nn.Conv2d(channels, narrow, 1), nn.LeakyReLU(), nn.Flatten(),
                nn.Linear(narrow * height * width, features),
            )  # fmt: skip

        self.shared = encoder()
        self.specific = nn.ModuleList(encoder() for _ in range(modalities))
        self.project = nn.Linear(2 * features, features)
        self.domain = nn.Linear(features, modalities)
        self.classifier = nn.Linear(modalities * features, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.features = features

    def forward(self, grid: Tensor, modality_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run one forward pass.

        Args:
            grid: one feature map an observation and modality, (B, M, C, H, W).
            modality_mask: (B, M), bool; every row has at least one.

        Returns:
            Logits (B, K), shared features r (B, M, D) and specific features s (B, M, D), 0 where there is no scan.
        """
        r, s = (grid.new_zeros(*modality_mask.shape, self.features) for _ in range(2))
        r[modality_mask] = self.shared(grid[modality_mask])
        for m, encoder in enumerate(self.specific):
            rows = modality_mask[:, m].nonzero().squeeze(1)
            s[rows, m] = encoder(grid[rows, m])
        return self.classifier(self.fuse(r, s, modality_mask).flatten(1)), r, s  # (B, M, D) → (B, M·D)

    def fuse(self, shared: Tensor, specific: Tensor, modality_mask: Tensor) -> Tensor:
        """Return r + proj([r, s]) for a present modality and the mean r of the others for a missing one; (B, M, D)."""
        present = modality_mask.unsqueeze(2)
        fused = shared + self.project(torch.cat([shared, specific], dim=2))
        stand_in = (shared * present).sum(1, keepdim=True) / present.sum(1, keepdim=True)
        return torch.where(present, fused, stand_in)


def alignment(shared: Tensor, modality_mask: Tensor) -> Tensor:
    """Measure how far apart the shared features of an observation's modalities are.

    The mean absolute difference, which the authors' code uses (squares and KL divergence are commented out in it), here
    averaged over all pairs of present modalities. The code adds up neighbours in a ring of four, hidden ones
    included.

    Args:
        shared: r, (B, M, D).
        modality_mask: (B, M), bool.

    Returns:
        (B,); 0 for an observation without a pair.
    """
    total, pairs = shared.new_zeros(len(shared)), shared.new_zeros(len(shared))
    for i, j in combinations(range(modality_mask.shape[1]), 2):
        both = modality_mask[:, i] & modality_mask[:, j]
        total = total + both * (shared[:, i] - shared[:, j]).abs().mean(1)
        pairs = pairs + both
    return total / pairs.clamp_min(1)


def hide_some(modality_mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Hide a random number of modalities, every number from none to all but one equally likely.

    Args:
        modality_mask: (B, M), bool; every row has at least one.
        share: probability that this happens to an observation, in [0, 1].
        generator: source of the randomness, on the CPU.

    Returns:
        The modalities that stay visible, (B, M), bool; at least one per row.

    Source: `mode="random"` in the authors' code.
    """
    count = modality_mask.sum(1, keepdim=True)
    untouched = torch.rand(len(modality_mask), 1, generator=generator).to(modality_mask.device) >= share
    kept = (
        1 + (torch.rand(len(modality_mask), 1, generator=generator).to(modality_mask.device) * count).long()
    )  # 1 to n
    draw = torch.rand(modality_mask.shape, generator=generator).to(modality_mask.device)
    rank = draw.masked_fill(~modality_mask, -1.0).argsort(1, descending=True).argsort(1)
    return modality_mask & (untouched | (rank < kept))


def fit_shaspec(
    sample: Sample,
    training: Training,
    *,
    features: int = 64,
    narrow: int = 32,
    alpha: float = 0.1,
    beta: float = 0.02,
    hide: float = 0.5,
) -> Fitted:
    """Train on observations with any subset of modalities.

    The loss is `ce + alpha · alignment + beta · domain`: cross-entropy of the classes, L1 distance of shared features,
    and cross-entropy of telling the modality from the specific features of a scan, averaged over an observation's
    scans. Both weights are those of the authors' code.

    Deviations from the published code: only modalities that are seen enter the two auxiliary losses (in the code,
    hidden ones are encoded as images of zeros and enter too); the stand-in is the mean of the shared features, as in
    the paper (the code takes the first modality's); the run with all modalities and the later one with random ones are
    a single run in which modalities are hidden from half of the visits. Nothing is hidden in validation.

    Args:
        sample: standardised feature maps.
        training: settings of the fit loop.
        features: D, width of all feature vectors.
        narrow: channels of an encoder after its 1×1 convolution.
        alpha: weight of the alignment of shared features.
        beta: weight of the domain classification of specific features.
        hide: probability that a training visit hides a random number of modalities, in [0, 1].

    Raises:
        CannotFit: no training observation has a scan.
    """
    learnt = sample.modality_mask[sample.train].any(0)
    grid, modality_mask = sample.grid(), sample.modality_mask & learnt
    train, validation = (items[modality_mask[items].any(1)] for items in (sample.train, sample.validation))
    if len(train) == 0:
        raise CannotFit(f"none of the {len(sample.train)} training observations has a scan; ShaSpec needs some")
    torch.manual_seed(training.seed)
    channels, height, width = sample.feature_maps.shape[1:]
    network = ShaSpec(sample.modalities, (channels, height, width), sample.classes, features=features, narrow=narrow)
    network.to(grid.device)
    generator = torch.Generator().manual_seed(training.seed)

    def loss(batch: Tensor, is_training: bool) -> dict[str, Tensor]:
        seen = hide_some(modality_mask[batch], hide, generator) if is_training else modality_mask[batch]
        logits, r, s = network(grid[batch], seen)
        row, modality = seen.nonzero(as_tuple=True)
        domain = F.cross_entropy(network.domain(s[row, modality]), modality, reduction="none") / seen.sum(1)[row]
        return {
            "ce": F.cross_entropy(logits, sample.target[batch]),
            "alignment": alpha * alignment(r, seen).mean(),
            "domain": beta * domain.sum() / len(batch),
        }

    history = run_fit(network, loss, train=train, validation=validation, training=training)
    return FittedOnSubsets(
        network, lambda grid, modality_mask: network(grid, modality_mask)[0], learnt, history, count_parameters(network)
    )
