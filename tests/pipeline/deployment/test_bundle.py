"""A bundle made by hand: what is written is read, what was changed is refused, MONAI understands it."""

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from evaluation.outliers import fit_reference
from files.reading import file_sha256
from models.set_model import SetModel
from pipeline.deployment.bundle import CHECKSUMS, NEEDED, Bundle, BundleError
from pipeline.deployment.bundle_writer import Export, metadata, seen_table, write_bundle
from pipeline.settings import load_settings

pytestmark = pytest.mark.usefixtures("one_thread")
NETWORK = {
    "modalities": 3, "feature_map_shape": [6, 2, 2], "classes": 2, "embedding": 3, "hidden": 4, "rho_hidden": [5],
    "aggregate": "mean",
}  # fmt: skip
TRAIN = np.random.default_rng(0).normal(5, 1, (30, 6))
SUBJECT, SCAN = "Grete-Hermann-1901", "ab" * 32
CHANGE = {
    "n": 4, "mean_absolute_change": 0.1, "decisions_changed": 0.25, "abstentions_resolved": None, "error_rate": 0.15,
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> SetModel:
    torch.manual_seed(0)
    model = SetModel(**NETWORK).eval()
    with torch.no_grad():
        model.classifier.rho[-1].weight.normal_()
    return model


@pytest.fixture(scope="module")
def described() -> Export:
    scores = {("pet",): [0.1, 0.4], ("pet", "t1"): [0.2]}
    return Export(
        name="by-hand",
        version="2.0.1",
        authors="Nobody",
        copyright="nobody's",
        classes=("CN", "AD"),
        modalities=("flair", "pet", "t1"),
        trained=("pet", "t1"),
        network=NETWORK,
        kinds={name: {"kind": "image", "skull_strip": False} for name in ("flair", "pet", "t1")},
        settings={
            "preprocess": {"spacing_mm": 2.0, "skull_strip_mode": "fast", "precision": "auto"},
            "features": {"backbone": "vgg11", "random_seed": 3, "slice_spacing_mm": None},
        },
        weights={"preprocess": None, "features": "random"},
        stage_versions={"preprocess": 4, "features": 2},
        calibration={
            "temperature": {"value": 1.7, "n": 20, "reason": ""},
            "conformal": {"subsets": [{"modalities": list(m), "scores": s} for m, s in scores.items()]},
            "expected_changes": [{"modalities": ["pet"], "modality": "t1", **CHANGE}],
            "outliers": {
                "pet": {"training_scans": 30, "distances": [1.0, 2.0, 500.0], "reason": ""},
                "t1": {"training_scans": 3, "distances": [], "reason": "3 training scans, at least 8 needed"},
            },
        },
        references={"pet": fit_reference(TRAIN)},
        test={"auc": {"mean": 0.8, "low": 0.7, "high": 0.9}, "f1": {"mean": float("nan")}},
        subjects={SUBJECT: "train", "other": "calibration"},
        scans={SCAN: "validation", "ef" * 32: "calibration", "01" * 32: "train"},
    )


@pytest.fixture
def folder(tmp_path: Path, network: SetModel, described: Export) -> Path:
    write_bundle(tmp_path / "bundle", described, network, card="# Card\n", onnx=b"graph")
    return tmp_path / "bundle"


def test_what_is_written_is_read(folder: Path, network: SetModel) -> None:
    bundle = Bundle.read(folder)
    assert (bundle.name, bundle.version, bundle.temperature) == ("by-hand", "2.0.1", 1.7)
    assert (bundle.classes, bundle.modalities, bundle.trained) == (
        ("CN", "AD"),
        ("flair", "pet", "t1"),
        ("pet", "t1"),
    )
    assert bundle.settings["features"] == {"backbone": "vgg11", "random_seed": 3, "slice_spacing_mm": None}
    assert bundle.stage_versions == {"preprocess": 4, "features": 2}
    assert bundle.kinds["pet"] == {"kind": "image", "skull_strip": False}
    assert list(bundle.kinds) == ["flair", "pet", "t1"]
    np.testing.assert_array_equal(bundle.conformal_scores(frozenset({"t1", "pet"})), [0.2])
    np.testing.assert_array_equal(bundle.conformal_scores(frozenset({"pet"})), [0.1, 0.4])
    assert bundle.conformal_scores(frozenset({"t1"})) is None
    assert bundle.expected_changes(frozenset({"pet"})) == [{"modality": "t1", **CHANGE}]
    assert bundle.expected_changes(frozenset({"t1"})) == []
    inputs = torch.randn(3, 6, 2, 2), torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1]), 2
    with torch.inference_mode():
        assert torch.equal(bundle.network()(*inputs), network(*inputs))
    assert {path.name for path in folder.parent.iterdir()} == {"bundle"}  # nothing half written stays behind


