"""CNNs on feature maps: against NumPy, on planted signals, and what they refuse."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.cnn import (
    MultiCNN,
    UniCNN,
    class_probabilities,
    fit_incremental_cnn,
    fit_late_fusion,
    fit_multi_cnn,
    fit_uni_cnn,
    ordered_batches,
    train_multi_cnn,
)
from baselines.sample import CannotFit, Sample
from models.extractor import PretrainNetwork, UniversalExtractor
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")

Planted = Callable[..., Sample]
SHAPE = (8, 3, 3)
TRAINING = Training(epochs=8, learning_rate=1e-3)


def _uni(sample: Sample, training: Training) -> object:
    return fit_uni_cnn(sample, training, modality=1)


ALL = [_uni, fit_late_fusion, fit_multi_cnn, fit_incremental_cnn]


def _twice(sample: Sample) -> Sample:
    """Every scan a second time, with noise: two scans of each modality."""
    noise = torch.randn(sample.feature_maps.shape, generator=torch.Generator().manual_seed(9))
    return replace(
        sample,
        feature_maps=torch.cat([sample.feature_maps, sample.feature_maps + noise]),
        modality=sample.modality.repeat(2),
        observation=sample.observation.repeat(2),
    )


def _lacking(sample: Sample, modality: int, part: Tensor) -> Sample:
    """Without the scans of one modality of some observations."""
    return sample.without((sample.modality == modality) & torch.isin(sample.observation, part))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _classify(network: nn.Module, features: np.ndarray) -> np.ndarray:
    layers = [layer for layer in network.classifier if isinstance(layer, nn.Linear)]
    (w1, b1), (w2, b2) = ([p.detach().numpy().astype(np.float64) for p in layer.parameters()] for layer in layers)
    return np.maximum(features @ w1.T + b1, 0) @ w2.T + b2


def _convolve(layer: nn.Conv2d, feature_maps: np.ndarray) -> np.ndarray:
    w, b = (p.detach().numpy().astype(np.float64) for p in layer.parameters())
    return np.einsum("oc,nchw->nohw", w[:, :, 0, 0], feature_maps) + b[:, None, None]


def test_uni_cnn_against_numpy_and_step_1() -> None:
    feature_maps = torch.randn(5, *SHAPE)
    network = UniCNN(SHAPE, 3)
    maps = _convolve(network.convolution, feature_maps.numpy())
    np.testing.assert_allclose(
        network(feature_maps).detach().numpy(), _classify(network, maps.reshape(5, -1)), rtol=1e-4, atol=1e-5
    )
    head = PretrainNetwork(UniversalExtractor(1, SHAPE), 3).classifier
    ours = {name: value.shape for name, value in network.classifier.state_dict().items()}
    assert ours == {name: value.shape for name, value in head.state_dict().items()}


@pytest.mark.parametrize("mask", [False, True])
def test_multi_cnn_against_numpy(mask: bool) -> None:
    feature_maps, modality_mask = torch.randn(5, 3, *SHAPE), torch.rand(5, 3) > 0.5
    network = MultiCNN(SHAPE, 3, 2, mask=mask)
    maps = [_convolve(network.convolutions[m], feature_maps[:, m].numpy()).reshape(5, -1) for m in range(3)]
    features = np.hstack([*maps, modality_mask.numpy()] if mask else maps)
    np.testing.assert_allclose(
        network(feature_maps, modality_mask).detach().numpy(), _classify(network, features), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("fit", ALL)
@pytest.mark.parametrize("classes", [2, 3])
def test_learns_a_planted_signal(planted: Planted, accuracy: Callable, fit: Callable, classes: int) -> None:
    sample = planted(classes=classes, signal=0.5)
    fitted = fit(sample, TRAINING)
    assert accuracy(fitted, sample) >= 0.9
    rows = fitted.probabilities(sample)
    assert rows.shape == (60, classes)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(rows.sum(1), torch.ones(60, dtype=torch.float64))


@pytest.mark.parametrize("fit", ALL)
def test_no_validation_and_no_scans(planted: Planted, accuracy: Callable, fit: Callable) -> None:
    sample = planted()
    sample = replace(sample, validation=sample.validation[:0])
    fitted = fit(sample, TRAINING)
    assert accuracy(fitted, sample) >= 0.9
    nothing = sample.without(torch.ones_like(sample.modality, dtype=torch.bool))
    assert fitted.probabilities(nothing).isnan().all()
    assert fitted.probabilities(nothing).shape == (60, 2)


def test_parameters_are_those_trained(planted: Planted) -> None:
    sample = planted(modalities=3)
    convolution, hidden, last = 8 * 8 + 8, 72 * 512 + 512, 512 * 2 + 2
    uni = convolution + hidden + last
    assert _uni(sample, Training(epochs=1)).parameters == uni
    assert fit_incremental_cnn(sample, Training(epochs=1)).parameters == uni
    assert fit_late_fusion(sample, Training(epochs=1)).parameters == 3 * uni
    assert fit_multi_cnn(sample, Training(epochs=1)).parameters == 3 * convolution + 3 * 72 * 512 + 512 + last


# --- Uni-CNN ---


def test_uni_cnn_averages_the_scans_of_its_modality(planted: Planted) -> None:
    sample = _twice(planted(missing=0.4, signal=0.3))
    fitted = fit_uni_cnn(sample, TRAINING, modality=1)
    network, ours = fitted.network, fitted.probabilities(sample).numpy()
    assert not network.training
    for i in range(60):
        mine = sample.feature_maps[(sample.observation == i) & (sample.modality == 1)].numpy()
        if len(mine) == 0:
            assert np.isnan(ours[i]).all()
            continue
        assert len(mine) == 2
        logits = _classify(network, _convolve(network.convolution, mine).reshape(2, -1))
        np.testing.assert_allclose(ours[i], _softmax(logits).mean(0), atol=1e-5)
    assert np.isnan(ours).any()


def test_uni_cnn_learns_from_its_modality_alone(planted: Planted) -> None:
    sample, other = planted(), planted()
    other.feature_maps[other.modality == 0] = 7.0
    ours, theirs = (_uni(given, TRAINING).network.state_dict() for given in (sample, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_uni_cnn_refuses(planted: Planted) -> None:
    sample = planted(observations=20)
    with pytest.raises(CannotFit, match="modality 1 has no training scan; leave it out"):
        _uni(_lacking(sample, 1, sample.train), TRAINING)
    one = _lacking(sample, 1, (sample.target == 0).nonzero())
    with pytest.raises(CannotFit, match="all 6 training scans of modality 1 are of class 1; two classes are needed"):
        _uni(one, TRAINING)
    with pytest.raises(CannotFit, match="lower learning_rate"):
        _uni(sample, Training(learning_rate=1e30))


# --- late fusion ---


def test_late_fusion_averages_the_modalities_present(planted: Planted) -> None:
    sample = planted(missing=0.5, modalities=3, signal=0.3)
    ours = fit_late_fusion(sample, TRAINING).probabilities(sample).numpy()
    single = [fit_uni_cnn(sample, TRAINING, modality=m).probabilities(sample).numpy() for m in range(3)]
    modality_mask = sample.modality_mask.numpy()
    assert {1, 2} <= set(modality_mask.sum(1))
    for i in range(60):
        np.testing.assert_allclose(
            ours[i], np.mean([single[m][i] for m in range(3) if modality_mask[i, m]], 0), atol=1e-12
        )


def test_late_fusion_leaves_out_what_cannot_be_fitted(planted: Planted) -> None:
    sample = planted()
    sample = _lacking(_lacking(sample, 1, sample.train), 0, sample.test[:3])
    ours, single = (fit(sample, TRAINING).probabilities(sample) for fit in (fit_late_fusion, _first))
    torch.testing.assert_close(ours, single, equal_nan=True)
    assert ours[sample.test[:3]].isnan().all()
    with pytest.raises(CannotFit, match="no modality can be fitted: modality 0 has no training scan.*; modality 1 has"):
        fit_late_fusion(_lacking(sample, 0, sample.train), TRAINING)


def _first(sample: Sample, training: Training) -> object:
    return fit_uni_cnn(sample, training, modality=0)


# --- Multi-CNN ---


def test_multi_cnn_takes_complete_observations_only(planted: Planted) -> None:
    sample = _twice(planted(missing=0.3))
    complete = sample.modality_mask.all(1)
    assert 5 < complete.sum() < 55
    fitted = fit_multi_cnn(sample, TRAINING)
    rows = fitted.probabilities(sample)
    assert torch.equal(rows.isnan().all(1), ~complete)
    assert torch.equal(rows.isnan().any(1), ~complete)
    network, grid = fitted.network, sample.grid().numpy()
    maps = [_convolve(network.convolutions[m], grid[:, m]).reshape(60, -1) for m in range(2)]
    expected = _softmax(_classify(network, np.hstack(maps)))
    np.testing.assert_allclose(rows[complete].numpy(), expected[complete], atol=1e-5)


def test_multi_cnn_learns_from_complete_observations_only(planted: Planted) -> None:
    sample, other = planted(missing=0.3), planted(missing=0.3)
    incomplete = ~other.modality_mask.all(1)[other.observation]
    other.feature_maps[incomplete] = 7.0
    ours, theirs = (fit_multi_cnn(given, TRAINING).network.state_dict() for given in (sample, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_multi_cnn_refuses(planted: Planted) -> None:
    sample = planted(observations=20)
    with pytest.raises(CannotFit, match="none of 12 training observations has all 2 modalities, and Multi-CNN"):
        fit_multi_cnn(_lacking(sample, 1, sample.train), TRAINING)
    with pytest.raises(CannotFit, match="all 6 complete training observations are of class 1; two classes are needed"):
        fit_multi_cnn(_lacking(sample, 0, (sample.target == 0).nonzero()), TRAINING)


def test_multi_cnn_on_a_given_grid_reads_no_other_rows(planted: Planted) -> None:
    sample = planted()
    grid = sample.grid()
    grid[sample.test] = torch.nan
    parts = {"train": sample.train, "validation": sample.validation}
    ours = train_multi_cnn(sample, TRAINING, grid=grid, **parts)
    usual = fit_multi_cnn(sample, TRAINING).network
    assert all(torch.equal(value, usual.state_dict()[name]) for name, value in ours.state_dict().items())


# --- Incremental-CNN ---


def test_incremental_cnn_is_fed_modality_after_modality(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training scan once an epoch, in batches of one modality, 0 before 1 before 2, newly shuffled each epoch."""
    sample = planted(modalities=3, missing=0.3)
    sample.feature_maps[:, 0, 0, 0] = torch.arange(len(sample.feature_maps))  # so that a feature map says which it is
    fed, forward = [], UniCNN.forward

    def recording(network: UniCNN, feature_maps: Tensor) -> Tensor:
        if network.training:
            fed.append(feature_maps[:, 0, 0, 0].long().tolist())
        return forward(network, feature_maps)

    monkeypatch.setattr(UniCNN, "forward", recording)
    fit_incremental_cnn(sample, Training(epochs=3, batch_size=5, learning_rate=1e-5))
    scans = sample.scans_of(sample.train)
    sizes = [int((sample.modality[scans] == m).sum()) for m in range(3)]
    steps = sum(-(-size // 5) for size in sizes)
    assert len(fed) == 3 * steps
    epochs = [fed[i * steps : (i + 1) * steps] for i in range(3)]
    for epoch in epochs:
        assert sorted(k for batch in epoch for k in batch) == scans.tolist()
        assert all(len(set(sample.modality[batch].tolist())) == 1 for batch in epoch)
        order = [int(sample.modality[batch[0]]) for batch in epoch]
        assert order == sorted(order)
    assert epochs[0] != epochs[1] != epochs[2]


def test_ordered_batches() -> None:
    groups = [torch.tensor([3, 4, 5]), torch.tensor([9])]
    batches = ordered_batches(groups, 2, torch.Generator().manual_seed(0))
    for _ in range(4):
        first, second, third = (next(batches).tolist() for _ in range(3))
        assert (len(first), len(second), third) == (2, 1, [9])
        assert sorted(first + second) == [3, 4, 5]


def test_incremental_cnn_averages_all_scans(planted: Planted) -> None:
    sample = _twice(planted(missing=0.4, signal=0.3))
    fitted = fit_incremental_cnn(sample, TRAINING)
    scores = class_probabilities(fitted.network, sample.feature_maps).numpy()
    ours = fitted.probabilities(sample).numpy()
    for i in range(60):
        np.testing.assert_allclose(ours[i], scores[sample.observation.numpy() == i].mean(0), atol=1e-12)


def test_incremental_cnn_takes_no_modality_it_has_not_seen(planted: Planted) -> None:
    sample = planted()
    sample = _lacking(_lacking(sample, 0, sample.train), 1, sample.test[:4])
    rows = fit_incremental_cnn(sample, TRAINING).probabilities(sample)
    assert torch.equal(rows.isnan().any(1).nonzero().squeeze(1), sample.test[:4])


def test_incremental_cnn_does_not_stop_on_a_modality_it_has_not_seen(planted: Planted) -> None:
    sample = _lacking(planted(), 0, planted().train)
    other = _lacking(sample, 0, sample.validation)
    ours, theirs = (fit_incremental_cnn(given, replace(TRAINING, epochs=30, patience=1)) for given in (sample, other))
    weights = theirs.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in ours.network.state_dict().items())


def test_incremental_cnn_refuses(planted: Planted) -> None:
    sample = planted(observations=20)
    with pytest.raises(CannotFit, match="there is no training scan"):
        fit_incremental_cnn(_lacking(_lacking(sample, 1, sample.train), 0, sample.train), TRAINING)
    one = replace(sample, train=sample.train[sample.target[sample.train] == 1])
    with pytest.raises(CannotFit, match="all 12 training scans are of class 1; two classes are needed"):
        fit_incremental_cnn(one, TRAINING)
