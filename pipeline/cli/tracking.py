"""Curves and figures of a finished run for TensorBoard and MLflow, made from what the stages left behind.

Neither package is needed, and the training code knows of neither. Everything stays in the workspace unless a place
outside is named; nothing else is contacted. Host and user names are left out.
"""

import importlib.util
import logging
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.errors import InputError
from files.writing import PlantedLinkError, real_folder, remove_folder
from pipeline.core.provenance import digest
from pipeline.core.tracking_config import TrackingConfig
from pipeline.store.fitted import ClassifierSet, ExtractorSet, RepeatSet

log = logging.getLogger("hypermm")
SETTINGS_COMPARED = ("split", "preprocess", "features", "pretrain", "classify")  # no paths of patients among them
MOST_METRICS = 500  # in one request to MLflow, which takes 1,000 at most
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # MLflow reports its use to its makers otherwise


@dataclass(frozen=True)
class Tracked:
    """What is told of a run.

    Attributes:
        name: says when the newest stage ran and, by a hash, what came out; the same results have the same name.
        curves: repeat, name such as "pretrain/train_loss", epoch, value.
        figures: name such as "test/threshold_half/auc/mean", and value.
        settings: dotted key → value as text, of the stages that are compared.
        settings_yaml: all of them, as written in the workspace.
    """

    name: str
    curves: tuple[tuple[int, str, int, float], ...]
    figures: dict[str, float]
    settings: dict[str, str]
    settings_yaml: str


def ready(config: TrackingConfig) -> None:
    """Ask before a night what would fail at its end.

    Raises:
        InputError: MLflow is asked for and not installed.
    """
    if config.mlflow is not None and importlib.util.find_spec("mlflow") is None:
        raise InputError(
            f"tracking.mlflow is {config.mlflow}, but the package mlflow is not installed; "
            "pip install mlflow, or leave it out with --tracking.mlflow null"
        )


def track(config: TrackingConfig, workspace: Path) -> None:
    """Keep curves and figures of the finished stages, once for each result; what goes wrong is a warning, never more.

    Args:
        config: the section `tracking`.
        workspace: of the run.
    """
    wanted = {
        "TensorBoard": (config.tensorboard == "auto" and importlib.util.find_spec("tensorboard") is not None),
        "MLflow": config.mlflow is not None,
    }
    if not any(wanted.values()) or not (name := run_name(workspace)):
        return
    for what, keep in (("TensorBoard", to_tensorboard), ("MLflow", to_mlflow)):
        if wanted[what]:
            try:
                keep(config, workspace, name=name)
            except Exception as error:  # noqa: BLE001 - a lost curve must not cost the night it is about
                log.warning("%s was told nothing of this run: %s; the results are not affected", what, error)
                log.debug("tracking", exc_info=error)


def run_name(workspace: Path) -> str:
    """When the newest finished stage of training began, and a hash of what all of them are; "" if there is none."""
    manifests = {stage: artifact.manifest for stage, artifact in _stages(workspace).items()}
    made = {stage: [m.get("key"), m.get("fingerprint")] for stage, m in manifests.items() if m}
    if not made:
        return ""
    started = max(str(manifest.get("started", "")) for manifest in manifests.values() if manifest)
    return f"{started[:16].replace(':', '').replace('T', '_')}-{digest(made)[:8]}"


def gather(workspace: Path, *, name: str) -> Tracked:
    """Read curves, figures and settings from the workspace."""
    curves = tuple(curve for stage, artifact in _stages(workspace).items() for curve in _curves(stage, artifact))
    classifiers = ClassifierSet(workspace / "classify")
    figures = {}
    if classifiers.manifest is not None:
        for threshold, metrics in classifiers.metrics().items():
            if threshold.startswith("threshold_") and isinstance(metrics, dict):
                for metric, summary in metrics.items():
                    for end in ("mean", "std", "low", "high"):
                        if _finite(value := summary.get(end)):
                            figures[f"test/{threshold}/{metric}/{end}"] = float(value)
    settings = {
        f"{stage}.{key}": str(value)
        for stage in SETTINGS_COMPARED
        for key, value in (_manifest(workspace, stage).get("made_from", {}).get("settings", {})).items()
    }
    return Tracked(name, curves, figures, settings, (workspace / "settings.yaml").read_text("utf-8"))


