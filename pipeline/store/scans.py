"""Artifacts with one folder a scan: phantoms, preprocessed volumes, backbone blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from files.reading import file_sha256
from files.writing import real_folder, remove_folder
from models.settings import CHUNK
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, DamagedError, read_record, safe_id, write_record
from pipeline.store.feature_buffer import Rows
from preprocessing.errors import ScanError
from preprocessing.io import read_picture, read_volume, write_volume
from preprocessing.resample import voxel_size_mm


class ScanSet(Artifact):
    """One folder a scan. `record.json` is written last and holds the key that the files were made from."""

    def place(self, scan: str) -> Path:
        """Return the folder of a scan, a direct child of the artifact's.

        Raises:
            ArtifactError: what should be a scan's id is none.
        """
        return self.folder / safe_id(scan)

    def record(self, scan: str) -> dict[str, Any] | None:
        """What was recorded with the scan's files; None if they are not finished."""
        return read_record(self.place(scan) / "record.json")

    def has(self, scan: str, key: str) -> bool:
        """Whether the scan's files are finished and made from `key`."""
        return (self.record(scan) or {}).get("key") == key

    def failure(self, scan: str, key: str) -> dict[str, Any] | None:
        """The recorded failure under `key`: stage, reason, again (worth another try)."""
        failure = read_record(self.place(scan) / "failure.json")
        return failure if failure and failure.get("key") == key else None

    def begin(self, scan: str) -> Path:
        """The scan's folder, emptied: nothing of an earlier setting stays behind."""
        self.remove(scan)
        place = self.place(scan)
        return real_folder(place, below=place.parent)

    def remove(self, scan: str) -> None:
        """Delete the folder of a scan, its record first.

        Raises:
            PlantedLinkError: it is a link.
        """
        place = self.place(scan)
        self.invalidate(scan)
        remove_folder(place, below=place.parent)

    def invalidate(self, scan: str) -> None:
        """Take the scan's files for unfinished from now on."""
        place = self.place(scan)
        if not place.is_symlink():
            (place / "record.json").unlink(missing_ok=True)

    def finish(self, scan: str, key: str, facts: Mapping[str, Any]) -> None:
        """Say that the scan's files are complete; what readers go by is their content."""
        write_record(self.place(scan) / "record.json", {"key": key, "content": self.content(scan), **facts})

    def content(self, scan: str) -> str:
        """Return the hash of the scan's files as they are now."""
        files = sorted(path for path in self.place(scan).iterdir() if path.suffix in (".gz", ".png", ".safetensors"))
        return digest([(file.name, file_sha256(file)) for file in files])

    def check(self, scan: str) -> None:
        """Compare the scan's files with the hash in its record; every reader does this first.

        Raises:
            DamagedError: they are not as they were written. The scan counts as unfinished from then on.
        """
        record = self.record(scan)
        if record is None:
            self.damage(scan, "its record is gone, or not as it was written")
        if record.get("content") != self.content(scan):
            self.damage(scan, "its files are not as they were written")

    def damage(self, scan: str, found: str) -> NoReturn:
        """Take the scan for unfinished, and say so.

        Raises:
            DamagedError: always.
        """
        self.invalidate(scan)
        raise DamagedError(f"{self.folder.name}: the result of scan {scan} is damaged on disk: {found}")

    def check_all(self) -> list[str]:
        """Compare every scan with its record; returns those that were damaged and count as unfinished now."""
        damaged = []
        for scan in self.scans():
            try:
                self.check(scan)
            except DamagedError:
                damaged.append(scan)
        return damaged

    def fail(self, scan: str, key: str, reason: str, *, again: bool) -> None:
        """Record why there are no files; `again` if another try may end differently."""
        self.begin(scan)
        write_record(self.place(scan) / "failure.json", {"key": key, "reason": reason, "again": again})

    def scans(self) -> dict[str, str]:
        """Scan → hash of its files, of the scans that the finished stage holds."""
        return (self.manifest or {}).get("scans", {})

    def damaged(self) -> str:
        """Name a scan whose files were taken away since; whether they are whole is looked at when they are read."""
        gone = [scan for scan in self.scans() if not (self.place(scan) / "record.json").exists()]
        return f"the files of {len(gone)} scans are gone, {gone[0]} among them" if gone else super().damaged()


class PhantomCohort(ScanSet):
    """The demo cohort: NIfTI scans, `manifest.csv` like anyone's, and the truth that only tests read."""

    SCAN, TRUE_MASK = "scan.nii.gz", "true_mask.nii.gz"

    @property
    def manifest_csv(self) -> Path:
        """The cohort's manifest."""
        return self.folder / "manifest.csv"


class PictureCohort(ScanSet):
    """The cohort of drawn biopsies: a PNG a picture, `manifest.csv` like anyone's."""

    PICTURE = "biopsy.png"

    @property
    def manifest_csv(self) -> Path:
        """The cohort's manifest."""
        return self.folder / "manifest.csv"


