"""An exported model with a joint model: what is written is read, and what is told of a new patient."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from helpers.exported_joint import exported_joint

from evaluation.calibration import apply_temperature
from models.hypermm import extract, predict_sets
from models.joint.model import Patients
from models.sets import Groups
from pipeline.deployment.bundle import Bundle, BundleError
from pipeline.deployment.bundle_joint import distances_of, like_single_patients
from pipeline.deployment.joint_answer import JointAnswer, joint_answer
from pipeline.deployment.predictor import Predictor, predict_patient
from pipeline.training.joint_patients import CovariateBlocks

pytestmark = pytest.mark.usefixtures("one_thread")
PET, T1 = ("p_pet", "pet"), ("p_t1", "t1")
MAPS = torch.randn(2, 6, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> Path:
    return small_model(tmp_path_factory.mktemp("joint") / "bundle", joint=exported_joint())


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    bundle = Bundle.read(folder)
    return Predictor(bundle, bundle.network(), error_rate=0.1, outlier_rate=0.3)


def ask(predictor: Predictor, *names: tuple[str, str], **given: Any) -> JointAnswer:
    maps = MAPS[[0 if name == PET else 1 for name in names]]
    found = joint_answer(predictor, names, maps, given.pop("covariates", {}), draws=given.pop("draws", 60))
    assert found is not None
    return found


def test_what_is_written_is_read_without_any_patient_s_scores(folder: Path) -> None:
    given, joint = exported_joint(), Bundle.read(folder).joint
    assert joint is not None
    assert joint.model.sums.cells == {}
    assert not [name for name in safetensors.numpy.load_file(folder / "models" / "joint.safetensors") if "sums" in name]
    rows = Patients({"t1": MAPS[1:].flatten(1).numpy(), "pet": np.full((1, 24), np.nan, np.float32)}, {})
    for one, other in zip(given.model.embed(rows), joint.model.embed(rows), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (given.distances, given.training) == (joint.distances, joint.training)
    content = json.loads((folder / "joint.json").read_text("utf-8"))
    lists = [name for name, value in content.items() if isinstance(value, list)]
    assert lists == ["modalities", "distances"]  # nothing has an entry for each training patient
    assert joint.covariates == given.covariates


def test_a_model_without_one_says_nothing(tmp_path: Path, small_model: Callable[..., Path]) -> None:
    bundle = Bundle.read(small_model(tmp_path / "bundle"))
    assert bundle.joint is None
    assert joint_answer(Predictor(bundle, bundle.network(), 0.1, 0.3), [PET], MAPS[:1], {}, draws=20) is None


def test_with_all_scans_nothing_is_imputed_and_the_place_is_a_point(predictor: Predictor) -> None:
    found = ask(predictor, PET, T1, covariates={"age": np.array([[0.4]])})
    assert found.facts["imputed"] == []
    assert (found.facts["answer"], found.images) == (None, {})
    assert np.abs(found.facts["embedding"]["covariance"]).max() < 1e-9
    open_age = ask(predictor, PET, T1)
    assert np.trace(open_age.facts["embedding"]["covariance"]) > 1e-4


def test_what_is_missing_is_imputed_with_its_spread(predictor: Predictor) -> None:
    alone, both = ask(predictor, T1), ask(predictor, PET, T1)
    (entry,) = alone.facts["imputed"]
    assert (entry["modality"], entry["from"], entry["draws"], entry["image"]) == ("pet", ["t1"], 60, True)
    assert 0.1 < entry["told"] < 1
    widths = [np.trace(each.facts["embedding"]["covariance"]) for each in (alone, both)]
    assert widths[0] > widths[1]
    image = alone.images["pet"]
    assert image.mean.shape == image.sd.shape == (768,)
    assert image.draws.shape == (3, 768)
    assert (image.sd > 0).all()
    assert ask(predictor, PET).images == {}  # t1 has no decoder
    assert ask(predictor, PET).facts["imputed"][0]["image"] is False
    assert ask(predictor, T1).facts == alone.facts  # the same patient, the same answer


def test_what_covariates_tell_is_not_told_by_scans(predictor: Predictor) -> None:
    """The age is one of two factors that both modalities have."""
    (alone,) = ask(predictor, T1).facts["imputed"]
    (entry,) = ask(predictor, T1, covariates={"age": np.array([[0.4]])}).facts["imputed"]
    assert (entry["from"], entry["covariates"]) == (["t1", "age"], ["age"])
    assert entry["told"] < alone["told"]
    joint = predictor.bundle.joint
    assert joint is not None
    absent = np.full((1, 24), np.nan, np.float32)
    left = []
    for t1 in (MAPS[1:].flatten(1).numpy(), absent):
        rows = joint.model.scores(Patients({"pet": absent, "t1": t1}, {"age": np.array([[0.4]])}))
        part = joint.model.blocks.slice_of("pet")
        left.append(np.trace(joint.model.condition(rows).covariance[0][part, part]))
    assert entry["told"] == pytest.approx(1 - left[0] / left[1], abs=1e-5)


def test_the_distance_is_compared_with_held_out_patients(predictor: Predictor) -> None:
    joint = predictor.bundle.joint
    assert joint is not None
    found = ask(predictor, T1).facts
    farther = sum(each >= found["distance"] for each in joint.distances)
    assert (found["n"], found["share_farther"]) == (25, pytest.approx((1 + farther) / 26))
    far = joint_answer(predictor, [T1], 50 * MAPS[1:], {}, draws=20)
    assert far is not None
    assert far.facts["share_farther"] == pytest.approx(1 / 26)


def test_the_answer_is_that_of_hypermm_on_each_draw(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw is put beside the patient's own scans, one set at a time."""
    seen: list[np.ndarray] = []
    joint = predictor.bundle.joint
    assert joint is not None
    usual = type(joint.model).draw

    def watched(*args: Any, **kwargs: Any) -> Any:
        made = usual(*args, **kwargs)
        seen.append(made[0]["pet"])
        return made

    monkeypatch.setattr(type(joint.model), "draw", watched)
    found = ask(predictor, T1, draws=25).facts["answer"]
    network, answers = predictor.network, []
    for drawn in seen[0].reshape(25, 6, 2, 2):
        maps = torch.stack([MAPS[1], torch.from_numpy(drawn)])
        phi = next(extract(network.extractor, [(maps, torch.tensor([1, 0]))], "cpu"))
        answers.append(
            predict_sets(network.classifier, phi, Groups.of(torch.zeros(2, dtype=torch.int64), 1)).numpy()[0]
        )
    expected = apply_temperature(np.stack(answers), predictor.bundle.temperature)
    for k, values in enumerate(found["probabilities"].values()):
        assert values["mean"] == pytest.approx(expected[:, k].mean(), abs=1e-5)
        assert values["leads"] == pytest.approx(np.mean(expected.argmax(axis=1) == k), abs=1e-5)
        assert [values["low"], values["high"]] == pytest.approx(np.quantile(expected[:, k], [0.05, 0.95]), abs=1e-5)
    assert found["sd_between_draws"] == pytest.approx(np.sqrt(expected.var(0, ddof=1).mean()), abs=1e-5)
    assert found["sd_within_draws"] == pytest.approx(np.sqrt((expected * (1 - expected)).mean()), abs=1e-5)


