import contextlib
import os
import pickle
import random
import re
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from cohort.manifest import (
    CohortConfig,
    ModalityConfig,
    check_manifest,
    class_names,
    observations,
    reading_notes,
    usable_rows,
)
from cohort.tables import ManifestError, Problem, read_rows, read_table, suggest

MODALITIES = {"MRI": ModalityConfig(), "PET": ModalityConfig(), "H&E 40×": ModalityConfig(kind="image")}


def rows_of(*rows: str, header: str = "subject,modality,path,diagnosis") -> pd.DataFrame:
    return pd.DataFrame([row.split(",") for row in rows], columns=header.split(","), dtype=str)


@pytest.fixture
def cohort(tmp_path: Path) -> pd.DataFrame:
    """Six subjects, MRI and PET each, two classes; the files exist."""
    return on_disk(
        tmp_path,
        rows_of(*(f"s{i},{m},s{i}_{m}.nii.gz,{'AD' if i < 3 else 'CN'}" for i in range(6) for m in ("MRI", "PET"))),
    )


def on_disk(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    for path in table["path"]:
        if path.strip():
            (folder / path.strip()).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.strip()).touch()
    return table


def check(table: pd.DataFrame, folder: Path, *, smallest_class: int = 1, **config: object) -> pd.DataFrame:
    return check_manifest(
        table, folder=folder, config=CohortConfig(modalities=MODALITIES, **config), smallest_class=smallest_class
    )


def problems(table: pd.DataFrame, folder: Path, **config: object) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        check(table, folder, **config)
    return tuple(map(str, caught.value.problems))


# --- reading ---------------------------------------------------------------------------------------------------------


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


# --- a manifest that is right ----------------------------------------------------------------------------------------


def test_scans_table(cohort: pd.DataFrame, tmp_path: Path) -> None:
    scans = check(cohort.assign(site="Nice", age="70", shoe="43"), tmp_path, smallest_class=3, positive="AD")
    columns = "scan subject session observation modality kind path label age site split row"
    assert list(scans.columns) == columns.split()
    assert scans.iloc[3].to_dict() == {
        "scan": "s1_PET", "subject": "s1", "session": "", "observation": "s1", "modality": "PET", "kind": "volume",
        "path": str(tmp_path / "s1_PET.nii.gz"), "label": "AD", "age": "70", "site": "Nice", "split": "", "row": 5,
    }  # fmt: skip
    assert list(scans["row"]) == list(range(2, 14))


def test_rows_follow_the_manifest_and_its_blank_lines(cohort: pd.DataFrame, tmp_path: Path) -> None:
    shuffled = cohort.sample(frac=1, random_state=0)  # the index is where each row stood in the file
    scans = check(shuffled, tmp_path)
    assert list(scans["row"]) == list(shuffled.index + 2)
    assert list(scans["subject"]) == list(shuffled["subject"])
    assert list(scans.index) == list(range(12))


def test_without_a_label_column_nothing_is_learnt_and_files_may_lack(cohort: pd.DataFrame, tmp_path: Path) -> None:
    """A night of predictions: no class is known, one class is enough, a scan that is gone does not stop the others."""
    (tmp_path / "s1_PET.nii.gz").unlink()
    worklist = cohort.drop(columns="diagnosis")
    scans = check(worklist, tmp_path, smallest_class=3, label=None)
    assert set(scans["label"]) == {""}
    assert class_names(scans["label"], None) == ()
    expected = check(on_disk(tmp_path, cohort), tmp_path)
    pd.testing.assert_frame_equal(scans.drop(columns="label"), expected.drop(columns="label"))
    pd.testing.assert_frame_equal(check(cohort, tmp_path, label=None), scans)  # a column of that name is not read
    assert problems(worklist.assign(modality="CT"), tmp_path, label=None)


