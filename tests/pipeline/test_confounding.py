"""The stage confounding on made-up feature maps that show the site, and no disease beyond it."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import toy_run

from baselines.covariates import fused
from baselines.names import TABLE_BASELINES
from console.errors import InputError
from pipeline.comparison.by_group import sessions_in_order
from pipeline.runner.run import run_stage
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.confounding import STAGE as CONFOUNDING
from pipeline.specs.confounding import ConfoundingConfig
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.stages.confounding import COVARIATES, FUSED, _of_subjects, check_beside, state_of_beside
from pipeline.store.confounding import ConfoundingTables
from pipeline.store.fitted import ClassifierSet
from pipeline.store.tables import CohortTables

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = {"epochs": 3, "learning_rate": 3e-3}
QUICK = {"smallest_group": 5}


def settings(**confounding: object) -> object:
    return toy_run.settings(pretrain=TRAINING, confounding={**QUICK, **confounding})


def scans() -> pd.DataFrame:
    """The sick are older; the site is told by the number of the subject; one age is missing."""
    table = toy_run.scans()
    number = table["subject"].str[1:].astype(int)
    age = 60 + 12 * (table["label"] == "sick") + number * 7 % 11
    return table.assign(
        age=age.astype(str).where(number != 4, ""), site=np.array(["A", "B"])[number % 2], sex="F", split=""
    )


def run(workspace: Path, table: pd.DataFrame) -> Path:
    toy_run.fill(workspace, table)
    for stage in (PRETRAIN, CLASSIFY, CONFOUNDING):
        run_stage(stage, settings(), workspace, device="cpu")
    return workspace


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return run(tmp_path_factory.mktemp("confounding"), scans())


def again(workspace: Path, table: pd.DataFrame) -> ConfoundingTables:
    """The stage on other covariates of the same patients."""
    CohortTables(workspace / "cohort").save(table, toy_run.CLASSES)
    run_stage(CONFOUNDING, settings(), workspace, device="cpu")
    return ConfoundingTables(workspace / "confounding")


def test_every_method_predicts_what_the_classifier_was_tested_on(done: Path) -> None:
    found = ConfoundingTables(done / "confounding").read("predictions.csv")
    tested = ClassifierSet(done / "classify").predictions()
    methods = ["HyperMM", *TABLE_BASELINES.values()]
    assert list(found["method"].unique()) == methods
    for name in methods:
        rows = found[found["method"] == name]
        assert list(zip(rows["repeat"], rows["observation"], strict=True)) == list(
            zip(tested["repeat"], tested["observation"], strict=True)
        )
        np.testing.assert_allclose(rows[["p_0", "p_1"]].sum(axis=1), 1)
    table = ConfoundingTables(done / "confounding").read("comparison.csv").set_index("method")
    assert table["auc_mean"]["covariates only"] > 0.8
    assert np.isnan(table["auc_difference"]["covariates only"])
    facts = ConfoundingTables(done / "confounding").facts()
    assert facts["covariates"] == ["age", "site", "sex"]
    assert facts["gain"]["covariates_auc"] == pytest.approx(table["auc_mean"]["covariates only"])
    assert facts["weights_of_images"].keys() == {"1", "2"}


def test_covariates_of_tested_patients_reach_their_own_prediction_only(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "run")
    before = ConfoundingTables(done / "confounding").read("predictions.csv")
    tested = before.loc[before["repeat"] == 1, "subject"].unique()
    table = scans()
    strange = table["subject"].isin(tested[:1])
    after = again(tmp_path / "run", table.assign(age=table["age"].mask(strange, "1000"))).read("predictions.csv")
    moved = before[~np.isclose(before["p_1"], after["p_1"], rtol=0, atol=1e-12)]
    assert set(moved.loc[moved["repeat"] == 1, "subject"]) == set(tested[:1])
    assert set(moved["method"]) == {name for name in TABLE_BASELINES.values() if "covariates" in name}


def test_probes_say_what_was_told_and_what_could_not_be_asked(done: Path) -> None:
    probes = ConfoundingTables(done / "confounding").read("probes.csv").set_index(["covariate", "modality"])
    assert set(probes.index.get_level_values(0)) == {"the class", "age", "site", "sex"}
    assert (probes["remark"].xs("sex") == "too few").all()  # all are women
    assert probes["mean"].xs("site").between(0, 1).all()
    counts = scans().groupby("modality")["subject"].nunique()
    assert (probes["n"].xs("the class") == counts).all()
    assert (probes["n"].xs("age") == scans()[scans()["age"] != ""].groupby("modality")["subject"].nunique()).all()


def test_groups_are_those_of_the_tested_patients(done: Path) -> None:
    groups = ConfoundingTables(done / "confounding").read("groups.csv")
    tested = ClassifierSet(done / "classify").predictions()
    assert list(groups["grouping"].unique())[:4] == ["age", "site", "sex", "scans"]
    assert list(groups["grouping"].unique())[4:] == ["age and site", "age and scans", "site and scans"]  # all are women
    for name, rows in groups.groupby("grouping"):
        assert rows["n"].sum() == len(tested), name
    small = groups["fewest"] < QUICK["smallest_group"]
    assert small.any()
    assert not small.all()
    assert (groups["auc_mean"].isna() == small).all()
    patterns = groups.loc[groups["grouping"] == "scans", "group"]
    assert set(patterns) <= {"MRI", "PET", "US", "MRI+PET", "MRI+US", "PET+US", "MRI+PET+US"}


@pytest.mark.parametrize("balanced", [False, True])
def test_images_that_count_classes_alike_are_taken_so(tmp_path: Path, balanced: bool) -> None:
    """Late fusion divides the images by the prior that they have learnt with."""
    table = scans()
    number = table["subject"].str[1:].astype(int)
    table = table[(table["label"] != "sick") | (number < 0.5 * number.max())].reset_index(drop=True)
    toy_run.fill(tmp_path, table)
    config = toy_run.settings(pretrain=TRAINING, classify={"balance_classes": balanced}, confounding=QUICK)
    for stage in (PRETRAIN, CLASSIFY, CONFOUNDING):
        run_stage(stage, config, tmp_path, device="cpu")
    artifact = ConfoundingTables(tmp_path / "confounding")
    found, weights = artifact.read("predictions.csv"), artifact.facts()["weights_of_images"]
    splits = pd.read_csv(tmp_path / "split" / "splits.csv")
    label = table.drop_duplicates("subject").set_index("subject")["label"]
    for repeat, weight in weights.items():
        here = found[found["repeat"] == int(repeat)].set_index("method")
        learnt = splits[(splits["repeat"] == int(repeat)) & (splits["split"] == "train")]["subject"]
        sick = (learnt.map(label) == "sick").mean()
        prior = np.array([0.5, 0.5]) if balanced else np.array([1 - sick, sick])
        each = [here.loc[name, ["p_0", "p_1"]].to_numpy(dtype=float) for name in (COVARIATES, "HyperMM", FUSED)]
        np.testing.assert_allclose(each[2], fused(each[0], each[1], prior, weight), atol=1e-6)
        assert 0.05 < sick < 0.45


def test_without_covariates_only_availability_is_asked(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "run")
    found = again(tmp_path / "run", toy_run.scans().assign(split=""))
    assert set(found.read("predictions.csv")["method"]) == {"HyperMM", "availability only"}
    assert found.facts()["covariates"] == []
    assert found.facts()["gain"]["difference"] is None
    assert found.facts()["gain"]["availability_auc"] is not None
    assert set(found.read("groups.csv")["grouping"]) == {"scans"}


def test_where_no_other_stage_has_run_nothing_else_is_audited(done: Path) -> None:
    found = ConfoundingTables(done / "confounding")
    assert found.facts()["comparator"]["name"] == ""
    for name in ("groups_of_others.csv", "gaps_of_others.csv", "groups_imputed.csv", "groups_synthetic.csv"):
        assert found.read(name).empty


def test_the_first_session_is_that_with_the_smallest_number() -> None:
    scans = pd.DataFrame({"subject": "p", "session": ["ses-10", "ses-2"], "observation": ["p_ses-10", "p_ses-2"]})
    test = scans.assign(repeat=1)
    age = pd.Series(["old", "young"], index=scans["observation"], dtype=object)
    groups, moved = _of_subjects({"age": age}, test, sessions_in_order(scans))
    assert groups["age"].to_dict() == {"p": "young"}
    assert moved == {"age": 1}


def test_another_workspace_is_shown_beside(done: Path, tmp_path: Path) -> None:
    for name in ("run", "other"):
        shutil.copytree(done, tmp_path / name)
    beside = settings(beside=tmp_path / "other")
    before = state_of_beside(beside.confounding)  # type: ignore[attr-defined]
    run_stage(CONFOUNDING, beside, tmp_path / "run", device="cpu")
    table = ConfoundingTables(tmp_path / "run" / "confounding").read("splits_beside.csv")
    assert table["split"].tolist() == ["subject", "subject"]
    assert table["auc_mean"][0] == table["auc_mean"][1]
    path = tmp_path / "other" / "classify" / "predictions.csv"
    path.write_text(path.read_text().replace("0.", "0.0", 1))
    assert state_of_beside(beside.confounding) != before  # type: ignore[attr-defined]
    CohortTables(tmp_path / "other" / "cohort").save(scans(), ("a", "b"))
    with pytest.raises(InputError, match="classes of .*other are a, b, those of this workspace well, sick"):
        run_stage(CONFOUNDING, beside, tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="has no finished stage classify"):
        check_beside(ConfoundingConfig(beside=tmp_path))
