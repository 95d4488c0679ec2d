"""Feature maps or features of many scans, read in batches: on the device while they are few, in a file beyond that.

With 10,000 subjects the feature maps alone are 2 GB. Memory must not grow with the cohort, so beyond a bound they
lie in a
temporary file and every batch is read from it. The file has no name: it is gone when the process is, however it ends.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from torch import Tensor


class FeatureBuffer(AbstractContextManager["FeatureBuffer"]):
    """One row a scan, all of one shape, float32; filled once, read by index.

    Args:
        scans: N names.
        batches: their rows in that order, each item (n, ...) float32; gone through once.
        device: where rows are handed out.
        most_bytes: kept on the device if they are not more than this, else in a file.
        folder: where that file goes; there must be room for all rows.

    Raises:
        ValueError: the batches hold another number of rows than N.
        OSError: no room for the file.
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
        self.place = {scan: i for i, scan in enumerate(scans)}
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
        count, filled = len(self.place), 0
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
        """Some rows, (n, ...) on the device, in the order asked for; rows (n,) int64."""
        if self.kept is not None:
            return self.kept[rows.to(self.device)]
        if self.file is None:
            raise IndexError("there are no rows")
        out = torch.empty(len(rows), *self.shape)
        size = 4 * math.prod(self.shape)
        buffer = memoryview(out.numpy().reshape(-1).view("u1"))  # type: ignore[arg-type]
        for place, row in enumerate(rows.tolist()):
            if not 0 <= row < len(self.place):
                raise IndexError(f"row {row} of {len(self.place)}")
            read = os.preadv(self.file.fileno(), [buffer[place * size : (place + 1) * size]], row * size)
            if read != size:
                raise OSError(f"row {row} could not be read back whole; was the disk full?")
        return out.to(self.device)

    def of(self, scans: Iterable[str]) -> "BufferView":
        """The rows of some scans, numbered anew from 0 in the order given."""
        return BufferView(self, torch.tensor([self.place[scan] for scan in scans], dtype=torch.int64))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give memory and file back."""
        self.close()

    def close(self) -> None:
        """Give memory and file back."""
        self.kept = None
        if self.file is not None:
            self.file.close()
            self.file = None


@dataclass(frozen=True)
class BufferView:
    """Some of the rows, in an order of their own."""

    rows: FeatureBuffer
    place: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.rows.shape

    def __getitem__(self, items: Tensor) -> Tensor:
        """Some rows, (n, ...), on the device."""
        return self.rows[self.place[items.cpu()]]