def test_distances_are_of_channel_means(folder: Path) -> None:
    bundle = Bundle.read(folder)
    feature_map = torch.tensor(TRAIN.mean(0), dtype=torch.float32)[:, None, None] + torch.tensor([[-4.0, 4], [2, -2]])
    near = bundle.outlier("pet", feature_map)
    assert near is not None
    assert near["distance"] == pytest.approx(0, abs=1e-2)
    assert (near["share_farther"], near["n"]) == (1.0, 3)
    far = bundle.outlier("pet", feature_map + 100)
    assert far is not None
    assert (far["distance"] > 100, far["share_farther"]) == (True, 0.5)
    assert bundle.outlier("t1", feature_map) is None
    assert bundle.outlier("flair", feature_map) is None


def test_known_subjects_and_scans_are_recognised(folder: Path) -> None:
    bundle = Bundle.read(folder)
    assert bundle.seen(SUBJECT, []) == "train"
    assert bundle.seen("other", ["cd" * 32]) == "calibration"
    assert bundle.seen("renamed", ["cd" * 32, SCAN]) == "validation"
    assert bundle.seen("new", ["cd" * 32]) == ""


def test_the_strictest_of_several_hits_counts(folder: Path) -> None:
    bundle = Bundle.read(folder)
    validation, calibration, train = SCAN, "ef" * 32, "01" * 32
    for scans in itertools.permutations([calibration, validation, train, "cd" * 32]):
        assert bundle.seen("new", scans) == "train"
    assert bundle.seen("new", [calibration, validation]) == "validation"
    assert bundle.seen("other", [validation]) == "validation"  # by its id it is of the calibration
    assert bundle.seen("other", [train]) == "train"
    assert bundle.seen(SUBJECT, [calibration]) == "train"


def test_hashes_are_slow_salted_and_reproducible() -> None:
    table = seen_table({"a": "train"}, {}, b"0123456789abcdef")
    expected = hashlib.pbkdf2_hmac("sha256", b"a", b"0123456789abcdef", 10_000).hex()
    assert table["subjects"] == {expected: "train"}
    assert seen_table({"a": "train"}, {}, b"0123456789abcdeX")["subjects"] != table["subjects"]
    assert json.dumps(seen_table({"a": "train"}, {}, b"0123456789abcdef")) == json.dumps(table)


@pytest.mark.parametrize("name", NEEDED)
def test_a_changed_or_missing_file_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{Path(name).name} is not as it was exported: its SHA-256 is"):
        Bundle.read(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=r"cannot be read \(No such file.*copy or export the model again"):
        Bundle.read(folder)


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    sums = json.loads((folder / CHECKSUMS).read_text())
    change(sums)
    (folder / CHECKSUMS).write_text(json.dumps(sums))


def test_other_folders_and_shortened_lists_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no exported model: it has no checksums\.json"):
        Bundle.read(tmp_path)
    shutil.copytree(folder, tmp_path / "short")
    rewrite(tmp_path / "short", lambda sums: sums.pop("seen.json"))
    with pytest.raises(BundleError, match=r"does not name seen\.json"):
        Bundle.read(tmp_path / "short")
    (tmp_path / "secret").write_text("secret")
    rewrite(folder, lambda sums: sums.update({"../secret": file_sha256(tmp_path / "secret")}))
    with pytest.raises(BundleError, match=r"names '\.\./secret', which is no file of an exported model"):
        Bundle.read(folder)