class VolumeSet(ScanSet):
    """Preprocessed scans: `volume.nii.gz` and `mask.nii.gz`, or `picture.png`; `qc.png` for volumes."""

    def save_volume(
        self, scan: str, volume: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray[np.float64],
        qc: bytes,
    ) -> None:  # fmt: skip
        """Write one volume.

        Args:
            scan: which.
            volume: (X, Y, Z), float32 in [0, 1], RAS+ order.
            mask: (X, Y, Z), bool.
            affine: voxel to world, (4, 4), mm.
            qc: PNG.

        Raises:
            ArtifactError: shapes, dtypes or range are not these.
        """
        if volume.dtype != np.float32 or volume.ndim != 3 or mask.shape != volume.shape or mask.dtype != bool:
            raise ArtifactError(f"{scan}: volume {volume.dtype} {volume.shape}, mask {mask.dtype} {mask.shape}")
        if not (volume.min() >= 0 and volume.max() <= 1):
            raise ArtifactError(f"{scan}: values from {volume.min()} to {volume.max()}, expected [0, 1]")
        place = self.begin(scan)
        write_volume(place / "volume.nii.gz", volume, affine, "HyperMM preprocessed")
        write_volume(place / "mask.nii.gz", mask.astype(np.uint8), affine, "HyperMM brain mask")
        (place / "qc.png").write_bytes(qc)

    def load_placed(self, scan: str) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """Volume (X, Y, Z) float32 in [0, 1], mask (X, Y, Z) bool, affine from voxel to world in mm."""
        self.check(scan)
        try:
            volume = read_volume(self.place(scan) / "volume.nii.gz")
            mask = read_volume(self.place(scan) / "mask.nii.gz")
        except (ScanError, FileNotFoundError) as error:
            self.damage(scan, str(error))
        if volume.shape != mask.shape or not (volume.min() >= 0 and volume.max() <= 1):
            self.damage(scan, f"volume {tuple(volume.shape)} and mask {tuple(mask.shape)}, or values outside [0, 1]")
        return volume[0].as_tensor(), mask[0].as_tensor() > 0.5, np.asarray(volume.affine)

    def load_volume(self, scan: str) -> tuple[Tensor, Tensor, tuple[float, float, float]]:
        """Volume (X, Y, Z) float32 in [0, 1], mask (X, Y, Z) bool, voxel size in mm."""
        volume, mask, affine = self.load_placed(scan)
        return volume, mask, voxel_size_mm(affine)

    def save_picture(self, scan: str, png: bytes) -> None:
        """Write one picture (PNG)."""
        (self.begin(scan) / "picture.png").write_bytes(png)

    def load_picture(self, scan: str) -> NDArray[np.uint8]:
        """(H, W, 3), uint8."""
        self.check(scan)
        try:
            return read_picture(self.place(scan) / "picture.png")
        except (ScanError, FileNotFoundError) as error:
            self.damage(scan, str(error))

    def qc_picture(self, scan: str) -> bytes | None:
        """Return the QC picture, or the picture itself; None if the scan has neither.

        Raises:
            DamagedError: its files are not as they were written.
        """
        for name in ("qc.png", "picture.png"):
            if (self.place(scan) / name).exists():
                self.check(scan)
                return (self.place(scan) / name).read_bytes()
        return None


class BlockSet(ScanSet):
    """Backbone blocks: `block.safetensors` with `block` (C, H, W) and, if asked for, `slices` (S, C, H, W); float32."""

    def save(self, scan: str, block: Tensor, slices: Tensor | None = None) -> None:
        """Write one block.

        Raises:
            ArtifactError: not float32, not (C, H, W), or not finite.
        """
        if block.dtype != torch.float32 or block.ndim != 3 or not torch.isfinite(block).all():
            raise ArtifactError(f"{scan}: block {block.dtype} {tuple(block.shape)}, expected finite float32 (C, H, W)")
        tensors = {"block": block.cpu().contiguous()}
        if slices is not None:
            tensors["slices"] = slices.cpu().contiguous()
        (self.begin(scan) / "block.safetensors").write_bytes(safetensors.torch.save(tensors))

    def load(self, scans: list[str]) -> Tensor:
        """Blocks of scans, (N, C, H, W) float32, in the order asked for.

        Raises:
            DamagedError: one is missing, not as it was written, not finite, or of another shape.
        """
        blocks: list[Tensor] = []
        for scan in scans:
            block = self._tensor(scan, "block")
            if block is None or block.dtype != torch.float32 or block.ndim != 3 or not torch.isfinite(block).all():
                self.damage(scan, "its block is not finite float32 (C, H, W)")
            if blocks and block.shape != blocks[0].shape:
                self.damage(scan, f"its block is {tuple(block.shape)}, that of others {tuple(blocks[0].shape)}")
            blocks.append(block)
        return torch.stack(blocks)

    def _tensor(self, scan: str, name: str) -> Tensor | None:
        """Read one tensor of a scan, after comparing its file with the record; None if there is no such tensor.

        Raises:
            DamagedError: the file cannot be read, or is not as it was written.
        """
        self.check(scan)
        try:
            with safetensors.safe_open(self.place(scan) / "block.safetensors", framework="pt") as file:
                return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 - it is no dict
        except (OSError, safetensors.SafetensorError) as error:
            self.damage(scan, str(error))

    def slices(self, scan: str) -> Tensor | None:
        """The features of every slice of a scan, (S, C, H, W) float32; None if they were not kept."""
        slices = self._tensor(scan, "slices")
        if slices is not None and not torch.isfinite(slices).all():
            self.damage(scan, "its slices are not finite")
        return slices

    def rows(self, *, device: torch.device, memory_mb: int, folder: Path) -> Rows:
        """The blocks of all scans, to be read by index.

        Args:
            device: where batches of them are handed out.
            memory_mb: blocks up to this are held on the device, more in a temporary file.
            folder: for that file.

        Raises:
            DamagedError: as `load`.
        """
        scans = sorted(self.scans())
        batches = (self.load(scans[start : start + CHUNK]) for start in range(0, len(scans), CHUNK))
        return Rows(scans, batches, device=device, most_bytes=1_000_000 * memory_mb, folder=folder)
