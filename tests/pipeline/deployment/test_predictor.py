"""Numbers that are not finite never become an answer: the patient is refused in words."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from console.errors import InputError
from evaluation.outliers import share_farther
from models.set_classifier import SetClassifier
from models.sets import Groups
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.calibration_set import channel_means
from pipeline.deployment.occlusion_maps import write_maps
from pipeline.deployment.predictor import NoPredictionError, Predictor, _outliers, predict_patient
from pipeline.store.base import ArtifactError
from pipeline.training.feature_maps import FeatureMaps
from pipeline.training.repeat_data import Sets
from pipeline.training.scores import probabilities_of

pytestmark = pytest.mark.usefixtures("one_thread")
SCANS = [("p_pet", "pet"), ("p_t1", "t1")]


@pytest.fixture
def predictor(tmp_path: Path, small_model: Callable[..., Path]) -> Predictor:
    bundle = Bundle.read(small_model(tmp_path / "bundle"))
    return Predictor(bundle, bundle.network(), error_rate=0.1, outlier_rate=0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_no_answer(predictor: Predictor, value: float) -> None:
    feature_maps = torch.zeros(2, 6, 2, 2)
    assert predict_patient(predictor, SCANS, feature_maps)["set"]
    feature_maps[1, 3, 0, 1] = value
    with pytest.raises(NoPredictionError, match="the features of p_t1 hold numbers that are not finite"):
        predict_patient(predictor, SCANS, feature_maps)


def test_logits_that_overflow_are_no_answer(predictor: Predictor) -> None:
    """All weights are finite, and so are the features."""
    with torch.no_grad():
        predictor.network.classifier.rho[0].weight.fill_(3e38)
        predictor.network.classifier.rho[-1].weight.copy_(torch.tensor([[3e38], [-3e38], [1.0]]).expand(3, 5))
    with pytest.raises(NoPredictionError, match="the model gives no finite numbers for these scans"):
        predict_patient(predictor, SCANS, torch.ones(2, 6, 2, 2))


def test_features_of_another_shape_are_no_answer(predictor: Predictor) -> None:
    with pytest.raises(NoPredictionError, match=r"the shape \(6, 2, 3\), the model reads \(6, 2, 2\)"):
        predict_patient(predictor, SCANS, torch.zeros(2, 6, 2, 3))


def test_logits_of_a_test_are_finite_or_the_run_stops() -> None:
    classifier, phi = SetClassifier(2, 2), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    sets = Sets(("a", "b"), Groups.of(torch.arange(2), 2), torch.zeros(2, dtype=torch.int64))
    assert probabilities_of(classifier, phi, sets).tolist() == [[0.5, 0.5]] * 2
    phi[1, 0] = float("nan")
    with pytest.raises(InputError, match=r"no finite numbers for b .*--force features,pretrain,classify"):
        probabilities_of(classifier, phi, sets)


def test_a_training_scan_that_is_not_finite_is_named() -> None:
    feature_maps: Any = SimpleNamespace(load=lambda scans: torch.tensor([[[[float(s)]]] for s in scans]))
    assert channel_means(feature_maps, ["1", "2"]).tolist() == [[1.0], [2.0]]
    with pytest.raises(ArtifactError, match="the features of nan hold numbers that are not finite"):
        channel_means(feature_maps, ["1", "nan"])


def test_no_map_is_made_of_slices_that_are_not_finite(predictor: Predictor) -> None:
    slices = torch.zeros(4, 6, 2, 2)
    slices[2, 0, 0, 0] = float("nan")
    features: Any = SimpleNamespace(
        load=lambda scans: torch.zeros(len(scans), 6, 2, 2),
        slices=lambda _: slices,
        manifest={"made_from": {"settings": {}}},
    )
    preprocess: Any = SimpleNamespace(record=lambda _: {"kind": "volume"})
    patient = {"scans": [{"scan": "p_t1", "modality": "t1", "used": True}], "probabilities": {"CN": 1.0}}
    with pytest.raises(ArtifactError, match="the slices of p_t1 hold numbers that are not finite"):
        write_maps(predictor, patient, preprocess, FeatureMaps(features, {}), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_outlier_rate_is_one_of_patients_however_many_scans_they_have(modalities: int) -> None:
    random = np.random.default_rng(modalities)
    flagged = 0
    for _ in range(1500):
        distances = random.exponential(1, (modalities, 60))
        names = [f"m{i}" for i in range(modalities)]
        shares = dict(zip(names, (share_farther(row[-1], row[:-1]) for row in distances), strict=True))
        bundle = SimpleNamespace(outlier=lambda m, _, shares=shares: {"share_farther": shares[m], "n": 59})
        predictor: Any = SimpleNamespace(bundle=bundle, outlier_rate=0.05)
        found = _outliers(predictor, [(name, name) for name in names], torch.zeros(modalities, 1, 1, 1))
        flagged += any(outlier["flag"] for outlier in found if outlier)
    assert 0.03 <= flagged / 1500 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


def test_scans_not_compared_do_not_count_and_few_held_out_scans_cannot_tell() -> None:
    held_out = {"a": 30, "b": 60}
    bundle = SimpleNamespace(
        outlier=lambda m, _: {"share_farther": 1 / (held_out[m] + 1), "n": held_out[m]} if m in held_out else None
    )
    predictor: Any = SimpleNamespace(bundle=bundle, outlier_rate=0.05)
    for names, flags in (("ac", [True, None]), ("abc", [None, True, None])):
        found = _outliers(predictor, [(name, name) for name in names], torch.zeros(len(names), 1, 1, 1))
        assert [outlier and outlier["flag"] for outlier in found] == flags
