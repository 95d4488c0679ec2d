"""Rigid registration: known motions come back, wrong pairs are refused, points land where they should."""

import re

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from preprocessing.common_grid import onto_brain, resample_onto
from preprocessing.errors import ScanError
from preprocessing.registration import Rigid, register_rigid
from preprocessing.resample import resample

pytestmark = pytest.mark.usefixtures("one_thread")

MRI = {"grey": 0.65, "white": 1.0, "fluid": 0.25, "skull": 0.1, "scalp": 0.9}
PET = {"grey": 5.0, "white": 1.25, "fluid": 0.0, "skull": 0.3, "scalp": 0.7}
MRI_AFFINE = np.array([[3.0, 0, 0, -93], [0, 3, 0, -120], [0, 0, 3, -90], [0, 0, 0, 1]])
MRI_SHAPE = (63, 74, 62)


def _points(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World positions (X, Y, Z, 3) of voxels."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def _ellipsoid(points: np.ndarray, centre: tuple, radii: tuple) -> np.ndarray:
    """Soft by about 2 mm, 1 inside; of world positions (..., 3)."""
    distance = np.linalg.norm((points - np.array(centre)) / np.array(radii), axis=-1)
    return 1 / (1 + np.exp(np.clip((distance - 1) * min(radii), -30, 30)))


def _head(points: np.ndarray, signal: dict[str, float]) -> np.ndarray:
    """A head as a function of position: folded cortex, ventricles, cerebellum, skull and scalp; no two sides alike."""
    x, y, z = np.moveaxis(points, -1, 0)
    folds = np.stack([5 * np.sin(y / 7) * np.cos(z / 9), 4 * np.sin(x / 8 + 1), 4 * np.cos(x / 9 + y / 10)], axis=-1)
    brain = np.maximum(_ellipsoid(points, (0, 0, 0), (64, 80, 56)), _ellipsoid(points, (0, -48, -40), (44, 30, 28)))
    white = _ellipsoid(points + folds, (2, 4, 2), (48, 62, 40)) * brain
    fluid = np.maximum(_ellipsoid(points, (-13, 6, 10), (8, 28, 10)), _ellipsoid(points, (16, -2, 8), (9, 24, 8)))
    scalp = _ellipsoid(points, (0, 0, -4), (80, 96, 76))
    skull = np.maximum(_ellipsoid(points, (0, 0, -4), (73, 89, 68)), brain)
    shares = {
        "fluid": fluid,
        "white": white * (1 - fluid),
        "grey": (brain - white).clip(0) * (1 - fluid),
        "skull": skull - brain,
        "scalp": (scalp - skull).clip(0),
    }
    return sum(signal[name] * share for name, share in shares.items())


def _tensor(volume: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None], affine=affine)


def _motion(degrees: tuple, shift_mm: tuple) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def _pet(
    truth: np.ndarray, shape: tuple, affine: np.ndarray, *, noise: float = 0.0, blur_mm: float = 2.5
) -> MetaTensor:
    """The head moved by `truth`, from MRI world to PET world, seen by a PET scanner."""
    points = _points(shape, np.linalg.inv(truth) @ affine)
    volume = ndimage.gaussian_filter(_head(points, PET), blur_mm / np.linalg.norm(affine[:3, :3], axis=0))
    return _tensor(volume + noise * np.random.default_rng(0).normal(size=shape), affine)


def _stored(scan: MetaTensor, codes: str) -> MetaTensor:
    """The same scan with its voxels in another order; nibabel turns the array and the affine."""
    image = nibabel.Nifti1Image(scan[0].numpy(), np.asarray(scan.affine))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    stored = image.as_reoriented(turn)
    return _tensor(stored.get_fdata(), stored.affine)


def _errors(registered: Rigid, truth: np.ndarray) -> tuple[float, float]:
    """How far off: mm, anywhere on the brain's surface; degrees."""
    surface = np.vstack([np.diag([64, 80, 56]), -np.diag([64, 80, 56])])
    off = surface @ (registered.matrix - truth)[:3, :3].T + (registered.matrix - truth)[:3, 3]
    turn = Rotation.from_matrix(registered.matrix[:3, :3] @ truth[:3, :3].T)
    return float(np.linalg.norm(off, axis=1).max()), float(np.degrees(turn.magnitude()))


