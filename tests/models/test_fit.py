"""The one fit loop: a reference Adam, the best epoch, early stopping, seeds, and networks that can learn."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.extractor import PretrainNetwork, UniversalExtractor
from models.fit import evaluate, fit
from models.set_classifier import SetClassifier
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = torch.zeros(0, dtype=torch.int64)
TRAINING = Training(epochs=5, batch_size=4, learning_rate=1e-2, weight_decay=0.0)


def _regression(seed: int = 0, items: int = 12) -> tuple[nn.Linear, Callable, np.ndarray, np.ndarray]:
    """A linear model in float64, its data and its loss."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(items, 3)), generator.normal(size=items)
    torch.manual_seed(seed)
    network = nn.Linear(3, 1).double()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(network(inputs[batch]).squeeze(1), targets[batch])}

    return network, loss, x, y


def _adam(w: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int, rate: float, decay: float) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1, with an L2 term, on the mean squared error; w is weight and bias."""
    first, second = np.zeros_like(w), np.zeros_like(w)
    inputs = np.column_stack([x, np.ones(len(x))])
    for t in range(1, steps + 1):
        gradient = 2 * inputs.T @ (inputs @ w - y) / len(y) + decay * w
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        w = w - rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return w


def _flat(network: nn.Linear) -> np.ndarray:
    return np.concatenate([network.weight.detach().numpy().ravel(), network.bias.detach().numpy()])


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_are_those_of_adam(steps: int, decay: float) -> None:
    """Gradients left from the step before would show from the second step on."""
    network, loss, x, y = _regression()
    everything, start = torch.arange(12), _flat(network)
    training = replace(TRAINING, epochs=steps, batch_size=12, weight_decay=decay)
    history = fit(network, loss, train=everything, validation=everything, training=training)
    assert history.best_epoch == steps
    np.testing.assert_allclose(_flat(network), _adam(start, x, y, steps, 1e-2, decay), atol=1e-10)
    inputs = np.column_stack([x, np.ones(12)])
    mse = np.mean((inputs @ _flat(network) - y) ** 2)
    assert history.rows[-1]["validation_loss"] == pytest.approx(mse)
    before = _adam(start, x, y, steps - 1, 1e-2, decay)
    assert history.rows[-1]["train_loss"] == pytest.approx(np.mean((inputs @ before - y) ** 2))


def test_every_item_once_an_epoch_and_means_over_items() -> None:
    """13 items in batches of 4: the last batch has one, and counts as one."""
    network, seen = nn.Linear(1, 1), []

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        if training:
            seen.append(batch.tolist())
        return {"a": batch.double().mean() + 0 * network.weight.sum(), "b": torch.tensor(1.5)}

    items = torch.arange(13) * 3
    history = fit(network, loss, train=items, validation=items[:5], training=replace(TRAINING, epochs=2))
    assert [len(batch) for batch in seen] == [4, 4, 4, 1] * 2
    first, second = sum(seen[:4], []), sum(seen[4:], [])
    assert sorted(first) == sorted(second) == items.tolist()
    assert first != second  # another order in each epoch
    row = history.rows[0]
    assert (row["train_a"], row["train_b"], row["train_loss"]) == pytest.approx((18, 1.5, 19.5))
    assert (row["validation_a"], row["validation_loss"]) == pytest.approx((6, 7.5))


class _Walk:
    """One weight that walks towards 3; validation likes it best near 1, so its loss falls, then rises."""

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.after_epoch: list[float] = []

    def loss(self, batch: Tensor, training: bool) -> dict[str, Tensor]:
        return {"distance": (self.network.weight.sum() - (3 if training else 1)).square()}

    def note(self, row: dict) -> None:
        self.after_epoch.append(self.network.weight.item())


@pytest.mark.parametrize("patience", [1, 3, 10])
def test_the_best_epoch_is_kept_and_patience_ends_it(patience: int) -> None:
    walk = _Walk()
    one = torch.zeros(1, dtype=torch.int64)
    training = replace(TRAINING, epochs=100, learning_rate=0.15, patience=patience)
    history = fit(walk.network, walk.loss, train=one, validation=one, training=training, on_epoch=walk.note)
    losses = [(w - 1) ** 2 for w in walk.after_epoch]
    best = int(np.argmin(losses))
    assert 3 < best < 12
    assert history.best_epoch == best + 1
    assert len(history.rows) == best + 1 + patience
    assert history.stopped == f"no lower loss for {patience} epochs"
    assert walk.network.weight.item() == walk.after_epoch[best]  # not the last
    assert [row["epoch"] for row in history.rows if row["best"]] == [best + 1]
    np.testing.assert_allclose([row["validation_loss"] for row in history.rows], losses, atol=1e-6)
    assert not walk.network.training


def test_a_second_rise_within_patience_does_not_end_it() -> None:
    """Validation losses given by hand: 5, 4, 6, 6, 3, 7, 7, 7: best is the fifth, three more, stop."""
    network, script = nn.Linear(1, 1), iter([5.0, 4, 6, 6, 3, 7, 7, 7, 0])

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        return {"loss": network.weight.sum() ** 2 if training else torch.tensor(next(script))}

    one = torch.zeros(1, dtype=torch.int64)
    history = fit(network, loss, train=one, validation=one, training=replace(TRAINING, epochs=50, patience=3))
    assert (history.best_epoch, len(history.rows)) == (5, 8)


def test_the_named_term_chooses_the_epoch() -> None:
    """Validation terms given by hand: the sum is lowest in epoch 5, the term "ce" in epoch 2; two more, stop."""
    network, script = nn.Linear(1, 1), iter([(9.0, 3.0), (8, 1), (7, 2), (6, 3), (1, 4), (5, 5), (5, 5), (5, 5)])

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        mse, ce = (
            (network.weight.sum() ** 2, network.weight.sum() ** 2) if training else map(torch.tensor, next(script))
        )
        return {"mse": mse, "ce": ce}

    one = torch.zeros(1, dtype=torch.int64)
    training = replace(TRAINING, epochs=50, patience=2)
    history = fit(network, loss, train=one, validation=one, training=training, stop_on="ce")
    assert (history.best_epoch, len(history.rows)) == (2, 4)


def test_without_validation_the_training_loss_decides() -> None:
    network, loss, *_ = _regression()
    history = fit(network, loss, train=torch.arange(12), validation=NONE, training=TRAINING)
    assert history.stopped == "all 5 epochs done; there was no validation item, so the training loss decided"
    assert np.isnan(history.rows[0]["validation_loss"])
    assert history.best_epoch == int(np.argmin([row["train_loss"] for row in history.rows])) + 1
    assert np.isnan(evaluate(network, loss, NONE, batch_size=4)["validation_loss"])


def test_evaluate_is_the_mean_whatever_the_batches() -> None:
    network, loss, x, y = _regression(items=150)
    mse = np.mean((np.column_stack([x, np.ones(150)]) @ _flat(network) - y) ** 2)
    for size in (1, 64, 70, 500):
        assert evaluate(network, loss, torch.arange(150), batch_size=size)["validation_mse"] == pytest.approx(mse)


def test_frozen_weights_stay_and_training_mode_is_set() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    network[0].requires_grad_(False)
    before, modes = copy.deepcopy(network.state_dict()), []
    x = torch.randn(8, 3)

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        modes.append((training, network.training))
        return {"loss": network(x[batch]).square().mean()}

    fit(network, loss, train=torch.arange(8), validation=torch.arange(4), training=TRAINING)
    assert torch.equal(network[0].weight, before["0.weight"])
    assert not torch.equal(network[2].weight, before["2.weight"])
    assert set(modes) == {(True, True), (False, False)}


def test_errors() -> None:
    network, loss, *_ = _regression()
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(network, loss, train=NONE, validation=torch.arange(3), training=TRAINING)
    for wrong in (float("nan"), float("inf")):

        def broken(batch: Tensor, training: bool, wrong: float = wrong) -> dict[str, Tensor]:
            return {"mse": loss(batch, training)["mse"] * wrong}

        with pytest.raises(
            FloatingPointError, match=r"the loss of epoch 1 is (nan|inf); lower learning_rate \(0\.01\)"
        ):
            fit(network, broken, train=torch.arange(12), validation=torch.arange(3), training=TRAINING)


# --- the project's networks ---

SHAPE = (8, 3, 3)


def _feature_maps() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(8, *SHAPE, generator=generator),
        torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]),
        torch.tensor([0, 0, 1, 1, 1, 0, 0, 1]),
    )


def _pretrain(seed: int, order: int = 0, epochs: int = 150) -> tuple[PretrainNetwork, list[dict]]:
    feature_maps, modality, labels = _feature_maps()
    torch.manual_seed(seed)
    network = PretrainNetwork(UniversalExtractor(2, SHAPE), classes=2, hidden=32)

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        z, rebuilt, logits = network(feature_maps[batch], modality[batch])
        return {"mse": F.mse_loss(rebuilt, z), "ce": F.cross_entropy(logits, labels[batch])}

    items = torch.arange(8)
    training = replace(TRAINING, epochs=epochs, seed=order, patience=1000)
    return network, fit(network, loss, train=items, validation=items, training=training).rows


def test_step_1_can_learn_one_batch_by_heart() -> None:
    network, rows = _pretrain(0)
    assert rows[-1]["validation_mse"] < 0.05 * rows[0]["train_mse"]
    assert rows[-1]["validation_ce"] < 0.01
    feature_maps, modality, labels = _feature_maps()
    assert network(feature_maps, modality)[2].argmax(1).equal(labels)


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_step_2_can_learn_one_batch_by_heart(how: str) -> None:
    """Sets of one to three scans whose labels are random."""
    torch.manual_seed(1)
    sizes = torch.tensor([1, 2, 3, 1, 2, 3, 2, 2])
    features, labels = torch.randn(int(sizes.sum()), 10), torch.tensor([0, 1, 2, 2, 1, 0, 1, 0])
    members = features.split(sizes.tolist())
    network = SetClassifier(10, 3, hidden=(32, 16), how=how)

    def loss(batch: Tensor, training: bool) -> dict[str, Tensor]:
        chosen = torch.cat([members[i] for i in batch.tolist()])
        sets = torch.repeat_interleave(torch.arange(len(batch)), sizes[batch])
        return {"ce": F.cross_entropy(network(chosen, sets, len(batch)), labels[batch])}

    items = torch.arange(8)
    history = fit(network, loss, train=items, validation=items, training=replace(TRAINING, epochs=60, patience=100))
    assert history.rows[-1]["validation_ce"] < 0.01


def test_same_seeds_same_weights_to_the_bit() -> None:
    one, same, other_order = (_pretrain(3, order, epochs=4)[0].state_dict() for order in (5, 5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other_order[name]) for name in one)
