"""Imputers against brute force and scikit-learn; what they learn never depends on who is tested."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from baselines.cnn import fit_multi_cnn
from baselines.imputers import (
    IMPUTERS,
    PENALTIES,
    ConstantFiller,
    Filler,
    TableImputer,
    fit_imputed,
    fit_ridge,
    impute_mean,
    impute_nearest,
    impute_ridge,
    impute_zero,
)
from baselines.sample import CannotFit, Sample
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")

Planted = Callable[..., Sample]
SHAPE = (4, 2, 2)
TRAINING = Training(epochs=8, learning_rate=1e-3)


@pytest.fixture
def people() -> tuple[Tensor, Tensor]:
    """A grid (30, 3, 4, 2, 2) of feature maps that have something in common, and which of them are there."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(30, 1, *SHAPE, generator=generator)
    grid = 3 + common + torch.randn(30, 3, *SHAPE, generator=generator)
    draw = torch.rand(30, 3, generator=generator)
    modality_mask = (draw > 0.4) | (draw == draw.amax(1, keepdim=True))
    grid[~modality_mask] = 0
    return grid, modality_mask


def _fill(filler: Filler, grid: Tensor, modality_mask: Tensor) -> np.ndarray:
    """What the filler makes of it; real feature maps stay, and gaps are not looked at."""
    filled = filler.fill(grid, modality_mask, torch.arange(len(grid)))
    assert filled.dtype == grid.dtype
    assert torch.equal(filled[modality_mask], grid[modality_mask])
    strange = grid.clone()
    strange[~modality_mask] = torch.nan
    assert torch.equal(filler.fill(strange, modality_mask, torch.arange(len(grid))), filled)
    return filled.numpy()


# --- what is filled in ---


def test_zero_and_mean(people: tuple[Tensor, Tensor]) -> None:
    (grid, modality_mask), values = people, people[0].numpy()
    zero, mean = (
        _fill(impute(grid[:20], modality_mask[:20]), grid, modality_mask) for impute in (impute_zero, impute_mean)
    )
    assert (impute_zero(grid, modality_mask).mask, impute_mean(grid, modality_mask).mask) == (True, False)
    for m in range(3):
        gaps = ~modality_mask[:, m].numpy()
        assert 0 < gaps[:20].sum() < 19
        assert (zero[gaps, m] == 0).all()
        expected = values[:20][~gaps[:20], m].mean(0)
        np.testing.assert_allclose(mean[gaps, m], np.broadcast_to(expected, mean[gaps, m].shape), rtol=1e-5)


def test_nearest_against_a_loop(people: tuple[Tensor, Tensor]) -> None:
    (grid, modality_mask), values = people, people[0].numpy().astype(np.float64)
    ours = _fill(impute_nearest(grid[:20], modality_mask[:20]), grid, modality_mask)
    two_shared = 0
    for i, m in (~modality_mask).nonzero().tolist():
        best, donor = np.inf, -1
        for t in range(20):
            shared = [s for s in range(3) if modality_mask[i, s] and modality_mask[t, s]]
            if modality_mask[t, m] and shared:
                distance = np.mean([(values[i, s] - values[t, s]) ** 2 for s in shared])
                if distance < best:
                    best, donor = distance, t
                    two_shared += len(shared) == 2
        assert donor >= 0
        np.testing.assert_array_equal(ours[i, m], grid[donor, m].numpy())
    assert two_shared


def test_nearest_falls_back_on_the_mean_and_says_so(people: tuple[Tensor, Tensor]) -> None:
    """In training, nobody has 0 and 2: whoever has 0 alone gets the mean of 2; whoever has 0 and 1 a neighbour."""
    grid, modality_mask = people
    train = torch.tensor([[True, True, False], [False, True, True], [False, True, True], [True, False, False]])
    filler = impute_nearest(grid[:4], train)
    assert filler.notes == (
        "no training observation has both modality 0 and modality 2: "
        "where only modality 0 is available, modality 2 is filled with its mean feature map",
        "no training observation has both modality 2 and modality 0: "
        "where only modality 2 is available, modality 0 is filled with its mean feature map",
    )
    filled = _fill(filler, grid[4:6], torch.tensor([[True, False, False], [True, True, False]]))
    np.testing.assert_allclose(filled[0, 2], grid[1:3, 2].mean(0).numpy(), rtol=1e-5)
    nearer = 1 + int((grid[1:3, 1] - grid[5, 1]).square().mean((1, 2, 3)).argmin())
    np.testing.assert_array_equal(filled[1, 2], grid[nearer, 2].numpy())
    assert impute_nearest(grid[:20], modality_mask[:20]).notes == ()


