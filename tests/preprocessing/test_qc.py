"""The quality-control picture: planes, proportions, outline, and which way is which."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from preprocessing import qc
from preprocessing.brains import VolumePipeline, preprocess_volume
from preprocessing.limits import Limits
from preprocessing.qc import OUTLINE, registered_planes, three_planes
from preprocessing.volumes import read_volume

PLANES = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}  # axes in RAS+ order: across and up


def _boxes(picture: np.ndarray) -> list[np.ndarray]:
    return np.split(picture, (qc.BOX, qc.BOX + qc.GAP, 2 * qc.BOX + qc.GAP, 2 * (qc.BOX + qc.GAP)), axis=1)[::2]


def _panels(picture: np.ndarray) -> list[np.ndarray]:
    return [box[qc.MARGIN : -qc.MARGIN, qc.MARGIN : -qc.MARGIN] for box in _boxes(picture)]


def _letters(box: np.ndarray) -> str:
    """What stands left of, right of, above and below a plane, by the bitmap of which nothing differs."""
    margin, ends = qc.MARGIN, (slice(None, qc.MARGIN), slice(-qc.MARGIN, None))
    strips = [box[margin:-margin, end] for end in ends] + [box[end, margin:-margin] for end in ends]
    found = ""
    for strip in strips:
        rows, columns, _ = np.nonzero(strip)
        seen = strip[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0]
        found += "".join(n for n, b in qc.LETTERS.items() if np.array_equal(b[:, b.any(0)], seen))
    return found


def _head(folder: Path, axes: str) -> Path:
    """Write a stripped head of 1.3 l, one hot spot at the patient's left, one in the middle, both up and in front."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -118
    x, y, z = np.indices((60, 60, 60)) * 4.0 - 118  # RAS: left is negative
    brain = np.where((x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1, 100, 0).astype(np.float32)
    brain[(abs(x + 34) < 22) & (abs(y - 18) < 28) & (abs(z - 14) < 22) & (brain > 0)] = (
        900  # in the coronal and the axial plane
    )
    brain[(abs(x) < 6) & (abs(y - 40) < 14) & (abs(z - 25) < 12)] = 900  # in the sagittal plane
    image = nibabel.Nifti1Image(brain, affine)
    turned = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axes)))
    turned.set_sform(turned.affine, code=1)
    turned.set_qform(turned.affine, code=1)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == axes
    nibabel.save(turned, folder / f"{axes}.nii.gz")
    return folder / f"{axes}.nii.gz"


@pytest.fixture(scope="module")
def pipeline() -> VolumePipeline:
    return VolumePipeline.ready(
        "fast", device=torch.device("cpu"), precision="fp32", parameters=None, spacing_mm=4.0, limits=Limits(600.0)
    )


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "PSR", "ASL", "SPL", "IAR"])
def test_the_patients_left_is_on_the_right_however_the_scan_is_stored(
    axes: str, tmp_path: Path, pipeline: VolumePipeline
) -> None:
    image = read_volume(_head(tmp_path, axes))
    picture = preprocess_volume(pipeline, image, None, skull_strip=False, normalise="minmax").qc
    for name, third in zip(PLANES, np.array_split(picture, 3, axis=1), strict=True):
        third = third[len(third) // 8 : -len(third) // 8, 30:-30]  # without letters
        brain = ndimage.binary_fill_holes((third == OUTLINE).all(-1))
        hot = brain & (third.min(-1) > 200)
        (row, column), (middle, centre) = ndimage.center_of_mass(hot), ndimage.center_of_mass(brain)
        if name == "sagittal":
            assert column < centre - 5, f"{name}: the front is not on the left"
        else:
            assert column > centre + 5, f"{name}: the patient's left is not on the right"
        assert row < middle - 5, f"{name}: up or front is not on top"


def test_letters_say_which_way_is_which_in_both_conventions() -> None:
    mask = np.zeros((40, 44, 36), bool)
    mask[5:35, 5:39, 5:31] = True
    picture = three_planes(mask.astype(np.float32), mask, (1.0, 1.0, 1.0))
    assert [_letters(box) for box in _boxes(picture)] == ["APSI", "RLSI", "RLAP"]
    assert [_letters(box) for box in _boxes(qc.mirrored(picture))] == ["PASI", "LRSI", "LRAP"]


@pytest.mark.parametrize("registered", [False, True])
def test_the_neurological_picture_is_that_of_the_mirrored_patient_but_for_the_letters(registered: bool) -> None:
    """Every plane shows what the same plane of a volume turned over in x, and in y for the sagittal one, shows."""
    volume = np.random.default_rng(0).random((30, 36, 33)).astype(np.float32)
    mask = ndimage.gaussian_filter(volume, 3) > 0.5
    draw = registered_planes if registered else three_planes
    given = (volume, volume**2, mask) if registered else (volume, mask)
    picture = draw(*given, (1.2, 1.0, 0.9))
    other = qc.mirrored(picture)
    np.testing.assert_array_equal(qc.mirrored(other), picture)
    for top in range(0, len(picture), qc.BOX + qc.GAP):
        rows = slice(top, top + qc.BOX)
        for one, two in zip(_panels(picture[rows]), _panels(other[rows]), strict=True):
            np.testing.assert_array_equal(one[:, ::-1], two)
            assert (one != two).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 3.0), (2.5, 1.2, 1.2)])
