"""What every baseline promises: whom it answers, what it learns from, that the seed decides."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.methods import Baseline, Fit, chosen_baselines
from baselines.names import KEYS
from baselines.sample import CannotFit, Fitted, Sample
from baselines.shaspec import fit_shaspec
from baselines.vae import fit_multi_vae
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")
Planted = Callable[..., Sample]

METHODS = {method.name: method for method in chosen_baselines(KEYS, ("MRI", "PET"), pictures=False)}
ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {  # from what is there, (B, M), to whom it answers; others: anybody
    "Uni-CNN MRI": lambda modality_mask: modality_mask[:, 0],
    "Uni-CNN PET": lambda modality_mask: modality_mask[:, 1],
    "Multi-CNN": lambda modality_mask: modality_mask.all(1),
}
WITHOUT_CHANCE = {"linear probes, averaged", "linear set function"}
QUICK = Training(epochs=8, learning_rate=1e-2, batch_size=8, seed=3)  # long enough that another part stops elsewhere
BARE = [4, 23]  # observations without a scan: of training and of test


@pytest.fixture
def sample(planted: Planted) -> Sample:
    """24 observations, some with one scan and two with none; feature maps are not standardised yet."""
    whole = planted(observations=24, missing=0.4, signal=2.0, feature_map=(4, 2, 2))
    bare = whole.without(torch.isin(whole.observation, torch.tensor(BARE)))
    return replace(bare, feature_maps=5 + 3 * bare.feature_maps)


def prepared(method: Baseline, sample: Sample) -> Sample:
    """As the stage hands it over."""
    return sample.standardised() if method.standardised else sample


def answers(method: Baseline, sample: Sample, training: Training = QUICK) -> tuple[Fitted, Tensor]:
    """Fitted on the sample, and its probabilities of all its observations."""
    fitted = method.fit(prepared(method, sample), method.training(training))
    return fitted, fitted.probabilities(prepared(method, sample))


def same(one: Tensor, other: Tensor) -> bool:
    """To the byte."""
    return one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_it_answers_whom_it_can_with_probabilities(sample: Sample, name: str) -> None:
    method = METHODS[name]
    can = ANSWERS.get(name, lambda modality_mask: modality_mask.any(1))
    (fitted, rows), whole = answers(method, sample), prepared(method, sample)
    assert (rows.shape, rows.dtype) == ((24, 2), torch.float64)
    for given in (whole, *(whole.without(whole.modality == m) for m in (0, 1)), whole.without(whole.modality >= 0)):
        rows, able = fitted.probabilities(given), can(given.modality_mask)
        assert torch.equal(rows.isnan().all(1), ~able)
        assert torch.equal(rows.isnan().any(1), ~able)
        assert (rows[able] >= 0).all()
        torch.testing.assert_close(rows[able].sum(1), torch.ones(int(able.sum()), dtype=torch.float64))
    assert 0 < int(can(sample.modality_mask).sum()) <= 24 - len(BARE)
    assert fitted.parameters > 0


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_learnt_from_the_test_split(sample: Sample, name: str) -> None:
    """Other scans and labels of it: the same answers for all others, and for a test observation left as it was."""
    method, changed = METHODS[name], torch.isin(sample.observation, sample.test[1:])
    feature_maps = torch.where(changed.view(-1, 1, 1, 1), sample.feature_maps + 0.3, sample.feature_maps)
    target = sample.target.clone()
    target[sample.test] = 1 - target[sample.test]
    fixed = torch.ones(24, dtype=torch.bool)
    fixed[sample.test[1:]] = False
    other_test = replace(sample, feature_maps=feature_maps, target=target)
    (fitted, ours), (other, theirs) = answers(method, sample), answers(method, other_test)
    assert same(ours[fixed], theirs[fixed])
    given = prepared(method, sample)
    assert same(fitted.probabilities(given), other.probabilities(given))
    target[sample.train[:7]] = 1 - target[sample.train[:7]]  # what is learnt from does count
    assert not same(ours[fixed], answers(method, replace(sample, target=target))[1][fixed])


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides_and_answering_changes_nothing(sample: Sample, name: str) -> None:
    method, before = METHODS[name], sample.feature_maps.clone()
    fitted, ours = answers(method, sample)
    torch.rand(5)  # the state of the global generator has no influence
    assert same(ours, answers(method, sample)[1])
    assert same(ours, answers(method, sample, replace(QUICK, seed=4))[1]) == (name in WITHOUT_CHANCE)
    fitted.probabilities(sample.without(sample.modality == 0))
    assert same(ours, fitted.probabilities(prepared(method, sample)))
    assert torch.equal(sample.feature_maps, before)


# --- networks that learn from any subset, by way of a grid with gaps ---

ON_SUBSETS = pytest.mark.parametrize("fit", [fit_multi_vae, fit_shaspec])
TRAINING = Training(epochs=25, learning_rate=3e-3)


def right(fitted: Fitted, sample: Sample) -> tuple[float, int]:
    """Share of test observations with a decision whose decision is right, and how many have none."""
    rows = fitted.probabilities(sample)[sample.test]
    modality_mask = ~rows.isnan().any(1)
    return float((rows.argmax(1) == sample.target[sample.test])[modality_mask].double().mean()), int(
        (~modality_mask).sum()
    )


@ON_SUBSETS
@pytest.mark.parametrize(("modalities", "classes"), [(2, 2), (3, 3)])
def test_learns_from_any_subset_for_any_subset(planted: Planted, fit: Fit, modalities: int, classes: int) -> None:
    sample = planted(modalities=modalities, classes=classes, missing=0.4, seed=1)
    fitted = fit(sample, TRAINING)
    assert fitted.probabilities(sample).shape == (60, classes)
    share, undecided = right(fitted, sample)
    assert share >= 0.9
    assert undecided == 0
    for m in range(modalities):
        only = sample.without(sample.modality != m)
        share, undecided = right(fitted, only)
        assert share >= 0.8
        assert undecided == int((~only.modality_mask[only.test].any(1)).sum())


@ON_SUBSETS
def test_without_signal_there_is_nothing_to_learn(planted: Planted, fit: Fit) -> None:
    sample = planted(observations=120, signal=0.0)
    assert 0.2 < right(fit(sample, TRAINING), sample)[0] < 0.8


@ON_SUBSETS
def test_a_modality_that_training_never_had_is_left_aside(planted: Planted, fit: Any) -> None:
    sample = planted(modalities=3)
    training = torch.isin(sample.observation, sample.train)
    sample = sample.without(training & (sample.modality == 2))
    fitted = fit(sample, QUICK)
    assert fitted.learnt.tolist() == [True, True, False]
    assert fitted.history.rows == fit(sample.without(sample.modality == 2), QUICK).history.rows
    torch.testing.assert_close(fitted.probabilities(sample), fitted.probabilities(sample.without(sample.modality == 2)))
    assert fitted.probabilities(sample.without(sample.modality != 2)).isnan().all()


@ON_SUBSETS
def test_cannot_fit_without_scans(planted: Planted, fit: Fit) -> None:
    sample = planted()
    with pytest.raises(CannotFit, match="none of the 36 training observations has a scan"):
        fit(sample.without(torch.isin(sample.observation, sample.train)), QUICK)
