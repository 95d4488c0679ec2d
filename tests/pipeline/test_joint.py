"""The stages joint and impute on made-up feature maps: who is learnt from, what is written, what is said."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from helpers import toy_run

from cohort.covariates import covariates_of
from console.errors import InputError
from evaluation.imputation import gaussian_crps
from models.joint.model import Patients
from pipeline.runner.per_scan import scan_contents
from pipeline.runner.run import run_stage
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.impute import ImputeConfig
from pipeline.specs.joint import STAGE as JOINT
from pipeline.store.base import ArtifactError, DamagedError
from pipeline.store.features import FeatureStore
from pipeline.store.imputed import ImputedSet
from pipeline.store.joint import JointSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.joint_patients import CovariateBlocks, joint_patients
from pipeline.training.repeat_data import data_of_repeat

pytestmark = pytest.mark.usefixtures("one_thread")
REPEATS = [1, 2]
NO_MOVES: dict[str, object] = {"deltas": (), "slopes": ()}  # which cost a second


def scans(subjects: int = 60) -> pd.DataFrame:
    """With covariates: an age that one lacks, a sex."""
    table = toy_run.scans(subjects)
    number = table["subject"].str[1:].astype(int)
    age = 60 + 9 * (table["label"] == "sick") + number % 7
    return table.assign(age=age.astype(str).where(number != 4, ""), sex=np.array(["F", "M"])[number % 2], split="")


def run(workspace: Path, table: pd.DataFrame, **joint: object) -> Path:
    toy_run.fill(workspace, table)
    again(workspace, **joint)
    return workspace


def again(workspace: Path, impute: dict[str, object] = NO_MOVES, **joint: object) -> None:
    settings = toy_run.settings(joint={"draws": 4, "decoder": "none", **joint}, impute={"draws": 3, **impute})
    for stage in (JOINT, IMPUTE):
        run_stage(stage, settings, workspace, device="cpu")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return run(tmp_path_factory.mktemp("joint"), scans(), impute={"deltas": (-1, 0, 1), "slopes": (-2, 2)})


def run_on(workspace: Path, table: pd.DataFrame, kept: pd.DataFrame, **joint: object) -> Path:
    """As `run`, with the splits of one table and the scans of another."""
    toy_run.fill(workspace, table)
    cohort = CohortTables(workspace / "cohort")
    cohort.save(kept, toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    again(workspace, **joint)
    return workspace


def learns(table: pd.DataFrame) -> pd.Series:
    """Which scans are of patients in training in repeat 1."""
    parts = {s: toy_run.SPLITS[(n + 1) % 5] for n, s in enumerate(sorted(table["subject"].unique()))}
    return table["subject"].map(parts) == "train"


def part_of(workspace: Path, repeat: int) -> pd.Series:
    """Subject → split."""
    splits = SplitTables(workspace / "split").splits()
    return splits[splits["repeat"] == repeat].set_index("subject")["split"]


def change(workspace: Path, names: list[str], value: float = 9.0) -> None:
    """Other feature maps of some scans."""
    store = FeatureStore(workspace / "features")
    for number, name in enumerate(names):
        store.save(name, torch.full((4, 2, 2), value + number))
        store.finish(name, "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))


def weights(workspace: Path) -> list[bytes]:
    return [(workspace / "joint" / f"repeat-{n}" / "weights.safetensors").read_bytes() for n in REPEATS]


def test_every_patient_has_an_embedding_with_its_uncertainty(done: Path) -> None:
    table = JointSet(done / "joint").embeddings()
    data = data_of_repeat(
        CohortTables(done / "cohort"), SplitTables(done / "split"), FeatureStore(done / "features"), 1
    )
    has = data.scans.groupby("observation")["modality"].agg(lambda names: "+".join(sorted(names)))
    rows = table[table["repeat"] == 1].set_index("observation")
    assert rows["has"].to_dict() == has.to_dict()
    assert rows["split"].to_dict() == {name: part_of(done, 1)[name] for name in rows.index}
    whole = rows["has"] == "MRI+PET+US"
    for i in range(1, 5):
        assert (rows.loc[~whole, f"sd{i}"] > 0).all()
    assert rows.loc[whole & (rows.index != "s04"), ["sd1", "sd2"]].max(axis=None) < 1e-6  # the age of s04 is missing
    assert rows.loc[whole, "sd1"].mean() < rows.loc[~whole, "sd1"].median()
    covariance = rows[["sd1", "sd2", "cov_1_2"]].to_numpy()
    assert (np.abs(covariance[:, 2]) <= covariance[:, 0] * covariance[:, 1] + 1e-9).all()
    assert rows["distance"].between(0.1, 8).all()
    assert rows["outside"].between(0.0, 5).all()


def test_nothing_is_learnt_from_test_and_validation_patients(done: Path, tmp_path: Path) -> None:
    table = scans()
    workspace = run(tmp_path / "run", table)
    assert weights(workspace) == weights(done)
    in_no_training = [s for s in table["subject"].unique() if all(part_of(done, n)[s] != "train" for n in REPEATS)]
    names = table.loc[table["subject"].isin(in_no_training), "scan"].to_list()
    assert names
    change(workspace, names)
    again(workspace)
    assert weights(workspace) == weights(done)
    one = [name for name in table["scan"] if part_of(done, 1)[name[:3]] == "train"][:1]
    change(workspace, one)
    again(workspace)
    assert weights(workspace)[0] != weights(done)[0]


def test_labels_of_test_patients_reach_neither_embedding_nor_imputation(done: Path, tmp_path: Path) -> None:
    """Those of all patients who are in no training part are swapped: nothing moves but the column of labels."""
    table = scans()
    free = [s for s in table["subject"].unique() if all(part_of(done, n)[s] != "train" for n in REPEATS)]
    swapped = table.assign(
        label=[
            toy_run.CLASSES[toy_run.CLASSES.index(c) ^ (s in free)]
            for s, c in zip(table["subject"], table["label"], strict=True)
        ]
    )
    assert (swapped["label"] != table["label"]).any()
    toy_run.fill(tmp_path, table)  # feature maps follow the true label
    CohortTables(tmp_path / "cohort").save(swapped, toy_run.CLASSES)
    toy_run.finish(CohortTables(tmp_path / "cohort"), **CohortTables(tmp_path / "cohort").contents())
    again(tmp_path)
    before, after = (JointSet(w / "joint").embeddings().drop(columns="label") for w in (done, tmp_path))
    pd.testing.assert_frame_equal(before, after)
    assert list(ImputedSet(done / "impute").read()["sha256"]) == list(ImputedSet(tmp_path / "impute").read()["sha256"])


def test_what_is_missing_is_imputed_and_marked(done: Path) -> None:
    out, table = ImputedSet(done / "impute"), scans()
    made = out.read()
    has = set(zip(table["observation"], table["modality"], strict=True))
    lacking = {(s, m) for s in table["observation"].unique() for m in toy_run.MODALITIES} - has
    for repeat, rows in made.groupby("repeat"):
        assert set(zip(rows["observation"], rows["modality"], strict=True)) == lacking, repeat
    row = made.iloc[0]
    found = out.load(row["file"], row["sha256"])
    assert found.mean.shape == found.sd.shape == (4, 2, 2)
    assert found.draws.shape == (3, 4, 2, 2)
    assert (found.sd > 0).all()
    assert "imputed_" in row["file"]
    with safetensors.safe_open(done / "impute" / row["file"], framework="pt") as file:
        assert file.metadata()["origin"] == "imputed"
    apart = (found.draws - found.mean) / found.sd
    assert 0.3 < float(apart.square().mean().sqrt()) < 2.5
    path = done / "impute" / row["file"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(DamagedError, match="missing or damaged"):
        out.load(row["file"], row["sha256"])
    path.write_bytes(content)


def test_imputed_scores_are_moved_and_conclusions_written(done: Path) -> None:
    """Whose conclusions: class differences of training patients, answers of test patients; 0 moves nothing."""
    out, table = ImputedSet(done / "impute"), scans()
    tipping = out.read("tipping.csv")
    assert list(tipping["modality"].unique()) == list(toy_run.MODALITIES)
    train = [s for s in table["subject"].unique() if part_of(done, 1)[s] == "train"]
    assert (tipping["moved"] == "sick").any()
    for modality, rows in tipping.groupby("modality"):
        has = set(table.loc[table["modality"] == modality, "subject"])
        apart = rows[rows["conclusion"] == "classes apart"]
        sick = set(table.loc[table["label"] == "sick", "subject"])
        lacking = {"all": len(set(train) - has), "sick": len((set(train) - has) & sick)}
        assert apart.groupby("moved")["lacking"].first().to_dict() == {k: v for k, v in lacking.items() if v}
        if lacking["sick"]:
            moves = apart[apart["moved"] == "sick"].set_index("delta")["value"]
            assert moves[1] - moves[0] == pytest.approx(lacking["sick"] / len(set(train) & sick))
        auc = rows[rows["conclusion"] == "AUC"].set_index("delta")
        tested = [s for n in REPEATS for s in table["subject"].unique() if part_of(done, n)[s] == "test"]
        assert (auc["n"] == len(tested)).all()
        assert (auc["lacking"] == sum(s not in has for s in tested)).all()
        still = rows[(rows["delta"] == 0) & rows["conclusion"].isin(["AUC against no move", "answers changed"])]
        assert (still["value"] == 0).all()
    selection = out.read("selection.csv").set_index(["modality", "slope"])
    assert (selection["delta"].xs(2, level="slope") > 0).all()
    assert (selection["delta"].xs(-2, level="slope") < 0).all()
    assert (selection["mean"].abs() < selection["delta"].abs()).all()  # only some have lost it


def test_no_move_and_no_slope_leave_the_tables_empty(done: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "run"
    shutil.copytree(done, workspace)
    again(workspace)
    out = ImputedSet(workspace / "impute")
    assert len(out.read()) > 0
    assert out.read("tipping.csv").empty
    assert out.read("selection.csv").empty


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"deltas": (-1.0, 1.0)}, "0 among them"),
        ({"deltas": (1.0, 0.0)}, "ascending"),
        ({"slopes": (2.0, 2.0)}, "different numbers"),
        ({"slopes": (0.0,)}, "missing at random"),
    ],
)
def test_moves_that_tell_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImputeConfig.model_validate(settings)


def test_quality_is_that_of_hidden_scans_of_test_patients(done: Path) -> None:
    quality = ImputedSet(done / "impute").read("quality.csv")
    table = scans()
    several = table.groupby("observation")["modality"].nunique()
    for repeat in REPEATS:
        rows = quality[quality["repeat"] == repeat]
        tested = [s for s in several.index if part_of(done, repeat)[s] == "test" and several[s] > 1]
        expected = {(r.observation, r.modality) for r in table.itertuples() if r.observation in tested}
        assert set(zip(rows["observation"], rows["modality"], strict=True)) == expected
        assert all(m not in f.split("+") for m, f in zip(rows["modality"], rows["from"], strict=True))
    assert quality["subject"].to_list() == table.drop_duplicates("observation").set_index("observation")["subject"][
        quality["observation"]
    ].to_list()  # fmt: skip
    assert 0.8 < quality["cover_90"].mean() < 0.97
    assert (quality["cover_50"] <= quality["cover_95"]).all()
    assert quality["crps"].between(0.2, 1.5).all()


def test_quality_does_not_look_at_the_scan_that_it_checks(done: Path) -> None:
    """One row made again from the other scans alone."""
    row = ImputedSet(done / "impute").read("quality.csv").iloc[0]
    store = FeatureStore(done / "features")
    data = data_of_repeat(CohortTables(done / "cohort"), SplitTables(done / "split"), store, 1)
    others = data.scans[(data.scans["observation"] != row["observation"]) | (data.scans["modality"] != row["modality"])]
    joint, covariates = JointSet(done / "joint"), covariates_of(CohortTables(done / "cohort").scans())
    coded = CovariateBlocks.from_json((joint.record(1) or {})["covariates"])
    left = dataclasses.replace(data, scans=others)
    given = joint_patients([row["observation"]], left, feature_maps_of(left, store), coded, covariates)
    mean, sd = joint.model(1).impute(given, row["modality"])
    truth = store.load([f"{row['observation']}_{row['modality']}"]).flatten(1).numpy()
    assert gaussian_crps(truth, mean, sd).mean() == pytest.approx(row["crps"], rel=1e-4)
    bare = Patients({name: maps * np.nan for name, maps in given.features.items()}, given.covariates)
    mean, sd = joint.model(1).impute(bare, row["modality"])  # covariates are known to the guess that sees no scan
    assert gaussian_crps(truth, mean, sd).mean() == pytest.approx(row["crps_without"], rel=1e-4)
    assert row["from"].split("+")[-len(given.covariates) :] == list(given.covariates)


def test_features_after_a_relu_are_drawn_and_judged_as_at_least_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MRI's here; the others go below 0, and stay Gaussian."""
    plain = toy_run.feature_map
    monkeypatch.setattr(
        toy_run,
        "feature_map",
        lambda n, m, label: (plain(n, m, label) - 0.5 * (m == "MRI")).clamp_min(-9 * (m != "MRI")),
    )
    workspace = run(tmp_path, scans(), draws=10)
    imputed = ImputedSet(workspace / "impute")
    made = {
        m: [imputed.load(r.file, r.sha256) for r in rows.itertuples()] for m, rows in imputed.read().groupby("modality")
    }
    mri = torch.stack([each.draws for each in made["MRI"]])
    assert (mri >= 0).all()
    assert 0.3 < (mri == 0).float().mean() < 0.8
    mean, sd = (torch.stack([getattr(each, name) for each in made["MRI"]]) for name in ("mean", "sd"))
    assert mri.mean() == pytest.approx(float(mean.mean()), abs=0.05)
    assert mri.var() == pytest.approx(float((sd**2).mean() + mean.var()), rel=0.15)
    assert (made["PET"][0].draws < 0).any()
    quality = imputed.read("quality.csv")
    of = quality["modality"] == "MRI"
    assert (quality.loc[of, "closed_90"] >= quality.loc[of, "cover_90"]).all()
    assert quality.loc[of, "closed_90"].mean() > quality.loc[of, "cover_90"].mean() + 0.01
    assert (quality.loc[~of, "closed_90"] == quality.loc[~of, "cover_90"]).all()
    assert 0.75 < quality.loc[of, "cover_90"].mean() < 0.95


