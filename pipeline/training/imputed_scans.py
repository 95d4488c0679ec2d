"""Scans that observations lack, as the joint model imputes them: feature maps, and images where it has a decoder."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.imputation import rectified
from models.joint.blocks import FloatArray
from models.joint.decoder import DecodedImage, Decoder
from models.joint.model import Features, JointModel, Patients
from pipeline.training.feature_maps import FeatureMaps
from pipeline.training.joint_patients import chunks
from pipeline.training.repeat_data import RepeatData

SMALLEST_SD = 1e-6  # of a feature or voxel that never varies in training
IMAGE_DRAWS = 100  # of scores, from which mean and standard deviation of an image are made


@dataclass(frozen=True)
class ImputedScan:
    """A scan of one observation that is missing, or was hidden.

    Attributes:
        row: of the observation.
        modality: of the scan.
        mean: of the feature map, (D,).
        sd: of it, (D,).
        draws: of it, (S, D).
        image: where the modality has a decoder; its draws belong to the first draws of the feature map.
    """

    row: int
    modality: str
    mean: Features
    sd: Features
    draws: Features
    image: DecodedImage | None


def never_negative(data: RepeatData, maps: FeatureMaps) -> frozenset[str]:
    """Return the modalities whose training scans have no feature below 0, as after a ReLU."""
    train = data.scans[data.scans["split"] == "train"]
    return frozenset(
        str(modality)
        for modality, rows in train.groupby("modality")
        if all(float(maps.load(names).min()) >= 0 for names in chunks(rows["scan"].to_list()))
    )


def missing_scans(
    model: JointModel,
    decoders: Mapping[str, Decoder],
    patients: Patients,
    scores: FloatArray,
    random: np.random.Generator,
    *,
    draws: int,
    shown: int,
    floored: frozenset[str] = frozenset(),
) -> Iterator[ImputedScan]:
    """Yield what each observation lacks; draws of what one observation lacks belong together. Classes are not used.

    Args:
        model: of the repeat.
        decoders: modality → decoder.
        patients: who may lack something.
        scores: of them, (n, d), NaN where a block is missing.
        random: source of chance.
        draws: of a feature map, S.
        shown: draws of an image, at most S.
        floored: modalities whose features are never below 0; nor are draws of them.
    """
    for row in range(len(patients)):
        lacking = tuple(name for name in model.bases if not patients.has(name)[row])
        if lacking:
            yield from _of_one(
                model, decoders, patients, scores, row, lacking, random, draws=draws, shown=shown, floored=floored
            )


def hidden_scans(
    model: JointModel, decoders: Mapping[str, Decoder], patients: Patients, random: np.random.Generator, *, shown: int
) -> Iterator[ImputedScan]:
    """Yield each scan of observations that have another, imputed from the others as if it were not there.

    Args:
        model: of the repeat; it must not have learnt from these observations.
        decoders: modality → decoder.
        patients: the observations.
        random: source of chance.
        shown: draws of a feature map and of an image.
    """
    for modality in model.bases:
        others = sum(patients.has(name).astype(np.int64) for name in model.bases if name != modality)
        rows = np.flatnonzero(patients.has(modality) & (others > 0))
        if len(rows) == 0:
            continue
        hidden = np.full_like(patients.features[modality], np.nan)
        given = dataclasses.replace(patients, features={**patients.features, modality: hidden})
        scores = model.scores(given)
        for row in rows.tolist():
            yield from _of_one(
                model, decoders, given, scores, row, (modality,), random, draws=max(shown, 1), shown=shown
            )


def _of_one(
    model: JointModel,
    decoders: Mapping[str, Decoder],
    patients: Patients,
    scores: FloatArray,
    row: int,
    wanted: tuple[str, ...],
    random: np.random.Generator,
    *,
    draws: int,
    shown: int,
    floored: frozenset[str] = frozenset(),
) -> Iterator[ImputedScan]:
    one, own = patients.rows(np.array([row])), scores[[row]]
    count = max(draws, IMAGE_DRAWS) if any(name in decoders for name in wanted) else draws
    drawn, classes = model.draw_scores(own, count, random)
    made, _ = model.draw(one, draws, random, modalities=wanted, scores=(drawn[:draws], classes[:draws]))
    for modality in wanted:
        mean, sd = model.impute_scores(own, modality)
        features = made[modality][:, 0]
        if modality in floored:
            features = at_least_0(features, mean[0], sd[0])
        image = None
        if modality in decoders:
            part = drawn[:, 0, model.blocks.slice_of(modality)]
            image = decoders[modality].decode(part, classes[:, 0], shown, random)
        yield ImputedScan(row, modality, mean[0], sd[0], features, image)


def at_least_0(draws: Features, mean: Features, sd: Features) -> Features:
    """Return Gaussian draws (S, ...) as draws of features that are never below 0, of the same mean and spread.

    What went together goes together: each number is moved along its own scale and those below 0 become 0.

    Args:
        draws: of the features.
        mean: that they were drawn about, (...).
        sd: their standard deviation, (...).
    """
    sd = np.maximum(sd, SMALLEST_SD)
    location, scale = rectified(mean, sd)
    return np.maximum(location + scale * ((draws - mean) / sd), 0).astype(np.float32)
