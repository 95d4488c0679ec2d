"""Rigid registration of one subject's scans: the motion from the MRI to the PET.

The search runs in SimpleITK: Mattes mutual information over the brain and a rim around it, on coarse grids from many
starts, then on a fine one from the best. It uses no random numbers and sums in one thread, so the same two scans
give the same bytes. A scan brought on another grid is interpolated with the cubic convolution of
`preprocessing.resample`, like every other scan.

Source: Mattes et al. 2003, "PET-CT image registration in the chest using free-form deformations" (the metric).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from threading import Lock
from typing import Literal

import numpy as np
import SimpleITK
from monai.data import MetaTensor

from preprocessing.common_grid import Affine, affine_of
from preprocessing.errors import ScanError

RIM_MM = 12.0  # around the brain, included in the metric: the edge from brain to skull and scalp
COARSE_MM, FINE_MM = 8.0, 3.0  # grids of the search; a voxel that is larger stays as it is
BINS = 32  # of each intensity in the joint histogram
TURNED_MM = 50.0  # a rotation by one radian weighs like this translation: about the radius of a brain
PITCHES_DEGREES = (-30.0, -15.0, 0.0, 15.0, 30.0)  # of the starts; heads differ most in pitch
STARTS_KEPT = 3

# Acceptance thresholds. Measured on phantoms, average heads (T1 and PET) and one person's T1 and PD: true pairs with
# this coverage of the brain had an advantage of 1.5 or more; noise, balls and reversed heads 1.2 or less. Another
# person's head, or the same one mirrored left to right, fits nearly as well as the right one and is not detected.
LEAST_ADVANTAGE = 1.3
LEAST_COVERAGE = 0.6
LARGEST_ROTATION_DEGREES = 45.0

Registration = Literal["search", "headers"]

_THREADS = Lock()


@dataclass(frozen=True)
class Rigid:
    """A rigid motion from the world of the fixed scan to that of the moving one, and whether it is reliable.

    Attributes:
        matrix: (4, 4) float64, RAS+ mm. `matrix @ [x, y, z, 1]` of a point of the fixed scan is where the moving scan's
            affine puts the same point of the head.
        rotation_degrees: rotation angle of the matrix, in [0, 180].
        translation_mm: how far the centre of the brain moves.
        coverage: share of the brain mask that lies in the moving scan's field of view, in [0, 1].
        reason: why the registration is rejected; empty if it is accepted.
    """

    matrix: Affine
    rotation_degrees: float
    translation_mm: float
    coverage: float
    reason: str


def register_rigid(
    fixed: MetaTensor, moving: MetaTensor, *, fixed_mask: MetaTensor, by: Registration = "search"
) -> Rigid:
    """Find the rigid motion that brings a scan on another one of the same head, whatever their contrasts.

    Args:
        fixed: the MRI, (1, X, Y, Z), whole head or brain alone, with its affine.
        moving: the PET, (1, X, Y, Z), whole head, with its affine. Neither needs to be in RAS+ order.
        fixed_mask: brain of the MRI, (1, X, Y, Z), above 0.5 inside; its grid may be another one than `fixed` has.
        by: "search"; or "headers", where the two lie on each other already: no motion, checked like one.

    Returns:
        The motion. Look at `reason` before using it.

    Raises:
        ScanError: the mask has nothing inside the frame of `fixed`, or nearly all voxels of a scan are equal.
    """
    still, free = (_clipped(_coarser(_itk(volume), FINE_MM)) for volume in (fixed, moving))
    mask = SimpleITK.Resample(_coarser(_itk(fixed_mask), FINE_MM), still, SimpleITK.Transform(), SimpleITK.sitkLinear)
    brain = _points(mask > 0.5)
    if len(brain) == 0:
        raise ScanError("the brain mask has nothing inside the MRI's frame; is it the mask of this scan?")
    region = SimpleITK.SignedMaurerDistanceMap(mask > 0.5, squaredDistance=False, useImageSpacing=True) <= RIM_MM
    coarse = _Search(_coarser(still, COARSE_MM), _coarser(free, COARSE_MM), region, smooth=True)
    fine = _Search(still, free, region, smooth=False)
    try:
        with _one_thread():
            near = _unmoved(brain.mean(axis=0))
            if by == "search":
                starts = sorted(_starts(brain.mean(axis=0), free), key=coarse.cost)[:STARTS_KEPT]
                near = min((coarse.run(start, step_mm=4.0) for start in starts), key=coarse.cost)
            turned = [coarse.run(_turned(near, axis), step_mm=4.0) for axis in range(3)]
            # Of the mutual information, over the best with the head turned by 180 degrees: upside down, back to front.
            advantage = coarse.cost(near) / min(-1e-6, *map(coarse.cost, turned))
            motion = fine.run(near, step_mm=1.0) if by == "search" else near
    except RuntimeError as error:
        reason = f"SimpleITK cannot register the two scans: {str(error).splitlines()[-1].strip()}"
        return Rigid(np.eye(4), 0.0, 0.0, 0.0, reason)
    return _measured(motion, brain, free, advantage=advantage, by=by)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit ITK's metric to one thread, since its sums depend on the order of threads; only a global setting works.

    The setting belongs to the process, so registrations in several Python threads run one after another.
    """
    with _THREADS:
        before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            yield
        finally:
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _measured(
    motion: SimpleITK.Euler3DTransform, brain: Affine, moving: SimpleITK.Image, *, advantage: float, by: Registration
) -> Rigid:
    """Measure a motion and check it; `brain` (n, 3) are the voxels of the mask, world mm."""
    matrix = _matrix(motion)
    moved = brain @ matrix[:3, :3].T + matrix[:3, 3]
    voxels = (moved - moving.GetOrigin()) @ np.linalg.inv(_axes(moving)).T
    coverage = float(((voxels >= -0.5) & (voxels <= np.array(moving.GetSize()) - 0.5)).all(axis=1).mean())
    degrees = float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))
    shift_mm = float(np.linalg.norm(moved.mean(axis=0) - brain.mean(axis=0)))
    reason = _rejection(advantage=advantage, rotation_degrees=degrees, coverage=coverage, by=by)
    return Rigid(matrix, degrees, shift_mm, coverage, reason)


