"""Settings of pretrain and classify reach the method."""

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers import toy_run
from pydantic import ValidationError

from models.hypermm import Sets, fit_classifier
from models.penalised import PENALTIES
from models.settings import Fit, StepOne, StepTwo, Training
from pipeline.runner.run import run_stage
from pipeline.specs.classify import ClassifyConfig
from pipeline.specs.pretrain import PretrainConfig
from pipeline.specs.registry import STAGES
from pipeline.store.fitted import ClassifierSet, ExtractorSet

pytestmark = pytest.mark.usefixtures("one_thread")
BY_NAME = {stage.name: stage for stage in STAGES}
FAST = {"epochs": 2, "learning_rate": 1e-3}


def fitted(workspace: Path, name: str, **options: Any) -> str:
    """Hash of the weights of all repeats of a stage."""
    sections: dict[str, dict[str, Any]] = {"pretrain": FAST, "classify": {}}
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
        ("classify", {"fit": "epochs"}),
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


def test_other_predictions_of_the_same_weights_are_another_result(
    usual: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    shutil.copytree(usual[0] / "classify", tmp_path / "classify")
    result = ClassifierSet(tmp_path / "classify")
    before = result.contents()
    assert before == ClassifierSet(usual[0] / "classify").contents()
    predictions = result.predictions().drop(columns="repeat")
    predictions.to_csv(tmp_path / "classify" / "predictions.csv", index=False)
    assert result.contents() != before


def test_the_method_is_told_what_was_set() -> None:
    one = {
        "losses": "classification",
        "embedding": 2,
        "hidden": 7,
        "initialisation": "default",
        "feature_scale": "scale",
        "stop_on": "loss",
    }
    two = {
        "fit": "epochs",
        "aggregate": "max",
        "hidden": (7, 5),
        "dropout": 0.1,
        "modality_dropout": 0.2,
        "batch_size": 9,
    }
    loop = {"epochs": 7, "learning_rate": 0.01, "weight_decay": 0.02, "patience": 3}
    assert PretrainConfig(**one).step == StepOne(**one)  # type: ignore[arg-type]
    assert ClassifyConfig(**two).step == StepTwo(**two)  # type: ignore[arg-type]
    for config in (PretrainConfig, ClassifyConfig):
        expected = Training(**loop, batch_size=9, seed=5003)  # type: ignore[arg-type]
        by_epochs = {"fit": "epochs"} if config is ClassifyConfig else {}
        assert config(**by_epochs, **loop, batch_size=9, seed=5).training(3) == expected


def test_the_aggregate_follows_the_fit_unless_it_is_set() -> None:
    assert (ClassifyConfig().aggregate, ClassifyConfig(fit="epochs").aggregate) == ("sum", "mean")
    assert (StepTwo().how, StepTwo(fit="epochs").how) == ("sum", "mean")
    for fit in get_args(Fit):
        assert ClassifyConfig(fit=fit, aggregate="max").step.how == "max"


@pytest.mark.parametrize(
    "option",
    [
        {"hidden": (512, 128)}, {"dropout": 0.1}, {"modality_dropout": 0.1}, {"epochs": 6}, {"patience": 3},
        {"batch_size": 8}, {"learning_rate": 0.01}, {"weight_decay": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_that_would_do_nothing_is_refused(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValidationError, match=f"{name} is .*, which fit: folds does not read; set fit: epochs"):
        ClassifyConfig(**option)
    assert getattr(ClassifyConfig(fit="epochs", **option), name) == option[name]


def test_inner_folds_are_told_which_sessions_are_of_one_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    table = toy_run.scans(30)
    table["subject"] = [f"s{int(name[1:]) // 2:02d}" for name in table["observation"]]  # two sessions each
    toy_run.fill(tmp_path, table)
    subject_of = table.set_index("observation")["subject"]
    given: list[tuple[list[int], list[int]]] = []

    def record(classifier: Any, phi: Any, sets: Sets, *others: Any, **more: Any) -> Any:
        given.append((sets.subject.tolist(), sets.train.tolist()))
        return fit_classifier(classifier, phi, sets, *others, **more)

    monkeypatch.setattr("models.hypermm.fit_classifier", record)
    fitted(tmp_path, "pretrain")
    fitted(tmp_path, "classify")
    assert len(given) == 2
    names = sorted(subject_of.index.unique())
    for subject, train in given:
        pairs = {(number, subject_of[[name]].iloc[0]) for number, name in zip(subject, names, strict=True)}
        assert len(pairs) == len(set(subject)) == 15
        assert len({subject[row] for row in train}) == len(train) / 2 == 6


def test_a_record_says_how_it_was_fitted(usual: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """And only that: there is no best epoch where there are no epochs."""
    shutil.copytree(usual[0], tmp_path / "run")
    folds, epochs = ClassifierSet(usual[0] / "classify"), ClassifierSet(tmp_path / "run" / "classify")
    fitted(tmp_path / "run", "classify", fit="epochs", epochs=2)
    assert folds.record(1)["penalty"] in PENALTIES
    assert not {"best_epoch", "stopped"} & folds.record(1).keys()
    assert list(folds.histories()) == ["repeat", "penalty", "held_out_loss", "standard_error", "best"]
    chosen = folds.histories().query("best").set_index("repeat")["penalty"].to_dict()
    assert chosen == {repeat: folds.record(repeat)["penalty"] for repeat in (1, 2)}
    assert {"best_epoch", "stopped"} <= epochs.record(1).keys()
    assert "penalty" not in epochs.record(1)
    for artifact, word in ((folds, "penalty"), (epochs, "epoch")):
        assert word in (artifact.folder / "curves.svg").read_text("utf-8")
