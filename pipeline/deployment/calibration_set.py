"""What an exported model learns from patients whom training did not use: temperature, conformal scores, and more.

Every held-out observation is answered under every subset of the modalities that it has. A patient of whom there is only
an MRI is then compared with others answered from their MRI alone, whatever else they have.
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
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData, Sets
from pipeline.training.scores import probabilities_of, subsets_of

CALIBRATION_SPLITS = ("validation", "test")
DIGITS = 6  # of shares and losses; conformal scores and distances are kept whole


@dataclass(frozen=True)
class CalibrationPredictions:
    """Observations and what the model says of them, uncalibrated.

    Attributes:
        observations: n names, sorted.
        subjects: whose they are, n names.
        truth: (n,) int64.
        probabilities: (n, K) float64.
    """

    observations: tuple[str, ...]
    subjects: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def of(self, observations: Iterable[str]) -> "CalibrationPredictions":
        """Those of some observations, in that order."""
        place = {name: i for i, name in enumerate(self.observations)}
        rows = [place[name] for name in observations]
        return CalibrationPredictions(
            tuple(self.observations[i] for i in rows),
            tuple(self.subjects[i] for i in rows),
            self.truth[rows],
            self.probabilities[rows],
        )


@dataclass(frozen=True)
class CalibrationSet:
    """A model and φ of the scans of all subjects that training did not use, on the device of the run.

    Attributes:
        model: φ and ρ.
        usable: the scans of the validation and test part; rows as in `phi`.
        phi: their features.
    """

    model: SetModel
    usable: RepeatData
    phi: FeatureBuffer

    def answers(self, parts: Iterable[str], modalities: frozenset[str] | None = None) -> CalibrationPredictions:
        """What the model says from exactly these modalities of the observations that have them all.

        Args:
            parts: of the split.
            modalities: None takes every scan that an observation has.
        """
        scans = self.usable.scans
        scans = scans[scans["split"].isin(list(parts))]
        if modalities is not None:
            has = scans.groupby("observation")["modality"].agg(frozenset)
            complete = [name for name, present in has.items() if present >= modalities]
            scans = scans[scans["observation"].isin(complete) & scans["modality"].isin(modalities)]
        sets = Sets.of(dataclasses.replace(self.usable, scans=scans))
        subject = scans.drop_duplicates("observation").set_index("observation")["subject"]
        found = probabilities_of(self.model.classifier, self.phi, sets)
        truth = sets.target.numpy().astype(np.int64)
        return CalibrationPredictions(
            sets.observations, tuple(subject[o] for o in sets.observations), truth, found.numpy()
        )


@contextmanager
def read_calibration_set(
    model: SetModel, usable: RepeatData, features: FeatureStore, runtime: Runtime, *, memory_mb: int
) -> Iterator[CalibrationSet]:
    """Compute φ of every held-out scan once; beyond `memory_mb` it lies in a temporary file of the stage's folder."""
    scans = usable.scans[usable.scans["split"].isin(CALIBRATION_SPLITS)].reset_index(drop=True)
    held_out = dataclasses.replace(usable, scans=scans)
    modality, names, device = held_out.modality(), scans["scan"].to_list(), runtime.device
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
        yield CalibrationSet(model, held_out, phi)


def channel_means(features: FeatureStore, scans: list[str]) -> NDArray[np.float64]:
    """Means over the positions of each scan's feature map, (N, C).

    Raises:
        ArtifactError: one is not a finite number.
    """
    parts = [
        features.load(scans[start : start + CHUNK]).double().mean(dim=(2, 3)).numpy()
        for start in range(0, len(scans), CHUNK)
    ]
    means = np.concatenate(parts) if parts else np.zeros((0, 0))
    if not np.isfinite(means).all():
        scan = scans[int((~np.isfinite(means)).any(axis=1).argmax())]
        raise ArtifactError(f"the features of {scan} hold numbers that are not finite; rerun with --force features")
    return means


def temperature_facts(held_out: CalibrationSet) -> dict[str, Any]:
    """Temperature fitted on the validation part, and what it does to the test part, which had no say in it."""
    validation = held_out.answers(("validation",))
    fitted = fit_temperature(validation.probabilities, validation.truth)
    facts: dict[str, Any] = {**dataclasses.asdict(fitted), "test": None}
    test = held_out.answers(("test",))
    if len(test.truth):
        after = apply_temperature(test.probabilities, fitted.value)
        facts["test"] = {
            "n": len(test.truth),
            "log_loss": [round(log_loss(p, test.truth), DIGITS) for p in (test.probabilities, after)],
            "brier": [round(score(test.truth, p)["brier"], DIGITS) for p in (test.probabilities, after)],
        }
    return facts


def conformal_facts(
    held_out: CalibrationSet,
    trained: tuple[str, ...],
    parts: tuple[str, ...],
    *,
    temperature: float,
    error_rate: float,
    conformal_score: str,
) -> dict[str, Any]:
    """Sorted scores for every subset of the modalities, and how sets would have done for those held out."""
    subsets = []
    for subset in subsets_of(trained):
        found = held_out.answers(parts, frozenset(subset))
        if not found.observations:
            continue
        calibrated = apply_temperature(found.probabilities, temperature)
        scores = sorted(subject_scores(calibrated, found.truth, found.subjects, conformal_score).tolist())
        left = leave_one_out(calibrated, found.truth, found.subjects, error_rate, conformal_score)
        subsets.append(
            {
                "modalities": list(subset),
                "subjects": len(scores),
                "observations": len(found.observations),
                "too_few": too_few_subjects(len(scores), error_rate),
                "leave_one_out": _rounded(left),
                "scores": scores,
            }
        )
    return {"score": conformal_score, "error_rate": error_rate, "parts": list(parts), "subsets": subsets}


def change_facts(
    held_out: CalibrationSet,
    trained: tuple[str, ...],
    parts: tuple[str, ...],
    *,
    temperature: float,
    error_rate: float,
    conformal_score: str,
) -> list[dict[str, Any]]:
    """For every subset of the modalities, what one more did to the answers for those who have it."""
    facts = []
    for subset in subsets_of(trained):
        for modality in (m for m in trained if m not in subset):
            complete = held_out.answers(parts, frozenset((*subset, modality)))
            if not complete.observations:
                continue
            without = held_out.answers(parts, frozenset(subset)).of(complete.observations)
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
    usable: RepeatData, features: FeatureStore, trained: tuple[str, ...], parts: tuple[str, ...]
) -> tuple[dict[str, dict[str, Any]], dict[str, Reference]]:
    """The cloud of training scans of every modality, and how far from it the scans held out lie, one a subject.

    `reason` says why unusual scans will not be noticed at the usual rate; "" if they will.
    """
    facts: dict[str, dict[str, Any]] = {}
    references = {}
    for modality in trained:
        scans = usable.scans[usable.scans["modality"] == modality]
        train, others = scans[scans["split"] == "train"], scans[scans["split"].isin(parts)]
        entry: dict[str, Any] = {"training_scans": len(train), "distances": [], "reason": ""}
        facts[modality] = entry
        try:
            reference = fit_reference(channel_means(features, train["scan"].to_list()))
        except ValueError as error:
            entry["reason"] = str(error)
            continue
        if others.empty:
            entry["reason"] = "no scan was held out"
            continue
        away = distances(reference, channel_means(features, others["scan"].to_list()))
        entry["distances"] = sorted(others.assign(away=away).groupby("subject")["away"].max().tolist())
        entry["reason"] = too_few_subjects(len(entry["distances"]), RATE)
        references[modality] = reference
    return facts, references


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value
