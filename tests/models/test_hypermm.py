"""The method against the paper written out by hand, and its promises."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.extractor import UniversalExtractor
from models.hypermm import (
    NotFiniteError,
    Scans,
    Sets,
    class_weights,
    extract,
    fit_classifier,
    fit_extractor,
    load_extractor,
    new_classifier,
    new_extractor,
    predict_sets,
    weighted_cross_entropy,
)
from models.set_classifier import SetClassifier
from models.set_model import SetModel
from models.sets import Groups
from models.settings import Fit, StepOne, StepTwo, Training

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (6, 3, 3)
MODALITIES = 3


def paper_phi(z: Tensor, m: int, h: dict[str, Tensor]) -> Tensor:
    """φ(x, m) of one scan as section 2.2 has it: h(m) is an MLP on the modality's embedding; W_m z + b_m everywhere."""
    embedded = h["embedding.weight"][m]  # (E)
    hidden = torch.relu(h["hidden.weight"] @ embedded + h["hidden.bias"])  # (H)
    channels = z.shape[0]
    weight = (h["weight.weight"] @ hidden + h["weight.bias"]).reshape(channels, channels)
    bias = h["bias.weight"] @ hidden + h["bias.bias"]
    out = torch.empty_like(z)
    for i, j in itertools.product(range(z.shape[1]), range(z.shape[2])):
        out[:, i, j] = weight @ z[:, i, j] + bias
    return out


def paper_rho(features: list[Tensor], rho: dict[str, Tensor], how: str) -> Tensor:
    """Equations 1 and 2: ρ(aggregate over the set), ρ being linear layers with ReLU between."""
    total = features[0].clone()
    for feature in features[1:]:
        total = torch.maximum(total, feature) if how == "max" else total + feature
    x = (total / len(features) if how == "mean" else total).flatten()
    layers = sorted({int(name.split(".")[1]) for name in rho})
    for number in layers:
        x = rho[f"rho.{number}.weight"] @ x + rho[f"rho.{number}.bias"]
        x = x if number == layers[-1] else torch.relu(x)
    return x


@pytest.mark.parametrize("scans", [[0], [2, 0], [1, 1, 2], [0, 2, 1, 2]], ids=len)
@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize("hidden", [(), (7, 5)], ids=["linear", "three layers"])
def test_the_same_as_the_paper_by_hand(scans: list[int], how: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    extractor = UniversalExtractor(MODALITIES, SHAPE, initialisation="default")
    classifier = SetClassifier(math.prod(SHAPE), 4, hidden=hidden, how=how)  # type: ignore[arg-type]
    for parameter in classifier.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter)
    feature_maps, modality = torch.randn(len(scans), *SHAPE), torch.tensor(scans)
    features = next(extract(extractor, [(feature_maps, modality)], "cpu"))
    h = {name.removeprefix("hypernetwork."): value for name, value in extractor.state_dict().items()}
    by_hand = [paper_phi(z, m, h) for z, m in zip(feature_maps, scans, strict=True)]
    np.testing.assert_allclose(features, torch.stack(by_hand).flatten(1), rtol=1e-6, atol=1e-6)
    expected = paper_rho(by_hand, dict(classifier.state_dict()), how).double().softmax(0)
    groups = Groups.of(torch.zeros(len(scans), dtype=torch.int64), 1)
    np.testing.assert_allclose(predict_sets(classifier, features, groups)[0], expected, rtol=1e-5, atol=1e-6)
    model = SetModel(
        modalities=MODALITIES,
        feature_map_shape=SHAPE,
        classes=4,
        rho_hidden=hidden,
        aggregate=how,  # type: ignore[arg-type]
    ).load_parts(extractor.state_dict(), classifier.state_dict())
    logits = model(feature_maps, modality, torch.zeros(len(scans), dtype=torch.int64), 1)
    np.testing.assert_allclose(logits.detach()[0].double().softmax(0), expected, rtol=1e-5, atol=1e-6)


