"""pix2pix: translation learnt from pairs of slices.

Source: Isola et al. 2017, "Image-to-image translation with conditional adversarial networks", section 3, equation 4.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.translation.networks import Discriminator, UNet
from baselines.translation.optimiser import Optimiser, autocast


@dataclass(frozen=True)
class Pix2PixSettings:
    """As published, for slices of 256 pixels.

    Attributes:
        epochs: passes over all pairs.
        batch_size: pairs a step.
        width: channels after the first layer of generator and discriminator.
        discriminator_layers: 3 judges patches of 70×70 pixels, 2 of 34×34.
        learning_rate: of Adam, the same in all epochs.
        l1_weight: of the L1 loss beside the adversarial one; slices in [-1, 1].
    """

    epochs: int = 200
    batch_size: int = 1
    width: int = 64
    discriminator_layers: int = 3
    learning_rate: float = 2e-4
    l1_weight: float = 100.0


class Pix2Pix:
    """A U-Net that translates, and a discriminator that sees source and result together.

    `networks["a_to_b"]` makes target slices from source slices (`training.translate`).

    Deviations: those of `UNet`, and no random jitter or mirroring of the slices, since brains are aligned and
    have a left and a right.

    Args:
        size: P, pixels of a slice.
        settings: of networks and training.
        seed: of the first weights.
        device: where to train.
        dtype: of the forward pass: float32, or bfloat16 or float16 where the device is fast with it.
    """

    paired = True

    def __init__(
        self,
        size: int,
        settings: Pix2PixSettings,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.size, self.settings, self.device, self.dtype = size, settings, device, dtype
        self.epochs, self.batch_size = settings.epochs, settings.batch_size
        torch.manual_seed(seed)
        a_to_b = UNet(size, width=settings.width)
        judge = Discriminator(2, width=settings.width, layers=settings.discriminator_layers, affine=True)
        self.networks = nn.ModuleDict({"a_to_b": a_to_b, "judge": judge}).to(device)
        self.optimisers = {
            name: Optimiser([network], learning_rate=settings.learning_rate, dtype=dtype, device=device)
            for name, network in self.networks.items()
        }

    def learning_rate(self, epoch: int) -> float:
        """Return the rate, the same in every epoch."""
        return self.settings.learning_rate

    def step(self, source: Tensor, target: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Update the discriminator, then the generator."""
        with autocast(self.device, self.dtype):
            made = self.networks["a_to_b"](source).float()
        real, fake = self._judge(source, target), self._judge(source, made.detach())
        judged = (_log_loss(real, is_real=True) + _log_loss(fake, is_real=False)) / 2  # halved to learn more slowly
        self.optimisers["judge"].step(judged)
        self.networks["judge"].requires_grad_(False)
        fooled = _log_loss(self._judge(source, made), is_real=True)
        self.networks["judge"].requires_grad_(True)
        l1 = (made - target).abs().mean()
        self.optimisers["a_to_b"].step(fooled + self.settings.l1_weight * l1)
        return {"adversarial": fooled, "l1": l1, "discriminator": judged}

    def look(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """Return source, generated and real slices."""
        with autocast(self.device, self.dtype):
            return [source, self.networks["a_to_b"](source), target]

    def _judge(self, source: Tensor, target: Tensor) -> Tensor:
        """Return logits of patches, (N, 1, Q, Q), float32."""
        with autocast(self.device, self.dtype):
            return self.networks["judge"](torch.cat([source, target], dim=1)).float()


def _log_loss(logits: Tensor, *, is_real: bool) -> Tensor:
    """Return the cross-entropy of patches from logits; MONAI's fails on CUDA where a logit is NaN."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)))
