"""The sums of a contribution as one vector of a length that does not depend on the patients, and back.

Every cell that could exist has its place, also the empty ones; else the length would tell which patients there are.
Masks and noise are added to such vectors.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import Blocks, FloatArray
from models.joint.federated import CellKey, Contribution, OutsideSums
from models.joint.sums import Cell, Sums

MOST_BLOCKS = 6  # 63 patterns a class


class TooManyBlocksError(ValueError):
    """There are too many patterns of blocks; the message says how many blocks there may be."""


def cell_keys(blocks: Blocks, classes: int) -> list[CellKey]:
    """Return every class and pattern, in order.

    Raises:
        TooManyBlocksError: more than `MOST_BLOCKS` blocks.
    """
    if len(blocks.names) > MOST_BLOCKS:
        raise TooManyBlocksError(
            f"{len(blocks.names)} modalities and covariates have {2 ** len(blocks.names) - 1} patterns; masks and "
            f"noise are made for at most {MOST_BLOCKS}"
        )
    patterns = [each for each in itertools.product((False, True), repeat=len(blocks.names)) if any(each)]
    return [(label, pattern) for label in range(classes) for pattern in patterns]


def cell_length(blocks: Blocks, key: CellKey) -> int:
    """Return the numbers of a cell: count, total, and the upper triangle of the outer products."""
    size = len(blocks.columns(key[1]))
    return 1 + size + size * (size + 1) // 2


def cell_vector(cell: Cell) -> FloatArray:
    """Return a cell as numbers."""
    return np.concatenate([[float(cell.count)], cell.total, cell.outer[np.triu_indices(len(cell.total))]])


def vector_cell(vector: FloatArray, size: int) -> Cell:
    """Return the cell of numbers; the count is rounded."""
    upper = np.zeros((size, size))
    upper[np.triu_indices(size)] = vector[1 + size :]
    outer = upper + np.triu(upper, 1).T
    return Cell(round(float(vector[0])), vector[1 : 1 + size], outer)


def length_of(blocks: Blocks, classes: int, outside: dict[str, int]) -> int:
    """Return the length of `to_vector`."""
    cells = sum(cell_length(blocks, key) for key in cell_keys(blocks, classes))
    return cells + sum(1 + 2 * width for width in outside.values())


def to_vector(contribution: Contribution, outside: dict[str, int]) -> FloatArray:
    """Return a contribution as one vector.

    Args:
        contribution: of a site.
        outside: modality → D, of those whose sums outside of the basis are shared by any site.
    """
    sums = contribution.sums
    parts = []
    for key in cell_keys(sums.blocks, sums.classes):
        cell = sums.cells.get(key)
        parts.append(np.zeros(cell_length(sums.blocks, key)) if cell is None else cell_vector(cell))
    for name, width in outside.items():
        part = contribution.outside.get(name)
        empty = OutsideSums(0, np.zeros(width), np.zeros(width))
        part = part or empty
        parts += [np.array([float(part.count)]), part.total, part.squares]
    return np.concatenate(parts)


def from_vector(vector: NDArray[np.float64], blocks: Blocks, classes: int, outside: dict[str, int]) -> Contribution:
    """Return the contribution of `to_vector`; cells without a patient are left out.

    Raises:
        ValueError: another length.
    """
    if vector.shape != (length_of(blocks, classes, outside),):
        raise ValueError(f"{vector.shape} numbers; expected {length_of(blocks, classes, outside)}")
    cells, place = {}, 0
    for key in cell_keys(blocks, classes):
        length = cell_length(blocks, key)
        cell = vector_cell(vector[place : place + length], len(blocks.columns(key[1])))
        place += length
        if cell.count > 0:
            cells[key] = cell
    found = {}
    for name, width in outside.items():
        count = round(float(vector[place]))
        total, squares = np.split(vector[place + 1 : place + 1 + 2 * width], 2)
        place += 1 + 2 * width
        if count > 0:
            found[name] = OutsideSums(count, total, squares)
    return Contribution(Sums(blocks, classes, cells), found)
