"""Write one HTML page with all results of a run: no script, nothing to load, readable on screen and paper.

Slices of scans have pages of their own (`reporting.viewer`), which this one links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from evaluation.intervals import LEVEL, probability_columns
from reporting import figures, tables
from reporting.comparison_page import Comparison, comparison_section
from reporting.confounding_page import Confounding, confounding_section
from reporting.fairness_others import others_section
from reporting.fairness_page import fairness_section
from reporting.formatting import METRIC_LABELS, count, interval, is_number, number, percent, seconds, verdict
from reporting.hypotheses_page import Hypotheses, hypotheses_section
from reporting.joint_page import Joint, joint_section
from reporting.pages import data_uri, environment
from reporting.patient_text import chance
from reporting.quality import COLUMNS as QUALITY
from reporting.quality import CONVENTIONS, quality_tables
from reporting.recycle_page import Recycled, recycled_section
from reporting.synthetic_page import Synthetic, synthetic_section
from reporting.telling_patients import KINDS, TellingPatient
from reporting.update_page import Update, update_section

MAX_PREDICTION_ROWS = 500
MAX_QUALITY_ROWS = 500
MAX_FOREST_ROWS = 31  # of each group: every subset of five modalities
MOST_REPEATS = 6  # listed one by one; more are summed up

_COLUMNS: dict[str, tuple[str, ...]] = {
    "plan": ("stage", "state", "reason", "seconds"),
    "observations": ("observation", "subject", "label"),
    "availability": ("observation", "modality", "state"),
    "splits": ("repeat", "subject", "split"),
    "predictions": ("repeat", "subject", "observation", "scans_used", "truth"),
    "subsets": ("modalities", "subjects", "n", "auc_mean", "auc_low", "auc_high"),
    "failures": ("stage", "scan", "subject", "modality", "reason"),
    "quality": QUALITY,
}
_PENALTY_COLUMNS = ("repeat", "penalty", "held_out_loss", "best")
_HISTORY_COLUMNS = ("repeat", "epoch", "train_loss", "validation_loss", "best")


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows. A frame may be empty but must have its columns.

    Attributes:
        title: of the page.
        created: date and time, as it should be printed.
        classes: names of the classes, in the order of `truth` and `p_k`; class 1 of two is the positive one.
        plan: stage, state, reason, seconds (NaN for none); in the order the stages ran.
        observations: observation, subject, label, and any covariates.
        availability: observation, modality, state (used, hidden, failed); what is not listed is absent.
        splits: repeat, subject, split (train, validation, test).
        quality: as `quality.quality_of` returns it.
        qc: scan id and PNG bytes of its quality-control picture.
        histories: stage name → repeat, epoch, train_loss, validation_loss, best (True at the epoch kept); of a fit
            without epochs repeat, penalty, held_out_loss, best.
        predictions: test rows: repeat, subject, observation, scans_used (ids joined by semicolons), truth, p_0, p_1, …
        metrics: "threshold_half" and "threshold_validation": metric → summary as `intervals.summarise` returns it, None
            allowed for NaN; "thresholds": repeat → validation threshold. The last two may be left out.
        subsets: modalities ("MRI+PET"), subjects ("any" or "complete"), n test observations, and auc_mean, auc_std,
            auc_low, auc_high; the same four for other metrics if wanted.
        failures: stage, scan, subject, modality, reason.
        notes: warnings of the stages.
        settings_yaml: the settings of the run.
        versions: what → version.
        hashes: what → hash, whole, or a short one that is named so.
        run_note: one line about the run, such as machine and duration.
        convention: of the pictures in `qc`, "radiological" or "neurological".
        comparison: with other methods; None leaves the section out.
        patients: test patients to look at, as `telling_patients` returns them, with their scans.
        confounding: what else could explain the result; None leaves these sections out.
        joint: the joint model, and what it imputed; None leaves the section out.
        hypotheses: questions asked in silico; None leaves the section out.
        updated: the joint model that is updated; None leaves the section out.
        synthetic: synthetic patients and what was found when they were judged; None leaves the section out.
        recycled: whether synthetic patients help to learn from few labels; None leaves the section out.
    """

    title: str
    created: str
    classes: tuple[str, ...]
    plan: pd.DataFrame
    observations: pd.DataFrame
    availability: pd.DataFrame
    splits: pd.DataFrame
    quality: pd.DataFrame
    qc: tuple[tuple[str, bytes], ...]
    histories: Mapping[str, pd.DataFrame]
    predictions: pd.DataFrame
    metrics: Mapping[str, Mapping[Any, Any]]
    subsets: pd.DataFrame
    failures: pd.DataFrame
    notes: tuple[str, ...]
    settings_yaml: str
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    run_note: str
    convention: str = "radiological"
    comparison: Comparison | None = None
    patients: tuple[TellingPatient, ...] = ()
    confounding: Confounding | None = None
    joint: Joint | None = None
    hypotheses: Hypotheses | None = None
    updated: Update | None = None
    synthetic: Synthetic | None = None
    recycled: Recycled | None = None


