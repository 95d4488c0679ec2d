"""The phantoms are what their table says. Oracles: the template files, volumes in millilitres, plain arithmetic."""

from __future__ import annotations

import importlib.resources
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from demo.phantoms import Phantom, PhantomsConfig, make_scan, phantom, phantom_table

COARSE = PhantomsConfig(subjects=8, mri_voxel_mm=4, pet_voxel_mm=4)
CLEAN = PhantomsConfig(mri_voxel_mm=2, pet_voxel_mm=2, mri_noise=0, pet_noise=0, anatomy_mm=0)


def template(name: str) -> np.ndarray:
    folder = importlib.resources.files("nilearn") / "datasets" / "data"
    with importlib.resources.as_file(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") as path:
        return np.asarray(nib.load(path).dataobj)


def healthy(number: int = 1, **changes: object) -> Phantom:
    subject = replace(phantom(number, CLEAN), diagnosis="CN", mri_sign=False, pet_sign=False, site="A", age=70.0)
    return replace(subject, **changes)


def around(
    volume: np.ndarray, affine: np.ndarray, centre_mm: tuple[float, float, float], radius_mm: float
) -> np.ndarray:
    """Voxels of `volume` in a ball around a world position."""
    indices = np.indices(volume.shape).reshape(3, -1)
    world = affine[:3, :3] @ indices + affine[:3, 3:]
    near = np.linalg.norm(world - np.reshape(centre_mm, (3, 1)), axis=0) < radius_mm
    return volume.reshape(-1)[near]


# --- The table ---


def test_table_has_one_row_a_subject_and_balances_diagnosis_and_pet():
    table = phantom_table(PhantomsConfig(subjects=40, pet_share=0.5))
    assert list(table.columns) == ["subject", "diagnosis", "age", "sex", "site", "has_pet", "mri_sign", "pet_sign"]
    assert list(table["subject"]) == [f"sub-{number:03d}" for number in range(1, 41)]
    assert table["diagnosis"].value_counts().to_dict() == {"AD": 20, "CN": 20}
    assert table.groupby("diagnosis")["has_pet"].sum().to_dict() == {"AD": 10, "CN": 10}
    assert table["age"].between(60, 85).all()
    assert set(table["sex"]) == {"F", "M"}
    assert table.groupby(["diagnosis", "site"]).size().to_list() == [10, 10, 10, 10]


@pytest.mark.parametrize("share", [0, 0.25, 0.7, 1])
def test_pet_share_is_kept(share: float):
    assert phantom_table(PhantomsConfig(subjects=80, pet_share=share))["has_pet"].sum() == pytest.approx(80 * share)


@pytest.mark.parametrize(("penetrance", "subjects"), [(0.5, 40), (0.75, 24), (0.75, 400), (1, 40)])
def test_each_sign_is_shown_by_its_share_of_the_ill_and_at_least_one_by_all(penetrance: float, subjects: int):
    table = phantom_table(PhantomsConfig(subjects=subjects, penetrance=penetrance))
    ill = table["diagnosis"] == "AD"
    assert (table["mri_sign"] | table["pet_sign"]).equals(ill)
    for sign in ("mri_sign", "pet_sign"):
        assert table.loc[ill, sign].sum() == pytest.approx(penetrance * subjects / 2, abs=1.01)


def test_diagnosis_is_not_told_by_age_sex_site_or_order():
    table = phantom_table(PhantomsConfig(subjects=2000))
    features = pd.DataFrame(
        {"age": table["age"], "sex": table["sex"] == "F", "site": table["site"] == "A", "odd": np.arange(2000) % 2},
        dtype=float,
    )
    assert features.corrwith((table["diagnosis"] == "AD").astype(float)).abs().max() < 4 / np.sqrt(2000)


def test_a_row_of_the_table_is_a_phantom_and_no_subject_depends_on_the_size_of_the_cohort():
    small, large = (phantom_table(PhantomsConfig(subjects=n)) for n in (6, 60))
    pd.testing.assert_frame_equal(small, large.head(6))
    assert Phantom(**large.to_dict("records")[10]) == phantom(11, PhantomsConfig())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subjects", 1), ("seed", -1), ("mri_voxel_mm", 0), ("pet_voxel_mm", 20), ("pet_share", 1.5),
        ("penetrance", 0.4), ("hippocampal_loss", 1), ("hypometabolism", -0.1), ("mri_noise", float("nan")),
        ("subject", 40),
    ],
)  # fmt: skip
def test_config_refuses_nonsense_and_names_the_key(key: str, value: float):
    with pytest.raises(ValidationError, match=rf"(?m)^{key}$"):
        PhantomsConfig(**{key: value})


