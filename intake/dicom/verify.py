"""Comparison of what dcm2niix made with the DICOM files themselves, as pydicom reads them: every slice, every value.

A slice has to lie where ImagePositionPatient and ImageOrientationPatient put it, and to hold its stored values times
its own RescaleSlope plus its own RescaleIntercept. Where dcm2niix has the same pixels, but put or scaled them
otherwise, the files decide. Where it has other pixels, the series is refused.

Source: DICOM PS3.3, equation C.7.6.2.1-1 (position), C.11.1.1.2 (rescaling).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from intake.dicom import header as header_of
from intake.dicom.images import Image, quiet, read_whole, slice_positions
from preprocessing.errors import ScanError

SAME_PLACE = 0.2  # of a voxel; slices may be off by so much, and positions are rounded in headers
SAME_VALUE = 1e-5  # of a slice's largest value; dcm2niix computes with single precision
SAME_VALUE_LOSSY = 0.02  # two decoders of a lossy format may differ by so much
_LOSSY = {JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Verified(NamedTuple):
    """A volume that agrees with its DICOM files."""

    voxels: NDArray[np.generic]
    """(X, Y, Z); of several frames their mean, each weighted by its duration."""
    affine: NDArray[np.float64]
    """Voxel to world (4, 4), mm, RAS+."""
    remarks: tuple[str, ...]


class _UncomparableError(Exception):
    """Pixels cannot be decoded by the packages that are installed; the message says why."""


class _Stack(NamedTuple):
    """The files' own grid, with axes column, row, slice."""

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]


def verified(voxels: NDArray[np.generic], affine: NDArray[np.float64], images: Sequence[Image]) -> Verified:
    """Compare a converted volume with its files, and correct what the files say for certain.

    Args:
        voxels: (X, Y, Z), or (X, Y, Z, T) of several frames.
        affine: voxel to world (4, 4), mm, RAS+.
        images: the files that it was made of; every slice has T of them.

    Raises:
        ScanError: slices make no regular grid, or the volume differs from its files in more than order, place, scale.
    """
    stack = _stack(images)
    frames = voxels.shape[3] if voxels.ndim == 4 else 1
    mean = voxels.mean(axis=3, dtype=np.float64) if frames > 1 else voxels.reshape(voxels.shape[:3])
    places = _places(stack, affine, mean.shape)
    weights, weighting = _weights(images, frames)
    remarks = [weighting] * bool(weighting)
    try:
        with quiet():
            alike, weighted, lossy = _read(images, stack, weights)
    except _UncomparableError as error:
        if places is None:
            raise ScanError(f"dcm2niix put slices elsewhere than the DICOM files say, and {error}") from error
        if len(set(weights)) > 1:
            raise ScanError(f"frames of different durations need their pixels, and {error}; unpack it") from error
        return Verified(_small(mean), affine, (*remarks, f"only the geometry was compared with DICOM: {error}"))
    problem = _difference(mean, places, alike, SAME_VALUE_LOSSY if lossy else SAME_VALUE)
    if problem:
        remarks.append(problem)
    elif frames == 1:
        return Verified(_small(mean), affine, tuple(remarks))
    exact = weighted.astype(voxels.dtype) if voxels.dtype.kind in "iu" and frames == 1 else weighted
    result = _small(exact if np.array_equal(exact, weighted) else weighted)
    if places is None:
        return Verified(result, stack.affine, tuple(remarks))
    placed = np.empty(mean.shape, result.dtype)
    placed[places] = result
    return Verified(placed, affine, tuple(remarks))


