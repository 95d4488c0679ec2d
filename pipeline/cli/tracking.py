"""Export of curves and metrics of a finished run to TensorBoard and MLflow, from the artifacts of the stages.

Both packages are optional, and the training code does not depend on them. All files stay in the workspace unless a
folder or server outside is named. Host and user names are left out.
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
    """Curves, metrics and settings of a run, as they are exported.

    Attributes:
        name: time of the newest stage and a hash of the results; the same results have the same hash.
        curves: repeat, name such as "pretrain/train_loss", epoch, value.
        figures: name such as "test/threshold_half/auc/mean", and value.
        settings: dotted key → value as text, of the stages that are compared.
        settings_yaml: all settings, as written in the workspace.
    """

    name: str
    curves: tuple[tuple[int, str, int, float], ...]
    figures: dict[str, float]
    settings: dict[str, str]
    settings_yaml: str


def ready(config: TrackingConfig) -> None:
    """Check before the run that the configured packages are installed.

    Raises:
        InputError: MLflow is configured and not installed.
    """
    if config.mlflow is not None and importlib.util.find_spec("mlflow") is None:
        raise InputError(
            f"tracking.mlflow is {config.mlflow}, but the package mlflow is not installed; "
            "pip install mlflow, or leave it out with --tracking.mlflow null"
        )


def track(config: TrackingConfig, workspace: Path) -> None:
    """Export curves and metrics of the finished stages, once per result; an error is logged as a warning.

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
    for package, export in (("TensorBoard", to_tensorboard), ("MLflow", to_mlflow)):
        if wanted[package]:
            try:
                export(config, workspace, name=name)
            except Exception as error:  # noqa: BLE001 - an error of the export must not end the run
                log.warning("%s: this run was not exported: %s; the results are not affected", package, error)
                log.debug("tracking", exc_info=error)


def run_name(workspace: Path) -> str:
    """Return the start of the newest finished training stage and a hash of all of them; "" if none is finished."""
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
    """Write `tensorboard/<name>`, one run per repeat, so that repeats share a chart; moved there when complete."""
    home = real_folder(workspace / "tensorboard", below=workspace)
    if _written(home, name):
        return
    from torch.utils.tensorboard import SummaryWriter

    tracked = gather(workspace, name=name)
    for broken in home.glob(".part-*"):  # of a run that was killed; the workspace is locked
        remove_folder(broken, below=home)
    partial = home / f".part-{name}"
    try:
        with SummaryWriter(str(partial)) as writer:
            writer.add_text("settings", "    " + tracked.settings_yaml.replace("\n", "\n    "))
            for key, value in tracked.figures.items():
                writer.add_scalar(key, value, 0)
        for repeat in sorted({curve[0] for curve in tracked.curves}):
            with SummaryWriter(str(partial / f"repeat-{repeat}")) as writer:
                for number, key, epoch, value in tracked.curves:
                    if number == repeat:
                        writer.add_scalar(key, value, epoch)
        for file in partial.rglob("events.out.tfevents.*"):  # their names end in that of the machine
            file.rename(file.with_name("events.out.tfevents.hypermm"))
        partial.replace(home / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("tracking: tensorboard --logdir %s", home)


def to_mlflow(config: TrackingConfig, workspace: Path, *, name: str) -> None:
    """Write a run of the experiment `hypermm`, unless one with the same results exists."""
    os.environ.update(QUIET)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    address, artifacts = _mlflow_store(str(config.mlflow), workspace)
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    experiment = client.get_experiment_by_name("hypermm")
    number = experiment.experiment_id if experiment else client.create_experiment("hypermm", artifacts)
    result = name.rsplit("-", 1)[-1]
    if client.search_runs([number], f"tags.hypermm_result = '{result}' and attributes.status = 'FINISHED'"):
        return
    tracked = gather(workspace, name=name)
    tags = {"hypermm_result": result, "mlflow.runName": f"{workspace.name} {name}"}
    run = client.create_run(number, tags=tags).info.run_id
    metrics = [Metric(key, value, 0, 0) for key, value in tracked.figures.items()]
    metrics += [Metric(f"repeat-{repeat}/{key}", value, 0, epoch) for repeat, key, epoch, value in tracked.curves]
    params = [Param(key, value[:500]) for key, value in tracked.settings.items()]
    client.log_batch(run, params=params)
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run, metrics=metrics[start : start + MOST_METRICS])
    client.log_text(run, tracked.settings_yaml, "settings.yaml")
    client.set_terminated(run, "FINISHED")
    log.info("tracking: mlflow ui --backend-store-uri %s", address)


def _mlflow_store(given: str, workspace: Path) -> tuple[str, str | None]:
    """Return the URI of the store and of its artifacts; a folder holds a SQLite file and the folder `artifacts`."""
    if "://" in given:
        return given, None
    path = Path(given).expanduser()
    if path.is_absolute() or ".." in path.parts:  # outside, where links are the user's own
        folder = Path(os.path.realpath(workspace / path))
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = real_folder(workspace / path, below=workspace)
    if (folder / "mlflow.db").is_symlink():
        raise PlantedLinkError(folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()


def _stages(workspace: Path) -> dict[str, RepeatSet]:
    return {"pretrain": ExtractorSet(workspace / "pretrain"), "classify": ClassifierSet(workspace / "classify")}


def _manifest(workspace: Path, stage: str) -> dict[str, Any]:
    return RepeatSet(workspace / stage).manifest or {}


def _written(home: Path, name: str) -> bool:
    """Return whether these results have been exported before, at any time."""
    return any(home.glob(f"[!.]*-{name.rsplit('-', 1)[-1]}"))


def _curves(stage: str, artifact: RepeatSet) -> Iterator[tuple[int, str, int, float]]:
    """Yield repeat, name, epoch and value of every number in the histories of a finished stage; none without epochs."""
    if artifact.manifest is None:
        return
    history = artifact.histories()
    if "epoch" not in history.columns:
        return
    for row in history.to_dict("records"):
        for key, value in row.items():
            if key not in ("repeat", "epoch", "best") and _finite(value):
                yield int(row["repeat"]), f"{stage}/{key}", int(row["epoch"]), float(value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
