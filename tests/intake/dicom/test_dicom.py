"""DICOM made here becomes NIfTI: in the right place, with the right values, and without a trace of who it is."""

import gzip
import hashlib
import io
import logging
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from helpers.dicom_series import (
    AXIAL,
    COLUMNS,
    KEY,
    OBLIQUE,
    PLANTED,
    ROWS,
    SAGITTAL,
    SLICES,
    blob_in_world,
    converted,
    header,
    only_volume,
    reasons,
    voxels,
    write_enhanced,
    write_series,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)

from intake.__main__ import main as intake
from intake.dicom import selection
from intake.dicom.convert import convert_series, import_dicom
from intake.dicom.rules import DicomConfig, SeriesRule
from intake.dicom.series import DicomFolder, read_dicom_folder
from intake.pseudonyms import pseudonym
from preprocessing.errors import ScanError


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
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
    np.testing.assert_allclose(centre, blob_in_world(OBLIQUE), atol=1e-3)


# --- what is left out, and why ---


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


def test_what_dcm2niix_cannot_read_stops_no_other_series(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", patient="B")
    for path in (tmp_path / "in" / "a").iterdir():
        image = dcmread(path)
        image.compress(RLELossless, generate_instance_uid=False)
        image.save_as(path)
        path.write_bytes(path.read_bytes()[:-300])
    result = converted(tmp_path / "in")
    assert list(result.scans["subject"]) == [pseudonym("B", KEY)]
    (reason,) = reasons(result)
    assert reason.startswith("dcm2niix failed with exit code 1: compressed in an unknown way, cut short")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_several_volumes_in_one_series_are_refused(tmp_path: Path) -> None:
    def smaller(image: Dataset, number: int, frame: int) -> None:
        if number >= 6:
            image.Rows, image.PixelData = ROWS // 2, image.PixelData[: ROWS * COLUMNS]

    write_series(tmp_path / "in", each=smaller)
    assert reasons(converted(tmp_path / "in")) == [
        "dcm2niix made 2 volumes of this series, one expected; look at it in a viewer"
    ]


def test_slices_that_dcm2niix_loses_are_noticed(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    images = read_dicom_folder(tmp_path / "in").series[0].images
    with pytest.raises(ScanError, match=r"made 1 volumes of shape \(16, 20, 12\), uint16; 1 with 13 slices"):
        convert_series(images, slices=SLICES + 1)
    with pytest.raises(ScanError, match="made 1 volumes of .*; 2 with 12 slices"):
        convert_series(images, slices=SLICES, frames=2)


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


# --- patients, sessions, tables ---


def test_two_patients_of_one_name_stay_two(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", patient="7001")
    write_series(tmp_path / "in" / "b", patient=" 7002 ")
    result = converted(tmp_path / "in")
    assert set(result.scans["subject"]) == {pseudonym("7001", KEY), pseudonym("7002", KEY)}
    other = import_dicom(tmp_path / "in", tmp_path / "other", key=KEY[::-1])
    assert not set(other.scans["subject"]) & set(result.scans["subject"])


def test_two_patients_of_one_id_are_found_by_their_birth_dates(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", PatientBirthDate="19670101")
    write_series(tmp_path / "in" / "c", patient="B", PatientBirthDate="")
    result = converted(tmp_path / "in")
    assert list(result.scans["subject"]) == [pseudonym("B", KEY)]
    assert len(reasons(result)) == 2
    assert "two birth dates" in reasons(result)[0]


def test_sessions_follow_the_dates_and_may_span_days(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_series(folder / "later", StudyDate="20220510", StudyInstanceUID="1.1")
    write_series(folder / "first", StudyDate="20210304", StudyInstanceUID="1.9")
    write_series(folder / "pet", StudyDate="20210320", StudyInstanceUID="1.5", modality="PT")
    write_series(folder / "ct", StudyDate="20200101", StudyInstanceUID="1.0", modality="CT")
    result = converted(folder)
    chosen = result.scans[["session", "modality", "age"]].values.tolist()
    assert chosen == [["ses-01", "T1w", "80"], ["ses-02", "FDG-PET", "80"], ["ses-03", "T1w", "81"]]
    assert len(result.notes) == 1
    assert result.notes[0].startswith("3 of 3 sessions have one modality only; if the scans of a visit were taken on")
    assert result.notes[0].endswith("raise --session-days")
    joined = converted(folder, config=DicomConfig(session_days=30, names={"T1w": "MRI", "FDG-PET": "PET"}))
    chosen = joined.scans[["session", "modality"]].values.tolist()
    assert chosen == [["ses-01", "MRI"], ["ses-01", "PET"], ["ses-02", "MRI"]]
    assert joined.scans["path"][0] == "{0}/ses-01/{0}_ses-01_MRI.nii.gz".format(pseudonym("PLANTID-77", KEY))


def test_the_table_of_patients_brings_the_diagnosis(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", patient="001")
    write_series(tmp_path / "in" / "b", patient="002")
    table = pd.DataFrame(
        {"patient_id": ["001", "", "003"], "diagnosis": ["AD", "", "CN"], "age": ["66", "", ""], "name": ["X", "", "Y"]}
    )
    result = converted(tmp_path / "in", patients=table, keep=("diagnosis", "age"))
    row = result.scans.iloc[0].to_dict()
    assert (row["subject"], row["diagnosis"], row["age"], row["sex"]) == (pseudonym("001", KEY), "AD", "66", "F")
    assert "name" not in row
    assert reasons(result) == ["the patient is not in the table of patients"]
    assert result.notes == ("1 of 2 patients in the table have no scan that can be used",)


@pytest.mark.parametrize(
    ("ids", "keep", "message"),
    [
        (["1", "2", "1"], ("diagnosis",), "has a patient twice: row 4"),
        (["1", "2", "3"], ("label",), r"lacks 'label'; it has \['patient_id', 'diagnosis'\]"),
        (["1", "2", "3"], ("patient_id",), "cannot give patient_id"),
    ],
)
def test_a_table_of_patients_that_cannot_be_used(
    tmp_path: Path, ids: list[str], keep: tuple[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=message):
        converted(tmp_path / "in", patients=pd.DataFrame({"patient_id": ids, "diagnosis": "AD"}), keep=keep)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="no such folder"):
        import_dicom(tmp_path / "in", tmp_path / "out", key=KEY)
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path, tmp_path / "in", tmp_path / "in" / "out", tmp_path / "link" / "out"):
        with pytest.raises(ScanError, match="lie in one another"):
            import_dicom(tmp_path / "in", out, key=KEY)


def test_an_empty_folder_gives_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = converted(tmp_path / "in")
    assert result.scans.empty
    assert list(result.scans)[:4] == ["subject", "session", "modality", "path"]
    assert result.left_out.empty


# --- nothing tells who it is ---


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Everything at once, with identifiers wherever DICOM and file systems have room for them."""
    folder = tmp_path / "Plantagenet Eleonöre 19410213"
    study = generate_uid()
    write_series(folder / "Plantagenet" / "t1", StudyInstanceUID=study, name="Plantagenet_{}".format)
    write_series(folder / "t1 again", StudyInstanceUID=study, SeriesDescription="t1 Plantagenet 19410213 sag")
    write_series(folder / "loc", StudyInstanceUID=study, SeriesDescription="localizer Plantagenet PLANTID-77")
    write_series(folder / "pet", modality="PT", StudyInstanceUID=study, frames=2, StudyDate="20210304")
    write_series(folder / "Plantagenet ct", modality="CT", SeriesDescription="Plantagenet")
    write_series(folder / "odd", patient="PLANTID-78", Modality="PLANTAGENET", ImageType=["PLANTAGENET", "DERIVED"])
    uid = "1.2.345678901"
    write_series(folder / "bad", modality="PT", patient="PLANTID-79", Units="PLANTAGENET", StudyInstanceUID=uid)
    for path in (folder / "bad").iterdir():  # a weight and a UID that are none: pydicom would quote them
        weight = b"\x10\x00\x30\x10DS\x02\x00"
        assert weight + b"74" in path.read_bytes()
        bad = path.read_bytes().replace(weight + b"74", weight + b"Pl").replace(uid.encode(), b"1.Plantagenet")
        path.write_bytes(bad)
    (folder / "Plantagenet.txt").write_text("Plantagenet")
    return folder


def test_nothing_that_comes_out_tells_who_it_is(
    export: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "_DERIVED", set())
    caplog.set_level(logging.DEBUG)
    before = fingerprint(export)
    result = import_dicom(export, tmp_path / "out", key=KEY)
    export_content = read_dicom_folder(export)
    assert fingerprint(export) == before
    assert sorted(result.scans["modality"]) == ["FDG-PET", "FDG-PET", "T1w"]
    everything = {
        "log": caplog.text,
        "printed": "".join(capfd.readouterr()),
        "repr": repr(export_content) + repr(result),
    }
    everything |= {"scans": result.scans.to_csv(), "left out": result.left_out.to_csv()}
    everything |= {
        "rest": f"{result.skipped} {result.notes}",
        "names": "\n".join(map(str, (tmp_path / "out").rglob("*"))),
    }
    everything["names"] = everything["names"].replace(str(tmp_path), "")
    content = {name: text.encode() for name, text in everything.items()}
    for path in (tmp_path / "out").rglob("*.*"):
        content[path.name] = path.read_bytes()
        content[f"{path.name}, unpacked"] = gzip.decompress(path.read_bytes())
    secrets = planted_words(export_content)
    assert len(content) == 7 + 2 * len(result.scans)
    assert [
        (word, source) for source, bytes_ in content.items() for word in secrets if word.lower() in bytes_.lower()
    ] == []


def planted_words(content: DicomFolder) -> set[bytes]:
    """All that must not come out, in UTF-8."""
    secrets = {
        "Plantagenet",
        "Eleon",
        "20210304",
        "2021-03-04",
        "1941-02-13",
        "101500",
        "10:15:00",
        "082500",
        "PLANTID",
    }
    secrets |= {word for value in PLANTED.values() for word in value.replace("^", " ").split()}
    secrets |= {uid for series in content.series for uid in (series.uid, series.study)}
    secrets |= {image.uid for series in content.series for image in series.images}
    return {word.encode() for word in secrets}


def fingerprint(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in paths)).hexdigest()


def test_the_search_for_identifiers_can_find_them(export: Path) -> None:
    """The test above would pass if the words were not in the export, or were looked for in the wrong form."""
    raw = b"".join(path.read_bytes() for path in export.rglob("*") if path.is_file()).lower()
    absent = {word for word in planted_words(read_dicom_folder(export)) if word.lower() not in raw}
    assert absent == {b"2021-03-04", b"1941-02-13", b"10:15:00"}


def test_headers_hold_geometry_and_nothing_else(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    volume = only_volume(converted(tmp_path / "in"), tmp_path / "in")
    texts = {name: bytes(volume.header[name]) for name in ("descrip", "aux_file", "db_name", "intent_name")}
    assert not any(text.strip(b"\0") for text in texts.values())
    assert len(volume.header.extensions) == 0
    stream = gzip.open(io.BytesIO((tmp_path / "out").rglob("*.gz").__next__().read_bytes()))
    assert stream.read(4) == (348).to_bytes(4, "little")
    assert (stream.mtime, getattr(stream, "name", "")) in [(0, ""), (0, None)]


def test_the_same_export_and_key_give_the_same_bytes(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "t1")
    write_series(tmp_path / "in" / "pet", modality="PT", frames=2)
    results = [import_dicom(tmp_path / "in", tmp_path / name, key=KEY) for name in ("one", "two")]
    pd.testing.assert_frame_equal(results[0].scans, results[1].scans)
    for path in results[0].scans["path"]:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_dcm2niix_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("intake.dicom.convert.dcm2niix", SimpleNamespace(bin=str(program)))
    monkeypatch.setattr("intake.dicom.convert.LONGEST_S", 0.2)
    write_series(tmp_path / "in")
    assert reasons(converted(tmp_path / "in")) == ["dcm2niix did not finish within 0.2 s"]


def test_the_command(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, key = tmp_path / "out", tmp_path / "secret.key"
    argv = ["dicom", str(export), str(out), "--name", "T1w=MRI", "--name", "FDG-PET=PET"]
    assert intake([*argv, "--key", str(out / "secret.key")]) == 2
    assert "lies inside of" in capsys.readouterr().err
    assert intake([*argv, "--key", str(key)]) == 0
    printed = capsys.readouterr()
    table = pd.read_csv(out / "manifest.csv")
    assert set(table["modality"]) <= {"MRI", "PET"}
    assert all((out / path).exists() for path in table["path"])
    assert len(pd.read_csv(out / "left_out.csv")) > 0
    assert "plantagenet" not in (printed.out + printed.err).lower()
    assert "plantid" not in (printed.out + printed.err).lower()
