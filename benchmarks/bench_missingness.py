"""How far off is the mean of a modality that half of the patients lost for a reason, by the reason that is stated?

Gaussian patients of two classes with two blocks that share factors; half lose the second one, for each of some true
reasons. Its mean along the direction that decides is estimated from who has it (complete cases), by EM that takes scans
to be missing at random, and under stated reasons. Bias is in standard deviations over all patients.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import finish, options
from cohort.missingness import hide_scans, pulls_of_numbers
from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import fit_estimate
from models.joint.selection import Reason, fit_selected
from models.joint.sums import sums_of

SIZES = (4, 3)
LINK = 0.5  # share of a score's variance that two factors of all scores explain
STATED = (-2.0, 1.0, 2.0, 3.0)
TRUE: Mapping[str, tuple[str, float]] = {
    "random": ("random", 0.0),
    "other": ("other", 2.0),
    "class": ("class", 2.0),
    "itself, slope 1": ("itself", 1.0),
    "itself, slope 2": ("itself", 2.0),
    "itself, slope 3": ("itself", 3.0),
}


def main() -> None:
    """Measure, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=100, help="made cohorts of each kind")
    parser.add_argument("--patients", type=int, default=200, help="of each cohort")
    arguments = parser.parse_args()
    finish("missingness", measure(arguments), arguments)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the mean bias of each estimate under each true reason, its standard error, and the mean absolute error."""
    seeds = 3 if arguments.quick else arguments.seeds
    found: dict[str, Any] = {}
    for name, (reason, slope) in TRUE.items():
        each = pd.DataFrame([_once(reason, slope, arguments.patients, seed) for seed in range(seeds)])
        for estimate in each:
            error = each[estimate]
            found[f"lost by {name}, {estimate}: bias"] = round(float(error.mean()), 3)
            found[f"lost by {name}, {estimate}: standard error"] = round(float(error.std() / np.sqrt(seeds)), 3)
            found[f"lost by {name}, {estimate}: absolute error"] = round(float(error.abs().mean()), 3)
    return found


def _once(reason: str, slope: float, patients: int, seed: int) -> dict[str, float]:
    """Return the error of each estimate of the mean, in standard deviations."""
    random = np.random.default_rng([seed, 16])
    blocks = Blocks(("seen", "lost"), SIZES)
    loading = random.standard_normal((blocks.width, 2))
    loading *= np.sqrt(LINK) / np.linalg.norm(loading, axis=1, keepdims=True)
    labels = np.arange(patients) % 2
    mean = random.standard_normal((2, blocks.width)) * 0.5
    whole = mean[labels] + random.standard_normal((patients, 2)) @ loading.T
    whole += np.sqrt(1 - LINK) * random.standard_normal(whole.shape)
    first = blocks.slice_of("lost").start
    deciding = {"other": whole[:, 0], "class": labels.astype(float), "itself": whole[:, first]}
    lost = _lost(deciding.get(reason), slope, patients, seed)
    rows = whole.copy()
    rows[np.ix_(lost, np.arange(first, blocks.width))] = np.nan
    truth, spread = whole[:, first].mean(), whole[:, first].std()
    share = np.bincount(labels) / patients
    missing_at_random, _ = fit_estimate(sums_of(rows, labels, blocks, 2))
    found = {"complete cases": np.nanmean(rows[:, first]), "EM": share @ missing_at_random.estimate.mean[:, first]}
    direction: FloatArray = np.eye(SIZES[1])[0]
    for stated in STATED:
        fitted = fit_selected(rows, labels, blocks, 2, Reason("lost", direction, stated))
        found[f"stated slope {stated:g}"] = share @ fitted.parameters.mean[:, first]
    return {name: float((value - truth) / spread) for name, value in found.items()}


def _lost(deciding: FloatArray | None, slope: float, patients: int, seed: int) -> np.ndarray:
    """Return the half who lose the block, as the scenarios `mechanisms` hide it."""
    names = [f"p{i:04d}" for i in range(patients)]
    rows = [(f"{n}{m}", n, n, m) for n in names for m in "AB"]
    scans = pd.DataFrame(rows, columns=["scan", "observation", "subject", "modality"])
    pulls = {}
    if deciding is not None:
        numbers = pd.Series(deciding, index=names)
        pulls["B"] = pulls_of_numbers(numbers, slope, "made", standardise=set(np.unique(deciding)) != {0.0, 1.0})
    hidden = hide_scans(scans, {"B": 0.5}, seed, pulls).scans
    return np.flatnonzero(~hidden.loc[hidden["modality"] == "B", "available"].to_numpy())


if __name__ == "__main__":
    main()
