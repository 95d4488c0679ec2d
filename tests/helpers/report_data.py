"""A made-up run to score and to report on: small, with every kind of gap."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.intervals import summarise
from evaluation.metrics import best_threshold, score
from reporting.quality import quality_of
from reporting.report import ReportData

CLASSES = ("CN", "AD", "MCI")
SETTINGS = """\
cohort:
  manifest: demo/manifest.csv
  repeats: 3
features:
  backbone: vgg11  # <frozen>
pretrain:
  epochs: 100
  learning_rate: 1.0e-4
"""


def make_predictions(n_subjects: int = 60, repeats: int = 3, n_classes: int = 2, seed: int = 0) -> pd.DataFrame:
    """Test predictions of some of the subjects in each repeat; every fifth subject has two observations."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, n_classes, n_subjects)
    truth[:n_classes] = range(n_classes)
    rows = []
    for repeat in range(repeats):
        tested = {*range(n_classes), *generator.choice(n_subjects, n_subjects // 3, replace=False).tolist()}
        for subject in sorted(tested):
            for visit in range(1 + (subject % 5 == 0)):
                logits = generator.normal(size=n_classes) + 1.1 * (np.arange(n_classes) == truth[subject])
                chances = np.exp(logits) / np.exp(logits).sum()
                name = f"sub-{subject:03d}"
                row = {
                    "repeat": repeat,
                    "subject": name,
                    "observation": f"{name}_v{visit}",
                    "truth": int(truth[subject]),
                }
                scans = f"{name}_v{visit}_MRI" + (f";{name}_v{visit}_PET" if subject % 3 else "")
                rows.append(row | {"scans_used": scans} | {f"p_{k}": chances[k] for k in range(n_classes)})
    return pd.DataFrame(rows)


def make_report_data(
    n_classes: int = 2, repeats: int = 3, modalities: tuple[str, ...] = ("MRI", "PET"), seed: int = 0
) -> ReportData:
    """A realistic run, from `make_predictions`."""
    generator = np.random.default_rng(seed)
    predictions = make_predictions(repeats=repeats, n_classes=n_classes, seed=seed)
    truth = dict(zip(predictions["observation"], predictions["truth"], strict=True))
    observations, availability = [], []
    for subject in range(60):
        for visit in range(1 + (subject % 5 == 0)):
            name = f"sub-{subject:03d}_v{visit}"
            label = CLASSES[truth.get(name, subject % n_classes)]
            age = float(generator.normal(74, 6)) if subject % 11 else np.nan
            observations.append((name, name[:7], label, age, "F" if generator.random() < 0.5 else "M"))
            for i, modality in enumerate(modalities):
                state = generator.choice(
                    ["used", "hidden", "failed", "absent"], p=[0.7, 0.12, 0.03, 0.15] if i else [0.9, 0, 0.02, 0.08]
                )
                if state != "absent":
                    availability.append((name, modality, str(state)))
    splits = []
    for repeat in range(repeats):
        tested = set(predictions.loc[predictions["repeat"] == repeat, "subject"])
        others = [f"sub-{s:03d}" for s in range(58) if f"sub-{s:03d}" not in tested]
        splits += [(repeat, subject, "test") for subject in sorted(tested)]
        splits += [(repeat, subject, "validation" if i % 7 == 0 else "train") for i, subject in enumerate(others)]
    thresholds = {}
    for repeat, rows in predictions.groupby("repeat"):
        thresholds[int(str(repeat))] = best_threshold(rows["truth"], rows["p_1"])[0] if n_classes == 2 else 0.5
    return ReportData(
        title="HyperMM on the demo cohort",
        created="2026-02-03 14:05 UTC",
        classes=CLASSES[:n_classes],
        plan=pd.DataFrame(
            [
                ("preprocess", "run", "118 of 121 scans new", 214.2),
                ("features", "run", "input changed: preprocess", 96.71),
                ("pretrain", "run", "input changed: features", 4321.0),
                ("classify", "cached", "nothing changed", np.nan),
                ("report", "run", "input changed: classify", 4.2),
            ],
            columns=["stage", "state", "reason", "seconds"],
        ),
        observations=pd.DataFrame(observations, columns=["observation", "subject", "label", "age", "sex"]),
        availability=pd.DataFrame(availability, columns=["observation", "modality", "state"]),
        splits=pd.DataFrame(splits, columns=["repeat", "subject", "split"]),
        quality=_quality(generator, modalities),
        qc=tuple((f"sub-{i:03d}_v0_{modalities[i % len(modalities)]}", _picture(generator)) for i in range(8)),
        histories={
            stage: _history(generator, repeats, start) for stage, start in (("pretrain", 1.6), ("classify", 0.72))
        },
        predictions=predictions,
        metrics={
            "threshold_half": summarise(predictions),
            "threshold_validation": summarise(predictions, thresholds=thresholds),
            "thresholds": thresholds,
        },
        subsets=_subsets(predictions, modalities),
        failures=pd.DataFrame(
            [
                ("preprocess", "sub-007_v0_PET", "sub-007", "PET", "every voxel is 0.0; min-max needs two values"),
                (
                    "preprocess",
                    "sub-019_v0_MRI",
                    "sub-019",
                    "MRI",
                    "file ends after 12,288 of 1,048,576 bytes; fetch it again",
                ),
            ],
            columns=["stage", "scan", "subject", "modality", "reason"],
        ),
        notes=(
            "preprocess: 2 of 121 scans failed; their subjects are kept with what is left.",
            "classify: repeat 1 stopped at the last epoch.",
        ),
        settings_yaml=SETTINGS,
        versions={"hypermm": "0.1.0", "python": "3.11.9", "torch": "2.5.1+cpu", "numpy": "2.4.6"},
        hashes={"manifest.csv": "9f2c" * 16, "settings": "01ab" * 16, "vgg11 weights": "77de" * 16},
        run_note="Ran on CPU (2 cores) in 1 h 17 min; seed 0.",
    )


def _quality(generator: np.random.Generator, modalities: tuple[str, ...]) -> pd.DataFrame:
    """Records of the scans of twenty subjects: two with remarks, one of an earlier version."""
    records: list[dict[str, Any]] = [
        {
            "scan": f"sub-{i:03d}_v0_{modality}", "subject": f"sub-{i:03d}", "modality": modality, "kind": "volume",
            "orientation": "RAS" if i % 3 else "PSR", "voxel_mm": [1.0, 1.0, 1.2], "space_from": "sform",
            "brain_ml": float(generator.normal(1380, 110)), "range_used": [-2.5, 1870.0], "remarks": [],
        }
        for i in range(20) for modality in modalities
    ]  # fmt: skip
    records[0] |= {"brain_ml": 61.0, "remarks": ["unusual brain volume: 61 ml; 500 to 2,500 are usual"]}
    records[3]["remarks"] = ["few voxels decide the range: the brightest 0.01 % take more than half of it"]
    records[5] = {name: records[5][name] for name in ("scan", "subject", "modality", "kind", "brain_ml")}
    return quality_of(records)


def _picture(generator: np.random.Generator) -> bytes:
    """Three noisy discs side by side, as PNG."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    disc = (x**2 + 1.4 * y**2 < 0.7) * (140 + 60 * np.cos(6 * x) * np.cos(5 * y))
    slices = [np.clip(disc * scale + generator.normal(0, 8, disc.shape), 0, 255) for scale in (0.8, 1.0, 0.7)]
    buffer = io.BytesIO()
    Image.fromarray(np.hstack(slices).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _history(generator: np.random.Generator, repeats: int, start: float) -> pd.DataFrame:
    """Falling training loss and a validation loss that turns."""
    frames = []
    for repeat in range(repeats):
        epoch = np.arange(1, 26 + 4 * repeat)
        train = start * np.exp(-epoch / 12) + 0.2 + generator.normal(0, 0.01, epoch.size)
        validation = train + 0.08 + 0.0009 * (epoch - 6.0) ** 2 + generator.normal(0, 0.015, epoch.size)
        best = np.arange(epoch.size) == validation.argmin()
        frames.append(
            pd.DataFrame(
                {"repeat": repeat, "epoch": epoch, "train_loss": train, "validation_loss": validation, "best": best}
            )
        )
    return pd.concat(frames, ignore_index=True)


def _subsets(predictions: pd.DataFrame, modalities: tuple[str, ...]) -> pd.DataFrame:
    """Every subset of two modalities at most, for both groups of subjects."""
    subsets = [(name,) for name in modalities] + ([modalities] if len(modalities) > 1 else [])
    rows = []
    for group, rest in (("any", predictions), ("complete", predictions[predictions["scans_used"].str.contains("PET")])):
        for i, subset in enumerate(subsets):
            part = rest.iloc[i:]
            row = {"modalities": "+".join(subset), "subjects": group, "n": len(part)}
            columns = [name for name in part.columns if name.startswith("p_")]
            for name, value in score(part["truth"], part[columns]).items():
                row |= {
                    f"{name}_mean": value,
                    f"{name}_std": 0.03,
                    f"{name}_low": value - 0.11,
                    f"{name}_high": value + 0.08,
                }
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def predictions() -> pd.DataFrame:
    """Two classes, three repeats."""
    return make_predictions()


@pytest.fixture(scope="session", name="make_predictions")
def predictions_maker() -> Callable[..., pd.DataFrame]:
    """The maker of made-up predictions."""
    return make_predictions


@pytest.fixture(scope="session")
def report_data() -> Callable[..., ReportData]:
    """The maker of a made-up run."""
    return make_report_data
