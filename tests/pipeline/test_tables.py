"""Tables as members of the set: from the manifest to the model, its export, and new patients."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.cli.main import main
from pipeline.deployment.bundle import Bundle

pytestmark = pytest.mark.usefixtures("one_thread")
TABLES = {
    "scores": {"kind": "table", "columns": {"mmse": "number", "educ": "number"}},
    "molecular": {"kind": "table", "columns": {"cluster": "category"}},
}
FAST = {
    "split": {"repeats": 1, "ratio": [2, 1, 1]},
    "features": {"backbone": "vgg11", "weights": "random"},
    "pretrain": {"epochs": 8, "learning_rate": 0.001},
}


class Study:
    """Patients whose `mmse` tells the class; every third has no picture, every fourth no scores."""

    def __init__(self, folder: Path, *, subjects: int, modalities: dict[str, Any]) -> None:
        self.folder, self.run, random = folder, folder / "run", np.random.default_rng(0)
        folder.mkdir(exist_ok=True)
        rows = []
        for number in range(subjects):
            name, ill = f"p{number:02d}", number % 2
            row: dict[str, Any] = {"subject": name, "modality": "", "path": "", "class": "ab"[ill]}
            row |= {"mmse": "", "educ": "n/a", "cluster": "K1" if random.random() < 0.5 else "K2"}
            if number % 4 != 3:
                row |= {"mmse": f"{28 - 6 * ill + random.normal():.2f}", "educ": str(random.integers(1, 6))}
            if "pic" in modalities and number % 3:
                Image.fromarray(random.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(folder / f"{name}.png")
                row |= {"modality": "pic", "path": f"{name}.png"}
            rows.append(row)
        self.table = pd.DataFrame(rows)
        self.table.to_csv(folder / "cohort.csv", index=False)
        cohort = {"manifest": str(folder / "cohort.csv"), "label": "class", "modalities": modalities}
        (folder / "run.yaml").write_text(yaml.safe_dump({"name": "tables", "cohort": cohort, **FAST}))

    def train(self, stages: str, *more: str) -> int:
        config = ["--config", str(self.folder / "run.yaml"), "--workspace", str(self.run), "--quiet"]
        return main([*config, "--stages", stages, *more])

    def predict(self, table: pd.DataFrame, *more: str, expected: int = 0) -> dict[str, Any]:
        table.drop(columns="class").to_csv(self.folder / "new.csv", index=False)
        words = ["--model", str(self.run / "export" / "bundle"), "--cohort", str(self.folder / "new.csv")]
        words += ["--workspace", str(self.folder / "new"), "--quiet", "--features.weights", "random", *more]
        shutil.rmtree(self.folder / "new", ignore_errors=True)
        assert main(words) == expected
        content = json.loads((self.folder / "new" / "predict" / "predictions.json").read_text("utf-8"))
        return {patient["observation"]: patient for patient in content["patients"]}

    def notes(self, stage: str) -> str:
        return "\n".join(json.loads((self.run / stage / "manifest.json").read_text("utf-8"))["notes"])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(tmp_path_factory.mktemp("tables"), subjects=40, modalities={"pic": {"kind": "image"}, **TABLES})
    assert study.train("export,report") == 0
    return study


def test_a_set_has_pictures_and_tables_any_of_them(study: Study) -> None:
    scans = pd.read_csv(study.run / "cohort" / "scans.csv", keep_default_na=False)
    assert scans["modality"].value_counts().to_dict() == {"molecular": 40, "scores": 30, "pic": 26}
    used = pd.read_csv(study.run / "classify" / "predictions.csv")["scans_used"]
    assert any(";" not in names for names in used)
    assert any(names.count(";") == 2 for names in used)
    subsets = set(pd.read_csv(study.run / "classify" / "subsets.csv")["modalities"])
    assert subsets == {
        "molecular", "pic", "scores", "molecular+pic", "molecular+scores", "pic+scores", "molecular+pic+scores",
    }  # fmt: skip


def test_the_model_learns_from_a_table(study: Study) -> None:
    """`mmse` tells the class of all who have it; pictures and clusters are noise."""
    subsets = pd.read_csv(study.run / "classify" / "subsets.csv").query("subjects == 'any' and threshold == '0.5'")
    auc = subsets.set_index("modalities")["auc_mean"]
    assert auc["scores"] > 0.95 > auc["molecular"]


def test_values_stand_where_a_scan_would_and_nowhere_else(study: Study) -> None:
    """The report of a cohort shows no single patient's values, as it shows no single patient's age."""
    assert "column 'mmse' tells the class of every one" in study.notes("cohort")
    report = (study.run / "report" / "report.html").read_text("utf-8")
    assert "scores" in report
    assert not any(value and value in report for value in study.table["mmse"])


def test_new_patients_are_coded_as_training_was(study: Study) -> None:
    tested = pd.read_csv(study.run / "classify" / "predictions.csv", dtype=str)
    own = study.table[study.table["subject"].isin(tested["subject"])]
    found = study.predict(own)
    assert len(found) == len(tested) == 10
    for row in tested.to_dict("records"):
        patient = found[row["subject"]]
        np.testing.assert_allclose(
            list(patient["uncalibrated"].values()),
            [float(row["probability_a"]), float(row["probability_b"])],
            atol=1e-5,
        )
        assert sorted(s["scan"] for s in patient["scans"] if s["used"]) == sorted(row["scans_used"].split(";"))
    page = next((study.folder / "new" / "predict").rglob("p*.html")).read_text("utf-8")
    assert "Values of tables" in page
    assert "cluster" in page


def test_a_stranger_with_the_same_values_is_not_taken_for_a_known_patient(study: Study) -> None:
    """Few values are shared by many, and hashes of them would give them away."""
    stranger = study.table[study.table["path"] == ""].iloc[[0]].assign(subject="stranger")
    assert study.predict(stranger)["stranger"]["notes"] == []
    assert len(json.loads((study.run / "export" / "bundle" / "seen.json").read_text())["scans"]) == 26


def test_a_category_that_training_does_not_have_counts_as_missing_and_is_said(study: Study) -> None:
    rows = pd.DataFrame([{"subject": name, "cluster": c, "mmse": "27", "class": ""} for name, c in
                         (("new", "K9"), ("blank", "NA"))])  # fmt: skip
    found = study.predict(rows.assign(modality="", path=""))
    assert "new_molecular: cluster 'K9' is not in training, and counts as missing" in found["new"]["notes"]
    assert [scan["modality"] for scan in found["blank"]["scans"]] == ["scores"]  # no value, so no such member
    assert found["blank"]["notes"] == []


def test_contradictory_values_of_a_new_patient_leave_out_that_patient_alone(study: Study) -> None:
    rows = pd.DataFrame({"subject": ["x", "x", "y"], "mmse": ["20", "21", "22"], "class": ""})
    found = study.predict(rows.assign(modality="", path=""), expected=3)
    assert list(found) == ["y"]
    assert "x: mmse is '20.0' (row 2) and '21.0' (row 3)" in (study.folder / "new" / "failures.csv").read_text()


def test_nothing_of_test_patients_is_in_the_code(study: Study) -> None:
    splits = pd.read_csv(study.run / "split" / "splits.csv").set_index("subject")["split"]
    train = study.table[study.table["subject"].map(splits) == "train"]
    values = pd.to_numeric(train["mmse"]).dropna()
    mmse = Bundle.read(study.run / "export" / "bundle").tables["scores"].columns[1]
    assert mmse.name == "mmse"
    assert mmse.centre[0] == pytest.approx(values.mean(), abs=1e-9)
    assert mmse.spread == pytest.approx(values.std(ddof=0), abs=1e-9)
    assert mmse.centre[0] != pytest.approx(pd.to_numeric(study.table["mmse"]).mean(), abs=1e-3)


def test_another_value_trains_anew_and_computes_no_picture_again(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.folder, tmp_path / "copy")
    table = study.table.copy()
    table.loc[0, "mmse"] = "3"
    table.to_csv(study.folder / "cohort.csv", index=False)
    records = {p: p.stat().st_mtime_ns for p in (study.run / "features").glob("*/record.json")}
    before = (study.run / "pretrain" / "manifest.json").read_text()
    try:
        assert study.train("pretrain") == 0
        assert (study.run / "pretrain" / "manifest.json").read_text() != before
        assert {p: p.stat().st_mtime_ns for p in (study.run / "features").glob("*/record.json")} == records
    finally:
        shutil.rmtree(study.folder)
        shutil.copytree(tmp_path / "copy", study.folder)


def test_a_comparison_takes_tables_too(study: Study) -> None:
    more = ["--baselines.scenarios", "[as_it_is]", "--only", "linear_set,mean,pix2pix", "--pretrain.epochs", "8"]
    assert study.train("baselines", *more) == 0
    counts = pd.read_csv(study.run / "baselines" / "comparison.csv").set_index("method")["n"].to_dict()
    assert counts == {"linear set function": 10, "mean imputation": 10, "pix2pix": 0}
    reason = "is a table; pix2pix and cycleGAN translate volumes"
    assert reason in (study.run / "baselines" / "comparison.csv").read_text("utf-8")


def test_a_set_of_tables_only(tmp_path: Path) -> None:
    """No image at all: the feature maps keep the shape of the backbone's."""
    study = Study(tmp_path, subjects=24, modalities=TABLES)
    pd.read_csv(tmp_path / "cohort.csv").drop(columns=["modality", "path"]).to_csv(tmp_path / "cohort.csv", index=False)
    assert study.train("export,report") == 0
    assert Bundle.read(study.run / "export" / "bundle").network_arguments["feature_map_shape"] == [512, 7, 7]
    found = study.predict(study.table.iloc[:4].assign(subject=["a", "b", "c", "d"]))
    assert len(found) == 4
