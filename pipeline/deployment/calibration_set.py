"""The calibration set of an exported model: temperature, conformal scores, expected changes and outlier distances.

It holds the subjects that training did not use. Every observation is predicted from every subset of its modalities, so
that a patient with an MRI only is compared with predictions from the MRI alone.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.calibration import apply_temperature, fit_temperature, log_loss
from evaluation.conformal import leave_one_out, subject_scores, too_few_subjects
from evaluation.expected_change import expected_change
from evaluation.metrics import score
from evaluation.outliers import RATE, Reference, distances, fit_reference
from models.hypermm import extract
from models.set_model import SetModel
from models.settings import CHUNK
from pipeline.core.runtime import Runtime
from pipeline.store.base import ArtifactError
from pipeline.store.feature_buffer import FeatureBuffer
from pipeline.training.feature_maps import FeatureMaps
from pipeline.training.repeat_data import RepeatData, Sets
from pipeline.training.scores import probabilities_of, subsets_of

CALIBRATION_SPLITS = ("validation", "test")
DIGITS = 6  # of shares and losses; conformal scores and distances are not rounded


@dataclass(frozen=True)
class CalibrationPredictions:
    """Observations of the calibration set and their uncalibrated predictions.

    Attributes:
        observations: n names, sorted.
        subjects: subject of each observation, n names.
        truth: (n,) int64.
        probabilities: (n, K) float64.
    """

    observations: tuple[str, ...]
    subjects: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def of(self, observations: Iterable[str]) -> "CalibrationPredictions":
        """Select the predictions of some observations, in that order."""
        row_of = {name: i for i, name in enumerate(self.observations)}
        rows = [row_of[name] for name in observations]
        return CalibrationPredictions(
            tuple(self.observations[i] for i in rows),
            tuple(self.subjects[i] for i in rows),
            self.truth[rows],
            self.probabilities[rows],
        )


@dataclass(frozen=True)
class CalibrationSet:
    """A model and φ of all scans of the calibration set, on the device of the run.

    Attributes:
        model: φ and ρ.
        data: the scans of the validation and test split; rows as in `phi`.
        phi: their features.
    """

    model: SetModel
    data: RepeatData
    phi: FeatureBuffer

    def predictions(self, splits: Iterable[str], modalities: frozenset[str] | None = None) -> CalibrationPredictions:
        """Predict the observations that have all of these modalities, from these modalities alone.

        Args:
            splits: names of splits.
            modalities: None takes every scan that an observation has.
        """
        scans = self.data.scans
        scans = scans[scans["split"].isin(list(splits))]
        if modalities is not None:
            has = scans.groupby("observation")["modality"].agg(frozenset)
            complete = [name for name, present in has.items() if present >= modalities]
            scans = scans[scans["observation"].isin(complete) & scans["modality"].isin(modalities)]
        sets = Sets.of(dataclasses.replace(self.data, scans=scans))
        subject = scans.drop_duplicates("observation").set_index("observation")["subject"]
        probabilities = probabilities_of(self.model.classifier, self.phi, sets)
        truth = sets.target.numpy().astype(np.int64)
        return CalibrationPredictions(
            sets.observations, tuple(subject[o] for o in sets.observations), truth, probabilities.numpy()
        )


@contextmanager
def read_calibration_set(
    model: SetModel, data: RepeatData, features: FeatureMaps, runtime: Runtime, *, memory_mb: int
) -> Iterator[CalibrationSet]:
    """Compute φ of every calibration scan; beyond `memory_mb` it is kept in a temporary file in the stage's folder."""
    scans = data.scans[data.scans["split"].isin(CALIBRATION_SPLITS)].reset_index(drop=True)
    calibration_data = dataclasses.replace(data, scans=scans)
    modality, names, device = calibration_data.modality(), scans["scan"].to_list(), runtime.device
    model.to(device)
    batches = (
        (features.load([names[i] for i in rows.tolist()]), modality[rows])
        for rows in torch.arange(len(names)).split(CHUNK)
        if len(rows)
    )
    folder = runtime.workspace / runtime.stage
    with FeatureBuffer(
        names, extract(model.extractor, batches, device), device=device, most_bytes=1_000_000 * memory_mb, folder=folder
    ) as phi:
        yield CalibrationSet(model, calibration_data, phi)


