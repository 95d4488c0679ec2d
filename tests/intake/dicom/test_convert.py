"""DICOM made here becomes NIfTI: in the right place and with the right values, or it is refused."""

from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from helpers import dicom_series as made
from helpers.dicom_series import blob_in_world, converted, only_volume, reasons, voxels, write_enhanced, write_series
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from intake.dicom import selection
from intake.dicom.convert import convert_series, import_dicom
from intake.dicom.rules import SeriesRule
from intake.dicom.series import read_dicom_folder
from intake.pseudonyms import pseudonym
from preprocessing.errors import ScanError


@pytest.mark.parametrize("orientation", [made.AXIAL, made.SAGITTAL, made.OBLIQUE], ids=["axial", "sagittal", "oblique"])
def test_the_affine_puts_the_blob_where_dicom_says(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    write_series(tmp_path / "in", orientation=orientation, name=lambda number: f"{hash((number, 7)) % 10**9}.x")
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    blob = np.argwhere(volume.get_fdata() == 900)
    assert len(blob) == 27
    np.testing.assert_allclose(
        nibabel.affines.apply_affine(volume.affine, blob.mean(axis=0)), blob_in_world(orientation), atol=1e-3
    )
    np.testing.assert_array_equal(np.sort(volume.get_fdata().ravel()), np.sort(voxels().ravel()))
    assert volume.header["sform_code"] == volume.header["qform_code"] == 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=lambda uid: uid.name)
def test_other_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        image = dcmread(path)
        if syntax == RLELossless:
            image.compress(RLELossless, generate_instance_uid=False)
        else:
            little = syntax != ExplicitVRBigEndian
            if not little:
                image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
                image["PixelData"].VR = "OW"
            clean = Dataset()
            clean.update(image)
            clean.file_meta = image.file_meta
            clean.file_meta.TransferSyntaxUID = syntax
            image = clean
        image.save_as(path, enforce_file_format=True)
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    np.testing.assert_array_equal(np.sort(volume.get_fdata().ravel()), np.sort(voxels().ravel()))


def test_a_slope_of_its_own_for_every_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "in", modality="PT", slope=lambda number: 0.05 + 0.01 * number, Units="PCNT")
    result = converted(tmp_path / "in")
    volume = only_volume(result, tmp_path / "in").get_fdata()
    np.testing.assert_allclose(np.sort(volume.ravel()), np.sort(voxels().ravel()), atol=0.09)  # half the coarsest step
    assert result.scans["unit"][0] == ""
    assert result.scans["remarks"][0] == "not scaled to SUV: Units are neither BQML nor GML nor CNTS"


def test_pet_is_scaled_to_suv(tmp_path: Path) -> None:
    write_series(tmp_path / "in", modality="PT", slope=lambda number: 50.0)
    result = converted(tmp_path / "in")
    assert result.scans[["modality", "unit", "remarks"]].values.tolist() == [["FDG-PET", "SUVbw", ""]]
    # 74 kg, 370 MBq, injected one half-life before: 74,000 g / 185,000,000 Bq
    volume = only_volume(result, tmp_path / "in")
    assert volume.get_data_dtype() == np.float32
    np.testing.assert_allclose(volume.get_fdata().max(), 900 * 4e-4, rtol=1e-6)


def test_philips_counts_have_a_private_factor(tmp_path: Path) -> None:
    def add(image: Dataset, number: int, frame: int) -> None:
        image.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.002")

    write_series(tmp_path / "in", modality="PT", Units="CNTS", Manufacturer="Philips Medical Systems", each=add)
    result = converted(tmp_path / "in")
    assert result.scans["unit"][0] == "SUVbw"
    np.testing.assert_allclose(only_volume(result, tmp_path / "in").get_fdata().max(), 1.8, rtol=1e-6)


def test_frames_of_a_dynamic_pet_are_averaged_and_that_is_said(tmp_path: Path) -> None:
    write_series(tmp_path / "in", modality="PT", frames=3, Units="PCNT")
    result = converted(tmp_path / "in")
    assert "mean of 3 frames" in result.scans["remarks"][0]
    volume = only_volume(result, tmp_path / "in").get_fdata()
    np.testing.assert_allclose(np.sort(volume.ravel()), np.sort(2.0 * voxels().ravel()))  # mean of 1, 2 and 3 times


