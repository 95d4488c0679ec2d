"""The stage export on a small cohort of pictures: the model that goes out is the model that was tested."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser
from sklearn.covariance import LedoitWolf

from evaluation.calibration import apply_temperature, fit_temperature
from models.onnx_graph import onnx_graph
from models.set_model import SetModel
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.signing import new_key
from pipeline.stages import export as export_stage
from pipeline.stages.cohort import UNREADABLE
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables
from pipeline.training.repeat_data import RepeatData

pytestmark = pytest.mark.usefixtures("one_thread", "thin_backbone")
ARGV = ["--quiet", "--features.backbone", "vgg11", "--features.weights", "random", "--split.repeats", "1",
         "--split.ratio", "[2, 1, 1]", "--pretrain.epochs", "2"]  # fmt: skip


class Exported:
    """A finished run with its bundle, and what its tables say."""

    def __init__(self, config: Path, run: Path) -> None:
        self.run, self.folder = run, run / "export" / "bundle"
        self.argv = ["--config", str(config), "--workspace", str(run), *ARGV]
        self.bundle = Bundle.read(self.folder)
        self.scans = CohortTables(run / "cohort").scans()
        splits = pd.read_csv(run / "split" / "splits.csv")
        self.split = dict(zip(splits["subject"], splits["split"], strict=True))

    def subjects(self, split: str) -> list[str]:
        return sorted(subject for subject, here in self.split.items() if here == split)

    def predictions(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.run / "classify" / name)

    def logits(self, scans: pd.DataFrame) -> np.ndarray:
        """Of one patient, with the bundle alone."""
        feature_maps = FeatureStore(self.run / "features").load(scans["scan"].to_list())
        modality = torch.tensor([self.bundle.modalities.index(m) for m in scans["modality"]])
        with torch.inference_mode():
            found = self.bundle.network()(feature_maps, modality, torch.zeros_like(modality), 1)
        return found[0].double().numpy()

    def probabilities(self, subject: str, modalities: set[str]) -> np.ndarray:
        selected = self.scans[(self.scans["subject"] == subject) & self.scans["modality"].isin(modalities)]
        return torch.from_numpy(self.logits(selected)).softmax(0).numpy()

    def truth(self, subject: str) -> int:
        return self.bundle.classes.index(self.scans.loc[self.scans["subject"] == subject, "label"].iloc[0])

    def having(self, modalities: set[str], splits: tuple[str, ...]) -> list[str]:
        found = self.scans.groupby("subject")["modality"].agg(set)
        return sorted(s for s, has in found.items() if has >= modalities and self.split[s] in splits)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> Exported:
    """Subjects with long names, every fifth of them labelled wrongly, so that the model cannot be right always."""
    folder = tmp_path_factory.mktemp("exported")
    config = picture_cohort(folder / "secretly-named-data", subjects=48, side=24)
    table = pd.read_csv(folder / "secretly-named-data" / "cohort.csv")
    number = table["subject"].str[1:].astype(int)
    table["class"] = np.where(number % 5 == 0, table["class"].map({"sick": "well", "well": "sick"}), table["class"])
    table["subject"] = "Annelise-Mustermann-" + table["subject"]
    table.to_csv(folder / "secretly-named-data" / "cohort.csv", index=False)
    argv = ["--config", str(config), "--workspace", str(folder / "run"), *ARGV]
    assert main([*argv, "--stages", "export"]) == 0
    return Exported(config, folder / "run")


def test_monai_s_network_gives_the_predictions_of_the_test(exported: Exported) -> None:
    parser = ConfigParser()
    parser.read_config(exported.folder / "configs" / "inference.json")
    parser["bundle_root"] = str(exported.folder)
    network = parser.get_parsed_content("network_def")
    feature_maps = FeatureStore(exported.run / "features")
    for row in exported.predictions("predictions.csv").itertuples():
        scans = row.scans_used.split(";")
        named = exported.scans.set_index("scan")["modality"]
        modality = torch.tensor([exported.bundle.modalities.index(named[s]) for s in scans])
        with torch.inference_mode():
            found = network(feature_maps.load(scans), modality, torch.zeros_like(modality), 1).softmax(1)[0]
        expected = [getattr(row, f"probability_{name}") for name in exported.bundle.classes]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_the_temperature_is_fitted_on_the_validation_split(exported: Exported) -> None:
    frame = exported.predictions("validation_predictions.csv")
    p = frame[[f"probability_{name}" for name in exported.bundle.classes]].to_numpy()
    fitted = fit_temperature(p, [exported.bundle.classes.index(name) for name in frame["truth"]])
    assert len(frame) == 12
    assert fitted.reason == ""
    assert exported.bundle.temperature == pytest.approx(fitted.value, rel=1e-4)
    facts = exported.bundle.calibration["temperature"]
    assert facts["nll_after"] < facts["nll_before"]
    assert facts["test"]["n"] == 12


@pytest.mark.parametrize("modalities", [{"low"}, {"high"}, {"low", "high"}])
def test_conformal_scores_are_of_held_out_subjects_with_these_modalities_alone(
    exported: Exported, modalities: set[str]
) -> None:
    expected = []
    for subject in exported.having(modalities, ("validation", "test")):
        calibrated = apply_temperature(exported.probabilities(subject, modalities)[None], exported.bundle.temperature)
        expected.append(1 - calibrated[0, exported.truth(subject)])
    found = exported.bundle.conformal_scores(frozenset(modalities))
    assert found is not None
    assert len(found) >= 12
    np.testing.assert_allclose(found, sorted(expected), atol=1e-6)


def test_expected_changes_are_of_those_who_have_both(exported: Exported) -> None:
    both = exported.having({"low", "high"}, ("validation", "test"))
    changes, decisions = [], []
    for subject in both:
        raw = np.stack([exported.probabilities(subject, m) for m in ({"low"}, {"low", "high"})])
        before, after = apply_temperature(raw, exported.bundle.temperature)
        changes.append(abs(after - before)[before.argmax()])
        decisions.append(before.argmax() != after.argmax())
    (found,) = exported.bundle.expected_changes(frozenset({"low"}))
    assert (found["modality"], found["n"]) == ("high", len(both))
    assert found["mean_absolute_change"] == pytest.approx(np.mean(changes), abs=2e-6)
    assert found["decisions_changed"] == pytest.approx(np.mean(decisions), abs=2e-6)
    assert found["error_rate"] == 0.1
    assert exported.bundle.expected_changes(frozenset({"low", "high"})) == []


def test_distances_are_from_the_training_scans_of_the_modality(exported: Exported) -> None:
    feature_maps = FeatureStore(exported.run / "features")
    selected = exported.scans[exported.scans["modality"] == "low"]
    split = selected["subject"].map(exported.split)
    means = feature_maps.load(selected["scan"].to_list()).double().mean(dim=(2, 3)).numpy()
    train = means[(split == "train").to_numpy()]
    spread = np.maximum(train.std(0), 0.01 * train.std(0).mean())
    oracle = LedoitWolf().fit((train - train.mean(0)) / spread)
    held_out = np.sqrt(oracle.mahalanobis((means[(split != "train").to_numpy()] - train.mean(0)) / spread))
    entry = exported.bundle.calibration["outliers"]["low"]
    np.testing.assert_allclose(entry["distances"], sorted(held_out), rtol=1e-3)
    assert entry["training_scans"] == len(train)
    feature_map = feature_maps.load([selected["scan"].iloc[0]])[0]
    strange = exported.bundle.outlier("low", feature_map.flip(0) * 5)
    assert strange is not None
    assert strange["share_farther"] == 1 / (strange["n"] + 1)


def test_roles_are_remembered_without_names(exported: Exported) -> None:
    roles = {"train": "train", "validation": "validation", "test": "calibration"}
    for split, role in roles.items():
        subject = exported.subjects(split)[0]
        scan = exported.scans.loc[exported.scans["subject"] == subject, "sha256"].to_list()
        assert exported.bundle.seen(subject, []) == exported.bundle.seen(f"{subject.upper()}.0", []) == role
        assert exported.bundle.seen("somebody-else", scan) == role
    assert exported.bundle.seen("somebody-else", ["0" * 64]) == ""


class Scans:
    """Stands for the cohort's tables."""

    def __init__(self, *rows: tuple[str, str]) -> None:
        self.rows = rows

    def scans(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["subject", "sha256"])


