"""New patients with an exported model: the numbers of its test, any subset of scans, and nobody stops the night."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import yaml
from PIL import Image

from evaluation.calibration import apply_temperature
from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.deployment.bundle import Bundle
from pipeline.store.base import read_record, write_record
from reporting import patient_page

pytestmark = pytest.mark.usefixtures("one_thread", "thin_backbone")
TRAINING = ["--quiet", "--split.repeats", "1", "--split.ratio", "[2, 1, 1]", "--pretrain.epochs", "2"]
RANDOM = ["--features.weights", "random"]


class Lab:
    """A cohort, the run that learnt from it, and its exported model."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.data, self.run = folder, config.parent, folder / "run"
        argv = ["--config", str(config), "--workspace", str(self.run), *TRAINING, *RANDOM]
        assert main([*argv, "--features.backbone", "vgg11", "--stages", "export"]) == 0
        self.model = self.run / "export" / "bundle"
        self.bundle = Bundle.read(self.model)
        splits = pd.read_csv(self.run / "split" / "splits.csv")
        self.split = dict(zip(splits["subject"], splits["split"], strict=True))
        self.table = pd.read_csv(self.data / "cohort.csv").drop(columns="class")

    def of(self, split: str) -> pd.DataFrame:
        return self.table[self.table["subject"].map(self.split) == split].reset_index(drop=True)

    def predict(self, table: pd.DataFrame, *argv: str, expected: int = 0, name: str = "new_patients") -> dict[str, Any]:
        """The content of predictions.json; paths of the table are relative to the data."""
        csv = self.data / f"{name}.csv"
        table.to_csv(csv, index=False)
        run = ["--workspace", str(self.folder / name), "--quiet", *RANDOM, *argv]
        assert main(["--model", str(self.model), "--cohort", str(csv), *run]) == expected
        return json.loads((self.folder / name / "predict" / "predictions.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    return Lab(folder, picture_cohort(folder / "data", subjects=36, side=24))


def named(patients: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {patient["observation"]: patient for patient in patients}


def test_the_answers_are_those_of_the_test_calibrated(lab: Lab) -> None:
    found = lab.predict(lab.of("test"))
    tested = pd.read_csv(lab.run / "classify" / "predictions.csv", dtype={"subject": str})
    columns = [f"probability_{name}" for name in lab.bundle.classes]
    assert len(tested) == len(found["patients"]) == 9
    for row in tested.to_dict("records"):
        patient = named(found["patients"])[row["subject"]]
        raw = np.array([[row[c] for c in columns]])
        np.testing.assert_allclose(list(patient["uncalibrated"].values()), raw[0], atol=1e-5)
        calibrated = apply_temperature(raw, lab.bundle.temperature)[0]
        np.testing.assert_allclose(list(patient["probabilities"].values()), calibrated, atol=1e-5)
        assert [s["scan"] for s in patient["scans"] if s["used"]] == row["scans_used"].split(";")
        assert "error rate is not promised" in patient["notes"][0]  # it set the thresholds itself


def test_a_calibration_that_has_expired_is_said_with_every_answer(lab: Lab) -> None:
    """Patients came to the workspace of the model after it was exported."""
    mine = (read_record(lab.run / "export" / "manifest.json") or {})["made_from"]["inputs"]["cohort"]
    updated = lab.run / "update" / "versions.json"
    updated.parent.mkdir()
    table = lab.of("test").head(2)
    for known, expired in (("a newer manifest", True), (mine, False)):
        write_record(updated, {"versions": [{}, {}], "cohorts": [known]})
        found = lab.predict(table, name="expired")
        said = [any("calibration has expired" in note for note in patient["notes"]) for patient in found["patients"]]
        assert said == [expired] * len(said)
        notes = (read_record(lab.folder / "expired" / "predict" / "manifest.json") or {})["notes"]
        assert any("run/export/bundle has expired: patients have come since (2 versions" in n for n in notes) == expired
    shutil.rmtree(updated.parent)
    assert mine in (lab.model / "docs" / "README.md").read_text()  # whoever has a copy can look it up


def test_a_contribution_is_what_the_answer_loses_without_the_scan(lab: Lab) -> None:
    both = lab.of("test").groupby("subject").filter(lambda rows: len(rows) == 2)
    whole = named(lab.predict(both)["patients"])
    for left_out in ("low", "high"):
        alone = named(lab.predict(both[both["modality"] != left_out], name="alone")["patients"])
        for name, patient in whole.items():
            scan = next(s for s in patient["scans"] if s["modality"] == left_out)
            for label, change in scan["contribution"].items():
                lost = patient["probabilities"][label] - alone[name]["probabilities"][label]
                assert change == pytest.approx(lost, abs=2e-6)
            assert alone[name]["scans"][0]["contribution"] is None
            (missing,) = alone[name]["missing"]
            assert missing["modality"] == left_out
            assert missing["n"] >= 5


def test_more_scans_than_any_training_patient_had_are_remarked(lab: Lab) -> None:
    """ρ adds scans up, so that what nobody in training had makes it surer than it has a right to be."""
    assert lab.bundle.most_scans == {"high": 1, "low": 1}
    low = lab.of("test").query("modality == 'low'").head(3).assign(subject=["twice", "twice", "once"])
    patients = named(lab.predict(low, name="twice")["patients"])
    assert {name: sum(scan["used"] for scan in patients[name]["scans"]) for name in patients} == {"twice": 2, "once": 1}
    told = {
        name: [n for n in patients[name]["notes"] if "no training patient had more than 1" in n] for name in patients
    }
    assert told["once"] == []
    assert [note.split(",")[0] for note in told["twice"]] == ["2 scans are low"]
    mean = replace(lab.bundle, network_arguments={**lab.bundle.network_arguments, "aggregate": "mean"})
    assert (len(lab.bundle.beyond_training(["low", "low"])), mean.beyond_training(["low", "low"])) == (1, [])


def test_a_set_is_answered_only_if_it_has_one_class(lab: Lab) -> None:
    answers = 0
    for rate in ("0.1", "0.4"):
        found = lab.predict(lab.of("test"), "--predict.error_rate", rate, name=f"rate{rate[-1]}")
        for patient in found["patients"]:
            scores = lab.bundle.conformal_scores(frozenset(s["modality"] for s in patient["scans"]))
            kept = int(np.ceil((len(scores) + 1) * (1 - float(rate))))
            limit = np.sort(scores)[kept - 1] if kept <= len(scores) else 1
            away = {name: 1 - p - limit for name, p in patient["probabilities"].items()}
            if min(map(abs, away.values())) < 1e-5:
                continue  # this subject's own score is the limit
            answers += 1
            leading = max(patient["probabilities"], key=patient["probabilities"].get)  # is in every set
            inside = [name for name, distance in away.items() if distance < 0 or name == leading]
            assert patient["set"] == inside
            assert patient["answer"] == (inside[0] if len(inside) == 1 else None)
            assert patient["abstains"] == (len(inside) != 1)
    assert answers > 5


def test_who_is_known_is_refused_under_any_name(lab: Lab) -> None:
    learnt = lab.of("train").iloc[:2]
    renamed = lab.of("validation").iloc[:1].assign(subject="somebody-new")
    table = pd.concat([learnt, renamed, lab.of("test").iloc[:1]])
    found = lab.predict(table, name="known")
    assert {patient["subject"] for patient in found["refused"]} == {*learnt["subject"], "somebody-new"}
    assert all("knows this patient" in patient["reason"] for patient in found["refused"])
    assert len(found["patients"]) == 1
    predictions = lab.predict(table, "--predict.known_patients", "true", name="known")
    assert not predictions["refused"]
    assert "looks better than it is" in named(predictions["patients"])["somebody-new"]["notes"][0]


def test_a_subject_known_by_one_scan_is_known_in_every_session(lab: Lab) -> None:
    """Even if the other session's scans are new, and a held-out scan lies before the training scan."""
    learnt, held_out = lab.of("train").iloc[0], lab.of("test").iloc[0]
    new = lab.data / "new.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 99, (24, 24, 3)).astype(np.uint8)).save(new)
    rows = [
        {"subject": "x", "session": "1", "modality": learnt["modality"], "path": learnt["path"]},
        {"subject": "x", "session": "2", "modality": "low", "path": new.name},
        {"subject": "x", "session": "0", "modality": held_out["modality"], "path": held_out["path"]},
    ]
    found = lab.predict(pd.DataFrame(rows), name="sessions")
    assert [(p["subject"], p["session"]) for p in found["refused"]] == [("x", "0"), ("x", "1"), ("x", "2")]


def test_bad_scans_cost_no_other_patient_the_prediction(lab: Lab) -> None:
    table = lab.of("test").groupby("subject").filter(lambda rows: len(rows) == 2).reset_index(drop=True)
    broken = lab.data / "broken.png"
    broken.write_bytes(b"no picture")
    first, second, third = table["subject"].unique()[:3]
    table.loc[(table["subject"] == first) & (table["modality"] == "low"), "path"] = broken.name
    table.loc[table["subject"] == second, "path"] = ["gone1.png", "gone2.png"]
    strange = [
        {"subject": third, "modality": "CT", "path": "ct.png"},
        {"subject": "only-a-ct", "modality": "CT", "path": "ct.png"},
        {"subject": "", "modality": "low", "path": "x.png"},
        table.iloc[-1].to_dict(),  # once more
        {"subject": "folder", "modality": "low", "path": "."},
    ]
    table = pd.concat([table, pd.DataFrame(strange)], ignore_index=True)
    found = lab.predict(table, expected=3, name="bad")
    patient = named(found["patients"])[first]
    states = {scan["modality"]: (scan["used"], bool(scan["reason"])) for scan in patient["scans"]}
    assert states == {"low": (False, True), "high": (True, False)}
    refused = named(found["refused"])
    assert set(refused) == {second, "only-a-ct", "folder", f"row {len(table) - 1}"}
    assert "gone1.png" in refused[second]["reason"]
    assert "modality 'CT' is unknown" in refused["only-a-ct"]["reason"]
    assert [s["modality"] for s in named(found["patients"])[third]["scans"] if not s["used"]] == ["CT"]
    failures = pd.read_csv(lab.folder / "bad" / "failures.csv", dtype=str)
    assert {first, second, third, "only-a-ct", "folder"} <= set(failures["subject"])
    assert len(failures) == 3 + len(strange)
    folder = lab.folder / "bad" / "predict"
    assert {p.stem for p in (folder / "patients").iterdir()} == set(named(found["patients"]))
    assert first in (folder / "index.html").read_text("utf-8")
    rows = pd.read_csv(folder / "predictions.csv", dtype=str).set_index("subject")["state"]
    assert rows[second] == "refused"


def test_a_worklist_without_a_single_usable_scan_is_reported(lab: Lab) -> None:
    """And does not leave last night's answers standing."""
    lab.predict(lab.of("test"), name="nights")
    broken = lab.data / "broken.png"
    broken.write_bytes(b"no picture")
    found = lab.predict(
        pd.DataFrame([{"subject": "a", "modality": "low", "path": broken.name}]), expected=3, name="nights"
    )
    assert not found["patients"]
    assert [p["subject"] for p in found["refused"]] == ["a"]
    found = lab.predict(pd.DataFrame([{"subject": "b", "modality": "CT", "path": "x"}]), expected=3, name="nights")
    assert [p["subject"] for p in found["refused"]] == ["b"]


def test_a_damaged_feature_map_is_made_again_and_costs_nobody_an_answer(lab: Lab) -> None:
    table = lab.of("test")
    before = lab.predict(table, "--predict.error_rate", "0.2", name="feature_map")
    scan = next(iter((lab.folder / "feature_map" / "features").glob("*_low")))
    (scan / "features.safetensors").write_bytes(b"short")
    found = lab.predict(table, "--predict.error_rate", "0.2", "--force", "predict", name="feature_map")
    assert (found["patients"], found["refused"]) == (before["patients"], [])


def test_features_with_a_nan_are_no_answer_but_made_again(lab: Lab) -> None:
    """The check of the model itself, behind that of the files, is tested in test_prediction.py."""
    table = lab.of("test")
    before = lab.predict(table, "--predict.error_rate", "0.2", name="nan")
    path = next(iter((lab.folder / "nan" / "features").glob("*_low"))) / "features.safetensors"
    tensors = safetensors.numpy.load_file(path)
    feature_map = tensors["feature_map"].copy()
    feature_map[7, 3, 3] = np.nan
    path.write_bytes(safetensors.numpy.save({"feature_map": feature_map}))
    found = lab.predict(table, "--predict.error_rate", "0.2", "--force", "predict", name="nan")
    assert (found["patients"], found["refused"]) == (before["patients"], [])


def test_a_model_with_a_nan_is_refused_before_anything_runs(
    lab: Lab, tmp_path: Path, sums_anew: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(lab.model, tmp_path / "model"))
    path = model / "models" / "model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in safetensors.numpy.load_file(path).items()}
    tensors["classifier.rho.0.bias"][0] = np.nan
    path.write_bytes(safetensors.numpy.save(tensors))
    sums_anew(model)
    argv = ["--model", str(model), "--cohort", str(lab.data / "cohort.csv"), "--workspace", str(tmp_path / "w")]
    assert main([*argv, *RANDOM]) == 2
    assert "classifier.rho.0.bias has numbers that are not finite. The model cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "w" / "features").exists()


def test_a_page_that_cannot_be_made_costs_nobody_else_theirs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    table, usual = lab.of("test"), patient_page.patient_page
    first, *others = sorted(table["subject"].unique())

    def failing(content: dict[str, Any], patient: dict[str, Any], **options: Any) -> str:
        if patient["subject"] == first:
            raise TypeError("<b>no number</b>")
        return usual(content, patient, **options)

    monkeypatch.setattr("pipeline.stages.predict.patient_page", failing)
    found = lab.predict(table, name="page")
    assert len(found["patients"]) == len(others) + 1
    folder = lab.folder / "page" / "predict"
    page = (folder / "patients" / f"{first}.html").read_text("utf-8")
    assert "This page could not be made (TypeError: &lt;b&gt;no number&lt;/b&gt;)" in page
    assert all("The model’s prediction" in (folder / "patients" / f"{name}.html").read_text("utf-8") for name in others)
    assert first in (folder / "index.html").read_text("utf-8")
    notes = json.loads((folder / "manifest.json").read_text("utf-8"))["notes"]
    assert any(f"the page of {first} could not be made" in note for note in notes)


def test_an_unusual_scan_is_flagged_where_that_can_be_told(lab: Lab) -> None:
    """18 held-out scans can tell at a rate of 1/19, not at 1/20."""
    white = lab.data / "white.png"
    half = np.zeros((24, 24, 3), np.uint8)
    half[:, :12] = 255
    Image.fromarray(half).save(white)
    table = pd.DataFrame([{"subject": "w", "modality": "low", "path": white.name}])
    count = lab.bundle.calibration["outliers"]["low"]["distances"]
    rate = 1 / (len(count) + 1)
    (seen,) = lab.predict(table, "--predict.outlier_rate", str(rate * 1.001), name="white")["patients"]
    assert seen["scans"][0]["outlier"]["flag"] is True
    assert seen["out_of_distribution"] is True
    (unseen,) = lab.predict(table, "--predict.outlier_rate", str(rate * 0.999), name="white")["patients"]
    assert unseen["scans"][0]["outlier"]["flag"] is None
    assert unseen["out_of_distribution"] is False
    usual = lab.predict(lab.of("test"), "--predict.outlier_rate", str(rate * 1.001), name="usual")["patients"]
    assert sum(p["out_of_distribution"] for p in usual) <= 2


def test_feature_maps_made_otherwise_are_not_read(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    csv = lab.data / "other.csv"
    lab.of("test").to_csv(csv, index=False)
    argv = ["--model", str(lab.model), "--cohort", str(csv), "--workspace", str(lab.folder / "other"), *RANDOM]
    for other, message in (
        (["--features.random_seed", "5"], "features.random_seed = 0 (now 5)"),
        (["--preprocess.spacing_mm", "2"], "preprocess.spacing_mm = 1.5 (now 2.0)"),
        (["--cohort.modalities.low.kind", "volume"], "was trained with low as"),
    ):
        assert main([*argv, *other]) == 2
        assert message in capsys.readouterr().err
    assert not (lab.folder / "other").exists()  # refused in the evening


def test_new_patients_do_not_take_the_place_of_the_training_cohort(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = lab.model.parents[1]
    before = (trained / "cohort" / "manifest.json").read_bytes()
    argv = ["--model", str(lab.model), "--cohort", str(lab.data / "cohort.csv"), "--workspace", str(trained)]
    assert main(argv) == 2
    assert "holds a model that was trained there" in capsys.readouterr().err
    assert (trained / "cohort" / "manifest.json").read_bytes() == before


def test_a_model_that_is_none_or_damaged(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = lab.data / "cohort.csv"
    assert main(["--model", str(tmp_path / "nothing"), "--cohort", str(csv)]) == 2
    assert "there is no model" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    shutil.copytree(lab.model, damaged)
    (damaged / "calibration.json").write_text("{}")
    assert main(["--model", str(damaged), "--cohort", str(csv), "--workspace", str(tmp_path / "w")]) == 2
    assert "calibration.json" in capsys.readouterr().err
    assert main(["--stages", "predict", "--cohort", str(csv), "--workspace", str(tmp_path / "w")]) == 2
    assert "type --model" in capsys.readouterr().err


def test_a_model_decides_nothing_but_how_its_scans_are_prepared(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, change in enumerate(
        (
            {"tracking": {"mlflow": "http://elsewhere:5000"}},
            {"executor": {"kind": "slurm"}},
            {"features": {"weights": "/elsewhere/weights.pth"}},
            {"cohort": {"manifest": "/elsewhere/cohort.csv"}},
            {"cohort": {"data_root": "/"}},
        )
    ):
        model = tmp_path / str(number)
        shutil.copytree(lab.model, model)
        path = model / "configs" / "settings.yaml"
        settings = yaml.safe_load(path.read_text())
        for section, values in change.items():
            settings[section] = settings.get(section, {}) | values
        path.write_text(yaml.safe_dump(settings))
        argv = ["--model", str(model), "--cohort", str(lab.data / "cohort.csv"), "--dry-run"]
        assert main(argv) == 2
        assert "settings.yaml" in capsys.readouterr().err  # its checksum
        sums = json.loads((model / "checksums.json").read_text())
        sums["configs/settings.yaml"] = file_sha256(path)
        (model / "checksums.json").write_text(json.dumps(sums))
        assert main(argv) == 2
        assert f"not a model's to make ({next(iter(change))})" in capsys.readouterr().err


def test_nothing_is_learnt_without_a_label(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--cohort", str(lab.data / "cohort.csv"), "--workspace", str(tmp_path), *RANDOM]
    assert main(["--model", str(lab.model), *argv, "--stages", "pretrain"]) == 2
    assert "cohort.label is null" in capsys.readouterr().err


def test_once_more_changes_nothing(lab: Lab) -> None:
    lab.predict(lab.of("test"), name="twice")
    before = file_sha256(lab.folder / "twice" / "predict" / "predictions.json")
    lab.predict(lab.of("test"), name="twice")
    assert file_sha256(lab.folder / "twice" / "predict" / "predictions.json") == before


@pytest.mark.slow
def test_a_map_lies_on_its_scan_and_shows_where_the_classes_differ(tmp_path: Path) -> None:
    """Volumes of which a corner, left in front, is bright in the ill; all else is alike."""
    random = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-60.0, -50.0, 20.0]
    x, y, z = np.indices((24, 28, 20))
    head = ((x - 11.5) / 11) ** 2 + ((y - 13.5) / 13) ** 2 + ((z - 9.5) / 9) ** 2 < 1
    for number in range(16):
        voxels = np.where(head, 40 + 3 * random.standard_normal(head.shape), 0)
        voxels[5:11, 15:21, 9:15] += 60 * (number % 2) * head[5:11, 15:21, 9:15]
        path = data / f"v{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), path)
        rows.append(
            {"subject": f"s{number}", "modality": "T1", "path": path.name, "class": "ill" if number % 2 else "well"}
        )
    pd.DataFrame(rows).to_csv(data / "cohort.csv", index=False)
    settings = {
        "name": "volumes",
        "cohort": {
            "manifest": str(data / "cohort.csv"), "label": "class", "positive": "ill",
            "modalities": {"T1": {"kind": "volume", "skull_strip": False}},
        },
        "preprocess": {"spacing_mm": 4.0},
        "features": {"backbone": "vgg11", "weights": "random", "slice_spacing_mm": 12.0, "field_of_view_mm": 120.0},
    }  # fmt: skip
    (data / "run.yaml").write_text(yaml.safe_dump(settings))
    argv = ["--config", str(data / "run.yaml"), "--workspace", str(tmp_path / "run"), *TRAINING]
    assert main([*argv, "--pretrain.epochs", "5", "--stages", "export"]) == 0
    splits = pd.read_csv(tmp_path / "run" / "split" / "splits.csv")
    tested = set(splits.loc[splits["split"] == "test", "subject"])
    pd.DataFrame([r for r in rows if r["subject"] in tested]).to_csv(data / "new_patients.csv", index=False)
    run = ["--model", str(tmp_path / "run" / "export" / "bundle"), "--cohort", str(data / "new_patients.csv"),
           "--quiet", "--workspace", str(tmp_path / "new_patients"), "--predict.maps", "true", *RANDOM]  # fmt: skip
    assert main(run) == 2  # slices are not kept
    assert main([*run, "--features.keep_slices", "true"]) == 0
    removed = next((tmp_path / "new_patients" / "predict" / "maps").iterdir())
    removed.unlink()
    assert main([*run, "--features.keep_slices", "true"]) == 0
    assert removed.exists()
    folder = tmp_path / "new_patients" / "predict"
    content = json.loads((folder / "predictions.json").read_text())
    shares = []
    for patient in content["patients"]:
        (scan,) = patient["scans"]
        found = nibabel.load(folder / scan["map"])
        volume = nibabel.load(tmp_path / "new_patients" / "preprocess" / scan["scan"] / "volume.nii.gz")
        np.testing.assert_array_equal(found.affine, volume.affine)
        assert found.shape == volume.shape
        top = max(patient["probabilities"], key=patient["probabilities"].get)
        slices = (folder / "viewer" / f"{scan['scan']}.html").read_text()
        assert f"lowers the odds of {top}" in slices
        page = folder / "patients" / f"{patient['observation']}.html"
        assert f'<a href="../viewer/{scan["scan"]}.html">all slices</a>' in page.read_text()
        assert f'<a href="../patients/{page.name}">Back</a>' in slices
        assert bytes(found.header["descrip"]).rstrip(b"\0").decode() == f"HyperMM occlusion: fall of log odds of {top}"
        if int(patient["subject"][1:]) % 2:  # what speaks for the illness is where it is
            strength = np.abs(found.get_fdata())
            to_voxel = np.linalg.inv(affine) @ found.affine
            at = nibabel.affines.apply_affine(to_voxel, np.moveaxis(np.indices(found.shape), 0, -1))
            inside = ((at >= (5, 15, 9)) & (at < (11, 21, 15))).all(-1)
            shares.append(strength[inside].mean() / strength[~inside].mean())
    assert np.mean(shares) > 1.5


def test_a_model_with_a_joint_model_says_what_is_missing_and_how_sure_it_is(lab: Lab, tmp_path: Path) -> None:
    """The same lab after the stage joint: other files go out, and a new patient's page has a section more."""
    run = tmp_path / "run"
    shutil.copytree(lab.run, run)
    argv = ["--config", str(lab.data / "config.yaml"), "--workspace", str(run), *TRAINING, *RANDOM]
    argv += ["--features.backbone", "vgg11", "--joint.draws", "4", "--joint.pixels", "16"]
    assert main([*argv, "--stages", "joint,export"]) == 0
    model = run / "export" / "bundle"
    assert {"joint.json", "models/joint.safetensors"} <= json.loads(
        (model / "checksums.json").read_text("utf-8")
    ).keys()
    assert "## Joint model" in (model / "docs" / "README.md").read_text("utf-8")
    tested = lab.of("test")
    both = tested.groupby("subject").filter(lambda rows: len(rows) == 2)
    whole, alone = both["subject"].unique()[:2]
    table = pd.concat(
        [both[both["subject"] == whole], tested[(tested["subject"] == alone) & (tested["modality"] == "low")]]
    )
    csv = lab.data / "with_joint.csv"
    table.to_csv(csv, index=False)
    new = ["--model", str(model), "--cohort", str(csv), "--workspace", str(tmp_path / "new"), "--quiet", *RANDOM]
    assert main([*new, "--predict.draws", "30"]) == 0
    found = named(json.loads((tmp_path / "new" / "predict" / "predictions.json").read_text("utf-8"))["patients"])
    before = named(lab.predict(table, name="without_joint")["patients"])
    for name, patient in before.items():
        assert patient["joint"] is None
        assert {**found[name], "joint": None} == patient
    assert (found[whole]["joint"]["imputed"], found[whole]["joint"]["answer"]) == ([], None)
    (entry,) = found[alone]["joint"]["imputed"]
    assert (entry["modality"], entry["from"], entry["image"]) == ("high", ["low"], True)
    spread = found[alone]["joint"]["answer"]["probabilities"]
    assert all(0 <= each["low"] <= each["mean"] <= each["high"] <= 1 for each in spread.values())
    pages = {name: (tmp_path / "new" / "predict" / "patients" / f"{name}.html").read_text("utf-8") for name in found}
    words = "What the high may have looked like, and where we do not know"
    assert [words in pages[name] for name in (alone, whole)] == [True, False]
    assert all("Place among patients" in page for page in pages.values())
    assert "Place among patients" not in (
        lab.folder / "without_joint" / "predict" / "patients" / f"{alone}.html"
    ).read_text("utf-8")
    assert main([*argv, "--stages", "export", "--export.joint", "false"]) == 0
    assert not (model / "joint.json").exists()