def test_spaces_around_cells_and_header_do_not_matter(cohort: pd.DataFrame, tmp_path: Path) -> None:
    spaced = cohort.map(lambda cell: f" {cell}\u00a0").rename(columns=lambda name: f" {name} ")
    pd.testing.assert_frame_equal(check(spaced, tmp_path), check(cohort, tmp_path))


def test_a_name_typed_on_a_mac_is_the_same_subject(tmp_path: Path) -> None:
    one, other = unicodedata.normalize("NFC", "José"), unicodedata.normalize("NFD", "José")
    table = on_disk(tmp_path, rows_of(f"{one},MRI,1,AD", f"{other},PET,2,AD", "b,MRI,3,CN"))
    assert observations(check(table, tmp_path))["subject"].tolist() == [one, "b"]


def test_sessions_and_several_scans_of_a_modality(tmp_path: Path) -> None:
    table = on_disk(
        tmp_path,
        rows_of(
            "a,bl,MRI,1,MCI,62", "a,bl,MRI,2,MCI,62", "a,m12,MRI,3,AD,63", "b,,PET,4,CN,", "c,,H&E 40×,5,CN,",
            header="subject,session,modality,path,group,age",
        ),
    )  # fmt: skip
    scans = check(table, tmp_path, label="group", smallest_class=0)
    assert scans["scan"].tolist()[:4] == ["a_bl_MRI", "a_bl_MRI_2", "a_m12_MRI", "b_PET"]
    assert re.fullmatch("c_H_E_40_-[0-9a-f]{12}", scans["scan"][4])
    assert scans["kind"].tolist() == ["volume"] * 4 + ["image"]
    seen = observations(scans)
    assert list(seen.columns) == ["observation", "subject", "session", "label", "age", "split"]
    assert seen.to_numpy().tolist() == [
        ["a_bl", "a", "bl", "MCI", "62", ""],
        ["a_m12", "a", "m12", "AD", "63", ""],
        ["b", "b", "", "CN", "", ""],
        ["c", "c", "", "CN", "", ""],
    ]


def test_ids_are_unique_and_file_names_whatever_the_subjects_are_called(tmp_path: Path) -> None:
    subjects = [
        "a b",
        "a/b",
        "a&b",
        "é",
        "è",
        "病人",
        "患者",
        "-rf",
        "..",
        "a/b MRI",
        "x" * 300,
        "x" * 301,
    ]
    sessions = ["", "1", "b", "MRI"]
    lines = [
        f"{name},{session},{modality}" for name in [*subjects, "a"] for session in sessions for modality in MODALITIES
    ]
    table = rows_of(*(f"{line},{i},{'AD' if i % 2 else 'CN'}" for i, line in enumerate(2 * lines)),
                    header="subject,session,modality,path,diagnosis")  # fmt: skip
    table["diagnosis"] = ["AD" if row.startswith("a") else "CN" for row in table["subject"]]
    scans = check(on_disk(tmp_path, table), tmp_path)
    assert scans["scan"].str.lower().is_unique
    assert scans["scan"].str.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]*").all()
    assert scans["scan"].str.len().max() < 130
    per_observation = scans.groupby("observation")[["subject", "session"]].nunique()
    assert (per_observation == 1).all(axis=None)
    assert len(per_observation) == len(subjects + ["a"]) * len(sessions)
    assert len(observations(scans)) == len(per_observation)


def test_ids_that_would_read_the_same_are_told_apart(tmp_path: Path) -> None:
    rows = ("a_1,b,MRI,1,AD", "a,1_b,MRI,2,AD", "a2,b,MRI,3,AD", "a,2b,MRI,4,CN", "a,2b,MRI,5,CN")
    scans = check(on_disk(tmp_path, rows_of(*rows, header="subject,session,modality,path,diagnosis")), tmp_path)
    assert scans["observation"].nunique() == 4
    assert scans["observation"].tolist()[2:] == ["a2_b", "a_2b", "a_2b"]
    assert all(re.fullmatch("a_1_b-[0-9a-f]{12}", name) for name in scans["observation"][:2])
    assert scans["scan"].tolist()[2:] == ["a2_b_MRI", "a_2b_MRI", "a_2b_MRI_2"]


