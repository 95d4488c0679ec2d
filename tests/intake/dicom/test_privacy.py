"""Nothing that comes out tells who it is."""

import gzip
import hashlib
import io
import logging
from pathlib import Path

import pandas as pd
import pytest
from helpers import dicom_series as made
from helpers.dicom_series import converted, only_volume, write_series
from pydicom.uid import generate_uid

from intake.__main__ import main as intake
from intake.dicom import selection
from intake.dicom.convert import import_dicom
from intake.dicom.series import DicomFolder, read_dicom_folder


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
    result = import_dicom(export, tmp_path / "out", key=made.KEY)
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
    secrets |= {word for value in made.PLANTED.values() for word in value.replace("^", " ").split()}
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
    results = [import_dicom(tmp_path / "in", tmp_path / name, key=made.KEY) for name in ("one", "two")]
    pd.testing.assert_frame_equal(results[0].scans, results[1].scans)
    for path in results[0].scans["path"]:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


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
