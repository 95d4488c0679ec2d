"""Synthetic patients from the command line: drawn from training patients alone, judged, released, trained on only."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers import toy_run
from scipy import ndimage
from scipy.spatial.distance import cdist

from console.errors import PreconditionError
from files.reading import file_sha256
from intake.pseudonyms import read_or_make_key
from pipeline.cli import watermark
from pipeline.cli.main import main
from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import scan_contents
from pipeline.specs.judge import JudgeConfig
from pipeline.specs.synthesise import SynthesiseConfig
from pipeline.stages.judge import MOST, Comparisons, _principal
from pipeline.stages.report import _synthetic
from pipeline.stages.synthesise import DESCRIPTION, synthesise
from pipeline.store.base import Artifact, ArtifactError
from pipeline.store.features import FeatureStore
from pipeline.store.made_images import image_file
from pipeline.store.marking import Marker
from pipeline.store.synthetic import JudgementTables, SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import data_of_repeat
from pipeline.training.unseen_space import PICTURES
from preprocessing.encoding import png_pixels
from synthesis.latent import LatentModel

pytestmark = pytest.mark.usefixtures("thin_backbone", "one_thread")
PATIENTS = 40


@pytest.fixture(scope="module")
def run(picture_cohort: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Runs stages of a study of pictures, and has drawn and judged synthetic patients."""
    folder = tmp_path_factory.mktemp("synthetic")
    config = picture_cohort(folder / "data", subjects=40)
    table = pd.read_csv(folder / "data" / "cohort.csv")
    number = table["subject"].str[1:].astype(int)
    table.assign(age=60 + number % 17, sex=np.where(number % 3, "F", "M")).to_csv(
        folder / "data" / "cohort.csv", index=False
    )

    def call(*words: str, workspace: str = "run", settings: Path = config) -> int:
        return main(["--config", str(settings), "--workspace", str(folder / workspace), "--quiet", *words])

    call.folder, call.config = folder, config  # type: ignore[attr-defined]
    words = ("--synthesise.patients", str(PATIENTS), "--synthesise.pixels", "16", "--synthesise.covariates", "true")
    assert call("--stages", "synthesise,judge", *words) == 0
    return call


def with_real(run: Callable[..., int], manifest: Path) -> Path:
    """Write a manifest of the real and the synthetic patients, and a config that names it."""
    folder: Path = run.folder  # type: ignore[attr-defined]
    real = pd.read_csv(folder / "data" / "cohort.csv", dtype=str)
    made = pd.read_csv(manifest, dtype=str)
    real["path"] = [str(folder / "data" / path) for path in real["path"]]
    made["path"] = [str((manifest.parent / path).resolve()) for path in made["path"]]
    mixed = folder / f"mixed-{manifest.parent.name}.csv"
    pd.concat([real, made]).to_csv(mixed, index=False)
    settings = yaml.safe_load(run.config.read_text())  # type: ignore[attr-defined]
    settings["cohort"]["manifest"] = str(mixed)
    (path := folder / f"{mixed.stem}.yaml").write_text(yaml.safe_dump(settings))
    return path


def test_the_manifest_has_every_image_with_label_covariates_and_origin(run: Callable[..., int]) -> None:
    folder = run.folder / "run"  # type: ignore[attr-defined]
    table = pd.read_csv(folder / "synthesise" / "manifest.csv", dtype=str)
    assert set(table["origin"]) == {"synthetic"}
    assert set(table["judged"]) == {"no"}
    assert set(table["class"]) == {"well", "sick"}
    assert set(table["sex"]) == {"F", "M"}
    assert table["age"].astype(float).between(40, 100).all()
    assert table["subject"].nunique() == PATIENTS
    assert table["subject"].str.startswith("synthetic-").all()
    for path in table["path"]:
        image = folder / "synthesise" / path
        assert png_pixels(image.read_bytes()).shape == (16, 16, 3)
        said = json.loads(image.with_suffix(".json").read_text())
        assert said["origin"] == "synthetic"
        assert said["patient"] is None
    low = SyntheticCohort(folder / "synthesise").features("low")
    assert low.shape[1:] == (64, 7, 7)  # of the thin backbone
    store = SyntheticCohort(folder / "synthesise")
    assert store.integrity_error() == ""
    aside = image.rename(folder / "aside")
    assert store.integrity_error() == "1 images are missing"
    aside.rename(image)
    judged = pd.read_csv(folder / "judge" / "manifest.csv", dtype=str)
    assert set(judged["judged"]) == {"passed"}
    assert all((folder / "judge" / path).is_file() for path in judged["path"])


