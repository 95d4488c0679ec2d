"""What a manifest may not hold: every rule with its words."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from cohort.names import (
    CODES,
    are_numbers,
    broken_ids,
    canonical,
    canonical_value,
    difference,
    is_missing,
    may_be_thousands,
    missing,
    number,
    spelt_otherwise,
)
from cohort.origin import origin_problems, real_only
from cohort.splits import SPLITS, given_split_problems, subjects_of
from cohort.table_members import Tables, as_number, without_file
from cohort.tables import CONTROL, MOST_LISTED, Problem, suggest

MANY = 10  # different numbers in a column; codes of a category have fewer
OVERRULE = " (if it is a name here: cohort.not_missing)"


def problems(
    columns: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    label: str | None,
    modalities: Iterable[str],
    covariates: Sequence[str],
    tables: Tables,
    not_missing: tuple[str, ...],
    data_root: Path | None,
) -> Iterator[list[Problem]]:
    """Yield one list for each kind of problem; without a label every problem is of one row, but for missing columns.

    Args:
        columns: The cells as they are written, str, without spaces around.
        rows: The same under fixed names, as from `cohort.manifest`.
        label: Column of the class; None if nothing is learnt.
        modalities: The known ones.
        covariates: Columns whose categories are compared.
        tables: Modalities whose values are columns of the manifest: name → column → kind.
        not_missing: Words such as NA that are names here.
        data_root: Folder that no scan may lie outside of.
    """
    learning = label is not None
    no_file = without_file(rows, tables)
    of_files = ("modality", "path") if set(modalities) - set(tables) else ()
    required = ("subject", *of_files, *([label] if label else []))
    yield list(_control_characters(columns))
    yield list(_column_problems(columns, required, not_missing, some=learning, no_file=no_file))
    yield list(_id_problems(columns, not_missing))
    yield list(_spellings(rows, "subject", one_by_one=not learning))
    yield list(_spellings(rows, "session", one_by_one=not learning))
    yield list(_unknown(rows, "modality", modalities))
    yield list(_table_columns(columns, tables, required=learning))
    yield list(_rows_of_tables(rows, tables, no_file))
    for kinds in tables.values():
        for name, kind in kinds.items():
            yield list(_value_problems(rows, name, kind, one_by_one=not learning))
    yield from _file_problems(rows[rows["path"] != ""], data_root, required=learning)
    yield list(origin_problems(rows, learning=learning))
    if learning:
        for name in covariates:
            yield list(_covariate_problems(rows, name))
        yield list(_unknown(rows, "split", SPLITS))
        yield list(_conflicts(rows[rows["label"] != ""], ["subject", "session"], "label"))
        yield list(_conflicts(rows[rows["subject"] != ""], ["subject"], "split"))
        split = given_split_problems(subjects_of(real_only(rows)[lambda real: real["subject"] != ""]))
        what = "the split is not given for all subjects, or leaves a split or class out"
        yield [Problem(text, what) for text in split]


def _column_problems(
    columns: pd.DataFrame, required: Iterable[str], not_missing: tuple[str, ...], *, some: bool, no_file: pd.Series
) -> Iterator[Problem]:
    if some and columns.empty:
        yield Problem("there are no scans below the header", "there are no scans below the header")
    for name in required:
        fixed = name in ("subject", "modality", "path")  # the other is a setting, which may be anything
        if name not in columns:
            kind = f"column {name!r} is missing" if fixed else "the column of cohort.label is missing"
            yield Problem(f"column {name!r} is missing {suggest(name, columns.columns)}", kind)
            continue
        kind = f"{name} is empty" if fixed else "the label is empty"
        absent = (
            columns[name].map(names_no_file).astype(bool) if name == "path" else missing(columns[name], not_missing)
        )
        if name in ("modality", "path"):
            absent &= ~no_file
        for index, cell in columns.loc[absent, name].items():
            if cell == "":
                yield Problem(f"{name} is empty", kind, index + 2)
            elif name != "subject":  # see _id_problems
                hint = "" if name == "path" else OVERRULE
                text = f"{name} {cell!r} stands for no value; fill it in, or leave the row out{hint}"
                yield Problem(text, kind, index + 2)


def _table_columns(columns: pd.DataFrame, tables: Tables, *, required: bool) -> Iterator[Problem]:
    """Yield the columns of tables that the manifest lacks; patients to predict may lack them all (`reading_notes`)."""
    for modality, kinds in tables.items():
        for name in kinds if required else ():
            if name not in columns:
                what = f"column {name!r} (cohort.modalities.{modality}.columns) is missing"
                yield Problem(f"{what} {suggest(name, columns.columns)}", "a column of a table is missing")


def _rows_of_tables(rows: pd.DataFrame, tables: Tables, no_file: pd.Series) -> Iterator[Problem]:
    """Yield rows of a table that name a file, and rows without a file that hold no value of any table."""
    for row, name in rows.loc[rows["modality"].isin(tables) & ~no_file, ["row", "modality"]].itertuples(index=False):
        what = "is a table and has no file; its values are columns of the manifest"
        yield Problem(f"{name} {what}: leave path empty", f"its modality {what}", row)
    names = [name for kinds in tables.values() for name in kinds]
    for row in rows.loc[no_file & (rows[names] == "").all(axis=1), "row"] if names else ():
        text = f"has neither a scan nor a value of {', '.join(tables)}; leave the row out"
        yield Problem(text, "it has neither a scan nor a value of a table", row)


def _value_problems(rows: pd.DataFrame, name: str, kind: str, *, one_by_one: bool) -> Iterator[Problem]:
    """Yield cells of a table that are no number, categories in two spellings, and patients with two values."""
    given = rows[rows[name] != ""]
    if kind == "category":
        yield from _spellings(rows, name, one_by_one=one_by_one)
    else:
        values = given[name].map(as_number)
        for row, cell in given.loc[values.isna(), ["row", name]].itertuples(index=False):
            hint = "leave the cell empty where there is none, or make the column a category"
            yield Problem(f"{name} {cell!r} is no number; {hint}", "a value of a table is no number", row)
        yield from _thousands(given[values.notna()], name)
        given = given[values.notna()].assign(**{name: values.dropna().astype(str)})
    yield from _conflicts(given[given["subject"] != ""], ["subject", "session"], name, one_by_one=one_by_one)


def _id_problems(columns: pd.DataFrame, not_missing: tuple[str, ...]) -> Iterator[Problem]:
    for name in ("subject", "session"):
        if name in columns:
            for index, what in broken_ids(columns[name], but=not_missing, dates=name == "subject").items():
                kind = f"its {name} is no id, but a word for no value or what a spreadsheet has made of it"
                cell = columns[name][index]
                yield Problem(f"{name} {cell!r} {what}{OVERRULE if is_missing(cell) else ''}", kind, index + 2)


def _spellings(rows: pd.DataFrame, column: str, *, one_by_one: bool = False) -> Iterator[Problem]:
    """Yield names that are one name in two spellings: one problem each, or one for each of their rows."""
    rows = rows[rows[column] != ""]
    person = {name: canonical(name).removeprefix("sub") for name in rows["subject"].unique()}
    form = {
        "subject": lambda name: person[name],
        "session": lambda name: canonical(name).removeprefix("ses"),
    }.get(column, canonical_value)
    same = rows[column].map({name: form(name) for name in rows[column].unique()})
    keys = [same, rows["subject"].map(person)] if column == "session" else [same]
    for _, group in rows.groupby(keys, sort=False):
        first = group.groupby(column)["row"].min()
        if len(first) < 2:
            continue
        each = " and ".join(f"{name!r} (row {row})" for name, row in first.items())
        what = f"differ only in {difference(*first.index[:2])}"
        hint = ", or, for two people, ids that differ in more" if column == "subject" else ""
        text = f"{column}s {each} {what}; use one spelling{hint}"
        kind = f"{column}s {what}" if column in ("subject", "session", "label") else "one category in two spellings"
        yield from (Problem(text, kind, row) for row in (group["row"] if one_by_one else [None]))


def _covariate_problems(rows: pd.DataFrame, name: str) -> Iterator[Problem]:
    """Yield what is wrong with a covariate.

    Categories in two spellings; a session of two sexes; numbers of which it is not certain what their comma means; and
    cells such as >89 among numbers: with one of them every age would be a category of its own.
    """
    if name.lower() in ("sex", "gender"):
        yield from _conflicts(rows[(rows["subject"] != "") & (rows[name] != "")], ["subject", "session"], name)
    if are_numbers(rows[name]) and name.lower() not in CODES:
        yield from _thousands(rows, name)
        return
    given = rows[rows[name] != ""]
    numbers = given[name].map(number)
    if name.lower() not in CODES and numbers.notna().mean() >= 0.5 and numbers.nunique() > MANY:
        for row, cell in given.loc[numbers.isna(), ["row", name]].itertuples(index=False):
            text = f"{name} {cell!r} is no number, and most others are; write a number, or leave the cell empty"
            yield Problem(text, "a cell among numbers is none", row)
        return
    yield from _spellings(rows, name)


def _thousands(rows: pd.DataFrame, name: str) -> Iterator[Problem]:
    for row, cell in rows.loc[rows[name].map(may_be_thousands).astype(bool), ["row", name]].itertuples(index=False):
        whole, point = cell.replace(",", ""), cell.replace(",", ".", 1)
        text = f"{name} {cell!r} may be {point} or {whole}; write it with a point, or without the comma"
        yield Problem(text, "the comma of a number may be that of decimals or of thousands", row)


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
    lost = rows.loc[required & ~present, "path"][:MOST_LISTED]
    rows["near"] = pd.Series({index: _near(path) for index, path in lost.items()}, dtype=str)
    rows["near"] = rows["near"].fillna("")
    for failed, text, kind in (
        (folder, "{path} is a folder, not a file", "it names a folder, not a file"),
        (required & ~present, "there is no file {path}{near}", "its file is not there"),
        (~inside, "{path} lies outside of data_root {root}", "its file lies outside of data_root"),
        (twin < rows["row"], "repeats row {twin}", "repeats another row"),
        (used, "{path} is used in row {first} already", "its file is used in another row already"),
    ):
        yield [Problem(text.format(**scan), kind, scan["row"]) for scan in rows[failed].to_dict("records")]


def _near(path: str) -> str:
    """Return, in brackets, the file beside it that was probably meant."""
    folder, name = os.path.split(path)
    try:
        near = spelt_otherwise(name, os.listdir(folder))
    except OSError:
        return ""
    return f" (there is {' and '.join(map(repr, near))})" if near else ""


def _conflicts(rows: pd.DataFrame, by: list[str], column: str, *, one_by_one: bool = False) -> Iterator[Problem]:
    """Yield subjects or sessions with two values: one problem each, or one for each of their rows."""
    values = rows.drop_duplicates([*by, column])
    for key, group in values[values.duplicated(by, keep=False)].groupby(by, sort=False):
        each = " and ".join(f"{value!r} (row {row})" for value, row in zip(group[column], group["row"], strict=True))
        kind = f"one subject has different {column}s (rows {', '.join(map(str, group['row']))})"
        text = f"{' '.join(filter(None, key))}: {column} is {each}"
        own = rows.loc[(rows[by] == pd.Series(key, index=by)).all(axis=1), "row"]
        yield from (Problem(text, kind, row) for row in (own if one_by_one else [None]))


def names_no_file(path: str) -> bool:
    """Return whether a path stands for no value; dots are folders."""
    return is_missing(path) and (path == "" or path.strip(".") != "")


def class_problems(rows: pd.DataFrame, positive: str | None, smallest_class: int) -> Iterator[Problem]:
    """Yield what is wrong with the classes: spelt in two ways, one only, too small, none that is positive."""
    first_rows = rows.groupby("label")["row"].min()
    yield from _spellings(rows, "label")
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