def test_a_ball_is_round_and_as_large_in_every_plane(spacing: tuple) -> None:
    extent = np.array([120, 160, 120])
    shape = tuple(round(mm / s) for mm, s in zip(extent, spacing, strict=True))
    grid = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    )
    distance = np.linalg.norm(grid - extent[:, None, None, None] / 2, axis=0)
    picture = three_planes(np.clip(1.5 - distance / 40, 0, 1).astype(np.float32), distance < 40, spacing)
    assert picture.dtype == np.uint8
    assert picture.shape == (qc.BOX, 3 * qc.BOX + 2 * qc.GAP, 3)
    for panel in _panels(picture):
        rows, columns = np.nonzero((panel == OUTLINE).all(-1))
        expected = 80 * qc.SIDE / 160
        slack = 2 * max(spacing) * qc.SIDE / 160
        assert np.ptp(rows) == pytest.approx(expected, abs=slack)
        assert np.ptp(columns) == pytest.approx(expected, abs=slack)
        assert (rows.mean(), columns.mean()) == pytest.approx((95.5, 95.5), abs=slack)


def test_each_plane_shows_what_lies_in_it() -> None:
    """Radiological: sagittal (front left), coronal (the patient's left is right), axial (so too, front on top)."""
    mask = np.zeros((40, 40, 40), bool)
    mask[5:35, 5:35, 5:35] = True
    volume = mask.astype(np.float32)
    volume[19:21, 27:31, 27:31] = 0  # seen by the sagittal plane: front, up
    volume[8:12, 19:21, 27:31] = 0  # coronal: left, up
    volume[8:12, 27:31, 19:21] = 0  # axial: left, front
    panels = _panels(three_planes(volume, mask, (1.0, 1.0, 1.0)))
    for panel, on_the_right in zip(panels, (False, True, True), strict=True):
        dark = (panel[32:160, 32:160] < 60).all(-1)
        row, column = ndimage.center_of_mass(dark)
        assert dark.sum() == pytest.approx((4 * qc.SIDE / 40) ** 2, rel=0.3)
        assert (column > 64, row < 64) == (on_the_right, True)


def test_sheets_of_axial_slices_are_turned_slice_by_slice() -> None:
    slices = np.zeros((2, 3, 16, 16), np.uint8)  # rows and columns of slices
    slices[..., 2:5, 1:4] = np.array([[90, 120, 150], [180, 210, 240]], np.uint8)[..., None, None]  # left, in front
    sheet = qc.axial_slices(slices.transpose(0, 2, 1, 3).reshape(32, 48), 16)
    assert sheet.shape == (32 + 2 * qc.MARGIN, 48 + 2 * qc.MARGIN, 3)
    inner = sheet[qc.MARGIN : -qc.MARGIN, qc.MARGIN : -qc.MARGIN, 0].reshape(2, 16, 3, 16).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(inner, slices[..., ::-1])
    assert _letters(sheet) == "RLAP"