@pytest.fixture(scope="module")
def mri() -> MetaTensor:
    volume = _head(_points(MRI_SHAPE, MRI_AFFINE), MRI)
    return _tensor(1000 * (volume + 0.02 * np.random.default_rng(1).normal(size=MRI_SHAPE)), MRI_AFFINE)


@pytest.fixture(scope="module")
def mask() -> MetaTensor:
    """On a grid of its own: 4 mm, cut to the brain, and stored from right to left."""
    affine = np.array([[-4.0, 0, 0, 72], [0, 4, 0, -88], [0, 0, 4, -76], [0, 0, 0, 1]])
    points = _points((37, 45, 37), affine)
    brain = np.maximum(_ellipsoid(points, (0, 0, 0), (64, 80, 56)), _ellipsoid(points, (0, -48, -40), (44, 30, 28)))
    return _tensor(brain > 0.5, affine)


PET_SHAPE = (52, 60, 46)
PET_AFFINE = np.array([[4.0, 0, 0, -102], [0, 4, 0, -118], [0, 0, 4, -94], [0, 0, 0, 1]])


def test_no_motion_stays_none(mri: MetaTensor, mask: MetaTensor) -> None:
    registered = register_rigid(mri, _pet(np.eye(4), PET_SHAPE, PET_AFFINE), fixed_mask=mask)
    off_mm, off_degrees = _errors(registered, np.eye(4))
    assert off_mm < 0.5
    assert off_degrees < 0.3
    assert registered.reason == ""
    assert registered.translation_mm < 0.5
    assert registered.rotation_degrees == pytest.approx(off_degrees, abs=1e-3)
    assert registered.coverage == 1


@pytest.mark.parametrize("voxels", [(0, 0), (3, -4)])
def test_slices_of_7_mm_do_not_mislead_the_search(mask: MetaTensor, voxels: tuple) -> None:
    affine, shape = np.diag([1.5, 1.5, 7.0, 1.0]), (136, 158, 27)
    affine[:3, 3] = (-102, -118, -94)
    truth = _motion((0, 0, 0), (1.5 * voxels[0], 1.5 * voxels[1], 0))
    random = np.random.default_rng(3)
    points, texture = _points(shape, affine), ndimage.gaussian_filter(random.normal(size=shape), (1, 1, 0))
    texture *= 0.15 / texture.std() * _head(points, dict.fromkeys(MRI, 1.0))  # finer than a slice is thick
    fixed = _head(points, MRI) + texture
    signal = {"grey": 0.8, "white": 0.9, "fluid": 0.5, "skull": 0.1, "scalp": 1.0}
    moved = _head(_points(shape, np.linalg.inv(truth) @ affine), signal) - 0.5 * np.roll(texture, voxels, axis=(0, 1))
    moving = moved + 0.05 * random.normal(size=shape)
    registered = register_rigid(_tensor(fixed, affine), _tensor(moving, affine), fixed_mask=mask)
    off_mm, off_degrees = _errors(registered, truth)
    assert off_mm < 1  # 2.4 mm by the gradient of a volume that is blurred by its slices
    assert off_degrees < 0.7
    assert registered.reason == ""


def test_by_headers_nothing_moves_but_a_wrong_head_is_refused(mri: MetaTensor, mask: MetaTensor) -> None:
    nearly = _pet(_motion((1, 0, 0), (0, 1, 0)), PET_SHAPE, PET_AFFINE)
    kept = register_rigid(mri, nearly, fixed_mask=mask, by="headers")
    np.testing.assert_array_equal(kept.matrix, np.eye(4))
    assert (kept.rotation_degrees, kept.translation_mm, kept.coverage, kept.reason) == (0, 0, 1, "")
    upside_down = _pet(_motion((180, 0, 0), (0, 0, 0)), PET_SHAPE, PET_AFFINE)
    moved = _pet(_motion((8, -5, 4), (6, -9, 11)), PET_SHAPE, PET_AFFINE)
    for pet in (upside_down, moved):
        assert "does not lie on the MRI" in register_rigid(mri, pet, fixed_mask=mask, by="headers").reason
    far = _motion((0, 0, 0), (150, 0, 0)) @ PET_AFFINE
    aside = register_rigid(mri, _pet(_motion((0, 0, 0), (150, 0, 0)), PET_SHAPE, far), fixed_mask=mask, by="headers")
    assert aside.coverage < 0.6
    assert aside.reason


