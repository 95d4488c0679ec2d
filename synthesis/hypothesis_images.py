"""Hypotheses as pictures: the image that a moved source lets expect of another modality, on average over patients.

The decoder of a modality (`models.joint.decoder`) tells its image from its feature map. A patient's feature map is what
it was, plus what the move changes. What the feature map does not tell of the image is the patient's own and stays, so
it is in no difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.paired import variance_of_repeats, variances
from models.joint.blocks import FloatArray
from models.joint.decoder import FEATURES, IMAGE, Decoder
from models.joint.gaussian import class_probabilities
from models.joint.model import Features
from synthesis.hypotheses import expected, of_subjects
from synthesis.questions import CLASS, Question


@dataclass(frozen=True)
class ImageChange:
    """Images of one repeat, mean over patients, D voxels or pixels each.

    Attributes:
        before: expected of the patients' own feature maps, (D,).
        difference: expected after the move, less before, (D,).
        variance: of the mean difference, that of the parameters and that of the patients, (D,).
        patients: number.
    """

    before: Features
    difference: Features
    variance: Features
    patients: int


@dataclass(frozen=True)
class ExpectedImages:
    """Images of all repeats.

    Attributes:
        before: expected of the patients' own feature maps, (D,).
        after: expected after the move, (D,).
        difference: after less before, (D,).
        sd: standard deviation of the mean difference, (D,): the one that intervals of effects are made of.
        patients: of the repeat with the most.
    """

    before: Features
    after: Features
    difference: Features
    sd: Features
    patients: int


def image_change(
    decoder: Decoder, question: Question, features: FloatArray, changed: FloatArray, subjects: Sequence[str]
) -> ImageChange:
    """Return how the image of a modality differs after a move; classes of patients are not used.

    Args:
        decoder: of the modality, with as many draws as `changed`.
        question: whether the class is held.
        features: scores of the patients' feature maps, (n, j).
        changed: by how much each draw of the joint model's parameters moves them, (S, n, j).
        subjects: whose sessions these are, (n,); those of a patient are averaged.

    Raises:
        ValueError: the decoder has another number of draws.
    """
    basis, layout = decoder.basis, decoder.gaussian.blocks
    columns = np.arange(layout.width)
    given, image = columns[layout.slice_of(FEATURES)], columns[layout.slice_of(IMAGE)]
    rows = layout.stack({FEATURES: features})
    before, moved = [], []
    for parameters, change in zip(decoder.gaussian.draws, changed, strict=True):
        share = class_probabilities(decoder.gaussian, parameters, rows) if CLASS in question.held else None
        after = layout.stack({FEATURES: features + change})
        one, two = (expected(decoder.gaussian, parameters, each, given, image, share) for each in (rows, after))
        before.append(one)
        moved.append(two - one)
    start, difference = (of_subjects(np.array(each), subjects) for each in (before, moved))  # (S, patients, k)

    def pixels(scores: FloatArray) -> Features:
        return basis.features(scores) - basis.offset

    of_draws, of_patients = pixels(difference.mean(axis=1)), pixels(difference.mean(axis=0))
    return ImageChange(
        basis.features(start.mean(axis=(0, 1))[None])[0],
        of_draws.mean(axis=0),
        sum(variances(of_draws, of_patients)),
        len(of_patients),
    )


def over_repeats(parts: Sequence[ImageChange]) -> ExpectedImages:
    """Return the mean over repeats; variances are put together as those of effects (`evaluation.paired`)."""
    before = np.mean([part.before for part in parts], axis=0)
    differences = np.array([part.difference for part in parts])
    variance = np.mean([part.variance for part in parts], axis=0) + variance_of_repeats(differences)
    difference = differences.mean(axis=0)
    return ExpectedImages(
        before, before + difference, difference, np.sqrt(variance), max(part.patients for part in parts)
    )
