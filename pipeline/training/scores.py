"""Turn the predictions of all repeats into `predictions.csv`, `metrics.json` and `subsets.csv`."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from console.errors import InputError
from evaluation.intervals import summarise
from evaluation.metrics import best_threshold
from models.hypermm import NotFiniteError, Rows, predict_sets
from models.set_classifier import SetClassifier
from pipeline.training.repeat_data import Sets

MOST_SUBSETS = 64  # of modalities; beyond, only single ones, all but one, and all
ANY, COMPLETE = "any", "complete"


def subsets_of(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """List the subsets of modalities that are tested, small ones first.

    All but the empty one; of more than `MOST_SUBSETS`, only single ones, all but one, and all.
    """
    sizes = list(range(1, len(modalities) + 1))
    if 2 ** len(modalities) - 1 > MOST_SUBSETS:
        sizes = sorted({1, len(modalities) - 1, len(modalities)})
    return [subset for size in sizes for subset in itertools.combinations(modalities, size)]


def probabilities_of(classifier: SetClassifier, phi: Rows, sets: Sets) -> Tensor:
    """Return the class probabilities of sets (B, K), float64, on the CPU; see `models.hypermm.predict_sets`.

    Raises:
        InputError: a logit is not a finite number, which would become a confident prediction.
    """
    try:
        return predict_sets(classifier, phi, sets.groups)
    except NotFiniteError as error:
        raise InputError(
            f"the trained model gives no finite numbers for {sets.observations[error.sets[0]]} (and "
            f"{len(error.sets) - 1} more): features or weights in this workspace are damaged. Run again with --force "
            "features,pretrain,classify"
        ) from error


def readable(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Replace class indices by class names."""
    named = frame.assign(truth=[classes[k] for k in frame["truth"]])
    return named.rename(columns={f"p_{k}": f"probability_{name}" for k, name in enumerate(classes)})


def as_scored(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Replace class names by class indices, the format of `evaluation`; the inverse of `readable`."""
    numbered = frame.assign(truth=[classes.index(name) for name in frame["truth"]])
    return numbered.rename(columns={f"probability_{name}": f"p_{k}" for k, name in enumerate(classes)})


def metrics_of(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    classes: tuple[str, ...],
    repeats: list[int],
    *,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    if test.empty:
        raise InputError("no test subject has a usable scan; see failures.csv and split/splits.csv")
    for repeat in repeats:
        if test.loc[test["repeat"] == repeat, "truth"].nunique() < len(classes):
            present = sorted({classes[k] for k in test.loc[test["repeat"] == repeat, "truth"]})
            note(
                f"repeat {repeat}: the test split holds only {', '.join(present)}; AUC, balanced accuracy are undefined"
            )
    result: dict[str, Any] = {
        "classes": classes,
        "positive": classes[1] if len(classes) == 2 else None,
        "repeats": len(repeats),
        "test_predictions": len(test),
        "test_subjects": int(test["subject"].nunique()),
        "interval": "95 %, of the expected score of this "
        + ("way of training" if len(repeats) > 1 else "one trained model")
        + " on subjects like these",
        "threshold_half": summarise(test),
    }
    if len(classes) == 2:
        thresholds = {}
        for repeat in repeats:
            rows = validation[validation["repeat"] == repeat]
            thresholds[repeat], reason = best_threshold(rows["truth"].to_numpy(), rows["p_1"].to_numpy())
            if reason:
                note(f"repeat {repeat}: {reason}")
        result["thresholds"] = thresholds
        result["threshold_validation"] = summarise(test, thresholds=thresholds)
    return result


def subset_table(frames: pd.DataFrame, thresholds: Mapping[int, float] | None) -> pd.DataFrame:
    """Return one row per subset of modalities, group of subjects and threshold: mean, std and interval of metrics."""
    rows = []
    groups = frames.groupby("modalities", sort=False)
    chosen = [(ANY, name, frame) for name, frame in groups]
    chosen += [(COMPLETE, name, frame[frame["complete"]]) for name, frame in groups]
    kinds: dict[str, Any] = {"0.5": 0.5} | ({"validation": thresholds} if thresholds else {})
    for (group, modalities, frame), (kind, threshold) in itertools.product(chosen, kinds.items()):
        if frame.empty:
            continue
        summary = summarise(frame, thresholds=threshold)
        row: dict[str, Any] = {"modalities": modalities, "subjects": group, "threshold": kind, "n": len(frame)}
        for metric, values in summary.items():
            for statistic in ("mean", "std", "low", "high"):
                value = float(values[statistic])
                row[f"{metric}_{statistic}"] = None if math.isnan(value) else round(value, 6)
        rows.append(row)
    return pd.DataFrame(rows)