@pytest.mark.parametrize("brain_alone", [False, True])
@pytest.mark.parametrize(
    ("degrees", "shift_mm", "codes", "voxel_mm", "noise"),
    [
        ((8, -5, 4), (6, -9, 11), "RAS", (3.0, 3.0, 3.0), 0.3),
        ((-24, 12, -15), (30, 45, -40), "PIL", (2.0, 4.0, 2.5), 1.0),  # three axes swapped, flipped and unequal
    ],
)
def test_known_motions_come_back(
    mri: MetaTensor, mask: MetaTensor, degrees: tuple, shift_mm: tuple, codes: str, voxel_mm: tuple, noise: float,
    brain_alone: bool,
) -> None:  # fmt: skip
    truth = _motion(degrees, shift_mm)
    middle = (truth @ [0, 0, -10, 1])[:3]  # a frame about where the head is, oblique as scanners give it
    shape = tuple(int(220 / mm) for mm in voxel_mm)
    affine = _motion((0, 0, 10), (0, 0, 0)) @ np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = middle + (7, -6, 9) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    pet = _pet(truth, shape, affine, noise=noise)
    fixed = mri
    if brain_alone:
        inside = resample_onto(mask, mri, np.eye(4), outside=0.0).as_tensor() > 0.5
        fixed = MetaTensor(mri.as_tensor() * inside, affine=mri.affine)
    registered = register_rigid(fixed, _stored(pet, codes), fixed_mask=mask)
    off_mm, off_degrees = _errors(registered, truth)
    assert off_mm < 1
    assert off_degrees < 1
    assert registered.reason == ""
    assert registered.rotation_degrees == pytest.approx(
        np.degrees(Rotation.from_matrix(truth[:3, :3]).magnitude()), abs=1
    )


def test_matrix_takes_the_points_of_a_rolled_volume_along(mri: MetaTensor, mask: MetaTensor) -> None:
    """By hand: voxel (i, j, k) moves to (i + 2, j - 3, k + 1), and the contrast is turned round; nothing else."""
    roll = np.array([2, -3, 1])
    rolled = np.roll(1000 - mri[0].numpy(), roll, axis=(0, 1, 2))
    affine = _motion((4, -6, 5), (20, -10, 5)) @ MRI_AFFINE  # and the second scanner has another world
    registered = register_rigid(mri, _tensor(rolled, affine), fixed_mask=mask)
    for voxel in ((20, 20, 20), (40, 30, 25), (30, 50, 35)):
        here = MRI_AFFINE @ [*voxel, 1]
        moved = np.linalg.solve(affine, registered.matrix @ here)[:3]
        np.testing.assert_allclose(moved, np.array(voxel) + roll, atol=0.1)


@pytest.mark.parametrize(
    ("truth", "cut", "reason"),
    [
        (_motion((180, 0, 0), (0, 0, 0)), 0, r"fits the MRI better turned by 180 degrees \(.*times the mutual"),
        (_motion((0, 0, 180), (5, 0, 0)), 0, r"better turned by 180 degrees.*header.*wrong orientation. Convert it"),
        (_motion((52, 0, 0), (0, 0, 0)), 0, r"turned by 5\d degrees to fit the MRI, more than 45; one of the two hea"),
        (np.eye(4), 26, r"shows [345]\d% of the MRI's brain, less than 60%; its field of view cuts the brain"),
    ],
)
def test_what_cannot_be_is_refused(mri: MetaTensor, mask: MetaTensor, truth: np.ndarray, cut: int, reason: str) -> None:
    whole = _pet(truth, PET_SHAPE, PET_AFFINE)
    affine = PET_AFFINE.copy()
    affine[:3, 3] += PET_AFFINE[:3, 2] * cut  # the lowest slices are not there
    moving = _tensor(whole[0, :, :, cut:].numpy(), affine)
    registered = register_rigid(mri, moving, fixed_mask=mask)
    assert re.search(reason, registered.reason), registered