def test_unknown_modality_is_named():
    with pytest.raises(ValueError, match="sub-001.*'CT'.*'MRI' or 'PET'"):
        make_scan(healthy(), "CT", COARSE)  # type: ignore[arg-type]


def test_only_one_sex_shows_signs_if_asked_and_nothing_else_changes():
    both, women = (phantom_table(PhantomsConfig(subjects=400, sign_by_sex=sex)) for sex in ("both", "F"))
    ill_men = (women["sex"] == "M") & (women["diagnosis"] == "AD")
    assert ill_men.sum() > 50
    assert not women.loc[ill_men, ["mri_sign", "pet_sign"]].any(axis=None)
    pd.testing.assert_frame_equal(women[~ill_men], both[~ill_men])
    signs = ["mri_sign", "pet_sign"]
    pd.testing.assert_frame_equal(women.drop(columns=signs), both.drop(columns=signs))


# --- The scans ---


@pytest.mark.parametrize("modality", ["MRI", "PET"])
def test_the_gain_of_a_site_multiplies_its_scans_and_no_others(modality):
    for site, factor in (("A", 1.0), ("B", 2.3 / 1.15)):
        subject = healthy(site=site)
        usual, other = (
            make_scan(subject, modality, COARSE.model_copy(update={"site_gain": gain}))[0] for gain in (1.15, 2.3)
        )
        np.testing.assert_allclose(other, factor * usual, rtol=1e-5, atol=1.6 if modality == "MRI" else 1e-5)


@pytest.mark.parametrize(("modality", "dtype"), [("MRI", np.int16), ("PET", np.float32)])
def test_same_seed_same_bytes_another_seed_another_head(modality, dtype):
    subject = phantom(3, COARSE)
    volume, mask, _ = make_scan(subject, modality, COARSE)
    again, mask_again, _ = make_scan(phantom(3, COARSE.model_copy(update={"subjects": 500})), modality, COARSE)
    other, mask_other, _ = make_scan(subject, modality, COARSE.model_copy(update={"seed": 1}))
    assert volume.dtype == dtype
    assert mask.dtype == np.uint8
    assert volume.tobytes() == again.tobytes()
    assert mask.tobytes() == mask_again.tobytes()
    assert np.mean(volume[mask == 1] != other[mask == 1]) > 0.9
    assert np.any(mask != mask_other)


@pytest.mark.parametrize(("site", "thickness_mm"), [("A", 4.0), ("B", 4.4)])
def test_affine_holds_the_spacing_and_the_field_of_view(site, thickness_mm):
    volume, mask, affine = make_scan(healthy(site=site), "MRI", COARSE)
    assert volume.shape == mask.shape
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), (4, 4, thickness_mm))
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.array(volume.shape) * (4, 4, thickness_mm), (192, 224, 192), atol=thickness_mm)
    middle = nib.affines.apply_affine(affine, np.mean(np.nonzero(mask), axis=1))
    np.testing.assert_allclose(middle, (0, -18, 6), atol=15)


def test_brain_is_as_large_as_the_template_says_and_away_from_the_border():
    _, mask, affine = make_scan(healthy(sex="M"), "MRI", CLEAN)
    template_ml = np.count_nonzero(template("t1")) / 1000
    assert mask.sum() * abs(np.linalg.det(affine)) / 1000 == pytest.approx(
        template_ml * 0.95**3, rel=0.15
    )  # size varies by 2 % an axis
    assert not np.any(np.pad(mask[1:-1, 1:-1, 1:-1], 1) != mask)


def test_mri_and_pet_show_the_same_brain_in_another_position():
    config = PhantomsConfig(mri_voxel_mm=2, pet_voxel_mm=2)
    masks = [make_scan(healthy(), modality, config)[1].astype(bool) for modality in ("MRI", "PET")]
    assert masks[0].sum() == pytest.approx(masks[1].sum(), rel=0.01)
    overlap = 2 * np.sum(masks[0] & masks[1]) / (masks[0].sum() + masks[1].sum())
    assert 0.8 < overlap < 0.99


def test_mri_orders_tissues_as_t1_weighting_does():
    volume, mask, affine = make_scan(healthy(), "MRI", CLEAN)
    white, ventricle = (around(volume, affine, centre, 6) for centre in ((-26, -10, 34), (0, 0, 0)))
    assert np.median(white) > 1.2 * np.median(volume[mask == 1])
    assert ventricle.min() < 0.5 * np.median(white)
    assert np.median(volume[:3]) < 0.05 * np.median(white)  # air


