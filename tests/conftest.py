"""Small cohorts that tests make for themselves."""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # processes that test side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as run_pipeline.py does, before torch is imported
_STATE = tempfile.TemporaryDirectory(prefix="hypermm-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name  # hashes of made-up weights do not belong into anybody's record


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that none is left to one core alone in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers of a few numbers only wait for each other on several cores; of a module, so that its fixtures agree."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def thin_backbone() -> Iterator[None]:
    """VGG11 with few channels: whole runs in a small part of the time, where it does not count what the network is."""
    from helpers.thin_backbone import thin_vgg11

    import models.backbone

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.backbone.BACKBONES, "vgg11", thin_vgg11)
        yield


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
            "features": {"backbone": "vgg11", "weights": "random"},
            "pretrain": {"epochs": 4},
        }
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings), "utf-8")
        return config

    return make


@pytest.fixture(scope="session")
def small_model() -> Callable[..., Path]:
    """Writes an exported model of two modalities, with all that an export writes, for feature maps (6, 2, 2)."""

    def make(
        folder: Path, *, signing_key: Path | None = None, card: Callable[..., str] = lambda _: "# Card", **changes: Any
    ) -> Path:
        import torch

        from evaluation.outliers import fit_reference
        from models.set_model import SetModel
        from pipeline.deployment.bundle_writer import Export, write_bundle

        network = {
            "modalities": 2, "feature_map_shape": [6, 2, 2], "classes": 3, "embedding": 3, "hidden": 4,
            "rho_hidden": [5], "aggregate": "mean",
        }  # fmt: skip
        train = np.random.default_rng(0).normal(0, 1, (30, 6))
        subsets = [["pet"], ["t1"], ["pet", "t1"]]
        scores = [n / 40 for n in range(20)]
        shares = {"coverage": 1.0, "coverage_by_class": [1.0, None, 1.0], "answered": 0.5, "answered_right": None}
        change = {"n": 4, "mean_absolute_change": 0.1, "decisions_changed": 0.25, "abstentions_resolved": None}
        export = Export(
            name="small",
            version="1.0.0",
            authors="Nobody",
            copyright="nobody's",
            classes=("CN", "MCI", "AD"),
            modalities=("pet", "t1"),
            trained=("pet", "t1"),
            network=network,
            kinds={name: {"kind": "volume", "skull_strip": False} for name in ("pet", "t1")},
            settings={
                "preprocess": {"spacing_mm": 2.0, "skull_strip_mode": "fast", "register_to": {"pet": "t1"}},
                "features": {"backbone": "vgg11", "random_seed": 3, "slice_spacing_mm": None},
            },
            weights={"preprocess": ["ab" * 32], "features": "random"},
            stage_versions={"preprocess": 3, "features": 1},
            calibration={
                "temperature": {"value": 1.7, "n": 20, "nll_before": 0.5, "nll_after": 0.4, "reason": "", "test": None},
                "conformal": {
                    "error_rate": 0.1,
                    "parts": ["validation", "test"],
                    "subsets": [
                        {"modalities": m, "subjects": 20, "too_few": "", "leave_one_out": shares, "scores": scores}
                        for m in subsets
                    ],
                },
                "expected_changes": [{"modalities": ["pet"], "modality": "t1", **change, "error_rate": 0.1}],
                "outliers": {
                    name: {"training_scans": 30, "distances": [1.0, 2.0, 500.0], "reason": ""} for name in ("pet", "t1")
                },
            },
            references={"pet": fit_reference(train), "t1": fit_reference(train + 1)},
            test={"auc": {"mean": 0.8, "low": 0.7, "high": 0.9}},
            subjects={"known": "train", "other": "calibration"},
            scans={"ab" * 32: "validation"},
        )
        torch.manual_seed(0)
        model = SetModel(**network).eval()
        with torch.no_grad():
            model.classifier.rho[-1].weight.normal_()
        export = dataclasses.replace(export, **changes)
        write_bundle(folder, export, model, card=card(export), onnx=b"graph", signing_key=signing_key)
        return folder

    return make


@pytest.fixture(scope="session")
def sums_anew() -> Callable[[Path], None]:
    """Makes the checksums of an exported model anew, as whoever changed its files would."""

    def make(folder: Path) -> None:
        place = folder / "checksums.json"
        names = json.loads(place.read_text("utf-8"))
        there = {name: folder / name for name in names if (folder / name).is_file()}
        sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
        place.write_text(json.dumps(names | sums), "utf-8")

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
