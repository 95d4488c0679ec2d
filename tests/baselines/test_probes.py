"""Linear probes against scikit-learn in the space of all features, and sets against a loop."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from baselines.probes import PENALTIES, PENALTY, fit_averaged_probes, fit_linear_set, fit_softmax, set_sums
from baselines.sample import CannotFit, Sample
from models.settings import Training

Planted = Callable[..., Sample]
pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = Training()
BOTH = [fit_averaged_probes, fit_linear_set]


def _rows(
    items: int, features: int, classes: int, *, signal: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which a line says something, but not all."""
    random = np.random.default_rng(seed)
    labels = np.arange(items) % classes
    means = np.random.default_rng(99).normal(size=(classes, features))
    return (0.3 + signal * means[labels] + random.normal(size=(items, features))).astype(np.float32), labels


def _scikit(x: np.ndarray, y: np.ndarray, penalty: float) -> LogisticRegression:
    """The same loss: theirs is C times the sum of cross-entropies; for two classes they have one weight, not two."""
    unit = np.square(x.astype(np.float64)).sum() / len(x)
    size = len(x) * penalty * unit / (2 if len(set(y)) == 2 else 1)
    return LogisticRegression(C=1 / size, tol=1e-8, max_iter=20000).fit(x.astype(np.float64), y)


def _tensors(rows: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[0]), torch.from_numpy(rows[1])


def _probabilities(weights: Tensor, bias: Tensor, x: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(x).double() @ weights.double() + bias.double()).softmax(1).numpy()


@pytest.mark.parametrize(
    ("items", "features", "classes", "signal"),
    [(30, 200, 2, 0.05), (30, 200, 3, 0.05), (60, 8, 2, 0.3), (60, 8, 3, 0.5)],
)
def test_regression_is_that_of_scikit_learn(items: int, features: int, classes: int, signal: float) -> None:
    """More features than rows, and fewer; the penalty that held-out rows like best."""
    train = _rows(items, features, classes, signal=signal)
    held_out = _rows(24, features, classes, signal=signal, seed=1)
    weights, bias, penalty = fit_softmax(_tensors(train), _tensors(held_out), classes=classes)
    assert (weights.shape, bias.shape, weights.dtype) == ((features, classes), (classes,), torch.float32)
    models = [_scikit(*train, candidate) for candidate in PENALTIES]
    losses = [log_loss(held_out[1], model.predict_proba(held_out[0])) for model in models]
    best = int(np.argmin(losses))
    assert 0 < best < len(PENALTIES) - 1  # else the choice proves little
    assert penalty == PENALTIES[best]
    ours = _probabilities(weights, bias, held_out[0])
    np.testing.assert_allclose(ours, models[best].predict_proba(held_out[0]), atol=1e-4)


def test_without_validation_the_stated_penalty(planted: Planted) -> None:
    train, nothing = _rows(30, 50, 3), (np.zeros((0, 50), np.float32), np.zeros(0, np.int64))
    weights, bias, penalty = fit_softmax(_tensors(train), _tensors(nothing), classes=3)
    assert penalty == PENALTY
    expected = _scikit(*train, PENALTY).predict_proba(train[0])
    np.testing.assert_allclose(_probabilities(weights, bias, train[0]), expected, atol=1e-4)


def test_the_size_of_feature_maps_does_not_matter() -> None:
    (x, y), held_out = _rows(30, 50, 2), _rows(20, 50, 2, seed=1)
    small = fit_softmax(_tensors((x, y)), _tensors(held_out), classes=2)
    large = fit_softmax(_tensors((1000 * x, y)), _tensors((1000 * held_out[0], held_out[1])), classes=2)
    assert small[2] == large[2]
    torch.testing.assert_close(small[0], 1000 * large[0], rtol=1e-3, atol=1e-5)


def test_rows_that_say_nothing_and_classes_not_seen() -> None:
    """Equal rows give the frequencies of the classes; a class without rows gets next to none."""
    labels = torch.tensor([0, 0, 0, 1])
    for rows in (torch.zeros(4, 6), torch.ones(4, 6)):
        weights, bias, _ = fit_softmax((rows, labels), (rows[:0], labels[:0]), classes=3)
        ours = _probabilities(weights, bias, rows[:1].numpy())[0]
        np.testing.assert_allclose(ours, [0.75, 0.25, 0], atol=1e-3)


