"""The MONAI transforms: orientation cannot matter, positions stay, and they work in anybody's Compose."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad
from scipy.spatial.transform import Rotation

from preprocessing.errors import ScanError
from preprocessing.normalise import NORMALISATIONS, rescale, standardise
from preprocessing.transforms import (
    CropToBraind,
    NormaliseInMaskd,
    ResampleBicubicd,
    SkullStripd,
    find_brain,
    resample_brain,
    volume_steps,
)

SPACING = (1.5, 2.0, 3.0)
SHAPE = (40, 36, 28)
ORIENTATIONS = [
    "".join(axes[i][flip[i]] for i in order)
    for axes in [("RL", "AP", "SI")]
    for order in itertools.permutations(range(3))
    for flip in itertools.product((0, 1), repeat=3)
]


def _affine(degrees: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (degrees, -degrees, degrees / 2), degrees=True).as_matrix() * SPACING
    affine[:3, 3] = (-25.0, -40.0, 11.0)
    return affine


def _brain() -> np.ndarray:
    """A lopsided stripped brain: 0 outside, no symmetry that could hide a flip."""
    x, y, z = np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    inside = ((x - 26) / 19) ** 2 + ((y - 38) / 24) ** 2 + ((z - 40) / 26) ** 2 < 1
    values = 500 + 6 * x - 3 * y + 2 * z + 80 * np.sin(x / 5) * np.cos(y / 7 + z / 9)
    return np.where(inside, values, 0).astype(np.float32)


def _data(volume: np.ndarray, affine: np.ndarray) -> dict:
    return {"image": MetaTensor(torch.from_numpy(np.ascontiguousarray(volume))[None], affine=affine)}


@pytest.fixture(scope="module")
def reference() -> dict:
    return volume_steps(None, spacing_mm=2.0)(_data(_brain(), _affine()))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_order_of_storage_does_not_matter(reference: dict, codes: str) -> None:
    """All 48 ways to store the same head; nibabel turns the array and the affine."""
    image = nibabel.Nifti1Image(_brain(), _affine())
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    stored = image.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(stored.affine)) == codes
    ours = volume_steps(None, spacing_mm=2.0)(_data(stored.get_fdata(dtype=np.float32), stored.affine))
    for key in ("image", "mask"):
        np.testing.assert_allclose(np.asarray(ours[key].affine), np.asarray(reference[key].affine), atol=1e-4)
        np.testing.assert_allclose(ours[key].numpy().astype(float), reference[key].numpy().astype(float), atol=1e-4)


def test_output_is_in_range_at_its_spacing(reference: dict) -> None:
    image, mask = reference["image"], reference["mask"]
    assert mask.dtype == torch.bool
    assert image.dtype == torch.float32
    inside = image.as_tensor()[mask.as_tensor()]
    assert (float(inside.min()), float(inside.max())) == (0, 1)
    assert (image.as_tensor()[~mask.as_tensor()] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0), 2.0)
    volume_mm3 = 4 / 3 * np.pi * 19 * 24 * 26
    assert float(mask.sum()) * 2.0**3 == pytest.approx(volume_mm3, rel=0.03)


def test_one_call_does_it_all(reference: dict) -> None:
    """The steps one by one, the normalisation written out."""
    stripped = find_brain(None)(_data(_brain(), _affine()))
    image, mask = (resample_brain(spacing_mm=2.0)(stripped)[key].as_tensor() for key in ("image", "mask"))
    inside = image[mask]
    inside = (inside - inside.mean()) / inside.std(correction=0)
    expected = torch.zeros_like(image)
    expected[mask] = (inside - inside.min()) / (inside.max() - inside.min())
    assert torch.equal(reference["image"].as_tensor(), expected)
    assert torch.equal(reference["mask"].as_tensor(), mask)


def test_a_new_normalisation_is_a_function_and_a_row(reference: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMALISATIONS, "half", lambda volume, mask: 0.5 * rescale(volume, mask))
    ours = volume_steps(None, spacing_mm=2.0, normalise="half")(_data(_brain(), _affine()))["image"].as_tensor()
    torch.testing.assert_close(ours, reference["image"].as_tensor() / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_a_landmark_keeps_its_place_in_the_world(degrees: float) -> None:
    volume = np.where(_brain() > 0, 1.0, 0.0).astype(np.float32)
    volume[14, 20, 12] = 9
    affine = _affine(degrees)
    ours = volume_steps(None, spacing_mm=0.75)(_data(volume, affine))
    brightest = np.unravel_index(int(ours["image"].argmax()), ours["image"].shape)[1:]
    stripped = np.asarray(ours["image"].affine) @ [*brightest, 1]
    np.testing.assert_allclose(stripped[:3], (affine @ [14, 20, 12, 1])[:3], atol=0.75 * 3**0.5 / 2 + 1e-6)


def test_cropping_keeps_what_resampling_needs() -> None:
    """A wider margin must not change the brain, thick slices included."""
    affine = np.diag([1.5, 1.5, 6.0, 1.0])
    generator = np.random.default_rng(0)
    volume = generator.normal(100, 20, (48, 48, 24)).astype(np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[16:32, 16:32, 8:16] = True
    results = []
    for margin in (6.0, 36.0):
        data = {
            "image": MetaTensor(torch.from_numpy(volume)[None], affine=affine),
            "mask": MetaTensor(torch.from_numpy(mask)[None], affine=affine),
        }
        keys = ("image", "mask")
        done = Compose([CropToBraind(keys, margin_mm=margin), ResampleBicubicd(keys, spacing_mm=1.5)])(data)
        results.append(done["image"].as_tensor()[done["mask"].as_tensor()])
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=0)


def test_crop_box() -> None:
    """The brain and at least 6 mm around it where there are any, not much more, and an affine that says from where."""
    volume, affine = _brain(), _affine(10.0)
    data = find_brain(None)(_data(volume, affine))
    ours = CropToBraind(("image", "mask"))(data)
    shape = np.array(ours["image"].shape[1:])
    corner = np.linalg.solve(affine, np.asarray(ours["image"].affine)[:, 3])[:3]
    first = corner.round().astype(int)
    np.testing.assert_allclose(corner, first, atol=1e-6)
    box = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
    np.testing.assert_array_equal(ours["image"][0].numpy(), volume[box])
    np.testing.assert_array_equal(ours["mask"][0].numpy(), volume[box] > 0)
    inside = np.argwhere(volume > 0)
    low, high = inside.min(0) - first, first + shape - 1 - inside.max(0)  # margins, voxels
    room_low, room_high = inside.min(0), np.array(SHAPE) - 1 - inside.max(0)
    six_mm = 6 / np.array(SPACING)
    assert (low >= np.minimum(six_mm, room_low)).all()
    assert (high >= np.minimum(six_mm, room_high)).all()
    assert (np.maximum(low, high) <= six_mm + 4).all()
    assert data["image"].shape == (1, *SHAPE)  # the input dictionary is left alone


def test_in_a_plain_compose_with_other_keys() -> None:
    """No pipeline around: two sequences of one head, another name for the mask, a transform of MONAI's between."""
    volume, affine = _brain(), _affine()
    data = _data(volume, affine)
    data = {"t1": data["image"], "t2": MetaTensor(1000 - data["image"].as_tensor(), affine=affine), "age": 70}
    steps = Compose(
        [
            SkullStripd("t1", None, mask_key="brain"),
            CropToBraind(("t1", "t2", "brain"), mask_key="brain"),
            ResampleBicubicd(("t1", "t2", "brain"), spacing_mm=3.0),
            NormaliseInMaskd(("t1", "t2"), standardise, mask_key="brain"),
            Lambdad("t2", lambda image: image),
            NormaliseInMaskd("t2", rescale, mask_key="brain"),
        ]
    )
    out = steps(data)
    inside = out["brain"].as_tensor()
    assert out["age"] == 70
    assert out["t1"].shape == out["t2"].shape == out["brain"].shape
    assert float(out["t1"].as_tensor()[inside].mean()) == pytest.approx(0, abs=1e-5)
    assert float(out["t1"].as_tensor()[inside].std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert (float(out["t2"][inside].min()), float(out["t2"][inside].max())) == (0, 1)
    np.testing.assert_allclose(np.asarray(out["t2"].affine), np.asarray(out["brain"].affine))


def test_a_fault_of_the_data_stays_a_scan_error() -> None:
    """MONAI's Compose wraps what a transform raises in a RuntimeError; the pipeline must still tell data from bugs."""
    everywhere = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    with pytest.raises(ScanError, match="fills the frame"):
        find_brain(None)(_data(everywhere, np.eye(4)))
    flat = np.zeros((20, 20, 20), np.float32)
    flat[5:15, 5:15, 5:15] = 3.5
    with pytest.raises(ScanError, match="every voxel inside the brain mask is 3.5"):
        volume_steps(None, spacing_mm=1.0)(_data(flat, np.eye(4)))


def test_the_advice_is_not_what_was_done_already() -> None:
    """Without HD-BET, a mask that fills the frame is not cured by `skull_strip: false`."""
    volume = torch.from_numpy(np.random.default_rng(0).random((1, 20, 20, 20)).astype(np.float32))
    with pytest.raises(ScanError) as caught:
        SkullStripd("image", None)({"image": MetaTensor(volume, affine=np.eye(4))})
    assert "set skull_strip: false" not in str(caught.value)
