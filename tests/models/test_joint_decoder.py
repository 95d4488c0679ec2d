"""From feature maps to images: near the truth, as unsure as it should be, the same after a file."""

import json

import numpy as np
import pytest

from models.joint.basis import NoVariationError
from models.joint.decoder import Decoder, fit_decoder
from models.joint.model import JointConfig
from models.joint.state import decoder_from_arrays, decoder_to_arrays

PIXELS = 200


def world(count: int, seed: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (n, 3), images whose first three directions follow them by a share, and classes."""
    fixed, random = np.random.default_rng(1), np.random.default_rng([seed, 2])
    directions = np.linalg.qr(fixed.standard_normal((PIXELS, 3)))[0].T
    scores = random.standard_normal((count, 3))
    inside = np.sqrt(share) * scores + np.sqrt(1 - share) * random.standard_normal((count, 3))
    images = 8 * inside @ directions + 0.2 * random.standard_normal((count, PIXELS))
    return scores, images.astype(np.float32), np.arange(count) % 2


def told(decoder: Decoder, scores: np.ndarray, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the image of one feature map."""
    rows = np.repeat(scores[None], count, axis=0)
    return decoder.image(decoder.scores(rows, np.arange(count) % 2, np.random.default_rng(0)))


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_the_image_is_near_and_its_spread_holds_the_truth(share: float) -> None:
    scores, images, labels = world(200, 1, share)
    decoder = fit_decoder(scores, images, labels, 2, JointConfig(draws=10))
    new_scores, new_images, _ = world(120, 2, share)
    held, error, spread = [], [], []
    for row, image in zip(new_scores, new_images, strict=True):
        mean, sd = told(decoder, row)
        held.append(np.abs(image - mean) < 1.645 * sd)
        error.append(np.square(image - mean).sum())
        spread.append(np.square(sd).sum())
    assert 0.87 <= np.mean(held) <= 0.95
    assert 0.9 <= np.mean(spread) / np.mean(error) <= 1.3  # shrinkage makes strong links weaker than they are
    assert np.mean(error) / np.square(new_images - images.mean(0)).sum(1).mean() == pytest.approx(1 - share, abs=0.12)


def test_draws_of_an_image_are_spread_about_its_mean_as_stated() -> None:
    scores, images, labels = world(120, 1, 0.6)
    decoder = fit_decoder(scores, images, labels, 2, JointConfig(draws=10))
    rows = np.repeat(world(1, 3, 0.6)[0], 200, axis=0)
    found = decoder.decode(rows, np.arange(200) % 2, 150, np.random.default_rng(0))
    assert found.draws.shape == (150, PIXELS)
    assert (found.draws.std(axis=0) / found.sd).mean() == pytest.approx(1, abs=0.1)
    assert np.abs(found.draws.mean(axis=0) - found.mean).mean() < 0.2 * found.sd.mean()
    off, basis = found.draws - found.mean, decoder.basis
    outside = off - (off @ basis.components.T) @ basis.components
    assert outside.std(axis=0).mean() == pytest.approx(basis.residual.mean(), rel=0.2)


def test_it_is_the_same_after_a_file() -> None:
    scores, images, labels = world(40, 1, 0.5)
    decoder = fit_decoder(scores, images, labels, 2, JointConfig(draws=3))
    arrays, facts = decoder_to_arrays(decoder)
    again = decoder_from_arrays(arrays, json.loads(json.dumps(facts)))
    for one, other in zip(told(decoder, scores[0]), told(again, scores[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="no decoder of a joint model"):
        decoder_from_arrays({n: a for n, a in arrays.items() if n != "basis.scale"}, facts)
    with pytest.raises(ValueError, match="not finite"):
        decoder_from_arrays(arrays | {"basis.residual": arrays["basis.residual"] * np.nan}, facts)


def test_images_that_are_all_alike_are_refused() -> None:
    with pytest.raises(NoVariationError, match="all 12 training scans are alike"):
        fit_decoder(np.random.default_rng(0).standard_normal((12, 2)), np.ones((12, 9), np.float32),
                    np.arange(12) % 2, 2, JointConfig())  # fmt: skip
