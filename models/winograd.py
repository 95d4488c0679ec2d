"""3×3 convolutions with a quarter of the multiplications, by Winograd's algorithm F(4×4, 3×3), on the CPU.

4×4 pixels of output need 6×6 of input. These are transformed, multiplied with the transformed kernel channel by
channel in 36 matrix products, and transformed back: 36 multiplications instead of 144. In float32 the result differs
from the direct sum by some millionths of its size.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILES = 200  # 4×4 pixels each, worked on at once; their 36 matrices stay in the caches
_KERNEL = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # G of the source, times 24


class WinogradConv2d(nn.Module):
    """What a 3×3 convolution of stride 1 and padding 1 gives, without gradients, for float32 on the CPU.

    Takes four times the memory of the layer's kernel.

    Args:
        layer: the convolution whose kernel and bias are taken over.
    """

    kernel: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        one = torch.tensor(_KERNEL, dtype=torch.float64) / 24
        kernel = torch.einsum("yi,xj,ocij->xyco", one, one, layer.weight.detach().double())
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        self.register_buffer("kernel", kernel.flatten(0, 1).float().contiguous())  # (36, in, out)
        self.register_buffer("bias", bias.float().clone())

    @torch.inference_mode()
    def forward(self, features: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, K, H, W), channels last in memory."""
        images, _, height, width = features.shape
        down, across = -(-height // 4), -(-width // 4)  # tiles
        together = max(1, TILES // (down * across))  # images
        rows = max(1, TILES // across)  # of tiles
        channels_last = features.permute(0, 2, 3, 1)
        out = features.new_empty(images, height, width, len(self.bias))
        for first in range(0, images, together):
            some = slice(first, first + together)
            for top in range(0, down, rows):
                start, stop = 4 * top, 4 * min(top + rows, down)
                low, high = max(start - 1, 0), min(stop + 1, height)
                border = (0, 0, 1, 4 * across + 1 - width, low - start + 1, stop + 1 - high)
                band = self._band(F.pad(channels_last[some, low:high], border))
                out[some, start:stop] = band[:, : height - start, :width]
        return out.permute(0, 3, 1, 2)

    def _band(self, pixels: Tensor) -> Tensor:
        """Convolve (N, 4T + 2, 4S + 2, C), borders included, to (N, 4T, 4S, K)."""
        images, down, across, channels = len(pixels), pixels.shape[1] // 4, pixels.shape[2] // 4, pixels.shape[3]
        half = pixels.new_empty(6, images, down, pixels.shape[2], channels)
        _transform([pixels[:, i : i + 4 * down - 3 : 4] for i in range(6)], half)
        tiles = pixels.new_empty(6, 6, images, down, across, channels)
        _transform([half[:, :, :, i : i + 4 * across - 3 : 4] for i in range(6)], tiles)
        products = torch.bmm(tiles.view(36, -1, channels), self.kernel)
        products[7] += self.bias  # the one of 36 that every pixel of a tile gets once
        half = pixels.new_empty(6, images, down, across, 4, len(self.bias))
        _transform_back(products.view(6, 6, images, down, across, -1), half.permute(4, 0, 1, 2, 3, 5))
        out = pixels.new_empty(images, down, 4, 4 * across, len(self.bias))
        _transform_back(half.view(6, images, down, 4 * across, -1), out.permute(2, 0, 1, 3, 4))
        return out.view(images, 4 * down, 4 * across, -1)


def _transform(d: Sequence[Tensor], out: Tensor) -> None:
    """Write Bᵀ d of the source to `out`, 6 values of 6."""
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(even, d[0], alpha=4, out=out[0]).sub_(d[2])
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.sub(d[5], d[3], out=out[5]).sub_(odd, alpha=4)


def _transform_back(m: Tensor, out: Tensor) -> None:
    """Write Aᵀ m of the source to `out`, 4 values of 6."""
    even, odd, even_2, odd_2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    torch.add(m[0], even, out=out[0]).add_(even_2)
    torch.add(odd, odd_2, alpha=2, out=out[1])
    torch.add(even, even_2, alpha=4, out=out[2])
    torch.add(odd, odd_2, alpha=8, out=out[3]).add_(m[5])
