"""Multi-VAE: one latent per observation, to which every available scan contributes, and a classifier on it.

Source: Wu and Goodman 2018, "Multimodal Generative Models for Scalable Weakly-Supervised Learning" (MVAE), and the
authors' code (github.com/mhw32/multimodal-vae-public). HyperMM compares with such a network "that we adapt for
classification", and does not say how.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.cnn import count_parameters, run_fit
from baselines.sample import CannotFit, Fitted, Sample
from baselines.subsets import FittedOnSubsets
from models.settings import Training


def product_of_experts(mu: Tensor, logvar: Tensor, present: Tensor, *, prior: bool = True) -> tuple[Tensor, Tensor]:
    """Return the normal distribution proportional to the product of some normal distributions.

    Its precision is the sum of theirs, its mean their mean weighted by precision. Precisions are added as logarithms,
    so that nothing overflows; the authors add 1e-8 to every variance instead.

    Args:
        mu: means, (N, M, L). Values of a missing expert have no influence, not even NaN.
        logvar: natural logarithms of the variances, (N, M, L).
        present: which experts a row has, (N, M), bool.
        prior: let the standard normal distribution be one more expert, as published.

    Returns:
        Mean and log-variance, both (N, L).

    Raises:
        ValueError: a row has no expert and there is no prior.

    Source: Wu and Goodman 2018, section "Approximating the joint posterior"; Cao and Fleet 2014.
    """
    if not prior and not present.any(1).all():
        row = int((~present.any(1)).nonzero()[0])
        raise ValueError(f"row {row} has no expert and the prior is off; give it one expert or switch the prior on")
    missing = ~present.unsqueeze(2)
    mu, log_precision = mu.masked_fill(missing, 0.0), (-logvar).masked_fill(missing, -torch.inf)
    if prior:  # N(0, 1): mean 0, log-precision 0
        mu, log_precision = F.pad(mu, (0, 0, 0, 1)), F.pad(log_precision, (0, 0, 0, 1))
    return (log_precision.softmax(1) * mu).sum(1), -log_precision.logsumexp(1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the KL divergence of N(mu, exp(logvar)) from the standard normal distribution, in nats, (N, L) → (N,)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def draw(mu: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    """Sample once from each N(mu, exp(logvar)), same shape; gradients flow through (Kingma and Welling 2014)."""
    return mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=generator).to(mu.device)


def elbo_terms(modality_mask: Tensor, extra: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the subsets of modalities whose bounds are learnt together: the sub-sampled training paradigm.

    These are all present modalities, each one alone, and `extra` random subsets of 2 to n - 1 of the n present, every
    size equally likely. A subset that would be the whole again is left out, so with two modalities none is random.

    Args:
        modality_mask: (B, M), bool; every row has at least one.
        extra: k, random subsets an observation with three modalities or more.
        generator: source of the randomness, on the CPU.

    Returns:
        Row of `modality_mask` that each subset is of, (T,), int64, and the subsets, (T, M), bool.

    Source: Wu and Goodman 2018, section "Sub-sampled training paradigm"; `sample_combinations` in the authors' code.
    """
    modalities, count = modality_mask.shape[1], modality_mask.sum(1)
    alone, several = (count > 1).nonzero().squeeze(1), (count > 2).nonzero().squeeze(1)
    owners, subsets = [torch.arange(len(modality_mask), device=modality_mask.device)], [modality_mask]
    for m in range(modalities):
        rows = alone[modality_mask[alone, m]]
        owners.append(rows)
        subsets.append((torch.arange(modalities, device=modality_mask.device) == m).expand(len(rows), -1))
    for _ in range(extra if len(several) else 0):
        size = (
            2 + (torch.rand(len(several), generator=generator).to(modality_mask.device) * (count[several] - 2)).long()
        )
        random = torch.rand(len(several), modalities, generator=generator).to(modality_mask.device)
        rank = random.masked_fill(~modality_mask[several], -1.0).argsort(1, descending=True).argsort(1)
        owners.append(several)
        subsets.append(rank < size.unsqueeze(1))
    return torch.cat(owners), torch.cat(subsets)


