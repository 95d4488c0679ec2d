"""Who is joined with whom, and that nothing leaks from training to test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.store.base import write_record
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.repeat_data import Sets, data_of_repeat

pytestmark = pytest.mark.usefixtures("thin_backbone")


@pytest.fixture
def tables(tmp_path: Path) -> tuple[CohortTables, SplitTables, FeatureStore]:
    """Ten subjects, MRI and PET, PET hidden or failed for some; a feature map says whose it is and what it is."""
    cohort, split, feature_maps = (kind(tmp_path / kind.__name__) for kind in (CohortTables, SplitTables, FeatureStore))
    rows = []
    for number in range(10):
        for code, modality in enumerate(("MRI", "PET")):
            name = f"s{number}"
            row = {"scan": f"{name}_{modality}", "subject": name, "session": "", "observation": name}
            row |= {
                "modality": modality,
                "kind": "volume",
                "skull_strip": "True",
                "normalise": "minmax",
                "trust": "",
                "bits": "",
                "path": "/x",
                "sha256": "0",
            }
            rows.append(row | {"label": "ab"[number % 2]})
            feature_maps.save(f"{name}_{modality}", torch.full((2, 1, 1), 10.0 * number + code))
            feature_maps.finish(f"{name}_{modality}", "key", {})
    scans = pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of rows must not matter
    cohort.save(scans, ("a", "b"))
    splits = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    split.save_splits(pd.DataFrame({"repeat": 1, "subject": [f"s{n}" for n in range(10)], "split": splits}), {})
    hidden = {"s1_PET", "s4_PET", "s8_MRI"}
    available = scans.assign(available=~scans["scan"].isin(hidden))
    split.save_table("availability.csv", available, SplitTables.AVAILABILITY_COLUMNS)
    failed = {"s2_MRI"}
    write_record(feature_maps.folder / "manifest.json", {"scans": {s: "k" for s in scans["scan"] if s not in failed}})
    return cohort, split, feature_maps


def test_scans_are_joined_by_subject_when_some_are_missing(
    tables: tuple[CohortTables, SplitTables, FeatureStore],
) -> None:
    """The published code pairs by list position, so that one missing PET gives everyone behind it another's PET."""
    repeat_data = data_of_repeat(*tables, repeat=1)
    values = tables[2].load(repeat_data.scans["scan"].to_list())[:, 0, 0, 0]
    sets = Sets.of(repeat_data)
    expected = {f"s{n}": {10 * n, 10 * n + 1} for n in range(10)}
    for scan in ("s1_PET", "s4_PET", "s8_MRI", "s2_MRI"):
        number = int(scan[1])
        expected[scan[:2]].discard(10 * number + scan.endswith("PET"))
    found = {
        name: set(values[sets.groups.items[a:b]].tolist())
        for name, a, b in zip(sets.observations, sets.groups.starts[:-1], sets.groups.starts[1:], strict=True)
    }
    assert found == expected
    assert [sets.target[i].item() for i in range(10)] == [n % 2 for n in range(10)]
    assert repeat_data.modality().tolist() == [int(v) % 10 for v in values.tolist()]


def test_parts_hold_different_subjects(tables: tuple[CohortTables, SplitTables, FeatureStore]) -> None:
    repeat_data = data_of_repeat(*tables, repeat=1)
    splits = [set(repeat_data.subjects(split_name)) for split_name in ("train", "validation", "test")]
    assert [len(p) for p in splits] == [6, 2, 2]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]


def test_batches_of_sets_hold_each_members_scans(tables: tuple[CohortTables, SplitTables, FeatureStore]) -> None:
    sets = Sets.of(data_of_repeat(*tables, repeat=1))
    chosen = torch.tensor([7, 1, 4])
    scans, owner = sets.batch(chosen)
    for index, number in enumerate(chosen.tolist()):
        expected = sets.groups.items[sets.groups.starts[number] : sets.groups.starts[number + 1]].tolist()
        assert scans[owner == index].tolist() == expected


def test_subsets_leave_out_who_has_nothing_left(tables: tuple[CohortTables, SplitTables, FeatureStore]) -> None:
    repeat_data = data_of_repeat(*tables, repeat=1)
    assert Sets.of(repeat_data, "test", frozenset({"MRI"})).observations == ("s9",)
    assert Sets.of(repeat_data, "test", frozenset({"PET"})).observations == ("s8", "s9")


def signature_cohort(folder: Path, *, subjects: int, one_subject_a_scan: bool) -> Path:
    """Two nearly equal pictures a subject, labels by the toss of a coin: only recognising a subject can help."""
    random = np.random.default_rng(3)
    folder.mkdir(parents=True)
    labels = random.permutation(np.arange(subjects) % 2)
    rows = []
    for number in range(subjects):
        coarse = random.integers(0, 255, (6, 6, 3)).astype(np.uint8)
        for copy in range(2):
            noisy = np.clip(coarse.astype(int) + random.integers(-3, 4, coarse.shape), 0, 255).astype(np.uint8)
            path = folder / f"{number}_{copy}.png"
            Image.fromarray(noisy).resize((96, 96)).save(path)
            subject = f"{number}_{copy}" if one_subject_a_scan else str(number)
            rows.append({"subject": subject, "modality": "light", "path": path.name, "diagnosis": "yn"[labels[number]]})
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    settings = {
        "name": "signature",
        "cohort": {"positive": "y", "manifest": str(folder / "cohort.csv"), "modalities": {"light": {"kind": "image"}}},
        "features": {"backbone": "vgg11", "weights": "random"},
        "pretrain": {"epochs": 15},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder / "config.yaml"


@pytest.mark.slow
def test_with_shuffled_labels_auc_is_one_half(tmp_path: Path) -> None:
    """And it would not be if scans instead of subjects were split, which the second run shows."""
    import json

    intervals = {}
    for leak in (False, True):
        config = signature_cohort(tmp_path / f"data-{leak}", subjects=40, one_subject_a_scan=leak)
        run = tmp_path / f"run-{leak}"
        assert main(["--config", str(config), "--workspace", str(run), "--stages", "classify", "--quiet"]) == 0
        intervals[leak] = json.loads((run / "classify" / "metrics.json").read_text())["threshold_half"]["auc"]
    assert intervals[False]["low"] < 0.5 < intervals[False]["high"]
    assert intervals[True]["low"] > 0.6


def test_same_seed_same_numbers(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    files = (
        "split/splits.csv",
        "classify/predictions.csv",
        "classify/metrics.json",
        "pretrain/repeat-1/weights.safetensors",
    )
    runs = []
    for run, more in (("one", []), ("two", []), ("other", ["--pretrain.seed", "1"])):
        argv = ["--config", str(config), "--workspace", str(tmp_path / run), "--stages", "classify", "--quiet", *more]
        assert main(argv) == 0
        runs.append([file_sha256(tmp_path / run / file) for file in files])
    assert runs[0] == runs[1]
    assert runs[0][3] != runs[2][3]