@pytest.mark.parametrize("fit", BOTH)
@pytest.mark.parametrize("classes", [2, 3])
def test_learns_a_planted_signal_from_any_subset(
    planted: Planted, accuracy: Callable, fit: Callable, classes: int
) -> None:
    sample = planted(modalities=3, classes=classes, missing=0.4, signal=0.5)
    fitted = fit(sample, TRAINING)
    assert accuracy(fitted, sample) >= 0.9
    for m in range(3):
        alone = sample.without(sample.modality != m)
        rows = fitted.probabilities(alone)
        assert (rows.shape, rows.dtype) == ((60, classes), torch.float64)
        assert torch.equal(rows.isnan().any(1), ~alone.modality_mask.any(1))
        kept = alone.modality_mask.any(1)[sample.test]
        right = rows[sample.test].argmax(1) == sample.target[sample.test]
        assert float(right[kept].double().mean()) >= 0.75


def test_averaged_probes_average_scans_then_modalities(planted: Planted) -> None:
    """By hand, with scikit-learn: scans of modality 0 are there twice."""
    sample = planted(missing=0.4, signal=0.2, observations=40)
    again = sample.modality == 0
    sample = replace(
        sample,
        feature_maps=torch.cat([sample.feature_maps, sample.feature_maps[again] + 0.3]),
        modality=torch.cat([sample.modality, sample.modality[again]]),
        observation=torch.cat([sample.observation, sample.observation[again]]),
    )
    sample = replace(sample, validation=sample.validation[:0])
    ours = fit_averaged_probes(sample, TRAINING).probabilities(sample).numpy()
    x, y = sample.feature_maps.flatten(1).numpy(), sample.target[sample.observation].numpy()
    modality, observation = sample.modality.numpy(), sample.observation.numpy()
    training = np.isin(observation, sample.train.numpy())
    models = [_scikit(x[training & (modality == m)], y[training & (modality == m)], PENALTY) for m in range(2)]
    for i in range(40):
        scores = []
        for m in range(2):
            mine = x[(observation == i) & (modality == m)]
            if len(mine):
                assert len(mine) == 2 - m
                scores.append(models[m].predict_proba(mine).mean(0))
        np.testing.assert_allclose(ours[i], np.mean(scores, 0), atol=1e-4)


def test_every_probe_has_its_own_penalty(planted: Planted) -> None:
    """Modality 1 is noise in validation: its probe is the flatter one."""
    sample = planted(signal=0.3)
    noise = torch.randn(sample.feature_maps.shape, generator=torch.Generator().manual_seed(1))
    held_out = torch.isin(sample.observation, sample.validation) & (sample.modality == 1)
    sample.feature_maps[held_out] = noise[held_out]
    members = fit_averaged_probes(sample, TRAINING).members
    sizes = [float(member.network[1].weight.norm()) for member in members]
    assert sizes[1] < 0.7 * sizes[0]


def test_linear_set_is_a_mean_over_scans(planted: Planted) -> None:
    """The logits of a set are the mean of w_m z over its scans plus b, scan by scan."""
    sample = planted(modalities=3, missing=0.4, signal=0.2)
    double = torch.cat([torch.arange(len(sample.feature_maps)), torch.arange(30)])
    sample = replace(
        sample,
        feature_maps=sample.feature_maps[double],
        modality=sample.modality[double],
        observation=sample.observation[double],
    )
    fitted = fit_linear_set(sample, TRAINING)
    ours = fitted.probabilities(sample).numpy()
    weights, bias = fitted.weights.numpy().astype(np.float64), fitted.bias.numpy().astype(np.float64)
    scans = list(zip(sample.observation.tolist(), sample.modality.tolist(), sample.feature_maps.numpy(), strict=True))
    for i in range(60):
        logits = [feature_map.ravel() @ weights[m] for j, m, feature_map in scans if j == i]
        powers = np.exp(np.mean(logits, 0) + bias)
        np.testing.assert_allclose(ours[i], powers / powers.sum(), atol=1e-5)