def test_whom_the_patients_were_learnt_from_is_known_and_not_named(run: Callable[..., int]) -> None:
    folder = run.folder / "run"  # type: ignore[attr-defined]
    splits = SplitTables(folder / "split").splits().query("repeat == 1").set_index("subject")["split"]
    made = SyntheticCohort(folder / "synthesise")
    for subject, split in splits.items():
        assert made.learnt_from(str(subject)) == (split == "train")
        assert str(subject) not in (folder / "synthesise" / "learnt_from.json").read_text()
    assert made.learnt_from("somebody") is False


def test_the_label_and_the_image_belong_together(run: Callable[..., int]) -> None:
    folder = run.folder / "run" / "synthesise"  # type: ignore[attr-defined]
    table = pd.read_csv(folder / "manifest.csv", dtype=str).query("modality == 'low'")
    red = np.array([png_pixels((folder / path).read_bytes())[..., 0].mean() for path in table["path"]])
    ill = (table["class"] == "sick").to_numpy()
    assert red[ill].min() > red[~ill].max()  # as bright as in the real pictures, 90 levels apart


def test_judgement_is_written_in_all_spaces(run: Callable[..., int]) -> None:
    facts = json.loads((run.folder / "run" / "judge" / "judgement.json").read_text())  # type: ignore[attr-defined]
    spaces = {(each["space"], each["modality"]) for each in facts["judgements"]}
    assert spaces == {(space, name) for space in ("features", "images", PICTURES) for name in ("low", "high")}
    assert facts["left_out"] == []
    assert all(0 < each["likelihood"]["p"] <= 1 for each in facts["judgements"])
    assert facts["transfer"]["generated_auc"] > 0.9
    assert len(list((run.folder / "run" / "judge").glob("wall-*.png"))) == 4  # type: ignore[attr-defined]


def test_synthetic_patients_are_trained_on_and_tested_never(run: Callable[..., int]) -> None:
    folder: Path = run.folder  # type: ignore[attr-defined]
    config = with_real(run, folder / "run" / "judge" / "manifest.csv")
    assert run("--stages", "report", workspace="mixed", settings=config) == 0
    splits = pd.read_csv(folder / "mixed" / "split" / "splits.csv")
    made = splits["subject"].str.startswith("synthetic-")
    assert made.sum() == 2 * PATIENTS
    assert set(splits.loc[made, "split"]) == {"train"}
    alone = pd.read_csv(folder / "run" / "split" / "splits.csv")
    pd.testing.assert_frame_equal(splits[~made].reset_index(drop=True), alone)  # real patients are where they were
    for path in (folder / "mixed").glob("c*/*predictions*.csv"):
        assert not pd.read_csv(path)["subject"].str.startswith("synthetic-").any(), path
    assert "40 subjects" in (folder / "mixed" / "report" / "report.html").read_text()
    said = json.loads((folder / "mixed" / "split" / "manifest.json").read_text())["notes"]
    assert any("other repeats test some of these: results there look better" in note for note in said)
    assert run("--stages", "split", workspace="mixed", settings=config) == 0  # frozen ones hold


def test_what_was_not_judged_is_refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    config = with_real(run, run.folder / "run" / "synthesise" / "manifest.csv")  # type: ignore[attr-defined]
    assert run("--stages", "cohort", workspace="refused", settings=config) == 2
    assert "run --stages judge where it was made" in capsys.readouterr().err