def test_a_model_that_is_not_there_or_damaged_is_said(done: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no joint model of repeat 7"):
        JointSet(done / "joint").model(7)
    workspace = run(tmp_path, scans())
    path = workspace / "joint" / "repeat-1" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    with pytest.raises(DamagedError):
        JointSet(workspace / "joint").model(1)


def test_a_finished_repeat_is_not_fitted_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages import joint as stage

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(stage, "fit_model", refuse)
    before = JointSet(done / "joint").embeddings()
    again(done)
    pd.testing.assert_frame_equal(JointSet(done / "joint").embeddings(), before)


# --- bad input ---


def notes(workspace: Path, stage: str = "joint") -> str:
    return "\n".join((JointSet(workspace / stage).manifest or {})["notes"])


def test_covariates_are_blocks_and_can_be_left_out(done: Path, tmp_path: Path) -> None:
    names = JointSet(done / "joint").model(1).blocks.names
    assert names == ("MRI", "PET", "US", "covariate age", "covariate sex")
    without = run(tmp_path, scans(), covariates=False)
    assert JointSet(without / "joint").model(1).blocks.names == ("MRI", "PET", "US")


def test_a_modality_without_training_scans_is_named(tmp_path: Path) -> None:
    table = scans()
    kept = table[~(learns(table) & (table["modality"] == "PET"))]
    workspace = run_on(tmp_path, table, kept)
    assert "repeat 1: PET: 0 training patients have it, 3 are needed; it is neither used nor imputed" in notes(
        workspace
    )
    made = ImputedSet(workspace / "impute").read()
    assert "PET" not in set(made.loc[made["repeat"] == 1, "modality"])
    table = JointSet(workspace / "joint").embeddings()
    alone = set(kept["observation"]) - set(kept.loc[kept["modality"] != "PET", "observation"])
    rows = table[(table["repeat"] == 1) & table["observation"].isin(alone)]
    assert len(rows) > 0  # they are on the map, and the page says "none"
    assert (rows["has"] == "").all()


def test_one_patient_is_refused(tmp_path: Path) -> None:
    table = scans()
    only = table.loc[learns(table), "subject"].iloc[0]
    with pytest.raises(InputError, match=r"repeat 1: no modality can be learnt: .*1 training patients have it"):
        run_on(tmp_path, table, table[~learns(table) | (table["subject"] == only)])


def test_patients_for_one_score_alone_are_refused(tmp_path: Path) -> None:
    """Four of them give one component, and the map has two directions."""
    table = scans()
    table = table[table["modality"] == "MRI"]
    few = table.loc[learns(scans()).loc[table.index], "subject"].unique()[:4]
    with pytest.raises(InputError, match=r"repeat 1: 4 training patients give one score in all"):
        run_on(
            tmp_path, scans(), table[~learns(scans()).loc[table.index] | table["subject"].isin(few)], covariates=False
        )


def test_without_a_decoder_there_are_no_images_and_that_is_said(done: Path) -> None:
    assert "no images of missing scans: the joint model has no decoder" in notes(done, "impute")
    assert set(ImputedSet(done / "impute").read()["images"]) == {""}


def test_all_complete_leaves_nothing_to_impute(tmp_path: Path) -> None:
    whole = scans()
    rows = []
    for subject, part in whole.groupby("subject"):
        first = part.iloc[0].to_dict()
        rows += [{**first, "modality": m, "scan": f"{subject}_{m}"} for m in toy_run.MODALITIES]
    workspace = run(tmp_path, pd.DataFrame(rows), covariates=False)
    again(workspace, impute={"deltas": (-1, 0, 1), "slopes": (2,)}, covariates=False)
    assert "nothing was imputed" in notes(workspace, "impute")
    out = ImputedSet(workspace / "impute")
    assert all(out.read(name).empty for name in ("imputed.csv", "tipping.csv", "selection.csv"))
    table = JointSet(workspace / "joint").embeddings()
    assert (table[["sd1", "sd2"]].fillna(1) < 1e-6).all(axis=None)


def test_no_patient_with_two_modalities_is_said(tmp_path: Path) -> None:
    table = scans()
    workspace = run(tmp_path, table.drop_duplicates("subject"), covariates=False)
    assert "no training patient has two modalities: links between them come through the class alone" in notes(workspace)
    assert "conditional independence assumed" in notes(workspace)
    assert len(ImputedSet(workspace / "impute").read())


def test_a_modality_that_never_varies_is_named(tmp_path: Path) -> None:
    table = scans()
    toy_run.fill(tmp_path, table)
    store = FeatureStore(tmp_path / "features")
    for name in table.loc[table["modality"] == "US", "scan"]:
        store.save(name, torch.ones(4, 2, 2))
        store.finish(name, "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
    again(tmp_path)
    assert "training scans are alike; there is nothing to learn from; it is neither used nor imputed" in notes(tmp_path)


def test_several_scans_of_a_modality_are_averaged_and_said(tmp_path: Path) -> None:
    table = scans()
    later = table.assign(scan=table["scan"] + "_later", session="later", observation=table["observation"] + "_later")
    more = later[later["modality"] == "MRI"]
    every = pd.concat([table, later, more.assign(scan=more["scan"] + "_again")], ignore_index=True)
    workspace = run(tmp_path, every)
    twice = (learns(table) & (table["modality"] == "MRI")).sum()  # in the sessions that are learnt from
    averaged = "several scans of one modality are averaged before the joint model sees them"
    assert f"{averaged} (times in training: {twice})" in notes(workspace)
    people = table.loc[learns(table), "subject"].nunique()
    assert f"repeat 1: {people} training patients have several sessions; the joint model" in notes(workspace)
    joint = JointSet(workspace / "joint")
    trained = table[learns(table) & (table["modality"] == "PET")]
    counted = (joint.record(1) or {})["patients"]["PET"]  # patients, not sessions
    assert counted == [(trained["label"] == name).sum() for name in toy_run.CLASSES]
    place = joint.model(1).blocks.names.index("PET")
    assert joint.model(1).sums.with_block()[:, place].tolist() == counted


def test_a_patient_with_several_sessions_counts_once(tmp_path: Path) -> None:
    """The numbers are those of a cohort without the other sessions; these are placed and imputed all the same."""
    once = scans().assign(session="ses-10")
    several = once.groupby("observation")["modality"].transform("size") > 1

    def other(table: pd.DataFrame, session: str) -> pd.DataFrame:
        named = {name: table[name] + f"_{session}" for name in ("scan", "observation")}
        return table.assign(session=session, age="40", **named)

    early, late = other(once, "ses-2"), other(once[several].drop_duplicates("observation"), "ses-11")
    moves = {"deltas": (-1, 0, 1), "slopes": (-1, 1)}
    for name, table in (("once", once), ("often", pd.concat([once, early, late], ignore_index=True))):
        toy_run.fill(tmp_path / name, table)
        if name == "often":
            change(tmp_path / name, [*early["scan"], *late["scan"]])
        again(tmp_path / name, impute=moves)
    assert weights(tmp_path / "often") == weights(tmp_path / "once")
    ours, theirs = (JointSet(tmp_path / name / "joint") for name in ("often", "once"))
    for repeat in REPEATS:
        records = [each.record(repeat) or {} for each in (ours, theirs)]
        for fact in ("train_observations", "train_subjects", "validation_subjects", "patients", "covariates"):
            assert records[0][fact] == records[1][fact], fact
    whole = pd.concat([once, early, late])
    placed = ours.embeddings()
    assert set(placed["observation"]) == set(whole["observation"])
    shared = placed[placed["observation"].isin(once["observation"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, theirs.embeddings())
    imputed, alone = (ImputedSet(tmp_path / name / "impute") for name in ("often", "once"))
    assert set(late["observation"]) < set(imputed.read()["observation"])
    pd.testing.assert_frame_equal(imputed.read("selection.csv"), alone.read("selection.csv"))
    tipping = [each.read("tipping.csv").query("conclusion == 'classes apart'") for each in (imputed, alone)]
    pd.testing.assert_frame_equal(*(each.reset_index(drop=True) for each in tipping))
    assert len(tipping[0])


def test_three_classes(tmp_path: Path) -> None:
    table = scans()
    number = table["subject"].str[1:].astype(int)
    toy_run.fill(tmp_path, table)
    CohortTables(tmp_path / "cohort").save(
        table.assign(label=np.array(["well", "sick", "other"])[number % 3]), ("other", "sick", "well")
    )
    toy_run.finish(CohortTables(tmp_path / "cohort"), **CohortTables(tmp_path / "cohort").contents())
    again(tmp_path)
    assert JointSet(tmp_path / "joint").model(1).gaussian.classes == 3


def test_a_public_basis_is_learnt_from_nobody(tmp_path: Path) -> None:
    workspace = run(tmp_path, scans(), basis="public")
    ours, theirs = (JointSet(workspace / "joint").model(n).bases["MRI"].components for n in REPEATS)
    size = min(len(ours), len(theirs))
    np.testing.assert_array_equal(ours[:size], theirs[:size])


def test_training_patients_are_placed_by_the_scores_that_were_learnt_from(done: Path) -> None:
    """Not by those of bases that were made of them, which put them too far out."""
    out = JointSet(done / "joint")
    own, model, rows = out.training_scores(1), out.model(1), out.embeddings()
    rows = rows[(rows["repeat"] == 1) & (rows["split"] == "train")].set_index("observation")
    assert sorted(own) == sorted(rows.index)
    scores = np.stack([own[name] for name in rows.index])
    np.testing.assert_allclose(model.embed_scores(scores)[0][:, 0], rows["e1"], atol=1e-9)
    np.testing.assert_allclose(model.distances_of_scores(scores), rows["distance"], atol=1e-9)
    data = data_of_repeat(
        CohortTables(done / "cohort"), SplitTables(done / "split"), FeatureStore(done / "features"), 1
    )
    covariates = covariates_of(CohortTables(done / "cohort").scans())
    blocks = CovariateBlocks.from_json((out.record(1) or {})["covariates"])
    maps = feature_maps_of(data, FeatureStore(done / "features"))
    naive = model.scores(joint_patients(list(rows.index), data, maps, blocks, covariates))
    assert (np.isnan(naive) == np.isnan(scores)).all()
    part = model.blocks.slice_of("MRI")
    assert np.nanvar(naive[:, part], axis=0).sum() > np.nanvar(scores[:, part], axis=0).sum()


def test_training_patients_are_imputed_from_the_scores_that_were_learnt_from(done: Path) -> None:
    """Those of bases that were made of them lie too far out, and what is imputed from them does too."""
    joint, out = JointSet(done / "joint"), ImputedSet(done / "impute")
    made, own, model = out.read(), joint.training_scores(1), joint.model(1)
    row = made[(made["repeat"] == 1) & (made["split"] == "train")].iloc[0]
    found = out.load(row["file"], row["sha256"])
    mean, sd = model.impute_scores(own[row["observation"]][None], row["modality"])
    np.testing.assert_allclose(found.mean.flatten(), mean[0], rtol=1e-5)
    np.testing.assert_allclose(found.sd.flatten(), sd[0], rtol=1e-5)


def test_synthetic_patients_are_neither_learnt_from_nor_placed(tmp_path: Path) -> None:
    """They would count as patients where the model says how sure it is."""
    table = scans()
    number = table["subject"].str[1:].astype(int)
    made = number % 5 == 4  # in training in both repeats
    table = table.assign(origin=np.where(made, "synthetic", ""), judged=np.where(made, "passed", ""))
    workspace = run(tmp_path, table)
    drawn, out = set(table.loc[made, "subject"]), JointSet(workspace / "joint")
    for repeat in REPEATS:
        record = out.record(repeat) or {}
        assert not drawn & {*record["train_observations"], *record["train_subjects"]}
        assert out.model(repeat).sums.count == len(record["train_observations"]) > 0
    assert not drawn & set(out.embeddings()["subject"])
    assert not drawn & set(ImputedSet(workspace / "impute").read()["subject"])
