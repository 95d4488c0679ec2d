"""Series and files that are of no use are left out or counted, each with its reason."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_series import KEY, SLICES, converted, header, reasons, write_series
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage, generate_uid

from intake.dicom.series import read_dicom_folder
from intake.pseudonyms import pseudonym


def test_series_of_no_use_have_a_reason_in_words(tmp_path: Path) -> None:
    study = generate_uid()

    def spread(image: Dataset, number: int, frame: int) -> None:
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], 42.0 + 2 * number + 2 * (number > 6)]

    for number, values in enumerate(
        [
            {},
            {"slices": 14},
            {"SeriesDescription": "AAHead_Scout"},
            {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
            {"slices": 9, "BLOB": None},
            {"SeriesDescription": "plantword_dwi", "InversionTime": None},
            {"SeriesDescription": "t1_km", "ScanningSequence": ["GR"]},
            {"each": spread},
            {"frames": 2},
            {"patient": ""},
            {"modality": "CT"},
            {"SyntheticData": "YES", "slices": 15},
            {"SyntheticData": "NO"},
        ],
        start=1,
    ):
        values.pop("BLOB", None)
        write_series(tmp_path / "in" / str(number), StudyInstanceUID=study, SeriesNumber=number, **values)
    result = converted(tmp_path / "in")
    assert len(result.scans) == 1
    reasons = dict(zip(result.left_out["series"].astype(int), result.left_out["reason"], strict=True))
    assert reasons == {
        1: "a second T1w of this session; the one with 14 slices (series 2), more slices, is used",
        3: "a localiser or scout",
        4: "derived from other images: ImageType has DERIVED",
        5: "too few slices: 9, at least 10 needed",
        6: "no rule matches",
        7: "no rule matches; nearest is T1w, but a word in its description excludes it",
        8: "slices lie 2.00 to 4.00 mm apart; images seem to be missing",
        9: "every slice occurs 2 times (a time series, diffusion, or sent twice); one volume expected",
        10: "there is no PatientID; the patient is unknown",
        11: "no rule matches",
        12: "SyntheticData is YES: made up, no scan of a patient",
        13: "a second T1w of this session; the one with 14 slices (series 2), more slices, is used",
    }
    descriptions = dict(zip(result.left_out["series"].astype(int), result.left_out["description"], strict=True))
    assert descriptions[6] == "… dwi"
    assert descriptions[1] == "t1 mprage sag"


def test_files_that_are_no_image_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_series(
        folder / "Jürgen Plantagenet" / unicodedata.normalize("NFD", "Schädel")[:7], name="{}.dcm.bak (1)".format
    )
    write_series(folder / "copy", patient="B", SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2")
    for path in list((folder / "copy").iterdir()):
        (folder / "copy" / f"again {path.name}.DCM").write_bytes(path.read_bytes())
    (folder / "read me.txt").write_text("hello")
    (folder / "empty").touch()
    (folder / "dangling").symlink_to("nowhere")
    report, index = header("SR", "B", SeriesInstanceUID="1.2.9"), header("OT", "B")
    del report.Rows
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    for each, name in ((report, "report"), (index, "DICOMDIR")):
        each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        each.save_as(folder / name, enforce_file_format=True)
    broken = (folder / "copy" / "IM0001").read_bytes()[:300]
    (folder / "broken").write_bytes(broken)
    content = read_dicom_folder(folder)
    assert dict(content.skipped) == {
        "DICOM header damaged": 1,
        "DICOM without an image": 1,
        "DICOMDIR": 1,
        "link that leads nowhere, or special file": 1,
        "not DICOM": 2,
        "second copy of an image": SLICES,
    }
    assert [len(series.images) for series in content.series] == [SLICES, SLICES]
    assert len(converted(folder).scans) == 2


def test_a_truncated_image_spoils_its_series_unless_there_is_a_whole_copy(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_series(folder / "a")
    write_series(folder / "b", patient="B")
    last = folder / "a" / f"IM{SLICES:04d}"  # the last slice: without it the rest would still be evenly spaced
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    result = converted(folder)
    assert list(result.scans["subject"]) == [pseudonym("B", KEY)]
    assert reasons(result) == ["1 of 12 images are cut short; export the series again"]
    assert dict(result.skipped) == {"image cut short": 1}
    (folder / "copy of last").write_bytes(whole)
    assert len(converted(folder).scans) == 2


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_header_stops_the_reading(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    write_series(tmp_path / "whole", modality=["PT", "MR"][seed % 2])
    (tmp_path / "in").mkdir()
    content = (tmp_path / "whole" / "IM0001").read_bytes()
    for number in range(150):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = random.integers(132, len(content) - 640, 8)
        damaged[places] = random.integers(0, 256, 8)
        (tmp_path / "in" / str(number)).write_bytes(damaged.tobytes())
    export_content = read_dicom_folder(tmp_path / "in")
    assert (
        sum(len(each.images) + each.damaged for each in export_content.series) + sum(export_content.skipped.values())
        >= 150
    )
    converted(tmp_path / "in")