def test_hypermm_s_own_answer_does_not_change(predictor: Predictor, folder: Path, tmp_path: Path,
                                              small_model: Callable[..., Path]) -> None:  # fmt: skip
    bundle = Bundle.read(small_model(tmp_path / "bundle"))
    without = Predictor(bundle, bundle.network(), error_rate=0.1, outlier_rate=0.3)
    assert predict_patient(predictor, [T1], MAPS[1:]) == predict_patient(without, [T1], MAPS[1:])


def test_numbers_that_overflow_are_told(predictor: Predictor) -> None:
    found = joint_answer(predictor, [T1], 1e38 * MAPS[1:], {}, draws=20)
    assert found is not None
    assert found.facts == {"reason": "the joint model gives no finite numbers for these scans"}


def test_a_covariate_in_cubic_millimetres_is_written_and_read(tmp_path: Path, small_model: Callable[..., Path]) -> None:
    scales = {"scales": {"age": [1.5e6, 1.6e5]}, "values": {}}  # the place of the age holds a head's volume
    given = dataclasses.replace(exported_joint(), covariates=CovariateBlocks.from_json(scales))
    joint = Bundle.read(small_model(tmp_path / "bundle", joint=given)).joint
    assert joint is not None
    assert joint.covariates == given.covariates


CHANGES: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("json", lambda c: c["covariates"]["scales"].update(age=[1e31, 9.0]), r"age.0 is 1e\+31"),
    ("json", lambda c: c.update(classes=2), "is of other classes or modalities"),
    ("json", lambda c: c["modalities"].append("ct"), "blocks do not begin with the modalities"),
    ("json", lambda c: c["blocks"].update({"covariate age": 2}), "is no covariate of that size"),
    ("json", lambda c: c.update(cloud=[[0.0, 1.0]]), "cloud"),
    ("json", lambda c: c["decoders"]["pet"]["sizes"].__setitem__(0, 3), "reads other scores"),
    ("json", lambda c: c["covariates"]["scales"]["age"].__setitem__(1, 0.0), "has no spread"),
    ("json", lambda c: c.update(pixels=32), r"expected float32 \(.*3072"),
    ("tensors", lambda t: t.update({"embedding.directions": t["embedding.directions"][:1]}), "a map has 2"),
    ("tensors", lambda t: t.pop("embedding.centre"), "lacks, or has too much, 'embedding.centre'"),
    ("tensors", lambda t: t["estimate.covariance"].__imul__(-1), "negative direction"),
    ("tensors", lambda t: t["estimate.covariance"].__setitem__((0, 1), 9.0), "is not symmetric"),
    ("tensors", lambda t: t["draws.share"].__imul__(2), "does not add up to 1"),
    ("tensors", lambda t: t["basis.0.residual"].__setitem__(0, np.nan), "not finite, or too large"),
    ("tensors", lambda t: t.update({"basis.0.centre": t["basis.0.centre"].astype(np.float64)}), "expected float32"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "message"), CHANGES)
