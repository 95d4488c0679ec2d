"""Limits of a scan: its size by its header, and the main memory that processing it may need.

Scans come from anywhere, and a header of a few hundred bytes can promise anything. Each limit is checked against the
header before memory is allocated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.memory import main_memory_bytes
from preprocessing.errors import MemoryLimitError, ScanError

LARGEST_EXTENT_MM = 900.0  # the widest fields of view of PET scanners are 700 (GE) and 815 mm (Siemens)
BRAIN_ML = (150.0, 4000.0)  # half a newborn's, about 350; the largest of all were below 3,000
USUAL_BRAIN_ML = (500.0, 2500.0)  # beyond, it is remarked
OF_THE_MACHINE = 0.75  # of its main memory, where no limit is given
READING, WORKING, WRITING = 0.125, 0.75, 0.125  # shares of the limit: the next scan is read and the last one written
MOST_VOXELS = 1024**3  # of one scan; a header that promises more is taken for damaged
LEAST_VOXEL_MM, LARGEST_VOXEL_MM = 0.05, 50.0  # the finest of whole brains post mortem are 0.1; the coarsest PET 10
MOST_PIXELS = 1024**3  # of one picture; more is a whole slide
MIN_SIDE = 8  # voxels; fewer along an axis is no head scan
# Bytes, measured on 2^25 voxels, and rounded up. A format or step that needs less leaves the rest unused.
BYTES_READ = 20  # a voxel beside the file itself, unpacked: float32, its copies, float64 while it is scaled (18)
BYTES_PIXEL = 20  # of a picture while it is read (14)
BYTES_WORK = 30  # a voxel of a scan while its mask is cleaned and rendered (23)
BYTES_HELD = 12  # a voxel of a scan while a network processes it: original, reoriented, and a copy
BYTES_NETWORK = 100  # a voxel of HD-BET's grid, for each byte of its precision (93)
BYTES_SEARCH = 90  # a voxel of the grid of a registration, where all of it is bright (77)
BYTES_RESULT = 28  # a voxel of the result, while it is made (25), written (7) or read again (12)


@dataclass(frozen=True)
class Limits:
    """The largest size and memory of a scan.

    Attributes:
        largest_extent_mm: of its frame along an axis.
        brain_ml: least and largest volume of a brain.
        memory_gb: main memory, GB, that all scans of a process may take at once, beside 0.7 GB for the program itself;
            None is three quarters of the machine's.
        setting: name of the memory limit in messages.
    """

    largest_extent_mm: float = LARGEST_EXTENT_MM
    memory_gb: float | None = None
    brain_ml: tuple[float, float] = BRAIN_ML
    setting: str = "preprocess.memory_gb"

    @cached_property
    def memory_bytes(self) -> float:
        """The memory limit in bytes."""
        return OF_THE_MACHINE * main_memory_bytes() if self.memory_gb is None else 1e9 * self.memory_gb

    def check_extent(self, shape: Sequence[int], affine: NDArray[np.float64]) -> None:
        """Refuse a frame larger than a head needs; its voxels would become gigabytes on a finer grid.

        Raises:
            ScanError: an axis is longer.
        """
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        extent_mm = spacing_mm * shape[:3]
        axis = int(extent_mm.argmax())
        if extent_mm[axis] > self.largest_extent_mm:
            raise ScanError(
                f"{shape[axis]} voxels of {spacing_mm[axis]:.4g} mm are {extent_mm[axis]:.0f} mm along axis {axis + 1};"
                f" at most {self.largest_extent_mm:g} mm expected. Is the voxel size in the header right, and in mm? "
                "If so, crop the scan to the head, or raise preprocess.largest_extent_mm and type --force preprocess"
            )

    def check_brain(self, volume_ml: float, *, frame: bool = False) -> None:
        """Refuse a volume that no brain has; then the voxel size or the mask is wrong.

        Args:
            volume_ml: of the brain.
            frame: it is that of the whole frame, which only has to be large enough.

        Raises:
            ScanError: it lies outside.
        """
        least, most = self.brain_ml
        if volume_ml < least or (volume_ml > most and not frame):
            expected = f"at least {least:,.4g} ml" if volume_ml < least else f"at most {most:,.4g} ml"
            usual = "{:g} to {:,.4g} ml".format(*USUAL_BRAIN_ML)
            raise ScanError(
                f"{'the whole frame' if frame else 'what was taken for the brain'} has {volume_ml:,.3g} ml; {expected} "
                f"expected, and a person's brain has {usual}. Is the voxel size in the header right, and in mm? If it "
                "is and the brain was found well, change preprocess.brain_ml and type --force preprocess"
            )

    def check_reading(self, size: float, what: str) -> None:
        """Refuse a file that takes more memory than the share for reading.

        Args:
            size: bytes.
            what: what is read, such as "512x512x400 voxels".

        Raises:
            MemoryLimitError: it takes more.
        """
        self._check(size, READING, f"reading {what}")

    def check_picture(self, size: float, width: int, height: int) -> None:
        """Refuse a picture that takes more memory than the share for reading.

        Args:
            size: bytes that reading it takes.
            width: pixels.
            height: pixels.

        Raises:
            ScanError: no machine should try.
            MemoryLimitError: it takes more.
        """
        pixels = f"too large: {width:,} x {height:,} = {width * height:,} pixels"
        tile = "Tile it: cut it into several, each a row of the manifest"
        if width * height > MOST_PIXELS:
            raise ScanError(f"{pixels}; at most {MOST_PIXELS:,} are read. {tile}")
        self._check(size, READING, f"{pixels}; reading it", tile)

    def check_work(self, size: float, what: str) -> None:
        """Refuse a computation that takes more memory than its share; arguments and errors as above."""
        self._check(size, WORKING, what)

    def check_result(self, shape: Sequence[int], what: str) -> None:
        """Refuse a grid on which the result takes more memory than its share; errors as above.

        Args:
            shape: of the grid.
            what: what lies on it, such as "the brain at 0.3 mm".
        """
        self._check(BYTES_RESULT * math.prod(shape), WRITING, f"{what}, {times(shape)} voxels,")

    def _check(self, size: float, share: float, what: str, remedy: str = "Crop or downsample the scan") -> None:
        if size > share * self.memory_bytes:
            given = "three quarters of this machine's" if self.memory_gb is None else f"as {self.setting} says"
            raise MemoryLimitError(
                f"{what} takes about {size / 1e9:.2g} GB of memory, more than {share * self.memory_bytes / 1e9:.2g} "
                f"GB, {share:.1%} of {self.memory_bytes / 1e9:.3g} GB ({given}). {remedy}, or set "
                f"{self.setting} to {size / share / 1e9 + 0.1:.1f} if the machine has so much"
            )


DEFAULT_LIMITS = Limits()


def check_shape(shape: Sequence[int]) -> None:
    """Refuse shapes that cannot be a volume of a head.

    Args:
        shape: as the header says.

    Raises:
        ScanError: not 3-D (further axes may have one sample), absurdly large, or too small.
    """
    if len(shape) == 4 and shape[3] > 1:
        raise ScanError(
            f"4-D with {shape[3]} volumes; a scan is one 3-D volume. Average the frames or pick one first, e.g. "
            f"nibabel.save(nibabel.funcs.four_to_three(image)[0], 'frame0.nii.gz')"
        )
    if len(shape) < 3 or any(size > 1 for size in shape[3:]):
        raise ScanError(f"{len(shape)}-D of shape {tuple(shape)}; expected a 3-D volume (a 2-D picture: kind: image)")
    if math.prod(shape) > MOST_VOXELS:
        raise ScanError(f"the header promises {tuple(shape)} = {math.prod(shape):,} voxels, more than {MOST_VOXELS:,}")
    if min(shape[:3]) < MIN_SIDE or min(shape) < 1:
        raise ScanError(f"shape {tuple(shape)}; a scan needs at least {MIN_SIDE} voxels along each axis")


def check_affine(affine: NDArray[np.float64]) -> None:
    """Refuse an unusable affine.

    Raises:
        ScanError: it is not finite, singular, or its voxels are not millimetres large.
    """
    axes = affine[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or (spacing == 0).any():
        raise ScanError(
            f"the affine gives voxel sizes {spacing.round(4).tolist()} mm; set sform or qform in the header"
        )
    for wrong, expected in ((spacing > LARGEST_VOXEL_MM, "below"), (spacing < LEAST_VOXEL_MM, "above")):
        if wrong.any():
            sizes = ", ".join(f"{size:.4g}" for size in spacing)
            limit = LARGEST_VOXEL_MM if expected == "below" else LEAST_VOXEL_MM
            raise ScanError(
                f"the affine gives voxel sizes {sizes} mm; expected millimetres {expected} {limit:g}. Is the unit "
                "right?"
            )
    if abs(np.linalg.det(axes / spacing)) < 1e-3:
        raise ScanError("the affine is singular: two voxel axes point the same way. Set sform or qform in the header")


def as_float32(values: NDArray[Any], *, scaled: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return voxels as float32.

    Args:
        values: real numbers, any shape.
        scaled: the same as float32 already, where a slope was applied.

    Raises:
        ScanError: finite values become infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(np.float32) if scaled is None else scaled
    infinite = np.isinf(result)
    if infinite.any() and infinite.sum() > np.isinf(values).sum():
        raise ScanError(
            f"some values lie beyond the range of float32, which ends at {np.finfo(np.float32).max:.2g}; they may be "
            "marks for missing voxels. Rescale the volume, or set those to 0"
        )
    return result


def times(shape: Sequence[int | str]) -> str:
    """Format a shape as 128x128x60."""
    return "x".join(str(size) for size in shape)
