"""The stage recycle on made-up feature maps: the curve, its rivals, what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import toy_run

from console.errors import PreconditionError
from pipeline.runner.run import run_stage
from pipeline.specs.recycle import STAGE as RECYCLE
from pipeline.stages.recycle import (
    MASKED,
    MASKED_MORE,
    MIXUP,
    NOISE,
    REAL,
    SYNTHETIC,
    UNTRAINED,
    curve_of,
)
from pipeline.store.recycle import RecycleTables
from pipeline.store.tables import CohortTables, SplitTables

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"labelled": (0.5, 1.0), "rho": (0.5,), "patients": 20, "epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def one_repeat() -> Iterator[None]:
    """One repeat is enough to see what a stage does, and takes half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_run, "REPEATS", 1)
        yield


def again(workspace: Path, **settings: object) -> RecycleTables:
    run_stage(RECYCLE, toy_run.settings(recycle=SMALL | settings), workspace, device="cpu")
    return RecycleTables(workspace / "recycle")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None, one_repeat: None) -> Path:
    workspace = tmp_path_factory.mktemp("recycle")
    toy_run.fill(workspace, toy_run.scans())
    again(workspace)
    return workspace


def test_every_way_has_a_point_at_every_share(done: Path) -> None:
    out = RecycleTables(done / "recycle")
    curve = out.curve()
    ways = {(REAL, 0.0), (SYNTHETIC, 0.5), (NOISE, 0.5), (MIXUP, 0.5)}
    ways |= {(way, 0.0) for way in (UNTRAINED, MASKED, MASKED_MORE)}
    for _, rows in curve.groupby("labelled"):
        assert set(zip(rows["way"], rows["rho"], strict=True)) == ways
    assert curve.loc[curve["way"] == REAL, "difference"].isna().all()
    assert set(curve.loc[curve["way"] != REAL, "says"]) <= {"gain", "no gain", "harm"}
    assert curve["auc"].between(0, 1).all()
    patients = curve.groupby("labelled")["patients"].first()
    assert patients[1.0] > 1.5 * patients[0.5]
    assert out.facts()["generation"] == 1
    notes = (out.manifest or {})["notes"]
    assert any(note.startswith(("no gain", "gain")) for note in notes)


def test_real_test_patients_alone_are_tested(done: Path) -> None:
    table = pd.read_csv(done / "recycle" / "predictions.csv", dtype={"subject": str})
    splits = SplitTables(done / "split").splits().set_index(["repeat", "subject"])["split"]
    assert {splits[r, s] for r, s in zip(table["repeat"], table["subject"], strict=True)} == {"test"}
    np.testing.assert_allclose(table[["p_0", "p_1"]].sum(axis=1), 1)
    sizes = table.groupby(["labelled", "way", "rho", "repeat"]).size().groupby("repeat").nunique()
    assert (sizes == 1).all()


def test_labels_that_are_not_used_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked pretraining sees the scans of everybody in training, and the labels of the labelled alone."""
    from pipeline.stages import recycle as stage

    monkeypatch.setattr(stage, "labelled", lambda labels, share, seed, owners: np.arange(len(labels) // 2))
    table, found = toy_run.scans(), []
    toy_run.fill(tmp_path, table)
    splits = SplitTables(tmp_path / "split").splits()
    train = sorted(splits.loc[(splits["repeat"] == 1) & (splits["split"] == "train"), "subject"])
    unused = set(train[len(train) // 2 :])
    other = dict(zip(toy_run.CLASSES, toy_run.CLASSES[::-1], strict=True))
    for swap in (False, True):
        cohort = CohortTables(tmp_path / "cohort")
        label = [other[c] if swap and s in unused else c for s, c in zip(table["subject"], table["label"], strict=True)]
        cohort.save(table.assign(label=label), toy_run.CLASSES)
        toy_run.finish(cohort, **cohort.contents())
        again(tmp_path, labelled=(0.5,))
        found.append(pd.read_csv(tmp_path / "recycle" / "predictions.csv").query("repeat == 1"))
    seen = set(found[0]["subject"])
    columns = ["way", "rho", "observation", "p_1"]
    assert not seen & unused
    pd.testing.assert_frame_equal(*(each[columns].reset_index(drop=True) for each in found))


def test_the_joint_model_learns_from_one_session_of_each_labelled_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn is of patients; classifiers go on to see all their sessions."""
    from pipeline.stages import recycle as stage

    seen: list[int] = []
    usual = stage.fit_model
    monkeypatch.setattr(stage, "fit_model", lambda given, *rest: seen.append(len(given)) or usual(given, *rest))
    table = toy_run.scans()
    early = table.assign(session="1", observation=table["subject"] + "_1", scan=table["scan"] + "_1")
    toy_run.fill(tmp_path, pd.concat([table.assign(session="2"), early], ignore_index=True))
    curve = again(tmp_path).curve()
    assert seen == curve.groupby("labelled")["patients"].first().to_list()


