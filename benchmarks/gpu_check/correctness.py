"""Does the device give what the CPU gives? The product's stages run on both."""

import contextlib
import gc
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import dice
from benchmarks.gpu_check.place import CPU, Place, encode, strip
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.training import fill, predictions, train
from files.reading import file_sha256
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.store.features import FeatureStore
from pipeline.store.volumes import VolumeSet

LEAST_DICE = 0.998
MOST_BRAIN_SHARE = 0.005  # of the brain's volume in ml
MOST_FEATURE_ERROR = {"auto": 0.015, "fp32": 0.002}  # ‖d - c‖ / ‖c‖; bfloat16 gives .008 on CPUs; TF32 counts as fp32
MOST_PROBABILITY, MOST_AUC = 0.02, 0.005  # differences of test scores
LITTLE_MB = {"half": 300.0, "none": 0.0}  # GPU memory left for VGG: some slices at once, no network
LITTLE_FOR_HD_BET_MB = 100.0  # less than its first layer gives out for one head
Limit = Callable[[torch.device, float], AbstractContextManager[None]]


def masks(report: Report, place: Place) -> Path:
    """Compare brain masks; return the workspace of the CPU, whose volumes the next part reads."""
    here, reference = place.workspace("device"), place.workspace("reference")
    on_device, on_cpu = strip(here, place.device, "auto"), strip(reference, CPU, "fp32")
    for number, (one, other) in enumerate(zip(on_device, on_cpu, strict=True)):
        report.check(f"head {number}: Dice of the brain masks", dice(one.mask, other.mask), least=LEAST_DICE)
        ml = [(VolumeSet(w / "preprocess").record(f"head-{number}_MRI") or {})["brain_ml"] for w in (here, reference)]
        share = abs(ml[0] - ml[1]) / ml[1]
        report.check(f"head {number}: brain volume, difference as a share", share, most=MOST_BRAIN_SHARE)
    report.figure("HD-BET, first head, network loaded", on_device[0].seconds, "s")
    return reference


def feature_maps(report: Report, place: Place, reference: Path) -> None:
    """Compare feature maps of the same volumes, in the precision of the device and in single precision."""
    sizes = {"slice_spacing_mm": 24.0} if place.quick else {}
    for backbone in ("vgg11",) if place.quick else ("vgg11", "vgg16"):
        exact = encode(reference, CPU, "fp32", backbone=backbone, **sizes)
        here = _copy(reference, place.work / f"features-{backbone}", "cohort", "preprocess")
        for precision, most in MOST_FEATURE_ERROR.items():
            error = relative_error(encode(here, place.device, precision, backbone=backbone, **sizes), exact)
            report.check(f"{backbone}, {precision}: feature maps, relative error", error, most=most)


def test_scores(report: Report, place: Place) -> None:
    """Train φ and ρ on the same feature maps on both and compare the test of each."""
    reference = place.work / "training"
    fill(reference, subjects=40 if place.quick else 200)
    here = _copy(reference, place.work / "training-device", "cohort", "split", "features")
    for workspace, device in ((reference, CPU), (here, place.device)):
        train(workspace, device, epochs=2 if place.quick else 20)
    (auc, probability), (auc_cpu, on_cpu) = predictions(here), predictions(reference)
    report.check("φ and ρ: test decisions that differ", int(((probability > 0.5) != (on_cpu > 0.5)).sum()), most=0)
    largest = float((probability - on_cpu).abs().max())
    report.check("φ and ρ: largest difference of a test probability", largest, most=MOST_PROBABILITY)
    report.check("φ and ρ: difference of the test AUC", abs(auc - auc_cpu), most=MOST_AUC)
    report.figure("φ and ρ: test AUC on the CPU", auc_cpu)
    report.figure("φ and ρ: distance of the nearest CPU probability from 1/2", float((on_cpu - 0.5).abs().min()))


def same_bytes(report: Report, place: Place, reference: Path) -> None:
    """Run twice with the same seed: the same bytes in torch's deterministic mode, and what happens without it."""
    for mode in (True, False):
        torch.use_deterministic_algorithms(mode)
        try:
            differing = _differing(place, reference, "deterministic" if mode else "usual")
        finally:
            torch.use_deterministic_algorithms(False)
        for what, count in differing.items():
            if mode:
                report.check(f"{what}: files that differ in a second run, deterministic mode", count, most=0)
            else:
                report.figure(f"{what}: files that differ in a second run, usual mode", count)