def test_ids_do_not_change_when_other_patients_join(cohort: pd.DataFrame, tmp_path: Path) -> None:
    before = check(cohort, tmp_path)
    joined = pd.concat([on_disk(tmp_path, rows_of("új páciens,MRI,n.nii,CN")), cohort], ignore_index=True)
    assert check(joined, tmp_path)["scan"].tolist()[1:] == before["scan"].tolist()


def test_split_is_read_in_any_spelling(cohort: pd.DataFrame, tmp_path: Path) -> None:
    given = {"s0": "train", "s1": "Val", "s2": "TEST", "s3": "train", "s4": "valid", "s5": "test"}
    splits = check(cohort.assign(split=cohort["subject"].map(given)), tmp_path)["split"]
    assert splits.tolist()[::2] == ["train", "validation", "test", "train", "validation", "test"]


@pytest.mark.parametrize(
    ("labels", "positive", "names"),
    [
        (["b", "a", "b"], None, ("a", "b")),
        (["CN", "AD"], "AD", ("CN", "AD")),
        (["CN", "AD"], "CN", ("AD", "CN")),
        (["c", "b", "a"], "a", ("a", "b", "c")),
    ],
)
def test_class_names(labels: list[str], positive: str | None, names: tuple[str, ...]) -> None:
    assert class_names(labels, positive) == names


# --- a manifest that is wrong ----------------------------------------------------------------------------------------


def test_missing_columns_are_named_with_what_was_meant(cohort: pd.DataFrame, tmp_path: Path) -> None:
    renamed = cohort.rename(columns={"subject": "Subject", "path": "paths", "diagnosis": "dx"})
    assert problems(renamed, tmp_path) == (
        "column 'subject' is missing (did you mean 'Subject'?)",
        "column 'path' is missing (did you mean 'paths'?)",
        "column 'diagnosis' is missing (there is: Subject, dx, modality, paths)",
    )


def test_no_scans(tmp_path: Path) -> None:
    assert problems(rows_of(header="subject,modality,path,diagnosis"), tmp_path) == (
        "there are no scans below the header",
    )


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (0, "subject", " ", "row 2: subject is empty"),
        (1, "path", "", "row 3: path is empty"),
        (2, "modality", "", "row 4: modality is empty"),
        (3, "diagnosis", "", "row 5: diagnosis is empty"),
        (4, "modality", "mri", r"row 6: modality 'mri' is unknown \(did you mean 'MRI'\?\)"),
        (4, "modality", "PTE", r"row 6: modality 'PTE' is unknown \(did you mean 'PET'\?\)"),
        (4, "modality", "CT", r"row 6: modality 'CT' is unknown \(there is: H&E 40×, MRI, PET\)"),
        (5, "path", "no{w}here.nii", r"row 7: there is no file /.*/no\{w\}here.nii"),
        (5, "path", ".", "row 7: /.* is a folder, not a file"),
        (5, "path", "x" * 300, "row 7: there is no file"),
        (6, "path", "s0_MRI.nii.gz", "row 8: /.*s0_MRI.nii.gz is used in row 2 already"),
        (6, "diagnosis", "AD", r"s3: label is 'AD' \(row 8\) and 'CN' \(row 9\)"),
    ],
)
def test_one_wrong_cell_is_one_problem(
    cohort: pd.DataFrame, tmp_path: Path, row: int, column: str, value: str, message: str
) -> None:
    cohort.loc[row, column] = value
    (listed,) = problems(cohort, tmp_path)
    assert re.fullmatch(message, listed) or listed.startswith(message)


