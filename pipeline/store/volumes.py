"""Preprocessed volumes with masks and QC pictures, and 2-D pictures."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store.base import ArtifactError
from pipeline.store.scan_set import ScanSet
from preprocessing.encoding import png_bytes, png_pixels
from preprocessing.errors import ScanError
from preprocessing.pictures import read_picture
from preprocessing.qc import mirrored
from preprocessing.resample import voxel_size_mm
from preprocessing.volumes import read_volume, write_volume


class VolumeSet(ScanSet):
    """Preprocessed scans: `volume.nii.gz` and `mask.nii.gz`, or `picture.png`; `qc.png` for volumes."""

    def save_volume(
        self, scan: str, volume: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray[np.float64],
        qc: bytes,
    ) -> None:  # fmt: skip
        """Write one volume.

        Args:
            scan: its id.
            volume: (X, Y, Z), float32 in [0, 1], RAS+ order.
            mask: (X, Y, Z), bool.
            affine: voxel to world, (4, 4), mm.
            qc: PNG.

        Raises:
            ArtifactError: wrong shapes, dtypes or range.
        """
        if volume.dtype != np.float32 or volume.ndim != 3 or mask.shape != volume.shape or mask.dtype != bool:
            raise ArtifactError(f"{scan}: volume {volume.dtype} {volume.shape}, mask {mask.dtype} {mask.shape}")
        if not (volume.min() >= 0 and volume.max() <= 1):
            raise ArtifactError(f"{scan}: values from {volume.min()} to {volume.max()}, expected [0, 1]")
        folder = self.begin(scan)
        write_volume(folder / "volume.nii.gz", volume, affine, "HyperMM preprocessed")
        write_volume(folder / "mask.nii.gz", mask.astype(np.uint8), affine, "HyperMM brain mask")
        (folder / "qc.png").write_bytes(qc)

    def load_placed(self, scan: str) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """Load volume (X, Y, Z) float32 in [0, 1], mask (X, Y, Z) bool, affine from voxel to world in mm."""
        self.check(scan)
        try:
            volume = read_volume(self.folder_of(scan) / "volume.nii.gz")
            mask = read_volume(self.folder_of(scan) / "mask.nii.gz")
        except (ScanError, FileNotFoundError) as error:
            self.damage(scan, str(error))
        if volume.shape != mask.shape or not (volume.min() >= 0 and volume.max() <= 1):
            self.damage(scan, f"volume {tuple(volume.shape)} and mask {tuple(mask.shape)}, or values outside [0, 1]")
        return volume[0].as_tensor(), mask[0].as_tensor() > 0.5, np.asarray(volume.affine)

    def load_volume(self, scan: str) -> tuple[Tensor, Tensor, tuple[float, float, float]]:
        """Load volume (X, Y, Z) float32 in [0, 1], mask (X, Y, Z) bool, voxel size in mm."""
        volume, mask, affine = self.load_placed(scan)
        return volume, mask, voxel_size_mm(affine)

    def save_picture(self, scan: str, png: bytes) -> None:
        """Write one picture (PNG)."""
        (self.begin(scan) / "picture.png").write_bytes(png)

    def load_picture(self, scan: str) -> NDArray[np.uint8]:
        """Load a picture (H, W, 3), uint8."""
        self.check(scan)
        try:
            return read_picture(self.folder_of(scan) / "picture.png").pixels
        except (ScanError, FileNotFoundError) as error:
            self.damage(scan, str(error))

    def qc_picture(self, scan: str, convention: str = "radiological") -> bytes | None:
        """Return the QC picture in a convention, or the picture itself as it is; None if the scan has neither.

        Raises:
            DamagedError: the files are not as they were written.
        """
        for name in ("qc.png", "picture.png"):
            if (self.folder_of(scan) / name).exists():
                self.check(scan)
                png = (self.folder_of(scan) / name).read_bytes()
                turn = name == "qc.png" and convention == "neurological"
                return png_bytes(mirrored(png_pixels(png))) if turn else png
        return None