def test_a_file_of_several_subjects_has_the_strictest_role() -> None:
    roles = {"a": "train", "b": "calibration", "c": "validation"}
    rows = [("a", "x"), ("b", "x"), ("b", "y"), ("c", "y"), ("b", "z"), ("d", "z"), ("d", "w"), ("a", UNREADABLE)]
    for some in (rows, rows[::-1]):
        found = export_stage._scan_roles(Scans(*some), roles)  # type: ignore[arg-type]
        assert found == {"x": "train", "y": "validation", "z": "calibration"}


def test_the_model_says_what_its_data_were_prepared_with(exported: Exported) -> None:
    for name in ("preprocess", "features"):
        made_from = json.loads((exported.run / name / "manifest.json").read_text())["made_from"]
        assert exported.bundle.stage_versions[name] == made_from["version"]
        assert exported.bundle.settings[name] == made_from["settings"]
    model = json.loads((exported.folder / "configs" / "model.json").read_text())
    assert model["made_with"] == {n: {"version": v} for n, v in exported.bundle.stage_versions.items()}
    assert exported.bundle.kinds == {
        m: {"kind": "image", "columns": {}, "skull_strip": True, "normalise": "minmax", "trust": None, "bits": None}
        for m in ("low", "high")
    }


def test_no_name_path_or_pickle_is_in_any_byte(exported: Exported) -> None:
    files = [path for path in exported.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".yaml", ".safetensors", ".onnx", ".md"}
    paths = [exported.run.parent, REPOSITORY, f"{Path.home()}/"]
    forbidden = [b"Annelise", b"Mustermann", b"secretly", *(str(path).encode() for path in paths)]
    forbidden += [b"torch._utils", b"_rebuild_tensor", b"cpickle", b"builtins"]
    hashes = exported.scans["sha256"].map(str.encode).to_list()
    for path in files:
        content = path.read_bytes()
        assert content[:2] not in (b"PK", b"\x80\x02", b"\x80\x04"), path
        for word in [*forbidden, *hashes]:
            assert word not in content, (path, word)