def test_everything_wrong_is_reported_at_once(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[0, "subject"] = ""
    cohort.loc[1, "modality"] = "pet"
    cohort.loc[2, "path"] = "gone.nii"
    with pytest.raises(
        ManifestError, match="(?s)row 2: subject.*row 3: modality.*row 4: there is no file.*positive: no lab"
    ):
        check(cohort, tmp_path, positive="ad")


def test_a_long_list_is_cut_and_counted(cohort: pd.DataFrame, tmp_path: Path) -> None:
    many = pd.concat([cohort] * 4, ignore_index=True)
    many["path"] = [f"gone{i}" for i in range(len(many))]
    listed = problems(many, tmp_path)
    assert len(listed) == 21
    assert listed[20] == "… and 28 more like this"


def test_a_repeated_row_and_a_link_to_a_used_file(cohort: pd.DataFrame, tmp_path: Path) -> None:
    os.symlink(tmp_path / "s1_PET.nii.gz", tmp_path / "link.nii.gz")
    more = rows_of("s0,MRI,./s0_MRI.nii.gz,AD", "s0,MRI,link.nii.gz,AD")
    listed = problems(pd.concat([cohort, more], ignore_index=True), tmp_path)
    assert listed == ("row 14: repeats row 2", f"row 15: {tmp_path}/link.nii.gz is used in row 5 already")


def test_labels_that_differ_only_in_case_or_spaces(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[[0, 1], "diagnosis"] = "ad"
    cohort.loc[[10, 11], "diagnosis"] = "C N"
    assert problems(cohort, tmp_path) == (
        "labels 'AD' (row 4) and 'ad' (row 2) differ only in case or spaces; use one spelling",
        "labels 'C N' (row 12) and 'CN' (row 8) differ only in case or spaces; use one spelling",
    )


def test_classes_too_few_or_too_small(cohort: pd.DataFrame, tmp_path: Path) -> None:
    assert problems(cohort.assign(diagnosis="AD"), tmp_path) == (
        "there is only one class, 'AD'; a classifier needs two",
    )
    assert problems(cohort[:10], tmp_path, smallest_class=3) == (
        "class 'CN' has too few subjects: 2 found (by their last session), 3 needed",
    )


def test_a_class_of_former_sessions_only_has_no_subjects(cohort: pd.DataFrame, tmp_path: Path) -> None:
    later = on_disk(tmp_path, cohort[:2].assign(session="ses-10", path=["x", "y"]))
    first = cohort.assign(session="ses-2")
    first.loc[[0, 1], "diagnosis"] = "MCI"
    (listed,) = problems(pd.concat([later, first], ignore_index=True), tmp_path)
    assert listed == "class 'MCI' has too few subjects: 0 found (by their last session), 1 needed"


def test_positive_must_be_a_label(cohort: pd.DataFrame, tmp_path: Path) -> None:
    assert problems(cohort, tmp_path, positive="cn") == ("positive: no label is 'cn' (did you mean 'CN'?)",)


def test_no_scan_leaves_the_data_root(cohort: pd.DataFrame, tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = on_disk(root, cohort.copy())
    assert len(check(inside, root, data_root=root)) == 12
    inside.loc[0, "path"] = "../s0_MRI.nii.gz"
    on_disk(tmp_path, cohort)
    (root / "s0_PET.nii.gz").unlink()
    (root / "s0_PET.nii.gz").symlink_to(tmp_path / "s0_PET.nii.gz")
    listed = problems(inside, root, data_root=root)
    assert [line.split(":")[0] for line in listed] == ["row 2", "row 3"]
    assert all(line.endswith(f"lies outside of data_root {root}") for line in listed)


def test_split_column(cohort: pd.DataFrame, tmp_path: Path) -> None:
    splits = {"s0": "train", "s1": "validation", "s2": "test", "s3": "train", "s4": "validation", "s5": "test"}
    split = cohort.assign(split=cohort["subject"].map(splits))
    assert problems(split.assign(split=split["split"].replace("test", "tset")), tmp_path)[0] == (
        "row 6: split 'tset' is unknown (did you mean 'test'?)"
    )
    apart = split.copy()
    apart.loc[1, ["split", "session"]] = ["test", "m12"]
    assert problems(apart.fillna(""), tmp_path)[0] == "s0: split is 'train' (row 2) and 'test' (row 3)"
    partly = split.assign(split=split["split"].where(split["subject"] != "s5", ""))
    assert problems(partly, tmp_path) == ("split is given for 5 subjects, not for 's5'; give it for all or none",)


# --- small things ----------------------------------------------------------------------------------------------------


def test_suggest() -> None:
    assert suggest("T1", []) == "(there is: nothing)"
    assert suggest("flair", ["FLAIR", "T1"]) == "(did you mean 'FLAIR'?)"


def test_configs_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="lable"):
        CohortConfig(modalities=MODALITIES, lable="diagnosis")
    with pytest.raises(ValidationError, match="kind"):
        ModalityConfig(kind="picture")
    with pytest.raises(ValidationError, match="frozen"):
        ModalityConfig().kind = "image"


# --- one name in two spellings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("S0", "case or spaces"),
        ("s 0", "case or spaces"),
        ("s00", "zeros in front"),
        ("s0.0", "a trailing .0"),
        ("s-0", "dashes or underscores"),
        ("\N{FULLWIDTH LATIN SMALL LETTER S}0", "characters that look alike"),
        ("s\N{ZERO WIDTH SPACE}0", "characters that look alike"),
        ("\N{CYRILLIC SMALL LETTER DZE}0", "characters that look alike"),
        ("sub-s0", "how they are written"),
    ],
)
def test_a_subject_in_two_spellings_is_refused_with_both_rows(
    cohort: pd.DataFrame, tmp_path: Path, other: str, what: str
) -> None:
    cohort.loc[1, "subject"] = other
    first, second = sorted([("s0", 2), (other, 3)])
    assert problems(cohort, tmp_path) == (
        f"subjects {first[0]!r} (row {first[1]}) and {second[0]!r} (row {second[1]}) differ only in {what}; use one "
        "spelling, or, for two people, ids that differ in more",
    )


