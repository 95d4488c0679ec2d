"""Feature maps of scans, one file per scan."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models.settings import CHUNK
from pipeline.store.base import ArtifactError
from pipeline.store.feature_buffer import FeatureBuffer
from pipeline.store.scan_set import ScanSet


class FeatureStore(ScanSet):
    """Feature maps, float32: `features.safetensors` with `feature_map` (C, H, W), optionally `slices` (S, C, H, W)."""

    def save(self, scan: str, feature_map: Tensor, slices: Tensor | None = None) -> None:
        """Write one feature map.

        Raises:
            ArtifactError: not float32, not (C, H, W), or not finite.
        """
        if feature_map.dtype != torch.float32 or feature_map.ndim != 3 or not torch.isfinite(feature_map).all():
            raise ArtifactError(
                f"{scan}: feature map {feature_map.dtype} {tuple(feature_map.shape)}, expected finite float32 (C, H, W)"
            )
        tensors = {"feature_map": feature_map.cpu().contiguous()}
        if slices is not None:
            tensors["slices"] = slices.cpu().contiguous()
        (self.begin(scan) / "features.safetensors").write_bytes(safetensors.torch.save(tensors))

    def load(self, scans: list[str]) -> Tensor:
        """Load the feature maps of scans, (N, C, H, W) float32, in the requested order.

        Raises:
            DamagedError: a feature map is missing, not as it was written, not finite, or of another shape.
        """
        feature_maps: list[Tensor] = []
        for scan in scans:
            feature_map = self._tensor(scan, "feature_map")
            if (
                feature_map is None
                or feature_map.dtype != torch.float32
                or feature_map.ndim != 3
                or not torch.isfinite(feature_map).all()
            ):
                self.damage(scan, "its feature map is not finite float32 (C, H, W)")
            if feature_maps and feature_map.shape != feature_maps[0].shape:
                self.damage(
                    scan,
                    f"its feature map is {tuple(feature_map.shape)}, that of others {tuple(feature_maps[0].shape)}",
                )
            feature_maps.append(feature_map)
        return torch.stack(feature_maps)

    def feature_map_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of the finished stage, which also knows it without a single scan.

        Raises:
            ArtifactError: the stage is not finished.
        """
        recorded = (self.manifest or {}).get("feature_map_shape")
        shape = next(((self.record(scan) or {}).get("shape") for scan in self.scans()), recorded)
        if not isinstance(shape, list) or len(shape) != 3:
            raise ArtifactError(f"{self.folder} is not finished; run --stages features first")
        return int(shape[0]), int(shape[1]), int(shape[2])

    def _tensor(self, scan: str, name: str) -> Tensor | None:
        """Read one tensor of a scan, after comparing its file with the record; None if the file has no such tensor.

        Raises:
            DamagedError: the file cannot be read, or is not as it was written.
        """
        self.check(scan)
        try:
            with safetensors.safe_open(self.folder_of(scan) / "features.safetensors", framework="pt") as file:
                return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 - it is no dict
        except (OSError, safetensors.SafetensorError) as error:
            self.damage(scan, str(error))

    def slices(self, scan: str) -> Tensor | None:
        """Return the features of every slice of a scan, (S, C, H, W) float32; None if they were not kept."""
        slices = self._tensor(scan, "slices")
        if slices is not None and not torch.isfinite(slices).all():
            self.damage(scan, "its slices are not finite")
        return slices

    def rows(self, *, device: torch.device, memory_mb: int, folder: Path) -> FeatureBuffer:
        """Return a buffer of the feature maps of all scans.

        Args:
            device: of the batches that are returned.
            memory_mb: up to this size feature maps are kept on the device, else in a temporary file.
            folder: of that file.

        Raises:
            DamagedError: as `load`.
        """
        scans = sorted(self.scans())
        batches = (self.load(scans[start : start + CHUNK]) for start in range(0, len(scans), CHUNK))
        return FeatureBuffer(scans, batches, device=device, most_bytes=1_000_000 * memory_mb, folder=folder)
