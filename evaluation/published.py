"""The published figures as data, shown separately from the measured ones.

Source: Chaptoukaev et al. 2024, HyperMM: Robust Multimodal Learning with Varying-sized Inputs, arXiv 2407.20768, tables
1 and 2, checked row by row. The paper gives mean and standard deviation over repeats, no intervals, and does not list
its patients. What it calls AUC is computed by its published code on rounded probabilities: our `auc_rounded`, never our
`auc`.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd

PAPER = "Chaptoukaev et al. 2024, arXiv 2407.20768"
COMPLETE, HALF_PET, HALF_MRI = "complete", "100% MRI + 50% PET", "100% PET + 50% MRI"
"""Names of the scenarios. BreakHis has one, `COMPLETE`: whatever pictures a patient has."""

AS_IT_IS = "as it is"

_METRICS = ("accuracy", "auc_rounded", "f1", "precision", "recall")
_SOURCES = {
    "ADNI": ("table 1", 300, "300 subjects (165 CN, 135 AD), 3 repeats"),
    "BreakHis": ("table 2", 53, "53 patients (24 benign, 29 malignant), 5,575 pictures, 5 repeats"),
}
# Scenario, method, mean and standard deviation of each metric, all as printed. (The F1 of Uni-CNN PET does not
# follow from its precision and recall, which give 0.42.)
_Row = tuple[str, str, tuple[float, ...], tuple[float, ...]]
_ROWS: dict[str, tuple[_Row, ...]] = {
    "ADNI": (
        (COMPLETE, "Uni-CNN PET", (0.61, 0.58, 0.58, 0.65, 0.31), (0.05, 0.05, 0.06, 0.06, 0.05)),
        (COMPLETE, "Uni-CNN MRI", (0.71, 0.69, 0.58, 0.85, 0.43), (0.02, 0.02, 0.02, 0.03, 0.05)),
        (COMPLETE, "Multi-VAE", (0.66, 0.65, 0.54, 0.74, 0.41), (0.03, 0.03, 0.04, 0.04, 0.03)),
        (COMPLETE, "Multi-CNN", (0.70, 0.70, 0.67, 0.67, 0.68), (0.02, 0.01, 0.01, 0.02, 0.02)),
        (COMPLETE, "HyperMM w/o 2 steps", (0.62, 0.61, 0.53, 0.61, 0.46), (0.03, 0.02, 0.02, 0.03, 0.03)),
        (COMPLETE, "HyperMM", (0.74, 0.73, 0.70, 0.70, 0.70), (0.02, 0.02, 0.01, 0.02, 0.02)),
        (HALF_PET, "pix2pix", (0.65, 0.64, 0.62, 0.62, 0.61), (0.02, 0.02, 0.02, 0.03, 0.02)),
        (HALF_PET, "cycleGAN", (0.62, 0.60, 0.57, 0.61, 0.54), (0.09, 0.07, 0.07, 0.08, 0.08)),
        (HALF_PET, "HyperMM", (0.67, 0.66, 0.61, 0.61, 0.61), (0.02, 0.02, 0.03, 0.03, 0.03)),
        (HALF_MRI, "pix2pix", (0.62, 0.62, 0.53, 0.61, 0.48), (0.04, 0.03, 0.03, 0.05, 0.05)),
        (HALF_MRI, "cycleGAN", (0.62, 0.59, 0.47, 0.60, 0.39), (0.09, 0.10, 0.07, 0.07, 0.07)),
        (HALF_MRI, "HyperMM", (0.64, 0.63, 0.61, 0.61, 0.61), (0.02, 0.02, 0.02, 0.03, 0.03)),
    ),
    "BreakHis": (
        (COMPLETE, "CNN 40X", (0.83, 0.81, 0.83, 0.85, 0.83), (0.07, 0.07, 0.06, 0.08, 0.08)),
        (COMPLETE, "CNN 100X", (0.85, 0.85, 0.87, 0.85, 0.90), (0.08, 0.08, 0.06, 0.07, 0.07)),
        (COMPLETE, "CNN 200X", (0.84, 0.84, 0.84, 0.80, 0.90), (0.07, 0.09, 0.05, 0.11, 0.09)),
        (COMPLETE, "CNN 400X", (0.83, 0.83, 0.85, 0.88, 0.83), (0.09, 0.09, 0.10, 0.11, 0.15)),
        (COMPLETE, "Incremental-CNN", (0.89, 0.88, 0.90, 0.88, 0.93), (0.11, 0.12, 0.10, 0.12, 0.09)),
        (COMPLETE, "HyperMM", (0.92, 0.91, 0.90, 0.94, 0.88), (0.06, 0.07, 0.08, 0.09, 0.10)),
    ),
}  # fmt: skip


def published_rows(cohort: Literal["ADNI", "BreakHis"]) -> pd.DataFrame:
    """Return the published figures of one cohort.

    Returns:
        One row a scenario and method: `cohort`, `subjects` (int, training and test together), `size` and `source`
        (text), `scenario`, `method`, `_mean` and `_std` of `accuracy`, `auc_rounded` (which the paper prints as AUC),
        `f1`, `precision`, `recall`.

    Raises:
        ValueError: the paper has no such cohort.
    """
    if cohort not in _ROWS:
        raise ValueError(f"the paper has no figures for {cohort!r}; it has them for {', '.join(_ROWS)}")
    table, subjects, size = _SOURCES[cohort]
    rows = []
    for scenario, method, means, deviations in _ROWS[cohort]:
        row: dict[str, str | int | float] = {"cohort": cohort, "subjects": subjects, "size": size}
        row |= {"source": f"{PAPER}, {table}", "scenario": scenario, "method": method}
        for metric, mean, deviation in zip(_METRICS, means, deviations, strict=True):
            row |= {f"{metric}_mean": mean, f"{metric}_std": deviation}
        rows.append(row)
    return pd.DataFrame(rows)


def published_beside(cohort: str | None, scenarios: list[str]) -> pd.DataFrame | None:
    """Return the published figures, named like the scenarios of the comparison.

    Args:
        cohort: "ADNI", "BreakHis" or None for none.
        scenarios: names of ours; the one of BreakHis, where everybody has what they have, is our `AS_IT_IS`.
    """
    if cohort == "ADNI":
        return published_rows("ADNI")
    if cohort == "BreakHis" and AS_IT_IS in scenarios:
        return published_rows("BreakHis").assign(scenario=AS_IT_IS)
    return None
