"""The stage hypothesise on made-up feature maps: what is asked, of whom, what is refused and said."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import toy_run
from pydantic import ValidationError

from console.errors import InputError
from pipeline.runner.run import run_stage
from pipeline.specs.hypothesise import STAGE as HYPOTHESISE
from pipeline.specs.hypothesise import Hypothesis, HypothesiseConfig
from pipeline.store.hypotheses import HypothesisTables
from pipeline.store.tables import CohortTables, SplitTables

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = (
    {"clamp": "MRI", "along": "class", "by": "-1 sd"},
    {"clamp": "MRI", "along": "region 1-1 1-2", "by": "1 sd", "held": ["age", "class"]},
    {"ablate": "PET"},
)


@pytest.fixture(scope="module", autouse=True)
def one_repeat() -> Iterator[None]:
    """One repeat is enough to see what a stage does, and takes half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_run, "REPEATS", 1)
        yield


def scans(subjects: int = 70) -> pd.DataFrame:
    table = toy_run.scans(subjects)
    number = table["subject"].str[1:].astype(int)
    return table.assign(age=(60 + number % 7).astype(str), split="")


def again(workspace: Path, **settings: object) -> HypothesisTables:
    joint = {"draws": 8, "basis": "public", "decoder": "none"}
    run_stage(
        HYPOTHESISE,
        toy_run.settings(hypothesise={"hypotheses": ASKED} | settings, joint=joint),
        workspace,
        device="cpu",
    )
    return HypothesisTables(workspace / "hypothesise")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None, one_repeat: None) -> Path:
    workspace = tmp_path_factory.mktemp("hypothesise")
    toy_run.fill(workspace, scans())
    toy_run.linked(workspace, scans())
    again(workspace)
    return workspace


def test_every_target_has_an_effect_and_its_controls(done: Path) -> None:
    effects = HypothesisTables(done / "hypothesise").read()
    assert set(effects["hypothesis"]) == {
        "MRI along class by -1 sd", "MRI along region 1-1 1-2 by 1 sd, age, class held", "without PET",
    }  # fmt: skip
    moved = effects[effects["hypothesis"] == "MRI along class by -1 sd"].set_index("target")
    assert list(moved.index) == ["PET", "US", "class"]
    assert (moved["effect"] < 0).all()
    assert moved.loc["PET", "high"] < 0
    assert (moved["says"] == "association, not intervention").all()
    assert (moved[["permuted", "random"]].abs().max(axis=1) < moved["effect"].abs()).all()
    assert moved.loc["PET", "permuted_low"] <= 0 <= moved.loc["PET", "permuted_high"]
    assert (effects["p_holm"] >= effects["p"]).all()
    held = effects[effects["held"] != ""]
    assert set(held["says"]) == {"an effect only if all that both depend on is held: age, class"}
    assert set(held["target"]) == {"PET", "US"}  # what is held, the class, has no difference
    assert effects.loc[effects["hypothesis"] == "without PET", "random"].isna().all()


def test_only_test_patients_are_asked_and_each_is_written_down(done: Path) -> None:
    out = HypothesisTables(done / "hypothesise")
    patients = out.read("patients.csv")
    splits = SplitTables(done / "split").splits().set_index(["repeat", "subject"])["split"]
    assert {splits[r, s] for r, s in zip(patients["repeat"], patients["subject"], strict=True)} == {"test"}
    rows = patients[(patients["hypothesis"] == "MRI along class by -1 sd") & (patients["target"] == "PET")]
    effect = out.read().query("hypothesis == 'MRI along class by -1 sd' and target == 'PET'").iloc[0]
    assert rows.groupby("repeat")["difference"].mean().mean() == pytest.approx(effect["effect"])
    assert (rows["sd"] > 0).all()


def test_a_training_patient_counts_once(done: Path, tmp_path: Path) -> None:
    """Effects and controls are those without the other sessions, in which the scans look otherwise."""
    table, splits = scans().assign(session="2"), SplitTables(done / "split").splits()
    early = table[table["subject"].isin(splits.loc[splits["split"] == "train", "subject"])]
    early = early.assign(session="1", observation=early["subject"] + "_1", scan=early["scan"] + "_1")
    whole = pd.concat([table, early], ignore_index=True)
    toy_run.fill(tmp_path, whole)
    toy_run.linked(tmp_path, table)
    out = again(tmp_path)
    pd.testing.assert_frame_equal(out.read(), HypothesisTables(done / "hypothesise").read())
    people = early["subject"].nunique()
    assert f"repeat 1: {people} training patients have several sessions; the joint model learnt from one of each" in (
        "\n".join((out.manifest or {})["notes"])
    )


