"""The joint model of feature maps: wider and not shifted with fewer scans, intervals that hold, arrays and back."""

import json

import numpy as np
import pytest
from helpers.joint_world import world
from scipy.stats import chi2

from evaluation.imputation import gaussian_coverage, gaussian_crps
from models.joint.embedding import shared_directions
from models.joint.gaussian import Parameters, condition
from models.joint.model import CannotJoinError, JointConfig, JointModel, Patients, fit_model
from models.joint.posterior import fit
from models.joint.state import from_arrays, to_arrays
from models.joint.sums import sums_of

SHAPE = (20, 3, 3)
WIDTH = 180
NAMES = ("MRI", "PET")


def patients(count: int, seed: int, missing: float = 0.0) -> tuple[Patients, np.ndarray]:
    """Feature maps that share three factors between modalities, one of them with the class."""
    fixed = np.random.default_rng(0)
    loadings = {name: fixed.standard_normal((3, WIDTH)) for name in NAMES}
    own = {name: fixed.standard_normal((4, WIDTH)) for name in NAMES}
    random = np.random.default_rng([seed, 5])
    labels = np.arange(count) % 2
    factor = random.standard_normal((count, 3))
    factor[:, 0] += 1.5 * labels
    features = {}
    for name in NAMES:
        made = factor @ loadings[name] + random.standard_normal((count, 4)) @ own[name]
        features[name] = (made + random.standard_normal((count, WIDTH))).astype(np.float32)
    features["PET"][random.random(count) < missing] = np.nan
    return Patients(features, {"age": (factor[:, [0]] + random.standard_normal((count, 1)))}), labels


def model_of(count: int = 90, missing: float = 0.3, **config: object) -> JointModel:
    given, labels = patients(count, 1, missing)
    return fit_model(given, labels, 2, JointConfig(**config), shape=SHAPE)[0]  # type: ignore[arg-type]


def without(given: Patients, name: str) -> Patients:
    return Patients({**given.features, name: np.full_like(given.features[name], np.nan)}, given.covariates)


@pytest.mark.parametrize("truth", [True, False])
def test_fewer_scans_make_the_embedding_wider_and_do_not_shift_it(truth: bool) -> None:
    """The embedding with all scans lies in the 90 % ellipsoid of that with one, for 85 to 95 % of patients."""
    inside, shift = [], []
    for seed in range(4):
        here = world(seed, (6, 5), link=0.6)
        random = np.random.default_rng(seed)
        rows, labels = here.draw(120, random)
        model = fit(sums_of(rows, labels, here.blocks, 2), seed=seed)
        shared = shared_directions(model.estimate, here.blocks, 2)
        tested = here.draw(400, random)[0] if truth else rows
        whole, nothing = shared.of(condition(model, tested))
        np.testing.assert_allclose(nothing, 0, atol=1e-12)
        part, spread = shared.of(condition(model, np.where(here.blocks.owner == 1, np.nan, tested)))
        off = whole - part
        squares = np.einsum("ni,nij,nj->n", off, np.linalg.inv(spread), off)
        inside.append((squares <= chi2(2).ppf(0.9)).mean())
        shift.append(np.abs(off.mean(0)).max())
        assert (np.linalg.eigvalsh(spread) > 0).all()
    assert 0.85 <= np.mean(inside) <= 0.95
    assert np.mean(shift) < 0.2


def test_the_embedding_has_unit_variance_and_is_what_blocks_share() -> None:
    here = world(2, (6, 5), link=0.6)
    shared = shared_directions(Parameters(np.array([0.5, 0.5]), here.mean, here.covariance), here.blocks, 3)
    rows, _ = here.draw(20_000, np.random.default_rng(1))
    scores = (rows - shared.centre) @ shared.directions.T
    np.testing.assert_allclose(scores.var(0), 1, atol=0.05)
    alone = Parameters(np.array([1.0]), np.zeros((1, 11)), np.diag(np.arange(1.0, 12.0)))
    assert shared_directions(alone, here.blocks, 3).shared == 0


def test_intervals_of_features_hold_and_the_other_scan_helps() -> None:
    model = model_of(missing=0.0)
    tested, _ = patients(150, 9)
    mean, sd = model.impute(without(tested, "PET"), "PET")
    truth = tested.features["PET"]
    assert 0.86 < gaussian_coverage(truth, mean, sd, [0.9])[0] < 0.94
    usual, labels = patients(90, 1)
    blind = gaussian_crps(truth, usual.features["PET"].mean(0), usual.features["PET"].std(0)).mean()
    assert gaussian_crps(truth, mean, sd).mean() < 0.95 * blind
    assert labels.shape == (90,)


def test_draws_are_spread_as_stated_and_keep_what_is_there() -> None:
    model = model_of()
    tested, _ = patients(5, 9)
    mean, sd = model.impute(without(tested, "PET"), "PET")
    drawn, classes = model.draw(without(tested, "PET"), 600, np.random.default_rng(1))
    assert drawn["PET"].shape == (600, 5, WIDTH)
    assert classes.shape == (600, 5)
    np.testing.assert_allclose(drawn["PET"].mean(0), mean, atol=0.6)
    np.testing.assert_allclose(drawn["PET"].std(0).mean(), sd.mean(), rtol=0.1)
    again = model.scores(Patients({"MRI": drawn["MRI"][0]}, {}))[:, model.blocks.slice_of("MRI")]
    np.testing.assert_allclose(again, model.scores(tested)[:, model.blocks.slice_of("MRI")], atol=1.0)


