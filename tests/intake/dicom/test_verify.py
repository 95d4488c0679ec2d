"""Every slice that dcm2niix makes is compared with its DICOM file; the files decide, or the series is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from helpers import dicom_series as made
from helpers.dicom_series import converted, only_volume, reasons, truth, voxels, write_enhanced, write_series
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from intake.dicom import convert

MOVED = "dcm2niix put slices elsewhere than DICOM says; corrected by the position of each"
RANDOM = [7, 3, 0, 11, 1, 10, 2, 9, 4, 8, 5, 6]


def interleaved(number: int) -> tuple[str, int]:
    return str(1 + number % 2), number // 2 + 1


def one_after_the_other(number: int) -> tuple[str, int]:
    return str(1 + number // 6), number % 6 + 1


@pytest.mark.parametrize("orientation", [made.AXIAL, made.SAGITTAL, made.OBLIQUE], ids=["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("stacks", [interleaved, one_after_the_other])
@pytest.mark.parametrize("order", [None, list(range(made.SLICES))[::-1], RANDOM], ids=["up", "down", "random"])
def test_two_stacks_of_philips_are_put_where_their_positions_say(
    tmp_path: Path, orientation: tuple[float, ...], stacks: Callable[[int], tuple[str, int]], order: list[int] | None
) -> None:
    write_enhanced(tmp_path / "in", order=order, stacks=stacks, orientation=orientation, Manufacturer="Philips")
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape, orientation))
    assert result.scans["remarks"][0] == MOVED
    assert "1 volumes of dcm2niix were corrected by their DICOM files; see remarks" in result.notes


def test_frames_of_other_makers_in_no_order(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in", order=RANDOM, Manufacturer="SIEMENS")
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape, made.OBLIQUE))
    assert result.scans["remarks"][0] == MOVED


def test_a_slope_of_its_own_for_every_frame(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in", slope=lambda number: 1.0 + number % 3, Manufacturer="GE MEDICAL SYSTEMS")
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    expected = truth(volume.affine, volume.shape, made.OBLIQUE)
    np.testing.assert_allclose(volume.get_fdata(), expected, atol=1.51)  # half the coarsest step


@pytest.mark.parametrize("unit", [1e-7, 1e-8, 1e-10])
def test_tiny_slopes_that_differ_between_slices(tmp_path: Path, unit: float) -> None:
    def tiny(image: Dataset, number: int, frame: int) -> None:
        image.RescaleSlope = f"{unit * (1 + 0.1 * number):.6g}"

    write_series(tmp_path / "in", modality="PT", Units="PCNT", each=tiny)
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    slopes = 1 + 0.1 * np.arange(made.SLICES)
    np.testing.assert_allclose(volume.get_fdata() / unit, truth(volume.affine, volume.shape) * slopes, rtol=1e-5)
    assert "scaled 11 of 12 slices otherwise than DICOM says; corrected" in result.scans["remarks"][0]


def test_an_intercept_of_its_own_for_every_slice(tmp_path: Path) -> None:
    def lower(image: Dataset, number: int, frame: int) -> None:
        image.RescaleIntercept = -10 * number

    write_series(tmp_path / "in", each=lower)
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    np.testing.assert_allclose(
        volume.get_fdata(), truth(volume.affine, volume.shape) - 10.0 * np.arange(made.SLICES), atol=1e-3
    )


def test_the_private_scale_of_philips_is_not_mistaken_for_dicoms(tmp_path: Path) -> None:
    """dcm2niix divides by the first slice's private slope; where that differs between slices, so do its units."""

    def private(image: Dataset, number: int, frame: int) -> None:
        image.RescaleSlope = "1.5"
        block = image.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.01 * (1 + number % 3))

    write_series(tmp_path / "in", Manufacturer="Philips Medical Systems", each=private)
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_allclose(volume.get_fdata(), 1.5 * truth(volume.affine, volume.shape), rtol=1e-6)
    assert result.scans["remarks"][0] == "in the units of RescaleSlope; dcm2niix gives 66.67 times as much"
    assert result.notes == ()


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (
            lambda image, number, frame: setattr(
                image, "ImagePositionPatient", [-20, -31 + 0.5 * number, 42 + 2 * number]
            ),
            "slices are shifted against each other, by 5.5 mm from the first to the last (a tilted gantry, or a "
            "sheared stack); resample the series to a straight one",
        ),
        (
            lambda image, number, frame: number != 4 or delattr(image, "RescaleSlope"),
            "some of its images have a RescaleSlope and some have none; export the series again",
        ),
        (
            lambda image, number, frame: delattr(image, "PixelSpacing"),
            "there is no PixelSpacing; the size of its voxels is not known",
        ),
    ],
    ids=["tilt", "one slope missing", "no voxel size"],
)
def test_what_is_not_certain_is_left_out(tmp_path: Path, each: Callable[..., Any], reason: str) -> None:
    def slopes(image: Dataset, number: int, frame: int) -> None:
        image.RescaleSlope = "2"
        each(image, number, frame)

    write_series(tmp_path / "in", each=slopes)
    assert reasons(converted(tmp_path / "in")) == [reason]


def test_distances_that_grow_are_no_even_grid(tmp_path: Path) -> None:
    """Each differs by less than 5 %, but in the middle slices would be a millimetre from where they were taken."""

    def spread(image: Dataset, number: int, frame: int) -> None:
        image.ImagePositionPatient = [-20, -31, 42 + 2.0 * number + 0.08 * max(0, number - 20)]

    write_series(tmp_path / "in", slices=40, each=spread)
    assert reasons(converted(tmp_path / "in")) == [
        "slices lie up to 0.78 mm beside an even grid of 2.04 mm; images seem to be missing, or their distances vary"
    ]


