"""Multi-VAE and ShaSpec learn from any subset of modalities, and for any."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines.sample import CannotFit, Sample
from baselines.shaspec import fit_shaspec
from baselines.vae import fit_multi_vae
from models.settings import Training

Fit = Callable[..., Any]
TRAINING = Training(epochs=25, learning_rate=3e-3)
SHORT = Training(epochs=3, learning_rate=3e-3)
BOTH = pytest.mark.parametrize("fit", [fit_multi_vae, fit_shaspec])


def _right(fitted, sample: Sample) -> tuple[float, int]:
    """Share of test observations with a decision whose decision is right, and how many have none."""
    probabilities = fitted.probabilities(sample)[sample.test]
    there = ~probabilities.isnan().any(1)
    right = probabilities.argmax(1) == sample.target[sample.test]
    return right[there].double().mean().item(), int((~there).sum())


@pytest.mark.parametrize(("modalities", "classes"), [(2, 2), (3, 3)])
@BOTH
def test_learns_from_any_subset_for_any_subset(fit: Fit, planted: Callable, modalities: int, classes: int) -> None:
    sample = planted(modalities=modalities, classes=classes, missing=0.4, seed=1)
    fitted = fit(sample, TRAINING)
    probabilities = fitted.probabilities(sample)
    assert probabilities.shape == (60, classes)
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities.sum(1), torch.ones(60, dtype=torch.float64))
    right, undecided = _right(fitted, sample)
    assert right >= 0.9
    assert undecided == 0
    for m in range(modalities):
        only = sample.without(sample.modality != m)
        right, undecided = _right(fitted, only)
        assert right >= 0.8
        assert undecided == int((~only.there[only.test].any(1)).sum())


@BOTH
def test_without_signal_there_is_nothing_to_learn(fit: Fit, planted: Callable) -> None:
    sample = planted(observations=120, signal=0.0)
    assert 0.2 < _right(fit(sample, TRAINING), sample)[0] < 0.8


@BOTH
def test_nan_rows_are_those_without_scans(fit: Fit, planted: Callable) -> None:
    sample = planted(missing=0.3)
    fitted = fit(sample, SHORT)
    before = fitted.probabilities(sample)
    bare = sample.without((sample.observation == 4) | (sample.observation == 55))
    after = fitted.probabilities(bare)
    assert after.isnan().all(1).nonzero().flatten().tolist() == [4, 55]
    others = ~after.isnan().any(1)
    torch.testing.assert_close(after[others], before[others])
    fit(bare, SHORT)  # a training observation without a scan is left out


@BOTH
def test_what_is_fitted_does_not_depend_on_the_test(fit: Fit, planted: Callable) -> None:
    sample = planted(missing=0.3)
    tested = torch.isin(sample.observation, sample.test)
    blocks = torch.where(tested.view(-1, 1, 1, 1), 7.0, sample.blocks)
    target = sample.target.clone()
    target[sample.test] = 0
    one, other = (fit(s, SHORT) for s in (sample, replace(sample, blocks=blocks, target=target)))
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name])


@BOTH
def test_same_seed_same_numbers(fit: Fit, planted: Callable) -> None:
    sample = planted(modalities=3, missing=0.3)
    before = sample.blocks.clone()
    one = fit(sample, SHORT).probabilities(sample)
    torch.rand(5)  # the state of the global generator has no influence
    same = fit(sample, SHORT).probabilities(sample)
    other = fit(sample, replace(SHORT, seed=1)).probabilities(sample)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(sample.blocks, before)


@BOTH
def test_a_modality_that_training_never_had_is_left_aside(fit: Fit, planted: Callable) -> None:
    sample = planted(modalities=3)
    training = torch.isin(sample.observation, sample.train)
    sample = sample.without(training & (sample.modality == 2))
    fitted = fit(sample, SHORT)
    assert fitted.learnt.tolist() == [True, True, False]
    assert fitted.history.rows == fit(sample.without(sample.modality == 2), SHORT).history.rows
    torch.testing.assert_close(fitted.probabilities(sample), fitted.probabilities(sample.without(sample.modality == 2)))
    assert fitted.probabilities(sample.without(sample.modality != 2)).isnan().all()


@BOTH
def test_cannot_fit_without_scans(fit: Fit, planted: Callable) -> None:
    sample = planted()
    with pytest.raises(CannotFit, match="none of the 36 training observations has a scan; .* needs some"):
        fit(sample.without(torch.isin(sample.observation, sample.train)), SHORT)
