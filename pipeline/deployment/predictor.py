"""What is said of one patient: calibrated probabilities, a conformal set or none, and what each scan had to do with it.

Plain dicts, as they stand in `predictions.json`; docs/predictions.md says what each field means.
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
from models.hypermm import NotFiniteError, extract, predict_sets
from models.set_model import SetModel
from models.sets import Groups
from pipeline.deployment.bundle import Bundle


class NoPredictionError(ValueError):
    """Nothing can be said of this patient; the message says why. The others go on."""


@dataclass(frozen=True)
class Predictor:
    """A model, ready to be asked.

    Attributes:
        bundle: as exported.
        network: φ and ρ.
        error_rate: share of patients, like those of calibration, whose class may lie outside of the set.
        outlier_rate: share of scans, like those held out, that may be flagged.
    """

    bundle: Bundle
    network: SetModel
    error_rate: float
    outlier_rate: float


def predict_patient(reader: Predictor, scans: Sequence[tuple[str, str]], feature_maps: Tensor) -> dict[str, Any]:
    """Everything that is said of a patient.

    Args:
        reader: the model.
        scans: name and modality of each scan that can be used, N ≥ 1 of them.
        feature_maps: their feature maps, (N, C, H, W), float32.

    Returns:
        answer, abstains, set, why, calibration_subjects, probabilities, uncalibrated, scans (contribution, outlier),
        missing, out_of_distribution.

    Raises:
        UnanswerableError: a feature map or a logit is not a finite number, or feature maps are not of the model's
            shape.
    """
    bundle = reader.bundle
    modality = [bundle.modalities.index(m) for _, m in scans]
    _check_feature_maps(bundle, scans, feature_maps)
    raw, without = _probabilities(reader.network, modality, feature_maps)
    calibrated = apply_temperature(raw[None], bundle.temperature)[0]
    present = frozenset(m for _, m in scans)
    told: list[dict[str, Any]] = []
    for number, (name, m) in enumerate(scans):
        contribution = None
        if without is not None:
            left = apply_temperature(without[number][None], bundle.temperature)[0]
            contribution = _by_class(bundle, calibrated - left)
        outlier = _outlier(reader, m, feature_maps[number])
        told.append({"scan": name, "modality": m, "contribution": contribution, "outlier": outlier})
    unusual = any(scan["outlier"] and scan["outlier"]["flag"] for scan in told)
    decision = _decision(reader, present, calibrated)
    if unusual:
        decision["why"] += "; but a scan is unlike those of training"
    return {
        **decision,
        "probabilities": _by_class(bundle, calibrated),
        "uncalibrated": _by_class(bundle, raw),
        "scans": told,
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
    """Of the whole set (K,), and with each scan left out in turn (N, K); None if there is only one.

    Raises:
        UnanswerableError: a logit is not a finite number.
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


def _decision(reader: Predictor, present: frozenset[str], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """The conformal set, and the answer if the set has one class."""
    classes, rate = reader.bundle.classes, reader.error_rate
    scores = reader.bundle.conformal_scores(present)
    count = 0 if scores is None else len(scores)
    if scores is None or (lacking := too_few_subjects(count, rate)):
        those = " and ".join(sorted(present))
        lacking = f"no held-out subject had {those}" if scores is None else f"with {those}, {lacking}"
        why = f"nothing can be promised: {lacking}"
        found = list(classes)
    else:
        score = reader.bundle.calibration["conformal"].get("score", ONE_MINUS_P)
        inside = prediction_sets(probabilities[None], score_threshold(scores, rate), score)[0]
        found = [name for name, is_in in zip(classes, inside, strict=True) if is_in]
        alone, fits = len(found) == 1, f"at an error rate of {rate:.0%}"
        why = f"{found[0]} is the only class that fits {fits}" if alone else f"{', '.join(found)}: all fit {fits}"
    return {
        "answer": found[0] if len(found) == 1 else None,
        "abstains": len(found) != 1,
        "set": found,
        "why": why,
        "calibration_subjects": count,
    }


def _outlier(reader: Predictor, modality: str, feature_map: Tensor) -> dict[str, Any] | None:
    """How far the scan lies from those of training, and whether that is remarkable.

    With n scans held out, no share below 1 / (n + 1) can be seen: `flag` is None if the rate asked for is lower.
    """
    found = reader.bundle.outlier(modality, feature_map)
    if found is None:
        return None
    cannot_tell = too_few_subjects(found["n"], reader.outlier_rate)
    return {**found, "flag": None if cannot_tell else found["share_farther"] <= reader.outlier_rate}


def _by_class(bundle: Bundle, values: NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(bundle.classes, values, strict=True)}