def test_what_a_stranger_changed_is_told(
    small_model: Callable[..., Path],
    tmp_path: Path,
    sums_anew: Callable[[Path], None],
    kind: str,
    change: Callable[[Any], None],
    message: str,
) -> None:
    folder = small_model(tmp_path / "bundle", joint=exported_joint())
    if kind == "json":
        content = json.loads((folder / "joint.json").read_text("utf-8"))
        change(content)
        (folder / "joint.json").write_text(json.dumps(content), "utf-8")
    else:
        path = folder / "models" / "joint.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        path.write_bytes(safetensors.numpy.save(tensors))
    sums_anew(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.read(folder)


def test_one_of_the_two_files_is_not_enough(small_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = small_model(tmp_path / "bundle", joint=exported_joint())
    (folder / "models" / "joint.safetensors").unlink()
    sums = json.loads((folder / "checksums.json").read_text("utf-8"))
    del sums["models/joint.safetensors"]
    (folder / "checksums.json").write_text(json.dumps(sums), "utf-8")
    with pytest.raises(BundleError, match="names only one of"):
        Bundle.read(folder)


def test_distances_are_those_of_held_out_subjects() -> None:
    table = pd.DataFrame(
        {
            "subject": list("abccd"),
            "split": ["train", "test", "validation", "validation", "test"],
            "distance": [1, 2.5, 1, 0.5, np.nan],
        }
    )
    assert distances_of(table) == (1, 2.5)


def test_a_class_of_few_patients_does_not_leave() -> None:
    """The mean of a class of one patient is that patient's scores."""
    model = exported_joint(patients=36).model
    assert like_single_patients(model, ("a", "b", "c")) == ""
    model = exported_joint(patients=16).model  # pet is missing for every fourth
    assert like_single_patients(model, ("a", "b", "c")) == (
        "4 training patients of the class a have pet, and a mean of fewer than 5 is too much like each of them"
    )
    counted = {name: [9, 9, 9] for name in model.blocks.names}
    assert like_single_patients(model, ("a", "b", "c"), counted) == ""
    assert "3 training patients of the class b have t1" in like_single_patients(
        exported_joint(patients=36).model, ("a", "b", "c"), counted | {"t1": [9, 3, 9]}
    )  # of several sessions each