@pytest.mark.parametrize(("one", "other"), [("S-1-1", "S-11"), ("P1", "P10"), ("1.1", "1.10")])
def test_subjects_that_differ_in_more_are_two(cohort: pd.DataFrame, tmp_path: Path, one: str, other: str) -> None:
    cohort.loc[0, "subject"], cohort.loc[1, "subject"] = one, other
    assert check(cohort, tmp_path)["subject"].tolist()[:2] == [one, other]


def test_sessions_are_compared_within_a_person(cohort: pd.DataFrame, tmp_path: Path) -> None:
    sessions = cohort.assign(session=["ses-1", "ses-1"] * 6)
    sessions.loc[3, "session"] = "ses-01"
    assert problems(sessions, tmp_path) == (
        "sessions 'ses-01' (row 5) and 'ses-1' (row 4) differ only in zeros in front; use one spelling",
    )
    sessions.loc[3, "session"] = "ses-1"
    sessions.loc[[4, 5], "session"] = "ses-01"  # another person, whose visits are all written so
    assert len(check(sessions, tmp_path)) == 12


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (("1", "1.0"), "a trailing .0"),
        (("1", "01"), "zeros in front"),
        (("0.5", "0,5"), "how they are written"),
        (("early AD", "early-AD"), "case or spaces, dashes or underscores"),
        (("AD", "\N{CYRILLIC CAPITAL LETTER A}D"), "characters that look alike"),
        (('"AD', "AD"), "characters that look alike"),
    ],
)
def test_a_class_in_two_spellings_is_refused_with_both_rows(
    cohort: pd.DataFrame, tmp_path: Path, labels: tuple[str, str], kind: str
) -> None:
    cohort["diagnosis"] = [labels[0]] * 2 + [labels[1]] * 4 + ["2"] * 6
    (listed,) = problems(cohort, tmp_path)
    rows = dict(zip(labels, (2, 4), strict=True))
    each = " and ".join(f"{name!r} (row {rows[name]})" for name in sorted(labels))
    assert listed.startswith(f"labels {each} differ only in {kind}")