@pytest.mark.parametrize("fill", [0.0, 5.0])
def test_flat_or_tiny_scans_still_give_a_picture(fill: float) -> None:
    mask = np.zeros((8, 9, 10), bool)
    mask[3, 4, 5] = True
    picture = three_planes(np.full((8, 9, 10), fill, np.float32), mask, (1.0, 1.0, 1.0))
    assert picture.shape == (qc.BOX, 3 * qc.BOX + 2 * qc.GAP, 3)


@pytest.mark.parametrize("shape", [(17, 23, 31), (64, 64, 7), (13, 101, 47), (500, 400, 1)])
def test_all_pictures_have_the_same_size(shape: tuple) -> None:
    generator = np.random.default_rng(0)
    picture = three_planes(generator.random(shape).astype(np.float32), generator.random(shape) > 0.4, (1.1, 0.9, 0.3))
    assert picture.shape == (qc.BOX, 3 * qc.BOX + 2 * qc.GAP, 3)


def test_overlay_colours_where_it_is_high_and_leaves_the_rest() -> None:
    """A hot cube, up, in front and left of the middle: blue to white there, the grey picture as before elsewhere."""
    mask = np.zeros((48, 48, 48), bool)
    mask[6:42, 6:42, 6:42] = True
    volume = np.random.default_rng(0).random((48, 48, 48)).astype(np.float32)
    overlay = np.zeros((48, 48, 48), np.float32)
    overlay[8:26, 22:40, 22:40] = 7
    alone = three_planes(volume, mask, (1.0, 1.0, 1.0))
    both = three_planes(volume, mask, (1.0, 1.0, 1.0), overlay=overlay)
    assert both.shape == alone.shape
    changed = (both != alone).any(-1)
    scale = qc.SIDE / 48
    corners = ((8, 22), (22, 22), (22, 22))  # of the overlay in each plane, voxels from the left and from below
    for panel, now, (left, below) in zip(_panels(changed), _panels(both), corners, strict=True):
        rows, columns = np.nonzero(panel)
        edges = (columns.min(), columns.max() + 1, qc.SIDE - 1 - rows.max(), qc.SIDE - rows.min())
        np.testing.assert_allclose(edges, [scale * e for e in (left, left + 18, below, below + 18)], atol=scale)
        inner = now[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8].astype(int)
        assert (inner.mean((0, 1))[[1, 2]] > inner.mean((0, 1))[0]).all()
    outlines = [(picture == OUTLINE).all(-1) for picture in (alone, both)]
    np.testing.assert_array_equal(*outlines)


def test_registered_scan_over_and_under() -> None:
    mask = np.zeros((30, 36, 33), bool)
    mask[5:25, 6:30, 5:28] = True
    volume, other = (np.random.default_rng(seed).random(mask.shape).astype(np.float32) for seed in (0, 1))
    picture = registered_planes(volume, other, mask, (1.5, 1.5, 2.0))
    above, below = picture[: qc.BOX], picture[qc.BOX + qc.GAP :]
    np.testing.assert_array_equal(above, three_planes(volume, mask, (1.5, 1.5, 2.0), overlay=other))
    np.testing.assert_array_equal(below, three_planes(other, mask, (1.5, 1.5, 2.0)))
    assert (picture[qc.BOX : qc.BOX + qc.GAP] == 0).all()


def test_scans_on_two_grids_are_refused() -> None:
    volume, mask = np.zeros((9, 9, 9), np.float32), np.ones((9, 9, 9), bool)
    with pytest.raises(ValueError, match=r"registered scan \(9, 9, 8\).*not on one grid; bring them there with"):
        registered_planes(volume, volume[:, :, 1:], mask, (1.0, 1.0, 1.0))
