"""The stage update, and --forget: versions, who is in, what is refused, what is removed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_run

from console.errors import InputError, PreconditionError
from pipeline.cli.forget import forget
from pipeline.cli.main import main
from pipeline.runner.per_scan import scan_contents
from pipeline.runner.run import run_stage
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.update import STAGE as UPDATE
from pipeline.store.base import ArtifactError, read_record, write_record
from pipeline.store.contribution import ContributionSet
from pipeline.store.features import FeatureStore
from pipeline.store.synthetic import SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.update import UpdateSet, expired_beside, expired_calibration
from pipeline.store.volumes import VolumeSet
from synthesis.updating import apart

pytestmark = pytest.mark.usefixtures("one_thread")
TABLE = toy_run.scans(60).assign(split="")
FIRST = TABLE[TABLE["subject"] < "s40"]


def run(workspace: Path, table: pd.DataFrame, **settings: object) -> UpdateSet:
    """Fill the workspace with these scans, keeping what the stage left, and run it."""
    toy_run.fill(workspace, table)
    return again(workspace, **settings)


def again(workspace: Path, **settings: object) -> UpdateSet:
    run_stage(UPDATE, toy_run.settings(update=settings), workspace, device="cpu")
    return UpdateSet(workspace / "update")


def notes(out: UpdateSet) -> str:
    return "\n".join((out.manifest or {})["notes"])


def versions(out: UpdateSet) -> list[dict[str, Any]]:
    return list((out.record() or {})["versions"])


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A workspace after two versions: 40 patients, then 20 more."""
    workspace = tmp_path_factory.mktemp("update")
    run(workspace, FIRST)
    run(workspace, TABLE)
    return workspace


@pytest.fixture
def copied(twice: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(twice, tmp_path / "run"))