def test_pet_takes_up_four_times_as_much_in_grey_as_in_white(monkeypatch):
    """Without blur, the brightest voxel is all grey, and the commonest of the dark ones all white."""
    monkeypatch.setattr("demo.phantoms.PET_BLUR_MM", 0.02)
    monkeypatch.setattr("demo.phantoms.PET_POSTFILTER_MM", 0.01)
    monkeypatch.setattr(
        "demo.phantoms._smooth_field", lambda random, positions, knots_mm: np.zeros(positions.shape[1:], np.float32)
    )
    config = PhantomsConfig(pet_voxel_mm=1, pet_noise=0)
    volume, mask, _ = make_scan(healthy(), "PET", config)
    counts, edges = np.histogram(volume[(mask == 1) & (volume < 0.4 * volume.max())], bins=200, range=(0.5, 2.5))
    white = edges[np.argmax(counts)]
    assert volume.max() / white == pytest.approx(4, rel=0.05)


def test_site_changes_the_picture_but_not_the_head():
    config = PhantomsConfig(mri_voxel_mm=3)
    (volume_a, mask_a, affine_a), (volume_b, mask_b, affine_b) = (
        make_scan(healthy(site=s), "MRI", config) for s in ("A", "B")
    )
    ml_a, ml_b = (mask.sum() * abs(np.linalg.det(affine)) for mask, affine in ((mask_a, affine_a), (mask_b, affine_b)))
    assert ml_a == pytest.approx(ml_b, rel=0.01)
    assert np.percentile(volume_b, 95) > 1.05 * np.percentile(volume_a, 95)


# --- The disease ---


def fluid_ml(volume: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> float:
    """Dark volume in the middle of the brain."""
    white = np.percentile(volume[mask == 1], 90)
    centre = nib.affines.apply_affine(affine, np.mean(np.nonzero(mask), axis=1))
    inner = around(volume * mask, affine, tuple(centre + (0, 0, 10)), 30)
    return float(np.mean(inner < 0.5 * white) * 4 / 3 * np.pi * 3**3)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_mri_sign_enlarges_ventricles(number):
    before, after = (fluid_ml(*make_scan(healthy(number, mri_sign=sign), "MRI", CLEAN)) for sign in (False, True))
    assert after > 1.3 * before


def test_age_enlarges_ventricles_less_than_the_disease():
    young, old, ill = (
        fluid_ml(*make_scan(healthy(**kw), "MRI", CLEAN))
        for kw in ({"age": 60}, {"age": 85}, {"age": 60, "mri_sign": True})
    )
    assert 1.03 * young < old < ill


def test_mri_sign_shrinks_the_hippocampi_and_leaves_the_far_brain_alone():
    config = CLEAN.model_copy(update={"ventricle_growth_mm": 0.0})
    (before, mask, affine), (after, mask_after, _) = (
        make_scan(healthy(mri_sign=sign), "MRI", config) for sign in (False, True)
    )
    change = np.where(mask, after / np.maximum(before, 1.0) - 1, 0)
    hippocampi = np.concatenate([around(change, affine, (x, -22, -16), 14) for x in (-25, 25)])
    frontal = np.concatenate(
        [around(change, affine, centre, 20) for centre in ((0, 45, 20), (0, -80, 10), (0, -20, 65))]
    )
    assert hippocampi.min() < -0.25  # grey matter gave way to fluid
    assert hippocampi.mean() < -0.05
    np.testing.assert_allclose(frontal, 0, atol=0.01)
    assert np.mean(mask != mask_after) < 0.002


@pytest.mark.parametrize(("sign", "modality"), [("pet_sign", "MRI"), ("mri_sign", "PET")])
def test_a_sign_leaves_the_scan_of_the_other_modality_untouched(sign, modality):
    with_sign, without = (make_scan(healthy(**{sign: shown}), modality, COARSE)[0] for shown in (True, False))
    assert with_sign.tobytes() == without.tobytes()


@pytest.mark.parametrize("loss", [0.2, 0.4])
def test_pet_sign_lowers_temporo_parietal_and_precuneus_uptake_by_the_configured_share_and_nothing_else(loss):
    config = PhantomsConfig(pet_noise=0, anatomy_mm=0, hypometabolism=loss, pet_voxel_mm=3)
    (before, mask, affine), (after, mask_after, _) = (
        make_scan(healthy(pet_sign=sign), "PET", config) for sign in (False, True)
    )
    kept = np.divide(after, before, out=np.ones_like(after), where=mask == 1)
    for centre in ((-46, -56, 32), (46, -56, 32), (0, -50, 29)):  # the head is smaller than the template, and turned
        assert 1 - np.median(around(kept, affine, centre, 6)) == pytest.approx(loss, rel=0.15)
    assert 1 - kept[mask == 1].min() == pytest.approx(loss, abs=0.01)
    for centre in ((0, 40, 10), (-25, -25, -15), (25, -25, -15), (0, -65, -35)):  # frontal, hippocampi, cerebellum
        np.testing.assert_allclose(around(kept, affine, centre, 8), 1, atol=0.01)
    assert np.array_equal(mask, mask_after)