def test_measures_of_the_motion(mri: MetaTensor, mask: MetaTensor) -> None:
    """Coverage and shift, worked out from the truth: a head that nods, its lower part out of the frame."""
    truth, affine = _motion((28, 0, 0), (0, 20, 30)), PET_AFFINE.copy()
    affine[2, 3] = -26
    pet = _pet(truth, (52, 66, 34), affine)
    registered = register_rigid(_stored(mri, "SRA"), _stored(pet, "ASR"), fixed_mask=mask)
    brain = _points(tuple(mask.shape[1:]), np.asarray(mask.affine))[mask[0].numpy() > 0.5]
    moved = brain @ truth[:3, :3].T + truth[:3, 3]
    assert registered.coverage == pytest.approx((moved[:, 2] > -28).mean(), abs=0.01)
    assert 0.7 < registered.coverage < 0.97
    assert registered.translation_mm == pytest.approx(np.linalg.norm((moved - brain).mean(0)), abs=0.5)
    assert registered.reason == ""


def test_noise_and_balls_are_refused(mri: MetaTensor, mask: MetaTensor) -> None:
    noise = np.random.default_rng(0).normal(size=PET_SHAPE)
    ball = _ellipsoid(_points(PET_SHAPE, PET_AFFINE), (0, 0, 0), (70, 70, 70)) + 0.02 * noise
    for volume in (ndimage.gaussian_filter(noise, 1.5), ball):
        registered = register_rigid(mri, _tensor(volume, PET_AFFINE), fixed_mask=mask)
        assert "hardly better than turned by 180 degrees" in registered.reason
        assert "expected 1.3 or more" in registered.reason


def test_a_hot_spot_does_not_draw_the_brain_to_itself(mri: MetaTensor, mask: MetaTensor) -> None:
    """A gland outside the brain, thirty times as bright."""
    truth = _motion((5, 4, -8), (12, 0, -6))
    pet = _pet(truth, PET_SHAPE, PET_AFFINE)
    spot = _ellipsoid(_points(PET_SHAPE, PET_AFFINE), (60, 70, -70), (14, 14, 14)) > 0.5
    registered = register_rigid(mri, _tensor(np.where(spot, 150, pet[0].numpy()), PET_AFFINE), fixed_mask=mask)
    assert _errors(registered, truth)[0] < 1
    assert registered.reason == ""


def test_same_bytes_whatever_the_number_of_threads(mri: MetaTensor, mask: MetaTensor) -> None:
    truth = _motion((5, 4, -8), (12, 0, -6))
    pet = _pet(truth, PET_SHAPE, PET_AFFINE, noise=0.3)
    results, before = [], SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        for threads in (1, 2, 2):
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            torch.set_num_threads(threads)
            registered = register_rigid(mri, pet, fixed_mask=mask)
            volume, inside = onto_brain(pet, mask, registered.matrix)
            results.append((registered.matrix.tobytes(), volume.numpy().tobytes(), inside.numpy().tobytes()))
            assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
        torch.set_num_threads(1)
    assert results[0] == results[1] == results[2]


def test_scans_that_have_nothing_to_register(mri: MetaTensor, mask: MetaTensor) -> None:
    flat = np.full(PET_SHAPE, 3.5)
    flat[3, 3, 3] = 9
    with pytest.raises(ScanError, match=r"nearly every voxel is 3.5; a scan of a head cannot be"):
        register_rigid(mri, _tensor(flat, MRI_AFFINE), fixed_mask=mask)
    elsewhere = _motion((0, 0, 0), (500, 0, 0)) @ np.asarray(mask.affine)
    with pytest.raises(ScanError, match="the brain mask has nothing inside the MRI's frame; is it the mask of this"):
        register_rigid(mri, _pet(np.eye(4), PET_SHAPE, PET_AFFINE), fixed_mask=_tensor(mask[0].numpy(), elsewhere))


# --- resample_onto, onto_brain ---


