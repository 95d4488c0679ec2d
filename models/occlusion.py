"""Occlusion map: the change of a prediction when a region is left out of the maximum over slices.

A feature map is the maximum over slices at each of H x W positions. Without a slab of slices at one position, that
maximum is taken over the remaining slices: no gradient, and no new pass of the backbone. A position sees more of a
slice than its own cell (the backbone's field of view), so maps are coarse, and say what the model looked at, not what
is ill.
"""

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 64  # feature maps a pass


@torch.inference_mode()
def occlusion_map(slices: Tensor, ask: Callable[[Tensor], Tensor], *, slices_a_slab: int, nothing: Tensor) -> Tensor:
    """Compute the occlusion map of a scan.

    Args:
        slices: backbone features of a scan's slices, (S, C, H, W), float32.
        ask: maps feature maps (N, C, H, W) to the value to explain, (N,), such as a probability.
        slices_a_slab: neighbouring slices left out together.
        nothing: value of a position without remaining slices, (C, H, W), such as the mean over training scans.

    Returns:
        (G, H, W), G = ⌈S / slices_a_slab⌉: the value of the whole scan minus the value without the region.
    """
    slabs = slices.split(slices_a_slab)
    highest = torch.stack([slab.amax(0) for slab in slabs])  # (G, C, H, W)
    whole = highest.amax(0)
    height, width = whole.shape[1:]
    losses = torch.empty(len(slabs), height * width)
    reference = ask(whole[None])[0].float().cpu()
    cells = torch.arange(height * width)
    for number in range(len(slabs)):
        others = torch.cat([highest[:number], highest[number + 1 :]])
        rest = others.amax(0) if len(others) else nothing
        for some in cells.split(AT_ONCE):
            feature_maps = whole.expand(len(some), *whole.shape).flatten(2).clone()  # (n, C, H·W)
            each = torch.arange(len(some))
            feature_maps[each, :, some] = rest.flatten(1)[:, some].T
            losses[number, some] = reference - ask(feature_maps.unflatten(2, (height, width))).float().cpu()
    return losses.view(len(slabs), height, width)