def test_a_later_generation_is_refused_unless_asked_for(tmp_path: Path) -> None:
    table = toy_run.scans()
    parts = {s: toy_run.SPLITS[(n + 1) % 5] for n, s in enumerate(sorted(table["subject"].unique()))}
    both = {s: toy_run.SPLITS[(n + 2) % 5] for n, s in enumerate(sorted(table["subject"].unique()))}
    made = [s for s in parts if parts[s] == both[s] == "train"][:3]
    table = table.assign(origin=["synthetic" if s in made else "" for s in table["subject"]], judged="passed")
    toy_run.fill(tmp_path, table)
    with pytest.raises(PreconditionError, match="what is drawn from them is of generation 2"):
        again(tmp_path)
    out = again(tmp_path, generation=2, labelled=(1.0,))
    assert out.facts()["generation"] == 2
    assert "looks better than it is" in "\n".join((out.manifest or {})["notes"])
    later = pd.read_csv(tmp_path / "recycle" / "predictions.csv")
    without = table[table["origin"] == ""].drop(columns=["origin", "judged"])
    toy_run.fill(tmp_path, without)
    names = SplitTables(tmp_path / "split").splits()
    names["split"] = names["subject"].map(parts)
    SplitTables(tmp_path / "split").save_splits(names, {})
    toy_run.finish(SplitTables(tmp_path / "split"), **SplitTables(tmp_path / "split").contents())
    again(tmp_path, generation=2, labelled=(1.0,))
    real = pd.read_csv(tmp_path / "recycle" / "predictions.csv")
    for way in (REAL, NOISE, MASKED, SYNTHETIC):
        same = np.allclose(*(each.loc[each["way"] == way, "p_1"] for each in (later, real)))
        assert same == (way != SYNTHETIC), way
    assert set(real["patients"]) == set(later["patients"])


def made_predictions(*, better: float, count: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frames = []
    for repeat in (1, 2):
        truth = np.arange(count) % 2
        hard = random.standard_normal(count)
        for way, signal in ((REAL, 0.5), (SYNTHETIC, 0.5 + better)):
            chance = 1 / (1 + np.exp(-(signal * (2 * truth - 1) + hard + 0.1 * random.standard_normal(count))))
            names = [f"s{repeat}{i:03d}" for i in range(count)]
            frames.append(
                pd.DataFrame({"labelled": 0.5, "way": way, "rho": 0.5 * (way == SYNTHETIC), "repeat": repeat,
                              "patients": 10, "subject": names, "observation": names, "truth": truth,
                              "p_0": 1 - chance, "p_1": chance})
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize(("better", "says"), [(0.0, "no gain"), (1.0, "gain"), (-1.0, "harm")])
def test_the_curve_says_what_the_interval_says(better: float, says: str) -> None:
    curve = curve_of(made_predictions(better=better), 2).set_index("way")
    assert curve.loc[SYNTHETIC, "says"] == says
    assert curve.loc[REAL, "says"] == ""


def test_a_way_that_is_not_possible_everywhere_has_no_point() -> None:
    table = made_predictions(better=0.0)
    some = table[(table["way"] == REAL) | (table["repeat"] == 1)]
    assert list(curve_of(some, 2)["way"]) == [REAL]
