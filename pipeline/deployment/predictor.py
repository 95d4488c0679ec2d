"""The prediction for one patient: calibrated probabilities, conformal set, and contribution of each scan.

Predictions are plain dicts, as in `predictions.json`; docs/predictions.md describes each field.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.calibration import apply_temperature
from evaluation.conformal import ONE_MINUS_P, prediction_sets, score_threshold, too_few_subjects
from evaluation.outliers import is_unusual
from models.hypermm import NotFiniteError, extract, predict_sets
from models.set_model import SetModel
from models.sets import Groups
from pipeline.deployment.bundle import Bundle


class NoPredictionError(ValueError):
    """A patient cannot be predicted; the message says why. Other patients are not affected."""


@dataclass(frozen=True)
class Predictor:
    """An exported model with its network and the rates of prediction.

    Attributes:
        bundle: as exported.
        network: φ and ρ.
        error_rate: share of patients, like those of the calibration set, whose class may lie outside of the set.
        outlier_rate: share of patients, like those of the calibration set, of whom any scan may be flagged.
    """

    bundle: Bundle
    network: SetModel
    error_rate: float
    outlier_rate: float


def predict_patient(predictor: Predictor, scans: Sequence[tuple[str, str]], feature_maps: Tensor) -> dict[str, Any]:
    """Predict one patient.

    Args:
        predictor: the model and its rates.
        scans: name and modality of each scan that can be used, N ≥ 1 of them.
        feature_maps: their feature maps, (N, C, H, W), float32.

    Returns:
        answer, abstains, set, why, calibration_subjects, probabilities, uncalibrated, scans (contribution, outlier),
        missing, out_of_distribution.

    Raises:
        NoPredictionError: a feature map or a logit is not a finite number, or feature maps are not of the model's
            shape.
    """
    bundle = predictor.bundle
    modality = [bundle.modalities.index(m) for _, m in scans]
    _check_feature_maps(bundle, scans, feature_maps)
    raw, without = _probabilities(predictor.network, modality, feature_maps)
    calibrated = apply_temperature(raw[None], bundle.temperature)[0]
    present = frozenset(m for _, m in scans)
    scan_entries: list[dict[str, Any]] = []
    outliers = _outliers(predictor, scans, feature_maps)
    for number, (name, m) in enumerate(scans):
        contribution = None
        if without is not None:
            rest = apply_temperature(without[number][None], bundle.temperature)[0]
            contribution = _by_class(bundle, calibrated - rest)
        scan_entries.append({"scan": name, "modality": m, "contribution": contribution, "outlier": outliers[number]})
    unusual = any(scan["outlier"] and scan["outlier"]["flag"] for scan in scan_entries)
    decision = _decision(predictor, present, calibrated)
    if unusual:
        decision["why"] += "; but a scan is unlike those of training"
    return {
        **decision,
        "probabilities": _by_class(bundle, calibrated),
        "uncalibrated": _by_class(bundle, raw),
        "scans": scan_entries,
        "missing": bundle.expected_changes(present),
        "out_of_distribution": unusual,
    }


def _check_feature_maps(bundle: Bundle, scans: Sequence[tuple[str, str]], feature_maps: Tensor) -> None:
    expected = tuple(bundle.network_arguments["feature_map_shape"])
    if tuple(feature_maps.shape[1:]) != expected:
        raise NoPredictionError(
            f"the features have the shape {tuple(feature_maps.shape[1:])}, the model reads {expected}"
        )
    for (name, _), feature_map in zip(scans, feature_maps, strict=True):
        if not feature_map.isfinite().all():
            raise NoPredictionError(f"the features of {name} hold numbers that are not finite; --force features")


def _probabilities(
    network: SetModel, modality: list[int], feature_maps: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Predict the whole set (K,), and the set with each scan left out in turn (N, K); None if it has one scan.

    Raises:
        NoPredictionError: a logit is not a finite number.
    """
    phi = next(extract(network.extractor, [(feature_maps, torch.tensor(modality))], "cpu"))
    scans = torch.arange(len(phi))
    whole = Groups.of(torch.zeros_like(scans), 1)
    others = Groups(torch.cat([scans[scans != one] for one in scans]), torch.arange(len(phi) + 1) * (len(phi) - 1))
    try:
        probabilities = predict_sets(network.classifier, phi, whole)[0].numpy()
        without = predict_sets(network.classifier, phi, others).numpy() if len(phi) > 1 else None
    except NotFiniteError as error:
        raise NoPredictionError(
            "the model gives no finite numbers for these scans; they, or the model, are damaged"
        ) from error
    return probabilities, without


def _decision(predictor: Predictor, present: frozenset[str], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Return the conformal set, and its class if it has only one."""
    classes, rate = predictor.bundle.classes, predictor.error_rate
    scores = predictor.bundle.conformal_scores(present)
    count = 0 if scores is None else len(scores)
    if scores is None or (reason := too_few_subjects(count, rate)):
        those = " and ".join(sorted(present))
        reason = f"no calibration subject had {those}" if scores is None else f"with {those}, {reason}"
        why = f"nothing can be promised: {reason}"
        prediction_set = list(classes)
    else:
        score = predictor.bundle.calibration["conformal"].get("score", ONE_MINUS_P)
        inside = prediction_sets(probabilities[None], score_threshold(scores, rate), score)[0]
        prediction_set = [name for name, is_in in zip(classes, inside, strict=True) if is_in]
        alone, fits = len(prediction_set) == 1, f"at an error rate of {rate:.0%}"
        why = (
            f"{prediction_set[0]} is the only class that fits {fits}"
            if alone
            else f"{', '.join(prediction_set)}: all fit {fits}"
        )
    return {
        "answer": prediction_set[0] if len(prediction_set) == 1 else None,
        "abstains": len(prediction_set) != 1,
        "set": prediction_set,
        "why": why,
        "calibration_subjects": count,
    }


def _outliers(
    predictor: Predictor, scans: Sequence[tuple[str, str]], feature_maps: Tensor
) -> list[dict[str, Any] | None]:
    """Return the distance of each scan from those of training, and whether it is flagged; None if not compared.

    The rate is one of patients, so each scan of a patient with several is held to a part of it. With n calibration
    scans, no share below 1 / (n + 1) can be seen: `flag` is None if that part is lower.
    """
    found = [predictor.bundle.outlier(m, feature_map) for (_, m), feature_map in zip(scans, feature_maps, strict=True)]
    rate, compared = predictor.outlier_rate, sum(outlier is not None for outlier in found)
    return [
        outlier and outlier | {"flag": is_unusual(outlier["share_farther"], outlier["n"], rate=rate, scans=compared)}
        for outlier in found
    ]


def _by_class(bundle: Bundle, values: NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(bundle.classes, values, strict=True)}
