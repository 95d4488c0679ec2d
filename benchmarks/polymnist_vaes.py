"""Four multimodal variational autoencoders on `baselines.vae`'s networks: MVAE, MoPoE, MVTCAE and MMVAE+.

They share encoders and decoders and differ in how experts are joined and in the bound. The loss is mse + 2 β / D · KL
as in `baselines.vae`: D numbers in a code, mse summed over modalities. No labels.

Source: Wu and Goodman 2018 (MVAE, with its sub-sampled training); Sutter et al. 2021 (MoPoE: a mixture over all
subsets' products; here one subset a tuple and step, which is the same in expectation); Hwang et al. 2021 (MVTCAE);
Palumbo et al. 2023 (MMVAE+: a shared and a private part, and private noise of its own for other modalities; here with
normal in place of Laplace distributions, one sample, and the divergence of the chosen expert, which bounds that of
the mixture).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.vae import MultiVae, draw, elbo_terms, kl_divergence, product_of_experts
from models.fit import fit
from models.settings import Training

Kind = Literal["MVAE", "MoPoE", "MVTCAE", "MMVAE+"]
KINDS: tuple[Kind, ...] = ("MVAE", "MoPoE", "MVTCAE", "MMVAE+")
BETA = dict.fromkeys(KINDS, 0.1)  # chosen beforehand, about what is left of the variance of a code; not tuned
LATENT, NARROW, PRIVATE = 64, 256, 32
ALPHA = 0.9  # of MVTCAE: the share of what experts say beside the joint
Codes = NDArray[np.float64]


@dataclass
class VaeDraws:
    """A fitted network as the benchmark takes it.

    Attributes:
        kind: of bound and of joining.
        network: of all modalities.
        centre: of the codes in training, (M · code,).
        spread: the same.
        private_scale: of the private noise for other modalities, (M, PRIVATE); MMVAE+ only.
    """

    kind: Kind
    network: MultiVae
    centre: Codes
    spread: Codes
    private_scale: Tensor | None

    @torch.inference_mode()
    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw codes (n, M · code) of all modalities, given those that are not NaN."""
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        modalities = len(self.network.encoders)
        numbers = torch.from_numpy((rows - self.centre) / self.spread).float().view(len(rows), modalities, -1, 1, 1)
        present = ~numbers[:, :, 0, 0, 0].isnan()
        mu, logvar = self.network.experts(numbers.nan_to_num(), present)
        latent = _latent(self.kind, mu, logvar, present, generator)
        made = torch.stack(
            [
                self.network.decoders[m](
                    _told(self.kind, latent, m, torch.full((len(rows),), -1), self.private_scale, generator)
                ).flatten(1)
                for m in range(modalities)
            ],
            dim=1,
        )
        return np.asarray(made.flatten(1).double().numpy() * self.spread + self.centre)


