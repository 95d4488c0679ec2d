"""The LGG Segmentation Dataset: a folder of its shape becomes volumes and manifests, and copies of FLAIR are found."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from cohort.manifest import CohortConfig, ModalityConfig, check_manifest
from cohort.tables import read_table
from intake.__main__ import main
from intake.lgg import COLUMNS, mean_difference
from preprocessing.errors import ScanError
from preprocessing.volumes import read_volume

HEADER = ["Patient", *COLUMNS]
SHAPE = (12, 14, 9)  # columns, rows, slices


def channels(seed: int, *, copied: tuple[int, ...] = (), alike: bool = False) -> NDArray[np.uint8]:
    """T1, FLAIR and T1c, (3, columns, rows, slices); those copied are FLAIR but for a little noise."""
    random = np.random.default_rng(seed)
    volume = random.integers(20, 250, (3, *SHAPE), np.uint8)
    if alike:
        volume[0] = random.integers(10, 30, SHAPE)
        volume[2] = volume[0] + random.integers(0, 5, SHAPE).astype(np.uint8)
    for channel in copied:
        volume[channel] = volume[1] + random.integers(0, 2, SHAPE).astype(np.uint8)
    return volume


def save_patient(root: Path, name: str, volume: NDArray[np.uint8]) -> Path:
    folder = root / "lgg-mri-segmentation" / "kaggle_3m" / name
    folder.mkdir(parents=True)
    for k in range(volume.shape[3]):
        Image.fromarray(volume[..., k].transpose(2, 1, 0)).save(folder / f"{name}_{k + 1}.tif")
        Image.fromarray(np.zeros(volume.shape[2:0:-1], np.uint8)).save(folder / f"{name}_{k + 1}_mask.tif")
    return folder


def save_table(root: Path, rows: dict[str, dict[str, str]]) -> None:
    usual = {"gender": "2", "neoplasm_histologic_grade": "1", "age_at_initial_pathologic": "40", "death01": "0"}
    frame = pd.DataFrame([{"Patient": name} | usual | row for name, row in rows.items()], columns=HEADER)
    frame.to_csv(root / "lgg-mri-segmentation" / "kaggle_3m" / "data.csv", index=False)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Six patients: whole, without T1 and T1c, without T1c, T1 like T1c, a lost slice, no slice."""
    root = tmp_path / "download"
    save_patient(root, "TCGA_CS_0001_19990101", channels(1))
    save_patient(root, "TCGA_CS_0002_19990101", channels(2, copied=(0, 2)))
    save_patient(root, "TCGA_DU_0003_19990101", channels(3, copied=(2,)))
    save_patient(root, "TCGA_DU_0004_19990101", channels(4, alike=True))
    (save_patient(root, "TCGA_HT_0005_19990101", channels(5)) / "TCGA_HT_0005_19990101_3.tif").unlink()
    damaged = save_patient(root, "TCGA_HT_0006_19990101", channels(6)) / "TCGA_HT_0006_19990101_2.tif"
    damaged.write_bytes(damaged.read_bytes()[:100])
    save_table(
        root,
        {
            "TCGA_CS_0001": {"gender": "1", "neoplasm_histologic_grade": "2", "MethylationCluster": "4"},
            "TCGA_CS_0002": {"gender": "9"},
            "TCGA_DU_0003": {"neoplasm_histologic_grade": "", "age_at_initial_pathologic": ""},
            "TCGA_DU_0004": {},
            "TCGA_ZZ_0007": {},
        },
    )
    return root


