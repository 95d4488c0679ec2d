"""Training from cached feature maps: seconds an epoch, and what large batches lose against batches of one."""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib import pyplot
from torch import Tensor

from benchmarks.common import finish, options
from models.extractor import PretrainNetwork, UniversalExtractor
from models.fit import fit
from models.hypermm import Scans, fit_extractor, new_extractor
from models.set_classifier import SetClassifier
from models.sets import Groups
from models.settings import StepOne, Training
from pipeline.core.provenance import REPOSITORY
from pipeline.specs.classify import ClassifyConfig
from pipeline.specs.pretrain import PretrainConfig
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.repeat_data import data_of_repeat

SHAPE = (512, 7, 7)
SCANS, SUBJECTS = 360, 180  # the training split of the paper's 300 subjects with two scans each


def step_one(batch_size: int, scans: int, epochs: int) -> float:
    """Median seconds of an epoch over single scans of real size; the first epoch warms up."""
    random = torch.Generator().manual_seed(0)
    feature_maps = torch.randn(scans, *SHAPE, generator=random)
    modality, target = torch.arange(scans) % 2, torch.arange(scans) // 2 % 2
    torch.manual_seed(0)
    network = PretrainNetwork(UniversalExtractor(2, SHAPE), 2)

    def loss(items: Tensor, training: bool) -> dict[str, Tensor]:
        z, reconstruction, logits = network(feature_maps[items], modality[items])
        return {"mse": F.mse_loss(reconstruction, z), "ce": F.cross_entropy(logits, target[items])}

    return _seconds_an_epoch(network, loss, scans, batch_size, epochs)


