"""The report's quality control: every preprocessed scan in qc.csv, pictures of the worst in one convention."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.specs.report import ReportConfig
from pipeline.stages.report import patients_to_look_at, qc_pictures, quality_of_scans
from pipeline.store.base import write_record
from pipeline.store.report_page import ReportPage
from pipeline.store.volumes import VolumeSet
from preprocessing.encoding import png_bytes
from preprocessing.qc import mirrored, three_planes

SHAPE = (8, 9, 10)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> VolumeSet:
    """a and b as usual, c with a remark, d a picture, e failed."""
    out = VolumeSet(tmp_path_factory.mktemp("run") / "preprocess")
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    for number, scan in enumerate("abc"):
        volume = np.random.default_rng(number).random(SHAPE, np.float32)
        out.save_volume(scan, volume, mask, np.eye(4), png_bytes(three_planes(volume, mask, (1.0, 1.0, 1.0))))
        facts = {"kind": "volume", "orientation": "RAS", "brain_ml": 1400 + number, "remarks": ["odd"] * (scan == "c")}
        out.finish(scan, scan, facts)
    out.save_picture("d", png_bytes(np.random.default_rng(9).integers(0, 255, (20, 30, 3), np.uint8)))
    out.finish("d", "d", {"kind": "image", "pixels": (20, 30)})
    out.fail("e", "e", "damaged", retryable=False)
    write_record(out.folder / "manifest.json", {"made_from": {}, "files": {}, "scans": dict.fromkeys("abcd", "")})
    return out


@pytest.fixture(scope="module")
def quality(volumes: VolumeSet) -> pd.DataFrame:
    scans = pd.DataFrame({"scan": list("abcde"), "subject": "s", "modality": ["MRI"] * 3 + ["40X", "MRI"]})
    return quality_of_scans(scans.assign(kind=["volume"] * 3 + ["image", "volume"]), volumes)


def test_every_scan_that_was_preprocessed_is_told_of_the_worst_first(quality: pd.DataFrame) -> None:
    assert list(quality["scan"]) == ["c", "a", "b", "d"]
    assert list(quality["orientation"]) == ["RAS"] * 3 + [""]


@pytest.mark.parametrize("convention", ["radiological", "neurological"])
def test_pictures_are_of_the_worst_in_the_convention_and_2d_pictures_stay(
    convention: str, volumes: VolumeSet, quality: pd.DataFrame
) -> None:
    config = ReportConfig(qc_pictures=2, convention=convention)
    assert [scan for scan, _ in qc_pictures(quality, volumes, config)] == ["c", "a"]
    shown = dict(qc_pictures(quality, volumes, ReportConfig(convention=convention)))
    assert list(shown) == ["c", "a", "b", "d"]
    for scan, png in shown.items():
        stored = volumes.folder_of(scan) / ("picture.png" if scan == "d" else "qc.png")
        if scan == "d" or convention == "radiological":
            assert png == stored.read_bytes()
        else:
            pixels = [np.asarray(Image.open(io.BytesIO(content))) for content in (png, stored.read_bytes())]
            np.testing.assert_array_equal(pixels[0], mirrored(pixels[1]))


@pytest.mark.parametrize(("safe", "written"), [(False, "=1+1"), (True, "'=1+1")])
def test_qc_csv_can_be_made_safe_for_spreadsheets(
    safe: bool, written: str, tmp_path: Path, quality: pd.DataFrame
) -> None:
    page = ReportPage(tmp_path / "report")
    page.save_quality(quality.assign(subject="=1+1"), csv_safe=safe)
    read = pd.read_csv(page.folder / "qc.csv")
    assert list(read["subject"]) == [written] * 4
    assert "qc.csv" in ReportPage.FILES


@pytest.mark.parametrize("viewer", [True, False])
def test_patients_to_look_at_come_with_pictures_and_slices(viewer: bool, tmp_path: Path, volumes: VolumeSet) -> None:
    row = {"repeat": 1, "subject": "s", "observation": "s", "truth": 0, "scans_used": "a;d;e", "p_0": 0.1, "p_1": 0.9}
    modality = pd.Series({"a": "MRI", "d": "40X", "e": "MRI"})
    page = ReportPage(tmp_path / "report")
    page.remove_viewers()
    config = ReportConfig(patients=1, viewer=viewer)
    (patient,) = patients_to_look_at(pd.DataFrame([row]), modality, volumes, page, config)
    assert patient.kind == "wrong"
    a, d, e = patient.scans
    assert (a.modality, a.png) == ("MRI", volumes.qc_picture("a"))
    assert (d.png, d.link) == (volumes.qc_picture("d"), "")  # a picture has no slices
    assert (e.png, e.link) == (None, "")  # it failed
    assert a.link == ("viewer/a.html" if viewer else "")
    assert (page.folder / "viewer" / "a.html").exists() == viewer
    if viewer:
        assert 'data-shape="8 9 10"' in (page.folder / a.link).read_text()
        assert 'href="../report.html#patients"' in (page.folder / a.link).read_text()
        page.remove_viewers()
        assert not (page.folder / "viewer").exists()
