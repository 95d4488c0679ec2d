"""A keyed mark: invisible, found again after what happens to files, and never found without its key."""

import hashlib
import hmac
import io
import itertools

import numpy as np
import pytest
import torch
from helpers.marked import AFFINE, KEY, OTHER_KEY, head, picture
from PIL import Image as Pillow
from scipy import ndimage, signal, stats

from synthesis import mark_views
from synthesis.mark_detection import (
    RADEMACHER,
    corrected_p,
    correlations,
    detect,
    noise_spectrum,
    threshold,
    trials,
)
from synthesis.mark_pattern import MarkError, key_signs, pattern
from synthesis.mark_views import image_of_picture, image_of_volume, straight_view, turns
from synthesis.watermark import local_contrast, mark_picture, mark_volume, psnr_db

CLEAR = 1e-6


@pytest.fixture(scope="module")
def brain():
    return head()


@pytest.fixture(scope="module")
def marked(brain):
    return mark_volume(*brain, AFFINE, key=KEY, batch="1")


def found(volume, affine=AFFINE, *, key=KEY, batches=("1",), thorough=False):
    return detect(image_of_volume(volume, affine), key, batches, thorough=thorough)


@pytest.fixture
def few_turns(monkeypatch):
    """Three degrees about each axis, and three sizes of pictures, so that a whole search takes a second."""
    monkeypatch.setattr(mark_views, "TURNS_3D", (0.0, 3.0))
    monkeypatch.setattr(mark_views, "TURNS_2D", (0.0, 3.0))
    monkeypatch.setattr(mark_views, "SIZES", (0.75, 1.0, 1.5))


# --- the key's noise ---


