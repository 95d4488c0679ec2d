"""Two sections of the report: what the images add, and what else could explain the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.confounding import THE_CLASS
from reporting.fairness_others import FairnessOfOthers
from reporting.fairness_page import Fairness
from reporting.formatting import METRIC_LABELS, interval, is_number, number, spread
from reporting.tables import Table

_SPLITS = {"subject": "at random, by patient"}


@dataclass(frozen=True)
class Confounding:
    """The tables of the stage confounding.

    Attributes:
        comparison: of methods that see no image and the fusion with them, as `comparison.comparison_table` returns it.
        probes: covariate (or `THE_CLASS`), kind ("number" or "category"), modality, n, subjects, mean, low,
            high (R² of numbers, AUC of categories; NaN for too few), remark.
        fairness: scores of groups of patients, and gaps between them.
        splits: split ("subject" or a column), n, subjects, repeats, and `_mean`, `_std`, `_low`, `_high` of auc and
            balanced_accuracy; this run first, another one below it if there is one.
        covariates: their names; empty if the manifest has none.
        gain: as `confounding.gain_over_covariates` returns it; None for NaN.
        reference: the method that the differences in `comparison` are from.
        folds: of the cross-validation of the probes.
        repetitions: of it.
        lacking: tested observations without one of the modalities.
        others: the audit beside HyperMM.
    """

    comparison: pd.DataFrame
    probes: pd.DataFrame
    fairness: Fairness
    splits: pd.DataFrame
    covariates: tuple[str, ...]
    gain: Mapping[str, Any]
    reference: str
    folds: int
    repetitions: int
    lacking: int
    others: FairnessOfOthers | None = None


def confounding_section(page: Confounding) -> dict[str, Any]:
    """Return the variables of `images_add.html.j2` and `confounding.html.j2`."""
    return {
        "answer": answers(page.gain, page.covariates, lacking=page.lacking > 0),
        "methods": _methods(page),
        "probes": _probes(page.probes),
        "told": _told(page.probes),
        "splits": _splits(page.splits),
        "split_note": _split_note(page),
        "covariates": page.covariates,
        "page": page,
    }


def answers(gain: Mapping[str, Any], covariates: Sequence[str], *, lacking: bool = False) -> list[str]:
    """Say in words what the images add to the covariates, and whether the choice of scans tells the class.

    Args:
        gain: as `confounding.gain_over_covariates` returns it; None allowed for NaN.
        covariates: their names.
        lacking: some patients lack a scan, so that the second is to be said even if nothing is told.
    """
    return [images_add(gain, covariates), *filter(None, [availability_tells(gain, lacking=lacking)])]


def images_add(gain: Mapping[str, Any], covariates: Sequence[str]) -> str:
    """Say in one or two sentences what the images add to the covariates."""
    if not covariates:
        return (
            "What the images add cannot be said: the manifest has none of the columns of cohort.covariates (age, sex, "
            "site as a rule), so there is nothing to add to."
        )
    alone = _listed(covariates)
    if not is_number(gain["difference"]):
        return f"What the images add to {alone} cannot be said: there are no test predictions with both."
    numbers = (
        f"AUC {gain['covariates_auc']:.2f} from {alone} alone, {gain['fused_auc']:.2f} with the images "
        f"({gain['difference']:+.2f}"
    )
    if not is_number(gain["low"]):
        return f"{numbers}). There are too few patients for an interval, so nothing follows."
    numbers += f", interval {gain['low']:+.2f} to {gain['high']:+.2f}, on the same {int(gain['n']):,} test predictions)"
    if gain["low"] > 0:
        return f"The images add to {alone}: {numbers}."
    if gain["high"] < 0:
        return f"With the images it gets worse than with {alone} alone: {numbers}."
    return f"The images add nothing to {alone} that these patients could show: {numbers}."


def availability_tells(gain: Mapping[str, Any], *, lacking: bool = False) -> str:
    """Say whether which scans were made tells the class; "" if it does not, unless somebody is `lacking` a scan."""
    auc = f"AUC {number(gain['availability_auc'])}"
    if is_number(gain["availability_low"]):
        auc += f" (interval {interval(gain['availability_low'], gain['availability_high'])})"
    if is_number(gain["availability_low"]) and gain["availability_low"] > 0.5:
        return (
            f"Which scans were made already tells the label: {auc}, without a look at any of them. "
            "The classifier may have learnt the hospital’s habit."
        )
    if not lacking:
        return ""
    if not is_number(gain["availability_auc"]):
        return "Some patients lack a scan; whether that tells the label could not be asked, as a note of this run says."
    said = f"Some patients lack a scan. That alone tells the label with {auc}"
    if not is_number(gain["availability_low"]):
        return f"{said}; there are too few patients for an interval, so nothing follows."
    return f"{said}, which is not above chance."


def _methods(page: Confounding) -> Table:
    """Scores of every method, and the difference from the reference."""
    headers = ["Method", "n"]
    for metric in ("auc", "balanced_accuracy"):
        headers += [METRIC_LABELS[metric], "Interval"]
    headers += [f"AUC minus that of {page.reference}", "Interval"]
    rows = []
    for row in page.comparison.to_dict("records"):
        cells = [str(row["method"]), f"{int(row['n']):,}"]
        for metric in ("auc", "balanced_accuracy"):
            cells.append(spread(row[f"{metric}_mean"], row[f"{metric}_std"]))
            cells.append(interval(row[f"{metric}_low"], row[f"{metric}_high"]))
        same = row["method"] == page.reference
        cells.append("–" if same else _signed(row["auc_difference"]))
        cells.append("–" if same else _signed_interval(row["auc_difference_low"], row["auc_difference_high"]))
        rows.append(tuple(cells))
    return Table(tuple(headers), tuple(rows), numeric=frozenset(range(1, len(headers))))


def _probes(probes: pd.DataFrame) -> Table:
    """Say what the feature maps tell; the rows of what they do tell are marked."""
    rows, told = [], []
    for i, row in enumerate(probes.to_dict("records")):
        measure = "R²" if row["kind"] == "number" else "AUC"
        cells = [str(row["covariate"]), str(row["modality"]), f"{int(row['subjects']):,}", measure]
        cells += [
            number(row["mean"], missing="–"),
            interval(row["low"], row["high"]) if is_number(row["mean"]) else "–",
        ]
        rows.append((*cells, str(row["remark"])))
        told += [i] if _is_told(row) and row["covariate"] != THE_CLASS else []
    headers = ("What", "Scans", "Patients", "Measure", "Value", "Interval", "Remark")
    return Table(headers, tuple(rows), numeric=frozenset({2, 4, 5}), flagged=frozenset(told))


def _told(probes: pd.DataFrame) -> str:
    """Say which covariates can be told from the feature maps."""
    rows = [row for row in probes.to_dict("records") if row["covariate"] != THE_CLASS]
    known = [row for row in rows if is_number(row["mean"])]
    if not known:
        return ""
    told = list(dict.fromkeys(str(row["covariate"]) for row in known if _is_told(row)))
    if not told:
        return "None of the covariates could be told from the feature maps of these patients."
    return (
        f"The feature maps tell {_listed(told)}. Where that goes with the class, a classifier can use it instead of "
        "the disease."
    )


def _is_told(row: Mapping[str, Any]) -> bool:
    return is_number(row["low"]) and row["low"] > (0 if row["kind"] == "number" else 0.5)


def _splits(splits: pd.DataFrame) -> Table:
    """Set the result of this run beside that of the other one."""
    rows = []
    for i, row in enumerate(splits.to_dict("records")):
        by = _SPLITS.get(str(row["split"]), f"by {row['split']}: tested where it was not trained")
        cells = [f"{'other workspace' if i else 'this run'}: {by}", f"{int(row['n']):,}", f"{int(row['subjects']):,}"]
        cells.append(f"{int(row['repeats']):,}")
        for metric in ("auc", "balanced_accuracy"):
            cells.append(spread(row[f"{metric}_mean"], row[f"{metric}_std"]))
            cells.append(interval(row[f"{metric}_low"], row[f"{metric}_high"]))
        rows.append(tuple(cells))
    headers = ("Split", "n", "Patients", "Repeats", "AUC", "Interval", METRIC_LABELS["balanced_accuracy"], "Interval")
    return Table(headers, tuple(rows), numeric=frozenset(range(1, len(headers))))


def _split_note(page: Confounding) -> str:
    """Say how to get the split that is missing beside this one."""
    used = [str(name) for name in page.splits["split"]]
    if len(used) > 1:
        return ""
    if used != ["subject"]:
        return (
            "For the random split beside it, run another workspace without split.by and name it in confounding.beside."
        )
    if "site" not in page.covariates:
        return "There is no covariate site, so it is not known how the model does at a site that it never saw."
    return (
        "Whether the model holds at a site that it never saw, only another run shows: type --split.by site and another "
        "--workspace, then name that one in confounding.beside."
    )


def _listed(names: Sequence[str]) -> str:
    """Write `age`, `age and sex`, `age, sex and site`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _signed(value: Any) -> str:
    return f"{value:+.2f}" if is_number(value) else "n/a"


def _signed_interval(low: Any, high: Any) -> str:
    return f"{low:+.2f} to {high:+.2f}" if is_number(low) and is_number(high) else "n/a"
