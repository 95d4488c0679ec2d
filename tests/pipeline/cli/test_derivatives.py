"""The preprocessed scans of a run as BIDS derivatives."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.cli.derivatives import main
from pipeline.store.base import write_record
from pipeline.store.tables import CohortTables
from pipeline.store.volumes import VolumeSet

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def test_preprocessed_scans_become_derivatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables, volumes = CohortTables(tmp_path / "run" / "cohort"), VolumeSet(tmp_path / "run" / "preprocess")
    row = {"scan": "p1_MRI", "subject": "p1", "session": "", "observation": "p1", "modality": "MRI", "kind": "volume"}
    row |= {
        "skull_strip": "True",
        "normalise": "minmax",
        "trust": "",
        "bits": "",
        "path": "x",
        "label": "CN",
        "sha256": "",
    }
    tables.save(pd.DataFrame([row]), ("CN", "AD"))
    out = tmp_path / "derivatives"
    argv = [str(tmp_path / "run"), str(out), "--kind", "MRI=T1w"]
    assert main(argv) == 2
    assert "not finished" in capsys.readouterr().err
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[2:6, 2:6, 2:6] = True
    volumes.save_volume("p1_MRI", mask.astype(np.float32), mask, AFFINE, b"")
    volumes.finish("p1_MRI", "", {})
    made_from = {"settings": {"spacing_mm": 2.0}}
    write_record(
        volumes.folder / "manifest.json", {"scans": {"p1_MRI": "x"}, "made_from": made_from, "git_commit": "abc"}
    )
    assert main(argv) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert "sub-p1/anat/sub-p1_desc-preproc_T1w.nii.gz" in files
    assert "sub-p1/anat/sub-p1_desc-brain_mask.nii.gz" in files
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert main(argv) == 2
    assert "exists already" in capsys.readouterr().err
