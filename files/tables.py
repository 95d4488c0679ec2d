"""Tables as CSV: written atomically, and optionally safe for spreadsheets."""

import contextlib
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd

from files.writing import replacing

LIKE_FORMULAS = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")  # spreadsheets compute cells that begin so


def csv_safe(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that looks like one gets an apostrophe; numbers stay.

    Source: OWASP, "CSV Injection".
    """
    if not isinstance(cell, str) or not cell.startswith(LIKE_FORMULAS):
        return cell
    with contextlib.suppress(ValueError):
        float(cell)
        return cell
    return f"'{cell}"


class _UnixLines:
    """A text stream that turns the CRLF of the csv module into line feeds; with CRLF, csv quotes both characters."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)  # pandas accepts only iterable objects as files

    def write(self, row: str) -> int:
        return self.stream.write(row.removesuffix("\r\n") + "\n")


def write_table(path: Path, frame: pd.DataFrame, *, for_spreadsheets: bool = False) -> None:
    """Write a data frame as CSV, whole, without its index, lines ending with line feeds.

    Cells that hold a comma, a quote or any end of line, a bare carriage return too, are quoted.

    Args:
        path: the file.
        frame: the table.
        for_spreadsheets: cells and names of columns go through `csv_safe`; not for tables that the pipeline reads.
    """
    if for_spreadsheets:
        frame = frame.map(csv_safe).rename(columns=csv_safe)
    with replacing(path) as partial, partial.open("x", encoding="utf-8", newline="") as stream:
        frame.to_csv(_UnixLines(stream), index=False, lineterminator="\r\n")


def write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, for_spreadsheets: bool = False
) -> None:
    """Write mappings as CSV, as `write_table` does; what is not in `columns` is left out."""
    if for_spreadsheets:
        rows = [{name: csv_safe(cell) for name, cell in row.items()} for row in rows]
    with replacing(path) as partial, partial.open("x", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(_UnixLines(stream), columns, lineterminator="\r\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
