"""How near is the backbone to the machine's own matrix-product rate, alone and as a whole stage with its files?"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import MATRIX_GFLOP, finish, in_turns, matrix_product, options
from devices.precision import half_precision
from models.backbone import Backbone, HalfMax, load_backbone, make_ready, pool_slices
from pipeline.core.runtime import Runtime
from pipeline.specs.features import FeaturesConfig
from pipeline.stages.features import features
from pipeline.store.base import write_record
from pipeline.store.features import FeatureStore
from pipeline.store.volumes import VolumeSet

BATCH = 16  # slices timed at once
PASS = 4  # slices a forward pass, the default on a CPU
BRAIN_MM = (66, 84, 63)  # half axes of an ellipsoid as large as a brain
SPACING_MM = 1.5


def gflop_a_slice(backbone: Backbone) -> float:
    """Count multiplications and additions of one slice, in 10⁹."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone.float()(torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops() / 1e9


def as_published(backbone: Backbone) -> nn.Sequential:
    """Return the same layers as torchvision has them: ReLU before each maximum, single precision, channels first."""
    layers: list[nn.Module] = []
    for layer in backbone.layers.children():
        if isinstance(layer, HalfMax):
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        elif isinstance(layer, nn.Conv2d):
            layers.append(layer.float().to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
        elif not (layers and isinstance(layers[-1], nn.MaxPool2d)):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers).eval()


@torch.inference_mode()
def plain_loop(layers: nn.Sequential, backbone: Backbone, slices: Tensor, batch: int) -> Tensor:
    """Compute the feature map of a scan with a plain loop."""
    feature_maps = [layers(backbone.normalise(b.unsqueeze(1).expand(-1, 3, -1, -1))) for b in slices.split(batch)]
    return torch.cat(feature_maps).amax(0)


def compare(name: str, rounds: int, batch: int) -> dict[str, Any]:
    """Compare one backbone with the plain loop and the matrix product."""
    dtype = half_precision(torch.device("cpu"))
    slices = torch.rand(batch, 224, 224, generator=torch.Generator().manual_seed(0))
    ours = load_backbone(name, random_seed=0)
    gflop = gflop_a_slice(ours)
    make_ready(ours, torch.device("cpu"))
    other = load_backbone(name, random_seed=0)
    layers = as_published(other)
    feature_map = pool_slices(ours, slices, batch_slices=PASS)
    exact = plain_loop(layers, other, slices, batch)
    seconds = in_turns(
        {
            "ours": lambda: pool_slices(ours, slices, batch_slices=PASS),
            "plain": lambda: plain_loop(layers, other, slices, batch),
            "plain, slice by slice": lambda: plain_loop(layers, other, slices, 1),
            "matrix product": matrix_product(dtype),
        },
        rounds,
    )
    rate = batch * gflop / seconds["ours"]
    peak = MATRIX_GFLOP / seconds["matrix product"]
    return {
        f"{name}: GFLOP a slice": gflop,
        f"{name}: ms a slice, ours ({dtype})": 1e3 * seconds["ours"] / batch,
        f"{name}: ms a slice, plain float32 in batches": 1e3 * seconds["plain"] / batch,
        f"{name}: ms a slice, plain float32 slice by slice": 1e3 * seconds["plain, slice by slice"] / batch,
        f"{name}: plain / ours": seconds["plain"] / seconds["ours"],
        f"{name}: GFLOP/s of ours": rate,
        f"{name}: GFLOP/s of the matrix product": peak,
        f"{name}: share of the matrix-product rate": rate / peak,
        f"{name}: largest error of a feature map / its largest value": float(
            (feature_map - exact).abs().max() / exact.max()
        ),
    }


def whole_stage(name: str, rounds: int, scans: int, spacing_mm: float) -> dict[str, Any]:
    """Time the stage on scans on disk: reading, slicing, network, writing, records."""
    dtype = half_precision(torch.device("cpu"))
    gflop = gflop_a_slice(load_backbone(name, random_seed=0))
    half = [round(mm / spacing_mm) for mm in BRAIN_MM]
    grid = np.meshgrid(*[np.arange(-h - 4, h + 5) for h in half], indexing="ij")
    mask = np.sum([(g / h) ** 2 for g, h in zip(grid, half, strict=True)], axis=0) < 1
    affine = np.diag([spacing_mm] * 3 + [1.0])
    slices = int(mask.any((0, 1)).sum())
    with tempfile.TemporaryDirectory() as folder:
        volumes, out = VolumeSet(Path(folder) / "preprocess"), FeatureStore(Path(folder) / "features")
        random = np.random.default_rng(0)
        for i in range(scans):
            volume = (random.random(mask.shape) * mask).astype(np.float32)
            volumes.save_volume(f"scan-{i}", volume, mask, affine, b"")
            volumes.finish(f"scan-{i}", "key", {})
            volumes.finish(f"scan-{i}", "", {"kind": "volume"})
        write_record(volumes.folder / "manifest.json", {"scans": {f"scan-{i}": str(i) for i in range(scans)}})
        runtime = Runtime(stage="features", key="", device_name="cpu", workspace=Path(folder))
        config = FeaturesConfig(backbone=name, weights="random")
        product = matrix_product(dtype)
        before = in_turns({"product": product}, rounds)["product"]
        started = time.perf_counter()
        features(volumes, out, config, runtime)
        seconds = time.perf_counter() - started
        if (done := runtime.results["counts"]["scans"]) != scans:
            raise RuntimeError(f"the stage did {done} of {scans} scans: its time says nothing")
        after = in_turns({"product": product}, rounds)["product"]
    rate, peak = scans * slices * gflop / seconds, MATRIX_GFLOP / ((before + after) / 2)
    return {
        f"{name}: stage, scans × slices": f"{scans} × {slices}",
        f"{name}: stage, seconds a scan, loading the network included": seconds / scans,
        f"{name}: stage, share of the matrix-product rate": rate / peak,
    }


def main() -> None:
    """Run it."""
    arguments = options(__doc__ or "").parse_args()
    results: dict[str, Any] = {}
    if arguments.quick:
        results |= compare("vgg11", 0, PASS) | whole_stage("vgg11", 0, 1, 20.0)
    else:
        for name in ("vgg11", "vgg16"):
            results |= compare(name, 9, BATCH) | whole_stage(name, 5, 12, SPACING_MM)
    finish("features", results, arguments)


if __name__ == "__main__":
    main()
