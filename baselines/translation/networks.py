"""The networks of image translation: two generators and the discriminator.

All of them work on slices in [-1, 1], as published; `training` and `translate` convert from [0, 1] and back.
"""

import itertools

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

WIDEST = 8  # the U-Net's channels grow up to so many times its width


class UNet(nn.Module):
    """The generator of pix2pix: every layer halves the slice, down to 1×1, and back, with skips between equal sizes.

    Source:
        Isola et al. 2017, "Image-to-image translation with conditional adversarial networks", appendix 6.1.1.

    Deviations:
        Instance norm, not batch norm: the same at batch size 1, which was used, and no slice depends on its
        batch. The number of halvings follows from the size (the paper has 8, for 256 pixels), and of the inner layers
        up, those drop out that have more than five inside the 256-pixel net: three of them there, none at 32 pixels.

    Args:
        size: pixels of a slice, both sides; a multiple of 16.
        width: channels after the first layer.
        dropout: share of units dropped in the inner layers up, in training only. The paper drops in tests too, for
            variety; an imputed scan should be the same each time.

    Raises:
        ValueError: the size is no multiple of 16.
    """

    def __init__(self, size: int, *, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        depth = halvings(size)
        widths = [1] + [width * min(2**i, WIDEST) for i in range(depth)]  # channels at each level; the slice's is 1
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, (outer, inner) in enumerate(itertools.pairwise(widths)):
            innermost, outermost = level == depth - 1, level == 0
            self.down.append(
                nn.Sequential(
                    nn.Identity() if outermost else nn.LeakyReLU(0.2),
                    nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=outermost or innermost),
                    nn.Identity() if outermost or innermost else nn.InstanceNorm2d(inner, affine=True),
                )
            )
            self.up.append(
                nn.Sequential(
                    nn.ReLU(),
                    nn.ConvTranspose2d(
                        inner if innermost else 2 * inner, outer, 4, stride=2, padding=1, bias=outermost
                    ),
                    nn.Tanh() if outermost else nn.InstanceNorm2d(outer, affine=True),
                    nn.Dropout(dropout if depth - 1 - level < depth - 5 else 0.0),
                )
            )
        self.apply(initialise)

    def forward(self, slices: Tensor) -> Tensor:
        """Translate slices, (N, 1, P, P) to (N, 1, P, P), both in [-1, 1]."""
        skips = []
        x = slices
        for down in self.down:  # (N, C, P, P) to (N, 2C, P/2, P/2), C up to 8 widths
            x = down(x)
            skips.append(x)
        x = self.up[-1](skips.pop())
        for up in reversed(self.up[:-1]):  # with the skip of this size (N, 2C, Q, Q), to (N, C/2, 2Q, 2Q)
            x = up(torch.cat([x, skips.pop()], dim=1))
        return x


class ResNetGenerator(nn.Module):
    """The generator of cycleGAN: c7s1-k, d2k, d4k, residual blocks, u2k, uk, c7s1-1.

    Source:
        Zhu et al. 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks",
        appendix 7.2; 6 blocks for 128 pixels, 9 from 256 on.

    Args:
        size: pixels of a slice, both sides; a multiple of 4, at least 16.
        width: k, channels after the first layer.
        blocks: residual blocks; None takes the published number for the size: 6 below 256 pixels, 9 from there
            on.

    Raises:
        ValueError: the size is none of these.
    """

    def __init__(self, size: int, *, width: int = 64, blocks: int | None = None) -> None:
        super().__init__()
        if size % 4 or size < 16:
            raise ValueError(f"slices of {size} pixels: cycleGAN's generator needs a multiple of 4, at least 16")
        if blocks is None:
            blocks = 9 if size >= 256 else 6
        k = width
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), *_normed(nn.Conv2d(1, k, 7, bias=False), k)]
        for c in (k, 2 * k):  # (N, C, Q, Q) to (N, 2C, Q/2, Q/2)
            layers += _normed(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False), 2 * c)
        layers += [ResidualBlock(4 * k) for _ in range(blocks)]
        for c in (4 * k, 2 * k):  # (N, C, Q, Q) to (N, C/2, 2Q, 2Q)
            up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=False)
            layers += _normed(up, c // 2)
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(k, 1, 7), nn.Tanh())
        self.apply(initialise)

    def forward(self, slices: Tensor) -> Tensor:
        """Translate slices, (N, 1, P, P) to (N, 1, P, P), both in [-1, 1]."""
        return self.layers(slices)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with reflection padding, added to the input.

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_normed(nn.Conv2d(channels, channels, 3, bias=False), channels),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (N, C, Q, Q)."""
        return x + self.layers(x)


class Discriminator(nn.Module):
    """PatchGAN: classifies every patch, not the slice, as real or generated; MONAI's `PatchDiscriminator`.

    Three layers make it the published 70×70 pixels a patch, two 34×34. Instance norm in both methods, for the reason
    given at `UNet`.

    Source:
        Isola et al. 2017, appendix 6.1.2; Zhu et al. 2017, appendix 7.2.

    Args:
        channels: slices judged together: 1, or 2 with the one translated from.
        width: channels after the first layer.
        layers: convolutions between the first and the last.
        affine: whether the norm scales and shifts, as batch norm does (pix2pix) and cycleGAN's does not.
    """

    def __init__(self, channels: int, *, width: int = 64, layers: int = 3, affine: bool = False) -> None:
        super().__init__()
        self.layers = PatchDiscriminator(
            spatial_dims=2,
            channels=width,
            in_channels=channels,
            num_layers_d=layers,
            norm=("INSTANCE", {"affine": affine}),
        )

    def forward(self, slices: Tensor) -> Tensor:
        """Return logits of patches, (N, channels, P, P) to (N, 1, Q, Q)."""
        return self.layers(slices)[-1]


def halvings(size: int) -> int:
    """Return how often the U-Net halves a slice: while that leaves whole pixels, at most 8 times.

    Raises:
        ValueError: fewer than 4 times, which leaves too little of a U-Net.
    """
    count = next((n for n in range(8) if size % 2 ** (n + 1)), 8)
    if size < 1 or count < 4:
        raise ValueError(f"slices of {size} pixels: pix2pix' U-Net needs a multiple of 16, better a power of two")
    return count


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Initialise weights from N(0, 0.02), norms' scales from N(1, 0.02), biases 0, as both papers have it."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.weight.normal_(0.0, 0.02)
    elif isinstance(module, nn.InstanceNorm2d) and module.affine:
        module.weight.normal_(1.0, 0.02)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        module.bias.zero_()


def _normed(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels), nn.ReLU()]
