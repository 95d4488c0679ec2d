"""What the joint model says of one new patient: its place, its missing scans, and what these would do to the answer.

HyperMM answers from the scans that there are and imputes nothing; that answer stands. Beside it, missing scans are
drawn many times, with all that is not known of them, and HyperMM is asked again with each draw. Classes are never told.

Source: Rubin 1987, "Multiple imputation for nonresponse in surveys" (the same question over draws).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.calibration import apply_temperature
from evaluation.outliers import share_farther
from models.hypermm import NotFiniteError, extract, predict_sets
from models.joint.blocks import FloatArray
from models.joint.gaussian import condition
from models.joint.model import Features, Patients
from models.joint.posterior import draw
from models.sets import Groups
from pipeline.deployment.bundle_joint import ExportedJoint
from pipeline.deployment.predictor import Predictor

SEED = 16
SHOWN = 3  # drawn images of a modality
DIGITS = 6
LOW, HIGH = 0.05, 0.95  # quantiles of the answers


@dataclass(frozen=True)
class ImputedImage:
    """A missing scan as it may have looked, on the grid of the decoder.

    Attributes:
        mean: best guess, (D,).
        sd: standard deviation over draws, residuals included, (D,).
        draws: some draws, (`SHOWN`, D).
        kind: volume or image.
    """

    mean: Features
    sd: Features
    draws: Features
    kind: str


@dataclass(frozen=True)
class JointAnswer:
    """What is told of a patient.

    Attributes:
        facts: the entry `joint` of predictions.json.
        images: missing modality → image, where there is a decoder.
    """

    facts: dict[str, Any]
    images: dict[str, ImputedImage] = field(default_factory=dict)


def joint_answer(
    predictor: Predictor,
    scans: Sequence[tuple[str, str]],
    feature_maps: Tensor,
    covariates: Mapping[str, FloatArray],
    *,
    draws: int,
) -> JointAnswer | None:
    """Ask the joint model about one patient; None if the exported model has none.

    Args:
        predictor: the model and its rates.
        scans: name and modality of each scan used, N ≥ 1 of them.
        feature_maps: their feature maps, (N, C, H, W), finite.
        covariates: name → (1, k) as numbers, NaN for missing; names may be left out.
        draws: of the missing scans, S ≥ 2.

    Returns:
        Facts with `reason` alone if the joint model gives no finite numbers.
    """
    joint = predictor.bundle.joint
    if joint is None:
        return None
    patient = _patient(joint, scans, feature_maps, covariates)
    with np.errstate(all="ignore"):  # what is not finite is told below
        try:
            answer = _answer(predictor, joint, patient, scans, feature_maps, draws)
        except (NotFiniteError, np.linalg.LinAlgError, ValueError):
            answer = None
    if answer is None or not _finite(answer):
        return JointAnswer({"reason": "the joint model gives no finite numbers for these scans"})
    return answer


def _patient(
    joint: ExportedJoint,
    scans: Sequence[tuple[str, str]],
    feature_maps: Tensor,
    covariates: Mapping[str, FloatArray],
) -> Patients:
    """Return the patient as the joint model takes it: several scans of one modality averaged."""
    flat = feature_maps.flatten(1).float().numpy()
    features = {}
    for modality in joint.model.bases:
        rows = [i for i, (_, m) in enumerate(scans) if m == modality]
        features[modality] = (
            flat[rows].mean(axis=0, keepdims=True) if rows else np.full((1, flat.shape[1]), np.nan, dtype=np.float32)
        )
    return Patients(features, covariates)


def _answer(
    predictor: Predictor,
    joint: ExportedJoint,
    patient: Patients,
    scans: Sequence[tuple[str, str]],
    feature_maps: Tensor,
    draws: int,
) -> JointAnswer:
    model, random = joint.model, np.random.default_rng(SEED)
    rows = model.scores(patient)
    found = condition(model.gaussian, rows)
    mean, covariance = model.embedding.of(found)
    distance = float(model.distances(patient)[0])
    there = [name for name in model.bases if patient.has(name)[0]]
    missing = [name for name in model.bases if name not in there]
    facts: dict[str, Any] = {
        "embedding": {"mean": _rounded(mean[0]), "covariance": _rounded(covariance[0])},
        "distance": round(distance, DIGITS) if np.isfinite(distance) else None,
        "share_farther": share_farther(distance, joint.distances) if np.isfinite(distance) else None,
        "n": len(joint.distances),
        "imputed": [],
        "answer": None,
    }
    if not missing:
        return JointAnswer(facts)
    drawn, classes = draw(model.gaussian, rows, draws, random)
    given = model.covariates_given(rows[0])
    usual = condition(model.gaussian, model.without_scans(rows)).covariance[0]  # of somebody with the same covariates
    images = {}
    for name in missing:
        part = model.blocks.slice_of(name)
        left = np.trace(found.covariance[0][part, part]) / np.trace(usual[part, part])
        entry: dict[str, Any] = {"modality": name, "from": [*there, *given], "covariates": given}
        entry["told"] = round(float(np.clip(1 - left, 0, 1)), DIGITS)
        facts["imputed"].append(entry | {"draws": draws, "image": name in joint.decoders})
        if name in joint.decoders:
            image = joint.decoders[name].decode(drawn[:, 0, part], classes[:, 0], SHOWN, random)
            images[name] = ImputedImage(image.mean, image.sd, image.draws, joint.kinds[name])
    made, _ = model.draw(patient, draws, random, modalities=tuple(missing), scores=(drawn, classes))
    facts["answer"] = _spread(predictor, scans, feature_maps, made)
    return JointAnswer(facts, images)


def _spread(
    predictor: Predictor, scans: Sequence[tuple[str, str]], feature_maps: Tensor, made: Mapping[str, Features]
) -> dict[str, Any]:
    """Return HyperMM's answers with drawn scans in place of missing ones: mean, quantiles, and both variances."""
    bundle, network = predictor.bundle, predictor.network
    shape, count = feature_maps.shape[1:], len(next(iter(made.values())))
    own = len(scans)
    modality = [bundle.modalities.index(m) for _, m in scans]
    batches = [(feature_maps, torch.tensor(modality))]
    for name, values in made.items():  # (S, 1, D) each
        drawn = torch.from_numpy(values.reshape(count, *shape)).to(feature_maps)
        batches.append((drawn, torch.full((count,), bundle.modalities.index(name))))
    phi = torch.cat(list(extract(network.extractor, batches, "cpu")))
    items = [[*range(own), *(own + k * count + s for k in range(len(made)))] for s in range(count)]
    size = own + len(made)
    sets = Groups(torch.tensor(items).flatten(), torch.arange(count + 1) * size)
    raw = predict_sets(network.classifier, phi, sets).numpy()
    answers = apply_temperature(raw, bundle.temperature)  # (S, K)
    low, high = np.quantile(answers, [LOW, HIGH], axis=0)
    leads = np.bincount(answers.argmax(axis=1), minlength=len(bundle.classes)) / count
    columns = zip(bundle.classes, answers.mean(axis=0), low, high, leads, strict=True)
    return {
        "draws": count,
        "probabilities": {
            name: {
                "mean": round(float(m), DIGITS),
                "low": round(float(a), DIGITS),
                "high": round(float(b), DIGITS),
                "leads": round(float(share), DIGITS),
            }
            for name, m, a, b, share in columns
        },
        "sd_between_draws": round(float(np.sqrt(answers.var(axis=0, ddof=1).mean())), DIGITS),
        "sd_within_draws": round(float(np.sqrt((answers * (1 - answers)).mean())), DIGITS),
    }


def _rounded(values: NDArray[np.float64]) -> list[Any]:
    return list(np.round(values, DIGITS).tolist())


def _finite(answer: JointAnswer) -> bool:
    """Tell whether all that would be told or drawn is finite."""
    told = [*answer.facts["embedding"]["mean"], *np.ravel(answer.facts["embedding"]["covariance"])]
    told += [entry["told"] for entry in answer.facts["imputed"]]
    if answer.facts["answer"] is not None:
        for values in answer.facts["answer"]["probabilities"].values():
            told += values.values()
        told += [answer.facts["answer"]["sd_between_draws"], answer.facts["answer"]["sd_within_draws"]]
    arrays = [array for image in answer.images.values() for array in (image.mean, image.sd, image.draws)]
    return bool(np.isfinite(told).all()) and all(np.isfinite(array).all() for array in arrays)