def many(count: int = 40) -> tuple[Scans, Sets]:
    """Two scans a set, classes in turn; the last quarter is neither trained nor validated on."""
    random = torch.Generator().manual_seed(0)
    target = torch.arange(count) % 2
    owner = torch.arange(count).repeat_interleave(2)
    feature_maps = torch.randn(2 * count, *SHAPE, generator=random) + target[owner].float().view(-1, 1, 1, 1)
    modality = torch.arange(2 * count) % 2
    train, validation = torch.arange(count // 2), torch.arange(count // 2, 3 * count // 4)
    of = {name: torch.isin(owner, sets).nonzero().squeeze(1) for name, sets in (("t", train), ("v", validation))}
    scans = Scans(feature_maps, modality, target[owner], of["t"], of["v"])
    return scans, Sets(Groups.of(owner, count), target, train, validation, torch.arange(count))


def fitted(scans: Scans, sets: Sets, one: StepOne = StepOne(), two: StepTwo = StepTwo(), **options: bool) -> bytes:  # noqa: B008
    """All weights after both steps."""
    training = Training(epochs=3, seed=5, learning_rate=1e-3)
    network = new_extractor(one, modalities=2, feature_map_shape=SHAPE, classes=2, seed=training.seed)
    fit_extractor(network, scans, one, training, **options)
    phi = torch.cat(list(extract(network.extractor, [(scans.feature_maps[torch.arange(80)], scans.modality)], "cpu")))
    classifier = new_classifier(two, feature_map_shape=SHAPE, classes=2, seed=training.seed)
    fit_classifier(classifier, phi, sets, two, training, **options)
    state = [*network.state_dict().values(), *classifier.state_dict().values()]
    return b"".join(value.numpy().tobytes() for value in state)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("fit", ["folds", "epochs"])
def test_nothing_of_the_other_scans_reaches_the_weights(balance: bool, fit: Fit) -> None:
    scans, sets = many()
    two = StepTwo(fit=fit)
    before = fitted(scans, sets, two=two, balance_classes=balance)
    scans.feature_maps[60:] = 1e3  # type: ignore[index]
    scans.target[60:] = 1
    sets.target[30:] = 1
    assert fitted(scans, sets, two=two, balance_classes=balance) == before
    scans.target[3] = 1 - scans.target[3]
    assert fitted(scans, sets, two=two, balance_classes=balance) != before


@pytest.mark.parametrize(
    "change",
    [
        {"one": StepOne(losses="classification")},
        {"one": StepOne(losses="reconstruction")},
        {"one": StepOne(feature_scale="none")},
        {"one": StepOne(initialisation="default")},
        {"two": StepTwo(aggregate="max")},
        {"two": StepTwo(fit="epochs")},
    ],
    ids=str,
)
def test_every_option_does_something(change: dict[str, StepOne | StepTwo]) -> None:
    assert fitted(*many(), **change) != fitted(*many())  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"modality_dropout": 0.5}, {"hidden": (4,)}], ids=str)
def test_every_option_of_epochs_does_something(change: dict[str, Any]) -> None:
    epochs = StepTwo(fit="epochs")
    assert fitted(*many(), two=replace(epochs, **change)) != fitted(*many(), two=epochs)


def test_balanced_classes_change_weights_where_classes_are_not_alike() -> None:
    scans, sets = many()
    alike = fitted(scans, sets, balance_classes=True)
    assert alike == fitted(scans, sets)
    scans.target[:20] = 0
    sets.target[:10] = 0
    assert fitted(scans, sets, balance_classes=True) != fitted(scans, sets)


def test_validation_scans_of_a_modality_without_training_scans_do_not_count() -> None:
    scans, _ = many()
    modality = scans.modality.clone()
    modality[scans.train] = 0
    only = Scans(scans.feature_maps, modality, scans.target, scans.train, scans.validation)
    assert (modality[only.stopping()] == 0).all()
    assert len(only.stopping()) == 10


def test_many_sets_are_predicted_as_one_by_one() -> None:
    torch.manual_seed(0)
    classifier = SetClassifier(4, 3, hidden=(5,))
    torch.nn.init.normal_(classifier.rho[-1].weight)  # type: ignore[arg-type]
    owner = torch.randint(0, 600, (2000,), generator=torch.Generator().manual_seed(1))
    owner[:600] = torch.arange(600)  # every set has one
    phi = torch.randn(2000, 4)
    together = predict_sets(classifier, phi, Groups.of(owner, 600))
    for number in (0, 255, 256, 599):
        alone = phi[owner == number]
        single = predict_sets(classifier, alone, Groups.of(torch.zeros(len(alone), dtype=torch.int64), 1))
        np.testing.assert_allclose(together[number], single[0], rtol=1e-5)
    assert predict_sets(classifier, phi, Groups.of(owner[:0], 0)).shape == (0, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_no_answer(value: float) -> None:
    classifier = SetClassifier(4, 2)
    torch.nn.init.normal_(classifier.rho[-1].weight)  # type: ignore[arg-type]
    phi = torch.randn(3, 4)
    phi[1, 2] = value
    with pytest.raises(NotFiniteError) as error:
        predict_sets(classifier, phi, Groups.of(torch.arange(3), 3))
    assert error.value.sets == [1]


def test_widths_are_read_off_the_weights() -> None:
    extractor = UniversalExtractor(MODALITIES, SHAPE, embedding=4, hidden=9)
    again = load_extractor(extractor.state_dict(), modalities=MODALITIES, feature_map_shape=SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(extractor.parameters(), again.parameters(), strict=True))


def test_class_weights_make_classes_count_alike() -> None:
    np.testing.assert_allclose(class_weights(torch.tensor([0, 0, 0, 2]), 3), [4 / 9, 0, 4 / 3], rtol=1e-6)


def test_weights_of_classes_count_in_batches_of_one() -> None:
    logits, target = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0] * 9 + [1] * 3)
    weights = class_weights(target, 2)
    whole = weighted_cross_entropy(logits, target, weights)
    singly = torch.stack([weighted_cross_entropy(logits[i : i + 1], target[i : i + 1], weights) for i in range(12)])
    torch.testing.assert_close(singly.mean(), whole)
    torch.testing.assert_close(whole, F.cross_entropy(logits, target, weights))  # over all, the weights average to 1
    torch.testing.assert_close(weighted_cross_entropy(logits, target, None), F.cross_entropy(logits, target))
