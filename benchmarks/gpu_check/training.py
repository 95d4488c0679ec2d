"""A cohort of made-up feature maps of real size, and the training of φ and ρ on it by the product's stages."""

import json
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from baselines.sample import Sample
from benchmarks.gpu_check.place import finish, run
from pipeline.runner.per_scan import scan_contents
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.classify import ClassifyConfig
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.specs.pretrain import PretrainConfig
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables

SHAPE = (512, 7, 7)
MODALITIES, CLASSES = ("MRI", "PET"), ("CN", "AD")
SPLITS = ("train",) * 6 + ("validation",) + ("test",) * 3  # of pairs of subjects, in turn, as the paper's 6:1:3
SIGNAL = 0.06  # of a class, in standard deviations of a number of the feature map


def sample(subjects: int) -> Sample:
    """Return scans of both modalities, one of each modality a subject; every third subject lacks the second."""
    random = torch.Generator().manual_seed(0)
    pattern = torch.randn(len(MODALITIES), *SHAPE, generator=random)
    has = [(s, m) for s in range(subjects) for m in range(len(MODALITIES)) if not (m == 1 and s // 2 % 3 == 2)]
    observation, modality = torch.tensor(has).T
    target = torch.arange(subjects) % 2
    maps = torch.randn(len(has), *SHAPE, generator=random)
    maps += SIGNAL * (2 * target[observation].view(-1, 1, 1, 1) - 1) * pattern[modality]
    of = [SPLITS[s // 2 % len(SPLITS)] for s in range(subjects)]
    rows = {name: torch.tensor([s for s in range(subjects) if of[s] == name]) for name in set(SPLITS)}
    return Sample(
        maps, modality, observation, target, rows["train"], rows["validation"], rows["test"],
        modalities=len(MODALITIES), classes=len(CLASSES),
    )  # fmt: skip


def fill(workspace: Path, *, subjects: int) -> None:
    """Write cohort, split and features of that sample, as their stages leave them."""
    cohort, split = CohortTables(workspace / "cohort"), SplitTables(workspace / "split")
    store, made = FeatureStore(workspace / "features"), sample(subjects)
    rows, parts = [], []
    for scan, (number, modality) in enumerate(zip(made.observation.tolist(), made.modality.tolist(), strict=True)):
        name, kind = f"s{number:03d}", MODALITIES[modality]
        row = {"scan": f"{name}_{kind}", "subject": name, "session": "", "observation": name, "modality": kind}
        row |= {"kind": "volume", "skull_strip": "True", "normalise": "minmax", "trust": "", "bits": ""}
        row |= {"path": "", "sha256": ""}
        rows.append(row | {"label": CLASSES[int(made.target[number])]})
        store.save(row["scan"], made.feature_maps[scan])
        store.finish(row["scan"], "made up", {})
    for name in ("train", "validation", "test"):
        parts += [{"repeat": 1, "subject": f"s{s:03d}", "split": name} for s in getattr(made, name).tolist()]
    table = pd.DataFrame(rows)
    cohort.save(table, CLASSES)
    split.save_splits(pd.DataFrame(parts), {})
    split.save_table("availability.csv", table.assign(available=True), split.AVAILABILITY_COLUMNS)
    finish(cohort)
    finish(split)
    finish(store, **scan_contents(store, dict.fromkeys(table["scan"], "made up")))


def train(workspace: Path, device: torch.device, *, epochs: int) -> float:
    """Run the stages pretrain and classify; return the seconds of both."""
    taken = run(PRETRAIN, workspace, device, PretrainConfig(epochs=epochs))
    return taken + run(CLASSIFY, workspace, device, ClassifyConfig(fit="epochs", epochs=epochs))


def predictions(workspace: Path) -> tuple[float, Tensor]:
    """Return the test AUC and the probability of the positive class of every test observation, (N,)."""
    folder = workspace / CLASSIFY.name
    auc = json.loads((folder / "metrics.json").read_text("utf-8"))["threshold_half"]["auc"]["mean"]
    table = pd.read_csv(folder / "predictions.csv").sort_values("observation")
    return float(auc), torch.tensor(table[f"probability_{CLASSES[1]}"].to_numpy())
