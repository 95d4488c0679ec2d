"""Tables of a comparison as text: probabilities, reasons for missing scans, subsets of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reporting.fairness_page import LEVEL
from reporting.formatting import METRIC_LABELS, is_number, number
from reporting.tables import Table

PROBABILITIES = ("log_loss", "brier")
PROBABILITIES_CAPTION = (
    "Probabilities, lower is better: a coin between two classes has a log loss of 0.693 and a Brier score of 0.25. "
    "Calibration error: how far they lie from frequencies, in ten bins, all repeats together"
)
MECHANISMS_TITLE = "Why scans are missing"
MECHANISMS_LEAD = (
    "AUC where training patients lost scans for one reason and test patients for another. Each method was trained once "
    "a row; the same test patients are in every column, as far as the method could take them. Along a row nothing but "
    "the test changes: a difference between columns is what another reason for missing scans does to this model."
)
PATTERN_TITLE = "What is made of which scans there are"
PATTERN_LEAD = (
    "In each line test patients lose scans for the reason; what differs is the training. Where training patients lost "
    "scans at random, nothing but chance could be learnt from who lacks one. Shuffled: as many of each class lost them "
    "in training as by the reason, but not those of whom the reason is true."
)
SUBSETS_TITLE = "Given only some of the scans"
SUBSETS_LEAD = (
    "Each method was trained once, and tested with only these scans of the test patients who have all of them. A coin "
    "knows nothing: it gives every class the same probability. A log loss or Brier score above a coin's means that the "
    "probabilities do harm; lower is better."
)
_IN_SUBSETS = (("auc", 2), ("log_loss", 3), ("brier", 3))
AVAILABILITY = "availability only"  # is meant to
NO_BREAK = "\N{NO-BREAK SPACE}"


def probabilities_text(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return log loss, Brier score and calibration error, a row for each method."""
    body = []
    for row in rows:
        cells = [
            f"{number(row[f'{name}_mean'], 3)}{limits(row[f'{name}_low'], row[f'{name}_high'], '{:.3f}')}"
            for name in PROBABILITIES
        ]
        body.append((str(row["method"]), *(cells if row["n"] else ["–", "–"]), number(row["ece"], 3, missing="–")))
    headers = ("Method", *(METRIC_LABELS[name] for name in PROBABILITIES), "Calibration error")
    return Table(headers, tuple(body), numeric=frozenset(range(1, len(headers))))


def mechanisms_text(mechanisms: pd.DataFrame) -> Table:
    """Return AUC with interval, a row for each method and reason in training, a column for each in the test."""
    columns = list(dict.fromkeys(mechanisms["tested"].astype(str)))
    rows = []
    for (method, training), here in mechanisms.groupby(["method", "training"], sort=False):
        cells = {row["tested"]: row for row in here.to_dict("records")}
        rows.append((str(method), str(training), *(_auc_with_n(cells.get(name)) for name in columns)))
    headers = ("Method", "Lost in training by", *(f"Test: {name}" for name in columns))
    return Table(headers, tuple(rows), numeric=frozenset(range(2, len(headers))))


def pattern_text(pattern: pd.DataFrame) -> Table:
    """Return AUC by what was lost in training, a row for each method and reason; see `pattern.pattern_table`."""
    headers = (
        "Method", "Lost in the test by", "n", "AUC, lost so in training", "Lost at random", "Learnt from who lacks it",
        "Shuffled within classes", "Against shuffled",
    )  # fmt: skip
    body = [
        (
            str(row["method"]), str(row["reason"]), f"{int(row['n']):,}", number(row["auc"]),
            number(row["random_auc"], missing="–"), _signed(row, "learnt"), number(row["shuffled_auc"], missing="–"),
            _signed(row, "within"),
        )
        for row in pattern.to_dict("records")
    ]  # fmt: skip
    return Table(headers, tuple(body), numeric=frozenset(range(2, len(headers))))


def pattern_sentences(pattern: pd.DataFrame) -> list[str]:
    """Say of each method that learnt from which scans there are, beyond chance, that it did, and what can be done."""
    tested = [row for row in pattern.to_dict("records") if is_number(row.get("learnt_p_holm"))]
    found = [row for row in tested if row["learnt_p_holm"] < LEVEL and row["learnt"] > 0]
    sentences = [
        f"{row['method']} makes use of which scans there are: where {row['reason']} decides who lacks one, AUC "
        f"{row['auc']:.2f} against {row['random_auc']:.2f} when it could not learn that ({_signed(row, 'learnt')}; p "
        f"{row['learnt_p_holm']:.2g}, corrected for {len(tested)} tests)."
        for row in found
    ]
    if any(row["method"] != AVAILABILITY for row in found):
        sentences.append(
            "If that is a habit of the hospital and not of the disease, it will not hold elsewhere. Two settings "
            "weaken it: classify.modality_dropout (with classify.fit: epochs) hides scans at random in training; "
            "split.missing with mechanism class hides scans of the class that keeps more of them, until the classes "
            "lack as many. "
            "Neither is applied by itself."
        )
    return sentences


def _signed(row: Mapping[str, Any], name: str) -> str:
    """Write `+0.07 [-0.01 to +0.15]`."""
    if not is_number(row[name]):
        return "–"
    text = f"{row[name]:+.2f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{text} [{low:+.2f} to {high:+.2f}]" if is_number(low) and is_number(high) else text


def _auc_with_n(row: Mapping[str, Any] | None) -> str:
    """Write AUC and interval, and of how many predictions, where some could not be made."""
    if row is None or not is_number(row["auc_mean"]):
        return "–"
    text = number(row["auc_mean"])
    if is_number(row["auc_low"]) and is_number(row["auc_high"]):
        text += f" [{row['auc_low']:.2f} to {row['auc_high']:.2f}]"
    return text if row["n"] == row["n_asked"] else f"{text}, n {int(row['n'])} of {int(row['n_asked'])}"


def subsets_text(subsets: pd.DataFrame) -> Table:
    """Return scores with intervals, a row for each subset of modalities and method, after a coin's.

    Args:
        subsets: as `comparison.subsets_table` returns it; methods that could take nobody get no row.
    """
    rows = []
    for row in subsets[subsets["n"] > 0].to_dict("records"):
        n = str(row["n"]) if row["n"] == row["n_asked"] else f"{row['n']} of {row['n_asked']}"
        scores = (_with_interval(row, name, digits) for name, digits in _IN_SUBSETS)
        rows.append((str(row["modalities"] or "–"), str(row["method"]), n, *scores))
    headers = ("Scans", "Method", "n", *(METRIC_LABELS[name] for name, _ in _IN_SUBSETS))
    return Table(headers, tuple(rows), numeric=frozenset(range(2, len(headers))))


def _with_interval(row: Mapping[str, Any], name: str, digits: int) -> str:
    """Write `0.86 [0.74 to 0.95]`."""
    mean, low, high = (row[f"{name}_{end}"] for end in ("mean", "low", "high"))
    if not is_number(mean):
        return "n/a"
    limits = f" [{low:.{digits}f} to {high:.{digits}f}]" if is_number(low) and is_number(high) else ""
    return f"{mean:.{digits}f}{limits}"


def limits(low: Any, high: Any, form: str) -> str:
    """Write ` [0.74, 0.95]`, or nothing."""
    return f" [{form.format(low)},{NO_BREAK}{form.format(high)}]" if is_number(low) and is_number(high) else ""
