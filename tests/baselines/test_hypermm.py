"""HyperMM on a sample: learns, takes any subset, says what it cannot take."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from baselines.hypermm import Variant, fit_hypermm
from baselines.methods import ABLATIONS, SIMPLE, chosen_baselines
from baselines.names import KEYS
from baselines.sample import CannotFit, Sample
from models.settings import StepTwo, Training

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = Training(epochs=30, batch_size=8, learning_rate=3e-3)
PROJECT = Variant()


VARIANTS = {
    "two steps": PROJECT,
    "one step": replace(PROJECT, two_steps=False),
    "fine-tuned": replace(PROJECT, fine_tune=True),
    "dropout": replace(PROJECT, two=StepTwo(fit="epochs", modality_dropout=0.3)),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_learns_a_planted_signal_with_scans_missing(
    planted: Callable[..., Sample], accuracy: Callable[..., float], variant: Variant
) -> None:
    sample = planted(observations=80, missing=0.3, signal=1.5)
    fitted = fit_hypermm(sample, TRAINING, variant)
    assert accuracy(fitted, sample) > 0.8


def test_any_subset_and_nan_for_nothing(planted: Callable[..., Sample]) -> None:
    sample = planted()
    fitted = fit_hypermm(sample, replace(TRAINING, epochs=2), PROJECT)
    whole = fitted.probabilities(sample)
    assert whole.dtype == torch.float64
    torch.testing.assert_close(whole.sum(1), torch.ones(len(whole), dtype=torch.float64))
    first = sample.observation == 0
    only_one = fitted.probabilities(sample.without(first & (sample.modality == 1)))
    assert torch.isfinite(only_one).all()
    assert not torch.equal(only_one[0], whole[0])
    torch.testing.assert_close(only_one[1:], whole[1:])
    gone = fitted.probabilities(sample.without(first))
    assert gone[0].isnan().all()
    torch.testing.assert_close(gone[1:], whole[1:])


def test_scans_of_a_modality_never_trained_on_are_left_aside(planted: Callable[..., Sample]) -> None:
    sample = planted()
    training = torch.zeros(len(sample.target), dtype=torch.bool)
    training[sample.train] = True
    fitted = fit_hypermm(sample.without(training[sample.observation] & (sample.modality == 1)), TRAINING, PROJECT)
    without = fitted.probabilities(sample.without(sample.modality == 1))
    torch.testing.assert_close(fitted.probabilities(sample), without)


def test_one_class_teaches_nothing(planted: Callable[..., Sample]) -> None:
    sample = planted()
    with pytest.raises(CannotFit, match="class 0; two classes"):
        fit_hypermm(replace(sample, target=torch.zeros_like(sample.target)), TRAINING)


def test_what_step_two_did_otherwise_is_noted(planted: Callable[..., Sample]) -> None:
    sample = planted(observations=20)
    two = replace(sample, train=sample.train[[int((sample.target[sample.train] == k).nonzero()[0]) for k in (0, 1)]])
    assert any("no inner fold" in note for note in fit_hypermm(two, replace(TRAINING, epochs=1)).notes)
    assert fit_hypermm(sample, replace(TRAINING, epochs=1)).notes == ()


def test_the_list_of_methods_is_whole_and_names_are_unlike() -> None:
    methods = chosen_baselines(KEYS, ("MRI", "PET"), pictures=False)
    names = [method.name for method in methods]
    assert len(set(names)) == len(names) == 2 + len(SIMPLE) + len(ABLATIONS)
    assert names[:2] == ["Uni-CNN MRI", "Uni-CNN PET"]
    assert [m.name for m in chosen_baselines(("uni_cnn",), ("40X",), pictures=True)] == ["CNN 40X"]
    paper = ABLATIONS[-1]
    assert (paper.training(Training()).batch_size, paper.training(Training()).learning_rate) == (1, 1e-4)
