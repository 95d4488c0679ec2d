"""Heads of two modalities for the tests of image translation, and a stand-in for the backbone."""

from collections.abc import Collection, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store.volumes import VolumeSet

MODALITIES = ("MRI", "PET")
SHAPE = (36, 40, 32)  # voxels
SPACING_MM = 4.0
SPLITS = {
    "a": "train",
    "b": "train",
    "c": "train",
    "d": "train",
    "e": "validation",
    "f": "test",
    "g": "test",
    "h": "test",
}


NEVER_THERE = ("g_PET",)


def head(subject: str, modality: str) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """An ellipsoid with a smooth texture of its own; its PET is bright where its MRI is dark, on a shifted grid."""
    number = ord(subject[0]) - ord("a")
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2 + (2.0 if modality == "PET" else 0.0)
    x, y, z = (axis * SPACING_MM + affine[i, 3] for i, axis in enumerate(np.indices(SHAPE)))
    inside = (x / 56) ** 2 + (y / (64 - number)) ** 2 + (z / 52) ** 2 < 1
    mri = 0.5 + 0.4 * np.sin(x / (18 + number) + number) * np.cos(y / 22 - z / 30)
    value = mri if modality == "MRI" else 0.95 - 0.8 * mri**2
    return np.where(inside, value, 0).clip(0, 1).astype(np.float32), inside, affine


def fill(volumes: VolumeSet, brighter: Collection[str] = (), subjects: Iterable[str] = SPLITS) -> None:
    """Write MRI and PET of all subjects, but for the scans that never were; hidden ones are there too."""
    for scan in (f"{subject}_{modality}" for subject in subjects for modality in MODALITIES):
        if scan not in NEVER_THERE:
            volume, mask, affine = head(*scan.split("_"))
            volumes.save_volume(scan, np.sqrt(volume) if scan in brighter else volume, mask, affine, b"")
            volumes.finish(scan, "key", {})


def feature_map_of(volume: Tensor, mask: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Stands for the backbone: three numbers of a volume."""
    assert mask.dtype == torch.bool
    assert not volume[~mask].any()
    assert spacing_mm == (SPACING_MM,) * 3
    return torch.stack([volume.mean(), volume.std(), volume.amax()]).view(3, 1, 1)
