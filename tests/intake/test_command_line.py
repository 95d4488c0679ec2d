"""BIDS in and out through the command."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.dicom_series import write_series

from intake.__main__ import main
from intake.pseudonyms import pseudonym

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def test_a_bids_data_set_becomes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data set"
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tCN\nsub-02\tAD\n")
    manifest = tmp_path / "manifest.csv"
    assert main(["bids", str(root), str(manifest), "--name", "T1w=MRI"]) == 0
    table = pd.read_csv(manifest)
    assert table[["subject", "modality", "diagnosis"]].to_numpy().tolist() == [
        ["sub-01", "MRI", "CN"],
        ["sub-02", "MRI", "AD"],
    ]
    assert all(Path(path).exists() for path in table["path"])
    assert "2 scans" in capsys.readouterr().out
    assert main(["bids", str(root), str(manifest), "--name", "T1w"]) == 2
    assert "expected pairs such as T1w=MRI" in capsys.readouterr().err


def test_a_bids_data_set_of_which_nothing_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "d"
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz").touch()
    (root / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tNA\n")
    assert main(["bids", str(root), str(tmp_path / "manifest.csv")]) == 2
    said = capsys.readouterr()
    assert "left out: sub-01 sub-01/anat/sub-01_T1w.nii.gz: diagnosis is missing ('NA')" in said.out
    assert f"no scan of {root} can be used; {tmp_path}/manifest.csv is not written" in said.err
    assert not (tmp_path / "manifest.csv").exists()
    (root / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tnone\n")
    assert main(["bids", str(root), str(tmp_path / "manifest.csv"), "--not-missing", "none"]) == 0


def test_a_table_of_patients_that_lost_zeros_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "export", patient="0012345")
    (tmp_path / "patients.csv").write_text("patient_id,diagnosis\n12345,AD\n")
    argv = ["dicom", str(tmp_path / "export"), str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert main([*argv, "--patients", str(tmp_path / "patients.csv"), "--keep", "diagnosis"]) == 2
    said = capsys.readouterr().err
    assert "not one of the 1 patients of the table is among the 1 of the export" in said
    assert "only in zeros in front (row 2)" in said
    assert "12345" not in said


def test_no_pseudonym_for_what_is_no_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    (tmp_path / "key").chmod(0o600)
    for word, what in (("nan", "stands for no value"), ("1.2E+05", "a number that a spreadsheet has shortened")):
        assert main(["pseudonym", word, "--key", str(tmp_path / "key")]) == 2
        assert what in capsys.readouterr().err


def test_who_has_the_key_finds_a_patient_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    assert main(["pseudonym", "H-4711", "--key", str(key)]) == 2
    assert "there is no key file" in capsys.readouterr().err
    key.write_text("ab" * 32 + "\n")
    key.chmod(0o600)
    assert main(["pseudonym", "H-4711", "H-4712", "--key", str(key)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed == {name: pseudonym(name, bytes.fromhex("ab" * 32)) for name in ("H-4711", "H-4712")}


def test_a_name_for_a_series_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "export").mkdir()
    argv = ["dicom", str(tmp_path / "export"), str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert main([*argv, "--name", "T1=MRI"]) == 2
    assert "no series is called T1; did you mean T1w?" in capsys.readouterr().err
    assert not (tmp_path / "key").exists()
