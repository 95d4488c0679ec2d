"""Rows of real patients with several sessions: what is drawn or permuted are patients, with all their rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def owners(subjects: Sequence[str] | None, count: int) -> IntArray:
    """Return the patient of each row as a number, (n,), by first appearance.

    Args:
        subjects: of the rows; None if each is of another patient.
        count: of rows, n.

    Raises:
        ValueError: another number of subjects than of rows.
    """
    if subjects is None:
        return np.arange(count)
    if len(subjects) != count:
        raise ValueError(f"{len(subjects)} subjects for {count} rows; expected one each")
    number = {name: i for i, name in enumerate(dict.fromkeys(subjects))}
    return np.array([number[name] for name in subjects], dtype=np.int64)


def patients(owner: IntArray) -> int:
    """Return the number of patients."""
    return int(owner.max(initial=-1)) + 1


def one_each(owner: IntArray, random: np.random.Generator) -> IntArray:
    """Return a row of each patient, drawn at random, (P,), in the order of the patients."""
    if patients(owner) == len(owner):
        return np.argsort(owner, kind="stable")
    mixed = random.permutation(len(owner))
    return mixed[np.unique(owner[mixed], return_index=True)[1]]


def mean_over(owner: IntArray) -> FloatArray:
    """Return weights (P, n) that take the mean over the rows of each patient."""
    weights = np.zeros((patients(owner), len(owner)))
    weights[owner, np.arange(len(owner))] = 1
    return weights / weights.sum(axis=1, keepdims=True)


def nearest_of_each(distances: FloatArray, owner: IntArray) -> FloatArray:
    """Return the distance to the nearest row of each patient, (m, P); distances (m, n)."""
    result = np.full((len(distances), patients(owner)), np.inf)
    for row, patient in enumerate(owner.tolist()):
        np.minimum(result[:, patient], distances[:, row], out=result[:, patient])
    return result
