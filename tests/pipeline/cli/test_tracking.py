"""What TensorBoard and MLflow are told is what stands in the workspace; told once, and never at the cost of a run."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from console.errors import InputError
from pipeline.cli import tracking
from pipeline.core.tracking_config import TrackingConfig
from pipeline.settings import load_settings
from pipeline.store.base import read_record, write_record
from pipeline.store.fitted import ClassifierSet, ExtractorSet

CONFIG = TrackingConfig()
LOSSES = {"train_loss": [0.7, 0.5, 0.25], "validation_loss": [0.8, None, 0.5]}


def make_workspace(folder: Path, *, key: str = "k1") -> Path:
    """A workspace of which both stages of training are finished, with two repeats each."""
    for stage in ("pretrain", "classify"):
        for repeat in (1, 2):
            repeat_folder = folder / stage / f"repeat-{repeat}"
            repeat_folder.mkdir(parents=True)
            history = pd.DataFrame({"epoch": [1, 2, 3], "best": [False, False, True], **LOSSES})
            history[["train_loss", "validation_loss"]] *= repeat
            history.to_csv(repeat_folder / "history.csv", index=False)
        manifest = {
            "key": key,
            "fingerprint": f"{stage}-{key}",
            "started": "2026-11-24T03:12:44+00:00" if stage == "classify" else "2026-11-24T01:00:00+00:00",
            "made_from": {"settings": {"epochs": 3, "losses": "both"}},
        }
        write_record(folder / stage / "manifest.json", manifest)
    summary = {"mean": 0.9, "std": None, "low": 0.8, "high": 0.95}
    metrics = {"threshold_half": {"auc": summary}, "thresholds": {"1": 0.4}, "test_subjects": 12}
    (folder / "classify" / "metrics.json").write_text(json.dumps(metrics))
    (folder / "settings.yaml").write_text("name: pictures\nclassify:\n  epochs: 3\n")
    return folder


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.log, "propagate", True)  # a run in the same process turns it off


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "run")


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_is_told_every_loss_by_repeat_and_every_figure(workspace: Path) -> None:
    tracking.track(CONFIG, workspace)
    (run,) = (workspace / "tensorboard").iterdir()
    assert run.name.startswith("2026-11-24_0312-")
    for repeat in (1, 2):
        events = read(run / f"repeat-{repeat}")
        for stage in ("pretrain", "classify"):
            actual = [(e.step, pytest.approx(e.value)) for e in events.Scalars(f"{stage}/train_loss")]
            assert actual == [(1, 0.7 * repeat), (2, 0.5 * repeat), (3, 0.25 * repeat)]
            actual = [(e.step, pytest.approx(e.value)) for e in events.Scalars(f"{stage}/validation_loss")]
            assert actual == [(1, 0.8 * repeat), (3, 0.5 * repeat)]  # what is not a number is no point
    events = read(run)
    figures = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert figures == {
        "test/threshold_half/auc/mean": pytest.approx(0.9),
        "test/threshold_half/auc/low": pytest.approx(0.8),
        "test/threshold_half/auc/high": pytest.approx(0.95),
    }
    (text,) = events.Tensors("settings/text_summary")
    assert b"classify:\n      epochs: 3" in text.tensor_proto.string_val[0]


def test_a_history_without_epochs_is_no_curve(workspace: Path) -> None:
    history = pd.DataFrame({"penalty": [1.0, 0.1], "held_out_loss": [0.7, 0.6], "best": [False, True]})
    for repeat in (1, 2):
        history.to_csv(workspace / "classify" / f"repeat-{repeat}" / "history.csv", index=False)
    assert list(tracking._curves("classify", ClassifierSet(workspace / "classify"))) == []
    assert list(tracking._curves("pretrain", ExtractorSet(workspace / "pretrain")))


def test_files_do_not_name_the_machine(workspace: Path) -> None:
    import socket

    tracking.track(CONFIG, workspace)
    files = [path for path in (workspace / "tensorboard").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"events.out.tfevents.hypermm"}
    assert len(files) == 3
    name = f".{socket.gethostname()}.".encode()
    assert not any(name in path.read_bytes() for path in files)


def test_the_same_results_are_told_once_and_new_ones_again(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracking.track(CONFIG, workspace)
    before = {p: p.stat().st_mtime_ns for p in (workspace / "tensorboard").rglob("*")}
    tracking.track(CONFIG, workspace)
    assert {p: p.stat().st_mtime_ns for p in (workspace / "tensorboard").rglob("*")} == before
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    path = workspace / "classify" / "manifest.json"
    manifest = (read_record(path) or {}) | {"started": "2026-11-25T01:00:00"}
    write_record(path, manifest)  # done again, the same came out
    tracking.track(CONFIG, workspace)
    assert len(list((workspace / "tensorboard").iterdir())) == 1
    write_record(path, manifest | {"key": "k2"})
    tracking.track(CONFIG, workspace)
    assert len(list((workspace / "tensorboard").iterdir())) == 2


def test_a_run_that_was_killed_while_it_told_is_told_again(workspace: Path) -> None:
    broken = workspace / "tensorboard" / f".part-{tracking.run_name(workspace)}"
    broken.mkdir(parents=True)
    (broken / "events.out.tfevents.half").write_text("half")
    tracking.track(CONFIG, workspace)
    assert [p.name for p in (workspace / "tensorboard").iterdir()] == [tracking.run_name(workspace)]


def test_a_stage_that_did_not_finish_is_not_told(workspace: Path) -> None:
    (workspace / "classify" / "manifest.json").unlink()
    tracked = tracking.gather(workspace, name="x")
    assert {curve[1] for curve in tracked.curves} == {"pretrain/train_loss", "pretrain/validation_loss"}
    assert tracked.figures == {}
    assert tracked.settings == {"pretrain.epochs": "3", "pretrain.losses": "both"}
    (workspace / "pretrain" / "manifest.json").unlink()
    tracking.track(CONFIG, workspace)
    assert not (workspace / "tensorboard").exists()


def test_off_is_off(workspace: Path) -> None:
    tracking.track(TrackingConfig(tensorboard="off"), workspace)
    assert not (workspace / "tensorboard").exists()


def test_without_the_package_nothing_is_told_and_nothing_is_said(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_spec = tracking.importlib.util.find_spec
    monkeypatch.setattr(
        tracking.importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    with caplog.at_level(logging.INFO, "hypermm"):
        tracking.track(CONFIG, workspace)
    assert not (workspace / "tensorboard").exists()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_goes_wrong_is_a_warning(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workspace / "classify" / "repeat-1" / "history.csv").write_bytes(b"\xff\xfe")
    with caplog.at_level(logging.WARNING, "hypermm"):
        tracking.track(CONFIG, workspace)
    assert "TensorBoard: this run was not exported" in caplog.text
    assert "the results are not affected" in caplog.text
    assert not list(workspace.glob("tensorboard/*"))


def test_a_full_disk_leaves_nothing_half_told(
    workspace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with caplog.at_level(logging.WARNING, "hypermm"):
        tracking.track(CONFIG, workspace)
    assert "No space left on device" in caplog.text
    assert not list(workspace.glob("tensorboard/*"))


def test_mlflow_that_is_not_installed_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    tracking.ready(TrackingConfig())
    with pytest.raises(InputError, match="tracking.mlflow is mlruns, but the package mlflow is not installed; pip ins"):
        tracking.ready(TrackingConfig(mlflow="mlruns"))


@pytest.mark.parametrize("typed", ["off", "'off'", "auto"])
def test_off_may_be_typed_as_yaml_reads_it(tmp_path: Path, picture_cohort: Callable[..., Path], typed: str) -> None:
    config = picture_cohort(tmp_path, subjects=2)
    assert load_settings(config, {"tracking.tensorboard": typed}).tracking.tensorboard == typed.strip("'")
    content = yaml.safe_load(config.read_text()) | {"tracking": yaml.safe_load(f"tensorboard: {typed}")}
    config.write_text(yaml.safe_dump(content))
    assert load_settings(config, {}).tracking.tensorboard == typed.strip("'")


def test_nonsense_is_refused_by_name(tmp_path: Path, picture_cohort: Callable[..., Path]) -> None:
    config = picture_cohort(tmp_path, subjects=2)
    with pytest.raises(InputError, match="tracking.tensorboard: input should be 'auto' or 'off', not true"):
        load_settings(config, {"tracking.tensorboard": "on"})
    with pytest.raises(InputError, match=r"no setting tracking.tensorbord; did you mean tracking.tensorboard\?"):
        load_settings(config, {"tracking.tensorbord": "off"})


def test_tracking_is_in_no_key(tmp_path: Path, picture_cohort: Callable[..., Path]) -> None:
    from pipeline.runner.plan import made_from
    from pipeline.specs.registry import STAGES

    config = picture_cohort(tmp_path, subjects=2)
    one = load_settings(config, {})
    other = load_settings(config, {"tracking.tensorboard": "off", "tracking.mlflow": "mlruns"})
    for stage in STAGES:
        assert made_from(stage, one, tmp_path / "w") == made_from(stage, other, tmp_path / "w"), stage.name


def test_planning_does_not_import_either_package() -> None:
    code = "import sys, pipeline.settings, pipeline.runner.run, pipeline.cli.tracking; "
    code += "print([m for m in ('tensorboard', 'mlflow') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parents[3])  # fmt: skip
    assert ran.stdout.strip() == "[]"


class TestMlflow:
    """With the real package, where it is installed."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("mlflow")

    @pytest.mark.filterwarnings("default:::mlflow.store.tracking.sqlalchemy_store")
    def test_a_folder_holds_curves_figures_and_settings_once(self, workspace: Path) -> None:
        from mlflow import MlflowClient

        config = TrackingConfig(tensorboard="off", mlflow="ml runs")
        tracking.track(config, workspace)
        tracking.track(config, workspace)
        client = MlflowClient(tracking_uri=f"sqlite:///{workspace / 'ml runs' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("hypermm")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.data.metrics["test/threshold_half/auc/low"] == 0.8
        points = client.get_metric_history(run.info.run_id, "repeat-2/pretrain/train_loss")
        assert [(m.step, m.value) for m in points] == [(1, 1.4), (2, 1.0), (3, 0.5)]
        assert run.data.params["classify.losses"] == "both"
        assert run.info.user_id in ("", "unknown", None)
        settings = list((workspace / "ml runs").rglob("settings.yaml"))
        assert [path.read_text() for path in settings] == [(workspace / "settings.yaml").read_text()]