def test_of_two_echoes_the_one_that_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(image: Dataset, number: int, frame: int) -> None:
        image.EchoTime, image.EchoNumbers = 12.0 + 80 * frame, frame + 1

    write_series(tmp_path / "in", frames=2, each=second, SeriesDescription="pd+t2_tse")
    rule = SeriesRule(name="T2w", modality="MR", description="t2", echo_time_ms=(60, None))
    monkeypatch.setattr(selection, "RULES", (rule,))
    result = converted(tmp_path / "in")
    assert result.scans["remarks"][0] == "echo of 92 ms, one of 2"
    assert only_volume(result, tmp_path / "in").get_fdata().max() == 1800


def test_phase_images_in_the_series_are_set_aside(tmp_path: Path) -> None:
    def phase(image: Dataset, number: int, frame: int) -> None:
        image.ImageType = ["ORIGINAL", "PRIMARY", "MP"[frame]]

    write_series(tmp_path / "in", frames=2, each=phase)
    result = converted(tmp_path / "in")
    assert result.scans["remarks"][0] == "magnitude images only"
    assert only_volume(result, tmp_path / "in").get_fdata().max() == 900


def test_an_enhanced_multi_frame_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in", Manufacturer="SIEMENS")
    series = read_dicom_folder(tmp_path / "in").series[0]
    assert (series.images[0].echo_time_ms, series.repetition_time_ms, series.orientations) == (3.1, 2300, 1)
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    centre = nibabel.affines.apply_affine(volume.affine, np.argwhere(volume.get_fdata() == 900).mean(axis=0))
    np.testing.assert_allclose(centre, blob_in_world(made.OBLIQUE), atol=1e-3)


def test_what_dcm2niix_cannot_read_stops_no_other_series(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", patient="B")
    for path in (tmp_path / "in" / "a").iterdir():
        image = dcmread(path)
        image.compress(RLELossless, generate_instance_uid=False)
        image.save_as(path)
        path.write_bytes(path.read_bytes()[:-300])
    result = converted(tmp_path / "in")
    assert list(result.scans["subject"]) == [pseudonym("B", made.KEY)]
    (reason,) = reasons(result)
    assert reason.startswith("dcm2niix failed with exit code 1: compressed in an unknown way, cut short")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_several_volumes_in_one_series_are_refused(tmp_path: Path) -> None:
    def smaller(image: Dataset, number: int, frame: int) -> None:
        if number >= 6:
            image.Rows, image.PixelData = made.ROWS // 2, image.PixelData[: made.ROWS * made.COLUMNS]

    write_series(tmp_path / "in", each=smaller)
    assert reasons(converted(tmp_path / "in")) == [
        "dcm2niix made 2 volumes of this series, one expected; look at it in a viewer"
    ]


def test_slices_that_dcm2niix_loses_are_noticed(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    images = read_dicom_folder(tmp_path / "in").series[0].images
    with pytest.raises(ScanError, match=r"made 1 volumes of shape \(16, 20, 12\), uint16; 1 with 13 slices"):
        convert_series(images, slices=made.SLICES + 1)
    with pytest.raises(ScanError, match="made 1 volumes of .*; 2 with 12 slices"):
        convert_series(images, slices=made.SLICES, frames=2)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="no such folder"):
        import_dicom(tmp_path / "in", tmp_path / "out", key=made.KEY)
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path, tmp_path / "in", tmp_path / "in" / "out", tmp_path / "link" / "out"):
        with pytest.raises(ScanError, match="lie in one another"):
            import_dicom(tmp_path / "in", out, key=made.KEY)


def test_an_empty_folder_gives_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = converted(tmp_path / "in")
    assert result.scans.empty
    assert list(result.scans)[:4] == ["subject", "session", "modality", "path"]
    assert result.left_out.empty


def test_dcm2niix_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("intake.dicom.convert.dcm2niix", SimpleNamespace(bin=str(program)))
    monkeypatch.setattr("intake.dicom.convert.LONGEST_S", 0.2)
    write_series(tmp_path / "in")
    assert reasons(converted(tmp_path / "in")) == ["dcm2niix did not finish within 0.2 s"]
