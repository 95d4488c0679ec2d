"""Tiny samples with a known signal, for the tests of all baselines."""

from collections.abc import Callable

import pytest
import torch

from baselines.sample import Fitted, Sample


def make_planted(
    *,
    observations: int = 60,
    modalities: int = 2,
    classes: int = 2,
    missing: float = 0.0,
    signal: float = 1.0,
    feature_map: tuple[int, int, int] = (8, 3, 3),
    seed: int = 0,
) -> Sample:
    """Standardised feature maps of unit noise, plus `signal` times a pattern that the class and the modality have in
    common.

    Args:
        observations: B, split 6:2:2 into train, validation and test.
        modalities: M, one scan of each.
        classes: K, in turn, so that they are balanced in every split.
        missing: share of scans taken away, in [0, 1). No observation loses its last scan.
        signal: how large the pattern is, as a multiple of the noise at every position.
        feature_map: (C, H, W).
        seed: of everything drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(observations) % classes
    observation = torch.arange(observations).repeat_interleave(modalities)
    modality = torch.arange(modalities).repeat(observations)
    patterns = torch.randn(modalities, classes, *feature_map, generator=generator)
    noise = torch.randn(len(modality), *feature_map, generator=generator)
    bounds = [round(0.6 * observations), round(0.8 * observations)]
    train, validation, test = torch.arange(observations).tensor_split(bounds)
    sample = Sample(
        feature_maps=noise + signal * patterns[modality, target[observation]],
        modality=modality,
        observation=observation,
        target=target,
        train=train,
        validation=validation,
        test=test,
        modalities=modalities,
        classes=classes,
    )
    draw = torch.rand(observations, modalities, generator=generator)
    stays = (draw >= missing) | (draw == draw.amax(1, keepdim=True))
    return sample.without(~stays[observation, modality]).standardised()


@pytest.fixture(scope="session")
def planted() -> Callable[..., Sample]:
    """The maker of planted samples."""
    return make_planted


@pytest.fixture(scope="session")
def accuracy() -> Callable[[Fitted, Sample], float]:
    """Share of the test observations whose most probable class is theirs; a row of NaN is never right."""

    def of(fitted: Fitted, sample: Sample) -> float:
        rows = fitted.probabilities(sample)[sample.test]
        right = (rows.argmax(1) == sample.target[sample.test]) & ~rows.isnan().any(1)
        return float(right.double().mean())

    return of
