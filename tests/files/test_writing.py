"""Files appear whole, beside no link, and tables read back as they were."""

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from files.reading import UnusableFileError
from files.tables import csv_safe, write_rows, write_table
from files.writing import (
    FOR_THE_GROUP,
    PRIVATE,
    PlantedLinkError,
    open_own,
    readable_by,
    real_folder,
    remove_folder,
    replacing,
)

NASTY = ["A\r/srv/other", "b\nc", 'd"e', "f,g", "\r\n", " h ", "", "i\r", "plain"]


def test_cells_with_any_end_of_line_come_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": NASTY, "b\r": NASTY[::-1]})
    write_table(tmp_path / "t.csv", frame)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["a", "b\r"], *zip_rows(frame)]
    again = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(again, frame)


def zip_rows(frame: pd.DataFrame) -> list[list[str]]:
    return [list(row) for row in frame.itertuples(index=False)]


def test_what_pandas_writes_is_not_changed_by_a_byte_where_no_carriage_return_is(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=9), "n": range(9), "t": [c.replace("\r", "") for c in NASTY]})
    frame.loc[3, "x"] = np.nan
    write_table(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_bytes() == frame.to_csv(index=False, lineterminator="\n").encode()


def test_rows_as_mappings(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", ("a", "b"), [{"a": "1\r2", "b": 3, "c": "left out"}])
    assert (tmp_path / "t.csv").read_bytes() == b'a,b\n"1\r2",3\n'


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "f") as partial:
        partial.write_text(f"half{1 / 0}")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "f").symlink_to(tmp_path / "precious")
    with replacing(tmp_path / "f") as partial:
        partial.write_text("new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "f").read_text() == "new"
    assert not (tmp_path / "f").is_symlink()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlantedLinkError, match="out"), replacing(tmp_path / "out" / "f") as partial:
        partial.write_text("x")
    with pytest.raises(PlantedLinkError, match="out"):
        real_folder(tmp_path / "out" / "inner", below=tmp_path)
    with pytest.raises(PlantedLinkError, match="out"):
        remove_folder(tmp_path / "out", below=tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../other", "a/b", ".", "", "/srv/other"])
def test_only_a_direct_child_is_deleted(tmp_path: Path, name: str) -> None:
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "mine" / "a" / "b").mkdir(parents=True)
    with pytest.raises(ValueError, match="nothing is deleted"):
        remove_folder(tmp_path / "mine" / name, below=tmp_path / "mine")
    assert (tmp_path / "mine" / "a" / "b").is_dir()
    assert (tmp_path / "other" / "a").is_dir()


def test_links_inside_a_deleted_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "f").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "precious")
    remove_folder(tmp_path / "mine", below=tmp_path)
    assert (tmp_path / "precious" / "f").exists()
    assert not (tmp_path / "mine").exists()


FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "-", "--1", "=")
NO_FORMULAS = ("", "a=1", "1-2", "'=1", "-1", "+1.5e-3", "-inf", "p01", " =1")


def test_what_a_spreadsheet_would_compute_gets_an_apostrophe() -> None:
    assert [csv_safe(cell) for cell in FORMULAS] == [f"'{cell}" for cell in FORMULAS]
    numbers = (-1, -0.5, None, True, float("-inf"))
    assert [csv_safe(cell) for cell in (*NO_FORMULAS, *numbers)] == [*NO_FORMULAS, *numbers]


def test_tables_for_spreadsheets(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=a": ["@x", "y"], "n": [-1, 2], "x": [-0.25, np.nan]})
    write_table(tmp_path / "t.csv", frame, for_spreadsheets=True)
    assert (tmp_path / "t.csv").read_text() == "'=a,n,x\n'@x,-1,-0.25\ny,2,\n"
    write_rows(tmp_path / "r.csv", ("a", "b"), [{"a": "=1", "b": -1}], for_spreadsheets=True)
    assert (tmp_path / "r.csv").read_text() == "a,b\n'=1,-1\n"


def test_a_file_that_grows_is_opened_where_it_lies_or_not_at_all(tmp_path: Path) -> None:
    for _ in range(2):
        with open_own(tmp_path / "log", "a") as stream:
            stream.write("é\n")
    assert (tmp_path / "log").read_text("utf-8") == "é\né\n"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for mode in ("a", "a+"):
        with pytest.raises(UnusableFileError, match="pipe"):
            open_own(tmp_path / "pipe", mode)
        for name in ("link", "zero"):
            with pytest.raises(PlantedLinkError, match="a link to elsewhere"):
                open_own(tmp_path / name, mode)
        with pytest.raises(IsADirectoryError):
            open_own(tmp_path, mode)
        with pytest.raises(UnusableFileError, match="device"):
            open_own(Path("/dev/null"), mode)
    assert not (tmp_path / "elsewhere").exists()


def test_rights_of_what_is_made_in_the_block(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for umask, name in ((PRIVATE, "private"), (FOR_THE_GROUP, "group")):
            with readable_by(umask):
                write_rows(tmp_path / name / "t.csv", ("a",), [])
        (tmp_path / "after").touch()
        modes = [p.stat().st_mode & 0o777 for n in ("private", "group") for p in (tmp_path / n, tmp_path / n / "t.csv")]
        assert modes == [0o700, 0o600, 0o750, 0o640]
        assert (tmp_path / "after").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