def test_noise_is_shake_of_hmac_of_key_and_batch():
    signs = key_signs(KEY, "release 2", 2)
    seed = hmac.new(KEY, b"mark of 2 axes\0release 2", hashlib.sha256).digest()
    bits = "".join(f"{byte:08b}" for byte in hashlib.shake_256(seed).digest(192 * 192 // 8))
    assert signs.shape == (192, 192)
    assert "".join("1" if sign > 0 else "0" for sign in signs.ravel()) == bits


@pytest.mark.parametrize(("key", "batch"), [(KEY, "2"), (OTHER_KEY, "1")])
def test_another_key_or_batch_has_another_noise(key, batch):
    agree = float((key_signs(KEY, "1", 3) == key_signs(key, batch, 3)).mean())
    assert agree == pytest.approx(0.5, abs=0.003)


def test_short_key_is_refused():
    with pytest.raises(ValueError, match="the key has 31 bytes; at least 32 expected"):
        key_signs(KEY[:31], "1", 3)


def test_pattern_has_the_wavelengths_of_the_band_and_variance_one():
    made = pattern(key_signs(KEY, "1", 3), 2 * np.eye(3))
    power = np.abs(np.fft.fftn(made)) ** 2
    each = np.fft.fftfreq(96, d=2.0)
    frequency = np.sqrt(sum(one**2 for one in np.meshgrid(each, each, each, indexing="ij")))
    outside = power[(frequency < 0.9 / 16 - 1e-9) | (frequency >= 1 / 6)].sum()
    assert outside < 1e-8 * power.sum()
    assert made.std() == pytest.approx(1, abs=0.02)


def test_pattern_for_thick_slices_has_nothing_that_they_cannot_hold():
    made = pattern(key_signs(KEY, "1", 3), np.diag([1.0, 1.0, 5.0]))
    power = np.abs(np.fft.fftn(made)).max(axis=(0, 1))
    assert power[np.abs(np.fft.fftfreq(96, d=2.0)) > 0.1].max() < 1e-3 * power.max()
    assert made.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("spacing_mm", "marked"), [(8.6, True), (8.7, False)])
def test_least_grid_that_holds_a_mark(spacing_mm, marked):
    voxels, signs = np.eye(3) * spacing_mm, key_signs(KEY, "1", 3)
    if marked:
        np.testing.assert_allclose(pattern(signs, voxels).var(), 1, rtol=0.1)
    else:
        with pytest.raises(MarkError, match="they hold less than 2% of it"):
            pattern(signs, voxels)


def test_voxels_that_are_too_coarse_are_refused(brain):
    with pytest.raises(MarkError, match="voxels of 20 x 20 x 20 mm are too coarse for a mark of 6 to 16 mm"):
        mark_volume(*brain, np.diag([20.0, 20, 20, 1]), key=KEY, batch="1")


# --- marking ---


def test_mark_is_weak_and_inside_the_mask_and_within_the_range(brain, marked):
    volume, mask = brain
    assert marked.dtype == np.float32
    assert 39 <= psnr_db(volume, marked, mask) <= 40.5
    assert (marked[~mask] == volume[~mask]).all()
    assert marked[mask].min() >= volume[mask].min()
    assert marked[mask].max() <= volume[mask].max()


def test_marking_again_gives_the_same_and_leaves_its_input(brain, marked):
    volume, mask = brain
    before = volume.copy()
    again = mark_volume(volume, mask, AFFINE, key=KEY, batch="1")
    assert (again == marked).all()
    assert (volume == before).all()


def test_mark_is_stronger_where_there_is_contrast(brain):
    volume, mask = brain
    quiet = volume.copy()
    quiet[:32][mask[:32]] = 0.5 + 0.1 * (volume[:32][mask[:32]] - 0.5)
    change = np.abs(mark_volume(quiet, mask, AFFINE, key=KEY, batch="1") - quiet)
    ratio = change[40:][mask[40:]].mean() / change[:24][mask[:24]].mean()
    assert 1.8 < ratio < 2 / 0.35 + 0.3


def test_local_contrast_does_not_see_the_edge_of_the_mask():
    values = np.zeros((40, 40))
    values[10:30, 10:30] = 5 + np.random.default_rng(0).standard_normal((20, 20))
    mask = values > 0
    inside = local_contrast(values, mask, [2.0, 2.0])[mask]
    assert inside.max() < 1.6  # with the zeros outside it would be 2.5


@pytest.mark.parametrize(
    ("volume", "mask", "message"),
    [
        (np.ones((9, 9, 9)), np.zeros((9, 9, 9), bool), "the mask is empty"),
        (np.ones((9, 9, 9)), np.ones((9, 9, 9), bool), "every value inside the mask is 1"),
    ],
)
def test_what_cannot_be_marked_is_refused(volume, mask, message):
    with pytest.raises(MarkError, match=message):
        mark_volume(volume, mask, AFFINE, key=KEY, batch="1")


def test_weaker_mark_is_weaker_and_found_less_clearly(brain, marked):
    volume, mask = brain
    weak = mark_volume(volume, mask, AFFINE, key=KEY, batch="1", decibels=48.0)
    assert psnr_db(volume, weak, mask) == pytest.approx(48, abs=0.2)
    assert found(weak).z < found(marked).z - 5


def test_psnr_is_that_of_its_definition():
    before = np.linspace(0, 1, 1001)
    after = before + np.where(np.arange(1001) % 2, 0.01, -0.01)
    assert psnr_db(before, after, np.ones(1001, bool)) == pytest.approx(20 * np.log10(0.998 / 0.01))


# --- finding ---


def test_mark_is_found_with_its_key_and_batch_only(brain, marked):
    assert found(marked).p < 1e-20
    for key, batch in ((OTHER_KEY, "1"), (KEY, "2")):
        assert found(marked, key=key, batches=(batch,)).p > 0.01
    assert found(brain[0]).p > 0.01


def test_naming_more_batches_costs_their_number(marked):
    one, two = found(marked, batches=("1",)), found(marked, batches=("2", "1"))
    assert two.z == one.z
    assert two.p / one.p == pytest.approx(2)


def test_correlations_are_those_of_a_plain_sum(brain):
    """Oracle: the noise, rolled, times the whitened image, both on the pattern's grid, with NumPy."""
    view = straight_view(image_of_volume(brain[0], AFFINE)).spectrum.numpy()
    whole = np.zeros((96, 96, 49), complex)
    index = [*range(32), *range(64, 96)]
    whole[np.ix_(index, index, range(33))] = view
    image = np.fft.irfftn(whole, s=(96, 96, 96), axes=(0, 1, 2))
    signs = key_signs(KEY, "1", 3)
    spectrum = noise_spectrum(torch.from_numpy(signs.astype(np.float32)))[None]
    ours = correlations(torch.from_numpy(view), spectrum, 3, finer=1)[0].numpy()
    for place in ((0, 0, 0), (2, 10, 40), (20, 4, 6)):  # of 3 mm, at points of the grid of 2 mm
        moved = np.roll(signs, [-3 * each // 2 for each in place], axis=(0, 1, 2))
        expected = float((moved * image).sum() / np.sqrt((image**2).sum()))
        assert ours[place] == pytest.approx(expected, abs=2e-3)


def test_finer_correlations_agree_with_coarse_ones(brain):
    view = straight_view(image_of_volume(brain[0], AFFINE)).spectrum
    spectrum = noise_spectrum(torch.from_numpy(key_signs(KEY, "1", 3).astype(np.float32)))[None]
    coarse, fine = (correlations(view, spectrum, 3, finer=finer)[0] for finer in (1, 2))
    expected = coarse.double().numpy()
    for axis in range(3):  # oracle: SciPy's interpolation of periodic samples
        expected = signal.resample(expected, 128, axis=axis)
    np.testing.assert_allclose(fine.numpy(), expected, atol=2e-3)


def test_correlations_of_other_keys_are_standard_normal(brain):
    view = straight_view(image_of_volume(brain[0], AFFINE)).spectrum
    noises = torch.stack(
        [noise_spectrum(torch.from_numpy(key_signs(KEY, f"no {n}", 3).astype(np.float32))) for n in range(12)]
    )
    values = correlations(view, noises, 3, finer=1).flatten()
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    for z in (1.0, 2.0, 3.0):
        assert float((values > z).double().mean()) == pytest.approx(stats.norm.sf(z), rel=0.1)


def test_bound_holds_for_sums_of_signs_that_can_be_counted():
    """Oracle: all signs of 12 weights, equal, falling, and one that outweighs the others."""
    signs = np.array(list(itertools.product((-1, 1), repeat=12)))
    for weights in (np.ones(12), 0.8 ** np.arange(12), np.array([3.0] + 11 * [0.3])):
        sums = np.sort(signs @ (weights / np.linalg.norm(weights)))
        reached = 1 - np.arange(sums.size) / sums.size
        assert (reached[sums > 0] <= RADEMACHER * stats.norm.sf(sums[sums > 0]) + 1e-12).all()


def test_p_is_the_bound_times_the_number_of_trials():
    assert corrected_p(5.0, 1000) == pytest.approx(1000 * stats.norm.sf(5) / (4 * stats.norm.sf(2**0.5)))
    assert corrected_p(0.0, 1000) == 1
    assert corrected_p(threshold(1e-3, 1e9), 1e9) == pytest.approx(1e-3, rel=1e-6)
    assert trials(3, 1) == 4 * 128**3
    assert trials(2, 1) == 4 * 256**2


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.array(Pillow.open(stream))


def jpeg_slices(volume: np.ndarray, quality: int) -> np.ndarray:
    return np.stack([jpeg(np.round(255 * plane).astype(np.uint8), quality) for plane in volume.T]).T / 255


CHANGES = {
    "8 bit": lambda volume: np.round(255 * volume),
    "JPEG q50": lambda volume: jpeg_slices(volume, 50),
    "noise": lambda volume: volume + np.random.default_rng(5).normal(0, 0.05, volume.shape),
    "blur": lambda volume: ndimage.gaussian_filter(volume, 0.7),
    "gamma": lambda volume: volume**0.7,
    "negative": lambda volume: 7 - 3 * volume**1.2,
    "crop": lambda volume: volume[8:-6, 5:-9, 4:],
    "shift": lambda volume: np.roll(volume, (3, -2, 1), axis=(0, 1, 2)),
    "lower half": lambda volume: volume[:, :, : volume.shape[2] // 2],
}


@pytest.mark.parametrize("change", CHANGES)
def test_mark_survives(marked, change):
    assert found(CHANGES[change](marked)).p < CLEAR


def test_bright_scalp_does_not_drown_the_mark(brain, marked):
    """What is ten times as strong elsewhere counts no more than the brain."""
    random = np.random.default_rng(3)
    scalp = ~ndimage.binary_dilation(brain[1], iterations=2)
    loud = np.where(scalp, 6 * ndimage.gaussian_filter(random.standard_normal(marked.shape), 1.5), marked)
    assert found(loud).p < CLEAR


def test_loud_waves_of_one_length_do_not_drown_the_mark(marked):
    """Waves of 14 mm in many directions, far stronger than the mark, are weak in the whitened spectrum."""
    random = np.random.default_rng(4)
    places = 2 * np.indices(marked.shape).reshape(3, -1).T
    loud = marked.astype(np.float64)
    for _ in range(12):
        direction = random.standard_normal(3)
        wave = places @ (direction / np.linalg.norm(direction)) / 14 + random.random()
        loud += 0.04 * np.sin(2 * np.pi * wave).reshape(marked.shape)
    assert found(loud).p < CLEAR


def test_mark_survives_another_grid_and_half_of_the_slices(marked):
    coarse = ndimage.zoom(marked, 2 / 3, order=1)
    assert found(coarse, AFFINE @ np.diag([1.5, 1.5, 1.5, 1])).p < CLEAR
    assert found(marked[:, :, ::2], AFFINE @ np.diag([1, 1, 2, 1])).p < CLEAR


def test_header_that_turns_the_head_is_followed(marked):
    """The voxels in another order of axes, and a whole turn that the affine undoes."""
    swapped = AFFINE.copy()
    swapped[:, :3] = AFFINE[:, [2, 0, 1]]
    assert found(marked.transpose(2, 0, 1), swapped).p < 1e-20
    turn = np.eye(4)
    turn[:3, :3] = mark_views._rotation((20.0, -10.0, 30.0))
    oblique = turn @ AFFINE
    centre = (np.array(marked.shape) - 1) / 2
    back = turn[:3, :3] * np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]])  # the same turn along the voxels' axes
    turned = ndimage.affine_transform(marked, back, centre - back @ centre, order=1)
    assert found(turned, oblique).p < CLEAR
    assert found(turned).p > 0.01


def test_turned_and_mirrored_heads_are_found_by_the_whole_search(marked, brain, few_turns):
    back = mark_views._rotation((2.5, 3.5, -0.5))
    centre = (np.array(marked.shape) - 1) / 2
    turned = ndimage.affine_transform(marked, back, centre - back @ centre, order=1)[:, ::-1]
    assert found(turned, np.diag([2.0, 2, 2, 1])).p > 0.01
    result = found(turned, np.diag([2.0, 2, 2, 1]), thorough=True)
    assert result.p == corrected_p(result.z, trials(3, len(turns(3)) * 8))  # all turns and mirrors count
    assert result.p < CLEAR
    assert "mirrored" in result.how
    assert "turned by" in result.how
    assert found(brain[0][::-1], thorough=True).p > 0.01


def test_mirrored_file_of_a_scan_that_lies_aslant_is_found(brain, few_turns, monkeypatch):
    """The voxels are mirrored along their own axes, 12° from the world's, so the head is turned by 24° too."""
    monkeypatch.setattr(mark_views, "TURNS_3D", (0.0,))
    turn = np.eye(4)
    turn[:3, :3] = mark_views._rotation((12.0, 0.0, 0.0))
    aslant = turn @ AFFINE
    made = mark_volume(*brain, aslant, key=KEY, batch="1")
    for axis, name in ((1, "back-front"), (2, "top-bottom"), (0, "left-right")):
        result = found(np.flip(made, axis), aslant, thorough=True)
        assert result.p < CLEAR, name
        assert result.how == f"mirrored {name}"
    assert found(np.flip(brain[0], 1), aslant, thorough=True).p > 0.01
    offset = mark_views.mirror_offset(image_of_volume(made, aslant), (1,))
    np.testing.assert_allclose(offset, mark_views._rotation((24.0, 0.0, 0.0)), atol=1e-12)


def test_whole_search_turns_by_up_to_six_degrees_about_any_axis():
    each = np.array([degrees for _, degrees in turns(3)])
    axes = np.random.default_rng(0).standard_normal((500, 3))
    asked = 6 * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    nearest = np.linalg.norm(asked[:, None] - each, axis=2).min(axis=1)
    assert nearest.max() <= 1.5 * 3**0.5
    assert (each[0] == 0).all()  # the least changed views first


# --- one batch, many files ---


def test_mean_of_many_files_of_a_batch_does_not_carry_their_mark():
    """The mark lies at another place in each file: who averages the changes gets noise."""
    changes = []
    for number in range(12):
        volume, mask = head(number)
        changes.append(mark_volume(volume, mask, AFFINE, key=KEY, batch="1") - volume)
    one, mean = found(changes[0]), found(np.mean(changes, axis=0))
    assert one.z > 40
    assert mean.z < one.z / 2
    assert found(np.mean(changes, axis=0), batches=("2",)).p > 0.01


@pytest.mark.parametrize("turned", [(0.0, 0.0, 0.0), (25.0, -10.0, 40.0)])
def test_mark_lies_where_image_and_pattern_agree_by_chance(brain, turned):
    turn = np.eye(4)
    turn[:3, :3] = mark_views._rotation(turned)
    affine = turn @ AFFINE @ np.diag([0.9, 1.1, 1.3, 1])
    spectrum = noise_spectrum(torch.from_numpy(key_signs(KEY, "1", 3)).float())[None]
    fields = [
        correlations(straight_view(image_of_volume(volume, affine)).spectrum, spectrum, 3, finer=2)[0]
        for volume in (brain[0], mark_volume(*brain, affine, key=KEY, batch="1"))
    ]
    before, after = (np.array(np.unravel_index(int(field.argmax()), field.shape)) for field in fields)
    assert np.abs((after - before + 64) % 128 - 64).max() <= 1
    assert float(fields[0].max()) > 4
    assert float(fields[1].max()) > float(fields[0].max()) + 4


# --- pictures ---


@pytest.mark.parametrize("size", [64, 200])
def test_marked_picture_is_found_and_hardly_changed(size):
    pixels = picture(size=size)
    marked = mark_picture(pixels, key=KEY, batch="1")
    assert marked.dtype == np.uint8
    assert psnr_db(pixels, marked, np.ones(pixels.shape, bool), peak=255) >= 39
    change = marked.astype(int) - pixels
    within = ((pixels > 15) & (pixels < 240)).all(axis=2)
    assert within.mean() > 0.5
    assert (np.ptp(change, axis=2) <= 1)[within].all()  # grey: colours change alike, up to rounding
    for image, key, is_marked in ((marked, KEY, True), (marked, OTHER_KEY, False), (pixels, KEY, False)):
        p = detect(image_of_picture(image), key, ["1"], thorough=False).p
        assert p < 1e-4 if is_marked else p > 0.01


def test_grey_picture_and_mask():
    pixels = picture()[..., 0]
    inside = np.zeros(pixels.shape, bool)
    inside[20:180, 30:190] = True
    marked = mark_picture(pixels, key=KEY, batch="1", mask=inside)
    assert marked.shape == pixels.shape
    assert (marked == pixels)[~inside].all()
    assert detect(image_of_picture(marked), KEY, ["1"], thorough=False).p < 1e-4


def test_picture_survives_jpeg_and_a_changed_size(few_turns):
    marked = mark_picture(picture(size=300), key=KEY, batch="1")
    assert detect(image_of_picture(jpeg(marked, 50)), KEY, ["1"], thorough=False).p < CLEAR
    smaller = np.array(Pillow.fromarray(marked).resize((225, 225), Pillow.Resampling.LANCZOS))
    assert detect(image_of_picture(smaller), KEY, ["1"], thorough=False).p > 0.01
    result = detect(image_of_picture(smaller), KEY, ["1"])
    assert result.p < CLEAR
    assert result.how == "resized to 75%"


def test_quarter_turn_of_a_picture_is_found(few_turns):
    marked = mark_picture(picture(), key=KEY, batch="1")
    assert detect(image_of_picture(np.rot90(marked)), KEY, ["1"]).p < CLEAR


def test_of_a_whole_slide_the_middle_is_looked_at():
    slide = np.tile(picture(size=64), (1, 36, 1))[:, :2248]
    both = [straight_view(image_of_picture(pixels)).spectrum for pixels in (slide, slide[:, 100:2148])]
    torch.testing.assert_close(*both, rtol=0, atol=1e-3 * float(both[0].abs().max()))


def test_batch_has_to_be_named(marked):
    with pytest.raises(ValueError, match="at least one batch"):
        found(marked, batches=())
