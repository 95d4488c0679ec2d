"""Rows of the report's tables as text, independent of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluation.intervals import probability_columns
from evaluation.metrics import THRESHOLD_FREE, decide
from reporting.formatting import METRIC_LABELS, UNDEFINED, interval, seconds, spread

SPLITS: tuple[str, ...] = ("train", "validation", "test")
SUBSET_GROUPS: dict[str, str] = {
    "any": "All test subjects with at least one scan of the subset",
    "complete": "Only test subjects with every modality, so that rows are comparable",
}
_SUBSET_METRICS = ("auc", "log_loss", "brier", "balanced_accuracy")  # what fits an A4 page
_DIGITS = {"brier": 3}


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        headers: one per column.
        rows: cells, as many per row as there are headers.
        numeric: indices of the columns set to the right.
        flagged: indices of the rows that are marked.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    flagged: frozenset[int] = frozenset()


def results_table(half: Mapping[str, Mapping[str, Any]], tuned: Mapping[str, Mapping[str, Any]] | None) -> Table:
    """Test metrics: one row each, at threshold 0.5 and, where given, at the validation threshold.

    Args:
        half: metric → summary at threshold 0.5.
        tuned: the same at the validation threshold; None for more than two classes, where no threshold is used.
    """
    headers: tuple[str, ...] = ("Metric", "Mean ± std", "Interval")
    if tuned is not None:
        headers = ("Metric", "Threshold 0.5", "Interval", "Validation threshold", "Interval")
    rows: list[tuple[str, ...]] = []
    for name, label in METRIC_LABELS.items():
        if name not in half:
            continue
        cells: tuple[str, ...] = (label, *_summary_cells(name, half[name]))
        if tuned is not None:
            cells += ("same", "same") if name in THRESHOLD_FREE else _summary_cells(name, tuned.get(name, {}))
        rows.append(cells)
    return Table(headers, tuple(rows), numeric=frozenset(range(1, len(headers))))


def subset_table(subsets: pd.DataFrame, group: str) -> Table:
    """One row per subset of modalities, for the subjects of one group ("any" or "complete")."""
    shown = [name for name in _SUBSET_METRICS if f"{name}_mean" in subsets.columns]
    headers = ["Scans used", "n"]
    for name in shown:
        headers += [METRIC_LABELS[name], "Interval"] if f"{name}_low" in subsets.columns else [METRIC_LABELS[name]]
    rows = []
    for row in subsets[subsets["subjects"] == group].to_dict("records"):
        cells = [str(row["modalities"]), f"{int(row['n']):,}"]
        missing = UNDEFINED if row["n"] else "n/a (no scan)"
        for name in shown:
            cells.append(spread(row[f"{name}_mean"], row.get(f"{name}_std"), missing=missing))
            if f"{name}_low" in subsets.columns:
                cells.append(interval(row[f"{name}_low"], row.get(f"{name}_high")))
        rows.append(tuple(cells))
    return Table(tuple(headers), tuple(rows), numeric=frozenset(range(1, len(headers))))


def cohort_table(observations: pd.DataFrame, splits: pd.DataFrame) -> Table:
    """Count observations, subjects, and subjects per split by label; a range where repeats differ."""
    observations = observations.assign(
        _subject=observations["subject"].astype(str), _label=observations["label"].astype(str)
    )
    named = splits.assign(_subject=splits["subject"].astype(str))
    split_names = [*SPLITS, *sorted(set(named["split"]) - set(SPLITS))]
    split_names = [split for split in split_names if (named["split"] == split).any()]
    rows = []
    for label, group in [*observations.groupby("_label", sort=True), ("all", observations)]:
        cells = [str(label), f"{len(group):,}", f"{group['_subject'].nunique():,}"]
        here = named[named["_subject"].isin(set(group["_subject"]))]
        by_repeat = here.groupby(["repeat", "split"])["_subject"].nunique().unstack(fill_value=0)
        for split in split_names:
            counts = by_repeat[split] if split in by_repeat.columns else pd.Series([0])
            low, high = int(counts.min()), int(counts.max())
            cells.append(f"{low:,}" if low == high else f"{low:,}–{high:,}")
        rows.append(tuple(cells))
    headers = ("Label", "Observations", "Subjects", *(f"{split.capitalize()} subjects" for split in split_names))
    return Table(headers, tuple(rows), numeric=frozenset(range(1, len(headers))))


def modality_table(availability: pd.DataFrame, n_observations: int) -> Table:
    """Count scans per modality that were used, hidden on purpose or failed, and observations that have none at all."""
    rows = []
    for modality, group in availability.groupby(availability["modality"].astype(str), sort=True):
        states = group["state"].value_counts()
        absent = n_observations - group["observation"].nunique()
        used, hidden, failed = (int(states.get(state, 0)) for state in ("used", "hidden", "failed"))
        rows.append((str(modality), f"{used:,}", f"{hidden:,}", f"{failed:,}", f"{absent:,}"))
    headers = ("Modality", "Used", "Hidden on purpose", "Failed", "Absent (observations without)")
    return Table(headers, tuple(rows), numeric=frozenset(range(1, 5)))


def covariate_table(observations: pd.DataFrame) -> Table | None:
    """Covariates by label: mean ± std of numbers, counts of categories; None if there is no covariate."""
    names = [name for name in observations.columns if name not in ("observation", "subject", "label")]
    if not names:
        return None
    groups = list(observations.groupby(observations["label"].astype(str), sort=True))
    rows = tuple((str(name), *(_covariate(group[name]) for _, group in groups)) for name in names)
    return Table(
        ("Covariate", *(str(label) for label, _ in groups)), rows, numeric=frozenset(range(1, len(groups) + 1))
    )


def excluded_subjects(observations: pd.DataFrame, splits: pd.DataFrame, availability: pd.DataFrame) -> list[str]:
    """Subjects of the cohort that are in no split of any repeat, or of whom no scan could be used."""
    placed = set(splits.loc[splits["split"] != "excluded", "subject"].astype(str))
    used = set(availability.loc[availability["state"] == "used", "observation"])
    usable = set(observations.loc[observations["observation"].isin(used), "subject"].astype(str))
    return sorted(set(observations["subject"].astype(str)) - (placed & usable))


def prediction_table(
    predictions: pd.DataFrame, classes: tuple[str, ...], thresholds: Mapping[int, float] | None, *, limit: int
) -> Table:
    """One row per test prediction, the wrong ones marked; the first `limit` rows.

    Args:
        predictions: as in `evaluation.intervals`, with a column `scans_used` of scan ids joined by semicolons.
        classes: names of the classes, in order.
        thresholds: validation threshold per repeat, for a second decision; None for none.
        limit: rows shown at most.
    """
    rows_shown = predictions.head(limit)
    columns = probability_columns(predictions)
    probabilities = rows_shown[columns].to_numpy(dtype=np.float64)
    decisions = [decide(probabilities)]
    decision_headers = ["Decision at 0.5" if len(classes) == 2 else "Decision"]
    if thresholds is not None and len(classes) == 2:
        level = np.array([thresholds.get(int(repeat), 0.5) for repeat in rows_shown["repeat"]])
        decisions.append((probabilities[:, 1] >= level).astype(np.int64))
        decision_headers.append("At validation threshold")
    shown = [1] if len(classes) == 2 else range(len(classes))
    truth = rows_shown["truth"].to_numpy()
    rows = []
    for i, row in enumerate(rows_shown.to_dict("records")):
        scans = str(row.get("scans_used", "")).replace(";", "; ")
        cells = [str(row["repeat"]), str(row["subject"]), str(row["observation"]), scans, classes[truth[i]]]
        cells += [f"{probabilities[i, k]:.3f}" for k in shown]
        cells += [classes[decided[i]] + (" ✗" if decided[i] != truth[i] else "") for decided in decisions]
        rows.append(tuple(cells))
    headers = ("Repeat", "Subject", "Observation", "Scans used", "Truth", *(f"P({classes[k]})" for k in shown))
    return Table(
        (*headers, *decision_headers),
        tuple(rows),
        numeric=frozenset(range(5, 5 + len(shown))),
        flagged=frozenset(np.flatnonzero(decisions[0] != truth).tolist()),
    )


def plan_table(plan: pd.DataFrame) -> Table:
    """Stages in the order they ran, with state, reason and duration."""
    rows = tuple(
        (str(row["stage"]), str(row["state"]), str(row["reason"]), seconds(row["seconds"]))
        for row in plan.to_dict("records")
    )
    return Table(("Stage", "State", "Reason", "Time"), rows, numeric=frozenset({3}))


def text_table(frame: pd.DataFrame, columns: Mapping[str, str]) -> Table:
    """Columns of a frame as they are: column name → header."""
    rows = tuple(
        tuple("" if pd.isna(cell) else str(cell) for cell in row) for row in frame[list(columns)].to_numpy(dtype=object)
    )
    return Table(tuple(columns.values()), rows)


def _summary_cells(name: str, summary: Mapping[str, Any]) -> tuple[str, str]:
    """Mean ± std and interval of one metric."""
    digits = _DIGITS.get(name, 2)
    return spread(summary.get("mean"), summary.get("std"), digits), interval(
        summary.get("low"), summary.get("high"), digits
    )


def _covariate(values: pd.Series) -> str:
    """One covariate of one label, in one cell."""
    missing = int(values.isna().sum())
    kept = values.dropna()
    if pd.api.types.is_numeric_dtype(kept) and not pd.api.types.is_bool_dtype(kept):
        text = spread(float(kept.mean()), float(kept.std()), 1, missing="–") if len(kept) else "–"
    else:
        counts = kept.astype(str).value_counts()
        text = ", ".join(f"{name} {n}" for name, n in counts.head(4).items()) or "–"
        text += f", {len(counts) - 4} more" if len(counts) > 4 else ""
    return f"{text} ({missing} missing)" if missing else text
