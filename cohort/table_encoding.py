"""Tables as vectors: what φ reads of a patient's values, with all that is learnt taken from training patients only.

Every column becomes a block of numbers, centred and brought to one spread, so that each column weighs the same:

- a number is standardised: (value - mean) / standard deviation;
- a category is one number for each category that training has, 1 or 0, minus its share in training, all divided by the
  root of their summed variances; so a rare category does not count for more than a common one;
- one number more says that the value is missing: 1 or 0, minus the share of missing values in training.

A missing number counts as the training mean and a missing category as none of them: beside the indicator both are 0,
which is what training has on average. The indicator is used only if training has patients with and without a value:
else its weights would never have been trained, and it stays 0. A category that training does not have counts as
missing. A column with one value in training counts for nothing but its indicator.

The blocks are laid over the C channels of a feature map along fixed directions at right angles, the rows of the
discrete cosine transform (docs/decisions/0015); no draw is involved, so that others can compute the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cohort.names import canonical_value
from cohort.table_members import Values

FloatArray = NDArray[np.float64]


class TooWideError(ValueError):
    """A table has more numbers than a feature map has channels."""


@dataclass(frozen=True)
class Column:
    """What training patients say of one column.

    Attributes:
        name: of the column.
        categories: those of training, sorted; () for a number.
        centre: mean of the number, or share of each category, among the values given; () if none is given.
        spread: standard deviation of the number, or root of the categories' summed variances; 0 if all are alike.
        missing: share of the members without a value; 0 or 1 if the indicator is not used.
    """

    name: str
    categories: tuple[str, ...]
    centre: tuple[float, ...]
    spread: float
    missing: float

    @classmethod
    def fit(cls, name: str, values: Sequence[float | str | None]) -> Self:
        """Learn a column from training members, at least one."""
        given = [value for value in values if value is not None]
        missing = 1 - len(given) / len(values)
        if not given:
            return cls(name, (), (), 0.0, missing)
        if isinstance(given[0], str):
            categories = tuple(sorted({str(value) for value in given}))
            shares = np.array([[value == each for each in categories] for value in given]).mean(0)
            return cls(name, categories, tuple(shares.tolist()), float(np.sqrt((shares * (1 - shares)).sum())), missing)
        numbers = np.array(given, dtype=np.float64)
        spread = float(numbers.std()) if numbers.min() < numbers.max() else 0.0
        return cls(name, (), (float(numbers.mean()),), spread, missing)

    @property
    def width(self) -> int:
        """How many numbers the column becomes."""
        return len(self.centre) + 1

    def unseen(self, value: float | str | None) -> bool:
        """Return whether a category is none of training's, in any spelling."""
        return isinstance(value, str) and canonical_value(value) not in map(canonical_value, self.categories)

    def encode(self, values: Sequence[float | str | None]) -> FloatArray:
        """Return the block of some members, (n, width)."""
        block = np.zeros((len(values), self.width))
        place = {canonical_value(each): number for number, each in enumerate(self.categories)}
        for row, value in enumerate(values):
            known = value is not None and not self.unseen(value) and len(self.centre) > 0
            if known and self.spread > 0:
                raw = np.eye(len(place))[place[canonical_value(value)]] if isinstance(value, str) else value
                block[row, :-1] = (raw - np.array(self.centre)) / self.spread
            if 0 < self.missing < 1:
                block[row, -1] = (not known) - self.missing
        return block


@dataclass(frozen=True)
class TableEncoder:
    """The code of one table, learnt from training members.

    Attributes:
        columns: in the order of cohort.modalities.
    """

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, members: Sequence[Values]) -> Self:
        """Learn the code from training members, at least one, all with the same columns."""
        return cls(tuple(Column.fit(name, [values.get(name) for values in members]) for name in members[0]))

    def encode(self, members: Sequence[Values], channels: int) -> NDArray[np.float32]:
        """Return the channels of members' feature maps; they are the same at every position.

        Their mean square is about 1 over training members.

        Args:
            members: column → value, or None; a column that is not there counts as missing.
            channels: C.

        Returns:
            (n, C).

        Raises:
            TooWideError: the blocks have more numbers than there are channels.
        """
        width = sum(column.width for column in self.columns)
        if width > channels:
            raise TooWideError(
                f"its columns become {width} numbers (each category is one), more than the {channels} channels of a "
                "feature map; make two tables of it, or take columns out"
            )
        blocks = [column.encode([values.get(column.name) for values in members]) for column in self.columns]
        speaking = sum(column.spread > 0 or 0 < column.missing < 1 for column in self.columns)
        scale = np.sqrt(channels / max(speaking, 1))
        with np.errstate(over="ignore"):  # a value out of all bounds becomes infinite, and is refused as such
            return (scale * np.concatenate(blocks, axis=1) @ directions(width, channels)).astype(np.float32)

    def unseen(self, values: Values) -> dict[str, str]:
        """Return the columns of a member whose category training does not have, with it."""
        found = {column.name: values.get(column.name) for column in self.columns}
        return {c.name: str(found[c.name]) for c in self.columns if c.categories and c.unseen(found[c.name])}

    def silent(self) -> list[str]:
        """Return the columns that have one value or none in training."""
        return [column.name for column in self.columns if column.spread == 0]

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain values, for `from_json`."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_json(cls, columns: Sequence[Mapping[str, Any]]) -> Self:
        """Return the encoder of `to_json`."""
        return cls(
            tuple(
                Column(c["name"], tuple(c["categories"]), tuple(c["centre"]), float(c["spread"]), float(c["missing"]))
                for c in columns
            )
        )


def directions(width: int, channels: int) -> FloatArray:
    """Return orthonormal rows (width, channels): cosines of rising frequency, from one half period on.

    Row k is √(2/C) cos(π (k + 1) (c + ½) / C), the last one, of C rows, the constant 1/√C.
    Source: the discrete cosine transform, type II.
    """
    frequency = np.arange(1, channels + 1) % channels
    rows = np.cos(np.pi * np.outer(frequency[:width], np.arange(channels) + 0.5) / channels)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
