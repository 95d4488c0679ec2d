"""Preprocessing of one volume to a brain in [0, 1]: on its own grid, or registered to another scan."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy import ndimage

from preprocessing.common_grid import onto_brain, resample_onto
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import (
    BYTES_HELD,
    BYTES_NETWORK,
    BYTES_RESULT,
    BYTES_SEARCH,
    BYTES_WORK,
    USUAL_BRAIN_ML,
    Limits,
    times,
)
from preprocessing.normalise import NORMALISATIONS, PUBLISHED, few_decide, range_used
from preprocessing.qc import registered_planes, three_planes
from preprocessing.registration import FINE_MM, Registration, register_rigid
from preprocessing.resample import resampled_shape, resampling_bytes, voxel_size_mm
from preprocessing.skull_strip import NETWORK_SPACING_MM, SkullStripper, padded
from preprocessing.transforms import NormaliseInMaskd, find_brain, resample_brain


@dataclass(frozen=True)
class VolumePipeline:
    """The preprocessing steps of volumes on one device.

    Attributes:
        stripper: HD-BET.
        skull_strip: turn a head to RAS+ order and find its brain.
        mask_nonzero: the same for stripped volumes: all voxels but the background are brain.
        resample: crop to the brain and resample.
        limits: of what a scan may take.
    """

    stripper: SkullStripper
    skull_strip: Compose
    mask_nonzero: Compose
    resample: Compose
    limits: Limits

    @classmethod
    def ready(
        cls,
        mode: Literal["fast", "accurate"],
        *,
        device: torch.device,
        precision: Literal["auto", "fp32"],
        parameters: Path | None,
        spacing_mm: float,
        limits: Limits,
    ) -> Self:
        """Set up the steps for one device; the networks are loaded with the first head.

        Args:
            mode: as `SkullStripper`, and the next three.
            device: where to compute.
            precision: of HD-BET.
            parameters: folder of HD-BET's parameter files, or None for those of its package.
            spacing_mm: voxel size after resampling.
            limits: of what a scan may take.
        """
        stripper = SkullStripper(mode, device=device, precision=precision, parameters=parameters)
        resample = resample_brain(spacing_mm=spacing_mm, limits=limits)
        return cls(stripper, find_brain(stripper), find_brain(None), resample, limits)

    def normalise(self, on_grid: Mapping[Any, Any], name: str) -> dict[Hashable, Any]:
        """Normalise `image` inside `mask`, on the grid that both have.

        Args:
            on_grid: both.
            name: in `preprocessing.normalise.NORMALISATIONS`.

        Raises:
            ScanError: the voxels do not allow it, as when all are equal.
        """
        return NormaliseInMaskd("image", NORMALISATIONS[name])(on_grid)


@dataclass(frozen=True)
class RegistrationTarget:
    """The scan that another one is registered to.

    Attributes:
        scan: its name.
        raw: before preprocessing, (1, X, Y, Z).
        volume: preprocessed, (X', Y', Z'), float32 in [0, 1].
        mask: its brain, (X', Y', Z'), bool.
        affine: of both, voxel to world, (4, 4), mm.
        by: how the other one is registered to it.
    """

    scan: str
    raw: MetaTensor
    volume: torch.Tensor
    mask: torch.Tensor
    affine: NDArray[np.float64]
    by: Registration


@dataclass(frozen=True)
class Brain:
    """A preprocessed volume.

    Attributes:
        volume: (X, Y, Z), float32 in [0, 1], 0 outside the mask.
        mask: (X, Y, Z), bool.
        affine: voxel to world, (4, 4), mm.
        qc: picture, (H, W, 3), uint8.
        facts: for the scan's record: those of the header (`preprocessing.space.Space.facts`), `brain_ml`, `range_used`
            (intensities that became 0 and 1), `remarks` (sentences, `kind: details`), and how it was made.
    """

    volume: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    qc: NDArray[np.uint8]
    facts: dict[str, Any]


def preprocess_volume(
    pipeline: VolumePipeline,
    image: MetaTensor,
    target: RegistrationTarget | None,
    *,
    skull_strip: bool,
    normalise: str,
) -> Brain:
    """Preprocess a volume: on the grid and with the mask of its target if registration succeeds, else on its own grid.

    Args:
        pipeline: on the device to compute on.
        image: the volume, (1, X, Y, Z), as `preprocessing.volumes.read_volume` gives it.
        target: scan to register it to, or None.
        skull_strip: run skull stripping; else all voxels but the background are brain.
        normalise: a name in `preprocessing.normalise.NORMALISATIONS`.

    Raises:
        ScanError: no brain is found, its volume is none of a brain, it holds NaN, or its values are all equal.
        MemoryLimitError: it takes more memory than it may.
    """
    pipeline.limits.check_brain(volume_ml(image.numel(), image.affine), frame=True)
    registered = None if target is None else _register(pipeline, image, target)
    if target is not None and isinstance(registered, tuple):
        on_grid, facts = registered
    else:
        size = _bytes_of(image, pipeline.stripper.on_cpu.dtype if skull_strip else None)
        pipeline.limits.check_work(size, f"finding the brain in {times(image.shape[1:])} voxels")
        find = pipeline.skull_strip if skull_strip else pipeline.mask_nonzero
        nan = _nan_of(image)
        whole = find({"image": image.to(pipeline.stripper.device)} | ({} if nan is None else {"nan": nan}))
        if nan is not None:
            _refuse_nan(whole["nan"], whole["mask"])
        on_grid = pipeline.resample(whole)
        facts = {"precision": str(pipeline.stripper.used_dtype)} if skull_strip else {}
        facts |= {} if registered is None else {"not_registered": registered}
    brain_ml = volume_ml(int(on_grid["mask"].sum()), on_grid["mask"].affine)
    pipeline.limits.check_brain(brain_ml)
    done = pipeline.normalise(on_grid, normalise)
    volume, mask = _arrays(done)
    if target is not None and isinstance(registered, tuple):
        qc = registered_planes(target.volume.numpy(), volume, mask, voxel_size_mm(target.affine))
    else:
        qc = three_planes(*_arrays(whole), voxel_size_mm(np.asarray(whole["image"].affine)))
    facts = {"normalise": normalise, "brain_ml": round(brain_ml, 1), **_facts(image, on_grid, done), **facts}
    facts["remarks"] += _remarks(on_grid, brain_ml, normalise)
    return Brain(volume, mask, np.asarray(done["image"].affine), qc, facts)


def volume_ml(voxels: int, affine: torch.Tensor) -> float:
    """Return the volume of so many voxels in ml, by the determinant: their axes need not be at right angles."""
    return voxels * abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000


def _facts(image: MetaTensor, on_grid: Mapping[Any, Any], done: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what the record says about the header, and the intensities used."""
    before, after, inside = (each.as_tensor() for each in (on_grid["image"], done["image"], on_grid["mask"]))
    used = [float(f"{value:.6g}") for value in range_used(before, after, inside)]
    return {**image.meta.get("facts", {}), "range_used": used, "remarks": [*image.meta.get("remarks", ())]}


def _remarks(on_grid: Mapping[Any, Any], brain_ml: float, normalise: str) -> list[str]:
    """Return remarks on the size and the intensities of a brain."""
    low, high = USUAL_BRAIN_ML
    size = f"unusual brain volume: {brain_ml:,.0f} ml; {low:g} to {high:,.4g} are usual"
    few = few_decide(on_grid["image"].as_tensor(), on_grid["mask"].as_tensor()) if normalise == PUBLISHED else ""
    return [size] * (not low <= brain_ml <= high) + [few] * bool(few)


def _nan_of(image: MetaTensor) -> MetaTensor | None:
    """Return where a volume was NaN, bool (1, X, Y, Z), or None."""
    return MetaTensor(image.meta["nan"], affine=image.affine) if "nan" in image.meta else None


def _refuse_nan(nan: MetaTensor, mask: MetaTensor) -> None:
    """Refuse NaN voxels inside a brain mask, or in a hole of it; both (1, X, Y, Z) on one grid."""
    brain = ndimage.binary_fill_holes(mask[0].as_tensor().cpu().numpy())
    if count := int((nan[0].as_tensor().cpu().numpy().astype(bool) & brain).sum()):
        raise ScanError(
            f"{count} voxels inside the brain are NaN; only outside are they taken for background. Repair the volume "
            "or leave the scan out"
        )


def _register(
    pipeline: VolumePipeline, image: MetaTensor, target: RegistrationTarget
) -> tuple[dict[str, MetaTensor], dict[str, Any]] | str:
    """Register the volume to the target's grid and return facts for the record, or the reason why that failed."""
    brain_mask = MetaTensor(target.mask[None].float(), affine=target.affine)
    try:
        pipeline.limits.check_work(_bytes_of_search(image, target), "registration")
        motion = register_rigid(target.raw, image, fixed_mask=brain_mask, by=target.by)
    except (ScanError, MemoryLimitError) as error:
        return f"{error} (with {target.scan})"
    if motion.reason:
        return f"{motion.reason} (with {target.scan})"
    moved, inside = onto_brain(image.to(pipeline.stripper.device), brain_mask, motion.matrix)
    if (nan := _nan_of(image)) is not None:
        _refuse_nan(resample_onto(nan, brain_mask, motion.matrix, outside=0.0) > 0.5, inside)
    facts = {
        "registered_to": target.scan,
        "registered_by": target.by,
        "rotation_degrees": round(motion.rotation_degrees, 2),
        "translation_mm": round(motion.translation_mm, 2),
        "brain_in_view": round(motion.coverage, 3),
        "to_own_world": motion.matrix.tolist(),
    }
    return {"image": moved, "mask": inside}, facts


def _bytes_of(image: MetaTensor, precision: torch.dtype | None) -> float:
    """Estimate the main memory for finding the brain of a volume on the CPU, with HD-BET in `precision` or without."""
    shape, affine = image.shape[1:], np.asarray(image.affine)
    size = float(BYTES_WORK * math.prod(shape))
    if precision is None:
        return size
    grid = resampled_shape(shape, affine, spacing_mm=NETWORK_SPACING_MM)
    network = BYTES_HELD * math.prod(shape) + precision.itemsize * BYTES_NETWORK * math.prod(padded(grid))
    return max(size, network, resampling_bytes(shape, affine, spacing_mm=NETWORK_SPACING_MM))


def _bytes_of_search(image: MetaTensor, target: RegistrationTarget) -> float:
    """Estimate the main memory for registering two volumes and resampling one on the other's grid."""
    size = float(BYTES_RESULT * target.mask.numel())
    for volume in (image, target.raw):
        shape, affine = volume.shape[1:], np.asarray(volume.affine)
        finest = np.minimum(shape, resampled_shape(shape, affine, spacing_mm=FINE_MM))
        size += BYTES_WORK * math.prod(shape) + BYTES_SEARCH * math.prod(finest.tolist())
    return size


def _arrays(data: Mapping[Any, Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Copy image and mask, (X, Y, Z), back from the device."""
    return data["image"][0].as_tensor().cpu().numpy(), data["mask"][0].as_tensor().cpu().numpy()