def test_ridge_against_scikit_learn(people: tuple[Tensor, Tensor]) -> None:
    """A gap is the mean of scikit-learn's primal regressions from every modality present."""
    (grid, modality_mask), values = people, people[0].flatten(2).numpy().astype(np.float64)
    filler = impute_ridge(grid[:20], modality_mask[:20])
    assert filler.notes == ()
    models = {}
    for (s, m), regression in filler.maps.items():
        both = (modality_mask[:20, s] & modality_mask[:20, m]).numpy()
        assert regression.penalty > 0
        models[s, m] = Ridge(alpha=regression.penalty).fit(values[:20][both, s], values[:20][both, m])
    assert len(models) == 6
    ours = _fill(filler, grid, modality_mask)
    sources = []
    for i, m in (~modality_mask).nonzero().tolist():
        present = [s for s in range(3) if modality_mask[i, s]]
        expected = np.mean([models[s, m].predict(values[i, s][None])[0] for s in present], 0)
        np.testing.assert_allclose(ours[i, m].ravel(), expected, rtol=1e-4, atol=1e-5)
        sources.append(len(present))
    assert set(sources) == {1, 2}


@pytest.mark.parametrize(("pairs", "noise"), [(12, 0.1), (12, 3.0), (25, 0.5), (40, 10.0)])
def test_ridge_penalty_has_the_smallest_leave_one_out_error(pairs: int, noise: float) -> None:
    random = np.random.default_rng(pairs)
    x = 5 + random.normal(size=(pairs, 20))
    y = 2 + x @ random.normal(size=(20, 7)) / 4 + noise * random.normal(size=(pairs, 7))
    unit = np.square(x - x.mean(0)).sum() / pairs
    errors = []
    for multiple in PENALTIES:
        model, rest = Ridge(alpha=multiple * unit), np.arange(pairs)
        left = [model.fit(x[rest != i], y[rest != i]).predict(x[i : i + 1])[0] - y[i] for i in range(pairs)]
        errors.append(np.square(left).sum())
    ours = fit_ridge(torch.from_numpy(x), torch.from_numpy(y))
    assert ours.penalty == pytest.approx(PENALTIES[int(np.argmin(errors))] * unit)


def test_ridge_penalty_follows_the_noise() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 20))
    y = x @ random.normal(size=(20, 7))
    clear, lost = (fit_ridge(torch.from_numpy(x), torch.from_numpy(t)) for t in (y, random.normal(size=(40, 7))))
    assert clear.penalty < 1e-3 * lost.penalty


def test_ridge_of_two_pairs_or_of_equal_feature_maps_is_finite_and_cautious() -> None:
    """Two pairs cannot tell penalties apart, so the largest is taken; equal feature maps tell nothing but the mean."""
    random = np.random.default_rng(0)
    x, y = torch.from_numpy(random.normal(size=(2, 5))), torch.from_numpy(random.normal(size=(2, 3)))
    two = fit_ridge(x, y)
    assert two.penalty == pytest.approx(PENALTIES[0] * float((x - x.mean(0)).square().sum() / 2))
    equal = fit_ridge(torch.ones(6, 5), torch.arange(18.0).view(6, 3))
    np.testing.assert_allclose(equal(torch.ones(1, 5)).numpy()[0], [7.5, 8.5, 9.5])


def test_ridge_falls_back_on_the_mean_and_says_so(people: tuple[Tensor, Tensor]) -> None:
    grid, _ = people
    train = torch.tensor([[True, True, False]] * 4 + [[True, False, True]] + [[False, True, True]] * 3)
    filler = impute_ridge(grid[:8], train)
    assert filler.notes == tuple(
        f"1 training observations have both modality {s} and modality {m}, and a regression needs 2: "
        f"where only modality {s} is available, modality {m} is filled with its mean feature map"
        for s, m in ((0, 2), (2, 0))
    )
    filled = _fill(filler, grid[8:10], torch.tensor([[True, False, False], [True, True, False]]))
    np.testing.assert_allclose(filled[0, 2], grid[4:8, 2].mean(0).numpy(), rtol=1e-5)
    from_1 = filler.maps[1, 2](grid[9:10, 1].flatten(1))[0].numpy()
    np.testing.assert_allclose(filled[1, 2].ravel(), from_1, rtol=1e-5)


