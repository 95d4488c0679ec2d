"""One volume, from what the scanner gave to a brain in [0, 1]: by itself, or on the grid of another scan."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray

from preprocessing.common_grid import onto_brain
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import BYTES_HELD, BYTES_NETWORK, BYTES_RESULT, BYTES_SEARCH, BYTES_WORK, Limits, times
from preprocessing.qc import registered_planes, three_planes
from preprocessing.registration import FINE_MM, register_rigid
from preprocessing.resample import resampled_shape, resampling_bytes, voxel_size_mm
from preprocessing.skull_strip import NETWORK_SPACING_MM, SkullStripper, padded
from preprocessing.transforms import find_brain, normalise_brain, normalise_intensity

KEYS = ("image", "mask")  # of what the transforms are given


@dataclass(frozen=True)
class Tools:
    """What volumes need on one device.

    Attributes:
        stripper: HD-BET.
        strip: turns a head and finds its brain.
        keep: the same for volumes that are stripped already.
        finish: crops, resamples and normalises.
        limits: of what a scan may take.
    """

    stripper: SkullStripper
    strip: Compose
    keep: Compose
    finish: Compose
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
        """Tools for one device; the networks are loaded when the first head comes.

        Args:
            mode: as `SkullStripper`, and the next three.
            device: where to compute.
            precision: of HD-BET.
            parameters: folder of HD-BET's parameter files, or None for those of its package.
            spacing_mm: voxel size after resampling.
            limits: of what a scan may take.
        """
        stripper = SkullStripper(mode, device=device, precision=precision, parameters=parameters)
        finish = normalise_brain(spacing_mm=spacing_mm, limits=limits)
        return cls(stripper, find_brain(stripper), find_brain(None), finish, limits)


@dataclass(frozen=True)
class Beside:
    """The scan that another one is registered to.

    Attributes:
        scan: its name.
        raw: as it came, (1, X, Y, Z).
        volume: preprocessed, (X', Y', Z'), float32 in [0, 1].
        mask: its brain, (X', Y', Z'), bool.
        affine: of both, voxel to world, (4, 4), mm.
    """

    scan: str
    raw: MetaTensor
    volume: torch.Tensor
    mask: torch.Tensor
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Brain:
    """What is kept of a volume.

    Attributes:
        volume: (X, Y, Z), float32 in [0, 1], 0 outside the mask.
        mask: (X, Y, Z), bool.
        affine: voxel to world, (4, 4), mm.
        qc: picture, (H, W, 3), uint8.
        facts: for the scan's record.
    """

    volume: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    qc: NDArray[np.uint8]
    facts: dict[str, Any]


def brain_of(tools: Tools, image: MetaTensor, beside: Beside | None, *, strip: bool) -> Brain:
    """On the grid and with the mask of the scan beside it if they can be registered; else by itself.

    Args:
        tools: on the device to compute on.
        image: the volume, (1, X, Y, Z).
        beside: what to register it to, or None.
        strip: whether its brain has to be found; else all that is not background is brain.

    Raises:
        ScanError: no brain is found, or its values are all alike.
        MemoryLimitError: it takes more memory than it may.
    """
    reason = {}
    if beside is not None:
        registered = _registered(tools, image, beside)
        if isinstance(registered, Brain):
            return registered
        reason = {"not_registered": registered}
    tools.limits.check_work(_bytes_of(image, strip=strip), f"finding the brain in {times(image.shape[1:])} voxels")
    found = (tools.strip if strip else tools.keep)({"image": image.to(tools.stripper.device)})
    facts = {"precision": str(tools.stripper.dtype)} if strip else {}
    return _brain(tools.finish(found), found, {**facts, **reason})


def _registered(tools: Tools, image: MetaTensor, beside: Beside) -> Brain | str:
    """The volume brought to the scan beside it, or why that is not to be believed."""
    brain_mask = MetaTensor(beside.mask[None].float(), affine=beside.affine)
    try:
        tools.limits.check_work(_bytes_of_search(image, beside), "registration")
        motion = register_rigid(beside.raw, image, fixed_mask=brain_mask)
    except (ScanError, MemoryLimitError) as error:
        return f"{error} (with {beside.scan})"
    if motion.reason:
        return f"{motion.reason} (with {beside.scan})"
    moved, inside = onto_brain(image.to(tools.stripper.device), brain_mask, motion.matrix)
    done = normalise_intensity()({"image": moved, "mask": inside})
    facts = {
        "registered_to": beside.scan,
        "rotation_degrees": round(motion.rotation_degrees, 2),
        "translation_mm": round(motion.translation_mm, 2),
        "brain_in_view": round(motion.coverage, 3),
        "to_own_world": motion.matrix.tolist(),
    }
    brain = _brain(done, done, facts)
    picture = registered_planes(beside.volume.numpy(), brain.volume, brain.mask, voxel_size_mm(beside.affine))
    return replace(brain, qc=picture)


def _bytes_of(image: MetaTensor, *, strip: bool) -> float:
    """Main memory for finding the brain of a volume, if it is the CPU that does it."""
    shape, affine = image.shape[1:], np.asarray(image.affine)
    size = float(BYTES_WORK * math.prod(shape))
    if not strip:
        return size
    grid = resampled_shape(shape, affine, spacing_mm=NETWORK_SPACING_MM)
    network = BYTES_HELD * math.prod(shape) + BYTES_NETWORK * math.prod(padded(grid))
    return max(size, network, resampling_bytes(shape, affine, spacing_mm=NETWORK_SPACING_MM))


def _bytes_of_search(image: MetaTensor, beside: Beside) -> float:
    """Main memory for the registration of two volumes and for bringing one on the other's grid."""
    size = float(BYTES_RESULT * beside.mask.numel())
    for volume in (image, beside.raw):
        shape, affine = volume.shape[1:], np.asarray(volume.affine)
        finest = np.minimum(shape, resampled_shape(shape, affine, spacing_mm=FINE_MM))
        size += BYTES_WORK * math.prod(shape) + BYTES_SEARCH * math.prod(finest.tolist())
    return size


def _brain(done: Mapping[Any, Any], whole: Mapping[Any, Any], facts: dict[str, Any]) -> Brain:
    """Voxels back from the device; the picture shows `whole`."""
    volume, mask, head, head_mask = (d[k][0].as_tensor().cpu().numpy() for d in (done, whole) for k in KEYS)
    qc = three_planes(head, head_mask, voxel_size_mm(np.asarray(whole["image"].affine)))
    return Brain(volume, mask, np.asarray(done["image"].affine), qc, facts)
