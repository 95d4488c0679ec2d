"""Images of a hypothesis: the mean over patients, and the spread that intervals of effects are made of."""

import numpy as np
import pytest
from scipy import stats

from evaluation.paired import LEVEL, mean_difference
from models.joint.decoder import IMAGE, Decoder, fit_decoder
from models.joint.gaussian import class_probabilities, regression
from models.joint.model import JointConfig
from synthesis.hypothesis_images import image_change, over_repeats
from synthesis.questions import CLASS, Along, Question

PIXELS, DRAWS = 40, 5
FREE, HELD = Question("T1c", Along("class")), Question("T1c", Along("class"), held=(CLASS,))
SUBJECTS = [f"s{number:02d}" for number in range(12)]


def fitted(seed: int = 0) -> Decoder:
    """Images whose first direction is the first score, and whose second one is the class."""
    random = np.random.default_rng([seed, 1])
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((PIXELS, 2)))[0].T
    labels = np.arange(90) % 2
    scores = random.standard_normal((90, 2)) + np.array([0, 3]) * labels[:, None]
    inside = np.stack([scores[:, 0], 4 * labels], axis=1) + 0.1 * random.standard_normal((90, 2))
    images = inside @ directions + 0.02 * random.standard_normal((90, PIXELS))
    return fit_decoder(scores, images.astype(np.float32), labels, 2, JointConfig(draws=DRAWS, seed=seed))


def moved(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of feature maps, and by how much each draw of the joint model moves them."""
    random = np.random.default_rng([seed, 2])
    scores = random.standard_normal((12, 2)) + np.array([0, 1.5])
    return scores, np.array([1.0, 0.2]) + 0.3 * random.standard_normal((DRAWS, 12, 2))


def by_hand(decoder: Decoder, question: Question, scores: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Every difference of every pixel, (S, n, D)."""
    found, start = [], decoder.gaussian.blocks.slice_of(IMAGE).start
    columns = np.arange(decoder.gaussian.blocks.width)
    for parameters, each in zip(decoder.gaussian.draws, change, strict=True):
        slope, _ = regression(parameters.covariance, columns[:start], columns[start:])
        images = []
        for features in (scores, scores + each):
            rows = np.full((len(scores), len(columns)), np.nan)
            rows[:, :start] = scores if CLASS in question.held else features
            share = class_probabilities(decoder.gaussian, parameters, rows)
            centre = parameters.mean - parameters.mean[:, :start] @ np.hstack([np.eye(start), slope.T])
            centre[:, :start] = 0
            images.append(share @ centre[:, start:] + features @ slope.T)
        found.append((images[1] - images[0]) * decoder.basis.scale @ decoder.basis.components * decoder.basis.agreement)
    return np.array(found)


@pytest.mark.parametrize("question", [FREE, HELD])
@pytest.mark.parametrize("repeats", [1, 3])
def test_each_pixel_is_as_an_effect_would_be(question: Question, repeats: int) -> None:
    parts, whole = [], []
    for seed in range(repeats):
        decoder, (scores, change) = fitted(seed), moved(seed)
        parts.append(image_change(decoder, question, scores, change, SUBJECTS))
        whole.append(by_hand(decoder, question, scores, change))
    found = over_repeats(parts)
    for pixel in range(0, PIXELS, 7):
        expected = mean_difference([part[:, :, pixel] for part in whole])
        half = stats.t.ppf(0.5 + LEVEL / 2, DRAWS - 1) * found.sd[pixel]
        assert found.difference[pixel] == pytest.approx(expected.mean, abs=1e-5)
        assert half == pytest.approx((expected.high - expected.low) / 2, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(found.after - found.before, found.difference, atol=1e-6)
    assert found.patients == len(SUBJECTS)


def test_a_held_class_does_not_carry_the_image() -> None:
    """The second score tells the class, and the class alone the second direction of the images."""
    decoder, (scores, _) = fitted(), moved()
    change = np.tile([0.0, 3.0], (DRAWS, len(scores), 1))
    free, held = (over_repeats([image_change(decoder, each, scores, change, SUBJECTS)]) for each in (FREE, HELD))
    assert np.linalg.norm(held.difference) < 0.2 * np.linalg.norm(free.difference)


def test_sessions_of_a_patient_are_averaged() -> None:
    decoder, (scores, change) = fitted(), moved()
    once = image_change(decoder, FREE, scores, change, SUBJECTS)
    twice = [np.concatenate([each, each[..., :4, :]], axis=-2) for each in (scores, change)]
    again = image_change(decoder, FREE, *twice, [*SUBJECTS, *SUBJECTS[:4]])
    assert again.patients == once.patients
    for name in ("before", "difference", "variance"):
        np.testing.assert_allclose(getattr(again, name), getattr(once, name), atol=1e-5)


def test_no_change_of_a_feature_map_is_none_of_the_image() -> None:
    decoder, (scores, change) = fitted(), moved()
    found = over_repeats([image_change(decoder, FREE, scores, 0 * change, SUBJECTS)])
    assert not found.difference.any()
    assert not found.sd.any()
