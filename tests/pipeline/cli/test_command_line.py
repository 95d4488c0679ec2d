"""What a person types, mistypes and gets told; real stages, in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.cli.options import STAGE_NAMES
from pipeline.specs.registry import STAGES
from pipeline.store.base import read_record, write_record

pytestmark = pytest.mark.usefixtures("thin_backbone")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> tuple[Path, Path]:
    """A finished run on pictures: config file and workspace."""
    folder = tmp_path_factory.mktemp("finished")
    config = picture_cohort(folder / "data")
    assert main(["--config", str(config), "--workspace", str(folder / "run"), "--quiet"]) == 0
    return config, folder / "run"


@pytest.fixture
def copied(finished: tuple[Path, Path], tmp_path: Path) -> tuple[list[str], Path]:
    """The words that name a copy of the finished run, and its workspace."""
    config, workspace = finished
    shutil.copytree(workspace, tmp_path / "run")
    return ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet"], tmp_path / "run"


def plan_of(output: str) -> dict[str, str]:
    """Stage → state, from the printed plan."""
    rows = [line.split() for line in output.splitlines() if line.startswith("  ")]
    return {
        row[0]: "up to date" if row[1:4] == ["up", "to", "date"] else row[1] for row in rows if row[0] in STAGE_NAMES
    }


def test_the_command_line_names_the_stages_of_the_registry() -> None:
    assert tuple(stage.name for stage in STAGES) == STAGE_NAMES


def test_all_artifacts_are_there(finished: tuple[Path, Path]) -> None:
    _, run = finished
    metrics = json.loads((run / "classify" / "metrics.json").read_text())
    assert {"accuracy", "auc", "auc_rounded", "brier"} <= set(metrics["threshold_half"])
    assert metrics["threshold_half"]["auc"]["mean"] > 0.9  # brightness tells the class
    predictions = pd.read_csv(run / "classify" / "predictions.csv")
    assert {"repeat", "subject", "scans_used", "truth", "probability_well", "probability_sick"} <= set(predictions)
    assert predictions[["probability_well", "probability_sick"]].sum(axis=1).between(0.999, 1.001).all()
    subsets = pd.read_csv(run / "classify" / "subsets.csv")
    assert sorted(subsets["modalities"]) == sorted(4 * ["high", "low", "high+low"])
    splits = pd.read_csv(run / "split" / "splits.csv")
    tested = splits[splits["split"] == "test"]
    assert set(zip(predictions["repeat"], predictions["subject"], strict=True)) == set(
        zip(tested["repeat"], tested["subject"], strict=True)
    )
    page = (run / "report" / "report.html").read_text("utf-8")
    assert "not a medical device" in page
    assert "<script" not in page


def test_a_second_run_does_nothing(copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv, run = copied
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and "logs" not in path.parts}
    assert main(argv) == 0
    assert set(plan_of(capsys.readouterr().out).values()) == {"up to date"}
    changed = [p for p, t in before.items() if p.stat().st_mtime_ns != t]
    assert {p.name for p in changed} <= {"settings.yaml", "failures.csv", ".lock"}


def test_a_changed_setting_redoes_only_what_depends_on_it(
    copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, run = copied
    feature_maps = {p: p.stat().st_mtime_ns for p in (run / "features").rglob("features.safetensors")}
    change = ["--classify.aggregate", "max"]
    assert main([*argv, *change, "--explain"]) == 0
    shown = capsys.readouterr().out
    before = dict.fromkeys(("cohort", "split", "preprocess", "features", "pretrain"), "up to date")
    assert plan_of(shown) == before | {"classify": "run", "confounding": "check", "report": "check"}
    assert "classify.aggregate changed from sum to max" in shown
    assert main([*argv, *change]) == 0
    assert feature_maps == {p: p.stat().st_mtime_ns for p in (run / "features").rglob("features.safetensors")}
    assert set(plan_of(main_output(capsys, [*argv, *change, "--dry-run"])).values()) == {"up to date"}


def main_output(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    capsys.readouterr()
    main(argv)
    return capsys.readouterr().out


def test_settings_that_change_no_result_redo_nothing(
    copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, _ = copied
    states = plan_of(main_output(capsys, [*argv, "--features.batch_slices", "3", "--dry-run"]))
    assert set(states.values()) == {"up to date"}


def test_needed_stages_are_planned_and_named(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(finished[0]), "--workspace", str(tmp_path / "new"), "--dry-run", "--stages", "pretrain"]
    shown = main_output(capsys, argv)
    assert list(plan_of(shown)) == ["cohort", "split", "preprocess", "features", "pretrain"]
    assert "needed by pretrain" in shown
    assert not (tmp_path / "new").exists()


def test_a_stage_can_be_forced(copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv, run = copied
    files = [run / "classify" / "predictions.csv", *run.glob("classify/*/weights.safetensors")]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    assert plan_of(main_output(capsys, [*argv, "--stages", "report", "--force", "classify"]))["classify"] == "run"
    for file, (content, time) in zip(files, before, strict=True):
        assert file.read_bytes() == content
        assert file.stat().st_mtime_ns > time


def test_a_new_patient_is_noted_and_changes_no_split(
    picture_cohort: Callable[..., Path],
    copied: tuple[list[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, run = copied
    config = picture_cohort(tmp_path / "data")
    argv = ["--config", str(config), "--workspace", str(run), "--quiet"]
    assert main(argv) == 0
    feature_maps = {p: p.stat().st_mtime_ns for p in (run / "features").rglob("features.safetensors")}
    splits = (run / "split" / "splits.csv").read_bytes()
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    shutil.copy(tmp_path / "data" / "p01_low.png", tmp_path / "data" / "late.png")
    (tmp_path / "data" / "late.png").write_bytes((tmp_path / "data" / "p01_low.png").read_bytes() + b" ")
    late = {"subject": "late", "modality": "low", "path": "late.png", "class": "sick"}
    pd.concat([manifest, pd.DataFrame([late])]).to_csv(tmp_path / "data" / "cohort.csv", index=False)
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "1 subjects came after the splits were frozen and take no part: late" in shown
    assert "--split.new_subjects" in shown
    assert (run / "split" / "splits.csv").read_bytes() == splits
    now = {p: p.stat().st_mtime_ns for p in (run / "features").rglob("features.safetensors")}
    assert {p.parent.name for p in now if now[p] != feature_maps.get(p)} == {"late_low"}
    assert main([*argv, "--split.new_subjects", "test"]) == 0
    predictions = pd.read_csv(run / "classify" / "predictions.csv")
    assert (predictions["subject"] == "late").sum() == 2


def test_frozen_splits_are_not_remade_unasked(
    copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, run = copied
    assert main([*argv, "--split.seed", "5"]) == 2
    assert "are frozen" in (error := capsys.readouterr().err)
    assert "--new-splits" in error
    before = (run / "split" / "splits.csv").read_bytes()
    capsys.readouterr()
    assert main([*argv, "--split.seed", "5", "--stages", "split", "--new-splits"]) == 0
    told = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["split"])
    assert told.split(maxsplit=2)[2] == "--new-splits; split.seed changed from 0 to 5"
    assert (run / "split" / "splits.csv").read_bytes() != before


def test_an_extractor_that_saw_a_test_subject_is_refused(
    copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, run = copied
    splits = pd.read_csv(run / "split" / "splits.csv")
    victim = splits[(splits["repeat"] == 1) & (splits["split"] == "test")]["subject"].iloc[0]
    path, manifest = run / "pretrain" / "repeat-1" / "record.json", run / "pretrain" / "manifest.json"
    record = read_record(path) or {}
    write_record(path, {**record, "train_subjects": [*record["train_subjects"], victim]})
    record = read_record(manifest) or {}
    record["files"]["repeat-1/record.json"] = file_sha256(path)
    write_record(manifest, record)
    assert main([*argv, "--stages", "classify", "--force", "classify"]) == 2
    assert victim in (error := capsys.readouterr().err)
    assert "test split" in error


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--stages", "preproces"], "did you mean preprocess?"),
        (["--stage", "preprocess"], "did you mean --stages?"),
        (["--pretrain.learning_rat", "1"], "did you mean pretrain.learning_rate?"),
        (["--learning_rate", "1"], "there is no option --learning_rate"),
        (["--classify.learning_rate", "-1"], "classify.learning_rate: input should be greater than 0, not -1"),
        (["--features.backbone", "vgg12"], "there are vgg11, vgg16 and timm:<name>"),
        (["--features.backbone"], "--features.backbone needs a value"),
        (["--features.backbone", "vgg11", "--features.weights", "/nowhere"], "there is no file /nowhere"),
        (["--features.backbone", "timm:resnet18", "--features.weights", "/nowhere"], "timm finds its weights itself"),
        (["--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["--cohort", "nowhere.csv"], "nowhere.csv"),
        (["--split.missing", "{PETT: 0.5}"], "PETT"),
        (["--device", "gpu"], "expected auto, cpu, cuda"),
        (["--device", "cuda:7"], "is not present"),
    ],
)
def test_slips_are_explained(
    argv: list[str],
    expected: str,
    finished: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = ["--workspace", str(tmp_path / "run"), "--quiet"]
    config = [] if "--config" in argv else ["--config", str(finished[0])]
    force = ["--stages", "split"] if "--split.missing" in argv else []
    assert main([*base, *config, *force, *argv]) == 2
    assert expected in capsys.readouterr().err


def test_environment_beats_file_and_command_line_beats_environment(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERMM_PRETRAIN__EPOCHS", "7")
    monkeypatch.setenv("HYPERMM_CLASSIFY__EPOCHS", "8")
    monkeypatch.setenv("HYPERMM_CLASSIFY__FIT", "epochs")
    argv = ["--config", str(finished[0]), "--workspace", str(tmp_path), "--stages", "split", "--quiet"]
    assert main([*argv, "--classify.epochs", "9"]) == 0
    text = (tmp_path / "settings.yaml").read_text()
    assert "epochs: 7" in text
    assert "epochs: 9" in text
    monkeypatch.setenv("HYPERMM_CLASIFY__EPOCHS", "8")
    assert main(argv) == 2
    assert "did you mean classify.epochs?" in capsys.readouterr().err


def test_a_workspace_in_use_is_refused(copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    import os
    import socket

    from pipeline.cli.lock import locked

    argv, run = copied
    with locked(run):
        assert main(argv) == 2
    message = capsys.readouterr().err
    assert f"is in use by process {os.getpid()} on {socket.gethostname()} since 20" in message
    assert main(argv) == 0


def test_help_settings_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help-settings"]) == 0
    shown = capsys.readouterr().out
    for argument in ("--pretrain.learning_rate", "--split.missing", "--features.field_of_view_mm", "mm"):
        assert argument in shown
