"""Tables of others are read as text; rows that cannot be read are named."""

import contextlib
import pickle
import random
from pathlib import Path

import pandas as pd
import pytest

from cohort.tables import ManifestError, Problem, read_rows, read_table, suggest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "subject,path\n001,a b.nii\n"),
        ("a.csv", "\ufeffsubject,path\r\n001,a b.nii\r\n"),
        ("a.csv", "subject;path\n001;a b.nii\n"),
        ("a.csv", "subject\tpath\n001\ta b.nii\n"),
        ("a.tsv", "subject\tpath\n001\ta b.nii"),
        ("a.csv", ' subject , path,\n"001", "a b.nii",\n,,\n'),
    ],
)
def test_every_dialect_reads_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    expected = pd.DataFrame({"subject": ["001"], "path": ["a b.nii"]}, dtype=str)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), expected)


def test_cells_stay_text_and_blank_rows_keep_the_count(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('subject,age,site\n007,64.0,"Lyon, 3"\n\n,,\nNA,,\n1e3\n')
    table = read_table(tmp_path / "a.csv")
    assert table.to_numpy().tolist() == [["007", "64.0", "Lyon, 3"], ["NA", "", ""], ["1e3", "", ""]]
    assert list(table.index + 2) == [2, 5, 6]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("subject,path\n")
    table = read_table(tmp_path / "a.csv")
    assert list(table.columns) == ["subject", "path"]
    assert table.empty


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n \n", "is empty"),
        (b",,,\ns1,MRI,a.nii,AD\n", "no line of column names"),
        ("größe,café\n".encode("cp1252"), "not UTF-8 text.*CSV UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe", "not UTF-8 text"),
        (b"s\0u\0b\0", "is not text"),
        (b"a,b\n1,2,3\n1,2\n1,2,,4\n", "row 2: has 3 cells under 2 columns.*\n.*row 4: has 4 cells"),
        (b"a,b,a\n", "column 'a' is duplicated"),
        (b'a,b\n1,"2\n3,4\n', "row 2: quotation marks do not match"),
        (b'a,b\n1,2\n3,"4\n5,6\n"x"y,8\n', "row 3: quotation marks do not match.*row 5: quotation marks do not match"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=f"(?s){message}"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "text",
    [
        'id\tnote\ta\n1\t5"\t2\n3\t"left\t4\n5\t"right\t6\n',
        'id\tnote\ta\r\n1\t5"\t2\r\n3\t"left\t4\r\n"5"\t"""right"\t6',
    ],
)
def test_between_tabs_a_quotation_mark_is_text_and_a_line_is_a_row(tmp_path: Path, text: str) -> None:
    """BIDS has no quoting: two lone marks do not swallow the lines between them."""
    (tmp_path / "a.tsv").write_bytes(text.encode())
    assert read_table(tmp_path / "a.tsv").to_numpy().tolist() == [
        ["1", '5"', "2"],
        ["3", '"left', "4"],
        ["5", '"right', "6"],
    ]


def test_rows_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,2\n3,"4\n\n5,6,7\n8,"9, 9"\n')
    table, unreadable = read_rows(tmp_path / "a.csv")
    assert table.to_numpy().tolist() == [["1", "2"], ["8", "9, 9"]]
    assert list(table.index + 2) == [2, 6]
    assert [problem.row for problem in unreadable] == [3, 5]
    assert str(unreadable[1]).startswith("row 5: has 3 cells under 2 columns")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_any_text_is_a_table_or_a_named_failure(tmp_path: Path, name: str) -> None:
    dice, read = random.Random(0), 0
    for _ in range(300):
        pieces = ["a", "b1", "\t", ",", ";", '"', "\n", "\r", "\ufeff", " ", "'", "\0", "\udc80", "a,b\n", "a\tb\n"]
        text = "".join(dice.choices(pieces, k=dice.randint(0, 30)))
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        with contextlib.suppress(ManifestError):
            table, unreadable = read_rows(tmp_path / name)
            assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())
            assert not {problem.row for problem in unreadable} & set(table.index + 2)
            read += 1
    assert read > 30


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="a.csv: cannot be read: No such file"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(ManifestError, match="cannot be read: Is a directory"):
        read_table(tmp_path)


def test_the_error_survives_the_way_between_processes() -> None:
    problems = (Problem("one", "a number", 2), Problem("two", "a number", 3))
    again = pickle.loads(pickle.dumps(ManifestError(*problems)))
    assert again.problems == problems
    assert str(again) == "row 2: one\nrow 3: two"


def test_suggest() -> None:
    assert suggest("T1", []) == "(there is: nothing)"
    assert suggest("flair", ["FLAIR", "T1"]) == "(did you mean 'FLAIR'?)"