def test_numbers_written_in_two_ways_are_no_four_classes(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort["diagnosis"] = ["1", "1", "1.0", "1.0", "1", "1", "0", "0", "0.0", "0.0", "0", "0"]
    assert problems(cohort, tmp_path) == (
        "labels '1' (row 2) and '1.0' (row 4) differ only in a trailing .0; use one spelling",
        "labels '0' (row 8) and '0.0' (row 10) differ only in a trailing .0; use one spelling",
    )
    assert len(check(cohort.assign(diagnosis=["-1"] * 6 + ["1"] * 6), tmp_path)) == 12


def test_a_site_in_two_spellings_is_refused_and_in_two_forms_of_unicode_is_one(
    cohort: pd.DataFrame, tmp_path: Path
) -> None:
    assert problems(cohort.assign(site=["Nice"] * 6 + ["NICE"] * 6), tmp_path) == (
        "sites 'NICE' (row 8) and 'Nice' (row 2) differ only in case or spaces; use one spelling",
    )
    forms = [unicodedata.normalize(form, "Genève") for form in ("NFC", "NFD")]
    assert set(check(cohort.assign(site=forms * 6), tmp_path)["site"]) == {forms[0]}


def test_decimal_commas_are_read_where_all_are_numbers(cohort: pd.DataFrame, tmp_path: Path) -> None:
    ages = cohort.assign(age=["70,5", "70", ""] * 4)
    assert check(ages, tmp_path)["age"].tolist()[:3] == ["70.5", "70", ""]
    config = CohortConfig(modalities=MODALITIES)
    assert reading_notes(ages, config) == ["age: 4 decimal commas are read as points"]
    assert check(cohort.assign(age=["70,5", "old"] * 6), tmp_path)["age"].tolist()[:2] == ["70,5", "old"]
    thousands = cohort.assign(age=["1,234", "70"] + ["71"] * 10)
    assert problems(thousands, tmp_path) == (
        "row 2: age '1,234' may be 1.234 or 1234; write it with a point, or without the comma",
    )


def test_a_path_is_found_in_another_form_of_unicode(cohort: pd.DataFrame, tmp_path: Path) -> None:
    written, there = (unicodedata.normalize(form, "Schädel/tête.nii") for form in ("NFC", "NFD"))
    cohort.loc[0, "path"] = written
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).touch()
    assert check(cohort, tmp_path)["path"][0] == str(tmp_path / there)
    cohort.loc[1, "path"] = there
    assert problems(cohort, tmp_path) == (f"row 3: {tmp_path / there} is used in row 2 already",)


