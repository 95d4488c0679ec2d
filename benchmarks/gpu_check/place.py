"""Where the check runs, and running the product's stages there."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from files.reading import file_sha256
from pipeline.runner.run import run_stage
from pipeline.runner.stage import Stage
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.store.base import Artifact, write_record
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables
from preprocessing.skull_strip import SkullStripper

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """Where the check runs.

    Attributes:
        device: to be checked against the CPU.
        quick: small sizes.
        heads: scans of whole heads, NIfTI.
        work: folder for workspaces.
    """

    device: torch.device
    quick: bool
    heads: tuple[Path, ...]
    work: Path

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA device, with memory limits, events and kernels to count."""
        return self.device.type == "cuda"

    def workspace(self, name: str) -> Path:
        """Return a new workspace whose cohort is the heads."""
        folder = self.work / name
        rows = [
            {
                **dict.fromkeys(("subject", "observation"), f"head-{number}"),
                **{"scan": f"head-{number}_MRI", "session": "", "modality": "MRI", "kind": "volume"},
                **{
                    "skull_strip": "True",
                    "normalise": "minmax",
                    "trust": "",
                    "bits": "",
                    "label": ("CN", "AD")[number % 2],
                },
                **{"path": str(path), "sha256": file_sha256(path)},
            }
            for number, path in enumerate(self.heads)
        ]
        cohort = CohortTables(folder / "cohort")
        cohort.save(pd.DataFrame(rows), ("CN", "AD"))
        finish(cohort)
        return folder


def finish(artifact: Artifact, **contents: Any) -> None:
    """Write the manifest of an artifact that was made here and not by its stage."""
    write_record(artifact.folder / "manifest.json", {"files": {}, **artifact.contents(), **contents})


def run(stage: Stage, workspace: Path, device: torch.device, config: Any) -> float:
    """Run one of the product's stages on a device, whatever was done before; return the seconds taken.

    Raises:
        RuntimeError: a scan failed.
    """
    stage.writes(workspace / stage.name).invalidate_all()
    started = time.perf_counter()
    run_stage(stage, SimpleNamespace(**{stage.name: config}), workspace, device=str(device))
    taken = time.perf_counter() - started
    failures = (stage.writes(workspace / stage.name).manifest or {})["failures"] if stage.per_scan else []
    if failures:
        raise RuntimeError(f"{stage.name} on {device}: {failures[0]['scan']} failed: {failures[0]['reason']}")
    return taken


@dataclass(frozen=True)
class Stripped:
    """A mask of HD-BET as the stage got it.

    Attributes:
        mask: (X, Y, Z), bool, on the CPU.
        device: where it was computed.
        seconds: taken.
    """

    mask: Tensor
    device: torch.device
    seconds: float


def _preprocess_config(precision: str) -> PreprocessConfig:
    """Return the settings; heads of a quick check are too small for the usual limits of a brain."""
    return PreprocessConfig.model_validate({"precision": precision, "brain_ml": (0.0, 4000.0)})


def strip(workspace: Path, device: torch.device, precision: str) -> list[Stripped]:
    """Run the stage preprocess and return the masks of its heads, on their own grids."""
    with _masks() as found:
        run(PREPROCESS, workspace, device, _preprocess_config(precision))
    return found


def encode(workspace: Path, device: torch.device, precision: str, **more: Any) -> Tensor:
    """Run the stage features and return the feature maps of the heads, (N, C, H, W) float32."""
    config = FeaturesConfig.model_validate({"weights": "random", "precision": precision, **more})
    run(FEATURES, workspace, device, config)
    store = FeatureStore(workspace / "features")
    return store.load(sorted(store.scans()))


@contextlib.contextmanager
def _masks() -> Iterator[list[Stripped]]:
    """Keep every mask that HD-BET makes meanwhile."""
    made: Callable[..., Tensor] = SkullStripper.mask
    found: list[Stripped] = []

    def mask(self: SkullStripper, volume: Tensor, affine: NDArray[Any]) -> Tensor:
        started = time.perf_counter()
        result = made(self, volume, affine)
        on_cpu = result.cpu()  # waits for the device
        found.append(Stripped(on_cpu, result.device, time.perf_counter() - started))
        return result

    with mock.patch.object(SkullStripper, "mask", mask):
        yield found


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
