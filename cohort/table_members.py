"""Tables as members of a patient's set: values from columns of the manifest, one a patient and session.

A table is a modality without files. A patient has it if at least one of its columns holds a value for that patient and
session; the values may stand in any of their rows, and rows without a scan may carry them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pandas as pd

from cohort.names import is_missing, number

ColumnKind = Literal["category", "number"]
Tables = Mapping[str, Mapping[str, ColumnKind]]  # modality → column → kind
Values = dict[str, float | str | None]  # column → number, category, or None where there is no value
LARGEST = 1e30  # of a number; what is computed from it fits into float32
FEW = 5  # names in a note


def as_number(cell: str) -> float | None:
    """Return the number that a cell holds; None if it holds none, or one that is not finite."""
    value = number(cell)
    as_float = math.nan if value is None else float(value)
    return as_float if abs(as_float) <= LARGEST else None


def without_file(rows: pd.DataFrame, tables: Tables) -> pd.Series:
    """Return which rows bring values of tables only: they name no file, and no modality or a table.

    Args:
        rows: str columns `modality` and `path`, "" where there is none.
        tables: the modalities that are tables.
    """
    modality_is_open = rows["modality"].map(is_missing).astype(bool) | rows["modality"].isin(tables)
    return (rows["path"] == "") & modality_is_open & bool(tables)


def member_rows(rows: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return one row for each table of each observation that has a value in it.

    Args:
        rows: checked rows of the manifest, with a str column for each one of the tables, "" where there is no value.
        tables: modality → column → kind.

    Returns:
        The first row of the observation, with `modality`, an empty `path`, and `values`: JSON, column → number, text,
        or null.
    """
    members: list[dict[str, Any]] = []
    for _, group in rows.groupby(["subject", "session"], sort=False):
        first = group.iloc[0].to_dict()
        for modality, kinds in tables.items():
            values = {name: _value(group[name], kind) for name, kind in kinds.items()}
            if any(value is not None for value in values.values()):
                members.append({**first, "modality": modality, "path": "", "values": json.dumps(values)})
    return pd.DataFrame(members, columns=[*rows.columns, "values"]).astype({"row": int})


def _value(cells: pd.Series, kind: ColumnKind) -> float | str | None:
    given = cells[cells != ""]
    if given.empty:
        return None
    return as_number(given.iloc[0]) if kind == "number" else str(given.iloc[0])


def values_of(scans: pd.DataFrame) -> dict[str, Values]:
    """Return the values of each table in a table of scans: scan → column → value; {} if it has none.

    Raises:
        ValueError: they are not as `member_rows` wrote them.
    """
    if "values" not in scans:
        return {}
    given = scans[scans["values"] != ""]
    return {scan: _parsed(scan, text) for scan, text in zip(given["scan"], given["values"], strict=True)}


def _parsed(scan: str, text: str) -> Values:
    values = json.loads(text)
    if not isinstance(values, dict) or not all(
        each is None or isinstance(each, str) or (type(each) is float and abs(each) <= LARGEST)
        for each in values.values()
    ):
        raise ValueError(f"the values of {scan} are no mapping from columns to numbers and words")
    return values


def value_notes(scans: pd.DataFrame, tables: Tables) -> Iterator[str]:
    """Describe columns that say nothing, and columns that say the class.

    Args:
        scans: as from `cohort.manifest.check_manifest`, with labels.
        tables: modality → column → kind.
    """
    values = values_of(scans)
    label = dict(zip(scans["observation"], scans["label"], strict=True))
    for modality, kinds in tables.items():
        members = scans[scans["modality"] == modality]
        named = dict(zip(members["observation"], members["scan"], strict=True))
        for name in kinds:
            where = f"{modality}: column {name!r}"
            cells = {o: values[named[o]][name] if o in named else None for o in label}
            given = {o: value for o, value in cells.items() if value is not None}
            if not given:
                yield f"{where} holds no value for anybody, and counts for nothing"
            elif len(set(given.values())) == 1:
                yield f"{where} is {next(iter(given.values()))!r} wherever it is given, and counts for nothing but that"
            elif _decides(pd.Series(given), pd.Series(label)):
                yield (
                    f"{where} tells the class of every one of {len(given)} patients who have it. Is it made from the "
                    "class, or known only once the class is? Then take it out"
                )
            elif len(given) < len(cells) and _decides(pd.Series(cells).notna(), pd.Series(label)):
                yield f"{where} is given in one class only: that it is given tells the class. Take it out"


def _decides(values: pd.Series, label: pd.Series) -> bool:
    """Return whether values tell the class of all who have one, and do so by more than naming each of them.

    Categories (and truth values): each is in one class only, and they are at most half as many as values. Numbers:
    sorted, they form one run for each class.
    """
    label = label[values.index]
    if label.nunique() < 2 or label.groupby(values).nunique().max() > 1:
        return False
    if values.dtype == float:
        in_order = label[values.sort_values(kind="stable").index]
        return int((in_order != in_order.shift()).sum()) == label.nunique()
    return values.nunique() <= len(values) / 2
