"""The preprocessing steps as MONAI `MapTransform`s, for any `monai.transforms.Compose`.

They take channel-first `MetaTensor`s, keep their affine correct, and work on a dictionary with the volume under
`image` and the brain mask under `mask`. `volume_steps` is the pipeline's own composition.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd
from torch import Tensor

from preprocessing.errors import ScanError
from preprocessing.limits import Limits
from preprocessing.normalise import NORMALISATIONS, PUBLISHED
from preprocessing.resample import resample, resampled_shape, resampling_bytes
from preprocessing.skull_strip import LARGEST_SHARE, SkullStripper
from preprocessing.slices import bounding_box

Data = Mapping[Hashable, Any]


class Steps(Compose):
    """MONAI's Compose, but the original error is raised, not one that only names the transform."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the steps."""
        try:
            return super().__call__(*args, **kwargs)
        except RuntimeError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None


class SkullStripd(MapTransform):
    """Add the HD-BET brain mask of the first key's volume under `mask_key`.

    Args:
        keys: volume (1, X, Y, Z), MetaTensor in RAS+ order.
        stripper: HD-BET; None takes every voxel above the volume's minimum for brain (already stripped scans).
        mask_key: key of the mask (1, X, Y, Z), bool.

    Raises:
        ScanError: no brain found, or the mask fills the frame.
    """

    def __init__(self, keys: KeysCollection, stripper: SkullStripper | None, *, mask_key: str = "mask") -> None:
        super().__init__(keys)
        self.stripper = stripper
        self.mask_key = mask_key

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Add the mask."""
        out = dict(data)
        image = out[self.keys[0]]
        if self.stripper is not None:
            mask = self.stripper.mask(image[0].as_tensor(), np.asarray(image.affine))
        else:
            mask = image[0].as_tensor() > image.as_tensor().min()
            if mask.float().mean() > LARGEST_SHARE:
                raise ScanError(
                    "the brain mask fills the frame: this modality counts as stripped already, so the lowest value "
                    "stands for the background, but next to no voxel has it. Set what is not brain to the lowest "
                    "value, or let HD-BET strip it (skull_strip: true)"
                )
        out[self.mask_key] = MetaTensor(mask[None].to(image.device), affine=image.affine)
        return out


class CropToBraind(MapTransform):
    """Cut volumes to the bounding box of the mask, plus a margin that resampling needs.

    Args:
        keys: volumes (1, X, Y, Z) to cut, the mask among them.
        mask_key: the mask.
        margin_mm: kept around the box where the volume has it.
    """

    def __init__(self, keys: KeysCollection, *, mask_key: str = "mask", margin_mm: float = 6.0) -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        self.margin_mm = margin_mm

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Cut."""
        out = dict(data)
        mask = out[self.mask_key]
        affine = np.asarray(mask.affine)
        low, high = bounding_box(mask[0].as_tensor())
        margin = np.maximum(np.ceil(self.margin_mm / np.linalg.norm(affine[:3, :3], axis=0)).astype(int), 3)
        first = np.maximum(np.array(low) - margin, 0)
        behind = np.minimum(np.array(high) + margin, mask.shape[1:])
        moved = affine.copy()
        moved[:3, 3] = affine[:3, 3] + affine[:3, :3] @ first
        box = (slice(None), *(slice(int(a), int(b)) for a, b in zip(first, behind, strict=True)))
        for key in self.keys:
            out[key] = MetaTensor(out[key].as_tensor()[box].contiguous(), affine=moved)
        return out


class ResampleBicubicd(MapTransform):
    """Bring volumes to one voxel size by cubic convolution (`preprocessing.resample`).

    Args:
        keys: volumes (1, X, Y, Z); bool ones are resampled as 0 and 1 and cut at one half.
        spacing_mm: wanted voxel size.
        limits: of the memory that the new grid may take; None: any.

    Raises:
        MemoryLimitError: the new grid takes more.
    """

    def __init__(self, keys: KeysCollection, *, spacing_mm: float, limits: Limits | None = None) -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm
        self.limits = limits

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Resample."""
        out = dict(data)
        for key in self.keys:
            volume, old = out[key].as_tensor(), np.asarray(out[key].affine)
            if self.limits is not None:
                grid = resampled_shape(volume.shape[1:], old, spacing_mm=self.spacing_mm)
                self.limits.check_result(grid, f"the brain at {self.spacing_mm:g} mm")
                size = resampling_bytes(volume.shape[1:], old, spacing_mm=self.spacing_mm)
                self.limits.check_work(size, f"resampling to {self.spacing_mm:g} mm")
            new, affine = resample(volume.float(), old, spacing_mm=self.spacing_mm)
            out[key] = MetaTensor(new > 0.5 if volume.dtype == torch.bool else new, affine=affine)
        return out


class NormaliseInMaskd(MapTransform):
    """Bring the intensities inside the mask to another scale, and 0 outside.

    Args:
        keys: volumes (1, X, Y, Z), float32.
        normalise: a function of volume and mask, such as those of `preprocessing.normalise`.
        mask_key: the mask.

    Raises:
        ScanError: the function cannot be applied to these voxels.
    """

    def __init__(
        self, keys: KeysCollection, normalise: Callable[[Tensor, Tensor], Tensor], *, mask_key: str = "mask"
    ) -> None:
        super().__init__(keys)
        self.normalise = normalise
        self.mask_key = mask_key

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Normalise."""
        out = dict(data)
        mask = out[self.mask_key].as_tensor()
        for key in self.keys:
            out[key] = MetaTensor(self.normalise(out[key].as_tensor(), mask), affine=out[key].affine)
        return out


def find_brain(stripper: SkullStripper | None) -> Compose:
    """Turn `image`, and `nan` where given, to RAS+ order and add `mask`; None for volumes that are stripped already."""
    turn = Orientationd(("image", "nan"), axcodes="RAS", labels=None, allow_missing_keys=True)
    return Steps([turn, SkullStripd("image", stripper)])


def resample_brain(*, spacing_mm: float, limits: Limits | None = None) -> Compose:
    """Crop `image` and `mask` to the brain and resample both."""
    both = ("image", "mask")
    return Steps([CropToBraind(both), ResampleBicubicd(both, spacing_mm=spacing_mm, limits=limits)])


def volume_steps(stripper: SkullStripper | None, *, spacing_mm: float, normalise: str = PUBLISHED) -> Compose:
    """Compose the paper's preprocessing of one volume, PET too: `find_brain`, `resample_brain`, normalisation.

    Takes `{"image": MetaTensor (1, X, Y, Z)}` as `preprocessing.volumes.read_volume` gives it.

    Args:
        stripper: HD-BET; None for volumes that are stripped already.
        spacing_mm: voxel size after resampling.
        normalise: a name in `preprocessing.normalise.NORMALISATIONS`.

    Source:
        HyperMM, section 3.1.
    """
    finish = NormaliseInMaskd("image", NORMALISATIONS[normalise])
    return Steps([find_brain(stripper), resample_brain(spacing_mm=spacing_mm), finish])