def _rejection(*, advantage: float, rotation_degrees: float, coverage: float, by: Registration) -> str:
    """Say why a motion is rejected; empty if it is accepted."""
    if by == "headers" and advantage < LEAST_ADVANTAGE:
        return (
            "the scan does not lie on the MRI as the headers say: it fits hardly better than turned by 180 degrees "
            f"({advantage:.2f} times the mutual information, expected {LEAST_ADVANTAGE} or more); look at both, or set "
            "preprocess.registration: search"
        )
    if advantage < 1 / LEAST_ADVANTAGE:
        return (
            f"the scan fits the MRI better turned by 180 degrees ({1 / max(advantage, 1e-6):.2f} times the mutual "
            "information); its header, or the MRI's, gives a wrong orientation. Convert it again from the source"
        )
    if advantage < LEAST_ADVANTAGE:
        return (
            f"the scan fits the MRI hardly better than turned by 180 degrees ({advantage:.2f} times the mutual "
            f"information, expected {LEAST_ADVANTAGE} or more); look at both: the same head, and voxel sizes as it has?"
        )
    if rotation_degrees > LARGEST_ROTATION_DEGREES:
        return (
            f"the scan would have to be turned by {rotation_degrees:.0f} degrees to fit the MRI, more than "
            f"{LARGEST_ROTATION_DEGREES:.0f}; one of the two headers gives a wrong orientation"
        )
    if coverage < LEAST_COVERAGE:
        return (
            f"the scan shows {coverage:.0%} of the MRI's brain, less than {LEAST_COVERAGE:.0%}; its field of view "
            "cuts the brain"
        )
    return ""