class MultiVae(nn.Module):
    """An encoder and a decoder a modality, and a linear classifier on the joint latent.

    The published encoders and decoders are convolutional networks on pictures; feature maps are features already, so
    one 1×1 convolution and one linear layer on either side do, with Swish between, as published. The label has no
    encoder: no observation brings it to the test. The classifier starts at zero (docs/decisions/0005).

    Args:
        modalities: M.
        feature_map_shape: (C, H, W).
        classes: K.
        latent: L.
        narrow: channels between the 1×1 convolution and the linear layer.
    """

    def __init__(
        self,
        modalities: int,
        feature_map_shape: tuple[int, int, int],
        classes: int,
        *,
        latent: int = 64,
        narrow: int = 32,
    ) -> None:
        super().__init__()
        channels, height, width = feature_map_shape
        numbers = narrow * height * width
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.SiLU(), nn.Flatten(), nn.Linear(numbers, 2 * latent))
            for _ in range(modalities)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(latent, numbers), nn.SiLU(), nn.Unflatten(1, (narrow, height, width)),
                nn.Conv2d(narrow, channels, 1),
            )
            for _ in range(modalities)
        )  # fmt: skip
        self.classifier = nn.Linear(latent, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.latent = latent

    def experts(self, grid: Tensor, modality_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distribution of the latent given each scan.

        Args:
            grid: one feature map an observation and modality, (B, M, C, H, W).
            modality_mask: (B, M), bool.

        Returns:
            Means and log-variances, both (B, M, L); 0 where there is no scan.
        """
        out = grid.new_zeros(*modality_mask.shape, 2 * self.latent)
        for m, encoder in enumerate(self.encoders):
            rows = modality_mask[:, m].nonzero().squeeze(1)
            out[rows, m] = encoder(grid[rows, m])
        mu, logvar = out.chunk(2, dim=2)
        return mu, logvar

    def forward(self, grid: Tensor, modality_mask: Tensor) -> Tensor:
        """Return logits (B, K) at the mean of the joint latent."""
        mu, _ = product_of_experts(*self.experts(grid, modality_mask), modality_mask)
        return self.classifier(mu)

    def rebuild_errors(self, latent: Tensor, grid: Tensor, owner: Tensor, subset: Tensor) -> Tensor:
        """Return the mean squared error of each rebuilt feature map, summed over the modalities of a subset.

        Args:
            latent: (T, L).
            grid: (B, M, C, H, W).
            owner: row of `grid` that each latent is of, (T,), int64.
            subset: modalities to rebuild, (T, M), bool.

        Returns:
            (T,).
        """
        errors = latent.new_zeros(len(latent))
        for m, decoder in enumerate(self.decoders):
            rows = subset[:, m].nonzero().squeeze(1)
            error = (decoder(latent[rows]) - grid[owner[rows], m]).square().mean((1, 2, 3))
            errors = errors.index_add(0, rows, error)
        return errors


def fit_multi_vae(
    sample: Sample,
    training: Training,
    *,
    latent: int = 64,
    narrow: int = 32,
    beta: float = 1.0,
    extra: int = 1,
) -> Fitted:
    """Train on observations with any subset of modalities.

    The loss of one subset is `mse + beta · 2/D · KL + ce`: D numbers in a feature map, mse a mean over numbers,
    summed over the modalities of the subset, KL in nats. With beta = 1, mse and KL together are 2/D times the
    negative evidence bound of normal feature maps of unit variance, which standardised feature maps have. The
    cross-entropy has weight 1 and so does not drown in D numbers; the authors weigh labels up too (by 10 against
    pictures of CelebA).

    Deviations from the paper: beta is constant, where the authors raise it from 0 to 1 over the first epochs, since
    early stopping compares losses of different epochs; the terms of an observation are averaged, not summed, so that
    observations with many scans do not weigh more; the label is never an input. The validation loss is that of all
    present modalities, at the mean of the latent, and so deterministic.

    Args:
        sample: standardised feature maps.
        training: settings of the fit loop.
        latent: L.
        narrow: channels of encoders and decoders after their 1×1 convolution.
        beta: weight of the KL divergence, 1 for the evidence bound.
        extra: k, random subsets a training visit.

    Raises:
        CannotFit: no training observation has a scan.
    """
    learnt = sample.modality_mask[sample.train].any(0)
    grid, modality_mask = sample.grid(), sample.modality_mask & learnt
    train, validation = (items[modality_mask[items].any(1)] for items in (sample.train, sample.validation))
    if len(train) == 0:
        raise CannotFit(f"none of the {len(sample.train)} training observations has a scan; Multi-VAE needs some")
    torch.manual_seed(training.seed)
    channels, height, width = sample.feature_maps.shape[1:]
    network = MultiVae(sample.modalities, (channels, height, width), sample.classes, latent=latent, narrow=narrow)
    network.to(grid.device)
    generator = torch.Generator().manual_seed(training.seed)
    kl_weight = beta * 2 / (channels * height * width)

    def loss(batch: Tensor, is_training: bool) -> dict[str, Tensor]:
        feature_maps, present = grid[batch], modality_mask[batch]
        owner, subset = torch.arange(len(batch), device=grid.device), present
        if is_training:
            owner, subset = elbo_terms(present, extra, generator)
        mu, logvar = network.experts(feature_maps, present)
        mu, logvar = product_of_experts(mu[owner], logvar[owner], subset)
        z = draw(mu, logvar, generator) if is_training else mu
        share = 1 / (owner.bincount()[owner] * len(batch))  # every observation counts once
        ce = F.cross_entropy(network.classifier(z), sample.target[batch][owner], reduction="none")
        return {
            "mse": (share * network.rebuild_errors(z, feature_maps, owner, subset)).sum(),
            "kl": kl_weight * (share * kl_divergence(mu, logvar)).sum(),
            "ce": (share * ce).sum(),
        }

    history = run_fit(network, loss, train=train, validation=validation, training=training)
    return FittedOnSubsets(network, network, learnt, history, count_parameters(network))
