"""Missing not at random: each reason in training, each in the test, for every method asked for."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_run

from console.errors import PreconditionError
from evaluation.intervals import summarise
from evaluation.pattern import SHUFFLED
from pipeline.comparison.mechanisms import Lost, lost_scans, main_direction, scenarios_of_mechanisms
from pipeline.comparison.scenarios import Scenario
from pipeline.comparison.tables import _hidden_in_both
from pipeline.comparison.tasks import ComparisonTasks
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import scan_contents
from pipeline.runner.run import run_stage
from pipeline.specs.baselines import STAGE, BaselinesConfig, MechanismsConfig
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData

REASONS = ("random", "covariate", "other", "itself", "class")
NAMES = [f"s{n:03d}" for n in range(100)]


@pytest.fixture
def data() -> RepeatData:
    """100 patients with MRI and PET, in turn sick and well."""
    rows = [(f"{name}_{m}", name, name, m, ("CN", "AD")[i % 2]) for i, name in enumerate(NAMES) for m in ("MRI", "PET")]
    table = pd.DataFrame(rows, columns=["scan", "observation", "subject", "modality", "label"])
    split = np.array(["train", "train", "validation", "test"])[table.index // 2 % 4]
    return RepeatData(table.assign(split=split), ("MRI", "PET"), ("CN", "AD"))


@pytest.fixture
def features(tmp_path: Path, data: RepeatData) -> FeatureStore:
    """Feature maps with one large direction: the number of the patient in the MRI, its last digit in the PET."""
    store = FeatureStore(tmp_path / "features")
    random = torch.Generator().manual_seed(0)
    for row in data.scans.itertuples():
        size = int(row.subject[1:]) if row.modality == "MRI" else int(row.subject[-1])
        made = 0.01 * torch.randn(3, 2, 2, generator=random)
        store.save(row.scan, made + size * torch.tensor([1.0, -2.0, 0.5])[:, None, None])
        store.finish(row.scan, "key", {})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(data.scans["scan"], "key")))
    return store


COVARIATES = pd.DataFrame({"age": [str(90 - i % 20) for i in range(100)]}, index=NAMES)


def lost(data: RepeatData, features: FeatureStore, **settings: object) -> Lost:
    given = {"reasons": REASONS, "of": "age", "slope": 20} | settings
    config = MechanismsConfig.model_validate({name: value for name, value in given.items() if value is not None})
    return lost_scans(data, config, COVARIATES, features, seed=1)


def test_each_reason_takes_scans_of_those_it_is_about(data: RepeatData, features: FeatureStore) -> None:
    found = lost(data, features).by
    assert {reason: len(scans) for reason, scans in found.items()} == dict.fromkeys(REASONS, 50)
    assert all(scan.endswith("_PET") for scans in found.values() for scan in scans)
    numbers = {reason: np.array([int(scan[1:4]) for scan in scans]) for reason, scans in found.items()}
    assert (numbers["class"] % 2).all()
    assert np.mean(90 - numbers["covariate"] % 20 > 80) > 0.9
    assert np.mean(numbers["other"] >= 50) > 0.9  # the sick are 1, 3, …, and so have the higher mean
    assert np.mean(numbers["itself"] % 10 >= 5) > 0.9
    assert 15 < (numbers["random"] % 2).sum() < 35
    turned = lost(data, features, slope=-20).by
    assert not (np.array([int(scan[1:4]) for scan in turned["class"]]) % 2).any()


def test_the_main_direction_is_that_of_a_singular_value_decomposition(data: RepeatData, features: FeatureStore) -> None:
    rows = data.scans[data.scans["modality"] == "PET"]
    found = main_direction(rows, features, positive="AD")
    maps = features.load(rows["scan"].to_list()).flatten(1).double().numpy()
    left, lengths, _ = np.linalg.svd(maps - maps.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, 0] * lengths[0]), rtol=1e-5, atol=1e-5)
    sick = np.arange(100) % 2 == 1
    assert found[sick].mean() > found[~sick].mean()
    other = main_direction(rows, features, positive="CN")
    np.testing.assert_allclose(other, -found)


def test_training_loses_by_one_reason_and_the_test_by_each(data: RepeatData, features: FeatureStore) -> None:
    found = lost(data, features)
    scenario = next(s for s in scenarios_of_mechanisms(MechanismsConfig(), data.modalities) if s.lost_by == "random")
    assert scenario.name == "50% of PET lost in training at random"
    left = found.left(scenario, data)
    gone = data.scans[~data.scans["scan"].isin(left["scan"])]
    assert set(gone["scan"]) == {s for s in found.by["random"] if int(s[1:4]) % 4 != 3}
    assert set(gone["split"]) == {"train", "validation"}
    tests = dict(found.tests(data))
    assert list(tests) == list(REASONS)
    for reason, scans in tests.items():
        assert set(scans) == {s for s in found.by[reason] if int(s[1:4]) % 4 == 3}
        assert list(scans) == sorted(scans)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modality": "CT"}, r"baselines.mechanisms.modality: 'CT' is no modality \(MRI, PET\)"),
        ({"other": "CT"}, r"baselines.mechanisms.other: 'CT' is no modality"),
        ({"other": "PET"}, "other is PET, which is the one that is lost"),
        ({"of": "weight"}, "'weight' is no covariate of this cohort"),
    ],
)
def test_what_cannot_be_is_named(
    data: RepeatData, features: FeatureStore, settings: dict[str, str], words: str
) -> None:
    with pytest.raises(PreconditionError, match=words):
        lost(data, features, **settings)


def test_the_class_is_a_reason_for_two_classes_only(data: RepeatData, features: FeatureStore) -> None:
    """It has no setting that names one of three; all other reasons do with any number."""
    three = dataclasses.replace(data, classes=("CN", "AD", "MCI"))
    with pytest.raises(PreconditionError, match=r"there are 3 \(CN, AD, MCI\); leave class out"):
        lost(three, features)
    others = tuple(reason for reason in REASONS if reason != "class")
    assert tuple(lost(three, features, reasons=others).by) == others


def test_shuffled_as_many_of_each_class_lose_the_scan_and_others(data: RepeatData, features: FeatureStore) -> None:
    """By `itself` those with a high last digit; shuffled, a digit tells nothing beyond what it tells of the class."""
    found = lost(data, features, shuffled=True)
    assert set(found.shuffled) == {"covariate", "other", "itself"}
    rows = data.scans.set_index("scan")

    def cells(scans: frozenset[str]) -> dict[tuple[str, str], int]:
        return rows.loc[sorted(scans)].groupby(["split", "label"]).size().to_dict()

    for reason, scans in found.shuffled.items():
        assert cells(scans) == cells(found.by[reason])
        assert scans != found.by[reason]
        assert all(scan.endswith("_PET") for scan in scans)
    high = {name: np.mean([int(s[1:4]) % 10 >= 5 for s in by["itself"]]) for name, by in
            (("by", found.by), ("shuffled", found.shuffled))}  # fmt: skip
    assert high["by"] > 0.9
    assert high["shuffled"] < 0.7
    config = MechanismsConfig.model_validate({"reasons": REASONS, "of": "age", "shuffled": True})
    scenarios = scenarios_of_mechanisms(config, data.modalities)
    assert [s.training for s in scenarios] == [*REASONS, *(f"{reason}{SHUFFLED}" for reason in REASONS[1:4])]
    left = found.left(scenarios[-1], data)
    gone = data.scans[~data.scans["scan"].isin(left["scan"])]
    assert set(gone["scan"]) == {s for s in found.shuffled["itself"] if int(s[1:4]) % 4 != 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"of": "age"}, "of is for reason covariate, and reasons are random, other, itself, class; name covariate"),
        ({"of": "age", "value": "70"}, "of, value is for reason covariate"),
        ({"reasons": ("random", "class"), "other": "MRI"}, "other is for reason other"),
        ({"reasons": ("random", "class"), "shuffled": True}, "shuffled within each class these lose scans as before"),
    ],
)
def test_settings_of_a_reason_that_is_not_asked_for_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MechanismsConfig.model_validate(settings)


def test_settings_that_say_nothing_or_two_things_are_refused() -> None:
    with pytest.raises(ValueError, match="name a column of cohort.covariates"):
        MechanismsConfig(reasons=("covariate",))
    with pytest.raises(ValueError, match="name each reason once"):
        MechanismsConfig(reasons=("class", "class"))
    with pytest.raises(PreconditionError, match="need a second modality"):
        scenarios_of_mechanisms(MechanismsConfig(), ("MRI",))


METHODS = ("hypermm", "ridge", "availability", "covariates_images")
CHOSEN = {"reasons": ("random", "class"), "slope": 20, "modality": "PET"}
QUICK = {"epochs": 2, "learning_rate": 3e-3, "workers": 1, "scenarios": ["mechanisms"], "only": METHODS}


def scans() -> pd.DataFrame:
    table = toy_run.scans(90)
    table = table[table["modality"] != "US"]
    return table.assign(age=(60 + table["subject"].str[1:].astype(int) % 9).astype(str), split="")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("mechanisms")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    toy_run.fill(workspace, scans())
    run_stage(STAGE, settings(), workspace, device="cpu")
    torch.set_num_threads(before)
    return workspace


def settings(**more: object) -> object:
    return toy_run.settings(baselines={**QUICK, "mechanisms": CHOSEN, **more})


def test_the_table_has_every_pair_for_every_method(compared: Path) -> None:
    out = ComparisonSet(compared / "baselines")
    table = out.mechanisms()
    assert table is not None
    names = ["HyperMM", "ridge imputation", "availability only", "covariates + HyperMM"]
    assert list(table["method"].unique()) == names
    expected = [(a, b) for a in ("random", "class") for b in ("nothing", "random", "class")]
    for name in names:
        rows = table[table["method"] == name]
        assert list(zip(rows["training"], rows["tested"], strict=True)) == expected
        assert (rows["n"] == rows["n_asked"]).all()
        assert rows["n_asked"].nunique() == 1
    cell = table.set_index(["method", "training", "tested"])["auc_mean"]
    # Who has a PET is well, in training; so without a look at it the test says the same, where it is lost alike.
    assert cell["availability only", "class", "class"] > 0.75  # one in three is sick, and half lose it
    assert cell["availability only", "class", "nothing"] == 0.5
    assert abs(cell["availability only", "class", "random"] - 0.5) < 0.25
    assert json.loads((compared / "baselines" / "manifest.json").read_text())["counts"]["scenarios"] == 2


def test_a_cell_is_the_score_of_the_predictions_with_these_scans_hidden(compared: Path) -> None:
    out = ComparisonSet(compared / "baselines")
    table = out.mechanisms()
    assert table is not None
    frames = []
    for repeat in (1, 2):
        made = out.read(out.folder_of("50% of PET lost in training by class", "HyperMM", repeat), "mechanisms.csv")
        assert made is not None
        whole = out.read(out.folder_of("50% of PET lost in training by class", "HyperMM", repeat), "predictions.csv")
        assert whole is not None
        for reason, rows in made.groupby("tested"):
            merged = rows.merge(whole, on=["repeat", "observation"], suffixes=("", "_whole"))
            moved = ~np.isclose(merged["p_1"], merged["p_1_whole"], rtol=0, atol=1e-9)
            assert 0 < moved.sum() < len(moved), reason
            if reason == "class":
                assert merged.loc[moved, "truth"].mean() > 0.7
        frames.append(made[made["tested"] == "random"])
    expected = summarise(pd.concat(frames))["auc"]["mean"]
    found = table.set_index(["method", "training", "tested"]).loc[("HyperMM", "class", "random"), "auc_mean"]
    assert found == pytest.approx(expected)


def test_the_page_and_the_markdown_show_it(compared: Path) -> None:
    text = (compared / "baselines" / "comparison.md").read_text("utf-8")
    assert "### Why scans are missing" in text
    assert "What is made of which scans there are" in text
    pattern = ComparisonSet(compared / "baselines").pattern()
    assert pattern is not None
    assert list(pattern["method"]) == ["HyperMM", "ridge imputation", "availability only", "covariates + HyperMM"]
    assert set(pattern["reason"]) == {"class"}
    table = ComparisonSet(compared / "baselines").mechanisms()
    assert table is not None
    cell = table.set_index(["method", "training", "tested"])["auc_mean"]
    row = pattern.set_index("method").loc["HyperMM"]
    assert row["learnt"] == pytest.approx(cell["HyperMM", "class", "class"] - cell["HyperMM", "random", "class"])
    row, _ = re.findall(r"\| availability only \| class \|.*", text)  # of the reasons, of the pattern
    assert row.count("[") == 3 or row.count("\\[") == 3


def test_nothing_is_done_twice_and_another_share_is_done_anew(compared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(compared, run)

    def times() -> dict[str, int]:
        return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in run.glob("baselines/*/*/*/record.json")}

    before = times()
    assert len(before) == 2 * 4 * 2
    run_stage(STAGE, settings(), run, device="cpu")
    assert times() == before
    run_stage(STAGE, settings(mechanisms={**CHOSEN, "slope": 1}), run, device="cpu")
    after = times()
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)  # other scans are hidden in the test of each


def test_other_scenarios_keep_their_keys_and_their_curve(data: RepeatData, features: FeatureStore) -> None:
    """Fields that were added say nothing where they are empty, and these scenarios are no points of the curve."""
    runtime = Runtime(stage="baselines", key="", device_name="cpu", workspace=Path())
    run = ComparisonTasks(features, ComparisonSet(Path()), BaselinesConfig(), runtime, data.modalities, False, 3)
    named = [
        set(run._inputs(scenario, 1, data)[2])
        for scenario in (
            Scenario("x"),
            Scenario("x", lost_by="class"),
            Scenario("x", subsets=True),
            Scenario("x", lost_by="other", shuffled=True),
        )
    ]
    before = {"name", "hidden", "complete_only", "patients"}
    assert named == [before, before | {"lost_by"}, before | {"subsets"}, before | {"lost_by", "shuffled"}]
    frame = pd.DataFrame({"scenario": ["complete", "x"], "method": "HyperMM", "p_0": 0.5, "p_1": 0.5})
    both = [Scenario("complete"), Scenario("x", lost_by="class"), Scenario("half", (("PET", 0.5),))]
    points = _hidden_in_both(frame, both)
    assert pd.concat(points)["scenario"].unique().tolist() == ["complete"]


def test_the_setting_is_off_by_default() -> None:
    assert "mechanisms" not in BaselinesConfig().scenarios