def _stack(images: Sequence[Image]) -> _Stack:
    """Compute the grid that the files put their slices on.

    Raises:
        ScanError: it is not regular, or sheared.
    """
    direction, spacing = np.array(images[0].orientations[0]), images[0].spacing_mm
    if len(spacing) != 2 or min(spacing) <= 0:
        raise ScanError("there is no PixelSpacing; the size of its voxels is not known")
    normal = header_of.normal(direction)
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise ScanError("rows and columns are not at right angles in ImageOrientationPatient; export the series again")
    positions, _ = slice_positions(images)
    corners: dict[int, NDArray[np.float64]] = {}
    for image in images:
        for number, corner in zip(_slices(image, positions), image.corners_mm, strict=True):
            corners.setdefault(number, np.array(corner))
    ordered = np.array([corners[number] for number in range(len(positions))])
    step = (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    inner = step - normal * (step @ normal)
    shift = float(np.linalg.norm(inner)) * (len(ordered) - 1)
    if shift > SAME_PLACE * min(spacing) + 0.1:
        raise ScanError(
            f"slices are shifted against each other, by {shift:.1f} mm from the first to the last (a tilted gantry, or "
            "a sheared stack); resample the series to a straight one"
        )
    off = np.linalg.norm(ordered - ordered[0] - np.arange(len(ordered))[:, None] * step, axis=1).max()
    if off > SAME_PLACE * np.linalg.norm(step):
        raise ScanError(
            f"slices lie up to {off:.2f} mm beside an even grid of {np.linalg.norm(step):.2f} mm; images seem to be "
            "missing, or their distances vary"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = direction[:3] * spacing[1], direction[3:] * spacing[0]
    affine[:3, 2], affine[:3, 3] = step, ordered[0]
    rows, columns = images[0].size
    return _Stack(_TO_RAS @ affine, (columns, rows, len(positions)))


def _slices(image: Image, positions: Sequence[float]) -> list[int]:
    """Return the number of the slice of every frame of a file."""
    return [int(np.argmin(np.abs(np.subtract(positions, position)))) for position in image.positions_mm]


def _places(
    stack: _Stack, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the voxel of the converted volume for every one of the stack; None if the two grids differ."""
    if sorted(shape) != sorted(stack.shape):
        return None
    try:
        turn = np.linalg.solve(affine, stack.affine)  # voxel of the stack → voxel of the volume
    except np.linalg.LinAlgError:
        return None
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [
        *np.subtract(stack.shape, 1), 1,
    ]  # fmt: skip
    axes = np.rint(turn[:3, :3])
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = axes, np.rint(turn[:3, 3])
    if (np.abs(axes).sum(axis=0) != 1).any() or (np.abs(axes).sum(axis=1) != 1).any():
        return None
    if np.abs((turn - whole) @ corners.T).max() > SAME_PLACE:
        return None
    ends = (whole @ corners.T)[:3]
    if (ends.min(axis=1) != 0).any() or (ends.max(axis=1) != np.subtract(shape, 1)).any():
        return None
    grid = np.ogrid[tuple(slice(side) for side in stack.shape)]
    own = np.abs(axes).argmax(axis=1)
    first, second, third = (grid[own[axis]] * int(axes[axis, own[axis]]) + int(whole[axis, 3]) for axis in range(3))
    return first, second, third


def _weights(images: Sequence[Image], frames: int) -> tuple[list[float], str]:
    """Return the weight of each file, and a remark on frames."""
    if frames == 1:
        return [1.0] * len(images), ""
    durations = [image.duration_ms for image in images]
    if not any(durations):
        return [1.0] * len(images), f"mean of {frames} frames, all counting alike: ActualFrameDuration is missing"
    if not all(duration is not None and duration > 0 for duration in durations):
        raise ScanError(
            f"ActualFrameDuration is missing or 0 in some of {len(images)} files; frames cannot be weighted by their "
            "durations"
        )
    known = [float(duration) for duration in durations if duration is not None]
    counts = {seconds: known.count(seconds) for seconds in sorted(set(known))}
    shown = ", ".join(f"{count * frames // len(images)} of {ms / 1000:g} s" for ms, count in counts.items())
    return known, f"mean of {frames} frames, weighted by their durations ({shown})"


def _read(
    images: Sequence[Image], stack: _Stack, weights: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Read all pixels; return means over frames, each counting alike and weighted, and whether the format is lossy."""
    positions, counts = slice_positions(images)
    alike = np.zeros(stack.shape)
    weighted = alike if len(set(weights)) == 1 else np.zeros(stack.shape)
    total, lossy, slopes = np.zeros(stack.shape[2]), False, set()
    for image, weight in zip(images, weights, strict=True):
        numbers = _slices(image, positions)
        for frame, (plane, has_slope, of_lossy) in enumerate(_planes(image)):
            if frame >= len(numbers) or plane.shape != (stack.shape[1], stack.shape[0]):
                raise _UncomparableError("pydicom reads images of another size")
            number = numbers[frame]
            alike[..., number] += plane.T / counts[number]
            total[number] += weight
            if weighted is not alike:
                weighted[..., number] += weight * plane.T
            lossy |= of_lossy
            slopes.add(has_slope)
    if len(slopes) > 1:
        raise ScanError("some of its images have a RescaleSlope and some have none; export the series again")
    if weighted is not alike:
        weighted /= total
    return alike, weighted, lossy


def _planes(image: Image) -> Iterator[tuple[NDArray[np.float64], bool, bool]]:
    """Yield every frame (rows, columns), rescaled; whether it has a slope, and whether the format is lossy."""
    try:
        whole = read_whole(image)
        syntax = whole.file_meta.TransferSyntaxUID
        if not get_decoder(syntax).is_available:
            raise _UncomparableError(f"no package that is installed decodes {syntax.name}")
        for number, stored in enumerate(iter_pixels(whole, raw=True)):
            scale = header_of.rescaling(whole, number)
            slope, intercept = scale or (1.0, 0.0)
            yield stored.astype(np.float64) * slope + intercept, scale is not None, syntax in _LOSSY
    except (RuntimeError, *header_of.DAMAGED) as error:
        raise _UncomparableError(f"pydicom cannot decode its pixels ({type(error).__name__})") from error


def _difference(
    mean: NDArray[np.generic],
    places: tuple[NDArray[np.intp], ...] | None,
    expected: NDArray[np.float64],
    tolerance: float,
) -> str:
    """Return how a volume differs from its files, "" if it does not.

    Raises:
        ScanError: it differs in more than place and scale.
    """
    least = 1e-7 * float(np.abs(expected).max())
    differing = []
    if places is not None:
        made = mean[places]
        for number in range(expected.shape[2]):
            own, its = expected[..., number], made[..., number].astype(np.float64)
            if np.abs(own - its).max() > tolerance * np.abs(own).max() + least:
                differing.append((own, its))
        if not differing:
            return ""
        scales = [_scale(own, its, tolerance) for own, its in differing]
        if all(scales):
            if len(scales) == expected.shape[2] and np.ptp([scale for scale in scales if scale], axis=0).max() < 1e-4:
                return f"in the units of RescaleSlope; dcm2niix gives {scales[0][0]:.4g} times as much"  # type: ignore[index]
            return (
                f"dcm2niix scaled {len(differing)} of {expected.shape[2]} slices otherwise than DICOM says; corrected "
                "by the slope and intercept of each"
            )
    ours, theirs = np.sort(expected, axis=None), np.sort(mean, axis=None)
    if ours.shape == theirs.shape and (np.abs(ours - theirs) <= tolerance * np.abs(ours) + least).all():
        return "dcm2niix put slices elsewhere than DICOM says; corrected by the position of each"
    raise ScanError(
        f"{len(differing) or 'all'} of {expected.shape[2]} slices that dcm2niix made differ from the DICOM files in "
        "more than order, place and scale; look at the series in a viewer, and export it again without compression"
    )


def _scale(own: NDArray[np.float64], its: NDArray[np.float64], tolerance: float) -> tuple[float, float] | None:
    """Return the factor from one slice to another of the same pixels, and the rest; None if they are others.

    The rest is a share of the largest value of the other slice.
    """
    centred, largest = own - own.mean(), float(np.abs(its).max()) or 1.0
    variance = float((centred**2).sum())
    slope = float((centred * (its - its.mean())).sum()) / variance if variance else 0.0
    left = np.abs(its - its.mean() - slope * centred).max()
    if left > 2 * tolerance * largest or (slope == 0 and variance):
        return None
    return slope, float(its.mean() - slope * own.mean()) / largest


def _small(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
    return voxels.astype(np.float32) if voxels.dtype == np.float64 else voxels
