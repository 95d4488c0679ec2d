"""Convolutions of 3×3(×3) with a quarter of the multiplications, by Winograd's algorithm F(4×4, 3×3), on the CPU.

4×4 pixels of output need 6×6 of input. These are transformed, multiplied with the transformed kernel channel by
channel in 36 matrix products, and transformed back: 36 multiplications instead of 144. In float32 the result differs
from the direct sum by some millionths of its size.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

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
        self.register_buffer("kernel", _kernel(layer.weight.unsqueeze(2)))  # (36, in, out)
        self.register_buffer("bias", _bias(layer))

    @torch.inference_mode()
    def forward(self, features: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, K, H, W), channels last in memory."""
        images, _, height, width = features.shape
        together = max(1, TILES // (-(-height // 4) * -(-width // 4)))
        channels_last = features.permute(0, 2, 3, 1)
        out = features.new_empty(images, height, width, len(self.bias))

        def compute(first: int, start: int, stop: int) -> None:
            some = slice(first, first + together)
            shape, tiles = _tiles(channels_last[some], start, stop)
            pixels = _pixels(torch.bmm(tiles, self.kernel), self.bias, shape)
            out[some, start:stop] = pixels[:, : height - start, :width]

        firsts = range(0, images, together)
        _side_by_side(compute, [(first, *band) for band in _bands(height, width) for first in firsts])
        return out.permute(0, 3, 1, 2)


class WinogradConv3d(nn.Module):
    """What a 3×3×3 convolution of stride 1 and padding 1 gives for one volume, in float32 on the CPU, no gradients.

    Winograd's algorithm within each plane; the three planes are summed up directly.

    Args:
        layer: the convolution whose kernel and bias are taken over.
    """

    kernel: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv3d) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(layer.weight))  # (3 × 36, in, out)
        self.register_buffer("bias", _bias(layer))

    @torch.inference_mode()
    def forward(self, volume: Tensor) -> Tensor:
        """Convolve (1, C, Z, Y, X) to (1, K, Z, Y, X), channels last in memory."""
        (planes,) = volume.permute(0, 2, 3, 4, 1)
        depth, height, width, _ = planes.shape
        below, middle, above = self.kernel.view(3, 36, *self.kernel.shape[1:])
        out = volume.new_empty(1, depth, height, width, len(self.bias))

        def compute(first: int, behind: int, start: int, stop: int) -> None:
            before = _tiles(planes[first - 1 : first], start, stop)[1] if first else None
            shape, here = _tiles(planes[first : first + 1], start, stop)
            for z in range(first, behind):
                after = _tiles(planes[z + 1 : z + 2], start, stop)[1] if z + 1 < depth else None
                products = torch.bmm(here, middle)
                if before is not None:
                    products.baddbmm_(before, below)
                if after is not None:
                    products.baddbmm_(after, above)
                    before, here = here, after
                out[:, z, start:stop] = _pixels(products, self.bias, shape)[:, : height - start, :width]

        step = -(-depth // torch.get_num_threads())
        slabs = [(first, min(first + step, depth)) for first in range(0, depth, step)]
        _side_by_side(compute, [(*slab, *band) for band in _bands(height, width) for slab in slabs])
        return out.permute(0, 4, 1, 2, 3)


def _side_by_side(compute: Callable[..., None], parts: Sequence[tuple[int, ...]]) -> None:
    """Compute independent parts, each in one thread: their operations are too small to be shared out among threads."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            compute(*part)
        return
    pool = _pool(threads)
    torch.set_num_threads(1)  # MKL has one number for the whole process; with two, each thread would start others
    try:
        list(pool.map(lambda part: _without_gradients(compute, part), parts))
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()  # holds for one thread only
def _without_gradients(compute: Callable[..., None], part: tuple[int, ...]) -> None:
    compute(*part)


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads compute alone; the number of threads of all others stays."""
    ready = Barrier(threads + 1, timeout=60)

    def alone() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "winograd")
    for _ in range(threads):
        pool.submit(alone)
    ready.wait()
    torch.set_num_threads(threads)  # torch sets that of MKL for the whole process
    return pool


def _kernel(weight: Tensor) -> Tensor:
    """Transform (out, in, Z, 3, 3) to G g Gᵀ of the source, (Z × 36, in, out)."""
    one = torch.tensor(_KERNEL, dtype=torch.float64) / 24
    kernel = torch.einsum("yi,xj,oczij->zxyco", one, one, weight.detach().double())
    return kernel.flatten(0, 2).float().contiguous()


def _bias(layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    return torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().float().clone()


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield first and last row + 1 of bands of some `TILES` tiles; the last one may reach beyond the image."""
    end, rows = 4 * -(-height // 4), 4 * max(1, TILES // -(-width // 4))
    for start in range(0, end, rows):
        yield start, min(start + rows, end)


def _tiles(images: Tensor, start: int, stop: int) -> tuple[tuple[int, int, int], Tensor]:
    """Transform rows `start` to `stop` of (N, H, W, C).

    Returns:
        Numbers of images and of tiles down and across, and the tiles, (36, all of them, C).
    """
    count, height, width, channels = images.shape
    down, across = (stop - start) // 4, -(-width // 4)
    low, high = max(start - 1, 0), min(stop + 1, height)
    border = (0, 0, 1, 4 * across + 1 - width, low - start + 1, stop + 1 - high)
    pixels = F.pad(images[:, low:high], border)
    half = pixels.new_empty(6, count, down, 4 * across + 2, channels)
    _transform([pixels[:, i : i + 4 * down - 3 : 4] for i in range(6)], half)
    tiles = pixels.new_empty(6, 6, count, down, across, channels)  # the first is the position across
    _transform([half[:, :, :, i : i + 4 * across - 3 : 4] for i in range(6)], tiles)
    return (count, down, across), tiles.view(36, -1, channels)


def _pixels(products: Tensor, bias: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Transform (36, tiles, K) back to (N, rows, columns, K)."""
    count, down, across = shape
    products[7] += bias  # the one of 36 that every pixel of a tile gets once
    half = products.new_empty(6, count, down, across, 4, len(bias))
    _transform_back(products.view(6, 6, count, down, across, -1), half.permute(4, 0, 1, 2, 3, 5))
    out = products.new_empty(count, down, 4, 4 * across, len(bias))
    _transform_back(half.view(6, count, down, 4 * across, -1), out.permute(2, 0, 1, 3, 4))
    return out.view(count, 4 * down, 4 * across, -1)


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