class _Search:
    """A search for the best rigid motion between two volumes near a start.

    Args:
        fixed: the volume whose voxels are mapped.
        moving: the volume that is interpolated.
        region: 1 at the voxels of `fixed` that are used; its grid may differ.
        smooth: take the gradient of a blurred moving volume. It helps from afar; but every axis is blurred by the
            thickest voxel, so near the goal slices of 5 mm mislead it.
    """

    def __init__(
        self, fixed: SimpleITK.Image, moving: SimpleITK.Image, region: SimpleITK.Image, *, smooth: bool
    ) -> None:
        self.fixed, self.moving, self.smooth = fixed, moving, smooth
        self.region = SimpleITK.Resample(region, fixed, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)

    def method(self) -> SimpleITK.ImageRegistrationMethod:
        """Set up the metric over every voxel of the region."""
        method = SimpleITK.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricFixedMask(self.region)
        method.SetInterpolator(SimpleITK.sitkLinear)
        return method

    def cost(self, motion: SimpleITK.Euler3DTransform) -> float:
        """Compute the negative mutual information, nats; 0 if the volumes do not overlap."""
        method = self.method()
        method.SetInitialTransform(motion, inPlace=False)
        try:
            return float(method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError:
            return 0.0

    def run(self, start: SimpleITK.Euler3DTransform, *, step_mm: float) -> SimpleITK.Euler3DTransform:
        """Run gradient descent from `start`; its first step is `step_mm`, its last 1/200 of that. Never fit worse."""
        method, motion = self.method(), SimpleITK.Euler3DTransform(start)
        method.SetInitialTransform(motion, inPlace=True)
        method.SetMetricUseMovingImageGradientFilter(self.smooth)
        method.SetOptimizerAsRegularStepGradientDescent(step_mm, step_mm / 200, 100, gradientMagnitudeTolerance=1e-6)
        method.SetOptimizerScales([TURNED_MM**2] * 3 + [1.0] * 3)
        method.Execute(self.fixed, self.moving)
        return min(start, motion, key=self.cost)


def _starts(centre: Affine, moving: SimpleITK.Image) -> Iterator[SimpleITK.Euler3DTransform]:
    """Yield starts at all pitches: by the headers, brain in the middle of the moving frame or of its bright voxels."""
    values = SimpleITK.GetArrayViewFromImage(moving)
    bright = _points(moving > 0.3 * float(values.max()))
    frame = moving.GetOrigin() + _axes(moving) @ (np.array(moving.GetSize()) - 1) / 2
    for middle, pitch in product((centre, frame, bright.mean(axis=0)), PITCHES_DEGREES):
        start = _unmoved(centre)
        start.SetRotation(float(np.radians(pitch)), 0.0, 0.0)
        start.SetTranslation((middle - centre).tolist())
        yield start


def _unmoved(centre: Affine) -> SimpleITK.Euler3DTransform:
    """Return no motion, to be turned about `centre`, world mm."""
    still = SimpleITK.Euler3DTransform()
    still.SetCenter(centre.tolist())
    return still


def _turned(motion: SimpleITK.Euler3DTransform, axis: int) -> SimpleITK.Euler3DTransform:
    """Rotate the head by 180 degrees about a world axis through the brain's centre before the motion."""
    half = -np.eye(3)
    half[axis, axis] = 1
    turned = SimpleITK.Euler3DTransform(motion)
    turned.SetMatrix((np.array(motion.GetMatrix()).reshape(3, 3) @ half).ravel().tolist())
    return turned


def _matrix(motion: SimpleITK.Euler3DTransform) -> Affine:
    """Convert a transform to a (4, 4) matrix."""
    matrix, centre = np.eye(4), np.array(motion.GetCenter())
    matrix[:3, :3] = np.array(motion.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = centre + motion.GetTranslation() - matrix[:3, :3] @ centre
    return matrix


# --- Volumes for the search ---


def _itk(volume: MetaTensor) -> SimpleITK.Image:
    """Convert (1, X, Y, Z) to a SimpleITK image, float32. Its world stays RAS+; ITK's LPS+ matters in files only."""
    array = volume[0].as_tensor().cpu().numpy().astype(np.float32)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    axes = affine_of(volume)[:3, :3]
    spacing_mm = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection((axes / spacing_mm).ravel().tolist())
    image.SetOrigin(affine_of(volume)[:3, 3].tolist())
    return image


def _axes(image: SimpleITK.Image) -> Affine:
    """Return the steps along each voxel axis, (3, 3), world mm."""
    return np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()


def _points(mask: SimpleITK.Image) -> Affine:
    """Return the positions of the voxels of a mask, (n, 3), world mm."""
    voxels = np.argwhere(SimpleITK.GetArrayViewFromImage(mask))[:, ::-1]  # ITK's arrays are z, y, x
    return mask.GetOrigin() + voxels @ _axes(mask).T


def _coarser(image: SimpleITK.Image, spacing_mm: float) -> SimpleITK.Image:
    """Blur and subsample the axes whose voxels are smaller than `spacing_mm`; the centre stays."""
    old_mm = np.array(image.GetSpacing())
    new_mm = np.maximum(old_mm, spacing_mm)
    size = np.maximum(np.round(np.array(image.GetSize()) * old_mm / new_mm), 1).astype(int)
    first = (np.array(image.GetSize()) - 1) / 2 - (size - 1) / 2 * new_mm / old_mm
    grid = SimpleITK.Image(size.tolist(), SimpleITK.sitkFloat32)
    grid.SetSpacing(new_mm.tolist())
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first.tolist()))
    for axis, sigma_mm in enumerate(np.sqrt(new_mm**2 - old_mm**2) / np.sqrt(8 * np.log(2))):
        if sigma_mm > 0.1 * old_mm[axis]:
            image = SimpleITK.RecursiveGaussian(image, float(sigma_mm), direction=axis)
    return SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear)


def _clipped(image: SimpleITK.Image) -> SimpleITK.Image:
    """Clip extreme intensities: one hot voxel would leave only a few histogram bins for the brain."""
    low, high = np.percentile(SimpleITK.GetArrayViewFromImage(image), (0.1, 99.5))
    if low == high:
        raise ScanError(f"nearly every voxel is {low:g}; a scan of a head cannot be. The export may have failed")
    return SimpleITK.Clamp(image, SimpleITK.sitkFloat32, float(low), float(high))