def test_the_download_becomes_volumes_and_manifests(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["lgg", str(download), str(out)]) == 0
    scans = pd.read_csv(out / "all.csv", dtype=str, keep_default_na=False).set_index(["subject", "modality"])
    assert sorted(scans.index) == sorted(
        [("TCGA_CS_0001", m) for m in ("T1", "FLAIR", "T1c")]
        + [("TCGA_CS_0002", "FLAIR"), ("TCGA_DU_0003", "T1"), ("TCGA_DU_0003", "FLAIR")]
        + [("TCGA_DU_0004", m) for m in ("T1", "FLAIR", "T1c")]
    )
    first = scans.loc[("TCGA_CS_0001", "T1")]
    assert dict(first[["sex", "grade", "age", "site", "methylation", "died"]]) == {
        "sex": "F", "grade": "G3", "age": "40", "site": "CS", "methylation": "4", "died": "0",
    }  # fmt: skip
    assert scans.loc[("TCGA_CS_0002", "FLAIR"), "sex"] == ""
    grades = pd.read_csv(out / "grade.csv", dtype=str)
    assert list(grades) == ["subject", "modality", "path", "grade", "age", "sex", "site"]
    assert set(grades["subject"]) == {"TCGA_CS_0001", "TCGA_CS_0002", "TCGA_DU_0004"}
    left_out = pd.read_csv(out / "left_out.csv", dtype=str, keep_default_na=False)
    assert sorted(zip(left_out["subject"], left_out["modality"], strict=True)) == [
        ("TCGA_CS_0002", "T1"), ("TCGA_CS_0002", "T1c"), ("TCGA_DU_0003", "T1c"), ("TCGA_HT_0005", ""),
        ("TCGA_HT_0006", ""),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "TCGA_HT_0005: slice 3 of 9 is missing" in said
    assert "TCGA_HT_0006: TCGA_HT_0006_19990101_2.tif: " in said
    assert "TCGA_CS_0002 T1c: not taken: the data set has FLAIR in its place" in said
    assert "TCGA_DU_0004: T1 and T1c differ by 2.0 grey levels of 255" in said
    assert "data.csv, row 3: gender is '9', none of 1, 2; left empty" in said
    assert "1 patients of data.csv have no folder: TCGA_ZZ_0007" in said
    assert "the files do not say how large voxels are" in said


def test_volumes_hold_the_slices_and_do_not_claim_a_place(download: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["lgg", str(download), str(out)])
    path = out / "volumes" / "TCGA_CS_0001_T1c.nii.gz"
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), channels(1)[2])
    with pytest.raises(ScanError, match="neither sform_code nor qform_code is set"):
        read_volume(path)
    facts = read_volume(path, trust="sform").meta["facts"]
    assert facts["orientation"] == "LPS"
    assert facts["voxel_mm"] == pytest.approx([0.9, 0.9, 140 / 9], abs=1e-3)
    assert facts["space_from"] == "trust: sform, though its code is 0"
    main(["lgg", str(download), str(out), "--voxel-mm", "1", "1.5", "4"])
    assert read_volume(path, trust="sform").meta["facts"]["voxel_mm"] == [1, 1.5, 4]


def test_the_manifest_is_one_that_the_pipeline_reads(download: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["lgg", str(download), str(out)])
    modalities = {name: ModalityConfig(trust="sform") for name in ("T1", "FLAIR", "T1c")}
    config = CohortConfig(modalities=modalities, label="grade")
    scans = check_manifest(read_table(out / "grade.csv"), folder=out, config=config, smallest_class=1)
    assert len(scans) == 7
    assert all(Path(path).exists() for path in scans["path"])


