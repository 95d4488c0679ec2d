"""The ICBM152 average brain, the template of phantoms: tissue maps, distances from its surface, ventricles."""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from console.errors import InputError

MARGIN_MM = 24  # air added around ICBM152, so that skull and scalp have room
# Box around the lateral ventricles; fluid in it and more than `VENTRICLES_DEPTH_MM` deep in the brain is ventricle.
VENTRICLES_LOW_MM, VENTRICLES_HIGH_MM = (-36.0, -60.0, -6.0), (36.0, 42.0, 34.0)
VENTRICLES_DEPTH_MM = 20


def column(vector: tuple | np.ndarray) -> np.ndarray:
    """Reshape a vector (3,) for adding to positions (3, X, Y, Z); float32."""
    return np.asarray(vector, dtype=np.float32).reshape(3, 1, 1, 1)


@dataclass(frozen=True)
class Icbm152:
    """ICBM152 at `step` mm with air around it; fractions are float32 in [0, 1]."""

    step: int
    corner_mm: np.ndarray  # template position of the first voxel
    grey: np.ndarray
    white: np.ndarray
    brain: np.ndarray  # everything inside the surface of the brain, ventricles too
    brain_mm: np.ndarray  # distance from the surface of the brain, negative inside
    head_mm: np.ndarray  # the same for the brain with its hollows filled, face and neck muscle included
    towards_ventricles: np.ndarray  # (3, X, Y, Z), longest vector 1

    def sample(self, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Interpolate values linearly at template positions."""
        return ndimage.map_coordinates(
            values, (positions - column(self.corner_mm)) / np.float32(self.step), order=1, mode="nearest"
        )


@functools.cache
def icbm152(step: int) -> Icbm152:
    """Read the template shipped with nilearn and average it over blocks of `step` mm.

    Source: Fonov et al. 2011, NeuroImage 54:313; ICBM 2009a nonlinear symmetric: T1, shares of grey and white matter;
    197x233x189 voxels of 1 mm, values 0 to 255.
    """
    try:
        folder = importlib.resources.files("nilearn") / "datasets" / "data"
    except ModuleNotFoundError as error:
        raise InputError("the phantoms are made of volumes shipped with nilearn: pip install nilearn") from error
    maps = {}
    for name in ("t1", "gm", "wm"):
        with importlib.resources.as_file(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") as path:
            image = nib.load(path)
            maps[name] = np.pad(np.asarray(image.dataobj), MARGIN_MM)
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(maps["t1"] > 0, iterations=3))

    def block_means(values: np.ndarray) -> np.ndarray:
        whole = values[tuple(slice(n // step * step) for n in values.shape)]
        x, y, z = (n // step for n in whole.shape)
        return whole.reshape(x, step, y, step, z, step).mean(axis=(1, 3, 5), dtype=np.float32)

    grey, white, brain = block_means(maps["gm"]) / 255, block_means(maps["wm"]) / 255, block_means(mask)
    corner_mm = image.affine[:3, 3] - MARGIN_MM + (step - 1) / 2
    if step == 1:  # distance and pull are smooth: the coarser template suffices
        coarse = icbm152(2)
        return Icbm152(step, corner_mm, grey, white, brain, coarse.brain_mm, coarse.head_mm, coarse.towards_ventricles)

    def distance_mm(inside: np.ndarray) -> np.ndarray:
        distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
        return step * ndimage.gaussian_filter(distance.astype(np.float32), 1)

    brain_mm = distance_mm(brain >= 0.5)
    head_mm = distance_mm(distance_mm(brain_mm < 36) < -36)  # a closing with a ball of 36 mm
    low, high = ((np.array(edge) - corner_mm) / step for edge in (VENTRICLES_LOW_MM, VENTRICLES_HIGH_MM))
    box = np.zeros(brain.shape, dtype=bool)
    box[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))] = True
    ventricles = box & (brain_mm < -VENTRICLES_DEPTH_MM) & (grey + white < 0.5)
    pull = np.stack(
        [
            ndimage.gaussian_filter(ventricles.astype(np.float32), 6 / step, order=order)
            for order in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
    )
    pull /= np.sqrt((pull**2).sum(axis=0)).max()
    return Icbm152(step, corner_mm, grey, white, brain, brain_mm, head_mm, pull)