def test_onnx_is_there_and_agrees(exported: Exported) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = ReferenceEvaluator(onnx.load(exported.folder / "models" / "model.onnx"))
    feature_maps = FeatureStore(exported.run / "features")
    draw = np.random.default_rng(0)
    for size in (1, 2, 3, 4):
        scans = exported.scans.iloc[draw.choice(len(exported.scans), size, replace=False)]
        inputs = {
            "feature_maps": feature_maps.load(scans["scan"].to_list()).numpy(),
            "modality": np.array([exported.bundle.modalities.index(m) for m in scans["modality"]]),
        }
        logits, probabilities = graph.run(["logits", "probabilities"], inputs)
        expected = exported.logits(scans)
        np.testing.assert_allclose(logits[0], expected, atol=1e-4)
        calibrated = torch.from_numpy(expected / exported.bundle.temperature).softmax(0).numpy()
        np.testing.assert_allclose(probabilities[0], calibrated, atol=1e-4)


class FeatureMaps:
    """Stands for the cached feature maps: a scan's name is the seed of its feature map."""

    def load(self, scans: list[str]) -> torch.Tensor:
        return torch.stack([torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(int(s))) for s in scans])


@pytest.mark.parametrize("wrong", [None, 0, 1, 2])
def test_the_onnx_graph_is_tried_on_every_modality(wrong: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A modality of two scans far down in the table must not be missed, nor one value that is not finite."""
    torch.manual_seed(0)
    shape: dict = {"modalities": 3, "feature_map_shape": (4, 2, 2), "classes": 2}
    model, other = SetModel(**shape).eval(), SetModel(**shape).eval()
    torch.nn.init.normal_(model.classifier.rho[-1].weight)
    other.load_state_dict(model.state_dict())
    names = ["a"] * 30 + ["b"] * 30 + ["c"] * 2
    repeat_data = RepeatData(
        pd.DataFrame({"scan": map(str, range(62)), "modality": names}), ("a", "b", "c"), ("x", "y")
    )
    if wrong is not None:
        other.extractor.centre[wrong] += 1
    monkeypatch.setattr("pipeline.stages.export.onnx_graph", lambda _, **options: onnx_graph(other, **options))
    graph, reason = export_stage._onnx(model, repeat_data, FeatureMaps(), 1.0)  # type: ignore[arg-type]
    assert (graph is None) == (wrong is not None)
    assert ("differed from torch's by" in reason) == (wrong is not None)
    other.extractor.centre[2, 0] = float("nan")
    graph, reason = export_stage._onnx(model, repeat_data, FeatureMaps(), 1.0)  # type: ignore[arg-type]
    assert (graph, reason) == (None, "a logit was not finite")


def test_the_model_card_says_what_was_measured(exported: Exported) -> None:
    card = (exported.folder / "docs" / "README.md").read_text("utf-8")
    metrics = json.loads((exported.run / "classify" / "metrics.json").read_text())["threshold_half"]
    auc = metrics["auc"]
    assert card.count(f"{auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]") == 2  # one repeat: both columns
    assert "Not a medical device" in card
    assert "| train | 24 |" in card
    assert f"Temperature {exported.bundle.temperature:.3f}, fitted on 12 validation observations." in card
    assert "random with seed 0" in card
    assert "models/model.onnx` is φ and ρ" in card
    for modality, entry in exported.bundle.calibration["outliers"].items():
        assert len(entry["distances"]) >= 19
        assert f"| {modality} | {entry['training_scans']} | {len(entry['distances'])} | yes |" in card
    assert "the table is for 0.05" in card
    assert "abstentions are those at an error rate of 0.1, whatever" in card
    metadata = json.loads((exported.folder / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"]["auc"] == round(auc["mean"], 4)


def test_a_second_export_gives_the_same_bytes_whatever_the_memory(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported.run, tmp_path / "run")
    argv = [*exported.argv, "--workspace", str(tmp_path / "run"), "--stages", "export"]
    read, asked = export_stage.read_calibration_set, []

    def with_little(*given: Any, memory_mb: int) -> Any:
        asked.append(memory_mb)
        return read(*given, memory_mb=memory_mb / 10)  # of 0.5 MB of features

    monkeypatch.setattr(export_stage, "read_calibration_set", with_little)
    assert main([*argv, "--force", "export", "--export.memory_mb", "1"]) == 0
    assert asked == [1]
    assert Bundle.read(tmp_path / "run" / "export" / "bundle").fingerprint == exported.bundle.fingerprint


def test_calibration_by_validation_alone_leaves_test_subjects_unknown(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported.run, tmp_path / "run")
    argv = [*exported.argv, "--workspace", str(tmp_path / "run"), "--stages", "export"]
    assert main([*argv, "--export.conformal_from", "validation", "--export.error_rate", "0.05"]) == 0
    bundle = Bundle.read(tmp_path / "run" / "export" / "bundle")
    scores = bundle.conformal_scores(frozenset({"low"}))
    assert scores is not None
    assert len(scores) == 12
    assert bundle.seen(exported.subjects("test")[0], []) == ""
    assert bundle.seen(exported.subjects("validation")[0], []) == "validation"
    said = capsys.readouterr().out
    assert "low: 12 held-out subjects are too few for an error rate of 0.05; 19 are needed" in said
    few = "12 held-out subjects are too few for an error rate of 0.05; 19 are needed"
    assert f"unusual low scans will not be noticed: {few}" in said
    card = (bundle.folder / "docs" / "README.md").read_text("utf-8")
    training = bundle.calibration["outliers"]["low"]["training_scans"]
    assert f"| low | {training} | 12 | no: {few} |" in card
    assert "abstentions are those at an error rate of 0.05, whatever" in card
    (change,) = bundle.expected_changes(frozenset({"low"}))
    assert change["error_rate"] == 0.05
    assert bundle.outlier("low", FeatureStore(exported.run / "features").load([exported.scans["scan"].iloc[0]])[0])


def test_a_signed_export_is_trusted_by_who_has_the_key(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported.run, tmp_path / "run")
    fingerprint = new_key(tmp_path / "secretly-kept")
    argv = [*exported.argv, "--workspace", str(tmp_path / "run"), "--stages", "export"]
    signing = ["--export.signing_key", str(tmp_path / "secretly-kept")]
    assert main([*argv, *signing]) == 0  # what was up to date unsigned is not up to date signed
    folder = tmp_path / "run" / "export" / "bundle"
    assert Bundle.read(folder, [tmp_path / "secretly-kept.pub"]).signed_by == fingerprint
    assert Bundle.read(folder).fingerprint == exported.bundle.fingerprint
    assert not [path for path in folder.rglob("*") if path.is_file() and b"secretly" in path.read_bytes()]
    new_patients = exported.scans[exported.scans["subject"] == exported.subjects("test")[0]]
    new_patients[["subject", "modality", "path"]].to_csv(tmp_path / "new_patients.csv", index=False)
    ask = [
        "--model",
        str(folder),
        "--cohort",
        str(tmp_path / "new_patients.csv"),
        "--workspace",
        str(tmp_path / "answers"),
    ]
    assert main([*ask, "--trusted", str(tmp_path / "secretly-kept.pub")]) == 0
    assert f"is signed by the key {fingerprint}, which is trusted" in capsys.readouterr().err
    (tmp_path / "secretly-kept").unlink()
    assert main([*argv, *signing]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    assert main(argv) == 0
    assert not (folder / "checksums.json.sig").exists()


def test_a_repeat_that_is_not_there_is_refused(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*exported.argv, "--stages", "export", "--export.repeat", "7"]) == 2
    assert "export.repeat is 7; this run has the repeats 1" in capsys.readouterr().err
    Bundle.read(exported.folder)  # what was there still is


def test_monai_runs_the_command_line(
    exported: Exported, tmp_path: Path, picture_cohort: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m monai.bundle run` calls this function with these arguments."""
    picture_cohort(tmp_path / "new_patients", subjects=4, seed=9, side=24)
    table = pd.read_csv(tmp_path / "new_patients" / "cohort.csv").drop(columns="class")
    table.to_csv(tmp_path / "new_patients" / "cohort.csv", index=False)
    argv = ["--model", str(exported.folder), "--cohort", str(tmp_path / "new_patients" / "cohort.csv")]
    assert main(["--stages", "predict", *argv, "--workspace", str(tmp_path / "one"), "--quiet"]) == 0
    with pytest.warns(UserWarning, match="source you trust"), pytest.raises(SystemExit) as stopped:
        monai.bundle.run(
            config_file=str(exported.folder / "configs" / "inference.json"),
            bundle_root=str(exported.folder),
            cohort=argv[-1],
            workspace=str(tmp_path / "two"),
        )
    assert stopped.value.code == 0
    one, two = (json.loads((tmp_path / name / "predict" / "predictions.json").read_text()) for name in ("one", "two"))
    assert one["patients"]
    assert one["patients"] == two["patients"]
