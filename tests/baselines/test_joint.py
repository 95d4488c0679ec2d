"""The joint model as an imputer: what it fills, whom it learns from, and what its draws are for."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.hypermm import fit_hypermm
from baselines.joint import JointFiller, fit_joint_draws, fit_joint_mean, joint_filler
from baselines.joint_hypermm import fit_joint_hypermm
from baselines.sample import CannotFit, Fitted, Sample
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")
Planted = Callable[..., Sample]
TRAINING = Training(epochs=10, learning_rate=3e-3, batch_size=8)


def filled(fitted_filler: JointFiller, sample: Sample) -> torch.Tensor:
    everybody = torch.arange(len(sample.target))
    return fitted_filler.fill(sample.grid(), sample.modality_mask, everybody)


@pytest.fixture
def sample(planted: Planted) -> Sample:
    return planted(observations=80, missing=0.3, signal=1.5, feature_map=(6, 2, 2), seed=2)


def test_real_feature_maps_stay_and_gaps_are_filled_better_than_by_the_mean(planted: Planted) -> None:
    """Where modalities show the class, what fills a gap of a test observation follows the other scan."""
    whole = planted(observations=120, signal=2.5, feature_map=(6, 2, 2), seed=4)
    hidden = (whole.modality == 1) & (whole.observation % 4 < 2)  # of both classes
    given = whole.without(hidden)
    filler = fit_joint_mean(given, replace(TRAINING, epochs=1)).filler
    out, truth = filled(filler, given), whole.grid()
    there = given.modality_mask
    assert torch.equal(out[there], truth[there])
    gap = whole.test[whole.test % 4 < 2]
    error = (out[gap, 1] - truth[gap, 1]).square().mean()
    assert error < 0.85 * (truth[gap, 1] - truth[whole.train, 1].mean(0)).square().mean()


def test_training_gaps_are_filled_without_their_own_class(sample: Sample) -> None:
    """A fold is filled by a model that never saw its labels: another label of one observation does not move its gap."""
    one = int(sample.train[(~sample.modality_mask[sample.train]).any(1)][0])
    target = sample.target.clone()
    target[one] = 1 - target[one]
    before, after = (
        filled(fit_joint_mean(each, replace(TRAINING, epochs=1)).filler, each)
        for each in (sample, replace(sample, target=target))
    )
    assert torch.allclose(before[one], after[one], atol=1e-4)
    others = [i for i in sample.test.tolist() if not sample.modality_mask[i].all()]
    assert not torch.allclose(before[others], after[others], atol=1e-4)


def test_synthetic_patients_are_not_learnt_from_though_their_gaps_are_filled(sample: Sample) -> None:
    """They would count as patients where the model says how sure it is."""
    made = torch.zeros(80, dtype=torch.bool)
    made[sample.train[::3]] = True
    with_made = replace(sample, synthetic=made)
    real = replace(sample, train=sample.train[~made[sample.train]])
    one, other = (joint_filler(each, TRAINING) for each in (with_made, real))
    assert one.model.sums.count == len(real.train)
    everybody, mask = torch.arange(80), sample.modality_mask
    assert torch.equal(*(each.fill(sample.grid(), mask, everybody) for each in (one, other)))
    assert joint_filler(sample, TRAINING).model.sums.count == len(sample.train)


def test_sessions_of_one_patient_are_in_one_fold(sample: Sample) -> None:
    filler = joint_filler(replace(sample, subject=torch.arange(80) // 3), TRAINING)
    folds: dict[int, set[int]] = {}
    for observation, fold in filler.fold.items():
        folds.setdefault(observation // 3, set()).add(fold)
    assert all(len(each) == 1 for each in folds.values())
    assert len(set(filler.fold.values())) == 5
    assert len(filler.fold) == len(sample.train)


@pytest.mark.parametrize("in_time", [True, False])
def test_a_patient_is_learnt_from_once(sample: Sample, in_time: bool) -> None:
    """From the session with the most modalities, of those the latest; others are filled without the patient."""
    subject, session = torch.arange(80) // 2, torch.arange(80) if in_time else 80 - torch.arange(80)
    has = sample.modality_mask.sum(1)
    best = {}
    for i in sorted(sample.train.tolist(), key=lambda i: (int(has[i]), int(session[i]))):
        best[i // 2] = i
    once = replace(sample, train=torch.tensor(sorted(best.values())), subject=subject)
    often = replace(sample, subject=subject, session=session)
    one, other = (joint_filler(each, TRAINING) for each in (once, often))
    assert other.model.sums.count == len(best) == 24
    np.testing.assert_array_equal(one.model.gaussian.estimate.covariance, other.model.gaussian.estimate.covariance)
    assert sorted(other.rows) == sorted(best.values())
    assert {i: other.fold[i] for i in other.rows} == one.fold
    assert other.fold.keys() == set(sample.train.tolist())
    mask = sample.modality_mask
    tested = [filler.fill(sample.grid()[sample.test], mask[sample.test], sample.test) for filler in (one, other)]
    assert torch.equal(*tested)


def test_draws_differ_where_there_is_a_gap_and_only_there(sample: Sample) -> None:
    filler = fit_joint_mean(sample, replace(TRAINING, epochs=1)).filler
    everybody, mask = torch.arange(80), sample.modality_mask
    drawn = filler.draws(sample.grid(), mask, everybody, 200, np.random.default_rng(0))
    spread = drawn.std(0)
    assert (spread[mask] == 0).all()
    assert (spread[~mask] > 0.05).all()
    mean = filled(filler, sample)
    apart = (drawn.mean(0) - mean)[~mask]
    assert apart.abs().mean() < 0.15


@pytest.mark.parametrize("fit", [fit_joint_mean, fit_joint_draws])
def test_it_learns(planted: Planted, accuracy: Callable[[Fitted, Sample], float], fit: Callable[..., Fitted]) -> None:
    sample = planted(observations=120, missing=0.4, signal=1.5, feature_map=(6, 2, 2), seed=1)
    assert accuracy(fit(sample, replace(TRAINING, epochs=30)), sample) > 0.8


def test_answers_are_means_over_draws_and_their_spread_is_kept(sample: Sample) -> None:
    fitted = fit_joint_draws(sample, TRAINING)
    rows = fitted.probabilities(sample)
    assert torch.allclose(rows.sum(1), torch.ones(80, dtype=torch.float64))
    assert fitted.facts["draws"] == 20
    assert 0 < fitted.facts["sd_between_draws"] < fitted.facts["sd_within_draws"] <= 0.5


@pytest.mark.parametrize("fit", [fit_joint_mean, fit_joint_draws])
def test_a_modality_without_training_scans_is_named(sample: Sample, fit: Callable[..., Fitted]) -> None:
    learnt = torch.isin(sample.observation, sample.train) & (sample.modality == 1)
    with pytest.raises(CannotFit, match="modality 1 has no training scan"):
        fit(sample.without(learnt), TRAINING)


def test_a_modality_with_too_few_training_scans_is_filled_with_its_mean_and_said(sample: Sample) -> None:
    learnt = (torch.isin(sample.observation, sample.train) & (sample.modality == 1)).nonzero().squeeze(1)
    hidden = torch.zeros(len(sample.modality), dtype=torch.bool)
    hidden[learnt[2:]] = True
    given = sample.without(hidden)
    fitted = fit_joint_mean(given, replace(TRAINING, epochs=1))
    assert any(note.startswith("modality 1: 2 training patients have it") for note in fitted.notes)
    gap = given.test[~given.modality_mask[given.test][:, 1]]
    assert torch.equal(
        filled(fitted.filler, given)[gap, 1], fitted.filler.mean.feature_maps[1].expand(len(gap), -1, -1, -1)
    )


def test_hypermm_is_asked_again_with_draws_where_something_is_missing(sample: Sample) -> None:
    """Its own answers stay where nothing is; φ and ρ are those of the row HyperMM."""
    own = fit_hypermm(sample, TRAINING)
    drawn = fit_joint_hypermm(sample, TRAINING)
    before, after = own.probabilities(sample), drawn.probabilities(sample)
    whole = sample.modality_mask.all(1)
    torch.testing.assert_close(before[whole], after[whole], atol=1e-6, rtol=0)
    assert (before - after)[~whole].abs().max() > 0.01
    assert torch.allclose(after.sum(1), torch.ones(80, dtype=torch.float64))
    assert drawn.facts["draws"] == 20
    assert 0 < drawn.facts["sd_between_draws"] < drawn.facts["sd_within_draws"] <= 0.5
    assert drawn.parameters == own.parameters


def test_a_draw_stands_where_its_scan_is_missing(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the true scans in place of draws, HyperMM on draws is HyperMM on the whole sample."""
    hidden = (torch.arange(len(sample.modality)) % 5 == 0) & torch.isin(sample.observation, sample.test)
    alone = torch.bincount(sample.observation[~hidden], minlength=80)[sample.observation] == 0
    hidden &= ~alone
    drawn = fit_joint_hypermm(sample, TRAINING)
    given, grid = sample.without(hidden), sample.grid()
    gap = (given.modality_mask != sample.modality_mask).any(1) & sample.modality_mask.all(1)
    monkeypatch.setattr(JointFiller, "draws", lambda self, _, mask, rows, *rest: grid[rows][None])
    expected = drawn.hypermm.probabilities(sample)
    torch.testing.assert_close(drawn.probabilities(given)[gap], expected[gap], atol=1e-5, rtol=0)
    assert gap.any()


def test_what_the_joint_model_cannot_draw_stays_missing(sample: Sample) -> None:
    learnt = (torch.isin(sample.observation, sample.train) & (sample.modality == 1)).nonzero().squeeze(1)
    hidden = torch.zeros(len(sample.modality), dtype=torch.bool)
    hidden[learnt[2:]] = True
    given = sample.without(hidden)
    drawn = fit_joint_hypermm(given, replace(TRAINING, epochs=1))
    only = drawn.filler.drawable(given.modalities)
    assert not only[1]
    lacks_one = ~given.modality_mask[:, 1] & given.modality_mask[:, only].all(1)
    own = drawn.hypermm.probabilities(given)
    torch.testing.assert_close(drawn.probabilities(given)[lacks_one], own[lacks_one])
    assert lacks_one.any()
