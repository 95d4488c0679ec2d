"""Networks that several methods have in common are trained once, and nobody's predictions change by it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from baselines.methods import Baseline, chosen_baselines, units_of
from baselines.names import KEYS
from baselines.sample import Sample, SharingSample
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = chosen_baselines(KEYS, ("MRI", "PET"), pictures=False)
QUICK = Training(epochs=3, learning_rate=1e-2, batch_size=8, seed=3)
REUSED = {  # first method of a unit → how often it trains nothing, where nothing is missing
    "Uni-CNN MRI": 2,  # both in the late fusion
    "HyperMM": 7,  # sum, max, by epochs, dropout, fine-tuned, three layers; on joint draws, with its joint model
    "Multi-CNN": 6,  # mean, nearest neighbour, ridge, joint mean, joint draws; and the joint model once
}


def bytes_of(method: Baseline, sample: Sample) -> bytes:
    """The predictions of a method that is fitted on a sample."""
    return method.fit(sample, method.training(QUICK)).probabilities(sample).numpy().tobytes()


def units(*, whole: bool) -> dict[str, tuple[Baseline, ...]]:
    """The units of more than one method, by the name of their first."""
    return {unit[0].name: unit for unit in units_of(METHODS, whole=whole) if len(unit) > 1}


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("first", ["Uni-CNN MRI", "HyperMM", "Multi-CNN"])
def test_predictions_are_the_same_to_the_byte(planted: Callable[..., Sample], first: str, missing: float) -> None:
    sample = planted(observations=30, missing=missing, feature_map=(4, 2, 2))
    sharing = sample.sharing()
    for method in units(whole=True)[first]:
        assert bytes_of(method, sharing) == bytes_of(method, sample), method.name
    if first == "Multi-CNN" and missing > 0:
        assert len(sharing.reused) == 1  # the joint model; networks differ
    else:
        assert len(sharing.reused) > 1


@pytest.mark.parametrize("first", REUSED)
def test_each_network_is_trained_once(planted: Callable[..., Sample], first: str) -> None:
    sharing = planted(observations=20, feature_map=(4, 2, 2)).sharing()
    for method in units(whole=True)[first]:
        bytes_of(method, sharing)
    trained = {"Uni-CNN MRI": 2, "HyperMM": 2, "Multi-CNN": 2}  # the joint model is one of the last two's
    assert (len(sharing.kept), len(sharing.reused)) == (trained[first], REUSED[first])
    assert sharing.reused_seconds() == sum(sharing.reused) > 0


def test_methods_that_fill_gaps_are_units_of_their_own_where_there_are_gaps() -> None:
    assert len(units(whole=True)["Multi-CNN"]) == 6
    assert "Multi-CNN" not in units(whole=False)
    assert [method.name for method in units(whole=False)["joint mean"]] == ["joint mean", "joint draws"]
    names = [method.name for unit in units_of(METHODS, whole=False) for method in unit]
    assert sorted(names) == sorted(method.name for method in METHODS)


def test_other_data_or_settings_share_nothing(planted: Callable[..., Sample]) -> None:
    sharing = planted(observations=20, feature_map=(4, 2, 2)).sharing()
    assert sharing.once("key", lambda: 1) == sharing.once("key", lambda: 2) == 1
    other = sharing.without(sharing.modality == 5)
    for changed in (other, sharing.standardised(), replace(sharing, target=1 - sharing.target), sharing.to("cpu")):
        assert isinstance(changed, SharingSample)
        assert changed.once("key", lambda: 3) == 3
    (method,) = (method for method in METHODS if method.name == "Multi-CNN")
    for training in (QUICK, replace(QUICK, seed=4), replace(QUICK, epochs=1)):
        method.fit(sharing, training)
    assert len(sharing.reused) == 1  # "key"
    with pytest.raises(ZeroDivisionError):
        sharing.once("broken", lambda: 1 / 0)
    assert sharing.once("broken", lambda: torch.ones(1)).item() == 1
