"""A workspace as it is after the stage features, of feature maps made up here: what trains on them takes a second."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.runner.per_scan import scan_contents
from pipeline.settings import Settings
from pipeline.store.base import write_record
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet

MODALITIES, CLASSES = ("MRI", "PET", "US"), ("well", "sick")
SPLITS = ("train", "train", "validation", "test", "test")  # of the subjects, in turn
EVERYBODY_HAS, REPEATS = 0.7, 2  # the share of scans that there are, never none of a subject


def settings(**sections: object) -> Settings:
    """All defaults but for what is given; the demo cohort of phantoms."""
    modalities = {name: {"skull_strip": name != "US"} for name in MODALITIES}
    return Settings(name="toy", **({"cohort": {"manifest": "phantoms", "modalities": modalities}} | sections))  # type: ignore[arg-type]


def scans(subjects: int = 60) -> pd.DataFrame:
    """The table of the stage cohort; one of three is sick, and many lack scans."""
    random = np.random.default_rng(1)
    rows = []
    for number in range(subjects):
        has = random.random(len(MODALITIES)) < EVERYBODY_HAS
        has[number % len(MODALITIES)] = True
        for modality in np.array(MODALITIES)[has]:
            row = {"scan": f"s{number:02d}_{modality}", "subject": f"s{number:02d}", "session": ""}
            row |= {"observation": f"s{number:02d}", "modality": modality, "kind": "volume"}
            row |= {
                "skull_strip": str(modality != "US"),
                "normalise": "minmax",
                "trust": "",
                "bits": "",
                "path": f"/scans/{number}_{modality}.nii",
            }
            rows.append(row | {"label": CLASSES[number % 3 == 0], "sha256": f"hash of {number} {modality}"})
    return pd.DataFrame(rows)


def feature_map(subject: int, modality: str, label: str) -> torch.Tensor:
    """(4, 2, 2): noise, and a little of the class."""
    random = torch.Generator().manual_seed(100 * subject + MODALITIES.index(modality))
    return torch.randn(4, 2, 2, generator=random) + 0.5 * CLASSES.index(label)


def finish(artifact: FeatureStore | VolumeSet | CohortTables | SplitTables, **contents: object) -> None:
    """Write the manifest of a stage that never ran."""
    write_record(artifact.folder / "manifest.json", {"made_from": {}, "files": {}, **contents})


def fill(workspace: Path, table: pd.DataFrame) -> None:
    """Write cohort, split, preprocess and features of these scans."""
    cohort, split = CohortTables(workspace / "cohort"), SplitTables(workspace / "split")
    volumes, feature_maps = VolumeSet(workspace / "preprocess"), FeatureStore(workspace / "features")
    cohort.save(table, CLASSES)
    finish(cohort, **cohort.contents())
    names = sorted(table["subject"].unique())
    parts = [
        {"repeat": repeat, "subject": name, "split": SPLITS[(number + repeat) % len(SPLITS)]}
        for repeat in range(1, REPEATS + 1)
        for number, name in enumerate(names)
    ]
    split.save_splits(pd.DataFrame(parts), {})
    split.save_table("availability.csv", table.assign(available=True), split.AVAILABILITY_COLUMNS)
    finish(split, **split.contents())
    finish(volumes, fingerprint="volumes", scans={scan: f"volume of {scan}" for scan in table["scan"]})
    for row in table.itertuples():
        made = feature_map(int(row.subject[1:]), row.modality, row.label)
        feature_maps.save(row.scan, made)
        feature_maps.finish(row.scan, "key", {"shape": list(made.shape)})
    finish(feature_maps, **scan_contents(feature_maps, dict.fromkeys(table["scan"], "key")))


def linked(workspace: Path, table: pd.DataFrame) -> None:
    """Feature maps of a patient that go together: each is half the patient's own."""
    store = FeatureStore(workspace / "features")
    for row in table.itertuples():
        own = torch.Generator().manual_seed(int(row.subject[1:]))
        made = feature_map(int(row.subject[1:]), row.modality, row.label) + torch.randn(4, 2, 2, generator=own)
        store.save(row.scan, made)
        store.finish(row.scan, "key", {"shape": [4, 2, 2]})
    finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