def channel_means(features: FeatureMaps, scans: list[str]) -> NDArray[np.float64]:
    """Return the means over the positions of each scan's feature map, (N, C).

    Raises:
        ArtifactError: one is not a finite number.
    """
    chunks = [
        features.load(scans[start : start + CHUNK]).double().mean(dim=(2, 3)).numpy()
        for start in range(0, len(scans), CHUNK)
    ]
    means = np.concatenate(chunks) if chunks else np.zeros((0, 0))
    if not np.isfinite(means).all():
        scan = scans[int((~np.isfinite(means)).any(axis=1).argmax())]
        raise ArtifactError(f"the features of {scan} hold numbers that are not finite; rerun with --force features")
    return means


def temperature_facts(calibration_set: CalibrationSet) -> dict[str, Any]:
    """Fit the temperature on the validation split; report its effect on the test split, which it did not use."""
    validation = calibration_set.predictions(("validation",))
    fitted = fit_temperature(validation.probabilities, validation.truth)
    facts: dict[str, Any] = {**dataclasses.asdict(fitted), "test": None}
    test = calibration_set.predictions(("test",))
    if len(test.truth):
        after = apply_temperature(test.probabilities, fitted.value)
        facts["test"] = {
            "n": len(test.truth),
            "log_loss": [round(log_loss(p, test.truth), DIGITS) for p in (test.probabilities, after)],
            "brier": [round(score(test.truth, p)["brier"], DIGITS) for p in (test.probabilities, after)],
        }
    return facts


def conformal_facts(
    calibration_set: CalibrationSet,
    trained: tuple[str, ...],
    splits: tuple[str, ...],
    *,
    temperature: float,
    error_rate: float,
    conformal_score: str,
) -> dict[str, Any]:
    """Return sorted scores for every subset of the modalities, and the leave-one-out results of prediction sets."""
    subsets = []
    for subset in subsets_of(trained):
        predictions = calibration_set.predictions(splits, frozenset(subset))
        if not predictions.observations:
            continue
        calibrated = apply_temperature(predictions.probabilities, temperature)
        scores = sorted(subject_scores(calibrated, predictions.truth, predictions.subjects, conformal_score).tolist())
        left_out_results = leave_one_out(
            calibrated, predictions.truth, predictions.subjects, error_rate, conformal_score
        )
        subsets.append(
            {
                "modalities": list(subset),
                "subjects": len(scores),
                "observations": len(predictions.observations),
                "too_few": too_few_subjects(len(scores), error_rate),
                "leave_one_out": _rounded(left_out_results),
                "scores": scores,
            }
        )
    return {"score": conformal_score, "error_rate": error_rate, "parts": list(splits), "subsets": subsets}


def change_facts(
    calibration_set: CalibrationSet,
    trained: tuple[str, ...],
    splits: tuple[str, ...],
    *,
    temperature: float,
    error_rate: float,
    conformal_score: str,
) -> list[dict[str, Any]]:
    """Return, per subset of the modalities, how one more modality changed the predictions of those who have it."""
    facts = []
    for subset in subsets_of(trained):
        for modality in (m for m in trained if m not in subset):
            complete = calibration_set.predictions(splits, frozenset((*subset, modality)))
            if not complete.observations:
                continue
            without = calibration_set.predictions(splits, frozenset(subset)).of(complete.observations)
            change = expected_change(
                apply_temperature(without.probabilities, temperature),
                apply_temperature(complete.probabilities, temperature),
                complete.truth,
                complete.subjects,
                error_rate=error_rate,
                score=conformal_score,
            )
            facts.append({"modalities": list(subset), "modality": modality, **_rounded(dict(change))})
    return facts


def outlier_facts(
    data: RepeatData, features: FeatureMaps, trained: tuple[str, ...], splits: tuple[str, ...]
) -> tuple[dict[str, dict[str, Any]], dict[str, Reference]]:
    """Fit the cloud of training scans of every modality; return distances of calibration scans, one per subject.

    `reason` says why unusual scans will not be flagged at the default rate; "" if they will.
    """
    facts: dict[str, dict[str, Any]] = {}
    references = {}
    for modality in trained:
        scans = data.scans[data.scans["modality"] == modality]
        train, others = scans[scans["split"] == "train"], scans[scans["split"].isin(splits)]
        entry: dict[str, Any] = {"training_scans": len(train), "distances": [], "reason": ""}
        facts[modality] = entry
        try:
            reference = fit_reference(channel_means(features, train["scan"].to_list()))
        except ValueError as error:
            entry["reason"] = str(error)
            continue
        if others.empty:
            entry["reason"] = "the calibration set has no such scan"
            continue
        distance = distances(reference, channel_means(features, others["scan"].to_list()))
        entry["distances"] = sorted(others.assign(distance=distance).groupby("subject")["distance"].max().tolist())
        entry["reason"] = too_few_subjects(len(entry["distances"]), RATE)
        references[modality] = reference
    return facts, references


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value
