"""What the joint model knows of patients: counts, sums and sums of outer products, for each class and pattern.

Only what was observed is summed, nothing completed, so sums of two sites add, and a patient is taken out by a
subtraction, exactly up to rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import Blocks, FloatArray, Pattern

LEFT = 1e-9  # of a patient; what is less is rounding


@dataclass(frozen=True)
class Cell:
    """The patients of one class that have the same blocks.

    Attributes:
        count: of patients, n; a part of a patient where earlier ones count less (`scale`).
        total: Σ s over them, (o,), of the blocks they have.
        outer: Σ s sᵀ, (o, o).
    """

    count: float
    total: FloatArray
    outer: FloatArray


@dataclass(frozen=True)
class Sums:
    """Sufficient statistics of a joint Gaussian with one mean a class.

    Attributes:
        blocks: layout of the scores.
        classes: K.
        cells: (class, pattern) → its patients.
    """

    blocks: Blocks
    classes: int
    cells: Mapping[tuple[int, Pattern], Cell]

    @property
    def count(self) -> float:
        """Patients in all."""
        return sum(cell.count for cell in self.cells.values())

    @property
    def whole(self) -> bool:
        """Whether every patient counts as one."""
        return all(float(cell.count).is_integer() for cell in self.cells.values())

    @property
    def _kind(self) -> Any:
        return int if self.whole else float

    def per_class(self) -> NDArray[Any]:
        """Return the patients of each class, (K,)."""
        counts = np.zeros(self.classes, dtype=self._kind)
        for (label, _), cell in self.cells.items():
            counts[label] += self._kind(cell.count)
        return counts

    def with_block(self) -> NDArray[Any]:
        """Return the patients of each class that have each block, (K, B)."""
        counts = np.zeros((self.classes, len(self.blocks.names)), dtype=self._kind)
        for (label, pattern), cell in self.cells.items():
            counts[label] += self._kind(cell.count) * np.array(pattern, dtype=np.int64)
        return counts

    def pairs(self) -> NDArray[Any]:
        """Return the patients that have both of two blocks, (B, B)."""
        counts = np.zeros((len(self.blocks.names),) * 2, dtype=self._kind)
        for (_, pattern), cell in self.cells.items():
            has = np.array(pattern, dtype=np.int64)
            counts += self._kind(cell.count) * np.outer(has, has)
        return counts


def sums_of(rows: FloatArray, labels: NDArray[np.int64], blocks: Blocks, classes: int) -> Sums:
    """Sum the scores of some patients.

    Args:
        rows: (n, d), NaN where a block is missing; a patient without any block is left out.
        labels: (n,), in [0, K).
        blocks: layout of the scores.
        classes: K.

    Raises:
        ValueError: as `Blocks.patterns`; or a label outside of [0, K).
    """
    labels = np.asarray(labels, dtype=np.int64)
    if len(labels) != len(rows) or ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"{len(labels)} labels for {len(rows)} patients; expected one each, from 0 to {classes - 1}")
    members: dict[tuple[int, Pattern], list[int]] = {}
    for row, pattern in enumerate(blocks.patterns(rows)):
        if any(pattern):
            members.setdefault((int(labels[row]), pattern), []).append(row)
    cells = {}
    for key in sorted(members):
        seen = rows[members[key]][:, blocks.columns(key[1])]
        cells[key] = Cell(len(seen), seen.sum(axis=0), seen.T @ seen)
    return Sums(blocks, classes, cells)


def merge(one: Sums, other: Sums) -> Sums:
    """Return the sums of the patients of both, which must be different patients.

    Raises:
        ValueError: other blocks, or another number of classes.
    """
    _comparable(one, other)
    cells = dict(one.cells)
    for key, more in other.cells.items():
        cell = cells.get(key)
        cells[key] = (
            more if cell is None else Cell(cell.count + more.count, cell.total + more.total, cell.outer + more.outer)
        )
    return Sums(one.blocks, one.classes, {key: cells[key] for key in sorted(cells)})


def subtract(everybody: Sums, some: Sums) -> Sums:
    """Return the sums without some of the patients in them, as if they had never been seen.

    Raises:
        ValueError: other blocks or classes, or patients that cannot be in the sums.
    """
    _comparable(everybody, some)
    cells = dict(everybody.cells)
    for key, less in some.cells.items():
        cell = cells.get(key)
        if cell is None or cell.count < less.count - LEFT:
            raise ValueError(
                f"class {key[0]}, pattern {key[1]}: {less.count} patients are to be taken out, and "
                f"{0 if cell is None else cell.count} are in; these patients were never added"
            )
        if cell.count - less.count < LEFT:
            del cells[key]
        else:
            cells[key] = Cell(cell.count - less.count, cell.total - less.total, cell.outer - less.outer)
    return Sums(everybody.blocks, everybody.classes, cells)


def scale(sums: Sums, factor: float) -> Sums:
    """Return the sums with every patient in them counting less, or more.

    Args:
        sums: of some patients.
        factor: above 0.
    """
    cells = {
        key: Cell(factor * cell.count, factor * cell.total, factor * cell.outer) for key, cell in sums.cells.items()
    }
    return Sums(sums.blocks, sums.classes, cells if factor != 1 else dict(sums.cells))


def onto(sums: Sums, blocks: Blocks) -> Sums:
    """Return the sums over other blocks: some of theirs, in any order, or more, which no patient in them has.

    A patient who has none of these blocks is not in the result.

    Raises:
        ValueError: a block has another size.
    """
    old = dict(zip(sums.blocks.names, sums.blocks.sizes, strict=True))
    for name, size in zip(blocks.names, blocks.sizes, strict=True):
        if old.get(name, size) != size:
            raise ValueError(f"{name}: {old[name]} scores in the sums, {size} asked for")
    result = Sums(blocks, sums.classes, {})
    for (label, pattern), cell in sums.cells.items():
        has = dict(zip(sums.blocks.names, pattern, strict=True))
        kept = tuple(has.get(name, False) for name in blocks.names)
        if not any(kept):
            continue
        place = {int(column): i for i, column in enumerate(sums.blocks.columns(pattern))}
        columns = [
            place[column]
            for name, there in zip(blocks.names, kept, strict=True)
            if there
            for column in range(sums.blocks.slice_of(name).start, sums.blocks.slice_of(name).stop)
        ]
        part = Cell(cell.count, cell.total[columns], cell.outer[np.ix_(columns, columns)])
        result = merge(result, Sums(blocks, sums.classes, {(label, kept): part}))
    return result


def _comparable(one: Sums, other: Sums) -> None:
    if one.blocks != other.blocks or one.classes != other.classes:
        raise ValueError(
            f"sums of {one.classes} classes and {one.blocks}, and of {other.classes} classes and {other.blocks}; only "
            "sums over the same blocks and classes go together"
        )
