"""Read the manifest, one row a scan, and check it before anything is computed."""

import csv
import difflib
import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import pandas as pd
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from cohort.splits import SPLITS, given_split_problems, subjects_of
from files.reading import UnusableFileError, read_bytes

MOST_LISTED = 20  # problems of one kind; the rest are counted
# Columns of scans, not of observations.
OF_ONE_SCAN = ["scan", "modality", "kind", "skull_strip", "normalise", "bits", "path", "sha256", "row"]
LONGEST_NAME = 100  # characters of a scan id, before hashes are appended
UNSAFE = "[^A-Za-z0-9_-]|^-"  # what no scan id may have; "_" takes its place
CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"  # characters that end lines, move cursors, or are none
MODALITY = r"[^./\\\s](?:[^/\\]{0,58}[^/\\\s])?"  # folders and pages are named after modalities
DEMO_NAME = r"^[A-Za-z]\w*$"  # names of demo cohorts; other text is a path
SEPARATOR = "\x1f"  # between the fields of a key, ASCII's unit separator; NumPy would drop a NUL


class ModalityConfig(BaseModel):
    """The settings of one modality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["volume", "image"] = Field(default="volume", description="volume: 3-D scan; image: 2-D picture")
    skull_strip: bool = Field(default=True, description="remove all but the brain; ignored for images")
    normalise: str = Field(
        default="minmax",
        description="how intensities are brought to [0, 1]: minmax, as published; minmax_robust; volumes only",
    )
    bits: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="how many bits the camera of 16-bit pictures has, for those that do not say it; null: as many as "
        "the largest value of the cohort needs",
    )

    @model_validator(mode="after")
    def _bits_are_of_pictures(self) -> Self:
        if self.kind != "image" and self.bits is not None:
            raise ValueError(f"bits: {self.bits} is for pictures (kind: image); leave it away")
        return self

    @model_validator(mode="after")
    def _pictures_are_kept(self) -> Self:
        if self.kind == "image" and self.normalise != type(self).model_fields["normalise"].default:
            raise ValueError(
                f"normalise: {self.normalise} is for volumes; a picture is kept as it is. Leave it away, or set "
                "kind: volume"
            )
        return self


def _as_written(value: object) -> object:
    """Convert a number to text, and refuse booleans: a class may be called 1, but No has to be quoted."""
    if isinstance(value, bool):
        raise ValueError("YAML takes this word for true or false; put it in quotation marks")
    return str(value) if isinstance(value, int | float) else value


class CohortConfig(BaseModel):
    """The patients of a study, their labels and covariates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: dict[str, ModalityConfig] = Field(
        min_length=1, description="name → {kind, skull_strip, normalise, bits}"
    )
    manifest: Annotated[str, StringConstraints(pattern=DEMO_NAME)] | Path | None = Field(
        default=None,
        description="CSV or TSV, one row a scan; with layout breakhis a folder; or the name of a demo cohort",
    )
    layout: Literal["table", "breakhis"] = Field(
        default="table", description="breakhis: the manifest is a folder whose pictures are named as in BreakHis"
    )
    balanced: tuple[int, int] | None = Field(
        default=None,
        description="with layout breakhis: so many benign and malignant patients, as in the paper [24, 29]",
    )
    label: str | None = Field(
        default="diagnosis",
        description="column that holds the class of a patient; null: it is not known, for the stage predict",
    )
    positive: Annotated[str, BeforeValidator(_as_written)] | None = Field(
        default=None, description="class counted as positive in binary metrics"
    )
    covariates: tuple[str, ...] = Field(default=("age", "sex", "site"), description="columns kept where present")
    data_root: Path | None = Field(default=None, description="folder that no scan may lie outside of; null: anywhere")
    limit: int | None = Field(default=None, ge=6, description="take only so many subjects, the classes in turn")

    @field_validator("modalities")
    @classmethod
    def _names_of_modalities(cls, modalities: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
        for name in modalities:
            if not re.fullmatch(MODALITY, name) or re.search(CONTROL, name):
                raise ValueError(
                    f"{name!r} cannot be the name of a modality: 1 to 60 characters, none of them / or \\ or a control "
                    "character, and no dot at the beginning"
                )
        return modalities


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
    """Read a CSV or TSV file as text.

    Separated by tabs if the file is called .tsv or its header has tabs, otherwise by commas, or by semicolons as Excel
    writes them in much of Europe. Blank rows and columns without a name are dropped.

    Returns:
        A str column for each one of the file; the index counts rows from 0, so that index + 2 is the row in the file.

    Raises:
        ManifestError: There is no file, it is empty or not UTF-8 text, its header is missing or names a column twice,
            quotation marks do not match, or a row is longer than the header.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnusableFileError as error:
        raise ManifestError(Problem(str(error), "it is too large, or no regular file")) from error
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "is not UTF-8 text; in a spreadsheet, save it as 'CSV UTF-8'") from error
    first_line = text.partition("\n")[0]
    if "\0" in text or not first_line.strip(" ,;\t\r"):
        raise _unreadable(path, "is empty, has no line of column names at its top, or is not text")
    tabs = path.suffix.lower() == ".tsv" or "\t" in first_line
    separator = "\t" if tabs else ";" if first_line.count(";") > first_line.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        names, *body = [[cell.strip() for cell in cells] for cells in reader]
    except csv.Error as error:
        raise _unreadable(path, f"quotation marks do not match, up to line {reader.line_num} ({error})") from error
    problems = [
        Problem(f"column {ascii(name)} holds a control character", "the name of a column holds a control character")
        for name in names
        if re.search(CONTROL, name)
    ]
    problems += [
        Problem(f"column {name!r} is duplicated", "a column is duplicated")
        for name in sorted(set(names) - {""})
        if names.count(name) > 1
    ]
    for row, cells in enumerate(body, start=2):
        if any(cells[len(names) :]):
            text = f"has {len(cells)} cells under {len(names)} columns; put quotes around a cell with a {separator!r}"
            problems.append(Problem(text, text, row))
    if problems:
        raise ManifestError(*_shortened(problems))
    records = [dict(zip(names, cells, strict=False)) for cells in body]
    table = pd.DataFrame(records, columns=[name for name in names if name]).fillna("").astype(str)
    return table[(table != "").any(axis=1)]


def check_manifest(
    table: pd.DataFrame,
    *,
    folder: Path,
    config: CohortConfig,
    smallest_class: int,
) -> pd.DataFrame:
    """Turn the manifest into the table of scans, or report all its problems at once.

    Spaces around cells are dropped, and letters with accents are brought to one form (NFC) except in paths.

    Args:
        table: As from `read_table`: `subject`, `modality`, `path`, the label; at will `session`, `split`, covariates.
        folder: What relative paths are relative to, as a rule the folder of the manifest.
        config: Names the label column, the positive class, the modalities, the covariates and the data root.
        smallest_class: Subjects a class needs at least.

    Returns:
        One row a scan in the order of the manifest, all str but `row`: `scan` (unique even where case is ignored, safe
        as a file name), `subject`, `session` (or ""), `observation` (subject or subject_session, unique), `modality`,
        `kind`, `path` (absolute), `label` ("" if config.label is None), the covariates present, `split` ("" or one of
        `SPLITS`), `row` (int64). If config.label is None, nothing is trained, and files may be missing: predictions go
        on without them.

    Raises:
        ManifestError: Anything is wrong; it lists all problems with their rows, at most 20 of one kind.
    """
    columns = _columns(table)
    rows = _rows(columns, folder, config)
    checks = [*_problems(columns, rows, config)]
    if config.label is not None:
        labelled = rows[(rows["label"] != "") & (rows["subject"] != "")]
        checks.append(list(_class_problems(labelled, config.positive, smallest_class)))
    if problems := [problem for check in checks for problem in _shortened(check)]:
        raise ManifestError(*problems)
    rows = _with_ids(rows).assign(
        kind=rows["modality"].map({name: each.kind for name, each in config.modalities.items()})
    )
    covariates = [name for name in config.covariates if name in columns and name not in rows]
    names = ["scan", "subject", "session", "observation", "modality", "kind", "path", "label", *covariates]
    return rows.join(columns[covariates])[[*names, "split", "row"]].reset_index(drop=True)


def usable_rows(
    table: pd.DataFrame, *, folder: Path, config: CohortConfig
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Leave out the rows of a manifest that `check_manifest` would refuse; the others go on.

    Of several rows that name the same file the first stays.

    Args:
        table: As for `check_manifest`.
        folder: The same.
        config: The same, without a label column.

    Returns:
        The other rows, and for each left out: row, subject, session, modality, path, reason.

    Raises:
        ManifestError: A column is missing.
    """
    columns = _columns(table)
    table, problems = drop_unusable(table, folder=folder, config=config)
    left_out = []
    for row, problem in problems.items():
        cells = columns.reindex(columns=["subject", "session", "modality", "path"], fill_value="").loc[row - 2]
        names = {name: re.sub(CONTROL, "\N{REPLACEMENT CHARACTER}", cell) for name, cell in cells.items()}
        left_out.append({"row": str(row), **names, "reason": problem.text})
    return table, left_out


def drop_unusable(
    table: pd.DataFrame, *, folder: Path, config: CohortConfig
) -> tuple[pd.DataFrame, dict[int, Problem]]:
    """Drop rows as `usable_rows` does, and return the first problem of each row left out."""
    left_out: dict[int, Problem] = {}
    while True:
        columns = _columns(table)
        first: dict[int, Problem] = {}
        for problem in itertools.chain(*_problems(columns, _rows(columns, folder, config), config)):
            if problem.row is None:
                raise ManifestError(problem)
            first.setdefault(problem.row, problem)
        left_out |= first
        table = table.drop(index=[row - 2 for row in first])
        if table.empty or not first:
            return table, left_out


def first_subjects(scans: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the scans of the first `limit` subjects, taking one of each class in turn."""
    subjects = scans.drop_duplicates("subject")[["subject", "label"]]
    turn = subjects.groupby("label").cumcount()
    chosen = subjects.assign(turn=turn).sort_values("turn", kind="stable")["subject"][:limit]
    return scans[scans["subject"].isin(chosen)].reset_index(drop=True)


def class_names(labels: Iterable[str], positive: str | None) -> tuple[str, ...]:
    """Return the classes in sorted order; of two classes the positive one comes last, so that its index is 1."""
    names = sorted(set(labels) - {""})
    return tuple(sorted(names, key=lambda name: name == positive) if len(names) == 2 else names)


def observations(scans: pd.DataFrame) -> pd.DataFrame:
    """Return one row an observation, all str: `observation`, `subject`, `session`, `label`, covariates, `split`."""
    first = scans.drop_duplicates("observation").drop(columns=OF_ONE_SCAN, errors="ignore")
    return first[["observation", *first.columns.drop("observation")]].reset_index(drop=True)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return, in brackets, the known name that was probably meant, or all known names."""
    folded = {other.casefold(): other for other in sorted(set(known))}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"(did you mean {folded[near[0]]!r}?)" if near else f"(there is: {', '.join(folded.values()) or 'nothing'})"


def _unreadable(path: Path, reason: str) -> ManifestError:
    return ManifestError(Problem(f"{path}: {reason}", reason))


def _rows(columns: pd.DataFrame, folder: Path, config: CohortConfig) -> pd.DataFrame:
    """Give the required and optional columns fixed names; missing ones are ""."""
    empty = pd.Series("", index=columns.index, dtype=str)
    sources = {name: name for name in ("subject", "session", "modality")}
    if config.label is not None:
        sources |= {"split": "split", "label": config.label}
    rows = pd.DataFrame({name: columns.get(source, empty).str.normalize("NFC") for name, source in sources.items()})
    for name in {"label", "split"} - set(rows):
        rows[name] = ""
    rows["split"] = rows["split"].str.lower().replace({"val": SPLITS[1], "valid": SPLITS[1]})
    rows["path"] = columns.get("path", empty).map(lambda path: str(folder.absolute() / path) if path else "")
    return rows.assign(row=rows.index + 2)


def _columns(table: pd.DataFrame) -> pd.DataFrame:
    """Convert cells and column names to text without spaces around."""
    return table.astype(object).fillna("").astype(str).rename(columns=str.strip).apply(lambda cell: cell.str.strip())


def _problems(columns: pd.DataFrame, rows: pd.DataFrame, config: CohortConfig) -> Iterator[list[Problem]]:
    """Yield one list for each kind of problem."""
    learning = config.label is not None
    required = ("subject", "modality", "path", *([config.label] if config.label else []))
    yield list(_control_characters(columns))
    yield list(_column_problems(columns, required, some=learning))
    yield list(_unknown(rows, "modality", config.modalities))
    yield from _file_problems(rows[rows["path"] != ""], config.data_root, required=learning)
    if learning:
        yield list(_unknown(rows, "split", SPLITS))
        yield list(_conflicts(rows[rows["label"] != ""], ["subject", "session"], "label"))
        yield list(_conflicts(rows[rows["subject"] != ""], ["subject"], "split"))
        split = given_split_problems(subjects_of(rows[rows["subject"] != ""]))
        kind = "the split is not given for all subjects, or leaves a split or class out"
        yield [Problem(text, kind) for text in split]


def _column_problems(columns: pd.DataFrame, required: Iterable[str], *, some: bool) -> Iterator[Problem]:
    if some and columns.empty:
        yield Problem("there are no scans below the header", "there are no scans below the header")
    for name in required:
        fixed = name in ("subject", "modality", "path")  # the other is a setting, which may be anything
        if name not in columns:
            kind = f"column {name!r} is missing" if fixed else "the column of cohort.label is missing"
            yield Problem(f"column {name!r} is missing {suggest(name, columns.columns)}", kind)
        else:
            kind = f"{name} is empty" if fixed else "the label is empty"
            yield from (Problem(f"{name} is empty", kind, index + 2) for index in columns.index[columns[name] == ""])


def _control_characters(columns: pd.DataFrame) -> Iterator[Problem]:
    """Yield cells with control characters: these end lines in other programs' tables, and move cursors."""
    what = "holds a line break or another control character"
    for name in columns:
        cells = columns[name][columns[name].str.contains(CONTROL)]
        for index, cell in cells.items():
            yield Problem(f"{name} {what} ({ascii(cell)}); remove it", f"a cell {what}", index + 2)


def _unknown(rows: pd.DataFrame, column: str, known: Iterable[str]) -> Iterator[Problem]:
    for row, name in rows.loc[~rows[column].isin(["", *known]), ["row", column]].itertuples(index=False):
        yield Problem(f"{column} {name!r} is unknown {suggest(name, known)}", f"its {column} is unknown", row)


def _file_problems(rows: pd.DataFrame, data_root: Path | None, *, required: bool) -> Iterator[list[Problem]]:
    """Yield one list for each kind of problem; `first` and `twin` are rows that name the same file, links followed."""
    real = rows["path"].map(os.path.realpath)
    first = rows.groupby(real)["row"].transform("min")
    twin = rows.groupby(["subject", "session", "modality", real])["row"].transform("min")
    root = Path(os.path.realpath(data_root or "/"))
    rows = rows.assign(first=first, twin=twin, root=root)
    folder, present = (rows["path"].map(test).astype(bool) for test in (os.path.isdir, os.path.exists))
    inside = real.map(lambda path: Path(path).is_relative_to(root)).astype(bool)
    used = (first < rows["row"]) & (twin == rows["row"])
    for failed, text, kind in (
        (folder, "{path} is a folder, not a file", "it names a folder, not a file"),
        (required & ~present, "there is no file {path}", "its file is not there"),
        (~inside, "{path} lies outside of data_root {root}", "its file lies outside of data_root"),
        (twin < rows["row"], "repeats row {twin}", "repeats another row"),
        (used, "{path} is used in row {first} already", "its file is used in another row already"),
    ):
        yield [Problem(text.format(**scan), kind, scan["row"]) for scan in rows[failed].to_dict("records")]


def _conflicts(rows: pd.DataFrame, by: list[str], column: str) -> Iterator[Problem]:
    values = rows.drop_duplicates([*by, column])
    for key, group in values[values.duplicated(by, keep=False)].groupby(by, sort=False):
        each = " and ".join(f"{value!r} (row {row})" for value, row in zip(group[column], group["row"], strict=True))
        kind = f"one subject has different {column}s (rows {', '.join(map(str, group['row']))})"
        yield Problem(f"{' '.join(filter(None, key))}: {column} is {each}", kind)


def _class_problems(rows: pd.DataFrame, positive: str | None, smallest_class: int) -> Iterator[Problem]:
    first_rows = rows.groupby("label")["row"].min()
    for _, alike in first_rows.groupby(lambda name: "".join(name.casefold().split())):
        if len(alike) > 1:
            each = " and ".join(f"{name!r} (row {row})" for name, row in alike.items())
            what = "differ only in case or spaces"
            yield Problem(f"labels {each} {what}; use one spelling", f"labels {what}")
    if len(first_rows) == 1:
        what = "there is only one class"
        yield Problem(f"{what}, {first_rows.index[0]!r}; a classifier needs two", what)
    if len(first_rows) and positive is not None and positive not in first_rows.index:
        text = f"positive: no label is {positive!r} {suggest(positive, first_rows.index)}"
        yield Problem(text, "no label is the one of cohort.positive")
    sizes = subjects_of(rows)["label"].value_counts().reindex(first_rows.index, fill_value=0)
    for name, size in sizes[sizes < smallest_class].items():
        what = f"has too few subjects: {size} found (by their last session), {smallest_class} needed"
        yield Problem(f"class {name!r} {what}", f"a class {what}")


def _shortened(problems: list[Problem]) -> list[Problem]:
    rest = f"… and {len(problems) - MOST_LISTED} more like this"
    return problems[:MOST_LISTED] + [Problem(rest, rest)] * (len(problems) > MOST_LISTED)


def _with_ids(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `observation` and `scan`."""
    key = rows["subject"] + SEPARATOR + rows["session"]
    text = key.str.removesuffix(SEPARATOR).str.replace(SEPARATOR, "_")
    rows = rows.assign(observation=_unique(text, text, key))
    number = rows.groupby(["observation", "modality"]).cumcount() + 1
    key = rows["observation"] + SEPARATOR + rows["modality"] + SEPARATOR + number.astype(str)
    text = key.str.removesuffix(SEPARATOR + "1").str.replace(SEPARATOR, "_")
    return rows.assign(scan=_unique(text.str.replace(UNSAFE, "_", regex=True).str[:LONGEST_NAME], text, key))


def _unique(names: pd.Series, texts: pd.Series, keys: pd.Series) -> pd.Series:
    """Append a hash of the key to names that differ from their text or that, case ignored, two keys share."""
    shared = keys.groupby(names.str.lower()).transform("nunique") > 1
    hashes = keys.map(lambda key: "-" + hashlib.sha256(key.encode()).hexdigest()[:12])
    return names + hashes.where(shared | (names != texts), "")
