"""Tables of others, CSV or TSV, as text; and the problems that they and manifests may have."""

import contextlib
import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from files.reading import UnusableFileError, read_bytes

MOST_LISTED = 20  # problems of one kind; the rest are counted
CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"  # characters that end lines, move cursors, or are none


class Problem(NamedTuple):
    """One problem of a manifest."""

    text: str
    """The problem, with the cells concerned."""
    kind: str = "a problem that cannot be named without its cells"
    """The same without cells, paths and names of columns, for output that leaves the site."""
    row: int | None = None
    """Row in the file, 2 is the first below the header; None if it is about more than one row."""

    def __str__(self) -> str:
        return self.text if self.row is None else f"row {self.row}: {self.text}"

    @property
    def anonymous(self) -> str:
        """The kind with its row."""
        return str(self._replace(text=self.kind))


class ManifestError(ValueError):
    """All problems of a manifest, one a line."""

    def __init__(self, *problems: Problem | str) -> None:
        super().__init__(*problems)
        self.problems = tuple(Problem(each) if isinstance(each, str) else each for each in problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or TSV file as text, and refuse it if a single row cannot be read; as `read_rows` otherwise.

    Raises:
        ManifestError: As from `read_rows`, or rows cannot be read; all are named, at most 20.
    """
    table, problems = read_rows(path)
    if problems:
        raise ManifestError(*shortened(problems))
    return table


def read_rows(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read a CSV or TSV file as text; leave out the rows that cannot be read.

    Separated by tabs if the file is called .tsv or its header has tabs, otherwise by commas, or by semicolons as Excel
    writes them in much of Europe. Between tabs, every line is a row, and quotation marks are dropped where they stand
    around a whole cell, and count as text elsewhere (BIDS has no quoting). Blank rows and columns without a name are
    dropped.

    Returns:
        A str column for each one of the file, whose index counts rows from 0, so that index + 2 is the row in the file;
        and the problem of each row left out: it is longer than the header, or its quotation marks do not match.

    Raises:
        ManifestError: There is no file, it is empty or not UTF-8 text, or its header is missing or names a column
            twice.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnusableFileError as error:
        raise ManifestError(Problem(str(error), "it is too large, or no regular file")) from error
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "is not UTF-8 text; in a spreadsheet, save it as 'CSV UTF-8'") from error
    first_line = re.split("[\r\n]", text, maxsplit=1)[0]
    if "\0" in text or not first_line.strip(" ,;\t"):
        raise _unreadable(path, "is empty, has no line of column names at its top, or is not text")
    tabs = path.suffix.lower() == ".tsv" or "\t" in first_line
    separator = "\t" if tabs else ";" if first_line.count(";") > first_line.count(",") else ","
    records, problems = _records(text, separator)
    names, *body = [[cell.strip() for cell in cells] for cells in records]
    if problems and problems[0].row == 1:
        raise _unreadable(path, "quotation marks do not match in the line of column names")
    wrong = [
        Problem(f"column {ascii(name)} holds a control character", "the name of a column holds a control character")
        for name in names
        if re.search(CONTROL, name)
    ]
    wrong += [
        Problem(f"column {name!r} is duplicated", "a column is duplicated")
        for name in sorted(set(names) - {""})
        if names.count(name) > 1
    ]
    if wrong:
        raise ManifestError(*shortened(wrong))
    for row, cells in enumerate(body, start=2):
        if any(cells[len(names) :]):
            text = f"has {len(cells)} cells under {len(names)} columns; put quotes around a cell with a {separator!r}"
            problems.append(Problem(text, text, row))
    rows = [dict(zip(names, cells, strict=False)) for cells in body]
    table = pd.DataFrame(rows, columns=[name for name in names if name], dtype=object).fillna("").astype(str)
    table = table.drop(index=[problem.row - 2 for problem in problems if problem.row])
    return table[(table != "").any(axis=1)], sorted(problems, key=lambda problem: problem.row or 0)


def _records(text: str, separator: str) -> tuple[list[list[str]], list[Problem]]:
    """Part a text into rows and cells; a row that cannot be parted has no cells and is a problem."""
    lines = re.split("\r\n|\r|\n", text)
    if separator == "\t":
        return [[_unquoted(cell) for cell in line.split("\t")] for line in lines], []
    with contextlib.suppress(csv.Error):
        return list(_reader(io.StringIO(text, newline=""), separator)), []
    records: list[list[str]] = []
    problems = []
    for row, line in enumerate(lines, start=1):
        try:
            records.append(next(_reader([line], separator), []))
        except csv.Error as error:
            what = "quotation marks do not match"
            problems.append(Problem(f"{what} ({error})", what, row))
            records.append([])
    return records, problems


def _reader(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)


def _unquoted(cell: str) -> str:
    cell = cell.strip(" ")
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def shortened(problems: list[Problem]) -> list[Problem]:
    """Return the first 20 problems, and how many more there are."""
    rest = f"… and {len(problems) - MOST_LISTED} more like this"
    return problems[:MOST_LISTED] + [Problem(rest, rest)] * (len(problems) > MOST_LISTED)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return, in brackets, the known name that was probably meant, or all known names."""
    folded = {other.casefold(): other for other in sorted(set(known))}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"(did you mean {folded[near[0]]!r}?)" if near else f"(there is: {', '.join(folded.values()) or 'nothing'})"


def _unreadable(path: Path, reason: str) -> ManifestError:
    return ManifestError(Problem(f"{path}: {reason}", reason))