def test_versions_say_who_came_and_who_is_in(twice: Path) -> None:
    out = UpdateSet(twice / "update")
    one, two = versions(out)
    everybody = sorted(TABLE["subject"].unique())
    assert one["in"] == one["added"] == everybody[:40]
    assert (two["in"], two["added"]) == (everybody, everybody[40:])
    log = out.log()
    assert log.groupby("version")["how"].unique().map(list).to_dict() == {1: ["held out"], 2: ["before it was learnt"]}
    assert log["subject"].to_list() == everybody
    assert log[["p_well", "p_sick"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(60))
    chance = np.where(log["truth"] == "sick", log["p_sick"], log["p_well"])
    np.testing.assert_allclose(log["log_loss"], -np.log(chance))
    assert "its calibration, its conformal sets" in notes(out)
    assert two["drift"]["newest"] == 20


def test_the_update_is_the_model_of_all_at_once(twice: Path, tmp_path: Path) -> None:
    at_once, updated = run(tmp_path, TABLE).state(), UpdateSet(twice / "update").state()
    assert at_once is not None
    assert updated is not None
    assert at_once.subjects == updated.subjects
    assert apart(at_once.sums, updated.sums) < 1e-10
    assert versions(UpdateSet(twice / "update"))[1]["apart"] < 1e-10


def test_without_anybody_new_the_version_stays(copied: Path) -> None:
    before = (UpdateSet(copied / "update").record() or {})["sha256"]
    out = again(copied)
    assert len(versions(out)) == 2
    assert "nobody is new; version 2 stays" in notes(out)
    assert (out.record() or {})["sha256"] == before
    assert len(out.log()) == 60


def test_a_new_session_and_a_new_scan_replace_what_was_there(copied: Path) -> None:
    later = TABLE[TABLE["subject"] == "s03"].assign(session="2", observation="s03_2")
    later["scan"] = later["scan"] + "_2"
    toy_run.fill(copied, pd.concat([TABLE, later], ignore_index=True))
    store = FeatureStore(copied / "features")
    changed = [*later["scan"], "s05_PET" if (TABLE["scan"] == "s05_PET").any() else "s05_US"]
    for name in changed:
        store.save(name, torch.full((4, 2, 2), 0.3))
        store.finish(name, "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
    out = again(copied)
    assert versions(out)[2]["replaced"] == ["s03", "s05"]
    assert versions(out)[2]["added"] == []
    state = out.state()
    assert state is not None
    assert len(state.subjects) == 60
    assert apart(state.sums, state.anew()) < 1e-10
    assert "1 patients have several sessions; the last one counts" in notes(out)


def test_an_older_manifest_takes_nothing_back(copied: Path) -> None:
    """Neither a later session, nor that an exported model of before has expired."""
    out = UpdateSet(copied / "update")
    cohort = CohortTables(copied / "cohort")
    early = cohort.fingerprint
    later = TABLE[TABLE["subject"] == "s03"].assign(session="2", observation="s03_2")
    later["scan"] = later["scan"] + "_2"
    toy_run.fill(copied, pd.concat([TABLE, later], ignore_index=True))
    store = FeatureStore(copied / "features")
    for name in later["scan"]:
        store.save(name, torch.full((4, 2, 2), 0.3))
        store.finish(name, "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
    again(copied)
    newest, record = out.state(), out.record() or {}
    assert record["sessions"]["s03"] == "2"
    assert record["cohorts"] == [cohort.fingerprint]
    toy_run.fill(copied, TABLE)
    again(copied)
    after = out.state()
    assert newest is not None
    assert after is not None
    np.testing.assert_array_equal(after.rows, newest.rows)
    assert (out.record() or {})["cohorts"] == record["cohorts"] != [early]
    assert "1 patients (s03 among them) were learnt from a later session" in notes(out)


@pytest.mark.parametrize("back", [57, 60])
def test_nearly_everybody_comes_back(copied: Path, back: int) -> None:
    """Three or none are left who did not, too few to predict the others by: they are predicted by folds."""
    who = sorted(TABLE["subject"].unique())[:back]
    later = TABLE[TABLE["subject"].isin(who)].assign(session="2", observation=lambda table: table["subject"] + "_2")
    later["scan"] = later["scan"] + "_2"
    toy_run.fill(copied, pd.concat([TABLE, later], ignore_index=True))
    store, random = FeatureStore(copied / "features"), torch.Generator().manual_seed(0)
    for name in later["scan"]:
        store.save(name, torch.randn(4, 2, 2, generator=random))
        store.finish(name, "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
    last = versions(again(copied))[2]
    assert (last["replaced"], last["how"]) == (who, "held out")


def test_the_tenth_session_is_later_than_the_second(tmp_path: Path) -> None:
    later = TABLE[TABLE["subject"] == "s03"].assign(session="ses-10", observation="s03_ses-10", label="well")
    later["scan"] = later["scan"] + "_ses-10"
    early = TABLE.assign(session=TABLE["session"].mask(TABLE["subject"] == "s03", "ses-2"))
    assert set(early.loc[early["subject"] == "s03", "label"]) == {"sick"}
    toy_run.fill(tmp_path, pd.concat([early, later], ignore_index=True))
    log = again(tmp_path).log().set_index("subject")
    assert log.loc["s03", "truth"] == "well"


def test_scans_that_are_prepared_otherwise_are_not_mixed_with_earlier_ones(copied: Path) -> None:
    """Other voxels give other scores, with the same backbone and the same settings of the stage features."""

    def prepared(spacing_mm: float, normalise: str = "minmax") -> None:
        volumes, cohort = VolumeSet(copied / "preprocess"), CohortTables(copied / "cohort")
        made_from = {"version": 1, "settings": {"spacing_mm": spacing_mm, "brain_ml": [1, spacing_mm]}}
        toy_run.finish(volumes, fingerprint=f"volumes {spacing_mm}", made_from=made_from)
        modalities = {"modalities": {"MRI": {"normalise": normalise}}}
        toy_run.finish(cohort, **cohort.contents(), made_from={"version": 1, "settings": modalities})

    path = copied / "update" / "versions.json"
    older = {name: each for name, each in (read_record(path) or {}).items() if name != "prepared"}
    write_record(path, older)  # as an earlier program left it
    toy_run.fill(copied, TABLE)
    prepared(1.0)
    assert "nobody is new" in notes(again(copied))
    toy_run.fill(copied, FIRST)
    prepared(2.0)
    with pytest.raises(PreconditionError, match=r"how every scan is prepared .* changed.*20 patients who are in"):
        again(copied)
    prepared(1.0, "robust")
    with pytest.raises(PreconditionError, match=r"how MRI is prepared"):
        again(copied)
    toy_run.fill(copied, TABLE)
    prepared(2.0)
    out = again(copied)
    assert "how every scan is prepared" in notes(out)
    assert [version["how"] for version in versions(out)] == ["held out", "before it was learnt", "held out"]
    assert out.log().groupby("version").size().to_list() == [40, 20, 60]  # what was said before stays in the log
    assert versions(out)[2]["drift"]["newest"] == 0  # and is not held against the new scores


def test_who_leaves_the_manifest_stays_in_and_is_said(copied: Path) -> None:
    out = run(copied, TABLE[TABLE["subject"] != "s10"])
    assert "s10" in versions(out)[-1]["in"]
    out = run(copied, pd.concat([TABLE[TABLE["subject"] != "s10"], new_patient()], ignore_index=True))
    assert versions(out)[2]["absent"] == 1
    assert "1 patients who are in are not in the manifest any more; they stay in" in notes(out)


def new_patient() -> pd.DataFrame:
    row = TABLE[TABLE["scan"] == "s00_MRI"].iloc[0].to_dict()
    return pd.DataFrame([row | {"scan": "s70_MRI", "subject": "s70", "observation": "s70", "sha256": "70"}])


def test_other_scores_start_anew_only_if_everybody_is_there(copied: Path) -> None:
    out = again(copied, components=2)
    assert "everybody is scored and learnt from anew" in notes(out)
    assert versions(out)[-1]["added"] == sorted(TABLE["subject"].unique())
    state = out.state()
    assert state is not None
    assert state.sums.blocks.sizes == (2, 2, 2)
    with pytest.raises(PreconditionError, match=r"20 patients who are in are not in the manifest any more \(s40"):
        run(copied, FIRST, components=3)


def test_other_classes_and_a_damaged_history_are_refused(copied: Path) -> None:
    toy_run.fill(copied, TABLE)
    cohort = toy_run.CohortTables(copied / "cohort")
    cohort.save(TABLE, toy_run.CLASSES[::-1])
    toy_run.finish(cohort, **cohort.contents())
    with pytest.raises(PreconditionError, match="sums of other classes do not go together"):
        again(copied)
    toy_run.fill(copied, TABLE)
    path = next((copied / "update").glob("state-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    with pytest.raises(ArtifactError, match="not as it was written. Bring the folder"):
        again(copied)
    (copied / "update" / "versions.json").write_text("{}")
    with pytest.raises(ArtifactError, match="the history of all updates"):
        again(copied)


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="no joint model can be learnt"):
        run(tmp_path, TABLE[TABLE["subject"] < "s02"])


def test_drift_is_said(copied: Path) -> None:
    random = torch.Generator().manual_seed(0)
    rows = [new_patient().assign(scan=f"s{n}_MRI", subject=f"s{n}", observation=f"s{n}") for n in range(70, 90)]
    toy_run.fill(copied, pd.concat([TABLE, *rows], ignore_index=True))
    store = FeatureStore(copied / "features")
    for number in range(70, 90):
        store.save(f"s{number}_MRI", torch.randn(4, 2, 2, generator=random) + 4)
        store.finish(f"s{number}_MRI", "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
    out = again(copied)
    assert versions(out)[2]["drift"]["found"]
    assert "drift: the newest 20 patients are farther from the model than the 60 before them" in notes(out)


# --- forgetting ---


def test_who_is_forgotten_was_never_seen(copied: Path, tmp_path: Path, small_model: Callable[..., Path]) -> None:
    run_stage(JOINT, toy_run.settings(joint={"draws": 2, "decoder": "none"}), copied, device="cpu")
    train = (read_record(copied / "joint" / "repeat-1" / "record.json") or {})["train_subjects"]
    gone = train[0]
    page = copied / "report" / "viewer" / f"{gone}_MRI.html"
    page.parent.mkdir(parents=True)
    page.write_text("slices")
    (copied / "report" / "report.html").write_text(f"of {gone}")
    write_record(copied / "report" / "manifest.json", {"made_from": {}, "files": {}})
    for scan in TABLE.loc[TABLE["subject"] == gone, "scan"]:
        (copied / "preprocess" / scan).mkdir(parents=True)
    bundle = small_model(tmp_path / "model")
    said = "\n".join(forget(copied, gone, [bundle, tmp_path]))
    out = UpdateSet(copied / "update")
    left, never = out.state(), run(tmp_path / "never", TABLE[TABLE["subject"] != gone]).state()
    assert left is not None
    assert never is not None
    assert left.subjects == never.subjects
    assert apart(left.sums, never.sums) < 1e-10
    assert "taken out of the sums by subtraction; 59 patients are left" in said
    assert not list((copied / "features").glob(f"{gone}_*"))
    assert not list((copied / "preprocess").glob(f"{gone}_*"))
    assert not page.exists()
    assert "joint: learnt from the subject, so it is removed and has to be refitted (repeat-1" in said
    assert not (copied / "joint" / "repeat-1").exists()
    assert not (copied / "report" / "manifest.json").exists()
    assert f"{bundle}: does not hold the subject" in said
    assert f"{tmp_path}: cannot be asked" in said
    for path in (copied / "update").iterdir():
        assert gone.encode() not in path.read_bytes(), path
    assert [each["erased"] for each in versions(out)] == [1 if gone < "s40" else 0, 1]
    with pytest.raises(PreconditionError, match="1 patients in the manifest were to be forgotten"):
        run(copied, TABLE)
    assert len(versions(run(copied, TABLE[TABLE["subject"] != gone]))) == 2
    with pytest.raises(InputError, match="knows no subject 's99'"):
        forget(copied, "s99")


def test_comparisons_and_files_that_name_the_patient_are_removed(copied: Path) -> None:
    """Networks that impute, what they drew, and tables of stages that the next run does not make by itself."""
    gone = in_training(copied, "train")
    task = copied / "baselines" / "missing" / "pix2pix" / "repeat-1"
    made = [
        task / "MRI-to-PET" / "checkpoint.safetensors",
        task / "imputed" / f"{gone}_PET.nii.gz",
        copied / "baselines" / "imputed.png",
        copied / "hypothesise" / "patients.csv",
        copied / "joint" / "embeddings.csv",
    ]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"subject\n{gone}\n")
    other = copied / "hypothesise" / "effects.csv"
    other.write_text("clamp\nMRI\n")
    said = "\n".join(forget(copied, gone))
    assert not [path for path in made if path.exists()]
    assert other.exists()
    assert "baselines: removed, since it may show the subject or be fitted to it: missing" in said
    assert "baselines: removed, since it may show the subject or be fitted to it: imputed.png" in said
    assert (
        "removed from hypothesise (patients.csv); joint (embeddings.csv): name these stages to have them again" in said
    )
    assert "split keeps the id until --new-splits" in said


def test_a_bundle_that_holds_the_patient_is_named(copied: Path, small_model: Callable[..., Path]) -> None:
    bundle = small_model(copied / "export" / "bundle")
    held = json.loads((bundle / "seen.json").read_text())
    from cohort.names import canonical
    from pipeline.deployment.bundle import subject_hash

    salt = bytes.fromhex(held["salt"])
    held["subjects"][subject_hash(canonical("s12"), salt, held["rounds"])] = "train"
    (bundle / "seen.json").write_text(json.dumps(held))
    said = "\n".join(forget(copied, "s12"))
    assert f"{bundle}: holds the subject (train)" in said
    assert "its calibration has expired" in said


def test_forget_from_the_command_line(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: toy\ncohort: {manifest: phantoms, modalities: {MRI: {}}}\n")
    argv = ["--config", str(config), "--workspace", str(copied), "--forget", "s07"]
    assert main(argv) == 2
    assert "no settings.yaml, so it may be something else" in capsys.readouterr().err
    assert main([*argv[:3], str(tmp_path / "nothing"), *argv[4:]]) == 2
    assert "is no workspace" in capsys.readouterr().err
    (copied / "settings.yaml").write_text("name: toy\n")
    write_record(copied / "workspace.json", {"format": 2})
    assert main([*argv, "--stages", "update"]) == 2
    assert "--forget runs no stage" in capsys.readouterr().err
    assert main(argv) == 0
    assert "taken out of the sums" in capsys.readouterr().out


def test_who_left_the_manifest_first_is_forgotten_too(copied: Path) -> None:
    """The rows are gone, and with them the table that says which results are the patient's."""
    gone, other = "s01", "s10"
    for scan in TABLE.loc[TABLE["subject"].isin([gone, other]), "scan"]:
        (copied / "preprocess" / scan).mkdir(parents=True, exist_ok=True)
    table = TABLE[TABLE["subject"] != gone]
    cohort = CohortTables(copied / "cohort")
    cohort.save(table, toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    assert list((copied / "features").glob(f"{gone}_*"))
    forget(copied, gone)
    for stage in ("features", "preprocess"):
        assert not list((copied / stage).glob(f"{gone}_*"))
        assert list((copied / stage).glob(f"{other}_*"))
    said = "\n".join(forget(copied, gone))  # the frozen splits still know the name
    assert "in no sums" in said


def drawn_in(workspace: Path) -> SyntheticCohort:
    """Synthetic patients, as an earlier version of the stage left them: nobody is noted."""
    drawn = SyntheticCohort(workspace / "synthesise")
    (drawn.folder / "images").mkdir(parents=True)
    (drawn.folder / "features-0.safetensors").write_bytes(b"maps")
    (drawn.folder / "synthesis.json").write_text('{"repeat": 1}')
    return drawn


def test_what_was_drawn_from_the_patient_and_what_was_sent_is_removed(copied: Path) -> None:
    splits = pd.read_csv(copied / "split" / "splits.csv", dtype={"subject": str})
    first = splits[splits["repeat"] == 1].set_index("split")["subject"]
    inside, outside = first["train"].iloc[0], first["test"].iloc[0]
    drawn = drawn_in(copied).folder
    now = SplitTables(copied / "split").fingerprint
    write_record(drawn / "manifest.json", {"made_from": {"inputs": {"split": now}}, "files": {}})
    sums = copied / "contribute" / "contribution.safetensors"
    sums.parent.mkdir()
    sums.write_bytes(b"sums")
    for name in ("impute/repeat-1/beside.safetensors", "judge/wall-0-real.png", "judge/wall-0-synthetic.png"):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_bytes(b"shown")
    summed = {"MRI": [[inside, f"{inside}_1", "hash"], ["other", "other_1", "hash"]]}
    release = {"id": "4711", "train_subjects": [inside, "other"], "summed": summed, "epsilon": None, "delta": None}
    write_record(copied / "contribute" / "sent.json", {"releases": [release]})
    said = "\n".join(forget(copied, outside))
    assert (drawn / "images").exists()
    assert sums.exists()
    assert "releases" not in said
    said = "\n".join(forget(copied, inside))
    assert sorted(path.name for path in drawn.iterdir()) == ["synthesis.json"]
    assert not sums.exists()
    assert "synthesise: its patients were drawn from the subject among others" in said
    assert "contribute: the sums of 1 releases hold the subject (4711)" in said
    assert [path.name for path in (copied / "judge").iterdir()] == ["wall-0-synthetic.png"]
    assert not list((copied / "impute").iterdir())
    (release,) = ContributionSet(copied / "contribute").releases()
    assert release["forgotten"]
    assert inside not in str(release)
    assert release["summed"]["MRI"][1] == ["other", "other_1", "hash"]


def in_training(workspace: Path, split: str) -> str:
    splits = SplitTables(workspace / "split").splits()
    return str(splits.query("repeat == 1 and split == @split")["subject"].iloc[0])


@pytest.mark.parametrize("by_now", ["test", "nowhere"])
def test_what_was_drawn_before_new_splits_is_found(copied: Path, by_now: str) -> None:
    """By the new splits the patient is tested, or is no patient any more; the drawn ones were learnt from him."""
    gone, stays = in_training(copied, "train"), in_training(copied, "test")
    drawn = SyntheticCohort(copied / "synthesise")
    drawn.begin([gone])
    (drawn.folder / "images" / "syn.png").write_bytes(b"drawn")
    (drawn.folder / "synthesis.json").write_text('{"repeat": 1}')
    assert gone.encode() not in (drawn.folder / "learnt_from.json").read_bytes()
    split = SplitTables(copied / "split")
    rows = split.splits()
    (split.folder / "splits.csv").unlink()
    rows = rows.assign(split=rows["split"].where(rows["subject"] != gone, "test")) if by_now == "test" else rows[:0]
    split.save_table("splits.csv", rows)
    assert not [line for line in forget(copied, stays) if line.startswith("synthesise")]
    assert (drawn.folder / "images").exists()
    assert "synthesise: its patients were drawn from the subject among others" in "\n".join(forget(copied, gone))
    assert sorted(path.name for path in drawn.folder.iterdir()) == ["synthesis.json"]


def test_a_patient_of_whom_nothing_but_drawn_patients_is_left_can_be_forgotten(copied: Path) -> None:
    SyntheticCohort(copied / "synthesise").begin(["gone"])
    assert "synthesise: its patients were drawn from the subject" in "\n".join(forget(copied, "gone"))
    with pytest.raises(InputError, match="knows no subject 'gone'"):
        forget(copied, "gone")


def test_if_nobody_noted_from_whom_was_drawn_and_splits_are_others_it_is_removed(copied: Path) -> None:
    tested = in_training(copied, "test")
    drawn = drawn_in(copied)
    now = SplitTables(copied / "split").fingerprint
    for split, removed in ((now, False), ("others", True)):
        write_record(drawn.folder / "manifest.json", {"made_from": {"inputs": {"split": split}}, "files": {}})
        said = "\n".join(forget(copied, tested))
        assert (not drawn.folder.joinpath("images").exists()) == removed
        assert ("it may have been the subject, so they are removed" in said) == removed


def test_pictures_of_patients_of_earlier_splits_are_removed(copied: Path) -> None:
    """A patient who is in the sums alone, and may have been in earlier splits."""
    wall = copied / "judge" / "wall-0-real.png"
    wall.parent.mkdir()
    split = SplitTables(copied / "split")
    known = split.fingerprint
    rows = split.splits()
    split.save_table("splits.csv", rows[~rows["subject"].isin(["s02", "s03"])])
    for gone, seen, removed in (("s02", known, False), ("s03", "others", True)):
        wall.write_bytes(b"shown")
        write_record(copied / "judge" / "manifest.json", {"made_from": {"inputs": {"split": seen}}, "files": {}})
        forget(copied, gone)
        assert wall.exists() != removed


def test_forgetting_a_patient_keeps_how_scans_were_prepared(copied: Path) -> None:
    out = UpdateSet(copied / "update")
    before = out.record() or {}
    assert {"prepared", "cohorts"} <= before.keys()
    forget(copied, "s03")
    after = out.record() or {}
    assert all(after[name] == before[name] for name in ("prepared", "cohorts", "classes", "scores_of"))


def test_a_patient_of_whom_nothing_but_a_release_is_left_can_be_forgotten(copied: Path) -> None:
    with pytest.raises(InputError, match="knows no subject 'gone'"):
        forget(copied, "gone")
    (copied / "contribute").mkdir()
    release = {"id": "4711", "train_subjects": ["gone"], "epsilon": None}
    write_record(copied / "contribute" / "sent.json", {"releases": [release]})
    assert "the sums of 1 releases hold the subject" in "\n".join(forget(copied, "gone"))


def test_an_exported_model_of_before_has_an_expired_calibration(copied: Path) -> None:
    now = UpdateSet(copied / "update").manifest or {}
    bundle = copied / "export" / "bundle"
    for cohort, expected in (("older", True), (now["made_from"]["inputs"]["cohort"], False)):
        write_record(copied / "export" / "manifest.json", {"made_from": {"inputs": {"cohort": cohort}}, "files": {}})
        assert bool(expired_calibration(copied)) == expected
        assert bool(expired_beside(bundle)) == expected
    assert not expired_calibration(copied / "elsewhere")
    assert not expired_beside(copied / "copy of the bundle")


def test_a_changed_manifest_without_new_patients_expires_nothing(copied: Path) -> None:
    before = (UpdateSet(copied / "update").manifest or {})["made_from"]["inputs"]["cohort"]
    toy_run.fill(copied, TABLE.assign(age="70"))
    again(copied)
    now = (UpdateSet(copied / "update").manifest or {})["made_from"]["inputs"]["cohort"]
    assert now != before
    for cohort in (before, now):
        write_record(copied / "export" / "manifest.json", {"made_from": {"inputs": {"cohort": cohort}}, "files": {}})
        assert not expired_calibration(copied)
