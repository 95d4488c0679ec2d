"""Feature maps of scans, one file a scan."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models.settings import CHUNK
from pipeline.store.base import ArtifactError
from pipeline.store.feature_buffer import Rows
from pipeline.store.scan_set import ScanSet


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