def to_tensorboard(config: TrackingConfig, workspace: Path, *, name: str) -> None:
    """Write `tensorboard/<name>`, one run a repeat, so that repeats share a chart; moved in when it is whole."""
    home = real_folder(workspace / "tensorboard", below=workspace)
    if _written(home, name):
        return
    from torch.utils.tensorboard import SummaryWriter

    told = gather(workspace, name=name)
    for broken in home.glob(".part-*"):  # of a run that was killed; the workspace is locked
        remove_folder(broken, below=home)
    part = home / f".part-{name}"
    try:
        with SummaryWriter(str(part)) as writer:
            writer.add_text("settings", "    " + told.settings_yaml.replace("\n", "\n    "))
            for key, value in told.figures.items():
                writer.add_scalar(key, value, 0)
        for repeat in sorted({curve[0] for curve in told.curves}):
            with SummaryWriter(str(part / f"repeat-{repeat}")) as writer:
                for number, key, epoch, value in told.curves:
                    if number == repeat:
                        writer.add_scalar(key, value, epoch)
        for file in part.rglob("events.out.tfevents.*"):  # their names end in that of the machine
            file.rename(file.with_name("events.out.tfevents.hypermm"))
        part.replace(home / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log.info("tracking: tensorboard --logdir %s", home)


def to_mlflow(config: TrackingConfig, workspace: Path, *, name: str) -> None:
    """Write a run of the experiment `hypermm`, unless one with the same results is there."""
    os.environ.update(QUIET)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    address, artifacts = _mlflow_place(str(config.mlflow), workspace)
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    experiment = client.get_experiment_by_name("hypermm")
    number = experiment.experiment_id if experiment else client.create_experiment("hypermm", artifacts)
    result = name.rsplit("-", 1)[-1]
    if client.search_runs([number], f"tags.hypermm_result = '{result}' and attributes.status = 'FINISHED'"):
        return
    told = gather(workspace, name=name)
    tags = {"hypermm_result": result, "mlflow.runName": f"{workspace.name} {name}"}
    run = client.create_run(number, tags=tags).info.run_id
    metrics = [Metric(key, value, 0, 0) for key, value in told.figures.items()]
    metrics += [Metric(f"repeat-{repeat}/{key}", value, 0, epoch) for repeat, key, epoch, value in told.curves]
    params = [Param(key, value[:500]) for key, value in told.settings.items()]
    client.log_batch(run, params=params)
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run, metrics=metrics[start : start + MOST_METRICS])
    client.log_text(run, told.settings_yaml, "settings.yaml")
    client.set_terminated(run, "FINISHED")
    log.info("tracking: mlflow ui --backend-store-uri %s", address)


def _mlflow_place(given: str, workspace: Path) -> tuple[str, str | None]:
    """The address of the store, and where its files go; a folder holds a SQLite file and the folder `artifacts`."""
    if "://" in given:
        return given, None
    place = Path(given).expanduser()
    if place.is_absolute() or ".." in place.parts:  # outside, where links are the user's own
        folder = Path(os.path.realpath(workspace / place))
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = real_folder(workspace / place, below=workspace)
    if (folder / "mlflow.db").is_symlink():
        raise PlantedLinkError(folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()


def _stages(workspace: Path) -> dict[str, RepeatSet]:
    return {"pretrain": ExtractorSet(workspace / "pretrain"), "classify": ClassifierSet(workspace / "classify")}


def _manifest(workspace: Path, stage: str) -> dict[str, Any]:
    return RepeatSet(workspace / stage).manifest or {}


def _written(home: Path, name: str) -> bool:
    """Whether these results are there, whenever they were made."""
    return any(home.glob(f"[!.]*-{name.rsplit('-', 1)[-1]}"))


def _curves(stage: str, artifact: RepeatSet) -> Iterator[tuple[int, str, int, float]]:
    """Repeat, name, epoch and value of every number in the histories of a finished stage."""
    if artifact.manifest is None:
        return
    history = artifact.histories()
    for row in history.to_dict("records"):
        for key, value in row.items():
            if key not in ("repeat", "epoch", "best") and _finite(value):
                yield int(row["repeat"]), f"{stage}/{key}", int(row["epoch"]), float(value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
