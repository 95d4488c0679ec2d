"""A cohort of any size, for the benchmarks of memory and start-up: real pictures, real stages, a network that is not.

Every subject has two small pictures. The stages are run as the command line runs them; only the backbone is replaced
by a few sums, so that 20,000 feature maps of real size take minutes.
"""

import csv
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import models.backbone
from models.backbone import Backbone
from pipeline.cli.main import main as run

SIDE = 32  # pixels


def make_cohort(folder: Path, subjects: int) -> Path:
    """Write the pictures and the manifest; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("subject", "modality", "path", "tumour"))
        for subject in range(subjects):
            label = ("benign", "malignant")[subject % 2]
            for modality in ("40X", "100X"):
                name = f"{subject:05d}-{modality}.png"
                pixels = random.integers(0, 200, (SIDE, SIDE, 3)) + 40 * (subject % 2)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                writer.writerow((f"{subject:05d}", modality, name, label))
    return manifest


CONFIG = """\
name: simulated
cohort:
  label: tumour
  positive: malignant
  modalities:
    40X: {kind: image}
    100X: {kind: image}
split: {repeats: 1}
features: {backbone: vgg11, weights: random}
pretrain: {epochs: 1}
"""


def run_stage(stage: str, manifest: Path, workspace: Path) -> tuple[float, float]:
    """Run one stage in a process of its own.

    Returns:
        Its seconds, start-up included, and its peak resident set in MB.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    config = workspace.with_suffix(".yaml")
    config.write_text(CONFIG)
    argv = ["--config", str(config), "--cohort", str(manifest), "--workspace", str(workspace), "--stages", stage]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulated", *argv, "--quiet", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - started, float(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the command line with another backbone; prints the peak resident set in MB last."""
    models.backbone.load_backbone = _stand_in  # type: ignore[assignment]
    code = run(sys.argv[1:])
    if code:
        raise SystemExit(code)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def _stand_in(name: str, **_: object) -> object:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 512, 1))
    return Backbone(layers, feature_map_shape=(512, 7, 7), mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3))


if __name__ == "__main__":
    main()
