"""Feature maps or features of many scans, read in batches: on the device if they are few, else in a file.

With 10,000 subjects the feature maps alone are 2 GB. Memory must not grow with the cohort, so beyond a limit they are
kept in a temporary file and every batch is read from it. The file has no name, so it is deleted with the process.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from torch import Tensor


class FeatureBuffer(AbstractContextManager["FeatureBuffer"]):
    """One row per scan, all of one shape, float32; filled once, read by index.

    Args:
        scans: N names.
        batches: their rows in that order, each item (n, ...) float32; iterated once.
        device: of the rows that are returned.
        most_bytes: kept on the device if they are not more than this, else in a file.
        folder: of that file; needs space for all rows.

    Raises:
        ValueError: the batches do not hold N rows.
        OSError: not enough space for the file.
    """

    def __init__(
        self,
        scans: Sequence[str],
        batches: Iterable[Tensor],
        *,
        device: torch.device,
        most_bytes: int,
        folder: Path,
    ) -> None:
        self.index_of = {scan: i for i, scan in enumerate(scans)}
        self.device = device
        self.shape: tuple[int, ...] = ()
        self.kept: Tensor | None = None
        self.file: IO[bytes] | None = None
        try:
            self._fill(batches, most_bytes, folder)
        except BaseException:
            self.close()
            raise

    def _fill(self, batches: Iterable[Tensor], most_bytes: int, folder: Path) -> None:
        count, filled = len(self.index_of), 0
        for batch in batches:
            if filled == 0:
                self.shape = tuple(batch.shape[1:])
                if 4 * count * math.prod(self.shape) <= most_bytes:
                    self.kept = torch.empty(count, *self.shape, device=self.device)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    self.file = tempfile.TemporaryFile(dir=folder)
            if filled + len(batch) > count:
                raise ValueError(f"more than {count} rows")
            if self.kept is not None:
                self.kept[filled : filled + len(batch)] = batch.to(self.device)
            elif self.file is not None:
                self.file.write(batch.cpu().contiguous().numpy().tobytes())
            filled += len(batch)
        if self.file is not None:
            self.file.flush()
        if filled != count:
            raise ValueError(f"{filled} rows, expected {count}")

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return rows, (n, ...) on the device, in the requested order; rows (n,) int64."""
        if self.kept is not None:
            return self.kept[rows.to(self.device)]
        if self.file is None:
            raise IndexError("there are no rows")
        out = torch.empty(len(rows), *self.shape)
        size = 4 * math.prod(self.shape)
        buffer = memoryview(out.numpy().reshape(-1).view("u1"))  # type: ignore[arg-type]
        for i, row in enumerate(rows.tolist()):
            if not 0 <= row < len(self.index_of):
                raise IndexError(f"row {row} of {len(self.index_of)}")
            read = os.preadv(self.file.fileno(), [buffer[i * size : (i + 1) * size]], row * size)
            if read != size:
                raise OSError(f"row {row} could not be read back whole; was the disk full?")
        return out.to(self.device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release memory and file."""
        self.close()

    def close(self) -> None:
        """Release memory and file."""
        self.kept = None
        if self.file is not None:
            self.file.close()
            self.file = None
