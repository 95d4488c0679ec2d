"""One flat row a patient, for the database of a lab, from the content of `predictions.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reporting.formatting import is_number

SCHEMA = "hypermm-predictions/1"
SEPARATOR = ";"

_CONTENT_KEYS = ("made", "classes", "modalities", "error_rate", "temperature", "patients", "refused")
_PATIENT_KEYS = (
    "observation", "subject", "session", "answer", "abstains", "set", "why", "calibration_subjects", "probabilities",
    "uncalibrated", "scans", "missing", "out_of_distribution", "notes",
)  # fmt: skip
_MISSING_KEYS = ("modality", "n", "mean_absolute_change", "decisions_changed", "abstentions_resolved", "error_rate")
_SCAN_KEYS = ("scan", "modality", "used", "reason", "contribution", "outlier")
_OUTLIER_KEYS = ("distance", "share_farther", "n", "flag")


def patients_csv(content: Mapping[str, Any]) -> pd.DataFrame:
    """Flatten the predictions of new patients: first the patients in the order given, then those that were refused.

    Columns, always these and in this order:

    - `observation`, `subject`, `session`: text, as in the manifest;
    - `state`: "answered", "abstained" or "refused";
    - `answer`: name of the class, empty if there is none;
    - `abstains`, `out_of_distribution`: True or False, empty for a refused patient;
    - `set`: names of the classes in the conformal set, joined by semicolons;
    - `error_rate`: share of sets that may miss the true class, on average; a number in (0, 1);
    - `calibration_subjects`: how many subjects the set rests on;
    - `p_<class>`, one for each class in the order of the model: calibrated probability in [0, 1], empty if refused;
    - `scans_used`, `scans_failed`: scan ids joined by semicolons; the second are those given and not used;
    - `missing`: modalities the model reads and that no used scan is of, joined by semicolons;
    - `why`: why it abstains or was refused, or a remark on the prediction;
    - `notes`: remarks, joined by semicolons and a space;
    - `model`, `model_version`, `model_sha256`, `made`: the model, and the time of prediction (ISO 8601).

    Args:
        content: of `predictions.json`, schema `hypermm-predictions/1`.

    Returns:
        One row a patient.

    Raises:
        ValueError: it is of another schema, or lacks something; says what.
    """
    check_content(content)
    classes, made = content["classes"], content["made"]
    model = {
        "model": made["model"],
        "model_version": made["model_version"],
        "model_sha256": made["model_sha256"],
        "made": made["time"],
    }
    rows = [_row(patient, content) | model for patient in content["patients"]]
    for refused in content["refused"]:
        named = {key: refused.get(key) or "" for key in ("observation", "subject", "session")}
        rows.append(named | {"state": "refused", "why": refused["reason"]} | model)
    frame = pd.DataFrame(rows, columns=list(columns(classes)))
    frame = frame.astype({"abstains": "boolean", "out_of_distribution": "boolean", "calibration_subjects": "Int64"})
    numbers = ["error_rate", *(f"p_{name}" for name in classes)]
    frame[numbers] = frame[numbers].astype("float64")
    text = [name for name in frame.columns if frame[name].dtype == object or pd.api.types.is_string_dtype(frame[name])]
    return frame.fillna(dict.fromkeys(text, ""))


def columns(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the table for a model with these classes."""
    return (
        "observation", "subject", "session", "state", "answer", "abstains", "set", "error_rate",
        "calibration_subjects", *(f"p_{name}" for name in classes), "scans_used", "scans_failed",
        "out_of_distribution", "missing", "why", "notes", "model", "model_version", "model_sha256", "made",
    )  # fmt: skip


def missing_modalities(patient: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """Return modalities that the model reads and that no used scan of the patient is of, in the order of the model."""
    used = {scan["modality"] for scan in patient["scans"] if scan["used"]}
    return [modality for modality in content["modalities"] if modality not in used]


def check_content(content: Mapping[str, Any]) -> None:
    """Refuse content that is not of this schema, naming patient and key.

    Raises:
        ValueError: the schema differs, or a key is missing or invalid.
    """
    if content.get("schema") != SCHEMA:
        raise ValueError(
            f"predictions: the schema is {content.get('schema')!r}, this version reads {SCHEMA!r}; "
            "use the version of HyperMM that made the file, or predict again"
        )
    _need(content, _CONTENT_KEYS, "predictions")
    _need(content["made"], ("time", "model", "model_version", "model_sha256"), "predictions: made")
    for refused in content["refused"]:
        _need(refused, ("observation", "subject", "reason"), f"refused patient {refused.get('observation')}")
    for patient in content["patients"]:
        name = f"patient {patient.get('observation')}"
        _need(patient, _PATIENT_KEYS, name)
        for key in ("probabilities", "uncalibrated"):
            _need(patient[key], content["classes"], f"{name}: {key}")
            for label, value in patient[key].items():
                if not is_number(value):
                    raise ValueError(f"{name}: {key} of {label} is {value}; expected a finite number")
        for scan in patient["scans"]:
            _need(scan, _SCAN_KEYS, f"{name}, scan {scan.get('scan')}")
            if scan["contribution"] is not None:
                _need(scan["contribution"], content["classes"], f"{name}, scan {scan['scan']}: contribution")
            if scan["outlier"] is not None:
                _need(scan["outlier"], _OUTLIER_KEYS, f"{name}, scan {scan['scan']}: outlier")
        for entry in patient["missing"]:
            _need(entry, _MISSING_KEYS, f"{name}, missing {entry.get('modality')}")
        named = [*patient["set"], *([] if patient["answer"] is None else [patient["answer"]])]
        if unknown := sorted(set(named) - set(content["classes"])):
            raise ValueError(f"{name}: {unknown} are no classes of the model, which has {list(content['classes'])}")
        if patient["abstains"] != (patient["answer"] is None):
            raise ValueError(f"{name}: abstains is {patient['abstains']} and the answer is {patient['answer']!r}")


def _row(patient: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return one patient as columns."""
    return {
        **{key: patient[key] or "" for key in ("observation", "subject", "session", "answer", "why")},
        **{key: patient[key] for key in ("abstains", "calibration_subjects", "out_of_distribution")},
        **{f"p_{name}": patient["probabilities"][name] for name in content["classes"]},
        "state": "abstained" if patient["abstains"] else "answered",
        "set": SEPARATOR.join(patient["set"]),
        "error_rate": content["error_rate"],
        "scans_used": SEPARATOR.join(scan["scan"] for scan in patient["scans"] if scan["used"]),
        "scans_failed": SEPARATOR.join(scan["scan"] for scan in patient["scans"] if not scan["used"]),
        "missing": SEPARATOR.join(missing_modalities(patient, content)),
        "notes": f"{SEPARATOR} ".join(patient["notes"]),
    }


def _need(content: Mapping[str, Any], keys: Sequence[str], name: str) -> None:
    """Refuse content with missing keys."""
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"{name} lacks {', '.join(missing)}; found {', '.join(map(str, content)) or 'nothing'}")