def test_the_order_of_instance_numbers_does_not_count(tmp_path: Path) -> None:
    def numbered(image: Dataset, number: int, frame: int) -> None:
        image.InstanceNumber = RANDOM[number] + 1

    write_series(tmp_path / "in", each=numbered)
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape))
    assert result.scans["remarks"][0] == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda volume: volume[:, :, ::-1], MOVED),
        (lambda volume: volume[::-1], MOVED),
        (
            lambda volume: volume * np.linspace(1, 2, made.SLICES)[:, None],
            "dcm2niix scaled 11 of 12 slices otherwise than DICOM",
        ),
        (lambda volume: np.roll(volume, 3, axis=0), MOVED),
    ],
    ids=["upside down", "mirrored", "scaled", "rolled"],
)
def test_any_mistake_of_the_converter_in_place_or_scale_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    original = convert._made
    monkeypatch.setattr(
        convert, "_made", lambda path, limits: (change(original(path, limits)[0]), original(path, limits)[1])
    )
    write_series(tmp_path / "in", orientation=made.OBLIQUE)
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape, made.OBLIQUE))
    assert expected in result.scans["remarks"][0]


def test_other_pixels_than_the_files_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = convert._made

    def wrong(path: Path, limits: Any) -> tuple[np.ndarray, np.ndarray]:
        volume, affine = original(path, limits)
        volume[4, 5, 6] += 1
        return volume, affine

    monkeypatch.setattr(convert, "_made", wrong)
    write_series(tmp_path / "in", orientation=made.OBLIQUE)
    (reason,) = reasons(converted(tmp_path / "in"))
    assert reason.startswith("1 of 12 slices that dcm2niix made differ from the DICOM files in more than order, place")


def test_where_pixels_cannot_be_decoded_geometry_is_compared_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        image = dcmread(path)
        image.compress(RLELossless, generate_instance_uid=False)
        image.save_as(path)

    class Absent:
        is_available = False

    monkeypatch.setattr("intake.dicom.verify.get_decoder", lambda syntax: Absent)
    result = converted(tmp_path / "in")
    assert result.scans["remarks"][0] == (
        "only the geometry was compared with DICOM: no package that is installed decodes RLE Lossless"
    )
    original = convert._made
    monkeypatch.setattr(
        convert, "_made", lambda path, limits: (original(path, limits)[0], original(path, limits)[1] * 1.5)
    )
    assert reasons(converted(tmp_path / "in")) == [
        "dcm2niix put slices elsewhere than the DICOM files say, and no package that is installed decodes RLE Lossless"
    ]


# --- frames of PET ---


def dynamic(folder: Path, seconds: list[float | None], **values: Any) -> None:
    def timed(image: Dataset, number: int, frame: int) -> None:
        if seconds[frame] is None:
            del image.ActualFrameDuration
        else:
            image.ActualFrameDuration = str(int(1000 * seconds[frame]))

    write_series(folder, modality="PT", frames=len(seconds), Units="PCNT", each=timed, **values)


def test_frames_are_weighted_by_their_durations(tmp_path: Path) -> None:
    dynamic(tmp_path / "in", [60, 60, 1200])
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in")
    expected = truth(volume.affine, volume.shape) * (60 * 1 + 60 * 2 + 1200 * 3) / 1320
    np.testing.assert_allclose(volume.get_fdata(), expected, rtol=1e-6)
    assert result.scans["remarks"][0].startswith(
        "mean of 3 frames, weighted by their durations (2 of 60 s, 1 of 1200 s)"
    )


def test_frames_without_durations_count_alike_and_that_is_said(tmp_path: Path) -> None:
    dynamic(tmp_path / "in", [None, None])
    remarks = converted(tmp_path / "in").scans["remarks"][0]
    assert remarks.startswith("mean of 2 frames, all counting alike: ActualFrameDuration is missing")


@pytest.mark.parametrize("seconds", [[60, 0], [60, None]])
def test_frames_of_which_some_have_no_duration_are_left_out(tmp_path: Path, seconds: list[float | None]) -> None:
    dynamic(tmp_path / "in", seconds)
    (reason,) = reasons(converted(tmp_path / "in"))
    assert reason.startswith("ActualFrameDuration is missing or 0 in some of 24 files; frames cannot be weighted")


def test_pet_that_lost_its_last_slices(tmp_path: Path) -> None:
    def stated(image: Dataset, number: int, frame: int) -> None:
        image.NumberOfSlices = made.SLICES + 2

    write_series(tmp_path / "in", modality="PT", each=stated)
    assert reasons(converted(tmp_path / "in")) == ["NumberOfSlices is 14, 12 are there; export the series again"]


def test_a_series_that_fails_gives_way_to_the_next_one(tmp_path: Path) -> None:
    def tilted(image: Dataset, number: int, frame: int) -> None:
        image.ImagePositionPatient = [-20, -31 + 0.5 * number, 42 + 2 * number]

    write_series(tmp_path / "in" / "a", StudyInstanceUID="1.2", slices=20, each=tilted, SeriesNumber=1)
    write_series(tmp_path / "in" / "b", StudyInstanceUID="1.2", SeriesNumber=2)
    result = converted(tmp_path / "in")
    assert nibabel.load(tmp_path / "out" / result.scans["path"][0]).shape == (made.COLUMNS, made.ROWS, made.SLICES)
    assert [text.split(",")[0] for text in reasons(result)] == ["slices are shifted against each other"]


def test_values_are_those_of_the_files(tmp_path: Path) -> None:
    write_series(tmp_path / "in", orientation=made.SAGITTAL)
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    assert volume.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(volume.get_fdata(), truth(volume.affine, volume.shape, made.SAGITTAL))
    assert volume.get_fdata().sum() == voxels().sum()