def test_a_label_of_another_table_gets_a_manifest(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", tmp_path / "idh.csv"
    table.write_text("patient_id,idh\nTCGA-CS-0001,mutant\ntcga-du-0003,wildtype\nTCGA-DU-0004,NA\n")
    assert main(["lgg", str(download), str(out), "--patients", str(table), "--keep", "idh"]) == 0
    found = pd.read_csv(out / "idh.csv").groupby("subject")["idh"].unique().map(list).to_dict()
    assert found == {"TCGA_CS_0001": ["mutant"], "TCGA_DU_0003": ["wildtype"]}
    assert "3 patients are not in the table of patients" in capsys.readouterr().out
    for argv, words in (
        (["--keep", "idh"], "give that, too, with --patients"),
        (["--patients", str(table), "--keep", "grade"], "cannot give grade"),
        (["--patients", str(table), "--keep", "codel"], "lacks 'codel'"),
        (["--voxel-mm", "1", "1", "0"], "expected three sizes"),
    ):
        assert main(["lgg", str(download), str(out), *argv]) == 2
        assert words in capsys.readouterr().err


def test_what_cannot_be_a_download_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path.with_name(f"{tmp_path.name}-out")
    assert main(["lgg", str(tmp_path), str(out)]) == 2
    assert "there is no data.csv" in capsys.readouterr().err
    folder = save_patient(tmp_path, "TCGA_CS_0001_19990101", channels(1)[..., :3])
    save_table(tmp_path, {"TCGA_CS_0001": {}})
    assert main(["lgg", str(tmp_path), str(out)]) == 2
    caught = capsys.readouterr()
    assert "no patient of" in caught.err
    assert "3 slices named TCGA_CS_0001_19990101_1.tif" in caught.out
    (folder.parent / "data.csv").write_text("Patient,Gender\nTCGA_CS_0001,1\n")
    assert main(["lgg", str(tmp_path), str(out)]) == 2
    assert "data.csv lacks" in capsys.readouterr().err


def test_nothing_is_written_into_the_download(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(download.rglob("*"))
    for out in (download, download / "out"):
        assert main(["lgg", str(download), str(out)]) == 2
        assert "is in the download" in capsys.readouterr().err
    assert sorted(download.rglob("*")) == before


def test_a_manifest_of_an_earlier_run_is_named(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "idh.csv"
    table.write_text("patient_id,idh\nTCGA-CS-0001,mutant\nTCGA-DU-0003,wildtype\n")
    words = ["lgg", str(download), str(tmp_path / "out")]
    assert main([*words, "--patients", str(table), "--keep", "idh"]) == 0
    assert "earlier run" not in capsys.readouterr().out
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("is of an earlier run, and was not written anew") == 1
    assert "out/idh.csv is of an earlier run" in said


def test_what_is_odd_is_named(download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = download / "lgg-mri-segmentation" / "kaggle_3m"
    elsewhere = save_patient(tmp_path / "elsewhere", "TCGA_FG_0008_19990101", channels(8))
    (place / elsewhere.name).symlink_to(elsewhere)
    twice = place / "TCGA_DU_0003_19990101" / "TCGA_DU_0003_19990101_1.tif"
    (twice.parent / "TCGA_DU_0003_19990101_01.tif").write_bytes(twice.read_bytes())
    table = pd.read_csv(place / "data.csv", dtype=str, keep_default_na=False)
    table.loc[4, "Patient"] = ""
    table.to_csv(place / "data.csv", index=False)
    assert main(["lgg", str(download), str(tmp_path / "out")]) == 0
    left_out = pd.read_csv(tmp_path / "out" / "left_out.csv", dtype=str).set_index("subject")["reason"]
    assert "a link to a folder" in left_out["TCGA_FG_0008"]
    assert "are both slice 1" in left_out["TCGA_DU_0003"]
    said = "".join(capsys.readouterr())
    assert "data.csv, row 6: it names no patient" in said
    assert "have no folder" not in said


def test_one_patient_in_two_spellings_is_refused(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_table(download, {"TCGA_CS_0001": {}, "TCGA-CS-0001": {"neoplasm_histologic_grade": "2"}})
    assert main(["lgg", str(download), str(tmp_path / "out")]) == 2
    assert "patients twice: TCGA_CS_0001" in capsys.readouterr().err


def test_a_table_of_other_patients_is_refused(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "idh.csv").write_text("patient_id,idh\n4711,mutant\n4712,wildtype\n")
    words = ["lgg", str(download), str(tmp_path / "out"), "--patients", str(tmp_path / "idh.csv"), "--keep", "idh"]
    assert main(words) == 2
    assert "ids there look like '4711', here like 'TCGA_CS_0001'" in capsys.readouterr().err


def test_grey_pictures_are_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_patient(tmp_path, "TCGA_CS_0001_19990101", channels(1, copied=(0, 2)))
    save_table(tmp_path, {"TCGA_CS_0001": {}})
    assert main(["lgg", str(tmp_path), f"{tmp_path}-out"]) == 0
    assert "are the pictures grey" in "".join(capsys.readouterr())


def test_a_copy_of_the_folder_is_used_once(download: Path, tmp_path: Path) -> None:
    """The archive holds kaggle_3m twice."""
    inner = download / "lgg-mri-segmentation" / "kaggle_3m"
    (download / "kaggle_3m").symlink_to(inner)  # not followed
    again = download / "more" / "TCGA_CS_0001_19990101"
    again.mkdir(parents=True)
    (download / "more" / "data.csv").write_bytes((inner / "data.csv").read_bytes())
    out = tmp_path / "out"
    assert main(["lgg", str(download), str(out)]) == 0
    left_out = pd.read_csv(out / "left_out.csv").set_index("path")
    assert "a second folder of this patient" in left_out.loc["more/TCGA_CS_0001_19990101", "reason"]


def test_the_difference_is_over_the_head_only() -> None:
    one, other = np.zeros((2, 10), np.uint8), np.zeros((2, 10), np.uint8)
    one[0], other[0], other[1] = 100, 110, 5  # the second row is air
    assert mean_difference(one, other) == (10, pytest.approx(10 / 105))
    assert mean_difference(one * 0, other * 0) == (0, 0)
