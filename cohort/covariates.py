"""What is known of a patient without looking at a scan: covariates, and which scans there are, as numbers.

Tables have one row an observation and text cells, "" for no value; the index is the name of the observation. The kind
of a column, number or category, is a property of the whole table. Means, spreads and the list of categories are learnt
from training rows only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.manifest import observations
from cohort.names import CODES, are_numbers, number
from cohort.splits import shuffled

MOST_NAMED = 5  # observations in a note
Kind = Literal["number", "category"]


def covariates_of(scans: pd.DataFrame) -> pd.DataFrame:
    """Return the covariates of every observation.

    Args:
        scans: as `check_manifest` returns it.

    Returns:
        One row an observation, sorted by its name, which is the index; a text column for each covariate, none if the
        manifest has none. Where the scans of an observation differ, the first that is not empty counts.
    """
    cells = _cells(scans)
    return cells.groupby(scans["observation"]).first().fillna("").astype(str)


def covariate_notes(scans: pd.DataFrame) -> list[str]:
    """Name the observations whose scans give different covariates, of which `covariates_of` takes the first."""
    different = _cells(scans).groupby(scans["observation"]).nunique() > 1
    notes = []
    for name, rows in different.items():
        if found := list(different.index[rows]):
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            whose = f"{', '.join(found[:MOST_NAMED])}{more}"
            notes.append(f"{name}: the scans of one session have different values ({whose}); the first counts")
    return notes


def _cells(scans: pd.DataFrame) -> pd.DataFrame:
    """Return the covariates of every scan, NaN for none."""
    named = observations(scans).columns.drop(["observation", "subject", "session", "label", "split"], errors="ignore")
    return scans[list(named)].mask(scans[list(named)] == "")


def availability_of(scans: pd.DataFrame) -> pd.DataFrame:
    """Return which scans every observation has.

    Args:
        scans: str columns `observation`, `modality`; the scans that may be used.

    Returns:
        One row an observation, sorted by its name: `pattern` (names of the modalities that are there, joined by +), for
        each modality `has <name>` (yes or no), and, where somebody has several, `number of <name>`; all text.
    """
    counts = pd.crosstab(scans["observation"], scans["modality"])
    table = pd.DataFrame({"pattern": patterns_of(scans).reindex(counts.index)})
    for modality, column in counts.items():
        table[f"has {modality}"] = np.where(column > 0, "yes", "no")
        if column.max() > 1:
            table[f"number of {modality}"] = column.astype(str)
    return table


def patterns_of(scans: pd.DataFrame) -> pd.Series:
    """Return the modalities of every observation, such as `MRI+PET`; the index is the name of the observation."""
    return scans.groupby("observation")["modality"].agg(lambda names: "+".join(sorted(set(names))))


def kinds_of(table: pd.DataFrame) -> dict[str, Kind]:
    """Return column → kind; number where all cells that are not empty hold one, but for `CODES`."""
    return {
        str(name): "number" if are_numbers(cells) and str(name).lower() not in CODES else "category"
        for name, cells in table.items()
    }


def as_numbers(cells: pd.Series) -> pd.Series:
    """Return the numbers in cells, float64; NaN where there is none."""
    found = [number(cell) for cell in cells]
    return pd.Series([np.nan if value is None else float(value) for value in found], index=cells.index, dtype=float)


@dataclass(frozen=True)
class Encoder:
    """Turns rows of a table into numbers.

    A number is standardised; where it is missing, it is the training mean, and a second column says so. A category is
    one column for each value among the training rows, no value being one of them; a value that no training row has is
    all zeros.

    Attributes:
        scales: column of numbers → mean and standard deviation of the training rows.
        values: column of categories → its values among the training rows.
    """

    scales: Mapping[str, tuple[float, float]]
    values: Mapping[str, tuple[str, ...]]

    def __call__(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the rows as numbers, (n, F)."""
        columns: list[NDArray[np.float64]] = []
        for name, (mean, spread) in self.scales.items():
            numbers = as_numbers(table[name]).to_numpy()
            lacking = np.isnan(numbers)
            columns += [np.where(lacking, 0.0, (numbers - mean) / spread), lacking.astype(np.float64)]
        for name, values in self.values.items():
            columns += [(table[name] == value).to_numpy(dtype=np.float64) for value in values]
        return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0))


def fit_encoder(train: pd.DataFrame, kinds: Mapping[str, Kind]) -> Encoder:
    """Learn means, spreads and categories from training rows.

    Columns that say nothing about them are left out: numbers that are all alike or missing, a single category.
    """
    scales, values = {}, {}
    for name, kind in kinds.items():
        if kind == "category":
            found = tuple(sorted(set(train[name])))
            if len(found) > 1:
                values[name] = found
            continue
        numbers = as_numbers(train[name]).dropna().to_numpy()
        spread = float(numbers.std()) if len(numbers) else 0.0
        if spread > 0 or 0 < len(numbers) < len(train):  # whether it was measured may tell, too
            scales[name] = float(numbers.mean()), spread or 1.0
    return Encoder(scales, values)


def folds_of(subjects: pd.Series, strata: pd.Series, count: int, *key: object) -> NDArray[np.int64]:
    """Assign rows to folds by subject, the subjects of each stratum in turn.

    Args:
        subjects: of each row.
        strata: of each row, such as its class; that of a subject's first row counts.
        count: number of folds.
        key: another key gives other folds.

    Returns:
        (n,), from 0 to count - 1; fewer folds are used if there are fewer subjects.
    """
    first = pd.DataFrame({"subject": subjects.to_numpy(), "stratum": strata.to_numpy()}).drop_duplicates("subject")
    in_turn: list[str] = []
    for _, members in first.groupby("stratum", sort=True):
        in_turn += shuffled(members["subject"], *key)
    fold = {subject: i % count for i, subject in enumerate(in_turn)}
    return np.array([fold[subject] for subject in subjects], dtype=np.int64)
