"""Rows in memory and in a file are the same rows."""

import os
from pathlib import Path

import pytest
import torch

from pipeline.store.feature_buffer import FeatureBuffer

CPU = torch.device("cpu")


def _rows(folder: Path, most_bytes: int, count: int = 7) -> tuple[FeatureBuffer, torch.Tensor]:
    values = torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(0))
    names = [f"scan-{i}" for i in range(count)]
    return FeatureBuffer(names, iter(values.split(3)), device=CPU, most_bytes=most_bytes, folder=folder), values


@pytest.mark.parametrize(("most_bytes", "in_file"), [(7 * 24, False), (7 * 24 - 1, True)])
def test_rows_come_back_in_any_order(tmp_path: Path, most_bytes: int, in_file: bool) -> None:
    rows, values = _rows(tmp_path, most_bytes)
    with rows:
        assert (rows.file is not None) == in_file
        assert rows.shape == (3, 2)
        order = torch.tensor([6, 0, 3, 3])
        assert torch.equal(rows[order], values[order])
        assert rows[torch.zeros(0, dtype=torch.int64)].shape == (0, 3, 2)
        with pytest.raises(IndexError):
            rows[torch.tensor([7])]


def test_the_file_has_no_name_and_is_given_back(tmp_path: Path) -> None:
    rows, _ = _rows(tmp_path, most_bytes=0)
    with rows:
        assert list(tmp_path.iterdir()) == []
        assert rows.file is not None
        descriptor = rows.file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize(("given", "expected"), [(5, 4), (5, 6)])
def test_the_batches_must_be_all_rows(tmp_path: Path, given: int, expected: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        FeatureBuffer(
            [str(i) for i in range(expected)], iter([torch.zeros(given, 2)]), device=CPU, most_bytes=0, folder=tmp_path
        )


def test_no_scans_no_rows(tmp_path: Path) -> None:
    with FeatureBuffer([], iter([]), device=CPU, most_bytes=0, folder=tmp_path) as rows, pytest.raises(IndexError):
        rows[torch.tensor([0])]
