"""The stages and the comparison are one HyperMM, and nothing of the test split reaches what is fitted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from files.reading import file_sha256
from pipeline.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "thin_backbone")]
SMALL = ["--features.backbone", "vgg11", "--features.weights", "random", "--split.ratio", "[6, 2, 2]"]
EPOCHS = [f"--{stage}.epochs" for stage in ("pretrain", "baselines")]
SHORT = [word for option in EPOCHS for word in (option, "6")]


@pytest.fixture(scope="module")
def finished(picture_cohort: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with `data` and a finished `run`, comparison included."""
    folder = tmp_path_factory.mktemp("one")
    config = picture_cohort(folder / "data", subjects=30, side=24)
    assert main(words(config, folder / "run")) == 0
    return folder


def words(config: Path, workspace: Path, *more: str) -> list[str]:
    given = ["--config", str(config), "--workspace", str(workspace), "--quiet", *SMALL, *SHORT]
    scenario = ["--baselines.scenarios", "[as_it_is]", "--only", "hypermm,multi_cnn,mean", "--baselines.workers", "1"]
    return [*given, *scenario, *more, "--stages", "classify,baselines"]


def test_the_row_of_the_comparison_is_the_model_of_the_stages(finished: Path) -> None:
    stages = pd.read_csv(finished / "run" / "classify" / "predictions.csv", dtype={"subject": str})
    rows = pd.read_csv(finished / "run" / "baselines" / "predictions.csv", dtype={"subject": str})
    rows = rows[rows["method"] == "HyperMM"]
    both = stages.merge(rows, on=["repeat", "subject", "observation"])
    assert len(both) == len(stages) == len(rows)
    np.testing.assert_allclose(both["probability_sick"], both["p_1"], rtol=1e-5, atol=1e-7)
    assert both["p_1"].std() > 0.01


FITTED = (
    "pretrain/repeat-1/weights.safetensors", "pretrain/repeat-2/weights.safetensors",
    "classify/repeat-1/weights.safetensors", "classify/repeat-2/weights.safetensors",
    "pretrain/repeat-1/history.csv", "classify/repeat-1/history.csv", "classify/validation_predictions.csv",
)  # fmt: skip


def test_pictures_and_labels_of_test_subjects_change_nothing_fitted(finished: Path, tmp_path: Path) -> None:
    """φ with its scale of feature maps, ρ, early stopping, class weights and the threshold of the validation split."""
    splits = pd.read_csv(finished / "run" / "split" / "splits.csv", dtype=str)
    one = splits[(splits["repeat"] == "1") & (splits["split"] == "test")]["subject"]
    shutil.copytree(finished / "data", tmp_path / "data")
    table = pd.read_csv(tmp_path / "data" / "cohort.csv", dtype=str).assign(split="")
    part = splits[splits["repeat"] == "1"].set_index("subject")["split"]
    table["split"] = table["subject"].map(part)
    config = tmp_path / "data" / "config.yaml"
    config.write_text(config.read_text().replace(str(finished / "data"), str(tmp_path / "data")))
    runs = {}
    for name in ("before", "after"):
        if name == "after":
            tested = table["subject"].isin(one)
            table.loc[tested & (table["subject"] != one.iloc[0]), "class"] = "sick"  # now fewer are of the other class
            for number, path in enumerate(sorted(table.loc[tested, "path"])):
                noise = np.random.default_rng(number).integers(0, 255, (24, 24, 3)).astype(np.uint8)
                Image.fromarray(noise).save(tmp_path / "data" / path)
        table.to_csv(tmp_path / "data" / "cohort.csv", index=False)
        balanced = ["--pretrain.balance_classes", "true", "--classify.balance_classes", "true"]
        assert main(words(config, tmp_path / name, "--split.repeats", "1", *balanced)) == 0
        runs[name] = tmp_path / name
    for path in (name for name in FITTED if "repeat-2" not in name):
        assert file_sha256(runs["before"] / path) == file_sha256(runs["after"] / path), path
    told = [pd.read_json(run / "classify" / "metrics.json", typ="series")["thresholds"] for run in runs.values()]
    assert told[0] == told[1]
    left, right = (
        pd.read_csv(run / "classify" / "predictions.csv")["probability_sick"].to_numpy() for run in runs.values()
    )
    assert len(left) == len(right)
    assert (left != right).all()  # they did change