def test_ridge_finds_what_modalities_have_in_common(people: tuple[Tensor, Tensor]) -> None:
    """Of held-out people, half of whose variance is common, it says more than the mean feature map does."""
    grid, _ = people
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(200, 1, *SHAPE, generator=generator)
    grid = common + 0.5 * torch.randn(200, 2, *SHAPE, generator=generator)
    both, first = torch.ones(100, 2, dtype=torch.bool), torch.tensor([[True, False]]).expand(100, 2)
    errors = [
        float((impute(grid[:100], both).fill(grid[100:], first, torch.arange(100)) - grid[100:])[:, 1].square().mean())
        for impute in (impute_ridge, impute_mean)
    ]
    assert errors[0] < 0.6 * errors[1]


# --- then Multi-CNN ---


@pytest.mark.parametrize("name", IMPUTERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_learns_a_planted_signal_from_incomplete_observations(
    planted: Planted, accuracy: Callable, name: str, classes: int
) -> None:
    sample = planted(modalities=3, classes=classes, missing=0.5, signal=0.6)
    fitted = fit_imputed(sample, TRAINING, IMPUTERS[name])
    assert accuracy(fitted, sample) >= 0.9
    for m in range(3):
        alone = sample.without(sample.modality != m)
        rows = fitted.probabilities(alone)
        assert rows.dtype == torch.float64
        assert torch.equal(rows.isnan().all(1), ~alone.modality_mask.any(1))
        assert torch.equal(rows.isnan().any(1), ~alone.modality_mask.any(1))


@pytest.mark.parametrize("name", ["mean", "nearest", "ridge"])
def test_without_gaps_it_is_multi_cnn(planted: Planted, name: str) -> None:
    sample = planted()
    ours, plain = fit_imputed(sample, TRAINING, IMPUTERS[name]), fit_multi_cnn(sample, TRAINING)
    assert torch.equal(ours.probabilities(sample), plain.probabilities(sample))
    assert ours.parameters == plain.parameters
    # The mask of the dummy input costs one weight for each modality and hidden unit.
    assert fit_imputed(sample, TRAINING, impute_zero).parameters == plain.parameters + 2 * 512


def test_the_network_is_told_what_is_real(planted: Planted) -> None:
    """With a mask, a feature map that is 0 and one that is missing are told apart; without one they are not."""
    sample = planted(missing=0.5)
    zero = replace(sample, feature_maps=torch.zeros_like(sample.feature_maps))
    for impute, differs in ((impute_zero, True), (lambda grid, modality_mask: ConstantFiller(0 * grid[0]), False)):
        fitted = fit_imputed(sample, TRAINING, impute)
        rows = fitted.probabilities(zero)
        apart = rows - rows[sample.modality_mask.all(1)][0]
        assert bool((apart[~sample.modality_mask.all(1)].abs() > 1e-7).any()) == differs


def test_imputer_sees_training_observations_with_scans_only(planted: Planted) -> None:
    sample = planted(missing=0.3)
    sample = sample.without(torch.isin(sample.observation, sample.train[:2]))
    seen = []

    def spy(grid: Tensor, modality_mask: Tensor) -> ConstantFiller:
        seen.append((grid, modality_mask))
        return impute_mean(grid, modality_mask)

    fit_imputed(sample, TRAINING, spy)
    ((grid, modality_mask),) = seen
    assert torch.equal(grid, sample.grid()[sample.train[2:]])
    assert torch.equal(modality_mask, sample.modality_mask[sample.train[2:]])


def test_notes_come_through(planted: Planted) -> None:
    sample = planted(observations=20)
    only_first = torch.isin(sample.observation, sample.train[:6]) & (sample.modality == 1)
    only_second = torch.isin(sample.observation, sample.train[6:]) & (sample.modality == 0)
    fitted = fit_imputed(sample.without(only_first | only_second), TRAINING, impute_ridge)
    assert [note[:53] for note in fitted.notes] == [
        "0 training observations have both modality 0 and moda",
        "0 training observations have both modality 1 and moda",
    ]
    assert fitted.probabilities(sample).isfinite().all()


def test_refuses(planted: Planted) -> None:
    sample = planted(observations=20)
    training = torch.isin(sample.observation, sample.train)
    with pytest.raises(CannotFit, match="modality 1 has no training scan, so it cannot be filled"):
        fit_imputed(sample.without(training & (sample.modality == 1)), TRAINING, impute_mean)
    one = replace(sample, train=sample.train[sample.target[sample.train] == 1])
    with pytest.raises(CannotFit, match="all 6 training observations are of class 1; two classes are needed"):
        fit_imputed(one, TRAINING, impute_mean)


# --- feature maps from elsewhere ---


def _table(sample: Sample) -> dict[tuple[int, int], Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {(i, m): torch.randn(8, 3, 3, generator=generator) for i, m in (~sample.modality_mask).nonzero().tolist()}


def test_table_fills_by_observation_number(planted: Planted) -> None:
    sample = planted(missing=0.5)
    table = _table(sample)
    rows = torch.tensor([41, 3, 17, 22])
    assert (~sample.modality_mask[rows]).any()
    filled = TableImputer(table).fill(sample.grid()[rows], sample.modality_mask[rows], rows)
    for place, i in enumerate(rows.tolist()):
        for m in range(2):
            expected = sample.grid()[i, m] if sample.modality_mask[i, m] else table[i, m]
            assert torch.equal(filled[place, m], expected)


def test_table_is_multi_cnn_on_the_completed_sample(planted: Planted, accuracy: Callable) -> None:
    """As if the imputed feature maps were scans; feature maps given for scans that are there change nothing."""
    whole = planted(signal=0.6)
    hidden = torch.rand(120, generator=torch.Generator().manual_seed(0)) < 0.4
    hidden &= whole.modality == 1
    sample = whole.without(hidden)
    table = {(i, 1): whole.grid()[i, 1] for i in (~sample.modality_mask[:, 1]).nonzero().squeeze(1).tolist()}
    extra = {(i, 0): torch.full((8, 3, 3), torch.nan) for i in range(60)}
    fitted = fit_imputed(sample, TRAINING, TableImputer(table | extra))
    plain = fit_multi_cnn(whole, TRAINING)
    assert torch.equal(fitted.probabilities(sample), plain.probabilities(whole))
    assert accuracy(fitted, sample) >= 0.9


def test_table_asks_for_what_it_needs(planted: Planted) -> None:
    """For fitting, feature maps of training and validation; for prediction, those of all observations with a scan."""
    sample = planted(missing=0.5)
    table = _table(sample)
    learning = set(sample.train.tolist()) | set(sample.validation.tolist())
    needed = {key for key in table if key[0] in learning}
    fitted = fit_imputed(sample, TRAINING, TableImputer({key: table[key] for key in needed}))
    absent = sorted(table.keys() - needed)
    assert absent
    with pytest.raises(
        CannotFit,
        match=rf"{len(absent)} of {len(table)} missing feature maps are not among the {len(needed)} imputed ones "
        rf"\(the first: observation {absent[0][0]}, modality {absent[0][1]}\); impute them",
    ):
        fitted.probabilities(sample)
    known = sample.without(torch.isin(sample.observation, sample.test))
    assert torch.equal(fitted.probabilities(known).isnan().any(1).nonzero().squeeze(1), sample.test)
    gone = min(needed)
    with pytest.raises(CannotFit, match=rf"1 of {len(needed)} missing feature maps are not among"):
        fit_imputed(sample, TRAINING, TableImputer({key: table[key] for key in needed if key != gone}))


def test_table_of_another_shape(planted: Planted) -> None:
    sample = planted(missing=0.5)
    table = {key: feature_map[:4] for key, feature_map in _table(sample).items()}
    with pytest.raises(ValueError, match=r"feature map of shape \(4, 3, 3\); expected \(8, 3, 3\)"):
        fit_imputed(sample, TRAINING, TableImputer(table))