def _differing(place: Place, reference: Path, mode: str) -> dict[str, int]:
    """Return what was computed → number of its files that were other bytes the second time."""
    found: list[dict[str, dict[str, str]]] = []
    for workspace in (place.work / f"{mode}-1", place.work / f"{mode}-2"):
        again: dict[str, dict[str, str]] = {}
        if not place.quick:
            heads = place.workspace(f"{workspace.name}-heads")
            strip(heads, place.device, "auto")
            again["masks and volumes"] = VolumeSet(heads / "preprocess").scans()
        maps = _copy(reference, workspace / "maps", "cohort", "preprocess")
        encode(maps, place.device, "auto", slice_spacing_mm=24.0)
        again["feature maps"] = FeatureStore(maps / "features").scans()
        fitted = _copy(place.work / "training", workspace / "fit", "cohort", "split", "features")
        train(fitted, place.device, epochs=2)
        again["weights of φ and ρ"] = {
            stage.name: file_sha256(fitted / stage.name / "repeat-1" / "weights.safetensors")
            for stage in (PRETRAIN, CLASSIFY)
        }
        found.append(again)
    first, second = found
    return {what: sum(first[what][name] != second[what][name] for name in first[what]) for what in first}


@contextlib.contextmanager
def little_memory(device: torch.device, megabytes: float) -> Iterator[None]:
    """Leave this process so much GPU memory beyond what it holds."""
    gc.collect()  # networks of an earlier run would make room when they go
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 1e6 * megabytes) / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def hd_bet_without_memory(report: Report, place: Place, *, limit: Limit = little_memory) -> None:
    """Take the GPU's memory away under the stage preprocess: it goes on with the CPU, says so, and comes back."""
    exact = [stripped.mask for stripped in strip(place.workspace("enough"), place.device, "auto")]
    heads = place.workspace("little")
    with limit(place.device, LITTLE_FOR_HD_BET_MB), _log() as lines:
        found = strip(heads, place.device, "auto")
    report.check("HD-BET without memory: lines of the log that say so", said(lines, "CPU"), least=1)
    for number, (one, other) in enumerate(zip(found, exact, strict=True)):
        report.check(f"HD-BET without memory: Dice of head {number}", dice(one.mask, other), least=LEAST_DICE)
    after = strip(heads, place.device, "auto")
    away = sum(stripped.device.type != place.device.type for stripped in after)
    report.check("HD-BET with memory again: heads that stay on the CPU", away, most=0)


def vgg_without_memory(report: Report, place: Place, reference: Path, *, limit: Limit = little_memory) -> None:
    """Take the GPU's memory away under the stage features: fewer slices a pass, then the CPU, with the same result."""
    maps = _copy(reference, place.work / "little-maps", "cohort", "preprocess")
    expected = encode(maps, place.device, "auto")
    for left, words in (("half", "slices a pass on"), ("none", "CPU")):
        with limit(place.device, LITTLE_MB[left]), _log() as lines:
            made = encode(maps, place.device, "auto")
        name = f"VGG with {LITTLE_MB[left]:g} MB"
        report.check(f"{name}: lines of the log that say so", said(lines, words), least=1)
        report.check(f"{name}: relative error", relative_error(made, expected), most=MOST_FEATURE_ERROR["auto"])


def said(lines: list[str], words: str) -> int:
    """Count the lines on memory that ran out which hold these words."""
    return sum("out of memory with" in line and words in line for line in lines)


def relative_error(made: Tensor, exact: Tensor) -> float:
    """Return the largest ‖made - exact‖ / ‖exact‖ of a feature map; (N, C, H, W)."""
    return float(((made - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max())


def _copy(workspace: Path, to: Path, *stages: str) -> Path:
    for stage in stages:
        shutil.copytree(workspace / stage, to / stage)
    return to


@contextlib.contextmanager
def _log() -> Iterator[list[str]]:
    """Collect the lines of the product's log."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: Any) -> None:
            lines.append(record.getMessage())

    handler = Collect()
    logging.getLogger("hypermm").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("hypermm").removeHandler(handler)