def render_report(data: ReportData) -> str:
    """Render the report as one self-contained HTML page.

    Raises:
        ValueError: if a frame or the comparison lacks a column, the classes do not fit the predictions, or the metrics
            at threshold 0.5 are missing.
    """
    _check(data)
    return environment().get_template("report.html.j2").render(data=data, **_headline(data), **_sections(data))


def _headline(data: ReportData) -> dict[str, Any]:
    """Return the content of the top of the page: the verdict and a few numbers."""
    rows, n_classes = data.predictions, len(data.classes)
    half = data.metrics["threshold_half"]
    subjects, repeats = rows["subject"].nunique(), rows["repeat"].nunique()
    tiles = []
    for name in ("auc", "balanced_accuracy", "accuracy"):
        summary = half.get(name, {})
        below = interval(summary.get("low"), summary.get("high"))
        tiles.append((METRIC_LABELS[name], number(summary.get("mean")), f"{percent(LEVEL)} interval {below}"))
    label_counts = data.observations.drop_duplicates("subject")["label"].astype(str).value_counts().sort_index()
    tiles.append(
        (
            "Cohort",
            count(data.observations["subject"].nunique(), "subject"),
            ", ".join(f"{n} {name}" for name, n in label_counts.items()),
        )
    )
    sentence = verdict(half, n_classes=n_classes, rows=len(rows), subjects=subjects, repeats=repeats)
    return {"verdict": sentence, "tiles": tiles}