def _latent(kind: Kind, mu: Tensor, logvar: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the latent of each row, (n, L): from the prior where nothing is there."""
    if kind == "MVAE":
        return draw(*product_of_experts(mu, logvar, present), generator)
    some = present.any(1)
    out = torch.randn(len(mu), mu.shape[2], generator=generator)
    if kind == "MVTCAE":
        subset = present
    elif kind == "MoPoE":  # one of the subsets of what is there
        subset = random_subsets(present, generator)
    else:
        subset = one_of(present, generator)
    if some.any():
        joined = product_of_experts(mu[some], logvar[some], subset[some], prior=False)
        out[some] = draw(*joined, generator)
    return out


def _told(
    kind: Kind, latent: Tensor, modality: int, source: Tensor, scale: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Return what a decoder is told (n, L): MMVAE+ has private noise in place of another modality's private part."""
    if kind != "MMVAE+" or scale is None:
        return latent
    noise = torch.randn(len(latent), PRIVATE, generator=generator) * scale[modality]
    own = (source == modality)[:, None]
    return torch.cat([latent[:, :-PRIVATE], torch.where(own, latent[:, -PRIVATE:], noise)], dim=1)


def random_subsets(present: Tensor, generator: torch.Generator) -> Tensor:
    """Choose one of the non-empty subsets of what each row has, all alike, (n, M) bool; rows without any stay empty."""
    chosen = torch.zeros_like(present)
    left = present.any(1)
    while left.any():
        tried = present & (torch.rand(present.shape, generator=generator) < 0.5)
        good = left & tried.any(1)
        chosen[good] = tried[good]
        left = left & ~good
    return chosen


def one_of(present: Tensor, generator: torch.Generator) -> Tensor:
    """Choose one modality of each row, (n, M) bool; rows without any stay empty."""
    rank = torch.rand(present.shape, generator=generator).masked_fill(~present, -1.0)
    chosen = torch.zeros_like(present)
    chosen[torch.arange(len(present)), rank.argmax(1)] = True
    return chosen & present


def divergence(mu: Tensor, logvar: Tensor, of_mu: Tensor, of_logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(of_mu, exp(of_logvar))), (n,)."""
    squares = (mu - of_mu).square() + logvar.exp()
    return 0.5 * (of_logvar - logvar + squares / of_logvar.exp() - 1).sum(-1)


def bound(
    kind: Kind, network: MultiVae, scale: Tensor | None, grid: Tensor, present: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return mse and KL of a batch of whole or incomplete tuples; means over tuples."""
    rows = torch.arange(len(grid))
    mu, logvar = network.experts(grid, present)
    if kind == "MVAE":
        owner, subset = elbo_terms(present, 1, generator)
        mean, spread = product_of_experts(mu[owner], logvar[owner], subset)
        share = 1 / (owner.bincount()[owner] * len(grid))
        errors = network.rebuild_errors(draw(mean, spread, generator), grid, owner, subset)
        return {"mse": (share * errors).sum(), "kl": (share * kl_divergence(mean, spread)).sum()}
    if kind == "MoPoE":
        mean, spread = product_of_experts(mu, logvar, random_subsets(present, generator), prior=False)
        errors = network.rebuild_errors(draw(mean, spread, generator), grid, rows, present)
        return {"mse": errors.mean(), "kl": kl_divergence(mean, spread).mean()}
    if kind == "MVTCAE":
        mean, spread = product_of_experts(mu, logvar, present, prior=False)
        errors = network.rebuild_errors(draw(mean, spread, generator), grid, rows, present)
        count = present.sum(1)
        apart = (divergence(mean[:, None], spread[:, None], mu, logvar) * present).sum(1) / count
        kl = (1 - ALPHA) * kl_divergence(mean, spread) + ALPHA * apart
        return {"mse": ((count - ALPHA) / count * errors).mean(), "kl": kl.mean()}
    chosen = one_of(present, generator)
    mean, spread = product_of_experts(mu, logvar, chosen, prior=False)
    latent, source = draw(mean, spread, generator), chosen.float().argmax(1)
    errors = torch.zeros(len(grid))
    for m, decoder in enumerate(network.decoders):
        made = decoder(_told(kind, latent, m, source, scale, generator))
        errors = errors + (made - grid[:, m]).square().mean((1, 2, 3)) * present[:, m]
    return {"mse": errors.mean(), "kl": kl_divergence(mean, spread).mean()}


def fit_vae(
    kind: Kind, codes: dict[str, Codes], modalities: int, *, epochs: int, beta: float, seed: int = 0
) -> VaeDraws:
    """Train on codes (n, M · code), rows of NaN where a modality is missing.

    Args:
        kind: of VAE.
        codes: of training and validation.
        modalities: M.
        epochs: at most; the best in validation stays.
        beta: weight of the divergence.
        seed: of weights, order and draws.
    """
    torch.manual_seed(seed)
    centre, width = np.nanmean(codes["train"], axis=0), codes["train"].shape[1] // modalities
    own = np.nanvar(codes["train"], axis=0).reshape(modalities, width).mean(axis=1)
    spread = np.sqrt(np.repeat(own, width))  # one number a modality: an error of a code is that of its picture
    rows = torch.from_numpy((np.concatenate([codes["train"], codes["validation"]]) - centre) / spread).float()
    grid = rows.view(len(rows), modalities, width, 1, 1)
    present = ~grid[:, :, 0, 0, 0].isnan()
    grid = grid.nan_to_num()
    network = MultiVae(modalities, (width, 1, 1), 1, latent=LATENT, narrow=NARROW)
    holder = nn.ModuleDict({"network": network})
    log_scale = None
    if kind == "MMVAE+":
        log_scale = nn.Parameter(torch.zeros(modalities, PRIVATE))
        holder.register_parameter("log_scale", log_scale)
    generator = torch.Generator().manual_seed(seed)

    def loss(items: Tensor, learning: bool) -> dict[str, Tensor]:
        scale = None if log_scale is None else log_scale.exp()
        found = bound(kind, network, scale, grid[items], present[items], generator)
        return {"mse": found["mse"], "kl": 2 * beta / width * found["kl"]}

    train, validation = torch.arange(len(rows)).split([len(codes["train"]), len(codes["validation"])])
    training = Training(epochs, 128, 1e-3, weight_decay=0.0, patience=max(5, epochs // 4), seed=seed)
    fit(holder, loss, train=train, validation=validation, training=training)
    return VaeDraws(kind, network.eval(), centre, spread, None if log_scale is None else log_scale.detach().exp())