def test_a_model_replaced_while_it_is_used_is_noticed(folder: Path, network: SetModel, described: Export) -> None:
    bundle = Bundle.read(folder)
    feature_map = torch.randn(6, 2, 2)
    before = bundle.outlier("pet", feature_map)
    other = SetModel(**NETWORK)
    references = {"pet": fit_reference(TRAIN * 3 + 50)}
    write_bundle(folder, dataclasses.replace(described, references=references), other, card="# Card\n", onnx=None)
    assert bundle.outlier("pet", feature_map) == before  # as it was read
    assert Bundle.read(folder).outlier("pet", feature_map) != before
    with pytest.raises(BundleError, match=r"model\.safetensors is not as it was .* replaced meanwhile, start again"):
        bundle.network()


def test_a_model_of_another_format_is_refused(folder: Path) -> None:
    model = folder / "configs" / "model.json"
    model.write_text(model.read_text().replace("hypermm-bundle/2", "hypermm-bundle/1"))
    rewrite(folder, lambda sums: sums.update({"configs/model.json": file_sha256(model)}))
    with pytest.raises(BundleError, match="of format hypermm-bundle/1, this program reads hypermm-bundle/2"):
        Bundle.read(folder)


def test_the_fingerprint_tells_models_apart(folder: Path, tmp_path: Path, network: SetModel, described: Export) -> None:
    write_bundle(tmp_path / "second", described, network, card="# Card\n", onnx=b"graph")
    write_bundle(tmp_path / "other", described, network, card="# Another card\n", onnx=b"graph")
    first = Bundle.read(folder).fingerprint
    assert first == hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()  # whole, and easily compared
    assert Bundle.read(tmp_path / "second").fingerprint == first
    assert Bundle.read(tmp_path / "other").fingerprint != first