def test_classes_are_told_from_any_scans() -> None:
    model = model_of()
    tested, labels = patients(200, 9)
    for given in (tested, without(tested, "PET"), without(tested, "MRI")):
        rows = model.class_probabilities(given)
        np.testing.assert_allclose(rows.sum(1), 1)
        assert (rows.argmax(1) == labels).mean() > 0.65


def test_a_strange_patient_is_far_away() -> None:
    model = model_of()
    tested, _ = patients(60, 9)
    usual = model.distances(tested)
    assert 0.7 < np.median(usual) < 1.5
    strange = Patients({**tested.features, "MRI": 4 * tested.features["MRI"]}, tested.covariates)
    assert (model.distances(strange) > usual.max()).mean() > 0.9


def test_arrays_and_back() -> None:
    model = model_of(draws=3)
    arrays, facts = to_arrays(model)
    again = from_arrays(arrays, json.loads(json.dumps(facts)))
    tested, _ = patients(6, 9)
    for one, other in zip(
        model.impute(without(tested, "PET"), "PET"), again.impute(without(tested, "PET"), "PET"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model.embed(tested)[1], again.embed(tested)[1])
    assert again.sums.cells.keys() == model.sums.cells.keys()
    assert again.notes == model.notes
    with pytest.raises(ValueError, match="this is no joint model"):
        from_arrays({k: v for k, v in arrays.items() if k != "estimate.mean"}, facts)
    with pytest.raises(ValueError, match="estimate.mean holds numbers that are not finite"):
        from_arrays(arrays | {"estimate.mean": arrays["estimate.mean"] * np.nan}, facts)
    with pytest.raises(ValueError, match="do not fit"):
        from_arrays(arrays | {"estimate.covariance": np.eye(3)}, facts)


def test_what_cannot_be_learnt_is_left_out_and_said() -> None:
    given, labels = patients(40, 1)
    features = {**given.features, "US": np.full((40, WIDTH), np.nan, dtype=np.float32)}
    model, _ = fit_model(
        Patients(features, {"sex": np.ones((40, 1)), "age": np.full((40, 1), np.nan)}), labels, 2, JointConfig()
    )
    assert set(model.bases) == {"MRI", "PET"}
    assert any(note.startswith("US: 0 training patients have it") for note in model.notes)
    assert any(note.startswith("sex: it is the same for all") for note in model.notes)
    assert any(note.startswith("age: 0 training patients") for note in model.notes)
    with pytest.raises(CannotJoinError, match="no modality can be learnt: MRI: 1 training patients"):
        fit_model(given.rows(np.array([0])), labels[:1], 2, JointConfig())


def test_part_of_a_feature_map_is_refused() -> None:
    given, labels = patients(20, 1)
    given.features["PET"][3, 0] = np.nan  # the first number, as where a scan is missing
    with pytest.raises(ValueError, match="patient in row 3: part of PET is NaN"):
        fit_model(given, labels, 2, JointConfig(draws=1))


def test_a_feature_that_is_always_the_same_is_imputed_as_that_and_for_sure() -> None:
    given, labels = patients(30, 1)
    given.features["PET"][:, 5] = 7.0
    model, _ = fit_model(given, labels, 2, JointConfig(draws=3))
    mean, sd = model.impute(without(given.rows(np.arange(4)), "PET"), "PET")
    np.testing.assert_allclose(mean[:, 5], 7, atol=1e-4)
    assert (sd[:, 5] < 1e-3).all()
    assert (np.delete(sd, 5, axis=1) > 0.1).all()


def test_feature_maps_with_one_scan_have_the_place_of_both_in_their_ellipsoid() -> None:
    """As above from feature maps on: bases learnt from 90 patients, other patients embedded with both scans and one."""
    inside = []
    for seed in range(3):
        given, labels = patients(90, 10 + seed, 0.3)
        model, _ = fit_model(given, labels, 2, JointConfig(draws=10, seed=seed), shape=SHAPE)
        tested, _ = patients(150, 90 + seed)
        whole, _ = model.embed(tested)
        for gone in NAMES:
            part, spread = model.embed(without(tested, gone))
            off = whole - part
            squares = np.einsum("ni,nij,nj->n", off, np.linalg.inv(spread), off)
            inside.append((squares <= chi2(4).ppf(0.9)).mean())
    assert 0.85 <= np.mean(inside) <= 0.95


def test_training_patients_lie_where_new_ones_do() -> None:
    """With the scores that the model was learnt from; those of the bases themselves are too large for them."""
    given, labels = patients(60, 3)
    model, rows = fit_model(given, labels, 2, JointConfig(draws=3), shape=SHAPE)
    new, _ = patients(300, 8)
    own, naive, others = (np.square(each).sum(1).mean() for each in (
        model.embed_scores(rows)[0], model.embed(given)[0], model.embed(new)[0]
    ))  # fmt: skip
    assert own == pytest.approx(others, rel=0.25)
    assert naive > 1.3 * others