def _sections(data: ReportData) -> dict[str, Any]:
    """Return tables, pictures and sentences of the sections below."""
    binary = len(data.classes) == 2
    half, tuned = data.metrics["threshold_half"], data.metrics.get("threshold_validation") if binary else None
    thresholds = {int(repeat): float(value) for repeat, value in data.metrics.get("thresholds", {}).items()}
    excluded = tables.excluded_subjects(data.observations, data.splits, data.availability)
    groups = {key: title for key, title in tables.SUBSET_GROUPS.items() if (data.subsets["subjects"] == key).any()}
    first = data.splits["repeat"].min() if len(data.splits) else None
    split_of = (
        data.splits[data.splits["repeat"] == first].astype({"subject": str}).set_index("subject")["split"].to_dict()
    )
    drawn = len(data.predictions) > 0
    shown = data.quality[data.quality["scan"].isin([scan for scan, _ in data.qc])]
    remarks = dict(zip(shown["scan"], shown["remarks"], strict=True))
    drawn_subsets = data.subsets.groupby("subjects").head(MAX_FOREST_ROWS)
    return {
        "results": tables.results_table(half, tuned),
        "result_notes": _result_notes(data, half, thresholds if tuned is not None else {}),
        "subset_tables": [(title, tables.subset_table(data.subsets, key)) for key, title in groups.items()],
        "forest": data_uri(figures.subset_forest(drawn_subsets, groups)) if groups else "",
        "coin": _coin(len(data.classes)),
        "forest_cut": len(data.subsets) > len(drawn_subsets),
        "comparison": comparison_section(data.comparison) if data.comparison else None,
        "confounding": confounding_section(data.confounding) if data.confounding else None,
        "joint": joint_section(data.joint) if data.joint else None,
        "hypotheses": hypotheses_section(data.hypotheses) if data.hypotheses else None,
        "updated": update_section(data.updated) if data.updated else None,
        "synthetic": synthetic_section(data.synthetic) if data.synthetic else None,
        "recycled": recycled_section(data.recycled) if data.recycled else None,
        "fairness": fairness_section(data.confounding.fairness) if data.confounding else None,
        "fairness_others": (
            others_section(data.confounding.others, data.confounding.fairness)
            if data.confounding and data.confounding.others
            else None
        ),
        "roc": data_uri(figures.roc_figure(data.predictions, data.classes)) if drawn else "",
        "calibration": data_uri(figures.calibration_figure(data.predictions, data.classes)) if drawn else "",
        "patients": [
            (title, words, [_told(patient, data.classes) for patient in data.patients if patient.kind == kind])
            for kind, (title, words) in KINDS.items()
        ],
        "slices_linked": any(scan.link for patient in data.patients for scan in patient.scans),
        "cohort": tables.cohort_table(data.observations, data.splits),
        "covariates": tables.covariate_table(data.observations),
        "modalities": tables.modality_table(data.availability, data.observations["observation"].nunique()),
        "availability": (
            data_uri(figures.availability_figure(data.observations, data.availability, split_of))
            if len(data.availability)
            else ""
        ),
        "availability_repeat": first,
        "excluded": excluded,
        "quality": quality_tables(data.quality, limit=MAX_QUALITY_ROWS),
        "qc": [(scan, remarks.get(scan, ""), data_uri(png, "image/png")) for scan, png in data.qc],
        "qc_planes": bool((shown["kind"] != "image").any()),
        "convention": CONVENTIONS[data.convention],
        "curves": [
            (name, data_uri(_curves_of(rows)(rows)), _kept(rows)) for name, rows in data.histories.items() if len(rows)
        ],
        "predictions": tables.prediction_table(
            data.predictions, data.classes, thresholds if tuned is not None else None, limit=MAX_PREDICTION_ROWS
        ),
        "failures": tables.text_table(
            data.failures,
            {"scan": "Scan", "subject": "Subject", "modality": "Modality", "stage": "Stage", "reason": "Reason"},
        ),
        "plan": tables.plan_table(data.plan),
        "total_time": seconds(data.plan["seconds"].sum()),
    }


