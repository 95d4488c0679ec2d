"""A folder of BreakHis on the command line: endings in capitals, files of no use, and nothing at all."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY

SLIDES = [f"{kind}{number}" for kind in ("B_A-14-100", "M_DC-14-200") for number in (1, 2, 3, 4)]


def run(folder: Path, *words: str) -> int:
    place = ["--config", str(REPOSITORY / "configs" / "breakhis.yaml"), "--cohort", str(folder / "in")]
    return main([*place, "--workspace", str(folder / "run"), "--quiet", "--stages", "cohort", *words])


def test_pictures_in_capitals_are_used_and_all_other_files_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, slide in enumerate(SLIDES):
        place = tmp_path / "in" / slide / "40X"
        place.mkdir(parents=True)
        (place / f"SOB_{slide}-40-001.{'PNG' if number % 2 else 'png'}").write_text(slide)
    for name in ("one.png", "two.png", "._SOB_B_A-14-1001-40-001.png", "SOB_B_A-14-1001-40-001.jpg", "a.csv"):
        (tmp_path / "in" / name).write_text(name)
    assert run(tmp_path) == 0
    assert len(pd.read_csv(tmp_path / "run" / "cohort" / "scans.csv")) == len(SLIDES)
    said = " ".join(capsys.readouterr().out.split())
    for note in (
        "2 files left out: not a BreakHis name; expected one such as SOB_B_A-14-22549AB-40-001.png: one.png, two.png",
        "._SOB_B_A-14-1001-40-001.png left out: a companion file of macOS",
        "left out: a second copy: the same picture as",
        "a.csv left out: not a picture",
    ):
        assert note in said
    assert run(tmp_path, "--cohort.balanced", "[3, 3]") == 0
    notes = json.dumps(json.loads((tmp_path / "run" / "cohort" / "manifest.json").read_text()))
    assert "cohort.balanced: 2 of 8 pictures are not taken" in notes


@pytest.mark.parametrize("names", [(), ("one.png", "Thumbs.db")])
def test_a_folder_of_no_use_is_bad_input(
    tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).touch()
    assert run(tmp_path) == 2
    said = capsys.readouterr().err
    assert f"none of the {len(names)} files in it is a picture of BreakHis" in said
    assert all(name in said for name in names)
