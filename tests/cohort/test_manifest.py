import os
import pickle
import re
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from cohort.manifest import (
    CohortConfig,
    ManifestError,
    ModalityConfig,
    Problem,
    check_manifest,
    class_names,
    observations,
    read_table,
    suggest,
)

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
        (b'a,b\n1,"2\n3,4\n', "quotation marks do not match"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=f"(?s){message}"):
        read_table(tmp_path / "a.csv")


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