def test_sessions_of_a_patient_are_not_several_patients(done: Path, tmp_path: Path) -> None:
    """Each test patient comes three times; the interval stays as it was."""
    table = scans()
    splits = SplitTables(done / "split").splits()
    tested = set(splits.loc[splits["split"] == "test", "subject"])
    more = [
        table[table["subject"].isin(tested)].assign(
            session=f"{n}",
            observation=lambda rows, n=n: rows["subject"] + f"_{n}",
            scan=lambda rows, n=n: rows["scan"] + f"_{n}",
        )
        for n in (2, 3)
    ]
    whole = pd.concat([table, *more], ignore_index=True)
    toy_run.fill(tmp_path, whole)
    toy_run.linked(tmp_path, whole)
    again(tmp_path)
    now, before = (HypothesisTables(folder / "hypothesise").read() for folder in (tmp_path, done))
    columns = ["patients", "effect", "low", "high", "permuted", "permuted_low"]
    pd.testing.assert_frame_equal(now[columns], before[columns])
    assert now["refused"].iloc[0] == 3 * before["refused"].iloc[0]


def test_maps_add_up_to_the_effect_on_the_modality(done: Path) -> None:
    """A public basis takes the mean over positions, so nothing is lost between scores and places."""
    out = HypothesisTables(done / "hypothesise")
    maps = out.read("maps.csv").query("hypothesis == 'MRI along class by -1 sd' and target == 'PET'")
    assert set(zip(maps["row"], maps["column"], strict=True)) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert maps["change"].sum() < 0
    assert (maps["sd"] > 0).all()
    np.testing.assert_allclose(maps["change"], maps["change"].iloc[0])


def test_labels_of_test_patients_are_not_looked_at(done: Path, tmp_path: Path) -> None:
    table = scans()
    splits = SplitTables(done / "split").splits()
    learnt = set(splits.loc[splits["split"] == "train", "subject"])
    other = {"well": "sick", "sick": "well"}
    swapped = [c if s in learnt else other[c] for s, c in zip(table["subject"], table["label"], strict=True)]
    assert swapped != list(table["label"])
    toy_run.fill(tmp_path, table)
    toy_run.linked(tmp_path, table)
    cohort = CohortTables(tmp_path / "cohort")
    cohort.save(table.assign(label=swapped), toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    again(tmp_path)
    pd.testing.assert_frame_equal(
        HypothesisTables(tmp_path / "hypothesise").read("patients.csv"),
        HypothesisTables(done / "hypothesise").read("patients.csv"),
    )


def test_moves_out_of_the_ellipsoid_are_refused_and_said(done: Path) -> None:
    out = again(done, hypotheses=({"clamp": "MRI", "along": "class", "by": "5 sd"},))
    row = out.read().iloc[0]
    assert row["refused"] > 10
    assert "moves are refused: they end outside of the ellipsoid that holds 95% of the training patients" in row["note"]
    assert "test patients can be asked, 5 are needed" in row["note"]
    assert any("moves are refused" in note for note in (out.manifest or {})["notes"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"clamp": "CT"}, "the joint model has no 'CT'; it has MRI, PET, US, age"),
        ({"clamp": "MRI", "held": ["sex"]}, "the joint model has no 'sex'"),
        ({"clamp": "MRI", "along": "component 40"}, "MRI has 4 components, not 40"),
        ({"clamp": "MRI", "along": "region 2-3 1-1"}, "a feature map has 2 rows and 2 columns"),
    ],
)
def test_what_the_model_does_not_have_is_refused(done: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        again(done, hypotheses=(asked,))


def test_a_model_of_several_sites_is_refused(done: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"sums of others")
    settings = toy_run.settings(joint={"federated": [tmp_path / "model.safetensors"]})
    with pytest.raises(InputError, match="joint.federated names a model of several sites"):
        run_stage(HYPOTHESISE, settings, done, device="cpu")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "names either clamp or ablate"),
        ({"clamp": "MRI", "ablate": "PET"}, "names either clamp or ablate"),
        ({"ablate": "PET", "by": "1 sd"}, "has no along and no by"),
        ({"clamp": "MRI", "by": "1"}, "expected a length such as 1 sd"),
        ({"clamp": "MRI", "by": "9 sd"}, "at most 5 sd"),
        ({"clamp": "MRI", "along": "left"}, "expected class, component 3"),
        ({"clamp": "MRI", "held": ["MRI"]}, "cannot be held and moved"),
    ],
)
def test_settings_that_say_nothing_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Hypothesis.model_validate(asked)


def test_a_hypothesis_is_asked_once() -> None:
    with pytest.raises(ValidationError, match="MRI along class by 1 sd stands in the list twice"):
        HypothesiseConfig.model_validate({"hypotheses": [{"clamp": "MRI"}, {"clamp": "MRI", "by": "1 sd"}]})


def test_without_a_list_each_modality_is_asked_about(done: Path) -> None:
    assert set(again(done, hypotheses=()).read()["source"]) == set(toy_run.MODALITIES)
