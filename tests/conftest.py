"""Small cohorts that tests make for themselves."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as run_pipeline.py does, before torch is imported
_STATE = tempfile.TemporaryDirectory(prefix="hypermm-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name  # hashes of made-up weights do not belong into anybody's record


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers of a few numbers only wait for each other on several cores; of a module, so that its fixtures agree."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def picture_cohort() -> Callable[..., Path]:
    """Writes a cohort of small pictures in two modalities whose brightness tells the class; returns its config file."""

    def make(folder: Path, *, subjects: int = 24, second: float = 0.75, seed: int = 0, side: int = 48) -> Path:
        random = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(subjects):
            subject, ill = f"p{number:02d}", number % 2
            for modality in ("low", "high"):
                if modality == "high" and random.random() > second:
                    continue
                picture = random.integers(0, 90, (side, side, 3)) + 90 * ill * np.array([1, modality == "high", 0])
                path = folder / f"{subject}_{modality}.png"
                Image.fromarray(picture.astype(np.uint8)).save(path)
                rows.append(
                    {"subject": subject, "modality": modality, "path": path.name, "class": "sick" if ill else "well"}
                )
        pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
        kinds = {name: {"kind": "image"} for name in ("low", "high")}
        settings = {
            "name": "pictures",
            "cohort": {
                "label": "class",
                "positive": "sick",
                "modalities": kinds,
                "manifest": str(folder / "cohort.csv"),
            },
            "split": {"repeats": 2},
            "features": {"backbone": "vgg16"},
            "pretrain": {"epochs": 4},
            "classify": {"epochs": 4, "bootstrap_draws": 200},
        }
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings), "utf-8")
        return config

    return make


@pytest.fixture(scope="session")
def head() -> Callable[..., np.ndarray]:
    """A volume (X, Y, Z) with a textured ball in it, 0 outside: a head that is stripped already."""

    def make(shape: tuple[int, int, int] = (24, 28, 26), seed: int = 0) -> np.ndarray:
        grid = np.indices(shape) - (np.array(shape) / 2)[:, None, None, None]
        inside = (grid**2).sum(0) < (min(shape) / 2 - 2) ** 2
        texture = np.random.default_rng(seed).uniform(50, 100, shape)
        return np.where(inside, texture, 0).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def save_nifti() -> Callable[..., Path]:
    """Writes an array as NIfTI with isotropic voxels."""

    def save(path: Path, volume: np.ndarray, voxel_mm: float = 4.0) -> Path:
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([voxel_mm] * 3 + [1.0])), path)
        return path

    return save