def step_two(batch_size: int, subjects: int, epochs: int, hidden: tuple[int, ...]) -> float:
    """Median seconds of an epoch over subjects with two scans each, φ computed before."""
    phi = torch.randn(2 * subjects, 512 * 49, generator=torch.Generator().manual_seed(0))
    target = torch.arange(subjects) % 2
    sets = Groups.of(torch.arange(2 * subjects) // 2, subjects)
    torch.manual_seed(0)
    network = SetClassifier(phi.shape[1], 2, hidden=hidden)

    def loss(items: Tensor, training: bool) -> dict[str, Tensor]:
        scans, owner = sets.batch(items)
        return {"ce": F.cross_entropy(network(phi[scans], owner, len(items)), target[items])}

    return _seconds_an_epoch(network, loss, subjects, batch_size, epochs)


def _seconds_an_epoch(network: torch.nn.Module, loss: Any, items: int, batch_size: int, epochs: int) -> float:
    ends = [time.perf_counter()]
    fit(
        network,
        loss,
        train=torch.arange(items),
        validation=torch.zeros(0, dtype=torch.int64),
        training=Training(epochs=epochs + 1, batch_size=batch_size, patience=epochs + 1),
        on_epoch=lambda row: ends.append(time.perf_counter()),
    )
    return statistics.median(b - a for a, b in zip(ends[1:], ends[2:], strict=False))


def epochs() -> dict[str, Any]:
    """Both steps at the default batch size and at the published one."""
    one, two = PretrainConfig().batch_size, ClassifyConfig().batch_size
    return {
        f"step 1, seconds an epoch over {SCANS} scans, batch {one}": step_one(one, SCANS, 3),
        f"step 1, seconds an epoch over {SCANS} scans, batch 1": step_one(1, SCANS, 1),
        f"step 1, seconds an epoch over {SCANS} scans, batch 64": step_one(64, SCANS, 3),
        f"step 2, seconds an epoch over {SUBJECTS} subjects, batch {two}, ρ linear": step_two(two, SUBJECTS, 5, ()),
        f"step 2, seconds an epoch over {SUBJECTS} subjects, batch 16, ρ [512, 128]": step_two(
            16, SUBJECTS, 5, (512, 128)
        ),
        f"step 2, seconds an epoch over {SUBJECTS} subjects, batch 1, ρ [512, 128]": step_two(
            1, SUBJECTS, 2, (512, 128)
        ),
    }


def curves(workspace: Path, out: Path) -> dict[str, Any]:
    """Compare validation losses of both steps on the feature maps of a finished run, at batch 1 and at the defaults.

    The pretrain and classify stages are run twice in copies of the workspace; a figure shows both.
    """
    matplotlib.use("agg")
    results: dict[str, Any] = {}
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        usual = PretrainConfig().batch_size, ClassifyConfig().batch_size
        for (one, two), style in (((1, 1), ":"), (usual, "-")):
            copy, batch = Path(folder) / f"batch-{one}-{two}", f"{one} and {two}"
            shutil.copytree(workspace, copy, ignore=shutil.ignore_patterns("pretrain", "classify", "report", ".lock"))
            argv = ["--config", str(copy / "settings.yaml"), "--workspace", str(copy), "--stages", "pretrain,classify"]
            argv += ["--pretrain.batch_size", str(one), "--classify.batch_size", str(two), "--quiet"]
            argv += ["--classify.fit", "epochs"]
            subprocess.run([sys.executable, "run_pipeline.py", *argv], cwd=REPOSITORY, check=True, capture_output=True)
            for axis, stage in zip(axes, ("pretrain", "classify"), strict=True):
                losses = []
                for path in sorted((copy / stage).glob("repeat-*/history.csv")):
                    with path.open() as stream:
                        losses.append([float(row["validation_loss"]) for row in csv.DictReader(stream)])
                for number, values in enumerate(losses):
                    label = f"batch {batch}" if number == 0 else None
                    axis.plot(range(1, len(values) + 1), values, style, color=f"C{number}", label=label)
                results[f"{stage}: best validation loss, batch {batch}, mean of {len(losses)} repeats"] = (
                    statistics.mean(min(values) for values in losses)
                )
                axis.set(title=stage, xlabel="epoch", ylabel="validation loss")
            metrics = (copy / "classify" / "metrics.json").read_text()
            results[f"test AUC, batch {batch}"] = json.loads(metrics)["threshold_half"]["auc"]["mean"]
    axes[0].legend(frameon=False)
    figure.savefig(out / "training_curves.svg", metadata={"Date": None})
    return results


def _note_end(ends: list[float], row: object) -> None:
    ends.append(time.process_time())


COST_EPOCHS = 10
WAYS = ((16, 1e-4), (16, 3e-4), (64, 1e-3), (256, 1e-3))
"""Batch size and rate of Adam of step 1, compared by their cost."""


def cost(workspace: Path, out: Path) -> dict[str, Any]:
    """Compare batch sizes and rates of step 1 by CPU-seconds and validation loss, on a finished run's feature maps.

    The first repeat is trained for a few epochs each way. The figure has both terms of the validation loss, since the
    mean squared error goes on falling long after the cross-entropy rises.
    """
    matplotlib.use("agg")
    store = FeatureStore(workspace / "features")
    data = data_of_repeat(CohortTables(workspace / "cohort"), SplitTables(workspace / "split"), store, 1)
    feature_maps = store.load(data.scans["scan"].to_list())
    scans = Scans(feature_maps, data.modality(), data.target(), data.rows("train"), data.rows("validation"))
    step = StepOne(stop_on="loss")
    channels, height, width = feature_maps.shape[1:]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    results: dict[str, Any] = {}
    for batch_size, rate in WAYS:
        network = new_extractor(
            step,
            modalities=len(data.modalities),
            feature_map_shape=(channels, height, width),
            classes=len(data.classes),
            seed=1,
        )
        ends = [time.process_time()]
        training = Training(epochs=COST_EPOCHS, batch_size=batch_size, learning_rate=rate, seed=1)
        rows = fit_extractor(network, scans, step, training, on_epoch=partial(_note_end, ends)).rows
        seconds = [end - ends[0] for end in ends[1:]]
        way = f"batches of {batch_size}, rate {rate:g}"
        for axis, term, name in zip(axes, ("mse", "ce"), ("mean squared error", "cross-entropy"), strict=True):
            values = [float(row[f"validation_{term}"]) for row in rows]
            axis.plot(seconds, values, ".-", label=way)
            axis.set(title=name, xlabel="CPU-seconds", ylabel="on validation scans", xscale="log")
            best = min(range(len(values)), key=values.__getitem__)
            results[f"step 1, {way}: lowest validation {name}"] = values[best]
            results[f"step 1, {way}: CPU-seconds until then, epoch {best + 1}"] = seconds[best]
    axes[0].legend(frameon=False)
    figure.savefig(out / "step_one_cost.svg", metadata={"Date": None})
    return results


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--workspace", type=Path, help="a finished run, for the curves; such as runs/demo")
    arguments: argparse.Namespace = parser.parse_args()
    results: dict[str, Any] = {}
    if arguments.quick:
        results["step 1, seconds an epoch over 32 scans"] = step_one(16, 32, 1)
        results["step 2, seconds an epoch over 32 subjects"] = step_two(16, 32, 1, ())
    else:
        results |= epochs()
    if arguments.workspace is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        results |= cost(arguments.workspace, arguments.out)
        results |= curves(arguments.workspace, arguments.out)
    finish("training", results, arguments)


if __name__ == "__main__":
    main()
