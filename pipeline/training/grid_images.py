"""Scans of a modality on one coarse grid, as rows of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import RepeatData
from synthesis.grid import box_shape, onto_box, small_picture

MOST_KEPT = 1000  # scans on the grid, some 400 kB each, that are kept for the next repeat


@dataclass(frozen=True)
class GridImages:
    """Reads scans and puts them onto the grid of `synthesis.grid`.

    Attributes:
        preprocess: the scans.
        kinds: modality → kind; tables have no image.
        spacing_mm: voxel size of volumes.
        pixels: side of pictures.
        kept: scan → its row, of those read before.
    """

    preprocess: VolumeSet
    kinds: Mapping[str, str]
    spacing_mm: float
    pixels: int
    kept: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(
        self, data: RepeatData, observations: tuple[str, ...], *, only: str | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return modality → voxels or pixels, (n, D) float32 in [0, 1]; mean of several scans, NaN for none.

        Args:
            data: of the repeat.
            observations: order of the rows.
            only: modality; None for all that have images.
        """
        number = {name: i for i, name in enumerate(observations)}
        found: dict[str, NDArray[np.float32]] = {}
        for modality, rows in data.scans[data.scans["observation"].isin(number)].groupby("modality", sort=True):
            if only not in (None, modality) or self.kinds[str(modality)] == "table":
                continue
            values: NDArray[np.float32] | None = None
            count = np.zeros(len(observations), dtype=np.float32)
            for scan, observation in rows[["scan", "observation"]].itertuples(index=False):
                one = self.scan(scan, self.kinds[str(modality)])
                if values is None:
                    values = np.zeros((len(observations), one.size), dtype=np.float32)
                values[number[observation]] += one
                count[number[observation]] += 1
            if values is not None:
                values[count > 0] /= count[count > 0, np.newaxis]
                values[count == 0] = np.nan
                found[str(modality)] = values
        return found

    def shape_of(self, modality: str) -> tuple[int, int, int]:
        """Return the shape of an image of a modality: (X, Y, Z), or (H, W, 3) of a picture."""
        return (self.pixels, self.pixels, 3) if self.kinds[modality] == "image" else box_shape(self.spacing_mm)

    def scan(self, scan: str, kind: str) -> NDArray[np.float32]:
        """Return one scan as a row, (D,)."""
        if scan in self.kept:
            return self.kept[scan]
        if kind == "image":
            row = small_picture(self.preprocess.load_picture(scan), side=self.pixels).ravel()
        else:
            volume, mask, affine = self.preprocess.load_placed(scan)
            row = onto_box(volume, mask, affine, spacing_mm=self.spacing_mm).ravel()
        if len(self.kept) < MOST_KEPT:
            self.kept[scan] = row
        return row