@pytest.mark.parametrize("slab_points", [1, 1500, 2**18])
def test_quadratics_are_reproduced_at_any_angle(monkeypatch: pytest.MonkeyPatch, slab_points: int) -> None:
    """Keys' kernel does so; the values come from the formula, at positions worked out here."""
    monkeypatch.setattr("preprocessing.common_grid.SLAB_POINTS", slab_points)
    own = _motion((3, -20, 8), (-40, -50, -30)) @ np.diag([2.0, -2.5, 3.0, 1.0])
    grid = _motion((10, 5, 30), (-34, -70, -2)) @ np.diag([3.0, 3.0, 3.0, 1.0])
    motion = _motion((7, -4, 12), (3, 5, -2))

    def formula(points: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(points, -1, 0) / 20
        return x * y - 2 * z * z + y * y + 3 * x - z + 5

    own[:3, :3] *= 1.5  # coarser than the grid: no blur beforehand
    moving = _tensor(formula(_points((30, 30, 30), own)), own)
    out = resample_onto(moving, _tensor(np.zeros((20, 24, 22)), grid), motion, outside=-1e4)
    points = _points((20, 24, 22), grid) @ motion[:3, :3].T + motion[:3, 3]
    voxels = (points - own[:3, 3]) @ np.linalg.inv(own[:3, :3]).T
    interior = ((voxels > 1) & (voxels < 28)).all(-1)
    outside = ((voxels < -0.51) | (voxels > 29.51)).any(-1)
    assert interior.sum() > 1000
    assert outside.sum() > 1000
    np.testing.assert_allclose(out[0].numpy()[interior], formula(points)[interior], atol=2e-3)
    assert (out[0].numpy()[outside] == -1e4).all()
    np.testing.assert_array_equal(np.asarray(out.affine), grid)


@pytest.mark.parametrize("spacing_mm", [1.5, 3.0, 4.4])
def test_without_motion_it_is_what_resample_gives(spacing_mm: float) -> None:
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    volume = torch.from_numpy(np.random.default_rng(0).random((17, 15, 16)).astype(np.float32))
    expected, new = resample(volume, affine, spacing_mm=spacing_mm)
    ours = resample_onto(MetaTensor(volume[None], affine=affine), MetaTensor(expected[None], affine=new), np.eye(4))
    torch.testing.assert_close(ours[0].as_tensor(), expected, atol=1e-5, rtol=0)


def test_whole_voxels_and_the_way_back() -> None:
    volume = np.random.default_rng(0).random((12, 13, 14)).astype(np.float32) + 1
    moving = _tensor(volume, PET_AFFINE)
    by_two = _motion((0, 0, 0), (8, 0, -4))  # 2 voxels to the right, 1 down
    out = resample_onto(moving, moving, by_two)[0].numpy()
    np.testing.assert_allclose(out[:-2, :, 1:], volume[2:, :, :-1], atol=1e-5)
    np.testing.assert_array_equal(out[-2:], volume.min())
    back = resample_onto(_tensor(out, PET_AFFINE), moving, np.linalg.inv(by_two))[0].numpy()
    np.testing.assert_allclose(back[2:, :, :-1], volume[2:, :, :-1], atol=1e-5)


def test_the_mask_is_cut_where_the_scan_shows_nothing(mask: MetaTensor) -> None:
    affine = PET_AFFINE.copy()
    affine[2, 3] = -20  # lowest slice: everything below -22 mm is not there
    pet = _pet(np.eye(4), (52, 60, 28), affine)
    shifted = _motion((0, 0, 0), (0, 0, 10))  # and the motion shifts that to -32 mm of the MRI's world
    volume, inside = onto_brain(pet, mask, shifted)
    height = _points(tuple(mask.shape[1:]), np.asarray(mask.affine))[..., 2]
    expected = (mask[0].numpy() > 0.5) & (height >= -32)
    assert inside.dtype == torch.bool
    np.testing.assert_array_equal(inside[0].numpy(), expected)
    assert 0 < expected.sum() < (mask > 0.5).sum()
    assert volume.shape == inside.shape == mask.shape
    assert float(volume[0][height < -32].max()) == float(pet.min())
    for result in (volume, inside):
        np.testing.assert_array_equal(np.asarray(result.affine), np.asarray(mask.affine))