def test_a_file_that_was_probably_meant_is_named(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[0, "path"] = "s00_MRI.NII.gz"
    assert problems(cohort, tmp_path) == (
        f"row 2: there is no file {tmp_path}/s00_MRI.NII.gz (there is 's0_MRI.nii.gz')",
    )


# --- no value --------------------------------------------------------------------------------------------------------

NO_VALUE = "stands for no value; write the id, or leave the row out (if it is a name here: cohort.not_missing)"


@pytest.mark.parametrize("word", ["NA", "n/a", "nan", "NULL", "None", "-", ".", "#N/A", "#DIV/0!", "<NA>"])
def test_words_for_no_value_are_no_class_and_no_subject(cohort: pd.DataFrame, tmp_path: Path, word: str) -> None:
    label, subject = cohort.copy(), cohort.copy()
    label.loc[[0, 1], "diagnosis"] = word
    assert problems(label, tmp_path) == tuple(
        f"row {row}: diagnosis {word!r} stands for no value; fill it in, or leave the row out (if it is a name here: "
        "cohort.not_missing)"
        for row in (2, 3)
    )
    subject.loc[0, "subject"] = word
    assert problems(subject, tmp_path) == (f"row 2: subject {word!r} {NO_VALUE}",)


def test_words_for_no_value_as_session_modality_and_path(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort["session"] = ["NA", *[""] * 11]
    cohort.loc[1, "modality"] = "N/A"
    cohort.loc[2, "path"] = "nan"
    assert problems(cohort, tmp_path) == (
        "row 3: modality 'N/A' stands for no value; fill it in, or leave the row out (if it is a name here: "
        "cohort.not_missing)",
        "row 4: path 'nan' stands for no value; fill it in, or leave the row out",
        f"row 2: session 'NA' {NO_VALUE}",
        "row 3: modality 'N/A' is unknown (there is: H&E 40×, MRI, PET)",
    )


def test_a_word_may_be_said_to_be_a_name(cohort: pd.DataFrame, tmp_path: Path) -> None:
    named = cohort.replace({"diagnosis": {"CN": "none"}, "subject": {"s5": "NA"}}).assign(site="NA")
    scans = check(named, tmp_path, not_missing=("none", "NA"))
    assert (set(scans["label"]), set(scans["site"])) == ({"AD", "none"}, {"NA"})
    assert "NA" in set(scans["subject"])


def test_covariates_for_which_a_word_stands_are_empty_and_said_so(cohort: pd.DataFrame, tmp_path: Path) -> None:
    given = cohort.assign(site=["NA", "Nice"] * 6, age=["n/a", "70,5"] * 6, split="NA")
    scans = check(given, tmp_path)
    assert scans[["site", "age", "split"]].iloc[:2].to_numpy().tolist() == [["", "", ""], ["Nice", "70.5", ""]]
    assert reading_notes(given, CohortConfig(modalities=MODALITIES)) == [
        "age: 6 cells stand for no value ('n/a') and count as empty (if it is a name here: cohort.not_missing)",
        "age: 6 decimal commas are read as points",
        "site: 6 cells stand for no value ('NA') and count as empty (if it is a name here: cohort.not_missing)",
    ]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("1.23E+05", "is a number that a spreadsheet has shortened; restore the id in a column formatted as text"),
        ("1,2e+17", "is a number that a spreadsheet has shortened"),
        ("01-Mar", "is a date, and other ids are not; a spreadsheet makes dates of ids such as 3-1 or MAR1"),
        ("Sep-01", "is a date, and other ids are not"),
        ("#REF!", "stands for no value"),
    ],
)
def test_ids_that_a_spreadsheet_has_broken(cohort: pd.DataFrame, tmp_path: Path, broken: str, message: str) -> None:
    cohort.loc[0, "subject"] = broken
    (listed,) = problems(cohort, tmp_path)
    assert listed.startswith(f"row 2: subject {broken!r} {message}")


# --- new patients: a row that cannot be used is left out --------------------------------------------------------------


def test_a_new_patient_in_two_spellings_is_left_out_with_all_rows(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[1, "subject"] = "S0"
    cohort.loc[2, "subject"] = "nan"
    config = CohortConfig(modalities=MODALITIES, label=None)
    table, left_out = usable_rows(cohort.drop(columns="diagnosis"), folder=tmp_path, config=config)
    assert list(table.index + 2) == list(range(5, 14))
    assert {row["row"]: row["reason"].partition(";")[0] for row in left_out} == {
        "2": "subjects 'S0' (row 3) and 's0' (row 2) differ only in case or spaces",
        "3": "subjects 'S0' (row 3) and 's0' (row 2) differ only in case or spaces",
        "4": "subject 'nan' stands for no value",
    }
