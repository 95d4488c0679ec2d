"""Which numbers of a patient's score vector belong to which modality or covariate."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Pattern = tuple[bool, ...]


@dataclass(frozen=True)
class Blocks:
    """The layout of a score vector: blocks one after the other, each there or missing as a whole.

    Attributes:
        names: of the blocks, such as modalities and covariates; all different.
        sizes: numbers in each block, at least 1.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if (
            len(set(self.names)) < len(self.names)
            or len(self.names) != len(self.sizes)
            or min(self.sizes, default=0) < 1
        ):
            raise ValueError(
                f"blocks {self.names} of sizes {self.sizes}: expected different names, each with a size >= 1"
            )

    @property
    def width(self) -> int:
        """Numbers of a whole score vector, d."""
        return sum(self.sizes)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The block of each number, (d,)."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def slice_of(self, name: str) -> slice:
        """Return where the numbers of a block stand.

        Raises:
            ValueError: there is no such block.
        """
        number = self.names.index(name)
        start = sum(self.sizes[:number])
        return slice(start, start + self.sizes[number])

    def columns(self, pattern: Pattern) -> NDArray[np.int64]:
        """Return the places of the numbers that a pattern has, ascending."""
        return np.flatnonzero(np.array(pattern, dtype=bool)[self.owner])

    def stack(self, scores: Mapping[str, FloatArray]) -> FloatArray:
        """Put the blocks of n patients side by side.

        Args:
            scores: block → (n, size); rows of NaN where it is missing. A block that is not named is missing for all.

        Returns:
            (n, d), NaN where a block is missing.
        """
        count = len(next(iter(scores.values())))
        rows = np.full((count, self.width), np.nan)
        for name, values in scores.items():
            rows[:, self.slice_of(name)] = values
        return rows

    def patterns(self, rows: FloatArray) -> list[Pattern]:
        """Return which blocks each row has.

        Args:
            rows: (n, d), NaN where a block is missing.

        Raises:
            ValueError: a row has part of a block, an infinite number, or another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"scores of shape {rows.shape}; expected (n, {self.width})")
        missing = np.isnan(rows)
        share = np.stack([missing[:, self.owner == b].mean(axis=1) for b in range(len(self.names))], axis=1)
        for row, block in np.argwhere((share > 0) & (share < 1)).tolist():
            raise ValueError(
                f"patient in row {row}: part of {self.names[block]} is NaN; expected all its numbers or none of them"
            )
        for row in np.flatnonzero(np.isinf(rows).any(axis=1)).tolist():
            raise ValueError(
                f"patient in row {row}: an infinite score; expected finite numbers, or NaN for a missing block"
            )
        return [tuple(each) for each in (share == 0).tolist()]