def test_a_second_export_leaves_nothing_of_the_first(folder: Path, network: SetModel, described: Export) -> None:
    assert (folder / "models" / "model.onnx").exists()
    write_bundle(folder, described, network, card="# Card\n", onnx=None)
    assert not (folder / "models" / "model.onnx").exists()
    Bundle.read(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


class Killed(BaseException):
    """As by a signal."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_models_are_swapped_leaves_whole_models(
    folder: Path, network: SetModel, described: Export, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    first = Bundle.read(folder).fingerprint
    rename, rmtree, done = os.replace, shutil.rmtree, []

    def dying_rename(source: Path, target: Path) -> None:
        if source.is_dir():  # not the files in it
            if len(done) == renames:
                monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # who is dead cleans nothing up
                raise Killed
            done.append(source)
        rename(source, target)

    def dying_rmtree(path: Path, **options: bool) -> None:
        if path.name == ".old-bundle" and path.exists():
            raise Killed
        rmtree(path, **options)

    monkeypatch.setattr(os, "replace", dying_rename)
    monkeypatch.setattr(shutil, "rmtree", dying_rmtree)
    with pytest.raises(Killed):
        write_bundle(folder, described, network, card="# Another card\n", onnx=None)
    monkeypatch.undo()
    left = {path.name: Bundle.read(path).fingerprint for path in folder.parent.iterdir()}
    there = [{"bundle", ".new-bundle"}, {".old-bundle", ".new-bundle"}, {"bundle", ".old-bundle"}][renames]
    assert set(left) == there
    assert left["bundle" if renames == 0 else ".old-bundle"] == first
    if renames == 1:  # an export that fails after that must not take the last model with it
        with pytest.raises(TypeError):
            write_bundle(folder, described, network, card=None, onnx=None)  # type: ignore[arg-type]
        assert Bundle.read(folder).fingerprint == first
    write_bundle(folder, described, network, card="# A third card\n", onnx=None)
    assert Bundle.read(folder).fingerprint not in left.values()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_rename_that_fails_leaves_the_model_before(
    folder: Path, network: SetModel, described: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rename = Bundle.read(folder).fingerprint, os.replace

    def failing(source: Path, target: Path) -> None:
        if source.name == ".new-bundle":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_bundle(folder, described, network, card="# Another card\n", onnx=None)
    assert Bundle.read(folder).fingerprint == first
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_an_old_model_that_cannot_be_removed_is_named(
    folder: Path, network: SetModel, described: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def busy(path: Path, **options: bool) -> None:
        if path.name == ".old-bundle" and path.exists():
            raise OSError(16, "Device or resource busy", str(path))
        rmtree(path, **options)

    first = Bundle.read(folder).fingerprint
    monkeypatch.setattr(shutil, "rmtree", busy)
    for _ in range(2):  # after the swap, and before the next one
        with pytest.raises(BundleError, match=r"\.old-bundle, left .* \(Device or resource busy\); remove it by hand"):
            write_bundle(folder, described, network, card="# Another card\n", onnx=None)
        assert Bundle.read(folder).fingerprint != first  # the new one is in place


def test_metadata_has_what_monai_requires(described: Export) -> None:
    """The required keys of MONAI's meta_schema_20240725 and of each tensor in it."""
    found = json.loads(json.dumps(metadata(described)))
    texts = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description")
    texts += ("authors", "copyright", "intended_use", "data_type", "image_classes", "label_classes", "pred_classes")
    assert all(isinstance(found[name], str) and found[name] for name in texts)
    assert isinstance(found["required_packages_version"], dict)
    assert found["eval_metrics"] == {"auc": 0.8}  # NaN is no JSON
    assert list(found["network_data_format"]["inputs"]) == ["feature_maps", "modality", "sets", "count"]
    assert found["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "CN", "1": "AD"}
    for tensor in (*found["network_data_format"]["inputs"].values(), *found["network_data_format"]["outputs"].values()):
        if isinstance(tensor, str):
            continue
        kinds = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str}
        kinds |= {"value_range": list, "is_patch_data": bool, "channel_def": dict}
        assert {name: type(tensor[name]) for name in kinds} == kinds
        assert all(isinstance(size, int | str) for size in tensor["spatial_shape"])
        assert all(isinstance(value, int | float) for value in tensor["value_range"])


def test_monai_builds_the_network(folder: Path, network: SetModel) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser.read_meta(folder / "configs" / "metadata.json")
    parser["bundle_root"] = str(folder)
    inputs = torch.randn(2, 6, 2, 2), torch.tensor([1, 0]), torch.tensor([0, 0]), 1
    with torch.inference_mode():
        assert torch.equal(parser.get_parsed_content("network_def")(*inputs), network(*inputs))


def test_the_settings_are_a_config_for_patients_without_a_class(folder: Path) -> None:
    settings = load_settings(folder / "configs" / "settings.yaml", {})
    assert settings.name == "by-hand-predictions"  # not the workspace of the run that trained the model
    assert settings.cohort.label is None
    assert settings.cohort.manifest is None
    assert list(settings.cohort.modalities) == ["flair", "pet", "t1"]
    assert settings.preprocess.spacing_mm == 2.0
    assert (settings.features.weights, settings.features.random_seed) == ("random", 3)


def test_published_weights_are_not_called_random(tmp_path: Path, network: SetModel, described: Export) -> None:
    published = dataclasses.replace(described, weights={"preprocess": None, "features": "abc"})
    write_bundle(tmp_path / "bundle", published, network, card="", onnx=None)
    assert "weights" not in yaml.safe_load((tmp_path / "bundle/configs/settings.yaml").read_text())["features"]


@pytest.mark.parametrize("random_weights", [True, False])
def test_no_place_of_weights_is_written(
    tmp_path: Path, network: SetModel, described: Export, random_weights: bool
) -> None:
    placed = {name: {**section, "weights": f"/secret/{name}"} for name, section in described.settings.items()}
    weights = {"preprocess": None, "features": "random" if random_weights else "abc"}
    export = dataclasses.replace(described, settings=placed, weights=weights)
    write_bundle(tmp_path / "bundle", export, network, card="", onnx=None)
    written = yaml.safe_load((tmp_path / "bundle/configs/settings.yaml").read_text())
    assert written == {
        "name": "by-hand-predictions",
        "cohort": {"modalities": described.kinds, "manifest": None, "label": None},
        "preprocess": described.settings["preprocess"],
        "features": described.settings["features"] | ({"weights": "random"} if random_weights else {}),
    }
    assert Bundle.read(tmp_path / "bundle").settings == described.settings
    assert not [path for path in (tmp_path / "bundle").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