def test_what_was_made_anew_after_it_was_judged_is_refused_and_not_shown(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict is about files, and stays with these files."""
    folder: Path = run.folder  # type: ignore[attr-defined]
    shutil.copytree(folder / "run", folder / "anew")
    manifest = folder / "anew" / "judge" / "manifest.csv"
    words = ["--synthesise.patients", str(PATIENTS), "--synthesise.pixels", "16", "--synthesise.covariates", "true"]
    assert run("--stages", "synthesise,judge", *words, workspace="anew") == 0
    judged = pd.read_csv(manifest, dtype=str)
    assert set(judged["sha256"]) == {file_sha256(manifest.parent / path) for path in judged["path"]}
    assert run("--stages", "cohort", workspace="taken", settings=with_real(run, manifest)) == 0
    now = {
        name: Artifact(folder / "anew" / name).fingerprint
        for name in ("cohort", "split", "preprocess", "features", "synthesise")
    }
    assert _synthetic(JudgementTables(folder / "anew" / "judge"), now) is not None
    assert run("--stages", "synthesise", *words, "--synthesise.seed", "7", workspace="anew") == 0
    assert set(pd.read_csv(manifest)["judged"]) == {"passed"}  # the files below it are others
    there = [(manifest.parent / path).is_file() for path in judged["path"]]
    judged[there].to_csv(manifest, index=False)
    config = with_real(run, manifest)
    assert run("--stages", "cohort", workspace="refused", settings=config) == 2
    said = capsys.readouterr().err
    assert "the synthetic scan synthetic-00001_" in said
    assert "it was made anew after it was judged: run judge again where it was made" in said
    judged[there].drop(columns="sha256").to_csv(manifest, index=False)
    assert run("--stages", "cohort", workspace="refused", settings=with_real(run, manifest)) == 2
    assert "the manifest does not say which file was judged" in capsys.readouterr().err
    now["synthesise"] = SyntheticCohort(folder / "anew" / "synthesise").fingerprint
    assert _synthetic(JudgementTables(folder / "anew" / "judge"), now) is None


def test_a_judgement_that_fails_leaves_no_earlier_verdict(run: Callable[..., int]) -> None:
    folder: Path = run.folder  # type: ignore[attr-defined]
    shutil.copytree(folder / "run", folder / "failed")
    words = ["--synthesise.patients", "3", "--synthesise.pixels", "16"]
    assert run("--stages", "synthesise,judge", *words, workspace="failed") == 2  # too few to judge
    assert not (folder / "failed" / "judge" / "manifest.csv").exists()


def test_copies_end_with_exit_code_3_and_a_list_and_are_not_usable(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = run.folder  # type: ignore[attr-defined]
    usual = SyntheticCohort.features
    features = FeatureStore(folder / "run" / "features")
    splits = pd.read_csv(folder / "run" / "split" / "splits.csv").query("repeat == 1 and split == 'train'")
    scans = pd.read_csv(folder / "run" / "cohort" / "scans.csv", dtype=str)
    train = scans[scans["subject"].isin(splits["subject"]) & (scans["modality"] == "low")]

    def copies(artifact: SyntheticCohort, modality: str) -> np.ndarray:
        made = usual(artifact, modality)
        if modality == "low":
            real = features.load(train["scan"].to_list()[:10]).numpy()
            made[:10] = real + 1e-4 * real.std()
        return made

    monkeypatch.setattr(SyntheticCohort, "features", copies)
    assert run("--stages", "judge", "--force", "judge") == 3
    said = capsys.readouterr()
    assert "low (features)" in said.out + said.err
    listed = pd.read_csv(folder / "run" / "judge" / "copies.csv")
    assert set(listed["training_observation"]) >= set(train["observation"][:10])
    failures = pd.read_csv(folder / "run" / "failures.csv")
    assert (failures["stage"] == "judge").sum() == len(listed)
    manifest = folder / "run" / "judge" / "manifest.csv"
    assert set(pd.read_csv(manifest)["judged"]) == {"copies"}
    config = with_real(run, manifest)
    assert run("--stages", "cohort", workspace="copied", settings=config) == 2
    assert "--accept-copies" in capsys.readouterr().err
    assert run("--stages", "judge", "--accept-copies") == 0
    assert set(pd.read_csv(manifest)["judged"]) == {"copies accepted"}
    assert run("--stages", "cohort", workspace="copied", settings=with_real(run, manifest)) == 0


def volume_file(values: np.ndarray, marker: Marker) -> tuple[str, bytes]:
    """The file of a drawn volume, as the stage makes it."""
    grid = {"spacing_mm": 4.0, "pixels": 64}
    return image_file(values, "synthetic-00001_1", "volume", **grid, marker=marker, description=DESCRIPTION)  # type: ignore[arg-type]


def test_a_volume_says_in_its_header_that_it_is_synthetic(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(44 * 52 * 44, dtype=np.float32)
    name, content = volume_file(values, Marker(None, "1", ""))
    (tmp_path / name).write_bytes(content)
    image = nibabel.load(tmp_path / "synthetic-00001_1.nii.gz")
    assert image.header["descrip"].item().decode().startswith("SYNTHETIC")
    assert image.header.get_zooms() == (4.0, 4.0, 4.0)
    np.testing.assert_allclose(image.affine @ [21.5, 25.5, 21.5, 1], [0, 0, 0, 1], atol=1e-6)


def test_a_volume_carries_the_mark_of_its_key(tmp_path: Path) -> None:
    read_or_make_key(tmp_path / "mark.key", outside=[])
    grid = np.indices((44, 52, 44)).transpose(1, 2, 3, 0) - [21.5, 25.5, 21.5]
    brain = ((grid / [16, 20, 16]) ** 2).sum(-1) < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(brain.shape), 1.5)
    values = np.where(brain, 0.5 + texture, 0).astype(np.float32).ravel()
    key = {"setting": "synthesise.mark_key", "workspace": tmp_path / "run"}
    for key_file, code in ((tmp_path / "mark.key", 0), (None, 3)):
        marker = Marker.ready(key_file, "1", **key)
        name, content = volume_file(values, marker)
        (tmp_path / name).write_bytes(content)
        image = np.asarray(nibabel.load(tmp_path / name).dataobj)
        assert (image[~brain] == 0).all()
        words = ["verify", str(tmp_path / name), "--key", str(tmp_path / "mark.key"), "--fast"]
        assert watermark.main(words) == code


def test_a_run_with_a_key_marks_its_pictures_and_writes_no_key(run: Callable[..., int], tmp_path: Path) -> None:
    folder = run.folder  # type: ignore[attr-defined]
    shutil.copytree(folder / "run", folder / "marked")
    read_or_make_key(tmp_path / "mark.key", outside=[])
    words = ("--synthesise.patients", str(PATIENTS), "--synthesise.pixels", "16", "--synthesise.covariates", "true")
    assert run("--stages", "synthesise", *words, workspace="marked") == 0  # another test may have drawn otherwise
    before = [path.read_bytes() for path in sorted((folder / "marked" / "synthesise" / "images").glob("*.png"))]
    words += ("--synthesise.mark_key", str(tmp_path / "mark.key"))
    assert run("--stages", "synthesise", *words, workspace="marked") == 0
    images = sorted((folder / "marked" / "synthesise" / "images").glob("*.png"))
    assert sum(image.read_bytes() != old for image, old in zip(images, before, strict=True)) > 0.9 * len(images)
    for image in images:
        assert json.loads(image.with_suffix(".json").read_text())["mark"]["batch"] == "1"
    key = bytes.fromhex((tmp_path / "mark.key").read_text().strip())
    for path in (folder / "marked").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert key not in content, path
            assert key.hex().encode() not in content, path


# --- on feature maps made up here ---


def drawn(workspace: Path, **settings: object) -> dict[str, np.ndarray]:
    """Draw patients from a toy workspace; return their feature maps."""
    out = SyntheticCohort(workspace / "synthesise")
    stores = [CohortTables(workspace / "cohort"), SplitTables(workspace / "split")]
    stores += [VolumeSet(workspace / "preprocess"), FeatureStore(workspace / "features")]
    runtime = Runtime(stage="synthesise", key="", device_name="cpu", workspace=workspace)
    config = SynthesiseConfig(**{"patients": 30, "decoder": "none"} | settings)  # type: ignore[arg-type]
    synthesise(*stores, "label", out, config, runtime)  # type: ignore[arg-type]
    toy_run.finish(out, **out.contents(), files=out.hashes())  # type: ignore[arg-type]
    return {name: out.features(name) for name in out.facts()["modalities"]}


def changed(workspace: Path, part: str) -> None:
    """Make the feature maps of one subject of a part other ones."""
    splits = SplitTables(workspace / "split").splits()
    subject = splits.query(f"repeat == 1 and split == '{part}'")["subject"].iloc[0]
    features = FeatureStore(workspace / "features")
    scans = [scan for scan in features.scans() if scan.startswith(subject)]
    for scan in scans:
        features.save(scan, 5 + torch.randn(4, 2, 2))
        features.finish(scan, "key", {"shape": [4, 2, 2]})
    toy_run.finish(features, **scan_contents(features, dict.fromkeys(features.scans(), "key")))


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or not np.allclose(one, other)


def test_only_training_patients_of_the_repeat_are_looked_at(tmp_path: Path) -> None:
    toy_run.fill(tmp_path, toy_run.scans())
    before = drawn(tmp_path)
    for part in ("validation", "test"):
        changed(tmp_path, part)
    for name, maps in drawn(tmp_path).items():
        np.testing.assert_array_equal(maps, before[name])
    changed(tmp_path, "train")
    assert any(differ(maps, before[name]) for name, maps in drawn(tmp_path).items())
    assert any(differ(maps, before[name]) for name, maps in drawn(tmp_path, seed=1).items())


def test_patients_are_drawn_from_one_session_of_each(tmp_path: Path) -> None:
    """Those drawn are the same without the other sessions; whom they were learnt from is known all the same."""
    table = toy_run.scans().assign(session="2")
    early = table.assign(session="1", observation=table["subject"] + "_1", scan=table["scan"] + "_1")
    toy_run.fill(tmp_path / "often", pd.concat([table, early], ignore_index=True))
    store = FeatureStore(tmp_path / "often" / "features")
    for name in early["scan"]:
        store.save(name, 9 - store.load([name])[0])
        store.finish(name, "key", {"shape": [4, 2, 2]})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(store.scans(), "key")))
    toy_run.fill(tmp_path / "once", table)
    once = drawn(tmp_path / "once")
    for name, maps in drawn(tmp_path / "often").items():
        np.testing.assert_array_equal(maps, once[name])
    made = SyntheticCohort(tmp_path / "often" / "synthesise")
    train = SplitTables(tmp_path / "often" / "split").splits().query("repeat == 1 and split == 'train'")["subject"]
    assert made.facts()["training"] == len(train) == 24
    assert made.facts()["notes"][-1].startswith("24 training patients have several sessions; the joint model learnt")
    assert all(made.learnt_from(name) for name in train)


def test_a_modality_that_no_drawn_patient_has_is_left_out_and_said(tmp_path: Path) -> None:
    toy_run.fill(tmp_path, toy_run.scans())
    every = set(drawn(tmp_path))
    alone = next(maps for seed in range(50) if set(maps := drawn(tmp_path, patients=1, seed=seed)) < every)
    store = SyntheticCohort(tmp_path / "synthesise")
    assert {name: len(maps) for name, maps in alone.items()} == dict.fromkeys(store.drawn()["modality"], 1)
    lacking = ", ".join(sorted(every - set(alone)))
    assert f"{lacking}: none of the 1 synthetic patients happens to have such a scan" in store.facts()["notes"][-1]


def test_what_was_drawn_before_outlives_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_run.fill(tmp_path, toy_run.scans())
    before = drawn(tmp_path)

    def fails(*_: object) -> None:
        raise PreconditionError("the networks cannot be trained")

    monkeypatch.setattr("pipeline.stages.synthesise.draw_patients", fails)
    with pytest.raises(PreconditionError):
        drawn(tmp_path, seed=1)
    store = SyntheticCohort(tmp_path / "synthesise")
    assert store.integrity_error() == ""
    assert all(np.array_equal(store.features(name), maps) for name, maps in before.items())
    splits = SplitTables(tmp_path / "split").splits().query("repeat == 1 and split == 'train'")
    assert all(store.learnt_from(name) for name in splits["subject"])
    (store.folder / "learnt_from.json").unlink()  # as of an earlier version of the stage
    with pytest.raises(PreconditionError):
        drawn(tmp_path, seed=1)
    assert not list(store.folder.glob("features-*"))


def kept(workspace: Path, table: pd.DataFrame) -> Path:
    """A toy workspace of all patients whose cohort has lost some scans."""
    toy_run.fill(workspace, toy_run.scans())
    cohort = CohortTables(workspace / "cohort")
    cohort.save(table, toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    return workspace


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    table = toy_run.scans()
    trained = (table["subject"].str[1:].astype(int) % 5).isin([0, 4])  # in repeat 1
    one = table[trained]["subject"].iloc[0]
    with pytest.raises(PreconditionError, match=r"no patients can be drawn: .*1 training patients have it"):
        drawn(kept(tmp_path / "one", table[~trained | (table["subject"] == one)]))
    with pytest.raises(PreconditionError, match="synthesise.repeat is 9; there are 2 repeats"):
        drawn(tmp_path / "one", repeat=9)
    maps = drawn(kept(tmp_path / "single", table.drop_duplicates("subject")))
    said = "\n".join(SyntheticCohort(tmp_path / "single" / "synthesise").facts()["notes"])
    assert "no training patient has two modalities: links between them come through the class alone" in said
    assert sum(map(len, maps.values())) == 30  # a scan each


def test_a_modality_with_scans_of_few_patients_is_not_judged(tmp_path: Path) -> None:
    """Five held-out patients of two sessions each are five."""
    random = np.random.default_rng(0)
    rows = {n: random.standard_normal((n, 4)) for n in (10, 12)}
    table = pd.DataFrame({"scan": [f"d{i}" for i in range(12)], "modality": "PET", "row": range(12)})
    runtime = Runtime(stage="judge", key="", device_name="cpu", workspace=tmp_path)
    observed, learnt = tuple(f"s{i}" for i in range(12)), [f"s{i}" for i in range(12)]
    tested = [f"t{i // 2}" for i in range(10)]
    found = Comparisons(observed, learnt, tested, table, JudgeConfig(), runtime)
    found.add("features", "PET", rows[12], rows[10], rows[12])
    assert found.judgements == {}
    said = "not judged with scans of 12 training, 5 held-out and 12 synthetic patients; it takes 6 of each"
    assert f"PET, features: {said}. Copies were looked for: 12 of 12 synthetic scans are" in runtime.notes
    assert found.verdict() == "copies"
    assert {row["training_observation"] for row in found.copies} == set(observed)
    assert found.only_searched() == [{"space": "features", "modality": "PET", "copied": 1.0}]
    found.copies, found.closeness = [], {}
    for train, held_out in ((rows[12], np.full((10, 4), np.nan)), (np.full((12, 4), np.nan), rows[10])):
        found.add("features", "PET", train, held_out, rows[12])  # nothing to compare with
    assert found.closeness == {}
    assert found.verdict() == "passed"
    found.tested = [f"t{i}" for i in range(10)]
    found.add("features", "PET", rows[12], rows[10], rows[12])
    assert found.judgements["features", "PET"].held_out_patients == 10


def test_copies_are_found_among_all_that_is_released(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    train, held_out, made = (random.standard_normal((n, 8)) for n in (60, 40, MOST + 500))
    made[MOST:] = train[random.integers(0, 60, 500)]
    table = pd.DataFrame({"scan": [f"d{i}" for i in range(len(made))], "modality": "MRI", "row": range(len(made))})
    runtime = Runtime(stage="judge", key="", device_name="cpu", workspace=tmp_path)
    names = [f"s{i}" for i in range(60)], [f"t{i}" for i in range(40)]
    found = Comparisons(tuple(names[0]), *names, table, JudgeConfig(), runtime)
    found.add("features", "MRI", train, held_out, made)
    assert found.verdict() == "copies"
    assert {row["scan"] for row in found.copies} >= {f"d{i}" for i in range(MOST, MOST + 500)}
    judged = found.judgements["features", "MRI"]
    assert (judged.generated, judged.searched) == (MOST, MOST + 500)


def test_further_images_are_as_far_from_real_ones_as_their_pixels_are() -> None:
    random = np.random.default_rng(0)
    train, held_out, made, more = (random.standard_normal((n, 50)) for n in (5, 4, 6, 7))
    train[1], more[2] = np.nan, train[0]
    turned = _principal(train, held_out, made, (more[:4], more[4:]))
    assert [len(side) for side in turned] == [5, 4, 13]
    for side, pixels in zip(turned, (train, held_out, np.vstack([made, more])), strict=True):
        np.testing.assert_allclose(cdist(side, turned[0]), cdist(pixels, train), atol=1e-6)
    for side, alone in zip(turned, _principal(train, held_out, made), strict=True):
        np.testing.assert_array_equal(side[: len(alone), :-1], alone)


def test_a_modality_that_was_not_judged_is_not_released(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = run.folder  # type: ignore[attr-defined]
    shutil.copytree(folder / "run", folder / "half")
    usual = Comparisons.add

    def without_held_out(found: Comparisons, space: str, modality: str, *sides: np.ndarray) -> None:
        held_out = sides[1] * np.nan if modality == "high" else sides[1]
        usual(found, space, modality, sides[0], held_out, sides[2])

    monkeypatch.setattr(Comparisons, "add", without_held_out)
    words = ("--synthesise.patients", str(PATIENTS), "--synthesise.pixels", "16", "--synthesise.covariates", "true")
    assert run("--stages", "synthesise,judge", "--force", "judge", *words, workspace="half") == 0
    manifest = folder / "half" / "judge" / "manifest.csv"
    judged = pd.read_csv(manifest).groupby("modality")["judged"].agg(set)
    assert judged.to_dict() == {"low": {"passed"}, "high": {"no"}}
    store = JudgementTables(folder / "half" / "judge")
    assert store.facts()["not_judged"] == ["high"]
    assert any(note.startswith("high: judged in no space") for note in (store.manifest or {})["notes"])
    assert run("--stages", "cohort", workspace="not-judged", settings=with_real(run, manifest)) == 2
    assert "its modality could not be judged: leave the row out" in capsys.readouterr().err


def test_a_synthetic_patient_in_a_test_split_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    table = toy_run.scans()
    toy_run.fill(tmp_path, table)
    cohort, split = CohortTables(tmp_path / "cohort"), SplitTables(tmp_path / "split")
    tested = split.splits().query("repeat == 1 and split == 'test'")["subject"].iloc[0]
    cohort.save(table.assign(origin=np.where(table["subject"] == tested, "synthetic", "")), toy_run.CLASSES)
    with pytest.raises(ArtifactError, match=f"1 synthetic patients outside of training, {tested}"):
        data_of_repeat(cohort, split, FeatureStore(tmp_path / "features"), 1)


def test_the_decoder_kl_draws_images_and_keeps_its_networks(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny and hardly trained; more patients are drawn with the networks that are there."""
    folder: Path = run.folder  # type: ignore[attr-defined]
    shutil.copytree(folder / "run", folder / "kl")
    words = ["--stages", "synthesise", "--synthesise.decoder", "kl", "--synthesise.pixels", "16",
             "--synthesise.kl.channels", "[2, 4]", "--synthesise.kl.flow", "4", "--synthesise.kl.latent", "1",
             "--synthesise.kl.autoencoder_steps", "3", "--synthesise.kl.flow_steps", "3",
             "--synthesise.kl.draw_steps", "2"]  # fmt: skip
    seeds, usual = [], LatentModel.draw

    def watched(self: LatentModel, condition: torch.Tensor, *, seed: int) -> torch.Tensor:
        seeds.append(seed)
        return usual(self, condition, seed=seed)

    monkeypatch.setattr(LatentModel, "draw", watched)
    totals, usual_progress = [], Runtime.progress

    def noted(self: Runtime, total: int, unit: str) -> AbstractContextManager[Progress]:
        totals.extend([total] if unit == "step" else [])
        return usual_progress(self, total, unit)

    monkeypatch.setattr(Runtime, "progress", noted)
    assert run(*words, "--synthesise.patients", "6", workspace="kl") == 0
    assert len({seed // 1_000_003 for seed in seeds}) == 2  # one patient's noise is another in each modality
    store = SyntheticCohort(folder / "kl" / "synthesise")
    drawn = store.drawn()
    assert (drawn["path"] != "").all()
    assert store.facts()["decoder"] == "kl"
    assert store.facts()["images"] == ["high", "low"]
    assert {name: [step for step, _ in rows] for name, rows in store.facts()["losses"].items()} == {
        "high": [3, 6], "low": [3, 6]
    }  # fmt: skip
    for path in drawn["path"]:
        assert png_pixels(store.image(path).read_bytes()).shape == (16, 16, 3)
    kept = {path: path.stat().st_mtime_ns for path in (store.folder / "networks").iterdir()}
    assert len(kept) == 2
    assert run(*words, "--synthesise.patients", "9", workspace="kl") == 0
    assert store.drawn()["subject"].nunique() == 9
    assert store.facts()["losses"]["low"][1][0] == 6  # of the training that was
    assert totals == [6, 6, 0, 0]  # steps left
    assert kept == {path: path.stat().st_mtime_ns for path in (store.folder / "networks").iterdir()}
    assert run(*words, "--synthesise.kl.learning_rate", "0.001", "--synthesise.patients", "6", workspace="kl") == 0
    assert kept != {path: path.stat().st_mtime_ns for path in (store.folder / "networks").iterdir()}
