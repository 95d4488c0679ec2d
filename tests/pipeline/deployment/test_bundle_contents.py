"""What a stranger may write into a model, each kind once: told in words that name file, key and value."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml

from pipeline.deployment.bundle import Bundle, BundleError
from pipeline.deployment.bundle_configs import for_monai, inference, settings

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL, CALIBRATION, SEEN = "configs/model.json", "calibration.json", "seen.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> Path:
    return small_model(tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def put(folder: Path, name: str, key: str, value: Any) -> None:
    """Write a value at a dotted key of a JSON file, and what this program would write for such a model."""
    content = json.loads((folder / name).read_text("utf-8"))
    *way, last = key.split(".")
    inside: Any = content
    for step in way:
        inside = inside[int(step) if isinstance(inside, list) else step]
    inside[int(last) if isinstance(inside, list) else last] = value
    (folder / name).write_text(json.dumps(content), "utf-8")
    if name == MODEL:
        said = settings(content["name"], content["kinds"], content["settings"], content["weights"])
        (folder / "configs" / "settings.yaml").write_text(yaml.safe_dump(said), "utf-8")
        run = inference(content["name"], content["network"])
        (folder / "configs" / "inference.json").write_text(json.dumps(run), "utf-8")


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        (MODEL, "classes", ["CN", "CN", "AD"], r"classes is \['CN', 'CN', 'AD'\]: a name occurs twice"),
        (MODEL, "classes.0", "", "classes.0 is '': expected a name of 1 to 300 characters"),
        (MODEL, "classes.0", "\x1b]0;x\x07", r"classes.0 is '\\x1b\]0;x\\x07': a name has no control characters"),
        (MODEL, "classes", [f"c{n}" for n in range(1001)], "at most 1000 items"),
        (MODEL, "classes", {"CN": 1}, "input should be a valid list"),
        (MODEL, "trained.0", "CT", "trained has 'CT', modalities has not"),
        (MODEL, "kinds", {"pet": {"kind": "image", "skull_strip": True}}, "kinds and modalities have different names"),
        (MODEL, "network.classes", 2, "network has other numbers of modalities and classes"),
        (MODEL, "network.hidden", 10**9, "network.hidden is 1000000000: input should be less than or equal to 1000000"),
        (
            MODEL,
            "network.feature_map_shape.0",
            "6",
            "network.feature_map_shape.0 is '6': input should be a valid integer",
        ),
        (MODEL, "network.embedding", True, "network.embedding is True: input should be a valid integer"),
        (MODEL, "settings.features.random_seed", float("inf"), "random_seed is inf: a number is not finite"),
        (MODEL, "made_with.features", None, "made_with.features is None: input should be a mapping"),
        (CALIBRATION, "temperature.value", float("nan"), "temperature.value is nan: input should be a finite number"),
        (CALIBRATION, "temperature.value", 0, "temperature.value is 0: input should be greater than or equal to 0.01"),
        (CALIBRATION, "conformal.subsets.0.scores.3", float("nan"), "subsets.0.scores.3 is nan"),
        (CALIBRATION, "conformal.score", "luck", "no conformal score 'luck'"),
        (CALIBRATION, "conformal.subsets.0.scores.3", 1.5, "input should be less than or equal to 1"),
        (CALIBRATION, "conformal.subsets.1.modalities", ["pet"], "conformal.subsets has the same modalities twice"),
        (CALIBRATION, "outliers.pet.distances.0", -1, "input should be greater than or equal to 0"),
        (
            CALIBRATION,
            "outliers.CT",
            {"training_scans": 9, "distances": []},
            "'CT', which the model was not trained on",
        ),
        (CALIBRATION, "expected_changes.0.modality", "pet", "adds a modality that is already present"),
        (CALIBRATION, "expected_changes.0.more", 1, "expected_changes.0.more is 1: extra inputs are not permitted"),
        (SEEN, "rounds", 10**9, "rounds is 1000000000: input should be less than or equal to 200000"),
        (SEEN, "salt", "no hex", "salt is 'no hex': string should match pattern"),
        (SEEN, "subjects", {"known": "train"}, "'known' is 'train'; expected a hash"),
        (
            SEEN,
            "scans",
            {"ab" * 32: "boss"},
            "is 'boss'; expected a hash that is one of train, validation, calibration",
        ),
    ],
)
def test_what_a_model_may_not_say(
    folder: Path, sums_anew: Callable[[Path], None], name: str, key: str, value: Any, message: str
) -> None:
    put(folder, name, key, value)
    sums_anew(folder)
    with pytest.raises(BundleError, match=message) as error:
        Bundle.read(folder)
    assert str(folder / name) in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tables", {}, "tables and the trained modalities of kind table have different names"),
        ("tables.pet.0.name", "other", "tables and kinds have different columns of 'pet'"),
        ("tables.pet.0.centre", [0.5], "centre needs one number for each category, or one alone"),
        ("tables.pet.0.centre.0", float("nan"), "input should be a finite number"),
        ("tables.pet.0.spread", -1.0, "input should be greater than or equal to 0"),
        ("tables.pet.0.missing", 2.0, "input should be less than or equal to 1"),
        ("kinds.pet.columns", {"cluster": "text"}, "input should be 'category' or 'number'"),
        (
            "tables.pet.0",
            {"name": "cluster", "categories": list("abcdef"), "centre": [0.1] * 6, "spread": 1.0, "missing": 0.0},
            "'pet' has more numbers than a feature map has channels",
        ),
    ],
)
def test_what_a_table_of_a_model_may_not_say(
    tmp_path: Path,
    small_model: Callable[..., Path],
    sums_anew: Callable[[Path], None],
    key: str,
    value: Any,
    message: str,
) -> None:
    kinds = {"pet": {"kind": "table", "columns": {"cluster": "category"}, "skull_strip": True}}
    kinds["t1"] = {"kind": "volume", "skull_strip": False}
    column = {"name": "cluster", "categories": ["a", "b"], "centre": [0.5, 0.5], "spread": 0.7, "missing": 0.25}
    folder = small_model(tmp_path / "bundle", kinds=kinds, tables={"pet": [column]})
    assert Bundle.read(folder).tables["pet"].unseen({"cluster": "c"}) == {"cluster": "c"}
    put(folder, MODEL, key, value)
    sums_anew(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.read(folder)


def test_what_is_missing_is_named(folder: Path, sums_anew: Callable[[Path], None]) -> None:
    content = json.loads((folder / CALIBRATION).read_text("utf-8"))
    del content["outliers"], content["temperature"]["value"]
    (folder / CALIBRATION).write_text(json.dumps(content), "utf-8")
    sums_anew(folder)
    with pytest.raises(BundleError, match=r"calibration\.json: temperature\.value is missing; outliers is missing"):
        Bundle.read(folder)


def test_a_network_of_another_size_than_its_weights_is_not_built(
    folder: Path, sums_anew: Callable[[Path], None]
) -> None:
    """Its second classifier layer alone would take 4 GB."""
    put(folder, MODEL, "network.rho_hidden", [1_000_000, 1000])
    put(folder, MODEL, "network.hidden", 1_000_000)
    sums_anew(folder)
    bundle = Bundle.read(folder)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000, before[1]))
    try:
        with pytest.raises(
            BundleError, match=r"model\.safetensors: .* is missing or strange\. The model cannot be used"
        ):
            bundle.network()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_no_model(
    folder: Path, sums_anew: Callable[[Path], None], value: float
) -> None:
    path = folder / "models" / "model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in safetensors.numpy.load_file(path).items()}
    tensors["extractor.centre"].flat[5] = value
    path.write_bytes(safetensors.numpy.save(tensors))
    sums_anew(folder)
    with pytest.raises(BundleError, match=r"extractor\.centre has numbers that are not finite\. The model cannot"):
        Bundle.read(folder).network()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["mean.pet"].__setitem__(0, np.nan), "'mean.pet' has numbers that are not finite"),
        (lambda t: t["precision.pet"].__setitem__((0, 1), 50), "'precision.pet' is not symmetric"),
        (lambda t: t["precision.pet"].__setitem__((0, 0), -1), "'precision.pet' is no inverse of a covariance"),
        (lambda t: t.update({"mean.pet": t["mean.pet"][:5].copy()}), r"'mean.pet' is float32 \(5,\); expected float32"),
        (lambda t: t.update({"mean.pet": t["mean.pet"].astype(np.float64)}), r"'mean.pet' is float64 \(6,\)"),
        (lambda t: t.pop("mean.t1"), r"holds \['mean.pet', 'precision.pet', 'precision.t1'\]; expected"),
    ],
)
def test_what_describes_no_training_scans(
    folder: Path, sums_anew: Callable[[Path], None], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = folder / "outliers.safetensors"
    tensors = {name: tensor.copy() for name, tensor in safetensors.numpy.load_file(path).items()}
    change(tensors)
    path.write_bytes(safetensors.numpy.save(tensors))
    sums_anew(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.read(folder)


@pytest.mark.parametrize("name", ["checksums.json", "seen.json", "models/model.onnx", "checksums.json.sig"])
def test_pipes_and_links_to_elsewhere_are_not_opened(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match="is a pipe, a device or a socket; expected a file"):
        Bundle.read(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="is a link that leads outside of the model"):
        Bundle.read(folder)


def test_a_model_that_is_linked_to_is_a_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "seen.json").rename(folder / "other.json")
    (folder / "seen.json").symlink_to("other.json")
    assert Bundle.read(tmp_path / "link").name == "small"


@pytest.mark.parametrize("name", ["configs/logging.conf", "configs/more.json", "models/model.onnx"])
def test_what_monai_would_run_beside_a_model_is_noticed(folder: Path, name: str) -> None:
    """`python -m monai.bundle run` evaluates configs/logging.conf without being told to."""
    sums = json.loads((folder / "checksums.json").read_text("utf-8"))
    sums.pop(name, None)
    (folder / "checksums.json").write_text(json.dumps(sums), "utf-8")
    (folder / name).write_bytes(b"[loggers]")
    with pytest.raises(BundleError, match=rf"holds '{Path(name).name}', which does not belong .* MONAI might run it"):
        Bundle.read(folder)
    (folder / name).rename((folder / name).with_name(".DS_Store"))
    Bundle.read(folder)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("configs/inference.json", "imports", ["$import os", "$os.system('true')"]),
        ("configs/inference.json", "initialize", ["$print(1)"]),
        ("configs/metadata.json", "authors", "$__import__('os').system('true')"),
        ("configs/metadata.json", "copyright", "%/somewhere/file.json::key"),
        ("configs/metadata.json", "network_data_format", {"_target_": "os.system"}),
    ],
)
def test_configs_that_would_run_something_else_are_refused(
    folder: Path, sums_anew: Callable[[Path], None], name: str, key: str, value: Any
) -> None:
    put(folder, name, key, value)
    sums_anew(folder)
    with pytest.raises(
        BundleError, match=rf"{Path(name).name} is (not what this program writes|no list of facts).*not"
    ):
        Bundle.read(folder)


def test_the_name_of_a_model_does_not_choose_another_workspace(folder: Path, sums_anew: Callable[[Path], None]) -> None:
    """Without --workspace, its answers go to runs/<name>: not to that of the user's own run."""
    path = folder / "configs" / "settings.yaml"
    path.write_text(path.read_text("utf-8").replace("name: small-predictions", "name: mine"), "utf-8")
    sums_anew(folder)
    with pytest.raises(BundleError, match=r"not a model's to make \(name\)"):
        Bundle.read(folder)


def test_nothing_that_monai_evaluates_is_exported(tmp_path: Path, small_model: Callable[..., Path]) -> None:
    folder = small_model(tmp_path / "bundle", authors="$print(1)", classes=("CN", "@x", "%y"))
    facts = json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))
    assert facts["authors"] == " $print(1)"
    assert facts["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "CN", "1": " @x", "2": " %y"}
    assert for_monai({"a": [1, None, "b$"]}) == {"a": [1, None, "b$"]}
    assert Bundle.read(folder).classes == ("CN", "@x", "%y")
