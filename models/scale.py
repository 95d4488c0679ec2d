"""How feature maps are centred and scaled before anything is learnt from them (docs/decisions/0004)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from models.settings import FeatureScale

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # feature maps (n, C, H, W), modality (n,) int64


@torch.no_grad()
def feature_scale(batches: Batches, *, like: Tensor, how: FeatureScale) -> tuple[Tensor, Tensor]:
    """Return centre and spread of z, learnt from training scans, however many: they are gone through in batches.

    Args:
        batches: gives the training scans, twice.
        like: (M, C, H, W), for shape, dtype and device.
        how: "none" leaves z as it is (the paper); "scale" divides by one root mean square for all scans; "standardise"
            subtracts each modality's mean feature map, then divides by the root mean square of what is left, one
            number a modality.

    Returns:
        Centre (M, C, H, W) and spread (M, 1, 1, 1); 0 and 1 for a modality without a training scan, and a spread of 1
        for one with a single scan, which leaves no deviation to measure.
    """
    centre = torch.zeros_like(like)
    spread = like.new_ones(len(like), 1, 1, 1)
    count = torch.zeros(len(like), dtype=torch.float64, device=like.device)
    if how == "standardise":
        total = torch.zeros_like(like, dtype=torch.float64)
        for feature_maps, modality in batches():
            total.index_add_(0, modality, feature_maps.double())
            count.index_add_(0, modality, count.new_ones(len(modality)))
        centre.copy_(total / count.clamp_min(1).view(-1, 1, 1, 1))
    if how != "none":
        count.zero_()
        square = torch.zeros_like(count)
        for feature_maps, modality in batches():
            of_scan = (feature_maps - centre[modality]).square().flatten(1).double().mean(1)
            square.index_add_(0, modality, of_scan)
            count.index_add_(0, modality, count.new_ones(len(modality)))
        if how == "scale":
            spread.fill_(float((square.sum() / count.sum()).sqrt().clamp_min(1e-6)))
        else:
            measured = count > 1
            root = (square / count.clamp_min(1)).sqrt().clamp_min(1e-6)
            spread[measured] = root[measured].float().view(-1, 1, 1, 1)
    return centre, spread