def _told(patient: TellingPatient, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return what the page says of a patient and shows of the scans."""
    chances = ", ".join(f"{name} {chance(p)}" for name, p in zip(classes, patient.probabilities, strict=True))
    right = "right" if patient.decision == patient.truth else "wrong"
    return {
        "name": patient.observation,
        "subject": patient.subject if patient.subject != patient.observation else "",
        "words": f"Truth {classes[patient.truth]}, decision {classes[patient.decision]} ({right}): {chances}"
        + (f"; mean of {patient.repeats} repeats." if patient.repeats > 1 else "."),
        "scans": [
            (scan.scan, scan.modality, data_uri(scan.png, "image/png") if scan.png else "", quote(scan.link))
            for scan in patient.scans
        ],
    }


def _result_notes(data: ReportData, half: Mapping[str, Any], thresholds: Mapping[int, float]) -> list[str]:
    """Return the sentences under the table of results: what the numbers are, and what is missing from them."""
    one_repeat = data.predictions["repeat"].nunique() == 1
    notes = [
        (
            f"{percent(LEVEL)} intervals are about this one trained model, on other patients like these. "
            if one_repeat
            else f"{percent(LEVEL)} intervals are about this way of training, with as many patients like these: they "
            "allow for other test patients and for other training patients. "
        )
        + (
            "One repeat, so there is no standard deviation."
            if one_repeat
            else "The standard deviation is over repeats."
        )
    ]
    if len(data.classes) == 2:
        notes.append(f"Precision, recall and F1 are those of class {data.classes[1]}.")
    else:
        notes.append(
            "Classes are decided by the largest probability. Precision, recall, F1 and AUC are averages over classes."
        )
    if "auc_rounded" in half:
        notes.append(
            f"“{METRIC_LABELS['auc_rounded']}” is the AUC of the decisions as 0 and 1, which the code published with "
            "the paper prints as AUC; compare the paper's table with this row."
        )
    if thresholds:
        chosen = ", ".join(f"{value:.2f} (repeat {repeat})" for repeat, value in sorted(thresholds.items()))
        if len(thresholds) > MOST_REPEATS:
            low, middle, high = np.quantile(list(thresholds.values()), [0, 0.5, 1])
            chosen = f"{low:.2f} to {high:.2f}, half of them below {middle:.2f} ({len(thresholds)} repeats)"
        notes.append(f"Validation threshold, the one with the best balanced accuracy on validation subjects: {chosen}.")
    withheld = [
        METRIC_LABELS[name]
        for name in METRIC_LABELS
        if name in half and is_number(half[name].get("mean")) and not is_number(half[name].get("low"))
    ]
    if withheld:
        notes.append(f"No interval of {', '.join(withheld)}: a repeat has fewer than two test patients (of a class).")
    shares = data.predictions.groupby("repeat")["truth"].value_counts(normalize=True)
    known = float(-(shares * np.log(shares)).groupby("repeat").sum().mean())
    loss = (half.get("log_loss") or {}).get("mean")
    if loss is not None and is_number(loss) and loss > known:
        notes.append(
            f"The log loss, {loss:.3f}, is above {known:.3f}, that of telling every test patient how frequent the "
            "classes are among them. Do not use the probabilities; at best they order the patients (AUC)."
        )
    return notes


def _coin(classes: int) -> str:
    """Return the scores of a model that gives every class the same probability."""
    brier = 0.25 if classes == 2 else 1 - 1 / classes
    return f"AUC 0.50, log loss {np.log(classes):.2f}, Brier score {brier:.2f}"


def _curves_of(history: pd.DataFrame) -> Callable[[pd.DataFrame], bytes]:
    """Return the figure of a training: losses by epoch, or by penalty."""
    return figures.penalty_curves if "penalty" in history.columns else figures.learning_curves


def _kept(history: pd.DataFrame) -> str:
    """Say which epoch, or which penalty, was kept in which repeat."""
    kept = history[history["best"].astype(bool)].sort_values("repeat")
    if "penalty" in history.columns:
        listed = ", ".join(f"{row['penalty']:g} (repeat {row['repeat']})" for row in kept.to_dict("records"))
        if len(kept) > MOST_REPEATS:
            low, middle, high = np.quantile(kept["penalty"], [0, 0.5, 1])
            listed = f"{low:g} to {high:g}, half of them below {middle:g} ({len(kept)} repeats)"
        return f"Penalty chosen by inner folds: {listed}. There are no epochs."
    last = history.groupby("repeat")["epoch"].max()
    listed = ", ".join(
        f"{row['epoch']} of {last[row['repeat']]} (repeat {row['repeat']})" for row in kept.to_dict("records")
    )
    if len(kept) > MOST_REPEATS:
        low, middle, high = np.quantile(kept["epoch"], [0, 0.5, 1])
        listed = f"{low:.0f} to {high:.0f}, half of them below {middle:.0f} ({len(kept)} repeats)"
    return f"Epoch kept: {listed}." if listed else "No epoch was kept."


def _check(data: ReportData) -> None:
    """Refuse data the page cannot be made from, naming the field."""
    frames = {field.name: getattr(data, field.name) for field in fields(data) if field.name in _COLUMNS}
    expected = [(name, frame, _COLUMNS[name]) for name, frame in frames.items()]
    for name, frame in data.histories.items():
        expected.append((f"histories[{name!r}]", frame, _PENALTY_COLUMNS if "penalty" in frame else _HISTORY_COLUMNS))
    for name, frame, columns in expected:
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise ValueError(f"ReportData.{name} lacks the column(s) {', '.join(missing)}; found {list(frame.columns)}")
    unknown = sorted(set(data.availability["state"]) - {"used", "hidden", "failed"})
    if unknown:
        raise ValueError(f"ReportData.availability has the state(s) {unknown}; expected used, hidden or failed")
    probabilities = probability_columns(data.predictions)
    if len(probabilities) != len(data.classes):
        raise ValueError(
            f"ReportData.classes names {len(data.classes)} classes; "
            f"predictions have {len(probabilities)} probability columns"
        )
    if "threshold_half" not in data.metrics:
        raise ValueError(f"ReportData.metrics lacks 'threshold_half'; found {sorted(map(str, data.metrics))}")