def test_linear_set_is_the_kernel_machine_it_says_it_is(planted: Planted) -> None:
    """Inner products of rows are means over pairs of scans; the fit is scikit-learn's on such rows."""
    sample = planted(missing=0.4, signal=0.2, observations=40)
    sums, scans = set_sums(sample, (0, 1))
    rows = (torch.cat([sums[0], sums[1]], 1) / scans[:, None]).numpy()
    feature_maps, modality = sample.feature_maps.flatten(1).numpy(), sample.modality.numpy()
    members = [np.flatnonzero(sample.observation.numpy() == i) for i in range(40)]
    for i, j in ((0, 1), (5, 5), (7, 30)):
        pairs = [
            (modality[k] == modality[other]) * (feature_maps[k] @ feature_maps[other])
            for k in members[i]
            for other in members[j]
        ]
        assert rows[i] @ rows[j] == pytest.approx(np.mean(pairs), rel=1e-4, abs=1e-4)
    fitted = fit_linear_set(sample, TRAINING)
    train, validation, target = sample.train.numpy(), sample.validation.numpy(), sample.target.numpy()
    models = [_scikit(rows[train], target[train], candidate) for candidate in PENALTIES]
    losses = [log_loss(target[validation], model.predict_proba(rows[validation])) for model in models]
    assert fitted.penalty == PENALTIES[int(np.argmin(losses))]
    expected = models[int(np.argmin(losses))].predict_proba(rows)
    np.testing.assert_allclose(fitted.probabilities(sample).numpy(), expected, atol=1e-4)


def test_modalities_and_observations_that_training_lacks(planted: Planted) -> None:
    """They are left out of the means; whoever has nothing else gets NaN."""
    whole = planted(modalities=3)
    training = torch.isin(whole.observation, whole.train)
    sample = whole.without(
        (training & ((whole.modality == 2) | (whole.observation < 2)))
        | ((whole.observation == 59) & (whole.modality < 2))
    )
    only_two = sample.without(sample.modality == 2)
    for fit in BOTH:
        fitted = fit(sample, TRAINING)
        rows = fitted.probabilities(sample)
        assert rows.isnan().any(1).nonzero().squeeze(1).tolist() == [0, 1, 59]
        assert torch.equal(rows.nan_to_num(-1), fitted.probabilities(only_two).nan_to_num(-1))


def test_parameters_are_those_trained(planted: Planted) -> None:
    sample = planted(modalities=3, classes=4)
    assert fit_averaged_probes(sample, TRAINING).parameters == 3 * (72 * 4 + 4)
    assert fit_linear_set(sample, TRAINING).parameters == 3 * 72 * 4 + 4
    two = sample.without(torch.isin(sample.observation, sample.train) & (sample.modality == 1))
    assert fit_averaged_probes(two, TRAINING).parameters == 2 * (72 * 4 + 4)
    assert fit_linear_set(two, TRAINING).parameters == 2 * 72 * 4 + 4


def test_refuse(planted: Planted) -> None:
    sample = planted(observations=20)
    one = replace(sample, train=sample.train[sample.target[sample.train] == 1])
    nobody = sample.without(torch.isin(sample.observation, sample.train))
    with pytest.raises(CannotFit, match="all 6 training observations are of class 1; two classes are needed"):
        fit_linear_set(one, TRAINING)
    with pytest.raises(CannotFit, match="there is no training scan"):
        fit_linear_set(nobody, TRAINING)
    with pytest.raises(
        CannotFit, match="no modality can be fitted: all 6 training scans of modality 0 are of class 1; two"
    ):
        fit_averaged_probes(one, TRAINING)
    with pytest.raises(CannotFit, match="modality 0 has no training scan; modality 1 has no training scan"):
        fit_averaged_probes(nobody, TRAINING)


def test_full_size_feature_maps_are_solved_among_the_rows(planted: Planted) -> None:
    """A matrix of 40,000 by 40,000 features would not fit in memory."""
    sample = planted(observations=20, feature_map=(400, 10, 10), signal=0.05)
    for fit in BOTH:
        assert fit(sample, TRAINING).probabilities(sample).isfinite().all()
