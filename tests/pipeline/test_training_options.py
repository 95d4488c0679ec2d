"""Settings of pretrain and classify reach the method."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import toy_run

from models.settings import StepOne, StepTwo, Training
from pipeline.runner.run import run_stage
from pipeline.specs.classify import ClassifyConfig
from pipeline.specs.pretrain import PretrainConfig
from pipeline.specs.registry import STAGES
from pipeline.store.fitted import ExtractorSet

pytestmark = pytest.mark.usefixtures("one_thread")
BY_NAME = {stage.name: stage for stage in STAGES}
FAST = {"epochs": 2, "learning_rate": 1e-3}


def fitted(workspace: Path, name: str, **options: Any) -> str:
    """Hash of the weights of all repeats of a stage."""
    sections = {"pretrain": FAST, "classify": FAST}
    sections[name] = {**sections[name], **options}
    run_stage(BY_NAME[name], toy_run.settings(**sections), workspace, device="cpu")
    return ExtractorSet(workspace / name).fingerprint


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Path, dict[str, str]]:
    """A workspace after both stages with the defaults, and what they gave."""
    workspace = tmp_path_factory.mktemp("toy")
    toy_run.fill(workspace, toy_run.scans(30))
    return workspace, {name: fitted(workspace, name) for name in ("pretrain", "classify")}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pretrain", {"balance_classes": True}),
        ("pretrain", {"losses": "classification"}),
        ("pretrain", {"losses": "reconstruction"}),
        ("classify", {"balance_classes": True}),
        ("classify", {"modality_dropout": 0.5}),
    ],
    ids=str,
)
def test_an_option_changes_the_weights(
    usual: tuple[Path, dict[str, str]], tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    shutil.copytree(usual[0], tmp_path / "run")
    assert fitted(tmp_path / "run", name, **options) != usual[1][name]


def test_without_an_option_they_are_the_same(usual: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    toy_run.fill(tmp_path, toy_run.scans(30))
    assert {name: fitted(tmp_path, name) for name in ("pretrain", "classify")} == usual[1]


def test_the_method_is_told_what_was_set() -> None:
    one = {
        "losses": "classification",
        "embedding": 2,
        "hidden": 7,
        "initialisation": "default",
        "feature_scale": "scale",
        "stop_on": "classification",
    }
    two = {"aggregate": "max", "hidden": (7, 5), "dropout": 0.1, "modality_dropout": 0.2, "batch_size": 9}
    loop = {"epochs": 7, "learning_rate": 0.01, "weight_decay": 0.02, "patience": 3}
    assert PretrainConfig(**one).step == StepOne(**one)  # type: ignore[arg-type]
    assert ClassifyConfig(**two).step == StepTwo(**two)  # type: ignore[arg-type]
    for config in (PretrainConfig, ClassifyConfig):
        expected = Training(**loop, batch_size=9, seed=5003)  # type: ignore[arg-type]
        assert config(**loop, batch_size=9, seed=5).training(3) == expected
