"""What a scenario hides is hidden from the joint model too."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import toy_run

from baselines.methods import SIMPLE
from pipeline.comparison.scenarios import Scenario, build_sample
from pipeline.comparison.tasks import ComparisonTasks
from pipeline.core.runtime import Runtime
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.repeat_data import data_of_repeat

pytestmark = pytest.mark.usefixtures("one_thread")
SCENARIO = Scenario("hidden", (("PET", 0.5),), complete_only=False)
METHODS = [SIMPLE["joint_mean"], SIMPLE["joint_draws"]]


def predictions(workspace: Path, out: Path) -> tuple[pd.DataFrame, set[str]]:
    """Of both methods, and the scans that the scenario hid."""
    store = FeatureStore(workspace / "features")
    data = data_of_repeat(CohortTables(workspace / "cohort"), SplitTables(workspace / "split"), store, 1)
    settings = toy_run.settings(baselines={"epochs": 3, "learning_rate": 3e-3, "workers": 1})
    run = ComparisonTasks(
        store, ComparisonSet(out), settings.baselines,
        Runtime(stage="baselines", key="", device_name="cpu", workspace=workspace), data.modalities, False, 1,
    )  # fmt: skip
    left, _ = run.left(SCENARIO, 1, data)
    names = {method.name for method in METHODS}
    for unit in run.units(SCENARIO, 1, left, METHODS, names):
        run.fit(unit, lambda: None)
    found = [run.out.read(run.out.folder_of("hidden", name, 1), "predictions.csv") for name in sorted(names)]
    assert all(frame is not None for frame in found)
    return pd.concat([frame for frame in found if frame is not None]), set(data.scans["scan"]) - set(left.scans["scan"])


def test_hidden_scans_change_nothing(tmp_path: Path) -> None:
    toy_run.fill(tmp_path / "run", toy_run.scans())
    before, hidden = predictions(tmp_path / "run", tmp_path / "before")
    assert {name[4:] for name in hidden} == {"PET"}
    store = FeatureStore(tmp_path / "run" / "features")

    def changed(names: set[str]) -> None:
        for name in names:
            store.save(name, torch.full((4, 2, 2), 7.0))
            store.finish(name, "key", {"shape": [4, 2, 2]})

    changed(hidden)
    after, again = predictions(tmp_path / "run", tmp_path / "after")
    assert again == hidden
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    data = data_of_repeat(CohortTables(tmp_path / "run" / "cohort"), SplitTables(tmp_path / "run" / "split"), store, 1)
    learnt = data.scans[(data.scans["split"] == "train") & ~data.scans["scan"].isin(hidden)]
    changed({learnt["scan"].iloc[0]})
    other, _ = predictions(tmp_path / "run", tmp_path / "other")
    assert not other.equals(before)


def test_synthetic_patients_of_the_manifest_are_known_to_the_methods(tmp_path: Path) -> None:
    table = toy_run.scans()
    made = table["subject"].str[1:].astype(int) % 5 == 4  # in training in both repeats
    for name, origin in (("real", {}), ("mixed", {"origin": made.map({True: "synthetic", False: ""})})):
        toy_run.fill(tmp_path / name, table.assign(**origin))
        store = FeatureStore(tmp_path / name / "features")
        data = data_of_repeat(
            CohortTables(tmp_path / name / "cohort"), SplitTables(tmp_path / name / "split"), store, 1
        )
        found = build_sample(data.scans, data, store, torch.device("cpu"))
        synthetic = found.sample.synthetic
        if not origin:
            assert synthetic is None
            continue
        assert synthetic is not None
        drawn = {name for name, one in zip(found.observations, synthetic.tolist(), strict=True) if one}
        assert drawn == set(table.loc[made, "observation"])
