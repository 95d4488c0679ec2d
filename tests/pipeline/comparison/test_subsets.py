"""The scenario of subsets: who is tested with what, and that a cell is what the method says of these scans alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_run

from pipeline.comparison.scenarios import SUBSETS, Scenario, scenarios_of
from pipeline.comparison.subsets import hidden_by_subset, of_those_who_have_it
from pipeline.runner.run import run_stage
from pipeline.specs.baselines import STAGE, BaselinesConfig
from pipeline.store.comparison import ComparisonSet
from pipeline.training.repeat_data import RepeatData
from reporting.comparison_tables import subsets_text


@pytest.fixture
def data() -> RepeatData:
    """a has both, b the PET only; c is no test patient. A name may hold the sign that joins the others."""
    rows = [("a", "T1+C", "test"), ("a", "PET", "test"), ("b", "PET", "test"), ("c", "PET", "train")]
    table = pd.DataFrame(rows, columns=["observation", "modality", "split"])
    table = table.assign(scan=table["observation"] + " " + table["modality"], subject=table["observation"], label="CN")
    return RepeatData(table, ("PET", "T1+C"), ("CN", "AD"))


def test_what_is_not_in_the_subset_is_hidden_in_the_test_alone(data: RepeatData) -> None:
    assert hidden_by_subset(data) == (("PET", ("a T1+C",)), ("T1+C", ("a PET", "b PET")), ("PET+T1+C", ()))


def test_a_subset_is_about_those_who_have_all_of_it(data: RepeatData) -> None:
    names = ("PET", "T1+C", "PET+T1+C")
    made = pd.DataFrame([{"observation": o, "tested": n, "p_1": 0.5} for n in names for o in "ab"])
    found = of_those_who_have_it(made, data)
    assert list(zip(found["modalities"], found["observation"], strict=True)) == [
        *(("PET", "a"), ("PET", "b"), ("T1+C", "a"), ("PET+T1+C", "a"))
    ]
    assert "tested" not in found


def test_the_scenario_is_that_of_everybody_and_is_off_by_default() -> None:
    (scenario,) = scenarios_of(("subsets",), (0.5,), ("MRI", "PET"))
    assert scenario == Scenario(SUBSETS, complete_only=False, subsets=True)
    assert "subsets" not in BaselinesConfig().scenarios


METHODS = ("hypermm", "averaged_probes", "ridge", "multi_cnn", "covariates", "covariates_images")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> ComparisonSet:
    workspace = tmp_path_factory.mktemp("subsets")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    table = toy_run.scans(60)
    table = table[table["modality"] != "US"].assign(split="")
    toy_run.fill(workspace, table.assign(age=(60 + table["subject"].str[1:].astype(int) % 9).astype(str)))
    quick = {"epochs": 2, "learning_rate": 3e-3, "workers": 1, "scenarios": ["subsets"], "only": METHODS}
    run_stage(STAGE, toy_run.settings(baselines=quick), workspace, device="cpu")
    torch.set_num_threads(before)
    return ComparisonSet(workspace / "baselines")


def predictions(out: ComparisonSet, method: str, table: str) -> pd.DataFrame:
    found = out.read(out.folder_of(SUBSETS, method, 1), table)
    assert found is not None
    return found.set_index("observation")


def test_linear_probes_of_two_scans_are_the_mean_of_those_of_one(compared: ComparisonSet) -> None:
    """Unimodal models averaged, whatever is given: so the three subsets must fit each other."""
    made = predictions(compared, "linear probes, averaged", "subsets.csv")
    of = {name: rows["p_1"] for name, rows in made.groupby("modalities", sort=False)}
    assert list(of) == ["MRI", "PET", "MRI+PET"]
    both = of["MRI+PET"].index
    assert 0 < len(both) < min(len(of["MRI"]), len(of["PET"]))
    np.testing.assert_allclose((of["MRI"][both] + of["PET"][both]) / 2, of["MRI+PET"])
    assert (of["MRI"][both] != of["PET"][both]).all()


@pytest.mark.parametrize("method", ["HyperMM", "ridge imputation", "Multi-CNN"])
def test_the_whole_set_is_what_was_predicted_anyway(compared: ComparisonSet, method: str) -> None:
    made, whole = (predictions(compared, method, name) for name in ("subsets.csv", "predictions.csv"))
    rows = made[made["modalities"] == "MRI+PET"]
    np.testing.assert_array_equal(rows["p_1"], whole["p_1"][rows.index])
    one = made[made["modalities"] == "MRI"].reindex(rows.index)["p_1"]
    assert one.isna().all() if method == "Multi-CNN" else (one != rows["p_1"]).all()


def test_the_table_and_the_page_have_every_subset_and_a_coin(compared: ComparisonSet) -> None:
    table = compared.subsets()
    assert table is not None
    names = ["HyperMM", "Multi-CNN", "linear probes, averaged", "ridge imputation"]
    assert set(table["method"]) == {"a coin", *names}  # what sees no image has nothing to lose
    asked = table.groupby("modalities", sort=False)["n_asked"].first()
    assert list(asked.index) == ["", "MRI", "PET", "MRI+PET"]
    assert asked["MRI+PET"] < min(asked["MRI"], asked["PET"])
    assert subsets_text(table).rows[0][:2] == ("–", "a coin")
    text = Path(compared.folder / "comparison.md").read_text("utf-8")
    assert "### Given only some of the scans" in text
    assert "| MRI | HyperMM |" in text
    assert "covariates + HyperMM" in text.split("### Given only")[0]
